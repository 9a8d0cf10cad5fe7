package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/strategy"
)

// stating is a policy for a service that states a strategy.
func stating(service string, kind strategy.Kind) *policy.Policy {
	return &policy.Policy{
		Target:   policy.Target{Name: catalog.Name{Namespace: "default", Service: service}},
		Settings: policy.Settings{Strategy: &kind},
		Since:    time.Unix(1, 0).UTC(), Author: "test",
	}
}

func idOf(service string) string { return stating(service, strategy.LocalFirst).ID() }

func mustPut(t testing.TB, s *Store, p *policy.Policy) uint64 {
	t.Helper()
	rev, err := s.PutPolicy(testkit.Context(t), p, Condition{})
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// said gives what a store says of policies and cordons: "id@revision=strategy" each, then what
// they are complete with, and what of that is of the time before.
func said(t testing.TB, s *Store) string {
	t.Helper()
	ctx := testkit.Context(t)
	var words []string
	for _, e := range heldBy(t, s) {
		k, err := s.schema.Parse(e.Key)
		if err != nil {
			t.Fatal(err)
		}
		switch k.Kind {
		case keys.Policy:
			p := newStated(k.Kind)
			if err := keys.Decode(e.Value, p); err != nil {
				t.Fatal(err)
			}
			id, _ := strings.CutPrefix(k.ID, "service/default/")
			words = append(words, fmt.Sprintf("%s@%d", strings.TrimSuffix(id, "/*"), p.GetRevision()))
		case keys.Cordon:
			words = append(words, fmt.Sprintf("%s:%s@%d", k.Cluster, k.ID, revisionOf(k.Kind, e.Value)))
		}
	}
	at, err := s.marked(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(append(words, fmt.Sprintf("(%d, %d)", at.marker.GetRevision(), at.marker.GetRestored())), " ")
}

func wantSaid(t testing.TB, s *Store, want string) {
	t.Helper()
	if got := said(t, s); got != want {
		t.Errorf("the store says %s, want %s", got, want)
	}
}

// heldBy gives what a reader that is up to date with a store holds.
func heldBy(t testing.TB, s *Store) []Entry {
	t.Helper()
	ctx := testkit.Context(t)
	at, err := s.marked(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var out []Entry
	for _, prefix := range []string{s.schema.Policies(), s.schema.Clusters()} {
		resp, err := s.client.Get(ctx, prefix, clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range resp.Kvs {
			if k, err := s.schema.Parse(string(kv.Key)); err == nil && (k.Kind == keys.Policy || k.Kind == keys.Cordon) {
				out = append(out, Entry{Key: string(kv.Key), Value: kv.Value})
			}
		}
	}
	return append(out, completeWith(t, s, at.id, at.marker.GetRevision()))
}

func completeWith(t testing.TB, s *Store, id string, revision uint64) Entry {
	t.Helper()
	b, err := keys.Encode(&storev1.PoliciesSynced{Revision: revision, Store: id})
	if err != nil {
		t.Fatal(err)
	}
	return Entry{Key: s.schema.Format(keys.Key{Kind: keys.PoliciesSynced}), Value: b}
}

func restore(t testing.TB, s *Store, held []Entry, want bool) {
	t.Helper()
	if got, err := s.RestorePolicies(testkit.Context(t), held); err != nil || got != want {
		t.Fatalf("restored %v, %v; want %v", got, err, want)
	}
}

func number(n uint64) *uint64 { return &n }

func TestEveryWriteOfAPolicyOrCordonRaisesOneRevision(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	if rev := mustPut(t, s, stating("cart", strategy.LocalOnly)); rev != 1 {
		t.Errorf("the first is of revision %d", rev)
	}
	mustPut(t, s, stating("cart", strategy.ExternalOnly))
	if rev, err := s.PutCordon(ctx, &policy.Cordon{Cluster: "west", Reason: "disks"}, Condition{}); err != nil || rev != 3 {
		t.Errorf("cordon: %d, %v", rev, err)
	}
	cart := catalog.Name{Namespace: "default", Service: "cart"}
	if rev, err := s.PutCordon(ctx, &policy.Cordon{Cluster: "west", Name: cart}, Condition{}); err != nil || rev != 4 {
		t.Errorf("cordon: %d, %v", rev, err)
	}
	wantSaid(t, s, "cart@2 west:*@3 west:default/cart@4 (4, 0)")
	// The marker is of the very transaction that wrote the value.
	resp, err := s.client.Get(ctx, s.schema.Cordons("west"), clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend))
	if err != nil {
		t.Fatal(err)
	}
	if at, err := s.marked(ctx); err != nil || at.markerAt != resp.Kvs[0].ModRevision {
		t.Errorf("the marker is of revision %d, the value of %d (%v)", at.markerAt, resp.Kvs[0].ModRevision, err)
	}
	if rev, err := s.DeletePolicy(ctx, idOf("cart"), Condition{}); err != nil || rev != 5 {
		t.Errorf("delete: %d, %v", rev, err)
	}
	if rev, err := s.DeleteCordon(ctx, "west", catalog.Name{}, Condition{}); err != nil || rev != 6 {
		t.Errorf("delete: %d, %v", rev, err)
	}
	wantSaid(t, s, "west:default/cart@4 (6, 0)")
}

func TestAPolicyIsWrittenOnlyWhereItMayBe(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	mustPut(t, s, stating("cart", strategy.LocalOnly))
	mustPut(t, s, stating("other", strategy.LocalOnly))
	refusal := errors.New("I do not agree")
	put := func(service string, c Condition) error {
		_, err := s.PutPolicy(ctx, stating(service, strategy.Any), c)
		return err
	}
	remove := func(service string, c Condition) error {
		_, err := s.DeletePolicy(ctx, idOf(service), c)
		return err
	}
	disagree := func(_ context.Context, revision uint64) error {
		if revision != 2 {
			t.Errorf("asked on top of revision %d", revision)
		}
		return refusal
	}
	for _, c := range []struct {
		name string
		do   func(string, Condition) error
		of   string
		cond Condition
		want error
	}{
		{"put at another revision", put, "cart", Condition{IfRevision: number(2)}, ErrRevision},
		{"put where there is one", put, "cart", Condition{IfRevision: number(0)}, ErrRevision},
		{"put where there is none", put, "new", Condition{IfRevision: number(1)}, ErrRevision},
		{"put without agreement", put, "cart", Condition{Agree: disagree}, refusal},
		{"delete at another revision", remove, "cart", Condition{IfRevision: number(2)}, ErrRevision},
		{"delete where there is none", remove, "new", Condition{}, ErrNoPolicy},
		{"delete without agreement", remove, "cart", Condition{Agree: disagree}, refusal},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.do(c.of, c.cond); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			wantSaid(t, s, "cart@1 other@2 (2, 0)")
		})
	}
	var other *RevisionError
	if err := put("cart", Condition{IfRevision: number(9)}); !errors.As(err, &other) || other.Stored != 1 {
		t.Errorf("the stored revision is not told: %v", err)
	}
	if err := put("cart", Condition{IfRevision: number(1)}); err != nil {
		t.Errorf("at its revision: %v", err)
	}
	if err := put("new", Condition{IfRevision: number(0)}); err != nil {
		t.Errorf("where there is none: %v", err)
	}
	wantSaid(t, s, "cart@3 new@4 other@2 (4, 0)")
	if _, err := s.DeletePolicy(ctx, "not/an//id", Condition{}); err == nil {
		t.Error("a key that is none was written")
	}
}

func TestConcurrentWritesOfDifferentPoliciesAllSucceed(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	const writers = 10
	var all sync.WaitGroup
	for n := range writers {
		all.Go(func() {
			if _, err := s.PutPolicy(testkit.Context(t), stating(fmt.Sprint("svc-", n), strategy.LocalOnly), Condition{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if at, err := s.marked(testkit.Context(t)); err != nil || at.marker.GetRevision() != writers {
		t.Errorf("%v, %v: want revision %d", at.marker, err, writers)
	}
}

func TestOfConcurrentWritesAtOneRevisionOneSucceeds(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	at := mustPut(t, s, stating("cart", strategy.LocalOnly))
	var all sync.WaitGroup
	var mu sync.Mutex
	written := 0
	for range 10 {
		all.Go(func() {
			_, err := s.PutPolicy(testkit.Context(t), stating("cart", strategy.Any), Condition{IfRevision: &at})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				written++
			case !errors.Is(err, ErrRevision):
				t.Error(err)
			}
		})
	}
	all.Wait()
	if written != 1 {
		t.Errorf("%d were written", written)
	}
	wantSaid(t, s, "cart@2 (2, 0)")
}

// A write whose answer is lost is not made twice, nor called a failure.
func TestPolicyWriteWhoseAnswerIsLost(t *testing.T) {
	r := startServer(t).replica(t, "")
	at := mustPut(t, r.Store, stating("cart", strategy.LocalOnly))
	t.Cleanup(func() { r.wire.answers.set(true) })
	// losing gives a condition that loses the answer of the next attempt.
	losing := func(at uint64) Condition {
		lose := sync.OnceFunc(func() {
			r.wire.answers.set(false)
			timer := time.AfterFunc(1500*time.Millisecond, func() { r.wire.answers.set(true) })
			t.Cleanup(func() { timer.Stop() })
		})
		return Condition{IfRevision: &at, Agree: func(context.Context, uint64) error { lose(); return nil }}
	}
	rev, err := r.PutPolicy(testkit.Context(t), stating("cart", strategy.Any), losing(at))
	if err != nil || rev != 2 {
		t.Errorf("put: %d, %v", rev, err)
	}
	rev, err = r.DeletePolicy(testkit.Context(t), idOf("cart"), losing(rev))
	if err != nil || rev != 3 {
		t.Errorf("delete: %d, %v", rev, err)
	}
	wantSaid(t, r.Store, "(3, 0)")
}

func TestWipedStoreIsToldAgain(t *testing.T) {
	s, stop := embeddedStore(t, t.TempDir())
	for _, service := range []string{"a", "b", "c", "d"} {
		mustPut(t, s, stating(service, strategy.LocalOnly))
	}
	if _, err := s.PutCordon(testkit.Context(t), &policy.Cordon{Cluster: "west"}, Condition{}); err != nil {
		t.Fatal(err)
	}
	early := heldBy(t, s) // a reader that was away from here on
	mustPut(t, s, stating("b", strategy.Any))
	if _, err := s.DeletePolicy(testkit.Context(t), idOf("c"), Condition{}); err != nil {
		t.Fatal(err)
	}
	late := heldBy(t, s)
	const want = "a@1 b@6 d@4 west:*@5"
	wantSaid(t, s, want+" (7, 0)")
	stop()

	s, _ = embeddedStore(t, t.TempDir())
	wantSaid(t, s, "(0, 0)")
	restore(t, s, early, true)
	wantSaid(t, s, "a@1 b@2 c@3 d@4 west:*@5 (5, 5)")
	restore(t, s, late, true)
	wantSaid(t, s, want+" (7, 7)")
	restore(t, s, early, false)
	restore(t, s, late, false)
	wantSaid(t, s, want+" (7, 7)")
	if rev := mustPut(t, s, stating("a", strategy.Any)); rev != 8 {
		t.Errorf("the next revision is %d", rev)
	}
	restore(t, s, late, false)
}

// Whoever writes a policy into a wiped store, before anybody tells it what was there, loses
// nothing, whichever of the two has the higher numbers.
func TestWhatWasWrittenMeanwhileStays(t *testing.T) {
	for _, more := range []int{1, 5} {
		t.Run(fmt.Sprint(more), func(t *testing.T) {
			s, stop := embeddedStore(t, t.TempDir())
			mustPut(t, s, stating("a", strategy.LocalOnly))
			mustPut(t, s, stating("b", strategy.LocalOnly))
			held := heldBy(t, s)
			stop()

			s, _ = embeddedStore(t, t.TempDir())
			for range more {
				mustPut(t, s, stating("b", strategy.Any))
			}
			mustPut(t, s, stating("x", strategy.Any))
			restore(t, s, held, true)
			want := "a@1 b@3 x@4 (4, 2)"
			if more == 5 {
				want = "a@1 b@5 x@6 (6, 2)" // above what comes back as they are
			}
			wantSaid(t, s, want)
			restore(t, s, held, false)
		})
	}
}

// A store that was restored from an older copy of itself has policies that were deleted since, and
// old ones of those that were changed.
func TestOldBackupIsBroughtUpToDate(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	mustPut(t, s, stating("deleted", strategy.LocalOnly))
	mustPut(t, s, stating("changed", strategy.LocalOnly))
	backup := heldBy(t, s)
	id, _, err := s.identify(ctx)
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, stating("changed", strategy.Any))
	if _, err := s.DeletePolicy(ctx, idOf("deleted"), Condition{}); err != nil {
		t.Fatal(err)
	}
	held := heldBy(t, s)

	back := func() {
		t.Helper()
		ops := []clientv3.Op{clientv3.OpDelete(s.schema.Policies(), clientv3.WithPrefix())}
		if _, err := s.client.Txn(ctx).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
		for _, e := range backup {
			if _, err := s.client.Put(ctx, e.Key, string(e.Value)); err != nil {
				t.Fatal(err)
			}
		}
	}
	const want = "changed@3"
	t.Run("noticed", func(t *testing.T) {
		back()
		if err := s.found(ctx, id); err != nil {
			t.Fatal(err)
		}
		wantSaid(t, s, "changed@2 deleted@1 (2, 2)")
		restore(t, s, held, true)
		wantSaid(t, s, want+" (4, 4)")
	})
	t.Run("not noticed", func(t *testing.T) {
		back()
		now, _, err := s.identify(ctx)
		if err != nil {
			t.Fatal(err)
		}
		held[len(held)-1] = completeWith(t, s, now, 4)
		restore(t, s, held, true)
		wantSaid(t, s, want+" (4, 4)")
	})
}

// Who has seen more of a store than there is shows that it went back.
func TestWitness(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	mustPut(t, s, stating("a", strategy.LocalOnly))
	id, rev, err := s.identify(ctx)
	if err != nil {
		t.Fatal(err)
	}
	witness := func(of string, revision int64, policies uint64, believed bool) {
		t.Helper()
		if err := s.Witness(ctx, of, revision, policies); err != nil {
			t.Fatal(err)
		}
		now, _, err := s.identify(ctx)
		if err != nil || (now != id) != believed {
			t.Fatalf("id %s became %s, %v; want a new one: %v", id, now, err, believed)
		}
		id = now
	}
	witness(id, rev, 1, false)
	witness("another", rev+1000, 9, false)
	witness(id, rev, maxEpoch+1, false)
	witness(id, rev, 2, true)
	wantSaid(t, s, "a@1 (1, 1)")
	witness(id, rev+1000, 1, false) // not again so soon
	s.witnessed = time.Time{}
	witness(id, rev+1000, 1, true)
}

// More than one transaction holds comes back whole, and is marked last.
func TestManyPoliciesComeBack(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	held := []Entry{completeWith(t, s, "before", 1000)}
	for n := range 500 {
		p := stating(fmt.Sprint("svc-", n), strategy.LocalOnly).Proto()
		p.Revision, p.Author = uint64(n+1), strings.Repeat("x", 5000)
		b, err := keys.Encode(p)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, Entry{Key: s.schema.Format(keys.Key{Kind: keys.Policy, ID: idOf(fmt.Sprint("svc-", n))}), Value: b})
	}
	restore(t, s, held, true)
	if got := len(heldBy(t, s)); got != 501 {
		t.Errorf("%d came back", got)
	}
	at, err := s.marked(testkit.Context(t))
	if err != nil || at.marker.GetRevision() != 1000 {
		t.Fatalf("%v, %v", at, err)
	}
	for _, e := range held[1:] {
		resp, err := s.client.Get(testkit.Context(t), e.Key)
		if err != nil || resp.Kvs[0].ModRevision > at.markerAt {
			t.Fatalf("%s was written after the marker (%v)", e.Key, err)
		}
	}
}

func TestRestoreRefuses(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	policies := s.schema.Format(keys.Key{Kind: keys.Policy, ID: idOf("a")})
	for name, held := range map[string][]Entry{
		"nothing":            nil,
		"no marker":          {{Key: policies, Value: []byte{1}}},
		"a broken marker":    {{Key: s.schema.Format(keys.Key{Kind: keys.PoliciesSynced}), Value: []byte("x")}},
		"a revision too big": {completeWith(t, s, "before", maxEpoch+1)},
	} {
		if _, err := s.RestorePolicies(testkit.Context(t), held); !errors.Is(err, ErrNotBelieved) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What is not a policy is left out, the rest counts.
	restore(t, s, []Entry{
		{Key: policies, Value: []byte("rubbish")},
		{Key: s.schema.Format(keys.Key{Kind: keys.Store}), Value: []byte("x")},
		{Key: "/elsewhere", Value: []byte("x")},
		completeWith(t, s, "before", 3),
	}, true)
	wantSaid(t, s, "(3, 3)")
}

// A synchronizer's data directory has the policies where the etcd was lost.
func TestDataDirRemembersPolicies(t *testing.T) {
	dir := t.TempDir()
	s, stop := embeddedStore(t, dir)
	mustPut(t, s, stating("a", strategy.LocalOnly))
	mustPut(t, s, stating("b", strategy.LocalOnly))
	if err := s.RememberPolicies(testkit.Context(t), heldBy(t, s)); err != nil {
		t.Fatal(err)
	}
	stop()
	s, stop = embeddedStore(t, dir) // nothing was lost
	wantSaid(t, s, "a@1 b@2 (2, 0)")
	stop()
	if err := os.RemoveAll(filepath.Join(dir, etcdFolder)); err != nil {
		t.Fatal(err)
	}
	s, stop = embeddedStore(t, dir)
	wantSaid(t, s, "a@1 b@2 (2, 2)")
	stop()
	if err := os.WriteFile(filepath.Join(dir, policiesFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ = embeddedStore(t, dir)
	wantSaid(t, s, "a@1 b@2 (2, 2)")
	if _, err := os.Stat(filepath.Join(dir, policiesFile+".unreadable")); err != nil {
		t.Errorf("the bad file is not set aside: %v", err)
	}
}

func FuzzHolding(f *testing.F) {
	s, err := New(Config{Federation: "demo", Embedded: &EmbeddedConfig{DataDir: "unused"}}, Deps{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("/farcall/v1/demo/policies/service/default/a/*", []byte{1}, []byte{1, 8, 7})
	f.Add("/farcall/v1/demo/clusters/east/cordons/*", []byte{2, 1}, []byte{1})
	f.Fuzz(func(t *testing.T, key string, value, marker []byte) {
		h, err := s.holding([]Entry{{Key: key, Value: value}, {Key: s.schema.Format(keys.Key{Kind: keys.PoliciesSynced}), Value: marker}})
		if err != nil {
			return
		}
		for k, v := range h.values {
			parsed, err := s.schema.Parse(k)
			if err != nil || keys.Decode(v, newStated(parsed.Kind)) != nil {
				t.Errorf("%q of %q was taken", v, k)
			}
		}
	})
}
