package pick

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/farcall/farcall/strategy"
)

// tiersOf makes tiers with two instances each, ids 0-0, 0-1, 1-0, ...
func tiersOf(shares ...float64) []Tier {
	var tiers []Tier
	for i, s := range shares {
		tiers = append(tiers, Tier{Share: s, Groups: groupOf(candidates(fmt.Sprint(i), 1, 1))})
	}
	return tiers
}

// binomial fails the test where hits of draws cannot come from a chance of share.
func binomial(t *testing.T, what string, hits, draws int, share float64) {
	t.Helper()
	want, sigma := share*float64(draws), math.Sqrt(float64(draws)*share*(1-share))
	if off := math.Abs(float64(hits) - want); off > 5*sigma+1e-6 {
		t.Errorf("%s: %d of %d, want %.0f: off by %.1f standard deviations", what, hits, draws, want, off/sigma)
	}
}

func TestTiersHaveTheirShares(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for _, c := range []struct {
		what   string
		shares []float64
		want   []float64
	}{
		{"30 % of threshold 50", []float64{60, 40}, []float64{0.6, 0.4}},
		{"20 % of threshold 33", []float64{100 * 20.0 / 33, 100 - 100*20.0/33}, []float64{20.0 / 33, 13.0 / 33}},
		{"50 % of threshold 70", []float64{100 * 50.0 / 70, 100 - 100*50.0/70}, []float64{5.0 / 7, 2.0 / 7}},
		{"a part in a hundred", []float64{99, 1}, []float64{0.99, 0.01}},
		{"three", []float64{25, 25, 50}, []float64{0.25, 0.25, 0.5}},
		{"only the proportions count", []float64{0.3, 0, 0.1}, []float64{0.75, 0, 0.25}},
		{"the first has none", []float64{0, 100}, []float64{0, 1}},
		{"none has any", []float64{0, 0}, []float64{1, 0}},
		{"what is no share", []float64{nan, -5, 50, 50}, []float64{0, 0, 0.5, 0.5}},
		{"more than all", []float64{inf, 100}, []float64{0.5, 0.5}},
	} {
		const draws = 200_000
		p := New(Config{}, tiersOf(c.shares...))
		picked := make([]int, len(c.shares))
		for range draws {
			got, ok := p.Pick(nil)
			if !ok {
				t.Fatal("nobody")
			}
			picked[got.Tier]++
		}
		for i, share := range c.want {
			binomial(t, fmt.Sprintf("%s: tier %d", c.what, i), picked[i], draws, share)
		}
	}
}

func TestDrawTierIsWithinTheTiers(t *testing.T) {
	p := New(Config{}, tiersOf(0, 60, 0, 40, 0))
	for number, want := range map[uint64]int{0: 1, 1 << 63: 1, 3 << 62: 3, math.MaxUint64: 3} {
		if got := p.drawTier(number); got != want {
			t.Errorf("%#x drew tier %d, want %d", number, got, want)
		}
	}
}

// tiersUsed takes all that the call can get, and gives the tiers in the order of the attempts.
func tiersUsed(p *Picker, call *Call) []int {
	var tiers []int
	for {
		got, ok := p.Pick(call)
		if !ok {
			return tiers
		}
		call.Add(got.Instance)
		tiers = append(tiers, got.Tier)
	}
}

func TestAttemptsGoOnWithTheTiersThatFollow(t *testing.T) {
	want := map[int][]int{
		0: {0, 0, 1, 1, 2, 2, 3, 3},
		1: {1, 1, 2, 2, 3, 3, 0, 0},
		2: {2, 2, 3, 3, 0, 0, 1, 1},
	}
	for _, b := range balancers {
		p, seen := New(Config{Balancer: b}, tiersOf(30, 30, 40, 0)), map[int]bool{}
		for n := range 200 {
			var call Call
			if n%2 == 0 {
				call.SetKey(fmt.Sprint(n))
			}
			got := tiersUsed(p, &call)
			if !slices.Equal(got, want[got[0]]) {
				t.Fatalf("%s: attempts went to tiers %v, want %v", b, got, want[got[0]])
			}
			seen[got[0]] = true
		}
		if len(seen) != 3 {
			t.Errorf("%s: calls began at %d tiers only", b, len(seen))
		}
	}
}

// A tier without candidates keeps its share and its index: its calls go on to the next.
func TestAnEmptyTierPassesItsCallsOn(t *testing.T) {
	tiers := tiersOf(50, 50, 0)
	tiers[1].Groups = nil
	p, counts := New(Config{}, tiers), make([]int, 3)
	const draws = 100_000
	for range draws {
		got, _ := p.Pick(nil)
		counts[got.Tier]++
	}
	binomial(t, "the tier behind the empty one", counts[2], draws, 0.5)
	tiers = tiersOf(0, 100)
	tiers[1].Groups = nil
	if got := tiersUsed(New(Config{}, tiers), &Call{}); !slices.Equal(got, []int{0, 0}) {
		t.Errorf("the last tier is empty: attempts went to tiers %v", got)
	}
}

func TestACallOutlivesItsPicker(t *testing.T) {
	for _, c := range []struct {
		what          string
		before, after []float64
		want          []int
	}{
		{"the same", []float64{0, 100}, []float64{0, 100}, []int{1, 0, 0}},
		{"its tier has a share still", []float64{0, 100}, []float64{99, 1}, []int{1, 0, 0}},
		{"its tier has no share any more", []float64{0, 100}, []float64{100, 0}, []int{0, 0, 1}},
		{"its tier has none, two others have", []float64{0, 100, 0}, []float64{100, 0, 1e-9}, []int{0, 0, 1, 2, 2}},
		{"its tier is gone", []float64{0, 0, 100}, []float64{100}, []int{0, 0}},
		{"its tier is gone, two are left", []float64{0, 0, 100}, []float64{100, 1e-9}, []int{0, 0, 1, 1}},
		{"there is one more", []float64{100}, []float64{50, 0, 50}, []int{0, 1, 1, 2, 2}},
	} {
		var call Call
		first, _ := New(Config{}, tiersOf(c.before...)).Pick(&call)
		call.Add(first.Instance)
		if got := tiersUsed(New(Config{}, tiersOf(c.after...)), &call); !slices.Equal(got, c.want) {
			t.Errorf("%s: attempts went on to tiers %v, want %v", c.what, got, c.want)
		}
	}
	// Nobody at first: the call draws when there is somebody.
	var call Call
	New(Config{}, tiersOf()).Pick(&call)
	if got, ok := New(Config{}, tiersOf(0, 100)).Pick(&call); !ok || got.Tier != 1 {
		t.Errorf("%+v, %v", got, ok)
	}
}

// Cluster weights scale the instances of a cluster within a pool of several.
func TestClusterWeights(t *testing.T) {
	for _, b := range []strategy.Balancer{strategy.LeastRequest, strategy.RoundRobin, strategy.Weighted} {
		var pool []Candidate
		for cluster, weight := range []uint64{3, 1, 0} {
			list := candidates(fmt.Sprint(cluster), 1, 2)
			for i := range list {
				list[i].Weight *= weight
				list[i].Instance.Port = len(pool) + i
			}
			pool = append(pool, list...)
		}
		p, counts, number := one(b, pool), make([]int, len(pool)), numbers(b)
		for range 100_000 {
			counts[p.groups[0].candidates[p.groups[0].choose(number())].Instance.Port]++
		}
		chiSquare(t, counts, []uint64{3, 6, 1, 2, 0, 0})
	}
}

func TestNearnessComesBeforeTheBalancer(t *testing.T) {
	for _, b := range balancers {
		near, far := candidates("near", 1), candidates("far", 100, 100)
		p := New(Config{Balancer: b}, []Tier{{Share: 100, Groups: []Group{{Candidates: near}, {Candidates: far}}}})
		for range 50 {
			var call Call
			first, _ := p.Pick(&call)
			call.Add(first.Instance)
			second, ok := p.Pick(&call)
			if first.Instance != near[0].Instance || !ok || second.Instance == near[0].Instance {
				t.Fatalf("%s: %s, then %s", b, first.Instance.Instance, second.Instance.Instance)
			}
		}
	}
}
