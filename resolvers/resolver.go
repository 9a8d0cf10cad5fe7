// Package resolvers is the contract between a registry and the rest of Farcall. The kinds
// (file, consul, ...) sit in folders of their own, and so do the decorator that makes a poll a
// resolver (poll), the reader that runs the registries of one cluster (intake) and the
// conformance suite that every kind passes (resolvertest).
//
// It holds no policy and runs no goroutines.
package resolvers

import (
	"context"

	"github.com/farcall/farcall/internal/catalog"
)

// A Resolver watches one registry.
//
// Run blocks until ctx is done, when it returns ctx.Err(), or until the registry is unusable;
// then it returns why, and may be run again by its caller after a pause: all state it keeps
// across reads survives in the Resolver. It is never run twice at the same time. When it
// returns, it has joined every goroutine it started and calls its Sink no more; it returns
// within a second of ctx being done, even while the registry hangs.
type Resolver interface {
	Run(ctx context.Context, out Sink) error
}

// A Sink takes what a Resolver finds. No method blocks; they are called by one goroutine at a
// time.
type Sink interface {
	// Publish takes one complete read. The first of each Run is Full. What was published must not be
	// changed afterwards.
	Publish(catalog.Update)
	// Confirm says that the registry was asked just now and what was published still holds.
	// Publish implies it. Freshness is counted from here, so a resolver confirms about every second
	// while its registry answers.
	Confirm()
	// Failed says that a read failed. Nothing that was published changes.
	Failed(error)
}

// A Registrar puts the applications of one node into a registry that takes registrations.
//
// Run blocks until ctx is done. It registers the applications with a check that the registry
// watches, keeps the check alive while each application's port accepts connections, and takes
// the registrations back before it returns. A registration that somebody else removed while
// the registry stayed up is restored only after the application was away and came back.
type Registrar interface {
	Run(ctx context.Context, apps []Registration) error
}

// Registration is one application as the registry shall list it.
type Registration struct {
	Name catalog.Name
	// Node is this agent's node; ID is unique in the registry.
	Node string
	ID   string
	// Address and Port are the application's own; RelayPort is the agent's internal port, which
	// Dapr's convention keeps in the metadata key DAPR_PORT.
	Address   string
	Port      int
	RelayPort int
}

// An Announcer says, where sidecars look for applications, that some which live elsewhere are to be
// had at this node's agent.
//
// Run blocks until ctx is done. It announces what Announce was last given, and takes it back before
// it returns. It is never run twice at the same time.
//
// Announce replaces the app-ids that are announced; it does not block, may be called at any time,
// from any goroutine, and the list must not be changed afterwards. What was announced and is
// no longer in the list is taken back at once. A list may have thousands.
type Announcer interface {
	Run(ctx context.Context) error
	Announce(apps []string)
}
