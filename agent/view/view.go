// Package view merges what an agent knows into one immutable Service per name: its own
// registry's list for its own cluster, the feed's lists for the others, how each instance is
// reached and what was measured of it, the policy in force, and the plans that the strategies
// make of all that.
//
// A cluster that is read via its agents has links, such as network segments, that one agent does
// not hear. There the feed's list of the own cluster is added to what the agent's own registries
// say: everything but the links that this agent has read completely itself and can read now.
//
// It opens no connection and makes no calls: others tell it what changed, and a Book redoes only
// what that touches. Services that nobody asked for are not built.
//
// Goroutines: Book.Run owns one. It does what is due by time alone: plans that change without
// anybody's word (a hold or a cordon ends, a ramp goes on), the ejection of instances that fail,
// and the staleness of clusters.
package view

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/internal/reach"
	"github.com/farcall/farcall/resolvers/intake"
	"github.com/farcall/farcall/strategy"
)

// Config is what a Book is told about the agent it serves.
type Config struct {
	Self     reach.Self
	Locality catalog.Locality
	// HasRegistry says that the agent reads registries of its own cluster. Without them its own
	// cluster's list comes from the feed too.
	HasRegistry bool
	// Ports are those of the node's applications as the agent was told them. They serve where a
	// registry states only a relay.
	Ports map[catalog.Name]int
	// Sidecars are those of the node's applications that are delivered to by way of the Dapr sidecar
	// next to them: Ports has the sidecar's port then.
	Sidecars map[catalog.Name]bool
	// Base is what the agent's own configuration says of calls: it holds where no policy says
	// otherwise.
	Base policy.Settings
}

// Deps are what a Book uses and does not make.
type Deps struct {
	Metrics prometheus.Registerer
	// Connected reports whether the feed is up: only then does a cluster's silence expire it. Nil
	// is for never.
	Connected func() bool
}

// Book is an agent's view of all services. Its methods are safe for concurrent use.
type Book struct {
	cfg       Config
	connected func() bool
	metrics   *metrics
	agenda    agenda
	watchers  watchers
	// services is replaced, never changed, when a name is asked for the first time; a slot's
	// Service is replaced when something it was made of changed.
	services atomic.Pointer[map[catalog.Name]*slot]
	own      atomic.Pointer[map[catalog.Name][]*catalog.Instance]
	homes    atomic.Pointer[homes]

	// mu guards all below, and the making of Services.
	mu          sync.Mutex
	mirror      *mirror.Mirror
	local       map[catalog.Name]intake.List // what the own registries say
	complete    bool                         // the own registries were all read
	unread      map[string]bool              // own registries that were not read yet; nil before any word of them
	annotations map[catalog.Name]strategy.Kind
	via         bool                // the own cluster is read via its agents
	links       map[string]struct{} // in such a cluster, what this agent has read completely and can read now; immutable
	index       *reach.Index
	relays      map[string][]string             // addresses of the other clusters' agents, a few of each
	clusters    map[string]strategy.ClusterInfo // immutable
	known       bool                            // clusters is the whole federation
	stranger    bool                            // of the federation that is known, the own cluster is no part
	policies    mirror.Policies
	stale       map[string]time.Time // clusters that are stale, and since when nobody confirmed them
	advancing   bool                 // the feed is up and brings news of some cluster
	measured    measured
	left        bool // some Service that is kept is one that nobody lists any more
}

// viaAgents is the word in a cluster's meta for one that is read via its agents.
const viaAgents = "agents"

type slot struct{ service atomic.Pointer[Service] }

// New returns an empty Book; it starts nothing.
func New(cfg Config, deps Deps) *Book {
	b := &Book{cfg: cfg, connected: deps.Connected, local: map[catalog.Name]intake.List{}, index: reach.NewIndex(nil)}
	if b.connected == nil {
		b.connected = func() bool { return false }
	}
	b.agenda.init()
	b.services.Store(&map[catalog.Name]*slot{})
	b.findOwn(nil, maps.Keys(map[catalog.Name]struct{}{}))
	b.learnClusters()
	b.metrics = newMetrics(deps.Metrics, b)
	return b
}

// Service returns what is known of a service now. The Service does not change; ask again for
// the next call.
func (b *Book) Service(n catalog.Name) *Service {
	if s := (*b.services.Load())[n]; s != nil {
		return s.service.Load()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := (*b.services.Load())[n]; s != nil {
		return s.service.Load()
	}
	made := b.make(n, nil)
	if !made.known {
		return made // names that nobody knows are not kept: callers could fill the memory with them
	}
	s := &slot{}
	s.service.Store(made)
	next := maps.Clone(*b.services.Load())
	next[n] = s
	b.services.Store(&next)
	return made
}

// Names gives all services that the own registries or the feed know, in order.
func (b *Book) Names() []catalog.Name {
	b.mu.Lock()
	defer b.mu.Unlock()
	names := slices.Collect(maps.Keys(b.local))
	if b.mirror != nil {
		names = append(names, b.mirror.Names("")...)
	}
	slices.SortFunc(names, catalog.Name.Compare)
	return slices.Compact(names)
}

// Clusters gives what the feed says of every cluster at a time; nil before there was a feed.
func (b *Book) Clusters(now time.Time) []mirror.Cluster {
	b.mu.Lock()
	m := b.mirror
	b.mu.Unlock()
	if m == nil {
		return nil
	}
	return m.Clusters(now)
}

// Local takes what the agent's own registries say.
func (b *Book) Local(ch intake.Change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for n, l := range ch.Services {
		if l.Gone {
			delete(b.local, n)
		} else {
			b.local[n] = l
		}
	}
	annotated := b.annotate(ch.Registries)
	unread := map[string]bool{}
	for _, r := range ch.Registries {
		if !r.Complete {
			unread[r.Name] = true
		}
	}
	if ch.Complete != b.complete || !maps.Equal(unread, b.unread) {
		b.complete, b.unread = ch.Complete, unread
		b.learnClusters()
		b.findAllOwn()
		b.remakeAll()
		return
	}
	if len(ch.Services) > 0 {
		b.findOwn(*b.own.Load(), maps.Keys(ch.Services))
	}
	for n := range ch.Services {
		b.remake(n)
	}
	for _, n := range annotated {
		if _, done := ch.Services[n]; !done {
			b.remake(n)
		}
	}
}

// Links takes the names of the links whose contents this agent has itself, all of them, as Local
// gave them. They count where the own cluster is read via its agents. The map must not be changed
// afterwards.
func (b *Book) Links(complete map[string]struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.links = complete
	if b.via {
		b.findAllOwn()
		b.remakeAll()
	}
}

// ViaAgents reports whether the own cluster is read via its agents, as far as the feed said.
func (b *Book) ViaAgents() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.via
}

// Attach gives the mirror of the feed.
func (b *Book) Attach(m *mirror.Mirror) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mirror = m
}

// Changed takes what the feed changed in the mirror. It must be called, be it with no changes,
// when a list is complete: from the first one on the federation's members are known.
func (b *Book) Changed(ch mirror.Changes) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, revision := b.mirror.Position()
	first := !b.known && revision > 0
	if ch.Policies || first {
		b.policies = b.mirror.Policies()
	}
	if ch.Clusters || ch.Agents || first {
		b.known = b.known || revision > 0
		b.learnAgents()
		b.learnClusters()
		b.findAllOwn()
		b.remakeAll()
		return
	}
	if !b.selfSufficient() {
		b.findOwn(*b.own.Load(), maps.Keys(ch.Services))
	}
	for n := range ch.Services {
		b.remake(n)
	}
	if ch.Policies {
		b.obey()
	}
}

// Stranger reports whether the federation has no cluster of the agent's name.
func (b *Book) Stranger() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stranger
}

// learnAgents reads the agents' addresses. Caller holds mu.
func (b *Book) learnAgents() {
	agents := b.mirror.Agents()
	b.index = reach.NewIndex(agents)
	b.relays = b.relaysOf(agents)
}

// learnClusters reads the federation's members. Caller holds mu.
func (b *Book) learnClusters() {
	clusters := map[string]strategy.ClusterInfo{}
	b.via = false
	if b.mirror != nil {
		for _, c := range b.mirror.Clusters(time.Time{}) {
			info := strategy.ClusterInfo{
				State: c.State, Locality: c.Locality, Labels: c.Meta.GetLabels(),
				Distance: b.measured.distance[c.Name],
			}
			if since, ok := b.stale[c.Name]; ok {
				info.State, info.StaleSince = catalog.StateStale, since
			}
			clusters[c.Name] = info
			if c.Name == b.cfg.Self.Cluster {
				b.via = c.Meta.GetVia() == viaAgents
			}
		}
	}
	self, member := clusters[b.cfg.Self.Cluster]
	b.stranger = b.known && !member
	if b.selfSufficient() {
		self.State, self.StaleSince = catalog.StateSynced, time.Time{}
	}
	if self.Locality == (catalog.Locality{}) {
		self.Locality = catalog.Locality{Region: b.cfg.Locality.Region}
	}
	clusters[b.cfg.Self.Cluster] = self
	b.clusters = clusters
}
