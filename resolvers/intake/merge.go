package intake

import (
	"cmp"
	"slices"

	"github.com/farcall/farcall/internal/catalog"
)

// merge makes the cluster's list of a service in which the registries believe the instances of
// those ids otherwise than when it was sent, and says whether it is another.
//
// It costs what changed, but for one copy of the list, a pointer an instance.
func (i *Intake) merge(n catalog.Name, ids []string) (List, bool) {
	known := false
	for _, r := range i.registries {
		_, knows := r.guard.Size(n)
		known = known || knows
	}
	sent, was := i.sent[n]
	if !known {
		for _, r := range i.registries {
			for _, id := range ids {
				delete(r.hidden, catalog.ID{Cluster: i.cluster, Name: n, Instance: id})
			}
		}
		delete(i.sent, n)
		return List{Gone: true}, was
	}
	list, differs := i.patch(sent, n, ids)
	i.sent[n] = list
	if was && !differs {
		return List{}, false
	}
	return List{Instances: list}, true
}

// believed gives what the first registry that believes an instance believes of it, or nil, and
// notes of the others that theirs is shadowed.
func (i *Intake) believed(id catalog.ID) (first *catalog.Instance) {
	for _, r := range i.registries {
		in := r.guard.Believed(id)
		if in != nil && first != nil {
			r.hidden[id] = struct{}{}
		} else {
			delete(r.hidden, id)
		}
		if first == nil {
			first = in
		}
	}
	return first
}

// patch gives a list of a service with the instances of those ids as they are believed now,
// and whether it says anything else than before: else it is the same list.
func (i *Intake) patch(list []*catalog.Instance, n catalog.Name, ids []string) ([]*catalog.Instance, bool) {
	slices.Sort(ids)
	// Where each id stands in the list or would stand, and what is believed of it now.
	type change struct {
		at  int
		was bool
		is  *catalog.Instance
	}
	changes := make([]change, 0, len(ids))
	for _, id := range slices.Compact(ids) {
		at, was := slices.BinarySearchFunc(list, id, func(in *catalog.Instance, id string) int {
			return cmp.Compare(in.Instance, id)
		})
		is := i.believed(catalog.ID{Cluster: i.cluster, Name: n, Instance: id})
		if !was && is == nil || was && is != nil && (list[at] == is || list[at].Equal(is)) {
			continue
		}
		changes = append(changes, change{at: at, was: was, is: is})
	}
	if len(changes) == 0 {
		return list, false
	}
	patched := make([]*catalog.Instance, 0, len(list)+len(changes))
	next := 0 // in list
	for _, c := range changes {
		patched = append(patched, list[next:c.at]...)
		next = c.at
		if c.was {
			next++
		}
		if c.is != nil {
			patched = append(patched, c.is)
		}
	}
	return append(patched, list[next:]...), true
}
