package pick

import (
	"math"
	"slices"
	"testing"
)

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
			counts[got.Instance.Port]++
		}
		if counts[0] != 0 {
			t.Errorf("%s: %v", b, counts)
		}
		for i := 1; i < 4; i++ {
			// The walk after four redraws that all hit the tried one (a chance of 0.4^4) shifts a little.
			if want := 40_000 * float64(i) / 6; math.Abs(float64(counts[i])-want) > 0.05*40_000 {
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
