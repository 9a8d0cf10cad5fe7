package view

import (
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/strategy"
)

// Elsewhere reports whether calls of a service that name neither a strategy nor a cluster can only be
// served by other clusters: the own one lists no instance of it, and among those of the others are
// some that the policy in force leaves to callers here. Whether these can be called at this very
// moment (their health, reachability and ejection) makes no difference. Nothing is kept of the
// service, so that all may be asked about.
func (b *Book) Elsewhere(n catalog.Name) bool {
	b.mu.Lock()
	s, clusters := b.make(n, nil), b.clusters
	b.mu.Unlock()
	if clusters[b.cfg.Self.Cluster].State == catalog.StateUnknown {
		return false // what the own cluster lists was not read yet
	}
	s.clusters = clusters // without what was measured
	for at := range s.candidates {
		c := &s.candidates[at]
		if c.Instance.Cluster == b.cfg.Self.Cluster {
			return false
		}
		c.Unreachable = false
	}
	policy := *s.policy
	policy.RecoverAll = true
	s.policy = &policy
	p, err := s.plan("", "", strategy.State{})
	if err != nil || p.Decision.Unavailable != "" {
		return false
	}
	for at := range p.Decision.Tiers {
		for range p.Decision.Tiers[at].Candidates() {
			return true
		}
	}
	return false
}
