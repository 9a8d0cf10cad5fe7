package agent

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
)

// What the feed says of the own cluster's instances counts while it is fresh, and only then.
func TestTheFeedsWord(t *testing.T) {
	schema, err := keys.New("test")
	if err != nil {
		t.Fatal(err)
	}
	cart := catalog.Name{Namespace: "default", Service: "cart"}
	id := func(service, instance string) catalog.ID {
		return catalog.ID{Cluster: "edge", Name: catalog.Name{Namespace: "default", Service: service}, Instance: instance}
	}
	entry := func(k keys.Key, v proto.Message) *feedv1.Entry {
		b, err := keys.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		return &feedv1.Entry{Key: schema.Format(k), Value: b}
	}
	slice := func(seq uint64, ids ...string) *feedv1.Entry {
		v := &storev1.Slice{Cluster: "edge", Namespace: "default", Service: "cart", Epoch: 1, Seq: seq}
		for _, id := range ids {
			v.Instances = append(v.Instances, &catalogv1.Instance{Cluster: "edge", Namespace: "default", Service: "cart", Id: id, Address: "10.0.0.1", Port: 80, Weight: 1})
		}
		return entry(keys.Key{Kind: keys.Slice, Cluster: "edge", Name: cart}, v)
	}
	beat := func(tick uint64) *feedv1.Entry {
		return entry(keys.Key{Kind: keys.Replica, Replica: "s"}, &storev1.Replica{Id: "s", Tick: tick, Confirmed: map[string]uint64{"edge": tick}})
	}
	now := time.Unix(1_000_000, 0)
	m := mirror.New(schema)
	h := &hearsay{cluster: "edge", hold: time.Minute}
	silent := func(when string) {
		t.Helper()
		if h.word(m, now) != nil {
			t.Errorf("%s it has a word", when)
		}
	}
	silent("before anything was read")
	m.Begin("s1")
	m.Apply(now, []*feedv1.Entry{
		entry(keys.Key{Kind: keys.Meta, Cluster: "edge"}, &storev1.ClusterMeta{
			Cluster: "edge", Epoch: 1, Seq: 1, Owner: "s", Registries: []*storev1.RegistryStatus{{Name: "consul", Held: 2}},
		}),
		slice(1, "1", "3"), beat(1),
	}, 1)
	silent("before the cluster was synced")
	m.Apply(now, []*feedv1.Entry{entry(keys.Key{Kind: keys.Synced, Cluster: "edge"}, &storev1.Synced{Cluster: "edge", Epoch: 1})}, 1)
	m.End(1)
	m.Apply(now, []*feedv1.Entry{beat(2)}, 2)
	said := func(want map[catalog.ID]guard.Word) {
		t.Helper()
		word := h.word(m, now)
		if word == nil {
			t.Fatal("it has no word")
		}
		for id, w := range want {
			if got := word(id); got != w {
				t.Errorf("of %s it says %v, want %v", id, got, w)
			}
		}
	}
	said(map[catalog.ID]guard.Word{
		id("cart", "1"): guard.Listed, id("cart", "3"): guard.Listed, id("cart", "2"): guard.Unlisted, id("pay", "1"): guard.Unlisted,
	})
	m.Apply(now, []*feedv1.Entry{slice(2, "3")}, 3)
	said(map[catalog.ID]guard.Word{id("cart", "1"): guard.Unlisted, id("cart", "3"): guard.Listed})
	if (&hearsay{cluster: "east"}).word(m, now) != nil {
		t.Error("of a cluster that is not there it has a word")
	}
	// An owner that takes over goes on to hold what was held: what it lists no more was let go.
	fresh := func(tick uint64) { m.Apply(now, []*feedv1.Entry{beat(tick)}, 4) }
	meta := func(epoch uint64) *feedv1.Entry {
		return entry(keys.Key{Kind: keys.Meta, Cluster: "edge"}, &storev1.ClusterMeta{Cluster: "edge", Epoch: epoch, Seq: 1, Owner: "s"})
	}
	m.Apply(now, []*feedv1.Entry{meta(2)}, 4)
	said(map[catalog.ID]guard.Word{id("cart", "1"): guard.Unlisted, id("cart", "3"): guard.Listed})
	// Another store may have lost what was held: that it lists nothing proves nothing until a hold would
	// have ended by itself.
	m.Begin("s2")
	m.Apply(now, []*feedv1.Entry{meta(3), slice(3, "3"), entry(keys.Key{Kind: keys.Synced, Cluster: "edge"}, &storev1.Synced{Cluster: "edge", Epoch: 3}), beat(3)}, 4)
	m.End(4)
	for at, want := range map[time.Duration]guard.Word{0: guard.Silent, 59 * time.Second: guard.Silent, time.Minute: guard.Unlisted} {
		began := now
		now = now.Add(at)
		fresh(3 + uint64(at/time.Second))
		h := *h // each as it stood when it came
		_ = h.word(m, began)
		if got := h.word(m, now)(id("cart", "1")); got != want {
			t.Errorf("%s after another store came: %v, want %v", at, got, want)
		}
		if got := h.word(m, now)(id("cart", "3")); got != guard.Listed {
			t.Errorf("%s after another store came, of one that is listed: %v", at, got)
		}
		now = began
	}
	now = now.Add(2 * time.Minute)
	silent("once it is stale")
}

// What the owner holds back is adopted where its registry and the instance are listed so.
func TestWhatTheOwnerHoldsBack(t *testing.T) {
	schema, err := keys.New("test")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_000_000, 0)
	m := mirror.New(schema)
	if b := heldBy(m, "edge", now); len(b.Registries) != 0 {
		t.Errorf("of nothing there is %v", b)
	}
	cart := catalog.Name{Namespace: "default", Service: "cart"}
	entry := func(k keys.Key, v proto.Message) *feedv1.Entry {
		b, err := keys.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		return &feedv1.Entry{Key: schema.Format(k), Value: b}
	}
	list := &storev1.Slice{Cluster: "edge", Namespace: "default", Service: "cart", Epoch: 1, Seq: 1}
	for id, registry := range map[string]string{"1": "consul", "2": "consul", "3": "dns"} {
		list.Instances = append(list.Instances, &catalogv1.Instance{Cluster: "edge", Namespace: "default", Service: "cart", Id: id, Address: "10.0.0.1", Port: 80, Weight: 1, Registry: registry})
	}
	group := func(registry string, ids ...string) *storev1.HoldGroup {
		return &storev1.HoldGroup{
			Registry: registry, Reason: "burst", Left: durationpb.New(5 * time.Second),
			Services: []*storev1.HeldService{{Namespace: "default", Service: "cart", Ids: ids}},
		}
	}
	m.Apply(now, []*feedv1.Entry{
		entry(keys.Key{Kind: keys.Slice, Cluster: "edge", Name: cart}, list),
		entry(keys.Key{Kind: keys.Holds, Cluster: "edge"}, &storev1.Holds{Cluster: "edge", Epoch: 1, Seq: 2, Groups: []*storev1.HoldGroup{
			group("consul", "2", "3", "4"), group("gone", "9"),
		}}),
	}, 1)
	b := heldBy(m, "edge", now)
	of := b.Registries["consul"]
	if len(b.Registries) != 1 || len(of.Instances) != 1 || of.Instances[0].Instance != "2" || b.Whole || b.Unread {
		t.Errorf("the baseline is %+v", b)
	}
	if len(of.Holds) != 3 || !of.Holds[0].Listed || !of.Holds[0].Until.Equal(now.Add(5*time.Second)) {
		t.Errorf("held are %v", of.Holds)
	}
}
