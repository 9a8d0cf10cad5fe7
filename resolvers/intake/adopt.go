package intake

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
)

// Before is what was believed of one registry by who read it before.
type Before struct {
	// Instances are those believed by its word, the held ones among them.
	Instances []*catalog.Instance
	// Holds are those of them that were held. What they have left counts from now on.
	Holds []guard.Hold
	// Strategies are those that it stated.
	Strategies map[catalog.Name]string
}

// Baseline is what was believed of the cluster's registries by who read them before: this process in
// its life before, or another that read them until now.
type Baseline struct {
	// Registries has it by their names. One that is not among this Intake's is taken for one that was
	// taken out of its configuration: what it listed goes as the guard sees fit.
	Registries map[string]Before
	// Whole says that Registries is all that was listed: what is held here and stands nowhere in it
	// was let go there, and is let go here.
	Whole bool
	// Unread says that it counts only for registries that were not read completely yet: it may be out
	// of date.
	Unread bool
}

// adoption is a Baseline on its way to the loop.
type adoption struct {
	Baseline
	done chan struct{}
}

// Adopt goes on from a Baseline, as guard.Registry.Adopt says. It may be called before Run and while
// it runs, and never waits. What it returns is closed when Run has handed on what changed by it. The
// Baseline must not be changed afterwards.
func (i *Intake) Adopt(b Baseline) (handedOn <-chan struct{}) {
	a := &adoption{Baseline: b, done: make(chan struct{})}
	i.mu.Lock()
	i.adoptions = append(i.adoptions, a)
	i.mu.Unlock()
	i.signal()
	return a.done
}

// Believed gives what is believed of every registry, for a later Adopt. What is shadowed by another
// registry is among it. It costs what is listed.
func (i *Intake) Believed() map[string]Before {
	i.mu.Lock()
	defer i.mu.Unlock()
	all := make(map[string]Before, len(i.registries))
	for _, r := range i.registries {
		b := Before{Holds: r.guard.Holds(), Strategies: r.stated.inForce}
		for _, n := range r.guard.Names() {
			list, _ := r.guard.List(n)
			b.Instances = append(b.Instances, list...)
		}
		if len(b.Instances)+len(b.Strategies) > 0 {
			all[r.name] = b
		}
	}
	return all
}

// Moves counts what may have changed what is held: who keeps a record of it looks again when the
// count is another.
func (i *Intake) Moves() uint64 { return i.moves.Load() }

// adopt takes in the Baselines that wait. The caller holds i.mu.
func (i *Intake) adopt(now time.Time, dirty guard.Changes) {
	for _, a := range i.adoptions {
		i.moves.Add(1)
		for _, name := range slices.Sorted(maps.Keys(a.Registries)) {
			if b := a.Registries[name]; len(b.Instances) > 0 && !slices.ContainsFunc(i.registries, func(r *registry) bool { return r.name == name }) {
				i.addUnread(name)
			}
		}
		var gone func(catalog.ID) bool
		if a.Whole {
			gone = a.unlisted()
		}
		for _, r := range i.registries {
			if a.Unread && r.guard.Complete() {
				continue
			}
			before := r.guard.Counts().Held
			for n, ids := range r.adopt(now, a.Registries[r.name], gone) {
				dirty[n] = append(dirty[n], ids...)
			}
			if r.guard.Counts().Held > before {
				i.tellAdopted(now, r)
			}
		}
	}
	i.adopted = append(i.adopted, i.adoptions...)
	i.adoptions = nil
}

// tellAdopted logs what is held of a registry since more of it was adopted: nothing was lost just now
// that would be told of.
func (i *Intake) tellAdopted(now time.Time, r *registry) {
	held := r.guard.Holds()
	oldest := slices.MinFunc(held, func(a, b guard.Hold) int { return a.Since.Compare(b.Since) })
	last := slices.MaxFunc(held, func(a, b guard.Hold) int { return a.Until.Compare(b.Until) })
	i.log.Warn("removals that were held before are held on", "registry", r.name, "held", len(held), "oldest", now.Sub(oldest.Since).Round(time.Second),
		"ends_within", last.Until.Sub(now).Round(time.Second), "reason", oldest.Reason, "detail", oldest.Detail)
}

// addUnread adds a registry that nobody reads here, as one that is being retired. What it listed stays
// until all the others were read: it may only have another name now. The caller holds i.mu.
func (i *Intake) addUnread(name string) {
	r := newRegistry(i, Registry{Name: name}, added)
	r.unread = true
	r.inbox.Failed(errors.New("it is not read here: what it listed is taken back"))
	at, _ := slices.BinarySearchFunc(i.registries, r, believedFirst)
	i.registries = slices.Insert(i.registries, at, r)
}

// unlisted reports of an instance whether it stands nowhere in the Baseline.
func (b Baseline) unlisted() func(catalog.ID) bool {
	listed := map[catalog.ID]struct{}{}
	for _, r := range b.Registries {
		for _, in := range r.Instances {
			listed[in.ID] = struct{}{}
		}
	}
	return func(id catalog.ID) bool {
		_, is := listed[id]
		return !is
	}
}

// adopt gives the registry's guard what was believed before. A record that could not be one of this
// registry's is left out.
func (r *registry) adopt(now time.Time, b Before, gone func(catalog.ID) bool) guard.Changes {
	own := make([]*catalog.Instance, 0, len(b.Instances))
	for _, in := range b.Instances {
		if _, taken := r.cfg.name(in.Name); taken && in.Cluster == r.cluster && in.Registry == r.name && in.Check() == nil {
			own = append(own, in)
		}
	}
	if !r.guard.Complete() {
		r.stated.inherit(b.Strategies)
	}
	return r.guard.Adopt(now, guard.Before{Instances: own, Holds: b.Holds, Gone: gone})
}
