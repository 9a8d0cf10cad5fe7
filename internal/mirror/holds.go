package mirror

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/keys"
)

// holds is one part of what a cluster's owner holds back.
type holds struct {
	value      *storev1.Holds
	generation uint64
}

// Holds returns what the owner of a cluster holds back, as it wrote it last. The instances are in
// the lists. It must not be changed.
func (m *Mirror) Holds(clusterName string) []*storev1.HoldGroup {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []*storev1.HoldGroup
	parts := m.holds[clusterName]
	for _, part := range slices.Sorted(maps.Keys(parts)) {
		out = append(out, parts[part].value.GetGroups()...)
	}
	return out
}

func (m *Mirror) applyHolds(k keys.Key, e *feedv1.Entry, ch *Changes) {
	parts := m.holds[k.Cluster]
	old := parts[k.Part]
	if e.GetDeleted() {
		if old != nil {
			m.dropHolds(k.Cluster, k.Part)
			ch.Holds = true
		}
		return
	}
	inherited := old != nil && old.generation < m.since
	if old != nil {
		old.generation = m.generation
	}
	var v storev1.Holds
	if !m.decode(k, e, nil, &v) {
		return
	}
	switch is := old.stored(); {
	case v.GetCluster() != k.Cluster || v.GetPart() != k.Part:
		m.refuse(RefusedForeign, k, e, nil)
		return
	// Nothing hangs on it but what people read, so of a store before this one nothing is kept.
	case !inherited && (is.GetEpoch() > v.GetEpoch() || is.GetEpoch() == v.GetEpoch() && is.GetSeq() > v.GetSeq()):
		m.refuse(RefusedOlder, k, e, nil)
		return
	}
	if parts == nil {
		parts = map[uint32]*holds{}
		m.holds[k.Cluster] = parts
	}
	parts[k.Part] = &holds{&v, m.generation}
	ch.Holds = ch.Holds || !slices.EqualFunc(old.stored().GetGroups(), v.GetGroups(), sameHolds)
}

func (h *holds) stored() *storev1.Holds {
	if h == nil {
		return nil
	}
	return h.value
}

// sameHolds leaves the times out: they move while nothing else does.
func sameHolds(a, b *storev1.HoldGroup) bool {
	timeless := func(g *storev1.HoldGroup) *storev1.HoldGroup {
		return &storev1.HoldGroup{Registry: g.GetRegistry(), Reason: g.GetReason(), Detail: g.GetDetail(), Doubted: g.GetDoubted(), Listed: g.GetListed(), Services: g.GetServices()}
	}
	return proto.Equal(timeless(a), timeless(b))
}

// sweepHolds drops what a list that is complete did not name. Caller holds mu.
func (m *Mirror) sweepHolds(ch *Changes) {
	for name, parts := range m.holds {
		for part, h := range parts {
			if h.generation != m.generation {
				m.dropHolds(name, part)
				ch.Holds = true
			}
		}
	}
}

func (m *Mirror) dropHolds(name string, part uint32) {
	if delete(m.holds[name], part); len(m.holds[name]) == 0 {
		delete(m.holds, name)
	}
}

// Configured returns the ids of the replicas that are configured for a cluster, in order, and whether
// any replica's heartbeat is in the store. One that died is among them until its lease ends.
func (m *Mirror) Configured(clusterName string) (replicas []string, known bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for id, r := range m.replicas {
		known = known || r.address != ""
		if slices.Contains(r.clusters, clusterName) {
			replicas = append(replicas, id)
		}
	}
	slices.Sort(replicas)
	return replicas, known
}
