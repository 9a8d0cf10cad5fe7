package view

import (
	"sync"

	"github.com/farcall/farcall/internal/catalog"
)

// watchers are those who wait for a service to change. Its methods are safe for concurrent use.
type watchers struct {
	mu sync.Mutex
	of map[catalog.Name]chan struct{}
	// unknown is for all services that nobody lists: callers could fill the memory with them.
	unknown chan struct{}
}

// Watch gives a channel that is closed as soon as anything is otherwise of a service than it was
// when Watch was called, be it only what was measured. Ask again after it was closed.
func (b *Book) Watch(n catalog.Name) <-chan struct{} {
	b.Service(n) // which keeps it from now on, where somebody lists it
	kept := (*b.services.Load())[n] != nil
	w := &b.watchers
	w.mu.Lock()
	defer w.mu.Unlock()
	if !kept {
		if w.unknown == nil {
			w.unknown = make(chan struct{})
		}
		return w.unknown
	}
	c := w.of[n]
	if c == nil {
		c = make(chan struct{})
		if w.of == nil {
			w.of = map[catalog.Name]chan struct{}{}
		}
		w.of[n] = c
	}
	return c
}

// tell says that a service changed.
func (w *watchers) tell(n catalog.Name) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.of[n]; c != nil {
		close(c)
		delete(w.of, n)
	}
}

// tellUnknown says that some service changed that nobody listed before.
func (w *watchers) tellUnknown() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unknown != nil {
		close(w.unknown)
		w.unknown = nil
	}
}
