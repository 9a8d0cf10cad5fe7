package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// A store without space is asked once a second at most, by each who writes, however long that lasts;
// whatever else is wrong is tried again sooner.
func TestAStoreWithoutSpaceIsAskedSeldom(t *testing.T) {
	for name, c := range map[string]struct {
		err         error
		least, most time.Duration
	}{
		"no space":      {fmt.Errorf("write 1 keys: %w", rpctypes.ErrNoSpace), time.Second, 1500 * time.Millisecond},
		"another error": {errors.New("no leader"), minPause / 2, maxPause},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var b backoff
				for range 100 {
					began := time.Now()
					if !b.after(t.Context(), c.err) {
						t.Fatal("ended")
					}
					if took := time.Since(began); took < c.least || took > c.most {
						t.Errorf("a pause of %s, want %s to %s", took, c.least, c.most)
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if b.after(ctx, c.err) {
					t.Error("went on when it should have ended")
				}
			})
		})
	}
}

func TestWritable(t *testing.T) {
	s := newStore(t, Config{Embedded: &EmbeddedConfig{DataDir: t.TempDir()}})
	if err := s.Writable(); err != nil {
		t.Errorf("before anything was written: %v", err)
	}
	s.wrote(rpctypes.ErrNoSpace)
	if err := s.Writable(); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Errorf("after a write that was refused: %v", err)
	}
	s.wrote(nil)
	if err := s.Writable(); err != nil {
		t.Errorf("after one that was not: %v", err)
	}
}
