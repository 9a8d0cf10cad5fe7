package relay

import (
	"cmp"
	"context"
	"log/slog"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/internal/catalog"
)

// AccessLog is which calls get a line of their own.
type AccessLog string

// The values of the configuration key accessLog.
const (
	LogOff    AccessLog = "off"
	LogErrors AccessLog = "errors"
	LogAll    AccessLog = "all"
)

func (a AccessLog) valid() bool { return a == LogOff || a == LogErrors || a == LogAll }

// Record is the account of one call, written down by its face from arrival to end.
type Record struct {
	relay  *Relay
	began  time.Time
	Caller invoke.Identity
	// Name is zero where the call did not get so far as to name a service.
	Name catalog.Name
	// TraceParent is what the caller sent, as Trace read it.
	TraceParent string
	span        trace.Span // nil where the call is not traced
}

// Begin opens the account of a call that has just arrived; it is closed with End.
func (r *Relay) Begin(caller invoke.Identity) Record {
	r.metrics.inFlight.Inc()
	return Record{relay: r, began: time.Now(), Caller: caller}
}

// End closes the account: a is the answer and err what cut it short after it began, if anything
// did.
func (c *Record) End(a Answer, err error) {
	r := c.relay
	took := time.Since(c.began)
	strategy := a.Strategy
	if strategy == "" {
		strategy = "none"
	}
	r.metrics.inFlight.Dec()
	r.metrics.duration.WithLabelValues(strategy).Observe(took.Seconds())
	r.metrics.calls.WithLabelValues(strategy, tierLabel(a.Tier), codeLabel(a, err)).Inc()
	if c.span != nil {
		c.endSpan(a, err)
	}

	bad := a.Err != nil || err != nil || (a.Response != nil && a.Response.ServerError())
	if r.accessLog == LogOff || (r.accessLog == LogErrors && !bad) {
		return
	}
	level := slog.LevelInfo
	if bad {
		level = slog.LevelWarn
	}
	r.log.LogAttrs(context.Background(), level, "call", c.attrs(a, err, strategy, took)...)
}

func (c *Record) attrs(a Answer, err error, strategy string, took time.Duration) []slog.Attr {
	attrs := []slog.Attr{
		slog.String("caller", c.Caller.AppID),
		slog.String("service", c.Name.String()),
		slog.String("strategy", strategy),
		slog.String("tier", cmp.Or(a.TierName, tierLabel(a.Tier))),
	}
	if a.Instance != nil {
		attrs = append(attrs, slog.String("cluster", a.Instance.Cluster), slog.String("instance", a.Instance.Instance))
	}
	attrs = append(attrs, slog.Int("attempts", a.Attempts), slog.Int("code", code(a)), slog.Duration("duration", took))
	if a.Rule != "" {
		attrs = append(attrs, slog.String("reason", a.Rule))
	}
	// traceparent is version-traceid-parentid-flags (W3C Trace Context).
	if parts := strings.Split(c.TraceParent, "-"); len(parts) >= 4 {
		attrs = append(attrs, slog.String("trace", parts[1]))
	}
	switch {
	case a.Err != nil:
		attrs = append(attrs, slog.String("error", a.Err.Error()))
	case err != nil:
		attrs = append(attrs, slog.String("error", "answer cut short: "+err.Error()))
	}
	return attrs
}

// code gives the HTTP status of an answer.
func code(a Answer) int {
	switch {
	case a.Err != nil:
		return a.Err.HTTPStatus()
	case a.Response != nil:
		return a.Response.HTTPStatus()
	default:
		return 0
	}
}

var classes = [...]string{"0xx", "1xx", "2xx", "3xx", "4xx", "5xx"}

func codeLabel(a Answer, err error) string {
	switch {
	case a.Err != nil:
		return a.Err.Code.String()
	case err != nil:
		return codes.Aborted.String()
	}
	if c := code(a) / 100; c < len(classes) {
		return classes[c]
	}
	return "other"
}
