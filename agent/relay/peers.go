package relay

import (
	"cmp"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/agent/conns"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/proxy"
	"github.com/farcall/farcall/agent/wire"
	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	internalsv1 "github.com/farcall/farcall/api/dapr/proto/internals/v1"
)

// The two ways to open CallLocalStream. A call whose body is in memory is one message; said so,
// gRPC ends the sending side in the same frame and needs no goroutine of ours.
var (
	sendOne  = &grpc.StreamDesc{StreamName: "CallLocalStream", ServerStreams: true}
	sendMany = &grpc.StreamDesc{StreamName: "CallLocalStream", ServerStreams: true, ClientStreams: true}
)

// peers speaks CallLocal and CallLocalStream to the agents and sidecars next to instances.
type peers struct {
	pool   *conns.Pool
	origin string
	// afresh says that a call after one that could not connect dials anew.
	afresh bool
}

func newPeers(cluster, node string, secure func(conns.Who) credentials.TransportCredentials) *peers {
	return &peers{
		origin: wire.Printable(cluster) + "/" + wire.Printable(node),
		pool: conns.New(conns.Config{Credentials: secure, Options: append(proxy.DialOptions(),
			// As a daprd does: a peer that vanished without a word is noticed within 15 s while
			// idle, and TCP_USER_TIMEOUT, which gRPC derives from Timeout, within 5 s under calls.
			grpc.WithKeepaliveParams(keepalive.ClientParameters{
				Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true,
			}),
			// Short pauses: a peer that comes back is picked again within about a second.
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
				MinConnectTimeout: 2 * time.Second,
			}),
			grpc.WithMaxHeaderListSize(64<<10),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{})),
		)}),
	}
}

func (p *peers) close() { p.pool.Close() }

// deliver relays a call to the peer of t, and returns once its answer began. The error is an
// *invoke.Error.
func (p *peers) deliver(ctx context.Context, t Target, r *invoke.Request) (*invoke.Response, error) {
	return p.call(ctx, t.Dial, t.Who, r, invoke.TargetKey, wire.FormatTarget(t.Instance.ID), invoke.HopKey, "1", invoke.OriginKey, p.origin)
}

// call calls who listens at dial; md is what is said beside the call: key, value, key, value.
func (p *peers) call(ctx context.Context, dial string, who conns.Who, r *invoke.Request, md ...string) (*invoke.Response, error) {
	conn, err := p.pool.AcquireTo(dial, who)
	if err != nil {
		return nil, invoke.NotDispatched(invoke.ReasonNoConnection, "%s: %v", dial, err)
	}
	if tp := r.TraceParent(); tp != "" && invoke.Printable(tp) {
		md = append(md, "traceparent", tp)
	}
	c := &peerCall{caller: ctx, pool: p.pool, conn: conn, dial: dial, afresh: p.afresh, req: r}
	c.ctx, c.cancel = context.WithCancel(metadata.AppendToOutgoingContext(ctx, md...))
	resp, err := c.do()
	if err != nil {
		c.end()
		return nil, err
	}
	return resp, nil
}

// peerCall is one call to a peer.
type peerCall struct {
	// caller is the call's own context, which says why it ended. ctx is what cancel ends, and says
	// that for itself where cancel came first.
	caller context.Context
	ctx    context.Context
	cancel context.CancelFunc
	pool   *conns.Pool
	conn   *conns.Conn
	dial   string
	afresh bool // see peers
	req    *invoke.Request
	stream grpc.ClientStream
	sent   chan struct{} // closed when the sender of a streamed body is done; nil without one
}

func (c *peerCall) do() (*invoke.Response, error) {
	desc := sendOne
	if c.req.Rest != nil {
		desc = sendMany
	}
	var err error
	c.stream, err = c.conn.NewStream(c.ctx, desc, internalsv1.ServiceInvocation_CallLocalStream_FullMethodName)
	if err != nil {
		// No stream, so nothing was sent.
		if e := invoke.FromContext(c.caller); e != nil {
			return nil, e
		}
		if c.afresh {
			c.pool.GiveUp(c.conn)
		}
		return nil, invoke.NotDispatched(invoke.ReasonNoConnection, "%s: %s", c.dial, status.Convert(err).Message())
	}
	first := &internalsv1.InternalInvokeRequestStream{Request: wire.EncodeRequest(c.req)}
	if len(c.req.Head) > 0 {
		first.Payload = &commonv1.StreamPayload{Data: c.req.Head}
	}
	if err := c.stream.SendMsg(first); err != nil && err != io.EOF {
		return nil, invoke.Invalid("%s: sending the call: %s", c.dial, status.Convert(err).Message())
	} else if err == nil && c.req.Rest != nil {
		c.sent = make(chan struct{})
		go c.sendRest()
	}
	// After io.EOF the stream holds the reason.
	resp, err := wire.ReadResponse(c.recv, c.end)
	if err != nil {
		return c.failed(err)
	}
	return resp, nil
}

func (c *peerCall) recv() (*internalsv1.InternalInvokeResponseStream, error) {
	m := new(internalsv1.InternalInvokeResponseStream)
	if err := c.stream.RecvMsg(m); err != nil {
		return nil, err
	}
	return m, nil
}

var sendBuffers = sync.Pool{New: func() any { return new([wire.ChunkSize]byte) }}

// sendRest sends a streamed body. If reading it fails the call is cut off, for half of a body
// must not pass for a whole one.
func (c *peerCall) sendRest() {
	defer close(c.sent)
	buf := sendBuffers.Get().(*[wire.ChunkSize]byte)
	defer sendBuffers.Put(buf)
	for seq := uint64(0); ; {
		n, err := c.req.Rest.Read(buf[:])
		if n > 0 {
			m := &internalsv1.InternalInvokeRequestStream{Payload: &commonv1.StreamPayload{Data: buf[:n], Seq: seq}}
			if c.stream.SendMsg(m) != nil {
				return // the receiving side learns why
			}
			seq++
		}
		if err == io.EOF {
			// An error shows at the receiving side as well.
			_ = c.stream.CloseSend()
			return
		}
		if err != nil {
			c.cancel()
			return
		}
	}
}

// end lets go of the stream, and waits until nobody touches the request any more.
func (c *peerCall) end() {
	c.cancel()
	if c.sent != nil {
		c.req.Rest.Stop()
		<-c.sent
	}
	c.pool.Release(c.conn)
}

// failed says why there is no answer; or gets it by CallLocal from a peer that knows no streams.
func (c *peerCall) failed(err error) (*invoke.Response, error) {
	if c.req.Rest != nil && c.req.Rest.Err() != nil {
		return nil, invoke.BodyError(c.caller, c.req.Rest.Err())
	}
	if status.Code(err) == codes.Unimplemented && c.req.Rest == nil {
		return c.unary()
	}
	return nil, peerError(c.caller, c.dial, err, c.stream.Trailer())
}

// unary repeats a call as CallLocal. Peers older than Dapr 1.12 take nothing else; that they
// answered UNIMPLEMENTED proves that the first was not executed.
func (c *peerCall) unary() (*invoke.Response, error) {
	var trailer metadata.MD
	out, err := internalsv1.NewServiceInvocationClient(c.conn).CallLocal(c.ctx, wire.EncodeUnary(c.req), grpc.Trailer(&trailer))
	if err != nil {
		return nil, peerError(c.caller, c.dial, err, trailer)
	}
	resp, err := wire.DecodeUnaryResponse(out, c.end)
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// peerError reads what a peer's status, or the loss of the stream, proves.
func peerError(ctx context.Context, dial string, err error, trailer metadata.MD) *invoke.Error {
	if v := trailer[invoke.NotDispatchedKey]; len(v) > 0 {
		return invoke.NotDispatched(cmp.Or(reasonIn(status.Convert(err)), invoke.ReasonNotDispatched), "%s: %s", dial, v[0])
	}
	if e := invoke.FromContext(ctx); e != nil {
		return e
	}
	var e *invoke.Error
	if errors.As(err, &e) {
		return e
	}
	if err == io.EOF {
		return invoke.OutcomeUnknown("%s ended the call without an answer", dial)
	}
	st := status.Convert(err)
	reason := reasonIn(st)
	switch st.Code() {
	case codes.InvalidArgument:
		return invoke.Errorf(st.Code(), cmp.Or(reason, invoke.ReasonInvalid), "%s: %s", dial, st.Message())
	case codes.PermissionDenied:
		return invoke.Errorf(st.Code(), cmp.Or(reason, invoke.ReasonDenied), "%s: %s", dial, st.Message())
	case codes.Unimplemented:
		return invoke.Errorf(st.Code(), cmp.Or(reason, invoke.ReasonUnsupported), "%s: %s", dial, st.Message())
	case codes.DeadlineExceeded:
		return invoke.Errorf(st.Code(), invoke.ReasonDeadline, "%s: %s", dial, st.Message())
	case codes.FailedPrecondition, codes.ResourceExhausted:
		if reason != "" && reason != invoke.ReasonOutcomeUnknown {
			return invoke.Errorf(st.Code(), reason, "%s: %s", dial, st.Message())
		}
	}
	return invoke.OutcomeUnknown("%s: %s: %s", dial, st.Code(), st.Message())
}

// reasonIn gives the reason that an agent put into a status, "" where there is none of ours.
func reasonIn(st *status.Status) string {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == invoke.ErrorDomain {
			return info.GetReason()
		}
	}
	return ""
}
