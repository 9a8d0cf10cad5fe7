package view

import (
	"testing"
	"time"

	"github.com/farcall/farcall/agent/pick"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/strategy"
)

// calls makes a number of calls a second for a while, which fail at some of the instances, and
// counts where they went. They are tried once.
func (r *rig) calls(override strategy.Kind, perSecond int, d time.Duration, outcome func(*catalog.Instance) pick.Outcome) (counts map[string]int, lost int) {
	r.t.Helper()
	counts = map[string]int{}
	for range int(d.Seconds() * float64(perSecond)) {
		p, err := r.b.Service(cart).Plan(override, "")
		if err != nil {
			r.t.Fatal(err)
		}
		picked, ok := p.Picker.Pick(nil)
		if !ok {
			lost++
			pass(time.Second / time.Duration(perSecond))
			continue
		}
		picked.Begin()
		pass(time.Second / time.Duration(perSecond))
		o := outcome(picked.Instance)
		if suspicious := picked.Done(time.Now(), time.Millisecond, o); o != pick.Answered {
			r.b.Trouble(cart, time.Now(), suspicious)
		}
		counts[picked.Instance.Instance]++
	}
	return counts, lost
}

// fails is the outcome of calls to the named ones; those of others succeed.
func fails(o pick.Outcome, ids ...string) func(*catalog.Instance) pick.Outcome {
	return func(i *catalog.Instance) pick.Outcome {
		for _, id := range ids {
			if i.Instance == id {
				return o
			}
		}
		return pick.Answered
	}
}

func TestAFailingInstanceIsSetAside(t *testing.T) {
	for name, outcome := range map[string]pick.Outcome{"errors": pick.Errored, "failures": pick.Failed} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				r := two(t)
				r.b.Local(local(true, "a@n1", "b@n1", "c@n1", "d@n1"))
				r.run()
				r.calls(strategy.LocalOnly, 100, 5*time.Second, fails(outcome, "a"))
				counts, _ := r.calls(strategy.LocalOnly, 100, 30*time.Second, fails(outcome, "a"))
				if counts["a"]*20 > 3000 || counts["a"] == 0 {
					t.Errorf("of 3000 calls %d went to the instance that fails, want some and at most 150", counts["a"])
				}
				if got := r.metric("farcall_view_ejections_total"); got < 2 {
					t.Errorf("%v ejections were counted", got)
				}
				// It recovers, and takes its part again.
				r.calls(strategy.LocalOnly, 100, time.Minute, fails(outcome))
				counts, _ = r.calls(strategy.LocalOnly, 100, 20*time.Second, fails(outcome))
				if counts["a"] < 300 {
					t.Errorf("of 2000 calls %d went to the instance that recovered", counts["a"])
				}
				if got := r.metric("farcall_view_ejected_instances"); got != 0 {
					t.Errorf("%v instances are ejected still", got)
				}
			})
		})
	}
}

// With every instance failing, calls still go out: half of the service is never ejected, and where
// all of a strategy's own is, recover-all uses it.
func TestWithEveryInstanceFailingCallsGoOut(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := two(t)
		r.b.Local(local(true, "a@n1"))
		r.run()
		for _, kind := range []strategy.Kind{strategy.LocalOnly, strategy.LocalFirst, strategy.Any, strategy.ExternalOnly} {
			counts, lost := r.calls(kind, 100, 20*time.Second, fails(pick.Failed, "a", "w"))
			if lost > 0 || counts["a"]+counts["w"] != 2000 {
				t.Errorf("%s: %d of 2000 calls found nobody", kind, lost)
			}
		}
	})
}

func TestAllLocalInstancesEjected(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := two(t)
		r.run()
		counts, _ := r.calls("", 100, 9*time.Second, fails(pick.Failed, "l"))
		if counts["l"] > 10 || counts["w"] < 800 {
			t.Errorf("calls went to %v", counts)
		}
		c := r.b.Service(cart).Candidates()
		if c[0].Ejected == "" || c[1].Ejected != "" || r.metric("farcall_view_ejected_instances") != 1 {
			t.Errorf("candidates %+v", c)
		}
		// A strategy that has nobody else uses it as a last resort, visibly.
		r.put(says("cart", "local-only"))
		if got := r.goes(""); got != "l" {
			t.Errorf("local-only: %s", got)
		}
		if a, b := r.metric("farcall_view_recover_all_services"), r.metric("farcall_view_recover_all_total"); a != 1 || b < 1 {
			t.Errorf("recover-all: %v services, %v plans", a, b)
		}
	})
}

// What fails is set aside also where only calls that ask for another strategy go there.
func TestOverridesEjectToo(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := two(t)
		r.change(r.list("west", "w@x", "v@x"))
		r.put(says("cart", "local-only"))
		r.run()
		r.calls(strategy.ExternalOnly, 100, 2*time.Second, fails(pick.Failed, "w"))
		if counts, _ := r.calls(strategy.ExternalOnly, 100, 2*time.Second, fails(pick.Failed, "w")); counts["w"] > 0 || counts["v"] != 200 {
			t.Errorf("calls went to %v", counts)
		}
	})
}

// Where recover-all uses unhealthy instances, nobody judges them: their registry has.
func TestALastResortIsNotJudged(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := two(t)
		r.b.Local(health(catalog.Unhealthy, catalog.Unhealthy))
		r.put(says("cart", "local-only"))
		r.run()
		r.calls("", 100, 5*time.Second, fails(pick.Failed, "a", "b"))
		if got := r.metric("farcall_view_ejections_total"); got != 0 {
			t.Errorf("%v were ejected", got)
		}
	})
}

// One whose ejection ended while its registry called it unhealthy takes calls as soon as it is
// healthy.
func TestEjectedWhileUnhealthy(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := two(t)
		r.b.Local(health(catalog.Healthy, catalog.Healthy))
		r.run()
		r.calls(strategy.LocalOnly, 100, time.Second, fails(pick.Failed, "a"))
		r.b.Local(health(catalog.Unhealthy, catalog.Healthy))
		pass(time.Minute)
		r.b.Local(health(catalog.Healthy, catalog.Healthy))
		pass(2 * judgeWithin)
		if counts, _ := r.calls(strategy.LocalOnly, 100, time.Second, fails(pick.Failed)); counts["a"] == 0 {
			t.Errorf("calls went to %v", counts)
		}
	})
}

// The node of an instance goes down and comes back: what calls said against the instance meanwhile was
// the node's fault, and ends with it.
func TestAReturningRelayIsForgiven(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := two(t)
		r.change(r.list("west", "w@x", "v@y"), r.agent("west", "y", "10.1.0.2:1"))
		r.run()
		r.calls(strategy.ExternalOnly, 100, 5*time.Second, func(*catalog.Instance) pick.Outcome { return pick.Failed })
		ejected := func() (n int) {
			p, err := r.b.Service(cart).Plan(strategy.ExternalOnly, "")
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range p.Decision.Left {
				if l.Reason == strategy.Ejected {
					n++
				}
			}
			return n
		}
		if ejected() == 0 {
			t.Fatal("none is ejected: the test shows nothing")
		}
		down := map[string]struct{}{"10.1.0.1:1": {}, "10.1.0.2:1": {}}
		r.b.Reachable(down, nil, nil)
		r.b.Reachable(nil, nil, nil)
		if n := ejected(); n > 0 {
			t.Errorf("%d are still ejected", n)
		}
	})
}
