package guard

import (
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// inherited is the source that states what was believed before the registry was read here. It sorts
// after the name of every other, so that whatever a read states is believed rather.
const inherited = "\xffinherited"

// Before is what somebody else believed of the registry: this process in its life before, or another
// that read the same registry until now.
type Before struct {
	// Instances are those believed by this registry's word, the held ones among them.
	Instances []*catalog.Instance
	// Holds are those of them that were held, with the time that they have left from now on.
	Holds []Hold
	// Gone reports what was let go there. Nil where that is not known.
	Gone func(catalog.ID) bool
}

// Adopt goes on from what somebody else believed, and returns what changed of what is believed.
//
// Before the first Full read all of it is believed as if the registry had stated it, and what that
// read does not state is judged by the rule, as what it lost since: that nobody was reading meanwhile
// makes no removal plausible. What was held goes on to be held for the time that it has left, and is
// not judged again. After the first Full read the registry's own word stands, and only holds are taken
// over: of what no source states here.
//
// What was let go there is let go here, where no source states it: nobody shall bring it back. A hold
// that is known here is never made shorter. Adopt may be called more than once.
//
// It costs in proportion to what is adopted and what is held.
func (r *Registry) Adopt(now time.Time, b Before) Changes {
	p := &pass{r: r, touched: map[catalog.ID][]string{}, known: map[catalog.Name]bool{}, dirty: Changes{}}
	held := b.held()
	if !r.complete {
		p.inherit(b, held)
	}
	if len(held) > 0 {
		for _, in := range b.Instances {
			if h, is := held[in.ID]; is {
				p.resume(in, h)
			}
		}
	}
	if b.Gone != nil {
		for id := range r.held {
			if b.Gone(id) {
				p.remove(id)
				r.removals.Followed++
			}
		}
	}
	return p.end()
}

// held gives the holds of what was believed there. One of an instance that is not among that is nobody's:
// another registry may list it now.
func (b Before) held() map[catalog.ID]Hold {
	all := make(map[catalog.ID]Hold, len(b.Holds))
	for _, h := range b.Holds {
		all[h.ID] = h
	}
	held := make(map[catalog.ID]Hold, len(all))
	for _, in := range b.Instances {
		if h, is := all[in.ID]; is {
			held[in.ID] = h
		}
	}
	return held
}

// inherit states what is adopted and not held, in the place of what was adopted before.
func (p *pass) inherit(b Before, held map[catalog.ID]Hold) {
	r := p.r
	old := r.sources[inherited]
	next := &source{services: map[catalog.Name]struct{}{}, instances: make(map[catalog.ID]*catalog.Instance, len(b.Instances))}
	state := func(in *catalog.Instance) {
		if _, is := held[in.ID]; !is {
			next.instances[in.ID] = in
			next.services[in.Name] = struct{}{}
		}
	}
	if old != nil {
		for id, in := range old.instances {
			if b.Gone == nil || !b.Gone(id) {
				state(in)
			}
		}
	}
	for _, in := range b.Instances {
		state(in)
	}
	p.replaceSource(inherited, old, next)
	if delete(r.sources, inherited); len(next.services) > 0 {
		r.sources[inherited] = next
	}
	for _, id := range p.settle() {
		if _, is := held[id]; !is {
			p.remove(id)
			r.removals.Followed++
		}
	}
}

// resume holds an instance as somebody else did, where no source states it.
func (p *pass) resume(in *catalog.Instance, h Hold) {
	r, s := p.r, p.service(in.Name)
	m := s.members[in.ID]
	switch {
	case m == nil:
		m = &member{believed: in}
		s.members[in.ID] = m
		r.believed++
		p.changed(in.ID)
	case len(m.stated) > 0:
		return
	case m.hold != nil:
		m.hold.Doubted, m.hold.Listed = m.hold.Doubted || h.Doubted, m.hold.Listed || h.Listed
		r.prolong(m.hold, h.Until)
		return
	}
	r.row.breaks()
	r.beginHold(m, &hold{Hold: h, sources: []string{inherited}})
	r.removals.Held++
}
