package app

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/agent/conns"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/proxy"
)

// Open opens the stream of a proxied gRPC call to the application at e, which must be one that
// speaks HTTP/2. An error means that there is none, so that nothing was executed: Unavailable, since
// the application takes no connection; FailedPrecondition, since it does not speak gRPC.
func (c *Channels) Open(ctx context.Context, e Endpoint, call *proxy.Call) (*proxy.Stream, *invoke.Error) {
	var pool *conns.Pool
	switch e.Protocol {
	case GRPC:
		pool = c.conns(e)
	case H2C:
		pool = c.grpc
	case HTTPS:
		pool = c.over(e.tls()).grpc
	default:
		return nil, invoke.Errorf(codes.FailedPrecondition, invoke.ReasonUnsupported,
			"application %s does not take gRPC: its protocol is %q; set apps[].protocol to grpc, or to h2c where it takes HTTP as well", call.Service, protocolOf(e))
	}
	var more []string
	if t := e.token(); t != "" {
		more = []string{invoke.APIToken, t}
	}
	return proxy.Open(ctx, proxy.Way{
		Pool: pool, Address: e.hostPort(), Afresh: true,
		Refused: func(why string) *invoke.Error {
			return invoke.NotDispatched(invoke.ReasonAppDown, "application %s does not take connections: %s", call.Service, why)
		},
		Failed: func(err error, _ metadata.MD) *invoke.Error {
			st := status.Convert(err)
			if st.Code() == codes.ResourceExhausted {
				return invoke.Errorf(st.Code(), invoke.ReasonTooLarge, "the answer of application %s: %s", call.Service, st.Message())
			}
			return invoke.OutcomeUnknown("application %s at %s: %s", call.Service, e.hostPort(), st.Message())
		},
	}, call, more...)
}

func protocolOf(e Endpoint) Protocol {
	if e.Protocol == "" {
		return HTTP
	}
	return e.Protocol
}
