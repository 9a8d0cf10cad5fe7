//go:build real

package bench

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// connections is how many the load generator has to whom it calls, and how many calls it has under way
// when it saturates: as Dapr's own performance tests have.
const connections = 16

// A caller makes one call after another over a connection of its own.
type caller func() error

// segment is what one arm's load of one round showed.
type segment struct {
	latencies []time.Duration // from when a call was to begin until its answer was there; sorted
	lag       time.Duration   // how late calls began, 99th percentile
	own       float64         // share of one core that the generator took
	first     bool            // the generator ran before all others
	calls     int
	took      time.Duration
	cpu       map[string]time.Duration // by process
	mallocs   map[string]float64       // by process, objects per call
}

// Beyond these a segment says more of the generator than of whom it calls.
const (
	maxLag = 100 * time.Microsecond
	maxOwn = 0.4
)

func (s *segment) void() bool { return s.lag > maxLag || s.own > maxOwn }

// nap is how long before its time a caller stops sleeping and looks at the clock instead: what the kernel
// and the scheduler may be late by.
const nap = 150 * time.Microsecond

// await returns at a time as exactly as a process can. The runtime's timers are late by up to a
// millisecond on a machine with nothing else to do, which is more than most of what is measured here.
func await(at time.Time) {
	for d := time.Until(at); d > 0; d = time.Until(at) {
		if d > nap {
			ts := syscall.NsecToTimespec(int64(d - nap))
			_ = syscall.Nanosleep(&ts, nil) // a signal may end it early
		}
	}
}

// runFirst has the kernel run this process's threads before all others, or no longer so: on two cores that
// others use as well it would else begin calls late, and see answers late, by as much as it is to measure.
// It needs the privilege to.
func runFirst(yes bool) error {
	const normal, roundRobin = 0, 2 // SCHED_OTHER, SCHED_RR
	policy, priority := normal, int32(0)
	if yes {
		policy, priority = roundRobin, 1
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range threads {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		// A thread that has ended meanwhile is no loss, and what it starts is as it is.
		_, _, e := syscall.Syscall(syscall.SYS_SCHED_SETSCHEDULER, uintptr(tid), uintptr(policy), uintptr(unsafe.Pointer(&priority)))
		if e != 0 && e != syscall.ESRCH {
			return e
		}
	}
	return nil
}

// schedule makes up when calls are to begin: at random, rate of them a second, always the same for a seed.
func schedule(rate float64, length time.Duration, seed uint64) []time.Duration {
	r := rand.New(rand.NewPCG(seed, 0))
	var out []time.Duration
	for at := 0.0; ; {
		at += r.ExpFloat64() / rate
		d := time.Duration(at * float64(time.Second))
		if d >= length {
			return out
		}
		out = append(out, d)
	}
}

// open makes calls at the times of a schedule, whether or not those before are answered. The first tenth
// warms up and is not counted.
func open(callers []caller, times []time.Duration, watch *procs) (segment, error) {
	latencies, lags := make([]time.Duration, len(times)), make([]time.Duration, len(times))
	var failed atomic.Pointer[error]
	first := runFirst(true) == nil
	defer func() { _ = runFirst(false) }()
	before := watch.cpu()
	self := ownCPU()
	start := time.Now().Add(2 * time.Millisecond)
	var wg sync.WaitGroup
	for n, call := range callers {
		wg.Go(func() {
			for i := n; i < len(times) && failed.Load() == nil; i += len(callers) {
				intended := start.Add(times[i])
				await(intended)
				sent := time.Now()
				if err := call(); err != nil {
					failed.Store(&err)
				}
				latencies[i], lags[i] = time.Since(intended), sent.Sub(intended)
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return segment{}, *err
	}
	s := segment{first: first, calls: len(times), took: time.Since(start), cpu: watch.since(before)}
	s.own = float64(ownCPU()-self) / float64(s.took)
	warm := len(times) / 10
	s.latencies, lags = latencies[warm:], lags[warm:]
	slices.Sort(s.latencies)
	slices.Sort(lags)
	s.lag = percentile(lags, 0.99)
	return s, nil
}

// pause lets the callers call for a while, or the machine rest.
func pause(d time.Duration) { <-time.NewTimer(d).C }

// saturate has every caller call again as soon as it has its answer.
func saturate(callers []caller, length time.Duration, watch *procs) (segment, error) {
	var calls atomic.Int64
	var failed atomic.Pointer[error]
	var stop atomic.Bool
	var wg sync.WaitGroup
	for _, call := range callers {
		wg.Go(func() {
			for !stop.Load() {
				if err := call(); err != nil {
					failed.Store(&err)
					return
				}
				calls.Add(1)
			}
		})
	}
	pause(length / 5)
	allocated, err := watch.allocated()
	counted := calls.Load()
	before, self, began, first := watch.cpu(), ownCPU(), time.Now(), calls.Load()
	pause(length)
	for calls.Load() == first && failed.Load() == nil { // a machine that is busy with other things
		pause(10 * time.Millisecond)
	}
	s := segment{calls: int(calls.Load() - first), took: time.Since(began), cpu: watch.since(before)}
	s.own = float64(ownCPU()-self) / float64(s.took)
	counted = calls.Load() - counted
	after, err2 := watch.allocated()
	stop.Store(true)
	wg.Wait()
	switch e := failed.Load(); {
	case e != nil:
		return s, *e
	case err != nil:
		return s, err
	case err2 != nil:
		return s, err2
	}
	s.mallocs = map[string]float64{}
	for name, n := range after {
		s.mallocs[name] = (n - allocated[name]) / float64(counted)
	}
	return s, nil
}

// percentile gives that of a sorted list.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(p*float64(len(sorted))), len(sorted)-1)]
}
