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
// through. The zero value is an idle instance that was never called and has always been there. Safe
// for concurrent use.
type Load struct {
	// What a pick looks at comes first and is short, so that the loads of many instances fit into a
	// processor's cache.
	outstanding atomic.Int32
	mean        atomic.Uint32 // latency in nanoseconds, as float32 bits; 0 before the first call
	at          atomic.Int64  // when mean was last moved, Unix nanoseconds
	history     atomic.Pointer[history]

	// Since is when this agent first saw the instance, which is where its warm-up begins. The owner
	// sets it before it hands the Load to anybody, and leaves it zero for an instance that was there
	// when the agent started: that is new to the agent only.
	Since time.Time
}

// history is what decides whether an instance is set aside. There is none before its first call has
// ended.
type history struct {
	failures atomic.Int32 // one after the other, up to now
	window   window
	ejected  atomic.Pointer[string] // why it is set aside, in words; nil where it is not
	judged   judged
}

// begun gives the history, which it begins where there is none.
func (l *Load) begun() *history {
	if h := l.history.Load(); h != nil {
		return h
	}
	l.history.CompareAndSwap(nil, &history{})
	return l.history.Load()
}

// Outstanding counts the calls that have begun and are not done.
func (l *Load) Outstanding() int { return int(l.outstanding.Load()) }

// Latency is the exponentially weighted mean of the calls' latencies; 0 before the first call that
// measured one.
func (l *Load) Latency() time.Duration { return time.Duration(l.latency()) }

func (l *Load) latency() float64 { return float64(math.Float32frombits(l.mean.Load())) }

// Ejected says in words why Judge set the instance aside; empty where it did not.
func (l *Load) Ejected() string {
	if h := l.history.Load(); h != nil {
		if words := h.ejected.Load(); words != nil {
			return *words
		}
	}
	return ""
}

// Forgive forgets every failure, and ends an ejection: what was in the way of the calls is known, and
// gone. A call that ends at the same moment may still count or not.
func (l *Load) Forgive() { l.history.Store(nil) }

// Outcome is how a call ended, as far as it tells of the instance.
type Outcome uint8

// The zero value is Answered.
const (
	// Answered means that the application answered, and no server error.
	Answered Outcome = iota
	// Errored means that the application answered with a server error of its own: that counts as a
	// failure, and its latency like that of any answer.
	Errored
	// Failed means that no answer came: refused, broken off or out of time. It took at least this
	// long, so it may raise the mean latency, but it never lowers or begins one: an instance that
	// refuses at once must not pass for a fast one.
	Failed
	// Late means that the caller's deadline passed before the answer. That is a failure only where
	// the instance had time enough: a caller in a hurry says nothing about it.
	Late
	// Abandoned means that the caller went away before the answer: neither a failure nor a success.
	// For the latency it is as Failed.
	Abandoned
)

// Begin counts a call as outstanding at the instance. Done must follow exactly once.
func (p Picked) Begin() { p.Load.outstanding.Add(1) }

// Done ends what Begin began. now is the time of the end, latency the time since the beginning.
// suspicious says that enough calls have failed one after the other for Judge to be asked now.
func (p Picked) Done(now time.Time, latency time.Duration, o Outcome) (suspicious bool) {
	p.Load.outstanding.Add(-1)
	if o == Late {
		// The mean is left alone: it is what shows whether the next one is late.
		if !p.Load.overdue(latency) {
			return false
		}
		return p.Load.begun().count(now, Failed)
	}
	p.Load.observe(now, latency, o == Answered || o == Errored)
	return p.Load.begun().count(now, o)
}

// How long a call without an answer must have taken to count as a failure: what no caller takes for
// a short time; or several times what the instance usually takes; or, where it has never answered,
// what most would have answered in.
const (
	overdueAlways = time.Second
	overdueFactor = 4
	overdueFirst  = 250 * time.Millisecond
)

func (l *Load) overdue(latency time.Duration) bool {
	mean := l.latency()
	return latency >= overdueAlways || mean > 0 && float64(latency) > overdueFactor*mean || mean == 0 && latency >= overdueFirst
}

func (l *Load) observe(now time.Time, latency time.Duration, answered bool) {
	// Below 1 ns is not a latency, and 0 means that none was measured.
	sample := float64(max(latency, 1))
	stamp := now.UnixNano()
	old := l.mean.Load()
	mean := float64(math.Float32frombits(old))
	if !answered && (mean == 0 || sample <= mean) {
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

// count notes whether a call succeeded. It reports whether this is the failure that makes the
// instance a suspect.
func (h *history) count(now time.Time, o Outcome) bool {
	switch o {
	case Answered:
		h.window.add(now, false)
		// Most calls find 0, and then need not write what others read.
		if h.failures.Load() != 0 {
			h.failures.Store(0)
		}
	case Errored, Failed:
		h.window.add(now, true)
		return h.failures.Add(1) == maxFailures && h.ejected.Load() == nil
	}
	return false
}
