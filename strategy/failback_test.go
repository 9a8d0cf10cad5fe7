package strategy

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// story decides again and again, each time with the state of the time before.
type story struct {
	t  *testing.T
	in Input
}

func tell(t *testing.T, percent uint32, hold, ramp time.Duration) *story {
	s := &story{t, scene(LocalFirst, "")}
	threshold(percent, Spill)(&s.in)
	s.in.Policy.Failback = Failback{Hold: hold, Ramp: ramp}
	return s
}

// at decides with these instances so many seconds after noon.
func (s *story) at(seconds float64, list string) Decision {
	s.t.Helper()
	s.in.Now = noon.Add(time.Duration(seconds * float64(time.Second)))
	s.in.Instances = instances(list)
	d, state, err := Decide(s.in)
	if err != nil {
		s.t.Fatal(err)
	}
	s.in.Previous = state
	return d
}

// want decides and compares the share of the local tier and when time alone changes it.
func (s *story) want(seconds float64, list string, share, next float64) {
	s.t.Helper()
	d := s.at(seconds, list)
	if got := d.Tiers[0].Share; math.Abs(got-share) > 1e-6 {
		s.t.Errorf("after %v s: %v%% at home, want %v%% (%s)", seconds, got, share, d.Rule)
	}
	got := 0.0
	if !d.Next.IsZero() {
		got = d.Next.Sub(noon).Seconds()
	}
	if math.Abs(got-next) > 1e-6 {
		s.t.Errorf("after %v s: decides again after %v s, want %v", seconds, got, next)
	}
}

// ids keeps the identities while the health changes: health is told by the suffix, not by the name.
func ids(available, known int, external string) string {
	s := ""
	for i := range known {
		s += fmt.Sprintf("e%03d", i)
		if i >= available {
			s += ":UNHEALTHY"
		}
		s += " "
	}
	return s + external
}

func TestFailbackHoldsAndRamps(t *testing.T) {
	s := tell(t, 50, 30*time.Second, 20*time.Second)
	s.want(0, ids(10, 10, "w1"), 100, 0)   // the first time is never held
	s.want(10, ids(0, 10, "w1"), 0, 0)     // leaving is immediate
	s.want(12, ids(10, 10, "w1"), 0, 42)   // it is back, and held
	s.want(41, ids(10, 10, "w1"), 0, 42)   // still
	s.want(42, ids(10, 10, "w1"), 0, 42.2) // the ramp begins, in steps of a hundredth
	s.want(47, ids(10, 10, "w1"), 25, 47.2)
	s.want(52, ids(10, 10, "w1"), 50, 52.2)
	s.want(61.9, ids(10, 10, "w1"), 99.5, 62)
	s.want(62, ids(10, 10, "w1"), 100, 0)
	s.want(100, ids(10, 10, "w1"), 100, 0)
}

func TestFailbackStartsFromWhereItWas(t *testing.T) {
	s := tell(t, 50, 10*time.Second, 10*time.Second)
	s.want(0, ids(10, 10, "w1"), 100, 0)
	s.want(1, ids(3, 10, "w1"), 60, 0)
	s.want(2, ids(10, 10, "w1"), 60, 12)
	s.want(17, ids(10, 10, "w1"), 80, 17.1)
	s.want(18, ids(1, 10, "w1"), 20, 0) // a fall in the middle of a ramp
	s.want(19, ids(3, 10, "w1"), 20, 29)
	s.want(34, ids(3, 10, "w1"), 40, 34.1)
	s.want(35, ids(10, 10, "w1"), 44, 35.1) // what is above the ramp's end is held from now on
	s.want(39, ids(10, 10, "w1"), 60, 45)
	s.want(45, ids(10, 10, "w1"), 60, 45.1)
	s.want(50, ids(10, 10, "w1"), 80, 50.1)
	s.want(51, ids(9, 10, "w1"), 84, 51.1) // no less capacity: it goes on
	s.want(55, ids(10, 10, "w1"), 100, 0)
}

// A fall that leaves what has come back so far bends the ramp and does not stop it.
func TestARampBends(t *testing.T) {
	s := tell(t, 50, 10*time.Second, 10*time.Second)
	s.want(0, ids(10, 10, "w1"), 100, 0)
	s.want(1, ids(3, 10, "w1"), 60, 0)
	s.want(2, ids(10, 10, "w1"), 60, 12)
	s.want(14.5, ids(4, 10, "w1"), 70, 14.6) // it was on its way to 100, and is now to 80
	s.want(18.25, ids(4, 10, "w1"), 75, 18.35)
	s.want(22, ids(4, 10, "w1"), 80, 0)
}

// A rise counts for what it was at its least: capacity that flaps comes back only as far as it lasts.
func TestOnlyWhatLastsComesBack(t *testing.T) {
	s := tell(t, 50, 10*time.Second, 0)
	s.want(0, ids(10, 10, "w1"), 100, 0)
	s.want(1, ids(0, 10, "w1"), 0, 0)
	s.want(2, ids(10, 10, "w1"), 0, 12)
	s.want(5, ids(2, 10, "w1"), 0, 12)
	s.want(6, ids(10, 10, "w1"), 0, 12)
	s.want(12, ids(10, 10, "w1"), 40, 22)
	s.want(20, ids(0, 10, "w1"), 0, 0) // and a fall to nothing begins anew
	s.want(21, ids(10, 10, "w1"), 0, 31)
	s.want(31, ids(10, 10, "w1"), 100, 0)
}

func TestHoldAloneAndRampAlone(t *testing.T) {
	s := tell(t, 50, 10*time.Second, 0)
	s.want(0, ids(10, 10, "w1"), 100, 0)
	s.want(1, ids(0, 10, "w1"), 0, 0)
	s.want(2, ids(10, 10, "w1"), 0, 12)
	s.want(12, ids(10, 10, "w1"), 100, 0)

	s = tell(t, 50, 0, 5*time.Second)
	s.want(0, ids(10, 10, "w1"), 100, 0)
	s.want(1, ids(0, 10, "w1"), 0, 0)
	s.want(2, ids(10, 10, "w1"), 0, 2.1) // no step is shorter than 100 ms
	s.want(4.5, ids(10, 10, "w1"), 50, 4.6)
	s.want(6.95, ids(10, 10, "w1"), 99, 7)
	s.want(7, ids(10, 10, "w1"), 100, 0)
}

func TestStrictComesBackTheSameWay(t *testing.T) {
	s := tell(t, 50, 10*time.Second, 10*time.Second)
	s.in.Policy.Failover.Mode = Strict
	s.want(0, ids(5, 10, "w1"), 100, 0)
	s.want(1, ids(4, 10, "w1"), 0, 0)
	s.want(2, ids(5, 10, "w1"), 0, 12)
	s.want(17, ids(5, 10, "w1"), 50, 17.1)
	s.want(22, ids(5, 10, "w1"), 100, 0)
}

// A threshold is not needed: who states hold and ramp has them.
func TestFailbackWithoutAThreshold(t *testing.T) {
	s := tell(t, 0, 10*time.Second, 0)
	s.want(0, ids(1, 2, "w1"), 100, 0)
	s.want(1, ids(0, 2, "w1"), 0, 0)
	s.want(2, ids(1, 2, "w1"), 0, 12)
	s.want(12, ids(1, 2, "w1"), 100, 0)
}

func TestWhatIsNeverHeld(t *testing.T) {
	t.Run("the first time after start", func(t *testing.T) {
		s := tell(t, 50, time.Minute, time.Minute)
		s.want(0, ids(0, 10, "w1"), 0, 0)
		s.want(1, ids(3, 10, "w1"), 60, 0) // not sufficient yet, nor ever
		s.want(2, ids(10, 10, "w1"), 100, 0)
		s.want(3, ids(0, 10, "w1"), 0, 0)
		s.want(4, ids(10, 10, "w1"), 0, 64)
	})
	t.Run("instances that came", func(t *testing.T) {
		s := tell(t, 50, time.Minute, time.Minute)
		s.want(0, ids(10, 10, "w1"), 100, 0)
		s.want(1, "w1", 0, 0)
		s.want(2, ids(10, 10, "w1"), 100, 0)
	})
	t.Run("instances that went", func(t *testing.T) {
		s := tell(t, 50, time.Minute, time.Minute)
		s.want(0, ids(10, 10, "w1"), 100, 0)
		s.want(1, ids(3, 10, "w1"), 60, 0)
		s.want(2, ids(3, 6, "w1"), 100, 0)
	})
	t.Run("but health that recovers meanwhile is", func(t *testing.T) {
		s := tell(t, 50, time.Minute, 0)
		s.want(0, ids(10, 10, "w1"), 100, 0)
		s.want(1, ids(0, 10, "w1"), 0, 0)
		s.want(2, ids(3, 10, "w1"), 0, 62)    // 60% by health: held
		s.want(3, ids(3, 6, "w1"), 40, 62)    // 100% with four fewer: those 40% are not
		s.want(4, ids(3, 6, "w1 w2"), 40, 62) // another tier's instances are none of it
		s.want(62, ids(3, 6, "w1"), 100, 0)
	})
	t.Run("a tier without which nobody would serve", func(t *testing.T) {
		s := tell(t, 50, time.Minute, time.Minute)
		s.want(0, ids(10, 10, "w1"), 100, 0)
		s.want(1, ids(0, 10, "w1"), 0, 0)
		s.want(2, ids(10, 10, "w1"), 0, 62)
		s.want(3, ids(10, 10, "w1:UNHEALTHY"), 100, 0)
		s.want(4, ids(10, 10, "w1"), 100, 0) // and what came back stays
	})
	t.Run("what the other tiers have no room for", func(t *testing.T) {
		s := tell(t, 50, time.Minute, time.Minute)
		s.want(0, ids(10, 10, "w1 w2 w3 w4 w5"), 100, 0)
		s.want(1, ids(0, 10, "w1 w2:UNHEALTHY w3:UNHEALTHY w4:UNHEALTHY w5:UNHEALTHY"), 0, 0)
		s.want(2, ids(10, 10, "w1 w2:UNHEALTHY w3:UNHEALTHY w4:UNHEALTHY w5:UNHEALTHY"), 60, 62)
		s.want(3, ids(10, 10, "w1 w2 w3 w4 w5"), 60, 62)
		s.want(92, ids(10, 10, "w1 w2 w3 w4 w5"), 80, 92.6)
	})
}

// What comes back for want of others does not stop a ramp that is under way.
func TestARampGoesOnFromWhatCameBackForWantOfOthers(t *testing.T) {
	const half = "w1 w2:UNHEALTHY w3:UNHEALTHY w4:UNHEALTHY" // fit for 50%
	s := tell(t, 50, 10*time.Second, 10*time.Second)
	s.want(0, ids(10, 10, half), 100, 0)
	s.want(1, ids(0, 10, "w1 w2 w3 w4"), 0, 0)
	s.want(2, ids(10, 10, "w1 w2 w3 w4"), 0, 12)
	s.want(14, ids(10, 10, "w1 w2 w3 w4"), 20, 14.1)
	s.want(15, ids(10, 10, half), 50, 15.1)
	s.want(18.5, ids(10, 10, "w1 w2 w3 w4"), 75, 18.6)
	s.want(22, ids(10, 10, "w1 w2 w3 w4"), 100, 0)
}

// Members of a tier are those that it knows: not the draining ones, nor those that a strict
// locality leaves out.
func TestMembersAreTheKnownOnes(t *testing.T) {
	s := tell(t, 50, time.Minute, time.Minute)
	s.want(0, ids(10, 10, "w1"), 100, 0)
	s.want(1, ids(3, 10, "w1"), 60, 0)
	s.want(2, ids(3, 6, "e006:DRAINING e007:DRAINING e008:DRAINING e009:DRAINING w1"), 100, 0)

	s = tell(t, 50, time.Minute, time.Minute)
	s.in.Policy.Locality, s.in.Caller.Locality.Region = LocalityStrict, "eu"
	near := func(seconds float64, list string, far ...string) Decision {
		s.in.Now = noon.Add(time.Duration(seconds * float64(time.Second)))
		s.in.Instances = instances(list)
		for i := range s.in.Instances {
			s.in.Instances[i].Instance.Locality.Region = "eu"
		}
		for _, id := range far {
			s.in.Instances = append(s.in.Instances, instances(id)...)
		}
		d, state, err := Decide(s.in)
		if err != nil {
			t.Fatal(err)
		}
		s.in.Previous = state
		return d
	}
	near(0, ids(10, 10, "w1"))
	near(1, ids(0, 10, "w1"))
	if got := shares(near(2, ids(10, 10, "w1"), "e900")); got != "* 100%" {
		t.Errorf("somebody far away came: %s", got)
	}
}

// The state follows the time, not how often somebody asked.
func TestItDoesNotMatterHowOftenIsDecided(t *testing.T) {
	for _, step := range []float64{0.01, 0.3, 7, 100} {
		s := tell(t, 50, 10*time.Second, 20*time.Second)
		s.at(0, ids(10, 10, "w1"))
		s.at(1, ids(0, 10, "w1"))
		s.at(2, ids(3, 10, "w1"))
		s.at(4, ids(10, 10, "w1"))
		for now := 4 + step; now < 30; now += step {
			s.at(now, ids(10, 10, "w1"))
		}
		// From 12 on it rises to 60 by 32; at 22 the rest has lasted as well, and goes to 100 by 42.
		if got := s.at(30, ids(10, 10, "w1")).Tiers[0].Share; math.Abs(got-58) > 1e-6 {
			t.Errorf("in steps of %v s: %v%% after 30 s", step, got)
		}
	}
}

func TestTheStateIsCheapWhereNothingIsHeld(t *testing.T) {
	for _, change := range []func(*Input){
		func(in *Input) { in.Policy.Failback = Failback{} },
		func(in *Input) { in.Policy.Failback = Failback{Hold: -1, Ramp: -1} },
		func(in *Input) { in.Policy.Strategy = LocalOnly },
		func(in *Input) { in.Policy.Strategy = Any },
		func(in *Input) { in.Policy.Strategy = Broadcast },
		func(in *Input) { in.Pin = "west" },
	} {
		s := tell(t, 50, time.Minute, time.Minute)
		change(&s.in)
		s.at(0, ids(10, 10, "w1"))
		if s.in.Previous.tiers != nil {
			t.Errorf("%s, %+v, pin %q: remembers %v", s.in.Policy.Strategy, s.in.Policy.Failback, s.in.Pin, s.in.Previous)
		}
	}
}

// Who decides twice from one state gets the same twice: a state is not changed by being used.
func TestStateIsImmutable(t *testing.T) {
	s := tell(t, 50, 10*time.Second, 10*time.Second)
	s.at(0, ids(10, 10, "w1"))
	s.at(1, ids(0, 10, "w1"))
	s.at(2, ids(10, 10, "w1"))
	before := s.in.Previous
	s.want(17, ids(10, 10, "w1"), 50, 17.1)
	s.in.Previous = before
	s.want(3, ids(10, 10, "w1"), 0, 12)
}

// A tier that stands behind one that takes all calls is no reason to decide again.
func TestTiersInReserveWakeNobody(t *testing.T) {
	s := tell(t, 50, 10*time.Second, 10*time.Second)
	s.want(0, ids(10, 10, "w1"), 100, 0)
	s.want(1, ids(10, 10, "w1:UNHEALTHY"), 100, 0)
	s.want(2, ids(10, 10, "w1"), 100, 0)
}

// Ramps of the external tiers are ramps as well.
func TestExternalTiersAreHeldToo(t *testing.T) {
	s := tell(t, 50, 10*time.Second, 10*time.Second)
	s.in.Policy.ExternalOrder = [][]string{{"west"}, {"south"}}
	s.in.Clusters["south"] = in(catalog.StateSynced)
	s.at(0, "w1 s1")
	s.at(1, "w1:UNHEALTHY s1")
	for _, c := range []struct {
		now  float64
		want string
	}{{2, "south 100%"}, {11.9, "south 100%"}, {17, "west 50%, south 50%"}, {22, "west 100%"}} {
		if got := shares(s.at(c.now, "w1 s1")); got != c.want {
			t.Errorf("after %v s: %s, want %s", c.now, got, c.want)
		}
	}
}

func TestAHeldTierSaysSo(t *testing.T) {
	s := tell(t, 50, 10*time.Second, 10*time.Second)
	s.at(0, ids(10, 10, "w1"))
	s.at(1, ids(0, 10, "w1"))
	d := s.at(2, ids(10, 10, "w1"))
	if want := "local-first: tier *, not tier local (10 of 10 available, threshold 50, held back after its return)"; d.Rule != want {
		t.Errorf("got  %s\nwant %s", d.Rule, want)
	}
	d = s.at(14, ids(10, 10, "w1"))
	if want := "local-first: 20% tier local (10 of 10 available, threshold 50, coming back: 20% of 100%), 80% tier *"; d.Rule != want {
		t.Errorf("got  %s\nwant %s", d.Rule, want)
	}
}
