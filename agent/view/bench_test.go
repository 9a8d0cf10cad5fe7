package view

import (
	"fmt"
	"slices"
	"testing"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/resolvers/intake"
	"github.com/farcall/farcall/strategy"
)

func BenchmarkResolve(b *testing.B) {
	r := newRig(b, true)
	r.b.Local(local(true, "a@n1", "b@n1", "c@n1"))
	b.ReportAllocs()
	for b.Loop() {
		p, err := r.b.Service(cart).Plan(strategy.LocalFirst, true, "")
		if err != nil {
			b.Fatal(err)
		}
		if _, ok := p.Picker.Pick(nil); !ok {
			b.Fatal("nobody")
		}
	}
}

// spread is a list of a cluster's instances, ten to a node, with an agent on every node.
func spread(r *rig, cluster string, count int) (list []*catalog.Instance, agents []*feedv1.Entry) {
	for n := range count {
		if n%10 == 0 {
			agents = append(agents, r.agent(cluster, fmt.Sprintf("node-%04d", n/10), fmt.Sprintf("10.1.%d.%d:50002", n/2500, n/10%250)))
		}
		list = append(list, instances(cluster, fmt.Sprintf("cart-%05d@node-%04d", n, n/10))...)
	}
	return list, agents
}

// What one instance's change costs the agent, in a service that is called: once the view's own
// part (remake), and once with the plan that the next call makes.
func BenchmarkOneChange(b *testing.B) {
	for _, count := range []int{100, 10_000} {
		for _, calls := range []bool{false, true} {
			name := map[bool]string{false: "remake", true: "remake+plan"}[calls]
			next := func(b *testing.B, r *rig) {
				if !calls {
					return
				}
				if _, err := r.b.Service(cart).Plan(strategy.LocalFirst, true, ""); err != nil {
					b.Fatal(err)
				}
			}
			b.Run(fmt.Sprintf("%s/local/%d", name, count), func(b *testing.B) { benchmarkLocal(b, count, next) })
			b.Run(fmt.Sprintf("%s/feed/%d", name, count), func(b *testing.B) { benchmarkFeed(b, count, next) })
		}
	}
}

func benchmarkLocal(b *testing.B, count int, next func(*testing.B, *rig)) {
	r := newRig(b, true)
	list, agents := spread(r, "east", count)
	r.feed(append(agents, r.synced("east"))...)
	changed := slices.Clone(list)
	one := *list[count/2]
	one.Health = catalog.Unhealthy
	changed[count/2] = &one
	r.b.Local(intake.Change{Complete: true, Services: map[catalog.Name]intake.List{cart: {Instances: list}}})
	r.b.Service(cart)
	lists := [2][]*catalog.Instance{changed, list}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		r.b.Local(intake.Change{Complete: true, Services: map[catalog.Name]intake.List{cart: {Instances: lists[n%2]}}})
		next(b, r)
	}
}

func benchmarkFeed(b *testing.B, count int, next func(*testing.B, *rig)) {
	r := newRig(b, true)
	r.b.Local(intake.Change{Complete: true})
	list, agents := spread(r, "west", count)
	entries := append(agents, r.synced("east"), r.synced("west"))
	for at := range count / 100 {
		v := &storev1.Slice{Cluster: "west", Namespace: "default", Service: "cart", Slice: uint32(at), Epoch: 1, Seq: 1}
		for _, i := range list[at*100 : at*100+100] {
			v.Instances = append(v.Instances, i.Proto())
		}
		entries = append(entries, r.entry(keys.Key{Kind: keys.Slice, Cluster: "west", Name: cart, Slice: uint32(at)}, v))
	}
	r.feed(entries...)
	r.b.Service(cart)
	// The mirror's own part is not the view's: here it only says that the list changed.
	ch := mirror.Changes{Services: map[catalog.Name]struct{}{cart: {}}}
	b.ReportAllocs()
	for b.Loop() {
		r.b.Changed(ch)
		next(b, r)
	}
}
