package synchronizer

import (
	"cmp"
	"slices"
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
	sums     sums                     // of entries
	life     uint64                   // counts stores: a reader of another life starts over
	pending  map[string]*feedv1.Entry // of the list that is under way; nil without one
	nextID   string
	snapshot *snapshot                                // the last one that was made
	readers  map[mirror.AgentKey]map[*reader]struct{} // those that say whose they are

	making sync.Mutex // held while a snapshot is made; taken before mu
	turns  *turns

	listed chan struct{} // closed when the first list is complete
}

var _ store.Sink = (*hub)(nil)

func newHub(schema keys.Schema, federation string, m *mirror.Mirror, mt *metrics) *hub {
	return &hub{
		federation: federation, mirror: m, metrics: mt,
		watchdog: &watchdog{schema: schema},
		sums:     sums{schema: schema, parts: map[string]uint64{}},
		readers:  map[mirror.AgentKey]map[*reader]struct{}{},
		turns:    newTurns(snapshotsAtOnce, snapshotsQueued, mt),
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
	h.append(batch, revision, false)
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
		h.sums.reset(next, revision)
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
	h.order(diff)
	h.append(diff, revision, true)
}

// order brings changes into the store's order.
func (h *hub) order(changes []*feedv1.Entry) {
	slices.SortFunc(changes, func(a, b *feedv1.Entry) int {
		// What one transaction wrote in an order of its own: markers last.
		return cmp.Or(cmp.Compare(a.GetRevision(), b.GetRevision()), cmp.Compare(h.place(a.GetKey()), h.place(b.GetKey())))
	})
}

// append adds a batch to the history. One that repairs may change what was known of revisions that
// have been come to already. Caller holds mu.
func (h *hub) append(batch []*feedv1.Entry, revision int64, repairs bool) {
	h.sums.change(h.entries, batch, max(h.revision, revision))
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
	h.history.push(h.storeID, batch, from, h.revision, repairs)
	h.signal()
}

// signal wakes all readers. Caller holds mu.
func (h *hub) signal() {
	close(h.changed)
	h.changed = make(chan struct{})
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
