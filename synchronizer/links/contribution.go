package links

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/strategy"
)

// What contributors may make this replica hold.
const (
	maxLinks      = 4096 // of a cluster
	maxAgentLinks = 64   // of one agent
	maxLinkName   = 512  // bytes
	maxSourceName = 4096 // bytes
	maxText       = 1000 // bytes of an error, a reason, a revision; longer ones are cut
	// maxBytes is for the unfinished updates of one contributor, and for what one link lists:
	// some 200 000 instances.
	maxBytes = 64 << 20
)

// Apps is the name of the registry that is made of what agents say of their own applications.
// No link may have it.
const Apps = "apps"

// checkLink says why a link cannot have this name, or nil.
func checkLink(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("a link has no name")
	case name == Apps:
		return fmt.Errorf("no link may be called %q: those are the applications of agents", name)
	case len(name) > maxLinkName:
		return fmt.Errorf("the link name %.40q... of %d bytes is longer than %d", name, len(name), maxLinkName)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("the link name %.40q has characters that nobody could print", name)
	}
	return nil
}

// readStanding reads how an agent stands with its links.
func readStanding(now time.Time, st *feedv1.Standing) (map[string]standing, error) {
	if n := len(st.GetLinks()); n > maxAgentLinks {
		return nil, status.Errorf(codes.InvalidArgument, "the agent names %d links: no more than %d are taken", n, maxAgentLinks)
	}
	named := make(map[string]standing, len(st.GetLinks()))
	for _, l := range st.GetLinks() {
		if err := checkLink(l.GetName()); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		if _, twice := named[l.GetName()]; twice {
			return nil, status.Errorf(codes.InvalidArgument, "the agent names link %q twice", l.GetName())
		}
		age := l.GetAge()
		named[l.GetName()] = standing{
			at: now, complete: l.GetComplete(), failure: cut(l.GetError()),
			fresh: age != nil && age.CheckValid() == nil && age.AsDuration() >= 0 && age.AsDuration() <= candidateAge,
			read:  now.Add(-age.AsDuration()),
		}
	}
	return named, nil
}

// part is one message of a contribution.
type part struct {
	snapshots []catalog.Snapshot
	sizes     map[string]int // bytes by source
	bytes     int
	newer     int // instances of a health that this version does not know
}

// readContribution reads one message. An agent speaks for its own cluster: records that say
// they are another's are set aside.
func readContribution(cluster string, m *feedv1.Contribution) (part, error) {
	p := part{sizes: make(map[string]int, len(m.GetSnapshots()))}
	for _, s := range m.GetSnapshots() {
		if len(s.GetSource()) > maxSourceName {
			return part{}, status.Errorf(codes.InvalidArgument, "link %.40q: the source name %.40q... of %d bytes is longer than %d", m.GetLink(), s.GetSource(), len(s.GetSource()), maxSourceName)
		}
		size := proto.Size(s)
		p.sizes[s.GetSource()] += size
		p.bytes += size
		p.snapshots = append(p.snapshots, readSnapshot(cluster, s))
		for _, i := range s.GetInstances() {
			if _, known := catalog.HealthFromProto(i.GetHealth()); !known {
				p.newer++
			}
		}
	}
	return p, nil
}

func readSnapshot(cluster string, s *feedv1.Snapshot) catalog.Snapshot {
	out := catalog.Snapshot{Source: s.GetSource()}
	for _, s := range s.GetServices() {
		n := catalog.Name{Namespace: s.GetNamespace(), Service: s.GetService()}
		out.Services = append(out.Services, n)
		if s.GetStrategy() == "" {
			continue
		}
		kind, err := strategy.Parse(s.GetStrategy())
		if err != nil {
			out.SetAside = append(out.SetAside, catalog.SetAside{Record: cut(n.String()), Reason: cut(err.Error())})
			continue
		}
		if out.Strategies == nil {
			out.Strategies = map[catalog.Name]string{}
		}
		out.Strategies[n] = string(kind)
	}
	for _, r := range s.GetInstances() {
		i := catalog.InstanceFromProto(r)
		if i.Cluster != "" && i.Cluster != cluster {
			out.SetAside = append(out.SetAside, catalog.SetAside{
				Record: cut(i.Name.String() + "/" + i.Instance),
				Reason: cut(fmt.Sprintf("it is said to be of cluster %q, whose agents are not these", i.Cluster)),
			})
			continue
		}
		out.Instances = append(out.Instances, i)
	}
	for _, a := range s.GetSetAside() {
		out.SetAside = append(out.SetAside, catalog.SetAside{Record: cut(a.GetRecord()), Reason: cut(a.GetReason())})
	}
	return out
}

// update is a contribution of which not all may be there yet.
type update struct {
	term            uint64
	full, explicit  bool
	reset, revision string
	snapshots       []catalog.Snapshot
	sizes           map[string]int
	bytes           int
}

// add adds one message to it.
func (u *update) add(m *feedv1.Contribution, p part) {
	u.full = u.full || m.GetFull()
	u.explicit = u.explicit || m.GetExplicit()
	if m.GetReset_() != "" {
		u.reset = cut(m.GetReset_())
	}
	if m.GetRevision() != "" {
		u.revision = cut(m.GetRevision())
	}
	u.snapshots = append(u.snapshots, p.snapshots...)
	for name, n := range p.sizes {
		u.sizes[name] += n
	}
	u.bytes += p.bytes
}

func (u *update) catalog() catalog.Update {
	return catalog.Update{Snapshots: u.snapshots, Full: u.full, Explicit: u.explicit, Reset: u.reset, Revision: u.revision}
}

// cut bounds a text that is for people.
func cut(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
