package tracing

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Values of the label result.
const (
	sent    = "sent"
	failed  = "failed"  // the collector did not take them in time, or not all of them
	dropped = "dropped" // there were more than can wait for it
)

type metrics struct{ spans *prometheus.CounterVec }

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{spans: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "farcall_tracing_spans_total",
		Help: "Spans of sampled calls, by whether they got to the collector.",
	}, []string{"result"})}
	if err := reg.Register(m.spans); err != nil {
		return nil, fmt.Errorf("tracing: register metrics: %w", err)
	}
	for _, result := range []string{sent, failed, dropped} {
		m.spans.WithLabelValues(result)
	}
	return m, nil
}
