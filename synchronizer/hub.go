package synchronizer

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/store"
)

// What the hub keeps for readers that were away, and how much one message of a snapshot holds.
const (
	historyEntries  = 50_000
	snapshotEntries = 500
	snapshotBytes   = 1 << 20
)

// hub follows the store once and serves any number of readers from what it saw: the mirror for
// people, and for the feed the entries as they are plus a history of changes. No reader can
// hold it up: each walks the history at its own pace, and one that falls out of it is given a
// snapshot again.
type hub struct {
	federation string
	mirror     *mirror.Mirror
	metrics    *metrics

	// mu guards all below.
	mu       sync.Mutex
	changed  chan struct{} // closed and replaced when there is something new
	storeID  string
	revision int64 // 0 until the first list is complete
	entries  map[string]*feedv1.Entry
	history  []*feedv1.WatchResponse // oldest first; history[0] has number first
	first    uint64
	held     int    // entries in history
	before   int64  // readers that have this revision need all of history
	life     uint64 // counts stores: a reader of another life starts over
	pending  map[string]*feedv1.Entry
	nextID   string
}

var _ store.Sink = (*hub)(nil)

func newHub(federation string, m *mirror.Mirror, mt *metrics) *hub {
	return &hub{
		federation: federation, mirror: m, metrics: mt,
		changed: make(chan struct{}),
		entries: map[string]*feedv1.Entry{},
	}
}

// Begin is the store's word that a list follows.
func (h *hub) Begin(storeID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mirror.Begin(storeID)
	h.nextID = storeID
	h.pending = map[string]*feedv1.Entry{}
}

// Apply takes a part of a list, or changes.
func (h *hub) Apply(entries []store.Entry, revision int64) {
	batch := make([]*feedv1.Entry, len(entries))
	for i, e := range entries {
		batch[i] = &feedv1.Entry{Key: e.Key, Value: e.Value, Revision: e.Revision, Deleted: e.Deleted}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mirror.Apply(time.Now(), batch, revision)
	if h.pending != nil {
		for _, e := range batch {
			h.pending[e.Key] = e
		}
		return
	}
	h.append(batch, revision)
}

// End completes a list. Readers are sent the difference to what they have, except where the
// list is of another store: then each is sent a snapshot and applies the rules for that itself.
func (h *hub) End(revision int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mirror.End(revision)
	h.metrics.relists.Inc()
	next := h.pending
	h.pending = nil
	if h.nextID != h.storeID || h.revision == 0 {
		h.storeID, h.revision, h.entries = h.nextID, revision, next
		h.first += uint64(len(h.history))
		h.history, h.held, h.before = nil, 0, revision
		h.life++
		h.signal()
		return
	}
	var diff []*feedv1.Entry
	for k, e := range next {
		if old := h.entries[k]; old == nil || old.GetRevision() != e.GetRevision() {
			diff = append(diff, e)
		}
	}
	for k := range h.entries {
		if next[k] == nil {
			diff = append(diff, &feedv1.Entry{Key: k, Revision: revision, Deleted: true})
		}
	}
	slices.SortFunc(diff, func(a, b *feedv1.Entry) int { return int(a.GetRevision() - b.GetRevision()) })
	h.append(diff, revision)
}

// append adds a batch to the history. Caller holds mu.
func (h *hub) append(batch []*feedv1.Entry, revision int64) {
	for _, e := range batch {
		if e.GetDeleted() {
			delete(h.entries, e.GetKey())
		} else {
			h.entries[e.GetKey()] = e
		}
	}
	h.revision = max(h.revision, revision)
	if len(batch) == 0 {
		return
	}
	h.history = append(h.history, &feedv1.WatchResponse{StoreId: h.storeID, Revision: h.revision, Entries: batch})
	h.held += len(batch)
	for h.held > historyEntries && len(h.history) > 1 {
		h.held -= len(h.history[0].GetEntries())
		h.before = h.history[0].GetRevision()
		h.history[0] = nil
		h.history = h.history[1:]
		h.first++
	}
	h.signal()
}

// signal wakes all readers. Caller holds mu.
func (h *hub) signal() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// reader walks the hub's history for one stream. Only its stream uses it.
type reader struct {
	h      *hub
	life   uint64
	next   uint64 // number of the next batch to send
	queued []*feedv1.WatchResponse
}

// read returns a reader for one that has come to revision of the store storeID; "" and 0 where
// it has nothing.
func (h *hub) read(storeID string, revision int64) *reader {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := &reader{h: h}
	if storeID == "" || storeID != h.storeID || revision < h.before {
		return r // life 0 is nobody's: it starts with a snapshot
	}
	r.life = h.life
	r.next = h.first
	for _, b := range h.history {
		if b.GetRevision() > revision {
			break
		}
		r.next++
	}
	return r
}

// Next returns the next message for the reader, waiting for one until ctx is done. The message
// is shared: it must not be changed.
func (r *reader) Next(ctx context.Context) (*feedv1.WatchResponse, error) {
	for {
		if len(r.queued) > 0 {
			m := r.queued[0]
			r.queued = r.queued[1:]
			return m, nil
		}
		m, wait := r.step()
		if m != nil {
			return m, nil
		}
		if wait == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-wait:
		}
	}
}

// step returns a batch, or queues a snapshot, or says what to wait for.
func (r *reader) step() (*feedv1.WatchResponse, <-chan struct{}) {
	h := r.h
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.revision == 0:
		return nil, h.changed
	case r.life != h.life || r.next < h.first:
		if r.life == h.life {
			h.metrics.slowReaders.Inc()
		}
		r.life, r.next = h.life, h.first+uint64(len(h.history))
		r.queued = h.snapshot()
		return nil, nil
	case r.next < h.first+uint64(len(h.history)):
		m := h.history[r.next-h.first]
		r.next++
		return m, nil
	}
	return nil, h.changed
}

// snapshot returns everything as messages. Policies come first, and a cluster's marker after
// its slices, so that a reader never takes a part of a cluster for the whole. Caller holds mu.
func (h *hub) snapshot() []*feedv1.WatchResponse {
	all := slices.Collect(maps.Values(h.entries))
	slices.SortFunc(all, func(a, b *feedv1.Entry) int {
		return strings.Compare(snapshotOrder(a.GetKey()), snapshotOrder(b.GetKey()))
	})
	var out []*feedv1.WatchResponse
	size := 0
	m := &feedv1.WatchResponse{StoreId: h.storeID, Revision: h.revision, SnapshotBegin: true}
	for _, e := range all {
		if len(m.Entries) >= snapshotEntries || size > snapshotBytes {
			out = append(out, m)
			m, size = &feedv1.WatchResponse{StoreId: h.storeID, Revision: h.revision}, 0
		}
		m.Entries = append(m.Entries, e)
		size += len(e.GetKey()) + len(e.GetValue())
	}
	m.SnapshotEnd = true
	return append(out, m)
}

// snapshotOrder maps a key to its place in a snapshot.
func snapshotOrder(key string) string {
	switch {
	case strings.Contains(key, "/policies"):
		return "0" + key
	case strings.HasSuffix(key, "/synced"):
		return "2" + key
	case strings.Contains(key, "/replicas/"):
		return "3" + key // a heartbeat confirms clusters, which must be known by then
	}
	return "1" + key
}

// wait returns a channel that is closed at the next change.
func (h *hub) wait() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}
