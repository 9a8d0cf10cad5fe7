package agent

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farcall/farcall/agent/view"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/resolvers"
	"github.com/farcall/farcall/resolvers/intake"
)

const (
	// announceEvery is how long what changes right after something else waits, so that it is looked
	// at together; and no more than a tenth of the time goes into looking.
	announceEvery = 100 * time.Millisecond
	announceShare = 10
	// announceSweep is how often everything is looked at, for what changes by time alone.
	announceSweep = 30 * time.Second
)

// announcements say which applications an Announcer is to announce: those that calls from here
// find in other clusters alone. Where the own cluster has an instance, its own sidecars announce
// it; beside them, calls would go past the strategy.
type announcements struct {
	book *view.Book
	to   resolvers.Announcer // nil: nobody is told of anything
	wake chan struct{}

	complete atomic.Bool // the own registries were all read

	mu    sync.Mutex
	names map[catalog.Name]struct{} // to be looked at
	all   bool                      // everything is

	// These are run's own.
	namespace string
	apps      map[string]struct{} // as they were announced last
	told      bool
}

func newAnnouncements(book *view.Book, to resolvers.Announcer) *announcements {
	return &announcements{book: book, to: to, wake: make(chan struct{}, 1), names: map[catalog.Name]struct{}{}, apps: map[string]struct{}{}}
}

// fed says what the feed changed in the view. A change of nothing comes at the end of a list, from
// which on more is known than before.
func (a *announcements) fed(ch mirror.Changes) {
	changed(a, ch.Services, ch.Clusters || ch.Agents || ch.Policies || ch.Empty())
}

// read says what the own registries changed in the view.
func (a *announcements) read(ch intake.Change) {
	was := a.complete.Swap(ch.Complete)
	changed(a, ch.Services, !was || !ch.Complete)
}

// changed notes names of which something changed in the view; all: perhaps of every name.
func changed[V any](a *announcements, names map[catalog.Name]V, all bool) {
	if a.to == nil {
		return
	}
	a.mu.Lock()
	a.all = a.all || all
	if !a.all {
		for n := range names {
			a.names[n] = struct{}{}
		}
	}
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default: // it is awake already
	}
}

// announce runs the Announcer, where there is one.
func (a *announcements) announce(ctx context.Context) error {
	if a.to == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return a.to.Run(ctx)
}

// run tells the Announcer what there is to announce, until ctx is done.
func (a *announcements) run(ctx context.Context) error {
	if a.to == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	sweep := time.NewTicker(announceSweep)
	defer sweep.Stop()
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.wake:
		case <-sweep.C:
			changed[struct{}](a, nil, true)
			continue
		}
		began := time.Now()
		a.look()
		rest.Reset(max(announceEvery, announceShare*time.Since(began)))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-rest.C:
		}
	}
}

// look finds out what is to be announced of all that changed, and says so where it is otherwise than
// before.
func (a *announcements) look() {
	// Sidecars know no namespaces: theirs is the one in which the face for them looks a bare name up.
	only, _ := a.book.OwnOnly()
	namespace := cmp.Or(only.Namespace, catalog.DefaultNamespace)
	a.mu.Lock()
	names, all := a.names, a.all || namespace != a.namespace
	a.names, a.all = map[catalog.Name]struct{}{}, false
	a.mu.Unlock()
	a.namespace = namespace

	before := a.apps
	if all {
		a.apps = map[string]struct{}{}
		for _, n := range a.book.Names() {
			a.judge(n)
		}
	} else {
		before = maps.Clone(a.apps)
		for n := range names {
			a.judge(n)
		}
	}
	if a.told && maps.Equal(a.apps, before) {
		return
	}
	a.told = true
	a.to.Announce(slices.Sorted(maps.Keys(a.apps)))
}

// judge notes whether a name is to be announced.
func (a *announcements) judge(n catalog.Name) {
	switch {
	case n.Namespace != a.namespace:
	case a.book.Elsewhere(n):
		a.apps[n.Service] = struct{}{}
	default:
		delete(a.apps, n.Service)
	}
}
