package dns

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// record is a Sink that keeps what it is told.
type record struct {
	mu       sync.Mutex
	sources  map[string]catalog.Snapshot
	updates  []catalog.Update
	alive    []time.Time // of updates and confirmations
	failures []error
	failing  error // the last word was Failed
}

func (r *record) Publish(u catalog.Update) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u.Full || r.sources == nil {
		r.sources = map[string]catalog.Snapshot{}
	}
	for _, s := range u.Snapshots {
		r.sources[s.Source] = s
	}
	r.updates, r.alive, r.failing = append(r.updates, u), append(r.alive, time.Now()), nil
}

func (r *record) Confirm() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alive, r.failing = append(r.alive, time.Now()), nil
}

func (r *record) Failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures, r.failing = append(r.failures, err), err
}

// view is what stands: a line for each service, each instance and each record set aside.
func (r *record) view() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lines []string
	for _, s := range r.sources {
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
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (r *record) shows(want ...string) func() error {
	return func() error {
		slices.Sort(want)
		if got := r.view(); got != strings.Join(want, "\n") {
			r.mu.Lock()
			defer r.mu.Unlock()
			return fmt.Errorf("it shows\n%s\nwant\n%s\nlast failure: %v", got, strings.Join(want, "\n"), r.failing)
		}
		return nil
	}
}

// failsWith wants the last word to be a failure with all of these words.
func (r *record) failsWith(words ...string) func() error {
	return func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.failing == nil {
			return errors.New("the last word was no failure")
		}
		for _, w := range words {
			if !strings.Contains(r.failing.Error(), w) {
				return fmt.Errorf("%q has no %q", r.failing, w)
			}
		}
		return nil
	}
}

// works wants the last word to be a sign of life.
func (r *record) works() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.alive) == 0 {
		return errors.New("nothing was published")
	}
	return r.failing
}

func (r *record) counts() (updates, alive, failures int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.updates), len(r.alive), len(r.failures)
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
	rec := &record{}
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
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
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
