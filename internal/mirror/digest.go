package mirror

import (
	"maps"
	"slices"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/keys"
)

// PoliciesPart is the part of a digest that stands for policies and cordons. No cluster has such a
// name.
const PoliciesPart = "policies and cordons"

// Digest stands for all that a reader holds of one store at one revision. How it is made is said at
// feedv1.Digest.
type Digest struct {
	StoreID  string
	Revision int64
	// Parts are by cluster, and PoliciesPart; none is 0.
	Parts map[string]uint64
}

// PartOf gives the part of a digest that a key counts in, and whether it counts at all.
func PartOf(k keys.Key) (part string, ok bool) {
	switch k.Kind {
	case keys.Meta, keys.Synced, keys.Slice, keys.Agent:
		return k.Cluster, true
	case keys.Policy, keys.Cordon, keys.PoliciesSynced:
		return PoliciesPart, true
	}
	return "", false
}

// Differ gives the parts in which two digests differ, in order.
func Differ(a, b map[string]uint64) []string {
	var out []string
	for part, sum := range a {
		if b[part] != sum {
			out = append(out, part)
		}
	}
	for part := range b {
		if _, ok := a[part]; !ok {
			out = append(out, part)
		}
	}
	slices.Sort(out)
	return out
}

// stand is where a value stands in the store: the revision at which its key was last seen there. The
// zero value is of one that the store does not hold.
type stand struct {
	revision   int64
	mark       uint64
	generation uint64 // of the list, or what followed it, that named the key
}

// aside is where a value stands in the store that is not believed and has nothing in its place here.
type aside struct {
	part string
	stand
}

// Digest returns what stands for all that is held. It is false while that cannot be said: during a
// list, between the parts of one change, and of a saved view that does not know its revisions.
func (m *Mirror) Digest() (Digest, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.listing || m.storeID == "" || m.blind || m.ahead > m.revision {
		return Digest{}, false
	}
	d := Digest{StoreID: m.storeID, Revision: m.revision, Parts: make(map[string]uint64, len(m.clusters)+1)}
	for name, c := range m.clusters {
		sum := m.there(c.metaAt) + m.there(c.syncedAt)
		for _, s := range c.services {
			for _, sl := range s.slices {
				// A slice that the last list did not name and that no rule kept should be gone.
				if sl.at.generation >= m.listed || !c.sweepOwed && !m.younger(sl.at) {
					sum += sl.at.mark
				}
			}
		}
		d.Parts[name] += sum
	}
	for k, a := range m.agents {
		d.Parts[k.Cluster] += m.there(a.at)
	}
	for _, a := range m.aside {
		d.Parts[a.part] += m.there(a.stand)
	}
	d.Parts[PoliciesPart] += m.policies.there.at.mark
	for _, t := range m.policies.there.texts {
		d.Parts[PoliciesPart] += t.at.mark
	}
	maps.DeleteFunc(d.Parts, func(_ string, sum uint64) bool { return sum == 0 })
	return d, true
}

// there is the mark of a value that the store holds, as far as this reader knows, else 0.
func (m *Mirror) there(s stand) uint64 {
	if s.generation < m.listed {
		return 0
	}
	return s.mark
}

// younger reports whether a value was seen in this store at a revision to which this reader has not
// come, or not come again: it was listed anew as of before.
func (m *Mirror) younger(s stand) bool {
	return s.generation >= m.since && s.revision > m.revision
}

// meet takes note of an entry before it is applied. Caller holds mu.
func (m *Mirror) meet(k keys.Key, e *feedv1.Entry) {
	if _, counts := PartOf(k); counts && e.GetRevision() == 0 {
		m.blind = true
	}
	m.ahead = max(m.ahead, e.GetRevision())
	delete(m.aside, e.GetKey())
}

// standOf is where an entry's value stands. Caller holds mu.
func (m *Mirror) standOf(e *feedv1.Entry) stand {
	s := stand{revision: e.GetRevision(), generation: m.generation}
	if s.revision > 0 {
		s.mark = keys.Mark(e.GetKey(), s.revision)
	}
	return s
}

// leave notes an entry that was not believed. at is of what is held in its place; nil where nothing
// is. Caller holds mu.
func (m *Mirror) leave(k keys.Key, e *feedv1.Entry, at *stand) {
	switch part, counts := PartOf(k); {
	case !counts:
	case at == nil:
		m.aside[e.GetKey()] = aside{part, m.standOf(e)}
	case e.GetRevision() > at.revision || at.generation != m.generation:
		*at = m.standOf(e)
	}
}

// bury forgets a cluster of which the last key was deleted, and reports whether that was so: its keys
// go in any order. Caller holds mu.
func (m *Mirror) bury(name string, c *cluster) bool {
	if c.meta != nil || len(c.services) > 0 || m.there(c.syncedAt) != 0 {
		return false
	}
	m.forget(name, c)
	return true
}

// forget drops a cluster. What the store still holds of it goes by itself. Caller holds mu.
func (m *Mirror) forget(name string, c *cluster) {
	delete(m.clusters, name)
	for kind, s := range map[keys.Kind]stand{keys.Meta: c.metaAt, keys.Synced: c.syncedAt} {
		if m.there(s) != 0 {
			m.aside[m.schema.Format(keys.Key{Kind: kind, Cluster: name})] = aside{name, s}
		}
	}
}

// saved is the revision with which a value is saved: -1 for one that the store does not hold, 0 for
// one of which that is not known. Caller holds mu.
func (m *Mirror) saved(s stand) int64 {
	switch {
	case m.blind && s.revision == 0:
		return 0
	case m.there(s) == 0:
		return -1
	}
	return s.revision
}
