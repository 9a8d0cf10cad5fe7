package pick

import (
	"math"
	"sync/atomic"
	"time"
)

// halfLife is after how long a latency counts half in the mean. Long enough that one slow call
// does not move a busy instance, short enough that a recovered one is found out in seconds.
const halfLife = 5 * time.Second

// Load is what one agent knows of its own calls to one instance, whichever Picker they went
// through. The zero value is an idle instance that was never called. Safe for concurrent use.
type Load struct {
	outstanding atomic.Int32
	mean        atomic.Uint32 // latency in nanoseconds, as float32 bits; 0 before the first call
	at          atomic.Int64  // when mean was last moved, Unix nanoseconds
}

// Outstanding counts the calls that have begun and are not done.
func (l *Load) Outstanding() int { return int(l.outstanding.Load()) }

// Latency is the exponentially weighted mean of the calls' latencies; 0 before the first call that
// measured one.
func (l *Load) Latency() time.Duration { return time.Duration(l.latency()) }

func (l *Load) latency() float64 { return float64(math.Float32frombits(l.mean.Load())) }

// Outcome is how a call ended, as far as its latency tells of the instance.
type Outcome uint8

// The zero value is Answered.
const (
	// Answered means that the application answered, whatever it answered.
	Answered Outcome = iota
	// Failed means that no answer came: refused, broken off, out of time or given up by the
	// caller. It took at least this long, so it may raise the mean latency, but it never lowers
	// or begins one: an instance that refuses at once must not pass for a fast one.
	Failed
)

// Begin counts a call as outstanding at the instance. Done must follow exactly once.
func (p Picked) Begin() { p.Load.outstanding.Add(1) }

// Done ends what Begin began. now is the time of the end, latency the time since the beginning.
func (p Picked) Done(now time.Time, latency time.Duration, o Outcome) {
	p.Load.outstanding.Add(-1)
	p.Load.observe(now, latency, o)
}

func (l *Load) observe(now time.Time, latency time.Duration, o Outcome) {
	// Below 1 ns is not a latency, and 0 means that none was measured.
	sample := float64(max(latency, 1))
	stamp := now.UnixNano()
	old := l.mean.Load()
	mean := float64(math.Float32frombits(old))
	if o == Failed && (mean == 0 || sample <= mean) {
		return
	}
	if mean > 0 {
		// A clock that was set back leaves no time between two calls.
		since := max(stamp-l.at.Load(), 0)
		sample += (mean - sample) * math.Exp2(-float64(since)/float64(halfLife))
	}
	// Of two calls that end at the same moment one is lost to the mean, which is no loss.
	if l.mean.CompareAndSwap(old, math.Float32bits(float32(sample))) {
		l.at.Store(stamp)
	}
}
