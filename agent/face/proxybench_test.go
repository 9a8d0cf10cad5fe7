package face

import (
	"bytes"
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/internal/testkit"
)

// BenchmarkProxyUnary is one unary gRPC call of 1 KiB each way, all parties in one process: "direct"
// is the application alone, "own" adds the caller's agent, "relayed" that of the application as well.
func BenchmarkProxyUnary(b *testing.B) {
	e := talk(b, &talker{})
	p := newPeerAgent(b, "west", "cart-1", e)
	b.Run("direct", func(b *testing.B) { loadGRPC(b, appAddr(e)) })
	b.Run("own", func(b *testing.B) { loadGRPC(b, benchProxy(b, p.local())) })
	b.Run("relayed", func(b *testing.B) { loadGRPC(b, benchProxy(b, p.target())) })
}

func benchProxy(b *testing.B, t relay.Target) string {
	apps := app.New()
	b.Cleanup(apps.Close)
	r, err := relay.New(relay.Config{Cluster: "east", Node: "n"}, relay.Deps{Router: always{t}, Apps: apps, Log: testkit.Quiet(), Metrics: prometheus.NewRegistry()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(r.Close)
	g, err := NewGRPC(Config{Cluster: "east", Node: "n", Apps: []App{{Name: web}}, Grace: time.Second}, Deps{Relay: r, Own: own{}, Views: newViews(), Log: testkit.Quiet()})
	if err != nil {
		b.Fatal(err)
	}
	l := listen(b)
	testkit.Go(b, "grpc", func(ctx context.Context) error { return g.Run(ctx, l) })
	return l.Addr().String()
}

func loadGRPC(b *testing.B, addr string) {
	var conns []*grpc.ClientConn
	for range 4 {
		conns = append(conns, dial(b, addr))
	}
	body := wrapperspb.Bytes(bytes.Repeat([]byte("x"), 1024))
	ctx := metadata.AppendToOutgoingContext(b.Context(), "dapr-app-id", "cart")
	next := make(chan int, 1)
	next <- 0
	b.ReportAllocs()
	b.SetParallelism(8)
	began := cpu(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		n := <-next
		next <- n + 1
		for pb.Next() {
			out := new(wordMsg)
			if err := conns[n%len(conns)].Invoke(ctx, sayOne, body, out); err != nil {
				b.Error(err)
				return
			}
			if len(out.GetValue()) != 1024 {
				b.Errorf("got %d bytes", len(out.GetValue()))
				return
			}
		}
	})
	b.ReportMetric(float64((cpu(b)-began).Microseconds())/float64(b.N), "cpu-µs/op")
}

// cpu gives what the process used of the processors, which is what a call costs on a busy machine.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
