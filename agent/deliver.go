package agent

import (
	"context"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/proxy"
	"github.com/farcall/farcall/agent/relay"
)

// delivery hands calls to the applications of the node: to themselves, or to the Dapr sidecars
// next to them.
type delivery struct {
	apps     *app.Channels
	sidecars *relay.Sidecars
}

var _ relay.Apps = delivery{}

func newDelivery() delivery { return delivery{app.New(), relay.NewSidecars()} }

// Deliver implements relay.Apps.
func (d delivery) Deliver(ctx context.Context, e app.Endpoint, r *invoke.Request) (*invoke.Response, error) {
	if e.Protocol == app.Dapr {
		return d.sidecars.Deliver(ctx, e, r)
	}
	return d.apps.Deliver(ctx, e, r)
}

// Open implements relay.Apps.
func (d delivery) Open(ctx context.Context, e app.Endpoint, c *proxy.Call) (*proxy.Stream, *invoke.Error) {
	if e.Protocol == app.Dapr {
		return d.sidecars.Open(ctx, e, c)
	}
	return d.apps.Open(ctx, e, c)
}

// close lets go of all connections; no call may be under way.
func (d delivery) close() {
	d.apps.Close()
	d.sidecars.Close()
}
