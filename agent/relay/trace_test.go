package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	otelcodes "go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

func testDeps(a Apps) Deps {
	return Deps{Router: noRouter{}, Apps: a, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()}
}

const (
	traceID  = "4bf92f3577b34da6a3ce929d0e0e4736"
	parentID = "00f067aa0ba902b7"
	sampled  = "00-" + traceID + "-" + parentID + "-01"
)

// tapped notes which traceparent each delivery has.
type tapped struct {
	script
	seen []string
}

func (a *tapped) Deliver(ctx context.Context, e app.Endpoint, r *invoke.Request) (*invoke.Response, error) {
	a.seen = append(a.seen, r.TraceParent())
	return a.script.Deliver(ctx, e, r)
}

// traced makes a call with a traceparent, and gives the spans that ended, the call's last.
func traced(t *testing.T, a *tapped, traceparent string, ch Choice) (spans []sdktrace.ReadOnlySpan, req *invoke.Request) {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())), sdktrace.WithSpanProcessor(recorder))
	deps := testDeps(a)
	deps.Tracer = provider.Tracer("test")
	r, err := New(Config{Cluster: "east", Node: "n"}, deps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	req = &invoke.Request{Service: "cart", Verb: "POST", Header: invoke.Header{"Tracestate": {"a=1", "b=2"}}}
	if traceparent != "" {
		req.Header["Traceparent"] = []string{traceparent}
	}
	record := r.Begin(invoke.Identity{AppID: "web"})
	record.Name = catalog.Name{Namespace: "shop", Service: "cart"}
	ctx := record.Trace(testkit.Context(t), req.Header)
	if record.TraceParent != traceparent {
		t.Errorf("the record has traceparent %q", record.TraceParent)
	}
	answer := r.Do(ctx, ch, req)
	if answer.Response != nil {
		_, _ = io.Copy(io.Discard, answer.Response.Body)
		answer.Response.Body.Close()
	}
	record.End(answer, nil)
	if started := recorder.Started(); len(started) != len(recorder.Ended()) {
		t.Errorf("%d spans were begun and %d ended", len(started), len(recorder.Ended()))
	}
	return recorder.Ended(), req
}

func attributes(s sdktrace.ReadOnlySpan) string {
	m := map[string]string{}
	for _, a := range s.Attributes() {
		m[string(a.Key)] = a.Value.String()
	}
	var words []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		words = append(words, strings.TrimPrefix(k, "farcall.")+"="+m[k])
	}
	return strings.Join(words, ";")
}

// TestSpans says what is on the spans of a sampled call, how they hang together, and that each
// receiver gets the attempt's span for its parent.
func TestSpans(t *testing.T) {
	a := &tapped{script: script{refused, served(500)}}
	spans, req := traced(t, a, sampled, &list{n: 2, terms: Terms{Rule: "local is empty"}})
	if len(spans) != 3 {
		t.Fatalf("%d spans", len(spans))
	}
	call := spans[2]
	if call.Name() != "call" || call.SpanContext().TraceID().String() != traceID || call.Parent().SpanID().String() != parentID ||
		!call.Parent().IsRemote() || call.SpanContext().TraceState().String() != "a=1,b=2" {
		t.Errorf("got %s below %s", call.Name(), call.Parent().SpanID())
	}
	if got, want := attributes(call), "attempts=2;caller=web;cluster=east;code=500;instance=1;reason=local is empty; attempt 2, in tier tier 1;service=shop/cart;strategy=local-first;tier=tier 1"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if s := call.Status(); s.Code != otelcodes.Error {
		t.Errorf("status %v", s)
	}
	for i, want := range []struct{ attributes, status string }{
		{"cluster=east;instance=0;outcome=refused;tier=tier 0", "APP_DOWN: down"},
		{"cluster=east;instance=1;outcome=served_error;tier=tier 1", "served_error"},
	} {
		s := spans[i]
		if s.Name() != "attempt" || s.Parent().SpanID() != call.SpanContext().SpanID() || attributes(s) != want.attributes || s.Status().Description != want.status {
			t.Errorf("attempt %d: %s below %s, %s, %v", i, s.Name(), s.Parent().SpanID(), attributes(s), s.Status())
		}
		if got, want := a.seen[i], fmt.Sprintf("00-%s-%s-01", traceID, s.SpanContext().SpanID()); got != want {
			t.Errorf("attempt %d: the receiver saw %s, want %s", i, got, want)
		}
	}
	if req.TraceParent() != sampled {
		t.Errorf("the request was changed: %s", req.TraceParent())
	}
}

// TestSpansOfFailures says what a span says of a call that has no answer.
func TestSpansOfFailures(t *testing.T) {
	spans, _ := traced(t, &tapped{script: script{unknown}}, sampled, &list{n: 1})
	if got, want := attributes(spans[1]), "attempts=1;caller=web;cluster=east;code=502;instance=0;service=shop/cart;strategy=local-first;tier=tier 0"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if s := spans[1].Status(); s.Code != otelcodes.Error || s.Description != "OUTCOME_UNKNOWN: broke" {
		t.Errorf("status %v", s)
	}
	if spans, _ = traced(t, &tapped{}, sampled, &list{}); len(spans) != 1 || spans[0].Status().Description != "NO_INSTANCE: no instance of cart to call" {
		t.Errorf("got %v", spans)
	}
}

// TestUnsampledCallsAreLeftAlone says that nothing is begun, and nothing changed, where the caller
// does not sample, or says nothing that is a trace.
func TestUnsampledCallsAreLeftAlone(t *testing.T) {
	for _, tp := range []string{
		"", "00-" + traceID + "-" + parentID + "-00", "nonsense", "00-" + traceID + "-01", "00-00000000000000000000000000000000-" + parentID + "-01", "ff-" + traceID + "-" + parentID + "-01",
	} {
		a := &tapped{script: script{served(200)}}
		if spans, _ := traced(t, a, tp, &list{n: 1}); len(spans) != 0 || a.seen[0] != tp {
			t.Errorf("%q: %d spans, and the receiver saw %q", tp, len(spans), a.seen[0])
		}
	}
}

// TestNoTracer says that without one a sampled call is served as any other, without further
// allocations.
func TestNoTracer(t *testing.T) {
	a := &tapped{script: script{served(200)}}
	r, err := New(Config{}, testDeps(a))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	record := r.Begin(invoke.Identity{})
	h := invoke.Header{"traceparent": {sampled}}
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() { ctx = record.Trace(ctx, h) }); n != 0 || ctx != t.Context() {
		t.Errorf("%v allocations", n)
	}
	answer := r.Do(ctx, &list{n: 1}, &invoke.Request{Header: h})
	answer.Response.Body.Close()
	record.End(answer, errors.New("torn"))
	if a.seen[0] != sampled || record.TraceParent != sampled {
		t.Errorf("the receiver saw %q", a.seen[0])
	}
}
