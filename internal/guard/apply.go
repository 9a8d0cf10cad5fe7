package guard

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// Apply takes one read of the registry and returns what changed of what is believed. A service
// that became known or unknown counts as changed.
//
// Snapshots of the same source in one Update are taken as one. Where several sources state the
// same instance, the source that comes first by name is believed. An instance that says the
// same as before (Instance.Equal) keeps its pointer. Unusable are identities that the registry
// still states, in records that could not be used: they are absent, never explicitly removed.
//
// It costs in proportion to the sources in the Update, and for a Full one to the registry.
func (r *Registry) Apply(now time.Time, u catalog.Update, unusable ...catalog.ID) Changes {
	p := &pass{
		r:       r,
		touched: map[catalog.ID][]string{},
		known:   map[catalog.Name]bool{},
		dirty:   Changes{},
	}
	before := r.stated
	read := gather(u.Snapshots)
	p.replace(read, u.Full)
	r.complete = r.complete || u.Full

	absent := p.settle()
	if u.Explicit {
		spared := make(map[catalog.ID]bool, len(unusable))
		for _, id := range unusable {
			spared[id] = true
		}
		absent = p.removeExplicit(absent, spared)
		p.releaseExplicit(read, u.Full, spared)
	}
	p.judge(now, u, before, absent)
	if u.Reset != "" {
		r.doubt()
	}
	return p.end()
}

// gather makes one source of each name in snapshots.
func gather(snapshots []catalog.Snapshot) map[string]*source {
	read := make(map[string]*source, len(snapshots))
	for _, snap := range snapshots {
		s := read[snap.Source]
		if s == nil {
			s = &source{
				services:  make(map[catalog.Name]struct{}, len(snap.Services)),
				instances: make(map[catalog.ID]*catalog.Instance, len(snap.Instances)),
			}
			read[snap.Source] = s
		}
		for _, n := range snap.Services {
			s.services[n] = struct{}{}
		}
		for _, in := range snap.Instances {
			s.services[in.Name] = struct{}{}
			s.instances[in.ID] = in
		}
	}
	return read
}

// pass is one change of what is believed under way.
type pass struct {
	r *Registry
	// touched has the instances whose statements changed, and the sources that withdrew one.
	touched map[catalog.ID][]string
	// known says of the services that were touched whether they were known before.
	known map[catalog.Name]bool
	dirty Changes
}

// replace puts what was read in the place of what the sources stated before.
func (p *pass) replace(read map[string]*source, full bool) {
	for name, s := range read {
		p.replaceSource(name, p.r.sources[name], s)
		if len(s.services) == 0 {
			delete(p.r.sources, name)
		} else {
			p.r.sources[name] = s
		}
	}
	if !full {
		return
	}
	for name, s := range p.r.sources {
		if read[name] == nil {
			p.replaceSource(name, s, &source{})
			delete(p.r.sources, name)
		}
	}
}

func (p *pass) replaceSource(name string, old, new *source) {
	if old == nil {
		old = &source{}
	}
	for n := range new.services {
		if _, ok := old.services[n]; !ok {
			p.service(n).namedBy++
		}
	}
	for id, in := range new.instances {
		if old.instances[id] != in {
			p.state(name, in)
		}
	}
	for id := range old.instances {
		if new.instances[id] == nil {
			p.withdraw(name, id)
		}
	}
	for n := range old.services {
		if _, ok := new.services[n]; !ok {
			p.service(n).namedBy--
		}
	}
}

// service returns the service of that name and remembers whether it was known before.
func (p *pass) service(n catalog.Name) *service {
	s, ok := p.r.services[n]
	if _, seen := p.known[n]; !seen {
		p.known[n] = ok
	}
	if !ok {
		s = &service{members: map[catalog.ID]*member{}}
		p.r.services[n] = s
	}
	return s
}

func (p *pass) state(source string, in *catalog.Instance) {
	s := p.service(in.Name)
	m := s.members[in.ID]
	if m == nil {
		m = &member{}
		s.members[in.ID] = m
	}
	if _, ok := p.touched[in.ID]; !ok {
		p.touched[in.ID] = nil
	}
	i, found := m.find(source)
	if found {
		m.stated[i].instance = in
		return
	}
	if len(m.stated) == 0 {
		p.r.stated++
	} else {
		p.r.shadowed++
	}
	m.stated = slices.Insert(m.stated, i, statement{source: source, instance: in})
}

func (p *pass) withdraw(source string, id catalog.ID) {
	m := p.service(id.Name).members[id]
	i, _ := m.find(source)
	m.stated = slices.Delete(m.stated, i, i+1)
	if len(m.stated) == 0 {
		p.r.stated--
	} else {
		p.r.shadowed--
	}
	p.touched[id] = append(p.touched[id], source)
}

func (m *member) find(source string) (int, bool) {
	return slices.BinarySearchFunc(m.stated, source, func(s statement, name string) int {
		return cmp.Compare(s.source, name)
	})
}

// settle believes what is stated, ends the holds of what returned, and returns, in order, what
// is stated no more and not held yet.
func (p *pass) settle() (absent []catalog.ID) {
	for id := range p.touched {
		m := p.r.services[id.Name].members[id]
		if len(m.stated) == 0 {
			if m.hold == nil {
				absent = append(absent, id)
			}
			continue
		}
		if m.hold != nil {
			p.r.endHold(m)
			p.r.removals.Returned++
			p.r.row.breaks()
		}
		stated := m.stated[0].instance
		switch {
		case m.believed == nil:
			p.r.believed++
		case m.believed.Equal(stated):
			continue
		}
		m.believed = stated
		p.changed(id)
	}
	slices.SortFunc(absent, catalog.ID.Compare)
	return absent
}

// removeExplicit removes what an explicit Update left out and returns the rest: the spared are
// unusable records, of which nobody said that they were removed.
func (p *pass) removeExplicit(absent []catalog.ID, spared map[catalog.ID]bool) (rest []catalog.ID) {
	for _, id := range absent {
		if spared[id] {
			rest = append(rest, id)
			continue
		}
		p.remove(id)
		p.r.removals.Explicit++
	}
	return rest
}

// releaseExplicit ends the holds of what the sources of an explicit Update stated once and
// leave out now.
func (p *pass) releaseExplicit(read map[string]*source, full bool, spared map[catalog.ID]bool) {
	var covered []catalog.ID
	if full {
		covered = slices.Collect(maps.Keys(p.r.held))
	} else {
		for name := range read {
			covered = slices.AppendSeq(covered, maps.Keys(p.r.heldBy[name]))
		}
	}
	for _, id := range covered {
		if p.r.held[id] != nil && !spared[id] {
			p.remove(id)
			p.r.removals.Explicit++
		}
	}
}

// judge lets absences go or holds them, by the rule of the package.
func (p *pass) judge(now time.Time, u catalog.Update, before int, absent []catalog.ID) {
	if len(absent) == 0 {
		return
	}
	r := p.r
	r.row.breaks()
	reason, detail := Burst, r.burstDetail()
	switch {
	case u.Reset != "":
		reason, detail = Reset, u.Reset
	case before > r.cfg.Floor && r.stated == 0:
		reason, detail = Catalogue, catalogueDetail(before)
	default:
		free := min(r.free(now), len(absent))
		for _, id := range absent[:free] {
			p.remove(id)
			r.passed = append(r.passed, now)
			r.removals.Passed++
		}
		absent = absent[free:]
	}
	for _, id := range absent {
		h := &hold{
			Hold:    Hold{ID: id, Since: now, Until: now.Add(r.cfg.Hold), Reason: reason, Detail: detail, Doubted: reason != Burst},
			sources: p.touched[id],
		}
		r.beginHold(r.services[id.Name].members[id], h)
		r.removals.Held++
	}
}

// free is how many more removals may go at once.
func (r *Registry) free(now time.Time) int {
	r.passed = slices.DeleteFunc(r.passed, func(at time.Time) bool { return now.Sub(at) >= r.cfg.Window })
	return r.cfg.Floor - len(r.passed)
}

// remove takes a believed instance that nobody states out of its list.
func (p *pass) remove(id catalog.ID) {
	s := p.service(id.Name)
	if m := s.members[id]; m.hold != nil {
		p.r.endHold(m)
	}
	delete(s.members, id)
	p.r.believed--
	p.changed(id)
}

func (p *pass) changed(id catalog.ID) {
	p.dirty[id.Name] = append(p.dirty[id.Name], id.Instance)
}

// end forgets services that nobody states and nothing is held of, and returns what changed.
func (p *pass) end() Changes {
	for n, was := range p.known {
		s := p.r.services[n]
		is := s.namedBy > 0 || len(s.members) > 0
		if !is {
			delete(p.r.services, n)
		}
		_, dirty := p.dirty[n]
		switch {
		case is != was && !dirty:
			p.dirty[n] = nil
		case is == was && !is:
			delete(p.dirty, n)
		}
	}
	return p.dirty
}
