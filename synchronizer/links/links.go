// Package links hears a cluster by its own agents. A link is one registry as agents hear it
// (a Consul, an mDNS segment, one node's file). Several agents may hear the same link: one of
// them at a time is its reporter, by a term that is granted here, and what it contributes is
// what the link lists. Each link is a registry of the cluster's intake, so guard, status and
// provenance are those of any registry.
//
// It does not decide who writes the cluster, keeps nothing across restarts, and knows neither
// streams nor the store: it is fed messages and the time, and answers with grants that its
// contributors take when they can. A contributor that is slow therefore holds up nobody.
//
// It runs no goroutines: Run, which looks after what only time tells, is its caller's.
package links

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers/intake"
)

const (
	// tickEvery is how often Run looks what time alone has changed.
	tickEvery = 500 * time.Millisecond
	// candidateAge is how long ago an agent may have been answered by a registry that it shall
	// report, as it said itself.
	candidateAge = 2 * time.Second
	// apart is how far apart two answers of a registry are at least: what lies closer may be one
	// answer, told twice over a network that took its time.
	apart = 500 * time.Millisecond
	// standingFor is how long what an agent said of its links counts. It says so every second.
	standingFor = 3 * time.Second
	// silentFor is how long a reporter that sends nothing keeps others from being asked.
	silentFor = 10 * time.Second
	// unnamedFor is how long a link is named by nobody, while its last reporter is connected,
	// before it is retired. An agent that begins anew may need a moment to know its links, and a
	// link that was renamed is read under its new name by then.
	unnamedFor = 10 * time.Second
	// staleTTL is how long a link stays that nobody names.
	staleTTL = 24 * time.Hour
	// refusedFor is how long nobody is asked for a list that was too large.
	refusedFor = time.Minute
)

// Registries is the cluster's intake. No method blocks.
type Registries interface {
	Add(intake.Registry) error
	Retire(name string)
	Drop(name string)
	// Status names the registries there are, and those retired of which something is held.
	Status() []catalog.RegistryStatus
}

var _ Registries = (*intake.Intake)(nil)

// Deps are what a Cluster uses. Its functions do not block and do not call back.
type Deps struct {
	Log        *slog.Logger
	Metrics    *Metrics
	Registries Registries
	// Known gives the links that the store has, as the cluster's owner wrote them.
	Known func() []Known
	// Stored gives the instances that the store holds of a link.
	Stored func(link string) []*catalog.Instance
	// Reported is called when a link has another reporter.
	Reported func()
}

// Known is a link that the store has.
type Known struct {
	Name string
	// Reporter is the node that reported it last; empty where nobody knows.
	Reporter string
}

// Cluster is all the links of one cluster and all its contributors. Its methods are safe for
// concurrent use.
type Cluster struct {
	name    string
	log     *slog.Logger
	deps    Deps
	metrics clusterMetrics

	// mu guards all below, and the fields of every link and contributor.
	mu    sync.Mutex
	owner bool
	term  uint64 // the last that was granted
	joins uint64 // counts contributors
	seats map[string]*seat
	links map[string]*link
	// gone are links that were retired, for those who ask who reported them: what they listed may
	// be held for a while.
	gone map[string]goneLink

	// heard is closed when the first agent has said which links it has.
	heard    chan struct{}
	sayHeard func() // closes it, once
}

// seat is the place of one node, with one agent on it.
type seat struct {
	incarnation  string
	contributors map[*Contributor]struct{} // an agent may have several streams
	heard        time.Time                 // when it said anything last
	lost         bool                      // the place was given to the agent's next life
}

type goneLink struct {
	reporter string
	at       time.Time
}

// New returns a Cluster without links.
func New(cluster string, deps Deps) *Cluster {
	heard := make(chan struct{})
	return &Cluster{
		name: cluster, deps: deps,
		log:     deps.Log.With("cluster", cluster),
		metrics: deps.Metrics.of(cluster),
		seats:   map[string]*seat{},
		links:   map[string]*link{},
		gone:    map[string]goneLink{},
		heard:   heard, sayHeard: sync.OnceFunc(func() { close(heard) }),
	}
}

// Run looks after what only time tells until ctx is done, and returns ctx.Err().
func (c *Cluster) Run(ctx context.Context) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			c.tick(time.Now())
		}
	}
}

// tick judges every link anew.
func (c *Cluster) tick(now time.Time) {
	c.mu.Lock()
	owner := c.owner
	c.mu.Unlock()
	if !owner {
		c.Adopt(now, c.deps.Known()) // so that a take-over loses nothing that the owner knew
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	alone := 0
	for _, k := range c.links {
		c.judge(k, now)
		if k.reporter == nil {
			alone++
		}
	}
	for name, g := range c.gone {
		if now.Sub(g.at) >= staleTTL {
			delete(c.gone, name)
		}
	}
	c.metrics.links.Set(float64(len(c.links)))
	c.metrics.unreported.Set(float64(alone))
}

// Adopt takes over the links that the store has and this replica does not know: what the store
// holds of them is unread, not gone. Of those that nobody named here, it drops the ones that the
// store had and has no more. Who owns the cluster does not need it: it wrote them.
func (c *Cluster) Adopt(now time.Time, known []Known) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// What was retired here stays so, while what it listed is held.
	going := map[string]struct{}{}
	for _, r := range c.deps.Registries.Status() {
		if _, was := c.gone[r.Name]; was && c.links[r.Name] == nil {
			going[r.Name] = struct{}{}
		}
	}
	stored := make(map[string]struct{}, len(known))
	for _, kn := range known {
		stored[kn.Name] = struct{}{}
		if _, is := going[kn.Name]; is {
			continue
		}
		k := c.link(kn.Name, now)
		if k == nil {
			continue
		}
		k.stored = true
		if k.last == "" {
			k.last = kn.Reporter
		}
	}
	for name, k := range c.links {
		if _, is := stored[name]; k.stored && !is && len(k.named) == 0 {
			c.retire(k, now)
		}
	}
}

// Own says whether this replica writes the cluster; its contributors are told.
func (c *Cluster) Own(owner bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owner = owner
	for _, s := range c.seats {
		for x := range s.contributors {
			x.tell()
		}
	}
}

// Reporter gives the node that reports a link, or did last; empty where there is none.
func (c *Cluster) Reporter(link string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.links[link]
	switch {
	case k == nil:
		return c.gone[link].reporter
	case k.reporter != nil:
		return k.reporter.node
	}
	return k.last
}

// Heard gives a channel that is closed when the first agent has told which links it has. Before
// that, there may be links that nobody here knows.
func (c *Cluster) Heard() <-chan struct{} { return c.heard }

// Contributors gives the number of agents that are connected now.
func (c *Cluster) Contributors() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.seats)
}

// link gives the link of that name. One that is new becomes a registry of the cluster; nil where
// it cannot. The caller holds mu.
func (c *Cluster) link(name string, now time.Time) *link {
	if k := c.links[name]; k != nil {
		return k
	}
	if len(c.links) >= maxLinks {
		c.metrics.drop(tooManyLinks)
		return nil
	}
	k := &link{c: c, name: name, created: now, unnamed: now, named: map[*Contributor]standing{}}
	if err := c.deps.Registries.Add(intake.Registry{Name: name, Resolver: k}); err != nil {
		c.log.Warn("link is left out", "link", name, "error", err)
		c.metrics.drop(badLink)
		return nil
	}
	c.links[name] = k
	delete(c.gone, name)
	return k
}
