package intake

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

// inbox is where one resolver leaves what it finds until the loop takes it. It never blocks
// and is bounded by the registry itself: of each source it keeps the latest snapshot, and
// beside it the latest explicit one, for what that left out was removed on purpose even when a
// plain read of the same source follows.
type inbox struct {
	wake   chan struct{}
	counts inboxCounters

	mu       sync.Mutex
	explicit pending
	plain    pending // applied after explicit
	heard    heard
}

type inboxCounters struct{ publishes, confirms, failures, coalesced prometheus.Counter }

// heard is what is known of the registry itself.
type heard struct {
	at       time.Time // last Publish or Confirm; zero: never
	failure  error     // the last word was Failed
	revision string
}

func (h heard) state() catalog.RegistryState {
	switch {
	case h.failure != nil:
		return catalog.RegistryFailed
	case h.at.IsZero():
		return catalog.RegistryPending
	}
	return catalog.RegistryOK
}

// pending is several Updates made one.
type pending struct {
	full    bool
	reset   string
	sources map[string][]catalog.Snapshot
}

var _ resolvers.Sink = (*inbox)(nil)

// Publish takes an Update.
func (b *inbox) Publish(u catalog.Update) {
	now := time.Now()
	b.mu.Lock()
	coalesced := b.put(u)
	b.heard = heard{at: now, revision: u.Revision}
	b.mu.Unlock()
	b.counts.publishes.Inc()
	b.counts.coalesced.Add(float64(coalesced))
	b.signal()
}

// Confirm notes that the registry answered.
func (b *inbox) Confirm() {
	now := time.Now()
	b.mu.Lock()
	b.heard.at, b.heard.failure = now, nil
	b.mu.Unlock()
	b.counts.confirms.Inc()
	b.signal()
}

// Failed notes that it did not.
func (b *inbox) Failed(err error) {
	b.mu.Lock()
	b.heard.failure = err
	b.mu.Unlock()
	b.counts.failures.Inc()
	b.signal()
}

func (b *inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default: // a token is there already
	}
}

// put adds an Update to those pending and returns how many snapshots that were never looked
// at it replaced. The caller holds b.mu.
func (b *inbox) put(u catalog.Update) (coalesced int) {
	to := &b.plain
	if u.Explicit {
		to = &b.explicit
	}
	if u.Full {
		coalesced += len(to.sources)
		*to = pending{full: true, reset: to.reset}
		if u.Explicit {
			coalesced += len(b.plain.sources)
			b.plain = pending{}
		}
	}
	if u.Reset != "" {
		to.reset = u.Reset
	}
	bySource := make(map[string][]catalog.Snapshot, len(u.Snapshots))
	for _, s := range u.Snapshots {
		bySource[s.Source] = append(bySource[s.Source], s)
	}
	if to.sources == nil {
		to.sources = make(map[string][]catalog.Snapshot, len(bySource))
	}
	for name, snaps := range bySource {
		if _, ok := to.sources[name]; ok {
			coalesced++
		}
		to.sources[name] = snaps
		if !u.Explicit {
			continue
		}
		// A plain read of this source that came before is superseded. Where it was part of a full
		// read, that must not take the source for gone.
		if b.plain.full {
			b.plain.sources[name] = snaps
		} else {
			delete(b.plain.sources, name)
		}
	}
	return coalesced
}

// take empties the inbox. The updates are to be applied in their order.
func (b *inbox) take() (updates []catalog.Update, h heard) {
	b.mu.Lock()
	explicit, plain := b.explicit, b.plain
	b.explicit, b.plain = pending{}, pending{}
	h = b.heard
	b.mu.Unlock()
	if u, ok := explicit.update(); ok {
		u.Explicit = true
		updates = append(updates, u)
	}
	if u, ok := plain.update(); ok {
		updates = append(updates, u)
	}
	return updates, h
}

func (p pending) update() (catalog.Update, bool) {
	if !p.full && len(p.sources) == 0 {
		return catalog.Update{}, false
	}
	u := catalog.Update{Full: p.full, Reset: p.reset}
	for _, snaps := range p.sources {
		u.Snapshots = append(u.Snapshots, snaps...)
	}
	return u, true
}
