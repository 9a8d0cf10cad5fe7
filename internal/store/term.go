package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
)

// errFenceMoved is the error of a transaction that found the owner key ours, but written since:
// by a renewal of the fence whose answer was lost.
var errFenceMoved = errors.New("the fence was renewed meanwhile")

// Term is the ownership of one cluster by this replica, from taking its owner key to losing it
// or giving it up. Every write of it is a transaction that compares the owner key, so it can
// write nothing under another's epoch, however late its packets are. Its methods are safe for
// concurrent use.
type Term struct {
	cluster string
	session *session
	store   *Store

	ctx    context.Context // ends with the term; its cause says why
	end    context.CancelCauseFunc
	ownKey string
	fence  int64 // the owner key's creation: ours as long as it is that

	epoch       atomic.Uint64 // 0 until the term is open
	confirmedAt atomic.Uint64 // tick; 0 before the first confirmation

	// busy is taken by whoever writes; what follows is under it.
	busy chan struct{}
	// wrote are the revisions of this term's latest writes; by itself under its own lock.
	wrote revisions
	// renewed is the owner key's revision, and part of the fence: renewing it puts whatever is
	// still on its way out of force.
	renewed  int64
	unsure   bool // what is below may not be what the store holds
	rewrite  bool // values of older epochs must be written again
	seq      uint64
	services map[catalog.Name][]slice
	// lists are what was published last: services hold exactly that. None of a service that is not
	// known so well.
	lists  map[catalog.Name][]*catalog.Instance
	meta   *storev1.ClusterMeta      // as stored; nil where there is none to be kept
	holds  map[uint32]*storev1.Holds // as stored, by part
	synced uint64                    // the epoch of the stored marker
	seen   uint64                    // the highest epoch among all that was loaded
	warned bool                      // corrupt values were logged
}

func newTerm(ctx context.Context, s *session, cluster string, fence int64) *Term {
	t := &Term{
		cluster: cluster,
		session: s,
		store:   s.store,
		ownKey:  s.store.schema.Format(keys.Key{Kind: keys.Owner, Cluster: cluster}),
		fence:   fence,
		busy:    make(chan struct{}, 1),
		unsure:  true,
	}
	t.ctx, t.end = context.WithCancelCause(ctx)
	return t
}

// Cluster is the name of the cluster owned.
func (t *Term) Cluster() string { return t.cluster }

// Epoch orders this term's values after those of all terms before.
func (t *Term) Epoch() uint64 { return t.epoch.Load() }

// Confirm says that what the owner publishes was confirmed by its sources just now. The next
// heartbeat carries it to the readers, who count the cluster's age from there.
func (t *Term) Confirm() { t.confirmedAt.Store(t.session.m.nextTick()) }

// Wrote reports whether a revision of the store is one of this term's latest writes. One of a
// write whose answer was lost is not known.
func (t *Term) Wrote(revision int64) bool { return t.wrote.has(revision) }

// Distrust says that somebody else may have changed the cluster's keys: before the next write the
// term reads them anew, and a full Publish then writes again what is not as it shall be. It
// blocks and fails as Publish.
func (t *Term) Distrust(ctx context.Context) error {
	return t.retry(ctx, func(context.Context) error {
		t.unsure = true
		return nil
	})
}

// run is the goroutine of the term: it opens it, calls hold and gives the ownership up.
func (t *Term) run(hold func(context.Context, *Term) error) {
	defer t.resign()
	if err := t.open(); err != nil {
		t.end(err)
		return
	}
	err := hold(t.ctx, t)
	if t.ctx.Err() == nil {
		t.store.log.Warn("ownership is given up", "cluster", t.cluster, "error", err)
		t.end(errHoldEnded)
	}
	t.session.m.setTerm(t.cluster, nil)
	t.store.log.Debug("term is over", "cluster", t.cluster, "epoch", t.Epoch(), "why", context.Cause(t.ctx))
}

// open loads the cluster and fixes the term's epoch: above everything that the store, the data
// directory and whoever reported one know. It is remembered and written before its first use.
func (t *Term) open() error {
	return t.retry(t.ctx, func(ctx context.Context) error {
		if t.Epoch() == 0 {
			if err := t.recover(ctx); err != nil {
				return err
			}
			if err := t.setEpoch(); err != nil {
				return err
			}
		}
		return t.putMeta(ctx, t.meta)
	})
}

func (t *Term) setEpoch() error {
	m := t.session.m
	m.learn()
	m.setTerm(t.cluster, t)
	// Under the lock, so that a report either counts here or ends the term.
	m.mu.Lock()
	known := max(t.store.epochs.of(t.cluster), m.raised[t.cluster])
	epoch := 1 + max(t.seen, known)
	m.mu.Unlock()
	if err := t.store.epochs.remember(t.cluster, epoch); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.raised[t.cluster] >= epoch {
		return errors.New("a higher epoch was reported meanwhile")
	}
	// A store that is behind what others know has lost what readers hold: they refuse its values
	// as older than theirs. So it may be where the term before did not come to its complete
	// publish, since it may have begun for that reason.
	t.rewrite = known > t.seen || t.synced != t.seen
	t.markOld(epoch)
	t.epoch.Store(epoch)
	return nil
}

// resign deletes the owner key, if it is still ours, so that the next owner need not wait.
func (t *Term) resign() {
	t.session.m.setTerm(t.cluster, nil)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), resignTimeout)
	defer cancel()
	_, err := t.store.client.Txn(ctx).
		If(t.ours()...).
		Then(clientv3.OpDelete(t.ownKey)).Commit()
	if err != nil {
		t.store.log.Debug("owner key is left to the lease", "cluster", t.cluster, "error", err)
	}
}

// retry runs one write until it is done, the term is over (ErrNotOwner) or ctx is. do is
// called with the term to itself and with what it knows of the store made sure of.
func (t *Term) retry(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(t.ctx, func() { cancel(ErrNotOwner) })()
	select {
	case t.busy <- struct{}{}:
	case <-ctx.Done():
		return t.over(ctx)
	}
	defer func() { <-t.busy }()
	if t.ctx.Err() != nil || ctx.Err() != nil {
		return t.over(ctx) // even if there were nothing to write
	}
	pauses := t.store.backoff()
	for failed := false; ; {
		err := t.attempt(ctx, do)
		switch {
		case err == nil:
			if failed {
				t.store.log.Info("cluster is written again", "cluster", t.cluster)
			}
			return nil
		case errors.Is(err, ErrNotOwner):
			t.end(ErrNotOwner)
			return err
		}
		if !failed && ctx.Err() == nil {
			t.store.log.Warn("cluster cannot be written: trying on", "cluster", t.cluster, "error", err)
		}
		failed = true
		if !pauses.after(ctx, err) {
			return t.over(ctx)
		}
	}
}

// over says why a write was given up: the term's end before the caller's.
func (t *Term) over(ctx context.Context) error {
	why := context.Cause(t.ctx)
	switch {
	case why == nil:
		return context.Cause(ctx)
	case errors.Is(why, ErrNotOwner):
		return why
	}
	return fmt.Errorf("%w: %w", ErrNotOwner, why)
}

func (t *Term) attempt(ctx context.Context, do func(context.Context) error) error {
	if t.unsure && t.Epoch() != 0 {
		t.store.metrics.recoveries.Inc()
		if err := t.recover(ctx); err != nil {
			return err
		}
	}
	return do(ctx)
}

// commit runs one fenced write. After an error other than ErrNotOwner the outcome is unknown,
// and the next attempt makes sure first.
func (t *Term) commit(ctx context.Context, ops []clientv3.Op) error {
	rctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	txn, err := t.store.client.Txn(rctx).If(
		append(t.ours(), clientv3.Compare(clientv3.ModRevision(t.ownKey), "=", t.renewed))...,
	).Then(ops...).Else(clientv3.OpGet(t.ownKey)).Commit()
	if err == nil && !txn.Succeeded {
		err = t.refusal(txn)
	}
	if err != nil {
		t.unsure = true
		t.count(err)
		return fmt.Errorf("write %d keys: %w", len(ops), err)
	}
	t.wrote.add(txn.Header.GetRevision())
	t.count(nil)
	return nil
}

// ours holds while the owner key is the one that this term took. Revisions alone do not tell: those of
// a store that was wiped begin anew, and others take their owner keys at much the same ones. No two
// leases are the same.
func (t *Term) ours() []clientv3.Cmp {
	return []clientv3.Cmp{
		clientv3.Compare(clientv3.CreateRevision(t.ownKey), "=", t.fence),
		clientv3.Compare(clientv3.LeaseValue(t.ownKey), "=", t.session.lease),
	}
}

// recover makes sure of what the store holds. It renews the owner key first: whatever this
// term has sent and is still on its way compares the old one and comes to nothing.
func (t *Term) recover(ctx context.Context) error {
	rctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	value, err := keys.Encode(&storev1.Owner{Replica: t.session.m.cfg.ID})
	if err != nil {
		return err
	}
	txn, err := t.store.client.Txn(rctx).
		If(t.ours()...).
		Then(clientv3.OpPut(t.ownKey, string(value), clientv3.WithLease(t.session.lease))).
		Else(clientv3.OpGet(t.ownKey)).Commit()
	if err == nil && !txn.Succeeded {
		err = t.refusal(txn)
	}
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		err = fmt.Errorf("%w: the lease is gone", ErrNotOwner)
	}
	if err != nil {
		t.count(err)
		return fmt.Errorf("renew the fence: %w", err)
	}
	t.count(nil)
	t.renewed = txn.Header.GetRevision()
	if err := t.load(ctx, t.renewed); err != nil {
		return err
	}
	t.unsure = false
	return nil
}

// refusal tells a fence that is another's from one that only moved.
func (t *Term) refusal(txn *clientv3.TxnResponse) error {
	kvs := txn.Responses[0].GetResponseRange().GetKvs()
	if len(kvs) == 1 && kvs[0].CreateRevision == t.fence && clientv3.LeaseID(kvs[0].Lease) == t.session.lease {
		return errFenceMoved
	}
	return fmt.Errorf("cluster %s: %w", t.cluster, ErrNotOwner)
}

func (t *Term) count(err error) {
	outcome := "ok"
	switch {
	case errors.Is(err, ErrNotOwner):
		outcome = "fenced"
	case err != nil:
		outcome = "unknown"
	}
	t.store.metrics.txns.WithLabelValues(outcome).Inc()
}

// load reads the cluster as it was when the fence was renewed: nobody else has written it
// since. Values that cannot be read are counted and written again at the next publish of what
// they belong to.
func (t *Term) load(ctx context.Context, rev int64) error {
	t.services = map[catalog.Name][]slice{}
	t.lists = map[catalog.Name][]*catalog.Instance{}
	t.meta, t.synced, t.holds = nil, 0, map[uint32]*storev1.Holds{}
	corrupt := 0
	err := t.store.scan(ctx, t.store.schema.Cluster(t.cluster), rev, func(kvs []*mvccpb.KeyValue) {
		for _, kv := range kvs {
			if !t.loadValue(kv) {
				corrupt++
				t.store.metrics.corrupt.Inc()
			}
		}
	})
	if err != nil {
		return err
	}
	if corrupt > 0 && !t.warned {
		t.warned = true
		t.store.log.Warn("values of the cluster cannot be read and will be written again", "cluster", t.cluster, "values", corrupt)
	}
	t.markOld(t.Epoch())
	return nil
}

// loadValue takes one key of the cluster in and reports whether it could be read.
func (t *Term) loadValue(kv *mvccpb.KeyValue) bool {
	k, err := t.store.schema.Parse(string(kv.Key))
	if err != nil {
		return true // a newer version's
	}
	switch k.Kind {
	case keys.Meta:
		var v storev1.ClusterMeta
		if keys.Decode(kv.Value, &v) != nil || v.GetCluster() != t.cluster {
			return false
		}
		t.meta = &v
		t.sight(v.GetEpoch(), v.GetSeq())
	case keys.Synced:
		var v storev1.Synced
		if keys.Decode(kv.Value, &v) != nil || v.GetCluster() != t.cluster {
			return false
		}
		t.synced = v.GetEpoch()
		t.sight(v.GetEpoch(), 0)
	case keys.Holds:
		return t.loadHolds(k, kv.Value)
	case keys.Slice:
		s, ok := t.loadSlice(k, kv.Value)
		// Keys come in the order of their text, in which 10 is before 2.
		t.services[k.Name] = change{puts: []slice{s}}.apply(t.services[k.Name])
		return ok
	}
	return true
}

// loadSlice reads one slice. One that cannot be read, or belongs under another key, holds
// nothing and must not stay.
func (t *Term) loadSlice(k keys.Key, value []byte) (slice, bool) {
	var v storev1.Slice
	if keys.Decode(value, &v) != nil || v.GetCluster() != k.Cluster || v.GetNamespace() != k.Name.Namespace ||
		v.GetService() != k.Name.Service || v.GetSlice() != k.Slice {
		return slice{index: k.Slice, dirty: true}, false
	}
	t.sight(v.GetEpoch(), v.GetSeq())
	s := slice{index: k.Slice, epoch: v.GetEpoch(), slots: make([]slot, 0, len(v.GetInstances()))}
	for _, p := range v.GetInstances() {
		i := catalog.InstanceFromProto(p)
		if i.Cluster != k.Cluster || i.Name != k.Name {
			return slice{index: k.Slice, dirty: true}, false
		}
		sl := slot{inst: i, size: proto.Size(p) + 4}
		if catalog.SaysMore(p) {
			sl.more = p
		}
		s.add(sl)
	}
	slices.SortStableFunc(s.slots, byIdentity)
	return s, true
}

// sight notes how far the values of the cluster are. After an unknown outcome the highest seq
// of this epoch may be one that this term gave out and forgot.
func (t *Term) sight(epoch, seq uint64) {
	if epoch <= maxEpoch {
		t.seen = max(t.seen, epoch)
	}
	if epoch == t.Epoch() {
		t.seq = max(t.seq, seq)
	}
}

// markOld marks the slices that must be written again under this epoch.
func (t *Term) markOld(epoch uint64) {
	for _, list := range t.services {
		for i := range list {
			list[i].dirty = list[i].dirty || t.rewrite && list[i].epoch != epoch
		}
	}
}
