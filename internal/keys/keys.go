// Package keys is the schema of the store: the one place where names become etcd keys and
// messages become values, and the inverse of both.
//
// It knows no etcd, does no I/O and runs no goroutines. It holds no opinion on who may write
// a key or when; internal/store does. A prefix or key is never given another meaning; what
// changes its meaning gets a new name.
package keys

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/farcall/farcall/internal/catalog"
)

// root is above every federation. The version is that of the keys' meaning, not of a release.
const root = "/farcall/v1/"

// The kinds of keys that this version knows.
const (
	Store          Kind = iota + 1 // <federation>/store
	PoliciesSynced                 // <federation>/policies-synced
	Replica                        // <federation>/replicas/<Replica>
	Owner                          // <federation>/owners/<Cluster>
	Meta                           // <federation>/clusters/<Cluster>/meta
	Synced                         // <federation>/clusters/<Cluster>/synced
	Slice                          // <federation>/clusters/<Cluster>/services/<Name>/<Slice>
	Agent                          // <federation>/agents/<Cluster>/<Node>
	Policy                         // <federation>/policies/<ID>
	Cordon                         // <federation>/clusters/<Cluster>/cordons/<ID>
	Holds                          // <federation>/clusters/<Cluster>/holds/<Part>

	last = Holds // of the kinds
)

var (
	// ErrForeign is the error for a key that is not of the schema's federation.
	ErrForeign = errors.New("key of another federation")
	// ErrUnknown is the error for a key of the federation that this version does not know, or
	// that it would have spelt otherwise. Readers skip it: a newer version may have written it.
	ErrUnknown = errors.New("unknown key")
)

// Kind tells what a key holds. The zero value is none.
type Kind uint8

// String gives the kind in one word, for logs and metrics.
func (k Kind) String() string {
	words := [...]string{"none", "store", "policies-synced", "replica", "owner", "meta", "synced", "slice", "agent", "policy", "cordon", "holds"}
	if int(k) < len(words) {
		return words[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Key is one key taken apart. Only the fields that its Kind names are set; it is comparable.
type Key struct {
	Kind    Kind
	Cluster string       // Owner, Meta, Synced, Slice, Agent, Cordon, Holds
	Name    catalog.Name // Slice
	Slice   uint32       // Slice
	Part    uint32       // Holds
	Replica string       // Replica
	Node    string       // Agent
	// ID is what package policy calls one policy, or one cordon of the cluster: segments as in a
	// key, escaped already. What they mean is not known here.
	ID string // Policy, Cordon
}

// Schema gives the keys of one federation. It is immutable and safe for concurrent use.
type Schema struct {
	prefix string
}

// New returns the schema of a federation, whose name obeys the rules of a cluster's name: then
// no name is a prefix of another's keys, and none needs escaping.
func New(federation string) (Schema, error) {
	if err := catalog.CheckClusterName(federation); err != nil {
		return Schema{}, fmt.Errorf("federation: %w", err)
	}
	return Schema{prefix: root + federation + "/"}, nil
}

// Root is the prefix of all keys of the federation.
func (s Schema) Root() string { return s.prefix }

// Clusters is the prefix of what belongs to any cluster.
func (s Schema) Clusters() string { return s.prefix + "clusters/" }

// Cluster is the prefix of what belongs to one cluster.
func (s Schema) Cluster(name string) string { return s.Clusters() + name + "/" }

// Services is the prefix of the slices of one cluster.
func (s Schema) Services(cluster string) string { return s.Cluster(cluster) + "services/" }

// Holds is the prefix of what the owner of one cluster holds back.
func (s Schema) Holds(cluster string) string { return s.Cluster(cluster) + "holds/" }

// Replicas is the prefix of the synchronizers' heartbeats.
func (s Schema) Replicas() string { return s.prefix + "replicas/" }

// Owners is the prefix of the owner keys.
func (s Schema) Owners() string { return s.prefix + "owners/" }

// Agents is the prefix of the agents' records.
func (s Schema) Agents() string { return s.prefix + "agents/" }

// Policies is the prefix of the policies.
func (s Schema) Policies() string { return s.prefix + "policies/" }

// Cordons is the prefix of the cordons of one cluster.
func (s Schema) Cordons(cluster string) string { return s.Cluster(cluster) + "cordons/" }

// Format gives the key's text. The names in k must not be empty, the cluster's must obey
// catalog.CheckClusterName and each segment of an ID be escaped, else Parse does not take the
// result back. A Kind of another package's making gives "".
func (s Schema) Format(k Key) string {
	switch k.Kind {
	case Store:
		return s.prefix + "store"
	case PoliciesSynced:
		return s.prefix + "policies-synced"
	case Replica:
		return s.Replicas() + Escape(k.Replica)
	case Owner:
		return s.Owners() + k.Cluster
	case Meta:
		return s.Cluster(k.Cluster) + "meta"
	case Synced:
		return s.Cluster(k.Cluster) + "synced"
	case Slice:
		return s.Services(k.Cluster) + Escape(k.Name.Namespace) + "/" + Escape(k.Name.Service) +
			"/" + strconv.FormatUint(uint64(k.Slice), 10)
	case Agent:
		return s.Agents() + k.Cluster + "/" + Escape(k.Node)
	case Policy:
		return s.Policies() + k.ID
	case Cordon:
		return s.Cordons(k.Cluster) + k.ID
	case Holds:
		return s.Holds(k.Cluster) + strconv.FormatUint(uint64(k.Part), 10)
	}
	return ""
}

// Parse is the inverse of Format: what it takes, Format gives back byte by byte. Its errors
// are ErrForeign and ErrUnknown.
func (s Schema) Parse(key string) (Key, error) {
	rest, ok := strings.CutPrefix(key, s.prefix)
	if !ok || s.prefix == "" {
		return Key{}, fmt.Errorf("%w: %.200q", ErrForeign, key)
	}
	k, ok := parse(strings.Split(rest, "/"))
	if !ok || s.Format(k) != key {
		return Key{}, fmt.Errorf("%w: %.200q", ErrUnknown, key)
	}
	return k, nil
}

// parse reads the segments below the federation. It need not be strict about spelling: Parse
// compares the outcome with what Format would have written.
func parse(seg []string) (Key, bool) {
	switch {
	case len(seg) == 1 && seg[0] == "store":
		return Key{Kind: Store}, true
	case len(seg) == 1 && seg[0] == "policies-synced":
		return Key{Kind: PoliciesSynced}, true
	case len(seg) == 2 && seg[0] == "replicas":
		id, ok := Unescape(seg[1])
		return Key{Kind: Replica, Replica: id}, ok
	case len(seg) >= 2 && seg[0] == "policies":
		id, ok := parseID(seg[1:])
		return Key{Kind: Policy, ID: id}, ok
	case len(seg) < 2 || catalog.CheckClusterName(seg[1]) != nil:
		return Key{}, false
	}
	cluster := seg[1]
	switch {
	case len(seg) == 2 && seg[0] == "owners":
		return Key{Kind: Owner, Cluster: cluster}, true
	case len(seg) == 3 && seg[0] == "agents":
		node, ok := Unescape(seg[2])
		return Key{Kind: Agent, Cluster: cluster, Node: node}, ok
	case len(seg) == 3 && seg[0] == "clusters" && seg[2] == "meta":
		return Key{Kind: Meta, Cluster: cluster}, true
	case len(seg) == 3 && seg[0] == "clusters" && seg[2] == "synced":
		return Key{Kind: Synced, Cluster: cluster}, true
	case len(seg) == 6 && seg[0] == "clusters" && seg[2] == "services":
		return parseSlice(cluster, seg[3:])
	case len(seg) >= 4 && seg[0] == "clusters" && seg[2] == "cordons":
		id, ok := parseID(seg[3:])
		return Key{Kind: Cordon, Cluster: cluster, ID: id}, ok
	case len(seg) == 4 && seg[0] == "clusters" && seg[2] == "holds":
		n, err := strconv.ParseUint(seg[3], 10, 32)
		return Key{Kind: Holds, Cluster: cluster, Part: uint32(n)}, err == nil
	}
	return Key{}, false
}

// parseID takes any number of segments, each spelt as escape would. One of a newer version's making
// is taken too: who reads the value says that it is not understood, which must not go unseen.
func parseID(seg []string) (string, bool) {
	for _, s := range seg {
		if plain, ok := Unescape(s); !ok || Escape(plain) != s {
			return "", false
		}
	}
	return strings.Join(seg, "/"), true
}

func parseSlice(cluster string, seg []string) (Key, bool) {
	ns, nsOK := Unescape(seg[0])
	svc, svcOK := Unescape(seg[1])
	n, err := strconv.ParseUint(seg[2], 10, 32)
	return Key{
		Kind:    Slice,
		Cluster: cluster,
		Name:    catalog.Name{Namespace: ns, Service: svc},
		Slice:   uint32(n),
	}, nsOK && svcOK && err == nil
}

const hexDigits = "0123456789ABCDEF"

// plain reports whether a byte stands for itself in a key. Everything that is not visible ASCII
// is escaped, so that a key can be read, typed and pasted; '/' parts segments, '%' escapes.
func plain(b byte) bool { return b > ' ' && b < 0x7f && b != '/' && b != '%' }

// Escape writes one segment: %XX for each byte that is not plain (the percent-encoding of
// RFC 3986, upper-case).
func Escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&0xf])
		}
	}
	return b.String()
}

// Unescape is the inverse of escape. No segment is empty.
func Unescape(s string) (string, bool) {
	if !strings.Contains(s, "%") {
		return s, s != ""
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		hi, lo := strings.IndexByte(hexDigits, s[i+1]), strings.IndexByte(hexDigits, s[i+2])
		if hi < 0 || lo < 0 {
			return "", false
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 2
	}
	return b.String(), true
}
