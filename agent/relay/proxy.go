package relay

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/agent/conns"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/proxy"
	"github.com/farcall/farcall/agent/wire"
)

// Began takes the header of a proxied call's answer, as soon as it is there, and what is known of
// the call by then; it writes both to the caller. An error means that the caller is gone.
type Began func(header metadata.MD, a Answer) error

// Proxy makes a proxied call at one instance of ch, and at others as Do does, where all that its
// caller said was kept; gRPC does not say which methods may be repeated, so that only what was
// certainly not executed is. It returns when the call is over.
//
// Where the application ended the call, with whatever status, the answer's Response has the code
// of that and no body, and the ending is there. began is called at most once, and before that.
func (r *Relay) Proxy(ctx context.Context, ch Choice, call *proxy.Call, began Began) (a Answer, end proxy.Ending) {
	a = r.attempts(ctx, ch, call.Service, attempts{
		replayable: call.Replayable,
		make: func(t Target, a *Answer) (err *invoke.Error) {
			end, err = r.proxyTo(ctx, t, call, a, began)
			return err
		},
	})
	return a, end
}

// proxyTo makes an attempt at one instance.
func (r *Relay) proxyTo(ctx context.Context, t Target, call *proxy.Call, a *Answer, began Began) (proxy.Ending, *invoke.Error) {
	var span trace.Span // of a call that is traced
	if r.tracer != nil {
		ctx, span = r.traceProxied(ctx, t, call)
	}
	at := time.Now()
	d := &delivery{metrics: r.metrics, done: t.Done, local: t.Local, ctx: ctx, span: span}
	s, err := r.open(ctx, t, call)
	if err != nil {
		return proxy.Ending{}, d.fail(err, at)
	}
	end, err := call.Run(ctx, s, func(header metadata.MD) error {
		d.latency = time.Since(at)
		a.from(t)
		said := *a
		said.Err = nil // of an attempt before this one
		return began(header, said)
	})
	if err != nil {
		return proxy.Ending{}, d.fail(err, at)
	}
	if d.latency == 0 {
		d.latency = time.Since(at)
	}
	a.Response = response(end.Status)
	a.from(t)
	d.finish(outcomeOfStatus(ctx, a.Response))
	return end, nil
}

// outcomeOfStatus says what an application's status tells of the instance. That a deadline passed
// is the deadline's doing where the caller has one, whoever noticed first.
func outcomeOfStatus(ctx context.Context, r *invoke.Response) Outcome {
	if _, limited := ctx.Deadline(); limited && codes.Code(r.Status) == codes.DeadlineExceeded {
		return Late
	}
	if r.ServerError() {
		return ServedError
	}
	return Served
}

// fail accounts for an attempt without an answer, or with a part of one.
func (d *delivery) fail(err *invoke.Error, began time.Time) *invoke.Error {
	if d.latency == 0 {
		d.latency = time.Since(began)
	}
	d.failure = err
	d.finish(outcomeOf(err))
	return err
}

// response is an application's status as an answer of any other kind has it.
func response(st *status.Status) *invoke.Response {
	code := st.Code()
	if code > codes.Unauthenticated {
		code = codes.Unknown // from 100 up it would pass for an HTTP status
	}
	return &invoke.Response{Status: int(code), Message: st.Message()}
}

func (r *Relay) open(ctx context.Context, t Target, call *proxy.Call) (*proxy.Stream, *invoke.Error) {
	if t.Local {
		return r.apps.Open(ctx, t.App, call)
	}
	return r.peers.open(ctx, t.Dial, t.Who, call, invoke.TargetKey, wire.FormatTarget(t.Instance.ID), invoke.HopKey, "1", invoke.OriginKey, r.peers.origin)
}

// open opens a stream to who listens at dial. daprd up to 1.17 routes by dapr-app-id alone,
// later ones by dapr-callee-app-id, which the call has.
func (p *peers) open(ctx context.Context, dial string, who conns.Who, call *proxy.Call, more ...string) (*proxy.Stream, *invoke.Error) {
	return proxy.Open(ctx, proxy.Way{
		Pool: p.pool, Address: dial, To: who, Peer: true, Afresh: p.afresh,
		Refused: func(why string) *invoke.Error {
			return invoke.NotDispatched(invoke.ReasonNoConnection, "%s: %s", dial, why)
		},
		Failed: func(err error, trailer metadata.MD) *invoke.Error { return peerError(ctx, dial, err, trailer) },
	}, call, append(more, invoke.DaprAppID, call.Service)...)
}

// traceProxied opens the span of one attempt, below that of its call, and makes it the parent of
// whatever the receiver traces. A call that is not traced is left as it is.
func (r *Relay) traceProxied(ctx context.Context, t Target, call *proxy.Call) (context.Context, trace.Span) {
	ctx, span, parent := r.spanOf(ctx, t)
	if span != nil {
		call.SetTrace(parent)
	}
	return ctx, span
}
