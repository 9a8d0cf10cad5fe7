package intake

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/farcall/farcall/internal/guard"
)

// added is the rank of registries that are not among the configured ones.
const added = math.MaxInt

// running is a resolver under way.
type running struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when it was joined
	// obsolete says that it shall end: its registry was retired, and has another resolver by now
	// where it was added again.
	obsolete bool
}

// Add adds a registry before or while Run runs; it is believed after all configured ones, and
// among those added by its name. It checks it as New does. One that is being retired is
// revived: what of it still stands stays until its new resolver has read everything, and its
// place in the order stays too. The new resolver starts when the old one was joined. Add is
// safe for concurrent use, and never waits for a resolver.
func (i *Intake) Add(cfg Registry) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	at := slices.IndexFunc(i.registries, func(r *registry) bool { return r.name == cfg.Name })
	err := cfg.check(map[string]bool{cfg.Name: at >= 0 && !i.registries[at].retired()})
	switch {
	case err != nil:
	case !i.open:
		err = errors.New("no registry may be added to it: it is not open")
	}
	if err != nil {
		return fmt.Errorf("intake: cluster %q: %w", i.cluster, err)
	}
	if at >= 0 {
		i.registries[at].cfg = cfg
		i.registries[at].emptied, i.registries[at].dropped, i.registries[at].unread, i.registries[at].answers = false, false, false, 0
	} else {
		r := newRegistry(i, cfg, added)
		to, _ := slices.BinarySearchFunc(i.registries, r, believedFirst)
		i.registries = slices.Insert(i.registries, to, r)
	}
	i.log.Info("registry is added", "registry", cfg.Name)
	i.signal()
	return nil
}

// believedFirst orders registries as they are believed.
func believedFirst(a, b *registry) int {
	if c := cmp.Compare(a.rank, b.rank); c != 0 {
		return c
	}
	return cmp.Compare(a.name, b.name)
}

// Retire takes a registry away. Its resolver is stopped and joined, and then what it listed
// goes as if a full read had listed nothing: what the guard holds of that stays until the hold
// ends. When nothing of it is left, the registry is no more in any status, nor its metrics.
// A name that no registry has is no mistake. Retire is safe for concurrent use, and does not
// wait for any of this.
func (i *Intake) Retire(name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, r := range i.registries {
		if r.name == name && !r.retired() {
			i.retire(r)
			i.log.Info("registry is retired", "registry", name)
		}
	}
}

// Drop is Retire by a person's word: what it listed, and what the guard holds of that, goes at once,
// as an explicit removal does.
func (i *Intake) Drop(name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, r := range i.registries {
		if r.name == name {
			r.dropped, r.emptied, r.unread = true, false, false
			i.retire(r)
			i.log.Info("registry is dropped", "registry", name)
		}
	}
}

func (i *Intake) retire(r *registry) {
	r.cfg.Resolver = nil
	if r.running != nil {
		r.running.obsolete = true
	}
	i.signal()
}

func (i *Intake) signal() {
	select {
	case i.wake <- struct{}{}:
	default: // a token is there already
	}
}

func (r *registry) retired() bool { return r.cfg.Resolver == nil }

// stopped reports whether the registry is retired and its resolver says no more.
func (r *registry) stopped() bool { return r.retired() && r.running == nil }

// awaited reports whether some registry that is read here, and may list what the unread one did, was
// not read completely yet, or not often enough. The caller holds i.mu.
func (i *Intake) awaited(unread *registry, now time.Time) bool {
	links, deaf := false, false
	for _, r := range i.registries {
		if r.retired() {
			continue
		}
		if !r.guard.Complete() {
			return true
		}
		if r.rank == added {
			links, deaf = true, deaf || r.answers <= i.rounds
		}
	}
	switch {
	case i.rounds == 0:
		return false
	case links:
		return deaf
	case unread.waits.IsZero():
		unread.waits = now
	}
	return now.Sub(unread.waits) < cmp.Or(i.guardRules.Hold, guard.DefaultHold)
}

// standing reports whether there is a registry that is not retired.
func (i *Intake) standing() bool {
	return slices.ContainsFunc(i.registries, func(r *registry) bool { return !r.retired() })
}

// steer starts the resolvers that shall run and stops those that shall not.
func (i *Intake) steer(ctx context.Context, all *sync.WaitGroup) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, r := range i.registries {
		if r.running != nil && r.running.obsolete {
			r.running.cancel()
			select {
			case <-r.running.done:
				r.running = nil
			default: // it wakes the loop when it is joined
			}
		}
		if r.running == nil && !r.retired() {
			i.start(ctx, r, all)
		}
	}
}

func (i *Intake) start(ctx context.Context, r *registry, all *sync.WaitGroup) {
	ctx, cancel := context.WithCancel(ctx)
	run := &running{cancel: cancel, done: make(chan struct{})}
	r.running = run
	resolver := r.cfg.Resolver
	all.Go(func() {
		defer i.signal()
		defer close(run.done)
		defer cancel()
		i.supervise(ctx, r, resolver)
	})
}

// forgetEmptied drops the registries that are retired and of which nothing is left. The caller
// holds i.mu.
func (i *Intake) forgetEmptied() {
	i.registries = slices.DeleteFunc(i.registries, func(r *registry) bool {
		gone := r.stopped() && r.emptied && r.guard.Counts().Services == 0
		if gone {
			i.metrics.forget(i.cluster, r.name)
		}
		return gone
	})
}
