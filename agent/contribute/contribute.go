// Package contribute tells the synchronizers what an agent's registries say, in a cluster that
// they read via its agents (`via: agents`).
//
// The agent reads its registries anyway, for its own view. Contribute listens in: it opens a
// stream to every synchronizer, says every second how the agent stands with each of its links,
// and sends the contents of those links that a synchronizer grants it. Each synchronizer gathers
// for itself; only the owner of the cluster publishes.
//
// It guards nothing and decides nothing: removals are judged, and reporters chosen, where
// contributions arrive. Where the cluster is not read via its agents it opens nothing, and costs
// the references to what the registries published last.
//
// Goroutines: Run owns its own loop and, while the cluster is read via its agents, two for each
// synchronizer: one sends, one receives.
package contribute

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers/intake"
)

const (
	// standEvery is how often an agent says how it stands with its links. A synchronizer that has
	// heard nothing for three times as long gives the link to another.
	standEvery = time.Second
	// ownerWithin is how long no stream may lead to the cluster's owner before those that lead to
	// others are dialled afresh: one address may stand for several synchronizers.
	ownerWithin = 5 * time.Second
	// nameWithin is how long the streams wait for links whose name is not known yet. Where nobody
	// names a link, nobody waits for what is in it: services would be called absent that are there.
	nameWithin = 3 * time.Second
	// retryCap bounds the pause between two tries to connect; the pause is jittered below it.
	retryCap = time.Second
)

// Config is what a Contributor is told.
type Config struct {
	Cluster string
	Node    string
	// Incarnation is that of the agent's record: both say that it is the same agent.
	Incarnation string
	// Synchronizers are host:port. Each gets a stream.
	Synchronizers []string
	// Credentials are how these are spoken to; nil is for plaintext.
	Credentials credentials.TransportCredentials
	Links       []LinkSource
}

// LinkSource is one registry of the agent and what it is called among the cluster's agents.
type LinkSource struct {
	Registry intake.Registry
	// Name gives the link's name now: agents that hear the same give the same. It is "" while that
	// is not known, and must be safe for concurrent use.
	Name func() string
}

// Deps are what a Contributor uses and does not make.
type Deps struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Links is told, at every change of them while the cluster is read via its agents, the names
	// of the links that this agent has read completely and can read now. It is called by Run's
	// goroutine. The map is not changed afterwards.
	Links func(map[string]struct{})
}

// Contributor tells the synchronizers what an agent's registries say. Its methods are safe for
// concurrent use.
type Contributor struct {
	cfg     Config
	log     *slog.Logger
	links   func(map[string]struct{})
	metrics *metrics
	taps    []*tap // one for each of cfg.Links, in their order

	// Each holds a token while there is something to look at.
	switched, read chan struct{}

	// mu guards all below. No other lock is taken under it.
	mu         sync.Mutex
	on         bool
	federation string
	statuses   []catalog.RegistryStatus
	streams    map[*stream]struct{} // those that are connected
	ownerless  time.Time            // since when no stream leads to the owner; zero while one does

	patience time.Duration // ownerWithin, but in tests
}

// New checks the configuration and returns a Contributor; it starts nothing.
func New(cfg Config, deps Deps) (*Contributor, error) {
	c := &Contributor{
		cfg: cfg, log: deps.Log, links: deps.Links, metrics: newMetrics(deps.Metrics),
		switched: make(chan struct{}, 1), read: make(chan struct{}, 1),
		streams: map[*stream]struct{}{}, patience: ownerWithin,
	}
	errs := []error{catalog.CheckClusterName(cfg.Cluster), catalog.CheckNode(cfg.Node)}
	if cfg.Incarnation == "" {
		errs = append(errs, errors.New("no incarnation"))
	}
	for _, l := range cfg.Links {
		if l.Name == nil || l.Registry.Resolver == nil {
			errs = append(errs, fmt.Errorf("registry %q: no resolver or no link name", l.Registry.Name))
		}
		c.taps = append(c.taps, newTap(l, c.standings))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("contribute: %w", err)
	}
	return c, nil
}

// Registries gives the registries of cfg.Links, in their order, with resolvers that let the
// Contributor listen in: these are to be run in the place of the others.
func (c *Contributor) Registries() []intake.Registry {
	out := make([]intake.Registry, 0, len(c.taps))
	for _, t := range c.taps {
		r := t.registry
		r.Resolver = t
		out = append(out, r)
	}
	return out
}

// Farewell returns when none of the registries lists one of these instances any more, where the
// cluster is read via its agents, or when ctx is done. An agent that took its applications back
// waits for it before it ends Run, so that what was taken back is told.
func (c *Contributor) Farewell(ctx context.Context, instances []string) {
	if len(instances) == 0 || !c.isOn() {
		return
	}
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for slices.ContainsFunc(c.taps, func(t *tap) bool { return t.lists(instances) }) {
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}

// Switch says whether the cluster is read via its agents, and in which federation.
func (c *Contributor) Switch(on bool, federation string) {
	c.mu.Lock()
	c.on, c.federation = on, federation
	c.mu.Unlock()
	wake(c.switched)
}

// Read says how the reading of the registries stands, after the view was told what they said:
// what Deps.Links is told never runs ahead of it. The slice must not be changed afterwards.
func (c *Contributor) Read(statuses []catalog.RegistryStatus) {
	c.mu.Lock()
	c.statuses = statuses
	c.mu.Unlock()
	wake(c.read)
}

// Ownerless reports whether the cluster is read via its agents and none of this agent's streams
// leads to the synchronizer that writes it.
func (c *Contributor) Ownerless() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.on && !c.leads()
}

// leads reports whether a stream leads to the owner. Caller holds mu.
func (c *Contributor) leads() bool {
	for s := range c.streams {
		if s.owner {
			return true
		}
	}
	return false
}

// Run contributes while it is switched on, until ctx is done, and returns ctx.Err(). A
// synchronizer that cannot be reached is tried again for ever. It is called once.
func (c *Contributor) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.switched:
		}
		if c.isOn() {
			c.log.Info("the cluster is read via its agents: this one contributes", "cluster", c.cfg.Cluster)
			c.contribute(ctx)
		}
	}
}

func (c *Contributor) isOn() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.on
}

// contribute keeps the streams until ctx is done or the Contributor is switched off.
func (c *Contributor) contribute(ctx context.Context) {
	var streams sync.WaitGroup
	defer streams.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.awaitNames(ctx)
	for _, address := range c.cfg.Synchronizers {
		streams.Go(func() { c.follow(ctx, address) })
	}
	var told map[string]struct{}
	tick := time.NewTicker(standEvery)
	defer tick.Stop()
	for {
		if read := c.readLinks(); told == nil || !maps.Equal(told, read) {
			c.links(read)
			told = read
		}
		select {
		case <-ctx.Done():
			return
		case <-c.switched:
			if !c.isOn() {
				c.log.Info("the cluster is not read via its agents any more", "cluster", c.cfg.Cluster)
				return
			}
		case <-c.read:
		case <-tick.C:
			if c.name() {
				c.standings()
			}
			c.seekOwner(time.Now())
		}
	}
}

// awaitNames returns when every link's name is known, or after nameWithin.
func (c *Contributor) awaitNames(ctx context.Context) {
	late := time.NewTimer(nameWithin)
	defer late.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		c.name()
		if !slices.ContainsFunc(c.taps, func(t *tap) bool { return t.named() == "" }) {
			return
		}
		select {
		case <-again.C:
		case <-late.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// name asks what the links are called now, and reports whether that is another than before. Of
// two with the same name the first has it.
func (c *Contributor) name() (changed bool) {
	taken := map[string]bool{"": true}
	for _, t := range c.taps {
		name := bounded(t.source(), maxLink)
		if taken[name] {
			name = ""
		}
		taken[name] = true
		changed = t.rename(name) || changed
	}
	return changed
}

// readLinks gives the names of the links whose registries were read completely. Of one that cannot
// be read now the last list stays, and others may know what has come since.
func (c *Contributor) readLinks() map[string]struct{} {
	c.mu.Lock()
	statuses := c.statuses
	c.mu.Unlock()
	out := map[string]struct{}{}
	for _, t := range c.taps {
		complete := slices.ContainsFunc(statuses, func(st catalog.RegistryStatus) bool {
			return st.Name == t.registry.Name && st.Complete && st.State != catalog.RegistryFailed
		})
		if name := t.named(); name != "" && complete {
			out[name] = struct{}{}
		}
	}
	return out
}

// tap gives the link of that name, or nil.
func (c *Contributor) tap(name string) *tap {
	for _, t := range c.taps {
		if t.named() == name {
			return t
		}
	}
	return nil
}

// standings has every stream say at once how the agent stands with its links.
func (c *Contributor) standings() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.streams {
		s.due.Store(true)
		wake(s.wake)
	}
}

// seekOwner ends the streams that lead to others than the owner, where none has led to it for
// some time: the next try may find it behind the same address.
func (c *Contributor) seekOwner(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.leads():
		c.ownerless = time.Time{}
	case c.ownerless.IsZero():
		c.ownerless = now
	case now.Sub(c.ownerless) >= c.patience:
		for s := range c.streams {
			if now.Sub(s.since) >= c.patience {
				s.end(errNotOwner)
			}
		}
	}
}

// wake puts a token into a channel that has room for one.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // there is one already
	}
}
