package pick

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"sync"
	"weak"

	"github.com/farcall/farcall/internal/catalog"
)

// ring shares out the keys among candidates. It is cut into parts, and for every part the candidates
// run a race (rendezvous hashing): each throws points at random places of the ring, at times that
// come from its own identity and weight alone, as often as its weight says, and a part belongs to the
// candidate whose point was the first in it. So the shares are those of the weights; where one
// goes, only what it had falls to others, by their weights; and one that comes takes from all alike.
//
// Rings of many points for each instance (ketama) need far more memory for the same evenness,
// and more points for all when the weights of some change; Maglev tables move keys of instances that
// stayed.
type ring struct {
	owners []int32 // which candidate each part belongs to
	mask   uint64  // the least 2^k-1 that is not less than the highest part

	// seeds and weights are all that it was made of.
	seeds, weights []uint64
}

// Rings finds rings again that other Pickers of the same service have: a Picker that is made anew
// for another reason than its instances and their weights, such as a share that grows, need not
// make them again, which is by far the most of its cost. It keeps no ring alive. The zero value is
// ready, and safe for concurrent use.
type Rings struct {
	mu   sync.Mutex // held also while a ring is made: whoever wants the same waits for it
	made []weak.Pointer[ring]
}

// ring gives the ring of these instances and weights. A nil Rings makes it each time.
func (r *Rings) ring(seeds, weights []uint64) *ring {
	if r == nil {
		return newRing(seeds, weights)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made = slices.DeleteFunc(r.made, func(p weak.Pointer[ring]) bool { return p.Value() == nil })
	for _, p := range r.made {
		if have := p.Value(); have != nil && slices.Equal(have.seeds, seeds) && slices.Equal(have.weights, weights) {
			return have
		}
	}
	fresh := newRing(seeds, weights)
	r.made = append(r.made, weak.Make(fresh))
	return fresh
}

const (
	// minParts is how many parts a ring has at least: with 16 equal instances, the standard deviation
	// of a share is about 3 % of it. Up to minParts/partsEach instances the number of parts is the
	// same, so that nothing moves because of it.
	minParts = 1 << 14
	// partsEach is how many parts there are for each instance, where that is more.
	partsEach = 8
	// throws is how many points are thrown for each part. The one in 400 that is missed by all
	// points belongs to the owner of another part.
	throws = 6
)

// newRing shares out the keys among candidates with these seeds, in ascending order, and weights, none
// of which is 0. It keeps both.
func newRing(seeds, weights []uint64) *ring {
	parts := max(minParts, partsEach*len(seeds))
	r := &ring{owners: make([]int32, parts), mask: 1<<bits.Len64(uint64(parts-1)) - 1, seeds: seeds, weights: weights}
	total := 0.0
	for _, w := range weights {
		total += float64(w)
	}
	// The time of the first point in each part, in 2^-32 of the race, and whose it is: the least is
	// the first.
	first := slices.Repeat([]uint64{missed}, parts)
	for i := range seeds {
		random, points := seeds[i], throws*float64(r.mask+1)/total*float64(weights[i])
		// The race is cut into as many stretches as the instance has points, and in each of them one is
		// thrown, at a random moment. The product beside the sum is exact, so that a processor which
		// fuses the two computes the same as all others.
		for n := 0.0; n < points; n++ {
			random += goldenRatio
			number := mix(random)
			at := (n + float64(number>>32)*0x1p-32) / points
			if at >= 1 {
				break
			}
			part := r.part(number)
			first[part] = min(first[part], uint64(at*0x1p32)<<32|uint64(i))
		}
	}
	for part := range first {
		r.owners[part] = int32(uint32(first[r.hit(first, part)]))
	}
	return r
}

// missed stands for the first point of a part that has none.
const missed = math.MaxUint64

// hit gives the part itself, or where no point is in it another: the first that has one in a random
// sequence of its own. So again nothing moves but what belonged to who goes.
func (r *ring) hit(first []uint64, part int) int {
	for number := uint64(part); first[part] == missed; {
		number = mix(number + goldenRatio)
		part = r.part(number)
	}
	return part
}

// part gives the part that a number is in. Where the parts are not a power of two, some are twice as
// large as the others (linear hashing): when instances come and the number of parts grows, one after
// the other is cut in two, and the keys of all the others stay.
func (r *ring) part(number uint64) int {
	part := number & r.mask
	if part >= uint64(len(r.owners)) {
		part &= r.mask >> 1
	}
	return int(part)
}

func (r *ring) at(number uint64) int { return int(r.owners[r.part(number)]) }

// sortBySeed brings candidates into an order that does not depend on the one they come in, and gives
// their seeds.
func sortBySeed(list []Candidate) (seeds []uint64) {
	type place struct {
		seed uint64
		at   int
	}
	order := make([]place, len(list))
	for i := range list {
		order[i] = place{seed(list[i].Instance), i}
	}
	slices.SortFunc(order, func(a, b place) int { return cmp.Compare(a.seed, b.seed) })
	was := slices.Clone(list)
	seeds = make([]uint64, len(list))
	for i := range order {
		list[i], seeds[i] = was[order[i].at], order[i].seed
	}
	return seeds
}

// seed begins the random sequence of an instance: a hash of its identity.
func seed(i *catalog.Instance) uint64 {
	h := hash(hashBasis, i.Cluster)
	for _, s := range [...]string{i.Namespace, i.Service, i.ID.Instance} {
		h = hash(h*hashPrime, s) // a zero byte between two
	}
	return mix(h)
}

const (
	hashBasis = 14695981039346656037
	hashPrime = 1099511628211
)

// hash is FNV-1a, continued from h: the same for all agents, of whatever version and machine.
func hash(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * hashPrime
	}
	return h
}
