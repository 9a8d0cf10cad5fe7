package strategy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// rest stands in externalOrder for all clusters that no other entry takes.
const rest = "*"

// theRest is externalOrder where nobody stated any.
var theRest = [][]string{{rest}}

// ordered is an external cluster with what orders it among others.
type ordered struct {
	*cluster
	draw uint64
}

// pools makes tiers of the external clusters by the policy's externalOrder. Those that it does not
// name are in none.
func (d *decider) pools() []plannedTier {
	order := d.in.Policy.ExternalOrder
	if len(order) == 0 {
		order = theRest
	}
	members := make([][]ordered, len(order))
	for _, c := range d.clusters {
		if c == d.own {
			continue
		}
		if at := c.pool(order); at >= 0 {
			members[at] = append(members[at], ordered{c, draw(d.in.Caller, c.name)})
		}
	}
	out := make([]plannedTier, 0, len(order)+2)
	for at, list := range members {
		if len(list) == 0 {
			continue
		}
		// Between equals the order is drawn by a hash of (agent, cluster): it is the order of the
		// targets of a broadcast, whose first reply some callers are given, and must not favour
		// the same cluster at every agent.
		slices.SortFunc(list, func(a, b ordered) int {
			return cmp.Or(cmp.Compare(a.draw, b.draw), cmp.Compare(a.name, b.name))
		})
		entries := d.others(order[at])
		if !slices.ContainsFunc(entries, func(e string) bool { return e != rest }) {
			out = d.expand(out, list)
			continue
		}
		out = append(out, pool(legible(strings.Join(entries, ", ")), list))
	}
	return out
}

// others gives the entries of a pool without the caller's own cluster, which is never external.
func (d *decider) others(entries []string) []string {
	if !slices.Contains(entries, d.own.name) {
		return entries
	}
	own := func(e string) bool { return e == d.own.name }
	return slices.DeleteFunc(slices.Clone(entries), own)
}

func pool(name string, list []ordered) plannedTier {
	t := plannedTier{name: name, clusters: make([]*cluster, len(list))}
	for i, c := range list {
		t.clusters[i] = c.cluster
	}
	return t
}

// pool gives the place of the pool that takes a cluster: the first that names it, else the first
// with a property of it, else the first with "*"; -1 where none does.
func (c *cluster) pool(order [][]string) int {
	byProperty, byRest := -1, -1
	for at, entries := range order {
		for _, e := range entries {
			switch {
			case e == c.name:
				return at
			case e == rest && byRest < 0:
				byRest = at
			case byProperty < 0 && c.has(e):
				byProperty = at
			}
		}
	}
	if byProperty >= 0 {
		return byProperty
	}
	return byRest
}

// has says whether a cluster has the property "key=value". What is not said of it is no property.
func (c *cluster) has(property string) bool {
	key, want, ok := strings.Cut(property, "=")
	if !ok || want == "" {
		return false
	}
	switch key {
	case "region":
		return c.info.Locality.Region == want
	case "zone":
		return c.info.Locality.Zone == want
	}
	return c.info.Labels[key] == want
}

// expand makes tiers of what "*" takes: one of those in the caller's region, then one for each
// distance. Where all the others are equally far, there is nothing to tell of the distance.
func (d *decider) expand(to []plannedTier, list []ordered) []plannedTier {
	region := d.in.Caller.Locality.Region
	here := func(c ordered) bool { return region != "" && c.info.Locality.Region == region }
	class := func(c ordered) int {
		if here(c) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(list, func(a, b ordered) int {
		if c := cmp.Compare(class(a), class(b)); c != 0 || here(a) {
			return c
		}
		return cmp.Compare(a.info.Distance, b.info.Distance)
	})
	n := 0
	for n < len(list) && here(list[n]) {
		n++
	}
	if n > 0 {
		to = append(to, pool(legible(fmt.Sprintf("* (region %s)", region)), list[:n]))
	}
	list = list[n:]
	equal := len(list) > 0 && list[0].info.Distance == list[len(list)-1].info.Distance
	for len(list) > 0 {
		n, distance := 1, list[0].info.Distance
		for n < len(list) && list[n].info.Distance == distance {
			n++
		}
		name := rest
		if !equal {
			name = fmt.Sprintf("* (distance %d)", distance)
		}
		to = append(to, pool(name, list[:n]))
		list = list[n:]
	}
	return to
}
