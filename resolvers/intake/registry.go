package intake

import (
	"cmp"
	"path"
	"slices"
	"strings"

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
	emptied bool     // what it listed was taken back, since it was retired
	running *running // its resolver under way, which may be one that shall no more run
	heard   inbox.Heard
	asides  asides
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
		asides:  asides{sources: map[string]aside{}},
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
			if name, taken := r.name(n); taken {
				ours.Services = append(ours.Services, name)
			}
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
	ours = u
	ours.Snapshots = make([]catalog.Snapshot, 0, len(u.Snapshots))
	seen := map[string]map[catalog.ID]struct{}{}
	for _, s := range u.Snapshots {
		ids := seen[s.Source]
		if ids == nil {
			ids = make(map[catalog.ID]struct{}, len(s.Instances))
			seen[s.Source] = ids
			r.asides.forget(s.Source)
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
	}
	if r.heard.Failure != nil {
		st.LastError = printable(r.heard.Failure.Error())
	}
	if r.asides.total > 0 {
		st.LastSetAside = r.asides.last()
	}
	return st
}

// asides are the records set aside in what stands now, by source.
type asides struct {
	sources map[string]aside
	total   int
	latest  string // the source that had one last
}

type aside struct {
	count int
	last  catalog.SetAside
}

func (a *asides) reset() {
	clear(a.sources)
	a.total = 0
}

func (a *asides) forget(source string) {
	a.total -= a.sources[source].count
	delete(a.sources, source)
}

func (a *asides) add(source string, s catalog.SetAside) {
	a.sources[source] = aside{
		count: a.sources[source].count + 1,
		last:  catalog.SetAside{Record: printable(s.Record), Reason: printable(s.Reason)},
	}
	a.total++
	a.latest = source
}

// last gives the last one of the source that had one last; where that has none any more, of
// the first source by name that has.
func (a *asides) last() catalog.SetAside {
	source := a.latest
	if _, ok := a.sources[source]; !ok {
		source = ""
		for name := range a.sources {
			if source == "" || name < source {
				source = name
			}
		}
	}
	return a.sources[source].last
}

// printable bounds a text that came from outside, and makes it one that every API can carry.
func printable(s string) string {
	const limit = 1000
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
