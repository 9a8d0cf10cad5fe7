package kubernetes

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

func TestMain(m *testing.M) {
	// The first Resolver's log is klog's, too, for as long as the process lives: no test's own.
	_, _ = New(Config{Context: "without a kubeconfig"}, Deps{Log: testkit.Quiet()})
	testkit.Main(m)
}

// record is a Sink that keeps what it is told.
type record struct {
	mu       sync.Mutex
	sources  map[string]catalog.Snapshot
	updates  []catalog.Update
	times    []time.Time // of the updates
	confirms []time.Time
	failures []error
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
	r.updates, r.times = append(r.updates, u), append(r.times, time.Now())
}

func (r *record) Confirm() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.confirms = append(r.confirms, time.Now())
}

func (r *record) Failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, err)
}

// view is what stands, one line per instance, in order.
func (r *record) view() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lines []string
	for _, s := range r.sources {
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
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (r *record) shows(want ...string) func() error {
	return func() error {
		if got := r.view(); got != strings.Join(want, "\n") {
			return fmt.Errorf("it shows\n%s\nwant\n%s", got, strings.Join(want, "\n"))
		}
		return nil
	}
}

func (r *record) instances() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, s := range r.sources {
		n += len(s.Instances)
	}
	return n
}

func (r *record) all() (updates []catalog.Update, confirms []time.Time, failures []error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.updates), slices.Clone(r.confirms), slices.Clone(r.failures)
}

// failedWith reports whether a failure holds all of the words.
func (r *record) failedWith(words ...string) func() error {
	return func() error {
		_, _, failures := r.all()
		for _, err := range failures {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(err.Error(), w) }) {
				return nil
			}
		}
		last := "none"
		if len(failures) > 0 {
			last = failures[len(failures)-1].Error()
		}
		return fmt.Errorf("none of %d failures has the words %q; the last: %s", len(failures), words, last)
	}
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
	rec = &record{}
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
