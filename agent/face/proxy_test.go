package face

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/internal/testkit"
)

// way is one that a proxied call takes to the test application.
type way struct {
	name string
	cc   *grpc.ClientConn
	plan *plan // nil at a peer
	peer *peerAgent
}

// ctx is that of a call to cart.
func (w *way) ctx(t testing.TB, md ...string) context.Context {
	return metadata.AppendToOutgoingContext(testkit.Context(t), append([]string{"dapr-app-id", "cart"}, md...)...)
}

// everyWay runs f with an application of its own for each way: by the caller's agent alone, by that
// and the application's, from a sidecar, and from a sidecar to the application's agent.
func everyWay(t *testing.T, a func() *talker, f func(t *testing.T, w *way, a *talker)) {
	for _, name := range []string{"own", "relayed", "sidecar", "peer"} {
		t.Run(name, func(t *testing.T) {
			a := a()
			f(t, newWay(t, name, a), a)
		})
	}
}

func newWay(t *testing.T, name string, a *talker, options ...grpc.ServerOption) *way {
	t.Helper()
	p := newPeerAgent(t, "west", "cart-1", talk(t, a, options...))
	w := &way{name: name, peer: p, plan: &plan{targets: []relay.Target{p.target()}}}
	switch name {
	case "own":
		w.plan.targets = []relay.Target{p.local()}
		w.cc = newCallerAgent(t, w.plan).conn
	case "relayed":
		w.cc = newCallerAgent(t, w.plan).conn
	case "sidecar":
		w.cc = dial(t, newSidecarFace(t, w.plan).addr)
	case "peer":
		w.plan, w.cc = nil, dial(t, p.addr)
	}
	return w
}

func plain() *talker { return &talker{} }

// many opens a stream of the test application.
func (w *way) many(t testing.TB, ctx context.Context, options ...grpc.CallOption) grpc.ClientStream {
	t.Helper()
	s, err := w.cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, sayMany, options...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func send(t testing.TB, s grpc.ClientStream, words ...string) {
	t.Helper()
	for _, word := range words {
		if err := s.SendMsg(said(word)); err != nil {
			t.Fatalf("send %.20q: %v, %v", word, err, s.RecvMsg(new(wordMsg)))
		}
	}
}

func hear(t testing.TB, s grpc.ClientStream, want ...string) {
	t.Helper()
	for _, word := range want {
		m := new(wordMsg)
		if err := s.RecvMsg(m); err != nil {
			t.Fatalf("instead of %.20q: %v", word, err)
		}
		if string(m.GetValue()) != word {
			t.Fatalf("heard %.20q, want %.20q", m.GetValue(), word)
		}
	}
}

// end reads the end of a stream.
func end(t testing.TB, s grpc.ClientStream) error {
	t.Helper()
	m := new(wordMsg)
	err := s.RecvMsg(m)
	if err == nil {
		t.Fatalf("heard %.20q, want the end", m.GetValue())
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// TestProxyShapes makes calls of all four shapes by every way.
func TestProxyShapes(t *testing.T) {
	shapes := func() *talker {
		return &talker{stream: func(s grpc.ServerStream) error {
			md, _ := metadata.FromIncomingContext(s.Context())
			var heard []string
			for {
				m := new(wordMsg)
				err := s.RecvMsg(m)
				if err == io.EOF {
					break
				}
				if err != nil {
					return err
				}
				heard = append(heard, string(m.GetValue()))
			}
			answers := []string{strings.Join(heard, "+")}
			if md.Get("x-shape")[0] == "server" {
				answers = []string{"1", "2", "3"}
			}
			for _, a := range answers {
				if err := s.SendMsg(said(a)); err != nil {
					return err
				}
			}
			return nil
		}}
	}
	everyWay(t, shapes, func(t *testing.T, w *way, a *talker) {
		out := new(wordMsg)
		if err := w.cc.Invoke(w.ctx(t), sayOne, said("one"), out); err != nil || string(out.GetValue()) != "one" {
			t.Errorf("unary: %q %v", out.GetValue(), err)
		}
		up := w.many(t, w.ctx(t, "x-shape", "client"))
		send(t, up, "a", "b", "c")
		_ = up.CloseSend()
		hear(t, up, "a+b+c")
		wantCode(t, end(t, up), codes.OK)
		down := w.many(t, w.ctx(t, "x-shape", "server"))
		send(t, down, "a")
		_ = down.CloseSend()
		hear(t, down, "1", "2", "3")
		wantCode(t, end(t, down), codes.OK)
		silent := w.many(t, w.ctx(t, "x-shape", "server"))
		_ = silent.CloseSend()
		hear(t, silent, "1", "2", "3")
		wantCode(t, end(t, silent), codes.OK)
		if w.plan != nil && w.plan.said() != "cart-1 served, cart-1 served, cart-1 served, cart-1 served" {
			t.Error("the router was told otherwise")
		}
	})
	everyWay(t, plain, func(t *testing.T, w *way, a *talker) {
		both := w.many(t, w.ctx(t))
		for i := range 100 {
			send(t, both, fmt.Sprint(i))
			hear(t, both, fmt.Sprint(i))
		}
		_ = both.CloseSend()
		wantCode(t, end(t, both), codes.OK)
		if n := both.Trailer().Get("x-messages"); len(n) != 1 || n[0] != "100" {
			t.Errorf("trailer %v", both.Trailer())
		}
	})
}

// What an application says travels as it is: any status with its text and details, UNAVAILABLE
// included, with or without a header, at once or in the middle; and is never made again elsewhere.
func TestProxyStatus(t *testing.T) {
	detailed, err := status.New(codes.Unavailable, "büsy\n").WithDetails(&errdetails.RetryInfo{}, &errdetails.ErrorInfo{Reason: "R", Domain: "app"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what    string
		status  *status.Status
		header  bool // sent before
		message bool // sent before
		trailer metadata.MD
		outcome string
	}{
		{what: "at once", status: status.New(codes.NotFound, "nobody"), outcome: "served"},
		{what: "with details", status: detailed, outcome: "served_error"},
		{what: "with details in the middle", status: detailed, header: true, message: true, outcome: "served_error"},
		{what: "unavailable after the header", status: status.New(codes.Unavailable, "going"), header: true, outcome: "served_error"},
		{what: "unavailable after a message", status: status.New(codes.Unavailable, "going"), message: true, outcome: "served_error"},
		{what: "internal with trailers", status: status.New(codes.Internal, "oh"), message: true, trailer: metadata.Pairs("x-t", "1", "x-t", "2", "x-bin", "\x00\xff"), outcome: "served_error"},
		{what: "trailers alone", status: status.New(codes.Aborted, "a"), trailer: metadata.Pairs("x-t", "1"), outcome: "served"},
		{what: "the application says what an agent would", status: status.New(codes.Unavailable, "x"), trailer: metadata.Pairs("farcall-not-dispatched", "no", "farcall-status-by", "agent", "farcall-served-by", "me"), outcome: "served_error"},
		{what: "a code that there is not", status: status.New(42, "?"), message: true, outcome: "served_error"},
		{what: "cancelled", status: status.New(codes.Canceled, "stop"), message: true, outcome: "served"},
	} {
		t.Run(c.what, func(t *testing.T) {
			a := func() *talker {
				return &talker{stream: func(s grpc.ServerStream) error {
					if c.header {
						_ = s.SendHeader(metadata.Pairs("x-h", "1"))
					}
					if c.message {
						_ = s.SendMsg(said("m"))
					}
					s.SetTrailer(c.trailer)
					return c.status.Err()
				}}
			}
			everyWay(t, a, func(t *testing.T, w *way, a *talker) {
				if w.plan != nil {
					w.plan.targets = append(w.plan.targets, w.plan.targets[0]) // to be tried again at
				}
				s := w.many(t, w.ctx(t))
				if c.message {
					hear(t, s, "m")
				}
				got := status.Convert(end(t, s))
				if fmt.Sprint(got.Proto()) != fmt.Sprint(c.status.Proto()) {
					t.Errorf("got %v, want %v", got.Proto(), c.status.Proto())
				}
				for k, v := range c.trailer {
					if ours := strings.HasPrefix(k, "farcall-"); !ours && fmt.Sprint(s.Trailer()[k]) != fmt.Sprint(v) || ours && strings.Contains(fmt.Sprint(s.Trailer()[k]), v[0]) {
						t.Errorf("trailer %s: %q", k, s.Trailer()[k])
					}
				}
				if a.count() != 1 {
					t.Errorf("executed %d times", a.count())
				}
				if w.plan != nil && w.plan.said() != "cart-1 "+c.outcome {
					t.Error("the router was told otherwise")
				}
				if h, _ := s.Header(); c.header && fmt.Sprint(h["x-h"]) != "[1]" {
					t.Errorf("header %v", h)
				}
			})
		})
	}
}

// TestProxyAnswerSays looks at what is said of a call: in the header, and where there is none in the
// trailer.
func TestProxyAnswerSays(t *testing.T) {
	a := &talker{unary: func(ctx context.Context, in *wordMsg) (*wordMsg, error) {
		if string(in.GetValue()) == "fail" {
			return nil, status.Error(codes.NotFound, "no")
		}
		_ = grpc.SetHeader(ctx, metadata.Pairs("x-h", "h", "farcall-served-by", "me", "x-bin", "\x00\x01"))
		return in, nil
	}}
	w := newWay(t, "relayed", a)
	w.plan.targets = append([]relay.Target{nobody(t, "cart-0")}, w.plan.targets...)
	var header, trailer metadata.MD
	if err := w.cc.Invoke(w.ctx(t), sayOne, said("x"), new(wordMsg), grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
		t.Fatal(err)
	}
	wantMD(t, header, "farcall-served-by", "west/cart-1", "farcall-strategy", "local-first", "farcall-tier", "west", "farcall-attempts", "2",
		"farcall-reason", "by the plan; attempt 2, in tier west", "x-h", "h", "x-bin", "\x00\x01", "farcall-status-by", "")
	wantMD(t, trailer, "farcall-served-by", "", "farcall-status-by", "")
	wantCode(t, w.cc.Invoke(w.ctx(t), sayOne, said("fail"), new(wordMsg), grpc.Header(&header), grpc.Trailer(&trailer)), codes.NotFound)
	wantMD(t, header, "farcall-served-by", "")
	wantMD(t, trailer, "farcall-served-by", "west/cart-1", "farcall-strategy", "local-first", "farcall-attempts", "2", "farcall-reason", "by the plan; attempt 2, in tier west")
	w.plan.mu.Lock()
	w.plan.targets = nil
	w.plan.mu.Unlock()
	wantCode(t, w.cc.Invoke(w.ctx(t), sayOne, said("x"), new(wordMsg), grpc.Trailer(&trailer)), codes.Unavailable)
	wantMD(t, trailer, "farcall-served-by", "", "farcall-strategy", "local-first", "farcall-attempts", "0", "farcall-reason", "NO_INSTANCE: no instance of cart to call")
}

func wantMD(t testing.TB, md metadata.MD, want ...string) {
	t.Helper()
	for i := 0; i < len(want); i += 2 {
		if got := strings.Join(md[want[i]], "|"); got != want[i+1] {
			t.Errorf("%s: got %q, want %q", want[i], got, want[i+1])
		}
	}
}

// TestProxyMetadata is the table of what of a call's metadata reaches the application.
func TestProxyMetadata(t *testing.T) {
	everyWay(t, plain, func(t *testing.T, w *way, a *talker) {
		ctx := w.ctx(t,
			"dapr-caller-app-id", "spoofed", "dapr-caller-namespace", "till", "dapr-callee-app-id", "spoofed", "destination-app-id", "x",
			"dapr-api-token", "secret", "farcall-strategy", "any", "farcall-cluster", "west", "farcall-timeout", "10s", "farcall-origin", "x",
			"x-plain", "a", "x-plain", "b", "x-bin", "\x00\xff", "x-bin", "",
			"traceparent", "00-ffffffffffffffffffffffffffffffff-0123456789abcdef-00", "tracestate", "a=1", "grpc-trace-bin", "odd", "authorization", "Bearer x")
		if err := w.cc.Invoke(ctx, sayOne, said("x"), new(wordMsg), grpc.CallContentSubtype("proto")); err != nil {
			t.Fatal(err)
		}
		got := a.last()
		wantMD(t, got, "dapr-app-id", "", "destination-app-id", "", "dapr-callee-app-id", "cart",
			"dapr-api-token", "", "x-plain", "a|b", "x-bin", "\x00\xff|", "content-type", "application/grpc+proto",
			"traceparent", "00-ffffffffffffffffffffffffffffffff-0123456789abcdef-00", "tracestate", "a=1", "grpc-trace-bin", "odd", "authorization", "Bearer x",
			":authority", got[":authority"][0])
		if w.plan == nil {
			// It comes from an agent or a sidecar, which was told so.
			wantMD(t, got, "dapr-caller-app-id", "spoofed", "dapr-caller-namespace", "till")
		} else {
			wantMD(t, got, "dapr-caller-app-id", "web", "dapr-caller-namespace", "shop")
			q := w.plan.queries[0]
			if q.Strategy != "any" || q.Cluster != "west" || q.Header("x-plain") != "a" {
				t.Errorf("asked for %+v", q)
			}
			if ns := q.Name.Namespace; (w.name == "sidecar") != (ns == "till") {
				t.Errorf("looked in namespace %s", ns)
			}
		}
		for k := range got {
			if strings.HasPrefix(k, "farcall-") {
				t.Errorf("the application got %s", k)
			}
		}
	})
}

// upper is a codec that the agents do not know.
type upper struct{}

func (upper) Name() string { return "upper" }
func (upper) Marshal(v any) ([]byte, error) {
	return []byte(strings.ToUpper(string(v.(*wordMsg).GetValue()))), nil
}
func (upper) Unmarshal(b []byte, v any) error {
	v.(*wordMsg).Value = b
	return nil
}

// TestProxyContent says that the agents neither know what a message is made of nor have to, and
// that a caller may compress it.
func TestProxyContent(t *testing.T) {
	encoding.RegisterCodec(upper{})
	for _, c := range []struct {
		what     string
		option   grpc.CallOption
		received string
		answer   string
	}{
		{"as its subtype says", grpc.CallContentSubtype("upper"), "application/grpc+upper", "ABC"},
		{"compressed", grpc.UseCompressor(gzip.Name), "application/grpc", "abc"},
	} {
		t.Run(c.what, func(t *testing.T) {
			everyWay(t, plain, func(t *testing.T, w *way, a *talker) {
				var header metadata.MD
				out := new(wordMsg)
				if err := w.cc.Invoke(w.ctx(t), sayOne, said("abc"), out, c.option, grpc.Header(&header)); err != nil || string(out.GetValue()) != c.answer {
					t.Fatalf("%q %v", out.GetValue(), err)
				}
				wantMD(t, header, "content-type", c.received)
				wantMD(t, a.last(), "content-type", c.received)
			})
		})
	}
}

// TestProxyNames is the table of whom a call is for.
func TestProxyNames(t *testing.T) {
	a := plain()
	w := newWay(t, "relayed", a)
	sidecar := newSidecarFace(t, &plan{targets: []relay.Target{w.peer.target()}})
	faces := map[string]*grpc.ClientConn{"grpc": w.cc, "dapr": dial(t, sidecar.addr), "peer": dial(t, w.peer.addr)}
	for _, c := range []struct {
		what   string
		method string
		md     []string
		code   codes.Code
		text   string
		name   string
	}{
		{what: "dapr-app-id", md: []string{"dapr-app-id", "cart"}, name: "shop/cart"},
		{what: "dapr-callee-app-id, the last", md: []string{"dapr-callee-app-id", "x", "dapr-callee-app-id", "cart"}, name: "shop/cart"},
		{what: "both: dapr-app-id", md: []string{"dapr-app-id", "cart", "dapr-callee-app-id", "x"}, name: "shop/cart"},
		{what: "with a namespace", md: []string{"dapr-app-id", "cart.till"}, name: "till/cart"},
		{what: "none", code: codes.Unknown, text: "metadata has no dapr-app-id"},
		{what: "empty", md: []string{"dapr-app-id", ""}, code: codes.Unknown, text: "metadata has no dapr-app-id"},
		{what: "own service's unknown method", method: "/dapr.proto.runtime.v1.Dapr/Nothing", md: []string{"dapr-app-id", "cart"}, code: codes.Unimplemented, text: "unknown method"},
		{what: "malformed", md: []string{"dapr-app-id", "a.b.c"}, code: codes.InvalidArgument},
		{what: "no name", md: []string{"dapr-app-id", ".shop"}, code: codes.InvalidArgument},
		{what: "bad timeout", md: []string{"dapr-app-id", "cart", "farcall-timeout", "soon"}, code: codes.InvalidArgument, text: "positive duration"},
	} {
		for face, cc := range faces {
			peer := face == "peer"
			if peer && (c.code == codes.InvalidArgument || c.method != "") {
				continue // such names are unknown there, and timeouts nothing
			}
			t.Run(c.what+" at "+face, func(t *testing.T) {
				method := cmp.Or(c.method, sayOne)
				if c.method != "" && face == "dapr" {
					method = "/dapr.proto.internals.v1.ServiceInvocation/Nothing"
				}
				w.plan.queries, sidecar.plan.queries = nil, nil
				ctx := metadata.AppendToOutgoingContext(testkit.Context(t), c.md...)
				wantStatus(t, cc.Invoke(ctx, method, said("x"), new(wordMsg)), c.code, c.text)
				if asked := append(w.plan.queries, sidecar.plan.queries...); !peer && c.name != "" && asked[0].Name.String() != c.name {
					t.Errorf("asked for %s", asked[0].Name)
				}
			})
		}
	}
	wantStatus(t, faces["peer"].Invoke(metadata.AppendToOutgoingContext(testkit.Context(t), "dapr-app-id", "other"), sayOne, said("x"), new(wordMsg)), codes.Unavailable, `no available instance of "other"`)
}

// TestProxyRefused is the table of calls that are answered by an agent.
func TestProxyRefused(t *testing.T) {
	web := newPeerAgent(t, "west", "cart-1", application(t, echo))
	good := newPeerAgent(t, "west", "cart-2", talk(t, plain()))
	down := newPeerAgent(t, "west", "cart-3", endpoint(t, testkit.Nobody(t), app.GRPC))
	terse := newPeerAgent(t, "west", "cart-4", talk(t, plain(), grpc.MaxHeaderListSize(1024)))
	for _, c := range []struct {
		what   string
		plan   *plan
		code   codes.Code
		text   string
		reason string
	}{
		{what: "more metadata than the application takes", plan: &plan{targets: []relay.Target{terse.local(), good.target()}}, code: codes.InvalidArgument, text: "header list size", reason: "INVALID_ARGUMENT"},
		{what: "more metadata than an application elsewhere takes", plan: &plan{targets: []relay.Target{terse.target(), good.target()}}, code: codes.InvalidArgument, text: "header list size", reason: "INVALID_ARGUMENT"},
		{what: "broadcast", plan: &plan{strategy: relay.Broadcast}, code: codes.FailedPrecondition, text: "farcall-strategy", reason: "UNSUPPORTED"},
		{what: "an HTTP application", plan: &plan{targets: []relay.Target{web.local(), good.target()}}, code: codes.FailedPrecondition, text: "apps[].protocol", reason: "UNSUPPORTED"},
		{what: "an HTTP application elsewhere", plan: &plan{targets: []relay.Target{web.target(), good.target()}}, code: codes.FailedPrecondition, text: "apps[].protocol", reason: "UNSUPPORTED"},
		{what: "not listening", plan: &plan{targets: []relay.Target{down.local()}}, code: codes.Unavailable, text: "does not take connections", reason: "APP_DOWN"},
		{what: "no peer", plan: &plan{targets: []relay.Target{nobody(t, "x")}}, code: codes.Unavailable, reason: "NO_CONNECTION"},
		{what: "nobody", plan: &plan{}, code: codes.Unavailable, reason: "NO_INSTANCE"},
		{what: "unknown", plan: &plan{err: invoke.Errorf(codes.NotFound, "NOT_FOUND", "no such name")}, code: codes.NotFound, reason: "NOT_FOUND"},
		{what: "denied", plan: &plan{err: invoke.Errorf(codes.PermissionDenied, "OVERRIDE_DENIED", "no")}, code: codes.PermissionDenied, reason: "OVERRIDE_DENIED"},
		{what: "odd", plan: &plan{err: errors.New("odd")}, code: codes.Unavailable, reason: "NOT_DISPATCHED"},
	} {
		t.Run(c.what, func(t *testing.T) {
			cc := newCallerAgent(t, c.plan).conn
			err := cc.Invoke(metadata.AppendToOutgoingContext(testkit.Context(t), "dapr-app-id", "cart", "x-large", strings.Repeat("x", 2<<10)), sayOne, said("x"), new(wordMsg))
			wantStatus(t, err, c.code, c.text)
			if got := ourReason(err); got != c.reason {
				t.Errorf("reason %q", got)
			}
		})
	}
	t.Run("a sidecar hands on what an agent relayed", func(t *testing.T) {
		f := newSidecarFace(t, &plan{targets: []relay.Target{good.target()}})
		err := dial(t, f.addr).Invoke(metadata.AppendToOutgoingContext(testkit.Context(t), "dapr-app-id", "cart", "farcall-hop", "2"), sayOne, said("x"), new(wordMsg))
		wantStatus(t, err, codes.FailedPrecondition, "relayed it already")
	})
}

// ourReason gives the reason that an agent put into a status.
func ourReason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == invoke.ErrorDomain {
			return info.GetReason()
		}
	}
	return ""
}
