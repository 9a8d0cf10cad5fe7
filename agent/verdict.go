package agent

import (
	"cmp"
	"slices"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
	"github.com/farcall/farcall/internal/holds"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/resolvers/intake"
)

// hearsay reads what the synchronizers say of instances that the own registries list no more and
// that are held here: whether the own cluster's list, as they hold it, has them. They read the same
// registries, and it is there that people see what is held and release it. Only the intake's
// goroutine uses it.
type hearsay struct {
	cluster string
	hold    time.Duration // guard.hold
	store   string        // of which it was last; empty before the first
	since   time.Time     // when another store came in its place; zero where none was seen to
}

// verdict is hearsay's word, nil while the feed is down: then the guard here is alone.
func (a *Agent) verdict(now time.Time) func(catalog.ID) guard.Word {
	m := a.mirror.Load()
	if m == nil || !a.uplink.Connected() {
		return nil
	}
	return a.hearsay.word(m, now)
}

// word gives what a feed's mirror says of the cluster's instances, nil where it has nothing fresh.
// An owner that takes over goes on to hold what was held, as the store says. Of a store that is
// another than before, which may have lost that, it counts that an instance is listed; that one is
// listed no more does not before guard.hold has passed.
func (h *hearsay) word(m *mirror.Mirror, now time.Time) func(catalog.ID) guard.Word {
	for _, c := range m.Clusters(now) {
		if c.Name != h.cluster || !saysSomething(c) {
			continue
		}
		if id, _ := m.Position(); id != h.store {
			if h.store != "" {
				h.since = now
			}
			h.store = id
		}
		unlisted := guard.Unlisted
		if !h.since.IsZero() && now.Sub(h.since) < h.hold {
			unlisted = guard.Silent
		}
		return func(id catalog.ID) guard.Word {
			if listed(m, id) != nil {
				return guard.Listed
			}
			return unlisted
		}
	}
	return nil
}

// saysSomething reports whether a cluster's list is what its owner says now.
func saysSomething(c mirror.Cluster) bool {
	return c.State == catalog.StateSynced || c.State == catalog.StateProtected
}

// listed gives an instance as the feed has it, or nil.
func listed(m *mirror.Mirror, id catalog.ID) *catalog.Instance {
	list, _ := m.Instances(id.Cluster, id.Name)
	at, ok := slices.BinarySearchFunc(list, id.Instance, func(in *catalog.Instance, id string) int {
		return cmp.Compare(in.Instance, id)
	})
	if !ok {
		return nil
	}
	return list[at]
}

// adoptHolds has what the owner of the own cluster holds back held here, too, also by an agent that
// never saw it listed: one that came to a node beside a registry that was emptied before. In a cluster
// that is read via its agents the view has what other links list from the feed anyway.
func (a *Agent) adoptHolds() {
	m := a.mirror.Load()
	if m == nil || a.book.ViaAgents() {
		return
	}
	if b := heldBy(m, a.cfg.Cluster, time.Now()); len(b.Registries) > 0 {
		a.intake.Adopt(b)
	}
}

// heldBy gives what the owner of a cluster holds back of its registries.
func heldBy(m *mirror.Mirror, cluster string, now time.Time) intake.Baseline {
	b := intake.Baseline{Registries: map[string]intake.Before{}}
	for registry, held := range holds.Read(now, cluster, m.Holds(cluster)) {
		before := intake.Before{Holds: held}
		for n, h := range held {
			held[n].Listed = true
			if in := listed(m, h.ID); in != nil && in.Registry == registry {
				before.Instances = append(before.Instances, in)
			}
		}
		if len(before.Instances) > 0 {
			b.Registries[registry] = before
		}
	}
	return b
}
