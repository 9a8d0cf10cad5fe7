package view

import (
	"maps"
	"slices"
	"time"

	"github.com/farcall/farcall/agent/pick"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/strategy"
)

// remakeAll makes every Service anew that was asked for. Caller holds mu.
func (b *Book) remakeAll() {
	for n := range *b.services.Load() {
		b.remake(n)
	}
	b.watchers.tellUnknown()
}

// remake makes one Service anew if somebody asked for it. Caller holds mu.
func (b *Book) remake(n catalog.Name) {
	s := (*b.services.Load())[n]
	if s == nil {
		b.watchers.tellUnknown()
		return
	}
	old := s.service.Load()
	made := b.make(n, old)
	made.takeOver(old)
	s.service.Store(made)
	b.left = b.left || !made.known
	b.watchers.tell(n)
	if made.ejected > 0 {
		// One whose time was over while it could not have been called anyway may be called again.
		b.agenda.trial(n, time.Now().Add(judgeWithin))
	}
}

// make builds a Service; old, which may be nil, hands on what was measured of its instances.
// Caller holds mu.
func (b *Book) make(n catalog.Name, old *Service) *Service {
	if old == nil {
		old = &Service{}
	}
	s := &Service{facts: facts{
		name:          n,
		clusters:      b.clusters,
		clustersKnown: b.known,
		caller:        strategy.Caller{Cluster: b.cfg.Self.Cluster, Node: b.cfg.Self.Node, Locality: b.cfg.Locality},
		set:           b.policies.Set,
		annotation:    b.annotation(n),
		policy:        b.effective(n, &old.facts),
		policiesKnown: b.policies.Known,
		cordons:       b.policies.Set.CordonsOf(n),
		advancing:     b.advancing,
	}}
	if s.policy.Balancer == strategy.RingHash {
		if s.rings = old.rings; s.rings == nil {
			s.rings = &pick.Rings{}
		}
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
	s.measure(b.measured)
	if s.known {
		s.book = b // which makes it do what is due, and count
	}
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
		var since time.Time // of those that are new
		if len(l) > 0 && old.settled(l[0].Cluster) {
			since = time.Now()
		}
		for _, i := range l {
			c, load := was.to(i)
			if c.Instance == nil || old.index != b.index {
				c = b.candidate(i)
			}
			if load == nil {
				load = &pick.Load{Since: since}
			}
			c.Unreachable = false // measure says so anew
			if c.Ejected = load.Ejected(); c.Ejected != "" {
				s.ejected++
			}
			s.candidates = append(s.candidates, c)
			s.loads = append(s.loads, load)
		}
	}
}

// settled reports whether all of a cluster's instances that there were were known, so that one
// that comes later is new.
func (s *Service) settled(cluster string) bool {
	info, ok := s.clusters[cluster]
	return ok && info.State != catalog.StateUnknown && (s.clustersKnown || cluster == s.caller.Cluster)
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
