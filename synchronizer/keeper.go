package synchronizer

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/internal/store"
)

const (
	// cordonGrace is how long after its end a cordon is removed: agents obey the end by themselves,
	// and clocks differ.
	cordonGrace = time.Second
	// keepAgain is when what could not be done is tried again.
	keepAgain = time.Second
	// keepIdle is how long a keeper waits at most that has nothing to do.
	keepIdle = time.Hour
)

// keeper looks after the policies and cordons that are in the store: it writes them back when the
// store lost them, keeps the data directory's copy up to date, and removes cordons that have
// expired. Every replica does so; what one has done is nothing to do for the others. Only run's
// goroutine uses it.
type keeper struct {
	s      *Synchronizer
	log    *slog.Logger
	copied *policy.Set // of which the data directory has a copy
	failed bool        // the last try of something; the first failure of a row is logged
}

func (k *keeper) run(ctx context.Context) error {
	for {
		changed := k.s.hub.policiesChanged()
		timer := time.NewTimer(k.tend(ctx, time.Now()))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-changed:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// tend does what is to be done now, and says when to look again even if nothing changes.
func (k *keeper) tend(ctx context.Context, now time.Time) time.Duration {
	next, err := k.try(ctx, now)
	switch {
	case ctx.Err() != nil:
	case err != nil && !k.failed:
		k.log.Warn("policies and cordons cannot be looked after: trying on", "error", err)
	case err == nil && k.failed:
		k.log.Info("policies and cordons are looked after again")
	}
	k.failed = err != nil
	if err != nil {
		return keepAgain
	}
	return next
}

func (k *keeper) try(ctx context.Context, now time.Time) (time.Duration, error) {
	all := k.s.mirror.Policies()
	if !all.Known {
		return keepIdle, nil
	}
	if all.Behind || all.Set != k.copied {
		held, err := k.s.mirror.PolicyEntries()
		if err != nil {
			return 0, err
		}
		entries := make([]store.Entry, 0, len(held))
		for _, e := range held {
			entries = append(entries, store.Entry{Key: e.GetKey(), Value: e.GetValue()})
		}
		if all.Behind {
			_, err = k.s.store.RestorePolicies(ctx, entries)
		}
		if err := errors.Join(err, k.s.store.RememberPolicies(ctx, entries)); err != nil {
			return 0, err
		}
		k.copied = all.Set
	}
	if all.Behind {
		return keepAgain, nil // if it is still so then
	}
	return k.expire(ctx, all.Set.Cordons(), now)
}

// expire removes the cordons that have ended, and says when the next one will have.
func (k *keeper) expire(ctx context.Context, cordons []*policy.Cordon, now time.Time) (time.Duration, error) {
	next := keepIdle
	for _, c := range cordons {
		if c.Expires.IsZero() {
			continue
		}
		if left := c.Expires.Add(cordonGrace).Sub(now); left > 0 {
			next = min(next, left)
			continue
		}
		revision, err := k.s.store.DeleteCordon(ctx, c.Cluster, c.Name, store.Condition{IfRevision: &c.Revision})
		switch {
		case errors.Is(err, store.ErrRevision), errors.Is(err, store.ErrNoPolicy):
			// Another replica removed it, or somebody cordoned anew: this replica will hear of it.
		case err != nil:
			return 0, err
		default:
			k.log.Info("cordon has expired and is removed", "cordon", c.String(), "author", c.Author, "expires", c.Expires, "revision", revision)
		}
	}
	return next, nil
}
