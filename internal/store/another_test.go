package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/store/storetest"
	"github.com/farcall/farcall/internal/testkit"
)

// inBubble gives a store over an etcd in memory, inside a bubble in which time passes at once.
func inBubble(t *testing.T, test func(t *testing.T, etcd *storetest.Etcd, link *storetest.Link, s *Store)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		etcd := storetest.New(1, nil, nil)
		link := etcd.Link("a", storetest.Weather{Latency: time.Millisecond})
		s, err := New(Config{Federation: "demo", Etcd: &EtcdConfig{Endpoints: []string{"model"}}}, Deps{Log: testkit.Log(t), Dial: link.Dial})
		if err != nil {
			t.Fatal(err)
		}
		testkit.Go(t, "etcd", func(ctx context.Context) error { etcd.Run(ctx); return nil })
		testkit.Go(t, "store", s.Run)
		<-s.Ready()
		test(t, etcd, link, s)
	})
}

// A store that was wiped, and then restored from a copy of before, has deletions in its past. Who was
// reading the wiped one, and is connected anew, must not take them for news.
func TestDeletionsOfAnotherStoresPastAreNotBelieved(t *testing.T) {
	inBubble(t, func(t *testing.T, etcd *storetest.Etcd, link *storetest.Link, s *Store) {
		ctx := testkit.Context(t)
		o := openOffice(t, s.Member(MemberConfig{ID: "a", Address: "a:7700", Clusters: []string{"east"}}))
		term := o.term(t, ctx, "east", 1)
		for range 30 { // revisions
			publish(t, ctx, term, true, one("a"))
			publish(t, ctx, term, false, map[catalog.Name]List{cart: {Gone: true}})
		}
		old := etcd.Copy()
		etcd.Wipe()
		r := &reader{}
		gone := ""
		r.onApply = func(entries []Entry) {
			for _, e := range entries {
				if e.Deleted && s.lists(e.Key) {
					gone = fmt.Sprintf("%s at revision %d", e.Key, e.Revision)
				}
			}
		}
		again := o.term(t, ctx, "east", 2)
		publish(t, ctx, again, true, one("a b"))
		readTo(t, s, r)
		time.Sleep(4300 * time.Millisecond) // the guard asks every second
		if at := etcd.Revision(); at >= old.Revision() {
			t.Fatalf("the new store is at %d: there is nothing of the past to come", at)
		}
		etcd.Restore(old)
		time.Sleep(5 * time.Second)
		if gone != "" {
			t.Errorf("%s was brought as gone", gone)
		}
	})
}

// The revisions of a wiped store begin anew, and another's owner key may come to those of ours.
func TestOwnerOfAWipedStoreIsNotTakenForOurselves(t *testing.T) {
	inBubble(t, func(t *testing.T, etcd *storetest.Etcd, link *storetest.Link, s *Store) {
		ctx := testkit.Context(t)
		o := openOffice(t, s.Member(MemberConfig{ID: "a", Address: "a:7700", Clusters: []string{"east"}}))
		term := o.term(t, ctx, "east", 1)
		publish(t, ctx, term, true, one("a"))
		etcd.Wipe()
		for etcd.Revision() < term.fence-1 {
			etcd.Put("/elsewhere", "what others write")
		}
		etcd.Put(term.ownKey, "another")
		for etcd.Revision() < term.renewed-1 {
			etcd.Put("/elsewhere", "what others write")
		}
		etcd.Put(term.ownKey, "another")
		err := term.Publish(ctx, one("a b"), true)
		if !errors.Is(err, ErrNotOwner) {
			t.Errorf("the write came to %v", err)
		}
		if there := etcd.Scan(s.schema.Services("east")); len(there) > 0 {
			t.Errorf("it wrote %s", there[0].Key)
		}
	})
}

// A store that was restored from a copy that is a little older is as far as before after a moment.
func TestRestoredStoreIsKnownByItsPast(t *testing.T) {
	inBubble(t, func(t *testing.T, etcd *storetest.Etcd, link *storetest.Link, s *Store) {
		ctx := testkit.Context(t)
		o := openOffice(t, s.Member(MemberConfig{ID: "a", Address: "a:7700", Clusters: []string{"east"}}))
		term := o.term(t, ctx, "east", 1)
		publish(t, ctx, term, true, one("a"))
		old := etcd.Copy()
		publish(t, ctx, term, true, one("a b"))
		r := readTo(t, s, &reader{})
		time.Sleep(2 * time.Second)
		was := etcd.Revision()
		before, _, err := s.identify(ctx)
		if err != nil {
			t.Fatal(err)
		}
		link.Cut(true)
		etcd.Restore(old)
		// Something else comes where the past was, and is brought before the guard can ask.
		for etcd.Revision() < was+5 {
			etcd.Put(s.schema.Root()+"of-a-newer-version", "anything")
		}
		link.Cut(false)
		time.Sleep(5 * time.Second)
		after, _, err := s.identify(ctx)
		if err != nil || after == before {
			t.Errorf("the store is %s still (%v)", after, err)
		}
		again := o.term(t, ctx, "east", 2)
		if again.Epoch() <= term.Epoch() {
			t.Errorf("epoch %d after %d", again.Epoch(), term.Epoch())
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.ids) < 2 || r.ids[len(r.ids)-1] != after {
			t.Errorf("readers were told of %v, not of %s", r.ids, after)
		}
	})
}
