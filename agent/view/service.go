package view

import (
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/farcall/farcall/agent/pick"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/reach"
	"github.com/farcall/farcall/strategy"
)

// Service is what is known of one service at one moment. It is immutable, but for the plans
// that it makes when they are first asked for.
type Service struct {
	name          catalog.Name
	known         bool                 // some cluster lists it
	candidates    []strategy.Candidate // in identity order
	loads         []*pick.Load         // what was measured of each of them
	index         *reach.Index         // by which they are reached
	clusters      map[string]strategy.ClusterInfo
	clustersKnown bool
	caller        strategy.Caller

	plain [6]atomic.Pointer[Plan] // plans without a pin, by planIndex
	mu    sync.Mutex              // guards pinned, and the making of plans
	// pinned are plans of calls that name a cluster; there are no more than clusters times
	// strategies, because an unknown cluster makes no plan.
	pinned map[pinKey]*Plan
}

type pinKey struct {
	kind      strategy.Kind
	inherited bool
	cluster   string
}

// Plan is a decision and what picks from it.
type Plan struct {
	Decision strategy.Decision
	// Picker is nil where the decision says that nobody can be picked, and for a broadcast.
	Picker *pick.Picker
	// Clusters are the targets of a broadcast, local first; nil otherwise.
	Clusters []ClusterPlan
}

// ClusterPlan is one cluster's part in a broadcast.
type ClusterPlan struct {
	Cluster string
	// Unreachable clusters are not dialled but reported as failed; they have no Picker.
	Unreachable bool
	Picker      *pick.Picker
}

// Candidates returns every known instance and how it is reached, in identity order. Not to be
// changed.
func (s *Service) Candidates() []strategy.Candidate { return s.candidates }

// planIndex numbers the strategies for Service.plain.
func planIndex(k strategy.Kind) int {
	switch k {
	case strategy.LocalFirst:
		return 0
	case strategy.ExternalFirst:
		return 1
	case strategy.LocalOnly:
		return 2
	case strategy.ExternalOnly:
		return 3
	case strategy.Broadcast:
		return 4
	default:
		return 5
	}
}

// Plan returns the plan for a strategy. pin, where not empty, limits it to one cluster;
// inherited says that the strategy was not named by the call itself. The error is a
// *strategy.InputError.
func (s *Service) Plan(kind strategy.Kind, inherited bool, pin string) (*Plan, error) {
	if kind == "" {
		kind = strategy.Default
	}
	if pin != "" {
		return s.planPinned(pinKey{kind, inherited, pin})
	}
	at := &s.plain[planIndex(kind)]
	if p := at.Load(); p != nil {
		return p, nil
	}
	// The calls that come right after a change wait for one plan, and do not make one each.
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := at.Load(); p != nil {
		return p, nil
	}
	p, err := s.plan(kind, inherited, "")
	if err == nil {
		at.Store(p)
	}
	return p, err
}

func (s *Service) planPinned(key pinKey) (*Plan, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pinned[key]; p != nil {
		return p, nil
	}
	p, err := s.plan(key.kind, key.inherited, key.cluster)
	if err != nil {
		return nil, err
	}
	if _, ok := s.clusters[key.cluster]; ok {
		if s.pinned == nil {
			s.pinned = map[pinKey]*Plan{}
		}
		s.pinned[key] = p
	}
	return p, nil
}

func (s *Service) plan(kind strategy.Kind, inherited bool, pin string) (*Plan, error) {
	d, err := strategy.Decide(strategy.Input{
		Service: s.name, Caller: s.caller, Strategy: kind, Inherited: inherited, Pin: pin,
		Instances: s.candidates, Known: s.known, Clusters: s.clusters, ClustersKnown: s.clustersKnown,
	})
	if err != nil {
		return nil, err
	}
	p := &Plan{Decision: d}
	if d.Strategy == strategy.Broadcast {
		s.planBroadcast(p)
		return p, nil
	}
	var groups []pick.Group
	for at := range d.Tiers {
		groups = s.groups(groups, at, &d.Tiers[at])
	}
	p.Picker = pick.New(pick.Default, groups)
	return p, nil
}

func (s *Service) planBroadcast(p *Plan) {
	for at := range p.Decision.Tiers {
		t := &p.Decision.Tiers[at]
		c := ClusterPlan{Cluster: t.Name, Unreachable: t.Failure != ""}
		if len(t.Clusters) == 1 {
			c.Cluster = t.Clusters[0]
		}
		if !c.Unreachable {
			c.Picker = pick.New(pick.Default, s.groups(nil, at, t))
		}
		p.Clusters = append(p.Clusters, c)
	}
}

// groups adds a tier's groups of candidates for a picker.
func (s *Service) groups(to []pick.Group, tier int, t *strategy.Tier) []pick.Group {
	for _, g := range t.Groups {
		group := pick.Group{Tier: tier, Candidates: make([]pick.Candidate, 0, len(g))}
		at := 0
		for _, c := range g {
			at = s.find(c.Instance, at)
			group.Candidates = append(group.Candidates, pick.Candidate{
				Instance: c.Instance, Dial: c.Dial, Local: c.Dial == "", Load: s.loads[at],
			})
		}
		to = append(to, group)
	}
	return to
}

// find gives the place of an instance among the candidates, looking from a place on and round
// once: in identity order all are found in one round.
func (s *Service) find(i *catalog.Instance, from int) int {
	for range s.candidates {
		if s.candidates[from].Instance == i {
			break
		}
		from = (from + 1) % len(s.candidates)
	}
	return from
}

// measure notes what was measured unreachable: a cluster none of whose relays answers, or else
// the instances whose relay does not.
func (s *Service) measure(down map[string]struct{}) {
	if len(down) == 0 {
		return
	}
	isDown := func(c *strategy.Candidate) bool {
		_, ok := down[c.Dial]
		return ok && c.Dial != ""
	}
	up, lost := map[string]bool{}, map[string]bool{}
	for at := range s.candidates {
		c := &s.candidates[at]
		switch {
		case isDown(c):
			lost[c.Instance.Cluster] = true
		case c.Undialable == "" && c.Instance.Health.Serving() && c.Instance.Weight > 0:
			up[c.Instance.Cluster] = true
		}
	}
	for name := range lost {
		if up[name] {
			continue
		}
		info := s.clusters[name]
		info.Unreachable = true
		s.clusters = maps.Clone(s.clusters) // the Book's own is shared by all services
		s.clusters[name] = info
	}
	for at := range s.candidates {
		c := &s.candidates[at]
		c.Ejected = isDown(c) && up[c.Instance.Cluster]
	}
}

// String names the service and counts its instances, for logs.
func (s *Service) String() string { return fmt.Sprintf("%s (%d instances)", s.name, len(s.candidates)) }
