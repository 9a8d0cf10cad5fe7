package store

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/catalog"
)

// limits bound one slice.
type limits struct {
	instances int
	bytes     int
}

// sliceLimits keep a value below 1 MiB, and so a transaction below etcd's default bound of
// 1.5 MiB on a request, with room for keys and the slice's own fields.
var sliceLimits = limits{instances: 100, bytes: 1<<20 - 4<<10}

// slot is an instance in a slice, with the bytes it takes there before compression.
type slot struct {
	inst *catalog.Instance
	size int
	// more is the stored record, where a newer version said more of the instance than inst holds. It
	// stands for as long as nothing that this version can see of the instance changes.
	more *catalogv1.Instance
}

// proto gives the instance as it is written.
func (s slot) proto() *catalogv1.Instance {
	if s.more != nil {
		return s.more
	}
	return s.inst.Proto()
}

func byIdentity(a, b slot) int { return cmp.Compare(a.inst.Instance, b.inst.Instance) }

// slice is one value of a service: some of its instances, in identity order. It is immutable
// once it is part of a layout.
type slice struct {
	index uint32
	slots []slot
	bytes int    // of all slots
	epoch uint64 // of the stored value
	// dirty says that the stored value must not stay as it is even if the instances do: it
	// could not be read, or readers would refuse its epoch.
	dirty bool
}

// change is what must be written together. Its puts and deletes are of one service.
type change struct {
	rank    rank
	puts    []slice
	deletes []uint32
}

// rank orders the changes of a publish: what adds goes before what removes, and the copy of a
// moved instance before its original goes. A reader thus never misses an instance that was
// there before and is there afterwards; for a moment it may see one twice and takes the newer.
type rank uint8

const (
	rankAdd    rank = iota // adds or updates only
	rankRemove             // also leaves instances out, or merges two slices
	rankMoved              // gave instances to other slices
	rankDelete
)

// draft is a slice while a plan is made.
type draft struct {
	slice
	was     []slot // as stored
	stored  bool   // it has a key
	changed bool
	removes bool
	moved   bool     // gave instances to others because it was too large
	dead    bool     // its key goes
	merged  []uint32 // slices that were folded into it, whose keys go with its put
	folded  bool     // it was folded into another
}

type planner struct {
	lim    limits
	drafts []*draft // by index
	loose  []slot   // instances that need a slice
}

// plan gives the changes, in the order in which they must be written, that turn the layout
// have (by index) into one that holds exactly what is wanted (in identity order; of two with one
// identity the last counts). Nothing wanted leaves one empty slice 0: confirmed empty.
//
// An instance stays in its slice; new ones go to the first slice with room; slices that are
// not concerned are not written. A slice that lost instances is merged with another where
// both together are at most half full, so that they do not part again at the next instance.
func plan(have []slice, want delta, lim limits) []change {
	p := &planner{lim: lim}
	p.keep(have, want)
	p.shed()
	p.place()
	p.merge()
	p.retire(len(want.Instances) == 0)
	return p.changes()
}

// drop gives the changes that remove a service altogether.
func drop(have []slice) []change {
	out := make([]change, 0, len(have))
	for _, s := range have {
		out = append(out, change{rank: rankDelete, deletes: []uint32{s.index}})
	}
	return out
}

// keep leaves every wanted instance that has a slice in it, the first one where it is in two. It
// looks into a slice only where something of it may have changed.
func (p *planner) keep(have []slice, want delta) {
	drafts := make([]draft, len(have))
	p.drafts = make([]*draft, len(have))
	changed := want.changed()
	for n, s := range have {
		d := &drafts[n]
		p.drafts[n] = d
		*d = draft{slice: slice{index: s.index, dirty: s.dirty}, was: s.slots, stored: true, changed: s.dirty}
		if want.known && !s.dirty && !s.holdsAny(want.gone) {
			// Clipped: what is added to the draft goes into a copy.
			d.slots, d.bytes = slices.Clip(s.slots), s.bytes
			continue
		}
		d.slots = make([]slot, 0, len(s.slots))
		for _, old := range s.slots {
			w, ok := changed[old.inst.Instance]
			if !ok && want.known {
				d.add(old)
				continue
			}
			if w == nil {
				d.changed, d.removes = true, true
				continue
			}
			delete(changed, old.inst.Instance)
			if old.inst != w && !old.inst.Equal(w) {
				old = newSlot(w)
				d.changed = true
			}
			d.add(old)
		}
	}
	for _, w := range want.come {
		if changed[w.Instance] == w {
			delete(changed, w.Instance)
			p.loose = append(p.loose, newSlot(w))
		}
	}
}

// shed takes instances off slices that have outgrown the limits.
func (p *planner) shed() {
	for _, d := range p.drafts {
		for len(d.slots) > 1 && (len(d.slots) > p.lim.instances || d.bytes > p.lim.bytes) {
			last := d.slots[len(d.slots)-1]
			d.slots = d.slots[:len(d.slots)-1]
			d.bytes -= last.size
			d.changed, d.moved = true, true
			p.loose = append(p.loose, last)
		}
	}
}

// place puts every loose instance into the first slice with room. A slice that just gave
// some away takes none: its put must come after the puts of those that took them.
func (p *planner) place() {
	for _, s := range p.loose {
		i := slices.IndexFunc(p.drafts, func(d *draft) bool {
			return !d.moved && len(d.slots) < p.lim.instances && d.bytes+s.size <= p.lim.bytes
		})
		if i < 0 {
			i = p.grow()
		}
		p.drafts[i].add(s)
		p.drafts[i].changed = true
	}
}

// grow adds a slice with the lowest free index and returns its position.
func (p *planner) grow() int {
	i := 0
	for i < len(p.drafts) && p.drafts[i].index == uint32(i) {
		i++
	}
	p.drafts = slices.Insert(p.drafts, i, &draft{slice: slice{index: uint32(i)}})
	return i
}

// merge folds sparse slices together, but only if one of them is written anyway because it
// lost instances: a change elsewhere in the service moves nobody.
func (p *planner) merge() {
	for _, d := range p.drafts {
		if !d.removes || !d.mergeable() {
			continue
		}
		for _, o := range p.drafts {
			if o == d || !o.mergeable() || len(d.slots)+len(o.slots) > p.lim.instances/2 || d.bytes+o.bytes > p.lim.bytes/2 {
				continue
			}
			to, from := d, o
			if o.index < d.index {
				to, from = o, d
			}
			for _, s := range from.slots {
				to.add(s)
			}
			to.changed, to.removes = true, true
			to.merged = append(to.merged, from.merged...)
			if from.stored {
				to.merged = append(to.merged, from.index)
			}
			from.folded = true
			if from == d {
				break
			}
		}
	}
}

func (d *draft) mergeable() bool { return !d.moved && !d.folded && len(d.slots) > 0 }

// retire marks the slices that hold nothing any more, but for slice 0 of an empty service.
func (p *planner) retire(empty bool) {
	if empty && (len(p.drafts) == 0 || p.drafts[0].index != 0) {
		p.drafts[p.grow()].changed = true
	}
	for _, d := range p.drafts {
		d.dead = len(d.slots) == 0 && (!empty || d.index != 0)
	}
}

func (p *planner) changes() []change {
	var out []change
	for _, d := range p.drafts {
		switch {
		case d.folded:
		case d.dead && d.stored:
			out = append(out, change{rank: rankDelete, deletes: []uint32{d.index}})
		case d.dead || !d.changed:
		default:
			slices.SortFunc(d.slots, byIdentity)
			if d.asStored() {
				continue
			}
			put := slice{index: d.index, slots: d.slots, bytes: d.bytes}
			out = append(out, change{rank: d.rank(), puts: []slice{put}, deletes: d.merged})
		}
	}
	slices.SortStableFunc(out, func(a, b change) int { return cmp.Compare(a.rank, b.rank) })
	return out
}

// asStored reports whether a slice that changed came back to what it was: an instance that
// was in two slices can leave the one and be put back from the other.
func (d *draft) asStored() bool {
	return d.stored && !d.dirty &&
		slices.EqualFunc(d.was, d.slots, func(a, b slot) bool { return a.inst.Equal(b.inst) })
}

func (d *draft) rank() rank {
	switch {
	case d.moved:
		return rankMoved
	case d.removes:
		return rankRemove
	}
	return rankAdd
}

// add puts a slot at the end of a slice that is not part of a layout yet.
func (s *slice) add(sl slot) {
	s.slots = append(s.slots, sl)
	s.bytes += sl.size
}

// apply gives the layout after a change was written.
func (c change) apply(have []slice) []slice {
	out := slices.DeleteFunc(slices.Clone(have), func(s slice) bool {
		return slices.Contains(c.deletes, s.index) ||
			slices.ContainsFunc(c.puts, func(p slice) bool { return p.index == s.index })
	})
	out = append(out, c.puts...)
	slices.SortFunc(out, func(a, b slice) int { return cmp.Compare(a.index, b.index) })
	return out
}

// newSlot measures an instance: its own bytes, its tag, and a length of up to three bytes.
func newSlot(i *catalog.Instance) slot { return slot{inst: i, size: proto.Size(i.Proto()) + 4} }
