package consul

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/farcall/farcall/internal/catalog"
)

// ledger is what is held of one Consul between two full reads, and what is to be read next. It
// does no I/O and reads no clock; one goroutine has it.
type ledger struct {
	excludes func(service string) bool
	services map[string]*service
	checks   map[checkKey]check
	nodes    map[string]uint64 // node to its ModifyIndex
	start    indexes           // where the watchers go on from
	at       indexes           // of the answers taken in

	urgent   map[string]bool // to read now: something points at them
	vanished map[string]bool // listed no more, and not published so yet
	sweep    sweep
	retryAt  time.Time // urgent waits until then, after failed reads
	retry    backoff

	// settledNodes and settledChecks are the indexes up to which everything was read.
	settledNodes, settledChecks uint64
	pending                     *probe // what Consul said last that was not confirmed yet
	ahead                       time.Time
}

type checkKey struct{ node, id string }

// newLedger is a ledger in which every listed service is to be read.
func newLedger(excludes func(string) bool, services reply[map[string][]string], checks reply[[]check], nodes reply[[]node]) *ledger {
	l := &ledger{
		excludes: excludes,
		services: make(map[string]*service, len(services.body)),
		urgent:   make(map[string]bool, len(services.body)),
		vanished: make(map[string]bool),
		at:       indexes{services.index, checks.index, nodes.index},
	}
	l.start = l.at
	for name, tags := range services.body {
		l.takeName(name, tags)
	}
	l.takeChecks(checks)
	l.takeNodes(time.Time{}, nodes)
	return l
}

// everything gives the snapshots of all services that have anything to say.
func (l *ledger) everything() []catalog.Snapshot {
	var out []catalog.Snapshot
	for _, s := range l.services {
		if !sameList(s.snap, catalog.Snapshot{}) {
			out = append(out, s.snap)
		}
	}
	slices.SortFunc(out, bySource)
	return out
}

func bySource(a, b catalog.Snapshot) int { return cmp.Compare(a.Source, b.Source) }

// revision is Consul's index as a text.
func (l *ledger) revision() string {
	return strconv.FormatUint(max(l.at.services, l.at.checks, l.at.nodes), 10)
}

// takeServices takes the catalogue's list in.
func (l *ledger) takeServices(now time.Time, r reply[map[string][]string]) {
	moved := r.index > l.at.services
	l.at.services = r.index
	told := false
	for name, tags := range r.body {
		told = l.takeName(name, tags) || told
	}
	for name, s := range l.services {
		// An answer that is older than what was read of a service says nothing about its end.
		if _, ok := r.body[name]; !ok && s.index <= r.index {
			delete(l.urgent, name)
			l.vanished[name], told = true, true
		}
	}
	switch {
	case !moved:
	case told || l.explains(r.index):
		l.sweep.want(now, 0)
	default:
		l.sweep.want(now, r.index)
	}
}

// takeName takes one listed service in and reports whether that tells of a change.
func (l *ledger) takeName(name string, tags []string) bool {
	if l.excludes(name) {
		return false
	}
	slices.Sort(tags)
	line := strings.Join(tags, "\x00")
	held, ok := l.services[name]
	if !ok || l.vanished[name] {
		delete(l.vanished, name)
		if !ok {
			held = &service{snap: catalog.Snapshot{Source: name}}
			l.services[name] = held
		}
		held.tags, l.urgent[name] = line, true
		return true
	}
	if held.tags == line {
		return false
	}
	held.tags, l.urgent[name] = line, true
	return true
}

// takeChecks takes all health checks in: each that is new, gone or changed points at its
// service, or at every service of its node.
func (l *ledger) takeChecks(r reply[[]check]) {
	l.at.checks = r.index
	old := l.checks
	l.checks = make(map[checkKey]check, len(r.body))
	nodes := make(map[string]bool)
	for _, c := range r.body {
		key := checkKey{c.Node, c.CheckID}
		l.checks[key] = c
		if old[key] != c {
			l.point(c, nodes)
		}
	}
	for key, c := range old {
		if _, ok := l.checks[key]; !ok {
			l.point(c, nodes)
		}
	}
	l.pointNodes(nodes)
}

func (l *ledger) point(c check, nodes map[string]bool) {
	switch {
	case c.ServiceName == "":
		nodes[c.Node] = true
	case l.services[c.ServiceName] != nil && !l.vanished[c.ServiceName]:
		l.urgent[c.ServiceName] = true
	}
}

// takeNodes takes all nodes in: one that changed may have a new address, which is that of its
// instances without one. Neither of the other tables moves with it.
func (l *ledger) takeNodes(now time.Time, r reply[[]node]) {
	l.at.nodes = r.index
	old := l.nodes
	l.nodes = make(map[string]uint64, len(r.body))
	changed := make(map[string]bool)
	for _, n := range r.body {
		l.nodes[n.Node] = n.ModifyIndex
		was, ok := old[n.Node]
		switch {
		case !ok && old != nil:
			// A sweep that began before went past it, and may have been to find what is on it.
			l.sweep.want(now, r.index)
		case was != n.ModifyIndex:
			changed[n.Node] = true
		}
	}
	l.pointNodes(changed)
}

func (l *ledger) pointNodes(nodes map[string]bool) {
	if len(nodes) == 0 {
		return
	}
	for name, s := range l.services {
		if !l.vanished[name] && s.on(nodes) {
			l.urgent[name] = true
		}
	}
}

// explains reports whether what is held shows what moved the catalogue's index to this value.
func (l *ledger) explains(index uint64) bool {
	for _, s := range l.services {
		if s.index == index {
			return true
		}
		for _, modified := range s.marks {
			if modified == index {
				return true
			}
		}
	}
	return false
}

// cause says why services are read; it is the metric's label.
type cause string

const (
	causeStart  cause = "start"
	causeChange cause = "change"
	causeSweep  cause = "sweep"
)

// work is one round of reading: the services to read, or the nodes to survey. One without
// either publishes what vanished.
type work struct {
	services []string
	nodes    []string
	why      cause
	// begins says that a sweep begins with this round.
	begins sweepReason
}

// next gives the work to do now, and whether there is any.
func (l *ledger) next(now time.Time) (work, bool) {
	waiting := len(l.urgent) > 0 && now.Before(l.retryAt)
	switch {
	case len(l.urgent) > 0 && !waiting:
		return work{services: slices.Sorted(maps.Keys(l.urgent)), why: causeChange}, true
	case len(l.vanished) > 0:
		return work{why: causeChange}, true
	case waiting:
		return work{}, false // Consul is in trouble: it is not swept as well
	}
	items, begins := l.sweep.next(now, l.catalogueIndex(), l.sweepPlan)
	if len(items) == 0 {
		l.finishSweep(now)
		return work{begins: begins}, begins != ""
	}
	w := work{services: items, why: causeSweep, begins: begins}
	if l.sweep.byNode {
		w.services, w.nodes = nil, items
	}
	return w, true
}

// sweepPlan is what a sweep asks for: the registrations of every node, or every service, those
// first that no check's change tells of, whichever takes fewer questions.
func (l *ledger) sweepPlan() (items []string, byNode bool) {
	if len(l.nodes) < len(l.services) {
		items = slices.Sorted(maps.Keys(l.nodes))
		if !slices.ContainsFunc(items, func(n string) bool { return !askable(n) }) {
			return items, true
		}
	}
	items = slices.Sorted(maps.Keys(l.services))
	slices.SortStableFunc(items, func(a, b string) int {
		switch x, y := l.services[a].checkless, l.services[b].checkless; {
		case x == y:
			return 0
		case x:
			return -1
		default:
			return 1
		}
	})
	return items, false
}

// survey takes the registrations on some nodes in: each that is new, gone or changed points at
// its service.
func (l *ledger) survey(now time.Time, read map[string][]listed) {
	nodes, found := make(map[string]bool, len(read)), make(map[place]bool)
	for node, list := range read {
		nodes[node] = true
		for _, reg := range list {
			at := place{node, reg.ID}
			found[at] = true
			s := l.services[reg.Service]
			if s != nil && reg.Kind == api.ServiceKindTypical && s.marks[at] != reg.ModifyIndex && askable(reg.Service) {
				l.urgent[reg.Service] = true
			}
		}
	}
	for name, s := range l.services {
		for at := range s.marks {
			if nodes[at.node] && !found[at] {
				l.urgent[name] = true
			}
		}
	}
	for name := range l.vanished {
		delete(l.urgent, name)
	}
	l.finishSweep(now)
}

// unsurveyed is for a round of a sweep that failed: the sweep begins again after a pause.
func (l *ledger) unsurveyed(now time.Time) { l.sweep.again(now.Add(l.retry.next())) }

func (l *ledger) catalogueIndex() uint64 { return max(l.at.services, l.at.nodes) }

// apply takes the reads of one round of work in and gives what there is to publish. failed are
// those that could not be read; they stay urgent.
func (l *ledger) apply(now time.Time, read map[string]*service, failed []string) []catalog.Snapshot {
	var out []catalog.Snapshot
	for name := range l.vanished {
		if s := l.services[name]; s != nil && !sameList(s.snap, catalog.Snapshot{}) {
			out = append(out, catalog.Snapshot{Source: name})
		}
		delete(l.services, name)
	}
	clear(l.vanished)
	for name, s := range read {
		delete(l.urgent, name)
		old := l.services[name]
		if old == nil {
			continue // it vanished while it was read
		}
		s.tags = old.tags
		l.services[name] = s
		if !sameList(old.snap, s.snap) {
			out = append(out, s.snap)
		}
	}
	if len(failed) > 0 {
		l.retryAt = now.Add(l.retry.next())
		for _, name := range failed {
			if l.services[name] != nil {
				l.urgent[name] = true
			}
		}
	} else {
		l.retry = backoff{}
	}
	l.sweep.explained(now, l.explains)
	l.finishSweep(now)
	slices.SortFunc(out, bySource)
	return out
}

func (l *ledger) finishSweep(now time.Time) {
	if l.sweep.end(now) && l.sweep.seeking {
		l.settledNodes = max(l.settledNodes, l.sweep.upTo)
	}
}

// wake is how long there is nothing to do without news from Consul.
func (l *ledger) wake(now time.Time) time.Duration {
	var at time.Time
	switch {
	case len(l.urgent) > 0:
		at = l.retryAt
	case l.sweep.running:
	case l.sweep.at.IsZero():
		return time.Hour // there is a probe long before that
	default:
		at = l.sweep.at
	}
	return max(at.Sub(now), 0)
}

// confirms reports whether everything that the last probe saw has been read, which is told
// once. now is the time of the asking.
func (l *ledger) confirms(now time.Time) bool {
	l.settle()
	p := l.pending
	if p == nil || len(l.urgent) > 0 || len(l.vanished) > 0 {
		return false
	}
	if now.Sub(p.at) > probeTimeout {
		l.pending = nil // too old to be called "just now"
		return false
	}
	// Taking an instance off moves the index of the checks even where it had none, and that wakes
	// no watcher of them; the catalogue's move covers it.
	if p.nodes > l.settledNodes || p.checks > max(l.settledChecks, l.settledNodes) {
		return false
	}
	l.pending = nil
	return true
}

// settle moves the settled indexes up to what was taken in, once nothing of it is left to read.
func (l *ledger) settle() {
	if len(l.urgent) > 0 || len(l.vanished) > 0 {
		return
	}
	l.settledChecks = l.at.checks
	if !l.sweep.hard && !(l.sweep.running && l.sweep.seeking) {
		l.settledNodes = l.catalogueIndex()
	}
}

// takeProbe takes in where Consul stands, and reports whether the watchers have been behind it
// for longer than any answer takes: then their connections are dead, though nothing says so.
func (l *ledger) takeProbe(p probe) (deaf bool) {
	l.pending = &p
	if p.nodes <= l.catalogueIndex() && p.checks <= max(l.at.checks, l.at.services) {
		l.ahead = time.Time{}
		return false
	}
	if l.ahead.IsZero() {
		l.ahead = p.at
	}
	return p.at.Sub(l.ahead) > deafAfter
}

// deafAfter is how long the prober may be ahead of the watchers.
const deafAfter = 10 * time.Second
