// Package store is Farcall's use of etcd, embedded or external: it keeps each cluster's
// instance lists, written by one owner at a time under a fence, and the policies and cordons,
// written by any replica one at a time; it brings everything to readers as a list and then changes,
// for ever, and decides which replica owns which cluster.
//
// It is the only package that knows etcd. It holds no opinion on what the lists should say,
// nor on how old is too old: the synchronizer's table and the readers' mirror do.
//
// Store.Run runs the embedded server, if there is one, and a probe; Store.Watch a probe of its
// own; Member.Run the heartbeat and one goroutine per owned cluster. Each joins what it started
// before it returns.
package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/farcall/farcall/internal/datadir"
	"github.com/farcall/farcall/internal/keys"
)

var (
	// ErrNotOwner is the error of a write whose term is over: another replica owns the cluster,
	// or none. Nothing was written by the call that got it, except what it wrote before.
	ErrNotOwner = errors.New("not the owner of the cluster any more")
	// ErrNotReady is the error while the store has not answered for the first time.
	ErrNotReady = errors.New("the store has not answered yet")
	// ErrStopped is the error of every call after Run has returned.
	ErrStopped = errors.New("the store is stopped")
)

// How long a request waits for its answer. One of several servers may be silent while the
// others work, and the next attempt goes to another; so those that can be repeated without
// harm are given up soon. A write takes longer, and that its outcome is unknown costs a load.
const (
	askTimeout   = time.Second     // one key, a heartbeat, an owner key
	writeTimeout = 2 * time.Second // a transaction of a publish
	pageTimeout  = 3 * time.Second // a page of a list
)

// How often the store is asked whether it still answers and is still the same.
const probeInterval = time.Second

// Config says which store. Exactly one of Embedded and Etcd is set.
type Config struct {
	Federation string
	Embedded   *EmbeddedConfig
	Etcd       *EtcdConfig
}

// EmbeddedConfig is for an etcd inside this process, for exactly one synchronizer.
type EmbeddedConfig struct {
	// DataDir is created where it is missing, locked, and bound to the federation.
	DataDir string
}

// EtcdConfig is for an etcd that somebody else runs, shared by any number of synchronizers.
type EtcdConfig struct {
	// Endpoints are host:port, or URLs.
	Endpoints []string
	// TLS is nil for plaintext.
	TLS *tls.Config
	// DataDir is where epochs and policies are remembered, so that the former do not fall back and
	// the latter are not lost when the store is; empty: nowhere. It is created where it is missing, locked, and bound to the federation.
	DataDir string
}

// Deps are what the store is given to talk with. Log may be nil, then nothing is said;
// Metrics may be nil, then nothing is registered.
type Deps struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Dial, where not nil, is how an external etcd is reached in the place of connections to its
	// endpoints. Run closes what it returns. storetest has one to an etcd in memory.
	Dial func() (*clientv3.Client, error)
	// Jitter, where not nil, decides in the place of chance how much of a time is waited, from
	// nothing to all but all of it: with that, what happens can be repeated.
	Jitter func(time.Duration) time.Duration
}

// Store is one federation's part of an etcd. All methods but Run may be called by any
// goroutine, before, during and after Run; until the store is there they wait for it.
type Store struct {
	cfg     Config
	schema  keys.Schema
	log     *slog.Logger
	metrics *metrics
	dial    func() (*clientv3.Client, error) // nil: to the endpoints
	jitter  func(time.Duration) time.Duration
	// Run sets these two before connected is closed.
	epochs   *epochs
	policies *policyCopy

	unwritten atomic.Pointer[error] // why the last heartbeat could not be written

	restoring chan struct{} // holds a token while policies are written back
	connected chan struct{} // closed once client is set
	ready     chan struct{} // closed once the id is known
	stopped   chan struct{} // closed when Run ends
	doubts    doubts

	client *clientv3.Client // set before connected is closed, never changed

	mu      sync.Mutex
	started bool
	closing bool
	// witnessed is when the store was last believed to have gone back, and witnessPause how long it
	// is not believed again.
	witnessed    time.Time
	witnessPause time.Duration
	users        sync.WaitGroup // Add only under mu and only while not closing
}

// New checks the configuration. It touches neither disk nor network.
func New(cfg Config, deps Deps) (*Store, error) {
	schema, err := keys.New(cfg.Federation)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	switch {
	case (cfg.Embedded == nil) == (cfg.Etcd == nil):
		return nil, errors.New("store: want exactly one of embedded and etcd")
	case cfg.Embedded != nil && cfg.Embedded.DataDir == "":
		return nil, errors.New("store: embedded: dataDir is empty")
	case cfg.Etcd != nil && len(cfg.Etcd.Endpoints) == 0:
		return nil, errors.New("store: etcd: endpoints are empty")
	}
	m, err := newMetrics(deps.Metrics)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	log := deps.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Store{
		cfg:       cfg,
		schema:    schema,
		log:       log,
		metrics:   m,
		dial:      deps.Dial,
		jitter:    deps.Jitter,
		epochs:    &epochs{},
		policies:  &policyCopy{},
		restoring: make(chan struct{}, 1),
		connected: make(chan struct{}),
		ready:     make(chan struct{}),
		stopped:   make(chan struct{}),
	}, nil
}

// Run starts the embedded etcd or connects to the external one, gives a new federation its
// store id, and blocks until ctx is done, when it returns nil, or until the store cannot go
// on, when it returns why: a data directory that is somebody else's, or an embedded server
// that stopped. An external etcd that does not answer is waited for. It is called once.
//
// On its way out it waits a few seconds for Member.Run to return, so that owners can still
// resign when both were given the same ctx.
func (s *Store) Run(ctx context.Context) error {
	s.mu.Lock()
	again := s.started
	s.started = true
	s.mu.Unlock()
	if again {
		return errors.New("store: Run was called twice")
	}
	defer close(s.stopped)

	dir, err := s.openDir()
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if dir != nil {
		defer dir.Close()
	}
	down := make(<-chan struct{}) // never closed for an external etcd
	if s.cfg.Embedded != nil {
		server, err := startEmbedded(ctx, dir.File(etcdFolder), s.log)
		if err != nil {
			return stopError(ctx, fmt.Errorf("store: embedded etcd in %s: %w", dir.File(etcdFolder), err))
		}
		defer server.close()
		s.client, down = server.client, server.down()
		if err := s.revokeStale(ctx); err != nil {
			return stopError(ctx, fmt.Errorf("store: %w", err))
		}
	} else {
		if s.client, err = s.connect(); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		defer s.client.Close()
	}
	close(s.connected)
	if err := s.probe(ctx, down); err != nil {
		return err
	}
	s.evict()
	return nil
}

// connect makes the client of an external etcd.
func (s *Store) connect() (*clientv3.Client, error) {
	if s.dial != nil {
		return s.dial()
	}
	return dial(s.cfg.Etcd, s.log, s.metrics)
}

// openDir opens the data directory and what it remembers; nil where there is none.
func (s *Store) openDir() (*datadir.Dir, error) {
	path := ""
	if s.cfg.Embedded != nil {
		path = s.cfg.Embedded.DataDir
	} else {
		path = s.cfg.Etcd.DataDir
	}
	if path == "" {
		return nil, nil
	}
	dir, err := datadir.Open(path, map[string]string{"federation": s.cfg.Federation})
	if err != nil {
		return nil, err
	}
	if s.epochs, err = loadEpochs(dir, s.log); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	if s.policies, err = loadPolicies(dir, s.log); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// stopError is err, or nil where it came only from being told to stop.
func stopError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Ready is closed once the store has answered for the first time and its id is known.
func (s *Store) Ready() <-chan struct{} { return s.ready }

// Check reports whether the store answers now: nil, or why not. It takes as long as ctx lets
// it, and a second at most.
func (s *Store) Check(ctx context.Context) error {
	select {
	case <-s.ready:
	default:
		return fmt.Errorf("store: %w", ErrNotReady)
	}
	if _, _, err := s.identify(ctx); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// reach waits for the store to be there.
func (s *Store) reach(ctx context.Context) error {
	select {
	case <-s.connected:
	case <-s.stopped:
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.isStopped() {
		return ErrStopped
	}
	return nil
}

// enter waits for the store to be there and announces a caller whose work must be finished
// before it stops; leave takes that back.
func (s *Store) enter(ctx context.Context) (leave func(), err error) {
	if err := s.reach(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, ErrStopped
	}
	s.users.Add(1)
	return s.users.Done, nil
}

// isStopped reports whether Run has returned: nothing will work any more.
func (s *Store) isStopped() bool {
	select {
	case <-s.stopped:
		return true
	default:
		return false
	}
}

// evict waits for the callers inside, though not for ever: who holds on longer gets errors.
func (s *Store) evict() {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		s.users.Wait()
	}()
	t := time.NewTimer(5 * time.Second)
	defer t.Stop()
	select {
	case <-gone:
	case <-t.C:
		s.log.Warn("store stops while it is still used")
	}
}
