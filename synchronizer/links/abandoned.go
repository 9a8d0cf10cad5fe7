package links

import (
	"cmp"
	"slices"
	"time"
)

// Abandoned is a link that no agent names any more, and of which the store holds instances.
type Abandoned struct {
	Name string
	// Reporter is the node that reported it last; empty where nobody knows.
	Reporter string
	// Since is since when no agent names it, as far as this process knows; Until is when it is retired.
	Since, Until time.Time
	Instances    int
}

// Abandoned gives the links that no agent has named for a while, in the order of their names. Their
// lists stay until Until, or until a person drops them.
func (c *Cluster) Abandoned(now time.Time) []Abandoned {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Abandoned
	for _, k := range c.links {
		if !k.abandoned(now) {
			continue
		}
		if n := len(c.deps.Stored(k.name)); n > 0 {
			out = append(out, Abandoned{Name: k.name, Reporter: k.last, Since: k.unnamed, Until: k.unnamed.Add(staleTTL), Instances: n})
		}
	}
	slices.SortFunc(out, func(a, b Abandoned) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func (k *link) abandoned(now time.Time) bool {
	return len(k.named) == 0 && !k.unnamed.IsZero() && now.Sub(k.unnamed) >= unnamedFor
}

// Drop lets go of the links of these names that are abandoned, by a person's word, and gives their
// names. An agent that comes back makes them known again.
func (c *Cluster) Drop(now time.Time, names func(string) bool) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var dropped []string
	for name, k := range c.links {
		if !names(name) || !k.abandoned(now) {
			continue
		}
		c.remove(k, now)
		c.deps.Registries.Drop(name)
		c.deps.Reported()
		dropped = append(dropped, name)
	}
	slices.Sort(dropped)
	return dropped
}
