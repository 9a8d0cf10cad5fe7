package intake

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers/inbox"
)

// The classes of records set aside.
const (
	invalid    = iota // failed the check of catalog.Instance
	duplicate         // another record of its source has the same identity
	unreadable        // set aside by the resolver itself
	classes
)

var classWords = [classes]string{"invalid", "duplicate", "unreadable"}

// Metrics are those of all the intakes of one process. Labels are the names of clusters and
// registries; those of a registry that is no more are taken away.
type Metrics struct {
	changes   *prometheus.CounterVec
	restarts  *prometheus.CounterVec
	reads     *prometheus.CounterVec
	coalesced *prometheus.CounterVec
	setAside  *prometheus.CounterVec
	removals  *prometheus.CounterVec
	shadowed  *prometheus.GaugeVec
	services  *prometheus.GaugeVec
	instances *prometheus.GaugeVec
	held      *prometheus.GaugeVec
	aside     *prometheus.GaugeVec
	failed    *prometheus.GaugeVec
	confirmed *prometheus.GaugeVec
}

// NewMetrics registers the metrics of this package with r. It is called once per Registerer.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "farcall_intake_" + name, Help: help}, append([]string{"cluster"}, labels...))
		r.MustRegister(c)
		return c
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "farcall_intake_" + name, Help: help}, append([]string{"cluster"}, labels...))
		r.MustRegister(g)
		return g
	}
	return &Metrics{
		changes:   counter("changes_total", "Changes handed on: of lists, or of the state of a registry."),
		restarts:  counter("restarts_total", "Times a resolver ended by itself and was run again.", "registry"),
		reads:     counter("reads_total", "Reads of a registry, by result: published, confirmed or failed.", "registry", "result"),
		coalesced: counter("coalesced_snapshots_total", "Snapshots that a later one replaced before they were looked at.", "registry"),
		setAside:  counter("set_aside_records_total", "Records set aside, by class, counted at every read that has them.", "registry", "class"),
		removals:  counter("removals_total", "What became of removals: explicit, passed, held; and of the held: returned, released, confirmed, followed (the synchronizer's list), expired, or explicit.", "registry", "verdict"),
		shadowed:  gauge("shadowed_records", "Records hidden by another source's or registry's record of the same instance."),
		services:  gauge("services", "Services known, by registry.", "registry"),
		instances: gauge("instances", "Instances believed, by registry, the held ones included.", "registry"),
		held:      gauge("held_removals", "Removals held back now.", "registry"),
		aside:     gauge("set_aside_records", "Records set aside in what stands now.", "registry"),
		failed:    gauge("registry_failed", "1 where the last read of the registry failed.", "registry"),
		confirmed: gauge("confirmed_timestamp_seconds", "When the registry was last confirmed, as Unix time; 0 before that.", "registry"),
	}
}

// registryMetrics are the metrics of one registry, looked up once.
type registryMetrics struct {
	inbox                                     inbox.Counters
	setAside                                  [classes]prometheus.Counter
	explicit, passed, held, returned, expired prometheus.Counter
	released, confirmedHolds, followed        prometheus.Counter
	services, instances, heldNow, aside       prometheus.Gauge
	failed, confirmed                         prometheus.Gauge
}

func (m *Metrics) of(cluster, registry string) registryMetrics {
	out := registryMetrics{
		inbox: inbox.Counters{
			Publishes: m.reads.WithLabelValues(cluster, registry, "published"),
			Confirms:  m.reads.WithLabelValues(cluster, registry, "confirmed"),
			Failures:  m.reads.WithLabelValues(cluster, registry, "failed"),
			Coalesced: m.coalesced.WithLabelValues(cluster, registry),
		},
		explicit:  m.removals.WithLabelValues(cluster, registry, "explicit"),
		passed:    m.removals.WithLabelValues(cluster, registry, "passed"),
		held:      m.removals.WithLabelValues(cluster, registry, "held"),
		returned:  m.removals.WithLabelValues(cluster, registry, "returned"),
		expired:   m.removals.WithLabelValues(cluster, registry, "expired"),
		released:  m.removals.WithLabelValues(cluster, registry, "released"),
		followed:  m.removals.WithLabelValues(cluster, registry, "followed"),
		services:  m.services.WithLabelValues(cluster, registry),
		instances: m.instances.WithLabelValues(cluster, registry),
		heldNow:   m.held.WithLabelValues(cluster, registry),
		aside:     m.aside.WithLabelValues(cluster, registry),
		failed:    m.failed.WithLabelValues(cluster, registry),
		confirmed: m.confirmed.WithLabelValues(cluster, registry),

		confirmedHolds: m.removals.WithLabelValues(cluster, registry, "confirmed"),
	}
	for class, word := range classWords {
		out.setAside[class] = m.setAside.WithLabelValues(cluster, registry, word)
	}
	return out
}

// forget takes away the metrics of a registry that is no more.
func (m *Metrics) forget(cluster, registry string) {
	labels := prometheus.Labels{"cluster": cluster, "registry": registry}
	for _, c := range []*prometheus.CounterVec{m.restarts, m.reads, m.coalesced, m.setAside, m.removals} {
		c.DeletePartialMatch(labels)
	}
	for _, g := range []*prometheus.GaugeVec{m.services, m.instances, m.held, m.aside, m.failed, m.confirmed} {
		g.DeletePartialMatch(labels)
	}
}

func (m registryMetrics) observe(st catalog.RegistryStatus, confirmed time.Time) {
	m.services.Set(float64(st.Services))
	m.instances.Set(float64(st.Instances))
	m.heldNow.Set(float64(st.Held))
	m.aside.Set(float64(st.SetAside))
	m.failed.Set(0)
	if st.State == catalog.RegistryFailed {
		m.failed.Set(1)
	}
	if !confirmed.IsZero() {
		m.confirmed.Set(float64(confirmed.UnixMilli()) / 1000)
	}
}
