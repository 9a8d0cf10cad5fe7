package strategy

import "slices"

// plannedTier is a tier before its instances are put in.
type plannedTier struct {
	name             string
	clusters         []*cluster
	available, known int
	// capacity is the percentage of calls that it is fit for, granted what failback lets it have
	// of that, and share what it gets.
	capacity, granted, share float64
	// recovers says that it serves although none of it is available.
	recovers bool
	failure  Reason
}

// makePlan says which clusters form which tier, and why the others form none.
func (d *decider) makePlan() {
	local := plannedTier{name: "local", clusters: []*cluster{d.own}}
	switch {
	case d.confined:
		d.setPlan(nil)
		return
	case d.in.Pin == d.own.name && d.in.Pin != "":
		d.setPlan([]plannedTier{local})
		return
	case d.in.Pin != "":
		d.setPlan([]plannedTier{{name: word(d.in.Pin), clusters: []*cluster{d.clusters[d.in.Pin]}}})
		return
	case d.kind == LocalOnly:
		d.setPlan([]plannedTier{local})
		return
	}
	pools := d.pools()
	switch d.kind {
	case LocalFirst:
		pools = slices.Insert(pools, 0, local)
	case ExternalFirst:
		pools = append(pools, local)
	case Any:
		all := plannedTier{name: string(Any), clusters: []*cluster{d.own}}
		for _, p := range pools {
			all.clusters = append(all.clusters, p.clusters...)
		}
		pools = []plannedTier{all}
	case Broadcast:
		targets := []plannedTier{local}
		for _, p := range pools {
			for _, c := range p.clusters {
				targets = append(targets, plannedTier{name: word(c.name), clusters: []*cluster{c}})
			}
		}
		pools = targets
	}
	d.setPlan(pools)
}

func (d *decider) setPlan(tiers []plannedTier) {
	for _, c := range d.clusters {
		switch {
		case d.in.Pin != "" && (c == d.own || !d.confined):
			c.excluded = ByPin
		case c != d.own && d.kind.usesExternal():
			c.excluded = ByOrder
		default:
			c.excluded = ByStrategy
		}
	}
	d.plan = tiers
	for i := range d.plan {
		t := &d.plan[i]
		for _, c := range t.clusters {
			c.tier = i
			t.known += c.known
			if c.usable() {
				t.available += c.available.total()
			}
		}
	}
}
