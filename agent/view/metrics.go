package view

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	ejections  prometheus.Counter
	recoveries prometheus.Counter
}

func newMetrics(r prometheus.Registerer, b *Book) *metrics {
	m := &metrics{
		ejections: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "farcall_view_ejections_total", Help: "Times that an instance was set aside after failures.",
		}),
		recoveries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "farcall_view_recover_all_total", Help: "Plans made that use instances of which none is available, as a last resort.",
		}),
	}
	r.MustRegister(m.ejections, m.recoveries)
	for _, g := range []struct {
		name, help string
		value      func() int
	}{
		{"farcall_view_policies_revision", "Revision of the policies and cordons in force.", func() int { return int(b.Policies().Set.Revision()) }},
		{"farcall_view_policies_refused", "Policies and cordons that are not understood, of which the last understood is followed.", func() int { return len(b.Policies().Refused) }},
		{"farcall_view_ejected_instances", "Instances that are set aside after failures.", b.countEjected},
		{"farcall_view_recover_all_services", "Services whose calls go to instances of which none is available, as a last resort.", b.countRecoverAll},
		{"farcall_view_expired_clusters", "Clusters that lost instances of some service because nothing was heard of them for too long.", b.countExpired},
	} {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help}, func() float64 { return float64(g.value()) }))
	}
	return m
}

func (m *metrics) planned(p *Plan) {
	if p.Decision.RecoverAll {
		m.recoveries.Inc()
	}
}

func (b *Book) countEjected() (n int) {
	for _, s := range *b.services.Load() {
		n += s.service.Load().ejected
	}
	return n
}

// plansInForce gives the plans that calls follow which name nothing themselves.
func (b *Book) plansInForce(yield func(*Plan) bool) {
	for _, s := range *b.services.Load() {
		if p := s.service.Load().plain[planIndex("")].Load(); p != nil && !yield(p) {
			return
		}
	}
}

func (b *Book) countRecoverAll() (n int) {
	for p := range b.plansInForce {
		if p.Decision.RecoverAll {
			n++
		}
	}
	return n
}

func (b *Book) countExpired() int {
	clusters := map[string]struct{}{}
	for p := range b.plansInForce {
		for _, c := range p.expired {
			clusters[c] = struct{}{}
		}
	}
	return len(clusters)
}
