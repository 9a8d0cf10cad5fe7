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
	if !d.in.PoliciesKnown {
		return NotSynced, d.unread()
	}
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
	external := d.kind.usesExternal() && (d.in.Pin == "" || d.in.Pin != d.own.name)
	reason, where := NoInstances, "any cluster"
	switch {
	case !external:
		reason, where = NoLocalInstances, "cluster "+d.own.name
	case d.in.Pin != "":
		reason, where = NoExternalInstances, "cluster "+word(d.in.Pin)
	case d.own.tier < 0:
		reason, where = NoExternalInstances, "any other cluster"
	}
	if external && d.in.Pin == "" && len(d.in.Policy.ExternalOrder) > 0 {
		where += " that the policy allows"
	}
	detail := d.nobody(where)
	if why := d.unheard(external, func(c *cluster) bool { return c.tier >= 0 && c.info.State == catalog.StateUnknown }); why != "" {
		return NotSynced, detail + ", but " + why
	}
	return reason, detail
}

// nobody says that no instance can be called somewhere, what removed those that are there, and what
// people did that keeps it so.
func (d *decider) nobody(where string) string {
	s := fmt.Sprintf("%s has no instance to call in %s", d.in.Service, where)
	if t := d.tally(); t != "" {
		s += " (" + t + ")"
	}
	for _, name := range slices.Sorted(maps.Keys(d.clusters)) {
		if c := d.clusters[name]; c.tier >= 0 && c.rule == cordoned {
			s += fmt.Sprintf("; cluster %s: %s", name, c.cordonText())
		}
	}
	resort := func(t plannedTier) bool { return t.recoverable() }
	if !d.in.Policy.RecoverAll && slices.ContainsFunc(d.plan, resort) {
		s += "; the policy forbids recover-all"
	}
	return s
}

// unread says what it means for this call that the policies are not known.
func (d *decider) unread() string {
	s := fmt.Sprintf("the policies are not known yet, so that calls stay in cluster %s, ", d.own.name)
	switch {
	case d.confined && d.in.Pin != "":
		return s + fmt.Sprintf("and this one is pinned to cluster %s", word(d.in.Pin))
	case d.confined:
		return s + "and this one must not be served there (external-only)"
	}
	return s + "and " + d.nobody("it")
}

// unheard names the clusters from whose silence nothing may be concluded; empty when there are
// none. others says whether clusters that this agent has not even heard of would matter.
func (d *decider) unheard(others bool, silent func(*cluster) bool) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(d.clusters)) {
		if c := d.clusters[name]; silent(c) {
			parts = append(parts, fmt.Sprintf("cluster %s is %s", word(name), c.info.State))
		}
	}
	if others && !d.in.ClustersKnown {
		parts = append(parts, "the clusters of the federation are not known yet")
	}
	return strings.Join(parts, ", ")
}

// tally counts what removed the instances of the clusters that were allowed, or that only the order
// of external clusters leaves out.
func (d *decider) tally() string {
	var parts []string
	for _, r := range ruleReasons[1:] {
		if n := d.why[r]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, r))
		}
	}
	for _, r := range [...]Reason{ByOrder, ByLocality} {
		if n := d.why[r]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, r))
		}
	}
	return strings.Join(parts, ", ")
}
