package app

import (
	"bytes"
	"context"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/farcall/farcall/agent/conns"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/proxy"
	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	runtimev1 "github.com/farcall/farcall/api/dapr/proto/runtime/v1"
)

// newConns makes the pool for gRPC applications. There is no keepalive: gRPC servers by default
// hang up on a client that pings them more than once in five minutes.
func newConns(options ...grpc.DialOption) *conns.Pool {
	return conns.New(conns.Config{Options: append(append(proxy.DialOptions(),
		proxy.Watch(),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: dialTimeout}),
	), options...)})
}

// conns gives the pool of connections to a gRPC application.
func (c *Channels) conns(e Endpoint) *conns.Pool {
	if t := e.tls(); t != nil {
		return c.over(t).grpc
	}
	return c.grpc
}

func (c *Channels) deliverGRPC(ctx context.Context, e Endpoint, r *invoke.Request) (*invoke.Response, error) {
	body, err := wholeBody(ctx, r)
	if err != nil {
		return nil, err
	}
	pool := c.conns(e)
	conn, err := pool.Acquire(e.hostPort())
	if err != nil {
		return nil, invoke.NotDispatched(invoke.ReasonAppDown, "application %s: %v", r.Service, err)
	}
	defer pool.Release(conn)

	msg := &commonv1.InvokeRequest{
		Method:      r.Method,
		Data:        &anypb.Any{TypeUrl: r.TypeURL, Value: body},
		ContentType: r.ContentType,
		HttpExtension: &commonv1.HTTPExtension{
			Verb:        invoke.VerbToProto(r.Verb),
			Querystring: r.Query,
		},
	}
	var header, trailer metadata.MD
	var from peer.Peer
	out, err := runtimev1.NewAppCallbackClient(conn).OnInvoke(metadata.NewOutgoingContext(ctx, grpcMetadata(e, r)), msg,
		grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from))
	if err != nil && len(header) == 0 && len(trailer) == 0 {
		// Without a single header the status is not the application's but the transport's.
		if e := invoke.FromContext(ctx); e != nil {
			return nil, e
		}
		if from.Addr == nil {
			pool.GiveUp(conn)
			return nil, invoke.NotDispatched(invoke.ReasonAppDown, "application %s does not take connections: %s", r.Service, status.Convert(err).Message())
		}
		return nil, invoke.OutcomeUnknown("application %s at %s: %s", r.Service, e.hostPort(), status.Convert(err).Message())
	}
	st := status.Convert(err)
	code := st.Code()
	if code > codes.Unauthenticated {
		// From 100 up it would pass for an HTTP status further on.
		code = codes.Unknown
	}
	data := out.GetData().GetValue()
	return &invoke.Response{
		Status:      int(code),
		Message:     st.Message(),
		Details:     st.Proto().GetDetails(),
		ContentType: out.GetContentType(),
		TypeURL:     out.GetData().GetTypeUrl(),
		Header:      headerFromMetadata(header),
		Trailer:     headerFromMetadata(trailer),
		Length:      int64(len(data)),
		Body:        io.NopCloser(bytes.NewReader(data)),
	}, nil
}

// wholeBody reads a streamed body to its end: AppCallback takes a call in one message.
func wholeBody(ctx context.Context, r *invoke.Request) ([]byte, error) {
	if r.Rest == nil && len(r.Head) <= MaxMessage {
		return r.Head, nil
	}
	tooLarge := invoke.Errorf(codes.ResourceExhausted, invoke.ReasonTooLarge,
		"the body is larger than %d bytes, which is what a gRPC application takes", MaxMessage)
	if r.Rest == nil || r.Length > MaxMessage {
		return nil, tooLarge
	}
	b, err := io.ReadAll(io.LimitReader(r.Rest, MaxMessage+1))
	if err != nil {
		return nil, invoke.BodyError(ctx, err)
	}
	if len(b) > MaxMessage {
		return nil, tooLarge
	}
	return b, nil
}
