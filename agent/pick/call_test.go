package pick

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/farcall/farcall/strategy"
)

func TestUsedInstancesAreNeverPickedAgain(t *testing.T) {
	for _, b := range balancers {
		for _, weights := range [][]uint64{{1}, {1, 1}, {1, 1, 1, 1, 1, 1, 1, 1, 1}, {1000, 1, 1}, {1, 2, 3, 4, 5, 6, 7}, {1, 1 << 32}} {
			for round := range 20 {
				list := candidates("a", weights...)
				tiers := []Tier{{Share: 100, Groups: []Group{{Candidates: list}, {}}}, {}, {Groups: groupOf(candidates("b", 1, 3))}}
				p := New(Config{Balancer: b}, tiers)
				var call Call
				if round%3 > 0 {
					call.SetKey(fmt.Sprint("key ", round))
				}
				seen := map[string]bool{}
				for n := range len(weights) + 2 {
					got, ok := p.Pick(&call)
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
					call.Add(got.Instance)
					call.Add(got.Instance)
					got.Begin()
					if round%2 == 0 {
						// The view was rebuilt meanwhile: other values, same identities, another order.
						for i := range tiers {
							for j := range tiers[i].Groups {
								anew(tiers[i].Groups[j].Candidates)
							}
						}
						p = New(Config{Balancer: b}, tiers)
					}
				}
				if got, ok := p.Pick(&call); ok {
					t.Fatalf("%s %v: %s after all were used", b, weights, got.Instance.Instance)
				}
				if call.Len() != len(weights)+2 {
					t.Fatalf("%d used, want %d", call.Len(), len(weights)+2)
				}
			}
		}
	}
}

// anew replaces each instance by an equal one, and turns the order round.
func anew(list []Candidate) {
	for i := range list {
		c := *list[i].Instance
		list[i].Instance = &c
	}
	slices.Reverse(list)
}

// A retry keeps to the weights of those that are left.
func TestRetriesShareByWeight(t *testing.T) {
	for _, b := range balancers {
		p := one(b, candidates("i", 4, 1, 2, 3))
		var call Call
		for i := range p.groups[0].candidates {
			if c := &p.groups[0].candidates[i]; c.Instance.Port == 0 {
				call.Add(c.Instance)
			}
		}
		counts := make([]int, 4)
		for range 40_000 {
			got, _ := p.Pick(&call)
			counts[got.Instance.Port]++
		}
		if counts[0] != 0 {
			t.Errorf("%s: %v", b, counts)
		}
		for i := 1; i < 4; i++ {
			want := 40_000 * float64(i) / 6
			if b == strategy.Random {
				want = 40_000.0 / 3
			}
			// The walk after four redraws that all hit the used one (a chance of 0.4^4) shifts a little.
			if math.Abs(float64(counts[i])-want) > 0.05*40_000 {
				t.Errorf("%s: %v, want about %.0f for instance %d", b, counts, want, i)
			}
		}
	}
}

func TestIdentityIsTheWholeIdentity(t *testing.T) {
	a := candidates("i", 1)[0]
	other := *a.Instance
	other.Cluster = "west"
	var call Call
	call.Add(&other)
	for _, b := range balancers {
		if got, ok := one(b, []Candidate{a}).Pick(&call); !ok || got.Instance != a.Instance {
			t.Errorf("%s: the namesake of another cluster excluded it", b)
		}
	}
}
