package pick

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

const (
	// maxFailures is how many calls must fail one after the other for an instance to be ejected.
	maxFailures = 5
	// minCalls is how many calls there must have been, of the instance and of all the others
	// together, for their failure rates to be compared.
	minCalls = 20
	// outlierMargin and outlierFactor: an instance is an outlier where its failure rate is at least
	// the margin plus the factor times the rate of the others.
	outlierMargin = 0.1
	outlierFactor = 3

	// minEjection is how long the first ejection lasts; each further one lasts twice as long as the
	// one before, up to maxEjection.
	minEjection = 10 * time.Second
	maxEjection = 5 * time.Minute
	// again is after how long the rates are looked at anew while calls fail.
	again = time.Second
)

// judged is what Judge remembers of an instance. Nobody else looks at it.
type judged struct {
	until    time.Time     // the end of the ejection, while it is ejected
	lasts    time.Duration // how long the last ejection was to last; 0 where there was none
	returned time.Time     // when the last ejection ended
}

// Judge ejects instances that fail and reinstates those whose time is over. loads are those of one
// service, of all instances that could be called but for an ejection; one goroutine at a time calls
// it for a service. changed says that Ejected has changed for some. next is when to call it again
// though no call ends suspiciously: the end of the first ejection, or in a second while calls fail;
// zero where neither is. It costs O(n), and O(k log k) for k that fail.
//
// An instance is ejected after 5 failures one after the other; or where it is an outlier in the last
// seconds: after at least 20 calls of its own and 20 of the others, its failure rate is at least 10
// percentage points above three times the rate of all calls to the others. The usual rule, so many
// standard deviations below the mean of all hosts (Envoy's 1.9), cannot eject anybody among fewer
// than 5 hosts: of n values none is further than (n-1)/sqrt(n) of them from the mean.
//
// At most half of the instances are ejected, rounded down, so that the last one never is; where more
// deserve it, those with the most failures in a row go first, and then those with the highest failure
// rate. An ejection lasts 10 s, each further one twice as long as the one before, up to 5 min; that is
// forgotten once the instance has gone as long without an ejection as the last one was to last.
func Judge(now time.Time, loads []*Load) (changed bool, next time.Time) {
	j := court{now: now, room: len(loads) / 2}
	for _, l := range loads {
		h := l.history.Load()
		switch {
		case h == nil:
		case h.ejected.Load() == nil:
			j.look(h)
		case !now.Before(h.judged.until):
			// The owner may not have asked for long; then it is long since.
			j.release(h, h.judged.until)
		default:
			j.out = append(j.out, h)
			j.room--
		}
	}
	j.shrink()
	j.failing()
	j.outliers()
	for _, h := range j.out {
		next = earlier(next, h.judged.until)
	}
	if j.all.failures > 0 {
		next = earlier(next, now.Add(again))
	}
	return j.changed, next
}

// earlier gives the earlier of two times; a zero one does not count.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// court is one judgement.
type court struct {
	now      time.Time
	room     int // how many more may be ejected; below 0 there are too many
	changed  bool
	out      []*history // of the ejected
	all      tally      // the calls to those that are not ejected
	suspects []suspect
}

type suspect struct {
	*history
	inRow int32 // failures one after the other
	tally tally
}

// look counts the calls of one that is not ejected, and notes it where it may have to be.
func (j *court) look(h *history) {
	s := suspect{history: h, inRow: h.failures.Load(), tally: h.window.sum(j.now)}
	j.all.calls += s.tally.calls
	j.all.failures += s.tally.failures
	if s.inRow >= maxFailures || s.tally.calls >= minCalls && s.tally.rate() >= outlierMargin {
		j.suspects = append(j.suspects, s)
	}
}

// shrink ends the ejections that are too many, those that are to end first: the service may have
// become smaller.
func (j *court) shrink() {
	if j.room >= 0 {
		return
	}
	slices.SortStableFunc(j.out, func(a, b *history) int { return a.judged.until.Compare(b.judged.until) })
	for _, h := range j.out[:-j.room] {
		j.release(h, j.now)
	}
	j.out, j.room = j.out[-j.room:], 0
}

func (j *court) release(h *history, ended time.Time) {
	h.failures.Store(0)
	h.window.reset()
	h.judged.returned = ended
	h.ejected.Store(nil)
	j.changed = true
}

// failing ejects those that failed too often one after the other, the longest row first.
func (j *court) failing() {
	slices.SortStableFunc(j.suspects, func(a, b suspect) int {
		return cmp.Or(cmp.Compare(b.inRow, a.inRow), cmp.Compare(b.tally.rate(), a.tally.rate()))
	})
	for len(j.suspects) > 0 && j.suspects[0].inRow >= maxFailures && j.room > 0 {
		s := j.suspects[0]
		j.suspects = j.suspects[1:]
		j.eject(s, fmt.Sprintf("%d calls failed one after the other", s.inRow))
	}
}

// outliers ejects those that fail much more often than the others, the worst first: with each that
// goes, the next are measured against a better rest.
func (j *court) outliers() {
	slices.SortStableFunc(j.suspects, func(a, b suspect) int { return cmp.Compare(b.tally.rate(), a.tally.rate()) })
	for _, s := range j.suspects {
		if j.room <= 0 {
			return
		}
		rest := j.all.minus(s.tally)
		if s.tally.calls >= minCalls && rest.calls >= minCalls && s.tally.rate() >= outlierMargin+outlierFactor*rest.rate() {
			j.eject(s, fmt.Sprintf("%d of its last %d calls failed, of the others' %d of %d",
				s.tally.failures, s.tally.calls, rest.failures, rest.calls))
		}
	}
}

func (j *court) eject(s suspect, why string) {
	v := &s.judged
	if v.lasts == 0 || j.now.Sub(v.returned) >= v.lasts {
		v.lasts = minEjection
	} else {
		v.lasts = min(2*v.lasts, maxEjection)
	}
	v.until = j.now.Add(v.lasts)
	words := fmt.Sprintf("%s; set aside for %s", why, v.lasts)
	s.ejected.Store(&words)
	j.all = j.all.minus(s.tally)
	j.out = append(j.out, s.history)
	j.room--
	j.changed = true
}
