package view

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/farcall/farcall/agent/pick"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/reach"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers/intake"
	"github.com/farcall/farcall/strategy"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var (
	cart = catalog.Name{Namespace: "default", Service: "cart"}
	now  = time.Now()
)

// rig is a Book of node n1 in cluster east, with a feed.
type rig struct {
	t      testing.TB
	b      *Book
	m      *mirror.Mirror
	schema keys.Schema
	rev    int64
	seq    uint64
}

func newRig(t testing.TB, hasRegistry bool) *rig {
	t.Helper()
	schema, err := keys.New("test")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, schema: schema, m: mirror.New(schema)}
	r.b = New(Config{Self: reach.Self{Cluster: "east", Node: "n1", Address: "10.0.0.1:50002"}, HasRegistry: hasRegistry})
	return r
}

// feed attaches the mirror and gives it a first list.
func (r *rig) feed(entries ...*feedv1.Entry) {
	r.b.Attach(r.m)
	r.m.Begin("s1")
	a := r.m.Apply(now, entries, r.rev)
	r.b.Changed(a)
	r.b.Changed(r.m.End(r.rev))
}

func (r *rig) change(entries ...*feedv1.Entry) { r.b.Changed(r.m.Apply(now, entries, r.rev)) }

func (r *rig) entry(k keys.Key, v proto.Message) *feedv1.Entry {
	r.t.Helper()
	r.rev++
	b, err := keys.Encode(v)
	if err != nil {
		r.t.Fatal(err)
	}
	return &feedv1.Entry{Key: r.schema.Format(k), Value: b, Revision: r.rev}
}

// list is a cluster's list of cart; a word is id or id@node.
func (r *rig) list(cluster string, words ...string) *feedv1.Entry {
	r.seq++
	v := &storev1.Slice{Cluster: cluster, Namespace: "default", Service: "cart", Epoch: 1, Seq: r.seq}
	for _, i := range instances(cluster, words...) {
		v.Instances = append(v.Instances, i.Proto())
	}
	return r.entry(keys.Key{Kind: keys.Slice, Cluster: cluster, Name: cart}, v)
}

func (r *rig) synced(cluster string) *feedv1.Entry {
	return r.entry(keys.Key{Kind: keys.Synced, Cluster: cluster}, &storev1.Synced{Cluster: cluster, Epoch: 1})
}

func (r *rig) agent(cluster, node, address string) *feedv1.Entry {
	return r.entry(keys.Key{Kind: keys.Agent, Cluster: cluster, Node: node}, &catalogv1.Agent{Cluster: cluster, Node: node, Address: address})
}

func instances(cluster string, words ...string) []*catalog.Instance {
	var out []*catalog.Instance
	for _, w := range words {
		id, node, _ := strings.Cut(w, "@")
		out = append(out, &catalog.Instance{
			ID:   catalog.ID{Cluster: cluster, Name: cart, Instance: id},
			Node: node, Address: "10.9.0.1", Port: 80, Weight: 1,
		})
	}
	return out
}

func local(complete bool, words ...string) intake.Change {
	return intake.Change{Complete: complete, Services: map[catalog.Name]intake.List{cart: {Instances: instances("east", words...)}}}
}

// tiers gives a plan's tiers as words: "local: a b | *: c".
func (r *rig) tiers(kind strategy.Kind) string {
	r.t.Helper()
	p, err := r.b.Service(cart).Plan(kind, true, "")
	if err != nil {
		return err.Error()
	}
	if u := p.Decision.Unavailable; u != "" {
		return string(u)
	}
	var tiers []string
	for n := range p.Decision.Tiers {
		t := &p.Decision.Tiers[n]
		var ids []string
		for c := range t.Candidates() {
			ids = append(ids, c.Instance.Instance)
		}
		slices.Sort(ids)
		if t.Failure != "" {
			ids = append(ids, string(t.Failure))
		}
		tiers = append(tiers, t.Name+": "+strings.Join(ids, " "))
	}
	return strings.Join(tiers, " | ")
}

func (r *rig) want(kind strategy.Kind, tiers string) {
	r.t.Helper()
	if got := r.tiers(kind); got != tiers {
		r.t.Errorf("%s: got %q, want %q", kind, got, tiers)
	}
}

func TestLocalWinsForItsOwnCluster(t *testing.T) {
	r := newRig(t, true)
	r.feed(r.list("east", "old@n1"), r.list("west", "w@x"), r.agent("west", "x", "10.1.0.1:50002"), r.synced("east"), r.synced("west"))
	// Until the own registry was read, the synchronizer's word of the own cluster stands in.
	r.want(strategy.LocalFirst, "local: old | *: w")
	r.b.Local(local(true, "new@n1"))
	r.want(strategy.LocalFirst, "local: new | *: w")
	r.change(r.list("east", "older@n1"))
	r.want(strategy.LocalFirst, "local: new | *: w")
}

func TestWithoutRegistriesTheFeedIsTheOwnList(t *testing.T) {
	r := newRig(t, false)
	r.feed(r.list("east", "a@n1"), r.synced("east"))
	r.want(strategy.LocalOnly, "local: a")
	if _, ok := r.b.Own(catalog.ID{Cluster: "east", Name: cart, Instance: "a"}); !ok {
		t.Error("the own node's instance is not known as own")
	}
	r.change(r.list("east", "b@n1"))
	r.want(strategy.LocalOnly, "local: b")
	if _, ok := r.b.Own(catalog.ID{Cluster: "east", Name: cart, Instance: "a"}); ok {
		t.Error("an instance that is gone is still own")
	}
}

func TestAClusterThatTheFederationDoesNotHave(t *testing.T) {
	r := newRig(t, true)
	if r.b.Stranger() {
		t.Error("a stranger before anything is known of the federation")
	}
	r.feed(r.synced("west"))
	if !r.b.Stranger() {
		t.Error("no stranger in a federation of west alone")
	}
	r.change(r.synced("east"))
	if r.b.Stranger() {
		t.Error("a stranger still after its cluster joined")
	}
}

func TestUnsyncedIsNotEmpty(t *testing.T) {
	r := newRig(t, true)
	r.want(strategy.LocalFirst, "NOT_SYNCED")
	r.b.Local(intake.Change{Complete: true})
	r.want(strategy.LocalFirst, "NOT_SYNCED") // the federation is not known yet
	r.feed(r.synced("east"), r.entry(keys.Key{Kind: keys.Meta, Cluster: "west"}, &storev1.ClusterMeta{Cluster: "west"}))
	r.want(strategy.LocalFirst, "NOT_SYNCED") // west was never synced
	r.change(r.synced("west"))
	r.want(strategy.LocalFirst, "NOT_FOUND")
}

func TestAgentsAndTheirAddressesAreFollowed(t *testing.T) {
	r := newRig(t, true)
	r.b.Local(intake.Change{Complete: true})
	r.feed(r.list("west", "w@x"), r.synced("east"), r.synced("west"))
	r.want(strategy.ExternalOnly, "NO_EXTERNAL_INSTANCES")
	r.change(r.agent("west", "x", "10.1.0.1:50002"))
	r.want(strategy.ExternalOnly, "*: w")
	p, err := r.b.Service(cart).Plan(strategy.ExternalOnly, true, "")
	if err != nil {
		t.Fatal(err)
	}
	if picked, ok := p.Picker.Pick(nil); !ok || picked.Dial != "10.1.0.1:50002" {
		t.Errorf("picked %+v, %v", picked, ok)
	}
}

func TestUnreachableRelays(t *testing.T) {
	r := newRig(t, true)
	r.b.Local(local(true, "l@n1"))
	r.feed(r.list("west", "w1@x", "w2@y"), r.agent("west", "x", "10.1.0.1:1"), r.agent("west", "y", "10.1.0.2:1"), r.synced("east"), r.synced("west"))
	r.want(strategy.ExternalFirst, "*: w1 w2 | local: l")
	r.b.Reachable(map[string]struct{}{"10.1.0.1:1": {}})
	r.want(strategy.ExternalFirst, "*: w2 | local: l")
	r.b.Reachable(map[string]struct{}{"10.1.0.1:1": {}, "10.1.0.2:1": {}})
	if got := r.tiers(strategy.Broadcast); !strings.Contains(got, "west:") || !strings.Contains(got, "UNREACHABLE") {
		t.Errorf("broadcast does not name the unreachable cluster: %q", got)
	}
	p, err := r.b.Service(cart).Plan(strategy.ExternalFirst, true, "")
	if err != nil {
		t.Fatal(err)
	}
	if picked, ok := p.Picker.Pick(nil); !ok || picked.Instance.Instance != "l" {
		t.Errorf("with no external reachable picked %v", picked)
	}
	r.b.Reachable(nil)
	r.want(strategy.ExternalFirst, "*: w1 w2 | local: l")
}

// An agent that starts while one of its registries is down does not take its silence for an
// empty list.
func TestRegistryThatWasNotReadYet(t *testing.T) {
	r := newRig(t, true)
	held := instances("east", "c1@n1", "f1@n1", "f2@n1")
	held[0].Registry, held[1].Registry, held[2].Registry = "consul", "file", "file"
	v := &storev1.Slice{Cluster: "east", Namespace: "default", Service: "cart", Epoch: 1, Seq: 9}
	for _, i := range held {
		v.Instances = append(v.Instances, i.Proto())
	}
	r.feed(r.entry(keys.Key{Kind: keys.Slice, Cluster: "east", Name: cart}, v), r.synced("east"))
	ch := local(false, "f1@n1")
	ch.Registries = []catalog.RegistryStatus{{Name: "file", Complete: true}, {Name: "consul"}}
	r.b.Local(ch)
	r.want(strategy.LocalOnly, "local: c1 f1")
	if _, ok := r.b.Own(held[0].ID); !ok {
		t.Error("the unread registry's instance is not own any more")
	}
	ch = local(true, "f1@n1")
	ch.Registries = []catalog.RegistryStatus{{Name: "file", Complete: true}, {Name: "consul", Complete: true}}
	r.b.Local(ch)
	r.want(strategy.LocalOnly, "local: f1")
}

func TestOwnIsNeverBlank(t *testing.T) {
	r := newRig(t, true)
	r.b.Local(local(true, "a@n1"))
	r.feed(r.synced("east"))
	id := catalog.ID{Cluster: "east", Name: cart, Instance: "a"}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range 300 {
			r.b.Reachable(map[string]struct{}{fmt.Sprint("10.9.9.9:", n+1): {}})
			r.change(r.agent("west", fmt.Sprint("x", n), "10.1.0.1:1"))
		}
	}()
	for {
		if _, ok := r.b.Own(id); !ok {
			t.Fatal("an own instance vanished while others changed")
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

// Instances that take no calls do not make their cluster reachable.
func TestUnreachableClusterWithDrainingRest(t *testing.T) {
	r := newRig(t, true)
	r.b.Local(local(true, "l@n1"))
	v := &storev1.Slice{Cluster: "west", Namespace: "default", Service: "cart", Epoch: 1, Seq: 9}
	list := instances("west", "w1@x", "w2@y")
	list[1].Health = catalog.Draining
	for _, i := range list {
		v.Instances = append(v.Instances, i.Proto())
	}
	r.feed(r.entry(keys.Key{Kind: keys.Slice, Cluster: "west", Name: cart}, v), r.agent("west", "x", "10.1.0.1:1"), r.agent("west", "y", "10.1.0.2:1"), r.synced("east"), r.synced("west"))
	r.b.Reachable(map[string]struct{}{"10.1.0.1:1": {}})
	if got := r.tiers(strategy.Broadcast); !strings.Contains(got, "UNREACHABLE") {
		t.Errorf("broadcast: %q", got)
	}
}

func TestNoStrategyIsTheDefault(t *testing.T) {
	r := newRig(t, true)
	r.b.Local(local(true, "a@n1"))
	for _, kind := range []strategy.Kind{"", strategy.Any, ""} {
		p, err := r.b.Service(cart).Plan(kind, true, "")
		if want := map[strategy.Kind]strategy.Kind{"": strategy.Default, strategy.Any: strategy.Any}[kind]; err != nil || p.Decision.Strategy != want {
			t.Errorf("%q: %v %v", kind, p.Decision.Strategy, err)
		}
	}
}

func TestLoadOutlivesTheService(t *testing.T) {
	r := newRig(t, true)
	r.b.Local(local(true, "a@n1"))
	p, err := r.b.Service(cart).Plan(strategy.LocalOnly, true, "")
	if err != nil {
		t.Fatal(err)
	}
	picked, _ := p.Picker.Pick(nil)
	picked.Begin()
	r.b.Local(local(true, "a@n1", "b@n1"))
	if p, err = r.b.Service(cart).Plan(strategy.LocalOnly, true, ""); err != nil {
		t.Fatal(err)
	}
	var tried pick.Tried
	tried.Add(instances("east", "b")[0])
	again, ok := p.Picker.Pick(&tried)
	if !ok || again.Load.Outstanding() != 1 {
		t.Errorf("what was measured of an instance was lost with its service: %+v", again)
	}
	picked.Done(now, time.Millisecond, pick.Answered)
}

func TestUnknownNamesAreNotKept(t *testing.T) {
	r := newRig(t, true)
	for i := range 100 {
		r.b.Service(catalog.Name{Namespace: "default", Service: fmt.Sprint("x", i)})
	}
	if n := len(*r.b.services.Load()); n != 0 {
		t.Errorf("%d services are kept that nobody knows", n)
	}
}

func TestPins(t *testing.T) {
	r := newRig(t, true)
	r.b.Local(local(true, "l@n1"))
	r.feed(r.list("west", "w@x"), r.agent("west", "x", "10.1.0.1:1"), r.synced("east"), r.synced("west"))
	for _, c := range []struct {
		kind      strategy.Kind
		inherited bool
		pin, want string
	}{
		{strategy.LocalFirst, true, "west", "w"},
		{strategy.LocalFirst, true, "east", "l"},
		{strategy.LocalOnly, false, "west", "CONTRADICTION"},
		{strategy.LocalFirst, true, "wset", "NO_SUCH_CLUSTER"},
	} {
		for range 2 { // the second is from what was kept
			got := ""
			if p, err := r.b.Service(cart).Plan(c.kind, c.inherited, c.pin); err != nil {
				got = string(err.(*strategy.InputError).Reason)
			} else if picked, ok := p.Picker.Pick(nil); ok {
				got = picked.Instance.Instance
			}
			if got != c.want {
				t.Errorf("%s pinned to %s: got %s, want %s", c.kind, c.pin, got, c.want)
			}
		}
	}
}

func TestConcurrentReadersAndOneWriter(t *testing.T) {
	r := newRig(t, true)
	r.b.Local(local(true, "a@n1"))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				p, err := r.b.Service(cart).Plan(strategy.LocalFirst, true, "")
				if err != nil {
					t.Error(err)
					return
				}
				if _, ok := p.Picker.Pick(nil); !ok {
					t.Error("a change left readers without an instance")
					return
				}
				r.b.OwnApp("cart")
			}
		})
	}
	for i := range 200 {
		r.b.Local(local(true, "a@n1", fmt.Sprint("b", i, "@n1")))
	}
	wg.Wait()
}
