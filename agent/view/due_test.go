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
