package mirror

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
)

// Cluster is what a reader knows of one cluster.
type Cluster struct {
	Name  string
	State catalog.ClusterState
	// Age is the time since the cluster's registries were last confirmed, where AgeKnown: a
	// reader that has seen no heartbeat cannot tell.
	Age      time.Duration
	AgeKnown bool
	// OwnerAge is the time since the heartbeat of the replica that wrote Meta was seen to move,
	// where OwnerKnown.
	OwnerAge   time.Duration
	OwnerKnown bool
	Locality   catalog.Locality
	// Epoch is the highest seen of it.
	Epoch uint64
	// Demand is the least epoch under which its owner is believed here; 0 where any is.
	Demand uint64
	// Meta is what its owner says of it; nil before the first publish. Not to be changed.
	Meta                *storev1.ClusterMeta
	Services, Instances int
}

// Position returns the store and the revision of the last complete list and what came after.
func (m *Mirror) Position() (storeID string, revision int64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.storeID, m.revision
}

// Clusters returns every known cluster in name order, as of now.
func (m *Mirror) Clusters(now time.Time) []Cluster {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]Cluster, 0, len(m.clusters))
	for name, c := range m.clusters {
		d := c.describe(name, now)
		if r := m.replicas[c.meta.GetOwner()]; r != nil {
			d.OwnerAge, d.OwnerKnown = max(now.Sub(r.moved), 0), true
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b Cluster) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Replica is a synchronizer whose heartbeat is in the store.
type Replica struct {
	ID string
	// Address is where other replicas reach it.
	Address string
}

// Replicas returns the synchronizers that say where they are reached, in the order of their ids. One
// that died is among them until its lease ends.
func (m *Mirror) Replicas() []Replica {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []Replica
	for id, r := range m.replicas {
		if r.address != "" {
			out = append(out, Replica{id, r.address})
		}
	}
	slices.SortFunc(out, func(a, b Replica) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Demand returns the least epoch under which the owner of one cluster is believed here, 0 where any
// is.
func (m *Mirror) Demand(clusterName string) uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if c := m.clusters[clusterName]; c != nil {
		return c.demand()
	}
	return 0
}

// demand is the highest epoch seen, and one more than what was seen of the stores before this one: of
// two owners with one epoch, each in a store that knew nothing of the other, nobody can tell whose
// word is the later one.
func (c *cluster) demand() uint64 {
	if c.vouchAbove == 0 {
		return c.highest
	}
	return max(c.highest, c.vouchAbove+1, c.contested)
}

// Meta returns what the owner of one cluster says of it, nil where nobody does. It must not be
// changed.
func (m *Mirror) Meta(clusterName string) *storev1.ClusterMeta {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if c := m.clusters[clusterName]; c != nil {
		return c.meta
	}
	return nil
}

func (c *cluster) describe(name string, now time.Time) Cluster {
	d := Cluster{
		Name:     name,
		Epoch:    c.highest,
		Demand:   c.demand(),
		Meta:     c.meta,
		Locality: catalog.LocalityFromProto(c.meta.GetLocality()),
		Services: len(c.services), Instances: c.instances,
	}
	d.State, d.Age = c.state(now)
	d.AgeKnown = c.everSynced && !c.confirmedAt.IsZero()
	return d
}

// state follows strategies.md: a cluster never synced is unknown whatever it holds; one whose
// heartbeat was not seen to move since this reader began is stale.
func (c *cluster) state(now time.Time) (catalog.ClusterState, time.Duration) {
	if !c.everSynced {
		return catalog.StateUnknown, 0
	}
	if c.confirmedAt.IsZero() {
		return catalog.StateStale, 0
	}
	age := max(now.Sub(c.confirmedAt), 0)
	if age > StaleAfter {
		return catalog.StateStale, age
	}
	for _, r := range c.meta.GetRegistries() {
		if r.GetHeld() > 0 {
			return catalog.StateProtected, age
		}
	}
	return catalog.StateSynced, age
}

// Instances returns the list of one service of one cluster in identity order, and whether the
// cluster knows the service at all. The list must not be changed.
func (m *Mirror) Instances(clusterName string, n catalog.Name) (list []*catalog.Instance, known bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c := m.clusters[clusterName]
	if c == nil {
		return nil, false
	}
	s := c.services[n]
	if s == nil {
		return nil, false
	}
	return s.list, true
}

// Names returns the services that one cluster knows, in order; those of every cluster when
// clusterName is empty.
func (m *Mirror) Names(clusterName string) []catalog.Name {
	m.mu.RLock()
	defer m.mu.RUnlock()
	seen := map[catalog.Name]struct{}{}
	for name, c := range m.clusters {
		if clusterName == "" || clusterName == name {
			for n := range c.services {
				seen[n] = struct{}{}
			}
		}
	}
	return slices.SortedFunc(maps.Keys(seen), catalog.Name.Compare)
}

// Agents returns every agent's record, in cluster and node order. They must not be changed.
func (m *Mirror) Agents() []*catalogv1.Agent {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]*catalogv1.Agent, 0, len(m.agents))
	for _, a := range m.agents {
		out = append(out, a.record)
	}
	slices.SortFunc(out, func(a, b *catalogv1.Agent) int {
		return cmp.Or(cmp.Compare(a.GetCluster(), b.GetCluster()), cmp.Compare(a.GetNode(), b.GetNode()))
	})
	return out
}

// HasAgent reports whether this very record is in the store, and not only remembered from a
// store before it.
func (m *Mirror) HasAgent(record *catalogv1.Agent) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	a := m.agents[AgentKey{Cluster: record.GetCluster(), Node: record.GetNode()}]
	return a != nil && !a.inherited && proto.Equal(a.record, record)
}

// Refused returns how many entries were not believed, by reason, since the mirror was made.
func (m *Mirror) Refused() map[Refusal]uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return maps.Clone(m.refused)
}

// savedReplica is under whose name Save writes what is known of ages.
const savedReplica = "saved-view"

// Save gives the mirror as a list that Begin, Apply and End read back: metas, markers, slices,
// agents, policies, and ages as one heartbeat. storeID is empty while the store is being refilled,
// so that whoever reads it back is told everything again and sweeps by the rules for another store.
func (m *Mirror) Save(now time.Time) (storeID string, revision int64, entries []*feedv1.Entry, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out entryList
	storeID = m.storeID
	ages := &storev1.Replica{Id: savedReplica, Tick: 1 << 40, Confirmed: map[string]uint64{}}
	for name, c := range m.clusters {
		if c.sweepOwed || len(c.disputed) > 0 {
			storeID = ""
		}
		if c.meta != nil {
			out.add(m.schema.Format(keys.Key{Kind: keys.Meta, Cluster: name}), c.meta, m.saved(c.metaAt))
		}
		for n, s := range c.services {
			for num, sl := range s.slices {
				key := m.schema.Format(keys.Key{Kind: keys.Slice, Cluster: name, Name: n, Slice: num})
				out.entries = append(out.entries, &feedv1.Entry{Key: key, Value: sl.value, Revision: m.saved(sl.at)})
			}
		}
		switch synced := m.schema.Format(keys.Key{Kind: keys.Synced, Cluster: name}); {
		case c.everSynced:
			marker := proto.CloneOf(c.synced)
			marker.Epoch = c.highest
			out.add(synced, marker, m.saved(c.syncedAt))
		case m.there(c.syncedAt) != 0:
			out.addAside(synced, c.syncedAt)
		}
		if !c.confirmedAt.IsZero() {
			ages.Confirmed[name] = ages.Tick - uint64(max(now.Sub(c.confirmedAt), 0)/tickLength)
		}
	}
	for k, a := range m.agents {
		if a.inherited {
			storeID = ""
		}
		out.add(m.schema.Format(keys.Key{Kind: keys.Agent, Cluster: k.Cluster, Node: k.Node}), a.record, m.saved(a.at))
	}
	for name, parts := range m.holds {
		for part, h := range parts {
			out.add(m.schema.Format(keys.Key{Kind: keys.Holds, Cluster: name, Part: part}), h.value, 0)
		}
	}
	for key, a := range m.aside {
		out.addAside(key, a.stand)
	}
	sortEntries(out.entries)
	if m.policies.result.Behind {
		storeID = ""
	}
	stated, err := m.policyEntries(true)
	if err != nil {
		return "", 0, nil, err
	}
	out.entries = append(stated, out.entries...)
	// Last, because a heartbeat is about clusters that are known by then.
	out.add(m.schema.Format(keys.Key{Kind: keys.Replica, Replica: savedReplica}), ages, 0)
	return storeID, m.revision, out.entries, out.err
}
