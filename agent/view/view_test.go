package view

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/farcall/farcall/agent/pick"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers/intake"
	"github.com/farcall/farcall/strategy"
)

func TestMain(m *testing.M) { testkit.Main(m) }

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
	p, err := r.b.Service(cart).Plan(strategy.ExternalOnly, "")
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
	r.b.Reachable(map[string]struct{}{"10.1.0.1:1": {}}, nil, nil)
	r.want(strategy.ExternalFirst, "*: w2 | local: l")
	r.b.Reachable(map[string]struct{}{"10.1.0.1:1": {}, "10.1.0.2:1": {}}, nil, nil)
	if got := r.tiers(strategy.Broadcast); !strings.Contains(got, "west:") || !strings.Contains(got, "UNREACHABLE") {
		t.Errorf("broadcast does not name the unreachable cluster: %q", got)
	}
	p, err := r.b.Service(cart).Plan(strategy.ExternalFirst, "")
	if err != nil {
		t.Fatal(err)
	}
	if picked, ok := p.Picker.Pick(nil); !ok || picked.Instance.Instance != "l" {
		t.Errorf("with no external reachable picked %v", picked)
	}
	r.b.Reachable(nil, nil, nil)
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
			r.b.Reachable(map[string]struct{}{fmt.Sprint("10.9.9.9:", n+1): {}}, nil, nil)
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
	r.b.Reachable(map[string]struct{}{"10.1.0.1:1": {}}, nil, nil)
	if got := r.tiers(strategy.Broadcast); !strings.Contains(got, "UNREACHABLE") {
		t.Errorf("broadcast: %q", got)
	}
}

func TestNoStrategyIsTheDefault(t *testing.T) {
	r := newRig(t, true)
	r.b.Local(local(true, "a@n1"))
	r.feed(r.synced("east"))
	for _, kind := range []strategy.Kind{"", strategy.Any, ""} {
		p, err := r.b.Service(cart).Plan(kind, "")
		if want := map[strategy.Kind]strategy.Kind{"": strategy.Default, strategy.Any: strategy.Any}[kind]; err != nil || p.Decision.Strategy != want {
			t.Errorf("%q: %v %v", kind, p.Decision.Strategy, err)
		}
	}
	if _, err := r.b.Service(cart).Plan("Any", ""); err == nil {
		t.Error("a strategy that was never parsed was taken for one")
	}
}

func TestLoadOutlivesTheService(t *testing.T) {
	r := newRig(t, true)
	r.b.Local(local(true, "a@n1"))
	p, err := r.b.Service(cart).Plan(strategy.LocalOnly, "")
	if err != nil {
		t.Fatal(err)
	}
	picked, _ := p.Picker.Pick(nil)
	picked.Begin()
	r.b.Local(local(true, "a@n1", "b@n1"))
	if p, err = r.b.Service(cart).Plan(strategy.LocalOnly, ""); err != nil {
		t.Fatal(err)
	}
	var tried pick.Call
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
		override  strategy.Kind
		pin, want string
	}{
		{"", "west", "w"},
		{"", "east", "l"},
		{strategy.ExternalFirst, "west", "w"},
		{strategy.LocalOnly, "west", "CONTRADICTION"},
		{"", "wset", "NO_SUCH_CLUSTER"},
	} {
		for range 2 { // the second is from what was kept
			got := ""
			if p, err := r.b.Service(cart).Plan(c.override, c.pin); err != nil {
				got = string(err.(*strategy.InputError).Reason)
			} else if picked, ok := p.Picker.Pick(nil); ok {
				got = picked.Instance.Instance
			}
			if got != c.want {
				t.Errorf("%s pinned to %s: got %s, want %s", c.override, c.pin, got, c.want)
			}
		}
	}
}

// A caller that pins to all clusters with all strategies makes a service keep a bounded number of
// plans.
func TestPinnedPlansAreBounded(t *testing.T) {
	r := two(t)
	var more []*feedv1.Entry
	for n := range 2 * maxPinned {
		more = append(more, r.synced(fmt.Sprint("c", n)))
	}
	r.change(more...)
	s := r.b.Service(cart)
	for n := range 2 * maxPinned {
		if _, err := s.Plan("", fmt.Sprint("c", n)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.pinned); n != maxPinned {
		t.Errorf("%d plans are kept, want %d", n, maxPinned)
	}
	last := fmt.Sprint("c", 2*maxPinned-1)
	kept, err := s.Plan("", last)
	if again, _ := s.Plan("", last); err != nil || again != kept {
		t.Errorf("the last plan is not kept: %v", err)
	}
}

func TestConcurrentReadersAndWriters(t *testing.T) {
	r := two(t)
	testkit.Go(t, "book", r.b.Run)
	p := says("cart", "local-first")
	p.Settings.Failover = &policyv1.Failover{Threshold: 50}
	p.Settings.Failback = &policyv1.Failback{Hold: durationpb.New(time.Millisecond), Ramp: durationpb.New(10 * time.Millisecond)}
	p.Settings.WarmUp = durationpb.New(50 * time.Millisecond)
	var wg sync.WaitGroup
	for reader := range 4 {
		wg.Go(func() {
			for n := range 500 {
				p, err := r.b.Service(cart).Plan([]strategy.Kind{"", strategy.Any}[n%2], []string{"", "", "west"}[n%3])
				if err != nil {
					t.Error(err)
					return
				}
				picked, ok := p.Picker.Pick(nil)
				if !ok {
					t.Error("a change left readers without an instance")
					return
				}
				picked.Begin()
				if reader == 0 {
					r.b.Trouble(cart, time.Now(), picked.Done(time.Now(), time.Millisecond, pick.Failed))
				} else {
					picked.Done(time.Now(), time.Millisecond, pick.Answered)
				}
				r.b.OwnApp("cart")
				r.b.Watch(cart)
				r.b.Relays()
			}
		})
	}
	for i := range 200 {
		r.b.Local(local(true, "a@n1", fmt.Sprint("b", i, "@n1")))
		switch i % 10 {
		case 3:
			r.put(p)
		case 5:
			r.b.Reachable(map[string]struct{}{"10.1.0.1:1": {}}, nil, nil)
		case 7:
			r.b.Reachable(nil, nil, map[string]int{"west": i % 4})
		}
	}
	wg.Wait()
}
