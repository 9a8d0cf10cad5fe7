package pick

import "math/bits"

// shares divides a circle among candidates of different weight: each has one arc as long as its
// weight, side by side in their order. Looking up whose arc a point is on costs the same on
// average, whatever their number (the indexed search of Chen and Asau, 1974). One arc each, where an
// alias table would scatter a candidate over many, is what keeps round-robin even.
type shares struct {
	ends []uint64 // where each arc ends, in units of weight
	// first has, for each of as many equal parts of the circle as there are arcs, the arc on which the
	// part begins; and the last arc behind them.
	first []int32
}

// newShares costs O(n). No weight is 0, and their sum is below 2^64.
func newShares(weights []uint64) *shares {
	n := len(weights)
	s := &shares{ends: make([]uint64, n), first: make([]int32, n+1)}
	total := uint64(0)
	for i, w := range weights {
		total += w
		s.ends[i] = total
	}
	arc := 0
	for part := range n {
		begin, _ := bits.Div64(uint64(part), 0, uint64(n))
		for s.ends[arc] <= s.distance(begin) {
			arc++
		}
		s.first[part] = int32(arc)
	}
	s.first[n] = int32(n - 1)
	return s
}

// distance is how far a point, in parts of 2^64 of the circle, is along it in units of weight.
func (s *shares) distance(point uint64) uint64 {
	d, _ := bits.Mul64(point, s.ends[len(s.ends)-1])
	return d
}

// at gives the index whose arc the point is on.
func (s *shares) at(point uint64) int {
	part, _ := bits.Mul64(point, uint64(len(s.ends)))
	low, high := s.first[part], s.first[part+1]
	d := s.distance(point)
	for low < high {
		if mid := low + (high-low)/2; s.ends[mid] <= d {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return int(low)
}

// weight gives the length of an arc.
func (s *shares) weight(arc int) uint64 {
	if arc == 0 {
		return s.ends[0]
	}
	return s.ends[arc] - s.ends[arc-1]
}

// scale maps 64 random bits to 0..n-1 (Lemire 2019, without the rejection: the bias is below
// n/2^64).
func scale(random uint64, n int) int {
	hi, _ := bits.Mul64(random, uint64(n))
	return int(hi)
}

// mix makes other random bits of random ones (the finaliser of SplitMix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
