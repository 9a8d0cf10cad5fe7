// Package view merges what an agent knows into one immutable Service per name: its own
// registry's list for its own cluster, the feed's lists for the others, how each instance is
// reached, and the plans that the strategies make of it.
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
	local    map[catalog.Name]intake.List
	complete bool            // the own registries were all read
	unread   map[string]bool // own registries that were not read yet; nil before any word of them
	index    *reach.Index
	clusters map[string]strategy.ClusterInfo // immutable
	known    bool                            // clusters is the whole federation
	down     map[string]struct{}             // relay addresses measured unreachable; immutable
}

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
	if !b.cfg.HasRegistry || !b.complete {
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

// learnClusters reads the federation's members. Caller holds mu.
func (b *Book) learnClusters() {
	clusters := map[string]strategy.ClusterInfo{}
	if b.mirror != nil {
		for _, c := range b.mirror.Clusters(time.Time{}) {
			clusters[c.Name] = strategy.ClusterInfo{State: c.State, Locality: c.Locality}
		}
	}
	self := clusters[b.cfg.Self.Cluster]
	if b.cfg.HasRegistry && b.complete {
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

// findAllOwn notes anew which instances are of this agent's own node. Caller holds mu.
func (b *Book) findAllOwn() {
	names := map[catalog.Name]struct{}{}
	for n := range b.local {
		names[n] = struct{}{}
	}
	if b.mirror != nil {
		for _, n := range b.mirror.Names(b.cfg.Self.Cluster) {
			names[n] = struct{}{}
		}
	}
	b.findOwn(nil, maps.Keys(names))
}

// remake makes one Service anew if somebody asked for it. Caller holds mu.
func (b *Book) remake(n catalog.Name) {
	if s := (*b.services.Load())[n]; s != nil {
		s.service.Store(b.make(n, s.service.Load()))
	}
}

// localList is the own cluster's list: its registries' where they were read, and what the
// synchronizer holds of those that were not. Caller holds mu.
func (b *Book) localList(n catalog.Name) (list []*catalog.Instance, known bool) {
	l, ok := b.local[n]
	if b.mirror == nil || b.complete && b.cfg.HasRegistry {
		return l.Instances, ok
	}
	held, known := b.mirror.Instances(b.cfg.Self.Cluster, n)
	if !b.cfg.HasRegistry || b.unread == nil {
		return held, known
	}
	list = slices.Clone(l.Instances)
	for _, i := range held {
		if b.unread[i.Registry] && !slices.ContainsFunc(l.Instances, func(o *catalog.Instance) bool { return o.ID == i.ID }) {
			list = append(list, i)
		}
	}
	catalog.SortInstances(list)
	return list, ok || known
}

// make builds a Service; old, which may be nil, hands on what was measured of its instances.
// Caller holds mu.
func (b *Book) make(n catalog.Name, old *Service) *Service {
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
	total := 0
	for _, l := range lists {
		total += len(l)
	}
	s.candidates = make([]strategy.Candidate, 0, total)
	for _, l := range lists {
		for _, i := range l {
			s.candidates = append(s.candidates, b.candidate(i))
		}
	}
	s.measure(b.down)
	s.loads = make(map[catalog.ID]*pick.Load, total)
	for _, c := range s.candidates {
		l := (*pick.Load)(nil)
		if old != nil {
			l = old.loads[c.Instance.ID]
		}
		if l == nil {
			l = &pick.Load{}
		}
		s.loads[c.Instance.ID] = l
	}
	return s
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

// Port returns the port of an own instance's application, 0 where nobody states it.
func (b *Book) Port(i *catalog.Instance) int {
	if i.Port > 0 {
		return i.Port
	}
	return b.cfg.Ports[i.Name]
}

// findOwn notes which instances of these names are of this agent's own node, beside those of
// other names in have. Readers see the old notes or the new ones, and nothing between. Caller
// holds mu.
func (b *Book) findOwn(have map[catalog.Name][]*catalog.Instance, names func(func(catalog.Name) bool)) {
	next := maps.Clone(have)
	if next == nil {
		next = map[catalog.Name][]*catalog.Instance{}
	}
	for n := range names {
		delete(next, n)
		list, _ := b.localList(n)
		for _, i := range list {
			if b.index.Owns(b.cfg.Self, i) && b.Port(i) > 0 {
				next[n] = append(next[n], i)
			}
		}
	}
	b.own.Store(&next)
}

// Own returns the own node's instance with this identity.
func (b *Book) Own(id catalog.ID) (*catalog.Instance, bool) {
	for _, i := range (*b.own.Load())[id.Name] {
		if i.ID == id {
			return i, true
		}
	}
	return nil, false
}

// OwnApp returns the own node's instances of an app-id, in whatever namespace; of every app-id
// when it is empty.
func (b *Book) OwnApp(appID string) []*catalog.Instance {
	var out []*catalog.Instance
	for n, list := range *b.own.Load() {
		if appID == "" || n.Service == appID {
			out = append(out, list...)
		}
	}
	catalog.SortInstances(out)
	return out
}
