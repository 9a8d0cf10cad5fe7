package pick

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/strategy"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var balancers = [...]strategy.Balancer{
	strategy.LeastRequest, strategy.RoundRobin, strategy.Random, strategy.Weighted, strategy.RingHash,
}

// candidates makes one candidate for each weight, with ids prefix-0, prefix-1, ...
func candidates(prefix string, weights ...uint64) []Candidate {
	out := make([]Candidate, len(weights))
	for i, w := range weights {
		out[i] = Candidate{
			Instance: &catalog.Instance{
				ID: catalog.ID{Cluster: "east", Name: catalog.Name{Namespace: "default", Service: "cart"},
					Instance: fmt.Sprintf("%s-%d", prefix, i)},
				Port: i, // its place among the weights
			},
			Dial:   "10.0.0.1:50002",
			Load:   new(Load),
			Weight: w,
		}
	}
	return out
}

func equal(n int) []uint64 { return slices.Repeat([]uint64{1}, n) }

func groupOf(list []Candidate) []Group { return []Group{{Candidates: list}} }

// one makes a picker of one group. Its turns begin at 0, so that a test can be repeated.
func one(b strategy.Balancer, list []Candidate) *Picker {
	p := New(Config{Balancer: b}, []Tier{{Share: 100, Groups: groupOf(list)}})
	if b == strategy.RoundRobin && len(p.groups) > 0 {
		p.groups[0].turn.n.Store(0)
	}
	return p
}

// numbers gives what decides a draw: turns for round-robin, else bits of a fixed seed.
func numbers(b strategy.Balancer) func() uint64 {
	if b == strategy.RoundRobin {
		n := uint64(0)
		return func() uint64 { n++; return n }
	}
	return rand.New(rand.NewPCG(7, 11)).Uint64
}

// chiSquare fails the test where counts cannot come from the weights. For a chi-square of k degrees of
// freedom the mean is k and the standard deviation sqrt(2k); the bound is five of them above.
func chiSquare(t *testing.T, counts []int, weights []uint64) {
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

var weightSets = [][]uint64{
	{1, 1}, {1, 1, 1}, {50, 50, 50, 50, 50, 50, 50},
	{1, 2}, {3, 2, 1}, {1, 9}, {100, 1}, {0, 1, 0, 2}, {1, 1 << 16},
	{1 << 32, 1 << 30, 1 << 31}, {5, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {7, 0, 3, 11, 2, 2, 30, 1, 1, 19, 8},
}

func TestIdleInstancesShareByWeight(t *testing.T) {
	for _, b := range balancers {
		if b == strategy.RingHash {
			continue // whose shares are as even as its ring: ring_test.go
		}
		for _, weights := range weightSets {
			t.Run(fmt.Sprint(b, weights), func(t *testing.T) {
				p := one(b, candidates("i", weights...))
				g, number := &p.groups[0], numbers(b)
				counts := make([]int, len(weights))
				for range 100_000 {
					counts[g.candidates[g.choose(number())].Instance.Port]++
				}
				want := weights
				if b == strategy.Random {
					want = slices.Clone(weights)
					for i := range want {
						want[i] = min(want[i], 1)
					}
				}
				chiSquare(t, counts, want)
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
		p := one(strategy.RoundRobin, candidates("i", weights...))
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
	p := one(strategy.RoundRobin, candidates("i", equal(7)...))
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
		got, _ := New(Config{Balancer: strategy.RoundRobin}, []Tier{{Groups: groupOf(list)}}).Pick(nil)
		first[got.Instance.Instance] = true
	}
	// Fewer than 20 different ones of 50 draws among 100 has a chance below 1e-9.
	if len(first) < 20 {
		t.Errorf("50 pickers began at only %d instances", len(first))
	}
}

func TestNobodyToPick(t *testing.T) {
	for _, b := range append(balancers[:], "") {
		for _, tiers := range [][]Tier{nil, {{}}, {{Share: 100}}, {{Share: 100, Groups: []Group{{}, {}}}}, {{Share: 100, Groups: groupOf(candidates("i", 0, 0))}}} {
			if _, ok := New(Config{Balancer: b}, tiers).Pick(nil); ok {
				t.Errorf("%s: picked out of nobody", b)
			}
		}
		p := New(Config{Balancer: b}, []Tier{{Share: 100, Groups: groupOf(candidates("i", 0))}, {Groups: groupOf(candidates("j", 2))}})
		for _, call := range []*Call{nil, {}} {
			if got, ok := p.Pick(call); !ok || got.Tier != 1 || got.Instance.Instance != "j-0" || got.Dial != "10.0.0.1:50002" || got.Weight != 2 {
				t.Errorf("%s: %+v", b, got)
			}
		}
	}
}

func TestAnUnknownWordIsLeastRequest(t *testing.T) {
	list := candidates("i", 1, 1)
	list[0].Load.outstanding.Store(5)
	list[1].Load.outstanding.Store(1)
	p := New(Config{}, []Tier{{Groups: groupOf(list)}})
	for range 100 {
		if got, ok := p.Pick(nil); !ok || got.Instance != list[1].Instance {
			t.Fatal("the busier one was picked")
		}
	}
}

func TestRandomAndWeightedDoNotLookAtLoad(t *testing.T) {
	for _, b := range []strategy.Balancer{strategy.Random, strategy.Weighted} {
		list := candidates("i", 1, 1)
		list[0].Load.outstanding.Store(1000)
		p, counts, number := one(b, list), make([]int, 2), numbers(b)
		for range 10_000 {
			counts[p.groups[0].choose(number())]++
		}
		chiSquare(t, counts, equal(2))
	}
}

func TestPickerKeepsNothingOfItsInput(t *testing.T) {
	for _, b := range balancers {
		list := candidates("i", 1, 1)
		tiers := []Tier{{Share: 100, Groups: groupOf(list)}}
		p := New(Config{Balancer: b}, tiers)
		clear(list)
		clear(tiers)
		for range 4 {
			if got, ok := p.Pick(nil); !ok || got.Instance == nil {
				t.Fatalf("%s: the picker shares its input", b)
			}
		}
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	for _, b := range balancers {
		for _, weights := range [][]uint64{equal(1), equal(10), {1, 2, 3, 4, 5}} {
			p := New(Config{Balancer: b}, []Tier{
				{Share: 60, Groups: groupOf(candidates("i", weights...))},
				{Share: 40, Groups: groupOf(candidates("j", 1))},
			})
			now := time.Unix(1, 0)
			if n := testing.AllocsPerRun(1000, func() {
				var call Call
				call.SetKey("a key")
				for {
					got, ok := p.Pick(&call)
					if !ok || call.Len() == 4 {
						break
					}
					got.Begin()
					call.Add(got.Instance)
					got.Done(now, time.Millisecond, Answered)
				}
			}); n != 0 {
				t.Errorf("%s %v: %v allocations a call", b, weights, n)
			}
		}
	}
}

// Calls of many goroutines, while one judges and makes the picker anew.
func TestConcurrentCalls(t *testing.T) {
	for _, b := range balancers {
		list := candidates("i", 1, 2, 3, 4, 5, 6, 7, 8)
		loads := loadsOf(list)
		start := time.Unix(1000, 0)
		var picker atomic.Pointer[Picker]
		refresh := func() {
			var up []Candidate
			for _, c := range list {
				if c.Load.Ejected() == "" {
					up = append(up, c)
				}
			}
			picker.Store(New(Config{Balancer: b}, []Tier{{Share: 60, Groups: groupOf(up[:2])}, {Share: 40, Groups: groupOf(up[2:])}}))
		}
		refresh()
		var calls, judging sync.WaitGroup
		var over atomic.Bool
		judging.Go(func() {
			for n := 0; !over.Load(); n++ {
				if changed, _ := Judge(start.Add(time.Duration(n)*time.Second), loads); changed {
					refresh()
				}
			}
		})
		for worker := range 8 {
			calls.Go(func() {
				for n := range 500 {
					var call Call
					call.SetKey(fmt.Sprint(worker, n))
					for range 3 {
						got, ok := picker.Load().Pick(&call)
						if !ok {
							t.Errorf("%s: nobody left after %d of 8", b, call.Len())
							return
						}
						got.Begin()
						call.Add(got.Instance)
						got.Done(start.Add(time.Duration(n)*time.Millisecond), time.Millisecond, Outcome(got.Weight%4))
						if len(got.Load.Ejected()) > 200 {
							t.Errorf("%s", got.Load.Ejected())
						}
					}
					if call.Len() != 3 {
						t.Errorf("%s: %d different instances in three attempts", b, call.Len())
						return
					}
				}
			})
		}
		calls.Wait()
		over.Store(true)
		judging.Wait()
		for _, c := range list {
			if n := c.Load.Outstanding(); n != 0 {
				t.Errorf("%s: %d calls of %s are still outstanding", b, n, c.Instance.Instance)
			}
		}
	}
}
