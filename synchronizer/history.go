package synchronizer

import feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"

// How much of the past is kept for readers that were away, and how much one message of the feed
// holds: far below what agents take.
const (
	historyEntries = 50_000
	historyBytes   = 64 << 20
	messageEntries = 500
	messageBytes   = 1 << 20
)

// history is the latest changes as messages of the feed, oldest first. Its owner locks.
type history struct {
	items   []change
	first   uint64 // the number of items[0]
	entries int
	bytes   int
	before  int64 // who has this revision needs all of it, who has less needs more
}

// change is one message. A batch of the store that is too large for one is several, of which
// only the last brings a reader to the batch's revision.
type change struct {
	message *feedv1.WatchResponse
	upTo    int64 // the batch's revision: who has more needs none of the batch
	repairs bool  // who has upTo may need it still
	bytes   int
}

// passes reports whether a reader that has come to a revision needs nothing of the change.
func (c *change) passes(revision int64) bool {
	return c.upTo < revision || c.upTo == revision && !c.repairs
}

// reset forgets everything: readers need a snapshot, or have this revision.
func (h *history) reset(revision int64) {
	*h = history{first: h.end(), before: revision}
}

// end is the number that the next change will have.
func (h *history) end() uint64 { return h.first + uint64(len(h.items)) }

// push adds a batch that brings readers from one revision to the next.
func (h *history) push(storeID string, batch []*feedv1.Entry, from, to int64, repairs bool) {
	chunks := chunk(batch)
	for n, entries := range chunks {
		c := change{upTo: to, repairs: repairs, message: &feedv1.WatchResponse{StoreId: storeID, Revision: from, Entries: entries}}
		if n == len(chunks)-1 {
			c.message.Revision = to
		}
		for _, e := range entries {
			c.bytes += size(e)
		}
		h.items = append(h.items, c)
		h.entries += len(entries)
		h.bytes += c.bytes
	}
	for len(h.items) > 1 && (h.entries > historyEntries || h.bytes > historyBytes) {
		old := h.items[0]
		h.entries -= len(old.message.GetEntries())
		h.bytes -= old.bytes
		h.before = old.upTo
		h.items[0] = change{}
		h.items = h.items[1:]
		h.first++
	}
}

// chunk cuts entries into as many as a message may hold.
func chunk(entries []*feedv1.Entry) [][]*feedv1.Entry {
	var out [][]*feedv1.Entry
	start, bytes := 0, 0
	for at, e := range entries {
		if at > start && (at-start >= messageEntries || bytes+size(e) > messageBytes) {
			out = append(out, entries[start:at])
			start, bytes = at, 0
		}
		bytes += size(e)
	}
	return append(out, entries[start:])
}

// size is about what an entry takes in a message, in bytes.
func size(e *feedv1.Entry) int { return len(e.GetKey()) + len(e.GetValue()) + 16 }
