package view

import (
	"cmp"
	"hash/fnv"
	"maps"
	"slices"
	"sort"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/strategy"
)

// measured is what was found out of addresses and clusters. The maps are not changed.
type measured struct {
	down     map[string]struct{} // relay addresses that do not answer
	dead     map[string]struct{} // clusters none of whose relays does
	distance map[string]int      // class of the round-trip time to a cluster
}

// Reachable takes what was measured: the relay addresses that do not answer, the clusters that
// cannot be reached at all, and the class of distance of those that can. The maps must not be
// changed afterwards.
func (b *Book) Reachable(down, dead map[string]struct{}, distance map[string]int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.measured
	b.measured = measured{down, dead, distance}
	b.forgive(was)
	if !maps.Equal(was.dead, dead) || !maps.Equal(was.distance, distance) {
		b.learnClusters()
		b.remakeAll()
		return
	}
	// What only the instances behind some relays are concerned by is not for all services.
	turned := difference(was.down, down)
	for n, at := range *b.services.Load() {
		if at.service.Load().dials(turned) {
			b.remake(n)
		}
	}
}

// difference gives what is in one of the sets alone.
func difference(a, b map[string]struct{}) map[string]struct{} {
	out := map[string]struct{}{}
	for _, sets := range [...][2]map[string]struct{}{{a, b}, {b, a}} {
		for word := range sets[0] {
			if _, both := sets[1][word]; !both {
				out[word] = struct{}{}
			}
		}
	}
	return out
}

// dials reports whether any instance is dialled at one of the addresses.
func (s *Service) dials(addresses map[string]struct{}) bool {
	return len(addresses) > 0 && slices.ContainsFunc(s.candidates, func(c strategy.Candidate) bool {
		_, ok := addresses[c.Dial]
		return ok
	})
}

// forgive takes back what calls said against instances whose relay did not answer, and does now: it
// was the relay that failed them. Caller holds mu.
func (b *Book) forgive(was measured) {
	if len(was.down)+len(was.dead) == 0 {
		return
	}
	back := func(was, is map[string]struct{}, word string) bool {
		_, before := was[word]
		_, now := is[word]
		return before && !now
	}
	for _, at := range *b.services.Load() {
		s := at.service.Load()
		for i := range s.candidates {
			c := &s.candidates[i]
			if back(was.down, b.measured.down, c.Dial) || back(was.dead, b.measured.dead, c.Instance.Cluster) {
				s.loads[i].Forgive()
			}
		}
	}
}

// measure notes what was measured unreachable: a cluster that is dead, or none of whose relays
// answers that have instances of the service, or else the instances whose relay does not.
func (s *Service) measure(m measured) {
	if len(m.down)+len(m.dead) == 0 {
		return
	}
	up, lost := map[string]bool{}, map[string]bool{}
	for name := range m.dead {
		lost[name] = true
	}
	for at := range s.candidates {
		c := &s.candidates[at]
		_, down := m.down[c.Dial]
		_, dead := m.dead[c.Instance.Cluster]
		switch {
		case dead:
		case down && c.Dial != "":
			c.Unreachable = true
			lost[c.Instance.Cluster] = true
		case c.Undialable == "" && c.Instance.Health.Serving() && c.Instance.Weight > 0:
			up[c.Instance.Cluster] = true
		}
	}
	s.clusters = maps.Clone(s.clusters) // the Book's own is shared by all services
	for name := range lost {
		if info, ok := s.clusters[name]; ok && !up[name] {
			info.Unreachable = true
			s.clusters[name] = info
		}
	}
	for at := range s.candidates {
		c := &s.candidates[at]
		c.Unreachable = c.Unreachable && up[c.Instance.Cluster]
	}
}

const (
	// relaysOfEach bounds how many addresses of a cluster are given for probes.
	relaysOfEach = 16
	// relaysOfService bounds how many of them one service's instances contribute.
	relaysOfService = 3
)

// Relays gives, for every other cluster, a few addresses by which it can be probed: those that
// instances of the services in use are called by, and its agents'. An agent is always given the
// same of them, and others than its neighbours.
func (b *Book) Relays() map[string][]string {
	b.mu.Lock()
	agents := b.relays
	b.mu.Unlock()
	found := map[string][]string{}
	for name, list := range agents {
		found[name] = slices.Clone(list)
	}
	for _, s := range *b.services.Load() {
		s.service.Load().relays(found)
	}
	for name, list := range found {
		found[name] = b.someOf(list)
	}
	return found
}

// relays adds addresses that the service's instances in other clusters are dialled at.
func (s *Service) relays(to map[string][]string) {
	list := s.candidates
	for at := 0; at < len(list); {
		cluster, end := list[at].Instance.Cluster, 0
		end = at + sort.Search(len(list)-at, func(i int) bool { return list[at+i].Instance.Cluster > cluster })
		if cluster != s.caller.Cluster {
			var some []string
			looked := at + relaysOfEach // many may be behind one relay
			for ; at < min(end, looked) && len(some) < relaysOfService; at++ {
				if c := &list[at]; c.Dial != "" && c.Instance.Health.Serving() && !slices.Contains(some, c.Dial) {
					some = append(some, c.Dial)
				}
			}
			to[cluster] = append(to[cluster], some...)
		}
		at = end
	}
}

// relaysOf gives the addresses of the other clusters' agents that this one may dial.
func (b *Book) relaysOf(agents []*catalogv1.Agent) map[string][]string {
	found := map[string][]string{}
	for _, a := range agents {
		if a.GetCluster() == b.cfg.Self.Cluster {
			continue
		}
		at := &catalog.Instance{ID: catalog.ID{Cluster: a.GetCluster()}, Node: a.GetNode()}
		if p := b.index.Path(b.cfg.Self, at); p.Address != "" {
			found[a.GetCluster()] = append(found[a.GetCluster()], p.Address)
		}
	}
	for name, list := range found {
		found[name] = b.someOf(list)
	}
	return found
}

// someOf gives at most relaysOfEach of the addresses, each once, in an order that differs from
// agent to agent. It may reorder list.
func (b *Book) someOf(list []string) []string {
	slices.Sort(list)
	list = slices.Compact(list)
	if len(list) <= relaysOfEach {
		return list
	}
	drawn := make(map[string]uint64, len(list))
	for _, a := range list {
		h := fnv.New64a()
		h.Write([]byte(a + "\x00" + b.cfg.Self.Node + "\x00" + b.cfg.Self.Cluster))
		drawn[a] = h.Sum64()
	}
	slices.SortFunc(list, func(x, y string) int { return cmp.Compare(drawn[x], drawn[y]) })
	return list[:relaysOfEach]
}
