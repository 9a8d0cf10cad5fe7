package mirror

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	ageDesc            = prometheus.NewDesc("farcall_cluster_age_seconds", "Time since the cluster's registries were last confirmed.", []string{"cluster"}, nil)
	stateDesc          = prometheus.NewDesc("farcall_cluster_state", "1 for the state the cluster is in.", []string{"cluster", "state"}, nil)
	instancesDesc      = prometheus.NewDesc("farcall_cluster_instances", "Instances known of the cluster.", []string{"cluster"}, nil)
	refusedDesc        = prometheus.NewDesc("farcall_mirror_refused_total", "Entries of the store that were not believed, by reason.", []string{"reason"}, nil)
	revisionDesc       = prometheus.NewDesc("farcall_mirror_revision", "Store revision that was applied.", nil, nil)
	policyRevisionDesc = prometheus.NewDesc("farcall_policy_revision", "Revision of the policies and cordons in force.", nil, nil)
	policiesDesc       = prometheus.NewDesc("farcall_policies", "Policies in force.", nil, nil)
	cordonsDesc        = prometheus.NewDesc("farcall_cordons", "Cordons in force, or expired and not removed yet.", nil, nil)
	policyRefusedDesc  = prometheus.NewDesc("farcall_policies_not_understood", "Policies and cordons that are not followed as they stand in the store.", nil, nil)
	policyBehindDesc   = prometheus.NewDesc("farcall_policies_store_behind", "1 while the store has lost policies or cordons that are in force here.", nil, nil)
)

// collector reads a Mirror at every scrape.
type collector struct {
	m   *Mirror
	now func() time.Time
}

var _ prometheus.Collector = (*collector)(nil)

// NewCollector returns the metrics of a Mirror; now gives the reader's own time.
func NewCollector(m *Mirror, now func() time.Time) prometheus.Collector {
	return &collector{m: m, now: now}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{ageDesc, stateDesc, instancesDesc, refusedDesc, revisionDesc,
		policyRevisionDesc, policiesDesc, cordonsDesc, policyRefusedDesc, policyBehindDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for _, cl := range c.m.Clusters(c.now()) {
		if cl.AgeKnown {
			ch <- prometheus.MustNewConstMetric(ageDesc, prometheus.GaugeValue, cl.Age.Seconds(), cl.Name)
		}
		ch <- prometheus.MustNewConstMetric(stateDesc, prometheus.GaugeValue, 1, cl.Name, cl.State.String())
		ch <- prometheus.MustNewConstMetric(instancesDesc, prometheus.GaugeValue, float64(cl.Instances), cl.Name)
	}
	for reason, n := range c.m.Refused() {
		ch <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(n), string(reason))
	}
	_, rev := c.m.Position()
	ch <- prometheus.MustNewConstMetric(revisionDesc, prometheus.GaugeValue, float64(rev))
	p := c.m.Policies()
	if !p.Known {
		return
	}
	behind := 0.
	if p.Behind {
		behind = 1
	}
	ch <- prometheus.MustNewConstMetric(policyRevisionDesc, prometheus.GaugeValue, float64(p.Set.Revision()))
	ch <- prometheus.MustNewConstMetric(policiesDesc, prometheus.GaugeValue, float64(len(p.Set.Policies())))
	ch <- prometheus.MustNewConstMetric(cordonsDesc, prometheus.GaugeValue, float64(len(p.Set.Cordons())))
	ch <- prometheus.MustNewConstMetric(policyRefusedDesc, prometheus.GaugeValue, float64(len(p.Refused)))
	ch <- prometheus.MustNewConstMetric(policyBehindDesc, prometheus.GaugeValue, behind)
}
