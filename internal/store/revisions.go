package store

import "sync"

// latestRevisions is how many writes a term remembers: far more than it makes in the time that a
// watch takes to tell of them.
const latestRevisions = 4096

// revisions remembers the latest of what was added. Safe for concurrent use.
type revisions struct {
	mu   sync.Mutex
	ring []int64
	next int
	set  map[int64]struct{}
}

func (r *revisions) add(revision int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.set == nil {
		r.set = map[int64]struct{}{}
	}
	r.set[revision] = struct{}{}
	if len(r.ring) < latestRevisions {
		r.ring = append(r.ring, revision)
		return
	}
	delete(r.set, r.ring[r.next])
	r.ring[r.next] = revision
	r.next = (r.next + 1) % latestRevisions
}

func (r *revisions) has(revision int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.set[revision]
	return ok
}
