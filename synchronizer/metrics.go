package synchronizer

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/mirror"
)

// metrics are the synchronizer's own; its rooms have theirs.
type metrics struct {
	published      *prometheus.CounterVec
	publishSeconds prometheus.Histogram
	relists        prometheus.Counter
	slowReaders    prometheus.Counter
	readers        prometheus.Gauge
	foreignWrites  prometheus.Counter
	drift          *driftMetrics
}

func newMetrics(r prometheus.Registerer, m *mirror.Mirror) *metrics {
	mt := &metrics{
		published: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_synchronizer_publishes_total", Help: "Publishes to the store, by cluster.",
		}, []string{"cluster"}),
		publishSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "farcall_synchronizer_publish_seconds", Help: "Time of one publish to the store.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}),
		relists: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "farcall_synchronizer_lists_total", Help: "Complete lists taken from the store.",
		}),
		slowReaders: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "farcall_feed_slow_readers_total", Help: "Readers that fell out of the history and were sent a snapshot again.",
		}),
		readers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "farcall_feed_readers", Help: "Feed streams that are up.",
		}),
	}
	mt.drift = newDriftMetrics(r)
	mt.foreignWrites = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "farcall_synchronizer_foreign_writes_total", Help: "Times that keys of an owned cluster were found changed by somebody else, and were written again.",
	})
	r.MustRegister(mt.foreignWrites, mt.published, mt.publishSeconds, mt.relists, mt.slowReaders, mt.readers, mirror.NewCollector(m, time.Now))
	return mt
}
