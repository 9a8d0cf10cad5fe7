package strategy

import "github.com/farcall/farcall/internal/catalog"

// nearnesses counts the groups that the caller's own cluster falls into: same node, same zone, same
// region, anywhere else.
const nearnesses = 4

// tooFar is the nearness of an instance that a strict locality does not use.
const tooFar = nearnesses

// nearness gives the group of an instance of the caller's own cluster, 0 the nearest. What is
// unknown on either side matches nothing. Zones of two regions may bear the same name, so that a
// zone counts only where the regions do not differ.
func (d *decider) nearness(i *catalog.Instance) uint8 {
	c := &d.in.Caller
	region := i.Locality.Region == c.Locality.Region
	unsaid := i.Locality.Region == "" || c.Locality.Region == ""
	near := uint8(3)
	switch {
	case i.Node != "" && i.Node == c.Node:
		near = 0
	case i.Locality.Zone != "" && i.Locality.Zone == c.Locality.Zone && (region || unsaid):
		near = 1
	case region && !unsaid:
		near = 2
	}
	if d.in.Policy.Locality == LocalityStrict && near > d.strictLimit() {
		return tooFar
	}
	return near
}

// strictLimit is the farthest nearness that a strict locality uses: the caller's zone, or its region
// where its zone is not known. A caller that knows nothing of itself has nothing to be strict about.
func (d *decider) strictLimit() uint8 {
	switch l := d.in.Caller.Locality; {
	case l.Zone != "":
		return 1
	case l.Region != "":
		return 2
	}
	return 3
}
