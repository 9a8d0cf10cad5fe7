package face

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/proxy"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/agent/wire"
	internalsv1 "github.com/farcall/farcall/api/dapr/proto/internals/v1"
	"github.com/farcall/farcall/internal/catalog"
)

// Dapr is the face that the Dapr sidecars of this node call, as if it were the sidecar next to
// whatever application they look for: CallLocal, CallLocalStream and proxied methods. Their calls get the full strategy, as those of the node's
// applications do. Unlike Peer it delivers nothing by itself, and it takes no call that an agent
// has relayed already.
type Dapr struct {
	internalsv1.UnimplementedServiceInvocationServer
	caller
	proxying
	relay *relay.Relay
	grace time.Duration
}

var _ internalsv1.ServiceInvocationServer = (*Dapr)(nil)

// NewDapr makes the face; it serves in Run.
func NewDapr(c Config, d Deps) (*Dapr, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	out := &Dapr{caller: newCaller(c, d), relay: d.Relay, grace: grace(c)}
	out.listen(out.proxy, invocations(out))
	return out, nil
}

// Run serves on l until ctx is done; it then takes no new call, waits for those under way, for
// Config.Grace at most, cuts off the rest and returns nil. It closes l.
func (d *Dapr) Run(ctx context.Context, l net.Listener) error {
	return d.run(ctx, "dapr", l, d.grace)
}

// CallLocalStream makes a call whose body, and whose answer's, come in pieces.
func (d *Dapr) CallLocalStream(stream internalsv1.ServiceInvocation_CallLocalStreamServer) error {
	in := &inbox{stream: stream, readers: &d.readers}
	out := &outbox{ServiceInvocation_CallLocalStreamServer: stream}
	return d.serve(stream.Context(), exchange{
		read: func() (*invoke.Request, error) { return wire.ReadRequest(in.recv) },
		body: in.body,
		write: func(r *invoke.Response) error {
			return writeReply(out, r, false)
		},
		gone: func() bool { return out.failed },
	})
}

// CallLocal makes a call in one message, as sidecars older than Dapr 1.12 do.
func (d *Dapr) CallLocal(ctx context.Context, in *internalsv1.InternalInvokeRequest) (out *internalsv1.InternalInvokeResponse, err error) {
	err = d.serve(ctx, exchange{
		read: func() (*invoke.Request, error) { return wire.DecodeUnary(in) },
		body: func(context.Context, *invoke.Request, int64, bool) *invoke.Error { return nil }, // it is there
		write: func(r *invoke.Response) (err error) {
			out, err = unaryReply(r)
			return err
		},
		gone: func() bool { return false },
	})
	return out, err
}

// exchange is one call's way in and out.
type exchange struct {
	// read reads the head of the call.
	read func() (*invoke.Request, error)
	// body reads a body of up to limit bytes into memory, within ctx's deadline, and leaves a
	// larger one, or one of unknown length, to stream; whole refuses what cannot be read so.
	body func(ctx context.Context, r *invoke.Request, limit int64, whole bool) *invoke.Error
	// write writes the answer.
	write func(*invoke.Response) error
	// gone reports whether it was the caller who failed write.
	gone func() bool
}

// serve makes one call, and gives its gRPC error.
func (d *Dapr) serve(ctx context.Context, x exchange) error {
	// A sidecar shows no token here, and is not believed when it says whose it is.
	from := d.locate(sourceOf(ctx))
	record := d.relay.Begin(from.Identity)
	answer, err := d.call(ctx, from, &record, x)
	record.End(answer, err)
	switch {
	case answer.Err != nil:
		return answer.Err.GRPCStatus().Err()
	case err != nil:
		return peerFailure(ctx, err).GRPCStatus().Err()
	}
	return nil
}

// call makes the call and writes its answer; an error says that the answer was cut short.
func (d *Dapr) call(ctx context.Context, from *who, record *relay.Record, x exchange) (relay.Answer, error) {
	fail := func(a relay.Answer, e *invoke.Error) (relay.Answer, error) {
		a.Err = e
		return a, nil
	}
	none := relay.Answer{Tier: -1}
	if e := refuseRelayed(ctx); e != nil {
		return fail(none, e)
	}
	req, err := x.read()
	if err != nil {
		return fail(none, peerFailure(ctx, err))
	}
	req = withSpan(ctx, req)
	ctx = record.Trace(ctx, req.Header)
	query, e := d.sidecarQuery(from, req)
	if e != nil {
		return fail(none, e)
	}
	record.Name = query.Name
	limit, e := timeout(query.Header(invoke.TimeoutKey))
	if e != nil {
		return fail(none, e)
	}
	if req.Verb == http.MethodConnect {
		return fail(none, invoke.Invalid("invalid HTTP verb %s", req.Verb))
	}
	ctx, cancel := deadline(ctx, limit)
	defer cancel()
	req.Service, req.Header = query.Name.Service, d.header(withoutLength(req.Header), from, query.Name.Service)
	choice, e := d.relay.Route(ctx, query)
	if e != nil {
		return fail(none, e)
	}
	answer, broadcast := d.made(ctx, choice, req, x)
	if answer.Err != nil {
		return answer, nil
	}
	defer answer.Response.Body.Close()
	if err := x.write(sidecarResponse(answer, broadcast)); err != nil {
		if x.gone() {
			cancel() // the instance is not to blame
		}
		// What the deadline or the caller's end cut off is not the answer's fault either.
		return answer, peerFailure(ctx, err)
	}
	return answer, nil
}

// made is the answer to a call that was routed. Of a broadcast it is the first success in the order
// of the clusters, and what came of each of them in a word.
func (d *Dapr) made(ctx context.Context, choice relay.Choice, req *invoke.Request, x exchange) (relay.Answer, []string) {
	broadcast := choice.Strategy() == relay.Broadcast
	limit := int64(maxReplay)
	if broadcast {
		limit = relay.MaxBroadcastBody
	}
	if e := x.body(ctx, req, limit, broadcast); e != nil {
		a := relay.Unanswered(choice)
		a.Err = e
		return a, nil
	}
	if !broadcast {
		return d.relay.Do(ctx, choice, req), nil
	}
	replies := d.relay.Broadcast(ctx, choice, req, relay.MaxBroadcastBody, nil)
	a := replies.Answer()
	first, say := firstSuccess(replies)
	if a.Err == nil {
		resp := *first.Response
		resp.Body, resp.Length = io.NopCloser(bytes.NewReader(first.Body)), int64(len(first.Body))
		a.Response, a.Instance, a.Tier, a.TierName = &resp, first.Instance, first.Tier, first.TierName
	}
	return a, say
}

// refuseRelayed refuses what an agent has relayed: from here it would be relayed a second time,
// and a loop if it came back.
func refuseRelayed(ctx context.Context) *invoke.Error {
	for _, key := range []string{invoke.HopKey, invoke.TargetKey} {
		if len(metadata.ValueFromIncomingContext(ctx, key)) > 0 {
			return invoke.Errorf(codes.FailedPrecondition, invoke.ReasonSecondHop,
				"the call carries %s, so an agent has relayed it already: here only the sidecars of this node call", key)
		}
	}
	return nil
}

// sidecarQuery reads whom a sidecar calls, and what its application said about how the call shall
// be treated. A sidecar says the namespace of its application, and not that of the one it calls.
func (d *Dapr) sidecarQuery(from *who, req *invoke.Request) (relay.Query, *invoke.Error) {
	if req.Service == "" {
		return relay.Query{}, invoke.Invalid("neither %s nor %s says which application is called", invoke.DestinationAppID, invoke.CalleeAppID)
	}
	// The request's headers are replaced, not changed, further on.
	h := req.Header
	first := func(key string) string {
		return h.First(key, http.CanonicalHeaderKey(key), strings.ToLower(key))
	}
	name, err := catalog.ParseName(req.Service, cmp.Or(first(invoke.CallerNamespace), from.Namespace))
	if err != nil {
		return relay.Query{}, invoke.Invalid("%v", err)
	}
	return relay.Query{Name: name, Strategy: first(invoke.StrategyKey), Cluster: first(invoke.ClusterKey), Header: first}, nil
}

// withSpan gives the call the trace context of the sidecar's own span, which travels beside the
// call and not in it: in traceparent, from Dapr 1.14 in grpc-trace-bin only. Where there is none,
// what the application sent stays.
func withSpan(ctx context.Context, req *invoke.Request) *invoke.Request {
	// version-traceid-parentid-flags (W3C Trace Context); a trace-id of zeros is none.
	const length, prefix, none = len("00-0123456789abcdef0123456789abcdef-0123456789abcdef-00"), "00-", "00000000000000000000000000000000"
	md, _ := metadata.FromIncomingContext(ctx)
	span := proxy.TraceParent(md)
	if len(span) != length || !invoke.Printable(span) || strings.HasPrefix(span, prefix+none) {
		return req
	}
	return req.WithTraceParent(span)
}

// withoutLength leaves out what the call's head says of its body's length, which Request.Length
// has, in whatever case it is spelt.
func withoutLength(h invoke.Header) invoke.Header {
	for k := range h {
		if strings.EqualFold(k, "content-length") {
			delete(h, k)
		}
	}
	return h
}

// sidecarResponse is an application's answer with what is said of the call in its headers.
func sidecarResponse(a relay.Answer, broadcast []string) *invoke.Response {
	out := *a.Response
	named := invoke.ConnectionNames(out.Header)
	about := description(a)
	if len(broadcast) > 0 {
		about[invoke.BroadcastKey] = broadcast
	}
	h := make(invoke.Header, len(out.Header)+len(about))
	for k, v := range out.Header {
		if !invoke.HopByHop(k) && !invoke.Ours(k) && !containsFold(named, k) {
			h[k] = v
		}
	}
	for k, v := range about {
		h[k] = v
	}
	out.Header = withoutLength(h)
	return &out
}

// inbox receives the messages of a stream. Once followed, nobody who waits for a message waits
// for longer than a context.
type inbox struct {
	stream  internalsv1.ServiceInvocation_CallLocalStreamServer
	readers *sync.WaitGroup
	ctx     context.Context
	came    chan received // nil until followed
}

type received struct {
	message *internalsv1.InternalInvokeRequestStream
	err     error
}

func (i *inbox) recv() (*internalsv1.InternalInvokeRequestStream, error) {
	if i.came == nil {
		return i.stream.Recv()
	}
	select {
	case r := <-i.came:
		return r.message, r.err
	case <-i.ctx.Done():
		return nil, i.ctx.Err()
	}
}

// follow starts to receive in a goroutine of its own, one message ahead of its reader. It ends
// with the stream, which ends with the call.
func (i *inbox) follow(ctx context.Context) {
	i.ctx, i.came = ctx, make(chan received)
	i.readers.Go(func() {
		for {
			var r received
			r.message, r.err = i.stream.Recv()
			select {
			case i.came <- r:
			case <-ctx.Done():
				return
			}
			if r.err != nil {
				return
			}
		}
	})
}

// body implements exchange.body. What is left to stream stops when the call is over, though the
// sidecar may still be sending.
func (i *inbox) body(ctx context.Context, r *invoke.Request, limit int64, whole bool) *invoke.Error {
	if r.Rest == nil {
		return nil
	}
	tooLarge := invoke.Errorf(codes.ResourceExhausted, invoke.ReasonTooLarge, "the body is larger than %d bytes", limit)
	if whole && r.Length > limit {
		return tooLarge
	}
	ctx, stop := context.WithCancel(ctx)
	i.follow(ctx)
	if !whole && (r.Length < 0 || r.Length > limit) {
		r.Rest = invoke.NewStream(r.Rest, stop)
		return nil
	}
	defer stop()
	head, err := io.ReadAll(io.LimitReader(r.Rest, limit+1))
	switch {
	case err != nil:
		return invoke.BodyError(ctx, err)
	case int64(len(head)) > limit:
		return tooLarge
	}
	r.Head, r.Rest, r.Length = head, nil, int64(len(head))
	return nil
}

// outbox remembers that the caller could not be written to.
type outbox struct {
	internalsv1.ServiceInvocation_CallLocalStreamServer
	failed bool
}

func (o *outbox) Send(m *internalsv1.InternalInvokeResponseStream) error {
	err := o.ServiceInvocation_CallLocalStreamServer.Send(m)
	o.failed = o.failed || err != nil
	return err
}
