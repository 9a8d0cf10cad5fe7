// Package mirror is a reader's copy of the store: it applies entries in the store's order,
// refuses what may not be believed, and answers what is known of every cluster, service and
// agent. The synchronizer fills one from etcd, every agent fills one from the feed, with the
// same rules.
//
// It is not a cache with a life of its own: it does no I/O, runs no goroutines and reads no
// clock. One goroutine writes (Begin, Apply, End, Load); any may read at the same time.
//
// The rules it holds:
//   - a value must say of itself what its key says; else the last good one stays;
//   - the values of a key are ordered by (epoch, seq) and never go back;
//   - after a list, what it did not name is swept, but of a cluster whose `synced` marker is not
//     in that store yet nothing is swept: a store that is being refilled empties nobody. In a
//     store that is another than before, only a marker above all that was known of the cluster
//     counts: that of a restored backup vouches for the past;
//   - a list says nothing of what came after it in the same store: who turns to a synchronizer that
//     is behind the last one keeps what it knew of that;
//   - a heartbeat that stops moving makes a cluster stale; it removes nothing;
//   - policies and cordons are taken as a whole, at the revision that the store is marked with, and
//     never from a store that lacks what was in force before; one that is not understood leaves
//     the last one of its key that was.
package mirror

import (
	"maps"
	"sync"
	"time"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/strategy"
)

// StaleAfter is the age from which a cluster is STALE: three missed heartbeats.
const StaleAfter = 3 * time.Second

// tickLength is what one tick of a replica's heartbeat stands for.
const tickLength = time.Second

// Mirror is a reader's copy of one federation's store.
type Mirror struct {
	schema keys.Schema

	// mu guards all below. The one writer holds it while it changes them; lists that were
	// handed out are never changed afterwards.
	mu         sync.RWMutex
	storeID    string // of the last complete list
	revision   int64
	generation uint64 // counts lists; an entry confirmed by the running one carries it
	listed     uint64 // the generation of the last complete list
	since      uint64 // the generation of the first list, complete or not, of the store that was begun last
	listing    bool
	nextID     string // of the running list
	otherStore bool   // the running list is of another store than the last complete one
	refill     string // the other store that was begun last, be its list complete or not
	clusters   map[string]*cluster
	agents     map[AgentKey]*agent
	replicas   map[string]*replica
	holds      map[string]map[uint32]*holds // by cluster and part
	refused    map[Refusal]uint64
	dirty      map[*service]*edit // whose list is to be made anew before mu is released
	policies   policies

	// For Digest: see there.
	aside    map[string]aside // by key
	ahead    int64            // the highest revision of an entry since the last list was begun
	blind    bool             // an entry of the last list, or after it, stated no revision
	wasBlind bool             // before the running list was begun
}

// AgentKey names an agent: at most one is live at a node of a cluster.
type AgentKey struct {
	Cluster string
	Node    string
}

type agent struct {
	record    *catalogv1.Agent
	at        stand
	inherited bool // known from a store before this one, which has not got it yet
}

// replica is the last heartbeat seen of a synchronizer.
type replica struct {
	address    string   // empty where its key is gone, or names none that can be dialled
	clusters   []string // that it is configured for; none where its key is gone
	tick       uint64
	moved      time.Time // when tick was seen to move
	generation uint64
}

type cluster struct {
	meta        *storev1.ClusterMeta
	annotations map[string]strategy.Kind // by "namespace/service"; as meta has them
	metaAt      stand
	synced      *storev1.Synced // the marker seen last; nil before the first
	syncedAt    stand
	services    map[catalog.Name]*service
	instances   int // in the lists of services
	everSynced  bool
	syncedSeen  uint64 // generation of the last sight of the synced marker
	sweepOwed   bool   // a list ended without a marker of this cluster that counts
	vouchAbove  uint64 // a marker counts only above this epoch
	wentBackAt  int64  // of the running list: the highest revision held of a key that it states at a lower one
	disputed    map[place]struct{}
	contested   uint64 // the least epoch of an owner that does not vouch for what is disputed
	highest     uint64 // highest epoch seen of it
	confirmedAt time.Time
}

type service struct {
	in     *cluster // that counts its list; nil once it is no service of it any more
	slices map[uint32]*slice
	list   []*catalog.Instance // union of slices in identity order; immutable
	twice  bool                // some identity stands in two slices
}

// place is where a slice is in its cluster.
type place struct {
	name catalog.Name
	num  uint32
}

type slice struct {
	epoch, seq uint64
	instances  []*catalog.Instance
	value      []byte // as it was read: a newer version may have said more than instances hold
	at         stand
}

// Refusal is why an entry was not believed, as a bounded word for metrics.
type Refusal string

// The reasons for refusing an entry.
const (
	RefusedCorrupt Refusal = "corrupt"  // it does not decode
	RefusedForeign Refusal = "foreign"  // it says other things of itself than its key
	RefusedOlder   Refusal = "older"    // its (epoch, seq) is below the one held
	RefusedKey     Refusal = "bad_key"  // the key belongs to nothing of this federation
	SkippedUnknown Refusal = "skipped"  // a key of a newer version: left alone, not an error
	RefusedRecord  Refusal = "bad_item" // one instance inside a slice is unusable; the others stay
	// A policy or cordon that this version does not understand: the last good one of its key stays.
	RefusedPolicy Refusal = "policy"
	// A registry's word for a strategy that is none.
	RefusedStrategy Refusal = "strategy"
	// An instance's health that this version does not know: it counts as UNHEALTHY.
	UnknownHealth Refusal = "health"
)

// New returns an empty Mirror that reads keys of the given schema.
func New(schema keys.Schema) *Mirror {
	return &Mirror{
		schema:   schema,
		clusters: map[string]*cluster{},
		agents:   map[AgentKey]*agent{},
		replicas: map[string]*replica{},
		holds:    map[string]map[uint32]*holds{},
		refused:  map[Refusal]uint64{},
		dirty:    map[*service]*edit{},
		policies: newPolicies(),
		aside:    map[string]aside{},
	}
}

// Changes says what a batch changed, so that readers redo only that.
type Changes struct {
	// Services are the names whose list changed in some cluster.
	Services map[catalog.Name]struct{}
	// Clusters is true when a cluster appeared, vanished, was synced or changed its meta in more
	// than what only people read of it: its registries' revisions and when they were last read.
	Clusters bool
	// Holds is true when what the owner of some cluster holds back changed, the time left apart.
	Holds bool
	// Agents is true when an agent's record changed.
	Agents bool
	// Policies is true when policies or cordons changed, or their revision, or whether the store
	// has all that is in force.
	Policies bool
}

// Empty reports whether nothing changed.
func (c Changes) Empty() bool {
	return len(c.Services) == 0 && !c.Clusters && !c.Holds && !c.Agents && !c.Policies
}

func (c *Changes) service(n catalog.Name) {
	if c.Services == nil {
		c.Services = map[catalog.Name]struct{}{}
	}
	c.Services[n] = struct{}{}
}

// Begin says that a list of the store with this id follows. A list that was begun before and
// not ended is forgotten: what it named stays, and it sweeps nothing.
func (m *Mirror) Begin(storeID string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.generation++
	if storeID != m.nextID {
		m.since = m.generation
	}
	m.nextID = storeID
	m.otherStore = storeID != m.storeID
	m.wasBlind = m.blind || m.listing && m.wasBlind
	m.listing, m.blind, m.ahead = true, false, 0
	m.beginPolicies()
	if !m.otherStore || m.refill == storeID {
		return // a list that broke off brought some of that store's own epochs already
	}
	m.refill = storeID
	for _, c := range m.clusters {
		c.vouchAbove = c.highest
		clear(c.disputed)
	}
	for _, a := range m.agents {
		a.inherited = true
	}
}

// Abandon forgets a list that was begun and will not be ended.
func (m *Mirror) Abandon() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.listing {
		m.blind = m.blind || m.wasBlind
	}
	m.listing = false
	m.abandonPolicies()
}

// Apply takes entries in the store's order and brings the mirror to revision. now is the
// reader's own time; ages are counted from it.
func (m *Mirror) Apply(now time.Time, entries []*feedv1.Entry, revision int64) Changes {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ch Changes
	for _, e := range entries {
		m.apply(now, e, &ch)
	}
	m.relist()
	m.settle(&ch)
	if !m.listing {
		m.revision = max(m.revision, revision)
	}
	return ch
}

// End says that the list which Begin announced is complete at revision: what it did not name
// is gone, where that may be believed.
func (m *Mirror) End(revision int64) Changes {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ch Changes
	if !m.listing {
		return ch
	}
	m.listing, m.listed = false, m.generation
	m.storeID, m.revision = m.nextID, revision
	maps.DeleteFunc(m.aside, func(_ string, a aside) bool { return a.generation != m.generation })
	m.endPolicies()
	m.settle(&ch)
	for name, c := range m.clusters {
		if c.wentBackAt > 0 && c.wentBackAt <= revision {
			// The list is not behind, so this store lost what it had: it was restored under its own id. What
			// is held of it may be of the very epoch that it still has.
			c.vouchAbove = c.highest
		}
		c.wentBackAt = 0
		switch {
		case c.syncedSeen == m.generation:
			m.sweep(c, &ch)
		case !m.otherStore && c.syncedSeen > 0 && !c.sweepOwed && !m.younger(c.syncedAt):
			// The marker was in this very store and is no more: the cluster was removed.
			m.sweep(c, &ch)
			if len(c.services) == 0 && c.metaAt.generation != m.generation {
				m.forget(name, c)
				ch.Clusters = true
			}
		default:
			c.sweepOwed = true
		}
	}
	for k, a := range m.agents {
		// A new store holds the agents' records only once they have reported there.
		if a.at.generation != m.generation && !a.inherited && !m.younger(a.at) {
			delete(m.agents, k)
			ch.Agents = true
		}
	}
	m.sweepHolds(&ch)
	maps.DeleteFunc(m.replicas, func(_ string, r *replica) bool { return r.generation != m.generation })
	m.relist()
	return ch
}

// relist makes the lists anew that a batch changed, once each. Caller holds mu.
func (m *Mirror) relist() {
	for s, e := range m.dirty {
		if e.count > 1 || !s.splice(e.was, e.is) {
			s.relist()
		}
	}
	clear(m.dirty)
}

// sweep drops the slices of c that neither the last complete list nor anything after it named.
// Caller holds mu.
func (m *Mirror) sweep(c *cluster, ch *Changes) {
	for n, s := range c.services {
		before := len(s.slices)
		for num, sl := range s.slices {
			if sl.at.generation < m.listed && !m.younger(sl.at) {
				delete(s.slices, num)
				delete(c.disputed, place{n, num})
			}
		}
		if len(s.slices) == before {
			continue
		}
		ch.service(n)
		if len(s.slices) == 0 {
			c.drop(n)
			continue
		}
		m.touch(s, nil, nil)
		m.touch(s, nil, nil) // more than one slice may have gone
	}
	c.sweepOwed = false
}
