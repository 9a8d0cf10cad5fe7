package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers/resolvertest"
)

func TestMain(m *testing.M) {
	// The first Resolver's log is klog's, too, for as long as the process lives: no test's own.
	_, _ = New(Config{Context: "without a kubeconfig"}, Deps{Log: testkit.Quiet()})
	testkit.Main(m)
}

// record is a Sink that keeps what it is told.
type record struct{ resolvertest.Record }

func newRecord() *record { return &record{resolvertest.Record{Describe: describe}} }

// describe gives a line for each instance, and one for each strategy.
func describe(s catalog.Snapshot) (lines []string) {
	for n, kind := range s.Strategies {
		lines = append(lines, n.String()+" = "+kind)
	}
	for _, i := range s.Instances {
		line := fmt.Sprintf("%s/%s %s:%d w=%d %s", strings.TrimPrefix(i.Name.String(), "/"), i.Instance, i.Address, i.Port, i.Weight, i.Health)
		if i.Relay != "" {
			line += " via " + i.Relay
		}
		if i.Node != "" || i.Locality != (catalog.Locality{}) {
			line += fmt.Sprintf(" on %s/%s/%s", i.Locality.Region, i.Locality.Zone, i.Node)
		}
		lines = append(lines, line)
	}
	return lines
}

func deps(t testing.TB) Deps {
	return Deps{Log: testkit.Log(t), Metrics: NewMetrics(prometheus.NewRegistry()), Registry: "test"}
}

// run runs a Resolver until the test ends or stop is called.
func run(t testing.TB, cfg Config) (rec *record, stop func()) {
	t.Helper()
	r, err := New(cfg, deps(t))
	if err != nil {
		t.Fatal(err)
	}
	rec = newRecord()
	stop = testkit.Go(t, "Run", func(ctx context.Context) error {
		if err := r.Run(ctx, rec); !errors.Is(err, context.Canceled) {
			return fmt.Errorf("Run returned %w", err)
		}
		return nil
	})
	return rec, stop
}

// within is a context for what must happen in that time.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
