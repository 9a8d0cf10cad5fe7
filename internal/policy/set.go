package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/nearest"
	"github.com/farcall/farcall/strategy"
)

// Set is all policies and cordons of one revision. It is immutable and safe for concurrent use; a
// nil one is empty.
type Set struct {
	revision uint64
	policies []*Policy
	cordons  []*Cordon
	// byTarget holds the policies of each target, the last written first.
	byTarget map[Target][]sourced
	// whole are the cordons of whole clusters, of those of each service.
	whole []strategy.Cordon
	of    map[catalog.Name][]strategy.Cordon
}

// sourced is a policy, and what it is called where it is the source of a setting.
type sourced struct {
	*Policy
	source string
}

// NewSet makes a set. Of two policies or cordons with the same ID, the one with the higher revision
// counts; the lists are copied.
func NewSet(policies []*Policy, cordons []*Cordon, revision uint64) *Set {
	s := &Set{revision: revision, byTarget: map[Target][]sourced{}, of: map[catalog.Name][]strategy.Cordon{}}
	// A set is made at every change: those with the same ID come to stand side by side without
	// anybody's ID being spelt out.
	sorted := slices.Clone(policies)
	slices.SortStableFunc(sorted, comparePolicies)
	for _, p := range sorted {
		last := len(s.policies) - 1
		switch {
		case last < 0 || comparePolicies(s.policies[last], p) != 0:
			s.policies = append(s.policies, p)
		case s.policies[last].Revision <= p.Revision:
			s.policies[last] = p
		}
	}
	for _, p := range s.policies {
		s.byTarget[p.Target] = append(s.byTarget[p.Target], sourced{p, byPolicy + p.String()})
	}
	for _, list := range s.byTarget {
		slices.SortStableFunc(list, func(a, b sourced) int { return cmp.Compare(b.Revision, a.Revision) })
	}
	type place struct {
		cluster string
		name    catalog.Name
	}
	byPlace := make(map[place]*Cordon, len(cordons))
	for _, c := range cordons {
		at := place{c.Cluster, c.Name}
		if o := byPlace[at]; o == nil || o.Revision <= c.Revision {
			byPlace[at] = c
		}
	}
	s.cordons = slices.SortedFunc(maps.Values(byPlace), func(a, b *Cordon) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), a.Name.Compare(b.Name))
	})
	for _, c := range s.cordons {
		if c.Name == (catalog.Name{}) {
			s.whole = append(s.whole, c.strategy())
		} else {
			s.of[c.Name] = append(s.of[c.Name], c.strategy())
		}
	}
	return s
}

// comparePolicies orders by target, the least specific first, and then by From.
func comparePolicies(a, b *Policy) int {
	return cmp.Or(a.Target.compare(b.Target), slices.Compare(a.From, b.From))
}

// Policies lists all policies: those of clusters, of namespaces, then of services. The list is not
// changed.
func (s *Set) Policies() []*Policy {
	if s == nil {
		return nil
	}
	return s.policies
}

// Cordons lists all cordons by cluster, that of the whole cluster first. The list is not changed.
func (s *Set) Cordons() []*Cordon {
	if s == nil {
		return nil
	}
	return s.cordons
}

// Revision is that of all policies and cordons.
func (s *Set) Revision() uint64 {
	if s == nil {
		return 0
	}
	return s.revision
}

// With gives the set with p in the place of the policy with the same ID, if there is one.
func (s *Set) With(p *Policy) *Set {
	return NewSet(append(s.Without(p.ID()).policies, p), s.Cordons(), s.Revision())
}

// Without gives the set without the policy of that ID.
func (s *Set) Without(id string) *Set {
	rest := slices.DeleteFunc(slices.Clone(s.Policies()), func(p *Policy) bool { return p.ID() == id })
	return NewSet(rest, s.Cordons(), s.Revision())
}

// Policy gives the policy of that ID, or nil.
func (s *Set) Policy(id string) *Policy {
	t, from, err := ParseID(id)
	if err != nil || s == nil {
		return nil
	}
	for _, p := range s.byTarget[t] {
		if slices.Equal(p.From, from) {
			return p.Policy
		}
	}
	return nil
}

// CordonsOf gives the cordons that concern a service: those of whole clusters and its own. Expired
// ones are among them, for the set knows no time. The list is not changed.
func (s *Set) CordonsOf(n catalog.Name) []strategy.Cordon {
	if s == nil {
		return nil
	}
	own := s.of[n]
	if len(own) == 0 {
		return s.whole
	}
	return append(slices.Clip(s.whole), own...)
}

// Overlap gives another policy of the same target whose From shares a cluster with p's, where both
// are limited: nobody could say which of the two is in force for callers there.
func (s *Set) Overlap(p *Policy) (*Policy, bool) {
	if s == nil {
		return nil, false
	}
	for _, o := range s.byTarget[p.Target] {
		if o.ID() == p.ID() {
			continue
		}
		if slices.ContainsFunc(o.From, func(c string) bool { return slices.Contains(p.From, c) }) {
			return o.Policy, true
		}
	}
	return nil, false
}

// Warnings says what is accepted in p and yet may be a mistake: clusters that are not among those
// that somebody has heard of.
func (s *Set) Warnings(p *Policy, clusters []string) []string {
	var list []string
	if p.Target.Cluster != "" {
		list = stranger(list, "cluster", p.Target.Cluster, clusters)
	}
	for i, c := range p.From {
		list = stranger(list, fmt.Sprintf("from[%d]", i), c, clusters)
	}
	for i, pool := range p.Settings.ExternalOrder {
		for j, c := range pool {
			if catalog.CheckClusterName(c) == nil {
				list = stranger(list, fmt.Sprintf("externalOrder[%d][%d]", i, j), c, clusters)
			}
		}
	}
	for _, c := range slices.Sorted(maps.Keys(p.Settings.Weights)) {
		list = stranger(list, "weights."+c, c, clusters)
	}
	return list
}

// stranger adds a warning where nobody has heard of a cluster.
func stranger(list []string, path, cluster string, clusters []string) []string {
	if slices.Contains(clusters, cluster) {
		return list
	}
	text := fmt.Sprintf("%s: nobody has heard of a cluster %q", path, cluster)
	if near, ok := nearest.Word(cluster, clusters); ok {
		text += fmt.Sprintf("; did you mean %q?", near)
	}
	return append(list, text)
}
