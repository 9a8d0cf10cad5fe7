// Package pick chooses one instance out of the tiers that the strategy gave, for one attempt of
// a call. A Picker is immutable but for the counters of the calls that went through it: what
// changes in the world makes a new Picker.
//
// It decides nothing about clusters, reachability or retries. It does no I/O, reads no clock
// (times are handed in) and runs no goroutines. A pick takes no lock and allocates nothing, and
// its cost does not grow with the number of instances.
package pick

import (
	"math/rand/v2"
	"sync/atomic"

	"github.com/farcall/farcall/internal/catalog"
)

// Balancer is how an instance is chosen within a group. The zero value stands for Default.
type Balancer string

const (
	// LeastRequest draws two instances by weight and takes the second where the first would have more
	// work ahead, per weight: outstanding calls, this one included, times mean latency. A first draw
	// that has nothing outstanding is taken at once, so that idle instances share by weight alone
	// and a latency measured long ago starves nobody.
	LeastRequest Balancer = "least-request"
	// RoundRobin takes the instances in turn, each as often as its weight says.
	RoundRobin Balancer = "round-robin"

	// Default is what holds where nobody chose a balancer.
	Default = LeastRequest
)

// Candidate is an instance that may be picked.
type Candidate struct {
	Instance *catalog.Instance
	// Dial is the host:port to relay to; empty where Local.
	Dial string
	// Local says that this agent delivers to the instance itself.
	Local bool
	// Load outlives the Picker: the owner hands the same one in for the same identity each time.
	Load *Load
}

// Group is a set of candidates that the balancer chooses among. Groups are tried in order: the
// next one only when every candidate of those before was tried.
type Group struct {
	// Tier is the index of the strategy's tier it belongs to; a tier has one group per nearness.
	Tier       int
	Candidates []Candidate
}

// Picker chooses instances. Safe for concurrent use.
type Picker struct {
	groups []group
}

type group struct {
	tier       int
	candidates []Candidate
	loads      []*Load // of candidates, side by side: a pick touches few cache lines
	weights    *shares // nil where all weights are equal
	turn       *turn   // nil for LeastRequest
}

// turn counts the draws of a round-robin group, on a cache line that nothing else shares: every
// pick writes it, while the group beside it is only read.
type turn struct {
	_ [64]byte
	n atomic.Uint64
	_ [56]byte
}

// New makes a Picker; it costs O(n) and does not keep groups. Candidates of weight 0 are never
// picked. No identity may appear twice, and no Instance or Load be nil. Any Balancer but
// RoundRobin is LeastRequest: words are checked where they are read.
func New(b Balancer, groups []Group) *Picker {
	p := &Picker{groups: make([]group, 0, len(groups))}
	for _, in := range groups {
		g := newGroup(in)
		if len(g.candidates) == 0 {
			continue
		}
		if b == RoundRobin {
			// Agents that all began at the first instance would step in unison.
			g.turn = &turn{}
			g.turn.n.Store(rand.Uint64())
		}
		p.groups = append(p.groups, g)
	}
	return p
}

func newGroup(in Group) group {
	g := group{
		tier:       in.Tier,
		candidates: make([]Candidate, 0, len(in.Candidates)),
		loads:      make([]*Load, 0, len(in.Candidates)),
	}
	equal := true
	for _, c := range in.Candidates {
		if c.Instance.Weight == 0 {
			continue
		}
		g.candidates = append(g.candidates, c)
		g.loads = append(g.loads, c.Load)
		equal = equal && c.Instance.Weight == g.candidates[0].Instance.Weight
	}
	if !equal {
		g.weights = newShares(g.candidates)
	}
	return g
}

// Picked is one choice. Between Begin and Done the call counts as outstanding at the instance.
type Picked struct {
	*Candidate
	// Tier is the index of the strategy's tier it comes from.
	Tier int
}

// Pick chooses an instance that is not in tried, from the first group that has one left; tried
// may be nil. False means that there is none.
func (p *Picker) Pick(tried *Tried) (Picked, bool) {
	for i := range p.groups {
		g := &p.groups[i]
		at, ok := 0, true
		switch {
		case tried != nil && tried.n > 0:
			at, ok = g.chooseUntried(tried)
		case len(g.candidates) > 1:
			at = g.choose(g.next())
		}
		if ok {
			return Picked{&g.candidates[at], g.tier}, true
		}
	}
	return Picked{}, false
}

// next gives the number that decides the next draw in the group: its turn, or 64 random bits.
func (g *group) next() uint64 {
	if g.turn != nil {
		return g.turn.n.Add(1)
	}
	return rand.Uint64()
}

// draw gives a candidate in proportion to its weight, as a pure function of number.
func (g *group) draw(number uint64) int {
	if g.turn == nil {
		if g.weights == nil {
			return scale(number, len(g.candidates))
		}
		return g.weights.at(number)
	}
	if g.weights == nil {
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
	if g.turn != nil || g.loads[first].outstanding.Load() <= 0 {
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
		costA = (costA - 2) * float64(g.candidates[second].Instance.Weight)
		costB *= 2 * float64(g.candidates[first].Instance.Weight)
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

// chooseUntried is choose among the candidates that are not in tried; false if there are none.
func (g *group) chooseUntried(tried *Tried) (int, bool) {
	first, ok := g.drawUntried(tried)
	if !ok || g.turn != nil || g.loads[first].outstanding.Load() <= 0 {
		return first, ok
	}
	second, _ := g.drawUntried(tried)
	return g.better(first, second), true
}

// redraws is how often a draw that was tried already is repeated before the candidates beside
// it are taken in order. Repeating keeps the proportions; the walk bounds the cost.
const redraws = 4

func (g *group) drawUntried(tried *Tried) (int, bool) {
	at := 0
	for range redraws {
		at = g.draw(g.next())
		if !tried.has(g.candidates[at].Instance) {
			return at, true
		}
	}
	// Identities are unique, so that of any tried.n+1 candidates one is untried.
	for range min(len(g.candidates)-1, tried.n) {
		if at++; at == len(g.candidates) {
			at = 0
		}
		if !tried.has(g.candidates[at].Instance) {
			return at, true
		}
	}
	return 0, false
}
