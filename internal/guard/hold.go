package guard

import (
	"container/heap"
	"fmt"
	"slices"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// Reason is why a removal is held. The words are labels of metrics.
type Reason string

const (
	// Burst: more removals than Floor in one Window.
	Burst Reason = "burst"
	// Catalogue: all that the registry stated, more than Floor instances, was gone in one read.
	Catalogue Reason = "catalogue"
	// Reset: the registry looks like another or a younger one than before.
	Reset Reason = "reset"
)

// Hold is one removal that is held back.
type Hold struct {
	ID     catalog.ID
	Since  time.Time
	Until  time.Time
	Reason Reason
	Detail string // the reason in words
	// Doubted says that further reads do not confirm it: it is not of a Burst, or the registry was
	// reset since.
	Doubted bool
	// Listed says that who decides has listed it during the hold: when it is listed there no more, it
	// was let go (Review).
	Listed bool
}

// hold is a Hold with what it takes to end it.
type hold struct {
	Hold
	sources []string // that withdrew the instance
	over    bool
	listed  bool // by who decides, at the last Review
}

// due is when a hold ends, as it was known when it was queued.
type due struct {
	*hold
	until time.Time
}

// agenda is a heap (container/heap) of what is due, the first to end on top.
type agenda []due

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].until.Before(a[j].until) }
func (a agenda) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }

// Push implements heap.Interface.
func (a *agenda) Push(x any) { *a = append(*a, x.(due)) }

// Pop implements heap.Interface.
func (a *agenda) Pop() any {
	last := len(*a) - 1
	d := (*a)[last]
	(*a)[last] = due{}
	*a = (*a)[:last]
	return d
}

// Holds gives the removals that are held back, in identity order.
func (r *Registry) Holds() []Hold {
	all := make([]Hold, 0, len(r.held))
	for _, h := range r.held {
		all = append(all, h.Hold)
	}
	slices.SortFunc(all, func(a, b Hold) int { return a.ID.Compare(b.ID) })
	return all
}

// Expire ends the holds whose time is up and returns what changed of what is believed.
func (r *Registry) Expire(now time.Time) Changes {
	p := r.newPass()
	for {
		until, ok := r.Next()
		if !ok || until.After(now) {
			return p.end()
		}
		p.remove(r.queue[0].ID)
		r.removals.Expired++
	}
}

// Next says when Expire has work, and whether it ever has.
func (r *Registry) Next() (time.Time, bool) {
	for len(r.queue) > 0 && (r.queue[0].over || !r.queue[0].until.Equal(r.queue[0].Until)) {
		heap.Pop(&r.queue)
	}
	if len(r.queue) == 0 {
		return time.Time{}, false
	}
	return r.queue[0].until, true
}

// Release ends the holds whose identity `of` names, by a person's word, and returns them in
// identity order with what changed of what is believed.
func (r *Registry) Release(of func(catalog.ID) bool) (released []Hold, changed Changes) {
	p := r.newPass()
	for _, h := range r.Holds() {
		if !of(h.ID) {
			continue
		}
		p.remove(h.ID)
		r.removals.Released++
		released = append(released, h)
	}
	return released, p.end()
}

func (r *Registry) newPass() *pass {
	return &pass{r: r, known: map[catalog.Name]bool{}, dirty: Changes{}}
}

func (r *Registry) beginHold(m *member, h *hold) {
	m.hold = h
	r.held[h.ID] = h
	heap.Push(&r.queue, due{h, h.Until})
	for _, name := range h.sources {
		if r.heldBy[name] == nil {
			r.heldBy[name] = map[catalog.ID]*hold{}
		}
		r.heldBy[name][h.ID] = h
	}
}

// prolong makes a hold last until a time, where it would end before.
func (r *Registry) prolong(h *hold, until time.Time) {
	if until.After(h.Until) {
		h.Until = until
		heap.Push(&r.queue, due{h, until})
	}
}

func (r *Registry) endHold(m *member) {
	h := m.hold
	m.hold = nil
	h.over = true
	delete(r.held, h.ID)
	for _, name := range h.sources {
		delete(r.heldBy[name], h.ID)
		if len(r.heldBy[name]) == 0 {
			delete(r.heldBy, name)
		}
	}
	if len(r.held) == 0 {
		r.queue = nil
	}
}

func (r *Registry) burstDetail() string {
	return fmt.Sprintf("more than %d removals in %v", r.cfg.Floor, r.cfg.Window)
}

func catalogueDetail(n int) string {
	return fmt.Sprintf("all %d instances of the registry were gone in one read", n)
}
