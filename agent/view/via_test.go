package view

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/strategy"
)

// via is the own cluster's meta; how is "agents" or nothing.
func (r *rig) via(how string) *feedv1.Entry {
	r.seq++
	return r.entry(keys.Key{Kind: keys.Meta, Cluster: "east"}, &storev1.ClusterMeta{Cluster: "east", Epoch: 1, Seq: r.seq, Via: how})
}

// held is what the synchronizer holds of the own cluster's cart; a word is id@node=link.
func (r *rig) held(words ...string) *feedv1.Entry {
	r.seq++
	v := &storev1.Slice{Cluster: "east", Namespace: "default", Service: "cart", Epoch: 1, Seq: r.seq}
	for _, w := range words {
		w, link, _ := strings.Cut(w, "=")
		i := instances("east", w)[0]
		i.Registry = link
		v.Instances = append(v.Instances, i.Proto())
	}
	return r.entry(keys.Key{Kind: keys.Slice, Cluster: "east", Name: cart}, v)
}

func links(names ...string) map[string]struct{} {
	out := map[string]struct{}{}
	for _, n := range names {
		out[n] = struct{}{}
	}
	return out
}

func TestViaAgentsTheOwnListHasWhatOthersHear(t *testing.T) {
	r := newRig(t, true)
	r.b.Local(local(true, "f1@n1", "m1@n1"))
	r.want(strategy.LocalOnly, "local: f1 m1") // without a feed, the own registries and nothing else
	r.feed(r.agent("east", "n2", "10.0.0.2:1"), r.agent("east", "n9", "10.0.0.9:1"), r.via("agents"), r.synced("east"),
		r.held("f1@n1=file@n1", "f2@n2=file@n2", "gone@n1=file@n1", "m1@n9=mdns@a", "m2@n9=mdns@b"))
	// What the agent reads itself is not known to be all of a link yet.
	r.want(strategy.LocalOnly, "local: f1 f2 gone m1 m2")
	r.b.Links(links("file@n1", "mdns@a"))
	r.want(strategy.LocalOnly, "local: f1 f2 m1 m2")
	for _, c := range r.b.Service(cart).Candidates() {
		if c.Instance.Instance == "m1" && c.Instance.Node != "n1" {
			t.Error("another's word on an instance counts more than the own registry's")
		}
	}
	r.change(r.held("f1@n1=file@n1", "m2@n9=mdns@b", "m3@n9=mdns@b", "m4@n9=mdns@a"))
	r.want(strategy.LocalOnly, "local: f1 m1 m2 m3")
	r.b.Local(local(true, "f1@n1"))
	r.want(strategy.LocalOnly, "local: f1 m2 m3")

	r.b.Links(links("file@n1", "mdns@b")) // it listens elsewhere now
	r.want(strategy.LocalOnly, "local: f1 m4")

	r.change(r.via(""))
	r.want(strategy.LocalOnly, "local: f1")
	if r.b.ViaAgents() {
		t.Error("says that the cluster is read via its agents")
	}
	r.change(r.via("agents"))
	r.want(strategy.LocalOnly, "local: f1 m4")
	if !r.b.ViaAgents() {
		t.Error("does not say that the cluster is read via its agents")
	}
}

func TestViaAgentsTheNodesApplicationsAreOwn(t *testing.T) {
	for _, hasRegistry := range []bool{true, false} {
		r := newRig(t, hasRegistry)
		if hasRegistry {
			r.b.Local(local(true))
		}
		r.feed(r.via("agents"), r.synced("east"), r.agent("east", "n2", "10.0.0.2:50002"))
		r.b.Links(links("file@n1"))
		r.change(r.held("cart-n1-80@n1=apps", "cart-n2-80@n2=apps"))
		own := r.b.OwnApp("cart")
		if len(own) != 1 || own[0].Instance != "cart-n1-80" {
			t.Errorf("own are %v", own)
		}
		p, err := r.b.Service(cart).Plan(strategy.LocalOnly, "")
		if err != nil {
			t.Fatal(err)
		}
		for c := range p.Decision.Tiers[0].Candidates() {
			if want := map[string]string{"cart-n1-80": "", "cart-n2-80": "10.0.0.2:50002"}[c.Instance.Instance]; c.Dial != want {
				t.Errorf("%s is dialled at %q, want %q", c.Instance.ID, c.Dial, want)
			}
		}
		r.change(r.held("cart-n2-80@n2=apps"))
		if own := r.b.OwnApp("cart"); len(own) != 0 {
			t.Errorf("still own are %v", own)
		}
	}
}

// Where other agents hear what this one does not, its own registries cannot say that a name does
// not exist.
func TestViaAgentsTheOwnRegistriesDoNotKnowAllNames(t *testing.T) {
	r := newRig(t, true)
	r.b.Local(local(true))
	r.b.Links(links("file@n1"))
	r.feed(r.via("agents"), r.entry(keys.Key{Kind: keys.Meta, Cluster: "west"}, &storev1.ClusterMeta{Cluster: "west"}), r.synced("west"))
	unknown := func() string {
		p, err := r.b.Service(catalog.Name{Namespace: "default", Service: "nobody"}).Plan(strategy.LocalFirst, "")
		if err != nil {
			t.Fatal(err)
		}
		return string(p.Decision.Unavailable)
	}
	if got := unknown(); got != "NOT_SYNCED" {
		t.Error(got)
	}
	r.change(r.synced("east"))
	if got := unknown(); got != "NOT_FOUND" {
		t.Error(got)
	}
}

func TestUnion(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"", "", ""},
		{"a b", "", "a b"},
		{"", "a b", "a b"},
		{"a c e", "b d f", "a b c d e f"},
		{"a b c", "b", "a b c"},
		{"b", "a b c", "a b c"},
		{"c d", "a b", "a b c d"},
	} {
		first, second := instances("east", strings.Fields(c.a)...), instances("east", strings.Fields(c.b)...)
		all := union(first, second)
		var ids []string
		for _, i := range all {
			ids = append(ids, i.Instance)
			if slices.ContainsFunc(first, func(f *catalog.Instance) bool { return f.ID == i.ID && f != i }) {
				t.Errorf("%q and %q: %s is not the first list's", c.a, c.b, i.Instance)
			}
		}
		if got := strings.Join(ids, " "); got != c.want {
			t.Errorf("%q and %q: %q", c.a, c.b, got)
		}
	}
}

// A Service made from the one before it is the same as one made afresh, whatever came between.
func TestServicesAreMadeFromTheOnesBefore(t *testing.T) {
	r := newRig(t, true)
	// An instance that did not change is the same value.
	known := map[string]*catalog.Instance{}
	own := func(words ...string) {
		ch := local(true, words...)
		list := ch.Services[cart].Instances
		for n, w := range words {
			if known[w] == nil {
				known[w] = list[n]
			}
			list[n] = known[w]
		}
		r.b.Local(ch)
	}
	own("a@n1", "b@n2", "d@n3", "e@n9")
	r.feed(r.agent("east", "n2", "10.0.0.2:1"), r.agent("east", "n3", "10.0.0.3:1"), r.synced("east"))
	before := r.b.Service(cart)
	for _, step := range []struct {
		name   string
		change func()
	}{
		{"one more", func() { own("a@n1", "b@n2", "c@n2", "d@n3", "e@n9") }},
		{"one is another", func() { own("a@n1", "b@n2", "c@n3", "d@n3", "e@n9") }},
		{"fewer", func() { own("b@n2", "e@n9") }},
		{"others", func() { own("a@n3", "c@n2", "x@n2", "y@n3") }},
		{"another agent", func() { r.change(r.agent("east", "n9", "10.0.0.9:1")) }},
		{"an agent moves", func() { r.change(r.agent("east", "n3", "10.0.0.33:1")) }},
		{"one is down", func() { r.b.Reachable(map[string]struct{}{"10.0.0.2:1": {}}, nil, nil) }},
		{"one more while one is down", func() { own("a@n3", "b@n2", "c@n2", "x@n2", "y@n3") }},
		{"it is up again", func() { r.b.Reachable(nil, nil, nil) }},
		{"and as it was", func() { own("a@n1", "b@n2", "d@n3", "e@n9") }},
		{"nothing happened", func() { r.b.Changed(mirror.Changes{Services: map[catalog.Name]struct{}{cart: {}}}) }},
		{"nobody any more", func() { own() }},
		{"all again", func() { own("a@n1", "b@n2", "d@n3", "e@n9") }},
	} {
		step.change()
		is := r.b.Service(cart)
		r.b.mu.Lock()
		fresh := r.b.make(cart, nil)
		r.b.mu.Unlock()
		if !slices.Equal(is.candidates, fresh.candidates) {
			t.Errorf("%s: %v, made afresh %v", step.name, is.candidates, fresh.candidates)
		}
		if len(is.loads) != len(is.candidates) {
			t.Errorf("%s: %d loads of %d", step.name, len(is.loads), len(is.candidates))
		}
		for n, c := range is.candidates {
			for m, o := range before.candidates {
				if c.Instance.ID == o.Instance.ID && is.loads[n] != before.loads[m] {
					t.Errorf("%s: what was measured of %s is lost", step.name, c.Instance.ID)
				}
			}
		}
		before = is
	}
}

// Calls that come at once after a change share one plan.
func TestOnePlanForAll(t *testing.T) {
	r := newRig(t, true)
	r.b.Local(local(true, "a@n1", "b@n1"))
	s := r.b.Service(cart)
	plans := make([]*Plan, 8)
	var wg sync.WaitGroup
	for n := range plans {
		wg.Go(func() {
			p, err := s.Plan(strategy.LocalFirst, "")
			if err != nil {
				t.Error(err)
			}
			plans[n] = p
		})
	}
	wg.Wait()
	for n, p := range plans {
		if p != plans[0] {
			t.Error(fmt.Sprint("call ", n, " has a plan of its own"))
		}
	}
}
