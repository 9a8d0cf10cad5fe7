package store

import (
	"context"
	"math/rand/v2"
	"time"
)

// The pauses between attempts begin short, because most losses are a changed leader, and stay
// below a second, because somebody waits for what comes after.
const (
	minPause = 20 * time.Millisecond
	maxPause = time.Second
)

// backoff gives the pauses between attempts. The zero value is ready; it is not safe for
// concurrent use.
type backoff struct {
	last   time.Duration
	jitter func(time.Duration) time.Duration // nil: chance
}

// backoff returns the pauses of somebody who tries again.
func (s *Store) backoff() backoff { return backoff{jitter: s.jitter} }

// wait pauses, longer each time until reset, and reports whether ctx still stands. The jitter
// of one half keeps replicas that lost the same store from coming back at the same moment.
func (b *backoff) wait(ctx context.Context) bool {
	b.last = min(max(2*b.last, minPause), maxPause)
	some := rand.N[time.Duration]
	if b.jitter != nil {
		some = b.jitter
	}
	return pause(ctx, b.last/2+some(b.last/2))
}

func (b *backoff) reset() { b.last = 0 }

// pause waits for d and reports whether ctx still stands.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return ctx.Err() == nil
	}
}
