package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/keys"
)

// Sink takes what Watch reads. Its methods are called by one goroutine at a time and must not
// block for long. Entries share memory with the store: they may be kept, not changed.
type Sink interface {
	// Begin says that a list follows. What it does not name is gone at End, not before: until
	// then readers keep what they had. A list that breaks off is followed by another Begin.
	// storeID tells one store from another; after a wipe it is a new one.
	Begin(storeID string)
	// Apply brings entries up to and including revision, in the order of their revisions; there
	// may be none. Within a list all are puts.
	Apply(entries []Entry, revision int64)
	// End says that the list is complete at revision. What Apply brings from now on are changes
	// after it.
	End(revision int64)
}

// Entry is one key at one revision of the store.
type Entry struct {
	Key      string
	Value    []byte // nil where Deleted
	Revision int64
	Deleted  bool
}

// listPage is how many keys one request of a list asks for.
const listPage = 500

// A watch that is behind what a probe read for this long is taken for dead.
const stallTimeout = 3 * time.Second

// What ends a watch, beside errors of etcd.
var (
	errOtherStore = errors.New("the store is another one, or went back in time")
	errStalled    = errors.New("the watch does not advance")
	errDoubted    = errors.New("a reader holds something else than the store does")
	errEnded      = errors.New("the watch ended")
)

// Watch lists the federation's keys, all but the owners', at one revision and then brings
// what changes, until ctx is done; then it returns nil. Whatever breaks the stream (a lost
// server or leader, a compaction, another store under the same address) is followed by a new
// list, after a pause of a second at most. It fails only with ErrStopped. Any number may run
// at once.
func (s *Store) Watch(ctx context.Context, to Sink) error {
	if err := s.reach(ctx); err != nil {
		return stopError(ctx, fmt.Errorf("store: watch: %w", err))
	}
	w := &watcher{store: s, to: to, reason: "start", backoff: s.backoff()}
	for {
		err := w.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if s.isStopped() {
			return fmt.Errorf("store: watch: %w", ErrStopped)
		}
		w.lost(err)
		w.backoff.wait(ctx)
	}
}

// watcher is one Watch. Only its own goroutine touches it, but for seen.
type watcher struct {
	store   *Store
	to      Sink
	backoff backoff
	reason  string // why the next list is made
	failed  bool
	id      string
	doubted <-chan struct{} // closed when somebody doubts what was brought since the last list was begun
	// seen is the revision up to which the sink knows everything.
	seen atomic.Int64
	// last is the youngest value among what the sink was brought of this store, and past the one that
	// was so when the store was last known to have it in its past.
	last, past atomic.Pointer[mvccpb.KeyValue]
}

// lost notes why a list or watch ended; it logs the first failure of a row only.
func (w *watcher) lost(err error) {
	w.reason = reasonOf(err)
	if !w.failed {
		w.store.log.Warn("watch of the store is lost: listing again", "reason", w.reason, "error", err)
	}
	w.failed = true
}

// reasonOf gives the label under which a lost watch is counted.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return "compacted"
	case errors.Is(err, errOtherStore), errors.Is(err, errNoID):
		return "other-store"
	case errors.Is(err, errStalled):
		return "stalled"
	case errors.Is(err, errDoubted):
		return "drift"
	}
	return "lost"
}

// follow lists once and watches from there. It returns why it could not go on.
func (w *watcher) follow(ctx context.Context) error {
	if err := w.list(ctx); err != nil {
		return err
	}
	w.backoff.reset()
	if w.failed {
		w.store.log.Info("store is listed again", "store", w.id, "revision", w.seen.Load())
	}
	w.failed = false

	// The client puts watches of equal metadata on one stream. This one's is its own, so that it
	// does not come back to the server on which it was stuck because another still waits there.
	ctx = metadata.AppendToOutgoingContext(clientv3.WithRequireLeader(ctx), "farcall-watch", rand.Text())
	ctx, cancel := context.WithCancelCause(ctx)
	guarded := make(chan struct{})
	go func() {
		defer close(guarded)
		w.guard(ctx, cancel)
	}()
	err := w.watch(ctx)
	cancel(err)
	<-guarded
	return context.Cause(ctx)
}

// list brings everything at one revision to the sink.
func (w *watcher) list(ctx context.Context) error {
	id, rev, err := w.identify(ctx)
	if err != nil {
		return err
	}
	if id != w.id {
		w.id = id
		w.seen.Store(0)
		w.last.Store(nil)
		w.past.Store(nil)
	}
	w.store.metrics.relists.WithLabelValues(w.reason).Inc()
	w.doubted = w.store.doubts.wait()
	w.to.Begin(id)
	var youngest *mvccpb.KeyValue
	root := w.store.schema.Root()
	err = w.store.scan(ctx, root, rev, func(kvs []*mvccpb.KeyValue) {
		entries := make([]Entry, 0, len(kvs))
		for _, kv := range kvs {
			entries = w.keep(entries, kv, false)
			youngest = younger(youngest, kv)
		}
		w.to.Apply(entries, rev)
	})
	if err != nil {
		return err
	}
	w.seen.Store(rev)
	w.last.Store(youngest)
	w.past.Store(youngest)
	w.to.End(rev)
	return nil
}

// identify asks for the store's id and revision. A store that kept its id but is behind what
// was seen of it, or has come there by another way, was restored from an older copy of itself. It is
// given a new id, so that everybody, and not only who saw more of it, can tell that it is another one
// now.
func (w *watcher) identify(ctx context.Context) (string, int64, error) {
	seen, last, past := w.seen.Load(), w.last.Load(), w.past.Load()
	id, rev, err := w.store.identify(ctx)
	if err != nil || id != w.id {
		return id, rev, err
	}
	if rev >= seen {
		lacks, err := w.store.lacks(ctx, past)
		if err == nil && !lacks {
			// Not before: what came since may be of the past of another copy already.
			w.past.Store(last)
		}
		if err != nil || !lacks {
			return id, rev, err
		}
	}
	if err := w.store.found(ctx, id); err != nil {
		return "", 0, err
	}
	return "", 0, fmt.Errorf("%w: revision %d after %d", errOtherStore, rev, seen)
}

// younger gives the one of two values that was written later; was may be nil.
func younger(was, is *mvccpb.KeyValue) *mvccpb.KeyValue {
	if was == nil || is.ModRevision > was.ModRevision {
		return is
	}
	return was
}

// scan reads a prefix at one revision, page by page.
func (s *Store) scan(ctx context.Context, prefix string, rev int64, page func([]*mvccpb.KeyValue), opts ...clientv3.OpOption) error {
	return s.scanPages(ctx, prefix, rev, listPage, page, opts...)
}

// scanPages is scan with so many keys to a page.
func (s *Store) scanPages(ctx context.Context, prefix string, rev int64, size int64, page func([]*mvccpb.KeyValue), opts ...clientv3.OpOption) error {
	end := clientv3.GetPrefixRangeEnd(prefix)
	opts = append(opts, clientv3.WithRange(end), clientv3.WithRev(rev), clientv3.WithLimit(size))
	for from := prefix; ; {
		rctx, cancel := context.WithTimeout(ctx, pageTimeout)
		resp, err := s.client.Get(rctx, from, opts...)
		cancel()
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		page(resp.Kvs)
		if !resp.More || len(resp.Kvs) == 0 {
			return nil
		}
		// The least key after the last one.
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// watch brings what changes after the list.
func (w *watcher) watch(ctx context.Context) error {
	ch := w.store.client.Watch(ctx, w.store.schema.Root(), clientv3.WithPrefix(),
		clientv3.WithRev(w.seen.Load()+1), clientv3.WithProgressNotify())
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case resp, ok := <-ch:
			if !ok {
				return errEnded
			}
			if err := resp.Err(); err != nil {
				return fmt.Errorf("watch: %w", err)
			}
			if err := w.take(ctx, &resp); err != nil {
				return err
			}
		}
	}
}

// take brings one response of the watch to the sink. Its revision is that of its last event:
// the header's may be ahead of events that are still to come.
func (w *watcher) take(ctx context.Context, resp *clientv3.WatchResponse) error {
	seen := w.seen.Load()
	if len(resp.Events) == 0 {
		rev := resp.Header.GetRevision()
		switch {
		case !resp.IsProgressNotify():
			return nil
		case rev < seen:
			return fmt.Errorf("%w: revision %d after %d", errOtherStore, rev, seen)
		case rev > seen:
			w.to.Apply(nil, rev)
			w.seen.Store(rev)
		}
		return nil
	}
	if slices.ContainsFunc(resp.Events, func(ev *clientv3.Event) bool {
		return ev.Type == clientv3.EventTypeDelete && w.store.lists(string(ev.Kv.Key))
	}) {
		if err := w.still(ctx); err != nil {
			return err
		}
	}
	entries := make([]Entry, 0, len(resp.Events))
	for _, ev := range resp.Events {
		if string(ev.Kv.Key) == w.store.schema.Format(keys.Key{Kind: keys.Store}) {
			if err := w.same(ev); err != nil {
				return err
			}
		}
		entries = w.keep(entries, ev.Kv, ev.Type == clientv3.EventTypeDelete)
		if ev.Type != clientv3.EventTypeDelete {
			w.last.Store(younger(w.last.Load(), ev.Kv))
		}
	}
	rev := resp.Events[len(resp.Events)-1].Kv.ModRevision
	w.to.Apply(entries, rev)
	w.seen.Store(rev)
	return nil
}

// lists reports whether a key is of a part of a cluster's lists, or of what describes and vouches for
// them.
func (s *Store) lists(key string) bool {
	k, err := s.schema.Parse(key)
	return err == nil && (k.Kind == keys.Slice || k.Kind == keys.Meta || k.Kind == keys.Synced)
}

// still checks that what the watch brought is of the store that was listed. The client connects anew
// by itself, and goes on at its revision in whatever store is there by then: in one that was restored
// meanwhile, that may be in the midst of its past. Values of the past are known by their epochs;
// deletions have none.
func (w *watcher) still(ctx context.Context) error {
	id, _, err := w.identify(ctx)
	if err == nil && id != w.id {
		err = fmt.Errorf("%w: id %s became %s", errOtherStore, w.id, id)
	}
	return err
}

// same checks that a change of the store's id is none.
func (w *watcher) same(ev *clientv3.Event) error {
	var v storev1.StoreID
	if ev.Type == clientv3.EventTypeDelete || keys.Decode(ev.Kv.Value, &v) != nil || v.GetId() != w.id {
		return fmt.Errorf("%w: id %s became %q", errOtherStore, w.id, v.GetId())
	}
	return nil
}

// keep appends what readers need: all but the owner keys, which tell them nothing that the
// clusters' own do not.
func (w *watcher) keep(entries []Entry, kv *mvccpb.KeyValue, deleted bool) []Entry {
	key := string(kv.Key)
	if strings.HasPrefix(key, w.store.schema.Owners()) {
		return entries
	}
	w.store.metrics.watchEntries.Inc()
	e := Entry{Key: key, Value: kv.Value, Revision: kv.ModRevision, Deleted: deleted}
	if deleted {
		e.Value = nil
	}
	return append(entries, e)
}

// guard asks the store about once a second, beside the watch, and ends the watch where it
// could wait for ever: on a server that is silent, or in front of a store that was wiped and
// counts its revisions from the beginning. It also ends one that is doubted.
func (w *watcher) guard(ctx context.Context, end context.CancelCauseFunc) {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	var want int64 // a revision that the watch has yet to reach
	var since time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.doubted:
			end(errDoubted)
			return
		case <-tick.C:
		}
		seen := w.seen.Load()
		if want > seen && time.Since(since) > stallTimeout {
			end(fmt.Errorf("%w: revision %d, the store was at %d", errStalled, seen, want))
			return
		}
		id, rev, err := w.identify(ctx)
		switch {
		case errors.Is(err, errNoID), errors.Is(err, errOtherStore):
			end(err)
			return
		case err == nil && id != w.id:
			end(fmt.Errorf("%w: id %s became %s", errOtherStore, w.id, id))
			return
		case err != nil:
			// The store does not answer at all: a new list would not get through either.
			continue
		}
		if want <= seen {
			want, since = rev, time.Now()
		}
		if rev > seen {
			w.nudge(ctx)
		}
	}
}

// nudge asks the server to say how far the watch is, because what moved the store's revision
// may lie outside the federation.
func (w *watcher) nudge(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := w.store.client.RequestProgress(ctx); err != nil && ctx.Err() == nil {
		w.store.log.Debug("watch progress could not be asked for", "error", err)
	}
}
