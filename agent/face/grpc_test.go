package face

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	runtimev1 "github.com/farcall/farcall/api/dapr/proto/runtime/v1"
	"github.com/farcall/farcall/internal/testkit"
)

type grpcAnswer struct {
	*commonv1.InvokeResponse
	header, trailer metadata.MD
	err             error
}

func (a grpcAnswer) first(k string) string { return strings.Join(a.header[k], "|") }

// invokeService makes one InvokeService call; md holds key, value, key, value.
func invokeService(t *testing.T, a *callerAgent, id, body string, verb commonv1.HTTPExtension_Verb, md ...string) grpcAnswer {
	t.Helper()
	var out grpcAnswer
	out.InvokeResponse, out.err = a.grpc.InvokeService(metadata.NewOutgoingContext(testkit.Context(t), metadata.Pairs(md...)), &runtimev1.InvokeServiceRequest{
		Id: id,
		Message: &commonv1.InvokeRequest{
			Method: "/m/n", Data: &anypb.Any{Value: []byte(body)}, ContentType: "text/plain",
			HttpExtension: &commonv1.HTTPExtension{Verb: verb, Querystring: "q=1"},
		},
	}, grpc.Header(&out.header), grpc.Trailer(&out.trailer))
	return out
}

func TestInvokeServiceOfHTTP(t *testing.T) {
	bothLegs(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Own", "1")
		w.Header().Set("X-Seen", r.Method+" "+r.URL.String()+" "+r.Header.Get("Dapr-Caller-App-Id")+" "+r.Header.Get("X-Mine")+" "+r.Header.Get("Content-Type"))
		switch r.Header.Get("X-Mine") {
		case "404":
			w.WriteHeader(404)
			_, _ = io.WriteString(w, strings.Repeat("n", 100))
		case "302":
			w.WriteHeader(302)
		default:
			echo(w, r)
		}
	}, func(t *testing.T, a *callerAgent) {
		got := invokeService(t, a, "cart.prod", "hi", commonv1.HTTPExtension_PUT, "x-mine", "1", "dapr-caller-app-id", "admin", "farcall-cluster", "west", "farcall-timeout", "10s")
		if got.err != nil || string(got.GetData().GetValue()) != "hi" {
			t.Fatalf("got %v", got.err)
		}
		if q := a.plan.queries[0]; q.Name.String() != "prod/cart" || q.Cluster != "west" {
			t.Errorf("asked %+v", q)
		}
		for k, want := range map[string]string{
			"x-seen": "PUT /m/n?q=1 web 1 text/plain", "x-own": "1", "dapr-cache-control": "no-store", "dapr-http-status": "200",
			"farcall-served-by": "west/cart-1", "farcall-strategy": "local-first", "farcall-attempts": "1",
		} {
			if got.first(k) != want {
				t.Errorf("%s: got %q, want %q", k, got.first(k), want)
			}
		}

		got = invokeService(t, a, "cart", "", commonv1.HTTPExtension_GET, "x-mine", "404")
		st := status.Convert(got.err)
		info, ok := st.Details()[0].(*errdetails.ErrorInfo)
		if st.Code() != codes.NotFound || st.Message() != "Not Found" || !ok || info.GetReason() != "Not Found" || info.GetDomain() != "dapr.io" ||
			info.GetMetadata()["http.code"] != "404" || info.GetMetadata()["http.error_message"] != strings.Repeat("n", 63) {
			t.Errorf("got %v with %v", st, st.Details())
		}
		if got.first("dapr-http-status") != "404" || got.first("farcall-served-by") != "west/cart-1" {
			t.Errorf("got %v", got.header)
		}
		if got = invokeService(t, a, "cart", "", commonv1.HTTPExtension_GET, "x-mine", "302"); status.Code(got.err) != codes.Unknown {
			t.Errorf("got %v", got.err)
		}
		if got = invokeService(t, a, "cart", "", commonv1.HTTPExtension_NONE); status.Code(got.err) != codes.InvalidArgument || !strings.Contains(got.err.Error(), "missing HTTP extension field") {
			t.Errorf("got %v", got.err)
		}
	})
}

// grpcApp is an application that speaks gRPC.
type grpcApp struct {
	runtimev1.UnimplementedAppCallbackServer
}

func (grpcApp) OnInvoke(ctx context.Context, in *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	_ = grpc.SetHeader(ctx, metadata.Pairs("x-seen", strings.Join(md["dapr-caller-app-id"], "|")+" "+in.GetMethod(), "x-raw-bin", "\x00\xff"))
	_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "t"))
	if string(in.GetData().GetValue()) == "fail" {
		st, _ := status.New(codes.AlreadyExists, "twice").WithDetails(&errdetails.ErrorInfo{Reason: "MINE"})
		return nil, st.Err()
	}
	return &commonv1.InvokeResponse{Data: in.GetData(), ContentType: "text/mine"}, nil
}

func TestGRPCApplication(t *testing.T) {
	s := grpc.NewServer()
	runtimev1.RegisterAppCallbackServer(s, grpcApp{})
	l := listen(t)
	testkit.Go(t, "app", func(context.Context) error { return s.Serve(l) })
	t.Cleanup(s.Stop)
	p := newPeerAgent(t, "west", "cart-1", endpoint(t, l.Addr(), app.GRPC))
	for _, target := range []relay.Target{p.target(), p.local()} {
		a := newCallerAgent(t, &plan{targets: []relay.Target{target}})
		got := invokeService(t, a, "cart", "hi", commonv1.HTTPExtension_NONE)
		if got.err != nil || string(got.GetData().GetValue()) != "hi" || got.GetContentType() != "text/mine" ||
			got.first("x-seen") != "web m/n" || got.first("x-raw-bin") != "\x00\xff" || strings.Join(got.trailer["x-trailer"], "") != "t" {
			t.Errorf("got %+v", got)
		}
		got = invokeService(t, a, "cart", "fail", commonv1.HTTPExtension_NONE)
		st := status.Convert(got.err)
		if st.Code() != codes.AlreadyExists || st.Message() != "twice" || len(st.Details()) != 1 || got.first("farcall-served-by") != "west/cart-1" {
			t.Errorf("got %v with %v", st, st.Details())
		}
		// The same application, called over HTTP.
		h := call(t, "POST", a.url+"/m", strings.NewReader("hi"), "dapr-app-id", "cart")
		want(t, h, 200, "hi")
		wantHeader(t, h.Header, "X-Seen", "web m", "Content-Type", "text/mine", "X-Raw-Bin", "")
		h = call(t, "POST", a.url+"/m", strings.NewReader("fail"), "dapr-app-id", "cart")
		want(t, h, 409, `"twice"`)
		wantHeader(t, h.Header, "Content-Type", "application/json", "farcall-served-by", "west/cart-1")
	}
}

// TestInvokeServiceCodes pins the fixed codes of design.md.
func TestInvokeServiceCodes(t *testing.T) {
	e, _ := dying(t, "")
	for _, c := range []struct {
		what   string
		plan   *plan
		id     string
		md     []string
		code   codes.Code
		reason string
	}{
		{"bad strategy", &plan{err: invoke.Errorf(codes.InvalidArgument, "BAD_STRATEGY", "x")}, "cart", nil, codes.InvalidArgument, "BAD_STRATEGY"},
		{"denied", &plan{err: invoke.Errorf(codes.PermissionDenied, invoke.ReasonDenied, "x")}, "cart", nil, codes.PermissionDenied, invoke.ReasonDenied},
		{"unknown", &plan{err: invoke.Errorf(codes.NotFound, invoke.ReasonNotFound, "x")}, "cart", nil, codes.NotFound, invoke.ReasonNotFound},
		{"not synced", &plan{err: invoke.Errorf(codes.Unavailable, "NOT_SYNCED", "x")}, "cart", nil, codes.Unavailable, "NOT_SYNCED"},
		{"bad name", &plan{}, "a.b.c", nil, codes.InvalidArgument, invoke.ReasonInvalid},
		{"no name", &plan{}, "", nil, codes.InvalidArgument, invoke.ReasonInvalid},
		{"bad timeout", &plan{}, "cart", []string{"farcall-timeout", "soon"}, codes.InvalidArgument, invoke.ReasonInvalid},
		{"nobody there", &plan{targets: []relay.Target{nobody(t, "a")}}, "cart", nil, codes.Unavailable, invoke.ReasonNoConnection},
		{"dies", &plan{targets: []relay.Target{newPeerAgent(t, "west", "c", e).target()}}, "cart", nil, codes.Internal, invoke.ReasonOutcomeUnknown},
		{"late", &plan{targets: []relay.Target{newPeerAgent(t, "west", "c", application(t, func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
			<-r.Context().Done()
		})).target()}}, "cart", []string{"farcall-timeout", "50ms"}, codes.DeadlineExceeded, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			got := invokeService(t, newCallerAgent(t, c.plan), c.id, "x", commonv1.HTTPExtension_POST, c.md...)
			st := status.Convert(got.err)
			if st.Code() != c.code {
				t.Fatalf("got %v", got.err)
			}
			if c.reason != "" && st.Details()[0].(*errdetails.ErrorInfo).GetReason() != c.reason {
				t.Errorf("got %v", st.Details())
			}
		})
	}
	a := newCallerAgent(t, &plan{})
	if _, err := a.grpc.InvokeService(testkit.Context(t), &runtimev1.InvokeServiceRequest{Id: "cart"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a call without a message: %v", err)
	}
}

// TestHugeAnswer says that an answer that cannot be one message is an error and not a crash.
func TestHugeAnswer(t *testing.T) {
	p := newPeerAgent(t, "west", "cart-1", application(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.Copy(w, io.LimitReader(zeros{}, 5<<20))
	}))
	got := invokeService(t, newCallerAgent(t, &plan{targets: []relay.Target{p.target()}}), "cart", "", commonv1.HTTPExtension_GET)
	if status.Code(got.err) != codes.ResourceExhausted {
		t.Errorf("got %v", got.err)
	}
	if _, err := sidecar(t, p.addr).CallLocal(testkit.Context(t), leading("x")); status.Code(err) != codes.Internal {
		t.Errorf("got %v", err)
	}
}

func TestNewNeedsItsParts(t *testing.T) {
	if _, err := NewHTTP(Config{}, Deps{}); err == nil {
		t.Error("made an HTTP face of nothing")
	}
	if _, err := NewGRPC(Config{}, Deps{}); err == nil {
		t.Error("made a gRPC face of nothing")
	}
	if _, err := NewPeer(Config{}, PeerDeps{}); err == nil {
		t.Error("made a peer face of nothing")
	}
	l := listen(t)
	l.Close()
	a := newCallerAgent(t, &plan{})
	if err := a.http.Run(t.Context(), l); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("served on a closed listener: %v", err)
	}
}
