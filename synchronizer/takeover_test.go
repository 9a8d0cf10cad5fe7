package synchronizer

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
)

// of gives "<before>1 <before>2" up to n.
func of(before string, from, to int) string {
	var words []string
	for n := from; n <= to; n++ {
		words = append(words, fmt.Sprint(before, n))
	}
	return strings.Join(words, " ")
}

// A synchronizer that restarts on a registry that was emptied meanwhile, with nobody else to ask, takes
// what it had published for what the registry lost. One release ends that.
func TestRestartOnAnEmptiedRegistry(t *testing.T) {
	dir := t.TempDir()
	reg := newHolding(cartIDs(6)...)
	r := start(t, dir, map[string][]*registry{"east": {reg}})
	all := of("east/", 1, 6)
	r.lists(t, all)
	r.stop()

	reg.set()
	r = start(t, dir, map[string][]*registry{"east": {reg}})
	removed := r.watchOf(t, "east")
	resp := r.holds(t, "", of("east/reg-1/", 1, 6))
	if h := resp.GetHolds()[0]; h.GetReason() != "catalogue" || !strings.Contains(h.GetDetail(), "all 6 instances") {
		t.Errorf("the first hold is %v", h)
	}
	if gone := removed(); len(gone) > 0 {
		t.Errorf("the list lost %v meanwhile", gone)
	}
	ctx := testkit.Context(t)
	if done, err := r.admin.ReleaseHold(ctx, &adminv1.ReleaseHoldRequest{Cluster: "east"}); err != nil || done.GetReleased() != 6 {
		t.Errorf("the release gave %v, %v", done, err)
	}
	r.lists(t, "")
}

// A hold under way goes on when its process begins anew: for the reason that it had, for no shorter
// than it had left, and without letting a few more go because the floor was forgotten.
func TestAHoldGoesOnAfterARestart(t *testing.T) {
	dir := t.TempDir()
	reg := newHolding(cartIDs(20)...)
	r := start(t, dir, map[string][]*registry{"east": {reg}})
	testkit.Eventually(t, testkit.Context(t), "all are listed", func() error {
		if n := r.cluster(t, "east").GetInstances(); n != 20 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	reg.set("1", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19", "2")
	// In the order of their names, 20 3 4 5 6 went at once.
	const listed = "east/1 east/10 east/11 east/12 east/13 east/14 east/15 east/16 east/17 east/18 east/19 east/2 east/7 east/8 east/9"
	before := r.holds(t, "", of("east/reg-1/", 7, 9)).GetHolds()
	r.lists(t, listed)
	for n := range 3 {
		r.stop()
		r = start(t, dir, map[string][]*registry{"east": {reg}})
		after := r.holds(t, "", of("east/reg-1/", 7, 9)).GetHolds()
		for i, h := range after {
			was := before[i]
			if h.GetReason() != "burst" || h.GetDetail() != was.GetDetail() {
				t.Errorf("restart %d: %v became %v", n, was, h)
			}
			if h.GetUntil().AsTime().Before(was.GetUntil().AsTime()) || h.GetUntil().AsTime().Sub(h.GetSince().AsTime()) > time.Minute+2*time.Second {
				t.Errorf("restart %d: the hold from %v to %v is now from %v to %v", n, was.GetSince().AsTime(), was.GetUntil().AsTime(), h.GetSince().AsTime(), h.GetUntil().AsTime())
			}
		}
		r.lists(t, listed)
		before = after
	}
	// What returns while nobody looks has returned.
	r.stop()
	reg.set(cartIDs(20)...)
	r = start(t, dir, map[string][]*registry{"east": {reg}})
	testkit.Eventually(t, testkit.Context(t), "all are back", func() error {
		if n := r.cluster(t, "east").GetInstances(); n != 20 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	r.holds(t, "", "")
}

// A registry that has not changed costs no write of its lists, and of holds there is no key.
func TestARestartOnAnUnchangedRegistryWritesNoList(t *testing.T) {
	dir := t.TempDir()
	regs := map[string][]*registry{"east": {newHolding(cartIDs(9)...)}}
	written := func(r *replica) (revisions []int64, held int) {
		r.s.hub.mu.Lock()
		defer r.s.hub.mu.Unlock()
		for key, e := range r.s.hub.entries {
			switch k, err := r.s.hub.watchdog.schema.Parse(key); {
			case err != nil:
				t.Error(err)
			case k.Kind == keys.Slice:
				revisions = append(revisions, e.GetRevision())
			case k.Kind == keys.Holds:
				held++
			}
		}
		return revisions, held
	}
	fresh := func(r *replica) {
		testkit.Eventually(t, testkit.Context(t), "it is read and published", func() error {
			if c := r.cluster(t, "east"); c.GetState().String() != "SYNCED" || c.GetInstances() != 9 {
				return fmt.Errorf("%v", c)
			}
			return nil
		})
	}
	r := start(t, dir, regs)
	fresh(r)
	before, held := written(r)
	if len(before) != 1 || held != 0 {
		t.Fatalf("slices of revisions %v, %d parts of holds", before, held)
	}
	r.stop()
	r = start(t, dir, regs)
	fresh(r)
	if after, held := written(r); len(after) != 1 || after[0] != before[0] || held != 0 {
		t.Errorf("revisions %v became %v, %d parts of holds", before, after, held)
	}
}

// A registry that has another name in the configuration is another: what the old one listed stays
// until the new one was read, and what both list never leaves.
func TestARegistryIsRenamed(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir, map[string][]*registry{"east": {newHolding(), newHolding(cartIDs(6)...)}})
	r.lists(t, of("east/", 1, 6))
	r.stop()
	// What was reg-2 is reg-1 now, and there is no reg-2 any more.
	r = start(t, dir, map[string][]*registry{"east": {newHolding(cartIDs(6)...)}})
	removed := r.watchOf(t, "east")
	testkit.Eventually(t, testkit.Context(t), "it is read under its new name", func() error {
		if n := r.s.countByRegistry("east")["reg-1"].instances; n != 6 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	r.lists(t, of("east/", 1, 6))
	if gone := removed(); len(gone) > 0 {
		t.Errorf("the list lost %v meanwhile", gone)
	}
}

func TestBaseline(t *testing.T) {
	now := time.Now()
	one := func(id, registry string) *catalog.Instance {
		return &catalog.Instance{ID: catalog.ID{Cluster: "east", Name: catalog.Name{Namespace: "default", Service: "cart"}, Instance: id}, Registry: registry}
	}
	groups := []*storev1.HoldGroup{{
		Registry: "a", Reason: "burst", Left: durationpb.New(5 * time.Second),
		Services: []*storev1.HeldService{{Namespace: "default", Service: "cart", Ids: []string{"3"}}},
	}}
	meta := &storev1.ClusterMeta{Registries: []*storev1.RegistryStatus{{Name: "b", Strategies: map[string]string{"default/cart": "any", "nonsense": "any"}}, {Name: "c"}}}
	all := baseline(now, "east", []*catalog.Instance{one("1", "a"), one("2", "b"), one("3", "a")}, groups, meta)
	a, b := all["a"], all["b"]
	if len(all) != 2 || len(a.Instances) != 2 || len(b.Instances) != 1 {
		t.Errorf("the baseline is %v", all)
	}
	if len(a.Holds) != 1 || a.Holds[0].ID != one("3", "").ID || !a.Holds[0].Until.Equal(now.Add(5*time.Second)) || len(b.Holds) != 0 {
		t.Errorf("held are %v and %v", a.Holds, b.Holds)
	}
	if len(a.Strategies) != 0 || len(b.Strategies) != 1 || b.Strategies[one("", "").Name] != "any" {
		t.Errorf("stated are %v and %v", a.Strategies, b.Strategies)
	}
	if got := baseline(now, "east", nil, nil, nil); len(got) != 0 {
		t.Errorf("of nothing it is %v", got)
	}
}
