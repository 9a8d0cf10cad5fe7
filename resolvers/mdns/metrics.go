package mdns

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what the Resolvers, Registrars and Announcers of multicast DNS do, by registry.
type Metrics struct {
	packets       *prometheus.CounterVec
	dropped       *prometheus.CounterVec
	questions     *prometheus.CounterVec
	removed       *prometheus.CounterVec
	records       *prometheus.GaugeVec
	links         *prometheus.GaugeVec
	registrations *prometheus.GaugeVec
	external      *prometheus.GaugeVec
}

// NewMetrics registers the metrics, once per Registerer.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"registry"}, labels...))
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, append([]string{"registry"}, labels...))
	}
	m := &Metrics{
		packets: counter("farcall_mdns_packets_total",
			"Packets by direction (received, sent) and kind (query, response).", "direction", "kind"),
		dropped: counter("farcall_mdns_dropped_total",
			"Packets and records that were not taken, by reason (malformed, off-link, port, full, echo).", "reason"),
		questions: counter("farcall_mdns_questions_total",
			"Questions sent, by cause (browse, renew, complete).", "cause"),
		removed: counter("farcall_mdns_records_removed_total",
			"Records that ended, by cause (goodbye, displaced, unheard, aged).", "cause"),
		records: gauge("farcall_mdns_records",
			"Records held."),
		links: gauge("farcall_mdns_links",
			"Interfaces listened on, by state (heard, deaf).", "state"),
		registrations: gauge("farcall_mdns_registrations",
			"Applications of this node by how they stand on a link (probing, announced, conflict, away).", "state"),
		external: gauge("farcall_mdns_external_applications",
			"Applications of other clusters that this node's agent is to announce, by what becomes of them (announced, waiting, left-out).", "state"),
	}
	reg.MustRegister(m.packets, m.dropped, m.questions, m.removed, m.records, m.links, m.registrations, m.external)
	return m
}

// metrics are those of one registry, looked up once: they are counted for every packet.
type metrics struct {
	received, sent                     [2]prometheus.Counter // query, response
	browse, renew, complete            prometheus.Counter
	dropped                            map[string]prometheus.Counter
	removals                           map[doom]prometheus.Counter
	records, linksHeard, linksDeaf     prometheus.Gauge
	probing, announced, conflict, away prometheus.Gauge
}

func (m *Metrics) of(registry string) *metrics {
	kinds := func(direction string) [2]prometheus.Counter {
		return [2]prometheus.Counter{
			m.packets.WithLabelValues(registry, direction, "query"),
			m.packets.WithLabelValues(registry, direction, "response"),
		}
	}
	out := &metrics{
		received: kinds("received"), sent: kinds("sent"),
		browse:   m.questions.WithLabelValues(registry, "browse"),
		renew:    m.questions.WithLabelValues(registry, "renew"),
		complete: m.questions.WithLabelValues(registry, "complete"),
		dropped:  map[string]prometheus.Counter{},
		removals: map[doom]prometheus.Counter{},
		records:  m.records.WithLabelValues(registry),

		linksHeard: m.links.WithLabelValues(registry, "heard"),
		linksDeaf:  m.links.WithLabelValues(registry, "deaf"),
		probing:    m.registrations.WithLabelValues(registry, "probing"),
		announced:  m.registrations.WithLabelValues(registry, "announced"),
		conflict:   m.registrations.WithLabelValues(registry, "conflict"),
		away:       m.registrations.WithLabelValues(registry, "away"),
	}
	for _, reason := range []string{"malformed", "off-link", "port", "full", "echo"} {
		out.dropped[reason] = m.dropped.WithLabelValues(registry, reason)
	}
	for cause, word := range map[doom]string{goodbye: "goodbye", displaced: "displaced", unheard: "unheard", aged: "aged"} {
		out.removals[cause] = m.removed.WithLabelValues(registry, word)
	}
	return out
}

func (m *metrics) drop(reason string, n int) {
	if n > 0 {
		m.dropped[reason].Add(float64(n))
	}
}

func (m *metrics) hear(response bool) { m.received[kindOf(response)].Inc() }
func (m *metrics) send(response bool) { m.sent[kindOf(response)].Inc() }

func kindOf(response bool) int {
	if response {
		return 1
	}
	return 0
}

func (m *metrics) asked(n asking) {
	m.browse.Add(float64(n.browse))
	m.renew.Add(float64(n.renew))
	m.complete.Add(float64(n.complete))
}

func (m *metrics) removed(list []doom) {
	for _, d := range list {
		m.removals[d].Inc()
	}
}

// hold shows what a browser holds; nil: it has ended.
func (m *metrics) hold(b *browser) {
	records, heard, deaf := 0, 0, 0
	if b != nil {
		for _, e := range b.ears {
			records += len(e.cache.entries)
			if e.deaf == "" {
				heard++
			} else {
				deaf++
			}
		}
	}
	m.records.Set(float64(records))
	m.linksHeard.Set(float64(heard))
	m.linksDeaf.Set(float64(deaf))
}
