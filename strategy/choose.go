package strategy

import "slices"

// whole is all calls, in percent. What is less than a trifle off it is rounding.
const (
	whole  = 100.0
	trifle = 1e-9
)

// choose says which tiers are used and how: it hands out the shares, calls recover-all in where
// nobody is available, and makes the targets of a broadcast.
func (d *decider) choose() {
	nobody := !slices.ContainsFunc(d.plan, func(t plannedTier) bool { return t.available > 0 })
	recoverAll := nobody && d.in.Policy.RecoverAll
	if d.kind == Broadcast {
		d.chooseTargets(recoverAll)
		return
	}
	for i := range d.plan {
		d.plan[i].capacity = d.capacity(&d.plan[i])
	}
	d.recall()
	if !nobody {
		d.share()
	}
	d.remember()
	if recoverAll {
		at := slices.IndexFunc(d.plan, func(t plannedTier) bool { return t.recoverable() })
		if at >= 0 {
			d.plan[at].recover()
			d.out.RecoverAll = true
		}
	}
}

// minAvailable is at least 1, whatever the policy says.
func (d *decider) minAvailable() int { return max(1, int(d.in.Policy.Failover.MinAvailable)) }

// sufficient says whether a tier may take all calls. The numbers are not divided, so that no
// percentage is cut.
func (d *decider) sufficient(t *plannedTier) bool {
	return t.available >= d.minAvailable() && uint64(t.available)*100 >= uint64(d.in.Policy.Failover.Threshold)*uint64(t.known)
}

// capacity gives the percentage of calls that a tier is fit for.
func (d *decider) capacity(t *plannedTier) float64 {
	switch {
	case d.sufficient(t):
		return whole
	case d.in.Policy.Failover.Mode == Strict || t.available < d.minAvailable():
		return 0
	}
	// available/known percent of threshold percent; the tier is not sufficient, so that the
	// divisor is not 0.
	return float64(t.available) * 100 * 100 / (float64(t.known) * float64(d.in.Policy.Failover.Threshold))
}

// share hands out all calls in the order of the tiers: to each what failback grants it, then what
// it is fit for although failback holds it, so that calls are never worse off for a hold. If all
// tiers together are fit for less than all calls, their shares grow in proportion, as Envoy's
// priorities do. If none is fit for any, the first with an available instance takes all.
func (d *decider) share() {
	left := whole
	give := func(t *plannedTier, upTo float64) {
		if more := min(left, upTo-t.share); more > 0 {
			t.share += more
			left -= more
		}
		if left < trifle {
			left = 0
		}
	}
	for i := range d.plan {
		give(&d.plan[i], d.plan[i].granted)
	}
	for i := range d.plan {
		give(&d.plan[i], d.plan[i].capacity)
	}
	if left == whole {
		at := slices.IndexFunc(d.plan, func(t plannedTier) bool { return t.available > 0 })
		d.plan[at].share = whole
		return
	}
	if left > 0 {
		d.scale(whole / (whole - left))
	}
}

// scale makes all shares grow alike; the last one takes what rounding leaves.
func (d *decider) scale(by float64) {
	var last *plannedTier
	others := 0.0
	for i := range d.plan {
		if d.plan[i].share <= 0 {
			continue
		}
		if last != nil {
			others += last.share
		}
		last = &d.plan[i]
		last.share *= by
	}
	last.share = whole - others
}

// recoverable says whether a tier has anything to use although none of it is available.
func (t *plannedTier) recoverable() bool {
	return slices.ContainsFunc(t.clusters, func(c *cluster) bool { return c.available.total() > 0 || c.recoverable.total() > 0 })
}

// recover makes the tier use what it has. Of a cluster that is only unreachable the available
// instances are used: its registry knows no better ones.
func (t *plannedTier) recover() {
	t.recovers, t.share = true, whole
	for _, c := range t.clusters {
		c.forced = true
		c.recovers = c.available.total() == 0
	}
}

// chooseTargets keeps the tiers that take part in a broadcast: the clusters with an available
// instance, or, where no reachable one has any, with one to recover. A target that is
// unreachable stays, as a failure with a name. So does a cluster whose instances this agent has
// ejected itself, and these are called: who asked for every cluster must be told which one fails.
func (d *decider) chooseTargets(recoverAll bool) {
	targets := d.plan[:0]
	for _, t := range d.plan {
		c := t.clusters[0]
		resort := recoverAll && c.recoverable.total() > 0
		c.pardoned = c.available.total() == 0 && !resort && c.ejected.total() > 0
		if c.available.total() == 0 && !resort && !c.pardoned {
			// Rules remove all its instances, so that its index places none.
			continue
		}
		c.recovers = c.available.total() == 0 && resort
		if c.info.Unreachable {
			t.failure = Unreachable
		} else {
			t.share, t.recovers = whole, c.recovers || c.pardoned
			d.out.RecoverAll = recoverAll
		}
		c.tier = len(targets)
		targets = append(targets, t)
	}
	d.plan = targets
}
