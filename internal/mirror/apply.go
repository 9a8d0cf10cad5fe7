package mirror

import (
	"bytes"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
)

// apply takes one entry. Caller holds mu.
func (m *Mirror) apply(now time.Time, e *feedv1.Entry, ch *Changes) {
	k, err := m.schema.Parse(e.GetKey())
	switch {
	case errors.Is(err, keys.ErrUnknown):
		m.refused[SkippedUnknown]++
		return
	case err != nil:
		m.refused[RefusedKey]++
		return
	}
	m.meet(k, e)
	switch k.Kind {
	case keys.Slice:
		m.applySlice(k, e, ch)
	case keys.Meta:
		m.applyMeta(k, e, ch)
	case keys.Synced:
		m.applySynced(now, k, e, ch)
	case keys.Replica:
		m.applyReplica(now, k, e)
	case keys.Agent:
		m.applyAgent(k, e, ch)
	case keys.Holds:
		m.applyHolds(k, e, ch)
	case keys.Policy, keys.Cordon, keys.PoliciesSynced:
		m.applyPolicy(k, e)
	}
}

// refuse counts an entry that is not believed and notes where it stands. at is of what is held in
// its place; nil where nothing is.
func (m *Mirror) refuse(why Refusal, k keys.Key, e *feedv1.Entry, at *stand) {
	m.refused[why]++
	m.leave(k, e, at)
}

// decode reads a value, or refuses it and reports false.
func (m *Mirror) decode(k keys.Key, e *feedv1.Entry, at *stand, into proto.Message) bool {
	if err := keys.Decode(e.GetValue(), into); err != nil {
		m.refuse(RefusedCorrupt, k, e, at)
		return false
	}
	return true
}

func (m *Mirror) cluster(name string, ch *Changes) *cluster {
	c, ok := m.clusters[name]
	if !ok {
		c = &cluster{services: map[catalog.Name]*service{}}
		m.clusters[name] = c
		ch.Clusters = true
	}
	return c
}

func (m *Mirror) applySlice(k keys.Key, e *feedv1.Entry, ch *Changes) {
	if e.GetDeleted() {
		m.deleteSlice(k, ch)
		return
	}
	// Whatever becomes of the value, its key was named: a list does not sweep the last good one.
	c := m.cluster(k.Cluster, ch)
	old, at := c.slice(k), (*stand)(nil)
	if old != nil {
		at = &old.at
	}
	var v storev1.Slice
	if !m.decode(k, e, at, &v) {
		return
	}
	if v.GetCluster() != k.Cluster || v.GetNamespace() != k.Name.Namespace || v.GetService() != k.Name.Service || v.GetSlice() != k.Slice {
		m.refuse(RefusedForeign, k, e, at)
		return
	}
	next := &slice{epoch: v.GetEpoch(), seq: v.GetSeq(), value: e.GetValue(), at: m.standOf(e)}
	if m.listing && old != nil && old.at.generation >= m.since && next.at.revision > 0 && next.at.revision < old.at.revision {
		c.wentBackAt = max(c.wentBackAt, old.at.revision)
	}
	// Held from a store before this one.
	inherited := old != nil && old.at.generation < m.since
	switch {
	case old == nil || next.newer(old):
		delete(c.disputed, place{k.Name, k.Slice})
	case old.newer(next):
		c.dispute(k, inherited)
		m.refuse(RefusedOlder, k, e, at)
		return
	default:
		c.dispute(k, inherited && !bytes.Equal(old.value, e.GetValue()))
		m.leave(k, e, at) // it is held already
		if bytes.Equal(old.value, e.GetValue()) {
			old.value = e.GetValue() // who brings it keeps it as well: once is enough
		}
		return
	}
	next.instances = m.instances(k, v.GetInstances(), old)
	c.highest = max(c.highest, next.epoch)
	s := c.services[k.Name]
	if s == nil {
		s = &service{in: c, slices: map[uint32]*slice{}}
		c.services[k.Name] = s
	}
	s.slices[k.Slice] = next
	m.touch(s, old, next)
	ch.service(k.Name)
}

// dispute notes that this store has another value than the one held from a store before, which is not
// older: both were written by owners that did not know of each other.
func (c *cluster) dispute(k keys.Key, so bool) {
	if !so {
		return
	}
	if c.disputed == nil {
		c.disputed = map[place]struct{}{}
	}
	c.disputed[place{k.Name, k.Slice}] = struct{}{}
}

func (c *cluster) slice(k keys.Key) *slice {
	if s := c.services[k.Name]; s != nil {
		return s.slices[k.Slice]
	}
	return nil
}

// instances reads the records of a slice, keeping the old values of those that did not change,
// so that readers can tell by the pointer.
func (m *Mirror) instances(k keys.Key, records []*catalogv1.Instance, old *slice) []*catalog.Instance {
	known := map[catalog.ID]*catalog.Instance{}
	if old != nil {
		for _, i := range old.instances {
			known[i.ID] = i
		}
	}
	list := make([]*catalog.Instance, 0, len(records))
	for _, r := range records {
		if _, known := catalog.HealthFromProto(r.GetHealth()); !known {
			m.refused[UnknownHealth]++
		}
		i := catalog.InstanceFromProto(r)
		if i.Cluster != k.Cluster || i.Name != k.Name || i.Check() != nil {
			m.refused[RefusedRecord]++
			continue
		}
		if o := known[i.ID]; o != nil && o.Equal(i) {
			i = o
		}
		list = append(list, i)
	}
	return list
}

func (m *Mirror) deleteSlice(k keys.Key, ch *Changes) {
	c := m.clusters[k.Cluster]
	if c == nil {
		return
	}
	s := c.services[k.Name]
	if s == nil || s.slices[k.Slice] == nil {
		return
	}
	gone := s.slices[k.Slice]
	delete(s.slices, k.Slice)
	delete(c.disputed, place{k.Name, k.Slice})
	ch.service(k.Name)
	if len(s.slices) == 0 {
		c.drop(k.Name)
		if m.bury(k.Cluster, c) {
			ch.Clusters = true
		}
		return
	}
	m.touch(s, gone, nil)
}

func (m *Mirror) applyMeta(k keys.Key, e *feedv1.Entry, ch *Changes) {
	if e.GetDeleted() {
		if c := m.clusters[k.Cluster]; c != nil {
			c.meta, c.annotations, c.metaAt = nil, nil, stand{}
			m.bury(k.Cluster, c)
			ch.Clusters = true
		}
		return
	}
	at := (*stand)(nil)
	if c := m.clusters[k.Cluster]; c != nil && c.meta != nil {
		at = &c.metaAt
	}
	var v storev1.ClusterMeta
	if !m.decode(k, e, at, &v) {
		return
	}
	if v.GetCluster() != k.Cluster {
		m.refuse(RefusedForeign, k, e, at)
		return
	}
	c := m.cluster(k.Cluster, ch)
	c.highest = max(c.highest, v.GetEpoch())
	if old := c.meta; old != nil && (old.GetEpoch() > v.GetEpoch() || old.GetEpoch() == v.GetEpoch() && old.GetSeq() > v.GetSeq()) {
		m.refuse(RefusedOlder, k, e, at)
		return
	}
	if c.meta == nil || !proto.Equal(forReaders(c.meta), forReaders(&v)) {
		ch.Clusters = true
		c.annotations = m.annotations(&v)
	}
	c.meta, c.metaAt = &v, m.standOf(e)
}

// forReaders is a meta without what is for people only and moves while nothing else does: a
// revision with every read, a reporter with every hand-over, an error with every try.
func forReaders(meta *storev1.ClusterMeta) *storev1.ClusterMeta {
	meta = proto.CloneOf(meta)
	meta.Seq = 0
	for _, r := range meta.GetRegistries() {
		r.Revision, r.LastSuccess, r.Reporter, r.LastError = "", nil, "", ""
	}
	return meta
}

func (m *Mirror) applySynced(now time.Time, k keys.Key, e *feedv1.Entry, ch *Changes) {
	at := (*stand)(nil)
	if c := m.clusters[k.Cluster]; c != nil {
		at = &c.syncedAt
	}
	if e.GetDeleted() {
		if at != nil {
			*at = stand{}
			if m.bury(k.Cluster, m.clusters[k.Cluster]) {
				ch.Clusters = true
			}
		}
		return
	}
	var v storev1.Synced
	if !m.decode(k, e, at, &v) {
		return
	}
	if v.GetCluster() != k.Cluster {
		m.refuse(RefusedForeign, k, e, at)
		return
	}
	c := m.cluster(k.Cluster, ch)
	c.synced, c.syncedAt = &v, m.standOf(e)
	c.highest = max(c.highest, v.GetEpoch())
	counts := v.GetEpoch() > c.vouchAbove
	if counts {
		c.syncedSeen = m.generation
		if len(c.disputed) > 0 {
			// Its owner takes what is disputed for its own. One that begins because of this writes all anew.
			c.contested = max(c.contested, v.GetEpoch()+1)
		}
	}
	if !c.everSynced {
		c.everSynced = true
		ch.Clusters = true
		if !m.listing {
			c.confirmedAt = now // seen being written: its owner has read the registries just now
		}
	}
	if counts && c.sweepOwed && !m.listing {
		m.sweep(c, ch)
	}
}

// applyReplica takes a heartbeat. A replica's key that goes away says nothing of its clusters: they
// grow older until another replica confirms them. But nobody is to ask that replica anything.
func (m *Mirror) applyReplica(now time.Time, k keys.Key, e *feedv1.Entry) {
	if e.GetDeleted() {
		if r := m.replicas[k.Replica]; r != nil {
			r.address, r.clusters = "", nil
		}
		return
	}
	var v storev1.Replica
	if !m.decode(k, e, nil, &v) {
		return
	}
	if v.GetId() != k.Replica {
		m.refused[RefusedForeign]++
		return
	}
	r := m.replicas[v.GetId()]
	moved := r == nil || v.GetTick() > r.tick
	if r == nil {
		// When it last moved cannot be told; its key lives no longer than its lease, a few seconds.
		r = &replica{}
		m.replicas[v.GetId()] = r
	}
	r.tick, r.generation, r.clusters = max(r.tick, v.GetTick()), m.generation, v.GetClusters()
	if r.address = v.GetAddress(); catalog.CheckHostPort(r.address) != nil {
		r.address = ""
	}
	if !moved {
		return
	}
	r.moved = now
	for name, confirmed := range v.GetConfirmed() {
		c := m.clusters[name]
		if c == nil || confirmed == 0 || confirmed > v.GetTick() {
			continue
		}
		// A tick is a second, so no difference that matters overflows a Duration.
		behind := min(v.GetTick()-confirmed, 1<<30)
		at := now.Add(-time.Duration(behind) * tickLength)
		if at.After(c.confirmedAt) {
			c.confirmedAt = at
		}
	}
}

func (m *Mirror) applyAgent(k keys.Key, e *feedv1.Entry, ch *Changes) {
	key := AgentKey{Cluster: k.Cluster, Node: k.Node}
	if e.GetDeleted() {
		if _, ok := m.agents[key]; ok {
			delete(m.agents, key)
			ch.Agents = true
		}
		return
	}
	at := (*stand)(nil)
	if a := m.agents[key]; a != nil {
		a.inherited, at = false, &a.at
	}
	var v catalogv1.Agent
	if !m.decode(k, e, at, &v) {
		return
	}
	if v.GetCluster() != k.Cluster || v.GetNode() != k.Node {
		m.refuse(RefusedForeign, k, e, at)
		return
	}
	if a := m.agents[key]; a != nil && proto.Equal(a.record, &v) {
		a.at = m.standOf(e)
		return
	}
	m.agents[key] = &agent{record: &v, at: m.standOf(e)}
	ch.Agents = true
}
