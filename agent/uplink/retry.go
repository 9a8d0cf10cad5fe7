package uplink

import (
	"context"
	"errors"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
)

// maxWait bounds what a synchronizer can ask for: one that is wrong must not keep an agent away.
const maxWait = 30 * time.Second

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

// choose gives the next synchronizer, and how long to wait before it is asked: the next in order that
// did not ask to be left alone, or the one whose time is over first.
func (u *Uplink) choose(next *int, now time.Time) (address string, wait time.Duration) {
	all := u.cfg.Synchronizers
	best := -1
	for n := range all {
		at := (*next + n) % len(all)
		left := max(u.waits[all[at]].Sub(now), 0)
		if best < 0 || left < wait {
			best, wait = at, left
		}
		if left == 0 {
			break
		}
	}
	*next = best + 1
	return all[best], wait
}

// retryAfter is how long a synchronizer asked to be left alone, 0 where it did not.
func retryAfter(err error) time.Duration {
	var withStatus interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &withStatus) {
		return 0
	}
	for _, d := range withStatus.GRPCStatus().Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok {
			return min(max(r.GetRetryDelay().AsDuration(), 0), maxWait)
		}
	}
	return 0
}
