package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
)

// lossy is etcd's watcher, which loses, repeats or swaps what it is told to: what several of etcd's own
// faults look like from here.
type lossy struct {
	clientv3.Watcher

	mu   sync.Mutex
	next func([]*clientv3.Event) []*clientv3.Event // for the next response with events; nil: as it is
}

func (l *lossy) spoil(next func([]*clientv3.Event) []*clientv3.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next = next
}

func (l *lossy) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	in, out := l.Watcher.Watch(ctx, key, opts...), make(chan clientv3.WatchResponse)
	go func() {
		defer close(out)
		for resp := range in {
			l.mu.Lock()
			if l.next != nil && len(resp.Events) > 0 {
				resp.Events, l.next = l.next(resp.Events), nil
			}
			l.mu.Unlock()
			select {
			case out <- resp:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// survey gives what the store held at a revision.
func survey(t *testing.T, s *Store, id string, revision int64) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	if err := s.Survey(testkit.Context(t), id, revision, func(key string, changed int64) { out[key] = changed }); err != nil {
		t.Fatal(err)
	}
	return out
}

// differs says how what the reader has differs from what the store has now.
func (r *reader) differs(t *testing.T, s *Store) error {
	t.Helper()
	id, rev, err := s.identify(testkit.Context(t))
	if err != nil {
		return err
	}
	stored := survey(t, s, id, rev)
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, changed := range stored {
		if e, ok := r.entries[key]; !ok || e.Revision != changed {
			return fmt.Errorf("%s is of revision %d, in the store of %d", key, e.Revision, changed)
		}
	}
	if len(r.entries) != len(stored) {
		return fmt.Errorf("%d keys, the store has %d", len(r.entries), len(stored))
	}
	return nil
}

// TestDoubtMendsWhatTheWatchLost loses an event of the watch, which goes on as if nothing had been: a
// survey shows it, Doubt mends it, and what is not doubted stays wrong.
func TestDoubtMendsWhatTheWatchLost(t *testing.T) {
	ctx := testkit.Context(t)
	srv := startServer(t)
	s := srv.replica(t, "")
	l := &lossy{Watcher: s.client.Watcher}
	s.client.Watcher = l
	key := func(n int) string {
		return s.schema.Format(keys.Key{Kind: keys.Agent, Cluster: "east", Node: fmt.Sprint("n", n)})
	}
	put := func(n int) {
		t.Helper()
		if _, err := s.client.Put(ctx, key(n), "x"); err != nil {
			t.Fatal(err)
		}
	}
	put(0)
	r := read(t, s.Store)
	r.waitFor(t, "the list", func() error {
		if r.lists == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	for n, spoil := range []func([]*clientv3.Event) []*clientv3.Event{
		func([]*clientv3.Event) []*clientv3.Event { return nil },
		func(e []*clientv3.Event) []*clientv3.Event { return e[1:] },
	} {
		// On a machine that is busy with other things a watch may pass for dead, and a list mends it.
		for try := 0; ; try++ {
			at := 100*n + 2*try
			l.spoil(spoil)
			put(at + 1)
			put(at + 2)
			r.waitFor(t, "what was not lost", func() error {
				if _, ok := r.entries[key(at+2)]; !ok {
					return errors.New("not yet")
				}
				return nil
			})
			if err := r.differs(t, s.Store); err != nil {
				break
			}
			if try == 10 {
				t.Fatal("nothing was lost: the test shows nothing")
			}
		}
		s.Doubt()
		testkit.Eventually(t, ctx, "the reader is as the store again", func() error { return r.differs(t, s.Store) })
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lists < 3 {
		t.Errorf("%d lists, want the first and one for each doubt at least", r.lists)
	}
}

// TestSurveyIsOfOneStoreAtOneRevision says what a survey tells, and that it fails rather than speak of
// another store or another time.
func TestSurveyIsOfOneStoreAtOneRevision(t *testing.T) {
	ctx := testkit.Context(t)
	s, _ := embeddedStore(t, t.TempDir())
	o := openOffice(t, member(s, "a", "east"))
	publish(t, ctx, o.term(t, ctx, "east", 1), true, one("a b"))
	id, rev, err := s.identify(ctx)
	if err != nil {
		t.Fatal(err)
	}
	slice := s.schema.Format(keys.Key{Kind: keys.Slice, Cluster: "east", Name: cart})
	then := survey(t, s, id, rev)
	if then[slice] == 0 || then[s.schema.Format(keys.Key{Kind: keys.Owner, Cluster: "east"})] != 0 {
		t.Errorf("the survey tells of %v", then)
	}
	if _, err := s.client.Delete(ctx, slice); err != nil {
		t.Fatal(err)
	}
	if again := survey(t, s, id, rev); again[slice] != then[slice] {
		t.Errorf("of the same revision it tells something else later: %v", again)
	}
	none := func(string, int64) {}
	if err := s.Survey(ctx, "another", rev, none); !errors.Is(err, errOtherStore) {
		t.Errorf("of another store: %v", err)
	}
	if err := s.Survey(ctx, id, rev+1000, none); err == nil {
		t.Error("it tells of a revision that is still to come")
	}
	if _, err := s.client.Compact(ctx, revision(t, s)); err != nil {
		t.Fatal(err)
	}
	if err := s.Survey(ctx, id, rev, none); err == nil {
		t.Error("it tells of a revision that was compacted away")
	}
}
