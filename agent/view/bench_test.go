package view

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/roundrobin"
	"google.golang.org/grpc/connectivity"
	estats "google.golang.org/grpc/experimental/stats"
	"google.golang.org/grpc/resolver"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/resolvers/intake"
	"github.com/farcall/farcall/strategy"
)

// What a call costs before it is made: its service, the plan in force and one pick. It is to be no
// more than twice what the picker of grpc-go's own round_robin takes, with as little memory, and to
// cost the same however many instances there are.
func BenchmarkResolve(b *testing.B) {
	for _, count := range []int{10, 100_000} {
		for _, balancer := range []strategy.Balancer{strategy.LeastRequest, strategy.RoundRobin} {
			b.Run(fmt.Sprintf("%s/%d", balancer, count), func(b *testing.B) {
				r := newRig(b, true, policy.Settings{Balancer: &balancer})
				list, agents := spread(r, "east", count)
				r.feed(append(agents, r.synced("east"))...)
				r.b.Local(intake.Change{Complete: true, Services: map[catalog.Name]intake.List{cart: {Instances: list}}})
				resolve := func() error {
					p, err := r.b.Service(cart).Plan("", "")
					if err != nil {
						return err
					}
					if _, ok := p.Picker.Pick(nil); !ok {
						return errors.New("nobody")
					}
					return nil
				}
				if err := resolve(); err != nil { // which makes the plan
					b.Fatal(err)
				}
				b.Run("one", func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						if err := resolve(); err != nil {
							b.Fatal(err)
						}
					}
				})
				b.Run("parallel", func(b *testing.B) {
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							if err := resolve(); err != nil {
								b.Error(err)
								return
							}
						}
					})
				})
			})
		}
	}
	b.Run("grpc-round-robin/10", func(b *testing.B) {
		picker := grpcRoundRobin(b, 10)
		pick := func() error {
			r, err := picker.Pick(balancer.PickInfo{})
			if err == nil && r.SubConn == nil {
				err = errors.New("nobody")
			}
			return err
		}
		b.Run("one", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := pick(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("parallel", func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := pick(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	})
}

// channel is what a balancer sees of a grpc.ClientConn, with subchannels that say READY and no
// connection behind them.
type channel struct {
	balancer.ClientConn
	subConns []*subConn
	state    balancer.State
}

type subConn struct {
	balancer.SubConn
	listen, health func(balancer.SubConnState)
}

func (c *channel) NewSubConn(_ []resolver.Address, o balancer.NewSubConnOptions) (balancer.SubConn, error) {
	s := &subConn{listen: o.StateListener}
	c.subConns = append(c.subConns, s)
	return s, nil
}
func (c *channel) UpdateState(s balancer.State)            { c.state = s }
func (c *channel) ResolveNow(resolver.ResolveNowOptions)   {}
func (c *channel) Target() string                          { return "bench" }
func (c *channel) MetricsRecorder() estats.MetricsRecorder { return nil }

func (s *subConn) Connect()                                             {}
func (s *subConn) Shutdown()                                            {}
func (s *subConn) RegisterHealthListener(f func(balancer.SubConnState)) { s.health = f }

// grpcRoundRobin walks a round_robin balancer through to READY and gives its picker.
func grpcRoundRobin(b *testing.B, n int) balancer.Picker {
	cc := &channel{}
	lb := balancer.Get(roundrobin.Name).Build(cc, balancer.BuildOptions{})
	b.Cleanup(lb.Close)
	var endpoints []resolver.Endpoint
	for i := range n {
		endpoints = append(endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: fmt.Sprintf("10.0.0.%d:1", i+1)}}})
	}
	if err := lb.UpdateClientConnState(balancer.ClientConnState{ResolverState: resolver.State{Endpoints: endpoints}}); err != nil {
		b.Fatal(err)
	}
	for _, s := range cc.subConns {
		s.listen(balancer.SubConnState{ConnectivityState: connectivity.Connecting})
		s.listen(balancer.SubConnState{ConnectivityState: connectivity.Ready})
		if s.health != nil {
			s.health(balancer.SubConnState{ConnectivityState: connectivity.Ready})
		}
	}
	if cc.state.ConnectivityState != connectivity.Ready || len(cc.subConns) != n {
		b.Fatalf("round_robin is %s with %d subchannels", cc.state.ConnectivityState, len(cc.subConns))
	}
	return cc.state.Picker
}

// spread is a list of a cluster's instances, ten to a node, with an agent on every node.
func spread(r *rig, cluster string, count int) (list []*catalog.Instance, agents []*feedv1.Entry) {
	for n := range count {
		if n%10 == 0 {
			agents = append(agents, r.agent(cluster, fmt.Sprintf("node-%05d", n/10), fmt.Sprintf("10.1.%d.%d:50002", n/2500, n/10%250)))
		}
		list = append(list, instances(cluster, fmt.Sprintf("cart-%05d@node-%05d", n, n/10))...)
	}
	return list, agents
}

// What one instance's change costs the agent, in a service that is called: once the view's own
// part (remake), and once with the plan that the next call makes.
func BenchmarkOneChange(b *testing.B) {
	for _, count := range []int{10, 1000, 10_000, 100_000} {
		for _, calls := range []bool{false, true} {
			name := map[bool]string{false: "remake", true: "remake+plan"}[calls]
			next := func(b *testing.B, r *rig) {
				if !calls {
					return
				}
				if _, err := r.b.Service(cart).Plan(strategy.LocalFirst, ""); err != nil {
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
	for at, part := range slices.Collect(slices.Chunk(list, 100)) {
		v := &storev1.Slice{Cluster: "west", Namespace: "default", Service: "cart", Slice: uint32(at), Epoch: 1, Seq: 1}
		for _, i := range part {
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
