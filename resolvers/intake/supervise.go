package intake

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/farcall/farcall/resolvers"
)

// The pause before a resolver is run again doubles from least to most. It is back at least
// after a Run that lasted longer than most.
const (
	leastPause = 100 * time.Millisecond
	mostPause  = 5 * time.Second
)

// supervise runs a resolver of a registry until ctx is done.
func (i *Intake) supervise(ctx context.Context, r *registry, resolver resolvers.Resolver) {
	pause := leastPause
	for {
		began := time.Now()
		err := resolver.Run(ctx, r.inbox)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("the resolver ended without a reason")
		}
		r.inbox.Failed(err)
		i.metrics.restarts.WithLabelValues(i.cluster, r.name).Inc()
		if time.Since(began) > mostPause {
			pause = leastPause
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2)) // jitter, against agents in step
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		pause = min(2*pause, mostPause)
	}
}
