package intake

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/farcall/farcall/internal/catalog"
)

// maxStrategies is how many services of one registry may state a strategy. All of them stand in
// one value of the store, and with every agent.
const maxStrategies = 4096

// contradicted is the source under which strategies that do not count are set aside. No resolver
// has one of that name.
const contradicted = "\x00strategies"

// strategies are those that the sources of one registry state. The zero value is empty.
//
// As a list of instances does, a strategy that is absent from a read may be missing by mistake: a
// service that is local-only must not leave its cluster because its registry was read empty. So
// one that nobody took back on purpose is kept while the guard holds anything of the registry, and
// what was in force before this process until the registry was read.
type strategies struct {
	// sources are those that state any.
	sources map[string][]statement
	// kept are those that no source states any more, while the guard holds something.
	kept map[catalog.Name]string
	// inForce is handed out, so it is replaced and never written into; nil where nothing is stated.
	inForce map[catalog.Name]string
	// against are the statements that do not count, with the reasons.
	against map[against]string
	// counted are those of them that metrics know.
	counted map[against]string
	// stale says that inForce has to be made anew, news that it was.
	stale, news bool

	// lost are, within one update, those that were in force before it and that it neither states
	// nor takes back on purpose, be it by listing the service without one.
	lost map[catalog.Name]string
}

// statement is that a service shall have a strategy.
type statement struct {
	name catalog.Name
	kind string
}

// against is a statement that does not count.
type against struct {
	source string
	statement
}

// begin begins an update. A full one that is explicit takes back all that it does not list.
func (s *strategies) begin(full, explicit bool) {
	s.lost = map[catalog.Name]string{}
	if !full {
		return
	}
	s.stale = true
	clear(s.sources)
	if explicit {
		clear(s.kept)
	} else {
		maps.Copy(s.lost, s.inForce)
	}
}

// forget drops what a source stated, on purpose where the update is explicit.
func (s *strategies) forget(source string, explicit bool) {
	for _, st := range s.sources[source] {
		s.stale = true
		if !explicit {
			s.lost[st.name] = st.kind
		}
	}
	delete(s.sources, source)
}

// inherit keeps what was in force before anything was read, until it is known what the registry
// states.
func (s *strategies) inherit(before map[catalog.Name]string) {
	if len(before) == 0 {
		return
	}
	if s.kept == nil {
		s.kept = map[catalog.Name]string{}
	}
	maps.Copy(s.kept, before)
	s.merge()
}

// add notes that a source lists a service, and states a strategy for it where kind is not empty.
func (s *strategies) add(source string, n catalog.Name, kind string) {
	delete(s.lost, n)
	if _, was := s.kept[n]; was {
		s.stale = true
		delete(s.kept, n)
	}
	if kind == "" {
		return
	}
	s.stale = true
	if s.sources == nil {
		s.sources = map[string][]statement{}
	}
	s.sources[source] = append(s.sources[source], statement{n, kind})
}

// end ends an update: what is neither stated any more nor taken back is kept for now. It is for
// settleStrategies to say for how long, once the guard has judged the update.
func (s *strategies) end() {
	if !s.stale {
		return
	}
	for _, list := range s.sources {
		for _, st := range list {
			delete(s.lost, st.name)
		}
	}
	if s.kept == nil {
		s.kept = map[catalog.Name]string{}
	}
	for n := range s.lost {
		if kind, was := s.inForce[n]; was {
			s.kept[n] = kind
		}
	}
	s.merge()
}

// settleStrategies lets go of what is kept where the guard holds nothing, and sets aside what does
// not count.
func (r *registry) settleStrategies() {
	s := &r.stated
	if len(s.kept) > 0 && r.guard.Counts().Held == 0 && r.guard.Complete() {
		clear(s.kept)
		s.merge()
	}
	if !s.news {
		return
	}
	s.news = false
	before := s.counted
	s.counted = s.against
	r.asides.forget(contradicted)
	for _, a := range slices.SortedFunc(maps.Keys(s.against), against.compare) {
		r.asides.add(contradicted, catalog.SetAside{Record: a.source, Reason: s.against[a]})
		if _, known := before[a]; !known {
			r.metrics.setAside[duplicate].Inc()
		}
	}
}

// merge makes one strategy a service of what the sources state: that of the source that is first
// by name, as it is with instances.
func (s *strategies) merge() {
	s.stale, s.news = false, true
	all := maps.Clone(s.kept)
	if all == nil {
		all = map[catalog.Name]string{}
	}
	s.against = map[against]string{}
	by := map[catalog.Name]string{}
	for _, source := range slices.Sorted(maps.Keys(s.sources)) {
		for _, st := range s.sources[source] {
			first, taken := by[st.name]
			switch {
			case !taken:
				by[st.name], all[st.name] = source, st.kind
			case all[st.name] != st.kind:
				s.against[against{source, st}] = fmt.Sprintf("its strategy %s for %s is not used: %s states %s", st.kind, st.name, first, all[st.name])
			}
		}
	}
	if len(all) > maxStrategies {
		for _, n := range slices.SortedFunc(maps.Keys(all), catalog.Name.Compare)[maxStrategies:] {
			s.against[against{cmp.Or(by[n], n.String()), statement{n, all[n]}}] = fmt.Sprintf(
				"its strategy %s for %s is not used: no more than %d services of a registry may state one; write a policy", all[n], n, maxStrategies)
			delete(all, n)
		}
	}
	if s.inForce = all; len(all) == 0 {
		s.inForce = nil
	}
}

func (a against) compare(o against) int {
	if c := a.name.Compare(o.name); c != 0 {
		return c
	}
	return slices.Compare([]string{a.source, a.kind}, []string{o.source, o.kind})
}
