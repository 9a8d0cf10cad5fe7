package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// dial makes a client of an external etcd. It connects in the background, to one of the
// servers, and to the next where that one does not answer.
func dial(cfg *EtcdConfig, log *slog.Logger, m *metrics) (*clientv3.Client, error) {
	turn := &turnstile{endpoints: slices.Clone(cfg.Endpoints), log: log, metrics: m}
	rand.Shuffle(len(turn.endpoints), func(i, j int) {
		turn.endpoints[i], turn.endpoints[j] = turn.endpoints[j], turn.endpoints[i]
	})
	c, err := clientv3.New(clientv3.Config{
		Endpoints: turn.endpoints[:1],
		TLS:       cfg.TLS,
		// gRPC's own floor for keep-alives is 10 s.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		DialOptions:          []grpc.DialOption{grpc.WithChainUnaryInterceptor(turn.intercept)},
		Logger:               quiet(log),
	})
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	turn.client = c
	return c, nil
}

// turnstile keeps a client on one server at a time and turns to the next when a request there
// fails. The client's own way, every request to another server, would let each silent server
// cost its share of all requests for as long as its connection stands: with three servers, a
// heartbeat in three.
type turnstile struct {
	client    *clientv3.Client // set before the first request
	endpoints []string
	log       *slog.Logger
	metrics   *metrics

	turns atomic.Uint64
	mu    sync.Mutex // one turn at a time
}

// intercept is a grpc.UnaryClientInterceptor.
func (t *turnstile) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
	invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	turn := t.turns.Load()
	err := invoke(ctx, method, req, reply, cc, opts...)
	switch status.Code(err) {
	case codes.DeadlineExceeded, codes.Unavailable:
		t.turn(turn)
	}
	return err
}

// turn moves on from where a request failed, unless that has happened meanwhile.
func (t *turnstile) turn(from uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.endpoints) < 2 || t.turns.Load() != from {
		return
	}
	next := t.endpoints[(from+1)%uint64(len(t.endpoints))]
	t.client.SetEndpoints(next)
	t.turns.Store(from + 1)
	t.metrics.turns.Inc()
	t.log.Debug("turning to another etcd server", "endpoint", next)
}

// embedded is an etcd server inside this process.
type embedded struct {
	etcd   *embed.Etcd
	client *clientv3.Client
}

// startEmbedded starts a server of one member and waits until it takes requests. It listens
// on nothing: a server without peers needs no port, and its only client is in this process.
//
// Where what is on disk is damaged, etcd ends the goroutine it is in, or the process. While it
// starts, that becomes an error here; what it left running ends with the process, which cannot
// go on without a store.
func startEmbedded(ctx context.Context, dir string, log *slog.Logger) (*embedded, error) {
	last := &lastWords{said: make(chan error, 1)}
	defer last.started.Store(true)
	type outcome struct {
		etcd *embed.Etcd
		err  error
	}
	done := make(chan outcome, 1)
	go func() {
		// Some damage it does not foresee.
		defer func() {
			if p := recover(); p != nil {
				done <- outcome{err: fmt.Errorf("cannot be read: %v", p)}
			}
		}()
		etcd, err := embed.StartEtcd(embeddedConfig(dir, log, last))
		done <- outcome{etcd, err}
	}()
	var etcd *embed.Etcd
	select {
	case err := <-last.said:
		return nil, err
	case o := <-done:
		if o.err != nil {
			return nil, o.err
		}
		etcd = o.etcd
	}
	select {
	case err := <-last.said:
		return nil, err
	case <-etcd.Server.ReadyNotify():
		return &embedded{etcd: etcd, client: v3client.New(etcd.Server)}, nil
	case <-etcd.Server.StopNotify():
		etcd.Close()
		return nil, errors.New("stopped while starting")
	case <-ctx.Done():
		etcd.Close()
		return nil, ctx.Err()
	}
}

func embeddedConfig(dir string, log *slog.Logger, last *lastWords) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Name = "farcall"
	cfg.Dir = dir
	// A member must have an address, even if nobody will ever dial it.
	nowhere := url.URL{Scheme: "unix", Host: "farcall-embedded:0"}
	cfg.ListenPeerUrls, cfg.ListenClientUrls, cfg.AdvertiseClientUrls = nil, nil, nil
	cfg.AdvertisePeerUrls = []url.URL{nowhere}
	cfg.InitialCluster = cfg.Name + "=" + nowhere.String()
	// With no peers there is no network whose delays an election timeout would have to cover;
	// a short one makes the start short.
	cfg.TickMs, cfg.ElectionMs = 20, 200
	// Readers that fall behind list again, so old revisions serve nobody for long.
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModePeriodic, "10m"
	cfg.QuotaBackendBytes = 2 << 30
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(quiet(log, zap.WithFatalHook(last), zap.WithPanicHook(last)))
	return cfg
}

// down is closed when the server stopped.
func (e *embedded) down() <-chan struct{} { return e.etcd.Server.StopNotify() }

func (e *embedded) close() {
	// The only error is that of a context that was cancelled by closing.
	_ = e.client.Close()
	e.etcd.Close()
}

// revokeStale takes back what an earlier life of this process left under leases. With an
// embedded store there is exactly one synchronizer, so whatever replica and owner keys are
// there at start are its own of before; without this it would wait for them to expire.
func (s *Store) revokeStale(ctx context.Context) error {
	for _, prefix := range []string{s.schema.Owners(), s.schema.Replicas()} {
		resp, err := s.client.Get(ctx, prefix, clientv3.WithPrefix())
		if err != nil {
			return fmt.Errorf("revoke stale owners: %w", err)
		}
		for _, kv := range resp.Kvs {
			if kv.GetLease() != 0 {
				if _, err := s.client.Revoke(ctx, clientv3.LeaseID(kv.GetLease())); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
					return fmt.Errorf("revoke stale owners: %w", err)
				}
			}
		}
		if _, err := s.client.Delete(ctx, prefix, clientv3.WithPrefix()); err != nil {
			return fmt.Errorf("revoke stale owners: %w", err)
		}
	}
	return nil
}

// quiet makes etcd's logger one that speaks through ours. Whether the store works the store
// says itself; etcd's warnings and errors, some of which stand in every start, are for people
// who look into etcd, and everything below is dropped. What ends it is an error.
func quiet(log *slog.Logger, opts ...zap.Option) *zap.Logger {
	return zap.New(&bridge{log: log}, opts...)
}

// lastWords takes the log entries after which etcd does not go on.
type lastWords struct {
	started atomic.Bool
	said    chan error
}

// OnWrite implements zapcore.CheckWriteHook. It does not return. A server that runs and cannot
// keep its log must end, as etcd means it to; one that starts only has to say why.
func (l *lastWords) OnWrite(ce *zapcore.CheckedEntry, fields []zapcore.Field) {
	switch {
	case !l.started.Load():
		enc := zapcore.NewMapObjectEncoder()
		for _, f := range fields {
			f.AddTo(enc)
		}
		select {
		case l.said <- fmt.Errorf("%s %v", ce.Message, enc.Fields):
		default:
		}
		runtime.Goexit()
	case ce.Level == zapcore.FatalLevel:
		os.Exit(1)
	default:
		panic(ce.Message) //nolint:forbidigo // It is etcd's panic, with etcd's deferred calls above it.
	}
}

// bridge is a zapcore.Core that writes to a slog.Logger.
type bridge struct {
	log    *slog.Logger
	fields []zapcore.Field
}

var _ zapcore.Core = (*bridge)(nil)

// Enabled implements zapcore.LevelEnabler.
func (b *bridge) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

// With implements zapcore.Core.
func (b *bridge) With(f []zapcore.Field) zapcore.Core {
	return &bridge{log: b.log, fields: append(b.fields[:len(b.fields):len(b.fields)], f...)}
}

// Check implements zapcore.Core.
func (b *bridge) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return ce.AddCore(e, b)
	}
	return ce
}

// Write implements zapcore.Core.
func (b *bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range append(b.fields[:len(b.fields):len(b.fields)], fields...) {
		f.AddTo(enc)
	}
	level := slog.LevelDebug
	if e.Level > zapcore.ErrorLevel {
		level = slog.LevelError
	}
	b.log.Log(context.Background(), level, "etcd says", "message", e.Message, "fields", enc.Fields)
	return nil
}

// Sync implements zapcore.Core.
func (b *bridge) Sync() error { return nil }
