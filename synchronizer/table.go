package synchronizer

import (
	"slices"
	"sync"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers/intake"
)

// table is what one cluster's registries say, and which of it was not published yet. The
// cluster's intake writes it and the owner's loop, where this replica owns the cluster, empties
// it. Changes that come while the owner is publishing coalesce here, the latest winning.
type table struct {
	wake chan struct{} // holds one token while there is something to take

	mu         sync.Mutex
	lists      map[catalog.Name]intake.List // all that is known, services that are gone left out
	dirty      map[catalog.Name]struct{}
	complete   bool
	registries []catalog.RegistryStatus
	news       bool // complete or registries changed since the last take
}

func newTable() *table {
	return &table{
		wake:  make(chan struct{}, 1),
		lists: map[catalog.Name]intake.List{},
		dirty: map[catalog.Name]struct{}{},
	}
}

// put takes what the intake found.
func (t *table) put(ch intake.Change) {
	t.mu.Lock()
	for n, l := range ch.Services {
		if l.Gone {
			delete(t.lists, n)
		} else {
			t.lists[n] = l
		}
		t.dirty[n] = struct{}{}
	}
	t.complete = ch.Complete
	t.registries = ch.Registries
	t.news = true
	t.mu.Unlock()
	t.signal()
}

func (t *table) signal() {
	select {
	case t.wake <- struct{}{}:
	default: // a token is there already
	}
}

// work is what an owner has to publish.
type work struct {
	lists      map[catalog.Name]intake.List
	complete   bool
	registries []catalog.RegistryStatus
}

// take returns what changed since the last take, or everything where all says so of how the
// registries stand. It is called under a lock.
func (t *table) take(all func(work) bool) work {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := work{lists: map[catalog.Name]intake.List{}, complete: t.complete, registries: slices.Clone(t.registries)}
	if all(w) {
		for n, l := range t.lists {
			w.lists[n] = l
		}
	}
	for n := range t.dirty {
		l, ok := t.lists[n]
		if !ok {
			l = intake.List{Gone: true}
		}
		w.lists[n] = l
	}
	clear(t.dirty)
	t.news = false
	return w
}

// giveBack marks services as unpublished again after a publish that failed.
func (t *table) giveBack(w work) {
	t.mu.Lock()
	for n := range w.lists {
		t.dirty[n] = struct{}{}
	}
	t.mu.Unlock()
	t.signal()
}

// clean reports whether everything was taken.
func (t *table) clean() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.dirty) == 0 && !t.news
}
