package storetest

import (
	"cmp"
	"context"
	"reflect"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/status"
)

// batchEvents is about how many events one answer of a watch holds; a revision is never divided.
const batchEvents = 16

// watcher is the store's watches over a link. The client's own cannot run in a bubble, since it
// waits on a channel that is older than any.
type watcher struct{ l *Link }

var _ clientv3.Watcher = (*watcher)(nil)

// watch is one watch. Its goroutine owns it, but for what the store's mu guards.
type watch struct {
	l          *Link
	start, end string
	stream     string
	noPut      bool
	next       int64 // the first revision that is still to be brought
	out        chan clientv3.WatchResponse
	wake       chan struct{} // holds a token while there may be something to do

	// The store's mu guards these.
	broken   bool // the connection is lost; the client makes a new one by itself
	noLeader bool // the server has ended it
	starved  bool // nothing is brought, though the server thinks so
	drop     bool // the next event is lost
	progress bool // it was asked how far it is
}

// Watch implements clientv3.Watcher.
func (w *watcher) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	op := clientv3.OpGet(key, opts...)
	n := &watch{
		l: w.l, start: key, end: string(op.RangeBytes()), stream: streamOf(ctx), next: op.Rev(),
		noPut: reflect.ValueOf(op).FieldByName("filterPut").Bool(), // it has no method for that
		out:   make(chan clientv3.WatchResponse, 1), wake: make(chan struct{}, 1),
	}
	if n.end == "" {
		n.end = key + "\x00"
	}
	go n.run(ctx)
	return n.out
}

// RequestProgress implements clientv3.Watcher.
func (w *watcher) RequestProgress(ctx context.Context) error {
	if err := w.l.travel(ctx, w.l.fate("progress").there); err != nil {
		return err
	}
	e, stream := w.l.e, streamOf(ctx)
	e.mu.Lock()
	defer e.mu.Unlock()
	for n := range e.watches {
		if n.l == w.l && n.stream == stream {
			n.progress = true
			n.signal()
		}
	}
	return nil
}

// Close implements clientv3.Watcher. Watches end with their contexts.
func (w *watcher) Close() error { return nil }

// wake has every watch look. Caller holds mu.
func (e *Etcd) wake() {
	for n := range e.watches {
		n.signal()
	}
}

// breakAll breaks every watch. Caller holds mu.
func (e *Etcd) breakAll() {
	for n := range e.watches {
		n.broken = true
		n.signal()
	}
}

// each changes every watch of a link, and reports whether there is one.
func (l *Link) each(change func(*watch)) (some bool) {
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	for n := range l.e.watches {
		if n.l == l {
			change(n)
			n.signal()
			some = true
		}
	}
	return some
}

// Break breaks the link's watches: by the loss of a server's leader, of which the watcher is told,
// or of the connection, which the client makes anew by itself.
func (l *Link) Break(leader bool) bool {
	return l.each(func(n *watch) { n.broken, n.noLeader = true, n.noLeader || leader })
}

// Starve has the link's watches bring nothing, and not say so, until that is undone.
func (l *Link) Starve(starved bool) bool { return l.each(func(n *watch) { n.starved = starved }) }

// Lose has each of the link's watches lose an event and go on.
func (l *Link) Lose() bool { return l.each(func(n *watch) { n.drop = true }) }

func (n *watch) signal() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// run brings what there is until ctx is done, the link closed, or the watch cannot go on.
func (n *watch) run(ctx context.Context) {
	e := n.l.e
	defer close(n.out)
	if n.l.travel(ctx, n.l.fate("watch "+n.start).there) != nil {
		return
	}
	e.mu.Lock()
	if n.next == 0 {
		n.next = e.state.rev + 1
	}
	e.watches[n] = struct{}{}
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.watches, n)
	}()
	for n.step(ctx) {
	}
}

// step brings the next answer, or waits for one. It reports whether there may be more.
func (n *watch) step(ctx context.Context) bool {
	e := n.l.e
	e.mu.Lock()
	switch {
	case n.noLeader:
		e.mu.Unlock()
		n.send(ctx, clientv3.WatchResponse{Header: &etcdserverpb.ResponseHeader{}, Canceled: true, CancelReason: status.Convert(rpctypes.ErrGRPCNoLeader).Message()})
		return false
	case n.broken:
		n.broken = false
		e.mu.Unlock()
		return n.l.travel(ctx, within(n.l.dice("again "+n.start), 100*time.Millisecond)) == nil
	case n.starved || e.down:
		e.mu.Unlock()
		return n.idle(ctx)
	case n.next < e.state.compacted:
		at := e.state.compacted
		e.mu.Unlock()
		n.send(ctx, clientv3.WatchResponse{Header: &etcdserverpb.ResponseHeader{}, Canceled: true, CompactRevision: at})
		return false
	}
	events, upTo := n.due()
	asked := n.progress
	n.progress = false
	resp := clientv3.WatchResponse{Header: e.header(), Events: events}
	e.mu.Unlock()
	if len(events) == 0 && !asked {
		n.next = max(n.next, upTo+1)
		return n.idle(ctx)
	}
	if n.l.travel(ctx, n.l.fate("events "+n.start).back) != nil {
		return false
	}
	e.mu.Lock()
	lost := n.broken || n.noLeader
	if n.drop && len(resp.Events) > 0 {
		n.drop = false
		resp.Events = resp.Events[:len(resp.Events)-1]
	}
	e.mu.Unlock()
	if lost {
		return true
	}
	n.next = max(n.next, upTo+1)
	if len(events) > 0 && len(resp.Events) == 0 {
		return true
	}
	return n.send(ctx, resp)
}

// due gives what is to be brought next, and the revision up to which that is all. Caller holds mu.
func (n *watch) due() (events []*clientv3.Event, upTo int64) {
	all := n.l.e.state.events
	at, _ := slices.BinarySearchFunc(all, n.next, func(ev event, rev int64) int { return cmp.Compare(ev.rev, rev) })
	for ; at < len(all); at++ {
		ev := all[at]
		if len(events) >= batchEvents && ev.rev > upTo {
			return events, upTo
		}
		upTo = ev.rev
		if key := string(ev.key.Key); key < n.start || key >= n.end || n.noPut && !ev.del {
			continue
		}
		kind := clientv3.EventTypePut
		if ev.del {
			kind = clientv3.EventTypeDelete
		}
		events = append(events, &clientv3.Event{Type: kind, Kv: ev.key})
	}
	return events, max(upTo, n.next-1)
}

func (n *watch) idle(ctx context.Context) bool {
	select {
	case <-n.wake:
		return true
	case <-ctx.Done():
	case <-n.l.closed:
	}
	return false
}

func (n *watch) send(ctx context.Context, resp clientv3.WatchResponse) bool {
	select {
	case n.out <- resp:
		return true
	case <-ctx.Done():
	case <-n.l.closed:
	}
	return false
}
