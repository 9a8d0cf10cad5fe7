package pick

import (
	"math"
	"testing"
	"time"

	"github.com/farcall/farcall/strategy"
)

var start = time.Unix(100_000, 0)

// warming makes candidates that were first seen so long before start; below 0 is always there.
func warming(ages ...time.Duration) []Candidate {
	list := candidates("i", equal(len(ages))...)
	for i, age := range ages {
		if age >= 0 {
			list[i].Load.Since = start.Add(-age)
		}
	}
	return list
}

// shareOf gives the part of the calls that goes to the first of two candidates.
func shareOf(t *testing.T, cfg Config, list []Candidate) float64 {
	t.Helper()
	const draws = 40_000
	p, hits := New(cfg, []Tier{{Share: 100, Groups: groupOf(list)}}), 0
	for range draws {
		got, ok := p.Pick(nil)
		if !ok {
			t.Fatal("nobody")
		}
		if got.Instance.Port == 0 {
			hits++
		}
	}
	return float64(hits) / draws
}

func TestWarmUpGrowsLinearly(t *testing.T) {
	const always = -1
	for _, b := range balancers {
		for _, c := range []struct {
			age  time.Duration
			want float64 // part of its weight
		}{
			{0, 0.1}, {10 * time.Second, 0.19}, {50 * time.Second, 0.55}, {99 * time.Second, 0.99},
			{100 * time.Second, 1}, {time.Hour, 1}, {always, 1}, {math.MaxInt64, 1},
		} {
			cfg := Config{Balancer: b, Now: start, WarmUp: 100 * time.Second}
			got, want := shareOf(t, cfg, warming(c.age, always)), c.want/(1+c.want)
			if math.Abs(got-want) > 0.025 {
				t.Errorf("%s: of age %v it had %.3f of the calls, want %.3f", b, c.age, got, want)
			}
		}
		// A clock that was set back.
		list := warming(0, always)
		list[0].Load.Since = start.Add(time.Hour)
		if got := shareOf(t, Config{Balancer: b, Now: start, WarmUp: time.Minute}, list); math.Abs(got-0.1/1.1) > 0.02 {
			t.Errorf("%s: first seen in an hour, it had %.3f of the calls", b, got)
		}
		if got := shareOf(t, Config{Balancer: b, Now: start}, warming(0, always)); math.Abs(got-0.5) > 0.02 {
			t.Errorf("%s: without warm-up, a new one had %.3f of the calls", b, got)
		}
		if got := shareOf(t, Config{Balancer: b, Now: start, WarmUp: time.Hour}, warming(time.Second, 0)); math.Abs(got-0.5) > 0.02 {
			t.Errorf("%s: both are equally new, and one had %.3f of the calls", b, got)
		}
	}
}

func TestWarmUpMultipliesTheWeight(t *testing.T) {
	list := warming(0, -1)
	list[0].Weight, list[1].Weight = 1<<32, 1<<30
	if got := shareOf(t, Config{Balancer: strategy.Weighted, Now: start, WarmUp: time.Minute}, list); math.Abs(got-0.4/1.4) > 0.02 {
		t.Errorf("%.3f of the calls", got)
	}
}

func TestNext(t *testing.T) {
	const minute, always = time.Minute, -1
	at := func(after time.Duration) time.Time { return start.Add(after) }
	for _, c := range []struct {
		what   string
		warmUp time.Duration
		tiers  [][]time.Duration
		want   time.Time
	}{
		{"nobody", minute, nil, time.Time{}},
		{"nobody is new", minute, [][]time.Duration{{always, 2 * minute}, {minute}}, time.Time{}},
		{"no warm-up", 0, [][]time.Duration{{0, always}}, time.Time{}},
		{"all equally new", minute, [][]time.Duration{{0, 0, 100 * time.Millisecond}}, time.Time{}},
		{"alone", minute, [][]time.Duration{{0}, {always}}, time.Time{}},
		{"one is new", minute, [][]time.Duration{{0, always}}, at(6 * time.Second)},
		{"in the last step", minute, [][]time.Duration{{58 * time.Second, always}}, at(2 * time.Second)},
		{"several", minute, [][]time.Duration{{58 * time.Second, always, 50 * time.Second}}, at(6 * time.Second)},
		{"the soonest of the tiers", minute, [][]time.Duration{{0, always}, {always}, {59 * time.Second, always}}, at(time.Second)},
		{"the soonest is the first", minute, [][]time.Duration{{59 * time.Second, always}, {0, always}, {always}}, at(time.Second)},
		{"hardly any warm-up", 3, [][]time.Duration{{0, always}}, at(1)},
	} {
		var tiers []Tier
		for _, ages := range c.tiers {
			tiers = append(tiers, Tier{Groups: groupOf(warming(ages...))})
		}
		if got := New(Config{Now: start, WarmUp: c.warmUp}, tiers).Next(); !got.Equal(c.want) {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}

// Made anew whenever Next says so, a picker follows the line, and Next comes to an end.
func TestNextLeadsToFullWeight(t *testing.T) {
	list := warming(0, -1)
	now, steps := start, 0
	for {
		cfg := Config{Balancer: strategy.Weighted, Now: now, WarmUp: 30 * time.Second}
		p := New(cfg, []Tier{{Groups: groupOf(list)}})
		weights, _ := cfg.weights(list)
		got, want := float64(weights[0])/float64(weights[1]), 0.1+0.9*float64(now.Sub(start))/float64(30*time.Second)
		if math.Abs(got-want) > 0.01 {
			t.Errorf("after %v it has %.2f of its weight, want %.2f", now.Sub(start), got, want)
		}
		if p.Next().IsZero() {
			break
		}
		if steps++; steps > 10 || !p.Next().After(now) {
			t.Fatalf("step %d is at %v, after %v", steps, p.Next(), now)
		}
		now = p.Next()
	}
	if steps != 10 || !now.Equal(start.Add(30*time.Second)) {
		t.Errorf("%d steps until %v", steps, now.Sub(start))
	}
}
