package pick

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
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
					var at int
					fmt.Sscanf(g.candidates[g.choose(number())].Instance.Instance, "i-%d", &at)
					counts[at]++
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
		counts := map[string]int{}
		for n := 1; n <= 10_000; n++ {
			got, _ := p.Pick(nil)
			counts[got.Instance.Instance]++
			for i, w := range weights {
				have, want := float64(counts[fmt.Sprintf("i-%d", i)]), float64(n)*float64(w)/total
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

// Calls of equal length, a fixed number at a time: the weights hold under load too.
func TestLeastRequestSharesByWeightUnderLoad(t *testing.T) {
	for _, weights := range [][]uint32{{1, 1, 1}, {1, 2, 4}, {9, 1}, {100, 1}} {
		for _, parallel := range []int{1, 2, 8, 64} {
			t.Run(fmt.Sprint(weights, parallel), func(t *testing.T) {
				p := one(LeastRequest, candidates("i", weights...))
				g, number := &p.groups[0], numbers(LeastRequest)
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
				total := uint32(0)
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
		p := one(LeastRequest, list)
		number := numbers(LeastRequest)
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
			list[i].Load.observe(time.Unix(1, 0), l, Answered)
		}
		if n := share(list); n[0] != 0 {
			t.Errorf("%v", n)
		}
	})
	t.Run("never measured is not fast", func(t *testing.T) {
		list := candidates("i", 1, 1)
		list[0].Load.outstanding.Store(100)
		list[1].Load.outstanding.Store(2)
		list[1].Load.observe(time.Unix(1, 0), time.Second, Answered)
		if n := share(list); n[0] != 0 {
			t.Errorf("%v", n)
		}
	})
	t.Run("once slow and idle now is not starved", func(t *testing.T) {
		list := candidates("i", 1, 1)
		list[0].Load.observe(time.Unix(1, 0), time.Minute, Answered)
		list[1].Load.observe(time.Unix(1, 0), time.Millisecond, Answered)
		list[1].Load.outstanding.Store(1)
		if n := share(list); n[0] < 400 {
			t.Errorf("%v", n)
		}
	})
}

func TestTriedInstancesAreNeverPickedAgain(t *testing.T) {
	for _, b := range balancers {
		for _, weights := range [][]uint32{{1}, {1, 1}, {1, 1, 1, 1, 1, 1, 1, 1, 1}, {1000, 1, 1}, {1, 2, 3, 4, 5, 6, 7}, {1, 1 << 16}} {
			for round := range 50 {
				list := candidates("a", weights...)
				groups := []Group{{Tier: 0, Candidates: list}, {Tier: 0}, {Tier: 2, Candidates: candidates("b", 1, 3)}}
				p := New(b, groups)
				var tried Tried
				seen := map[string]bool{}
				for n := range len(weights) + 2 {
					got, ok := p.Pick(&tried)
					if !ok {
						t.Fatalf("%s %v: nobody left after %d of %d", b, weights, n, len(weights)+2)
					}
					if seen[got.Instance.Instance] {
						t.Fatalf("%s %v: %s was picked twice", b, weights, got.Instance.Instance)
					}
					wantTier := 0
					if n >= len(weights) {
						wantTier = 2
					}
					if got.Tier != wantTier {
						t.Fatalf("%s %v: attempt %d went to tier %d", b, weights, n, got.Tier)
					}
					seen[got.Instance.Instance] = true
					tried.Add(got.Instance)
					tried.Add(got.Instance)
					got.Begin()
					if round%2 == 0 {
						// The view was rebuilt meanwhile: other values, same identities, another order.
						for i := range groups {
							groups[i].Candidates = slices.Clone(groups[i].Candidates)
							for j := range groups[i].Candidates {
								c := *groups[i].Candidates[j].Instance
								groups[i].Candidates[j].Instance = &c
							}
							slices.Reverse(groups[i].Candidates)
						}
						p = New(b, groups)
					}
				}
				if got, ok := p.Pick(&tried); ok {
					t.Fatalf("%s %v: %s after all were tried", b, weights, got.Instance.Instance)
				}
				if tried.Len() != len(weights)+2 {
					t.Fatalf("%d tried, want %d", tried.Len(), len(weights)+2)
				}
			}
		}
	}
}

// A retry keeps to the weights of those that are left.
func TestRetriesShareByWeight(t *testing.T) {
	for _, b := range balancers {
		p := one(b, candidates("i", 4, 1, 2, 3))
		var tried Tried
		tried.Add(p.groups[0].candidates[0].Instance)
		counts := make([]int, 4)
		for range 40_000 {
			got, _ := p.Pick(&tried)
			var at int
			fmt.Sscanf(got.Instance.Instance, "i-%d", &at)
			counts[at]++
		}
		if counts[0] != 0 {
			t.Errorf("%s: %v", b, counts)
		}
		for i := 1; i < 4; i++ {
			// The walk after four redraws that all hit the tried one (a chance of 0.4^4) shifts a little.
			if want := 40_000 * float64(i) / 6; math.Abs(float64(counts[i])-want) > 0.1*40_000 {
				t.Errorf("%s: %v, want about %.0f for instance %d", b, counts, want, i)
			}
		}
	}
}

func TestIdentityIsTheWholeIdentity(t *testing.T) {
	a := candidates("i", 1)[0]
	other := *a.Instance
	other.Cluster = "west"
	var tried Tried
	tried.Add(&other)
	for _, b := range balancers {
		if got, ok := one(b, []Candidate{a}).Pick(&tried); !ok || got.Instance != a.Instance {
			t.Errorf("%s: the namesake of another cluster excluded it", b)
		}
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
	step(0, 350*time.Millisecond, Failed) // slow ones make it slow: one half-life has passed
	near(250 * time.Millisecond)
	step(20*halfLife, 10*time.Millisecond, Answered)
	near(10 * time.Millisecond)
	step(-time.Hour, time.Second, Answered) // a clock that was set back
	near(10 * time.Millisecond)
	step(time.Hour+20*halfLife, 0, Answered)
	if l.Outstanding() != 0 || l.Latency() < 0 {
		t.Errorf("%d outstanding, latency %v", l.Outstanding(), l.Latency())
	}
}

func TestConcurrentCalls(t *testing.T) {
	for _, b := range balancers {
		list := candidates("i", 1, 2, 3, 4, 5)
		p := New(b, []Group{{Candidates: list}, {Tier: 1, Candidates: candidates("j", 1, 1)}})
		synctest.Test(t, func(t *testing.T) {
			var calls sync.WaitGroup
			for range 8 {
				calls.Go(func() {
					for range 2000 {
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
		})
		for _, c := range list {
			if n := c.Load.Outstanding(); n != 0 {
				t.Errorf("%s: %d calls of %s are still outstanding", b, n, c.Instance.Instance)
			}
		}
	}
}

func FuzzShares(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint64(0))
	f.Add([]byte{255, 255, 1, 1, 128}, uint64(math.MaxUint64))
	f.Add([]byte{1, 255}, uint64(1<<63))
	f.Fuzz(func(t *testing.T, data []byte, point uint64) {
		var weights []uint32
		for _, b := range data[:min(len(data), 200)] {
			if b > 0 {
				weights = append(weights, uint32(b)*uint32(b)) // up to 65025
			}
		}
		if len(weights) == 0 {
			return
		}
		s := newShares(candidates("i", weights...))
		d, want := s.distance(point), 0
		for sum := uint64(weights[0]); sum <= d; sum += uint64(weights[want]) {
			want++
		}
		if got := s.at(point); got != want {
			t.Fatalf("weights %v: %d is on arc %d, not %d", weights, point, want, got)
		}
	})
}
