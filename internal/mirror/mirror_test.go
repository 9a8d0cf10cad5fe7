package mirror

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var (
	start = time.Now()
	cart  = catalog.Name{Namespace: "default", Service: "cart"}
)

// rig drives a Mirror with short words.
type rig struct {
	t      *testing.T
	m      *Mirror
	schema keys.Schema
	rev    int64
}

func newRig(t *testing.T) *rig {
	t.Helper()
	schema, err := keys.New("test")
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t: t, m: New(schema), schema: schema}
}

func (r *rig) entry(k keys.Key, v proto.Message) *feedv1.Entry {
	r.t.Helper()
	r.rev++
	b, err := keys.Encode(v)
	if err != nil {
		r.t.Fatal(err)
	}
	return &feedv1.Entry{Key: r.schema.Format(k), Value: b, Revision: r.rev}
}

func (r *rig) slice(cluster string, num uint32, epoch, seq uint64, ids ...string) *feedv1.Entry {
	r.t.Helper()
	return r.sliceAt(80, cluster, num, epoch, seq, ids...)
}

// sliceAt is slice with a port other than 80.
func (r *rig) sliceAt(port uint32, cluster string, num uint32, epoch, seq uint64, ids ...string) *feedv1.Entry {
	r.t.Helper()
	v := &storev1.Slice{Cluster: cluster, Namespace: "default", Service: "cart", Slice: num, Epoch: epoch, Seq: seq}
	for _, id := range ids {
		v.Instances = append(v.Instances, &catalogv1.Instance{Cluster: cluster, Namespace: "default", Service: "cart", Id: id, Address: "10.0.0.1", Port: port})
	}
	return r.entry(keys.Key{Kind: keys.Slice, Cluster: cluster, Name: cart, Slice: num}, v)
}

func (r *rig) synced(cluster string, epoch uint64) *feedv1.Entry {
	r.t.Helper()
	return r.entry(keys.Key{Kind: keys.Synced, Cluster: cluster}, &storev1.Synced{Cluster: cluster, Epoch: epoch})
}

func (r *rig) beat(tick uint64, confirmed map[string]uint64) *feedv1.Entry {
	r.t.Helper()
	return r.entry(keys.Key{Kind: keys.Replica, Replica: "r1"}, &storev1.Replica{Id: "r1", Tick: tick, Confirmed: confirmed})
}

func deleted(e *feedv1.Entry) *feedv1.Entry {
	return &feedv1.Entry{Key: e.GetKey(), Revision: e.GetRevision() + 1, Deleted: true}
}

// list feeds a whole list of one store.
func (r *rig) list(storeID string, entries ...*feedv1.Entry) {
	r.t.Helper()
	r.m.Begin(storeID)
	r.m.Apply(start, entries, r.rev)
	r.m.End(r.rev)
}

func (r *rig) apply(entries ...*feedv1.Entry) Changes {
	return r.m.Apply(start, entries, r.rev)
}

func (r *rig) want(cluster, ids string) {
	r.t.Helper()
	list, _ := r.m.Instances(cluster, cart)
	got := make([]string, 0, len(list))
	for _, i := range list {
		got = append(got, i.Instance)
	}
	if g := strings.Join(got, " "); g != ids {
		r.t.Errorf("%s: got %q, want %q", cluster, g, ids)
	}
}

// restart gives a mirror that starts from what this one saves, as old as it is then.
func (r *rig) restart(after time.Duration) *rig {
	r.t.Helper()
	id, rev, saved, err := r.m.Save(start.Add(after))
	if err != nil {
		r.t.Fatal(err)
	}
	again := newRig(r.t)
	again.rev = rev
	again.list(id, saved...)
	return again
}

func (r *rig) state(cluster string, now time.Time) catalog.ClusterState {
	for _, c := range r.m.Clusters(now) {
		if c.Name == cluster {
			return c.State
		}
	}
	return catalog.StateUnknown
}

func TestSlicesUniteAndTheLaterWritingWins(t *testing.T) {
	r := newRig(t)
	r.list("s1", r.slice("east", 0, 1, 1, "a", "b"), r.slice("east", 1, 1, 2, "b", "c"), r.synced("east", 1))
	r.want("east", "a b c")
	r.apply(r.slice("east", 0, 1, 3, "a"))
	r.want("east", "a b c") // b still stands in slice 1
	r.apply(deleted(r.slice("east", 1, 1, 2)))
	r.want("east", "a")
}

func TestValuesNeverGoBack(t *testing.T) {
	r := newRig(t)
	r.list("s1", r.slice("east", 0, 2, 5, "a", "b"), r.synced("east", 2))
	for name, e := range map[string]*feedv1.Entry{
		"lower seq":                    r.slice("east", 0, 2, 4, "x"),
		"lower epoch, higher sequence": r.slice("east", 0, 1, 99, "x"),
	} {
		r.apply(e)
		if r.want("east", "a b"); t.Failed() {
			t.Fatalf("%s was believed", name)
		}
	}
	if n := r.m.Refused()[RefusedOlder]; n != 2 {
		t.Errorf("refused as older: %d, want 2", n)
	}
	r.apply(r.slice("east", 0, 3, 1, "c"))
	r.want("east", "c")
}

func TestValueMustMatchItsKey(t *testing.T) {
	r := newRig(t)
	r.list("s1", r.slice("east", 0, 1, 1, "a"), r.synced("east", 1))
	for name, spoil := range map[string]func(*feedv1.Entry){
		"another cluster's value": func(e *feedv1.Entry) { e.Value = r.slice("west", 0, 9, 9, "x").GetValue() },
		"another slice's value":   func(e *feedv1.Entry) { e.Value = r.slice("east", 7, 9, 9, "x").GetValue() },
		"garbage":                 func(e *feedv1.Entry) { e.Value = []byte{1, 0xff, 0xff} },
		"nothing":                 func(e *feedv1.Entry) { e.Value = nil },
	} {
		e := r.slice("east", 0, 9, 9, "x")
		spoil(e)
		r.apply(e)
		if r.want("east", "a"); t.Failed() {
			t.Fatalf("%s was believed", name)
		}
	}
	// The key was named in a list though its value is corrupt: the last good one is not swept.
	bad := r.slice("east", 0, 9, 9, "x")
	bad.Value = []byte("garbage")
	r.list("s1", bad, r.synced("east", 1))
	r.want("east", "a")
}

func TestOneBadInstanceDoesNotSpoilItsSlice(t *testing.T) {
	r := newRig(t)
	v := &storev1.Slice{Cluster: "east", Namespace: "default", Service: "cart", Epoch: 1, Seq: 1, Instances: []*catalogv1.Instance{
		{Cluster: "east", Namespace: "default", Service: "cart", Id: "a", Address: "10.0.0.1", Port: 80},
		{Cluster: "west", Namespace: "default", Service: "cart", Id: "stolen", Address: "10.0.0.1", Port: 80},
		{Cluster: "east", Namespace: "default", Service: "cart", Id: "meta", Address: "169.254.169.254", Port: 80},
	}}
	r.list("s1", r.entry(keys.Key{Kind: keys.Slice, Cluster: "east", Name: cart}, v), r.synced("east", 1))
	r.want("east", "a")
	if n := r.m.Refused()[RefusedRecord]; n != 2 {
		t.Errorf("refused records: %d, want 2", n)
	}
}

func TestRelistSweepsWhatItDoesNotName(t *testing.T) {
	r := newRig(t)
	r.list("s1", r.slice("east", 0, 1, 1, "a"), r.slice("east", 1, 1, 2, "b"), r.synced("east", 1), r.slice("west", 0, 1, 1, "w"), r.synced("west", 1))
	r.list("s1", r.slice("east", 0, 1, 1, "a"), r.synced("east", 1))
	r.want("east", "a")
	r.want("west", "") // its marker was in this store and is gone: removed
	if len(r.m.Clusters(start)) != 1 {
		t.Errorf("clusters: %v, want east only", r.m.Clusters(start))
	}
}

func TestNewStoreEmptiesNobodyUntilItsMarkers(t *testing.T) {
	r := newRig(t)
	r.list("s1", r.slice("east", 0, 3, 1, "a", "b"), r.synced("east", 3), r.slice("west", 0, 3, 1, "w"), r.synced("west", 3))
	r.list("s2") // wiped
	r.want("east", "a b")
	r.want("west", "w")
	r.apply(r.slice("east", 1, 4, 1, "c"))
	r.want("east", "a b c")
	r.list("s2", r.slice("east", 1, 4, 1, "c")) // a reconnect in between changes nothing
	r.want("east", "a b c")
	ch := r.apply(r.synced("east", 4))
	r.want("east", "c")
	if _, ok := ch.Services[cart]; !ok {
		t.Error("the sweep was not told as a change")
	}
	r.want("west", "w")
}

// A list of a new store that breaks off is not the old store's any more, nor is it the new
// one's yet.
func TestListThatBreaksOff(t *testing.T) {
	r := newRig(t)
	r.rev = 1000
	r.list("s1", r.slice("east", 0, 1, 1, "a"), r.synced("east", 1))
	was := r.rev
	r.m.Begin("s2")
	if id, rev := r.m.Position(); id != "s1" || rev != was {
		t.Errorf("in mid-list: at %s %d, of which it has nothing", id, rev)
	}
	r.list("s2")
	r.want("east", "a")
	r.m.Begin("s2")
	r.m.Abandon()
	r.apply(r.slice("east", 1, 1, 2, "b"))
	if _, rev := r.m.Position(); rev != r.rev {
		t.Errorf("after an abandoned list changes move it on: at %d, want %d", rev, r.rev)
	}
	r.want("east", "a b")
}

// What a list that broke off brought of a new store does not make its marker one of the past.
func TestListOfANewStoreThatBreaksOffHalfWay(t *testing.T) {
	r := newRig(t)
	r.list("s1", r.slice("east", 0, 1, 1, "a"), r.synced("east", 1))
	r.m.Begin("s2")
	r.apply(r.slice("east", 0, 2, 1, "b"), r.synced("east", 2))
	r.want("east", "b")
	r.list("s2", r.slice("east", 1, 2, 2, "c"), r.synced("east", 2))
	r.want("east", "c")
}

func TestOwedSweepSurvivesTheDisk(t *testing.T) {
	r := newRig(t)
	agent := r.entry(keys.Key{Kind: keys.Agent, Cluster: "east", Node: "n1"}, &catalogv1.Agent{Cluster: "east", Node: "n1", Address: "10.0.0.1:50002"})
	r.list("s1", r.slice("east", 0, 1, 1, "a"), r.synced("east", 1), agent)
	r.list("s2") // wiped
	again := r.restart(0)
	for range 2 {
		again.want("east", "a")
		if len(again.m.Agents()) != 1 {
			t.Error("an agent's record is gone with the store")
		}
		again.list("s2") // still not refilled
	}
	again.apply(again.synced("east", 2))
	again.want("east", "")
}

func TestRestoredBackupSweepsNothing(t *testing.T) {
	r := newRig(t)
	r.list("s1", r.slice("east", 0, 1, 1, "a"), r.synced("east", 1))
	r.apply(r.slice("east", 1, 1, 2, "b"))
	r.list("s2", r.slice("east", 0, 1, 1, "a"), r.synced("east", 1))
	r.want("east", "a b")
	r.apply(r.slice("east", 0, 2, 1, "a"))
	r.apply(r.synced("east", 2))
	r.want("east", "a")
}

// A store that was restored from a backup while no synchronizer lived keeps its id, and what was lost
// may have been written under the very epoch that it still has. A list that states a key at a lower
// revision than the one held of the same store, and is not behind that itself, proves it: then a higher
// epoch is demanded, or the reader would keep what nobody else holds for ever.
func TestAStoreThatWentBackUnderItsIDDemandsAHigherEpoch(t *testing.T) {
	r := newRig(t)
	backup := r.slice("east", 0, 1, 1, "a")
	marker := r.synced("east", 1)
	r.list("s1", backup, marker)
	r.apply(r.slice("east", 0, 1, 2, "b")) // lost with what came after the backup
	r.want("east", "b")
	r.rev += 10 // heartbeats of the store that was restored
	r.list("s1", backup, marker)
	if got := r.m.Demand("east"); got < 2 {
		t.Errorf("epoch %d is demanded: its owner never writes the list again, and %v is kept for ever", got, "b")
	}
}

// A reader that comes to a replica which is behind the last one may be sent a list of before. It says
// nothing of what came after it.
func TestOlderListSweepsNothingYounger(t *testing.T) {
	r := newRig(t)
	west := []*feedv1.Entry{r.slice("west", 0, 1, 1, "w"), r.synced("west", 1)}
	then := r.rev
	agent := r.entry(keys.Key{Kind: keys.Agent, Cluster: "east", Node: "n1"}, &catalogv1.Agent{Cluster: "east", Node: "n1", Address: "10.0.0.1:50002"})
	east := []*feedv1.Entry{r.slice("east", 0, 1, 1, "a"), r.slice("east", 1, 1, 2, "b"), r.synced("east", 1)}
	r.list("s1", append(east, append(west, agent)...)...)
	old := r.slice("west", 0, 2, 1, "x")
	r.apply(old, r.synced("west", 2))
	r.m.Begin("s1")
	r.m.Apply(start, west, then)
	r.m.End(then)
	r.want("east", "a b")
	r.want("west", "x")
	if len(r.m.Agents()) != 1 {
		t.Error("an agent's record is gone that came after the list")
	}
	if _, rev := r.m.Position(); rev != then {
		t.Errorf("it is at %d, not where the list is, %d", rev, then)
	}
	// What was deleted in between is told by what follows the list.
	r.apply(append(slices.Clone(east[:1]), agent, deleted(east[1]), east[2])...)
	r.want("east", "a")
	r.list("s1", append(west, east[0])...)
	r.want("east", "a")
	r.list("s2", r.slice("east", 0, 3, 1, "c"), r.synced("east", 3))
	r.want("east", "c")
}

// Of two owners with one epoch, each in a store that knew nothing of the other, nobody can tell whose
// word is the later one. So in another store a higher one is demanded.
func TestAnotherStoreDemandsAHigherEpoch(t *testing.T) {
	r := newRig(t)
	want := func(what string, demand uint64) {
		t.Helper()
		if got := r.m.Demand("east"); got != demand || r.m.Clusters(start)[0].Demand != demand {
			t.Errorf("%s: %d is demanded, not %d", what, got, demand)
		}
	}
	if got := r.m.Demand("east"); got != 0 {
		t.Errorf("of a cluster that is not known %d is demanded", got)
	}
	r.list("s1", r.slice("east", 0, 1, 5, "a"), r.synced("east", 1))
	want("in its first store", 1)
	r.list("s2", r.slice("east", 0, 1, 2, "b"), r.synced("east", 1))
	r.want("east", "a")
	want("in another one", 2)
	r.apply(r.slice("east", 0, 3, 2, "b"), r.synced("east", 3))
	r.want("east", "b")
	want("when that is heeded", 3)
	r.list("s2", r.slice("east", 0, 3, 2, "b"), r.synced("east", 3))
	want("in the same one again", 3)
}

// What an owner wrote in a store of which it did not know what was before it may be refused for ever,
// though a later owner vouches for it: that is to be written again.
func TestWhatIsVouchedForAndRefusedIsDemandedAnew(t *testing.T) {
	for what, seq := range map[string]uint64{"older": 2, "as old": 5} {
		r := newRig(t)
		r.list("s1", r.slice("east", 0, 1, 5, "a"), r.synced("east", 1))
		blind := r.slice("east", 0, 1, seq, "b")
		r.list("s2", blind, r.synced("east", 1))
		if got := r.m.Demand("east"); got != 2 {
			t.Errorf("%s: before the next owner %d is demanded, not 2", what, got)
		}
		next := r.restart(0)
		next.list("s2", blind, next.synced("east", 2))
		for _, r := range []*rig{r, next} {
			r.apply(r.synced("east", 2))
			r.want("east", "a")
			if got := r.m.Demand("east"); got != 3 {
				t.Errorf("%s: %d is demanded, not 3", what, got)
			}
			r.list("s2", r.slice("east", 0, 4, 2, "b"), r.synced("east", 4))
			r.want("east", "b")
			if got := r.m.Demand("east"); got != 4 {
				t.Errorf("%s: when it was written again %d is demanded, not 4", what, got)
			}
		}
	}
}

func TestHeartbeatThatDoesNotMoveConfirmsNothing(t *testing.T) {
	r := newRig(t)
	beat := r.beat(10, map[string]uint64{"east": 10})
	entries := []*feedv1.Entry{r.slice("east", 0, 1, 1, "a"), r.synced("east", 1), beat}
	r.list("s1", entries...)
	later := start.Add(time.Hour)
	r.m.Begin("s1")
	r.m.Apply(later, entries, r.rev)
	r.m.End(r.rev)
	if s := r.state("east", later); s != catalog.StateStale {
		t.Errorf("an hour after the heartbeat last moved: %s", s)
	}
}

func TestHasAgent(t *testing.T) {
	r := newRig(t)
	record := &catalogv1.Agent{Cluster: "east", Node: "n1", Address: "10.0.0.1:50002"}
	e := r.entry(keys.Key{Kind: keys.Agent, Cluster: "east", Node: "n1"}, record)
	r.list("s1", e)
	if !r.m.HasAgent(record) || r.m.HasAgent(&catalogv1.Agent{Cluster: "east", Node: "n1", Address: "10.0.0.2:1"}) {
		t.Error("it has this record and no other")
	}
	r.list("s2")
	if r.m.HasAgent(record) {
		t.Error("the new store has nothing yet")
	}
	r.apply(e)
	if !r.m.HasAgent(record) {
		t.Error("the new store has it now")
	}
}

func TestStateAndAge(t *testing.T) {
	r := newRig(t)
	r.list("s1", r.slice("east", 0, 1, 1, "a"))
	if got := r.state("east", start); got != catalog.StateUnknown {
		t.Fatalf("before its marker: %v", got)
	}
	r.list("s1", r.slice("east", 0, 1, 1, "a"), r.synced("east", 1))
	if got := r.state("east", start); got != catalog.StateStale {
		t.Fatalf("before a heartbeat: %v", got)
	}
	r.apply(r.synced("west", 1))
	if got := r.state("west", start); got != catalog.StateSynced {
		t.Fatalf("just synced, as this reader saw: %v", got)
	}
	r.apply(r.beat(10, map[string]uint64{"east": 9}))
	for _, c := range []struct {
		after time.Duration
		want  catalog.ClusterState
	}{{0, catalog.StateSynced}, {2 * time.Second, catalog.StateSynced}, {2100 * time.Millisecond, catalog.StateStale}} {
		if got := r.state("east", start.Add(c.after)); got != c.want {
			t.Errorf("%v after a heartbeat that is a tick behind: %v, want %v", c.after, got, c.want)
		}
	}
	// Heartbeats that go on without a confirmation do not make it fresh.
	r.m.Apply(start.Add(5*time.Second), []*feedv1.Entry{r.beat(15, map[string]uint64{"east": 9})}, r.rev)
	if got := r.state("east", start.Add(5*time.Second)); got != catalog.StateStale {
		t.Errorf("unconfirmed: %v", got)
	}
	r.want("east", "a")
	r.m.Apply(start.Add(6*time.Second), []*feedv1.Entry{deleted(r.beat(16, nil))}, r.rev)
	r.want("east", "a")
}

func TestHeldRemovalsShowAsProtected(t *testing.T) {
	r := newRig(t)
	meta := r.entry(keys.Key{Kind: keys.Meta, Cluster: "east"}, &storev1.ClusterMeta{Cluster: "east", Registries: []*storev1.RegistryStatus{{Name: "consul", Held: 3}}})
	r.list("s1", meta, r.synced("east", 1), r.beat(1, map[string]uint64{"east": 1}))
	if got := r.state("east", start); got != catalog.StateProtected {
		t.Errorf("state %v", got)
	}
}

func TestSaveIsReadBack(t *testing.T) {
	r := newRig(t)
	agent := r.entry(keys.Key{Kind: keys.Agent, Cluster: "east", Node: "n/1"}, &catalogv1.Agent{Cluster: "east", Node: "n/1", Address: "10.0.0.1:50002"})
	r.list("s1", r.slice("east", 0, 2, 7, "a", "b"), r.synced("east", 2), agent, r.beat(3, map[string]uint64{"east": 3}))
	again := r.restart(10 * time.Second)
	again.want("east", "a b")
	c := again.m.Clusters(start)[0]
	if len(again.m.Agents()) != 1 || c.State != catalog.StateStale || c.Age != 10*time.Second {
		t.Errorf("agents %v, cluster %+v; want one, and STALE for 10 s", again.m.Agents(), c)
	}
	if id, rev := again.m.Position(); id != "s1" || rev != r.rev {
		t.Errorf("position %s %d", id, rev)
	}
	// What was saved still fences: an older value is refused after a restart.
	again.apply(again.slice("east", 0, 2, 6, "x"))
	again.want("east", "a b")
}

func TestUnchangedInstancesKeepTheirPointer(t *testing.T) {
	r := newRig(t)
	r.list("s1", r.slice("east", 0, 1, 1, "a"), r.synced("east", 1))
	before, _ := r.m.Instances("east", cart)
	r.apply(r.slice("east", 0, 1, 2, "a", "b"))
	after, _ := r.m.Instances("east", cart)
	if before[0] != after[0] {
		t.Error("an unchanged instance was made anew")
	}
}

// However slices come, change and go, the list is what a reader that starts over would have.
func FuzzListIsTheUnion(f *testing.F) {
	f.Add([]byte{0, 1, 2, 1, 9, 17, 0, 0, 0, 2, 3, 4})
	f.Add([]byte{0, 255, 255, 1, 255, 255, 0, 0, 0, 1, 1, 1})
	f.Add([]byte{0, 0, 0x33, 1, 0, 0xcc, 64, 0, 0x33, 65, 0, 0xc8, 64, 0, 0x23})
	f.Add([]byte{0, 0, 3, 32, 0, 7, 0, 0, 1, 1, 0, 2})
	f.Fuzz(func(t *testing.T, script []byte) {
		r := newRig(t)
		r.list("s1", r.synced("east", 1))
		seq := uint64(1)
		for ; len(script) >= 3; script = script[3:] {
			// Four slices; the bits say which of sixteen identities are in this one now.
			num, bits := uint32(script[0]%4), uint16(script[1])<<8|uint16(script[2])
			seq++
			if script[0] >= 128 {
				r.apply(deleted(r.slice("east", num, 1, seq)))
			} else {
				var ids []string
				for b := range 16 {
					if bits>>b&1 == 1 {
						ids = append(ids, fmt.Sprintf("i%02d", b))
					}
				}
				if script[0]>>5&1 == 1 {
					ids = append(ids, ids...) // each twice in one slice
				}
				r.apply(r.sliceAt(80+uint32(script[0]>>6&1), "east", num, 1, seq, ids...))
			}
			got, known := r.m.Instances("east", cart)
			s := r.m.clusters["east"].services[cart]
			if known != (s != nil) {
				t.Fatalf("known %v", known)
			}
			if s == nil {
				continue
			}
			again := &service{slices: s.slices}
			again.relist()
			if !catalog.EqualLists(got, again.list) {
				t.Fatalf("list %v, anew %v", got, again.list)
			}
		}
	})
}

func FuzzApply(f *testing.F) {
	f.Add("/farcall/v1/test/clusters/east/services/default/cart/0", []byte{1, 10, 4})
	f.Add("/farcall/v1/test/clusters/east/synced", []byte{1})
	f.Add("/farcall/v1/test/replicas/r", []byte{2, 1, 2, 3})
	f.Add("/farcall/v1/other/store", []byte(nil))
	schema, err := keys.New("test")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(_ *testing.T, key string, value []byte) {
		m := New(schema)
		m.Begin("s")
		m.Apply(start, []*feedv1.Entry{{Key: key, Value: value}, {Key: key, Deleted: true}, {Key: key, Value: value}}, 1)
		m.End(1)
		m.Clusters(start)
	})
}

// BenchmarkOneChange is a reader's taking of a slice of 100 instances in which one changed.
func BenchmarkOneChange(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			schema, err := keys.New("test")
			if err != nil {
				b.Fatal(err)
			}
			m := New(schema)
			m.Begin("s")
			for sl := range n / 100 {
				m.Apply(start, []*feedv1.Entry{benchSlice(b, schema, uint32(sl), 1)}, 1)
			}
			m.End(1)
			b.ReportAllocs()
			seq := uint64(1)
			var ahead []*feedv1.Entry // encoded already: that is the writer's work
			for b.Loop() {
				if len(ahead) == 0 {
					b.StopTimer()
					for i := range uint64(512) {
						ahead = append(ahead, benchSlice(b, schema, uint32(n/200), seq+1+i))
					}
					b.StartTimer()
				}
				seq++
				m.Apply(start, ahead[:1], int64(seq))
				ahead = ahead[1:]
			}
		})
	}
}

func benchSlice(b *testing.B, schema keys.Schema, num uint32, seq uint64) *feedv1.Entry {
	b.Helper()
	v := &storev1.Slice{Cluster: "east", Namespace: "default", Service: "cart", Slice: num, Epoch: 1, Seq: seq}
	for i := range uint32(100) {
		id := 100*num + i
		v.Instances = append(v.Instances, &catalogv1.Instance{
			Cluster: "east", Namespace: "default", Service: "cart", Id: fmt.Sprintf("cart-7d4b9c6f5-%05d", id), Node: fmt.Sprint("node-", id%50),
			Address: fmt.Sprintf("10.0.%d.%d", id>>8, id&255), Port: 8080, Weight: 1, Metadata: map[string]string{"version": "v2"},
		})
	}
	v.Instances[50].Port += uint32(seq % 2)
	raw, err := keys.Encode(v)
	if err != nil {
		b.Fatal(err)
	}
	return &feedv1.Entry{Key: schema.Format(keys.Key{Kind: keys.Slice, Cluster: "east", Name: cart, Slice: num}), Value: raw}
}

func TestNamesAndClusters(t *testing.T) {
	r := newRig(t)
	r.list("s1", r.slice("east", 0, 1, 1), r.slice("west", 0, 1, 1, "w"), r.synced("east", 1), r.synced("west", 1))
	if got := r.m.Names(""); !slices.Equal(got, []catalog.Name{cart}) {
		t.Errorf("names %v", got)
	}
	if list, known := r.m.Instances("east", cart); !known || len(list) != 0 {
		t.Errorf("an empty slice is a confirmed empty service: known %v, %v", known, list)
	}
	if _, known := r.m.Instances("north", cart); known {
		t.Error("a cluster nobody named knows the service")
	}
}
