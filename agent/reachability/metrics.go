package reachability

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	down, dead prometheus.Gauge
	changes    prometheus.Counter
	probes     *prometheus.CounterVec
	distance   *prometheus.GaugeVec // of the clusters that there are
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		down: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "farcall_reachability_down_addresses", Help: "Relay addresses that do not answer.",
		}),
		dead: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "farcall_reachability_dead_clusters", Help: "Clusters of which no relay answers.",
		}),
		changes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "farcall_reachability_changes_total", Help: "Relay addresses that stopped or began to answer.",
		}),
		probes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_reachability_probes_total", Help: "Connects to relays of other clusters that no call asked for, by result: answered or failed.",
		}, []string{"result"}),
		distance: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "farcall_reachability_distance_class", Help: "Class of the round-trip time to a cluster: 0 below 10 ms, 1 below 40 ms, 2 below 120 ms, 3 above.",
		}, []string{"cluster"}),
	}
	r.MustRegister(m.down, m.dead, m.changes, m.probes, m.distance)
	return m
}

func (m *metrics) probed(err error) {
	result := "answered"
	if err != nil {
		result = "failed"
	}
	m.probes.WithLabelValues(result).Inc()
}

func (m *metrics) found(f Findings) {
	m.down.Set(float64(len(f.Down)))
	m.dead.Set(float64(len(f.Dead)))
	for name, class := range f.Distance {
		m.distance.WithLabelValues(name).Set(float64(class))
	}
}

func (m *metrics) forget(cluster string) { m.distance.DeleteLabelValues(cluster) }
