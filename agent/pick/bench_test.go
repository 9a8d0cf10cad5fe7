package pick

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/roundrobin"
	"google.golang.org/grpc/connectivity"
	estats "google.golang.org/grpc/experimental/stats"
	"google.golang.org/grpc/resolver"

	"github.com/farcall/farcall/strategy"
)

var sizes = [...]int{10, 100_000}

// alternating gives n weights that are not equal.
func alternating(n int) []uint64 {
	w := equal(n)
	for i := range w {
		w[i] += uint64(i % 3)
	}
	return w
}

// busy has from one to five calls outstanding at each of n instances.
func busy(n int) []Candidate {
	list := candidates("i", equal(n)...)
	for i := range list {
		list[i].Load.outstanding.Store(int32(1 + i%5))
	}
	return list
}

func BenchmarkPick(b *testing.B) {
	for _, balancer := range balancers {
		for _, n := range sizes {
			run := func(shape string, call *Call, tiers ...Tier) {
				p := New(Config{Balancer: balancer}, tiers)
				b.Run(fmt.Sprintf("%s/%s/%d", balancer, shape, n), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						if _, ok := p.Pick(call); !ok {
							b.Fatal("nobody")
						}
					}
				})
			}
			all := func(list []Candidate) Tier { return Tier{Share: 100, Groups: groupOf(list)} }
			run("equal", nil, all(candidates("i", equal(n)...)))
			switch balancer {
			case strategy.RingHash:
				var call Call
				call.SetKey("a user's session")
				run("keyed", &call, all(candidates("i", equal(n)...)))
			case strategy.LeastRequest:
				run("busy", nil, all(busy(n)))
			}
			if balancer != strategy.Random {
				run("weighted", nil, all(candidates("i", alternating(n)...)))
			}
			run("spill", nil, Tier{Share: 60, Groups: groupOf(candidates("i", equal(n)...))},
				Tier{Share: 40, Groups: groupOf(candidates("j", equal(n)...))})
		}
	}
}

// BenchmarkPickByKey is a pick with a key that is new for each call, its hashing included.
func BenchmarkPickByKey(b *testing.B) {
	for _, n := range sizes {
		p := New(Config{Balancer: strategy.RingHash}, []Tier{{Share: 100, Groups: groupOf(candidates("i", equal(n)...))}})
		keys := make([]string, 1024)
		for i := range keys {
			keys[i] = fmt.Sprintf("session-%026d", i)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				var call Call
				call.SetKey(keys[i%len(keys)])
				if _, ok := p.Pick(&call); !ok {
					b.Fatal("nobody")
				}
			}
		})
	}
}

func BenchmarkPickRetry(b *testing.B) {
	for _, balancer := range balancers {
		for _, n := range sizes {
			p := New(Config{Balancer: balancer}, []Tier{{Share: 100, Groups: groupOf(candidates("i", equal(n)...))}})
			var call Call
			call.SetKey("a user's session")
			first, _ := p.Pick(&call)
			call.Add(first.Instance)
			b.Run(fmt.Sprintf("%s/%d", balancer, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, ok := p.Pick(&call); !ok {
						b.Fatal("nobody")
					}
				}
			})
		}
	}
}

func BenchmarkPickParallel(b *testing.B) {
	for _, balancer := range balancers {
		p := one(balancer, candidates("i", equal(10)...))
		b.Run(string(balancer), func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, ok := p.Pick(nil); !ok {
						b.Error("nobody")
						return
					}
				}
			})
		})
	}
}

// BenchmarkBeginDone is what a call costs beside its pick.
func BenchmarkBeginDone(b *testing.B) {
	p := one(strategy.LeastRequest, candidates("i", equal(10)...))
	for name, outcome := range map[string]Outcome{"answered": Answered, "failed": Failed} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			now := start
			for b.Loop() {
				now = now.Add(time.Millisecond)
				picked, _ := p.Pick(nil)
				picked.Begin()
				picked.Done(now, time.Millisecond, outcome)
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	for _, balancer := range balancers {
		for _, n := range [...]int{10, 10_000, 100_000} {
			for _, shape := range []struct {
				name   string
				warmUp time.Duration
			}{{"weighted", 0}, {"warming", time.Minute}} {
				list := candidates("i", alternating(n)...)
				list[0].Load.Since = start
				cfg := Config{Balancer: balancer, Now: start, WarmUp: shape.warmUp}
				tiers := []Tier{{Share: 100, Groups: groupOf(list)}}
				b.Run(fmt.Sprintf("%s/%s/%d", balancer, shape.name, n), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						New(cfg, tiers)
					}
				})
			}
		}
	}
}

// BenchmarkNewAgain makes a Picker anew whose instances and weights are those of another one.
func BenchmarkNewAgain(b *testing.B) {
	for _, n := range [...]int{10, 10_000, 100_000} {
		b.Run(fmt.Sprintf("%s/%d", strategy.RingHash, n), func(b *testing.B) {
			cfg := Config{Balancer: strategy.RingHash, Now: start, Rings: &Rings{}}
			tiers := []Tier{{Share: 100, Groups: groupOf(candidates("i", alternating(n)...))}}
			p := New(cfg, tiers)
			b.ReportAllocs()
			for b.Loop() {
				p = New(cfg, tiers)
			}
			runtime.KeepAlive(p)
		})
	}
}

func BenchmarkJudge(b *testing.B) {
	for _, n := range [...]int{10, 10_000} {
		for _, shape := range []string{"well", "one fails", "all fail"} {
			loads := idle(n)
			for i, l := range loads {
				failing := 0
				if shape == "all fail" || shape == "one fails" && i == n/2 {
					failing = 8
				}
				spread(l, start, 20, failing)
			}
			Judge(start, loads)
			b.Run(fmt.Sprintf("%s/%d", shape, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					Judge(start, loads)
				}
			})
		}
	}
}

// BenchmarkGRPCRoundRobin is the measure: the picker of grpc-go's own round_robin in the same
// binary, with subchannels that say READY and no connection behind them.
func BenchmarkGRPCRoundRobin(b *testing.B) {
	picker := grpcRoundRobin(b, 10)
	b.Run("10", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if r, err := picker.Pick(balancer.PickInfo{}); err != nil || r.SubConn == nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("10/parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if r, err := picker.Pick(balancer.PickInfo{}); err != nil || r.SubConn == nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

// channel is what a balancer sees of a grpc.ClientConn.
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
