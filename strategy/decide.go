package strategy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/nearest"
)

// cluster is a member of the federation as one decision sees it.
type cluster struct {
	name string
	info ClusterInfo
	// tier is an index into the plan, or -1 where excluded says why it is in none.
	tier     int
	excluded Reason

	// Instances by what the rules that look at one instance alone say of them.
	available   int // nothing speaks against them
	recoverable int // only their health or ejection does
	known       int // the two above and those that cannot be dialled
	expired     int

	// recovers: its unhealthy and ejected instances are used. forced: it is dialled although it
	// was measured unreachable.
	recovers, forced bool
}

// usable says whether an ordinary call could go there now.
func (c *cluster) usable() bool { return c.available > 0 && !c.info.Unreachable }

type decider struct {
	in       Input
	kind     Kind
	clusters map[string]*cluster
	plan     []plannedTier
	out      Decision
	why      map[Reason]int // what removed the instances of allowed clusters
}

// Decide orders the instances of a service by in.Strategy. It is a pure function: equal inputs
// give equal decisions, whatever the order of in.Instances, and it is safe for concurrent use.
// The error, if any, is an *InputError; that nobody can be picked is no error but
// Decision.Unavailable.
func Decide(in Input) (Decision, error) {
	d := decider{in: in, why: map[Reason]int{}}
	if err := d.settle(); err != nil {
		return Decision{}, err
	}
	byIdentity := func(a, b Candidate) int { return a.Instance.ID.Compare(b.Instance.ID) }
	if !slices.IsSortedFunc(in.Instances, byIdentity) {
		d.in.Instances = slices.SortedFunc(slices.Values(in.Instances), byIdentity)
	}
	d.gather()
	d.makePlan()
	serving := d.choose()
	d.place()
	d.finish(serving)
	return d.out, nil
}

// settle checks what the caller asked for and fixes the strategy to follow.
func (d *decider) settle() error {
	in := &d.in
	d.kind = in.Strategy
	if d.kind == "" {
		d.kind = Default
	}
	if !d.kind.valid() {
		_, err := Parse(string(d.kind))
		if err == nil {
			err = &InputError{BadStrategy, fmt.Sprintf("strategy %q is an alias that was not parsed", d.kind)}
		}
		return err
	}
	if in.Pin == "" {
		return nil
	}
	if _, ok := in.Clusters[in.Pin]; !ok && in.Pin != in.Caller.Cluster && in.ClustersKnown {
		return d.noSuchCluster()
	}
	local := in.Pin == in.Caller.Cluster
	if (local && d.kind.usesLocal()) || (!local && d.kind.usesExternal()) {
		return nil
	}
	if !in.Inherited {
		return &InputError{Contradiction, fmt.Sprintf("strategy %s never uses cluster %s: leave out one of the two", d.kind, in.Pin)}
	}
	// The strategy that the pinned call does follow is the other "only" one, and that is what
	// answers and logs must say.
	d.kind = ExternalOnly
	if local {
		d.kind = LocalOnly
	}
	return nil
}

func (d *decider) noSuchCluster() error {
	names := slices.Sorted(maps.Keys(d.in.Clusters))
	if !slices.Contains(names, d.in.Caller.Cluster) {
		names = append(names, d.in.Caller.Cluster)
	}
	near, _ := nearest.Word(d.in.Pin, names)
	text := fmt.Sprintf("the federation has no cluster %s: did you mean %q?", quote(d.in.Pin), near)
	if len(names) <= 10 {
		text += " Its clusters are " + strings.Join(names, ", ")
	}
	return &InputError{NoSuchCluster, text}
}

// gather collects the clusters and counts their instances.
func (d *decider) gather() {
	d.clusters = make(map[string]*cluster, len(d.in.Clusters)+1)
	add := func(name string) *cluster {
		c := d.clusters[name]
		if c == nil {
			c = &cluster{name: name, info: d.in.Clusters[name], tier: -1}
			d.clusters[name] = c
		}
		return c
	}
	for name := range d.in.Clusters {
		add(name)
	}
	add(d.in.Caller.Cluster)
	if d.in.Pin != "" {
		add(d.in.Pin)
	}
	for name, run := range runs(d.in.Instances) {
		c := add(name)
		for i := range run {
			c.count(&run[i])
		}
	}
}

func (c *cluster) count(i *Candidate) {
	switch rule(i, c.info.State) {
	case "":
		c.available++
		c.known++
	case Unhealthy, Ejected:
		c.known++
		if i.Undialable == "" {
			c.recoverable++
		}
	case Undialable:
		c.known++
	case Expired:
		c.expired++
	}
}

// runs gives the instances cluster by cluster; they are in identity order.
func runs(list []Candidate) func(yield func(string, []Candidate) bool) {
	return func(yield func(string, []Candidate) bool) {
		for start := 0; start < len(list); {
			name, end := list[start].Instance.Cluster, start+1
			for end < len(list) && list[end].Instance.Cluster == name {
				end++
			}
			if !yield(name, list[start:end]) {
				return
			}
			start = end
		}
	}
}

// rule gives the first of the rules before the strategy that removes an instance, or "".
func rule(c *Candidate, state catalog.ClusterState) Reason {
	i := c.Instance
	switch {
	case i.Health == catalog.Disabled:
		return Disabled
	case i.Weight == 0:
		return WeightZero
	case state == catalog.StateExpired:
		return Expired
	case state == catalog.StateRemoved:
		return Removed
	case i.Health == catalog.Draining:
		return Draining
	case !i.Health.Serving():
		return Unhealthy
	case c.Ejected:
		return Ejected
	case c.Undialable != "":
		return Undialable
	}
	return ""
}

// place puts every instance into its tier or among those left out.
func (d *decider) place() {
	d.out.Tiers = make([]Tier, len(d.plan))
	groups := make([][nearnesses][]Candidate, len(d.plan))
	left := len(d.in.Instances)
	for i, p := range d.plan {
		left -= p.available
		if !p.nearestFirst {
			groups[i][0] = make([]Candidate, 0, p.available)
		}
	}
	d.out.Left = make([]LeftOut, 0, left)
	for name, run := range runs(d.in.Instances) {
		cl := d.clusters[name]
		for i := range run {
			c := &run[i]
			r := d.removes(c, cl)
			if r != "" {
				d.out.Left = append(d.out.Left, LeftOut{*c, r, d.explain(c, cl, r)})
				if cl.tier >= 0 {
					d.why[r]++
				}
				continue
			}
			near := 0
			if d.plan[cl.tier].nearestFirst {
				near = d.nearness(c.Instance)
			}
			groups[cl.tier][near] = append(groups[cl.tier][near], *c)
		}
	}
	for i, p := range d.plan {
		t := &d.out.Tiers[i]
		*t = Tier{Name: p.name, Available: p.available, Known: p.known, Failure: p.failure, Share: p.share}
		for _, c := range p.clusters {
			t.Clusters = append(t.Clusters, c.name)
		}
		for _, g := range groups[i] {
			if len(g) > 0 {
				t.Groups = append(t.Groups, g)
			}
		}
	}
}

// removes gives the first rule of the whole pipeline that removes an instance, or "".
func (d *decider) removes(c *Candidate, cl *cluster) Reason {
	r := rule(c, cl.info.State)
	if cl.recovers && (r == Unhealthy || r == Ejected) {
		r = ""
		if c.Undialable != "" {
			r = Undialable
		}
	}
	switch {
	case r != "":
		return r
	case cl.tier < 0:
		return cl.excluded
	case cl.info.Unreachable && !cl.forced:
		return Unreachable
	}
	return ""
}

func (d *decider) explain(c *Candidate, cl *cluster, r Reason) string {
	switch r {
	case Disabled:
		return "its registry says DISABLED"
	case WeightZero:
		return "its weight is 0"
	case Expired:
		return "nothing was heard of its cluster for too long"
	case Removed:
		return "its cluster was removed or is exported no more"
	case Draining:
		return "it is draining and takes no new calls"
	case Unhealthy:
		return "its registry says " + c.Instance.Health.String()
	case Ejected:
		return "this agent ejected it after failures"
	case Undialable:
		return c.Undialable
	case ByStrategy:
		// Only two strategies exclude a cluster, each the clusters that the other one uses.
		if cl.name == d.in.Caller.Cluster {
			return "external-only never uses the caller's own cluster"
		}
		return "local-only never uses another cluster"
	case ByPin:
		return "the call is pinned to another cluster"
	case Unreachable:
		return "its cluster was measured unreachable"
	}
	return ""
}
