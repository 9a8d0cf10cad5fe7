package resolvertest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
)

const (
	defaultWithin = 10 * time.Second
	// promptly is how soon Run returns; the margin is for a busy machine.
	promptly = time.Second + 250*time.Millisecond
	// confirmEvery is the longest time without a sign of life: readers call a cluster STALE
	// after 3 s.
	confirmEvery = 3 * time.Second
	// quiet is how long a test waits to see that something does not happen.
	quiet = 1500 * time.Millisecond
)

// driver runs one resolver and keeps its record.
type driver struct {
	reg    *Registry
	rec    *recorder
	cancel context.CancelFunc
	done   chan struct{}
}

// start runs a resolver of reg until the test ends or stop is called.
func start(t *testing.T, reg *Registry) *driver {
	t.Helper()
	return startResolver(t, reg, reg.Resolver(t), newRecorder(reg))
}

func startResolver(t *testing.T, reg *Registry, res resolvers.Resolver, rec *recorder) *driver {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	d := &driver{reg: reg, rec: rec, cancel: cancel, done: make(chan struct{})}
	go d.loop(ctx, res, rec.sink())
	t.Cleanup(func() { d.stop(t) })
	return d
}

// loop runs the resolver again whenever it returns by itself, as its owners do.
func (d *driver) loop(ctx context.Context, res resolvers.Resolver, s *sink) {
	defer close(d.done)
	for ; ; s = d.rec.sink() {
		err := res.Run(ctx, s)
		s.returned()
		d.judgeReturn(ctx, err)
		pause := time.NewTimer(100 * time.Millisecond)
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

func (d *driver) judgeReturn(ctx context.Context, err error) {
	d.rec.mu.Lock()
	defer d.rec.mu.Unlock()
	switch {
	case err == nil:
		d.rec.breaks(errBrokeNilReturn, "in run %d", d.rec.run)
	case ctx.Err() != nil && !errors.Is(err, ctx.Err()):
		d.rec.breaks(errBrokeLastReturn, "it returned %v", err)
	case ctx.Err() == nil:
		d.rec.failed(err)
	}
}

// stop ends the Run and reports every promise that was broken. It may be called again.
func (d *driver) stop(t *testing.T) {
	t.Helper()
	began := time.Now()
	d.cancel()
	hung := time.NewTimer(20 * time.Second)
	defer hung.Stop()
	select {
	case <-d.done:
	case <-hung.C:
		t.Fatal("Run did not return within 20 s of its context's end")
	}
	if took := time.Since(began); took > promptly {
		t.Errorf("%v: it took %v", errBrokePromptness, took.Round(time.Millisecond))
	}
	if err := d.rec.verdict(); err != nil {
		t.Error(err)
	}
}

// within is a context that ends when a change must have been seen.
func (d *driver) within(t *testing.T) context.Context {
	limit := d.reg.Within
	if limit == 0 {
		limit = defaultWithin
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// wants waits until exactly these instances are listed.
func (d *driver) wants(t *testing.T, what string, want ...catalog.Instance) {
	t.Helper()
	testkit.Eventually(t, d.within(t), what, func() error { return d.rec.differs(want) })
}

// fails waits for one more failure than before.
func (d *driver) fails(t *testing.T, before int) {
	t.Helper()
	testkit.Eventually(t, d.within(t), "the failure is told", func() error {
		if _, now := d.rec.counts(); now > before {
			return nil
		}
		return errors.New("Failed was not called, nor did Run return an error")
	})
}

// silent lets some time pass in which nothing may be published.
func (d *driver) silent(t *testing.T, while string) {
	t.Helper()
	before, _ := d.rec.counts()
	pass(t, quiet)
	if after, _ := d.rec.counts(); after != before {
		t.Errorf("%d updates were published while %s", after-before, while)
	}
}

// pass waits for a time: some things show only by not happening.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
		t.Fatal("the test ended while it waited")
	}
}

// instance makes a record of the suite's: number n of a service, at an address of its own.
func (r *Registry) instance(service string, n int) catalog.Instance {
	return catalog.Instance{
		ID:      catalog.ID{Name: catalog.Name{Service: service}, Instance: fmt.Sprintf("%s-%d", service, n)},
		Address: fmt.Sprintf("10.1.0.%d", n),
		Port:    8000 + n,
		Health:  r.Healths[0],
	}
}

func (r *Registry) putAll(t *testing.T, list ...catalog.Instance) {
	t.Helper()
	for _, in := range list {
		r.Put(t, in)
	}
}
