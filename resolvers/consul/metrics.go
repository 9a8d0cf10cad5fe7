package consul

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what the resolvers and registrars of Consul do, by registry.
type Metrics struct {
	queries       *prometheus.CounterVec
	reads         *prometheus.CounterVec
	sweeps        *prometheus.CounterVec
	resets        *prometheus.CounterVec
	retries       *prometheus.CounterVec
	registrations *prometheus.GaugeVec
}

// NewMetrics registers the metrics, once per Registerer.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		queries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_consul_queries_total",
			Help: "Requests to Consul by kind and result (ok, refused, failed).",
		}, []string{"registry", "query", "result"}),
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_consul_service_reads_total",
			Help: "Services read, by cause (start, change, sweep).",
		}, []string{"registry", "cause"}),
		sweeps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_consul_sweeps_total",
			Help: "Re-reads of all services after the catalogue's index moved, by reason (unexplained, precaution).",
		}, []string{"registry", "reason"}),
		resets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_consul_resets_total",
			Help: "Times the registry looked like another or a younger one than before.",
		}, []string{"registry"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_consul_read_retries_total",
			Help: "Reads of a service that failed and are tried again.",
		}, []string{"registry"}),
		registrations: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "farcall_consul_registrations",
			Help: "Applications of this node by what Consul holds of them (passing, critical, removed, pending).",
		}, []string{"registry", "state"}),
	}
	reg.MustRegister(m.queries, m.reads, m.sweeps, m.resets, m.retries, m.registrations)
	return m
}
