package relay

import (
	"context"
	"errors"
	"net"
	"strconv"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/conns"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/proxy"
)

// lastHop is what a call to a sidecar carries as its hop. A daprd does not look at it; an agent
// refuses it, so that a port which is an agent's by mistake makes no loop.
const lastHop = "2"

// Sidecars delivers calls to applications by way of the Dapr sidecars next to them, on the same
// node. It is safe for concurrent use.
type Sidecars struct{ peers *peers }

var _ Apps = (*Sidecars)(nil)

// NewSidecars makes the connections' pool; nothing is dialled before the first call.
func NewSidecars() *Sidecars {
	p := newPeers("", "", nil) // it is on this host, and shows no identity
	p.afresh = true            // as with any application
	return &Sidecars{p}
}

// Deliver hands one call to the sidecar at e, whatever e.Protocol is, and returns once the answer
// began: by CallLocalStream, or by CallLocal where the sidecar takes nothing else. It fails as
// app.Channels.Deliver does; a sidecar that is not there is an application that is not.
func (s *Sidecars) Deliver(ctx context.Context, e app.Endpoint, r *invoke.Request) (*invoke.Response, error) {
	dial := net.JoinHostPort(e.Address, strconv.Itoa(e.Port))
	resp, err := s.peers.call(ctx, dial, conns.Who{}, r, invoke.HopKey, lastHop)
	var is *invoke.Error
	if errors.As(err, &is) {
		return resp, down(r.Service, is)
	}
	return resp, err
}

// Open opens the stream of a proxied call to the sidecar at e, and fails as Deliver does.
func (s *Sidecars) Open(ctx context.Context, e app.Endpoint, call *proxy.Call) (*proxy.Stream, *invoke.Error) {
	dial := net.JoinHostPort(e.Address, strconv.Itoa(e.Port))
	stream, err := s.peers.open(ctx, dial, conns.Who{}, call, invoke.HopKey, lastHop)
	if err != nil {
		return nil, down(call.Service, err)
	}
	return stream, nil
}

// down makes an application that is not there of a sidecar that is not.
func down(service string, err *invoke.Error) *invoke.Error {
	if err.Reason != invoke.ReasonNoConnection {
		return err
	}
	return invoke.NotDispatched(invoke.ReasonAppDown, "the sidecar of %s does not take connections: %s", service, err.Message)
}

// Close ends the connections; no call may be under way.
func (s *Sidecars) Close() { s.peers.close() }
