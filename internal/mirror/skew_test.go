package mirror

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
)

// later gives messages a field that this version does not know.
func later[M proto.Message](m M) M {
	b := protowire.AppendTag(nil, 1000, protowire.BytesType)
	m.ProtoReflect().SetUnknown(protowire.AppendString(b, "said by a later version"))
	return m
}

func (r *rig) laterSlice() *feedv1.Entry {
	r.t.Helper()
	v := later(&storev1.Slice{Cluster: "west", Namespace: "default", Service: "cart", Epoch: 1, Seq: 1})
	for _, id := range []string{"a", "b"} {
		v.Instances = append(v.Instances, later(&catalogv1.Instance{
			Cluster: "west", Namespace: "default", Service: "cart", Id: id, Address: "10.0.0.1", Port: 80,
			Health: 99, Locality: later(&catalogv1.Locality{Zone: "z"}),
		}))
	}
	// A record that is of no use to this version may be of use to a later one.
	v.Instances = append(v.Instances, &catalogv1.Instance{Cluster: "west", Namespace: "default", Service: "cart", Id: "no-port", Address: "10.0.0.1", Port: 1 << 20})
	return r.entry(keys.Key{Kind: keys.Slice, Cluster: "west", Name: cart}, v)
}

// TestWhatALaterVersionWroteIsSavedAsItIs: an agent that is upgraded starts from what it saved before
// the upgrade, and so must find there what it did not know yet.
func TestWhatALaterVersionWroteIsSavedAsItIs(t *testing.T) {
	r := newRig(t)
	was := map[string]*feedv1.Entry{}
	for _, e := range []*feedv1.Entry{
		r.laterSlice(),
		r.entry(keys.Key{Kind: keys.Meta, Cluster: "west"}, later(&storev1.ClusterMeta{Cluster: "west", Epoch: 1, Registries: []*storev1.RegistryStatus{later(&storev1.RegistryStatus{Name: "r", State: 99})}})),
		r.entry(keys.Key{Kind: keys.Synced, Cluster: "west"}, later(&storev1.Synced{Cluster: "west", Epoch: 1})),
		r.entry(keys.Key{Kind: keys.Agent, Cluster: "west", Node: "n"}, later(&catalogv1.Agent{Cluster: "west", Node: "n", Apps: []*catalogv1.App{later(&catalogv1.App{Id: "x"})}})),
		r.entry(keys.Key{Kind: keys.Holds, Cluster: "west"}, later(&storev1.Holds{Cluster: "west", Epoch: 1, Groups: []*storev1.HoldGroup{later(&storev1.HoldGroup{Registry: "r"})}})),
	} {
		was[e.GetKey()] = e
	}
	r.m.Begin("one")
	for _, e := range was {
		r.m.Apply(start, []*feedv1.Entry{e}, r.rev)
	}
	r.m.End(r.rev)
	for range 2 { // and what was loaded is saved as well as what was read
		_, _, saved, err := r.m.Save(start)
		if err != nil {
			t.Fatal(err)
		}
		is := map[string][]byte{}
		for _, e := range saved {
			is[e.GetKey()] = e.GetValue()
		}
		for key, e := range was {
			if !bytes.Equal(is[key], e.GetValue()) {
				t.Errorf("%s: %x was saved as %x", key, e.GetValue(), is[key])
			}
		}
		next := New(r.schema)
		next.Begin("one")
		next.Apply(start, saved, r.rev)
		next.End(r.rev)
		r.m = next
	}
}

// TestAHealthThatIsNotKnown: it is not called while anything better is there, and it is counted.
func TestAHealthThatIsNotKnown(t *testing.T) {
	r := newRig(t)
	r.m.Apply(start, []*feedv1.Entry{r.laterSlice()}, r.rev)
	list, _ := r.m.Instances("west", cart)
	if len(list) != 2 || list[0].Health != catalog.Unhealthy || list[1].Health != catalog.Unhealthy {
		t.Errorf("got %v", list)
	}
	if n := r.m.Refused()[UnknownHealth]; n != 2 {
		t.Errorf("counted %d", n)
	}
}
