package store

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the store. No label grows with services or instances; cluster names are the
// configuration's.
type metrics struct {
	up            prometheus.Gauge
	writable      prometheus.Gauge
	turns         prometheus.Counter
	relists       *prometheus.CounterVec // reason
	watchEntries  prometheus.Counter
	txns          *prometheus.CounterVec // outcome
	valuesPut     prometheus.Counter
	valuesGone    prometheus.Counter
	corrupt       prometheus.Counter
	refused       prometheus.Counter
	recoveries    prometheus.Counter
	epochsRefused prometheus.Counter
	heartbeats    *prometheus.CounterVec // outcome
	sessions      *prometheus.CounterVec // outcome
	terms         *prometheus.CounterVec // end
	owned         prometheus.Gauge
	// Of policies and cordons.
	policyWrites     *prometheus.CounterVec // outcome
	policiesRestored prometheus.Counter
	copyErrors       prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "farcall_store_" + name, Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "farcall_store_" + name, Help: help}, []string{label})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "farcall_store_" + name, Help: help})
	}
	m := &metrics{
		up:               gauge("up", "1 while the store answers, else 0."),
		writable:         gauge("writable", "1 while this replica's heartbeats can be written, else 0."),
		turns:            counter("server_turns_total", "Turns from one etcd server to the next because a request failed."),
		relists:          vec("relists_total", "Lists of the whole federation, by what made them necessary.", "reason"),
		watchEntries:     counter("watch_entries_total", "Entries brought to readers, by list or watch."),
		txns:             vec("txns_total", "Write transactions of owned clusters, by outcome.", "outcome"),
		valuesPut:        counter("values_put_total", "Values written for owned clusters."),
		valuesGone:       counter("values_deleted_total", "Values deleted for owned clusters."),
		corrupt:          counter("values_corrupt_total", "Values found unreadable when a cluster was loaded; they are written anew."),
		refused:          counter("instances_refused_total", "Instances that could not be written."),
		recoveries:       counter("recoveries_total", "Clusters read again because the outcome of a transaction was unknown."),
		epochsRefused:    counter("epochs_refused_total", "Epochs reported that are too high to be believed."),
		heartbeats:       vec("heartbeats_total", "Heartbeats, by outcome.", "outcome"),
		sessions:         vec("sessions_total", "Leases of this replica, by how they ended.", "end"),
		terms:            vec("terms_total", "Terms of ownership, by how they ended.", "end"),
		owned:            gauge("owned_clusters", "Clusters that this replica owns."),
		policyWrites:     vec("policy_writes_total", "Writes of policies and cordons, by outcome; raced counts attempts before which another write came.", "outcome"),
		policiesRestored: counter("policies_restored_total", "Times that policies and cordons were written back to a store that had lost some."),
		copyErrors:       counter("policy_copy_errors_total", "Times that the data directory's copy of policies and cordons could not be written."),
	}
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.up, m.writable, m.turns, m.relists, m.watchEntries, m.txns, m.valuesPut, m.valuesGone,
		m.corrupt, m.refused, m.recoveries, m.epochsRefused, m.heartbeats, m.sessions, m.terms, m.owned,
		m.policyWrites, m.policiesRestored, m.copyErrors} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}
