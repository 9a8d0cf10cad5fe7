package face

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	agentv1 "github.com/farcall/farcall/api/farcall/agent/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// pieces is what came of one Broadcast.
type pieces struct {
	targets         map[string]*agentv1.BroadcastResponse_Target
	order           []string
	summary         *agentv1.BroadcastResponse_Summary
	header, trailer metadata.MD
	err             error
}

// broadcast makes a Broadcast; md holds key, value, key, value.
func broadcast(t *testing.T, a *callerAgent, in *agentv1.BroadcastRequest, md ...string) pieces {
	t.Helper()
	stream, err := a.agent.Broadcast(metadata.NewOutgoingContext(testkit.Context(t), metadata.Pairs(md...)), in)
	if err != nil {
		t.Fatal(err)
	}
	out := pieces{targets: map[string]*agentv1.BroadcastResponse_Target{}}
	for {
		m, err := stream.Recv()
		if err != nil {
			if err != io.EOF {
				out.err = err
			}
			break
		}
		switch {
		case out.summary != nil:
			t.Errorf("after the summary came %v", m)
		case m.GetTarget() != nil:
			out.targets[m.GetTarget().GetCluster()] = m.GetTarget()
			out.order = append(out.order, m.GetTarget().GetCluster())
		default:
			out.summary = m.GetSummary()
		}
	}
	out.header, _ = stream.Header()
	out.trailer = stream.Trailer()
	return out
}

// TestBroadcastStream says what a stream brings of each target and of the whole, and what reaches
// the applications.
func TestBroadcastStream(t *testing.T) {
	east := newPeerAgent(t, "east", "east-1", application(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Seen", strings.Join([]string{
			r.Method, r.URL.String(), r.Header.Get("Content-Type"), r.Header.Get("X-Mine"), strings.Join(r.Header["Dapr-Caller-App-Id"], "|"), r.Header.Get("Farcall-Cluster"), r.Header.Get("Traceparent"),
		}, " "))
		w.Header().Set("X-Latin", "b\xe4d")
		w.Header().Set("Farcall-Tier", "mine")
		echo(w, r)
	}))
	broken := newPeerAgent(t, "west", "west-500", application(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(500)
		_, _ = io.WriteString(w, "oops")
	}))
	p := fanOut(part("east", east.target()), part("west", broken.target()), part("south", nobody(t, "s-1"), nobody(t, "s-2")),
		relay.ClusterChoice{Cluster: "north", Unreachable: true})
	p.terms.MinSuccess = 1
	a := newCallerAgent(t, p)
	traceparent := "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
	got := broadcast(t, a, &agentv1.BroadcastRequest{
		Service: "cart.prod", Method: "/m/n", Verb: "PUT", Query: "q=1", ContentType: "text/mine", Body: []byte("hi"),
		Headers: map[string]string{"x-mine": "1", "dapr-caller-app-id": "admin", "farcall-cluster": "moon"},
	}, "traceparent", traceparent, "farcall-cluster", "east", "x-not-mine", "1")
	if got.err != nil || len(got.targets) != 4 || got.order[0] != "north" {
		t.Fatalf("got %v, %v", got.err, got.order)
	}
	q := a.plan.queries[0]
	if q.Name.String() != "prod/cart" || q.Strategy != "broadcast" || q.Cluster != "east" || q.Header("X-MINE") != "1" {
		t.Errorf("asked %+v", q)
	}
	e := got.targets["east"]
	if e.GetInstance() != "east-1" || e.GetStatus() != 200 || string(e.GetBody()) != "hi" || e.GetError() != "" || e.GetReason() != "" || e.GetAttempts() != 1 {
		t.Errorf("east: %v", e)
	}
	for k, want := range map[string]string{
		"X-Seen": "PUT /m/n?q=1 text/mine 1 web  " + traceparent, "X-Latin": "b\uFFFDd", "Farcall-Tier": "",
	} {
		if v := strings.Join(e.GetHeaders()[k].GetValues(), "|"); v != want {
			t.Errorf("%s: got %q, want %q", k, v, want)
		}
	}
	for cluster, want := range map[string]*agentv1.BroadcastResponse_Target{
		"west":  {Instance: "west-500", Status: 500, Body: []byte("oops"), Error: "the application answered 500", Reason: "APPLICATION_ERROR", Attempts: 1},
		"south": {Instance: "s-2", Reason: "NO_CONNECTION", Attempts: 2, Error: "connection refused"},
		"north": {Reason: "UNREACHABLE", Error: "cluster north is measured unreachable"},
	} {
		g := got.targets[cluster]
		if g.GetInstance() != want.GetInstance() || g.GetStatus() != want.GetStatus() || string(g.GetBody()) != string(want.GetBody()) ||
			!strings.Contains(g.GetError(), want.GetError()) || g.GetReason() != want.GetReason() || g.GetAttempts() != want.GetAttempts() {
			t.Errorf("%s: %v", cluster, g)
		}
	}
	if s := got.summary; s.GetTargets() != 4 || s.GetSucceeded() != 1 || s.GetMinSuccess() != 1 || !s.GetMet() {
		t.Errorf("summary: %v", s)
	}
	if h := got.header; strings.Join(h["farcall-strategy"], "|") != "broadcast" || strings.Join(h["farcall-reason"], "|") != "by the plan" ||
		strings.Join(got.trailer["farcall-attempts"], "|") != "4" {
		t.Errorf("header %v, trailer %v", h, got.trailer)
	}
}

// TestBroadcastStreamMisses says that too few successes are no error of the stream.
func TestBroadcastStreamMisses(t *testing.T) {
	east := newPeerAgent(t, "east", "east-1", application(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Method", r.Method)
	}))
	p := fanOut(part("east", east.local()), part("south", nobody(t, "s")))
	a := newCallerAgent(t, p)
	got := broadcast(t, a, &agentv1.BroadcastRequest{Service: "cart", Method: "m"})
	if s := got.summary; got.err != nil || s.GetTargets() != 2 || s.GetSucceeded() != 1 || s.GetMinSuccess() != 2 || s.GetMet() {
		t.Errorf("got %v, %v", got.err, s)
	}
	if m := got.targets["east"].GetHeaders()["X-Method"].GetValues(); len(m) != 1 || m[0] != "POST" {
		t.Errorf("called by %q", m)
	}
	got = broadcast(t, newCallerAgent(t, fanOut()), &agentv1.BroadcastRequest{Service: "cart", Method: "m"})
	if status.Code(got.err) != codes.Unavailable || got.summary != nil {
		t.Errorf("without a target: got %v, %v", got.err, got.summary)
	}
}

// TestBroadcastStreamComesInPieces says that a target's message does not wait for the others, and
// that the shorter of the two timeouts ends those that do not answer.
func TestBroadcastStreamComesInPieces(t *testing.T) {
	slow := func(_ http.ResponseWriter, r *http.Request) { _, _ = io.ReadAll(r.Body); <-r.Context().Done() }
	parts := func() *plan {
		return fanOut(part("slow", newPeerAgent(t, "slow", "slow-1", application(t, slow)).target()),
			part("east", newPeerAgent(t, "east", "east-1", application(t, echo)).target()))
	}
	ctx, cancel := context.WithCancel(testkit.Context(t))
	stream, err := newCallerAgent(t, parts()).agent.Broadcast(ctx, &agentv1.BroadcastRequest{Service: "cart", Method: "m", Body: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || m.GetTarget().GetCluster() != "east" {
		t.Errorf("got %v, %v", m, err)
	}
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	for _, c := range []struct {
		inMessage time.Duration
		inHeader  string
	}{{50 * time.Millisecond, ""}, {0, "50ms"}, {time.Hour, "50ms"}, {50 * time.Millisecond, "1h"}} {
		in := &agentv1.BroadcastRequest{Service: "cart", Method: "m"}
		if c.inMessage > 0 {
			in.Timeout = durationpb.New(c.inMessage)
		}
		var md []string
		if c.inHeader != "" {
			md = []string{"farcall-timeout", c.inHeader}
		}
		got := broadcast(t, newCallerAgent(t, parts()), in, md...)
		if got.err != nil || got.targets["slow"].GetReason() != invoke.ReasonDeadline || len(got.targets) != 2 {
			t.Errorf("%+v: got %v, %v", c, got.err, got.targets)
		}
	}
}

// TestBroadcastStreamRefuses says which questions are bad, and that a refusal of the policy is
// handed on.
func TestBroadcastStreamRefuses(t *testing.T) {
	ok := func() *agentv1.BroadcastRequest { return &agentv1.BroadcastRequest{Service: "cart", Method: "m"} }
	denied := &plan{err: invoke.Errorf(codes.PermissionDenied, invoke.ReasonDenied, "override: deny,\nsays the policy of f\u00fcr")}
	for _, c := range []struct {
		what string
		plan *plan
		in   func(*agentv1.BroadcastRequest)
		md   []string
		code codes.Code
		text string
	}{
		{what: "denied", plan: denied, code: codes.PermissionDenied, text: "override: deny"},
		{what: "no name", in: func(r *agentv1.BroadcastRequest) { r.Service = "" }, code: codes.InvalidArgument, text: "service"},
		{what: "bad method", in: func(r *agentv1.BroadcastRequest) { r.Method = "a?b" }, code: codes.InvalidArgument, text: "method"},
		{what: "bad verb", in: func(r *agentv1.BroadcastRequest) { r.Verb = "put" }, code: codes.InvalidArgument, text: `verb "put": want one of GET, HEAD, POST, PUT`},
		{what: "CONNECT", in: func(r *agentv1.BroadcastRequest) { r.Verb = "CONNECT" }, code: codes.InvalidArgument, text: "verb"},
		{what: "bad timeout", in: func(r *agentv1.BroadcastRequest) { r.Timeout = durationpb.New(-1) }, code: codes.InvalidArgument, text: "positive duration"},
		{what: "bad timeout in metadata", md: []string{"farcall-timeout", "soon"}, code: codes.InvalidArgument, text: "positive duration"},
		{what: "another strategy", md: []string{"farcall-strategy", "any"}, code: codes.InvalidArgument, text: `"any": this call is a broadcast`},
	} {
		t.Run(c.what, func(t *testing.T) {
			p := c.plan
			if p == nil {
				p = fanOut()
			}
			in := ok()
			if c.in != nil {
				c.in(in)
			}
			got := broadcast(t, newCallerAgent(t, p), in, c.md...)
			if status.Code(got.err) != c.code || !strings.Contains(got.err.Error(), c.text) {
				t.Errorf("got %v", got.err)
			}
			reason := strings.Join(got.header["farcall-reason"], "|")
			if !strings.HasPrefix(reason, reasonOf(status.Convert(got.err))+": ") || !invoke.Printable(reason) {
				t.Errorf("for the reason %q", reason)
			}
		})
	}
}

// TestBroadcastStreamIsBounded says that an answer which does not fit into a message is a failed
// target, and does not end the stream.
func TestBroadcastStreamIsBounded(t *testing.T) {
	huge := newPeerAgent(t, "west", "huge", application(t, func(w http.ResponseWriter, _ *http.Request) {
		for range 3 {
			w.Header().Add("X-Long", strings.Repeat("h", 60<<10))
		}
		_, _ = io.Copy(w, io.LimitReader(zeros{}, 5<<20))
	}))
	east := newPeerAgent(t, "east", "east-1", application(t, echo))
	got := broadcast(t, newCallerAgent(t, fanOut(part("east", east.target()), part("west", huge.target()))), &agentv1.BroadcastRequest{Service: "cart", Method: "m"})
	if got.err != nil || got.summary.GetSucceeded() != 1 || got.targets["west"].GetReason() != invoke.ReasonTooLarge {
		t.Errorf("got %v, %v, %s", got.err, got.summary, got.targets["west"].GetReason())
	}
}
