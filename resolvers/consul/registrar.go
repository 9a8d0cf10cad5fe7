package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

// Registrar lists a node's applications at the Consul agent of that node, each with a TTL check
// that the Registrar keeps alive. daprd registers in the same form, so that Dapr's consul name
// resolver finds what Farcall registered.
type Registrar struct {
	client  *client
	log     *slog.Logger
	metrics *Metrics
	name    string
	portKey string
}

var _ resolvers.Registrar = (*Registrar)(nil)

// NewRegistrar makes a Registrar for the Consul agent at cfg.Address. It reads the TLS files and
// nothing else.
func NewRegistrar(cfg Config, deps Deps) (*Registrar, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("consul: %w", err)
	}
	cfg.Datacenter = "" // registrations are the agent's own, and its are its datacenter's
	c, err := newClient(cfg, deps)
	if err != nil {
		return nil, err
	}
	return &Registrar{client: c, log: deps.Log, metrics: deps.Metrics, name: deps.Registry, portKey: cfg.portKey()}, nil
}

// Run implements resolvers.Registrar. It goes on through every failure of Consul and returns
// only with ctx, or at once where the registrations contradict each other.
func (r *Registrar) Run(ctx context.Context, apps []resolvers.Registration) error {
	ids := make(map[string]bool, len(apps))
	for _, a := range apps {
		if a.ID == "" || a.Name.Service == "" || a.Port < 1 || a.Port > 65535 {
			return fmt.Errorf("consul: register %q as %q on port %d: a name, an id and a port are needed", a.Name.Service, a.ID, a.Port)
		}
		if ids[a.ID] {
			return fmt.Errorf("consul: register: two applications have the id %q", a.ID)
		}
		ids[a.ID] = true
	}
	defer r.client.close()
	var wg sync.WaitGroup
	for _, a := range apps {
		k := &keeper{Registrar: r, app: a}
		wg.Go(func() { k.run(ctx) })
	}
	wg.Wait()
	return ctx.Err()
}

// appState is what Consul is known to hold of an application.
type appState string

const (
	statePending  appState = "pending" // not registered yet, or registered with an agent that forgot
	statePassing  appState = "passing"
	stateCritical appState = "critical"
	stateRemoved  appState = "removed" // somebody took it off; it comes back with the application
)

const (
	// keepEvery is how often an application's port is tried and its check renewed. A removal is
	// noticed then, and whether Consul stayed up.
	keepEvery = time.Second
	// farewell is how long taking a registration back may last. Where it fails, the check expires
	// and Consul drops the registration after deregisterAfter.
	farewell = 2 * time.Second
	dialTime = 500 * time.Millisecond
)

// keeper keeps one registration. One goroutine has it.
type keeper struct {
	*Registrar
	app resolvers.Registration

	state appState
	tried bool // a registration was sent at least once
	// agent is the id of the Consul agent that took the registration; empty where the token may
	// not ask for it.
	agent string
	// silent says that the agent did not answer since it last knew the registration: it may have
	// been restarted.
	silent bool
	// away says that the application was not listening since its registration was removed.
	away bool
	// failing says that the last exchange failed, so that a failure is logged once.
	failing bool
}

func (k *keeper) run(ctx context.Context) {
	k.enter(statePending)
	for ctx.Err() == nil {
		k.keep(ctx)
		pause(ctx, jitter(keepEvery))
	}
	k.leave(ctx)
	k.enter("")
}

// enter changes the state and counts it; the empty one is not counted.
func (k *keeper) enter(s appState) {
	gauge := k.metrics.registrations.MustCurryWith(prometheus.Labels{"registry": k.name})
	if k.state != "" {
		gauge.WithLabelValues(string(k.state)).Dec()
	}
	if s != "" {
		gauge.WithLabelValues(string(s)).Inc()
	}
	k.state = s
}

// keep does what is due now.
func (k *keeper) keep(ctx context.Context) {
	up := k.listening(ctx)
	want := stateCritical
	if up {
		want = statePassing
	}
	var err error
	switch k.state {
	case stateRemoved:
		if k.away = k.away || !up; !up || !k.away {
			return
		}
		err = k.register(ctx, want)
	case statePending:
		err = k.register(ctx, want)
	default:
		err = k.renew(ctx, want)
	}
	k.tell(ctx, err)
}

// renew keeps the check alive, and finds out why where Consul does not know it any more.
func (k *keeper) renew(ctx context.Context, want appState) error {
	err := k.client.renew(ctx, k.app.ID, want)
	if err == nil {
		k.silent = false
		k.enter(want)
		return nil
	}
	if !errors.Is(err, errUnknown) {
		k.silent = true
		return err
	}
	agent, err := k.client.agentID(ctx)
	if err != nil {
		k.silent = true
		return err
	}
	if exchanged := agent != "" && k.agent != "" && agent != k.agent; exchanged || k.silent {
		k.log.Info("consul forgot a registration: it is made again", "registry", k.name, "service", k.app.Name.String(), "instance", k.app.ID)
		k.enter(statePending)
		return k.register(ctx, want)
	}
	k.log.Warn("a registration was removed from consul: it comes back when the application does", "registry", k.name, "service", k.app.Name.String(), "instance", k.app.ID)
	k.enter(stateRemoved)
	k.away = want == stateCritical
	return nil
}

func (k *keeper) register(ctx context.Context, want appState) error {
	agent, err := k.client.agentID(ctx)
	if err != nil {
		return err
	}
	k.tried = true
	if err := k.client.register(ctx, k.app, k.portKey, want); err != nil {
		return err
	}
	k.agent, k.silent, k.away = agent, false, false
	k.enter(want)
	return nil
}

// leave takes the registration back, also after ctx is done, which is when it is called.
func (k *keeper) leave(ctx context.Context) {
	if !k.tried {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	if err := k.client.deregister(ctx, k.app.ID); err != nil && !errors.Is(err, errUnknown) {
		k.log.Warn("a registration stays in consul until its check has expired", "registry", k.name,
			"service", k.app.Name.String(), "instance", k.app.ID, "error", err)
	}
}

// tell logs a failure when it begins and when it ends.
func (k *keeper) tell(ctx context.Context, err error) {
	if ctx.Err() != nil || (err != nil) == k.failing {
		return
	}
	k.failing = err != nil
	attrs := []any{"registry", k.name, "service", k.app.Name.String(), "instance", k.app.ID}
	if err != nil {
		k.log.Warn("registration is not kept up: trying on", append(attrs, "error", err)...)
		return
	}
	k.log.Info("registration is kept up", attrs...)
}

// listening reports whether the application's port accepts connections.
func (k *keeper) listening(ctx context.Context) bool {
	return accepts(ctx, k.app.Address, k.app.Port)
}

// namespaceMeta is what the registration says of its namespace: nothing for the default one.
func namespaceMeta(n catalog.Name) string {
	if cmp.Or(n.Namespace, catalog.DefaultNamespace) == catalog.DefaultNamespace {
		return ""
	}
	return n.Namespace
}
