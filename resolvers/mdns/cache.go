package mdns

import (
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

	queued time.Time // when its alarm goes off, not after due; zero: it has none
	inSet  int
	gone   bool // it is not in the cache any more
}

// cache holds what was heard on one link, as RFC 6762 section 10 wants it. It is pure: time
// comes in as an argument. What it costs to hear, renew or lose a record does not depend on how
// many others there are.
type cache struct {
	entries map[ident]*entry
	sets    map[set][]*entry
	alarms  alarms
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
		return e, true, false, others
	}
	changed = e.doom != undoomed
	c.live(now, e, r)
	return e, changed, false, others
}

func (c *cache) live(now time.Time, e *entry, r record) {
	e.record = r
	e.heard, e.ends, e.doom, e.renewals = now, now.Add(r.ttl), undoomed, 0
	c.schedule(e, e.nextDue())
}

// schedule says when something is due for e next. An alarm that goes off too early is set
// again then, so that to hear a record again, the ordinary case, moves no alarm.
func (c *cache) schedule(e *entry, due time.Time) {
	e.due = due
	if e.queued.IsZero() || due.Before(e.queued) {
		e.queued = due
		c.alarms.push(alarm{due, e})
	}
	if len(c.alarms) > 2*len(c.entries)+64 { // most of them are of entries that are gone
		c.rewind()
	}
}

// rewind sets the alarms of all entries anew.
func (c *cache) rewind() {
	clear(c.alarms)
	c.alarms = c.alarms[:0]
	for _, e := range c.entries {
		e.queued = e.due
		c.alarms.push(alarm{e.due, e})
	}
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
	e.doom, e.ends = why, ends
	c.schedule(e, ends)
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
	for len(c.alarms) > 0 && !c.alarms[0].at.After(now) {
		a := c.alarms.pop()
		e = a.entry
		if e.gone || !a.at.Equal(e.queued) {
			continue // an earlier alarm went off in its place
		}
		e.queued = time.Time{}
		switch {
		case e.due.After(now):
			c.schedule(e, e.due)
		case !e.ends.After(now):
			if e.doom == undoomed {
				e.doom = aged
			}
			c.drop(e)
			return e, true
		default:
			e.renewals++
			c.schedule(e, e.nextDue())
			return e, false
		}
	}
	return nil, false
}

func (c *cache) drop(e *entry) {
	e.gone = true
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

// next gives a time before which nothing is due, if there is anything at all.
func (c *cache) next() (time.Time, bool) {
	if len(c.alarms) == 0 {
		return time.Time{}, false
	}
	return c.alarms[0].at, true
}

// doubt makes every record that was not heard since a time end at another, unless it is heard
// until then.
func (c *cache) doubt(since, ends time.Time) {
	for _, e := range c.entries {
		if e.heard.After(since) && e.doom == undoomed {
			continue
		}
		if e.doom == undoomed {
			e.doom = unheard
		}
		e.ends, e.due = ends, ends
	}
	c.rewind()
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

// alarm says when to look at an entry.
type alarm struct {
	at    time.Time
	entry *entry
}

// alarms is a heap with the earliest first. It is not container/heap, which would look into an
// entry for each comparison, and box each alarm.
type alarms []alarm

func (h *alarms) push(a alarm) {
	*h = append(*h, a)
	list := *h
	i := len(list) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !a.at.Before(list[up].at) {
			break
		}
		list[i] = list[up]
		i = up
	}
	list[i] = a
}

func (h *alarms) pop() alarm {
	list := *h
	first, n := list[0], len(list)-1
	a := list[n]
	list[n] = alarm{}
	*h = list[:n]
	for i := 0; n > 0; {
		down := 2*i + 1
		if down+1 < n && list[down+1].at.Before(list[down].at) {
			down++
		}
		if down >= n || !list[down].at.Before(a.at) {
			list[i] = a
			break
		}
		list[i] = list[down]
		i = down
	}
	return first
}
