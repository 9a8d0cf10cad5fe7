// Package app delivers calls to the applications of this node, over HTTP/1.1 or HTTP/2, with TLS or
// without, or gRPC (Dapr's AppCallback).
//
// It does not choose: it is told where. It follows no redirect, adds no compression and repeats
// nothing that an application may have seen. It runs no goroutines but those of the transports,
// which Close ends.
package app

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/farcall/farcall/agent/conns"
	"github.com/farcall/farcall/agent/invoke"
)

// Protocol is how an application is spoken to, spelt as in apps[].protocol.
type Protocol string

// The protocols that there are.
const (
	HTTP Protocol = "http"
	// HTTPS is HTTP/1.1 or HTTP/2 over TLS, whichever the application chooses.
	HTTPS Protocol = "https"
	H2C   Protocol = "h2c"
	// GRPC is over TLS where Access has a TLS.
	GRPC Protocol = "grpc"
	// Dapr is that of a sidecar on the node, which relay.Sidecars speaks: Channels does not.
	Dapr Protocol = "dapr"
)

// Endpoint is where an application of this node listens. An empty Protocol is HTTP.
type Endpoint struct {
	Address  string
	Port     int
	Protocol Protocol
	// Access is what the application asks for; nil: nothing.
	Access *Access
}

// Access is what an application asks of who calls it. It is not changed, and all endpoints of the
// application have the same one.
type Access struct {
	// Token is shown to the application in dapr-api-token, as Dapr's APP_API_TOKEN is; empty: none
	// is.
	Token string
	// TLS is how TLS is spoken with it. Nil: by the system's authorities where the protocol is
	// HTTPS, not at all where it is GRPC.
	TLS *TLS
}

// token gives what is shown to the application, empty where nothing is.
func (e Endpoint) token() string {
	if e.Access == nil {
		return ""
	}
	return e.Access.Token
}

func (e Endpoint) tls() *TLS {
	if e.Access == nil {
		return nil
	}
	return e.Access.TLS
}

func (e Endpoint) hostPort() string { return net.JoinHostPort(e.Address, strconv.Itoa(e.Port)) }

// MaxMessage is the largest body, in bytes, that goes to or comes from a gRPC application, where
// a call is one message. It is gRPC's own default, which applications seldom raise.
const MaxMessage = 4<<20 - 64<<10

// dialTimeout bounds one connection attempt to an application of the same node. A port where
// nobody listens answers at once; this is for one that swallows.
const dialTimeout = 2 * time.Second

// Channels holds the connections to the applications of one node.
type Channels struct {
	http1 *http.Transport
	http2 *http.Transport
	grpc  *conns.Pool
	// secured has the connections over TLS: *secured by *TLS.
	secured sync.Map
}

// New makes the channels; nothing is dialled before the first call.
func New() *Channels {
	return &Channels{http1: newTransport(false), http2: newTransport(true), grpc: newConns()}
}

// Deliver hands one call to the application at e and returns once its answer began. The answer
// streams: ctx must live until its Body is closed.
//
// The error is an *invoke.Error. Code Unavailable: no connection, so certainly not executed;
// reason OUTCOME_UNKNOWN: the connection broke afterwards; InvalidArgument: the call cannot be
// said to such an application, or its body came to a bad end.
func (c *Channels) Deliver(ctx context.Context, e Endpoint, r *invoke.Request) (*invoke.Response, error) {
	switch e.Protocol {
	case HTTP, "":
		return c.deliverHTTP(ctx, c.http1, e, r)
	case HTTPS:
		return c.deliverHTTP(ctx, c.over(e.tls()).http, e, r)
	case H2C:
		return c.deliverHTTP(ctx, c.http2, e, r)
	case GRPC:
		return c.deliverGRPC(ctx, e, r)
	default:
		return nil, invoke.NotDispatched(invoke.ReasonUnsupported, "protocol %q is not one of http, https, h2c, grpc", e.Protocol)
	}
}

// Close lets go of idle connections. No call may be under way or come after it.
func (c *Channels) Close() {
	c.http1.CloseIdleConnections()
	c.http2.CloseIdleConnections()
	c.grpc.Close()
	c.secured.Range(func(_, s any) bool {
		s.(*secured).close()
		return true
	})
}
