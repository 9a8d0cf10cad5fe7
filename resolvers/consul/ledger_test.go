package consul

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// world is a Consul of the test's making, and the ledger that follows it. Every service has one
// instance, on the node that stands after its name: "web@n1". A "!" before it means that it has
// no check.
type world struct {
	t        *testing.T
	l        *ledger
	now      time.Time
	index    uint64
	services map[string]*api.ServiceEntry
}

func newWorld(t *testing.T, services ...string) *world {
	w := &world{t: t, now: time.Unix(1000, 0), index: 10, services: map[string]*api.ServiceEntry{}}
	for _, s := range services {
		w.add(s)
	}
	w.l = newLedger(Config{}.excludes, w.list(), w.checks(), w.nodes())
	work, ok := w.l.next(w.now)
	if !ok || len(work.services) != len(services) {
		t.Fatalf("the first work is %v, want all of %v", work, services)
	}
	w.apply(work.services)
	return w
}

// add registers a service, or registers it anew.
func (w *world) add(s string) {
	w.index++
	s, checkless := strings.CutPrefix(s, "!")
	name, node, _ := strings.Cut(s, "@")
	e := &api.ServiceEntry{
		Node:    &api.Node{Node: node, Address: "10.0.0.1"},
		Service: &api.AgentService{Service: name, ID: name + "-1", Port: int(w.index), CreateIndex: w.index, ModifyIndex: w.index},
	}
	if !checkless {
		e.Checks = api.HealthChecks{{Node: node, CheckID: "c:" + name, ServiceID: name + "-1", ServiceName: name, Status: "passing", ModifyIndex: w.index}}
	}
	w.services[name] = e
}

func (w *world) drop(name string) {
	w.index++
	delete(w.services, name)
}

func (w *world) list() reply[map[string][]string] {
	r := reply[map[string][]string]{index: w.index, body: map[string][]string{"consul": {}}}
	for name := range w.services {
		r.body[name] = nil
	}
	return r
}

func (w *world) checks() reply[[]check] {
	r := reply[[]check]{index: w.index}
	for name, e := range w.services {
		for _, c := range e.Checks {
			r.body = append(r.body, check{Node: c.Node, CheckID: c.CheckID, ServiceName: name, ModifyIndex: c.ModifyIndex})
		}
	}
	return r
}

func (w *world) nodes() reply[[]node] {
	r := reply[[]node]{index: w.index, body: []node{{Node: "consul-1"}}}
	for _, e := range w.services {
		n := node{Node: e.Node.Node, ModifyIndex: 1}
		if !slices.Contains(r.body, n) {
			r.body = append(r.body, n)
		}
	}
	return r
}

// apply reads services and gives the sources of what is published.
func (w *world) apply(names []string, failed ...string) []string {
	read := map[string]*service{}
	for _, name := range names {
		var entries []*api.ServiceEntry
		index := w.index
		if e := w.services[name]; e != nil {
			entries, index = append(entries, e), e.Service.ModifyIndex
		}
		if !slices.Contains(failed, name) {
			read[name] = convert(name, DefaultPortKey, index, entries)
		}
	}
	var out []string
	for _, s := range w.l.apply(w.now, read, failed) {
		out = append(out, fmt.Sprintf("%s:%d", s.Source, len(s.Instances)))
	}
	return out
}

// survey lists the registrations of nodes.
func (w *world) survey(nodes []string) {
	read := map[string][]listed{}
	for _, n := range nodes {
		read[n] = nil
		for name, e := range w.services {
			if e.Node.Node == n {
				read[n] = append(read[n], listed{ID: e.Service.ID, Service: name, ModifyIndex: e.Service.ModifyIndex})
			}
		}
	}
	w.l.survey(w.now, read)
}

// wants checks the next work.
func (w *world) wants(what string, services ...string) {
	w.t.Helper()
	got, ok := w.l.next(w.now)
	if ok != (len(services) > 0) || !slices.Equal(got.services, services) {
		w.t.Fatalf("%s: the next work is %v, want services %v", what, got, services)
	}
}

func (w *world) probe() probe { return probe{at: w.now, nodes: w.index, checks: w.index} }

func TestLedgerReadsWhatIsPointedAt(t *testing.T) {
	w := newWorld(t, "a@n1", "b@n1", "c@n2")
	w.wants("nothing happened")

	w.services["a"].Checks[0].ModifyIndex = 99
	w.l.takeChecks(w.checks())
	w.wants("a's check changed", "a")
	if got := w.apply([]string{"a"}); len(got) != 0 {
		t.Errorf("a reads as before, yet %v is published", got)
	}

	w.l.takeChecks(reply[[]check]{index: 100, body: append(w.checks().body, check{Node: "n1", CheckID: "serfHealth", ModifyIndex: 100})})
	w.wants("a check of n1 is new", "a", "b")
	w.apply([]string{"a", "b"})

	nodes := w.nodes()
	for i := range nodes.body {
		if nodes.body[i].Node == "n2" {
			nodes.body[i].ModifyIndex = 101
		}
	}
	w.l.takeNodes(w.now, nodes)
	w.wants("n2 changed", "c")
}

func TestLedgerTellsTogetherWhatVanishedTogether(t *testing.T) {
	w := newWorld(t, "a@n1", "b@n1", "c@n2", "d@n2")
	w.drop("a")
	w.drop("b")
	w.drop("c")
	w.add("e@n2")
	w.l.takeServices(w.now, w.list())
	w.wants("one is new", "e")
	if got, want := w.apply([]string{"e"}), []string{"a:0", "b:0", "c:0", "e:1"}; !slices.Equal(got, want) {
		t.Errorf("published %v, want %v in one update", got, want)
	}
	for _, s := range w.l.everything() {
		if !slices.Contains([]string{"d", "e"}, s.Source) {
			t.Errorf("%s is still held", s.Source)
		}
	}
	w.drop("d")
	w.drop("e")
	w.l.takeServices(w.now, w.list())
	if got, ok := w.l.next(w.now); !ok || len(got.services) > 0 {
		t.Fatalf("the work is %v, want only to publish what vanished", got)
	}
	if got, want := w.apply(nil), []string{"d:0", "e:0"}; !slices.Equal(got, want) {
		t.Errorf("published %v, want %v", got, want)
	}
}

// TestLedgerOldListRemovesNothing: a list that was made before a service was read says nothing
// about that service's end.
func TestLedgerOldListRemovesNothing(t *testing.T) {
	w := newWorld(t, "a@n1")
	w.drop("a")
	old := w.list()
	w.add("a@n1")
	w.l.urgent["a"] = true
	w.wants("a is pointed at", "a")
	w.apply([]string{"a"})
	w.l.takeServices(w.now, old)
	if len(w.l.vanished) > 0 {
		t.Errorf("%v vanished, though it was read at a higher index than the list's", w.l.vanished)
	}
}

func TestLedgerServiceThatCameBackIsRead(t *testing.T) {
	w := newWorld(t, "a@n1")
	w.drop("a")
	w.l.takeServices(w.now, w.list())
	w.add("a@n1")
	w.l.takeServices(w.now, w.list())
	w.wants("a is back", "a")
	if got := w.apply([]string{"a"}); !slices.Equal(got, []string{"a:1"}) {
		t.Errorf("published %v, want a's new instance and no removal", got)
	}
}

func TestLedgerSweepsForWhatNothingExplains(t *testing.T) {
	w := newWorld(t, "a@n1", "!b@n2", "c@n3")
	w.add("a@n1") // another port, say
	w.services["a"].Checks[0].ModifyIndex = 11
	w.l.takeServices(w.now, w.list())
	w.wants("the checks' watcher may still point at it")
	if d := w.l.wake(w.now); d != grace {
		t.Errorf("the next look is in %v, want %v", d, grace)
	}
	w.now = w.now.Add(grace)
	w.wants("nothing did: all, those without a check first", "b", "a", "c")
	if got := w.apply([]string{"b", "a", "c"}); !slices.Equal(got, []string{"a:1"}) {
		t.Errorf("published %v, want a", got)
	}
	w.now = w.now.Add(time.Hour)
	w.wants("it was found")
}

func TestLedgerExplainedMoveIsSweptLater(t *testing.T) {
	w := newWorld(t, "a@n1", "b@n2", "c@n3")
	w.add("a@n1")
	w.l.takeServices(w.now, w.list())
	w.l.takeChecks(w.checks())
	w.wants("a's check points at it", "a")
	w.apply([]string{"a"})
	w.now = w.now.Add(2 * grace)
	w.wants("a explains it")
	w.now = w.now.Add(precaution)
	w.wants("another change may hide behind it", "a", "b", "c")
}

// TestLedgerSurveysNodes: with fewer nodes than services, the nodes are asked for what changed.
func TestLedgerSurveysNodes(t *testing.T) {
	w := newWorld(t, "a@n1", "b@n1", "!c@n1", "d@n2", "!e@n2", "f@n2")
	w.add("b@n1")
	w.services["b"].Checks[0].ModifyIndex = 12
	w.drop("e")
	w.add("e@n1") // moved to another node
	w.l.takeServices(w.now, w.list())
	w.now = w.now.Add(grace)
	work, ok := w.l.next(w.now)
	if !ok || !slices.Equal(work.nodes, []string{"consul-1", "n1", "n2"}) || work.begins != sweepUnexplained {
		t.Fatalf("the work is %v, want a survey of all nodes", work)
	}
	w.survey(work.nodes)
	w.wants("what the nodes say", "b", "e")
	w.l.takeProbe(w.probe())
	if w.l.confirms(w.now) {
		t.Error("confirmed before it was read")
	}
	w.apply([]string{"b", "e"})
	w.l.takeChecks(w.checks())
	w.wants("the check of e is new", "e")
	w.apply([]string{"e"})
	if !w.l.confirms(w.now) {
		t.Error("not confirmed when all was read")
	}
}

func TestLedgerBeginsAgainAfterAFailedSurvey(t *testing.T) {
	w := newWorld(t, "a@n1", "b@n1", "c@n1")
	w.add("a@n1")
	w.services["a"].Checks[0].ModifyIndex = 11
	w.l.takeServices(w.now, w.list())
	w.now = w.now.Add(grace)
	if work, _ := w.l.next(w.now); len(work.nodes) != 2 {
		t.Fatalf("the work is %v, want a survey", work)
	}
	w.l.unsurveyed(w.now)
	if d := w.l.wake(w.now); d < backoffFirst/2 || d > backoffMost {
		t.Errorf("it is tried again in %v", d)
	}
	w.l.takeProbe(w.probe())
	if w.l.confirms(w.now) {
		t.Error("confirmed, though nobody knows what changed")
	}
	w.now = w.now.Add(backoffMost)
	if work, _ := w.l.next(w.now); len(work.nodes) != 2 {
		t.Fatalf("after the pause the work is %v, want a survey", work)
	}
}

func TestLedgerFailedReadsAreTriedAgain(t *testing.T) {
	w := newWorld(t, "a@n1", "b@n1")
	w.add("a@n1")
	w.add("b@n1")
	w.l.takeChecks(w.checks())
	w.wants("both are pointed at", "a", "b")
	if got := w.apply([]string{"a", "b"}, "b"); !slices.Equal(got, []string{"a:1"}) {
		t.Errorf("published %v, want what could be read", got)
	}
	w.wants("b waits")
	w.l.sweep.want(w.now.Add(-time.Hour), 99)
	w.wants("nor is a Consul in trouble swept")
	w.l.takeProbe(w.probe())
	if w.l.confirms(w.now) {
		t.Error("confirmed with a service unread")
	}
	w.now = w.now.Add(backoffMost)
	w.wants("b again", "b")
}

func TestLedgerConfirms(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(w *world)
		want   bool
	}{
		{"nothing happened", func(*world) {}, true},
		{"no probe", func(w *world) { w.l.pending = nil }, false},
		{"the probe saw a change of which no watcher told", func(w *world) { w.l.pending.nodes++ }, false},
		{"the probe saw a change of a check of which no watcher told", func(w *world) { w.l.pending.checks++ }, false},
		{"the probe is old", func(w *world) { w.now = w.now.Add(2*probeTimeout + 1) }, false},
		{"a removal moved the index of the checks, and wakes nobody who watches them", func(w *world) {
			w.drop("b")
			w.l.takeServices(w.now, w.list())
			w.apply(nil)
			w.l.takeProbe(w.probe())
		}, true},
		{"something is to be read", func(w *world) { w.l.urgent["a"] = true }, false},
		{"something vanished and was not told", func(w *world) { w.l.vanished["a"] = true }, false},
		{"a sweep is to find a change", func(w *world) { w.l.takeServices(w.now, reply[map[string][]string]{index: 99, body: w.list().body}) }, true},
		{"a sweep is to find a change that the probe saw", func(w *world) {
			w.l.takeServices(w.now, reply[map[string][]string]{index: 99, body: w.list().body})
			w.l.pending.nodes = 99
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, "a@n1", "!b@n1", "d@n1")
			w.l.confirms(w.now) // everything so far was read
			w.l.takeProbe(w.probe())
			c.change(w)
			if got := w.l.confirms(w.now); got != c.want {
				t.Errorf("confirms = %v, want %v", got, c.want)
			}
			if c.want && w.l.confirms(w.now) {
				t.Error("one probe confirmed twice")
			}
		})
	}
}

func TestLedgerHearsThatItIsDeaf(t *testing.T) {
	w := newWorld(t, "a@n1")
	w.index++
	for range 10 {
		if w.l.takeProbe(w.probe()) {
			t.Fatal("deaf too soon")
		}
		w.now = w.now.Add(deafAfter / 10)
	}
	w.now = w.now.Add(1)
	if !w.l.takeProbe(w.probe()) {
		t.Errorf("the prober was ahead for %v and nobody minds", deafAfter)
	}
	w.l.takeServices(w.now, w.list())
	if w.l.takeProbe(w.probe()) {
		t.Error("still deaf though the watcher told")
	}
}

func TestSweepPace(t *testing.T) {
	now := time.Unix(1000, 0)
	var items []string
	for i := range chunk + 1 {
		items = append(items, fmt.Sprint(i))
	}
	plan := func() ([]string, bool) { return items, false }
	var s sweep
	s.want(now, 7)
	if got, _ := s.next(now, 7, plan); len(got) > 0 {
		t.Fatal("it began before its time")
	}
	now = now.Add(grace)
	first, begins := s.next(now, 7, plan)
	if len(first) != chunk || begins != sweepUnexplained || s.end(now) {
		t.Fatalf("the first round has %d items of %d and begins %q", len(first), len(items), begins)
	}
	now = now.Add(time.Second)
	rest, begins := s.next(now, 7, plan)
	if len(rest) != 1 || begins != "" || !s.end(now) {
		t.Fatalf("the second round has %d items and begins %q", len(rest), begins)
	}
	s.want(now, 8)
	if got := s.at.Sub(now); got != time.Second {
		t.Errorf("the next one comes in %v, want as long as the last one took", got)
	}
	s.explained(now, func(uint64) bool { return true })
	if got := s.at.Sub(now); got != 4*time.Second {
		t.Errorf("a precaution comes in %v, want four times as long as the last one took", got)
	}
}
