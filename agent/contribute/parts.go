package contribute

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
)

const (
	// partSize is about how much one message of a contribution carries. It is far below what a
	// gRPC server takes by default (4 MiB), and lets standings through in between.
	partSize = 1 << 20
	// maxRecord bounds one record: four times what a usable one can have. A larger one would make
	// a message that nobody takes.
	maxRecord = 4 * catalog.MaxMetadataBytes
	// maxSource bounds a source's name, and maxLink a link's: longer ones are told by their hash.
	maxSource = 4096
	maxLink   = 512
	// maxText bounds words for people.
	maxText = 1000
	// frame is about what a field costs beside what it holds.
	frame = 8
)

// parts gives an update of a link as the messages that carry it, the last one without More.
// Sources may be spread over messages.
//
// The names are our own already. What cannot be written in a message at all is set aside here;
// everything else is left to who reads it.
func parts(link string, term uint64, u catalog.Update) iter.Seq[*feedv1.Contribution] {
	return func(yield func(*feedv1.Contribution) bool) {
		p := &packer{yield: yield, more: true, like: &feedv1.Contribution{
			Link: link, Term: term,
			Full: u.Full, Explicit: u.Explicit, Reset_: printable(u.Reset), Revision: printable(u.Revision),
		}}
		p.begin()
		for _, s := range u.Snapshots {
			if p.snapshot(s); !p.more {
				return
			}
		}
		yield(p.part)
	}
}

// packer puts an update into messages, one after the other.
type packer struct {
	yield func(*feedv1.Contribution) bool
	more  bool                 // whether somebody takes another message
	like  *feedv1.Contribution // what all messages have in common
	part  *feedv1.Contribution // the message in the making
	size  int                  // of part, about
	piece *feedv1.Snapshot     // the last one in part
}

func (p *packer) begin() {
	p.part, p.size = proto.CloneOf(p.like), frame
}

// room makes a new message where the one in the making would become too large.
func (p *packer) room(size int) {
	if p.size+size <= partSize || len(p.part.GetSnapshots()) == 0 || !p.more {
		p.size += size
		return
	}
	p.part.More = true
	p.more = p.yield(p.part)
	source := p.piece.GetSource()
	p.begin()
	p.open(source)
	p.size += size
}

// open begins a source, or goes on with it in a new message.
func (p *packer) open(source string) {
	p.piece = &feedv1.Snapshot{Source: source}
	p.part.Snapshots = append(p.part.Snapshots, p.piece)
	p.size += len(source) + frame
}

func (p *packer) snapshot(s catalog.Snapshot) {
	source := bounded(s.Source, maxSource)
	p.room(len(source) + frame)
	p.open(source)
	for _, n := range s.Services {
		if err := n.Check(); err != nil {
			p.aside(n.String(), err.Error())
			continue
		}
		kind := printable(s.Strategies[n])
		p.room(len(n.Namespace) + len(n.Service) + len(kind) + frame)
		p.piece.Services = append(p.piece.Services, &feedv1.ServiceName{Namespace: n.Namespace, Service: n.Service, Strategy: kind})
	}
	for _, i := range s.Instances {
		if err := writable(i); err != nil {
			p.aside(i.Name.String()+"/"+i.Instance, err.Error())
			continue
		}
		record := i.Proto()
		record.RegistryRevision = printable(record.GetRegistryRevision())
		size := proto.Size(record)
		if size > maxRecord {
			p.aside(i.Name.String()+"/"+i.Instance, fmt.Sprintf("its record of %d bytes is more than %d", size, maxRecord))
			continue
		}
		p.room(size + frame)
		p.piece.Instances = append(p.piece.Instances, record)
	}
	for _, a := range s.SetAside {
		p.aside(a.Record, a.Reason)
	}
}

func (p *packer) aside(record, reason string) {
	a := &feedv1.SetAside{Record: printable(record), Reason: printable(reason)}
	p.room(len(a.GetRecord()) + len(a.GetReason()) + frame)
	p.piece.SetAside = append(p.piece.SetAside, a)
}

// writable says why a record cannot be written in a message as it is, or nil.
func writable(i *catalog.Instance) error {
	for _, f := range [...][2]string{
		{"namespace", i.Namespace}, {"service", i.Service}, {"id", i.Instance}, {"node", i.Node}, {"address", i.Address},
		{"relay", i.Relay}, {"region", i.Locality.Region}, {"zone", i.Locality.Zone},
	} {
		if !utf8.ValidString(f[1]) {
			return fmt.Errorf("%s is not UTF-8", f[0])
		}
	}
	for k, v := range i.Metadata {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return fmt.Errorf("metadata %q is not UTF-8", k)
		}
	}
	if i.Port < 0 {
		return fmt.Errorf("port %d is not in 1 to 65535", i.Port)
	}
	return nil
}

// bounded gives a name as it is where it can be told, else another one that nothing else has and
// that is the same wherever the name is.
func bounded(name string, limit int) string {
	if len(name) <= limit && utf8.ValidString(name) {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// printable bounds a text that came from outside, and makes it one that a message can carry.
func printable(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
