package face

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/internal/testkit"
)

// always is a Router with one target and no account of anything.
type always struct{ target relay.Target }

type one struct {
	always
	used bool
}

func (a always) Route(context.Context, relay.Query) (relay.Choice, error) {
	return &one{always: a}, nil
}
func (o *one) Strategy() string                { return "local-first" }
func (o *one) Terms() *relay.Terms             { return &benchTerms }
func (o *one) Clusters() []relay.ClusterChoice { return nil }
func (o *one) Next() (relay.Target, bool) {
	was := o.used
	o.used = true
	return o.target, !was
}

var benchTerms = relay.Terms{Rule: "local-first: local has 1 of 1 available", Attempts: 3}

// BenchmarkInvoke is one call of 1 KiB each way over HTTP, from 16 connections, all parties in one
// process: "direct" is the application alone, "own" adds the caller's agent, "relayed" that of the
// application as well.
func BenchmarkInvoke(b *testing.B) {
	e := application(b, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(body)
	})
	p := newPeerAgent(b, "west", "cart-1", e)
	direct := "http://" + appAddr(e) + "/m"
	b.Run("direct", func(b *testing.B) { load(b, direct) })
	b.Run("own", func(b *testing.B) { load(b, benchAgent(b, p.local())) })
	b.Run("relayed", func(b *testing.B) { load(b, benchAgent(b, p.target())) })
}

func benchAgent(b *testing.B, t relay.Target) string {
	apps := app.New()
	b.Cleanup(apps.Close)
	r, err := relay.New(relay.Config{Cluster: "east", Node: "n"}, relay.Deps{Router: always{t}, Apps: apps, Log: testkit.Quiet(), Metrics: prometheus.NewRegistry()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(r.Close)
	h, err := NewHTTP(Config{Cluster: "east", Node: "n", Host: "10.0.0.1", Apps: []App{{Name: web}}, Grace: time.Second}, Deps{Relay: r, Own: own{}, Log: testkit.Quiet()})
	if err != nil {
		b.Fatal(err)
	}
	l := listen(b)
	testkit.Go(b, "http", func(ctx context.Context) error { return h.Run(ctx, l) })
	return "http://" + l.Addr().String() + "/v1.0/invoke/cart/method/m"
}

func load(b *testing.B, url string) {
	tr := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	defer tr.CloseIdleConnections()
	body := bytes.Repeat([]byte("x"), 1024)
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, _ := http.NewRequest("POST", url, bytes.NewReader(body))
			resp, err := tr.RoundTrip(req)
			if err != nil {
				b.Error(err)
				return
			}
			n, _ := io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 || n != 1024 {
				b.Errorf("got %d with %d bytes", resp.StatusCode, n)
				return
			}
		}
	})
}
