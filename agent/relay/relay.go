// Package relay makes the attempts of a call: it takes an instance from a Choice, delivers to it
// (to an application of this node, or over CallLocalStream to the agent or sidecar next to it),
// and where that failed decides whether another attempt is safe.
//
// It does not choose and keeps no view of instances; it serves nothing. Its goroutines are those
// of a broadcast and of a request body being sent, joined before the call is over, and those of
// gRPC connections, which Close ends.
package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/conns"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/proxy"
	"github.com/farcall/farcall/internal/catalog"
)

// Apps delivers to an application of this node; *app.Channels does.
type Apps interface {
	Deliver(ctx context.Context, e app.Endpoint, r *invoke.Request) (*invoke.Response, error)
	// Open opens the stream of a proxied call. An error means that there is none.
	Open(ctx context.Context, e app.Endpoint, c *proxy.Call) (*proxy.Stream, *invoke.Error)
}

var _ Apps = (*app.Channels)(nil)

// Config says who the agent is.
type Config struct {
	Cluster string
	Node    string
	// AccessLog is which calls are logged; empty means LogErrors.
	AccessLog AccessLog
}

// Deps is what a Relay works with. All but Tracer and Credentials are needed.
type Deps struct {
	Router  Router
	Apps    Apps
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Tracer, where not nil, makes spans of the calls that their callers sample.
	Tracer trace.Tracer
	// Credentials, where not nil, give how the one whom a Target wants is spoken to; nil is for
	// plaintext.
	Credentials func(conns.Who) credentials.TransportCredentials
}

// Relay makes calls. It is safe for concurrent use.
type Relay struct {
	router    Router
	apps      Apps
	peers     *peers
	budget    *budget
	metrics   *metrics
	log       *slog.Logger
	tracer    trace.Tracer // nil without tracing
	accessLog AccessLog
}

// New makes a relay; nothing is dialled before the first call.
func New(c Config, d Deps) (*Relay, error) {
	if d.Router == nil || d.Apps == nil || d.Log == nil || d.Metrics == nil {
		return nil, errors.New("relay: Router, Apps, Log and Metrics are all needed")
	}
	if c.AccessLog == "" {
		c.AccessLog = LogErrors
	}
	if !c.AccessLog.valid() {
		return nil, fmt.Errorf("relay: accessLog %q: want off, errors or all", c.AccessLog)
	}
	m, err := newMetrics(d.Metrics)
	if err != nil {
		return nil, err
	}
	return &Relay{
		router:    d.Router,
		apps:      d.Apps,
		peers:     newPeers(c.Cluster, c.Node, d.Credentials),
		budget:    newBudget(time.Now()),
		metrics:   m,
		log:       d.Log,
		tracer:    d.Tracer,
		accessLog: c.AccessLog,
	}, nil
}

// Close ends the connections to peers; no call may be under way.
func (r *Relay) Close() { r.peers.close() }

// Reconnect says that a peer's address answers again, so that calls to it need not wait until a
// connection that failed is tried again by itself.
func (r *Relay) Reconnect(address string) { r.peers.pool.Reconnect(address) }

// Route asks the Router. The Choice may be there beside an error, for Unanswered.
func (r *Relay) Route(ctx context.Context, q Query) (Choice, *invoke.Error) {
	ch, err := r.router.Route(ctx, q)
	if err == nil {
		return ch, nil
	}
	if e := invoke.FromContext(ctx); e != nil {
		return ch, e
	}
	var e *invoke.Error
	if !errors.As(err, &e) {
		// Nothing was sent yet, whatever it was that failed.
		e = invoke.NotDispatched(invoke.ReasonNotDispatched, "%v", err)
	}
	return ch, e
}

// Answer is what became of a call.
type Answer struct {
	// Response is what the application said, and its Body must be closed; nil where Err is set.
	Response *invoke.Response
	Err      *invoke.Error
	// Instance is the one that answered or, where Err leaves it open whether the call was executed,
	// the one that may have; nil where none did.
	Instance *catalog.Instance
	// Tried is the last instance that was tried; nil where none was.
	Tried    *catalog.Instance
	Strategy string
	// Rule says which rule decided where the call may go; empty where it did not get so far.
	Rule string
	// Tier is Instance's, -1 where there is none; TierName is its name for people.
	Tier     int
	TierName string
	Attempts int
}

// Unanswered gives the answer of a call that was routed, and so far is not more than that; or was
// not, and ch is nil.
func Unanswered(ch Choice) Answer {
	if ch == nil {
		return Answer{Tier: -1}
	}
	return Answer{Strategy: ch.Strategy(), Rule: ch.Terms().Rule, Tier: -1}
}

// from says which target answered, or may have executed the call. The rule is that of the first
// attempt: where it was a later one, it says so.
func (a *Answer) from(t Target) {
	if a.Instance == t.Instance {
		return // it is said
	}
	a.Instance, a.Tier, a.TierName = t.Instance, t.Tier, t.TierName
	if a.Attempts > 1 && a.Rule != "" {
		a.Rule = fmt.Sprintf("%s; attempt %d, in tier %s", a.Rule, a.Attempts, a.TierName)
	}
}

// Do makes a call at one instance of ch, and at others where that is safe: up to as many attempts
// as ch's terms say, inside ctx's deadline, each at an instance not tried before. ctx must live
// until the answer's body is closed.
func (r *Relay) Do(ctx context.Context, ch Choice, req *invoke.Request) Answer {
	terms := ch.Terms()
	return r.attempts(ctx, ch, req.Service, attempts{
		idempotent: req.Idempotent() || slices.Contains(terms.Idempotent, req.Verb),
		replayable: req.Replayable,
		make: func(t Target, a *Answer) *invoke.Error {
			resp, err := r.attempt(ctx, t, req)
			if err == nil {
				a.Response = resp
				a.from(t)
			}
			return err
		},
	})
}

// attempts is what a kind of call has of its own, of what is the same for all.
type attempts struct {
	// idempotent says that a call may be made again although it may have been executed.
	idempotent bool
	// replayable reports whether the call can be sent again whole.
	replayable func() bool
	// make makes an attempt. Without an error the answer is in a.
	make func(t Target, a *Answer) *invoke.Error
}

func (r *Relay) attempts(ctx context.Context, ch Choice, service string, by attempts) Answer {
	r.budget.call()
	terms := ch.Terms()
	a := Unanswered(ch)
	for {
		if err := invoke.FromContext(ctx); err != nil {
			a.failed(err)
			return a
		}
		t, ok := ch.Next()
		if !ok {
			break
		}
		a.Attempts++
		a.Tried = t.Instance
		err := by.make(t, &a)
		if err == nil {
			a.Err = nil
			return a
		}
		a.failed(err)
		if o := outcomeOf(err); a.Err == err && (o == Lost || o == Late) {
			a.from(t)
		}
		if !r.again(ctx, terms, a.Attempts, by, err) {
			break
		}
	}
	if a.Err == nil {
		a.Err = invoke.Errorf(codes.Unavailable, invoke.ReasonNoInstance, "no instance of %s to call", service)
	}
	return a
}

// failed keeps the error that the caller must know: once an attempt may have been executed, a
// later one that was certainly not does not make the call one that was not.
func (a *Answer) failed(err *invoke.Error) {
	if a.Err == nil || !a.Err.OutcomeUnknown() || !err.NotExecuted() {
		a.Err = err
	}
}

// again decides whether a call that failed with err is tried once more.
func (r *Relay) again(ctx context.Context, terms *Terms, made int, by attempts, err *invoke.Error) bool {
	if made >= terms.Attempts || ctx.Err() != nil {
		return false
	}
	reason := retryNotExecuted
	switch {
	case err.NotExecuted():
	case err.OutcomeUnknown() && by.idempotent:
		reason = retryIdempotent
	default:
		return false
	}
	if !by.replayable() {
		r.metrics.retriesRefused.WithLabelValues(refusedBody).Inc()
		return false
	}
	// The first retry of what was proven not executed cannot make a storm: nothing was served.
	if outside := reason == retryNotExecuted && made == 1; !outside && !r.budget.take(time.Now()) {
		r.metrics.retriesRefused.WithLabelValues(refusedBudget).Inc()
		return false
	}
	r.metrics.retries.WithLabelValues(reason).Inc()
	return true
}

// attempt delivers to one instance.
func (r *Relay) attempt(ctx context.Context, t Target, req *invoke.Request) (*invoke.Response, *invoke.Error) {
	var span trace.Span // of a call that is traced
	if r.tracer != nil {
		ctx, req, span = r.traceAttempt(ctx, t, req)
	}
	began := time.Now()
	var resp *invoke.Response
	var err error
	if t.Local {
		resp, err = r.apps.Deliver(ctx, t.App, req)
	} else {
		resp, err = r.peers.deliver(ctx, t, req)
	}
	d := &delivery{metrics: r.metrics, done: t.Done, local: t.Local, ctx: ctx, latency: time.Since(began), span: span}
	if err != nil {
		e := invoke.AsError(err)
		d.failure = e
		d.finish(outcomeOf(e))
		return nil, e
	}
	d.outcome = Served
	if resp.ServerError() {
		d.outcome = ServedError
	}
	d.body = resp.Body
	resp.Body = d
	return resp, nil
}

// outcomeOf says what an attempt's error tells of the instance. A refusal of the call itself
// (malformed, denied) is an answer like any other.
func outcomeOf(e *invoke.Error) Outcome {
	switch {
	case e.NotExecuted() && e.Reason == invoke.ReasonNoConnection:
		return NotExecuted
	case e.NotExecuted() && e.Reason == invoke.ReasonDraining:
		return Draining
	case e.NotExecuted():
		return Refused
	case e.Code == codes.DeadlineExceeded:
		return Late
	case e.OutcomeUnknown():
		return Lost
	case e.Code == codes.Canceled:
		return Abandoned
	default:
		return Served
	}
}

// delivery is an attempt that is under way: the body of its answer, and the account of it that is
// given when the body is closed.
type delivery struct {
	metrics *metrics
	done    func(Outcome, time.Duration)
	local   bool
	ctx     context.Context
	latency time.Duration
	outcome Outcome
	body    io.ReadCloser
	over    atomic.Bool
	span    trace.Span // nil where the call is not traced
	failure error      // why there is no answer, or only a part of one
}

func (d *delivery) Read(p []byte) (int, error) {
	n, err := d.body.Read(p)
	if err != nil && err != io.EOF {
		d.outcome, d.failure = Lost, err
	}
	return n, err
}

// WriteTo writes the body to w as it arrives.
func (d *delivery) WriteTo(w io.Writer) (int64, error) {
	n, err := invoke.Copy(w, d.body)
	if err != nil {
		d.outcome, d.failure = Lost, err
	}
	return n, err
}

// Close ends the attempt.
func (d *delivery) Close() error {
	err := d.body.Close()
	if d.outcome == Lost && d.ctx.Err() != nil {
		d.outcome = Late
		if errors.Is(d.ctx.Err(), context.Canceled) {
			d.outcome = Abandoned
		}
	}
	d.finish(d.outcome)
	return err
}

func (d *delivery) finish(o Outcome) {
	if d.over.Swap(true) {
		return
	}
	d.metrics.attempt(d.local, o)
	if d.span != nil {
		endAttempt(d.span, o, d.failure)
	}
	if d.done != nil {
		d.done(o, d.latency)
	}
}

var (
	_ io.ReadCloser = (*delivery)(nil)
	_ io.WriterTo   = (*delivery)(nil)
)
