package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"unicode/utf8"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
)

// What one transaction may hold; etcd's own bounds are 128 operations and 1.5 MiB. A single
// change may be above txnBytes, by no more than a slice's size.
const (
	txnOps   = 100
	txnBytes = 1 << 20
)

// List is what the store shall hold of one service.
type List struct {
	// Instances in identity order; of two with one identity the last counts. None means confirmed empty: the
	// service keeps an empty slice, which tells it from one that is not there.
	Instances []*catalog.Instance
	// Gone says that the service itself is gone; all its keys go.
	Gone bool
}

// Publish makes the store hold exactly lists for the services named. With full, the cluster's
// other services are removed, and the marker that this epoch is complete is written last.
//
// It writes only what changed, additions before removals, in transactions each of which is
// whole or not at all, and blocks until all is written: it goes on through losses of the store
// until ctx is done, when it returns why, or the term is over, when it returns ErrNotOwner.
// Instances that cannot be written, because they are another cluster's, or too large, or not
// text, are left out, counted and logged: they must not keep the others from being written.
//
// What is in lists must not be changed afterwards, neither an instance nor a slice of them: what has
// the same pointer as in the publish before is taken to be the same, and costs next to nothing.
func (t *Term) Publish(ctx context.Context, lists map[catalog.Name]List, full bool) error {
	err := t.retry(ctx, func(ctx context.Context) error {
		var changes map[catalog.Name]delta
		// What is left out is left out of a second attempt's lists too, and so counted once.
		lists, changes = t.sift(lists)
		if err := t.write(ctx, t.plan(changes, full)); err != nil {
			return err
		}
		t.remember(changes)
		if full && t.synced != t.Epoch() {
			return t.putSynced(ctx)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store: publish: %w", err)
	}
	return nil
}

// sift leaves out what cannot be written, and gives what is left and how it differs from what is
// stored. It copies only the lists in which something is left out.
func (t *Term) sift(lists map[catalog.Name]List) (map[catalog.Name]List, map[catalog.Name]delta) {
	out := make(map[catalog.Name]List, len(lists))
	changes := make(map[catalog.Name]delta, len(lists))
	for name, l := range lists {
		if err := name.Check(); err != nil {
			t.store.metrics.refused.Add(float64(len(l.Instances)))
			t.store.log.Warn("service cannot be written and is left out", "cluster", t.cluster, "error", err)
			continue
		}
		refused := func(i *catalog.Instance) bool { return t.writable(name, i) != nil }
		d := differ(t.lists[name], l)
		// Only what is new: the rest was written before.
		if at := slices.IndexFunc(d.come, refused); at >= 0 {
			first, n := d.come[at], len(d.come)
			d.come = slices.DeleteFunc(d.come, refused)
			d.Instances = slices.DeleteFunc(slices.Clone(d.Instances), refused)
			t.store.metrics.refused.Add(float64(n - len(d.come)))
			t.store.log.Warn("instances cannot be written and are left out", "cluster", t.cluster, "service", name,
				"count", n-len(d.come), "first", first.Instance, "error", t.writable(name, first))
		}
		out[name], changes[name] = d.List, d
	}
	return out, changes
}

// remember keeps what was written, for the next publish to compare with. A list in which an identity
// could stand twice is not kept: of what one of the two leaves behind, a comparison tells nothing.
func (t *Term) remember(changes map[catalog.Name]delta) {
	for name, d := range changes {
		if d.ordered && !d.Gone {
			t.lists[name] = d.Instances
		} else {
			delete(t.lists, name)
		}
	}
}

// writable says why a value with this instance would not be accepted, or nil.
func (t *Term) writable(name catalog.Name, i *catalog.Instance) error {
	if i.Cluster != t.cluster || i.Name != name {
		return fmt.Errorf("it does not belong to %s in cluster %s", name, t.cluster)
	}
	size := 0
	texts := []string{i.Instance, i.Node, i.Locality.Region, i.Locality.Zone, i.Address, i.Relay, i.Registry, i.Revision}
	for k, v := range i.Metadata {
		texts = append(texts, k, v)
	}
	for _, s := range texts {
		if !utf8.ValidString(s) {
			return fmt.Errorf("%.40q is not UTF-8", s)
		}
		size += len(s)
	}
	if limit := sliceLimits.bytes / 2; size > limit {
		return fmt.Errorf("%d bytes are more than %d", size, limit)
	}
	return nil
}

// step is a change of one service.
type step struct {
	name catalog.Name
	change
}

// plan gives, in order, what must be written so that the changes are made.
func (t *Term) plan(services map[catalog.Name]delta, full bool) []step {
	var steps []step
	add := func(name catalog.Name, changes []change) {
		for _, c := range changes {
			steps = append(steps, step{name: name, change: c})
		}
	}
	for name, d := range services {
		if d.Gone {
			add(name, drop(t.services[name]))
		} else {
			add(name, plan(t.services[name], d, sliceLimits))
		}
	}
	if full {
		for name, have := range t.services {
			if _, ok := services[name]; !ok {
				add(name, drop(have))
			}
		}
	}
	// Stable, because the changes of one service are in order already.
	slices.SortStableFunc(steps, func(a, b step) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), a.name.Compare(b.name))
	})
	return steps
}

// write commits the steps in order, as many in one transaction as go into it.
func (t *Term) write(ctx context.Context, steps []step) error {
	var batch batch
	for _, s := range steps {
		ops, size, err := t.encode(s)
		if err != nil {
			return err
		}
		if !batch.fits(len(ops), size) {
			if err := t.flush(ctx, &batch); err != nil {
				return err
			}
		}
		batch.steps = append(batch.steps, s)
		batch.ops = append(batch.ops, ops...)
		batch.bytes += size
	}
	return t.flush(ctx, &batch)
}

// batch is what goes into one transaction.
type batch struct {
	steps []step
	ops   []clientv3.Op
	bytes int
}

func (b *batch) fits(ops, bytes int) bool {
	return len(b.ops) == 0 || len(b.ops)+ops <= txnOps && b.bytes+bytes <= txnBytes
}

// flush commits a batch and takes it over into what is known to be stored.
func (t *Term) flush(ctx context.Context, b *batch) error {
	if len(b.ops) == 0 {
		return nil
	}
	if err := t.commit(ctx, b.ops); err != nil {
		return err
	}
	for _, s := range b.steps {
		delete(t.lists, s.name) // there may be more steps to what shall be
		if left := s.apply(t.services[s.name]); len(left) > 0 {
			t.services[s.name] = left
		} else {
			delete(t.services, s.name)
		}
		t.store.metrics.valuesPut.Add(float64(len(s.puts)))
		t.store.metrics.valuesGone.Add(float64(len(s.deletes)))
	}
	*b = batch{}
	return nil
}

// encode makes the operations of a step.
func (t *Term) encode(s step) (ops []clientv3.Op, size int, err error) {
	key := func(index uint32) string {
		return t.store.schema.Format(keys.Key{Kind: keys.Slice, Cluster: t.cluster, Name: s.name, Slice: index})
	}
	for _, p := range s.puts {
		t.seq++
		msg := &storev1.Slice{
			Cluster:   t.cluster,
			Namespace: s.name.Namespace,
			Service:   s.name.Service,
			Slice:     p.index,
			Epoch:     t.Epoch(),
			Seq:       t.seq,
			Instances: make([]*catalogv1.Instance, 0, len(p.slots)),
		}
		for _, sl := range p.slots {
			msg.Instances = append(msg.Instances, sl.proto())
		}
		value, err := keys.Encode(msg)
		if err != nil {
			return nil, 0, fmt.Errorf("service %s: %w", s.name, err)
		}
		k := key(p.index)
		ops = append(ops, clientv3.OpPut(k, string(value)))
		size += len(k) + len(value)
	}
	for _, index := range s.deletes {
		k := key(index)
		ops = append(ops, clientv3.OpDelete(k))
		size += len(k)
	}
	return ops, size, nil
}

// PutMeta stores what the owner knows of the cluster; cluster, epoch and owner are filled in.
// What says the same as before, seq apart, is not written. It blocks and fails as Publish.
func (t *Term) PutMeta(ctx context.Context, meta *storev1.ClusterMeta) error {
	err := t.retry(ctx, func(ctx context.Context) error { return t.putMeta(ctx, meta) })
	if err != nil {
		return fmt.Errorf("store: put meta: %w", err)
	}
	return nil
}

func (t *Term) putMeta(ctx context.Context, meta *storev1.ClusterMeta) error {
	next := &storev1.ClusterMeta{}
	if meta != nil {
		next = proto.CloneOf(meta)
	}
	next.Cluster, next.Epoch, next.Owner = t.cluster, t.Epoch(), t.session.m.cfg.ID
	next.Seq = t.meta.GetSeq()
	if proto.Equal(next, t.meta) {
		return nil
	}
	t.seq++
	next.Seq = t.seq
	value, err := keys.Encode(next)
	if err != nil {
		return err
	}
	key := t.store.schema.Format(keys.Key{Kind: keys.Meta, Cluster: t.cluster})
	if err := t.commit(ctx, []clientv3.Op{clientv3.OpPut(key, string(value))}); err != nil {
		return err
	}
	t.meta = next
	return nil
}

func (t *Term) putSynced(ctx context.Context) error {
	value, err := keys.Encode(&storev1.Synced{Cluster: t.cluster, Epoch: t.Epoch()})
	if err != nil {
		return err
	}
	key := t.store.schema.Format(keys.Key{Kind: keys.Synced, Cluster: t.cluster})
	if err := t.commit(ctx, []clientv3.Op{clientv3.OpPut(key, string(value))}); err != nil {
		return err
	}
	t.synced = t.Epoch()
	return nil
}
