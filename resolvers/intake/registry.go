package intake

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
	"github.com/farcall/farcall/resolvers/inbox"
)

// registry is one registry under way. Its name, rank, cluster and inbox do not change; all else
// is guarded by the Intake's mu.
type registry struct {
	name    string
	rank    int // among the configured ones; after all of them where it was added
	cluster string
	inbox   *inbox.Inbox

	cfg     Registry // its Resolver is the one that shall run: none where it is retired
	guard   *guard.Registry
	emptied bool      // what it listed was taken back, since it was retired
	dropped bool      // it was retired by a person's word
	unread  bool      // it was adopted only: what it listed stays until the others were read
	answers int       // how often it was read, since it was read completely
	waits   time.Time // where it is unread: since when only Config.Rounds keep it
	running *running  // its resolver under way, which may be one that shall no more run
	heard   inbox.Heard
	asides  asides
	stated  strategies
	hidden  map[catalog.ID]struct{} // instances of which another registry is believed
	metrics registryMetrics
	counted guard.Removals // as far as metrics know
}

// newRegistry makes a registry of a Registry that passed check.
func newRegistry(i *Intake, cfg Registry, rank int) *registry {
	m := i.metrics.of(i.cluster, cfg.Name)
	return &registry{
		name:    cfg.Name,
		rank:    rank,
		cluster: i.cluster,
		inbox:   inbox.Counted(i.wake, m.inbox),
		cfg:     cfg,
		guard:   guard.New(i.guardRules),
		asides:  asides{sources: map[string]*aside{}},
		hidden:  map[catalog.ID]struct{}{},
		metrics: m,
	}
}

func (r Registry) namespace() string { return cmp.Or(r.Namespace, catalog.DefaultNamespace) }

// name maps the registry's name of a service to ours, and says whether we take it at all.
func (r Registry) name(n catalog.Name) (catalog.Name, bool) {
	matches := func(pattern string) bool {
		ok, err := path.Match(pattern, n.Service)
		return ok && err == nil // New refused those that are none
	}
	if len(r.Include) > 0 && !slices.ContainsFunc(r.Include, matches) || slices.ContainsFunc(r.Exclude, matches) {
		return catalog.Name{}, false
	}
	if n.Namespace == "" {
		n.Namespace = r.namespace()
	} else if ours, ok := r.Namespaces[n.Namespace]; ok {
		n.Namespace = ours
	}
	return n, true
}

// Map gives u as this registry's names become ours: names mapped, services that are not taken
// left out. Nothing is checked, and Cluster and Registry stay as they are. A source of which
// nothing is taken stays, with nothing in it. Records that do not change are not copied.
func (r Registry) Map(u catalog.Update) catalog.Update {
	snapshots := u.Snapshots
	u.Snapshots = make([]catalog.Snapshot, 0, len(snapshots))
	for _, s := range snapshots {
		ours := catalog.Snapshot{Source: s.Source, SetAside: s.SetAside}
		for _, n := range s.Services {
			name, taken := r.name(n)
			if !taken {
				continue
			}
			ours.Services = append(ours.Services, name)
			mapStrategy(&ours, name, s.Strategies[n])
		}
		for _, in := range s.Instances {
			name, taken := r.name(in.Name)
			if !taken {
				continue
			}
			if name != in.Name {
				own := *in
				own.Name = name
				in = &own
			}
			ours.Instances = append(ours.Instances, in)
		}
		u.Snapshots = append(u.Snapshots, ours)
	}
	return u
}

// mapStrategy gives a service of ours a strategy, unless another of the registry's that has become
// the same service had one first.
func mapStrategy(ours *catalog.Snapshot, n catalog.Name, kind string) {
	first, taken := ours.Strategies[n]
	switch {
	case kind == "" || first == kind:
	case taken:
		ours.SetAside = append(slices.Clip(ours.SetAside), catalog.SetAside{
			Record: ours.Source, Reason: fmt.Sprintf("its strategy %s for %s is not used: it states %s as well", kind, n, first),
		})
	case ours.Strategies == nil:
		ours.Strategies = map[catalog.Name]string{n: kind}
	default:
		ours.Strategies[n] = kind
	}
}

// translate makes ours of what a resolver published: names mapped, what we do not take left
// out, records that cannot be used set aside. Unusable are the identities of records that
// failed their check. It copies what it changes.
//
// Records of one source that claim the same identity: the first is taken, the others are set
// aside. Between sources it is the guard that knows them all and decides.
func (r *registry) translate(u catalog.Update) (ours catalog.Update, unusable []catalog.ID) {
	if u.Full {
		r.asides.reset()
	}
	r.stated.begin(u.Full, u.Explicit)
	ours = u
	ours.Snapshots = make([]catalog.Snapshot, 0, len(u.Snapshots))
	seen := map[string]map[catalog.ID]struct{}{}
	for _, s := range u.Snapshots {
		ids := seen[s.Source]
		if ids == nil {
			ids = make(map[catalog.ID]struct{}, len(s.Instances))
			seen[s.Source] = ids
			r.asides.forget(s.Source)
			r.stated.forget(s.Source, u.Explicit)
		}
		snap := catalog.Snapshot{Source: s.Source, Services: r.names(s)}
		for _, in := range s.Instances {
			name, taken := r.cfg.name(in.Name)
			if !taken {
				continue
			}
			own := *in
			own.ID = catalog.ID{Cluster: r.cluster, Name: name, Instance: in.Instance}
			own.Registry = r.name
			own.Revision = printable(own.Revision)
			if err := own.Check(); err != nil {
				r.setAside(s.Source, invalid, own.ID, err.Error())
				unusable = append(unusable, own.ID)
				continue
			}
			if _, twice := ids[own.ID]; twice {
				r.setAside(s.Source, duplicate, own.ID, "another record before it has the same identity")
				continue
			}
			ids[own.ID] = struct{}{}
			snap.Instances = append(snap.Instances, &own)
		}
		for _, a := range s.SetAside {
			r.asides.add(s.Source, a)
			r.metrics.setAside[unreadable].Inc()
		}
		ours.Snapshots = append(ours.Snapshots, snap)
	}
	r.stated.end()
	return ours, unusable
}

// names maps the names that a snapshot states to exist.
func (r *registry) names(s catalog.Snapshot) []catalog.Name {
	var names []catalog.Name
	for _, n := range s.Services {
		ours, taken := r.cfg.name(n)
		if !taken {
			continue
		}
		if err := ours.Check(); err != nil {
			r.setAside(s.Source, invalid, catalog.ID{Name: ours}, err.Error())
			continue
		}
		names = append(names, ours)
		r.stated.add(s.Source, ours, s.Strategies[n])
	}
	return names
}

func (r *registry) setAside(source string, class int, id catalog.ID, reason string) {
	record := id.Name.String()
	if id.Instance != "" {
		record += "/" + id.Instance
	}
	r.asides.add(source, catalog.SetAside{Record: record, Reason: reason})
	r.metrics.setAside[class].Inc()
}

// status is what people are told.
func (r *registry) status() catalog.RegistryStatus {
	counts := r.guard.Counts()
	st := catalog.RegistryStatus{
		Name:        r.name,
		State:       r.heard.State(),
		Complete:    r.guard.Complete(),
		LastSuccess: r.heard.At,
		Revision:    printable(r.heard.Revision),
		Services:    counts.Services,
		Instances:   counts.Instances,
		Held:        counts.Held,
		SetAside:    r.asides.total,
		Shadowed:    counts.Shadowed + len(r.hidden),
	}
	if r.heard.Failure != nil {
		st.LastError = printable(r.heard.Failure.Error())
	}
	st.SetAsides = r.asides.words()
	st.Strategies = r.stated.inForce
	return st
}

// asides are the records set aside in what stands now, by source.
type asides struct {
	sources map[string]*aside
	total   int
}

type aside struct {
	count int
	first []string // with their reasons; at most someAsides
}

// someAsides is how many records set aside are told one by one.
const someAsides = 5

func (a *asides) reset() {
	clear(a.sources)
	a.total = 0
}

func (a *asides) forget(source string) {
	if s := a.sources[source]; s != nil {
		a.total -= s.count
		delete(a.sources, source)
	}
}

func (a *asides) add(source string, set catalog.SetAside) {
	s := a.sources[source]
	if s == nil {
		s = &aside{}
		a.sources[source] = s
	}
	s.count++
	if len(s.first) < someAsides {
		s.first = append(s.first, printable(set.Record)+": "+printable(set.Reason))
	}
	a.total++
}

// words gives the first of them with their reasons, by source.
func (a *asides) words() string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(a.sources)) {
		words = append(words, a.sources[name].first...)
		if len(words) >= someAsides {
			words = words[:someAsides]
			break
		}
	}
	return strings.Join(words, "; ")
}

// printable bounds a text that came from outside, and makes it one line that every API can carry.
func printable(s string) string {
	const limit = 1000
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}
