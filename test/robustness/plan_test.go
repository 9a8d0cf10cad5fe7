package robustness

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// slot is what a plan knows of a kind of fault.
type slot struct {
	name  string
	takes []string      // two faults of an episode take nothing in common
	least time.Duration // how long it is held at least
}

// planned is one fault of an episode.
type planned struct {
	kind string
	at   time.Duration // from the episode's beginning
	hold time.Duration
	seed uint64 // of what the fault itself decides
}

// plan gives a run's episodes, always the same ones for a seed. Kinds come out of a shuffled bag that
// is filled again when it is empty, so that in the long run each comes as often as any other.
type plan struct {
	rnd   *rand.Rand
	slots []slot
	bag   []slot
}

func newPlan(seed uint64, slots []slot) *plan {
	return &plan{rnd: rand.New(rand.NewPCG(seed, 0)), slots: slots}
}

// most is how many faults an episode has at most.
const most = 3

// next gives the next episode, of one to three faults.
func (p *plan) next() []planned {
	var out []planned
	var taken []string
	want := 2 + p.rnd.IntN(most-1)
	if p.rnd.IntN(8) == 0 {
		want = 1
	}
	if len(p.bag) < 2*most {
		more := slices.Clone(p.slots)
		p.rnd.Shuffle(len(more), func(i, j int) { more[i], more[j] = more[j], more[i] })
		p.bag = append(p.bag, more...)
	}
	var left []slot
	for _, s := range p.bag {
		if len(out) == want || slices.ContainsFunc(s.takes, func(what string) bool { return slices.Contains(taken, what) }) ||
			slices.ContainsFunc(out, func(o planned) bool { return o.kind == s.name }) {
			left = append(left, s)
			continue
		}
		taken = append(taken, s.takes...)
		out = append(out, planned{
			kind: s.name,
			at:   time.Duration(p.rnd.Int64N(int64(2 * time.Second))),
			hold: max(s.least, time.Second) + time.Duration(p.rnd.Int64N(int64(2*time.Second))),
			seed: p.rnd.Uint64(),
		})
	}
	p.bag = left
	return out
}

func someSlots() []slot {
	var out []slot
	for n := range 20 {
		s := slot{name: fmt.Sprint("kind-", n), takes: []string{fmt.Sprint("thing-", n%7)}}
		if n%5 == 0 {
			s.takes = append(s.takes, "thing-0")
			s.least = 3 * time.Second
		}
		out = append(out, s)
	}
	return out
}

// A seed always gives the same episodes, and another one others.
func TestAPlanIsItsSeed(t *testing.T) {
	a, b, other := newPlan(7, someSlots()), newPlan(7, someSlots()), newPlan(8, someSlots())
	differs := false
	for n := range 50 {
		one := a.next()
		if two := b.next(); !slices.Equal(one, two) {
			t.Fatalf("episode %d is %v and %v", n, one, two)
		}
		differs = differs || !slices.Equal(one, other.next())
	}
	if !differs {
		t.Error("seeds 7 and 8 give the same episodes")
	}
}

// Every episode has one to three faults, that take nothing in common, and each kind comes as often as
// any other but for what is still in the bag.
func TestPlansAreBalanced(t *testing.T) {
	for seed := range uint64(50) {
		p := newPlan(seed, someSlots())
		times := map[string]int{}
		for range 200 {
			episode := p.next()
			if len(episode) < 1 || len(episode) > most {
				t.Fatalf("seed %d: an episode of %d faults", seed, len(episode))
			}
			var taken []string
			for _, f := range episode {
				at := slices.IndexFunc(p.slots, func(s slot) bool { return s.name == f.kind })
				for _, what := range p.slots[at].takes {
					if slices.Contains(taken, what) {
						t.Fatalf("seed %d: two faults of %v take %s", seed, episode, what)
					}
				}
				taken = append(taken, p.slots[at].takes...)
				if f.hold < max(p.slots[at].least, time.Second) || f.at < 0 {
					t.Fatalf("seed %d: %v", seed, f)
				}
				times[f.kind]++
			}
		}
		fewest, most := 1000, 0
		for _, s := range p.slots {
			fewest, most = min(fewest, times[s.name]), max(most, times[s.name])
		}
		if most-fewest > 2 {
			t.Errorf("seed %d: kinds come %d to %d times: %v", seed, fewest, most, times)
		}
	}
}
