package view

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers/intake"
	"github.com/farcall/farcall/strategy"
)

func TestACordonEndsByItself(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := two(t)
		r.run()
		r.want(strategy.ExternalFirst, "*: w | local: l")
		for _, service := range []string{"", "cart"} {
			c := &policyv1.Cordon{Cluster: "west", Service: service, Expires: timestamppb.New(time.Now().Add(time.Minute))}
			r.put(c)
			if got := r.goes(strategy.ExternalFirst); got != "l" {
				t.Errorf("cordoned: %s", got)
			}
			pass(59 * time.Second)
			if got := r.goes(strategy.ExternalFirst); got != "l" {
				t.Errorf("after 59 s: %s", got)
			}
			pass(time.Second + breath)
			r.want(strategy.ExternalFirst, "*: w | local: l")
		}
	})
}

// goes gives the instance that a call goes to, or why to none.
func (r *rig) goes(override strategy.Kind) string {
	r.t.Helper()
	p, err := r.b.Service(cart).Plan(override, "")
	if err != nil {
		return err.Error()
	}
	if picked, ok := p.Picker.Pick(nil); ok {
		return picked.Instance.Instance
	}
	return string(p.Decision.Unavailable)
}

// health is the own registry's list of a and b, with their health.
func health(a, b catalog.Health) intake.Change {
	ch := local(true, "a@n1", "b@n1")
	ch.Services[cart].Instances[0].Health, ch.Services[cart].Instances[1].Health = a, b
	return ch
}

func TestFailbackIsHeldAndRamped(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := two(t)
		r.b.Local(health(catalog.Healthy, catalog.Healthy))
		r.run()
		p := says("cart", "local-first")
		p.Settings.Failover = &policyv1.Failover{Threshold: 50}
		r.put(p)
		away := func() int { r.t.Helper(); return r.share("west", 1000) }
		if n := away(); n != 0 {
			t.Fatalf("healthy: %d of 1000 leave", n)
		}
		r.b.Local(health(catalog.Unhealthy, catalog.Unhealthy))
		if n := away(); n != 1000 {
			t.Fatalf("unhealthy: %d of 1000 leave", n)
		}
		r.b.Local(health(catalog.Healthy, catalog.Healthy))
		if n := away(); n != 1000 {
			t.Errorf("healthy again: %d of 1000 leave; they are to be held", n)
		}
		// What happens meanwhile does not begin it anew, nor end it.
		pass(10 * time.Second)
		r.change(r.list("west", "w@x", "w2@x"))
		p.Settings.Retry = &policyv1.Retry{Attempts: 1}
		r.put(p)
		r.b.Reachable(nil, nil, nil)
		pass(19 * time.Second)
		if n := away(); n != 1000 {
			t.Errorf("after 29 s: %d of 1000 leave", n)
		}
		pass(16 * time.Second)
		if n := away(); n < 400 || n > 600 {
			t.Errorf("after 45 s: %d of 1000 leave, want about half", n)
		}
		pass(16 * time.Second)
		if n := away(); n != 0 {
			t.Errorf("after 61 s: %d of 1000 leave", n)
		}
		// That holds also where no call comes by to see it.
		r.b.Local(health(catalog.Unhealthy, catalog.Unhealthy))
		r.b.Local(health(catalog.Healthy, catalog.Healthy))
		pass(29 * time.Second)
		if n := away(); n != 1000 {
			t.Errorf("29 s after a moment that no call saw: %d of 1000 leave", n)
		}
		r.b.Local(health(catalog.Unhealthy, catalog.Unhealthy))
		r.b.Local(health(catalog.Healthy, catalog.Healthy))
		pass(61 * time.Second)
		if n := away(); n != 0 {
			t.Errorf("61 s after it, without a call: %d of 1000 leave", n)
		}
	})
}

// A new instance comes to its weight slowly; those that were there at the start have it.
func TestWarmUp(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := two(t)
		r.run()
		p := says("cart", "any")
		p.Settings.WarmUp = durationpb.New(time.Minute)
		r.put(p)
		if n := r.share("west", 2000); n < 850 || n > 1150 {
			t.Errorf("at the start %d of 2000 go to one of two", n)
		}
		pass(2 * time.Minute)
		r.change(r.list("west", "w@x"), r.list("north", "n@y"), r.agent("north", "y", "10.2.0.1:1"), r.synced("north"))
		// A cluster that is new brings what was there before.
		if n := r.share("north", 3000); n < 850 || n > 1150 {
			t.Errorf("%d of 3000 go to one of three, which a new cluster brought", n)
		}
		r.b.Local(local(true, "l@n1", "fresh@n1"))
		fresh := func() (n int) {
			for range 4000 {
				if r.goes("") == "fresh" {
					n++
				}
			}
			return n
		}
		if n := fresh(); n < 70 || n > 200 {
			t.Errorf("%d of 4000 go to a fresh one, want a tenth of a share of 1000 and more", n)
		}
		pass(30 * time.Second)
		if n := fresh(); n < 500 || n > 900 {
			t.Errorf("after half of the warm-up: %d of 4000", n)
		}
		pass(31 * time.Second)
		if n := fresh(); n < 850 || n > 1150 {
			t.Errorf("after the warm-up: %d of 4000", n)
		}
	})
}

func TestAClusterThatSaysNothingExpires(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := two(t)
		r.connected.Store(true)
		p := says("cart", "external-first")
		p.Settings.StaleTtl = durationpb.New(time.Minute)
		r.put(p)
		r.run()
		seconds := func(n int, clusters ...string) {
			for range n {
				r.beat(clusters...)
				pass(time.Second)
			}
		}
		seconds(10, "east", "west")
		plan, _ := r.b.Service(cart).Plan("", "")
		seconds(600, "east", "west")
		if again, _ := r.b.Service(cart).Plan("", ""); again != plan {
			t.Error("plans are made anew though nothing changes")
		}
		seconds(55, "east")
		if got := r.goes(""); got != "w" {
			t.Errorf("stale, but not for long enough: %s", got)
		}
		seconds(10, "east")
		if got := r.goes(""); got != "l" {
			t.Errorf("expired: %s", got)
		}
		if got := r.metric("farcall_view_expired_clusters"); got != 1 {
			t.Errorf("%v clusters are expired", got)
		}
		// Losing the feed says nothing about anybody, and neither does silence of all.
		r.connected.Store(false)
		seconds(2, "east")
		if got := r.goes(""); got != "w" {
			t.Errorf("without a feed: %s", got)
		}
		r.connected.Store(true)
		seconds(2, "east")
		if got := r.goes(""); got != "l" {
			t.Errorf("with the feed again: %s", got)
		}
		seconds(10)
		if got := r.goes(""); got != "w" {
			t.Errorf("with every cluster silent: %s", got)
		}
		seconds(10, "east", "west")
		if got := r.goes(""); got != "w" {
			t.Errorf("heard again: %s", got)
		}
		if got := r.metric("farcall_view_expired_clusters"); got != 0 {
			t.Errorf("%v clusters are expired", got)
		}
	})
}

// Who watches a service learns of what changes for the time alone, and so do pinned calls.
func TestWhatIsDueIsSeen(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := two(t)
		r.run()
		r.put(&policyv1.Cordon{Cluster: "west", Expires: timestamppb.New(time.Now().Add(time.Minute))})
		pinned := func() string {
			t.Helper()
			p, err := r.b.Service(cart).Plan("", "west")
			if err != nil {
				t.Fatal(err)
			}
			return string(p.Decision.Unavailable)
		}
		r.goes("")
		if got := pinned(); got != string(strategy.NoExternalInstances) {
			t.Fatalf("pinned to a cordoned cluster: %q", got)
		}
		changed := r.b.Watch(cart)
		pass(time.Minute + breath)
		select {
		case <-changed:
		default:
			t.Error("nobody is told that the cordon ended")
		}
		if got := pinned(); got != "" {
			t.Errorf("pinned to a cluster that is cordoned no more: %s", got)
		}
	})
}

// Another policy is followed at once: what was held back under the one before is its own affair.
func TestAnotherPolicyHasNoPast(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := two(t)
		r.b.Local(health(catalog.Healthy, catalog.Healthy))
		r.run()
		p := says("cart", "local-first")
		p.Settings.Failover = &policyv1.Failover{Threshold: 100}
		r.put(p)
		r.goes("")
		r.b.Local(health(catalog.Healthy, catalog.Unhealthy))
		if n := r.share("west", 1000); n < 400 || n > 600 {
			t.Fatalf("half of the instances are unhealthy: %d of 1000 leave", n)
		}
		p.Settings.Failover = &policyv1.Failover{Threshold: 50}
		r.put(p)
		if n := r.share("west", 1000); n != 0 {
			t.Errorf("half is enough now: %d of 1000 leave", n)
		}
	})
}

// Names that nobody knows leave nothing behind that is due.
func TestUnknownNamesHaveNoAgenda(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := two(t)
		r.put(&policyv1.Cordon{Cluster: "west", Expires: timestamppb.New(time.Now().Add(time.Minute))})
		for _, n := range []string{"x", "y", "z"} {
			name := catalog.Name{Namespace: "default", Service: n}
			if _, err := r.b.Service(name).Plan("", ""); err != nil {
				t.Fatal(err)
			}
			r.b.Trouble(name, time.Now(), true)
		}
		if n := len(r.b.agenda.plans) + len(r.b.agenda.trials); n != 0 {
			t.Errorf("%d things are due of services that nobody knows", n)
		}
	})
}

// A service that goes while something is due of it, and is called all the same, does no harm.
func TestAServiceGoesBeforeWhatIsDue(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := two(t)
		r.run()
		p := says("cart", "any")
		p.Settings.WarmUp = durationpb.New(time.Minute)
		r.put(p)
		r.goes("")
		r.b.Local(local(true, "l@n1", "fresh@n1")) // which makes a plan that is due as it warms up
		r.b.Local(intake.Change{Complete: true, Services: map[catalog.Name]intake.List{cart: {Gone: true}}})
		r.change(r.gone("west"))
		if got := r.goes(""); got != string(strategy.NotFound) {
			t.Fatalf("gone: %s", got)
		}
		changed := r.b.Watch(cart)
		pass(2 * time.Minute)
		if n := len(*r.b.services.Load()); n != 0 {
			t.Errorf("%d services are kept that nobody lists any more", n)
		}
		// It comes back as if it had never been away, and those who waited for it learn of it.
		for range 2 {
			select {
			case <-changed:
				changed = r.b.Watch(cart)
			default:
			}
		}
		r.b.Local(local(true, "l@n1"))
		select {
		case <-changed:
		default:
			t.Error("those who wait for the service do not learn that it is back")
		}
		if got := r.goes(""); got != "l" {
			t.Errorf("back again: %s", got)
		}
	})
}

// Only what is due earlier than all else wakes the one that does it.
func TestTheAgendaWakesForWhatIsEarlier(t *testing.T) {
	var a agenda
	a.init()
	woken := func() bool {
		select {
		case <-a.wake:
			return true
		default:
			return false
		}
	}
	name := func(n string) catalog.Name { return catalog.Name{Namespace: "default", Service: n} }
	at := func(s int) time.Time { return now.Add(time.Duration(s) * time.Second) }
	a.plan(name("first"), at(10))
	if !woken() {
		t.Error("the first thing wakes nobody")
	}
	if next := a.next(); !next.Equal(at(10)) {
		t.Fatalf("next is %v", next)
	}
	a.plan(name("later"), at(20))
	a.trial(name("same"), at(10))
	if woken() {
		t.Error("what is due later wakes")
	}
	a.trial(name("earlier"), at(5))
	if !woken() || !a.next().Equal(at(5)) {
		t.Error("what is due earlier does not wake")
	}
	if plans, trials := a.take(at(30)); len(plans) != 2 || len(trials) != 2 {
		t.Errorf("due are %v and %v", plans, trials)
	}
	if !a.next().IsZero() {
		t.Error("something is due still")
	}
	a.plan(name("again"), at(40))
	if !woken() {
		t.Error("the first thing after all was done wakes nobody")
	}
}

// The work for time alone takes a bounded part of a processor, however much there is of it.
func TestBreath(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		0: breath, time.Millisecond: breath, 100 * time.Millisecond: 400 * time.Millisecond, time.Minute: breathAtMost,
	} {
		if got := breathAfter(took); got != want {
			t.Errorf("after %v: %v, want %v", took, got, want)
		}
	}
}
