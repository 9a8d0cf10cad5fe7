package pick

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/farcall/farcall/strategy"
)

func TestLoadCountsAndAverages(t *testing.T) {
	l := new(Load)
	c := Picked{Candidate: &Candidate{Load: l}}
	now := time.Unix(1000, 0)
	near := func(want time.Duration) {
		t.Helper()
		if got := l.Latency(); math.Abs(float64(got-want)) > 0.01*float64(want) {
			t.Errorf("mean latency %v, want %v", got, want)
		}
	}
	c.Begin()
	c.Begin()
	if l.Outstanding() != 2 || l.Latency() != 0 {
		t.Errorf("%d outstanding, latency %v; want 2 and none", l.Outstanding(), l.Latency())
	}
	c.Done(now, time.Microsecond, Failed) // refused at once: says nothing of the speed
	if l.Outstanding() != 1 || l.Latency() != 0 {
		t.Errorf("%d outstanding, latency %v; want 1 and none", l.Outstanding(), l.Latency())
	}
	c.Done(now, 100*time.Millisecond, Answered)
	near(100 * time.Millisecond)
	step := func(after, latency time.Duration, o Outcome) {
		now = now.Add(after)
		c.Begin()
		c.Done(now, latency, o)
	}
	step(halfLife, 200*time.Millisecond, Answered)
	near(150 * time.Millisecond)
	step(halfLife, time.Millisecond, Failed) // fast failures do not make it fast
	near(150 * time.Millisecond)
	step(0, time.Millisecond, Abandoned)
	near(150 * time.Millisecond)
	step(0, 350*time.Millisecond, Failed) // slow ones make it slow: one half-life has passed
	near(250 * time.Millisecond)
	step(halfLife, 350*time.Millisecond, Abandoned)
	near(300 * time.Millisecond)
	step(halfLife, 100*time.Millisecond, Errored) // an answer like any other
	near(200 * time.Millisecond)
	step(20*halfLife, 10*time.Millisecond, Answered)
	near(10 * time.Millisecond)
	step(-time.Hour, time.Second, Answered) // a clock that was set back
	near(10 * time.Millisecond)
	step(time.Hour+20*halfLife, 0, Answered)
	if l.Outstanding() != 0 || l.Latency() < 0 {
		t.Errorf("%d outstanding, latency %v", l.Outstanding(), l.Latency())
	}
}

// Calls of equal length, a fixed number at a time: the weights hold under load too.
func TestLeastRequestSharesByWeightUnderLoad(t *testing.T) {
	for _, weights := range [][]uint64{{1, 1, 1}, {1, 2, 4}, {9, 1}, {100, 1}} {
		for _, parallel := range []int{1, 2, 8, 64} {
			t.Run(fmt.Sprint(weights, parallel), func(t *testing.T) {
				p := one(strategy.LeastRequest, candidates("i", weights...))
				g, number := &p.groups[0], numbers(strategy.LeastRequest)
				counts := make([]int, len(weights))
				var running []Picked
				const calls = 20_000
				now := time.Unix(0, 0)
				for range calls {
					at := g.choose(number())
					counts[at]++
					c := Picked{Candidate: &g.candidates[at]}
					c.Begin()
					if running = append(running, c); len(running) == parallel {
						now = now.Add(time.Millisecond)
						running[0].Done(now, 10*time.Millisecond, Answered)
						running = running[1:]
					}
				}
				total := uint64(0)
				for _, w := range weights {
					total += w
				}
				for i, n := range counts {
					want := calls * float64(weights[i]) / float64(total)
					if math.Abs(float64(n)-want) > 0.1*want+0.01*calls {
						t.Errorf("instance %d of weights %v had %d of %d calls, want about %.0f", i, weights, n, calls, want)
					}
				}
			})
		}
	}
}

func TestLeastRequestAvoidsTheLoaded(t *testing.T) {
	share := func(list []Candidate) []int {
		p := one(strategy.LeastRequest, list)
		number := numbers(strategy.LeastRequest)
		counts := make([]int, len(list))
		for range 1000 {
			counts[p.groups[0].choose(number())]++
		}
		return counts
	}
	t.Run("more outstanding", func(t *testing.T) {
		list := candidates("i", 1, 1)
		list[0].Load.outstanding.Store(5)
		list[1].Load.outstanding.Store(3)
		if n := share(list); n[0] != 0 {
			t.Errorf("%v", n)
		}
	})
	t.Run("a hung one with nearly all the weight", func(t *testing.T) {
		list := candidates("i", 1000, 1)
		list[0].Load.outstanding.Store(10_000)
		list[1].Load.outstanding.Store(1)
		if n := share(list); n[0] != 0 {
			t.Errorf("%v", n)
		}
	})
	t.Run("slower with as many outstanding", func(t *testing.T) {
		list := candidates("i", 1, 1)
		for i, l := range []time.Duration{80 * time.Millisecond, 5 * time.Millisecond} {
			list[i].Load.outstanding.Store(2)
			list[i].Load.observe(time.Unix(1, 0), l, true)
		}
		if n := share(list); n[0] != 0 {
			t.Errorf("%v", n)
		}
	})
	t.Run("never measured is not fast", func(t *testing.T) {
		list := candidates("i", 1, 1)
		list[0].Load.outstanding.Store(100)
		list[1].Load.outstanding.Store(2)
		list[1].Load.observe(time.Unix(1, 0), time.Second, true)
		if n := share(list); n[0] != 0 {
			t.Errorf("%v", n)
		}
	})
	t.Run("once slow and idle now is not starved", func(t *testing.T) {
		list := candidates("i", 1, 1)
		list[0].Load.observe(time.Unix(1, 0), time.Minute, true)
		list[1].Load.observe(time.Unix(1, 0), time.Millisecond, true)
		list[1].Load.outstanding.Store(1)
		if n := share(list); n[0] < 400 {
			t.Errorf("%v", n)
		}
	})
}

// A caller in a hurry says nothing about an instance, and one that waited long enough does.
func TestLate(t *testing.T) {
	for _, c := range []struct {
		name          string
		mean, latency time.Duration
		suspicious    bool
	}{
		{"a tenth of what it usually takes", 60 * time.Millisecond, 6 * time.Millisecond, false},
		{"three times of it", 60 * time.Millisecond, 180 * time.Millisecond, false},
		{"ten times of it", 10 * time.Millisecond, 100 * time.Millisecond, true},
		{"a second, whatever is usual", time.Second, time.Second, true},
		{"it never answered, in 10 ms", 0, 10 * time.Millisecond, false},
		{"it never answered, in 300 ms", 0, 300 * time.Millisecond, true},
	} {
		l := &Load{}
		p := Picked{Candidate: &Candidate{Load: l}}
		now := time.Unix(1_000_000, 0)
		if c.mean > 0 {
			p.Begin()
			p.Done(now, c.mean, Answered)
		}
		suspicious := false
		for range maxFailures {
			p.Begin()
			suspicious = p.Done(now, c.latency, Late)
		}
		if suspicious != c.suspicious || l.Outstanding() != 0 {
			t.Errorf("%s: suspicious %v, want %v; %d outstanding", c.name, suspicious, c.suspicious, l.Outstanding())
		}
		if l.Latency().Round(time.Millisecond) != c.mean {
			t.Errorf("%s: the mean moved to %s", c.name, l.Latency())
		}
	}
}
