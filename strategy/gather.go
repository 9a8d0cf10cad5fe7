package strategy

import (
	"cmp"
	"slices"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// cluster is a member of the federation as one decision sees it.
type cluster struct {
	name string
	info ClusterInfo
	// rule removes all its instances, unless it is passed. cordon is the one that does.
	rule   rule
	cordon *Cordon
	// tier is an index into the plan, or -1 where excluded says why it is in none.
	tier     int
	excluded Reason
	// list are its instances, from the place first on.
	list  []Candidate
	first int

	// Instances by what the rules that look at one instance alone say of them.
	available   nearCount // nothing speaks against them
	recoverable nearCount // only their health, ejection or relay does
	ejected     nearCount // of these, those that only this agent's calls speak against
	known       int       // the two above and those that cannot be dialled
	expired     int

	// recovers: its unhealthy and ejected instances are used. forced: it is dialled although it
	// was measured unreachable. pardoned: its ejected instances are used.
	recovers, forced, pardoned bool
}

// nearCount counts instances by nearness.
type nearCount [nearnesses]int

func (n *nearCount) total() int { return n[0] + n[1] + n[2] + n[3] }

// usable says whether an ordinary call could go there now.
func (c *cluster) usable() bool { return c.available.total() > 0 && !c.info.Unreachable }

// rule numbers the rules before the strategy, in the order of the pipeline. It stands for a Reason,
// which is twenty times as large: there is one for each instance.
type rule uint8

const (
	passed rule = iota
	disabled
	weightZero
	cordoned
	expired
	removed
	draining
	unhealthy
	ejected
	undialable
	unreachable
)

var ruleReasons = [...]Reason{"", Disabled, WeightZero, Cordoned, Expired, Removed, Draining, Unhealthy, Ejected, Undialable, Unreachable}

// verdict is what was found of one instance.
type verdict struct {
	rule rule
	near uint8 // 0 to 3, or tooFar
}

// gather collects the clusters and judges their instances.
func (d *decider) gather() {
	d.clusters = make(map[string]*cluster, len(d.in.Clusters)+1)
	for name := range d.in.Clusters {
		d.cluster(name)
	}
	d.own = d.cluster(d.in.Caller.Cluster)
	if d.in.Pin != "" {
		d.cluster(d.in.Pin)
	}
	if !d.findLists() {
		d.in.Instances = slices.SortedFunc(slices.Values(d.in.Instances), func(a, b Candidate) int {
			return a.Instance.ID.Compare(b.Instance.ID)
		})
		d.findLists()
	}
	for _, c := range d.clusters {
		d.judgeCluster(c)
	}
	d.judgeCordons()
	d.verdicts = make([]verdict, len(d.in.Instances))
	for _, c := range d.clusters {
		d.judgeInstances(c)
	}
}

func (d *decider) cluster(name string) *cluster {
	c := d.clusters[name]
	if c == nil {
		c = &cluster{name: name, info: d.in.Clusters[name], tier: -1}
		d.clusters[name] = c
	}
	return c
}

// findLists gives each cluster its part of the instances. It stops and says false where they turn
// out not to be in identity order.
func (d *decider) findLists() bool {
	list := d.in.Instances
	start := 0
	for i := 1; i <= len(list); i++ {
		if i < len(list) {
			a, b := &list[i-1].Instance.ID, &list[i].Instance.ID
			if a.Compare(*b) > 0 {
				return false
			}
			if a.Cluster == b.Cluster {
				continue
			}
		}
		c := d.cluster(list[start].Instance.Cluster)
		c.list, c.first = list[start:i], start
		start = i
	}
	return true
}

// judgeCluster finds the first rule but cordons that removes a cluster as a whole.
func (d *decider) judgeCluster(c *cluster) {
	c.info.State = d.stateOf(c)
	w, stated := d.in.Policy.Weights[c.name]
	switch {
	case stated && w == 0:
		c.rule = weightZero
	case c.info.State == catalog.StateExpired:
		c.rule = expired
	case c.info.State == catalog.StateRemoved:
		c.rule = removed
	}
}

// stateOf gives the state of a cluster, and EXPIRED where it was silent for too long. The own cluster
// never expires. Silence means something only while news of others come in.
func (d *decider) stateOf(c *cluster) catalog.ClusterState {
	state, ttl := c.info.State, d.in.Policy.StaleTTL
	switch {
	case c == d.own && state == catalog.StateExpired:
		return catalog.StateStale
	case c == d.own || state == catalog.StateRemoved || ttl <= 0 || c.info.StaleSince.IsZero() || !d.in.Advancing:
		return state
	}
	end := c.info.StaleSince.Add(ttl)
	if d.in.Now.Before(end) {
		d.wake(end)
		return state
	}
	return catalog.StateExpired
}

// judgeCordons applies the cordons that are in force. Of several for one cluster the one of the
// whole cluster is named, then the one that lasts longer.
func (d *decider) judgeCordons() {
	for i := range d.in.Cordons {
		cordon := &d.in.Cordons[i]
		if cordon.Name != (catalog.Name{}) && cordon.Name != d.in.Service {
			continue
		}
		if !cordon.Until.IsZero() && !cordon.Until.After(d.in.Now) {
			continue
		}
		c := d.clusters[cordon.Cluster]
		if c == nil {
			continue
		}
		d.wake(cordon.Until)
		if c.cordon == nil || cordon.before(c.cordon) {
			c.cordon = cordon
		}
		if c.rule != weightZero {
			c.rule = cordoned
		}
	}
}

func (c *Cordon) before(o *Cordon) bool {
	rank := func(c *Cordon) int {
		if c.Name == (catalog.Name{}) {
			return 0
		}
		return 1
	}
	end := func(c *Cordon) time.Time {
		if c.Until.IsZero() {
			return time.Unix(1<<60, 0)
		}
		return c.Until
	}
	return cmp.Or(cmp.Compare(rank(c), rank(o)), end(o).Compare(end(c)), cmp.Compare(c.Text, o.Text)) < 0
}

// judgeInstances applies the rules that look at one instance alone, and counts.
func (d *decider) judgeInstances(c *cluster) {
	nearFirst := c == d.own && d.kind != Any && d.in.Policy.Locality != LocalityNone
	verdicts := d.verdicts[c.first:]
	for i := range c.list {
		v := &verdicts[i]
		*v = verdict{rule: judge(&c.list[i], c.rule)}
		if nearFirst {
			v.near = d.nearness(c.list[i].Instance)
		}
		if v.rule == expired {
			c.expired++
		}
		if v.near == tooFar {
			continue
		}
		switch v.rule {
		case passed:
			c.available[v.near]++
			c.known++
		case unhealthy, ejected, unreachable:
			c.known++
			if c.list[i].Undialable == "" {
				c.recoverable[v.near]++
				if v.rule == ejected {
					c.ejected[v.near]++
				}
			}
		case undialable:
			c.known++
		}
	}
}

// judge gives the first of the rules before the strategy that removes an instance. whole is the
// one that removes all of its cluster.
func judge(c *Candidate, whole rule) rule {
	i := c.Instance
	switch {
	case i.Health == catalog.Disabled:
		return disabled
	case i.Weight == 0:
		return weightZero
	case whole != passed:
		return whole
	case i.Health == catalog.Draining:
		return draining
	case !i.Health.Serving():
		return unhealthy
	case c.Ejected != "":
		return ejected
	case c.Undialable != "":
		return undialable
	case c.Unreachable:
		return unreachable
	}
	return passed
}
