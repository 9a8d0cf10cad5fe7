package uplink

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the uplink.
type metrics struct {
	disconnects, snapshots, badViews, saveErrors, askedToWait, lacks prometheus.Counter
	drift                                                            *prometheus.CounterVec // part
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
	drift := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "farcall_uplink_drift_total", Help: "Times that a synchronizer found this agent to hold something else than it was sent, and sent it everything again, by what differed.",
	}, []string{"part"})
	r.MustRegister(drift)
	return &metrics{
		drift:       drift,
		lacks:       counter("farcall_uplink_incomplete_total", "Times that a feed continued with less than what was missing, so that everything was asked for."),
		askedToWait: counter("farcall_uplink_asked_to_wait_total", "Times that a synchronizer asked to be left alone for a while."),
		disconnects: counter("farcall_uplink_disconnects_total", "Tries to follow a feed that ended."),
		snapshots:   counter("farcall_uplink_snapshots_total", "Snapshots taken from a feed."),
		badViews:    counter("farcall_uplink_bad_views_total", "Saved views that could not be used."),
		saveErrors:  counter("farcall_uplink_save_errors_total", "Views that could not be saved."),
	}
}
