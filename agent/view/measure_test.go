package view

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/strategy"
)

// A cluster that was found dead is unreachable for every service, whichever of its relays were
// dialled.
func TestADeadCluster(t *testing.T) {
	r := two(t)
	r.change(r.list("west", "w@x", "v@y"), r.agent("west", "y", "10.1.0.2:1"))
	r.want(strategy.ExternalFirst, "*: v w | local: l")
	dead := map[string]struct{}{"west": {}}
	for _, down := range []map[string]struct{}{nil, {"10.1.0.1:1": {}}} {
		r.b.Reachable(down, dead, nil)
		if got := r.goes(strategy.ExternalFirst); got != "l" {
			t.Errorf("down are %v: a call goes to %s", down, got)
		}
		if got := r.tiers(strategy.Broadcast); !strings.Contains(got, "UNREACHABLE") {
			t.Errorf("broadcast: %q", got)
		}
	}
	r.b.Reachable(map[string]struct{}{"10.1.0.1:1": {}}, nil, nil)
	if got := r.goes(strategy.ExternalFirst); got != "v" {
		t.Errorf("with one relay down a call goes to %s", got)
	}
	for _, c := range r.b.Service(cart).Candidates() {
		if c.Unreachable != (c.Instance.Instance == "w") || c.Ejected != "" {
			t.Errorf("%+v", c)
		}
	}
	r.b.Reachable(nil, nil, nil)
	r.want(strategy.ExternalFirst, "*: v w | local: l")
}

// Of clusters that are not named the nearer go before the more distant.
func TestDistanceMakesTiers(t *testing.T) {
	r := two(t)
	r.change(r.list("north", "n@z"), r.agent("north", "z", "10.2.0.1:1"), r.synced("north"))
	r.want(strategy.ExternalOnly, "*: n w")
	r.b.Reachable(nil, nil, map[string]int{"west": 2, "north": 1})
	if got := r.goes(strategy.ExternalOnly); got != "n" {
		t.Errorf("a call goes to %s, want the nearer one: %s", got, r.tiers(strategy.ExternalOnly))
	}
	r.b.Reachable(nil, nil, map[string]int{"west": 0, "north": 1})
	if got := r.goes(strategy.ExternalOnly); got != "w" {
		t.Errorf("a call goes to %s, want the nearer one: %s", got, r.tiers(strategy.ExternalOnly))
	}
}

func TestRelaysToProbe(t *testing.T) {
	r := two(t)
	if got := fmt.Sprint(r.b.Relays()); got != "map[west:[10.1.0.1:1]]" {
		t.Errorf("relays %s", got)
	}
	// A cluster without agents is probed where its instances state relays, once they are in use.
	i := instances("dns", "d")[0]
	i.Relay = "10.3.0.1:50002"
	v := &storev1.Slice{Cluster: "dns", Namespace: "default", Service: "cart", Epoch: 1, Seq: 1}
	v.Instances = append(v.Instances, i.Proto())
	r.change(r.entry(keys.Key{Kind: keys.Slice, Cluster: "dns", Name: cart}, v), r.synced("dns"))
	if got := r.b.Relays()["dns"]; got != nil {
		t.Errorf("relays of a service that nobody calls: %v", got)
	}
	r.b.Service(cart)
	if got := fmt.Sprint(r.b.Relays()["dns"]); got != "[10.3.0.1:50002]" {
		t.Errorf("relays %s", got)
	}
	var many []*feedv1.Entry
	for n := range 100 {
		many = append(many, r.agent("west", fmt.Sprint("x", n), fmt.Sprintf("10.1.%d.1:1", n)))
	}
	many = append(many, r.agent("east", "n2", "10.0.0.2:1"), r.agent("west", "bad", "169.254.0.1:1"))
	r.change(many...)
	some := r.b.Relays()
	if len(some["west"]) != relaysOfEach || some["east"] != nil || slices.Contains(some["west"], "169.254.0.1:1") {
		t.Errorf("relays %v", some)
	}
	if again := r.b.Relays(); !slices.Equal(again["west"], some["west"]) {
		t.Errorf("first %v, then %v", some["west"], again["west"])
	}
	r.b.cfg.Self.Node = "n2"
	r.change(r.agent("west", "x0", "10.1.200.1:1"))
	if other := r.b.Relays(); slices.Equal(other["west"], some["west"]) {
		t.Error("two agents probe the same relays")
	}
}

// A relay that comes and goes concerns the services that are called by it, and no others.
func TestARelayConcernsItsServices(t *testing.T) {
	r := two(t)
	other := catalog.Name{Namespace: "default", Service: "other"}
	i := &catalog.Instance{ID: catalog.ID{Cluster: "west", Name: other, Instance: "o"}, Node: "y", Address: "10.9.0.1", Port: 80, Weight: 1}
	v := &storev1.Slice{Cluster: "west", Namespace: "default", Service: "other", Epoch: 1, Seq: 1, Instances: []*catalogv1.Instance{i.Proto()}}
	r.change(r.entry(keys.Key{Kind: keys.Slice, Cluster: "west", Name: other}, v), r.agent("west", "y", "10.1.0.2:1"))
	for _, down := range []map[string]struct{}{{"10.1.0.1:1": {}}, nil} {
		mine, others := r.b.Service(cart), r.b.Service(other)
		r.b.Reachable(down, nil, nil)
		if r.b.Service(cart) == mine {
			t.Error("the service behind the relay is not made anew")
		}
		if r.b.Service(other) != others {
			t.Error("a service that has nothing to do with the relay is made anew")
		}
	}
	// What concerns a cluster concerns all.
	for _, m := range []struct {
		dead     map[string]struct{}
		distance map[string]int
	}{{dead: map[string]struct{}{"west": {}}}, {}, {distance: map[string]int{"west": 1}}, {distance: map[string]int{"west": 2}}, {}} {
		others := r.b.Service(other)
		r.b.Reachable(nil, m.dead, m.distance)
		if r.b.Service(other) == others {
			t.Errorf("%+v changes nothing", m)
		}
	}
}
