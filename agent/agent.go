// Package agent puts a node's agent together: it reads its own cluster's registries, follows
// the federation's feed, merges both into a view, and serves calls of the node's applications
// and of peers.
//
// Its rooms do the work: uplink (feed), contribute (what the own registries say, to those who ask
// for it), recall (what they listed, on disk), consult (what synchronizers ask), view (merge), pick
// (choice), relay (attempts), app (delivery), face (servers), reachability (which peers answer). This
// package only connects them and answers queries from the view.
//
// Goroutines: Run owns them all, in four groups that end one after the other: what tells others of
// this agent and its applications, what contributes what the registries say (which is last that
// they were taken back), what serves, and what those need.
package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/consult"
	"github.com/farcall/farcall/agent/contribute"
	"github.com/farcall/farcall/agent/face"
	"github.com/farcall/farcall/agent/reachability"
	"github.com/farcall/farcall/agent/recall"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/agent/tracing"
	"github.com/farcall/farcall/agent/uplink"
	"github.com/farcall/farcall/agent/view"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
	"github.com/farcall/farcall/internal/identity"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/internal/reach"
	"github.com/farcall/farcall/resolvers"
	"github.com/farcall/farcall/resolvers/intake"
)

// Config is what an agent is told.
type Config struct {
	Cluster  string
	Node     string
	Locality catalog.Locality
	// Synchronizers are host:port; any of them will do.
	Synchronizers []string
	// Intake reads the registries of the agent's own cluster; without any, the own cluster's list
	// comes from the feed.
	Intake intake.Config
	// Links gives, by the name of a registry of Intake, what the cluster's agents call it where
	// the cluster is read via them: contribute.LinkSource.Name. A registry that is missing here is
	// called by its name.
	Links map[string]func() string
	Apps  []App
	// APIToken, where it is not empty, is demanded of every call of the node's applications, or else
	// the token of one of Apps (Dapr's DAPR_API_TOKEN).
	APIToken string
	// AppToken is shown to those applications that have no token of their own (Dapr's
	// APP_API_TOKEN).
	AppToken string
	// PlaintextRelays are the clusters whose registries may state relays without an identity, where the
	// agent itself has one.
	PlaintextRelays []string
	// Base is what the configuration says of the applications' calls, below every policy.
	Base policy.Settings
	// Address is host:port of the internal listener as peers reach it.
	Address string
	// ViewFile keeps the last view, and RegistriesFile what the own registries listed; empty for
	// nowhere.
	ViewFile, RegistriesFile string
	// AccessLog is off, errors or all.
	AccessLog string
	// Tracing says where the spans of sampled calls go; nil for nowhere. Who the agent is need not be
	// said in it.
	Tracing *tracing.Config
	Version string
}

// App is how calls for one application of this node are delivered.
type App struct {
	Name     catalog.Name
	Port     int
	Protocol app.Protocol
	// Register puts it into the own registry.
	Register bool
	// Token is shown to the application with every call, and a caller that shows it is the
	// application; empty: none. No two applications have the same.
	Token string
	// TLS is how TLS is spoken with it; see app.Access.
	TLS *app.TLS
}

// Deps are what an agent uses and does not make. The listeners are closed by Run.
type Deps struct {
	Log      *slog.Logger
	Registry *prometheus.Registry
	// Registrar registers the applications that ask for it; nil where none does.
	Registrar resolvers.Registrar
	// Announcer tells the sidecars of the node's links which applications are to be had by way of
	// Dapr; nil where nobody is told.
	Announcer resolvers.Announcer
	// Internal serves peers, HTTP and GRPC the node's applications, Metrics metrics and health.
	Internal, HTTP, GRPC, Metrics net.Listener
	// Dapr serves the Dapr sidecars of the node; nil for none.
	Dapr net.Listener
	// Identity is who this agent is; nil: synchronizers and peers are spoken to in plaintext.
	Identity *identity.Source
}

// Agent is one node's agent.
type Agent struct {
	cfg  Config
	deps Deps
	log  *slog.Logger

	book        *view.Book
	intake      *intake.Intake // nil without registries
	uplink      *uplink.Uplink
	mirror      atomic.Pointer[mirror.Mirror] // the feed's; nil before there was one
	hearsay     hearsay
	recall      *recall.Keeper // nil without registries
	contributor *contribute.Contributor
	answers     *consult.Answers
	tracker     *reachability.Tracker
	down        map[string]struct{} // what the tracker found last; its goroutine's
	apps        delivery
	spans       *tracing.Provider // nil without tracing
	relay       *relay.Relay
	peer        *face.Peer
	http        *face.HTTP
	grpc        *face.GRPC
	dapr        *face.Dapr // nil without a listener for it
	elsewhere   *announcements

	draining atomic.Bool
	read     atomic.Bool // the own registries were all read
}

// New checks the configuration and puts the rooms together; it starts nothing.
func New(cfg Config, deps Deps) (*Agent, error) {
	a := &Agent{cfg: cfg, deps: deps, log: deps.Log, apps: newDelivery()}
	self := reach.Self{Cluster: cfg.Cluster, Node: cfg.Node, Address: cfg.Address, Loopback: catalog.IsLoopback(deps.Internal.Addr().String())}
	r := &router{counter: consult.NewCounter(), secure: deps.Identity != nil, plaintext: map[string]bool{}}
	for _, name := range cfg.PlaintextRelays {
		r.plaintext[name] = true
	}
	r.spoken, r.others = manners(cfg)
	ports, sidecars := map[catalog.Name]int{}, map[catalog.Name]bool{}
	for _, p := range cfg.Apps {
		ports[p.Name] = p.Port
		sidecars[p.Name] = p.Protocol == app.Dapr
	}
	a.book = view.New(
		view.Config{Self: self, Locality: cfg.Locality, HasRegistry: len(cfg.Intake.Registries) > 0, Ports: ports, Sidecars: sidecars, Base: cfg.Base},
		view.Deps{Metrics: deps.Registry, Connected: func() bool { return a.uplink.Connected() }},
	)
	a.elsewhere = newAnnouncements(a.book, deps.Announcer)
	a.tracker = reachability.New(reachability.Deps{
		Log: deps.Log, Metrics: deps.Registry, Relays: a.book.Relays,
		Changed: a.found, Dial: a.greeter(),
	})
	r.book, r.tracker = a.book, a.tracker
	if err := a.rooms(r); err != nil {
		return nil, err
	}
	if err := a.faces(r); err != nil {
		return nil, err
	}
	deps.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "farcall_agent_degraded", Help: "1 while the agent has to do without something; /readyz says in words without what.",
	}, func() float64 {
		if len(a.degraded()) > 0 {
			return 1
		}
		return 0
	}))
	return a, nil
}

// found takes what the tracker found out. Relays that are back are connected to at once: calls that
// fail at a connection which still pauses would speak against instances that are well.
func (a *Agent) found(f reachability.Findings) {
	for address := range a.down {
		if _, still := f.Down[address]; !still {
			a.relay.Reconnect(address)
		}
	}
	a.down = f.Down
	a.book.Reachable(f.Down, f.Dead, f.Distance)
}

// rooms makes what reads the registries and what speaks with the synchronizers.
func (a *Agent) rooms(r *router) (err error) {
	record := a.record()
	self := consult.Config{Cluster: a.cfg.Cluster, Node: a.cfg.Node, Incarnation: record.GetIncarnation()}
	a.answers = consult.FromBook(self, a.book, r.counter.Calls)
	asked := consult.New(self, consult.Deps{
		Log: a.log, Metrics: a.deps.Registry, Answerer: a.answers, Federation: func() string { return a.uplink.Federation() },
	})
	a.uplink = uplink.New(uplink.Config{Synchronizers: a.cfg.Synchronizers, Agent: record, File: a.cfg.ViewFile, Credentials: a.upward()},
		uplink.Deps{Log: a.log, Metrics: a.deps.Registry, Listener: follower{a}, Consult: asked.Follow, Held: a.held})
	told := contribute.Config{
		Cluster: a.cfg.Cluster, Node: a.cfg.Node, Incarnation: record.GetIncarnation(), Synchronizers: a.cfg.Synchronizers,
		Credentials: a.upward(),
	}
	read := a.cfg.Intake
	for _, r := range read.Registries {
		name := a.cfg.Links[r.Name]
		if name == nil {
			name = func() string { return r.Name }
		}
		told.Links = append(told.Links, contribute.LinkSource{Registry: r, Name: name})
	}
	if a.contributor, err = contribute.New(told, contribute.Deps{Log: a.log, Metrics: a.deps.Registry, Links: a.book.Links}); err != nil {
		return err
	}
	if len(read.Registries) == 0 {
		return nil
	}
	read.Registries = a.contributor.Registries()
	a.hearsay = hearsay{cluster: a.cfg.Cluster, hold: cmp.Or(read.Guard.Hold, guard.DefaultHold)}
	a.intake, err = intake.New(read, intake.Deps{Log: a.log, Metrics: intake.NewMetrics(a.deps.Registry), Verdict: a.verdict})
	if err != nil {
		return err
	}
	a.recall = recall.New(recall.Config{Cluster: a.cfg.Cluster, File: a.cfg.RegistriesFile}, recall.Deps{
		Log: a.log, Metrics: a.deps.Registry, Believed: a.intake.Believed, Held: a.intake.Held,
	})
	return nil
}

// follower hands on what the feed brings: to the view, and to the contributor whether the cluster
// is read via its agents.
type follower struct{ *Agent }

var _ uplink.Listener = follower{}

// Attach implements uplink.Listener.
func (f follower) Attach(m *mirror.Mirror) {
	f.mirror.Store(m)
	f.book.Attach(m)
}

// Changed implements uplink.Listener.
func (f follower) Changed(ch mirror.Changes) {
	f.book.Changed(ch)
	f.elsewhere.fed(ch)
	if f.intake != nil {
		if ch.Holds {
			f.adoptHolds()
		}
		f.intake.Review()
	}
	if ch.Clusters {
		f.contributor.Switch(f.book.ViaAgents(), f.uplink.Federation())
	}
}

// record is what the agent says of itself.
func (a *Agent) record() *catalogv1.Agent {
	rec := &catalogv1.Agent{
		Cluster: a.cfg.Cluster, Node: a.cfg.Node, Incarnation: rand.Text(), Address: a.cfg.Address,
		Locality: a.cfg.Locality.Proto(), Version: a.cfg.Version,
	}
	for _, p := range a.cfg.Apps {
		rec.Apps = append(rec.Apps, &catalogv1.App{
			Namespace: p.Name.Namespace, Id: p.Name.Service, Port: uint32(p.Port), Protocol: string(p.Protocol),
			Registered: p.Register,
		})
	}
	return rec
}

// faces makes the relay and the servers before it.
func (a *Agent) faces(r *router) (err error) {
	calls := relay.Deps{Router: r, Apps: a.apps, Log: a.log, Metrics: a.deps.Registry, Credentials: a.sideways()}
	if t := a.cfg.Tracing; t != nil {
		to := tracing.Config{Endpoint: t.Endpoint, Insecure: t.Insecure, Cluster: a.cfg.Cluster, Node: a.cfg.Node, Version: a.cfg.Version}
		if a.spans, err = tracing.New(to, tracing.Deps{Log: a.log, Metrics: a.deps.Registry}); err != nil {
			return err
		}
		calls.Tracer = a.spans.Tracer()
	}
	if a.relay, err = relay.New(
		relay.Config{Cluster: a.cfg.Cluster, Node: a.cfg.Node, AccessLog: relay.AccessLog(a.cfg.AccessLog)}, calls,
	); err != nil {
		return err
	}
	cfg := face.Config{Cluster: a.cfg.Cluster, Node: a.cfg.Node, Version: a.cfg.Version, APIToken: a.cfg.APIToken}
	if host, _, err := net.SplitHostPort(a.cfg.Address); err == nil && net.ParseIP(host) != nil {
		cfg.Host = host
	}
	for _, p := range a.cfg.Apps {
		cfg.Apps = append(cfg.Apps, face.App{Name: p.Name, Token: p.Token})
	}
	deps := face.Deps{Relay: a.relay, Own: r, Views: views{r, a.answers}, Attributes: face.NewAttributes(cfg), Log: a.log}
	if a.http, err = face.NewHTTP(cfg, deps); err != nil {
		return err
	}
	if a.grpc, err = face.NewGRPC(cfg, deps); err != nil {
		return err
	}
	if a.deps.Dapr != nil {
		if a.dapr, err = face.NewDapr(cfg, deps); err != nil {
			return err
		}
	}
	a.peer, err = face.NewPeer(cfg, face.PeerDeps{Own: r, Apps: a.apps, Metrics: a.deps.Registry, Identity: a.deps.Identity})
	return err
}

// Run serves until ctx is done, then drains and returns nil; or it returns why it could not go
// on. Neither a registry nor a synchronizer that cannot be reached is a reason to.
func (a *Agent) Run(ctx context.Context) error {
	if a.recall != nil {
		// Before the view: what that says is held is held on from there.
		a.intake.Adopt(intake.Baseline{Registries: a.recall.Load(time.Now())})
	}
	a.uplink.Load()
	life, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	start := func(ctx context.Context, runs ...func(context.Context) error) *sync.WaitGroup {
		wg := &sync.WaitGroup{}
		for _, run := range runs {
			wg.Go(func() {
				if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
					fail(err)
				}
			})
		}
		return wg
	}
	after := context.WithoutCancel(ctx)
	needs, stopNeeds := context.WithCancel(after)
	serves, stopServes := context.WithCancel(after)
	tells, stopTells := context.WithCancel(after)
	defer stopNeeds()
	defer stopServes()
	defer stopTells()

	needed := start(needs, a.resolve, a.remember, a.book.Run, a.tracker.Run, a.serveMetrics, a.trace)
	served := start(serves,
		func(ctx context.Context) error { return a.peer.Run(ctx, a.deps.Internal) },
		func(ctx context.Context) error { return a.http.Run(ctx, a.deps.HTTP) },
		func(ctx context.Context) error { return a.grpc.Run(ctx, a.deps.GRPC) },
		a.serveSidecars,
	)
	contributed := start(tells, a.contributor.Run)
	told := start(life, a.uplink.Run, a.register, a.elsewhere.run, a.elsewhere.announce)

	<-life.Done()
	a.drain()
	told.Wait()
	a.farewell(tells)
	stopTells()
	contributed.Wait()
	stopServes()
	served.Wait()
	stopNeeds()
	needed.Wait()
	a.relay.Close()
	a.apps.close()
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(life)
}

// serveSidecars serves the Dapr sidecars of the node, where the agent is to.
func (a *Agent) serveSidecars(ctx context.Context) error {
	if a.dapr == nil {
		return nil
	}
	return a.dapr.Run(ctx, a.deps.Dapr)
}

// drain makes peers take their calls elsewhere: they are refused as certainly not executed.
// Those under way go on.
func (a *Agent) drain() {
	a.log.Info("draining")
	a.draining.Store(true)
	a.http.BeginDrain()
	a.peer.BeginDrain()
}

// resolve reads the own cluster's registries, where the agent has any.
func (a *Agent) resolve(ctx context.Context) error {
	if a.intake == nil {
		a.read.Store(true)
		<-ctx.Done()
		return ctx.Err()
	}
	return a.intake.Run(ctx, func(ch intake.Change) {
		a.read.Store(ch.Complete)
		a.book.Local(ch)
		a.elsewhere.read(ch)
		a.contributor.Read(ch.Registries)
		a.recall.Changed()
	})
}

// remember keeps on disk what the own registries list, where the agent has any.
func (a *Agent) remember(ctx context.Context) error {
	if a.recall == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return a.recall.Run(ctx)
}

// trace sends spans, where they go anywhere. It outlives the calls that they are of.
func (a *Agent) trace(ctx context.Context) error {
	if a.spans == nil {
		return nil
	}
	return a.spans.Run(ctx)
}

// registrations are the node's applications that ask to be registered.
func (a *Agent) registrations() (list []resolvers.Registration, err error) {
	for _, p := range a.cfg.Apps {
		if !p.Register {
			continue
		}
		host, port, err := splitPort(a.cfg.Address)
		if err != nil {
			return nil, fmt.Errorf("register %s: %w", p.Name, err)
		}
		list = append(list, resolvers.Registration{
			Name: p.Name, Node: a.cfg.Node, ID: fmt.Sprintf("%s-%s-%d", p.Name.Service, a.cfg.Node, p.Port),
			Address: host, Port: p.Port, RelayPort: port,
		})
	}
	return list, nil
}

// register keeps the node's applications in its registries.
func (a *Agent) register(ctx context.Context) error {
	list, err := a.registrations()
	if err != nil {
		return err
	}
	if a.deps.Registrar == nil || len(list) == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	return a.deps.Registrar.Run(ctx, list)
}

// farewellWithin is how long the registries may take to show that the applications were taken
// back; multicast DNS takes a second (RFC 6762 section 10.1).
const farewellWithin = 3 * time.Second

// farewell waits until it can be told that the applications were taken back.
func (a *Agent) farewell(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, farewellWithin)
	defer cancel()
	list, err := a.registrations()
	if err != nil {
		return // they were never registered
	}
	ids := make([]string, 0, len(list))
	for _, r := range list {
		ids = append(ids, r.ID)
	}
	a.contributor.Farewell(ctx, ids)
}

func splitPort(address string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	port, err = net.LookupPort("tcp", p)
	return host, port, err
}
