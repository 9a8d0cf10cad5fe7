package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/keys"
)

// errNoID is the error for a store without an id: a new one, or one that was wiped.
var errNoID = errors.New("the store has no id")

// identify asks the store, with a linearizable read, for its id and revision. An id that
// cannot be read is none.
func (s *Store) identify(ctx context.Context) (id string, revision int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	resp, err := s.client.Get(ctx, s.schema.Format(keys.Key{Kind: keys.Store}))
	if err != nil {
		return "", 0, fmt.Errorf("read store id: %w", err)
	}
	var v storev1.StoreID
	if len(resp.Kvs) == 0 || keys.Decode(resp.Kvs[0].Value, &v) != nil || v.GetId() == "" {
		return "", resp.Header.GetRevision(), errNoID
	}
	return v.GetId(), resp.Header.GetRevision(), nil
}

// lacks reports whether a value that was read of the store is not part of its past: a store that was
// restored from an older copy of itself soon counts as many revisions as before, but it is something
// else that they brought. nil, and what was compacted away, cannot be told of.
func (s *Store) lacks(ctx context.Context, kv *mvccpb.KeyValue) (bool, error) {
	if kv == nil {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	resp, err := s.client.Get(ctx, string(kv.Key), clientv3.WithRev(kv.ModRevision))
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return false, nil
	case errors.Is(err, rpctypes.ErrFutureRev):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("read what was read before: %w", err)
	}
	same := len(resp.Kvs) == 1 && resp.Kvs[0].ModRevision == kv.ModRevision && bytes.Equal(resp.Kvs[0].Value, kv.Value)
	return !same, nil
}

// found gives a store an id, where it has none or where it is still lost ("" for none), and a
// new federation the mark that policies up to revision 0, which is none, are there. Of several
// replicas that do so at once one wins.
//
// What is in such a store may be an older copy of itself. So the complete publishes it speaks of
// are struck out and everybody's part in it ends: clusters are taken anew and, without their
// markers, written anew, and until then readers know not to conclude anything from an absence.
func (s *Store) found(ctx context.Context, lost string) error {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	store, policies := s.schema.Format(keys.Key{Kind: keys.Store}), s.schema.Format(keys.Key{Kind: keys.PoliciesSynced})
	resp, err := s.client.Txn(ctx).Then(clientv3.OpGet(store), clientv3.OpGet(policies)).Commit()
	if err != nil {
		return fmt.Errorf("create store id: %w", err)
	}
	var was, marked int64 // the revisions of what is to be replaced, 0 where there is none
	if kvs := resp.Responses[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
		var v storev1.StoreID
		if keys.Decode(kvs[0].Value, &v) == nil && v.GetId() != "" && v.GetId() != lost {
			return nil
		}
		was = kvs[0].ModRevision
	}
	// Where only the id has vanished, a higher policy revision must not fall back to 0. What it
	// stands for is of the time before.
	var mark storev1.PoliciesSynced
	if kvs := resp.Responses[1].GetResponseRange().GetKvs(); len(kvs) > 0 {
		marked = kvs[0].ModRevision
		if keys.Decode(kvs[0].Value, &mark) != nil {
			mark.Reset()
		}
		mark.Restored = mark.GetRevision()
	}
	still := clientv3.Compare(clientv3.ModRevision(store), "=", was)
	if err := s.strikeMarkers(ctx, still); err != nil {
		return fmt.Errorf("create store id: %w", err)
	}
	id, err := keys.Encode(&storev1.StoreID{Id: rand.Text()})
	if err != nil {
		return err
	}
	marker, err := keys.Encode(&mark)
	if err != nil {
		return err
	}
	_, err = s.client.Txn(ctx).If(still, clientv3.Compare(clientv3.ModRevision(policies), "=", marked)).Then(
		clientv3.OpPut(store, string(id)),
		clientv3.OpPut(policies, string(marker)),
		clientv3.OpDelete(s.schema.Owners(), clientv3.WithPrefix()),
		clientv3.OpDelete(s.schema.Replicas(), clientv3.WithPrefix()),
	).Commit()
	if err != nil {
		return fmt.Errorf("create store id: %w", err)
	}
	return nil
}

// strikeMarkers deletes every cluster's mark of a complete publish, as long as still holds.
func (s *Store) strikeMarkers(ctx context.Context, still clientv3.Cmp) error {
	resp, err := s.client.Get(ctx, s.schema.Clusters(), clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	var ops []clientv3.Op
	for _, kv := range resp.Kvs {
		if k, err := s.schema.Parse(string(kv.Key)); err == nil && k.Kind == keys.Synced {
			ops = append(ops, clientv3.OpDelete(string(kv.Key)))
		}
	}
	for some := range slices.Chunk(ops, txnOps) {
		if _, err := s.client.Txn(ctx).If(still).Then(some...).Commit(); err != nil {
			return err
		}
	}
	return nil
}

// probe asks the store about once a second whether it answers and who it is, founds it where
// it has no id, and says so when any of that changes. It returns when ctx is done or the
// server under it is down.
func (s *Store) probe(ctx context.Context, down <-chan struct{}) error {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	var pr prober
	for {
		s.probeOnce(ctx, &pr)
		select {
		case <-ctx.Done():
			return nil
		case <-down:
			return stopError(ctx, errors.New("store: embedded etcd stopped by itself"))
		case <-tick.C:
		}
	}
}

// prober is what the last probe saw.
type prober struct {
	id     string
	failed bool
	// told says that the store was told of the policies that the data directory remembers, as far
	// as it had lost them.
	told bool
}

func (s *Store) probeOnce(ctx context.Context, pr *prober) {
	id, _, err := s.identify(ctx)
	if errors.Is(err, errNoID) {
		if err = s.found(ctx, ""); err == nil {
			id, _, err = s.identify(ctx)
		}
	}
	if err == nil && !pr.told {
		// Before anybody reads: who has no policies would take a wiped store's word that there are none.
		err = s.recall(ctx)
		pr.told = err == nil
	}
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		s.metrics.up.Set(0)
		if !pr.failed {
			s.log.Warn("store does not answer", "error", err)
		}
		pr.failed = true
		return
	case pr.id == "":
		s.log.Info("store is ready", "store", id)
		close(s.ready)
	case pr.id != id:
		s.log.Warn("store is another one than before", "store", id, "before", pr.id)
	case pr.failed:
		s.log.Info("store answers again", "store", id)
	}
	s.metrics.up.Set(1)
	pr.id, pr.failed = id, false
}
