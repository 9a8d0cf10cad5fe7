package relay

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/farcall/farcall/agent/invoke"
)

// The attributes of spans.
const (
	attrService  = attribute.Key("farcall.service")
	attrCaller   = attribute.Key("farcall.caller")
	attrStrategy = attribute.Key("farcall.strategy")
	attrTier     = attribute.Key("farcall.tier")
	attrReason   = attribute.Key("farcall.reason")
	attrCluster  = attribute.Key("farcall.cluster")
	attrInstance = attribute.Key("farcall.instance")
	attrAttempts = attribute.Key("farcall.attempts")
	attrCode     = attribute.Key("farcall.code")
	attrOutcome  = attribute.Key("farcall.outcome")
)

// w3c reads and writes traceparent and tracestate.
var w3c = propagation.TraceContext{}

// Trace reads the trace context in a call's headers. Where the caller samples the trace, and the
// agent has a tracer, it opens the call's span, which End closes; the context that it gives must
// then be the one that the call is made with. Any other call it leaves untraced, whatever becomes
// of it: the decision is the caller's.
func (c *Record) Trace(ctx context.Context, h invoke.Header) context.Context {
	c.TraceParent = h.TraceParent()
	tracer := c.relay.tracer
	if tracer == nil || c.TraceParent == "" {
		return ctx
	}
	parent := w3c.Extract(ctx, propagation.MapCarrier{"traceparent": c.TraceParent, "tracestate": h.TraceState()})
	if !trace.SpanContextFromContext(parent).IsSampled() {
		return ctx
	}
	ctx, span := tracer.Start(parent, "call", trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(c.began))
	c.span = span
	return ctx
}

// endSpan closes the span of a call.
func (c *Record) endSpan(a Answer, err error) {
	attrs := []attribute.KeyValue{
		attrService.String(c.Name.String()),
		attrCaller.String(c.Caller.AppID),
		attrAttempts.Int(a.Attempts),
		attrCode.Int(code(a)),
	}
	said := func(k attribute.Key, v string) {
		if v != "" {
			attrs = append(attrs, k.String(v))
		}
	}
	said(attrStrategy, a.Strategy)
	said(attrTier, a.TierName)
	said(attrReason, a.Rule)
	if a.Instance != nil {
		said(attrCluster, a.Instance.Cluster)
		said(attrInstance, a.Instance.Instance)
	}
	c.span.SetAttributes(attrs...)
	switch {
	case a.Err != nil:
		c.span.SetStatus(otelcodes.Error, a.Err.Error())
	case err != nil:
		c.span.SetStatus(otelcodes.Error, "answer cut short: "+err.Error())
	case a.Response != nil && a.Response.ServerError():
		c.span.SetStatus(otelcodes.Error, "the application answered with an error")
	}
	c.span.End()
}

// traceAttempt opens the span of one attempt, below that of its call, and makes it the parent of
// whatever the receiver traces. A call that is not traced is left as it is.
func (r *Relay) traceAttempt(ctx context.Context, t Target, req *invoke.Request) (context.Context, *invoke.Request, trace.Span) {
	ctx, span, parent := r.spanOf(ctx, t)
	if span == nil {
		return ctx, req, nil
	}
	return ctx, req.WithTraceParent(parent), span
}

// spanOf opens the span of an attempt, and gives its traceparent; nil where the call is not traced.
func (r *Relay) spanOf(ctx context.Context, t Target) (context.Context, trace.Span, string) {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, nil, ""
	}
	ctx, span := r.tracer.Start(ctx, "attempt", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attrCluster.String(t.Instance.Cluster),
		attrInstance.String(t.Instance.Instance),
		attrTier.String(t.TierName),
	))
	out := propagation.MapCarrier{}
	w3c.Inject(ctx, out)
	return ctx, span, out["traceparent"]
}

// endAttempt closes the span of an attempt.
func endAttempt(span trace.Span, o Outcome, failure error) {
	span.SetAttributes(attrOutcome.String(o.String()))
	switch {
	case failure != nil:
		span.SetStatus(otelcodes.Error, failure.Error())
	case o != Served:
		span.SetStatus(otelcodes.Error, o.String())
	}
	span.End()
}
