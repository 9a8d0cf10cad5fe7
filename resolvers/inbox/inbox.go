// Package inbox is where a resolver leaves what it finds until somebody takes it. It never
// blocks and never loses what counts: what waits is made one, the latest winning, and what was
// removed on purpose stays so.
//
// It is not a queue: who takes seldom sees less, not later. It checks and maps nothing, and it
// runs no goroutines.
package inbox

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

// Inbox is a resolvers.Sink that keeps what it is given until Take. It is bounded by the
// registry itself: of each source it keeps the latest snapshot, and beside it the latest
// explicit one, for what that left out was removed on purpose even when a plain read of the
// same source follows. Its methods are safe for concurrent use and do not block.
type Inbox struct {
	wake   chan struct{}
	counts Counters

	mu       sync.Mutex
	explicit pending
	plain    pending // applied after explicit
	heard    Heard
}

var _ resolvers.Sink = (*Inbox)(nil)

// Counters are counted up by an Inbox. One that is nil is not.
type Counters struct {
	Publishes, Confirms, Failures prometheus.Counter
	// Coalesced counts the snapshots that a later one replaced before they were taken.
	Coalesced prometheus.Counter
}

// Heard is what is known of the registry itself.
type Heard struct {
	At       time.Time // last Publish or Confirm; zero: never
	Failure  error     // where the last word was Failed: why
	Revision string    // of the last Publish
}

// State says where the reading of the registry stands.
func (h Heard) State() catalog.RegistryState {
	switch {
	case h.Failure != nil:
		return catalog.RegistryFailed
	case h.At.IsZero():
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

// New returns an empty Inbox. Whenever something came, it puts a token into wake, where there
// is none yet; wake has room for one, and several inboxes may share it.
func New(wake chan struct{}) *Inbox { return Counted(wake, Counters{}) }

// Counted is New with counters.
func Counted(wake chan struct{}, counts Counters) *Inbox {
	return &Inbox{wake: wake, counts: counts}
}

// Publish takes an Update, which must not be changed afterwards.
func (b *Inbox) Publish(u catalog.Update) {
	now := time.Now()
	b.mu.Lock()
	coalesced := b.put(u)
	b.heard = Heard{At: now, Revision: u.Revision}
	b.mu.Unlock()
	count(b.counts.Publishes, 1)
	count(b.counts.Coalesced, coalesced)
	b.signal()
}

// Confirm notes that the registry answered.
func (b *Inbox) Confirm() {
	now := time.Now()
	b.mu.Lock()
	b.heard.At, b.heard.Failure = now, nil
	b.mu.Unlock()
	count(b.counts.Confirms, 1)
	b.signal()
}

// Failed notes that it did not.
func (b *Inbox) Failed(err error) {
	b.mu.Lock()
	b.heard.Failure = err
	b.mu.Unlock()
	count(b.counts.Failures, 1)
	b.signal()
}

func count(c prometheus.Counter, n int) {
	if c != nil {
		c.Add(float64(n))
	}
}

func (b *Inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default: // a token is there already
	}
}

// put adds an Update to those pending and returns how many snapshots that were never looked
// at it replaced. The caller holds b.mu.
func (b *Inbox) put(u catalog.Update) (coalesced int) {
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

// Take empties the inbox. The updates are to be applied in their order: an explicit one, if
// there is any, before a plain one, if there is any. Their Revision is empty: it is in Heard,
// which stays when the inbox is empty.
func (b *Inbox) Take() (updates []catalog.Update, h Heard) {
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
