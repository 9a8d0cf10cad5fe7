package view

import (
	"testing"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/resolvers/intake"
)

func TestElsewhere(t *testing.T) {
	settings := func(s *policyv1.Settings) *policyv1.Policy {
		return &policyv1.Policy{Target: &policyv1.Target{Service: "cart", Namespace: "default"}, Settings: s}
	}
	word := func(s string) *string { return &s }
	no := false
	for name, c := range map[string]struct {
		do   func(r *rig)
		want bool
	}{
		"another cluster has it": {func(r *rig) {}, true},
		"the own has it, too":    {func(r *rig) { r.b.Local(local(true, "cart-1@n1")) }, false},
		"the own has one that is not called": {func(r *rig) {
			list := instances("east", "cart-1@n1")
			list[0].Health = catalog.Disabled
			r.b.Local(intake.Change{Complete: true, Services: map[catalog.Name]intake.List{cart: {Instances: list}}})
		}, false},
		"the own had it":                  {func(r *rig) { r.b.Local(local(true, "cart-1@n1")); r.b.Local(local(true)) }, true},
		"the other one's was taken":       {func(r *rig) { r.change(r.gone("west")) }, false},
		"the other one's is empty":        {func(r *rig) { r.change(r.list("west")) }, false},
		"nobody can be dialled for it":    {func(r *rig) { r.change(r.list("west", "cart-9@nowhere")) }, false},
		"a policy keeps calls local":      {func(r *rig) { r.put(settings(&policyv1.Settings{Strategy: word("local-only")})) }, false},
		"a policy sends them elsewhere":   {func(r *rig) { r.put(settings(&policyv1.Settings{Strategy: word("external-only")})) }, true},
		"a policy has all clusters serve": {func(r *rig) { r.put(settings(&policyv1.Settings{Strategy: word("broadcast")})) }, true},
		"a policy leaves the other one out": {func(r *rig) {
			r.put(settings(&policyv1.Settings{Weights: &policyv1.Weights{Clusters: map[string]uint32{"west": 0, "east": 1}}}))
		}, false},
		"the other one is cordoned": {func(r *rig) { r.put(&policyv1.Cordon{Cluster: "west"}) }, false},
		"its relay does not answer": {func(r *rig) {
			r.b.Reachable(map[string]struct{}{"10.1.0.1:50002": {}}, map[string]struct{}{"west": {}}, nil)
		}, true},
		"it is unhealthy, and recover-all is forbidden": {func(r *rig) {
			r.put(settings(&policyv1.Settings{RecoverAll: &no}))
			r.change(r.unhealthy("west", "cart-2@n1"))
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, true)
			r.b.Local(local(true))
			r.feed(r.synced("east"), r.synced("west"), r.agent("west", "n1", "10.1.0.1:50002"), r.list("west", "cart-2@n1"))
			c.do(r)
			if got := r.b.Elsewhere(cart); got != c.want {
				t.Errorf("got %v", got)
			}
			if len(*r.b.services.Load()) != 0 {
				t.Error("something is kept of what was only asked about")
			}
		})
	}
}

// unhealthy is list with nobody who serves.
func (r *rig) unhealthy(cluster string, words ...string) *feedv1.Entry {
	r.seq++
	v := &storev1.Slice{Cluster: cluster, Namespace: "default", Service: "cart", Epoch: 1, Seq: r.seq}
	for _, i := range instances(cluster, words...) {
		i.Health = catalog.Unhealthy
		v.Instances = append(v.Instances, i.Proto())
	}
	return r.entry(keys.Key{Kind: keys.Slice, Cluster: cluster, Name: cart}, v)
}

func TestElsewhereBeforeEverythingIsRead(t *testing.T) {
	r := newRig(t, false)
	entries := r.list("west", "cart-2@n1")
	r.feedBare(r.synced("west"), r.agent("west", "n1", "10.1.0.1:50002"), entries)
	if r.b.Elsewhere(cart) {
		t.Error("the own cluster's list is not known, and no policy is")
	}
	r.change(r.marker())
	if r.b.Elsewhere(cart) {
		t.Error("the own cluster's list is not known")
	}
	r.change(r.synced("east"))
	if !r.b.Elsewhere(cart) {
		t.Error("all is known")
	}
}
