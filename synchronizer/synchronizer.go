// Package synchronizer is the control plane of a federation: it reads every cluster's
// registries, keeps the lists in the store, serves them to agents (the feed) and to people (the
// admin API).
//
// It does not choose among instances and relays no calls; agents do.
//
// Goroutines: Run owns them all. One per configured cluster reads its registries, and one more
// looks after the links of each that its agents read; one writes each cluster that this replica
// owns, one follows the store and one compares with it, one looks after the policies in it, and the two servers have theirs,
// among them one that talks to each contributing agent.
package synchronizer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/identity"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/resolvers/intake"
	"github.com/farcall/farcall/synchronizer/links"
)

// Config is what a synchronizer is told. Clusters must have unique names.
type Config struct {
	Federation string
	// ReplicaID tells this replica from the others; stable over its life only.
	ReplicaID string
	Clusters  []Cluster
	Store     store.Config
}

// Cluster is one cluster whose registries this synchronizer reads, or hears of.
type Cluster struct {
	Intake intake.Config
	// ViaAgents says that the cluster's own agents read its registries and report them. Intake
	// then has none.
	ViaAgents bool
	Locality  catalog.Locality
	Labels    map[string]string
}

// Deps are what a synchronizer uses and does not make. The listeners are closed by Run.
type Deps struct {
	Log      *slog.Logger
	Registry *prometheus.Registry
	// GRPC serves the admin API and the feed; HTTP serves metrics and health.
	GRPC net.Listener
	HTTP net.Listener
	// Identity is who this replica is, and then agents, people and other replicas must prove who they
	// are; nil: GRPC is plaintext.
	Identity *identity.Source
}

// listenRounds is how often an agent must have listened after its first full list before what a cluster
// listed that was read otherwise before is taken back: an agent that has just begun may hear nothing yet.
const listenRounds = 2

// Synchronizer is one replica.
type Synchronizer struct {
	cfg      Config
	log      *slog.Logger
	metrics  *metrics
	registry *prometheus.Registry
	grpcL    net.Listener
	httpL    net.Listener
	address  string           // where other replicas reach this one
	identity *identity.Source // nil without TLS

	store    *store.Store
	member   *store.Member
	mirror   *mirror.Mirror
	hub      *hub
	sink     store.Sink // what the store is watched into: the hub
	health   *health.Server
	roster   *roster
	consults *consults // agents that can be asked
	tables   map[string]*table
	intakes  map[string]*intake.Intake
	links    map[string]*links.Cluster // of the clusters that their agents read
	adopted  chan struct{}             // closed when what the store has is known
}

// New checks the configuration and puts the rooms together; it starts nothing.
func New(cfg Config, deps Deps) (*Synchronizer, error) {
	schema, err := keys.New(cfg.Federation)
	if err != nil {
		return nil, fmt.Errorf("synchronizer: %w", err)
	}
	st, err := store.New(cfg.Store, store.Deps{Log: deps.Log, Metrics: deps.Registry})
	if err != nil {
		return nil, err
	}
	s := &Synchronizer{
		cfg: cfg, log: deps.Log, registry: deps.Registry, grpcL: deps.GRPC, httpL: deps.HTTP,
		store:   st,
		mirror:  mirror.New(schema),
		health:  health.NewServer(),
		tables:  map[string]*table{},
		intakes: map[string]*intake.Intake{},
		links:   map[string]*links.Cluster{},
		adopted: make(chan struct{}),
		address: advertised(deps.GRPC.Addr(), cfg.Store), identity: deps.Identity,
	}
	s.metrics = newMetrics(deps.Registry, s.mirror)
	s.consults = newConsults(deps.Registry)
	s.hub = newHub(schema, cfg.Federation, s.mirror, s.metrics)
	s.sink = s.hub
	names := make([]string, 0, len(cfg.Clusters))
	intakeDeps := intake.Deps{Log: deps.Log, Metrics: intake.NewMetrics(deps.Registry)}
	linkMetrics := links.NewMetrics(deps.Registry)
	for _, c := range cfg.Clusters {
		if err := s.addCluster(c, intakeDeps, linkMetrics); err != nil {
			return nil, err
		}
		names = append(names, c.Intake.Cluster)
	}
	s.member = st.Member(store.MemberConfig{ID: cfg.ReplicaID, Address: s.address, Clusters: names, Demand: s.mirror.Demand})
	audits := &auditor{hub: s.hub, log: s.log, metrics: s.metrics.drift}
	s.roster = newRoster(st, s.member, s.mirror, s.tables, audits, s.log)
	return s, nil
}

// addCluster puts together what reads one cluster.
func (s *Synchronizer) addCluster(c Cluster, deps intake.Deps, lm *links.Metrics) error {
	name := c.Intake.Cluster
	if s.tables[name] != nil {
		return fmt.Errorf("synchronizer: cluster %q is configured twice", name)
	}
	if c.ViaAgents {
		if len(c.Intake.Registries) > 0 {
			return fmt.Errorf("synchronizer: cluster %q is read via its agents: it has no registries here", name)
		}
		c.Intake.Open, c.Intake.Rounds = true, listenRounds
		c.Intake.Registries = []intake.Registry{{Name: links.Apps, Resolver: &apps{
			cluster: name, agents: s.mirror.Agents, changed: s.hub.agentsChanged,
			heard:     func() <-chan struct{} { return s.links[name].Heard() },
			connected: func() int { return s.links[name].Contributors() },
		}}}
	}
	in, err := intake.New(c.Intake, deps)
	if err != nil {
		return err
	}
	s.intakes[name] = in
	s.tables[name] = newTable()
	if c.ViaAgents {
		s.links[name] = s.newLinks(name, lm)
	}
	return nil
}

// Run serves until ctx is done, then gives its clusters back and returns nil; or it returns why
// it could not go on. A registry or an external etcd that cannot be reached is no reason to
// return.
func (s *Synchronizer) Run(ctx context.Context) error {
	// The store outlives what writes to it, so that a replica can give back what it owns.
	storeCtx, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStore()
	storeDone := make(chan error, 1)
	go func() { storeDone <- s.store.Run(storeCtx) }()

	g, gctx := errgroup.WithContext(ctx)
	storeFailed := make(chan error, 1)
	g.Go(func() error {
		select {
		case err := <-storeDone:
			storeFailed <- err
			return cmpErr(err, errors.New("store stopped"))
		case <-gctx.Done():
			return gctx.Err()
		}
	})
	for name, in := range s.intakes {
		g.Go(func() error { return s.read(gctx, in, s.links[name], s.tables[name]) })
	}
	g.Go(func() error { return s.afterStore(gctx, func() error { return s.store.Watch(gctx, s.sink) }) })
	g.Go(func() error { return s.afterStore(gctx, func() error { return s.comparer().run(gctx) }) })
	g.Go(func() error { return s.adopt(gctx) })
	g.Go(func() error { return s.afterStore(gctx, func() error { return (&keeper{s: s, log: s.log}).run(gctx) }) })
	g.Go(func() error {
		// An owner keeps what the store holds of registries that it cannot read: it must have seen
		// that first.
		return s.whenAdopted(gctx, func() error { return s.member.Run(gctx, s.own) })
	})
	g.Go(func() error { return s.watchHealth(gctx) })
	g.Go(func() error { return s.serveGRPC(gctx) })
	g.Go(func() error { return s.serveHTTP(gctx) })
	err := g.Wait()

	stopStore()
	select {
	case <-storeFailed:
	case serr := <-storeDone:
		if serr != nil && !errors.Is(serr, context.Canceled) {
			err = errors.Join(err, serr)
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// read reads one cluster, beginning when it is known what the store has of it: nothing that was
// listed before passes for gone because it was not there when this process first looked.
func (s *Synchronizer) read(ctx context.Context, in *intake.Intake, ln *links.Cluster, t *table) error {
	return s.whenAdopted(ctx, func() error {
		if ln == nil {
			return in.Run(ctx, t.put)
		}
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return ln.Run(ctx) })
		g.Go(func() error { return in.Run(ctx, t.put) })
		return g.Wait()
	})
}

func cmpErr(err, fallback error) error {
	if err != nil {
		return err
	}
	return fallback
}

// afterStore runs f once the store answers.
func (s *Synchronizer) afterStore(ctx context.Context, f func() error) error {
	select {
	case <-s.store.Ready():
		return f()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// serveGRPC serves the feed and the admin API until ctx is done. Streams are cut: agents keep
// what they have and go to another replica.
func (s *Synchronizer) serveGRPC(ctx context.Context) error {
	srv := s.grpcServer(ctx)
	return serve(ctx, func() error { return srv.Serve(s.grpcL) }, srv.Stop, grpc.ErrServerStopped)
}

func (s *Synchronizer) serveHTTP(ctx context.Context) error {
	srv := &http.Server{
		Handler:           s.httpHandler(),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       3 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	return serve(ctx, func() error { return srv.Serve(s.httpL) }, func() { _ = srv.Close() }, http.ErrServerClosed)
}

// serve runs a server until ctx is done and waits for it. stop's effect on run is the error
// stopped, which is none.
func serve(ctx context.Context, run func() error, stop func(), stopped error) error {
	done := make(chan error, 1)
	go func() { done <- run() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		stop()
		if err := <-done; err != nil && !errors.Is(err, stopped) {
			return err
		}
		return ctx.Err()
	}
}
