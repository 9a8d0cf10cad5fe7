package storetest

import (
	"context"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Weather is what the way to the store is like.
type Weather struct {
	// Latency is what a message takes at most, one way.
	Latency time.Duration
	// LoseRequest and LoseAnswer are the shares of messages that do not arrive. After a lost answer
	// the write is done.
	LoseRequest, LoseAnswer float64
	// Late is what a request takes at most that is late, and LateShare how many are.
	Late      time.Duration
	LateShare float64
}

// Link is one process's way to the store. All methods are safe for concurrent use.
type Link struct {
	e      *Etcd
	name   string
	closed chan struct{} // for ever

	mu      sync.Mutex
	weather Weather
	held    bool
	cut     bool
	open    chan struct{} // closed while neither
}

// Link makes a way to the store. Its name is that of a process: another life has another one.
func (e *Etcd) Link(name string, w Weather) *Link {
	l := &Link{e: e, name: name, weather: w, closed: make(chan struct{}), open: make(chan struct{})}
	close(l.open)
	return l
}

// Name gives the link's name.
func (l *Link) Name() string { return l.name }

// Dial gives a client of the store over the link, which must be closed. It is a store.Deps.Dial.
func (l *Link) Dial() (*clientv3.Client, error) {
	c := clientv3.NewCtxClient(context.Background())
	c.KV = clientv3.NewKVFromKVClient(&kvClient{l: l}, nil)
	c.Lease = clientv3.NewLeaseFromLeaseClient(&leaseClient{l: l}, c, time.Second)
	c.Watcher = &watcher{l: l}
	return c, nil
}

// SetWeather changes the weather.
func (l *Link) SetWeather(w Weather) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.weather = w
}

// Hold keeps everything that is on its way, as while the process is stopped, and lets it go on.
func (l *Link) Hold(held bool) { l.set(func() { l.held = held }) }

// Cut loses every request and answer, and keeps what watches bring until it is undone.
func (l *Link) Cut(cut bool) { l.set(func() { l.cut = cut }) }

func (l *Link) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.held || l.cut
	change()
	switch is := l.held || l.cut; {
	case is && !was:
		l.open = make(chan struct{})
	case was && !is:
		close(l.open)
	}
}

// Close ends the link for ever, as the death of its process does. It is called once.
func (l *Link) Close() { close(l.closed) }

func (l *Link) dice(what string) uint64 { return dice(l.e.seed, l.name, what) }

// dice gives a number that hangs on the seed, the moment and what is asked for, and on nothing
// else: what two goroutines ask for at one moment does not depend on which of them is first.
func dice(seed uint64, words ...string) uint64 {
	h := seed ^ 0xcbf29ce484222325
	for _, s := range words {
		for n := range len(s) {
			h = (h ^ uint64(s[n])) * 0x100000001b3
		}
	}
	return mix(h ^ uint64(time.Now().UnixNano()))
}

// mix is the finisher of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// share turns dice into a share of 1.
func share(dice uint64) float64 { return float64(dice>>11) / (1 << 53) }

// within gives a duration up to most, and never none: what is sent arrives later.
func within(dice uint64, most time.Duration) time.Duration {
	return time.Microsecond + time.Duration(share(dice)*float64(most))
}

// fate is what becomes of one request.
type fate struct {
	there, back         time.Duration
	loseRequest, loseIt bool
	// told is after what time the caller is told that something went wrong; 0: never.
	told time.Duration
}

func (l *Link) fate(what string) fate {
	l.mu.Lock()
	w := l.weather
	l.mu.Unlock()
	d := l.dice(what)
	next := func() uint64 { d = mix(d); return d }
	f := fate{there: within(next(), w.Latency), back: within(next(), w.Latency)}
	f.loseRequest, f.loseIt = share(next()) < w.LoseRequest, share(next()) < w.LoseAnswer
	if share(next()) < w.LateShare {
		f.there = within(next(), w.Late)
	}
	if next()&1 == 0 {
		f.told = within(next(), 300*time.Millisecond)
	}
	return f
}

// errClosed is the error of a process that is no more. Nothing tries again after it.
var errClosed = status.Error(codes.Canceled, "the link is closed")

// wait lets a time pass.
func (l *Link) wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-l.closed:
		return errClosed
	case <-t.C:
		return nil
	}
}

// travel lets a message take its time, and wait where the link is held.
func (l *Link) travel(ctx context.Context, d time.Duration) error {
	if err := l.wait(ctx, d); err != nil {
		return err
	}
	for {
		l.mu.Lock()
		open := l.open
		l.mu.Unlock()
		select {
		case <-open:
			return nil
		default:
		}
		select {
		case <-open:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.closed:
			return errClosed
		}
	}
}

func (l *Link) isCut() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cut
}

// fail is how a request ends of which no answer comes: with an error, or with the caller's patience.
func (l *Link) fail(ctx context.Context, f fate) error {
	if f.told > 0 {
		if err := l.wait(ctx, f.told); err != nil {
			return err
		}
		return rpctypes.ErrGRPCTimeoutDueToConnectionLost
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-l.closed:
		return errClosed
	}
}

// call takes a request to the store, has it done there, and brings the answer back.
func call[T any](ctx context.Context, l *Link, what string, do func() (T, error)) (T, error) {
	var none T
	f := l.fate(what)
	if l.isCut() || f.loseRequest {
		return none, l.fail(ctx, f)
	}
	sent := time.Now()
	if err := l.travel(ctx, f.there); err != nil {
		// The caller has gone on, but what it sent has not come back for that.
		go l.arrive(sent, f.there, func() { _, _ = do() })
		return none, err
	}
	l.e.mu.Lock()
	if l.e.down {
		l.e.mu.Unlock()
		return none, l.fail(ctx, f)
	}
	answer, err := do()
	l.e.mu.Unlock()
	if f.loseIt || l.isCut() {
		return none, l.fail(ctx, f)
	}
	if err := l.travel(ctx, f.back); err != nil {
		return none, err
	}
	return answer, err
}

// arrive has done what is asked for in a request that nobody waits for any more.
func (l *Link) arrive(sent time.Time, there time.Duration, do func()) {
	if l.travel(context.Background(), max(there-time.Since(sent), time.Microsecond)) != nil || l.isCut() {
		return
	}
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	if !l.e.down {
		do()
	}
}

// kvClient is the store's requests for keys over a link.
type kvClient struct {
	etcdserverpb.KVClient
	l *Link
}

// Range implements etcdserverpb.KVClient.
func (c *kvClient) Range(ctx context.Context, r *etcdserverpb.RangeRequest, _ ...grpc.CallOption) (*etcdserverpb.RangeResponse, error) {
	return call(ctx, c.l, "range "+string(r.Key), func() (*etcdserverpb.RangeResponse, error) {
		return c.l.e.rangeKeys(r, c.l.e.state.rev)
	})
}

// Txn implements etcdserverpb.KVClient.
func (c *kvClient) Txn(ctx context.Context, r *etcdserverpb.TxnRequest, _ ...grpc.CallOption) (*etcdserverpb.TxnResponse, error) {
	what := "txn"
	if len(r.Success) > 0 {
		what += " " + string(r.Success[0].GetRequestPut().GetKey()) + string(r.Success[0].GetRequestRange().GetKey())
	}
	return call(ctx, c.l, what, func() (*etcdserverpb.TxnResponse, error) { return c.l.e.transact(c.l.name, r) })
}

// leaseClient is the store's requests for leases over a link.
type leaseClient struct {
	etcdserverpb.LeaseClient
	l *Link
}

// LeaseGrant implements etcdserverpb.LeaseClient.
func (c *leaseClient) LeaseGrant(ctx context.Context, r *etcdserverpb.LeaseGrantRequest, _ ...grpc.CallOption) (*etcdserverpb.LeaseGrantResponse, error) {
	return call(ctx, c.l, "grant", func() (*etcdserverpb.LeaseGrantResponse, error) {
		e := c.l.e
		e.leaseID++
		ttl := time.Duration(r.TTL) * time.Second
		e.state.leases[e.leaseID] = &lease{id: e.leaseID, ttl: ttl, expires: time.Now().Add(ttl), by: c.l.name, keys: map[string]struct{}{}}
		return &etcdserverpb.LeaseGrantResponse{Header: e.header(), ID: e.leaseID, TTL: r.TTL}, nil
	})
}

// LeaseRevoke implements etcdserverpb.LeaseClient.
func (c *leaseClient) LeaseRevoke(ctx context.Context, r *etcdserverpb.LeaseRevokeRequest, _ ...grpc.CallOption) (*etcdserverpb.LeaseRevokeResponse, error) {
	return call(ctx, c.l, "revoke", func() (*etcdserverpb.LeaseRevokeResponse, error) {
		l := c.l.e.state.leases[r.ID]
		if l == nil {
			return nil, rpctypes.ErrGRPCLeaseNotFound
		}
		c.l.e.revoke(l, c.l.name)
		return &etcdserverpb.LeaseRevokeResponse{Header: c.l.e.header()}, nil
	})
}

// LeaseKeepAlive implements etcdserverpb.LeaseClient.
func (c *leaseClient) LeaseKeepAlive(ctx context.Context, _ ...grpc.CallOption) (grpc.BidiStreamingClient[etcdserverpb.LeaseKeepAliveRequest, etcdserverpb.LeaseKeepAliveResponse], error) {
	return &keepAlive{ctx: ctx, l: c.l}, nil
}

// keepAlive is a stream of one question and one answer.
type keepAlive struct {
	grpc.BidiStreamingClient[etcdserverpb.LeaseKeepAliveRequest, etcdserverpb.LeaseKeepAliveResponse]
	ctx context.Context
	l   *Link
	id  int64
}

// Send implements grpc.BidiStreamingClient.
func (k *keepAlive) Send(r *etcdserverpb.LeaseKeepAliveRequest) error {
	k.id = r.ID
	return nil
}

// Recv implements grpc.BidiStreamingClient.
func (k *keepAlive) Recv() (*etcdserverpb.LeaseKeepAliveResponse, error) {
	return call(k.ctx, k.l, "keep alive", func() (*etcdserverpb.LeaseKeepAliveResponse, error) {
		resp := &etcdserverpb.LeaseKeepAliveResponse{Header: k.l.e.header(), ID: k.id}
		if l := k.l.e.state.leases[k.id]; l != nil {
			l.expires = time.Now().Add(l.ttl)
			resp.TTL = int64(l.ttl / time.Second)
		}
		return resp, nil
	})
}

// CloseSend implements grpc.BidiStreamingClient.
func (k *keepAlive) CloseSend() error { return nil }

// streamOf tells watches apart that a client would put on different streams.
func streamOf(ctx context.Context) string {
	md, _ := metadata.FromOutgoingContext(ctx)
	s := ""
	for _, v := range md.Get("farcall-watch") {
		s += v
	}
	return s
}

// Chance gives a duration below most that hangs on a seed, the moment and who asks, and on
// nothing else.
func Chance(seed uint64, who string, most time.Duration) time.Duration {
	return time.Duration(share(dice(seed, who)) * float64(most))
}
