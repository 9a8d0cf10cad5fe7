package view

import (
	"reflect"
	"slices"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/strategy"
)

// Policies gives the policies and cordons as the feed told them.
func (b *Book) Policies() mirror.Policies {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.policies
}

// obey makes every Service anew for whose calls something else is in force. Caller holds mu.
func (b *Book) obey() {
	for n, at := range *b.services.Load() {
		s := at.service.Load()
		// What is the same is the very same value.
		if s.policiesKnown != b.policies.Known || b.effective(n, &s.facts) != s.policy ||
			!slices.Equal(s.cordons, b.policies.Set.CordonsOf(n)) {
			b.remake(n)
		}
	}
	b.watchers.tellUnknown()
}

// effective gives what is in force for calls of a service from here: what old has, where nothing
// changed. Caller holds mu.
func (b *Book) effective(n catalog.Name, old *facts) *policy.Effective {
	if old.policy != nil && old.set == b.policies.Set && old.annotation == b.annotation(n) {
		return old.policy
	}
	e := b.inForce(b.policies.Set, n)
	if old.policy != nil && reflect.DeepEqual(e, old.policy) {
		return old.policy
	}
	return e
}

// inForce gives what a set says of a service. Caller holds mu.
func (b *Book) inForce(set *policy.Set, n catalog.Name) *policy.Effective {
	return set.Effective(n, b.cfg.Self.Cluster, b.annotation(n), b.cfg.Base)
}

// annotation is the strategy that the own cluster's registries state for a service: as the agent
// reads them itself, else as the feed tells it. Caller holds mu.
func (b *Book) annotation(n catalog.Name) strategy.Kind {
	if k := b.annotations[n]; k != "" || b.mirror == nil || b.selfSufficient() {
		return k
	}
	return b.mirror.Annotation(b.cfg.Self.Cluster, n)
}

// annotate takes what the own registries, in the order in which they are believed, say of
// strategies, and gives the services of which they say something else than before. Caller holds
// mu.
func (b *Book) annotate(registries []catalog.RegistryStatus) []catalog.Name {
	next := map[catalog.Name]strategy.Kind{}
	for _, r := range registries {
		for n, word := range r.Strategies {
			if _, said := next[n]; said {
				continue
			}
			// A word that is none is told of where the registry is read; nobody follows it.
			if k, err := strategy.Parse(word); err == nil {
				next[n] = k
			}
		}
	}
	var changed []catalog.Name
	for n, k := range next {
		if b.annotations[n] != k {
			changed = append(changed, n)
		}
	}
	for n := range b.annotations {
		if _, ok := next[n]; !ok {
			changed = append(changed, n)
		}
	}
	b.annotations = next
	return changed
}

// peek gives what is known of a service now, without keeping one that nobody has called yet.
func (b *Book) peek(n catalog.Name) facts {
	if at := (*b.services.Load())[n]; at != nil {
		return at.service.Load().facts
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.make(n, nil).facts
}

// Suppose gives the plan for a call as it would be if another set of policies and cordons were
// applied, and what would be in force. Nothing is remembered of it: a tier is not held back, for
// it has no past under these policies. Whether overrides are denied is for the caller to look at.
// The error is a *strategy.InputError.
func (b *Book) Suppose(n catalog.Name, set *policy.Set, override strategy.Kind, pin string) (*Plan, *policy.Effective, error) {
	s := &Service{facts: b.peek(n)}
	b.mu.Lock()
	s.policy = b.inForce(set, n)
	b.mu.Unlock()
	s.cordons = set.CordonsOf(n)
	s.book = nil
	p, err := s.Plan(override, pin)
	return p, s.policy, err
}
