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
		var weights []uint64
		for _, b := range data[:min(len(data), 200)] {
			if b > 0 {
				weights = append(weights, uint64(b)*uint64(b)) // up to 65025
			}
		}
		if len(weights) == 0 {
			return
		}
		s := newShares(weights)
		d, want := s.distance(point), 0
		for sum := weights[0]; sum <= d; sum += weights[want] {
			want++
		}
		for i, w := range weights {
			if s.weight(i) != w {
				t.Fatalf("weights %v: arc %d is %d long", weights, i, s.weight(i))
			}
		}
		if got := s.at(point); got != want {
			t.Fatalf("weights %v: %d is on arc %d, not %d", weights, point, want, got)
		}
	})
}
