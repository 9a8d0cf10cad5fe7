package resolvertest

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/farcall/farcall/internal/testkit"
)

// cases are the promises of resolvers.Resolver and resolvers.Sink, one test each. lacks gives
// the reason why a registry cannot be asked, or "".
var cases = []struct {
	name  string
	lacks func(*Registry) string
	run   func(*testing.T, *Registry)
}{
	{"the first update is the full list", nil, firstFull},
	{"an empty registry is a full empty list", nil, emptyRegistry},
	{"additions, changes and removals are seen", nil, changes},
	{"a service emptied on purpose stays known", cannotEmpty, emptyService},
	{"a failed read publishes nothing and the list stays", cannotBreak, failedRead},
	{"a registry that cannot be read at first is not an empty one", cannotBreak, brokenAtFirst},
	{"what holds is confirmed about every second", nil, confirms},
	{"a hanging registry is not confirmed", cannotHang, hanging},
	{"a second Run starts full", nil, secondRun},
	{"what was removed stays removed", nil, staysGone},
	{"Run ends within a second while the registry fails", cannotBreak, endsWhileBroken},
	{"Run ends within a second while the registry hangs", cannotHang, endsWhileHanging},
	{"Run leaves no goroutine", nil, leavesNothing},
}

func cannotBreak(r *Registry) string { return unless(r.Break != nil, "this registry cannot be broken") }
func cannotHang(r *Registry) string  { return unless(r.Hang != nil, "this registry cannot hang") }
func cannotEmpty(r *Registry) string {
	return unless(r.Empty != nil, "this registry knows services only by their instances")
}

func unless(able bool, reason string) string {
	if able {
		return ""
	}
	return reason
}

func firstFull(t *testing.T, reg *Registry) {
	a1, a2, b1 := reg.instance("alpha", 1), reg.instance("alpha", 2), reg.instance("beta", 1)
	reg.putAll(t, a1, a2, b1)
	d := start(t, reg)
	d.wants(t, "what was there at the start is listed", a1, a2, b1)
	if n := d.rec.listedBy(0); n != 3 {
		t.Errorf("the first update lists %d instances of 3: a partial read was published", n)
	}
	if names := d.rec.names(); !names["alpha"] || !names["beta"] || len(names) != 2 {
		t.Errorf("Services are %v, want alpha and beta", names)
	}
}

func emptyRegistry(t *testing.T, reg *Registry) {
	d := start(t, reg)
	d.wants(t, "an empty list is published")
	a1 := reg.instance("alpha", 1)
	reg.Put(t, a1)
	d.wants(t, "the first instance is listed", a1)
	reg.Remove(t, a1.ID)
	d.wants(t, "the registry is empty again")
}

func changes(t *testing.T, reg *Registry) {
	a1, a2, b1 := reg.instance("alpha", 1), reg.instance("alpha", 2), reg.instance("beta", 1)
	reg.Put(t, a1)
	d := start(t, reg)
	d.wants(t, "the first instance is listed", a1)

	reg.putAll(t, a2, b1)
	d.wants(t, "more instances are listed", a1, a2, b1)

	a1.Address, a1.Port = "10.1.9.9", 9999
	reg.Put(t, a1)
	d.wants(t, "a changed address is listed", a1, a2, b1)

	for _, h := range reg.Healths[1:] {
		b1.Health = h
		reg.Put(t, b1)
		d.wants(t, "health "+h.String()+" is listed", a1, a2, b1)
	}
	b1.Health = reg.Healths[0]
	reg.Put(t, b1)
	d.wants(t, "the ordinary health is back", a1, a2, b1)

	reg.Remove(t, a1.ID)
	d.wants(t, "a removed instance is listed no more", a2, b1)
	reg.Remove(t, b1.ID)
	d.wants(t, "a removed service is listed no more", a2)
	reg.Put(t, a1)
	d.wants(t, "an instance that was registered again is listed", a1, a2)
}

func emptyService(t *testing.T, reg *Registry) {
	a1, b1 := reg.instance("alpha", 1), reg.instance("beta", 1)
	reg.putAll(t, a1, b1)
	d := start(t, reg)
	d.wants(t, "both services are listed", a1, b1)
	reg.Empty(t, "alpha")
	d.wants(t, "the instances of the emptied service are gone", b1)
	if !d.rec.names()["alpha"] {
		t.Error("the emptied service is unknown, want it confirmed empty")
	}
}

func failedRead(t *testing.T, reg *Registry) {
	a1, a2, a3 := reg.instance("alpha", 1), reg.instance("alpha", 2), reg.instance("alpha", 3)
	reg.putAll(t, a1, a2)
	d := start(t, reg)
	d.wants(t, "the list stands before the failure", a1, a2)
	_, failures := d.rec.counts()

	mend := reg.Break(t)
	d.fails(t, failures)
	d.rec.missed(key(a1.Service, a1.Instance))
	reg.Remove(t, a1.ID)
	reg.Put(t, a3)
	d.silent(t, "the registry could not be read")

	mend()
	d.wants(t, "what changed meanwhile is listed after the failure", a2, a3)
}

func brokenAtFirst(t *testing.T, reg *Registry) {
	a1 := reg.instance("alpha", 1)
	reg.Put(t, a1)
	mend := reg.Break(t)
	d := start(t, reg)
	d.fails(t, 0)
	d.silent(t, "the registry had never been read")
	if n, _ := d.rec.counts(); n != 0 {
		t.Errorf("%d updates were published before the registry could be read", n)
	}
	mend()
	d.wants(t, "the list is read once the registry answers", a1)
}

func confirms(t *testing.T, reg *Registry) {
	a1 := reg.instance("alpha", 1)
	reg.Put(t, a1)
	d := start(t, reg)
	d.wants(t, "the list is published", a1)
	began := time.Now()
	pass(t, 2*confirmEvery)
	if gap := d.rec.longestGap(began, time.Now()); gap > confirmEvery {
		t.Errorf("an idle registry was not confirmed for %v, want at most %v", gap.Round(time.Millisecond), confirmEvery)
	}
}

// hanging: to ask and not be answered is no confirmation, however long the connection stays.
func hanging(t *testing.T, reg *Registry) {
	a1 := reg.instance("alpha", 1)
	reg.Put(t, a1)
	d := start(t, reg)
	d.wants(t, "the list is published", a1)
	release := reg.Hang(t)
	pass(t, quiet) // a read under way when the registry began to hang may still be told
	began := time.Now()
	pass(t, 2*confirmEvery)
	if gap := d.rec.longestGap(began, time.Now()); gap < 2*confirmEvery {
		t.Errorf("it was confirmed though the registry had ceased to answer: the longest gap is %v", gap.Round(time.Millisecond))
	}
	release()
	a2 := reg.instance("alpha", 2)
	reg.Put(t, a2)
	d.wants(t, "it goes on once the registry answers again", a1, a2)
}

func secondRun(t *testing.T, reg *Registry) {
	a1, a2, b1 := reg.instance("alpha", 1), reg.instance("alpha", 2), reg.instance("beta", 1)
	reg.putAll(t, a1, a2, b1)
	res, rec := reg.Resolver(t), newRecorder(reg)
	d := startResolver(t, reg, res, rec)
	d.wants(t, "the first Run lists all", a1, a2, b1)
	d.stop(t)

	before, _ := rec.counts()
	d = startResolver(t, reg, res, rec)
	d.wants(t, "a second Run lists all, though nothing changed", a1, a2, b1)
	if n := rec.listedBy(before); n != 3 {
		t.Errorf("the first update of the second Run lists %d instances of 3", n)
	}
	d.stop(t)

	reg.Remove(t, a1.ID)
	rec.forbid(key(a1.Service, a1.Instance))
	d = startResolver(t, reg, res, rec)
	d.wants(t, "what was removed between two Runs is not listed", a2, b1)
}

func staysGone(t *testing.T, reg *Registry) {
	a1, a2, b1 := reg.instance("alpha", 1), reg.instance("alpha", 2), reg.instance("beta", 1)
	reg.putAll(t, a1, a2, b1)
	d := start(t, reg)
	d.wants(t, "all are listed", a1, a2, b1)
	reg.Remove(t, a1.ID)
	reg.Remove(t, b1.ID)
	d.wants(t, "the removed are gone", a2)
	d.rec.forbid(key(a1.Service, a1.Instance), key(b1.Service, b1.Instance))

	if reg.Break != nil {
		_, failures := d.rec.counts()
		mend := reg.Break(t)
		d.fails(t, failures)
		mend()
	}
	a3 := reg.instance("alpha", 3)
	reg.Put(t, a3)
	d.wants(t, "a later change is listed", a2, a3)
	pass(t, quiet)
	d.wants(t, "and nothing else came back", a2, a3)
}

func endsWhileBroken(t *testing.T, reg *Registry) {
	reg.Put(t, reg.instance("alpha", 1))
	mend := reg.Break(t)
	defer mend()
	d := start(t, reg)
	d.fails(t, 0)
	d.stop(t)
}

func endsWhileHanging(t *testing.T, reg *Registry) {
	a1 := reg.instance("alpha", 1)
	reg.Put(t, a1)
	d := start(t, reg)
	d.wants(t, "the list is published", a1)
	release := reg.Hang(t)
	defer release()
	pass(t, quiet)
	d.stop(t)

	d = start(t, reg) // and one that never had an answer
	pass(t, quiet)
	d.stop(t)
}

func leavesNothing(t *testing.T, reg *Registry) {
	a1 := reg.instance("alpha", 1)
	reg.Put(t, a1)
	res := reg.Resolver(t)
	before := goleak.IgnoreCurrent()
	d := startResolver(t, reg, res, newRecorder(reg))
	d.wants(t, "the list is published", a1)
	d.stop(t)
	testkit.Eventually(t, d.within(t), "every goroutine of the Run has ended", func() error {
		return goleak.Find(before)
	})
}
