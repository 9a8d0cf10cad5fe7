package face

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/agent/wire"
	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	internalsv1 "github.com/farcall/farcall/api/dapr/proto/internals/v1"
	"github.com/farcall/farcall/internal/identity"
)

// PeerDeps is what the face for peers works with. All but Identity are needed.
type PeerDeps struct {
	Own     Own
	Apps    relay.Apps
	Metrics prometheus.Registerer
	// Identity, where not nil, is who this agent is, and then only agents of its trust domain are served.
	// Without it the face is plaintext.
	Identity *identity.Source
}

// Peer is the face that agents and Dapr sidecars elsewhere call: CallLocal, CallLocalStream, and any
// other method, which is proxied. It serves this node's own instances, and nothing else: it never forwards.
type Peer struct {
	internalsv1.UnimplementedServiceInvocationServer
	proxying
	own      Own
	apps     relay.Apps
	metrics  *peerMetrics
	identity *identity.Source // nil without TLS
	grace    time.Duration
	draining atomic.Bool
}

var _ internalsv1.ServiceInvocationServer = (*Peer)(nil)

// NewPeer makes the face; it serves in Run.
func NewPeer(c Config, d PeerDeps) (*Peer, error) {
	if d.Own == nil || d.Apps == nil || d.Metrics == nil {
		return nil, errors.New("face: Own, Apps and Metrics are all needed")
	}
	m, err := newPeerMetrics(d.Metrics)
	if err != nil {
		return nil, err
	}
	p := &Peer{own: d.Own, apps: d.Apps, metrics: m, identity: d.Identity, grace: grace(c)}
	var secure []grpc.ServerOption
	if d.Identity != nil {
		secure = append(secure, judgedAnew(), grpc.Creds(d.Identity.ServerCredentials(identity.Any(identity.Agent))))
	}
	p.listen(p.proxy, invocations(p), secure...)
	return p, nil
}

// invocations registers Dapr's internal wire.
func invocations(s internalsv1.ServiceInvocationServer) func(grpc.ServiceRegistrar) {
	return func(r grpc.ServiceRegistrar) { internalsv1.RegisterServiceInvocationServer(r, s) }
}

// Run serves on l until ctx is done; it then takes no new call, waits for those under way, for
// Config.Grace at most, cuts off the rest and returns nil. It closes l.
func (p *Peer) Run(ctx context.Context, l net.Listener) error {
	return p.run(ctx, "internal", l, p.grace)
}

// BeginDrain refuses every further call as not dispatched, so that its caller goes elsewhere at
// once; calls under way are finished.
func (p *Peer) BeginDrain() { p.draining.Store(true) }

// CallLocalStream serves a call whose body, and whose answer's, come in pieces.
func (p *Peer) CallLocalStream(stream internalsv1.ServiceInvocation_CallLocalStreamServer) error {
	ctx := stream.Context()
	admitted, e := p.admit(ctx)
	if e != nil {
		return p.failed(ctx, e, stream.SetTrailer)
	}
	defer p.metrics.begin()()
	req, err := wire.ReadRequest(stream.Recv)
	if err != nil {
		return p.failed(ctx, err, stream.SetTrailer)
	}
	resp, err := p.deliver(ctx, admitted, req)
	if err != nil {
		return p.failed(ctx, err, stream.SetTrailer)
	}
	defer resp.Body.Close()
	if err := writeReply(stream, resp, admitted.agent); err != nil {
		return p.failed(ctx, err, stream.SetTrailer)
	}
	p.metrics.count(codes.OK)
	return nil
}

// CallLocal serves a call in one message, as peers older than Dapr 1.12 make it.
func (p *Peer) CallLocal(ctx context.Context, in *internalsv1.InternalInvokeRequest) (*internalsv1.InternalInvokeResponse, error) {
	trailer := func(md metadata.MD) {
		// It fails only where the call is over, and then nobody listens.
		_ = grpc.SetTrailer(ctx, md)
	}
	admitted, e := p.admit(ctx)
	if e != nil {
		return nil, p.failed(ctx, e, trailer)
	}
	defer p.metrics.begin()()
	req, err := wire.DecodeUnary(in)
	if err != nil {
		return nil, p.failed(ctx, err, trailer)
	}
	resp, err := p.deliver(ctx, admitted, req)
	if err != nil {
		return nil, p.failed(ctx, err, trailer)
	}
	defer resp.Body.Close()
	out, err := unaryReply(resp)
	if err != nil {
		return nil, p.failed(ctx, err, trailer)
	}
	p.metrics.count(codes.OK)
	return out, nil
}

// unaryReply makes an answer one message, as CallLocal has it.
func unaryReply(resp *invoke.Response) (*internalsv1.InternalInvokeResponse, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err == nil && len(body) > maxReply {
		err = invoke.OutcomeUnknown("the answer is larger than %d bytes, which is what CallLocal carries", maxReply)
	}
	if err != nil {
		return nil, err
	}
	out := wire.EncodeResponse(resp, false)
	out.Message.Data = &anypb.Any{TypeUrl: resp.TypeURL, Value: body}
	return out, nil
}

// admission is what a call's metadata says, once it may come in.
type admission struct {
	// agent says that another agent calls; then own is exactly the instance that it means.
	agent bool
	own   OwnInstance
}

// admit judges a call by its metadata alone, before its body is read.
func (p *Peer) admit(ctx context.Context) (admission, *invoke.Error) {
	if p.draining.Load() {
		return admission{}, invoke.NotDispatched(invoke.ReasonDraining, "draining")
	}
	if hop := metadata.ValueFromIncomingContext(ctx, invoke.HopKey); len(hop) > 0 && (len(hop) != 1 || hop[0] != "1") {
		// This face never forwards, so that a second hop is somebody's mistake, and a loop if it
		// were served.
		return admission{}, invoke.Errorf(codes.FailedPrecondition, invoke.ReasonSecondHop, "%s %.20q: a call is relayed once", invoke.HopKey, strings.Join(hop, ","))
	}
	if e := p.authentic(ctx); e != nil {
		return admission{}, e
	}
	target := metadata.ValueFromIncomingContext(ctx, invoke.TargetKey)
	if len(target) == 0 {
		return admission{}, nil
	}
	id, err := wire.ParseTarget(target[0])
	if err != nil {
		return admission{}, invoke.Invalid("%v", err)
	}
	own, ok := p.own.Find(id)
	if !ok {
		return admission{}, invoke.NotDispatched(invoke.ReasonUnknownTarget, "%s is not an instance of this node", target[0])
	}
	return admission{agent: true, own: own}, nil
}

// authentic says what is wrong with what an agent says of itself, where it has proven who it is.
func (p *Peer) authentic(ctx context.Context) *invoke.Error {
	if p.identity == nil {
		return nil
	}
	id, _ := identity.FromContext(ctx)
	for _, claimed := range metadata.ValueFromIncomingContext(ctx, invoke.OriginKey) {
		if claimed != wire.Printable(id.Cluster)+"/"+wire.Printable(id.Name) {
			e := invoke.Errorf(codes.PermissionDenied, invoke.ReasonDenied, "%s %.100q: the caller is %s", invoke.OriginKey, claimed, id)
			_ = p.identity.Refuse(ctx, "peer", e) // it is e that is answered
			return e
		}
	}
	return nil
}

// deliver hands a call to the application.
func (p *Peer) deliver(ctx context.Context, a admission, req *invoke.Request) (*invoke.Response, error) {
	own := a.own
	if own.Instance == nil {
		var ok bool
		if own, ok = p.own.Any(req.Service); !ok {
			return nil, invoke.NotDispatched(invoke.ReasonUnknownTarget, "no available instance of %q on this node", req.Service)
		}
	}
	// The name that was dialled decides, not the one that the message repeats.
	req.Service = own.Instance.Service
	return p.apps.Deliver(ctx, own.App, req)
}

// writeReply sends an answer. A body of known length goes out with the head, one that streams
// after it, so that a caller sees the head before the first piece.
func writeReply(stream internalsv1.ServiceInvocation_CallLocalStreamServer, resp *invoke.Response, agent bool) error {
	w := &replyWriter{stream: stream, head: wire.EncodeResponse(resp, agent)}
	if resp.Length < 0 {
		if err := w.send(nil); err != nil {
			return err
		}
	}
	if _, err := invoke.Copy(w, resp.Body); err != nil {
		return err
	}
	if w.head != nil {
		return w.send(nil)
	}
	return nil
}

// replyWriter makes a stream's messages of what is written to it.
type replyWriter struct {
	stream internalsv1.ServiceInvocation_CallLocalStreamServer
	head   *internalsv1.InternalInvokeResponse // nil once it was sent
	seq    uint64
}

func (w *replyWriter) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		k := min(len(p), wire.ChunkSize)
		if err := w.send(&commonv1.StreamPayload{Data: p[:k], Seq: w.seq}); err != nil {
			return n, err
		}
		w.seq++
		n += k
		p = p[k:]
	}
	return n, nil
}

func (w *replyWriter) send(payload *commonv1.StreamPayload) error {
	m := &internalsv1.InternalInvokeResponseStream{Response: w.head, Payload: payload}
	w.head = nil
	return w.stream.Send(m)
}

// failed gives the status for a call that came to no good end, and counts it. What was certainly
// not executed says so in a trailer besides, since a daprd's UNAVAILABLE promises nothing.
func (p *Peer) failed(ctx context.Context, err error, setTrailer func(metadata.MD)) error {
	e := peerFailure(ctx, err)
	if e.NotExecuted() {
		p.metrics.notDispatched.WithLabelValues(e.Reason).Inc()
		setTrailer(metadata.Pairs(invoke.NotDispatchedKey, wire.Printable(e.Message)))
	}
	p.metrics.count(e.Code)
	return e.GRPCStatus().Err()
}

func peerFailure(ctx context.Context, err error) *invoke.Error {
	var e *invoke.Error
	if errors.As(err, &e) {
		return e
	}
	if e := invoke.FromContext(ctx); e != nil {
		return e
	}
	return invoke.OutcomeUnknown("the call was cut short: %v", err)
}
