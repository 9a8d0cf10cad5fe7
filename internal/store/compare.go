package store

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// surveyPage is how many keys one request of a survey asks for: without values they are small.
const surveyPage = 5000

// Survey tells of every key that readers are brought, without its value, which revision changed it
// last, as the store with this id stood at one revision. It fails where that store is another one by
// now, or has compacted that revision away or not come to it. The reads are linearizable: a member
// that lags is not asked for what it does not have yet.
func (s *Store) Survey(ctx context.Context, id string, revision int64, tell func(key string, changed int64)) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return fmt.Errorf("store: survey: %w", err)
	}
	defer leave()
	owners := s.schema.Owners()
	err = s.scanPages(ctx, s.schema.Root(), revision, surveyPage, func(kvs []*mvccpb.KeyValue) {
		for _, kv := range kvs {
			if key := string(kv.Key); !strings.HasPrefix(key, owners) {
				tell(key, kv.ModRevision)
			}
		}
	}, clientv3.WithKeysOnly())
	if err != nil {
		return fmt.Errorf("store: survey: %w", err)
	}
	// A wiped store counts its revisions anew and may have one of the same number.
	now, _, err := s.identify(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("store: survey: %w", err)
	case now != id:
		return fmt.Errorf("store: survey: %w: id %s became %s", errOtherStore, id, now)
	}
	return nil
}

// Doubt has everybody who watches list again: somebody found that a reader holds something else than
// the store does.
func (s *Store) Doubt() { s.doubts.raise() }

// doubts wakes all who wait for the next one. The zero value is ready; it is safe for concurrent use.
type doubts struct {
	mu   sync.Mutex
	next chan struct{}
}

// wait returns a channel that is closed at the next doubt.
func (d *doubts) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.next == nil {
		d.next = make(chan struct{})
	}
	return d.next
}

func (d *doubts) raise() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.next != nil {
		close(d.next)
	}
	d.next = make(chan struct{})
}
