package links

import "github.com/prometheus/client_golang/prometheus"

// Why something that an agent sent was not used, as a label.
const (
	oldTerm      = "old_term"       // it is not, or no more, the link's reporter
	notFull      = "not_full"       // the first of a term, and not a full list
	tooLarge     = "too_large"      // above what one contributor or one link may hold
	tooManyLinks = "too_many_links" // of a cluster
	badLink      = "bad_link"       // its name cannot be a registry's
	newHealth    = "unknown_health" // a health that this version does not know: it is taken for UNHEALTHY
)

// Metrics are those of the links of all clusters of one process.
type Metrics struct {
	contributions *prometheus.CounterVec
	dropped       *prometheus.CounterVec
	handovers     *prometheus.CounterVec
	contributors  *prometheus.GaugeVec
	links         *prometheus.GaugeVec
	unreported    *prometheus.GaugeVec
}

// NewMetrics registers the metrics of this package with r. It is called once per Registerer.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "farcall_synchronizer_" + name, Help: help}, append([]string{"cluster"}, labels...))
		r.MustRegister(v)
		return v
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "farcall_synchronizer_" + name, Help: help}, []string{"cluster"})
		r.MustRegister(v)
		return v
	}
	return &Metrics{
		contributions: counter("contributions_total", "Complete contributions of agents that were taken."),
		dropped:       counter("contributions_dropped_total", "What agents sent of links and was not used, by reason.", "reason"),
		handovers:     counter("link_handovers_total", "Times that a link went from one reporter to another."),
		contributors:  gauge("contributors", "Agents that contribute to this replica."),
		links:         gauge("links", "Links known of the cluster."),
		unreported:    gauge("links_without_reporter", "Links that no agent reports to this replica."),
	}
}

// clusterMetrics are the metrics of one cluster, looked up once.
type clusterMetrics struct {
	contributions, handovers        prometheus.Counter
	contributors, links, unreported prometheus.Gauge
	dropped                         *prometheus.CounterVec
}

func (m *Metrics) of(cluster string) clusterMetrics {
	return clusterMetrics{
		contributions: m.contributions.WithLabelValues(cluster),
		handovers:     m.handovers.WithLabelValues(cluster),
		contributors:  m.contributors.WithLabelValues(cluster),
		links:         m.links.WithLabelValues(cluster),
		unreported:    m.unreported.WithLabelValues(cluster),
		dropped:       m.dropped.MustCurryWith(prometheus.Labels{"cluster": cluster}),
	}
}

func (m clusterMetrics) drop(reason string) { m.dropped.WithLabelValues(reason).Inc() }
