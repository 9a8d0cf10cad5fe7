// Package pick chooses one instance out of the tiers that the strategy gave, for one attempt of
// a call, and sets aside instances that fail. A Picker is immutable but for the counters of the
// calls that went through it: what changes in the world makes a new Picker.
//
// It decides nothing about clusters, reachability or retries. It does no I/O, reads no clock
// (times are handed in) and runs no goroutines. A pick takes no lock and allocates nothing, and
// its cost does not grow with the number of instances.
package pick

import (
	"math/rand/v2"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/strategy"
)

// Config says how a Picker chooses.
type Config struct {
	// Balancer is how an instance is chosen within a group:
	//
	// LeastRequest draws two instances by weight and takes the second where the first would have more
	// work ahead, per weight: outstanding calls, this one included, times mean latency. A first draw
	// that has nothing outstanding is taken at once, so that idle instances share by weight alone
	// and a latency measured long ago starves nobody.
	//
	// RoundRobin takes the instances in turn, each as often as its weight says.
	//
	// Random draws them all alike, whatever their weights; Weighted draws them by weight. Neither
	// looks at what is outstanding.
	//
	// RingHash sends equal keys to the same instance as long as it is there, whichever agent asks
	// and in whatever order the candidates are handed in; the keys are shared out by weight. Where
	// an instance goes, its keys alone move. A call without a key is drawn by weight.
	//
	// Any other word, the empty one too, is LeastRequest: words are checked where they are read.
	Balancer strategy.Balancer
	// Now is when the Picker is made; only WarmUp looks at it.
	Now time.Time
	// WarmUp is how long an instance that is new (Load.Since) takes to grow from a tenth of its
	// weight to all of it; 0 is not at all. It holds for every balancer, also for Random.
	WarmUp time.Duration
	// Rings, where not nil, are those of the service's Pickers before, for RingHash.
	Rings *Rings
}

// Tier is one of the strategy's tiers.
type Tier struct {
	// Share is the percentage of calls whose first attempt goes to the tier. One without any (0, or
	// not a number) is for the attempts that follow. Only the proportions count; where no tier has a
	// share, the first that has candidates gets all.
	Share float64
	// Groups, one for each nearness, are tried in order: the next one only when every candidate of
	// those before was tried.
	Groups []Group
}

// Group is a set of candidates that the balancer chooses among.
type Group struct {
	Candidates []Candidate
}

// Candidate is an instance that may be picked.
type Candidate struct {
	Instance *catalog.Instance
	// Dial is the host:port to relay to; empty where Local.
	Dial string
	// Local says that this agent delivers to the instance itself.
	Local bool
	// Load outlives the Picker: the owner hands the same one in for the same identity each time.
	Load *Load
	// Weight is the instance's own times that of its cluster, at most 2^32 (more counts as that
	// much); 0 is never picked.
	Weight uint64
}

// Picker chooses instances. Safe for concurrent use.
type Picker struct {
	groups []group // of all tiers, in order; none is empty
	tiers  []tier
	sole   int  // the tier that all calls begin with; -1 where they are shared out
	keyed  bool // a call's key draws its tier
	next   time.Time
}

type tier struct {
	first int     // its first group; where it has none, the one that follows
	share float64 // at least 0
	until float64 // the sum of the shares up to and with this one
}

// New makes a Picker. It costs O(n), for RingHash O(n log n), of which the most is
// saved where Config.Rings knows the ring, and does not keep tiers. No identity
// may appear twice, and no Instance or Load be nil.
func New(cfg Config, tiers []Tier) *Picker {
	p := &Picker{tiers: make([]tier, 0, len(tiers)), keyed: cfg.Balancer == strategy.RingHash}
	sum := 0.0
	for at := range tiers {
		in := &tiers[at]
		t := tier{first: len(p.groups)}
		if in.Share > 0 { // which not a number is not, either
			t.share = min(in.Share, 100)
		}
		sum += t.share
		t.until = sum
		for i := range in.Groups {
			g, again := newGroup(&cfg, at, &in.Groups[i])
			if len(g.candidates) == 0 {
				continue
			}
			p.groups = append(p.groups, g)
			p.next = earlier(p.next, again)
		}
		p.tiers = append(p.tiers, t)
	}
	p.sole = soleTier(p.tiers, sum)
	return p
}

// soleTier gives the tier that has all of the sum, or -1.
func soleTier(tiers []tier, sum float64) int {
	if sum == 0 {
		return 0 // an empty one is passed over
	}
	for i := range tiers {
		if tiers[i].share == sum {
			return i
		}
	}
	return -1
}

// Next says when the weights of instances that warm up will have changed enough to make the Picker
// anew, a tenth of WarmUp from Config.Now or sooner; zero where they will not change. A group whose
// instances are all equally new has nothing to warm up against.
func (p *Picker) Next() time.Time { return p.next }

// Picked is one choice. Between Begin and Done the call counts as outstanding at the instance.
type Picked struct {
	*Candidate
	// Tier is the index of the strategy's tier it comes from.
	Tier int
}

// Pick chooses an instance that the call has not used. A call's first attempt draws the tier where
// its attempts begin, by the shares; when that has nobody left, the tiers after it follow in order,
// and then those before it. c may be nil: a first attempt without a key. False means that there is
// nobody left.
//
// Where the Picker was made anew between two attempts, the call begins with the tier of the same
// index, or draws again where that tier is gone or has no share any more.
func (p *Picker) Pick(c *Call) (Picked, bool) {
	if len(p.groups) == 0 {
		return Picked{}, false
	}
	from := p.sole
	if from < 0 {
		from = p.begin(c)
	}
	at := p.tiers[from].first
	for range p.groups {
		if at >= len(p.groups) {
			at = 0
		}
		g := &p.groups[at]
		if i, ok := g.pick(c); ok {
			if c != nil {
				c.tier = from + 1
			}
			return Picked{&g.candidates[i], g.tier}, true
		}
		at++
	}
	return Picked{}, false
}

// begin gives the tier where the call's attempts begin.
func (p *Picker) begin(c *Call) int {
	if c != nil && c.tier > 0 && c.tier <= len(p.tiers) && p.tiers[c.tier-1].share > 0 {
		return c.tier - 1
	}
	if p.keyed && c != nil && c.keyed {
		// Equal keys stay together, which they would not if each call drew its tier.
		return p.drawTier(mix(c.key + goldenRatio))
	}
	return p.drawTier(rand.Uint64())
}

// drawTier gives a tier in proportion to its share, as a pure function of number.
func (p *Picker) drawTier(number uint64) int {
	last := len(p.tiers) - 1
	x := float64(number>>11) * 0x1p-53 * p.tiers[last].until
	for i := range p.tiers {
		if x < p.tiers[i].until {
			return i
		}
	}
	return last
}
