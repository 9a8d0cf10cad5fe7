//go:build real && linux

package robustness

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/farcall/farcall/test/robustness/history"
)

// peerKinds are the faults of the ways between agents. No list changes by them: what does not answer
// is called elsewhere.
func peerKinds() []kind {
	takes := []string{"peers"}
	return []kind{
		{name: "peers-refuse", matrix: "F15", takes: takes, least: 2 * time.Second, begin: peerFault(always(weather{refuse: true}))},
		{name: "peers-silent", matrix: "F26", takes: takes, least: 2 * time.Second, begin: peerFault(always(blackHole))},
		{name: "peers-answers-lost", matrix: "F16", takes: takes, least: 2 * time.Second, begin: peerFault(always(weather{back: true, lost: true}))},
		{name: "peers-slow", matrix: "F16", takes: takes, least: 2 * time.Second, begin: peerFault(func(rnd *rand.Rand) weather {
			return weather{delay: 100*time.Millisecond + time.Duration(rnd.Int64N(int64(400*time.Millisecond)))}
		})},
		{name: "peers-narrow", matrix: "F16", takes: takes, least: 2 * time.Second, begin: peerFault(func(rnd *rand.Rand) weather {
			return weather{rate: 2000 + rnd.IntN(20000)}
		})},
		{name: "peers-broken-off", matrix: "F16", takes: takes, least: 2 * time.Second, begin: peerFault(func(rnd *rand.Rand) weather {
			return weather{lifetime: 300 + rnd.IntN(3000)}
		})},
	}
}

// peerFault makes weather on the ways to all agents of one cluster.
func peerFault(draw func(*rand.Rand) weather) func(context.Context, *world, *rand.Rand) (history.Fault, endFault, error) {
	return func(_ context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
		c := w.clusters[w.names[rnd.IntN(len(w.names))]]
		var links []*link
		for _, a := range c.agents {
			links = append(links, a.peers)
		}
		f, end := spoil(links, draw(rnd))
		f.Target, f.Callers = "the ways to "+c.name, true
		return f, end, nil
	}
}
