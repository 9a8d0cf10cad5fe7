//go:build real && linux

package robustness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/farcall/farcall/test/robustness/history"
)

// aloneKinds are the faults in which agents have nobody but each other.
func aloneKinds() []kind {
	takes := []string{"synchronizers", "agents", "feed"}
	return []kind{{name: "agents-begin-alone", matrix: "F38", takes: takes, least: 2 * time.Second, begin: agentsBeginAlone}}
}

// agentsBeginAlone kills every synchronizer and every agent, and starts the agents again: they go on
// with what they kept on their disks, and call each other.
func agentsBeginAlone(ctx context.Context, w *world, _ *rand.Rand) (history.Fault, endFault, error) {
	for _, s := range w.synchronizers {
		s.kill()
	}
	for _, a := range w.agents() {
		a.kill()
	}
	for _, a := range w.agents() {
		a.proc.Start()
	}
	for _, a := range w.agents() {
		a.ready(ctx, w)
	}
	return history.Fault{Target: "all", Callers: true}, func(ctx context.Context) (string, error) {
		alone := 0
		for _, a := range w.agents() {
			if text, err := page(ctx, "http://"+a.metrics+"/readyz"); err == nil && strings.Contains(text, "degraded") {
				alone++
			}
		}
		for _, s := range w.synchronizers {
			s.start()
		}
		if alone == 0 {
			return "", nil
		}
		return fmt.Sprintf("%d agents served what they had kept", alone), nil
	}, nil
}
