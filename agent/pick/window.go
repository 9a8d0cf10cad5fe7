package pick

import (
	"sync/atomic"
	"time"
)

// windowPart is half of the stretch in which calls are counted for the failure rate. Two counters
// take turns (as in gRPC's outlier detection, proposal A50), so that a rate is that of the last 2.5
// to 5 s.
const windowPart = 2500 * time.Millisecond

// window counts calls and failures of the last seconds. Each counter is one word: which part of
// time it is of (24 bits, which come round after more than a year), calls and failures (20 bits
// each, where it stops counting).
type window [2]atomic.Uint64

const (
	oneCall    = 1 << 20
	countMask  = oneCall - 1
	stampShift = 40
	stampMask  = 1<<(64-stampShift) - 1
)

// part numbers the parts of time, the same ones for all instances.
func part(now time.Time) uint64 { return uint64(now.UnixNano()/int64(windowPart)) & stampMask }

func (w *window) add(now time.Time, failed bool) {
	stamp := part(now)
	counter := &w[stamp&1]
	for {
		old := counter.Load()
		sum := old
		if old>>stampShift != stamp {
			sum = stamp << stampShift
		}
		if sum/oneCall&countMask == countMask {
			return
		}
		sum += oneCall
		if failed {
			sum++
		}
		if counter.CompareAndSwap(old, sum) {
			return
		}
	}
}

// sum counts the calls of the last seconds, and how many of them failed.
func (w *window) sum(now time.Time) (t tally) {
	stamp := part(now)
	for i := range w {
		c := w[i].Load()
		if of := c >> stampShift; of == stamp || of == (stamp-1)&stampMask {
			t.calls += int64(c / oneCall & countMask)
			t.failures += int64(c & countMask)
		}
	}
	return t
}

func (w *window) reset() {
	for i := range w {
		w[i].Store(0)
	}
}

// tally is a number of calls and how many of them failed.
type tally struct{ calls, failures int64 }

func (t tally) minus(o tally) tally { return tally{t.calls - o.calls, t.failures - o.failures} }

// rate is the part that failed; 0 where there were no calls.
func (t tally) rate() float64 {
	if t.calls == 0 {
		return 0
	}
	return float64(t.failures) / float64(t.calls)
}
