package strategy

import "github.com/farcall/farcall/internal/catalog"

// nearnesses counts the groups that the caller's own cluster falls into: same node, same zone, same
// region, anywhere else.
const nearnesses = 4

// nearness gives the group of an instance of the caller's own cluster, 0 the nearest. What is
// unknown on either side matches nothing. Zones of two regions may bear the same name, so that a
// zone counts only where the regions do not differ.
func (d *decider) nearness(i *catalog.Instance) int {
	c := d.in.Caller
	region := i.Locality.Region == c.Locality.Region
	unsaid := i.Locality.Region == "" || c.Locality.Region == ""
	switch {
	case i.Node != "" && i.Node == c.Node:
		return 0
	case i.Locality.Zone != "" && i.Locality.Zone == c.Locality.Zone && (region || unsaid):
		return 1
	case region && !unsaid:
		return 2
	}
	return 3
}
