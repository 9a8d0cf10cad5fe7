package strategy

import "github.com/farcall/farcall/internal/catalog"

// place puts every instance into its tier or among those left out.
func (d *decider) place() {
	d.out.Tiers = make([]Tier, len(d.plan))
	groups := d.makeGroups()
	for _, c := range d.ordered() {
		verdicts := d.verdicts[c.first:]
		for i := range c.list {
			candidate := &c.list[i]
			r := c.removes(candidate, verdicts[i])
			if r == "" {
				g := &groups[c.tier][verdicts[i].near]
				*g = append(*g, *candidate)
				continue
			}
			d.out.Left = append(d.out.Left, LeftOut{*candidate, r, d.explain(candidate, c, r)})
			if c.tier >= 0 || r == ByOrder {
				d.why[r]++
			}
		}
	}
	for i := range d.plan {
		p, t := &d.plan[i], &d.out.Tiers[i]
		*t = Tier{Name: p.name, Available: p.available, Known: p.known, Failure: p.failure, Share: p.share, Why: d.reason(p)}
		t.Clusters = make([]string, len(p.clusters))
		for n, c := range p.clusters {
			t.Clusters[n] = c.name
		}
		for _, g := range groups[i] {
			if len(g) > 0 {
				t.Groups = append(t.Groups, g)
			}
		}
	}
}

// makeGroups makes room for exactly what will be placed, in one piece: growing lists would cost more
// than all the rest.
func (d *decider) makeGroups() [][nearnesses][]Candidate {
	groups := make([][nearnesses][]Candidate, len(d.plan))
	sizes := make([]nearCount, len(d.plan))
	placed := 0
	for i := range d.plan {
		for _, c := range d.plan[i].clusters {
			for near := range nearnesses {
				n := c.placed(near)
				sizes[i][near] += n
				placed += n
			}
		}
	}
	room := make([]Candidate, placed)
	for i := range groups {
		for near, n := range sizes[i] {
			groups[i][near], room = room[:0:n], room[n:]
		}
	}
	d.out.Left = make([]LeftOut, 0, len(d.in.Instances)-placed)
	return groups
}

// placed says how many of an allowed cluster's instances of a nearness come into its tier.
func (c *cluster) placed(near int) int {
	n := 0
	if c.usable() || c.forced {
		n = c.available[near]
	}
	if c.recovers && (!c.info.Unreachable || c.forced) {
		n += c.recoverable[near]
	}
	if c.pardoned && !c.info.Unreachable {
		n += c.ejected[near]
	}
	return n
}

// ordered gives the clusters that have instances, in their order.
func (d *decider) ordered() []*cluster {
	list := make([]*cluster, 0, len(d.clusters))
	for i := 0; i < len(d.in.Instances); {
		c := d.clusters[d.in.Instances[i].Instance.Cluster]
		list = append(list, c)
		i += len(c.list)
	}
	return list
}

// removes gives the first rule of the whole pipeline that removes an instance, or "".
func (c *cluster) removes(i *Candidate, v verdict) Reason {
	r := v.rule
	if c.recovers && (r == unhealthy || r == ejected || r == unreachable) {
		r = passed
		if i.Undialable != "" {
			r = undialable
		}
	}
	if c.pardoned && r == ejected && i.Undialable == "" {
		r = passed
	}
	switch {
	case r != passed:
		return ruleReasons[r]
	case c.tier < 0:
		return c.excluded
	case c.info.Unreachable && !c.forced:
		return Unreachable
	case v.near == tooFar:
		return ByLocality
	}
	return ""
}

// explain says in a sentence what a reason means for one instance.
func (d *decider) explain(i *Candidate, c *cluster, r Reason) string {
	switch r {
	case Disabled:
		return "its registry says DISABLED"
	case WeightZero:
		if i.Instance.Weight == 0 {
			return "its weight is 0"
		}
		return "the policy gives its cluster weight 0"
	case Cordoned:
		return c.cordonText()
	case Expired:
		return "nothing was heard of its cluster for too long"
	case Removed:
		return "its cluster was removed or is exported no more"
	case Draining:
		return "it is draining and takes no new calls"
	case Unhealthy:
		if i.Instance.Health == catalog.Unhealthy {
			return "its registry says UNHEALTHY"
		}
		return "its registry says " + i.Instance.Health.String()
	case Ejected:
		return i.Ejected
	case Undialable:
		return i.Undialable
	case ByStrategy, ByPin, ByOrder:
		return d.explainExclusion(c)
	case Unreachable:
		if i.Unreachable {
			return "the way to it was measured not to answer"
		}
		return "its cluster was measured unreachable"
	case ByLocality:
		if d.in.Caller.Locality.Zone == "" {
			return "locality is strict, and it is not in the caller's region"
		}
		return "locality is strict, and it is not in the caller's zone"
	}
	return ""
}

// explainExclusion says why a cluster is in no tier.
func (d *decider) explainExclusion(c *cluster) string {
	switch {
	case c.excluded == ByPin:
		return "the call is pinned to another cluster"
	case c.excluded == ByOrder:
		return "externalOrder does not name its cluster"
	case c == d.own:
		return "external-only never uses the caller's own cluster"
	case !d.in.PoliciesKnown:
		return "the policies are not known yet, so that calls stay in the caller's own cluster"
	}
	return "local-only never uses another cluster"
}

// cordonText says whose cordon it is and why, as its author wrote it.
func (c *cluster) cordonText() string {
	text := "its cluster is cordoned"
	if c.cordon.Name != (catalog.Name{}) {
		text = "the service is cordoned in its cluster"
	}
	if c.cordon.Text != "" {
		text += ": " + c.cordon.Text
	}
	return text
}
