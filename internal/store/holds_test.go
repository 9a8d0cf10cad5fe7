package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
)

// holdsOf is a group of what is held of a registry: ids of cart, with the seconds that are left.
func holdsOf(registry string, left int64, ids ...string) *storev1.HoldGroup {
	return &storev1.HoldGroup{
		Registry: registry, Reason: "burst", Left: &durationpb.Duration{Seconds: left},
		Services: []*storev1.HeldService{{Namespace: "default", Service: "cart", Ids: ids}},
	}
}

func putHolds(t *testing.T, term *Term, groups ...*storev1.HoldGroup) {
	t.Helper()
	if err := term.PutHolds(testkit.Context(t), groups); err != nil {
		t.Fatal(err)
	}
}

// storedHolds reads what the store says is held of east: "part eEpoch: registry left ids".
func storedHolds(t *testing.T, s *Store) string {
	t.Helper()
	resp, err := s.client.Get(testkit.Context(t), s.schema.Holds("east"), clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, kv := range resp.Kvs {
		k, err := s.schema.Parse(string(kv.Key))
		var v storev1.Holds
		if err = errors.Join(err, keys.Decode(kv.Value, &v)); err != nil {
			words = append(words, "unreadable")
			continue
		}
		if v.GetCluster() != "east" || v.GetPart() != k.Part {
			t.Errorf("%s says %v", kv.Key, &v)
		}
		words = append(words, fmt.Sprintf("%d e%d:", k.Part, v.GetEpoch()))
		for _, g := range v.GetGroups() {
			for _, svc := range g.GetServices() {
				words = append(words, g.GetRegistry(), fmt.Sprint(g.GetLeft().GetSeconds()), strings.Join(svc.GetIds(), "+"))
			}
		}
	}
	return strings.Join(words, " ")
}

func TestHoldsAreWrittenWhereTheyChanged(t *testing.T) {
	s, term := stillTerm(t)
	for _, tt := range []struct {
		name   string
		groups []*storev1.HoldGroup
		writes int64
		want   string
	}{
		{"nothing held leaves no key", nil, 0, ""},
		{"the first", []*storev1.HoldGroup{holdsOf("consul", 60, "1", "2"), holdsOf("dns", 60, "3")}, 1, "0 e1: consul 60 1+2 dns 60 3"},
		{"the same", []*storev1.HoldGroup{holdsOf("consul", 60, "1", "2"), holdsOf("dns", 60, "3")}, 0, "0 e1: consul 60 1+2 dns 60 3"},
		{"less time", []*storev1.HoldGroup{holdsOf("consul", 50, "1", "2"), holdsOf("dns", 60, "3")}, 1, "0 e1: consul 50 1+2 dns 60 3"},
		{"no more", nil, 1, ""},
		{"still no more", nil, 0, ""},
	} {
		before := revision(t, s)
		putHolds(t, term, tt.groups...)
		if wrote := revision(t, s) - before; wrote != tt.writes {
			t.Errorf("%s: %d transactions, want %d", tt.name, wrote, tt.writes)
		}
		if got := storedHolds(t, s); got != tt.want {
			t.Errorf("%s: the store holds %q, want %q", tt.name, got, tt.want)
		}
	}
}

// What is held goes to the next owner, with the lists; what of it nobody can read does not stay.
func TestTheNextOwnerFindsWhatIsHeld(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	o := openOffice(t, member(s, "a", "east"))
	first := o.term(t, ctx, "east", 1)
	f, err := first.Found(ctx)
	if err != nil || len(f.Instances)+len(f.Holds) > 0 || f.Whole {
		t.Errorf("in a new federation there was %+v, %v", f, err)
	}
	publish(t, ctx, first, true, one("a b c"))
	if err := first.PutMeta(ctx, &storev1.ClusterMeta{Via: "agents"}); err != nil {
		t.Fatal(err)
	}
	putHolds(t, first, holdsOf("consul", 60, "b", "c"))
	o.stop()
	for _, part := range []uint32{0, 7, 4294967295} {
		key := s.schema.Format(keys.Key{Kind: keys.Holds, Cluster: "east", Part: part})
		if part > 0 {
			if _, err := s.client.Put(ctx, key, "\x09"); err != nil {
				t.Fatal(err)
			}
		}
	}

	o = openOffice(t, member(s, "b", "east"))
	second := o.term(t, ctx, "east", 1)
	f, err = second.Found(ctx)
	var ids []string
	for _, i := range f.Instances {
		ids = append(ids, i.Instance)
	}
	slices.Sort(ids)
	if err != nil || strings.Join(ids, " ") != "a b c" || len(f.Holds) != 1 || f.Holds[0].GetRegistry() != "consul" || f.Meta.GetVia() != "agents" || !f.Whole {
		t.Errorf("found was %v: %+v, %v", ids, f, err)
	}
	putHolds(t, second, holdsOf("consul", 60, "b", "c"))
	if got := storedHolds(t, s); got != "0 e1: consul 60 b+c" {
		t.Errorf("what did not change keeps its epoch, and nothing else stays: %q", got)
	}
	o.stop()
	if err := second.PutHolds(ctx, nil); !errors.Is(err, ErrNotOwner) {
		t.Errorf("the write of who is not the owner: %v", err)
	}

	// Of a list that cannot be read any more nobody knows what was let go.
	o = openOffice(t, member(s, "b", "east"))
	publish(t, ctx, o.term(t, ctx, "east", 1), true, one("a b c"))
	o.stop()
	slice := s.schema.Format(keys.Key{Kind: keys.Slice, Cluster: "east", Name: catalog.Name{Namespace: "default", Service: "cart"}})
	if _, err := s.client.Put(ctx, slice, "\x09"); err != nil {
		t.Fatal(err)
	}
	o = openOffice(t, member(s, "c", "east"))
	if f, err = o.term(t, ctx, "east", 1).Found(ctx); err != nil || f.Whole || len(f.Instances) > 0 {
		t.Errorf("with a slice that cannot be read: %+v, %v", f, err)
	}
	o.stop()

	// An owner that did not come to the end of its first publish left who knows what.
	o = openOffice(t, member(s, "c", "east"))
	publish(t, ctx, o.term(t, ctx, "east", 1), false, one("a"))
	o.stop()
	o = openOffice(t, member(s, "d", "east"))
	if f, err = o.term(t, ctx, "east", 1).Found(ctx); err != nil || f.Whole {
		t.Errorf("after half a publish: %+v, %v", f, err)
	}
}

// In a store that is behind what others know, as after a backup, what was held is written under an
// epoch that they take.
func TestHoldsAreWrittenAgainWhereTheStoreIsBehind(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	o := openOffice(t, member(s, "a", "east"))
	first := o.term(t, ctx, "east", 1)
	publish(t, ctx, first, true, one("a"))
	putHolds(t, first, holdsOf("consul", 60, "a"))
	o.stop()
	m := member(s, "b", "east")
	m.RaiseEpoch("east", 7)
	second := openOffice(t, m).term(t, ctx, "east", 1)
	if f, err := second.Found(ctx); err != nil || f.Whole {
		t.Errorf("found was %+v, %v", f, err)
	}
	putHolds(t, second, holdsOf("consul", 60, "a"))
	if got := storedHolds(t, s); got != "0 e8: consul 60 a" {
		t.Errorf("the store holds %q", got)
	}
}

func TestManyHoldsAreSplit(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, limit := range []int{1, 60, 300, 4000, 1 << 20} {
		var groups []*storev1.HoldGroup
		var want []string
		for g := range 3 {
			group := &storev1.HoldGroup{Registry: fmt.Sprint("reg-", g), Reason: "burst"}
			for s := range 4 {
				svc := &storev1.HeldService{Namespace: "default", Service: fmt.Sprint("s", s)}
				for range r.IntN(40) {
					id := strings.Repeat("x", 1+r.IntN(30))
					svc.Ids = append(svc.Ids, id)
					want = append(want, group.GetRegistry()+"/"+svc.GetService()+"/"+id)
				}
				group.Services = append(group.Services, svc)
			}
			groups = append(groups, group)
		}
		var got []string
		for n, part := range splitHolds(groups, limit) {
			v := &storev1.Holds{Groups: part}
			b, err := keys.Encode(v)
			if err != nil || limit > 300 && len(b) > limit+limit/8 {
				t.Errorf("part %d of at most %d has %d bytes, %v", n, limit, len(b), err)
			}
			for _, g := range part {
				for _, s := range g.GetServices() {
					if len(s.GetIds()) == 0 {
						t.Error("a service without ids")
					}
					for _, id := range s.GetIds() {
						got = append(got, g.GetRegistry()+"/"+s.GetService()+"/"+id)
					}
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("limit %d: %d came back of %d", limit, len(got), len(want))
		}
	}

	s, term := stillTerm(t)
	many := holdsOf("consul", 60)
	for n := range 100_000 {
		many.Services[0].Ids = append(many.Services[0].Ids, fmt.Sprintf("cart-%06d-%x", n, r.Uint64()))
	}
	putHolds(t, term, many)
	total, parts := 0, 0
	for _, p := range term.holds {
		parts++
		for _, g := range p.GetGroups() {
			total += len(g.GetServices()[0].GetIds())
		}
	}
	if total != 100_000 || parts < 5 {
		t.Errorf("%d are held in %d parts", total, parts)
	}
	putHolds(t, term, holdsOf("consul", 60, "one"))
	if got := storedHolds(t, s); got != "0 e1: consul 60 one" {
		t.Errorf("the store holds %q", got)
	}
}

func TestAClusterThatNobodyIsConfiguredForIsDeleted(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	o := openOffice(t, member(s, "a", "east", "west"))
	for _, c := range []string{"east", "west"} {
		term := o.term(t, ctx, c, 1)
		l := list("a b")
		for _, i := range l {
			i.Cluster = c
		}
		publish(t, ctx, term, true, map[catalog.Name]List{cart: {Instances: l}})
		putHolds(t, term, holdsOf("consul", 60, "b"))
	}
	for _, key := range []string{"clusters/east/cordons/*", "clusters/east/newer/x", "agents/east/n1", "agents/west/n1", "clusters/east2/meta"} {
		if _, err := s.client.Put(ctx, s.schema.Root()+key, "\x01"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.DeleteCluster(ctx, "east"); !errors.Is(err, ErrConfigured) || !strings.HasSuffix(err.Error(), ": a") {
		t.Errorf("one that is owned: %v", err)
	}
	if _, err := s.DeleteCluster(ctx, "no cluster"); err == nil {
		t.Error("a name that is none is no error")
	}
	o.stop()
	// Somebody who is configured for the other cluster only does not keep this one.
	o = openOffice(t, member(s, "b", "west"))
	o.term(t, ctx, "west", 1)
	gone, err := s.DeleteCluster(ctx, "east")
	if err != nil || gone != 6 { // meta, synced, a slice, holds, what is newer, an agent
		t.Errorf("%d keys are gone, %v", gone, err)
	}
	resp, err := s.client.Get(ctx, s.schema.Root(), clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, kv := range resp.Kvs {
		if k := strings.TrimPrefix(string(kv.Key), s.schema.Root()); strings.Contains(k, "east") {
			left = append(left, k)
		}
	}
	if fmt.Sprint(left) != "[clusters/east/cordons/* clusters/east2/meta]" {
		t.Errorf("left of it is %v", left)
	}
	wantStored(t, s, "west", "cart/0 e1: a b")
	if gone, err = s.DeleteCluster(ctx, "east"); err != nil || gone != 0 {
		t.Errorf("deleted again: %d, %v", gone, err)
	}
	// It comes back under an epoch that is above all that was known of it.
	o = openOffice(t, member(s, "c", "east"))
	if term := o.term(t, ctx, "east", 1); term.Epoch() != 2 {
		t.Errorf("it is back with epoch %d", term.Epoch())
	}
	if _, err := s.DeleteCluster(ctx, "east"); !errors.Is(err, ErrConfigured) {
		t.Errorf("one that is configured again: %v", err)
	}
}

// A replica that registers between the look and the deletion keeps the cluster.
func TestAReplicaThatComesMeanwhileKeepsItsCluster(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	key := s.schema.Format(keys.Key{Kind: keys.Meta, Cluster: "east"})
	if _, err := s.client.Put(ctx, key, "\x01"); err != nil {
		t.Fatal(err)
	}
	// A replica's heartbeats come and go, and the deletion is one transaction: whichever comes first,
	// none of them is deleted that is configured.
	for n := range 20 {
		done := make(chan error, 1)
		go func() { _, err := s.DeleteCluster(ctx, "east"); done <- err }()
		beat, err := keys.Encode(&storev1.Replica{Id: "x", Clusters: []string{"east"}})
		if err != nil {
			t.Fatal(err)
		}
		replica := s.schema.Format(keys.Key{Kind: keys.Replica, Replica: "x"})
		txn, err := s.client.Txn(ctx).Then(clientv3.OpPut(replica, string(beat)), clientv3.OpPut(key, "\x01")).Commit()
		if err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil && !errors.Is(err, ErrConfigured) {
			t.Fatal(err)
		}
		resp, err := s.client.Get(ctx, key)
		if err != nil || len(resp.Kvs) != 1 || resp.Kvs[0].ModRevision != txn.Header.GetRevision() {
			t.Fatalf("try %d: the meta of a cluster that is configured is %v, %v", n, resp, err)
		}
		if _, err := s.client.Delete(ctx, replica); err != nil {
			t.Fatal(err)
		}
	}
	// One whose heartbeat cannot be read may be configured for it.
	if _, err := s.client.Put(ctx, s.schema.Replicas()+"newer", "\x09"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.DeleteCluster(ctx, "east"); !errors.Is(err, ErrConfigured) {
		t.Errorf("with a heartbeat that cannot be read: %v", err)
	}
}
