//go:build real && linux

package robustness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/farcall/farcall/test/robustness/history"
)

// storeKinds are the faults of the ways from the synchronizers to etcd.
func storeKinds() []kind {
	takes := []string{"store"}
	return []kind{
		{name: "store-cut-for-all", matrix: "F14", takes: takes, least: 2 * time.Second, begin: storeFault(true, always(weather{refuse: true}))},
		{name: "store-cut-for-one", matrix: "F14", takes: takes, least: 2 * time.Second, begin: storeFault(false, always(weather{refuse: true}))},
		{name: "store-silent-for-one", matrix: "F14", takes: takes, least: 2 * time.Second, begin: storeFault(false, always(blackHole))},
		{name: "store-answers-lost", matrix: "F2", takes: takes, least: 2 * time.Second, begin: storeFault(true, always(weather{back: true, lost: true}))},
		{name: "store-slow", matrix: "F7", takes: takes, least: 2 * time.Second, begin: storeFault(true, func(rnd *rand.Rand) weather {
			return weather{delay: 100*time.Millisecond + time.Duration(rnd.Int64N(int64(400*time.Millisecond)))}
		})},
		{name: "store-resets", matrix: "F16", takes: takes, least: 2 * time.Second, begin: storeFault(true, func(rnd *rand.Rand) weather {
			return weather{lifetime: 300 + rnd.IntN(3000)}
		})},
	}
}

// always is weather that nothing is drawn for.
func always(w weather) func(*rand.Rand) weather {
	return func(*rand.Rand) weather { return w }
}

func storeFault(all bool, draw func(*rand.Rand) weather) func(context.Context, *world, *rand.Rand) (history.Fault, endFault, error) {
	return func(_ context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
		whose := w.synchronizers
		if !all {
			n := rnd.IntN(len(whose))
			whose = whose[n : n+1]
		}
		var links []*link
		target := ""
		for _, s := range whose {
			links = append(links, s.store...)
			target += " " + s.id
		}
		f, end := spoil(links, draw(rnd))
		f.Target = target[1:]
		return f, end, nil
	}
}

// spoil makes the weather of some links until it is ended, and counts what was felt of it.
func spoil(links []*link, w weather) (history.Fault, endFault) {
	for _, l := range links {
		l.spoilt.Store(0)
		l.set(w)
	}
	return history.Fault{}, func(context.Context) (string, error) {
		felt := int64(0)
		for _, l := range links {
			felt += l.spoilt.Load()
			l.set(weather{})
		}
		if felt == 0 {
			return "", nil
		}
		return fmt.Sprintf("felt %d times", felt), nil
	}
}
