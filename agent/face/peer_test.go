package face

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/agent/wire"
	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	internalsv1 "github.com/farcall/farcall/api/dapr/proto/internals/v1"
	"github.com/farcall/farcall/internal/testkit"
)

type reqMsg = internalsv1.InternalInvokeRequestStream

// sidecar calls a peer face as a daprd, or as somebody with worse manners, does.
func sidecar(t *testing.T, addr string) internalsv1.ServiceInvocationClient {
	t.Helper()
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return internalsv1.NewServiceInvocationClient(cc)
}

// leading is a first message that is in order.
func leading(method string, change ...func(*internalsv1.InternalInvokeRequest)) *internalsv1.InternalInvokeRequest {
	p := &internalsv1.InternalInvokeRequest{
		Ver:      internalsv1.APIVersion_V1,
		Metadata: map[string]*internalsv1.ListStringValue{invoke.DestinationAppID: {Values: []string{"cart"}}},
		Message:  &commonv1.InvokeRequest{Method: method, HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_POST}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

type streamed struct {
	head    *internalsv1.InternalInvokeResponse
	pieces  []string
	trailer metadata.MD
	err     error
}

func (s streamed) body() string { return strings.Join(s.pieces, "") }

// stream makes one CallLocalStream.
func stream(t *testing.T, c internalsv1.ServiceInvocationClient, md metadata.MD, msgs ...*reqMsg) streamed {
	t.Helper()
	ctx := metadata.NewOutgoingContext(testkit.Context(t), md)
	st, err := c.CallLocalStream(ctx)
	if err != nil {
		return streamed{err: err}
	}
	for _, m := range msgs {
		if err := st.Send(m); err != nil {
			break
		}
	}
	_ = st.CloseSend()
	var out streamed
	for seq := uint64(0); ; {
		m, err := st.Recv()
		if err != nil {
			if err != io.EOF {
				out.err = err
			}
			out.trailer = st.Trailer()
			return out
		}
		if m.Response != nil {
			out.head = m.Response
		}
		if m.Payload != nil {
			if m.Payload.Seq != seq {
				t.Errorf("piece %d has number %d", seq, m.Payload.Seq)
			}
			seq++
			out.pieces = append(out.pieces, string(m.Payload.Data))
		}
	}
}

func piece(seq uint64, data string) *commonv1.StreamPayload {
	return &commonv1.StreamPayload{Seq: seq, Data: []byte(data)}
}

// TestPeerServesSidecars says that a call in a daprd's form, in 2 KiB pieces and without anything
// that only agents say, is served by any own instance of the app-id.
func TestPeerServesSidecars(t *testing.T) {
	p := newPeerAgent(t, "west", "cart-1", application(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Destination-App-Id") != "" || r.Header.Get("Dapr-Caller-App-Id") != "web" {
			t.Errorf("the application got %v", r.Header)
		}
		echo(w, r)
	}))
	c := sidecar(t, p.addr)
	caller := func(p *internalsv1.InternalInvokeRequest) {
		p.Metadata["dapr-caller-app-id"] = &internalsv1.ListStringValue{Values: []string{"web"}}
	}
	for _, method := range []string{"echo", "/echo", "../echo", "a/../echo"} {
		got := stream(t, c, nil,
			&reqMsg{Request: leading(method, caller), Payload: piece(0, "a")}, &reqMsg{Payload: piece(1, "b")}, &reqMsg{Payload: piece(2, "c")})
		if got.err != nil || got.head.GetStatus().GetCode() != 200 || got.body() != "abc" {
			t.Errorf("%s: got %+v", method, got)
		}
		if u := got.head.GetHeaders()["X-Url"].GetValues(); len(u) != 1 || u[0] != "/echo" {
			t.Errorf("%s: the application saw %q", method, u)
		}
		if got.head.GetHeaders()["content-length"] != nil {
			t.Error("a sidecar was told the length, which its own callers do not expect")
		}
	}
	unary, err := c.CallLocal(testkit.Context(t), leading("echo", caller, func(p *internalsv1.InternalInvokeRequest) {
		p.Message.Data = &anypb.Any{Value: []byte("abc")}
	}))
	if err != nil || string(unary.GetMessage().GetData().GetValue()) != "abc" || unary.GetStatus().GetCode() != 200 {
		t.Errorf("got %v, %v", unary, err)
	}
	if n := value(p.peer.metrics.ok); n != 5 {
		t.Errorf("counted %v calls", n)
	}
}

// TestPeerRefuses says which codes malformed and misdirected calls get, and which of them promise
// that nothing was executed.
func TestPeerRefuses(t *testing.T) {
	p := newPeerAgent(t, "west", "cart-1", application(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		if r.URL.Path == "/forbidden" {
			t.Errorf("%s reached the application", r.URL)
		}
	}))
	c := sidecar(t, p.addr)
	self := wire.FormatTarget(p.own.Instance.ID)
	elsewhere := p.own.Instance.ID
	elsewhere.Instance = "cart-2"
	for _, c2 := range []struct {
		what  string
		md    metadata.MD
		msgs  []*reqMsg
		code  codes.Code
		text  string
		proof bool
	}{
		{what: "in order, to exactly this one", md: metadata.Pairs("farcall-target", self, "farcall-hop", "1"), msgs: []*reqMsg{{Request: leading("x")}}, code: codes.OK},
		{what: "another instance", md: metadata.Pairs("farcall-target", wire.FormatTarget(elsewhere), "farcall-hop", "1"), msgs: []*reqMsg{{Request: leading("forbidden")}}, code: codes.Unavailable, text: "not an instance of this node", proof: true},
		{what: "target is nonsense", md: metadata.Pairs("farcall-target", "x"), msgs: []*reqMsg{{Request: leading("forbidden")}}, code: codes.InvalidArgument, text: "cluster/namespace/service/instance"},
		{what: "second hop", md: metadata.Pairs("farcall-target", self, "farcall-hop", "2"), msgs: []*reqMsg{{Request: leading("forbidden")}}, code: codes.FailedPrecondition, text: "relayed once"},
		{what: "hop is nonsense", md: metadata.Pairs("farcall-hop", "one"), msgs: []*reqMsg{{Request: leading("forbidden")}}, code: codes.FailedPrecondition, text: "relayed once"},
		{what: "two hops at once", md: metadata.Pairs("farcall-hop", "1", "farcall-hop", "1"), msgs: []*reqMsg{{Request: leading("forbidden")}}, code: codes.FailedPrecondition},
		{what: "unknown app-id", msgs: []*reqMsg{{Request: leading("forbidden", func(p *internalsv1.InternalInvokeRequest) {
			p.Metadata[invoke.DestinationAppID].Values[0] = "other"
		})}}, code: codes.Unavailable, text: `no available instance of "other"`, proof: true},
		{what: "no app-id, one application", msgs: []*reqMsg{{Request: leading("x", func(p *internalsv1.InternalInvokeRequest) {
			p.Metadata = map[string]*internalsv1.ListStringValue{"X": {}}
		})}}, code: codes.OK},
		{what: "no message", code: codes.InvalidArgument},
		{what: "no head", msgs: []*reqMsg{{Payload: piece(0, "x")}}, code: codes.InvalidArgument},
		{what: "no metadata", msgs: []*reqMsg{{Request: leading("forbidden", func(p *internalsv1.InternalInvokeRequest) { p.Metadata = nil })}}, code: codes.InvalidArgument, text: "metadata is empty"},
		{what: "bad method", msgs: []*reqMsg{{Request: leading("forbidden?x")}}, code: codes.InvalidArgument, text: "invalid method"},
		{what: "no verb", msgs: []*reqMsg{{Request: leading("forbidden", func(p *internalsv1.InternalInvokeRequest) { p.Message.HttpExtension = nil })}}, code: codes.InvalidArgument, text: "missing HTTP extension field"},
		{what: "CONNECT", msgs: []*reqMsg{{Request: leading("forbidden", func(p *internalsv1.InternalInvokeRequest) {
			p.Message.HttpExtension.Verb = commonv1.HTTPExtension_CONNECT
		})}}, code: codes.InvalidArgument, text: "invalid HTTP verb"},
		{what: "first piece out of order", msgs: []*reqMsg{{Request: leading("forbidden"), Payload: piece(1, "x")}}, code: codes.InvalidArgument, text: "sequence number"},
		{what: "later piece out of order", msgs: []*reqMsg{{Request: leading("x"), Payload: piece(0, "x")}, {Payload: piece(2, "y")}}, code: codes.InvalidArgument, text: "sequence number received: 2 (expected: 1)"},
		{what: "second head", msgs: []*reqMsg{{Request: leading("x"), Payload: piece(0, "x")}, {Request: leading("x")}}, code: codes.InvalidArgument, text: "non-leading chunk"},
		{what: "piece too large", msgs: []*reqMsg{{Request: leading("forbidden"), Payload: piece(0, strings.Repeat("x", 5<<20))}}, code: codes.ResourceExhausted},
	} {
		t.Run(c2.what, func(t *testing.T) {
			got := stream(t, c, c2.md, c2.msgs...)
			st := status.Convert(got.err)
			if st.Code() != c2.code || !strings.Contains(st.Message(), c2.text) {
				t.Errorf("got %v", got.err)
			}
			if proof := len(got.trailer["farcall-not-dispatched"]) == 1; proof != c2.proof {
				t.Errorf("trailer %v", got.trailer)
			}
			// gRPC itself answers to a message that is too large, before the handler is asked.
			if got.err != nil && c2.code != codes.ResourceExhausted {
				if info, ok := st.Details()[0].(*errdetails.ErrorInfo); !ok || info.GetDomain() != "farcall.io" {
					t.Errorf("details %v", st.Details())
				}
			}
		})
	}
}

// TestPeerOutcomes says what a peer is told of an application that cannot be reached, that dies,
// and that is too slow.
func TestPeerOutcomes(t *testing.T) {
	e, _ := dying(t, "")
	half, _ := dying(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	for _, c := range []struct {
		what string
		app  app.Endpoint
		code codes.Code
		body string
	}{
		{"does not listen", endpoint(t, testkit.Nobody(t), app.HTTP), codes.Unavailable, ""},
		{"dies", e, codes.Internal, ""},
		{"dies half way", half, codes.Internal, "hello"},
	} {
		t.Run(c.what, func(t *testing.T) {
			p := newPeerAgent(t, "west", "cart-1", c.app)
			got := stream(t, sidecar(t, p.addr), nil, &reqMsg{Request: leading("x")})
			st := status.Convert(got.err)
			reason := ""
			if d := st.Details(); len(d) == 1 {
				reason = d[0].(*errdetails.ErrorInfo).GetReason()
			}
			proof := len(got.trailer["farcall-not-dispatched"]) > 0
			if st.Code() != c.code || got.body() != c.body || proof != (c.code == codes.Unavailable) || (reason == invoke.ReasonOutcomeUnknown) == proof {
				t.Errorf("got %v (%s), body %q, trailer %v", got.err, reason, got.body(), got.trailer)
			}
		})
	}
}

// TestPeerDrains says that a draining agent refuses new calls, with proof, and finishes those under
// way.
func TestPeerDrains(t *testing.T) {
	began, release := make(chan bool), make(chan bool)
	p := newPeerAgent(t, "west", "cart-1", application(t, func(w http.ResponseWriter, r *http.Request) {
		began <- true
		<-release
		echo(w, r)
	}))
	c := sidecar(t, p.addr)
	under := make(chan streamed)
	go func() { under <- stream(t, c, nil, &reqMsg{Request: leading("x"), Payload: piece(0, "hi")}) }()
	<-began
	p.peer.BeginDrain()
	got := stream(t, c, nil, &reqMsg{Request: leading("x")})
	if status.Code(got.err) != codes.Unavailable || len(got.trailer["farcall-not-dispatched"]) != 1 {
		t.Errorf("got %v, %v", got.err, got.trailer)
	}
	if n := value(p.peer.metrics.notDispatched.WithLabelValues(invoke.ReasonDraining)); n != 1 {
		t.Errorf("counted %v", n)
	}
	stopped := make(chan bool)
	go func() { p.stop(); close(stopped) }()
	release <- true
	if got := <-under; got.err != nil || got.body() != "hi" {
		t.Errorf("the call under way got %+v", got)
	}
	<-stopped
}

// oldPeer is a peer without streams, and one that answers what it is told to.
type oldPeer struct {
	internalsv1.UnimplementedServiceInvocationServer
	err     error
	trailer metadata.MD
}

func (o *oldPeer) CallLocal(_ context.Context, in *internalsv1.InternalInvokeRequest) (*internalsv1.InternalInvokeResponse, error) {
	if in.GetMetadata()[invoke.DestinationAppID].GetValues()[0] != "cart" {
		return nil, status.Error(codes.InvalidArgument, "who?")
	}
	return &internalsv1.InternalInvokeResponse{
		Status:  &internalsv1.Status{Code: 201},
		Message: &commonv1.InvokeResponse{Data: &anypb.Any{Value: in.GetMessage().GetData().GetValue()}, ContentType: "text/old"},
	}, nil
}

// otherPeer answers a stream with a given error.
type otherPeer struct{ *oldPeer }

func (o otherPeer) CallLocalStream(s internalsv1.ServiceInvocation_CallLocalStreamServer) error {
	s.SetTrailer(o.trailer)
	return o.err
}

func foreignPeer(t *testing.T, srv internalsv1.ServiceInvocationServer) relay.Target {
	t.Helper()
	s := grpc.NewServer()
	internalsv1.RegisterServiceInvocationServer(s, srv)
	l := listen(t)
	testkit.Go(t, "peer", func(context.Context) error { return s.Serve(l) })
	t.Cleanup(s.Stop)
	target := nobody(t, "old-1")
	target.Dial = l.Addr().String()
	return target
}

// TestOldPeer says that a peer older than Dapr 1.12 is called without a stream, as far as that goes.
func TestOldPeer(t *testing.T) {
	a := newCallerAgent(t, &plan{targets: []relay.Target{foreignPeer(t, &oldPeer{})}})
	got := call(t, "POST", a.url+"/m", strings.NewReader("hi"), "dapr-app-id", "cart")
	want(t, got, 201, "hi")
	wantHeader(t, got.Header, "Content-Type", "text/old", "farcall-attempts", "1")
	got = call(t, "POST", a.url+"/m", struct{ io.Reader }{strings.NewReader("hi")}, "dapr-app-id", "cart")
	want(t, got, 501, "UNSUPPORTED")
}

// TestForeignCodes says what a peer's status proves. UNAVAILABLE alone, from a daprd, proves nothing.
func TestForeignCodes(t *testing.T) {
	proof := metadata.Pairs("farcall-not-dispatched", "why")
	for _, c := range []struct {
		err     error
		trailer metadata.MD
		status  int
		reason  string
	}{
		{status.Error(codes.Unavailable, "x"), nil, 502, invoke.ReasonOutcomeUnknown},
		{status.Error(codes.Unavailable, "x"), proof, 503, invoke.ReasonNotDispatched},
		{status.Error(codes.Internal, "error invoking app channel: x"), nil, 502, invoke.ReasonOutcomeUnknown},
		{status.Error(codes.Unauthenticated, "x"), nil, 502, invoke.ReasonOutcomeUnknown},
		{status.Error(codes.Unknown, "x"), nil, 502, invoke.ReasonOutcomeUnknown},
		{status.Error(codes.InvalidArgument, "x"), nil, 400, invoke.ReasonInvalid},
		{status.Error(codes.PermissionDenied, "x"), nil, 403, invoke.ReasonDenied},
		{status.Error(codes.DeadlineExceeded, "x"), nil, 504, invoke.ReasonDeadline},
		{invoke.Errorf(codes.FailedPrecondition, invoke.ReasonSecondHop, "x").GRPCStatus().Err(), nil, 400, invoke.ReasonSecondHop},
		{nil, nil, 502, invoke.ReasonOutcomeUnknown},
	} {
		a := newCallerAgent(t, &plan{targets: []relay.Target{foreignPeer(t, otherPeer{&oldPeer{err: c.err, trailer: c.trailer}})}})
		got := call(t, "POST", a.url+"/m", strings.NewReader("hi"), "dapr-app-id", "cart")
		want(t, got, c.status, fmt.Sprintf(`{"errorCode":%q`, c.reason))
	}
}

// TestPeerVanishes says that a connection that dies under a call is noticed at once, and the
// outcome then open.
func TestPeerVanishes(t *testing.T) {
	began := make(chan bool)
	p := newPeerAgent(t, "west", "cart-1", application(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		began <- true
		<-r.Context().Done()
	}))
	a := newCallerAgent(t, &plan{targets: []relay.Target{p.target()}})
	got := make(chan answer)
	go func() { got <- call(t, "POST", a.url+"/m", strings.NewReader("hi"), "dapr-app-id", "cart") }()
	<-began
	p.peer.server.Stop()
	want(t, <-got, 502, "OUTCOME_UNKNOWN")
}

// TestGraceEnds says that a server does not wait for ever for its calls.
func TestGraceEnds(t *testing.T) {
	began := make(chan bool)
	p := newPeerAgentGrace(t, time.Millisecond, "west", "cart-1", application(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		began <- true
		<-r.Context().Done()
	}))
	got := make(chan error)
	go func() {
		got <- stream(t, sidecar(t, p.addr), nil, &reqMsg{Request: leading("x")}).err
	}()
	<-began
	p.stop()
	if err := <-got; err == nil {
		t.Error("the call ended well")
	}
}
