//go:build real

package synchronizer

import (
	"fmt"
	"testing"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/testkit"
)

// A replica that begins on an emptied registry while another holds what that lost goes on to hold it
// when it takes over, for as long as it had left; what was released meanwhile nobody brings back.
func TestRealTakeOverOfHolds(t *testing.T) {
	etcd := testkit.Etcd(t, 1)
	at := store.Config{Federation: "test", Etcd: &store.EtcdConfig{Endpoints: etcd.Endpoints}}
	first, second := newHolding(cartIDs(7)...), newHolding()
	r1 := startOn(t, "r1", at, map[string][]*registry{"east": {first}})
	r1.lists(t, of("east/", 1, 7))
	first.set()
	held := r1.holds(t, "", of("east/reg-1/", 1, 7)).GetHolds()
	ctx := testkit.Context(t)
	if done, err := r1.admin.ReleaseHold(ctx, &adminv1.ReleaseHoldRequest{Cluster: "east", Instance: "7"}); err != nil || done.GetReleased() != 1 {
		t.Fatalf("the release gave %v, %v", done, err)
	}
	r1.lists(t, of("east/", 1, 6))

	r2 := startOn(t, "r2", at, map[string][]*registry{"east": {second}})
	r2.lists(t, of("east/", 1, 6))
	removed := r2.watchOf(t, "east")
	testkit.Eventually(t, ctx, "the second has read its registry", func() error {
		if st := r2.s.intakes["east"].Status(); !st[0].Complete || st[0].Held != 6 {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	r1.stop()
	testkit.Eventually(t, ctx, "the second has taken over", func() error {
		if c := r2.cluster(t, "east"); c.GetOwner() != "r2" {
			return fmt.Errorf("%v", c)
		}
		return nil
	})
	after := r2.holds(t, "", of("east/reg-1/", 1, 6)).GetHolds()
	for n, h := range after {
		if was := held[n]; h.GetReason() != was.GetReason() || h.GetDetail() != was.GetDetail() || h.GetUntil().AsTime().Before(was.GetUntil().AsTime()) {
			t.Errorf("%v became %v", was, h)
		}
	}
	if gone := removed(); len(gone) > 0 {
		t.Errorf("the list lost %v meanwhile", gone)
	}
	if done, err := r2.admin.ReleaseHold(ctx, &adminv1.ReleaseHoldRequest{Cluster: "east"}); err != nil || done.GetReleased() != 6 {
		t.Fatalf("the release gave %v, %v", done, err)
	}
	r2.lists(t, "")
	r1 = startOn(t, "r1", at, map[string][]*registry{"east": {first}})
	r2.stop()
	r1.holds(t, "", "")
	r1.lists(t, "")
}

// A cluster that one of two replicas is configured for is not held as one that nobody is.
func TestRealOneOfTwoIsConfigured(t *testing.T) {
	etcd := testkit.Etcd(t, 1)
	at := store.Config{Federation: "test", Etcd: &store.EtcdConfig{Endpoints: etcd.Endpoints}}
	east, west := newRegistry("a"), newRegistry("w")
	r1 := startOn(t, "r1", at, map[string][]*registry{"east": {east}})
	r2 := startOn(t, "r2", at, map[string][]*registry{"east": {east}, "west": {west}})
	r1.lists(t, "east/a west/w")
	r1.holds(t, "", "")
	r2.stop()
	r1.holds(t, "", "west//")
	ctx := testkit.Context(t)
	if done, err := r1.admin.ReleaseHold(ctx, &adminv1.ReleaseHoldRequest{Cluster: "west"}); err != nil || !done.GetDeleted() {
		t.Fatalf("the release gave %v, %v", done, err)
	}
	r1.lists(t, "east/a")
}
