package pick

import (
	"math"
	"testing"
)

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
