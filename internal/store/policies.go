package store

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/policy"
)

var (
	// ErrNoPolicy is the error of a deletion of a policy or cordon that is not there.
	ErrNoPolicy = errors.New("there is no such policy or cordon")
	// ErrRevision is what every RevisionError is.
	ErrRevision = errors.New("its revision is another one")
)

// RevisionError is the error of a write that was to be made only at another revision of the policy
// or cordon than the stored one. Nothing was written.
type RevisionError struct {
	// Stored is the revision of what is stored, 0 where nothing is.
	Stored uint64
}

// Error implements error.
func (e *RevisionError) Error() string {
	if e.Stored == 0 {
		return "it is not stored"
	}
	return fmt.Sprintf("its revision is %d", e.Stored)
}

// Is reports that it is an ErrRevision.
func (e *RevisionError) Is(target error) bool { return target == ErrRevision }

// Condition says when a policy or cordon may be written. The zero value: always.
type Condition struct {
	// IfRevision is the revision that the stored value must have, 0 where there must be none.
	IfRevision *uint64
	// Agree, where set, is asked before every attempt with the revision of all policies and
	// cordons that is stored: the write is made on top of exactly that one, or not at all. An error
	// of it, unless that of its context, ends the write and is returned as it is.
	Agree func(ctx context.Context, revision uint64) error
}

// PutPolicy writes a policy in the place of the one with the same ID, and returns the revision that
// it has from then on, which is that of all policies and cordons too. What p says of its revision
// means nothing. After an error that is neither ErrRevision nor Agree's it may be written or not.
func (s *Store) PutPolicy(ctx context.Context, p *policy.Policy, c Condition) (revision uint64, err error) {
	return s.writePolicy(ctx, "put policy", keys.Key{Kind: keys.Policy, ID: p.ID()}, c, func(revision uint64) proto.Message {
		v := p.Proto()
		v.Revision = revision
		return v
	})
}

// DeletePolicy removes the policy of an ID and returns the revision of all policies and cordons
// after that. Where there is none it fails with ErrNoPolicy. Otherwise it fails as PutPolicy.
func (s *Store) DeletePolicy(ctx context.Context, id string, c Condition) (revision uint64, err error) {
	return s.writePolicy(ctx, "delete policy", keys.Key{Kind: keys.Policy, ID: id}, c, nil)
}

// PutCordon writes a cordon in the place of the one of the same cluster and service. It returns and
// fails as PutPolicy.
func (s *Store) PutCordon(ctx context.Context, cordon *policy.Cordon, c Condition) (revision uint64, err error) {
	k := keys.Key{Kind: keys.Cordon, Cluster: cordon.Cluster, ID: cordon.ID()}
	return s.writePolicy(ctx, "put cordon", k, c, func(revision uint64) proto.Message {
		v := cordon.Proto()
		v.Revision = revision
		return v
	})
}

// DeleteCordon removes the cordon of a service of a cluster, or, for the zero Name, that of the
// whole cluster. It returns and fails as DeletePolicy.
func (s *Store) DeleteCordon(ctx context.Context, cluster string, n catalog.Name, c Condition) (revision uint64, err error) {
	k := keys.Key{Kind: keys.Cordon, Cluster: cluster, ID: policy.FormatCordonID(n)}
	return s.writePolicy(ctx, "delete cordon", k, c, nil)
}

// policyWrite is one write of a policy or cordon on its way.
type policyWrite struct {
	store *Store
	kind  keys.Kind
	key   string
	cond  Condition
	// value gives what is written at a revision; nil deletes.
	value func(revision uint64) proto.Message

	// Of attempts whose outcome is unknown: the last value that was sent, and whether a deletion
	// was.
	sent    string
	deleted bool

	revision uint64 // the outcome
	verdict  error  // why it is not made, and would not be at another attempt either
	refusal  error  // the same of Agree, to be returned as it is
}

func (s *Store) writePolicy(ctx context.Context, what string, k keys.Key, c Condition, value func(uint64) proto.Message) (uint64, error) {
	key := s.schema.Format(k)
	if _, err := s.schema.Parse(key); err != nil {
		return 0, fmt.Errorf("store: %s: %w", what, err)
	}
	w := &policyWrite{store: s, kind: k.Kind, key: key, cond: c, value: value}
	if err := s.request(ctx, what, w.attempt); err != nil {
		s.metrics.policyWrites.WithLabelValues("failed").Inc()
		return 0, err
	}
	if w.refusal != nil || w.verdict != nil {
		s.metrics.policyWrites.WithLabelValues("refused").Inc()
		if w.refusal != nil {
			return 0, w.refusal
		}
		return 0, fmt.Errorf("store: %s: %w", what, w.verdict)
	}
	s.metrics.policyWrites.WithLabelValues("ok").Inc()
	return w.revision, nil
}

// attempt makes the write, again and again while others come before it: one of those who write at
// the same time gets through each time.
func (w *policyWrite) attempt(ctx context.Context) error {
	for {
		at, err := w.store.marked(ctx, clientv3.OpGet(w.key))
		if err != nil {
			return err
		}
		var stored *mvccpb.KeyValue
		if kvs := at.rest[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
			stored = kvs[0]
		}
		if w.made(at, stored) {
			return nil
		}
		if w.cond.Agree != nil {
			if err := w.cond.Agree(ctx, at.marker.GetRevision()); err != nil {
				if ctx.Err() == nil {
					w.refusal = err
					return nil
				}
				return err
			}
		}
		if w.verdict = w.forbidden(stored); w.verdict != nil {
			return nil
		}
		done, err := w.commit(ctx, at, stored)
		if done || err != nil {
			return err
		}
		w.store.metrics.policyWrites.WithLabelValues("raced").Inc()
	}
}

// made reports whether what is stored shows that an attempt got through whose answer was lost.
func (w *policyWrite) made(at *marked, stored *mvccpb.KeyValue) bool {
	switch {
	case w.sent != "" && stored != nil && string(stored.Value) == w.sent:
		w.revision = revisionOf(w.kind, stored.Value)
	case w.deleted && stored == nil:
		w.revision = at.marker.GetRevision()
	default:
		return false
	}
	return true
}

// forbidden says why the write is not to be made on top of what is stored, or nil.
func (w *policyWrite) forbidden(stored *mvccpb.KeyValue) error {
	is := uint64(0)
	if stored != nil {
		is = revisionOf(w.kind, stored.Value)
	}
	switch wanted := w.cond.IfRevision; {
	case wanted != nil && (*wanted != is || stored != nil && is == 0):
		return &RevisionError{Stored: is}
	case w.value == nil && stored == nil:
		return ErrNoPolicy
	}
	return nil
}

// revisionOf reads the revision of a value, 0 where it cannot be read.
func revisionOf(kind keys.Kind, value []byte) uint64 {
	v := newStated(kind)
	if keys.Decode(value, v) != nil {
		return 0
	}
	return v.GetRevision()
}

// statedMessage is a policyv1.Policy or Cordon.
type statedMessage interface {
	proto.Message
	GetRevision() uint64
}

func newStated(kind keys.Kind) statedMessage {
	if kind == keys.Policy {
		return &policyv1.Policy{}
	}
	return &policyv1.Cordon{}
}

// commit makes the write on top of what was read. It reports false where somebody else was faster.
func (w *policyWrite) commit(ctx context.Context, at *marked, stored *mvccpb.KeyValue) (bool, error) {
	revision := at.marker.GetRevision() + 1
	op := clientv3.OpDelete(w.key)
	sent := ""
	if w.value != nil {
		b, err := keys.Encode(w.value(revision))
		if err != nil {
			w.verdict = err
			return true, nil
		}
		sent = string(b)
		op = clientv3.OpPut(w.key, sent)
	}
	mark, err := at.mark(revision, at.marker.GetRestored())
	if err != nil {
		return false, err
	}
	was := int64(0)
	if stored != nil {
		was = stored.ModRevision
	}
	guard := append(at.still(), clientv3.Compare(clientv3.ModRevision(w.key), "=", was))
	txn, err := w.store.client.Txn(ctx).If(guard...).Then(op, mark).Commit()
	if err != nil {
		w.sent, w.deleted = sent, w.value == nil
		return false, err
	}
	if txn.Succeeded {
		w.revision = revision
	}
	return txn.Succeeded, nil
}

// marked is what the store says of itself and its policies at one moment.
type marked struct {
	store    *Store
	id       string
	idAt     int64                   // revision of the key
	marker   *storev1.PoliciesSynced // nil where there is none
	markerAt int64
	revision int64 // of the whole store
	rest     []*etcdserverpb.ResponseOp
}

// marked reads the store's id and its policies' marker, and in the same moment what ops read. A
// marker that cannot be read is none.
func (s *Store) marked(ctx context.Context, ops ...clientv3.Op) (*marked, error) {
	first := []clientv3.Op{
		clientv3.OpGet(s.schema.Format(keys.Key{Kind: keys.Store})),
		clientv3.OpGet(s.schema.Format(keys.Key{Kind: keys.PoliciesSynced})),
	}
	txn, err := s.client.Txn(ctx).Then(append(first, ops...)...).Commit()
	if err != nil {
		return nil, fmt.Errorf("read policies-synced: %w", err)
	}
	at := &marked{store: s, revision: txn.Header.GetRevision(), rest: txn.Responses[len(first):]}
	if kvs := txn.Responses[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
		at.idAt = kvs[0].ModRevision
		var v storev1.StoreID
		if keys.Decode(kvs[0].Value, &v) == nil {
			at.id = v.GetId()
		}
	}
	if kvs := txn.Responses[1].GetResponseRange().GetKvs(); len(kvs) > 0 {
		at.markerAt = kvs[0].ModRevision
		var v storev1.PoliciesSynced
		if keys.Decode(kvs[0].Value, &v) == nil {
			at.marker = &v
		}
	}
	if at.id == "" {
		return nil, errNoID // it is a new store, or a wiped one, and will have one soon
	}
	return at, nil
}

// still holds while neither the store nor any of its policies and cordons has changed.
func (at *marked) still() []clientv3.Cmp {
	return []clientv3.Cmp{
		clientv3.Compare(clientv3.ModRevision(at.store.schema.Format(keys.Key{Kind: keys.Store})), "=", at.idAt),
		clientv3.Compare(clientv3.ModRevision(at.store.schema.Format(keys.Key{Kind: keys.PoliciesSynced})), "=", at.markerAt),
	}
}

// mark gives the write of the marker. What a newer version said there stays: every replica writes it.
func (at *marked) mark(revision, restored uint64) (clientv3.Op, error) {
	marker := &storev1.PoliciesSynced{}
	if at.marker != nil {
		marker = proto.CloneOf(at.marker)
	}
	marker.Revision, marker.Restored, marker.Store = revision, restored, ""
	b, err := keys.Encode(marker)
	if err != nil {
		return clientv3.Op{}, err
	}
	return clientv3.OpPut(at.store.schema.Format(keys.Key{Kind: keys.PoliciesSynced}), string(b)), nil
}
