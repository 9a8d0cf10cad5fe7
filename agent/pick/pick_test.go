package pick

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var balancers = [...]Balancer{LeastRequest, RoundRobin}

// candidates makes one candidate for each weight, with ids prefix-0, prefix-1, ...
func candidates(prefix string, weights ...uint32) []Candidate {
	out := make([]Candidate, len(weights))
	for i, w := range weights {
		out[i] = Candidate{
			Instance: &catalog.Instance{
				ID: catalog.ID{Cluster: "east", Name: catalog.Name{Namespace: "default", Service: "cart"},
					Instance: fmt.Sprintf("%s-%d", prefix, i)},
				Port:   i, // its place among the weights
				Weight: w,
			},
			Dial: "10.0.0.1:50002",
			Load: new(Load),
		}
	}
	return out
}

func equal(n int) []uint32 { return slices.Repeat([]uint32{1}, n) }

// one makes a picker of one group. Its turns begin at 0, so that a test can be repeated.
func one(b Balancer, list []Candidate) *Picker {
	p := New(b, []Group{{Candidates: list}})
	if b == RoundRobin && len(p.groups) > 0 {
		p.groups[0].turn.n.Store(0)
	}
	return p
}

// numbers gives what decides a draw: turns for round-robin, else bits of a fixed seed.
func numbers(b Balancer) func() uint64 {
	if b == RoundRobin {
		n := uint64(0)
		return func() uint64 { n++; return n }
	}
	return rand.New(rand.NewPCG(7, 11)).Uint64
}

// chiSquare fails the test where counts cannot come from the weights. For a chi-square of k degrees of
// freedom the mean is k and the standard deviation sqrt(2k); the bound is five of them above.
func chiSquare(t *testing.T, counts []int, weights []uint32) {
	t.Helper()
	var calls, total float64
	for i := range counts {
		calls += float64(counts[i])
		total += float64(weights[i])
	}
	sum, k := 0.0, -1.0
	for i, n := range counts {
		want := calls * float64(weights[i]) / total
		if want == 0 {
			if n > 0 {
				t.Errorf("%d calls went to weight 0", n)
			}
			continue
		}
		k++
		sum += (float64(n) - want) * (float64(n) - want) / want
	}
	if bound := k + 5*math.Sqrt(2*k) + 1e-9; sum > bound {
		t.Errorf("chi-square %.1f is above %.1f: counts %v for weights %v", sum, bound, counts, weights)
	}
}

var weightSets = [][]uint32{
	{1, 1}, {1, 1, 1}, {50, 50, 50, 50, 50, 50, 50},
	{1, 2}, {3, 2, 1}, {1, 9}, {100, 1}, {0, 1, 0, 2}, {1, 1 << 16},
	{5, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {7, 0, 3, 11, 2, 2, 30, 1, 1, 19, 8},
}

func TestIdleInstancesShareByWeight(t *testing.T) {
	for _, b := range balancers {
		for _, weights := range weightSets {
			t.Run(fmt.Sprint(b, weights), func(t *testing.T) {
				p := one(b, candidates("i", weights...))
				g, number := &p.groups[0], numbers(b)
				counts := make([]int, len(weights))
				for range 100_000 {
					counts[g.candidates[g.choose(number())].Instance.Port]++
				}
				chiSquare(t, counts, weights)
			})
		}
	}
}

// Round-robin is even not only in the long run: after any number of turns each instance had its
// share to within a few calls, and equal ones take strict turns.
func TestRoundRobinIsEvenInAnyStretch(t *testing.T) {
	for _, weights := range weightSets {
		total := 0.0
		for _, w := range weights {
			total += float64(w)
		}
		p := one(RoundRobin, candidates("i", weights...))
		counts := make([]int, len(weights))
		for n := 1; n <= 10_000; n++ {
			got, _ := p.Pick(nil)
			counts[got.Instance.Port]++
			for i, w := range weights {
				have, want := float64(counts[i]), float64(n)*float64(w)/total
				if off := math.Abs(have - want); off > 5 {
					t.Fatalf("weights %v after %d turns: instance %d had %v calls, its share is %.1f", weights, n, i, have, want)
				}
			}
		}
	}
	p := one(RoundRobin, candidates("i", equal(7)...))
	for n := 1; n <= 100; n++ {
		if got, _ := p.Pick(nil); got.Instance.Instance != fmt.Sprintf("i-%d", n%7) {
			t.Fatalf("turn %d went to %s", n, got.Instance.Instance)
		}
	}
}

func TestRoundRobinDoesNotBeginInUnison(t *testing.T) {
	list := candidates("i", equal(100)...)
	first := map[string]bool{}
	for range 50 {
		got, _ := New(RoundRobin, []Group{{Candidates: list}}).Pick(nil)
		first[got.Instance.Instance] = true
	}
	// Fewer than 20 different ones of 50 draws among 100 has a chance below 1e-9.
	if len(first) < 20 {
		t.Errorf("50 pickers began at only %d instances", len(first))
	}
}

func TestNobodyToPick(t *testing.T) {
	for _, b := range append(balancers[:], "") {
		for _, groups := range [][]Group{nil, {{}}, {{Candidates: candidates("i", 0, 0)}}} {
			if _, ok := New(b, groups).Pick(nil); ok {
				t.Errorf("%s: picked out of nobody", b)
			}
		}
		p := New(b, []Group{{Tier: 0, Candidates: candidates("i", 0)}, {Tier: 1, Candidates: candidates("j", 2)}})
		for _, tried := range []*Tried{nil, {}} {
			if got, ok := p.Pick(tried); !ok || got.Tier != 1 || got.Instance.Instance != "j-0" || got.Dial != "10.0.0.1:50002" {
				t.Errorf("%s: %+v", b, got)
			}
		}
	}
}

func TestPickerKeepsNothingOfItsInput(t *testing.T) {
	list := candidates("i", 1, 1)
	p := New(RoundRobin, []Group{{Candidates: list}})
	clear(list)
	for range 4 {
		if got, ok := p.Pick(nil); !ok || got.Instance == nil {
			t.Fatal("the picker shares its input")
		}
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	for _, b := range balancers {
		for _, weights := range [][]uint32{equal(1), equal(10), {1, 2, 3, 4, 5}} {
			p := New(b, []Group{{Candidates: candidates("i", weights...)}, {Tier: 1, Candidates: candidates("j", 1)}})
			now := time.Unix(1, 0)
			if n := testing.AllocsPerRun(1000, func() {
				var tried Tried
				for {
					got, ok := p.Pick(&tried)
					if !ok || tried.Len() == 4 {
						break
					}
					got.Begin()
					tried.Add(got.Instance)
					got.Done(now, time.Millisecond, Answered)
				}
			}); n != 0 {
				t.Errorf("%s %v: %v allocations a call", b, weights, n)
			}
		}
	}
}

func TestConcurrentCalls(t *testing.T) {
	for _, b := range balancers {
		list := candidates("i", 1, 2, 3, 4, 5)
		p := New(b, []Group{{Candidates: list}, {Tier: 1, Candidates: candidates("j", 1, 1)}})
		var calls sync.WaitGroup
		for range 8 {
			calls.Go(func() {
				for range 500 {
					var tried Tried
					for range 3 {
						got, ok := p.Pick(&tried)
						if !ok || got.Tier != 0 {
							t.Errorf("%s: %+v, %v", b, got, ok)
							return
						}
						got.Begin()
						tried.Add(got.Instance)
						got.Done(time.Now(), time.Millisecond, Outcome(got.Instance.Weight%2))
					}
					if tried.Len() != 3 {
						t.Errorf("%s: %d different instances in three attempts", b, tried.Len())
						return
					}
				}
			})
		}
		calls.Wait()
		for _, c := range list {
			if n := c.Load.Outstanding(); n != 0 {
				t.Errorf("%s: %d calls of %s are still outstanding", b, n, c.Instance.Instance)
			}
		}
	}
}
