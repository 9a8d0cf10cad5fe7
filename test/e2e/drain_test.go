//go:build unix

package e2e

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/farcall/farcall/internal/testkit"
)

// An agent that is asked to end takes its calls to their end, and everything else goes
// elsewhere: under steady traffic, POST included, no call fails.
func TestDrainLosesNoCall(t *testing.T) {
	w := newWorld(t, options{}, "east", "west", "edge")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	sent := map[string]int{}
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPost} {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a, err := w.call("east", method, "cart/method/x", "farcall-strategy: external-only")
				mu.Lock()
				sent[a.cluster()]++
				mu.Unlock()
				if err != nil || a.status != http.StatusOK {
					t.Errorf("%s failed: %d %s %v", method, a.status, a.body, err)
				}
			}
		})
	}
	enough := func(n int) {
		t.Helper()
		total := func() (all int) {
			mu.Lock()
			defer mu.Unlock()
			for _, k := range sent {
				all += k
			}
			return all
		}
		goal := total() + n
		testkit.Eventually(t, w.ctx, "traffic", func() error {
			if have := total(); have < goal {
				return fmt.Errorf("%d of %d calls", have, goal)
			}
			return nil
		})
	}
	enough(100)
	west := w.clusters["west"].agent
	west.Term()
	if err := west.Wait(); err != nil {
		t.Errorf("the agent ended with %v", err)
	}
	enough(100)
	close(stop)
	wg.Wait()
	if sent["west"] == 0 || sent["edge"] == 0 {
		t.Errorf("the test saw no traffic to both: %v", sent)
	}
}
