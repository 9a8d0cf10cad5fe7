package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Writable reports why this replica's last heartbeat could not be written, nil where it was, or where
// none was tried yet. A store may answer every question and take no write: an etcd whose space is used
// up does until somebody gives it room and disarms its alarm. It may be called by any goroutine.
func (s *Store) Writable() error {
	if err := s.unwritten.Load(); err != nil {
		return *err
	}
	return nil
}

// wrote notes how the write of a heartbeat, or of a replica's registration, ended.
func (s *Store) wrote(err error) {
	if err == nil {
		s.unwritten.Store(nil)
		s.metrics.writable.Set(1)
		return
	}
	s.unwritten.Store(&err)
	s.metrics.writable.Set(0)
}

// after is wait after an error. What has no space has none in a moment either: it is asked once a
// second at most, by each who writes.
func (b *backoff) after(ctx context.Context, err error) bool {
	if !errors.Is(err, rpctypes.ErrNoSpace) {
		return b.wait(ctx)
	}
	b.last = maxPause
	some := rand.N[time.Duration]
	if b.jitter != nil {
		some = b.jitter
	}
	return pause(ctx, maxPause+some(maxPause/2))
}
