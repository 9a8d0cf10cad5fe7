// Package resolvertest is the conformance suite of resolvers.Resolver: what the synchronizer
// and the agents rely on, asked of every kind of resolver against a real registry.
//
// It does not test what a kind does with its registry's particulars (tags, checks, records):
// those tests stand beside the kind. Each test runs the resolver in one goroutine, which it
// joins before it ends.
package resolvertest

import (
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

// Registry drives one real registry. The functions that take a testing.TB end the test where
// the registry refuses; they return when the registry has taken the change, which may be
// before a resolver can see it.
type Registry struct {
	// Resolver returns a resolver of this registry that has read nothing yet. The suite runs
	// each of them one Run at a time.
	Resolver func(testing.TB) resolvers.Resolver
	// Put adds an instance, or replaces the one of the same Service and Instance. The suite sets
	// Service, Instance, Address, Port and Health (one of Healths), nothing else.
	Put func(testing.TB, catalog.Instance)
	// Remove takes one instance away; the suite sets Service and Instance of the id.
	Remove func(testing.TB, catalog.ID)
	// Empty takes the service's instances away and keeps its name. nil: the registry knows a
	// service only by its instances.
	Empty func(t testing.TB, service string)
	// Break makes every read fail until mend is called. Put and Remove go on working
	// meanwhile; what they did shows after mend. nil: the registry cannot be broken.
	Break func(testing.TB) (mend func())
	// Hang makes reads block without an answer until release is called. nil: it cannot hang.
	Hang func(testing.TB) (release func())
	// Healths are those that Put can express, the ordinary one first. At least one.
	Healths []catalog.Health
	// Explicit says that Remove is an explicit removal in this registry (see
	// catalog.Update.Explicit); where it is false, no removal may claim to be one.
	Explicit bool
	// Own are services that the registry lists of itself; the suite does not look at them.
	Own []string
	// ID gives the id that Put was given, for an instance as the resolver lists it, where the
	// registry has ids of its own (the DNS: target and port). nil: it lists the same id.
	ID func(*catalog.Instance) string
	// Within is how soon a change must be seen; zero means 10 s.
	Within time.Duration
}

// Run runs the suite. Each test calls start for a registry that lists nothing but its Own
// services; several tests may share one server, as no two run at the same time. One more
// registry is started first, to see what it can do: what a nil function leaves undone is not
// asked of it.
func Run(t *testing.T, start func(*testing.T) *Registry) {
	able := start(t)
	for _, c := range cases {
		if c.lacks != nil {
			if reason := c.lacks(able); reason != "" {
				t.Logf("not asked whether %s: %s", c.name, reason)
				continue
			}
		}
		t.Run(c.name, func(t *testing.T) { c.run(t, start(t)) })
	}
}
