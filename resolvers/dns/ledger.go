package dns

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

const (
	// leastRetry and mostRetry bound the pause before a failed read is tried again. RFC 8767,
	// section 5, recommends 30 s to a resolver whose authorities fail; whom we ask is one of these
	// or an authority itself, and a registry that is back is to be read within 5 s.
	leastRetry = 500 * time.Millisecond
	mostRetry  = 2 * time.Second
	// maxSilent is how many names are being read at a time to which nobody answered last time: each
	// keeps a place for seconds, and the others are to find some, too.
	maxSilent = maxQuestions * 3 / 4
	// tolerance is how long a read may be overdue before nothing is confirmed any more.
	tolerance = 3 * time.Second
)

// ledger is what is held of each service, and which is to be read when. It does no I/O and reads
// no clock; one goroutine has it.
type ledger struct {
	all   []*entry // in the order of their sources
	queue queue    // those that are not being read, by due, but for the silent ones
	mute  queue    // those of them that are silent
	busy  map[*entry]time.Time
	// muted counts the silent ones that are being read.
	muted int
	// failing and unread count entries.
	failing, unread int
}

// entry is one service.
type entry struct {
	service
	outcome outcome
	snap    catalog.Snapshot
	targets map[string]hosts
	// err is why the last read failed or had to use what is stale; nil: it did not.
	err error
	// tries counts failed reads since the last good one.
	tries int
	due   time.Time
	// began is when the last read did.
	began time.Time
	at    int // its place in its queue, -1 while it is being read
	// silent says that the last read failed because nobody answered.
	silent bool
}

func newLedger(services []service, now time.Time) *ledger {
	l := &ledger{busy: map[*entry]time.Time{}, unread: len(services)}
	for _, s := range services {
		e := &entry{service: s, due: now}
		l.all = append(l.all, e)
		heap.Push(&l.queue, e)
	}
	return l
}

// readable gives the queues from which an entry may be taken.
func (l *ledger) readable() []queue {
	if l.muted < maxSilent {
		return []queue{l.queue, l.mute}
	}
	return []queue{l.queue}
}

// next takes the entry that is to be read now out of its queue, or gives nil.
func (l *ledger) next(now time.Time) *entry {
	for _, q := range l.readable() {
		if len(q) > 0 && !q[0].due.After(now) {
			return l.take(q[0], now)
		}
	}
	return nil
}

// idlest takes the entry whose last read began longest ago, due or not, or gives nil while there
// is none to be read.
func (l *ledger) idlest(now time.Time) *entry {
	var oldest *entry
	for _, e := range slices.Concat(l.readable()...) {
		if oldest == nil || e.began.Before(oldest.began) {
			oldest = e
		}
	}
	if oldest == nil {
		return nil
	}
	return l.take(oldest, now)
}

// queueOf gives the queue of an entry.
func (l *ledger) queueOf(e *entry) *queue {
	if e.silent {
		return &l.mute
	}
	return &l.queue
}

func (l *ledger) take(e *entry, now time.Time) *entry {
	heap.Remove(l.queueOf(e), e.at)
	if e.silent {
		l.muted++
	}
	l.busy[e] = now
	e.began = now
	return e
}

// put puts an entry back that was read. It marks it by how that went.
func (l *ledger) put(e *entry, due time.Time, err error) {
	if e.silent {
		l.muted--
	}
	var u unanswered
	e.silent = errors.As(err, &u) && u.silent()
	delete(l.busy, e)
	e.due = due
	heap.Push(l.queueOf(e), e)
}

// wake is how long nothing is due that may be read.
func (l *ledger) wake(now time.Time) time.Duration {
	wait := time.Hour // all are being read
	for _, q := range l.readable() {
		if len(q) > 0 {
			wait = min(wait, max(q[0].due.Sub(now), 0))
		}
	}
	return wait
}

// done takes a good read in and reports whether it says something else than the one before.
func (l *ledger) done(e *entry, r reading, now time.Time) (changed bool) {
	if e.outcome == unread {
		l.unread--
	}
	changed = e.outcome == unread || !sameList(e.snap, r.snap)
	e.outcome, e.targets = r.outcome, r.targets
	if changed {
		e.snap = r.snap
	}
	due := r.due
	l.mark(e, r.stale)
	if r.stale == nil {
		e.tries = 0
	} else {
		due = l.retry(e, now)
	}
	l.put(e, due, r.stale)
	return changed
}

// failed takes in that a read failed. The list stays.
func (l *ledger) failed(e *entry, err error, now time.Time) {
	l.mark(e, err)
	l.put(e, l.retry(e, now), err)
}

func (l *ledger) mark(e *entry, err error) {
	if e.err != nil {
		l.failing--
	}
	if err != nil {
		l.failing++
	}
	e.err = err
}

func (l *ledger) retry(e *entry, now time.Time) time.Time {
	pause := min(leastRetry<<min(e.tries, 10), mostRetry)
	e.tries++
	return now.Add(pause - rand.N(pause/5))
}

// complete reports whether each name was answered for once.
func (l *ledger) complete() bool { return l.unread == 0 }

// current reports whether all that was published is as young as the DNS wants it.
func (l *ledger) current(now time.Time) bool {
	if l.failing > 0 || !l.complete() || len(l.queue) > 0 && now.Sub(l.queue[0].due) > tolerance {
		return false
	}
	for _, since := range l.busy {
		if now.Sub(since) > tolerance {
			return false
		}
	}
	return true
}

// trouble says in one line what cannot be read, or nil. It names the first of several, unread
// ones first.
func (l *ledger) trouble() error {
	if l.failing == 0 {
		return nil
	}
	var first *entry
	for _, e := range l.all {
		if e.err != nil && (first == nil || first.outcome != unread && e.outcome == unread) {
			first = e
		}
	}
	others := ""
	if l.failing > 1 {
		others = fmt.Sprintf(" (and %d more)", l.failing-1)
	}
	consequence := ""
	if !l.complete() {
		consequence = "; nothing of this registry is published before each of its names was answered for once; a name that never will be is to be taken out of services"
	}
	return fmt.Errorf("dns: service %s%s: %w%s", first.source, others, first.err, consequence)
}

// snapshots gives all lists.
func (l *ledger) snapshots() []catalog.Snapshot {
	out := make([]catalog.Snapshot, len(l.all))
	for i, e := range l.all {
		out[i] = e.snap
	}
	return out
}

// states counts the entries by what is known of them.
func (l *ledger) states() (found, noDatas, noNames int) {
	for _, e := range l.all {
		switch e.outcome {
		case noData:
			noDatas++
		case noName:
			noNames++
		case unread:
		default:
			found++
		}
	}
	return found, noDatas, noNames
}

// queue is a heap of entries by due.
type queue []*entry

var _ heap.Interface = (*queue)(nil)

func (q queue) Len() int           { return len(q) }
func (q queue) Less(a, b int) bool { return q[a].due.Before(q[b].due) }
func (q queue) Swap(a, b int) {
	q[a], q[b] = q[b], q[a]
	q[a].at, q[b].at = a, b
}

// Push implements heap.Interface.
func (q *queue) Push(x any) {
	e := x.(*entry)
	e.at = len(*q)
	*q = append(*q, e)
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	e.at = -1
	return e
}
