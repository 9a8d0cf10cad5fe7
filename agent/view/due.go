package view

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

const (
	// lookEvery is how often the freshness of clusters is looked at.
	lookEvery = time.Second
	// breath is the least time between two rounds of what is due: much that is due at about the
	// same time is done at once. After a round that took long it is breathFactor times as long as
	// that, up to breathAtMost, so that thousands of plans that change all the time (ramps) take a
	// part of one processor and no more.
	breath       = 20 * time.Millisecond
	breathFactor = 4
	breathAtMost = 5 * time.Second
	// judgeWithin is how soon after a failed call that is not suspicious by itself the instances
	// of its service are judged.
	judgeWithin = time.Second
)

// agenda is what is due, and when. Its methods are safe for concurrent use.
type agenda struct {
	// wake holds a token when something became due earlier than all there was.
	wake chan struct{}

	mu     sync.Mutex
	first  time.Time                  // what next gave last
	plans  map[catalog.Name]time.Time // when a plan of the service is to be made anew
	trials map[catalog.Name]time.Time // when its instances are to be judged
}

func (a *agenda) init() {
	a.wake = make(chan struct{}, 1)
	a.plans, a.trials = map[catalog.Name]time.Time{}, map[catalog.Name]time.Time{}
}

// plan has a service's plans looked at; at a zero time it is not.
func (a *agenda) plan(n catalog.Name, at time.Time) { a.add(a.plans, n, at) }

// trial has a service's instances judged; at a zero time it does not.
func (a *agenda) trial(n catalog.Name, at time.Time) { a.add(a.trials, n, at) }

func (a *agenda) add(to map[catalog.Name]time.Time, n catalog.Name, at time.Time) {
	if at.IsZero() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if was, ok := to[n]; ok && !at.Before(was) {
		return
	}
	to[n] = at
	if !a.first.IsZero() && !at.Before(a.first) {
		return
	}
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// take gives what is due and takes it off.
func (a *agenda) take(now time.Time) (plans, trials []catalog.Name) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return due(a.plans, now), due(a.trials, now)
}

func due(of map[catalog.Name]time.Time, now time.Time) (names []catalog.Name) {
	for n, at := range of {
		if !at.After(now) {
			names = append(names, n)
			delete(of, n)
		}
	}
	return names
}

// next gives when the next is due; zero for nothing. It costs a look at all that there is, and what
// comes later and is due later wakes nobody.
func (a *agenda) next() (at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range [...]map[catalog.Name]time.Time{a.plans, a.trials} {
		for t := range maps.Values(m) {
			at = earlier(at, t)
		}
	}
	a.first = at
	return at
}

// Run does what is due by time alone, until ctx is done, and returns ctx.Err(). Without it a Book
// goes on to answer, from what it knew when something last changed.
func (b *Book) Run(ctx context.Context) error {
	second := time.NewTicker(lookEvery)
	defer second.Stop()
	alarm := time.NewTimer(0)
	defer alarm.Stop()
	b.freshen(time.Now())
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-second.C:
			b.freshen(time.Now())
			b.forget()
			continue
		case <-b.agenda.wake:
		case <-alarm.C:
			began := time.Now()
			b.catchUp(began)
			// What comes in meanwhile waits a breath for its like.
			pause := time.NewTimer(breathAfter(time.Since(began)))
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
				return ctx.Err()
			}
		}
		if at := b.agenda.next(); !at.IsZero() {
			alarm.Reset(time.Until(at))
		}
	}
}

// breathAfter gives the pause after a round that took some time.
func breathAfter(took time.Duration) time.Duration {
	return min(max(breathFactor*took, breath), breathAtMost)
}

// catchUp does what is due by now. Others need not wait for more than one service of it.
func (b *Book) catchUp(now time.Time) {
	plans, trials := b.agenda.take(now)
	for _, n := range trials {
		b.mu.Lock()
		b.judge(n, now)
		b.mu.Unlock()
	}
	for _, n := range plans {
		b.mu.Lock()
		if s := (*b.services.Load())[n]; s != nil {
			s.service.Load().renew(now)
			b.watchers.tell(n)
		}
		b.mu.Unlock()
	}
}

// forget lets go of services that nobody lists any more, as those that nobody ever listed are not kept.
func (b *Book) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.left {
		return
	}
	b.left = false
	next := maps.Clone(*b.services.Load())
	var gone []catalog.Name
	for n, at := range next {
		if !at.service.Load().known {
			gone = append(gone, n)
			delete(next, n)
		}
	}
	b.services.Store(&next)
	for _, n := range gone {
		b.watchers.tell(n) // who waits on waits for one that nobody lists
	}
}

// freshen looks which clusters are stale now.
func (b *Book) freshen(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mirror == nil {
		return
	}
	stale, live := map[string]time.Time{}, false
	for _, c := range b.mirror.Clusters(now) {
		switch {
		case c.State == catalog.StateUnknown || !c.AgeKnown:
		case c.State != catalog.StateStale:
			live = true
		default:
			stale[c.Name] = b.since(c.Name, now.Add(-c.Age))
		}
	}
	advancing := live && b.connected()
	if advancing == b.advancing && maps.Equal(stale, b.stale) {
		return
	}
	b.advancing, b.stale = advancing, stale
	b.learnClusters()
	b.remakeAll()
}

// since gives since when a cluster is stale: as it was reckoned before, where that is about the
// same, so that nothing changes where nothing does. Caller holds mu.
func (b *Book) since(cluster string, at time.Time) time.Time {
	if was, ok := b.stale[cluster]; ok && at.Sub(was).Abs() < time.Second {
		return was
	}
	return at
}
