package store

import (
	"context"
	"errors"
	"fmt"
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
			timer := time.AfterFunc(askTimeout+askTimeout/10, func() { r.wire.answers.set(true) })
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
