package drift

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
	"github.com/farcall/farcall/resolvers/intake"
	"github.com/farcall/farcall/synchronizer"
)

// flapping is a resolver whose registry lists an instance and lists it no more, twenty times a second,
// beside one that it lists all the time.
type flapping struct{ rounds chan int }

// Run implements resolvers.Resolver.
func (f *flapping) Run(ctx context.Context, out resolvers.Sink) error {
	instance := func(id string) *catalog.Instance {
		return &catalog.Instance{ID: catalog.ID{Name: catalog.Name{Service: "cart"}, Instance: id}, Address: "10.0.0.1", Port: 80, Weight: 1, Health: catalog.Healthy}
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		s := catalog.Snapshot{Source: "all", Services: []catalog.Name{{Service: "cart"}}, Instances: []*catalog.Instance{instance("steady")}}
		if n%2 == 0 {
			s.Instances = append(s.Instances, instance("flapping"))
		}
		out.Publish(catalog.Update{Full: true, Snapshots: []catalog.Snapshot{s}})
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		select {
		case f.rounds <- n:
		default:
		}
	}
}

// A registry that lists an instance and lists it no more, twenty times a second: the store is written
// about once a second, and from the sixth time in 10 s on the instance stays listed.
func TestFlappingInstanceIsHeld(t *testing.T) {
	f := &flapping{rounds: make(chan int)}
	cfg := synchronizer.Config{
		Federation: "test", ReplicaID: "r", Store: store.Config{Federation: "test", Embedded: &store.EmbeddedConfig{DataDir: t.TempDir()}},
		Clusters: []synchronizer.Cluster{{Intake: intake.Config{Cluster: "west", Registries: []intake.Registry{{Name: "reg", Resolver: f}}}}},
	}
	metrics := prometheus.NewRegistry()
	deps := synchronizer.Deps{Log: testkit.Quiet(), Registry: metrics, GRPC: listen(t, "127.0.0.1:0"), HTTP: listen(t, "127.0.0.1:0")}
	address := deps.GRPC.Addr().String()
	s, err := synchronizer.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Go(t, "synchronizer", s.Run)
	a := follow(t, "n1", address)
	ctx := testkit.Context(t)
	testkit.Eventually(t, ctx, "the agent has the steady one", func() error {
		if got := a.holds(); got == "nothing" {
			return errors.New(got)
		}
		return nil
	})
	// until waits for so many changes of the registry, which goes on by itself.
	until := func(n int) {
		t.Helper()
		for {
			select {
			case now := <-f.rounds:
				if now >= n {
					return
				}
			case <-ctx.Done():
				t.Fatal("no time left")
			}
		}
	}
	began := time.Now()
	until(120)
	wrote, took := sum(t, metrics, "farcall_store_txns_total"), time.Since(began).Seconds()
	t.Logf("%.0f transactions in %.1f s, while the registry changed 120 times", wrote, took)
	// In any 10 s five removals pass, and so do their returns, each with what is told of it; the rest is what
	// begins a cluster, and what is told of holds and registries once a second.
	if most := 60 * (took/10 + 1); wrote > most {
		t.Errorf("%.0f transactions in %.1f s, want %.0f at most", wrote, took, most)
	}
	testkit.Eventually(t, ctx, "the agent has both", func() error {
		if got := a.holds(); !strings.Contains(got, "west/flapping") || !strings.Contains(got, "west/steady") {
			return errors.New(got)
		}
		return nil
	})
}
