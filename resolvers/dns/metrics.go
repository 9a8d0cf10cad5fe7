package dns

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what the DNS resolvers of a process do, by registry.
type Metrics struct {
	queries  *prometheus.CounterVec
	spared   *prometheus.CounterVec
	strays   *prometheus.CounterVec
	switches *prometheus.CounterVec
	reads    *prometheus.CounterVec
	stale    *prometheus.CounterVec
	names    *prometheus.GaugeVec
}

// NewMetrics registers the metrics, once per Registerer.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		queries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_dns_queries_total",
			Help: "Questions sent to DNS servers, by transport (udp, tcp) and result (answer, nodata, nxdomain, truncated, servfail, refused, formerr, referral, other, garbled, timeout, unreachable).",
		}, []string{"registry", "transport", "result"}),
		spared: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_dns_spared_queries_total",
			Help: "Questions not sent, because another one was under way (joined) or its answer still held (held).",
		}, []string{"registry", "by"}),
		strays: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_dns_stray_datagrams_total",
			Help: "Datagrams dropped because they did not answer the question: forged, late, or no DNS at all.",
		}, []string{"registry"}),
		switches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_dns_server_switches_total",
			Help: "Times another server became the one that is asked first.",
		}, []string{"registry"}),
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_dns_service_reads_total",
			Help: "Reads of a service, by cause (due, probe) and result (ok, failed).",
		}, []string{"registry", "cause", "result"}),
		stale: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_dns_stale_addresses_total",
			Help: "Times the last known addresses of an SRV target were used because new ones could not be read (RFC 8767).",
		}, []string{"registry"}),
		names: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "farcall_dns_services",
			Help: "Services by what the DNS said last: found, nodata, nxdomain; failing: the last read failed; unread: none succeeded yet.",
		}, []string{"registry", "state"}),
	}
	reg.MustRegister(m.queries, m.spared, m.strays, m.switches, m.reads, m.stale, m.names)
	return m
}

// registryMetrics are the metrics of one registry.
type registryMetrics struct {
	queries                                *prometheus.CounterVec
	reads                                  *prometheus.CounterVec
	joined, held, strays, switches, stale  prometheus.Counter
	found, noData, noName, failing, unread prometheus.Gauge
}

func (m *Metrics) of(registry string) registryMetrics {
	by := prometheus.Labels{"registry": registry}
	return registryMetrics{
		queries:  m.queries.MustCurryWith(by),
		reads:    m.reads.MustCurryWith(by),
		joined:   m.spared.WithLabelValues(registry, "joined"),
		held:     m.spared.WithLabelValues(registry, "held"),
		strays:   m.strays.WithLabelValues(registry),
		switches: m.switches.WithLabelValues(registry),
		stale:    m.stale.WithLabelValues(registry),
		found:    m.names.WithLabelValues(registry, "found"),
		noData:   m.names.WithLabelValues(registry, "nodata"),
		noName:   m.names.WithLabelValues(registry, "nxdomain"),
		failing:  m.names.WithLabelValues(registry, "failing"),
		unread:   m.names.WithLabelValues(registry, "unread"),
	}
}

// query counts a question that was sent.
func (m registryMetrics) query(network, result string) {
	m.queries.WithLabelValues(network, result).Inc()
}

// read counts the read of a service.
func (m registryMetrics) read(probe, ok bool) {
	cause, result := "due", "ok"
	if probe {
		cause = "probe"
	}
	if !ok {
		result = "failed"
	}
	m.reads.WithLabelValues(cause, result).Inc()
}
