//go:build real && linux

package robustness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/test/robustness/history"
	"github.com/farcall/farcall/test/robustness/verdict"
)

// schema is that of the federation.
func (w *world) schema() keys.Schema {
	s, err := keys.New(federation)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// told are the kinds of keys whose values all readers must have: those that carry lists.
var told = []keys.Kind{keys.Meta, keys.Synced, keys.Slice, keys.Agent}

// value makes an entry of a key's value; false for a key that is not looked at. A value that is not
// what its key says has no epoch.
func value(s keys.Schema, key string, raw []byte) (history.Entry, bool) {
	k, err := s.Parse(key)
	e := history.Entry{Key: key}
	if err != nil || !slices.Contains(told, k.Kind) {
		return e, false
	}
	switch k.Kind {
	case keys.Slice:
		m := &storev1.Slice{}
		if keys.Decode(raw, m) == nil && m.GetCluster() == k.Cluster && m.GetService() == k.Name.Service && m.GetSlice() == k.Slice {
			e.Epoch, e.Seq = m.GetEpoch(), m.GetSeq()
		}
	case keys.Meta:
		m := &storev1.ClusterMeta{}
		if keys.Decode(raw, m) == nil && m.GetCluster() == k.Cluster {
			e.Epoch, e.Seq = m.GetEpoch(), m.GetSeq()
		}
	case keys.Synced:
		m := &storev1.Synced{}
		if keys.Decode(raw, m) == nil && m.GetCluster() == k.Cluster {
			e.Epoch = m.GetEpoch()
		}
	}
	return e, true
}

// watchFeed reads a synchronizer's feed as an agent does that keeps nothing.
func (w *world) watchFeed(ctx context.Context, s *syncProc) {
	r := &feedReader{w: w, who: verdict.Feed + s.id, schema: w.schema()}
	client := feedv1.NewFeedClient(s.conn)
	for {
		stream, err := client.Watch(ctx, &feedv1.WatchRequest{Federation: federation, Cluster: "observers", Node: s.id})
		for err == nil {
			var m *feedv1.WatchResponse
			if m, err = stream.Recv(); err == nil {
				r.take(m)
			}
		}
		if !pause(ctx, 50*time.Millisecond) {
			return
		}
	}
}

type feedReader struct {
	w      *world
	who    string
	schema keys.Schema
	stream uint64
	listed map[string]bool // during a snapshot, what it has; else nil
}

func (r *feedReader) take(m *feedv1.WatchResponse) {
	if m.GetSnapshotBegin() {
		r.stream++
		r.listed = map[string]bool{}
	}
	for _, in := range m.GetEntries() {
		e, ok := value(r.schema, in.GetKey(), in.GetValue())
		if !ok {
			continue
		}
		if r.listed != nil {
			r.listed[e.Key] = true
		}
		e.Who, e.Stream, e.Store, e.Revision, e.Deleted = r.who, r.stream, m.GetStoreId(), in.GetRevision(), in.GetDeleted()
		r.w.seen.entry(e)
	}
	if m.GetSnapshotEnd() && r.listed != nil {
		for _, key := range r.w.seen.held(r.who) {
			if !r.listed[key] {
				r.w.seen.entry(history.Entry{Who: r.who, Stream: r.stream, Store: m.GetStoreId(), Key: key, Revision: m.GetRevision(), Deleted: true})
			}
		}
		r.listed = nil
	}
}

// watchStore reads the store itself, past all that is done to the ways to it. Its lists and watches
// begin anew whenever the store is another one, or goes back.
func (w *world) watchStore(ctx context.Context) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints: w.etcd.Endpoints, DialTimeout: lookTime, Logger: zap.NewNop(), DialKeepAliveTime: 2 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
	})
	if err != nil {
		w.t.Error(err)
		return
	}
	defer client.Close()
	r := &storeReader{w: w, schema: w.schema(), client: client, owners: map[string]string{}}
	for generation := 1; ctx.Err() == nil; generation++ {
		_ = r.read(ctx, generation) // whatever ended it, it begins anew
		pause(ctx, 50*time.Millisecond)
	}
}

type storeReader struct {
	w      *world
	schema keys.Schema
	client *clientv3.Client
	id     string            // of the store
	store  string            // that, and which time it was listed
	owners map[string]string // by cluster
}

// read lists the store and follows it until that fails or it is not the same store any more.
func (r *storeReader) read(ctx context.Context, generation int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	within, done := context.WithTimeout(ctx, lookTime)
	defer done()
	list, err := r.client.Get(within, r.schema.Root(), clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortAscend))
	if err != nil {
		return err
	}
	id, at := "", list.Header.GetRevision()
	listed := map[string]bool{}
	for _, kv := range list.Kvs {
		if key := string(kv.Key); key == r.schema.Format(keys.Key{Kind: keys.Store}) {
			id = string(kv.Value)
		}
		listed[string(kv.Key)] = true
	}
	again := id == r.id
	r.id, r.store = id, fmt.Sprintf("%x/%d", id, generation)
	for _, key := range r.w.seen.held(verdict.Store) {
		if !listed[key] {
			r.w.seen.entry(history.Entry{Who: verdict.Store, Store: r.store, Key: key, Revision: at, Deleted: true})
		}
	}
	for _, kv := range list.Kvs {
		if again && r.w.seen.revision(verdict.Store, string(kv.Key)) == kv.ModRevision {
			continue // it was there when the store was listed before
		}
		r.take(string(kv.Key), kv.Value, kv.ModRevision, false)
	}
	watch := r.client.Watch(clientv3.WithRequireLeader(ctx), r.schema.Root(), clientv3.WithPrefix(), clientv3.WithRev(at+1))
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case m, ok := <-watch:
			if !ok || m.Err() != nil {
				return errors.Join(errors.New("the watch ended"), m.Err())
			}
			for _, v := range m.Events {
				at = max(at, v.Kv.ModRevision)
				r.take(string(v.Kv.Key), v.Kv.Value, v.Kv.ModRevision, v.Type == clientv3.EventTypeDelete)
			}
		case <-tick.C:
			if err := r.same(ctx, id, at); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// same asks whether it is still the store that was listed. One that cannot be asked may be.
func (r *storeReader) same(ctx context.Context, id string, at int64) error {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	now, err := r.client.Get(ctx, r.schema.Format(keys.Key{Kind: keys.Store}))
	switch {
	case err != nil:
		return nil //nolint:nilerr // that it is away says nothing
	case now.Header.GetRevision() < at:
		return errors.New("it went back")
	case len(now.Kvs) == 0 && id != "" || len(now.Kvs) > 0 && string(now.Kvs[0].Value) != id:
		return errors.New("it is another one")
	}
	return nil
}

// take writes one value down, or who owns a cluster.
func (r *storeReader) take(key string, raw []byte, revision int64, deleted bool) {
	if k, err := r.schema.Parse(key); err == nil && k.Kind == keys.Owner {
		m := &storev1.Owner{}
		if deleted || keys.Decode(raw, m) != nil {
			m.Replica = ""
		}
		r.owners[k.Cluster] = m.GetReplica()
		return
	}
	e, ok := value(r.schema, key, raw)
	if !ok {
		return
	}
	e.Who, e.Store, e.Revision, e.Deleted = verdict.Store, r.store, revision, deleted
	if k, err := r.schema.Parse(key); err == nil && e.Epoch > 0 {
		e.Writer = r.owners[k.Cluster]
	}
	r.w.seen.entry(e)
}

// readDisk writes down what an agent keeps of its view.
func (w *world) readDisk(a *agentProc) error {
	// It is saved within a second after each change.
	view := &feedv1.SavedView{}
	testkit.Eventually(w.t, testkit.Context(w.t), "agent "+a.name+" keeps its view", func() error {
		b, err := os.ReadFile(a.savedView())
		if err != nil {
			return err
		}
		_, body, _ := bytes.Cut(b, []byte("\n"))
		if len(body) < 32 {
			return errors.New("it is too short")
		}
		return proto.Unmarshal(body[32:], view) // after the checksum
	})
	s, who := w.schema(), verdict.Disk+a.name
	for _, in := range view.GetView().GetEntries() {
		e, ok := value(s, in.GetKey(), in.GetValue())
		if !ok || w.seen.revision(who, e.Key) == in.GetRevision() {
			continue
		}
		e.Who, e.Store, e.Revision = who, view.GetView().GetStoreId(), in.GetRevision()
		w.seen.entry(e)
	}
	return nil
}
