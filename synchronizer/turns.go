package synchronizer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// How many snapshots are sent at a time, how many readers may wait for theirs, and how long one may
// take before the next begins all the same: a reader that does not read holds up nobody for ever.
const (
	snapshotsAtOnce = 16
	snapshotsQueued = 2048
	snapshotTurn    = 2 * time.Second
)

// What a reader is told that must come back later, at least and at most.
const (
	minRetry = time.Second
	maxRetry = 30 * time.Second
)

// turns lets a few readers at a time have a snapshot, in the order in which they came. Everything is
// read by an agent that has nothing, by all of them after the store was lost: sent to all at once, it
// would reach none of them soon.
type turns struct {
	free    *semaphore.Weighted // serves in order
	atOnce  int
	queued  int64
	limit   time.Duration
	waiting atomic.Int64
	took    atomic.Int64 // how long a turn took lately, in nanoseconds
	metrics *metrics
}

func newTurns(atOnce int, queued int64, m *metrics) *turns {
	return &turns{free: semaphore.NewWeighted(int64(atOnce)), atOnce: atOnce, queued: queued, limit: snapshotTurn, metrics: m}
}

// take waits for a turn, until ctx is done, and gives what ends it. Where too many wait already, the
// error says when to come back.
func (t *turns) take(ctx context.Context) (end func(), err error) {
	ahead := t.waiting.Add(1)
	t.metrics.drift.waiting.Inc()
	defer func() { t.waiting.Add(-1); t.metrics.drift.waiting.Dec() }()
	if ahead > t.queued {
		t.metrics.drift.turnedAway.Inc()
		return nil, t.comeBack(ahead)
	}
	if err := t.free.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	began := time.Now()
	var once sync.Once
	free := func() { once.Do(func() { t.free.Release(1) }) }
	late := time.AfterFunc(t.limit, free)
	return func() {
		late.Stop()
		free()
		t.took.Store((3*t.took.Load() + int64(time.Since(began))) / 4)
	}, nil
}

// comeBack is the answer to a reader with so many ahead of it.
func (t *turns) comeBack(ahead int64) error {
	after := min(max(time.Duration(ahead/int64(t.atOnce)*t.took.Load()), minRetry), maxRetry)
	st := status.Newf(codes.Unavailable, "%d agents wait for a snapshot already: come back in %s", ahead-1, after.Round(time.Millisecond))
	if d, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)}); err == nil {
		st = d
	}
	return st.Err()
}
