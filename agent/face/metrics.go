package face

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

type peerMetrics struct {
	calls         *prometheus.CounterVec
	inFlight      prometheus.Gauge
	notDispatched *prometheus.CounterVec

	ok prometheus.Counter // calls' child for OK, which nearly all are
}

func newPeerMetrics(reg prometheus.Registerer) (*peerMetrics, error) {
	m := &peerMetrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_relay_served_total",
			Help: "Calls from peers to this node's applications, by gRPC code; OK whenever the application answered.",
		}, []string{"code"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "farcall_relay_served_in_flight",
			Help: "Calls from peers that are under way.",
		}),
		notDispatched: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_relay_not_dispatched_total",
			Help: "Calls from peers that were refused as certainly not executed, by reason.",
		}, []string{"reason"}),
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.calls, m.inFlight, m.notDispatched} {
		errs = append(errs, reg.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("face: register metrics: %w", err)
	}
	m.ok = m.calls.WithLabelValues(codes.OK.String())
	return m, nil
}

// begin counts a call in, and gives what counts it out.
func (m *peerMetrics) begin() func() {
	m.inFlight.Inc()
	return m.inFlight.Dec
}

func (m *peerMetrics) count(c codes.Code) {
	if c == codes.OK {
		m.ok.Inc()
		return
	}
	m.calls.WithLabelValues(c.String()).Inc()
}
