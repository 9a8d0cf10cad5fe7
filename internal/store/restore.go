package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/keys"
)

// maxStated bounds the value of a policy or cordon that somebody brings back, in bytes: twice what
// one may have.
const maxStated = 128 << 10

// ErrNotBelieved is the error of policies brought back that make no sense.
var ErrNotBelieved = errors.New("they are not believed")

// maxLeap is how far one agent's word may move the revision of a store that has any. It is more than
// people ever write, and far too little to come near maxEpoch, above which nobody is believed.
const maxLeap = 1 << 32

const (
	// witnessEvery is the least time between two beliefs that the store went back. It doubles with
	// each: every belief has everybody read everything anew.
	witnessEvery = time.Minute
	// witnessForget is after what time without one all is forgotten.
	witnessForget = 24 * time.Hour
)

// RestorePolicies writes back what somebody holds of policies and cordons, where the store has lost
// it: entries are all of them, and their policies-synced, which names the revision they are
// complete with and the store in which that counts (mirror.PolicyEntries gives them so). It reports
// whether the store had lost any. Where it had not, nothing is written. It fails with ErrNotBelieved
// where entries make no sense.
//
// What the store kept of the time before is replaced; what was written since it was wiped or
// restored stays, with a higher revision than all that comes back. The revision of all never falls.
// Everything is one transaction where it fits into one; else the marker is written last.
func (s *Store) RestorePolicies(ctx context.Context, entries []Entry) (restored bool, err error) {
	return s.restore(ctx, entries, maxEpoch)
}

// RestoreReported is RestorePolicies for what an agent reports. Its word does not move the revision
// of a store that has any by more than maxLeap.
func (s *Store) RestoreReported(ctx context.Context, entries []Entry) (restored bool, err error) {
	return s.restore(ctx, entries, maxLeap)
}

func (s *Store) restore(ctx context.Context, entries []Entry, leap uint64) (restored bool, err error) {
	h, err := s.holding(entries)
	if err != nil {
		return false, fmt.Errorf("store: restore policies: %w: %w", ErrNotBelieved, err)
	}
	if h.as.GetRevision() == 0 {
		return false, nil
	}
	var refusal error
	err = s.requestFor(ctx, "restore policies", pageTimeout, func(ctx context.Context) error {
		at, err := s.marked(ctx)
		if err != nil || keys.Covers(at.id, at.marker, h.as) {
			return err
		}
		if is := at.marker.GetRevision(); is > 0 && h.as.GetRevision() > is && h.as.GetRevision()-is > leap {
			refusal = fmt.Errorf("store: restore policies: %w: their revision %d is too far above %d", ErrNotBelieved, h.as.GetRevision(), is)
			return nil
		}
		// After a loss all agents come at once. One by one, each finds what was done before it, and
		// not all of them read everything.
		select {
		case s.restoring <- struct{}{}:
			defer func() { <-s.restoring }()
		case <-ctx.Done():
			return ctx.Err()
		}
		restored, err = s.restoreOnce(ctx, h)
		return err
	})
	if err == nil {
		err = refusal
	}
	return restored, err
}

// restoreOnce writes back what the store does not have now.
func (s *Store) restoreOnce(ctx context.Context, h *holding) (restored bool, err error) {
	at, err := s.marked(ctx)
	if err != nil || keys.Covers(at.id, at.marker, h.as) {
		return false, err
	}
	r, err := s.restoration(ctx, at, h)
	if err != nil {
		return false, err
	}
	if err := r.commit(ctx); err != nil {
		return false, err
	}
	s.metrics.policiesRestored.Inc()
	s.log.Warn("policies and cordons are written back: the store had lost some", "store", at.id,
		"stored_revision", at.marker.GetRevision(), "held_revision", h.as.GetRevision(), "revision", r.revision,
		"put", r.puts, "removed", r.removed, "kept", r.kept)
	return true, nil
}

// holding is what somebody holds of policies and cordons.
type holding struct {
	as     *storev1.PoliciesSynced
	values map[string]statement // by key
}

// statement is a policy or cordon that somebody holds.
type statement struct {
	value    []byte
	revision uint64
}

// holding takes what can be read of what somebody brings. Whether it is understood does not
// matter: a newer version may.
func (s *Store) holding(entries []Entry) (*holding, error) {
	h := &holding{values: map[string]statement{}}
	for _, e := range entries {
		k, err := s.schema.Parse(e.Key)
		switch {
		case err != nil || e.Deleted || len(e.Value) > maxStated:
			continue
		case k.Kind == keys.PoliciesSynced:
			h.as = &storev1.PoliciesSynced{}
			if err := keys.Decode(e.Value, h.as); err != nil {
				return nil, err
			}
		case k.Kind == keys.Policy || k.Kind == keys.Cordon:
			if v := newStated(k.Kind); keys.Decode(e.Value, v) == nil {
				h.values[e.Key] = statement{e.Value, v.GetRevision()}
			}
		}
	}
	switch {
	case h.as == nil:
		return nil, errors.New("it is not said what they are complete with")
	case h.as.GetRevision() > maxEpoch:
		return nil, fmt.Errorf("their revision %d is too high to be believed", h.as.GetRevision())
	}
	// One that claims to be newer than all of them would pass for one that was written since, and
	// would never be replaced.
	maps.DeleteFunc(h.values, func(_ string, v statement) bool { return v.revision > h.as.GetRevision() })
	return h, nil
}

// restoration is what is to be written so that the store holds what somebody holds.
type restoration struct {
	at                  *marked
	ops                 []sizedOp
	revision, past      uint64 // what the marker will say
	puts, removed, kept int
}

type sizedOp struct {
	op    clientv3.Op
	bytes int
}

// restoration reads what the store has and compares.
func (s *Store) restoration(ctx context.Context, at *marked, h *holding) (*restoration, error) {
	there, err := s.statedAt(ctx, at.revision)
	if err != nil {
		return nil, err
	}
	r := &restoration{at: at, revision: max(at.marker.GetRevision(), h.as.GetRevision())}
	// Up to here, what the store has is of the time before; where it went back unnoticed, all of it.
	before := at.marker.GetRestored()
	unnoticed := h.as.GetStore() == at.id
	if unnoticed {
		before = at.marker.GetRevision()
	}
	r.past = max(before, h.as.GetRevision())
	own, stored := map[string]bool{}, map[string]bool{}
	for _, st := range there {
		stored[st.key] = true
		held, is := h.values[st.key]
		switch {
		case is && bytes.Equal(held.value, st.value):
			own[st.key] = true // as it shall be
		case st.revision > before:
			own[st.key] = true
			r.kept++
			if err := r.raise(st); err != nil {
				return nil, err
			}
		case !is:
			r.ops = append(r.ops, sizedOp{clientv3.OpDelete(st.key), len(st.key)})
			r.removed++
		}
	}
	for _, key := range slices.Sorted(maps.Keys(h.values)) {
		held := h.values[key]
		// The store was told of all up to before already: what it lacks of that was deleted since.
		deleted := !unnoticed && !stored[key] && held.revision <= before
		if !own[key] && !deleted {
			r.put(key, held.value)
			r.puts++
		}
	}
	return r, nil
}

// raise gives what was written since a revision above all that comes back, where it has not.
func (r *restoration) raise(st storedStatement) error {
	if st.revision > r.past {
		return nil
	}
	v := newStated(st.kind)
	if err := keys.Decode(st.value, v); err != nil {
		return err
	}
	r.revision++
	switch v := v.(type) {
	case *policyv1.Policy:
		v.Revision = r.revision
	case *policyv1.Cordon:
		v.Revision = r.revision
	}
	b, err := keys.Encode(v)
	if err != nil {
		return err
	}
	r.put(st.key, b)
	return nil
}

func (r *restoration) put(key string, value []byte) {
	r.ops = append(r.ops, sizedOp{clientv3.OpPut(key, string(value)), len(key) + len(value)})
}

// errOvertaken is the error of a restoration that another write of policies came before.
var errOvertaken = errors.New("somebody else wrote policies meanwhile")

// commit writes it, the marker with the last transaction.
func (r *restoration) commit(ctx context.Context) error {
	mark, err := r.at.mark(r.revision, r.past)
	if err != nil {
		return err
	}
	var some []clientv3.Op
	size := 0
	for _, o := range r.ops {
		if len(some) == txnOps || size+o.bytes > txnBytes && len(some) > 0 {
			if err := r.write(ctx, some); err != nil {
				return err
			}
			some, size = nil, 0
		}
		some, size = append(some, o.op), size+o.bytes
	}
	return r.write(ctx, append(some, mark))
}

func (r *restoration) write(ctx context.Context, ops []clientv3.Op) error {
	txn, err := r.at.store.client.Txn(ctx).If(r.at.still()...).Then(ops...).Commit()
	if err == nil && !txn.Succeeded {
		err = errOvertaken
	}
	return err
}

// storedStatement is a policy or cordon in the store.
type storedStatement struct {
	kind     keys.Kind
	key      string
	value    []byte
	revision uint64
}

// statedAt reads all policies and cordons as they were at one revision of the store, in the order
// in which they were written. The cordons lie among what else there is of their clusters.
func (s *Store) statedAt(ctx context.Context, rev int64) ([]storedStatement, error) {
	var out []storedStatement
	take := func(kvs []*mvccpb.KeyValue) {
		for _, kv := range kvs {
			k, err := s.schema.Parse(string(kv.Key))
			if err == nil && (k.Kind == keys.Policy || k.Kind == keys.Cordon) {
				out = append(out, storedStatement{k.Kind, string(kv.Key), kv.Value, revisionOf(k.Kind, kv.Value)})
			}
		}
	}
	if err := s.scan(ctx, s.schema.Policies(), rev, take); err != nil {
		return nil, err
	}
	clusters := map[string]struct{}{}
	err := s.scan(ctx, s.schema.Clusters(), rev, func(kvs []*mvccpb.KeyValue) {
		for _, kv := range kvs {
			if k, err := s.schema.Parse(string(kv.Key)); err == nil && k.Kind == keys.Cordon {
				clusters[k.Cluster] = struct{}{}
			}
		}
	}, clientv3.WithKeysOnly())
	if err != nil {
		return nil, err
	}
	for c := range clusters {
		if err := s.scan(ctx, s.schema.Cordons(c), rev, take); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b storedStatement) int {
		return cmp.Or(cmp.Compare(a.revision, b.revision), cmp.Compare(a.key, b.key))
	})
	return out, nil
}

// Witness says that somebody has seen more of the store with this id than it may have now: a
// revision of it, and one of its policies and cordons. Where that is so, the store was restored
// from an older copy of itself while nobody looked, and is given a new id, so that everybody can
// tell. It is believed once a minute at most, and less often each time.
func (s *Store) Witness(ctx context.Context, id string, revision int64, policies uint64) error {
	if policies > maxEpoch {
		return nil
	}
	return s.request(ctx, "look whether the store went back", func(ctx context.Context) error {
		at, err := s.marked(ctx)
		if err != nil || at.id != id || at.revision >= revision && at.marker.GetRevision() >= policies {
			return err
		}
		s.mu.Lock()
		since, pause := time.Since(s.witnessed), max(s.witnessPause, witnessEvery)
		s.mu.Unlock()
		if since < pause {
			return nil
		}
		s.log.Warn("the store is behind what was seen of it, and is taken for another one", "store", id,
			"revision", at.revision, "seen", revision, "policies", at.marker.GetRevision(), "policies_seen", policies)
		if err := s.found(ctx, id); err != nil {
			return err
		}
		s.mu.Lock()
		s.witnessed = time.Now()
		if s.witnessPause = min(2*pause, witnessForget); since >= witnessForget {
			s.witnessPause = witnessEvery
		}
		s.mu.Unlock()
		return nil
	})
}
