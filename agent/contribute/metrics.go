package contribute

import "github.com/prometheus/client_golang/prometheus"

// metrics of the contributor.
type metrics struct {
	streams, grants                              prometheus.Gauge
	contributions, bytes, coalesced, disconnects prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "farcall_contribute_" + name, Help: help})
		r.MustRegister(g)
		return g
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "farcall_contribute_" + name, Help: help})
		r.MustRegister(c)
		return c
	}
	return &metrics{
		streams:       gauge("streams", "Streams to synchronizers that are up."),
		grants:        gauge("grants", "Links that this agent reports, counted once for each synchronizer that granted them."),
		contributions: counter("contributions_total", "Updates of a registry sent to a synchronizer."),
		bytes:         counter("sent_bytes_total", "What they came to on the wire."),
		coalesced:     counter("coalesced_snapshots_total", "Snapshots that a later one replaced before they were sent."),
		disconnects:   counter("disconnects_total", "Streams, or tries to open one, that ended by themselves."),
	}
}
