package mirror

import (
	"slices"

	"github.com/farcall/farcall/internal/catalog"
)

// edit is what a batch did to the slices of one service.
type edit struct {
	count   int    // of changed slices
	was, is *slice // of the only one where count is 1; nil before it was there, or after it is gone
}

// touch notes that a slice of s changed. Caller holds mu.
func (m *Mirror) touch(s *service, was, is *slice) {
	if e := m.dirty[s]; e != nil {
		e.count++
		return
	}
	m.dirty[s] = &edit{count: 1, was: was, is: is}
}

// splice brings the list up to date where one slice changed, at a cost that hangs on the change
// and hardly on the list. It reports false, and does nothing, where an identity stands in two
// slices: relist knows which of them counts.
func (s *service) splice(was, is *slice) bool {
	if s.twice {
		return false
	}
	gone, come := difference(was, is), difference(is, was)
	list := make([]*catalog.Instance, 0, len(s.list)+len(come))
	rest := s.list
	for len(gone)+len(come) > 0 {
		var id catalog.ID // the next that goes, or comes, or does both because it changed
		if len(come) == 0 || len(gone) > 0 && gone[0].ID.Compare(come[0].ID) <= 0 {
			id = gone[0].ID
		} else {
			id = come[0].ID
		}
		at, there := find(rest, id)
		list, rest = append(list, rest[:at]...), rest[at:]
		goes := len(gone) > 0 && gone[0].ID == id
		if goes != there {
			return false
		}
		if goes {
			gone, rest = gone[1:], rest[1:]
		}
		if len(come) > 0 && come[0].ID == id {
			if n := len(list); n > 0 && list[n-1].ID == id {
				return false
			}
			list, come = append(list, come[0]), come[1:]
		}
	}
	s.set(append(list, rest...))
	return true
}

// difference gives the instances of a that are not in b, by pointer, in identity order. Either
// may be nil.
func difference(a, b *slice) []*catalog.Instance {
	if a == nil {
		return nil
	}
	out := slices.Clone(a.instances)
	if b != nil {
		in := make(map[*catalog.Instance]struct{}, len(b.instances))
		for _, i := range b.instances {
			in[i] = struct{}{}
		}
		out = slices.DeleteFunc(out, func(i *catalog.Instance) bool { _, ok := in[i]; return ok })
	}
	catalog.SortInstances(out)
	return out
}

func find(list []*catalog.Instance, id catalog.ID) (at int, ok bool) {
	return slices.BinarySearchFunc(list, id, func(x *catalog.Instance, id catalog.ID) int { return x.ID.Compare(id) })
}

// relist makes the service's list anew from its slices. An instance that stands in two slices,
// as it may between two transactions, is listed once, from the later writing.
func (s *service) relist() {
	n := 0
	for _, sl := range s.slices {
		n += len(sl.instances)
	}
	type ranked struct {
		i  *catalog.Instance
		sl *slice
	}
	all := make([]ranked, 0, n)
	for _, sl := range s.slices {
		for _, i := range sl.instances {
			all = append(all, ranked{i, sl})
		}
	}
	slices.SortFunc(all, func(a, b ranked) int {
		if c := a.i.ID.Compare(b.i.ID); c != 0 {
			return c
		}
		if a.sl.newer(b.sl) {
			return -1
		}
		return 1
	})
	list := make([]*catalog.Instance, 0, n)
	for _, r := range all {
		if len(list) == 0 || list[len(list)-1].ID != r.i.ID {
			list = append(list, r.i)
		}
	}
	s.set(list)
	s.twice = len(list) < n
}

// set replaces the list, and keeps the count of its cluster.
func (s *service) set(list []*catalog.Instance) {
	if s.in != nil {
		s.in.instances += len(list) - len(s.list)
	}
	s.list = list
}

// drop takes a service out of its cluster.
func (c *cluster) drop(n catalog.Name) {
	if s := c.services[n]; s != nil {
		s.set(nil)
		s.in = nil
		delete(c.services, n)
	}
}

func (sl *slice) newer(o *slice) bool {
	return sl.epoch > o.epoch || sl.epoch == o.epoch && sl.seq > o.seq
}
