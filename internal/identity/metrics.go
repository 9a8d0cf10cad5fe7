package identity

import "github.com/prometheus/client_golang/prometheus"

// metrics of a process's identity and of those who connect. Labels are words of this package.
type metrics struct {
	handshakes *prometheus.CounterVec
	refused    *prometheus.CounterVec
	claims     *prometheus.CounterVec
	reloads    *prometheus.CounterVec
	expiry     prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_identity_handshakes_total", Help: "TLS handshakes that succeeded, by side: server, client.",
		}, []string{"side"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_identity_refused_total", Help: "TLS handshakes that came to nothing, by side and reason.",
		}, []string{"side", "reason"}),
		claims: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_identity_claims_refused_total", Help: "Calls over connections that are up which were refused because of who made them, by what was called: feed, admin, health, reflection, unknown, peer.",
		}, []string{"call"}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_identity_reloads_total", Help: "Changes of the own certificate, key or authorities, by result: ok, or failed where the last good ones stay in force.",
		}, []string{"result"}),
		expiry: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "farcall_identity_expiry_timestamp_seconds", Help: "When the own certificate expires, in Unix time; 0 while there is none.",
		}),
	}
	r.MustRegister(m.handshakes, m.refused, m.claims, m.reloads, m.expiry)
	for _, result := range []string{"ok", "failed"} {
		m.reloads.WithLabelValues(result)
	}
	return m
}
