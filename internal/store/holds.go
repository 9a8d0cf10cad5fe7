package store

import (
	"context"
	"fmt"
	"maps"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
)

// partBytes bounds one part of what is held, before compression, so that several fit into one
// transaction.
const partBytes = 256 << 10

// Found is what the owner before left.
type Found struct {
	// Instances are those listed, in no order, and Names the services, those without instances among them.
	Instances []*catalog.Instance
	Names     []catalog.Name
	Holds     []*storev1.HoldGroup
	Meta      *storev1.ClusterMeta // nil where there is none
	// Whole says that this is what the owner before had published last: its first publish came to its
	// end, and the store has lost nothing since that can be told. Else instances may be missing, or be long gone.
	Whole bool
}

// Found gives what the store held of the cluster when the term began, where nothing was published
// since: it is for who goes on from there. It blocks and fails as Publish.
func (t *Term) Found(ctx context.Context) (f Found, err error) {
	err = t.retry(ctx, func(context.Context) error {
		f = Found{Meta: t.meta, Whole: t.synced != 0 && !t.rewrite}
		for n, list := range t.services {
			f.Names = append(f.Names, n)
			for _, s := range list {
				// Of a slice that could not be read nobody knows what was in it.
				f.Whole = f.Whole && !s.dirty
				for _, sl := range s.slots {
					f.Instances = append(f.Instances, sl.inst)
				}
			}
		}
		for _, part := range slices.Sorted(maps.Keys(t.holds)) {
			f.Holds = append(f.Holds, t.holds[part].GetGroups()...)
		}
		return nil
	})
	if err != nil {
		return Found{}, fmt.Errorf("store: load: %w", err)
	}
	return f, nil
}

// PutHolds stores what the owner holds back, all of it. What says the same as before is not written,
// and nothing held leaves no key. It blocks and fails as Publish.
func (t *Term) PutHolds(ctx context.Context, groups []*storev1.HoldGroup) error {
	err := t.retry(ctx, func(ctx context.Context) error { return t.putHolds(ctx, groups) })
	if err != nil {
		return fmt.Errorf("store: put holds: %w", err)
	}
	return nil
}

func (t *Term) putHolds(ctx context.Context, groups []*storev1.HoldGroup) error {
	parts := splitHolds(groups, partBytes)
	key := func(part uint32) string {
		return t.store.schema.Format(keys.Key{Kind: keys.Holds, Cluster: t.cluster, Part: part})
	}
	var ops batch
	next := map[uint32]*storev1.Holds{} // of this batch; nil: gone
	flush := func() error {
		if len(ops.ops) == 0 {
			return nil
		}
		if err := t.commit(ctx, ops.ops); err != nil {
			return err
		}
		for part, v := range next {
			if v == nil {
				delete(t.holds, part)
			} else {
				t.holds[part] = v
			}
		}
		ops = batch{}
		clear(next)
		return nil
	}
	add := func(part uint32, v *storev1.Holds, op clientv3.Op, size int) error {
		if !ops.fits(1, size) {
			if err := flush(); err != nil {
				return err
			}
		}
		ops.ops, ops.bytes, next[part] = append(ops.ops, op), ops.bytes+size, v
		return nil
	}
	for n, groups := range parts {
		part := uint32(n)
		old := t.holds[part]
		if old != nil && !(t.rewrite && old.GetEpoch() != t.Epoch()) && slices.EqualFunc(old.GetGroups(), groups, equalHolds) {
			continue
		}
		t.seq++
		v := &storev1.Holds{Cluster: t.cluster, Part: part, Epoch: t.Epoch(), Seq: t.seq, Groups: groups}
		value, err := keys.Encode(v)
		if err != nil {
			return err
		}
		if err := add(part, v, clientv3.OpPut(key(part), string(value)), len(key(part))+len(value)); err != nil {
			return err
		}
	}
	for _, part := range slices.Sorted(maps.Keys(t.holds)) {
		if uint64(part) < uint64(len(parts)) {
			continue
		}
		if err := add(part, nil, clientv3.OpDelete(key(part)), len(key(part))); err != nil {
			return err
		}
	}
	return flush()
}

func equalHolds(a, b *storev1.HoldGroup) bool { return proto.Equal(a, b) }

// loadHolds takes one part in and reports whether it could be read. One that could not be must not
// stay.
func (t *Term) loadHolds(k keys.Key, value []byte) bool {
	var v storev1.Holds
	if keys.Decode(value, &v) != nil || v.GetCluster() != t.cluster || v.GetPart() != k.Part {
		t.holds[k.Part] = &storev1.Holds{}
		return false
	}
	t.holds[k.Part] = &v
	t.sight(v.GetEpoch(), v.GetSeq())
	return true
}

// splitHolds cuts groups into parts of about so many bytes.
func splitHolds(groups []*storev1.HoldGroup, limit int) (parts [][]*storev1.HoldGroup) {
	var part []*storev1.HoldGroup
	size := 0
	cut := func() {
		if len(part) > 0 {
			parts = append(parts, part)
		}
		part, size = nil, 0
	}
	for _, g := range groups {
		header := proto.CloneOf(&storev1.HoldGroup{
			Registry: g.GetRegistry(), Reason: g.GetReason(), Detail: g.GetDetail(), Doubted: g.GetDoubted(), Listed: g.GetListed(), Held: g.GetHeld(), Left: g.GetLeft(),
		})
		var piece *storev1.HoldGroup // what part has of g
		for _, s := range g.GetServices() {
			for ids := s.GetIds(); len(ids) > 0; {
				if piece == nil {
					piece = proto.CloneOf(header)
					part, size = append(part, piece), size+proto.Size(piece)
				}
				fit, bytes := fitting(ids, limit-size)
				piece.Services = append(piece.Services, &storev1.HeldService{Namespace: s.GetNamespace(), Service: s.GetService(), Ids: ids[:fit]})
				size += bytes + len(s.GetNamespace()) + len(s.GetService()) + 16
				if ids = ids[fit:]; len(ids) > 0 || size >= limit {
					cut()
					piece = nil
				}
			}
		}
	}
	cut()
	return parts
}

// fitting gives how many of some ids, at least one, go into so many bytes.
func fitting(ids []string, limit int) (n, size int) {
	for n < len(ids) && (n == 0 || size+len(ids[n])+3 <= limit) {
		size += len(ids[n]) + 3
		n++
	}
	return n, size
}
