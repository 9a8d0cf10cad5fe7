package dns

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

func TestMain(m *testing.M) { testkit.Main(m) }

// record is a Sink that keeps what it is told.
type record struct{ resolvertest.Record }

func newRecord() *record { return &record{resolvertest.Record{Describe: describe}} }

// describe gives a line for each service, each instance and each record set aside.
func describe(s catalog.Snapshot) (lines []string) {
	for _, n := range s.Services {
		lines = append(lines, strings.TrimPrefix(n.String(), "/"))
	}
	for _, i := range s.Instances {
		line := fmt.Sprintf("%s %s %s:%d w=%d", strings.TrimPrefix(i.Name.String(), "/"), i.Instance, i.Address, i.Port, i.Weight)
		if i.Relay != "" {
			line += " via " + i.Relay
		}
		lines = append(lines, line)
	}
	for _, a := range s.SetAside {
		lines = append(lines, "set aside: "+a.String())
	}
	return lines
}

// failsWith wants the last word to be a failure with all of these words.
func (r *record) failsWith(words ...string) func() error {
	return func() error {
		err := r.Trouble()
		if err == nil {
			return errors.New("the last word was no failure")
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				return fmt.Errorf("%q has no %q", err, w)
			}
		}
		return nil
	}
}

// counts gives how many updates, signs of life and failures there were.
func (r *record) counts() (updates, alive, failures int) {
	u, c, f := r.All()
	return len(u), len(u) + len(c), len(f)
}

func deps(t testing.TB) Deps {
	return Deps{Log: testkit.Log(t), Metrics: NewMetrics(prometheus.NewRegistry()), Registry: "test"}
}

// run runs a Resolver until the test ends.
func run(t testing.TB, cfg Config, change ...func(*Resolver)) *record {
	t.Helper()
	r, err := New(cfg, deps(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(r)
	}
	rec := newRecord()
	testkit.Go(t, "Run", func(ctx context.Context) error {
		if err := r.Run(ctx, rec); !errors.Is(err, context.Canceled) {
			return fmt.Errorf("Run returned %w", err)
		}
		return nil
	})
	return rec
}

func eventually(t testing.TB, what string, ok func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	testkit.Eventually(t, ctx, what, ok)
}

// pass waits: some things show only by not happening.
func pass(t testing.TB, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
		t.Fatal("the test ended while it waited")
	}
}
