package mirror

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/keys"
)

// holds is one part of what is held in east: ids of cart.
func (r *rig) holds(part uint32, epoch, seq uint64, left int64, ids ...string) *feedv1.Entry {
	r.t.Helper()
	return r.entry(keys.Key{Kind: keys.Holds, Cluster: "east", Part: part}, &storev1.Holds{
		Cluster: "east", Part: part, Epoch: epoch, Seq: seq, Groups: []*storev1.HoldGroup{{
			Registry: "consul", Reason: "burst", Left: &durationpb.Duration{Seconds: left},
			Services: []*storev1.HeldService{{Namespace: "default", Service: "cart", Ids: ids}},
		}},
	})
}

func held(m *Mirror) string {
	var words []string
	for _, g := range m.Holds("east") {
		for _, s := range g.GetServices() {
			words = append(words, fmt.Sprintf("%s@%ds", strings.Join(s.GetIds(), "+"), g.GetLeft().GetSeconds()))
		}
	}
	return strings.Join(words, " ")
}

func TestHoldsAreReadByTheRulesOfValues(t *testing.T) {
	r := newRig(t)
	want := func(what string, ch Changes, changed bool, want string) {
		t.Helper()
		if got := held(r.m); got != want || ch.Holds != changed || ch.Empty() == changed {
			t.Errorf("%s: held is %q, want %q; changed %t, want %t", what, got, want, ch.Holds, changed)
		}
	}
	want("the first", r.apply(r.holds(1, 2, 1, 60, "3"), r.holds(0, 2, 2, 60, "1", "2")), true, "1+2@60s 3@60s")
	want("less time left", r.apply(r.holds(0, 2, 3, 50, "1", "2")), false, "1+2@50s 3@60s")
	want("one the less", r.apply(r.holds(0, 2, 4, 50, "2")), true, "2@50s 3@60s")
	want("an older value", r.apply(r.holds(0, 2, 3, 60, "1")), false, "2@50s 3@60s")
	want("an older epoch", r.apply(r.holds(0, 1, 9, 60, "1")), false, "2@50s 3@60s")
	foreign := r.holds(0, 9, 9, 60, "x")
	foreign.Key = strings.Replace(foreign.GetKey(), "holds/0", "holds/1", 1)
	want("another's value", r.apply(foreign), false, "2@50s 3@60s")
	torn := r.holds(1, 9, 9, 60, "x")
	torn.Value = torn.GetValue()[:5]
	want("a torn value", r.apply(torn), false, "2@50s 3@60s")
	want("a part goes", r.apply(deleted(r.holds(1, 2, 9, 0))), true, "2@50s")
	want("it goes again", r.apply(deleted(r.holds(1, 2, 9, 0))), false, "2@50s")
	if got := fmt.Sprint(r.m.Refused()); got != "map[corrupt:1 foreign:1 older:2]" {
		t.Errorf("refused is %s", got)
	}
	if got := r.m.Holds("west"); got != nil {
		t.Errorf("of another cluster there is %v", got)
	}
	// It is no cluster by itself.
	if got := r.m.Clusters(start); len(got) != 0 {
		t.Errorf("clusters are %v", got)
	}
}

func TestAListReplacesWhatIsHeld(t *testing.T) {
	r := newRig(t)
	list := func(store string, entries ...*feedv1.Entry) Changes {
		r.m.Begin(store)
		r.m.Apply(start, entries, r.rev)
		return r.m.End(r.rev)
	}
	list("s1", r.holds(0, 1, 1, 60, "1"), r.holds(1, 1, 2, 60, "2"))
	if ch := list("s1", r.holds(0, 1, 1, 60, "1")); held(r.m) != "1@60s" || !ch.Holds {
		t.Errorf("held is %q, changed %t", held(r.m), ch.Holds)
	}
	if ch := list("s1", r.holds(0, 1, 1, 60, "1")); held(r.m) != "1@60s" || ch.Holds {
		t.Errorf("after the same again: held is %q, changed %t", held(r.m), ch.Holds)
	}

	// What is saved is read back.
	id, rev, entries, err := r.m.Save(start)
	if err != nil {
		t.Fatal(err)
	}
	again := newRig(t)
	again.m.Begin(id)
	again.m.Apply(start, entries, rev)
	again.m.End(rev)
	if held(again.m) != "1@60s" {
		t.Errorf("saved and read back: %q", held(again.m))
	}
}

func TestWhoIsConfiguredForACluster(t *testing.T) {
	r := newRig(t)
	beat := func(id string, tick uint64, clusters ...string) *feedv1.Entry {
		return r.entry(keys.Key{Kind: keys.Replica, Replica: id}, &storev1.Replica{Id: id, Tick: tick, Address: "10.0.0.1:7700", Clusters: clusters})
	}
	want := func(what, ids string, known bool) {
		t.Helper()
		got, is := r.m.Configured("east")
		if strings.Join(got, " ") != ids || is != known {
			t.Errorf("%s: %v, known %t", what, got, is)
		}
	}
	want("nobody is there", "", false)
	r.apply(beat("r2", 1, "west", "east"), beat("r1", 1, "east"), beat("r3", 1))
	want("two of three", "r1 r2", true)
	r.apply(beat("r2", 2, "west"), deleted(beat("r1", 1)))
	want("one began anew without it, one is gone", "", true)
	r.apply(deleted(beat("r2", 2)), deleted(beat("r3", 1)))
	want("all are gone", "", false)
}
