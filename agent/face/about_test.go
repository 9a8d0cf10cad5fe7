package face

import (
	"io"
	"net/http"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc/codes"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	"github.com/farcall/farcall/internal/catalog"
)

// TestEveryAnswerSaysWhy says what the headers of answers, errors and broadcasts say of their calls,
// and that an application cannot write them.
func TestEveryAnswerSaysWhy(t *testing.T) {
	p := newPeerAgent(t, "west", "cart-1", application(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("farcall-tier", "mine")
		w.Header().Set("farcall-reason", "I say so")
	}))
	dead, _ := dying(t, "")
	lost := newPeerAgent(t, "west", "cart-2", dead)
	odd := p.target()
	odd.TierName = "* (région eu)"
	for _, c := range []struct {
		what string
		plan *plan
		want []string // served by, strategy, tier, attempts, reason
	}{
		{"answer", &plan{targets: []relay.Target{p.target()}}, []string{"west/cart-1", "local-first", "west", "1", "by the plan"}},
		{"own instance", &plan{targets: []relay.Target{p.local()}}, []string{"west/cart-1", "local-first", "local", "1", "by the plan"}},
		{"second attempt", &plan{targets: []relay.Target{nobody(t, "a"), p.target()}, terms: relay.Terms{Rule: "local has 0 of 3 available"}},
			[]string{"west/cart-1", "local-first", "west", "2", "local has 0 of 3 available; attempt 2, in tier west"}},
		{"words that no header takes", &plan{targets: []relay.Target{odd}, terms: relay.Terms{Rule: "so\nit\x00is"}}, []string{"west/cart-1", "local-first", "* (r?gion eu)", "1", "so it?is"}},
		{"long words", &plan{targets: []relay.Target{odd}, terms: relay.Terms{Rule: strings.Repeat("x", 400)}},
			[]string{"west/cart-1", "local-first", "* (r?gion eu)", "1", strings.Repeat("x", 297) + "..."}},
		{"not routed", &plan{err: invoke.Errorf(codes.Unavailable, "NO_LOCAL_INSTANCES", "cart: 2 are draining")}, []string{"", "local-first", "", "0", "NO_LOCAL_INSTANCES: cart: 2 are draining"}},
		{"nobody there", &plan{}, []string{"", "local-first", "", "0", "NO_INSTANCE: no instance of cart to call"}},
		{"outcome unknown", &plan{targets: []relay.Target{lost.target()}}, []string{"west/cart-2", "local-first", "west", "1", "OUTCOME_UNKNOWN: "}},
		{"broadcast", fanOut(part("west", p.target())), []string{"", "broadcast", "", "1", "by the plan"}},
		{"failed broadcast", fanOut(part("west", p.target()), relay.ClusterChoice{Cluster: "north", Unreachable: true}),
			[]string{"", "broadcast", "", "1", "BROADCAST_FAILED: 1 of 2 targets succeeded, and 2 had to; north: UNREACHABLE"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			a := newCallerAgent(t, c.plan)
			check := func(face string, get func(k string) []string) {
				t.Helper()
				for i, k := range aboutKeys {
					got, want := strings.Join(get(k), "|"), c.want[i]
					if face == "gRPC" && c.what == "broadcast" && (k == invoke.ServedByKey || k == invoke.TierKey) {
						want = map[string]string{invoke.ServedByKey: "west/cart-1", invoke.TierKey: "west"}[k]
					}
					if got != want && (!strings.HasSuffix(want, ": ") || !strings.HasPrefix(got, want)) {
						t.Errorf("%s: %s: got %q, want %q", face, k, got, want)
					}
				}
			}
			check("HTTP", call(t, "POST", a.url+"/m", strings.NewReader("x"), "dapr-app-id", "cart").Header.Values)
			if c.plan.clusters != nil {
				for i := range c.plan.clusters {
					if ch, ok := c.plan.clusters[i].Choice.(*choice); ok {
						ch.left = []relay.Target{p.target()}
					}
				}
			}
			got := invokeService(t, a, "cart", "x", commonv1.HTTPExtension_POST)
			check("gRPC", func(k string) []string { return got.header[k] })
		})
	}
}

// TestQueriesCarryHeaders says that a router can read any header of a call, on both faces.
func TestQueriesCarryHeaders(t *testing.T) {
	a := newCallerAgent(t, &plan{})
	call(t, "GET", a.url+"/m", nil, "dapr-app-id", "cart", "X-User", "u1")
	invokeService(t, a, "cart", "x", commonv1.HTTPExtension_POST, "x-user", "u2")
	for i, want := range []string{"u1", "u2"} {
		q := a.plan.queries[i]
		if got := q.Header("X-User") + q.Header("x-user") + q.Header("x-nothing"); got != want+want {
			t.Errorf("%d: got %q", i, got)
		}
	}
}

// TestTraces says that a sampled call's spans and its receiver's hang together through both agents,
// and that any other call's trace context arrives as it was sent.
func TestTraces(t *testing.T) {
	const id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	sampled, unsampled := "00-"+id+"-"+parent+"-01", "00-"+id+"-"+parent+"-00"
	p := newPeerAgent(t, "west", "cart-1", application(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Join(r.Header["Traceparent"], "|")+" "+strings.Join(r.Header["Tracestate"], "|"))
	}))
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())), sdktrace.WithSpanProcessor(recorder))
	for _, target := range []relay.Target{p.target(), p.local()} {
		a := newTracedAgent(t, &plan{targets: []relay.Target{target}}, provider.Tracer("test"))
		faces := map[string]func(string) string{
			"HTTP": func(tp string) string {
				return call(t, "GET", a.url+"/m", nil, "dapr-app-id", "cart", "traceparent", tp, "tracestate", "a=1").body
			},
			"gRPC": func(tp string) string {
				got := invokeService(t, a, "cart", "", commonv1.HTTPExtension_GET, "traceparent", tp, "tracestate", "a=1")
				return string(got.GetData().GetValue())
			},
		}
		for face, ask := range faces {
			recorder.Reset()
			if got := ask(unsampled); got != unsampled+" a=1" || len(recorder.Started()) != 0 {
				t.Errorf("%s, unsampled: the application saw %q, and %d spans began", face, got, len(recorder.Started()))
			}
			got := ask(sampled)
			spans := recorder.Ended()
			if len(spans) != 2 {
				t.Fatalf("%s: %d spans", face, len(spans))
			}
			attempt, whole := spans[0], spans[1]
			if want := "00-" + id + "-" + attempt.SpanContext().SpanID().String() + "-01 a=1"; got != want {
				t.Errorf("%s: the application saw %q, want %q", face, got, want)
			}
			if whole.Parent().SpanID().String() != parent || attempt.Parent().SpanID() != whole.SpanContext().SpanID() {
				t.Errorf("%s: the spans do not hang together", face)
			}
		}
	}
	// A call that is refused before it is routed has its span too.
	recorder.Reset()
	a := newTracedAgent(t, &plan{err: invoke.Errorf(codes.NotFound, invoke.ReasonNotFound, "who?")}, provider.Tracer("test"))
	want(t, call(t, "GET", a.url+"/m", nil, "dapr-app-id", "a.b.c", "traceparent", sampled), 400, "")
	want(t, call(t, "GET", a.url+"/m", nil, "dapr-app-id", "cart", "traceparent", sampled), 404, "")
	if spans := recorder.Ended(); len(spans) != 2 || spans[1].Status().Description != "NOT_FOUND: who?" {
		t.Errorf("%d spans", len(spans))
	}
}

// TestAboutCostsLittle says that what every answer says is a fixed number of allocations, however
// long its words are.
func TestAboutCostsLittle(t *testing.T) {
	a := relay.Answer{
		Strategy: "local-first", TierName: "local", Rule: strings.Repeat("x", invoke.MaxText), Attempts: 1,
		Instance: &catalog.Instance{ID: catalog.ID{Cluster: "west", Instance: "cart-1"}},
	}
	h := http.Header{}
	describe(h, a)
	// The list of values, and the name of who served.
	if n := testing.AllocsPerRun(100, func() { describe(h, a) }); n > 2 {
		t.Errorf("%v allocations", n)
	}
}

// A call that nobody can take says which rule made it so, in the words of explain.
func TestARefusedCallNamesItsRule(t *testing.T) {
	why := invoke.Errorf(codes.Unavailable, "NO_LOCAL_INSTANCES", "shop/cart has no instance to call in cluster east")
	a := newCallerAgent(t, &plan{err: why, terms: relay.Terms{Rule: "policy service shop/cart: local-only: NO_LOCAL_INSTANCES"}})
	h := call(t, "GET", a.url+"/m", nil, "dapr-app-id", "cart").Header
	if h.Get(invoke.ReasonKey) != "policy service shop/cart: local-only: NO_LOCAL_INSTANCES" || h.Get(invoke.StrategyKey) != "local-first" {
		t.Errorf("got %v", h)
	}
	got := invokeService(t, a, "cart", "x", commonv1.HTTPExtension_POST)
	if r := strings.Join(got.header[invoke.ReasonKey], "|"); r != "policy service shop/cart: local-only: NO_LOCAL_INSTANCES" {
		t.Errorf("gRPC: %q", r)
	}
}
