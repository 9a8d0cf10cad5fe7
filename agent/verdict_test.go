package agent

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

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
	silent := func(when string) {
		t.Helper()
		if wordOf(m, "edge", now) != nil {
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
		word := wordOf(m, "edge", now)
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
	if wordOf(m, "east", now) != nil {
		t.Error("of a cluster that is not there it has a word")
	}
	now = now.Add(4 * time.Second)
	silent("once it is stale")
}
