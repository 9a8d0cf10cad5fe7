package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farcall/farcall/agent"
	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/tracing"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/config"
	"github.com/farcall/farcall/internal/datadir"
	"github.com/farcall/farcall/internal/identity"
	"github.com/farcall/farcall/internal/version"
	"github.com/farcall/farcall/resolvers"
	"github.com/farcall/farcall/resolvers/consul"
	"github.com/farcall/farcall/resolvers/mdns"
)

// Agent runs an agent until ctx is done; then it drains and returns nil. The tokens are those of the
// process's environment.
func Agent(ctx context.Context, c *config.Agent, t Tokens, log *slog.Logger) error {
	defer runtime.KeepAlive(giveHeapRoom())
	var dir *datadir.Dir
	if c.DataDir != "" {
		var err error
		if dir, err = datadir.Open(c.DataDir, map[string]string{"cluster": c.Cluster, "node": c.Node}); err != nil {
			return err
		}
		defer func() { _ = dir.Close() }() // all files are written by now
	}
	var l listeners
	cfg, deps, err := agentParts(c, dir, &l, log)
	if err == nil {
		err = t.into(&cfg, c.Apps)
	}
	if err != nil {
		l.closeAll()
		return err
	}
	a, err := agent.New(cfg, deps)
	if err != nil {
		l.closeAll()
		return err
	}
	started := log.With("cluster", c.Cluster, "node", c.Node, "advertise", cfg.Address,
		"http", deps.HTTP.Addr(), "grpc", deps.GRPC.Addr(), "metrics", deps.Metrics.Addr())
	if deps.Dapr != nil {
		started = started.With("dapr", deps.Dapr.Addr())
	}
	started.Info("agent starts")
	beside, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { fewProcessors(beside) })
	follow(beside, &wg, deps.Identity, l.webs)
	defer wg.Wait()
	defer stop()
	return a.Run(ctx)
}

// agentParts makes what agent.New takes.
func agentParts(c *config.Agent, dir *datadir.Dir, l *listeners, log *slog.Logger) (agent.Config, agent.Deps, error) {
	registry := newRegistry()
	cfg := agent.Config{
		Cluster: c.Cluster, Node: c.Node,
		Locality:      catalog.Locality{Region: c.Locality.Region, Zone: c.Locality.Zone},
		Synchronizers: c.Synchronizers,
		AccessLog:     c.AccessLog,
		Version:       version.Get().Version,
		Base:          c.Base(),
	}
	if t := c.Tracing; t != nil {
		cfg.Tracing = &tracing.Config{Endpoint: t.Endpoint, Insecure: t.Insecure}
	}
	deps := agent.Deps{Log: log, Registry: registry}
	var err error
	kinds := newRegistries(log, registry)
	if cfg.Intake, err = kinds.intake(c.Cluster, c.Resolvers, c.Guard); err != nil {
		return cfg, deps, err
	}
	cfg.Links = map[string]func() string{}
	for i, in := range cfg.Intake.Registries {
		cfg.Links[in.Name] = linkOf(in.Name, c.Resolvers[i], in.Resolver, c.Node)
	}
	for _, a := range c.Apps {
		cfg.Apps = append(cfg.Apps, agent.App{
			Name: catalog.Name{Namespace: a.Namespace, Service: a.ID},
			Port: a.Port, Protocol: app.Protocol(a.Protocol), Register: a.Register, TLS: appTLS(a.TLS),
		})
	}
	if deps.Registrar, err = kinds.registrar(c); err != nil {
		return cfg, deps, err
	}
	if c.TLS != nil {
		cfg.PlaintextRelays = c.TLS.PlaintextRelays
		self := identity.Self{Role: identity.Agent, Cluster: c.Cluster, Node: c.Node}
		if deps.Identity, err = newIdentity(c.TLS.Identity(), self, log, registry); err != nil {
			return cfg, deps, err
		}
	}
	if dir != nil {
		cfg.ViewFile, cfg.RegistriesFile = dir.File("view"), dir.File("registries")
	}
	if deps.Internal, err = l.internal(c.Internal.Listen, dir); err != nil {
		return cfg, deps, err
	}
	deps.HTTP = l.face("http", c.HTTP, log)
	deps.GRPC = l.face("grpc", c.GRPC, log)
	deps.Metrics = l.face("metrics", c.Metrics, log)
	if c.Dapr != nil {
		deps.Dapr = l.face("dapr", c.Dapr.Listener(), log)
	}
	if l.err != nil {
		return cfg, deps, l.err
	}
	if deps.Announcer, err = kinds.announcer(c, deps.Dapr); err != nil {
		return cfg, deps, err
	}
	cfg.Address, err = advertised(c, deps.Internal.Addr(), dir)
	return cfg, deps, err
}

// announcer makes what tells sidecars of the applications that live elsewhere; nil where nobody is
// told. They are told the address of the listener for them.
func (r *registries) announcer(c *config.Agent, l net.Listener) (resolvers.Announcer, error) {
	if c.Dapr == nil || c.Dapr.Announce == nil {
		return nil, nil
	}
	at, err := netip.ParseAddrPort(l.Addr().String())
	if err != nil {
		return nil, fmt.Errorf("dapr.announce: %w", err)
	}
	a, err := mdns.NewAnnouncer(mdns.Config{Interfaces: c.Dapr.Announce.Interfaces}, mdns.Place{Node: c.Node, Address: at},
		mdns.Deps{Log: r.log, Metrics: r.mdns, Registry: c.Cluster + "/dapr"})
	if err != nil {
		return nil, fmt.Errorf("dapr.announce: %w", err)
	}
	return a, nil
}

// registrars put the node's applications into all registries that take registrations.
type registrars []resolvers.Registrar

var _ resolvers.Registrar = registrars(nil)

// Run runs them all until ctx is done.
func (r registrars) Run(ctx context.Context, apps []resolvers.Registration) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, one := range r {
		g.Go(func() error { return one.Run(ctx, apps) })
	}
	return g.Wait()
}

// madeRegistrar is to a Registrar what made is to a Resolver.
type madeRegistrar struct {
	log  *slog.Logger
	make func() (resolvers.Registrar, error)
}

// remakeEvery is how often a Registrar that could not be made is tried again.
const remakeEvery = time.Second

// Run makes the Registrar as soon as it can be made, and runs it.
func (m *madeRegistrar) Run(ctx context.Context, apps []resolvers.Registration) error {
	again := time.NewTicker(remakeEvery)
	defer again.Stop()
	for said := ""; ; {
		it, err := m.make()
		if err == nil {
			return it.Run(ctx, apps)
		}
		if err.Error() != said {
			said = err.Error()
			m.log.Warn("applications cannot be registered", "error", err)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// registrar makes what registers the agent's applications; nil where none asks for it.
func (r *registries) registrar(c *config.Agent) (resolvers.Registrar, error) {
	if !slices.ContainsFunc(c.Apps, func(a config.App) bool { return a.Register }) {
		return nil, nil
	}
	var all registrars
	names := named(c.Resolvers)
	for i, at := range c.Resolvers {
		var one resolvers.Registrar
		var err error
		registry := c.Cluster + "/" + names[i]
		switch {
		case at.Consul != nil:
			one = &madeRegistrar{log: r.log.With("registry", names[i]), make: func() (resolvers.Registrar, error) {
				return consul.NewRegistrar(consulConfig(at.Consul), consul.Deps{Log: r.log, Metrics: r.consul, Registry: registry})
			}}
		case at.MDNS != nil:
			one, err = mdns.NewRegistrar(mdnsConfig(at.MDNS), mdns.Deps{Log: r.log, Metrics: r.mdns, Registry: registry})
		default:
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("apps: register needs a registry that takes registrations (consul, mdns)")
	}
	return all, nil
}
