package pick

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/farcall/farcall/strategy"
)

type group struct {
	tier       int
	candidates []Candidate
	loads      []*Load // of candidates, side by side: a pick touches few cache lines; nil where nobody looks
	weights    *shares // nil where all weights are equal
	turn       *turn   // for RoundRobin only
	ring       *ring   // for RingHash only
}

// turn counts the draws of a round-robin group, on a cache line that nothing else shares: every
// pick writes it, while the group beside it is only read.
type turn struct {
	_ [64]byte
	n atomic.Uint64
	_ [56]byte
}

// newGroup also says when its weights change; zero for never.
func newGroup(cfg *Config, tier int, in *Group) (group, time.Time) {
	g := group{tier: tier, candidates: make([]Candidate, 0, len(in.Candidates))}
	for _, c := range in.Candidates {
		if c.Weight > 0 {
			g.candidates = append(g.candidates, c)
		}
	}
	if len(g.candidates) == 0 {
		return group{}, time.Time{}
	}
	var seeds []uint64
	if cfg.Balancer == strategy.RingHash {
		seeds = sortBySeed(g.candidates)
	}
	weights, again := cfg.weights(g.candidates)
	switch cfg.Balancer {
	case strategy.RingHash:
		if len(g.candidates) > 1 {
			g.ring = cfg.Rings.ring(seeds, weights)
		}
		return g, again
	case strategy.RoundRobin:
		// Agents that all began at the first instance would step in unison.
		g.turn = &turn{}
		g.turn.n.Store(rand.Uint64())
	case strategy.Random, strategy.Weighted:
	default:
		g.loads = make([]*Load, len(g.candidates))
		for i := range g.candidates {
			g.loads[i] = g.candidates[i].Load
		}
	}
	for _, w := range weights {
		if w != weights[0] {
			g.weights = newShares(weights)
			break
		}
	}
	return g, again
}

// pick chooses among those that the call has not used; false if there are none.
func (g *group) pick(c *Call) (int, bool) {
	switch {
	case c.used():
		return g.chooseUnused(c)
	case len(g.candidates) == 1:
		return 0, true
	}
	return g.choose(g.number(c)), true
}

// number gives what decides the next draw in the group: the call's key, the group's turn, or 64
// random bits.
func (g *group) number(c *Call) uint64 {
	switch {
	case g.turn != nil:
		return g.turn.n.Add(1)
	case g.ring != nil && c != nil && c.keyed:
		return c.key
	}
	return rand.Uint64()
}

// draw gives a candidate in proportion to its weight, as a pure function of number.
func (g *group) draw(number uint64) int {
	switch {
	case g.ring != nil:
		return g.ring.at(number)
	case g.turn == nil && g.weights == nil:
		return scale(number, len(g.candidates))
	case g.turn == nil:
		return g.weights.at(number)
	case g.weights == nil:
		return int(number % uint64(len(g.candidates)))
	}
	// Multiples of the golden ratio, modulo 1, spread over the circle as evenly as any sequence can
	// (Knuth, TAOCP 3, 6.4): every instance gets its share in any stretch of turns, and gets it
	// spaced out.
	return g.weights.at(number * goldenRatio)
}

// goldenRatio is its fractional part times 2^64.
const goldenRatio = 0x9e3779b97f4a7c15

// choose picks among at least two candidates: a pure function of number and of the loads.
func (g *group) choose(number uint64) int {
	first := g.draw(number)
	if g.loads == nil || g.loads[first].outstanding.Load() <= 0 {
		return first
	}
	number = mix(number)
	if g.weights == nil {
		return g.better(first, (first+1+scale(number, len(g.loads)-1))%len(g.loads))
	}
	second := g.weights.at(number)
	if second == first {
		// Where one instance has nearly all the weight, two draws would compare it with itself.
		second = (first + 1) % len(g.loads)
	}
	return g.better(first, second)
}

// better gives the second where the first has more work ahead than it would have, else the first.
func (g *group) better(first, second int) int {
	a, b := g.loads[first], g.loads[second]
	costA := float64(a.outstanding.Load() + 1)
	costB := float64(max(b.outstanding.Load(), 0) + 1)
	if g.weights != nil {
		// With one call more or less an instance of small weight is far from its share, so that the
		// smaller of two costs would mostly be that of the heavier. The draw by weight therefore stands
		// until the first has clearly more than the second: twice, and two calls.
		costA = (costA - 2) * float64(g.weights.weight(second))
		costB *= 2 * float64(g.weights.weight(first))
	}
	// A latency counts only against another: one that no call has measured says nothing, least of
	// all that the instance is fast.
	if la, lb := a.latency(), b.latency(); la > 0 && lb > 0 {
		costA *= la
		costB *= lb
	}
	if costB < costA {
		return second
	}
	return first
}

// chooseUnused is choose among the candidates that the call has not used; false if there are none.
func (g *group) chooseUnused(c *Call) (int, bool) {
	first, ok := g.drawUnused(c)
	if !ok || g.loads == nil || g.loads[first].outstanding.Load() <= 0 {
		return first, ok
	}
	second, _ := g.drawUnused(c)
	return g.better(first, second), true
}

// redraws is how often a draw that was used already is repeated before the candidates beside it
// are taken in order. Repeating keeps the proportions; the walk bounds the cost. On a ring the
// places that follow are looked at, which lie side by side.
const (
	redraws     = 4
	ringRedraws = 32
)

func (g *group) drawUnused(c *Call) (int, bool) {
	at, number, draws := 0, g.number(c), redraws
	if g.ring != nil {
		draws = ringRedraws
	}
	for range draws {
		if at = g.draw(number); !c.has(g.candidates[at].Instance) {
			return at, true
		}
		if g.ring != nil {
			number++
		} else {
			number = g.number(c)
		}
	}
	// Identities are unique, so that of any c.n+1 candidates one is unused.
	for range min(len(g.candidates)-1, c.n) {
		if at++; at == len(g.candidates) {
			at = 0
		}
		if !c.has(g.candidates[at].Instance) {
			return at, true
		}
	}
	return 0, false
}
