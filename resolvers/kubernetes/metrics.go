package kubernetes

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what the resolvers of Kubernetes do, by registry.
type Metrics struct {
	requests *prometheus.CounterVec
	events   *prometheus.CounterVec
	resets   *prometheus.CounterVec
}

// NewMetrics registers the metrics, once per Registerer.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_kubernetes_requests_total",
			Help: "Requests to the API server by verb (list: one page, watch: its opening, probe), resource and result (ok, refused, failed).",
		}, []string{"registry", "verb", "resource", "result"}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_kubernetes_events_total",
			Help: "Watch events by resource and type (added, modified, deleted, bookmark, error).",
		}, []string{"registry", "resource", "type"}),
		resets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_kubernetes_resets_total",
			Help: "Times the cluster looked like another or a younger one than before.",
		}, []string{"registry"}),
	}
	reg.MustRegister(m.requests, m.events, m.resets)
	return m
}
