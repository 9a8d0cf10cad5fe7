package synchronizer

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
)

// How old a snapshot may be, and how many messages it may lack, to be sent to somebody else as well:
// what it lacks follows from the history at once.
const (
	snapshotAge = time.Second
	snapshotLag = 256
)

// reader walks the hub's history for one stream. Only its stream uses it, but for what the hub's mu
// guards.
type reader struct {
	h      *hub
	queued []*feedv1.WatchResponse
	turn   func() // ends the turn of the snapshot that is being sent; nil without one

	// The hub's mu guards these.
	req      *feedv1.WatchRequest // what it asked for; nil once it has its place
	life     uint64
	next     uint64   // number of the next change to look at
	revision int64    // what the reader has
	least    int64    // a snapshot must not be of less
	since    int64    // what it has, where it can tell itself whether what is younger is all that it lacks
	drifted  []string // why it is to be sent a snapshot though it lacks nothing
	resting  bool     // all that there is was sent
}

// snapshot is everything, as messages.
type snapshot struct {
	made     time.Time
	life     uint64
	next     uint64 // number of the first change that it lacks
	storeID  string
	revision int64
	parts    map[string]uint64 // of its digest
	messages []*feedv1.WatchResponse
	byAge    []*feedv1.Entry // the same entries, youngest first
}

// read returns a reader for one that has come to revision of the store storeID; "" and 0 where
// it has nothing.
func (h *hub) read(storeID string, revision int64) *reader {
	return &reader{h: h, req: &feedv1.WatchRequest{StoreId: storeID, Revision: revision}}
}

// follow returns a reader for the agent that asks. It must be closed.
func (h *hub) follow(req *feedv1.WatchRequest) *reader {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := &reader{h: h, req: req}
	key := agentOf(req)
	if h.readers[key] == nil {
		h.readers[key] = map[*reader]struct{}{}
	}
	h.readers[key][r] = struct{}{}
	return r
}

func agentOf(req *feedv1.WatchRequest) mirror.AgentKey {
	return mirror.AgentKey{Cluster: req.GetCluster(), Node: req.GetNode()}
}

// close ends what follow began.
func (r *reader) close(req *feedv1.WatchRequest) {
	r.endTurn()
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	key := agentOf(req)
	if delete(r.h.readers[key], r); len(r.h.readers[key]) == 0 {
		delete(r.h.readers, key)
	}
}

// place finds where in the history the reader begins, once there is one. Policies and cordons are taken
// as a whole: whoever has other ones is sent everything. Caller holds mu.
func (r *reader) place() {
	h, req := r.h, r.req
	if req == nil || h.life == 0 {
		return
	}
	r.req = nil
	if req.GetStoreId() == "" || req.GetStoreId() != h.storeID {
		return // life 0 is nobody's: it starts with a snapshot
	}
	r.least = req.GetRevision()
	switch {
	case req.GetRevision() >= h.history.before:
		// A reader that comes from a replica that was ahead of this one gets only what it has not.
		r.life, r.next, r.revision = h.life, h.history.first, req.GetRevision()
		h.metrics.drift.continued.Inc()
	case req.GetDigest() != nil && req.GetDigest().GetParts()[mirror.PoliciesPart] == h.sums.parts[mirror.PoliciesPart]:
		r.since = req.GetRevision()
	}
}

// Next returns the next message for the reader, waiting for one until ctx is done, and for the turn of
// a snapshot. An error of a status is for the reader. The message is shared: it must not be changed.
func (r *reader) Next(ctx context.Context) (*feedv1.WatchResponse, error) {
	for {
		if len(r.queued) > 0 {
			m := r.queued[0]
			r.queued = r.queued[1:]
			return m, nil
		}
		r.endTurn() // the last message of a snapshot is sent
		if r.lacks() {
			turn, err := r.h.turns.take(ctx)
			if err != nil {
				return nil, err
			}
			r.turn = turn
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

func (r *reader) endTurn() {
	if r.turn != nil {
		r.turn()
		r.turn = nil
	}
}

// lacks reports whether the reader is to be sent a snapshot.
func (r *reader) lacks() bool {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	r.place()
	return r.h.life > 0 && r.since == 0 && r.lost()
}

// lost is whether the history does not help the reader. Caller holds mu.
func (r *reader) lost() bool {
	return r.life != r.h.life || r.next < r.h.history.first || r.drifted != nil
}

// step returns a batch, or queues a snapshot, or says what to wait for.
func (r *reader) step() (*feedv1.WatchResponse, <-chan struct{}) {
	h := r.h
	h.mu.Lock()
	r.place()
	r.resting = false
	switch {
	case h.life == 0:
		defer h.mu.Unlock()
		return nil, h.changed
	case r.lost():
		h.mu.Unlock()
		r.list()
		return nil, nil
	}
	defer h.mu.Unlock()
	var due []*feedv1.WatchResponse
	entries, bytes := 0, 0
	for end := h.history.end(); r.next < end; r.next++ {
		c := &h.history.items[r.next-h.history.first]
		if c.passes(r.revision) {
			continue
		}
		entries, bytes = entries+len(c.message.GetEntries()), bytes+c.bytes
		if len(due) > 0 && (entries > messageEntries || bytes > messageBytes) {
			break
		}
		due = append(due, c.message)
		r.revision = max(r.revision, c.message.GetRevision())
	}
	switch len(due) {
	case 0:
		r.resting = true
		return nil, h.changed
	case 1:
		return due[0], nil
	}
	// Whoever is behind is told at once what came in the meantime, and so comes up.
	all := &feedv1.WatchResponse{StoreId: h.storeID, Revision: r.revision}
	for _, m := range due {
		all.Entries = append(all.Entries, m.GetEntries()...)
	}
	return all, nil
}

// list queues a snapshot for the reader: the last one that was made, where the history tells what
// came since, else a new one. That is made aside, so that others are served meanwhile.
func (r *reader) list() {
	h := r.h
	h.making.Lock()
	defer h.making.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.life == h.life && r.drifted == nil {
		h.metrics.slowReaders.Inc()
	}
	if r.life == h.life {
		r.least = max(r.least, r.revision)
	}
	s := h.snapshot
	if now := time.Now(); !h.serves(s, r.least, now) {
		s = &snapshot{made: now, life: h.life, next: h.history.end(), storeID: h.storeID, revision: h.revision, parts: maps.Clone(h.sums.parts)}
		s.byAge = slices.AppendSeq(make([]*feedv1.Entry, 0, len(h.entries)), maps.Values(h.entries))
		h.mu.Unlock()
		s.messages = h.makeSnapshot(s.storeID, s.revision, s.byAge)
		slices.SortFunc(s.byAge, func(a, b *feedv1.Entry) int { return cmp.Compare(b.GetRevision(), a.GetRevision()) })
		h.mu.Lock()
		h.snapshot = s
	}
	if r.since > 0 {
		if r.queued, r.since = h.younger(s, r.since), 0; r.queued == nil {
			return // it lacks so much that it takes its turn like the others
		}
		r.life, r.next, r.revision, r.least = s.life, s.next, s.revision, 0
		h.metrics.drift.continued.Inc()
		return
	}
	r.life, r.next, r.revision, r.least, r.queued = s.life, s.next, s.revision, 0, s.messages
	if len(r.drifted) > 0 {
		first := proto.CloneOf(&feedv1.WatchResponse{StoreId: s.messages[0].GetStoreId(), Revision: s.revision})
		first.SnapshotBegin, first.SnapshotEnd = s.messages[0].GetSnapshotBegin(), s.messages[0].GetSnapshotEnd()
		first.Entries, first.Drifted = s.messages[0].GetEntries(), r.drifted
		r.queued = append([]*feedv1.WatchResponse{first}, s.messages[1:]...)
	}
	r.drifted = nil
	h.metrics.drift.snapshots.Inc()
}

// younger gives what a snapshot has that is younger than a revision, with what stands for all of it;
// nil where that is most of it.
func (h *hub) younger(s *snapshot, than int64) []*feedv1.WatchResponse {
	n, _ := slices.BinarySearchFunc(s.byAge, than, func(e *feedv1.Entry, than int64) int {
		if e.GetRevision() > than {
			return -1
		}
		return 1
	})
	if n > len(s.byAge)/2 {
		return nil
	}
	entries := slices.Clone(s.byAge[:n])
	h.order(entries)
	var out []*feedv1.WatchResponse
	for _, some := range chunk(entries) {
		out = append(out, &feedv1.WatchResponse{StoreId: s.storeID, Revision: than, Entries: some})
	}
	last := out[len(out)-1]
	last.Revision, last.Digest = s.revision, &feedv1.Digest{Parts: s.parts}
	return out
}

// serves reports whether a snapshot can be sent to a reader that has come to revision least of this
// store, be it 0. Caller holds mu.
func (h *hub) serves(s *snapshot, least int64, now time.Time) bool {
	return s != nil && s.life == h.life && now.Sub(s.made) < snapshotAge && s.revision >= min(least, h.revision) &&
		s.next >= h.history.first && h.history.end()-s.next <= snapshotLag
}

// makeSnapshot gives entries as messages. Policies and cordons come first and then their marker, and
// a cluster's marker after its slices, so that a reader never takes a part for the whole.
func (h *hub) makeSnapshot(storeID string, revision int64, entries []*feedv1.Entry) []*feedv1.WatchResponse {
	type placed struct {
		place int
		entry *feedv1.Entry
	}
	sorted := make([]placed, 0, len(entries))
	for _, e := range entries {
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
		out = append(out, &feedv1.WatchResponse{StoreId: storeID, Revision: revision, Entries: entries})
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
	case k.Kind == keys.Synced || k.Kind == keys.Holds: // they are about lists, which must be known by then
		return 3
	case k.Kind == keys.Replica:
		return 4 // a heartbeat confirms clusters, which must be known by then
	}
	return 2
}

// relist has an agent's streams here sent everything again, because of what differs there.
func (h *hub) relist(agent mirror.AgentKey, differs []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for r := range h.readers[agent] {
		r.drifted = differs
	}
	h.signal()
}

// otherPart stands for what is not of a cluster that is known, nor of policies and cordons.
const otherPart = "other"

// sent gives the revision that an agent was sent here, and whether nothing more is under way to it.
func (h *hub) sent(agent mirror.AgentKey) (revision int64, resting bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for r := range h.readers[agent] {
		if r.resting && r.life == h.life {
			return r.revision, true
		}
	}
	return 0, false
}

// lives reports whether a store is the one that is followed.
func (h *hub) lives(storeID string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return storeID == h.storeID
}

// compare gives the parts in which an agent's digest differs from what it should be at its revision,
// and whether that can be told.
func (h *hub) compare(r reported) (differ []string, known bool) {
	if !r.says {
		return nil, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.life == 0 || r.storeID != h.storeID {
		return nil, false
	}
	parts, ok := h.sums.at(r.revision, h.revision)
	if !ok {
		return nil, false
	}
	for _, part := range mirror.Differ(parts, r.digest) {
		if _, ok := h.sums.parts[part]; !ok {
			part = otherPart // an agent's word for it is no label
		}
		if !slices.Contains(differ, part) {
			differ = append(differ, part)
		}
	}
	return differ, true
}

// standing is what stands for all that the hub holds.
type standing struct {
	storeID  string // empty while nothing is known, or a list is under way
	revision int64
	sum      uint64
	mirrored []drifted // where the mirror has made something else of it
}

func (h *hub) standing() standing {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.life == 0 || h.pending != nil {
		return standing{}
	}
	s := standing{storeID: h.storeID, revision: h.revision, sum: h.sums.total}
	if d, ok := h.mirror.Digest(); ok && d.StoreID == h.storeID && d.Revision == h.revision {
		for _, part := range mirror.Differ(d.Parts, h.sums.parts) {
			s.mirrored = append(s.mirrored, drifted{key: "what is made of " + part, part: part})
		}
	}
	return s
}

// held gives the revision of every key that the hub holds.
func (h *hub) held() (storeID string, revision int64, held map[string]int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	held = make(map[string]int64, len(h.entries))
	for key, e := range h.entries {
		held[key] = e.GetRevision()
	}
	return h.storeID, h.revision, held
}

// drifted describes a key that differs.
func (h *hub) drifted(key string, held, stored int64) drifted {
	part, ok := h.sums.partOf(key)
	if !ok {
		part = otherPart
	}
	return drifted{key: key, part: part, held: held, stored: stored}
}
