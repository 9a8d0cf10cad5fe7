package daemon

import (
	"context"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/config"
	"github.com/farcall/farcall/internal/identity"
)

// newIdentity makes the source of a process's identity.
func newIdentity(c *config.Identity, self identity.Self, log *slog.Logger, r prometheus.Registerer) (*identity.Source, error) {
	return identity.New(
		identity.Config{Cert: c.Cert, Key: c.Key, CA: c.CA, WorkloadAPI: c.WorkloadAPI, Self: self},
		identity.Deps{Log: log, Metrics: r},
	)
}

// follow keeps the identity, which may be nil, and the listeners' certificates up to date until ctx is
// done; wg is done when that has ended.
func follow(ctx context.Context, wg *sync.WaitGroup, id *identity.Source, webs []*identity.Web) {
	if id != nil {
		wg.Go(func() { _ = id.Run(ctx) }) // it ends with ctx only
	}
	for _, w := range webs {
		wg.Go(func() { _ = w.Run(ctx) }) // so does this
	}
}
