package store

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/strategy"
)

// later gives messages a field that this version does not know.
func later[M proto.Message](m M, says string) M {
	b := protowire.AppendTag(nil, 1000, protowire.BytesType)
	m.ProtoReflect().SetUnknown(protowire.AppendString(b, says))
	return m
}

// saysLater is the text in that field, "" where there is none.
func saysLater(m proto.Message) string {
	_, _, n := protowire.ConsumeTag(m.ProtoReflect().GetUnknown())
	if n < 0 {
		return ""
	}
	s, _ := protowire.ConsumeString(m.ProtoReflect().GetUnknown()[n:])
	return s
}

// write puts a value into the store, as another version would.
func write(t *testing.T, s *Store, k keys.Key, v proto.Message) {
	t.Helper()
	b, err := keys.Encode(v)
	if err == nil {
		_, err = s.client.Put(testkit.Context(t), s.schema.Format(k), string(b))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// fetch reads a value of the store; false where there is none.
func fetch(t *testing.T, s *Store, k keys.Key, into proto.Message) bool {
	t.Helper()
	resp, err := s.client.Get(testkit.Context(t), s.schema.Format(k))
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		return false
	}
	if err := keys.Decode(resp.Kvs[0].Value, into); err != nil {
		t.Fatal(err)
	}
	return true
}

// laterSlice is a slice of cart that a later version wrote; of instance "new-health" it says a health
// that this one does not know.
func laterSlice(index uint32, instances []*catalog.Instance) *storev1.Slice {
	v := later(&storev1.Slice{Cluster: "east", Namespace: cart.Namespace, Service: cart.Service, Slice: index, Epoch: 3, Seq: uint64(index) + 1}, "slice")
	for _, i := range instances {
		p := later(i.Proto(), i.Instance)
		p.Locality = later(&catalogv1.Locality{}, "near "+i.Instance)
		if i.Instance == "new-health" {
			p.Health = 99
		}
		v.Instances = append(v.Instances, p)
	}
	return v
}

// laterSays gives what a slice says of its instances that this version does not know, in their order:
// "id=field,locality's field,health".
func laterSays(v *storev1.Slice) string {
	var out []string
	for _, i := range v.GetInstances() {
		out = append(out, fmt.Sprintf("%s=%s,%s,%d", i.GetId(), saysLater(i), saysLater(i.GetLocality()), i.GetHealth()))
	}
	return strings.Join(out, " ")
}

// TestAnOwnerKeepsWhatALaterOneSaidOfInstances: this version takes a cluster over from a later one, and
// back and forth while an upgrade goes on. Of an instance that has not changed as far as it can see, it
// keeps what it does not know, also where it writes the slice anew because of another instance. Of one
// that has changed it says what it knows, and no more.
func TestAnOwnerKeepsWhatALaterOneSaidOfInstances(t *testing.T) {
	for name, synced := range map[string]uint64{"and writes what changed": 3, "and writes everything, because the one before did not come to its end": 2} {
		t.Run(name, func(t *testing.T) {
			ctx := testkit.Context(t)
			s, _ := embeddedStore(t, t.TempDir())
			first, second := list("a b c new-health"), list("x y")
			list := append(slices.Clone(first), second...)
			catalog.SortInstances(list)
			for _, i := range list {
				if i.Instance == "new-health" {
					i.Health = catalog.Unhealthy
				}
			}
			slice := func(n uint32) keys.Key { return keys.Key{Kind: keys.Slice, Cluster: "east", Name: cart, Slice: n} }
			unknown := s.schema.Cluster("east") + "forecast/1"
			if _, err := s.client.Put(ctx, unknown, "\x03of a later version"); err != nil {
				t.Fatal(err)
			}
			write(t, s, slice(0), laterSlice(0, first))
			write(t, s, slice(1), laterSlice(1, second))
			write(t, s, keys.Key{Kind: keys.Meta, Cluster: "east"}, later(&storev1.ClusterMeta{Cluster: "east", Epoch: 3, Owner: "b"}, "meta"))
			write(t, s, keys.Key{Kind: keys.Synced, Cluster: "east"}, &storev1.Synced{Cluster: "east", Epoch: synced})

			term := openOffice(t, member(s, "a", "east")).term(t, ctx, "east", 1)
			var meta storev1.ClusterMeta
			if !fetch(t, s, keys.Key{Kind: keys.Meta, Cluster: "east"}, &meta) || meta.GetOwner() != "a" || saysLater(&meta) != "meta" {
				t.Errorf("a change of the owner made %v of the meta", &meta)
			}
			changed := slices.Clone(list)
			at := slices.IndexFunc(changed, func(i *catalog.Instance) bool { return i.Instance == "b" })
			moved := *changed[at]
			moved.Port = 2
			changed[at] = &moved
			publish(t, ctx, term, true, map[catalog.Name]List{cart: {Instances: changed}})

			var zero, one storev1.Slice
			if !fetch(t, s, slice(0), &zero) || !fetch(t, s, slice(1), &one) {
				t.Fatal("a slice is gone")
			}
			if got, want := laterSays(&zero), "a=a,near a,1 b=,,1 c=c,near c,1 new-health=new-health,near new-health,99"; got != want || zero.GetEpoch() != 4 {
				t.Errorf("the slice that was written says %s at epoch %d, want %s at 4", got, zero.GetEpoch(), want)
			}
			if got, want := laterSays(&one), "x=x,near x,1 y=y,near y,1"; got != want || one.GetEpoch() != 3 != (synced == 2) {
				t.Errorf("the other slice says %s at epoch %d, want %s", got, one.GetEpoch(), want)
			}
			// Distrusting itself, and reading all that again, changes nothing.
			if err := term.Distrust(ctx); err != nil {
				t.Fatal(err)
			}
			before := revision(t, s)
			publish(t, ctx, term, true, map[catalog.Name]List{cart: {Instances: changed}})
			resp, err := s.client.Get(ctx, s.schema.Services("east"), clientv3.WithPrefix())
			if err != nil {
				t.Fatal(err)
			}
			for _, kv := range resp.Kvs {
				if kv.ModRevision > before {
					t.Errorf("%s was written again", kv.Key)
				}
			}
			if resp, err := s.client.Get(ctx, unknown); err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "\x03of a later version" {
				t.Errorf("a key of a later version became %v, %v", resp.Kvs, err)
			}
		})
	}
}

// TestAnInstanceThatMovesKeepsWhatALaterVersionSaid: slices are merged where many instances went.
func TestAnInstanceThatMovesKeepsWhatALaterVersionSaid(t *testing.T) {
	ctx := testkit.Context(t)
	s, _ := embeddedStore(t, t.TempDir())
	first, second := list("a b"), list("x y")
	slice := func(n uint32) keys.Key { return keys.Key{Kind: keys.Slice, Cluster: "east", Name: cart, Slice: n} }
	write(t, s, slice(0), laterSlice(0, first))
	write(t, s, slice(1), laterSlice(1, second))
	write(t, s, keys.Key{Kind: keys.Synced, Cluster: "east"}, &storev1.Synced{Cluster: "east", Epoch: 3})
	term := openOffice(t, member(s, "a", "east")).term(t, ctx, "east", 1)
	publish(t, ctx, term, true, one("a x"))
	var v storev1.Slice
	if fetch(t, s, slice(1), &storev1.Slice{}) || !fetch(t, s, slice(0), &v) {
		t.Fatal("the slices were not merged")
	}
	if got, want := laterSays(&v), "a=a,near a,1 x=x,near x,1"; got != want {
		t.Errorf("it says %s, want %s", got, want)
	}
}

// TestASliceInALaterFormatIsWrittenAgain: what this version cannot read it cannot keep, and must not leave
// for its readers, who cannot read it either.
func TestASliceInALaterFormatIsWrittenAgain(t *testing.T) {
	ctx := testkit.Context(t)
	s, _ := embeddedStore(t, t.TempDir())
	k := keys.Key{Kind: keys.Slice, Cluster: "east", Name: cart}
	if _, err := s.client.Put(ctx, s.schema.Format(k), "\x03of a later version"); err != nil {
		t.Fatal(err)
	}
	term := openOffice(t, member(s, "a", "east")).term(t, ctx, "east", 1)
	publish(t, ctx, term, true, one("a"))
	var v storev1.Slice
	if !fetch(t, s, k, &v) || len(v.GetInstances()) != 1 {
		t.Errorf("it says %v", &v)
	}
}

// TestWritesOfPoliciesKeepWhatALaterVersionSaidOfThem: the marker is everybody's, and who raises the
// revision keeps the rest of it. A policy is what was put last, and nothing of what was there before.
func TestWritesOfPoliciesKeepWhatALaterVersionSaidOfThem(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	mustPut(t, s, stating("cart", strategy.LocalFirst))
	k := keys.Key{Kind: keys.PoliciesSynced}
	write(t, s, k, later(&storev1.PoliciesSynced{Revision: 7, Restored: 3}, "marker"))
	if rev := mustPut(t, s, stating("cart", strategy.LocalOnly)); rev != 8 {
		t.Errorf("the revision is %d", rev)
	}
	var v storev1.PoliciesSynced
	if !fetch(t, s, k, &v) || v.GetRevision() != 8 || v.GetRestored() != 3 || saysLater(&v) != "marker" {
		t.Errorf("the marker became %v", &v)
	}
	held := append(heldBy(t, s), completeWith(t, s, "another", 20))
	restore(t, s, held, true)
	if !fetch(t, s, k, &v) || v.GetRevision() < 20 || saysLater(&v) != "marker" {
		t.Errorf("bringing policies back made %v of the marker", &v)
	}
}
