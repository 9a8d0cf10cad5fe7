package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
)

// loser gives, of two replicas, the one that is not preferred for the cluster when both live.
func loser(cluster, a, b string) (preferredID, other string) {
	if preferred(cluster, map[string][]string{a: {cluster}, b: {cluster}}) == a {
		return a, b
	}
	return b, a
}

func TestPreferredMovesOnlyItsOwnShare(t *testing.T) {
	all := []string{}
	for i := range 200 {
		all = append(all, fmt.Sprintf("cluster-%d", i))
	}
	live := map[string][]string{"a": all, "b": all, "c": all}
	before := map[string]string{}
	share := map[string]int{}
	for _, c := range all {
		before[c] = preferred(c, live)
		share[before[c]]++
	}
	for id, n := range share {
		if n < 30 {
			t.Errorf("%s has %d of 200 clusters", id, n)
		}
	}
	delete(live, "c")
	for _, c := range all {
		if now := preferred(c, live); before[c] != "c" && now != before[c] {
			t.Errorf("%s moved from %s to %s though c died", c, before[c], now)
		}
	}
	live["a"] = nil // lives, but is entitled to none
	for _, c := range all {
		if now := preferred(c, live); now != "b" {
			t.Errorf("%s goes to %q", c, now)
		}
	}
	if got := preferred("x", live); got != "" {
		t.Errorf("a cluster that nobody is entitled to goes to %q", got)
	}
}

func TestHeartbeatCarriesWhatWasConfirmed(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	r := read(t, s)
	o := openOffice(t, member(s, "a/1", "east", "west", "east"))
	term := o.term(t, ctx, "east", 1)
	var beat storev1.Replica
	key := s.schema.Format(keys.Key{Kind: keys.Replica, Replica: "a/1"})
	next := func(what string, ok func() bool) {
		t.Helper()
		testkit.Eventually(t, ctx, what, func() error {
			if !r.get(key, &beat) || !ok() {
				return fmt.Errorf("heartbeat %v", &beat)
			}
			return nil
		})
	}
	next("a first beat without confirmations", func() bool { return beat.Tick > 0 && len(beat.Confirmed) == 0 })
	if beat.Id != "a/1" || beat.Address != "a/1:7700" || !slices.Equal(beat.Clusters, []string{"east", "west"}) {
		t.Errorf("heartbeat %v", &beat)
	}
	term.Confirm()
	next("a beat with the confirmation", func() bool { return beat.Confirmed["east"] > 0 })
	at := beat.Confirmed["east"]
	if at > beat.Tick || len(beat.Confirmed) != 1 {
		t.Errorf("confirmed %v at tick %d", beat.Confirmed, beat.Tick)
	}
	next("later beats, which leave it behind", func() bool { return beat.Tick >= at+5 })
	if beat.Confirmed["east"] != at {
		t.Errorf("confirmed moved from %d to %d by itself", at, beat.Confirmed["east"])
	}
	o.stop()
	testkit.Eventually(t, ctx, "the key to go", func() error {
		if r.get(key, &beat) {
			return errors.New("still there")
		}
		return nil
	})
}

func TestClustersAreSharedAndHandedOver(t *testing.T) {
	t.Parallel()
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	first, second := loser("east", "a", "b")
	// The one that is not preferred is alone, so it owns the cluster.
	late := openOffice(t, member(s, second, "east", "its-own"))
	term := late.term(t, ctx, "east", 1)
	publish(t, ctx, term, true, one("a b"))
	// The preferred one comes: the other resigns. It lives on, so that nobody could wait for its lease.
	early := openOffice(t, member(s, first, "east"))
	taken := early.term(t, ctx, "east", 1)
	if cause := context.Cause(term.ctx); !errors.Is(cause, errPreferred) {
		t.Errorf("the term ended because of %v", cause)
	}
	if taken.Epoch() <= term.Epoch() {
		t.Errorf("epoch %d after %d", taken.Epoch(), term.Epoch())
	}
	if err := term.Publish(ctx, one("x"), true); !errors.Is(err, ErrNotOwner) {
		t.Errorf("the old owner's write: %v, want ErrNotOwner", err)
	}
	if err := term.PutMeta(ctx, &storev1.ClusterMeta{}); !errors.Is(err, ErrNotOwner) {
		t.Errorf("the old owner's meta: %v, want ErrNotOwner", err)
	}
	wantStored(t, s, "east", "cart/0 e1: a b")
	// And back, when it leaves.
	early.stop()
	back := late.term(t, ctx, "east", 2)
	if back.Epoch() <= taken.Epoch() {
		t.Errorf("epoch %d after %d", back.Epoch(), taken.Epoch())
	}
	if late.term(t, ctx, "its-own", 1).ctx.Err() != nil {
		t.Error("a cluster that only one is entitled to changed hands")
	}
}

func TestTakeOverOfADeadReplicasClusters(t *testing.T) {
	t.Parallel()
	srv := startServer(t)
	ctx := testkit.Context(t)
	first, second := loser("east", "a", "b")
	dying, next := srv.replica(t, ""), srv.replica(t, "")
	m := member(dying.Store, first, "east")
	m.ttl = testTTL / 2 // which is waited for
	old := openOffice(t, m)
	term := old.term(t, ctx, "east", 1)
	publish(t, ctx, term, true, one("a b"))
	heir := openOffice(t, member(next.Store, second, "east"))

	// No packet comes or goes: as after SIGKILL, or SIGSTOP, or a cable that was pulled.
	dying.wire.hold()
	taken := heir.term(t, ctx, "east", 1)
	publish(t, ctx, taken, true, one("a b:2"))
	wantStored(t, next.Store, "east", fmt.Sprintf("cart/0 e%d: a b:2", taken.Epoch()))

	// The dead one comes back with a write on its lips.
	late := make(chan error, 1)
	go func() { late <- term.Publish(ctx, one("late"), true) }()
	dying.wire.release()
	if err := <-late; !errors.Is(err, ErrNotOwner) {
		t.Errorf("the late write: %v, want ErrNotOwner", err)
	}
	<-term.ctx.Done()
	wantStored(t, next.Store, "east", fmt.Sprintf("cart/0 e%d: a b:2", taken.Epoch()))
	// It is preferred, so it is given the cluster again, above the heir's epoch.
	again := old.term(t, ctx, "east", 2)
	if again.Epoch() <= taken.Epoch() {
		t.Errorf("epoch %d after %d", again.Epoch(), taken.Epoch())
	}
}

func TestAHoldThatEndsGivesTheClusterUpAndHasItAgain(t *testing.T) {
	t.Parallel()
	s, _ := embeddedStore(t, t.TempDir())
	epochs := make(chan uint64, 10)
	testkit.Go(t, "member", func(ctx context.Context) error {
		return member(s, "a", "east").Run(ctx, func(_ context.Context, term *Term) error {
			epochs <- term.Epoch()
			return errors.New("the registry is gone")
		})
	})
	ctx := testkit.Context(t)
	var last uint64
	begin := time.Now()
	for range 2 {
		select {
		case e := <-epochs:
			if e <= last {
				t.Errorf("epoch %d after %d", e, last)
			}
			last = e
		case <-ctx.Done():
			t.Fatal("no second term")
		}
	}
	if pause := time.Since(begin); pause < holdPause {
		t.Errorf("it had the cluster again after %v", pause)
	}
}

func TestTwoReplicasOfOneIDDoNotBothTakePart(t *testing.T) {
	t.Parallel()
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	first := openOffice(t, member(s, "twin", "east"))
	term := first.term(t, ctx, "east", 1)
	second := openOffice(t, member(s, "twin", "west"))
	// For many beats of both.
	if !pause(ctx, 2*time.Second) || term.ctx.Err() != nil || len(second.all()) != 0 {
		t.Fatalf("the first one's term ended (%v), or the second has %d", context.Cause(term.ctx), len(second.all()))
	}
	first.stop()
	second.term(t, ctx, "west", 1)
}

func TestEmbeddedStartRevokesWhatACrashLeft(t *testing.T) {
	dir := t.TempDir()
	s, stop := embeddedStore(t, dir)
	ctx := testkit.Context(t)
	lease, err := s.client.Grant(ctx, 600)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []keys.Key{{Kind: keys.Owner, Cluster: "east"}, {Kind: keys.Replica, Replica: "a"}} {
		if _, err := s.client.Put(ctx, s.schema.Format(k), "x", clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	s, _ = embeddedStore(t, dir)
	// Longer than this test may last, somebody would wait for that lease.
	openOffice(t, member(s, "a", "east")).term(t, ctx, "east", 1)
	left, err := s.client.Leases(ctx)
	if err != nil || slices.ContainsFunc(left.Leases, func(l clientv3.LeaseStatus) bool { return l.ID == lease.ID }) {
		t.Errorf("the stale lease is there: %v, %v", left, err)
	}
}

func TestAWipedStoreEndsTermsAndFillsAgainAboveTheOldEpoch(t *testing.T) {
	t.Parallel()
	srv := startServer(t)
	ctx := testkit.Context(t)
	a := srv.replica(t, t.TempDir())
	o := openOffice(t, member(a.Store, "a", "east"))
	term := o.term(t, ctx, "east", 1)
	publish(t, ctx, term, true, one("a b"))
	if _, err := a.client.Delete(ctx, "/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	// One that begins before somebody has given the store a new id ends with that.
	var again *Term
	testkit.Eventually(t, ctx, "a later term writes", func() error {
		all := o.all()
		if again = all[len(all)-1]; again == term {
			return errors.New("there is none")
		}
		return again.Publish(ctx, one("a b"), true)
	})
	if term.ctx.Err() == nil {
		t.Error("the term outlived its store")
	}
	if again.Epoch() <= term.Epoch() {
		t.Errorf("epoch %d after %d: the directory forgot", again.Epoch(), term.Epoch())
	}
	wantStored(t, a.Store, "east", fmt.Sprintf("cart/0 e%d: a b", again.Epoch()))
}

func TestRaisedEpochIsTakenAboveAndEverythingIsRewritten(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	o := openOffice(t, member(s, "a", "east"))
	o.RaiseEpoch("east", 4) // before it owns anything
	term := o.term(t, ctx, "east", 1)
	if term.Epoch() != 5 {
		t.Errorf("epoch %d, want 5", term.Epoch())
	}
	publish(t, ctx, term, true, one("a b"))
	o.RaiseEpoch("east", 5)  // what readers see of this very term
	o.RaiseEpoch("west", 99) // nothing of ours
	o.RaiseEpoch("east", maxEpoch+1)
	if !pause(ctx, 300*time.Millisecond) || term.ctx.Err() != nil {
		t.Fatalf("the term ended: %v", context.Cause(term.ctx))
	}
	o.RaiseEpoch("east", 40)
	again := o.term(t, ctx, "east", 2)
	if again.Epoch() != 41 {
		t.Errorf("epoch %d, want 41", again.Epoch())
	}
	wantStored(t, s, "east", "cart/0 e5: a b")
	publish(t, ctx, again, true, one("a b"))
	wantStored(t, s, "east", "cart/0 e41: a b")
}

// What one replica is told that readers demand reaches the one that owns the cluster.
func TestDemandedEpochReachesTheOwner(t *testing.T) {
	srv := startServer(t)
	ctx := testkit.Context(t)
	a, b := srv.replica(t, ""), srv.replica(t, "")
	oa := openOffice(t, member(a.Store, "a", "east"))
	first := oa.term(t, ctx, "east", 1)
	publish(t, ctx, first, true, one("a b"))
	other := b.Member(MemberConfig{ID: "b", Address: "b:7700", Clusters: []string{"west"}})
	other.ttl, other.beat = testTTL, 100*time.Millisecond
	openOffice(t, other)
	other.RaiseEpoch("east", 7)
	if again := oa.term(t, ctx, "east", 2); again.Epoch() <= 7 {
		t.Errorf("epoch %d, though 7 is demanded", again.Epoch())
	}
}

// What a replica reads itself counts before its first term.
func TestOwnDemandIsHeeded(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	var demand atomic.Uint64
	demand.Store(3)
	m := s.Member(MemberConfig{ID: "a", Address: "a:7700", Clusters: []string{"east"}, Demand: func(string) uint64 { return demand.Load() }})
	m.ttl, m.beat = testTTL, 100*time.Millisecond
	o := openOffice(t, m)
	if e := o.term(t, ctx, "east", 1).Epoch(); e != 4 {
		t.Errorf("epoch %d, want 4", e)
	}
	demand.Store(9)
	if e := o.term(t, ctx, "east", 2).Epoch(); e != 10 {
		t.Errorf("epoch %d, want 10", e)
	}
}

func TestRewritingSurvivesAnOwnerThatDidNotFinish(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	o := openOffice(t, member(s, "a", "east"))
	publish(t, ctx, o.term(t, ctx, "east", 1), true, one("a b"))
	o.RaiseEpoch("east", 10)
	o.term(t, ctx, "east", 2) // takes epoch 11 and publishes nothing
	o.stop()
	next := openOffice(t, member(s, "b", "east")).term(t, ctx, "east", 1)
	publish(t, ctx, next, true, one("a b"))
	wantStored(t, s, "east", "cart/0 e12: a b")
}
