package strategy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/farcall/farcall/internal/catalog"
)

// unavailable says why nobody can be picked. Absence is claimed only of what was read.
func (d *decider) unavailable() (Reason, string) {
	if !d.in.Known && len(d.in.Instances) == 0 {
		// A cluster that was never synced cannot vouch that it does not know the name, nor can one
		// whose word has expired.
		if why := d.unheard(true, func(c *cluster) bool {
			return c.info.State == catalog.StateUnknown || c.info.State == catalog.StateExpired
		}); why != "" {
			return NotSynced, fmt.Sprintf("nobody is known to have %s, but %s", d.in.Service, why)
		}
		return NotFound, fmt.Sprintf("no cluster knows %s", d.in.Service)
	}
	allowed := func(c *cluster) bool { return c.tier >= 0 }
	local := allowed(d.clusters[d.in.Caller.Cluster])
	external := d.kind.usesExternal() && (d.in.Pin == "" || d.in.Pin != d.in.Caller.Cluster)
	why := d.unheard(external, func(c *cluster) bool { return allowed(c) && c.info.State == catalog.StateUnknown })
	reason, where := NoInstances, "any cluster"
	switch {
	case !external:
		reason, where = NoLocalInstances, "cluster "+d.in.Caller.Cluster
	case d.in.Pin != "":
		reason, where = NoExternalInstances, "cluster "+d.in.Pin
	case !local:
		reason, where = NoExternalInstances, "any other cluster"
	}
	detail := fmt.Sprintf("%s has no instance to call in %s", d.in.Service, where)
	if s := d.tally(); s != "" {
		detail += " (" + s + ")"
	}
	if why != "" {
		return NotSynced, detail + ", but " + why
	}
	return reason, detail
}

// unheard names the clusters from whose silence nothing may be concluded; empty when there are
// none. others says whether clusters that this agent has not even heard of would matter.
func (d *decider) unheard(others bool, silent func(*cluster) bool) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(d.clusters)) {
		if c := d.clusters[name]; silent(c) {
			parts = append(parts, fmt.Sprintf("cluster %s is %s", name, c.info.State))
		}
	}
	if others && !d.in.ClustersKnown {
		parts = append(parts, "the clusters of the federation are not known yet")
	}
	return strings.Join(parts, ", ")
}

// tally counts what removed the instances of the clusters that were allowed.
func (d *decider) tally() string {
	var parts []string
	for _, r := range [...]Reason{Disabled, WeightZero, Expired, Removed, Draining, Unhealthy, Ejected, Undialable} {
		if n := d.why[r]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, r))
		}
	}
	return strings.Join(parts, ", ")
}
