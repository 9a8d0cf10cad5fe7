package store

import (
	"cmp"
	"slices"

	"github.com/farcall/farcall/internal/catalog"
)

// delta is a service's list as it shall be, and how it differs from what the layout holds.
type delta struct {
	List
	// known says that the layout holds the list that come and gone were found against; else it may
	// hold anything, and come is all that is wanted.
	known bool
	// come are the instances that were not among those before, by pointer, as they stand in the list;
	// gone are those that are not there any more, in identity order. One that changed is in both.
	come, gone []*catalog.Instance
	// ordered says that the list is in identity order, no identity standing twice.
	ordered bool
}

// differ compares a list with the one before it, which is ordered; nil where that is not known. It
// looks at what differs by pointer only: for ten thousand instances, a look at each would cost more
// than the writing of one slice. A list that is not ordered is compared with nothing: an instance
// that stayed and stands there another time, as another, would not show as gone.
func differ(before []*catalog.Instance, l List) delta {
	d := delta{List: l, known: len(before) > 0, ordered: true}
	for n, i := range l.Instances {
		if len(before) > 0 && before[0] == i {
			before = before[1:]
			continue
		}
		for len(before) > 0 && before[0].Instance < i.Instance {
			d.gone = append(d.gone, before[0])
			before = before[1:]
		}
		if len(before) > 0 && before[0] == i {
			before = before[1:]
			continue
		}
		d.come = append(d.come, i)
		if n > 0 && l.Instances[n-1].Instance >= i.Instance || n+1 < len(l.Instances) && l.Instances[n+1].Instance <= i.Instance {
			d.ordered = false
		}
	}
	d.gone = append(d.gone, before...)
	if d.known && !d.ordered {
		return differ(nil, l)
	}
	return d
}

// changed gives, by id, what is wanted of the instances that came, and nil for those that went.
func (d *delta) changed() map[string]*catalog.Instance {
	out := make(map[string]*catalog.Instance, len(d.come)+len(d.gone))
	for _, i := range d.gone {
		out[i.Instance] = nil
	}
	for _, i := range d.come {
		out[i.Instance] = i
	}
	return out
}

// holdsAny reports whether one of some instances, in identity order, is in the slice.
func (s *slice) holdsAny(some []*catalog.Instance) bool {
	if len(s.slots) == 0 {
		return false
	}
	first, last := s.slots[0].inst.Instance, s.slots[len(s.slots)-1].inst.Instance
	at, _ := slices.BinarySearchFunc(some, first, func(i *catalog.Instance, id string) int { return cmp.Compare(i.Instance, id) })
	for _, i := range some[at:] {
		if i.Instance > last {
			return false
		}
		_, ok := slices.BinarySearchFunc(s.slots, i.Instance, func(sl slot, id string) int { return cmp.Compare(sl.inst.Instance, id) })
		if ok {
			return true
		}
	}
	return false
}
