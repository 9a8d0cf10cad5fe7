package mdns

import (
	"container/heap"
	"math/rand/v2"
	"time"

	"github.com/miekg/dns"
)

const (
	// goodbyeDelay is how long a record outlives its goodbye, or another record's claim to be the
	// only one (RFC 6762 sections 10.1 and 10.2).
	goodbyeDelay = time.Second
	// mostSiblings bounds the records of one name and type, pointers apart: an instance has one
	// SRV and one TXT, a host a few addresses.
	mostSiblings = 64
)

// doom says why a record ends.
type doom uint8

const (
	undoomed  doom = iota
	goodbye        // its owner took it back
	displaced      // its owner says that another record stands alone
	unheard        // it was not heard again after the link had been down
	aged           // its TTL passed
)

// set names all records of one name and type.
type set struct {
	name string // folded
	kind uint16
}

type ident struct {
	set
	data string
}

// entry is a record in the cache.
type entry struct {
	record
	id    ident
	heard time.Time // last
	ends  time.Time
	doom  doom
	// renewals counts the questions that were due for it since it was heard.
	renewals int
	due      time.Time // when the next question is, or ends

	inHeap int
	inSet  int
}

// cache holds what was heard on one link, as RFC 6762 section 10 wants it. It is pure: time
// comes in as an argument. What it costs to hear, renew or lose a record does not depend on how
// many others there are.
type cache struct {
	entries map[ident]*entry
	sets    map[set][]*entry
	order   byDue
	limit   int
}

func newCache(limit int) *cache {
	return &cache{entries: map[ident]*entry{}, sets: map[set][]*entry{}, limit: limit}
}

// put takes a record that was heard and returns its entry, or nil where there is none: a
// goodbye to what is not known, or no room. changed says whether the record is new or doomed
// otherwise than before; others are the records that it displaced.
func (c *cache) put(now time.Time, r record) (e *entry, changed, full bool, others []*entry) {
	id := ident{set{fold(r.name), r.kind}, r.data()}
	e = c.entries[id]
	if r.ttl == 0 {
		if e == nil || e.doom == goodbye {
			return nil, false, false, nil
		}
		c.sentence(e, goodbye, now.Add(goodbyeDelay))
		return e, true, false, nil
	}
	if r.flush {
		others = c.displace(now, id)
	}
	if e == nil {
		if len(c.entries) >= c.limit || r.kind != dns.TypePTR && len(c.sets[id.set]) >= mostSiblings {
			return nil, false, true, others
		}
		e = &entry{record: r, id: id}
		c.entries[id] = e
		e.inSet = len(c.sets[id.set])
		c.sets[id.set] = append(c.sets[id.set], e)
		c.live(now, e, r)
		heap.Push(&c.order, e)
		return e, true, false, others
	}
	changed = e.doom != undoomed
	c.live(now, e, r)
	heap.Fix(&c.order, e.inHeap)
	return e, changed, false, others
}

func (c *cache) live(now time.Time, e *entry, r record) {
	e.record = r
	e.heard, e.ends, e.doom, e.renewals = now, now.Add(r.ttl), undoomed, 0
	e.due = e.nextDue()
}

// displace dooms the siblings of id that were heard more than a second ago: those heard later
// belong to the same announcement.
func (c *cache) displace(now time.Time, id ident) (others []*entry) {
	for _, e := range c.sets[id.set] {
		if e.id != id && e.doom == undoomed && now.Sub(e.heard) > goodbyeDelay {
			c.sentence(e, displaced, now.Add(goodbyeDelay))
			others = append(others, e)
		}
	}
	return others
}

func (c *cache) sentence(e *entry, why doom, ends time.Time) {
	if e.doom != undoomed && e.ends.Before(ends) {
		ends = e.ends
	}
	e.doom, e.ends, e.due = why, ends, ends
	heap.Fix(&c.order, e.inHeap)
}

// nextDue gives the time of the next question about e: at 80, 85, 90 and 95 % of its TTL, a
// little spread so that the listeners of a link do not ask in step (RFC 6762 section 5.2).
func (e *entry) nextDue() time.Time {
	if e.doom != undoomed || e.renewals >= 4 {
		return e.ends
	}
	part := 0.80 + 0.05*float64(e.renewals) + 0.02*rand.Float64()
	return e.heard.Add(time.Duration(part * float64(e.ttl)))
}

// pop returns the next entry that something is due for: it has ended, and is not in the cache
// any more, or it is to be asked for. nil: nothing is due.
func (c *cache) pop(now time.Time) (e *entry, ended bool) {
	if len(c.order) == 0 || c.order[0].due.After(now) {
		return nil, false
	}
	e = c.order[0]
	if !e.ends.After(now) {
		if e.doom == undoomed {
			e.doom = aged
		}
		c.drop(e)
		return e, true
	}
	e.renewals++
	e.due = e.nextDue()
	heap.Fix(&c.order, e.inHeap)
	return e, false
}

func (c *cache) drop(e *entry) {
	heap.Remove(&c.order, e.inHeap)
	delete(c.entries, e.id)
	list := c.sets[e.id.set]
	last := len(list) - 1
	list[e.inSet] = list[last]
	list[e.inSet].inSet = e.inSet
	list[last] = nil
	if last == 0 {
		delete(c.sets, e.id.set)
	} else {
		c.sets[e.id.set] = list[:last]
	}
}

// next gives the time when something is due, if ever.
func (c *cache) next() (time.Time, bool) {
	if len(c.order) == 0 {
		return time.Time{}, false
	}
	return c.order[0].due, true
}

// doubt makes every record that was not heard since a time end at another, unless it is heard
// until then.
func (c *cache) doubt(since, ends time.Time) {
	for _, e := range c.order {
		if e.heard.After(since) && e.doom == undoomed {
			continue
		}
		if e.doom == undoomed {
			e.doom = unheard
		}
		e.ends, e.due = ends, ends
	}
	heap.Init(&c.order)
}

// of gives the records of a name and type. The caller must not keep the list.
func (c *cache) of(name string, kind uint16) []*entry { return c.sets[set{fold(name), kind}] }

// best gives the record of a name and type that stands: the last heard, and one that is doomed
// only where there is no other.
func (c *cache) best(name string, kind uint16) *entry {
	var best *entry
	for _, e := range c.of(name, kind) {
		switch {
		case best == nil, e.standing() && !best.standing():
			best = e
		case e.standing() == best.standing() && e.heard.After(best.heard):
			best = e
		}
	}
	return best
}

// standing says that no other word of the owner's is against the record.
func (e *entry) standing() bool { return e.doom == undoomed || e.doom == unheard }

// byDue is a heap of entries.
type byDue []*entry

var _ heap.Interface = (*byDue)(nil)

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h byDue) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].inHeap, h[j].inHeap = i, j
}

// Push implements heap.Interface.
func (h *byDue) Push(x any) {
	e := x.(*entry) // nothing else is ever pushed
	e.inHeap = len(*h)
	*h = append(*h, e)
}

// Pop implements heap.Interface.
func (h *byDue) Pop() any {
	old := *h
	last := len(old) - 1
	e := old[last]
	old[last] = nil
	*h = old[:last]
	return e
}
