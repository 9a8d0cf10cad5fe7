package pick

import (
	"fmt"
	"testing"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/roundrobin"
	"google.golang.org/grpc/connectivity"
	estats "google.golang.org/grpc/experimental/stats"
	"google.golang.org/grpc/resolver"
)

var sizes = [...]int{10, 100_000}

// alternating gives n weights that are not equal.
func alternating(n int) []uint32 {
	w := equal(n)
	for i := range w {
		w[i] += uint32(i % 3)
	}
	return w
}

func BenchmarkPick(b *testing.B) {
	for _, balancer := range balancers {
		for _, shape := range []struct {
			name    string
			weights func(int) []uint32
			busy    bool
		}{{"equal", equal, false}, {"weighted", alternating, false}, {"busy", equal, true}} {
			if shape.busy && balancer == RoundRobin {
				continue // which does not look at the loads
			}
			for _, n := range sizes {
				list := candidates("i", shape.weights(n)...)
				if shape.busy {
					for i := range list {
						list[i].Load.outstanding.Store(int32(1 + i%5))
					}
				}
				p := New(balancer, []Group{{Candidates: list}})
				b.Run(fmt.Sprintf("%s/%s/%d", balancer, shape.name, n), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						if _, ok := p.Pick(nil); !ok {
							b.Fatal("nobody")
						}
					}
				})
			}
		}
	}
}

func BenchmarkPickRetry(b *testing.B) {
	for _, balancer := range balancers {
		for _, n := range sizes {
			p := New(balancer, []Group{{Candidates: candidates("i", equal(n)...)}})
			var tried Tried
			tried.Add(p.groups[0].candidates[0].Instance)
			b.Run(fmt.Sprintf("%s/%d", balancer, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, ok := p.Pick(&tried); !ok {
						b.Fatal("nobody")
					}
				}
			})
		}
	}
}

func BenchmarkPickParallel(b *testing.B) {
	for _, balancer := range balancers {
		p := New(balancer, []Group{{Candidates: candidates("i", equal(10)...)}})
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

func BenchmarkNew(b *testing.B) {
	for _, balancer := range balancers {
		for _, n := range sizes {
			groups := []Group{{Candidates: candidates("i", alternating(n)...)}}
			b.Run(fmt.Sprintf("%s/%d", balancer, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					New(balancer, groups)
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
