package uplink

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the uplink.
type metrics struct {
	disconnects, snapshots, badViews, saveErrors prometheus.Counter
}

func newMetrics(r prometheus.Registerer, connected *atomic.Bool) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		r.MustRegister(c)
		return c
	}
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "farcall_uplink_connected", Help: "1 while the feed is up.",
	}, func() float64 {
		if connected.Load() {
			return 1
		}
		return 0
	}))
	return &metrics{
		disconnects: counter("farcall_uplink_disconnects_total", "Tries to follow a feed that ended."),
		snapshots:   counter("farcall_uplink_snapshots_total", "Snapshots taken from a feed."),
		badViews:    counter("farcall_uplink_bad_views_total", "Saved views that could not be used."),
		saveErrors:  counter("farcall_uplink_save_errors_total", "Views that could not be saved."),
	}
}
