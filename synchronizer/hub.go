package synchronizer

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/store"
)

// hub follows the store once and serves any number of readers from what it saw: the mirror for
// people, and for the feed the entries as they are plus a history of changes. No reader can
// hold it up: each walks the history at its own pace, and one that falls out of it is given a
// snapshot again.
type hub struct {
	federation string
	mirror     *mirror.Mirror
	metrics    *metrics
	watchdog   *watchdog

	// mu guards all below.
	mu       sync.Mutex
	changed  chan struct{} // closed and replaced when there is something new
	agents   chan struct{} // the same for agents' records alone
	policies chan struct{} // the same for policies and cordons alone
	storeID  string
	revision int64 // 0 until the first list is complete
	entries  map[string]*feedv1.Entry
	history  history
	life     uint64                   // counts stores: a reader of another life starts over
	pending  map[string]*feedv1.Entry // of the list that is under way; nil without one
	nextID   string
	// snapshot is what a reader without anything is sent; nil when it has to be made anew.
	snapshot []*feedv1.WatchResponse

	listed chan struct{} // closed when the first list is complete
}

var _ store.Sink = (*hub)(nil)

func newHub(schema keys.Schema, federation string, m *mirror.Mirror, mt *metrics) *hub {
	return &hub{
		federation: federation, mirror: m, metrics: mt,
		watchdog: &watchdog{schema: schema},
		changed:  make(chan struct{}),
		agents:   make(chan struct{}),
		policies: make(chan struct{}),
		entries:  map[string]*feedv1.Entry{},
		listed:   make(chan struct{}),
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
	h.note(h.mirror.Apply(time.Now(), batch, revision))
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
	h.note(h.mirror.End(revision))
	h.metrics.relists.Inc()
	next := h.pending
	h.pending = nil
	if h.life == 0 {
		close(h.listed)
	}
	if h.nextID != h.storeID || h.life == 0 {
		h.storeID, h.revision, h.entries = h.nextID, revision, next
		h.history.reset(revision)
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
	slices.SortFunc(diff, func(a, b *feedv1.Entry) int {
		// What one transaction wrote in an order of its own: markers last.
		return cmp.Or(cmp.Compare(a.GetRevision(), b.GetRevision()), cmp.Compare(h.place(a.GetKey()), h.place(b.GetKey())))
	})
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
	from := h.revision
	h.revision = max(h.revision, revision)
	if len(batch) == 0 {
		return
	}
	h.watchdog.note(batch)
	h.history.push(h.storeID, batch, from, h.revision)
	h.signal()
}

// signal wakes all readers. Caller holds mu.
func (h *hub) signal() {
	h.snapshot = nil
	close(h.changed)
	h.changed = make(chan struct{})
}

// reader walks the hub's history for one stream. Only its stream uses it.
type reader struct {
	h        *hub
	life     uint64
	next     uint64 // number of the next change to look at
	revision int64  // what the reader has
	queued   []*feedv1.WatchResponse
}

// read returns a reader for one that has come to revision of the store storeID; "" and 0 where
// it has nothing.
func (h *hub) read(storeID string, revision int64) *reader {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := &reader{h: h}
	if storeID == "" || storeID != h.storeID || revision < h.history.before {
		return r // life 0 is nobody's: it starts with a snapshot
	}
	// A reader that comes from a replica that was ahead of this one gets only what it has not.
	r.life, r.next, r.revision = h.life, h.history.first, revision
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
	end := h.history.end()
	switch {
	case h.life == 0:
		return nil, h.changed
	case r.life != h.life || r.next < h.history.first:
		if r.life == h.life {
			h.metrics.slowReaders.Inc()
		}
		r.life, r.next, r.revision = h.life, end, h.revision
		if h.snapshot == nil {
			h.snapshot = h.makeSnapshot()
		}
		r.queued = h.snapshot
		return nil, nil
	}
	for ; r.next < end; r.next++ {
		c := h.history.items[r.next-h.history.first]
		if c.upTo <= r.revision {
			continue
		}
		r.revision = max(r.revision, c.message.GetRevision())
		r.next++
		return c.message, nil
	}
	return nil, h.changed
}

// makeSnapshot gives everything as messages. Policies and cordons come first and then their
// marker, and a cluster's marker after its slices, so that a reader never takes a part for the
// whole. Caller holds mu.
func (h *hub) makeSnapshot() []*feedv1.WatchResponse {
	type placed struct {
		place int
		entry *feedv1.Entry
	}
	sorted := make([]placed, 0, len(h.entries))
	for _, e := range h.entries {
		sorted = append(sorted, placed{h.place(e.GetKey()), e})
	}
	slices.SortFunc(sorted, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.place, b.place), strings.Compare(a.entry.GetKey(), b.entry.GetKey()))
	})
	all := make([]*feedv1.Entry, 0, len(sorted))
	for _, p := range sorted {
		all = append(all, p.entry)
	}
	var out []*feedv1.WatchResponse
	for _, entries := range chunk(all) {
		out = append(out, &feedv1.WatchResponse{StoreId: h.storeID, Revision: h.revision, Entries: entries})
	}
	out[0].SnapshotBegin, out[len(out)-1].SnapshotEnd = true, true
	return out
}

// place gives a key's place in a snapshot.
func (h *hub) place(key string) int {
	k, err := h.watchdog.schema.Parse(key)
	switch {
	case err != nil:
		return 2
	case k.Kind == keys.Policy || k.Kind == keys.Cordon:
		return 0
	case k.Kind == keys.PoliciesSynced:
		return 1
	case k.Kind == keys.Synced:
		return 3
	case k.Kind == keys.Replica:
		return 4 // a heartbeat confirms clusters, which must be known by then
	}
	return 2
}

// wait returns a channel that is closed at the next change.
func (h *hub) wait() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

// agentsChanged returns a channel that is closed at the next change of an agent's record.
func (h *hub) agentsChanged() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.agents
}

// policiesChanged returns a channel that is closed at the next change of policies or cordons.
func (h *hub) policiesChanged() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.policies
}

// note wakes those who follow agents' records, or policies. Caller holds mu.
func (h *hub) note(ch mirror.Changes) {
	if ch.Agents {
		close(h.agents)
		h.agents = make(chan struct{})
	}
	if ch.Policies {
		close(h.policies)
		h.policies = make(chan struct{})
	}
}
