// Package view merges what an agent knows into one immutable Service per name: its own
// registry's list for its own cluster, the feed's lists for the others, how each instance is
// reached, and the plans that the strategies make of it.
//
// A cluster that is read via its agents has links, such as network segments, that one agent does
// not hear. There the feed's list of the own cluster is added to what the agent's own registries
// say: everything but the links that this agent has read completely itself and can read now.
//
// It opens no connection and runs no goroutines: others tell it what changed, and a Book redoes
// only what that touches. Services that nobody asked for are not built.
package view

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farcall/farcall/agent/pick"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/mirror"
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
}

// Book is an agent's view of all services. Its methods are safe for concurrent use.
type Book struct {
	cfg Config
	// services is replaced, never changed, when a name is asked for the first time; a slot's
	// Service is replaced when something it was made of changed.
	services atomic.Pointer[map[catalog.Name]*slot]
	own      atomic.Pointer[map[catalog.Name][]*catalog.Instance]

	// mu guards all below, and the making of Services.
	mu       sync.Mutex
	mirror   *mirror.Mirror
	local    map[catalog.Name]intake.List // what the own registries say
	complete bool                         // the own registries were all read
	unread   map[string]bool              // own registries that were not read yet; nil before any word of them
	via      bool                         // the own cluster is read via its agents
	links    map[string]struct{}          // in such a cluster, what this agent has read completely and can read now; immutable
	index    *reach.Index
	clusters map[string]strategy.ClusterInfo // immutable
	known    bool                            // clusters is the whole federation
	stranger bool                            // of the federation that is known, the own cluster is no part
	down     map[string]struct{}             // relay addresses measured unreachable; immutable
}

// viaAgents is the word in a cluster's meta for one that is read via its agents.
const viaAgents = "agents"

type slot struct{ service atomic.Pointer[Service] }

// New returns an empty Book.
func New(cfg Config) *Book {
	b := &Book{cfg: cfg, local: map[catalog.Name]intake.List{}, index: reach.NewIndex(nil)}
	b.services.Store(&map[catalog.Name]*slot{})
	b.own.Store(&map[catalog.Name][]*catalog.Instance{})
	b.learnClusters()
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
	if first := !b.known && revision > 0; ch.Clusters || ch.Agents || first {
		b.known = b.known || revision > 0
		b.index = reach.NewIndex(b.mirror.Agents())
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
}

// Reachable takes which relay addresses were measured unreachable. The map must not be changed
// afterwards.
func (b *Book) Reachable(down map[string]struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = down
	b.remakeAll()
}

// Stranger reports whether the federation has no cluster of the agent's name.
func (b *Book) Stranger() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stranger
}

// learnClusters reads the federation's members. Caller holds mu.
func (b *Book) learnClusters() {
	clusters := map[string]strategy.ClusterInfo{}
	b.via = false
	if b.mirror != nil {
		for _, c := range b.mirror.Clusters(time.Time{}) {
			clusters[c.Name] = strategy.ClusterInfo{State: c.State, Locality: c.Locality}
			if c.Name == b.cfg.Self.Cluster {
				b.via = c.Meta.GetVia() == viaAgents
			}
		}
	}
	self, member := clusters[b.cfg.Self.Cluster]
	b.stranger = b.known && !member
	if b.selfSufficient() {
		self.State = catalog.StateSynced
	}
	if self.Locality == (catalog.Locality{}) {
		self.Locality = catalog.Locality{Region: b.cfg.Locality.Region}
	}
	clusters[b.cfg.Self.Cluster] = self
	b.clusters = clusters
}

// remakeAll makes every Service anew that was asked for. Caller holds mu.
func (b *Book) remakeAll() {
	for n := range *b.services.Load() {
		b.remake(n)
	}
}

// remake makes one Service anew if somebody asked for it. Caller holds mu.
func (b *Book) remake(n catalog.Name) {
	if s := (*b.services.Load())[n]; s != nil {
		s.service.Store(b.make(n, s.service.Load()))
	}
}

// make builds a Service; old, which may be nil, hands on what was measured of its instances.
// Caller holds mu.
func (b *Book) make(n catalog.Name, old *Service) *Service {
	if old == nil {
		old = &Service{}
	}
	s := &Service{
		name:          n,
		clusters:      b.clusters,
		clustersKnown: b.known,
		caller:        strategy.Caller{Cluster: b.cfg.Self.Cluster, Node: b.cfg.Self.Node, Locality: b.cfg.Locality},
	}
	var lists [][]*catalog.Instance
	for _, name := range slices.Sorted(maps.Keys(b.clusters)) {
		var list []*catalog.Instance
		var known bool
		if name == b.cfg.Self.Cluster {
			list, known = b.localList(n)
		} else {
			list, known = b.mirror.Instances(name, n)
		}
		s.known = s.known || known
		lists = append(lists, list)
	}
	b.fill(s, lists, old)
	s.measure(b.down)
	return s
}

// fill puts the instances of the lists into s. What old found out of an instance holds as long
// as the instance and the agents are the same: a change costs little more than a look at each of
// the others. The lists, one after the other, are in identity order. Caller holds mu.
func (b *Book) fill(s *Service, lists [][]*catalog.Instance, old *Service) {
	total := 0
	for _, l := range lists {
		total += len(l)
	}
	s.index = b.index
	s.candidates = make([]strategy.Candidate, 0, total)
	s.loads = make([]*pick.Load, 0, total)
	was := walk{of: old}
	for _, l := range lists {
		for _, i := range l {
			c, load := was.to(i)
			if c.Instance == nil || old.index != b.index {
				c = b.candidate(i)
			}
			if load == nil {
				load = &pick.Load{}
			}
			c.Ejected = false // measure says so anew
			s.candidates = append(s.candidates, c)
			s.loads = append(s.loads, load)
		}
	}
}

// walk finds the instances of a Service, which must be asked for in identity order.
type walk struct {
	of *Service
	at int // all before it were passed
}

// to gives the Service's candidate for this very instance, and what was measured of the identity,
// be it in another record; the zero values where it has none.
func (w *walk) to(i *catalog.Instance) (strategy.Candidate, *pick.Load) {
	list := w.of.candidates
	for ; w.at < len(list); w.at++ {
		c := list[w.at]
		// Most are the same, which the pointer tells without a look at the name.
		if c.Instance == i {
			w.at++
			return c, w.of.loads[w.at-1]
		}
		switch order := c.Instance.ID.Compare(i.ID); {
		case order == 0:
			return strategy.Candidate{}, w.of.loads[w.at]
		case order > 0:
			return strategy.Candidate{}, nil
		}
	}
	return strategy.Candidate{}, nil
}

func (b *Book) candidate(i *catalog.Instance) strategy.Candidate {
	c := strategy.Candidate{Instance: i}
	p := b.index.Path(b.cfg.Self, i)
	c.Dial, c.Undialable = p.Address, p.Nobody
	if p.Local && b.Port(i) == 0 {
		c.Undialable = "neither its registry nor this agent's apps state the application's port"
	}
	return c
}
