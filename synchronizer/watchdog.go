package synchronizer

import (
	"sync"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/keys"
)

// watchdog notes at which revisions the keys of owned clusters changed, so that their owner can
// tell what it did not write itself: a person's hand, or another program's, that would stay for
// as long as the registry does not change.
type watchdog struct {
	schema keys.Schema

	mu   sync.Mutex
	seen map[string]map[int64]struct{} // by cluster; only of those that are owned here
}

// begin starts noting for a cluster, end ends it.
func (w *watchdog) begin(cluster string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen == nil {
		w.seen = map[string]map[int64]struct{}{}
	}
	w.seen[cluster] = map[int64]struct{}{}
}

func (w *watchdog) end(cluster string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.seen, cluster)
}

// note takes changes as the store tells them.
func (w *watchdog) note(batch []*feedv1.Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.seen) == 0 {
		return
	}
	for _, e := range batch {
		k, err := w.schema.Parse(e.GetKey())
		if err != nil || k.Kind != keys.Slice && k.Kind != keys.Meta && k.Kind != keys.Synced && k.Kind != keys.Holds {
			continue
		}
		if at := w.seen[k.Cluster]; at != nil {
			at[e.GetRevision()] = struct{}{}
		}
	}
}

// foreign returns whether a change of the cluster was noted that wrote says it did not make, and
// forgets them all.
func (w *watchdog) foreign(cluster string, wrote func(int64) bool) bool {
	for revision := range w.take(cluster) {
		if !wrote(revision) {
			return true
		}
	}
	return false
}

// take returns what was noted of a cluster, for the caller alone.
func (w *watchdog) take(cluster string) map[int64]struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := w.seen[cluster]
	if len(at) == 0 {
		return nil
	}
	w.seen[cluster] = map[int64]struct{}{}
	return at
}
