package strategy

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
)

// plannedTier is a tier before its instances are put in.
type plannedTier struct {
	name             string
	clusters         []*cluster
	nearestFirst     bool
	available, known int
	share            float64
	failure          Reason
}

// makePlan says which clusters form which tier, and why the others form none.
func (d *decider) makePlan() {
	own := d.clusters[d.in.Caller.Cluster]
	local := plannedTier{name: "local", clusters: []*cluster{own}, nearestFirst: true}
	if d.in.Pin != "" {
		if d.in.Pin != own.name {
			local = plannedTier{name: d.in.Pin, clusters: []*cluster{d.clusters[d.in.Pin]}}
		}
		d.setPlan(ByPin, local)
		return
	}
	externals := d.externals()
	pools := d.pools(externals)
	switch d.kind {
	case LocalFirst:
		d.setPlan("", append([]plannedTier{local}, pools...)...)
	case ExternalFirst:
		d.setPlan("", append(pools, local)...)
	case LocalOnly:
		d.setPlan(ByStrategy, local)
	case ExternalOnly:
		d.setPlan(ByStrategy, pools...)
	case Any:
		d.setPlan("", plannedTier{name: string(Any), clusters: append([]*cluster{own}, externals...)})
	case Broadcast:
		tiers := []plannedTier{local}
		for _, c := range externals {
			tiers = append(tiers, plannedTier{name: c.name, clusters: []*cluster{c}})
		}
		d.setPlan("", tiers...)
	}
}

func (d *decider) setPlan(excluded Reason, tiers ...plannedTier) {
	for _, c := range d.clusters {
		c.excluded = excluded
	}
	d.plan = tiers
	for i := range d.plan {
		t := &d.plan[i]
		for _, c := range t.clusters {
			c.tier = i
			t.known += c.known
			if c.usable() {
				t.available += c.available
			}
		}
	}
}

// sameRegion says whether a cluster is known to be in the caller's region.
func (d *decider) sameRegion(c *cluster) bool {
	return c.info.Locality.Region != "" && c.info.Locality.Region == d.in.Caller.Locality.Region
}

// externals gives the other clusters, those of the caller's region first. Between equals the
// order is drawn by a hash of (agent, cluster): it is the order of the targets of a broadcast, whose
// first reply some callers are given, and must not favour the same cluster at every agent.
func (d *decider) externals() []*cluster {
	type ranked struct {
		*cluster
		class int
		draw  uint64
	}
	list := make([]ranked, 0, len(d.clusters))
	for _, c := range d.clusters {
		if c.name == d.in.Caller.Cluster {
			continue
		}
		r := ranked{cluster: c, draw: draw(d.in.Caller, c.name)}
		if !d.sameRegion(c) {
			r.class = 1
		}
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(a.draw, b.draw), cmp.Compare(a.name, b.name))
	})
	out := make([]*cluster, len(list))
	for i, r := range list {
		out[i] = r.cluster
	}
	return out
}

func draw(agent Caller, cluster string) uint64 {
	h := fnv.New64a()
	for _, s := range []string{agent.Cluster, agent.Node, cluster} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	// The high bits of the sum, which order it, hardly depend on the last bytes of a short text;
	// one round of MurmurHash3's finaliser spreads them.
	x := h.Sum64()
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	return x ^ x>>33
}

// pools expands "*", which is what the order of external clusters consists of: one pool of those in
// the caller's region, then one of all the others.
func (d *decider) pools(externals []*cluster) []plannedTier {
	n := 0
	for n < len(externals) && d.sameRegion(externals[n]) {
		n++
	}
	var out []plannedTier
	if n > 0 {
		out = append(out, plannedTier{name: fmt.Sprintf("* (region %s)", d.in.Caller.Locality.Region), clusters: externals[:n]})
	}
	if n < len(externals) {
		out = append(out, plannedTier{name: "*", clusters: externals[n:]})
	}
	return out
}

// choose says which tiers are used and how: it sets the shares, calls recover-all in where
// nobody is available, and makes the targets of a broadcast. It gives the index of the tier that
// serves, or -1.
func (d *decider) choose() int {
	recoverAll := !slices.ContainsFunc(d.plan, func(t plannedTier) bool { return t.available > 0 })
	if d.kind == Broadcast {
		d.chooseTargets(recoverAll)
		return -1
	}
	for i := range d.plan {
		t := &d.plan[i]
		if t.available > 0 || recoverAll && t.recover() {
			t.share = 100
			d.out.RecoverAll = recoverAll
			return i
		}
	}
	return -1
}

// recover makes the tier use what it has although none of it is available; false if it has
// nothing. Of a cluster that is only unreachable the available instances are used: its registry
// knows no better ones.
func (t *plannedTier) recover() bool {
	if !slices.ContainsFunc(t.clusters, func(c *cluster) bool { return c.available > 0 || c.recoverable > 0 }) {
		return false
	}
	for _, c := range t.clusters {
		c.forced = true
		c.recovers = c.available == 0
	}
	return true
}

// chooseTargets keeps the tiers that take part in a broadcast: the clusters with an available
// instance, or, where no reachable one has any, with one to recover. A target that is
// unreachable stays, as a failure with a name.
func (d *decider) chooseTargets(recoverAll bool) {
	targets := d.plan[:0]
	for _, t := range d.plan {
		c := t.clusters[0]
		if c.available == 0 && (!recoverAll || c.recoverable == 0) {
			// Rules remove all its instances, so that its index places none.
			continue
		}
		c.recovers = c.available == 0
		if c.info.Unreachable {
			t.failure = Unreachable
		} else {
			t.share = 100
			d.out.RecoverAll = recoverAll
		}
		c.tier = len(targets)
		targets = append(targets, t)
	}
	d.plan = targets
}

// finish says what kind of decision it became. serving is the index of the tier in use, or -1.
func (d *decider) finish(serving int) {
	d.out.Strategy = d.kind
	for i := range max(serving, 0) {
		for _, c := range d.plan[i].clusters {
			d.out.Degraded = d.out.Degraded || c.expired > 0
		}
	}
	inUse := func(t plannedTier) bool { return t.share > 0 || t.failure != "" }
	if !slices.ContainsFunc(d.plan, inUse) {
		d.out.Unavailable, d.out.Detail = d.unavailable()
	}
}
