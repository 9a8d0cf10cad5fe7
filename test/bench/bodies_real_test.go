//go:build real

package bench

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"time"
)

// bodies is what an arm does with large bodies, one at a time.
type bodies struct {
	up, down []float64 // MiB a second, each transfer; sorted in the end
	grown    int64     // bytes that the relay grew most by, of those on the way
}

// large is the length of a large body.
const large = 16 << 20

// transfer sends one large body to an arm's application and one back, over HTTP, and adds how that went.
func (s *beside) transfer(name string, to *bodies) error {
	a := s.arms[overHTTP][name]
	before := map[int]int64{}
	for _, p := range a.relays {
		if err := forgetPeak(p.pid); err != nil {
			return err
		}
		rss, err := memory(p.pid, "VmRSS")
		if err != nil {
			return err
		}
		before[p.pid] = rss
	}
	timed := func(list *[]float64, want int64, path string, body io.Reader, length int64) error {
		began := time.Now()
		n, err := exchange(s.client, a.base+path, body, length)
		if err == nil && n != want {
			err = fmt.Errorf("%s%s answered with %d bytes", a.base, path, n)
		}
		*list = append(*list, large/float64(1<<20)/time.Since(began).Seconds())
		return err
	}
	if err := timed(&to.up, int64(len(fmt.Sprint(large))), "/sink", bytes.NewReader(make([]byte, large)), large); err != nil {
		return err
	}
	if err := timed(&to.down, large, fmt.Sprint("/blob?", large), nil, 0); err != nil {
		return err
	}
	for _, p := range a.relays {
		peak, err := memory(p.pid, "VmHWM")
		if err != nil {
			return err
		}
		to.grown = max(to.grown, peak-before[p.pid])
	}
	return nil
}

// median of what was sorted.
func median(sorted []float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)/2]
}

func (b *bodies) done() {
	slices.Sort(b.up)
	slices.Sort(b.down)
}
