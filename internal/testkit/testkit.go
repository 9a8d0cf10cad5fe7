// Package testkit is what the tests of every room share: contexts with a deadline, logs that
// belong to a test, free ports, waiting without sleeping, and real servers as processes.
//
// It is not linked into any product binary. The goroutines and processes it starts end with
// their test.
package testkit

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Main is the TestMain of every package: it runs the tests, then the cleanups in order, and
// fails if a goroutine is left.
func Main(m *testing.M, cleanups ...func()) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		for _, f := range cleanups {
			f()
		}
		os.Exit(code)
	}))
}

// Context returns a context that ends with the test, and three minutes after it was made at the
// latest: long enough for the slowest machine, short enough to tell what hung.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// Log returns a logger whose lines go to the test's output, debug lines included. Lines that
// come after the test's end are dropped.
func Log(t testing.TB) *slog.Logger {
	t.Helper()
	o := &output{w: t.Output()}
	t.Cleanup(o.end)
	return slog.New(slog.NewTextHandler(o, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// output is a test's output until the test has ended, after which that panics.
type output struct {
	mu sync.Mutex
	w  io.Writer // nil: the test has ended
}

func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.w = nil
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.w == nil {
		return len(b), nil
	}
	return o.w.Write(b)
}

// Quiet returns a logger that says nothing.
func Quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Eventually waits until ok returns nil, asking every few milliseconds, and fails the test with
// ok's last error when ctx ends first.
func Eventually(t testing.TB, ctx context.Context, what string, ok func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: still not so at the deadline: %v", what, err)
		case <-tick.C:
		}
	}
}

// Go runs f until the test ends: its context is then cancelled and f is waited for. An error
// other than the context's fails the test.
func Go(t testing.TB, what string, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil && ctx.Err() == nil {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.NewTimer(20 * time.Second).C:
			t.Errorf("%s: did not stop within 20 s", what)
		}
	}
	t.Cleanup(stop)
	return stop
}

// Root returns the repository's top folder.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(b), "module github.com/farcall/farcall\n") {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("not inside the repository")
		}
		dir = up
	}
}
