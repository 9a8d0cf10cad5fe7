package daemon

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/testkit"
)

// All processors as soon as one is nearly used up, and one again when it was enough for a while.
func TestProcessors(t *testing.T) {
	p := processors{all: true}
	for i, step := range []struct {
		busy float64
		last time.Duration
		all  bool
	}{
		{0.1, time.Second, true},
		{0.1, time.Second, false},
		{0.6, time.Hour, false},
		{0.8, processorsEvery, true},
		{0.1, calmAfter - 1, true},
		{0.5, processorsEvery, true}, // it begins anew
		{0.1, calmAfter - 1, true},
		{0.1, 1, false},
		{1.9, processorsEvery, true},
	} {
		if got := p.next(step.busy, step.last); got != step.all {
			t.Errorf("step %d: all is %v, want %v", i, got, step.all)
		}
	}
}

// A process with nothing to do comes down to one processor, and has all again when the agent ends.
func TestFewProcessors(t *testing.T) {
	t.Setenv("GOMAXPROCS", "") // whoever runs the tests may have set it
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	runtime.GOMAXPROCS(2)
	stop := testkit.Go(t, "processors", func(ctx context.Context) error { fewProcessors(ctx); return nil })
	testkit.Eventually(t, testkit.Context(t), "one processor", func() error {
		if n := runtime.GOMAXPROCS(0); n != 1 {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
	stop()
	if n := runtime.GOMAXPROCS(0); n == 1 && runtime.NumCPU() > 1 {
		t.Errorf("%d at the end", n)
	}
}
