package relay

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/agent/invoke"
)

// Values of the label reason of retries and of refused ones.
const (
	retryNotExecuted = "not_executed"
	retryIdempotent  = "idempotent"
	refusedBudget    = "budget"
	refusedBody      = "body_sent"
)

// Values of the label result of a broadcast's targets.
const (
	targetSuccess     = "success"
	targetApplication = "application_error" // it answered, and not with a success
	targetUnreachable = "unreachable"       // measured so, and not called
	targetNotExecuted = "not_executed"
	targetLost        = "lost" // outcome unknown, the deadline included
	targetRefused     = "refused"
	targetAbandoned   = "abandoned" // the caller went away
)

type metrics struct {
	calls          *prometheus.CounterVec
	duration       *prometheus.HistogramVec
	inFlight       prometheus.Gauge
	attempts       *prometheus.CounterVec
	retries        *prometheus.CounterVec
	retriesRefused *prometheus.CounterVec
	targets        *prometheus.CounterVec

	// attemptCounters holds attempts' children by leg and outcome, so that the hot path makes no
	// look-up by label.
	attemptCounters [2][len(outcomeWords)]prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_relay_calls_total",
			Help: "Calls of this node's applications, by strategy, tier that served (none: no instance did) and result: the class of the application's status, or our gRPC code.",
		}, []string{"strategy", "tier", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "farcall_relay_call_duration_seconds",
			Help:    "Time from a call's arrival to the end of its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"strategy"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "farcall_relay_calls_in_flight",
			Help: "Calls of this node's applications that are under way.",
		}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_relay_attempts_total",
			Help: "Deliveries to one instance, by leg (app: this node's own, peer: relayed) and outcome.",
		}, []string{"leg", "outcome"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_relay_retries_total",
			Help: "Further attempts, by what made them safe.",
		}, []string{"reason"}),
		retriesRefused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_relay_retries_refused_total",
			Help: "Further attempts that would have been safe but for the budget, or for a body that cannot be sent twice.",
		}, []string{"reason"}),
		targets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_relay_broadcast_targets_total",
			Help: "Clusters that broadcasts were for, by what came of each.",
		}, []string{"result"}),
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.calls, m.duration, m.inFlight, m.attempts, m.retries, m.retriesRefused, m.targets} {
		errs = append(errs, reg.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("relay: register metrics: %w", err)
	}
	for leg, word := range []string{"peer", "app"} {
		for o, outcome := range outcomeWords {
			m.attemptCounters[leg][o] = m.attempts.WithLabelValues(word, outcome)
		}
	}
	return m, nil
}

func (m *metrics) attempt(local bool, o Outcome) {
	leg := 0
	if local {
		leg = 1
	}
	m.attemptCounters[leg][o].Inc()
}

// targetLabel says in a word what came of one target of a broadcast.
func targetLabel(r *Reply) string {
	switch {
	case r.OK():
		return targetSuccess
	case r.Err == nil:
		return targetApplication
	case r.Err.Reason == invoke.ReasonUnreachable:
		return targetUnreachable
	}
	switch outcomeOf(r.Err) {
	case NotExecuted, Refused, Draining:
		return targetNotExecuted
	case Lost, Late:
		return targetLost
	case Abandoned:
		return targetAbandoned
	default:
		return targetRefused
	}
}

// tierLabel keeps the number of values small whatever externalOrder says.
func tierLabel(tier int) string {
	switch {
	case tier < 0:
		return "none"
	case tier > 7:
		return "8+"
	default:
		return strconv.Itoa(tier)
	}
}
