package face

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	internalsv1 "github.com/farcall/farcall/api/dapr/proto/internals/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

// sidecarFace is an agent's face for sidecars, and a sidecar that calls it.
type sidecarFace struct {
	internalsv1.ServiceInvocationClient
	plan *plan
	stop func()
	addr string
}

func newSidecarFace(t *testing.T, p *plan) *sidecarFace {
	t.Helper()
	p.strategy, p.terms.Rule = "local-first", "by the plan"
	if len(p.clusters) > 0 {
		p.strategy = relay.Broadcast
	}
	p.terms.Attempts, p.terms.MaxParallel = 3, 16
	apps := app.New()
	t.Cleanup(apps.Close)
	r, err := relay.New(relay.Config{Cluster: "east", Node: "node-1"}, relay.Deps{Router: p, Apps: apps, Log: testkit.Log(t), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	d, err := NewDapr(
		Config{Cluster: "east", Node: "node-1", Apps: []App{{Name: web}}, Host: "10.0.0.1", Grace: time.Second},
		Deps{Relay: r, Own: own{}, Log: testkit.Log(t)},
	)
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	stop := testkit.Go(t, "dapr", func(ctx context.Context) error { return d.Run(ctx, l) })
	return &sidecarFace{sidecar(t, l.Addr().String()), p, stop, l.Addr().String()}
}

// with adds to the metadata of a call's head.
func with(kv ...string) func(*internalsv1.InternalInvokeRequest) {
	return func(p *internalsv1.InternalInvokeRequest) {
		for i := 0; i < len(kv); i += 2 {
			p.Metadata[kv[i]] = &internalsv1.ListStringValue{Values: []string{kv[i+1]}}
		}
	}
}

func wantStatus(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if st := status.Convert(err); st.Code() != code || !strings.Contains(st.Message(), text) {
		t.Errorf("got %v, want %v with %q", err, code, text)
	}
}

// A sidecar's call is an application's: it gets the whole strategy, is stamped with who this node
// says that it is from, and its answer says who served it. A daprd is told no length.
func TestDaprMakesTheCall(t *testing.T) {
	var got http.Header
	p := newPeerAgent(t, "west", "cart-1", application(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		w.Header().Set("Farcall-Served-By", "me")
		w.Header().Set("X-App", "1")
		echo(w, r)
	}))
	pl := &plan{targets: []relay.Target{nobody(t, "cart-0"), p.target()}}
	f := newSidecarFace(t, pl)
	const span = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-00"
	head := leading("a/../b", with(
		"dapr-caller-app-id", "spoofed", "Dapr-Caller-App-Id", "spoofed", "dapr-caller-namespace", "till", "dapr-callee-app-id", "cart",
		"Farcall-Strategy", "any", "farcall-cluster", "west", "Farcall-Timeout", "10s", "X-Hash", "h", "X-Custom", "c",
		"Content-Length", "6", "Traceparent", "00-ffffffffffffffffffffffffffffffff-0123456789abcdef-00"))
	head.Message.HttpExtension.Querystring = "q=1"
	out := stream(t, f, metadata.Pairs("traceparent", span),
		&reqMsg{Request: head, Payload: piece(0, "abc")}, &reqMsg{Payload: piece(1, "def")})
	if out.err != nil || out.head.GetStatus().GetCode() != 200 || out.body() != "abcdef" {
		t.Fatalf("%v %q %v", out.head, out.body(), out.err)
	}
	wantHeader(t, got, "Dapr-Caller-App-Id", "web", "Dapr-Caller-Namespace", "shop", "Dapr-Callee-App-Id", "cart", "X-Custom", "c",
		"Farcall-Strategy", "", "Farcall-Timeout", "", "Farcall-Cluster", "", "Destination-App-Id", "", "Content-Length", "6",
		"X-Forwarded-For", "10.0.0.1", "Traceparent", span)
	q := pl.queries[0]
	if q.Name != (catalog.Name{Namespace: "till", Service: "cart"}) || q.Strategy != "any" || q.Cluster != "west" || q.Header("x-hash") != "h" {
		t.Errorf("asked for %+v", q)
	}
	h := http.Header{}
	for k, v := range out.head.GetHeaders() {
		h[http.CanonicalHeaderKey(k)] = v.GetValues()
	}
	wantHeader(t, h, "Farcall-Served-By", "west/cart-1", "Farcall-Attempts", "2", "Farcall-Strategy", "local-first",
		"X-App", "1", "X-Method", "POST", "X-Url", "/b?q=1", "Content-Length", "")
	if said := pl.said(); said != "cart-0 not_executed, cart-1 served" {
		t.Errorf("the relay said %s", said)
	}

	unary, err := f.CallLocal(testkit.Context(t), leading("b", func(p *internalsv1.InternalInvokeRequest) {
		p.Message.Data = &anypb.Any{Value: []byte("hello")}
	}, with("content-length", "99")))
	if err != nil || string(unary.GetMessage().GetData().GetValue()) != "hello" {
		t.Errorf("CallLocal: %v, %v", unary, err)
	}
}

// What an agent relayed already, and what makes no sense, is refused before anybody is asked.
func TestDaprRefuses(t *testing.T) {
	pl := &plan{}
	f := newSidecarFace(t, pl)
	for _, c := range []struct {
		what string
		md   metadata.MD
		head *internalsv1.InternalInvokeRequest
		code codes.Code
		text string
	}{
		{"a hop", metadata.Pairs(invoke.HopKey, "1"), leading("b"), codes.FailedPrecondition, "an agent has relayed it already"},
		{"the last hop", metadata.Pairs(invoke.HopKey, "2"), leading("b"), codes.FailedPrecondition, "an agent has relayed it already"},
		{"a target", metadata.Pairs(invoke.TargetKey, "east/default/cart/a"), leading("b"), codes.FailedPrecondition, invoke.TargetKey},
		{"no destination", nil, leading("b", with(invoke.DestinationAppID, "")), codes.InvalidArgument, "which application"},
		{"a destination that is no name", nil, leading("b", with(invoke.DestinationAppID, "a.b.c")), codes.InvalidArgument, "more than one dot"},
		{"a namespace that is no name", nil, leading("b", with(invoke.CallerNamespace, "a\x01b")), codes.InvalidArgument, ""},
		{"a bad timeout", nil, leading("b", with("Farcall-Timeout", "soon")), codes.InvalidArgument, "want a positive duration"},
		{"CONNECT", nil, leading("b", func(p *internalsv1.InternalInvokeRequest) {
			p.Message.HttpExtension.Verb = commonv1.HTTPExtension_CONNECT
		}), codes.InvalidArgument, "invalid HTTP verb"},
		{"a bad method", nil, leading("a\x00b"), codes.InvalidArgument, "invalid method"},
		{"no metadata", nil, leading("b", func(p *internalsv1.InternalInvokeRequest) { p.Metadata = nil }), codes.InvalidArgument, "metadata is empty"},
	} {
		wantStatus(t, stream(t, f, c.md, &reqMsg{Request: c.head}).err, c.code, c.text)
		_, err := f.CallLocal(metadata.NewOutgoingContext(testkit.Context(t), c.md), c.head)
		wantStatus(t, err, c.code, c.text)
	}
	if len(pl.queries) > 0 {
		t.Errorf("asked for %v", pl.queries)
	}
}

// UNAVAILABLE, upon which sidecars call again, is only said of what certainly was not executed.
func TestDaprErrors(t *testing.T) {
	hangUp := newPeerAgent(t, "west", "cart-1", application(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/half") {
			_, _ = w.Write(make([]byte, 100<<10))
			_ = http.NewResponseController(w).Flush()
		}
		panic(http.ErrAbortHandler)
	}))
	for _, c := range []struct {
		what   string
		plan   *plan
		method string
		code   codes.Code
		text   string
	}{
		{"unknown", &plan{err: invoke.Errorf(codes.NotFound, invoke.ReasonNotFound, "nobody knows it")}, "x", codes.NotFound, "nobody knows it"},
		{"not synced", &plan{err: invoke.Errorf(codes.Unavailable, "NOT_SYNCED", "wait")}, "x", codes.Unavailable, "wait"},
		{"nobody there", &plan{targets: []relay.Target{nobody(t, "a"), nobody(t, "b")}}, "x", codes.Unavailable, ""},
		{"no answer", &plan{targets: []relay.Target{hangUp.target(), nobody(t, "b")}}, "x", codes.Internal, ""},
		{"half an answer", &plan{targets: []relay.Target{hangUp.target()}}, "half", codes.Internal, ""},
	} {
		f := newSidecarFace(t, c.plan)
		out := stream(t, f, nil, &reqMsg{Request: leading(c.method), Payload: piece(0, "x")})
		wantStatus(t, out.err, c.code, c.text)
		if c.code == codes.Internal && reasonOf(status.Convert(out.err)) != invoke.ReasonOutcomeUnknown {
			t.Errorf("%s: the reason is %q", c.what, reasonOf(status.Convert(out.err)))
		}
		if half := len(out.body()) > 0; half != (c.method == "half") {
			t.Errorf("%s: %d bytes came", c.what, len(out.body()))
		}
	}
}

// A call ends at its deadline, and when it was answered, though its sidecar holds back the rest of
// the body. The application need not have read all of it.
func TestDaprWaitsForNobody(t *testing.T) {
	p := newPeerAgent(t, "west", "cart-1", application(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/early" {
			_ = http.NewResponseController(w).EnableFullDuplex()
			fmt.Fprint(w, "enough")
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	for name, targets := range map[string][]relay.Target{"peer": {p.target()}, "own": {p.local()}} {
		pl := &plan{targets: targets}
		f := newSidecarFace(t, pl)
		for _, length := range []string{"5", "500000", ""} {
			start := func(method string, kv ...string) (internalsv1.ServiceInvocation_CallLocalStreamClient, error) {
				st, err := f.CallLocalStream(testkit.Context(t))
				if err != nil {
					t.Fatal(err)
				}
				head := leading(method, with(kv...))
				if length != "" {
					with("Content-Length", length)(head)
				}
				return st, st.Send(&reqMsg{Request: head, Payload: piece(0, "abc")})
			}
			st, err := start("all", "Farcall-Timeout", "100ms")
			if err == nil {
				_, err = st.Recv()
			}
			wantStatus(t, err, codes.DeadlineExceeded, "")
			if length == "5" {
				continue // a small body is awaited before the call is made
			}
			if st, err = start("early"); err != nil {
				t.Fatal(err)
			}
			m, err := st.Recv()
			if err != nil || m.GetResponse().GetStatus().GetCode() != 200 {
				t.Fatalf("%s, length %q: %v, %v", name, length, m, err)
			}
			for err == nil {
				_, err = st.Recv()
			}
			if err != io.EOF {
				t.Errorf("%s, length %q: %v", name, length, err)
			}
		}
	}
}

// A sidecar that goes away ends its call at the application.
func TestDaprCallerGoesAway(t *testing.T) {
	came, gone := make(chan struct{}), make(chan struct{})
	p := newPeerAgent(t, "west", "cart-1", application(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else net/http would not notice that the caller is gone
		close(came)
		<-r.Context().Done()
		close(gone)
	}))
	pl := &plan{targets: []relay.Target{p.target()}}
	f := newSidecarFace(t, pl)
	ctx, cancel := context.WithCancel(testkit.Context(t))
	st, err := f.CallLocalStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(st.Send(&reqMsg{Request: leading("x")}), st.CloseSend()); err != nil {
		t.Fatal(err)
	}
	<-came
	cancel()
	<-gone
	testkit.Eventually(t, testkit.Context(t), "nothing speaks against the instance", func() error {
		if said := pl.said(); said != "cart-1 abandoned" {
			return fmt.Errorf("said %q", said)
		}
		return nil
	})
}

// A broadcast is answered with the first success in the order of the clusters.
func TestDaprBroadcast(t *testing.T) {
	says := func(code int, words string) relay.Target {
		return newPeerAgent(t, words, words+"-1", application(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Farcall-Broadcast", "forged")
			w.WriteHeader(code)
			b, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s got %d", words, len(b))
		})).target()
	}
	pl := &plan{}
	for _, target := range []relay.Target{says(500, "east"), says(200, "north"), says(200, "west")} {
		pl.clusters = append(pl.clusters, relay.ClusterChoice{Cluster: target.Instance.Cluster, Choice: pl.choice([]relay.Target{target})})
	}
	again := pl.clusters
	f := newSidecarFace(t, pl)
	pl.terms.MinSuccess = 2
	body := strings.Repeat("x", 200<<10)
	out := stream(t, f, nil, &reqMsg{Request: leading("x"), Payload: piece(0, body)}, &reqMsg{Payload: piece(1, body)})
	if out.err != nil || out.body() != "north got 409600" {
		t.Errorf("%q, %v", out.body(), out.err)
	}
	if got := out.head.GetHeaders()[invoke.BroadcastKey].GetValues(); strings.Join(got, " ") != "east/east-1=500 north/north-1=OK west/west-1=OK" {
		t.Errorf("said of the targets: %v", got)
	}
	for i, c := range again {
		pl.clusters[i].Choice = pl.choice([]relay.Target{nobody(t, c.Cluster)})
	}
	wantStatus(t, stream(t, f, nil, &reqMsg{Request: leading("x")}).err, codes.Unavailable, "0 of 3 targets succeeded")
	out = stream(t, f, nil, &reqMsg{Request: leading("x", with("Content-Length", "5000000")), Payload: piece(0, body)})
	wantStatus(t, out.err, codes.ResourceExhausted, "larger than")
}

// A body that streams was not begun where an application does not listen, so that the call still
// goes elsewhere: a sidecar's as well as an application's own.
func TestStreamGoesElsewhere(t *testing.T) {
	p := newPeerAgent(t, "west", "cart-1", application(t, echo))
	down := p.local()
	down.App = endpoint(t, testkit.Nobody(t), app.HTTP)
	for name, first := range map[string]relay.Target{"own application": down, "peer": nobody(t, "cart-0")} {
		f := newSidecarFace(t, &plan{targets: []relay.Target{first, p.target()}})
		out := stream(t, f, nil, &reqMsg{Request: leading("x"), Payload: piece(0, "abc")}, &reqMsg{Payload: piece(1, "def")})
		if out.err != nil || out.body() != "abcdef" {
			t.Errorf("%s: %q, %v", name, out.body(), out.err)
		}
		a := newCallerAgent(t, &plan{targets: []relay.Target{first, p.target()}})
		body := struct{ io.Reader }{strings.NewReader("abcdef")}
		if got := call(t, http.MethodPost, a.url+"/v1.0/invoke/cart/method/x", body); got.StatusCode != 200 || got.body != "abcdef" {
			t.Errorf("%s, over HTTP: %d %q", name, got.StatusCode, got.body)
		}
	}
}

// However much a sidecar sends, or an application answers, little of it is held here while the
// other side does not read.
func TestDaprHoldsLittle(t *testing.T) {
	const whole, most = 96 << 20, 32 << 20 // most is mainly what the system's sockets hold
	var up, down atomic.Int64
	goOn := make(chan struct{})
	chunk := make([]byte, 32<<10)
	p := newPeerAgent(t, "west", "cart-1", application(t, func(w http.ResponseWriter, r *http.Request) {
		<-goOn
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		for down.Load() < whole {
			if _, err := w.Write(chunk); err != nil {
				return
			}
			down.Add(int64(len(chunk)))
		}
	}))
	f := newSidecarFace(t, &plan{targets: []relay.Target{p.target()}})
	ctx, cancel := context.WithCancel(testkit.Context(t))
	defer cancel()
	st, err := f.CallLocalStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		err := st.Send(&reqMsg{Request: leading("x")})
		for seq := uint64(0); err == nil && up.Load() < whole; seq++ {
			err = st.Send(&reqMsg{Payload: &commonv1.StreamPayload{Data: chunk, Seq: seq}})
			up.Add(int64(len(chunk)))
		}
		sent <- errors.Join(err, st.CloseSend())
	}()
	stands := func(what string, n *atomic.Int64) {
		t.Helper()
		last, same := int64(-1), 0
		testkit.Eventually(t, ctx, what+" stands still", func() error {
			if now := n.Load(); now == 0 || now != last {
				last, same = now, 0
			}
			if same++; same < 5 {
				return fmt.Errorf("%d bytes", last)
			}
			return nil
		})
		if last > most {
			t.Errorf("%s: %d bytes were taken that nobody reads", what, last)
		}
	}
	stands("the request", &up)
	close(goOn)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	stands("the answer", &down)
}
