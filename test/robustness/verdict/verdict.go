// Package verdict judges what happened in an episode of the robustness suite: each error that it
// knows is a promise of Farcall's, in words, and a violation is an event that breaks it.
//
// It is pure: it reads a history and nothing else, does no I/O and runs no goroutines. A history
// without the events that a promise is judged by is no proof of it, and is an error of its own
// (ErrNothing). The invariants I1 to I8 are those of the fault matrix.
package verdict

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/farcall/farcall/test/robustness/history"
)

// The promises. A Violation wraps one of them.
var (
	ErrConvergence = errors.New("I1: when the faults are over, everybody comes to show what the registries truly have")
	ErrInvented    = errors.New("I1: nobody ever shows an instance that its registry never truly had")
	ErrOrder       = errors.New("I2: nobody is given, keeps or writes an older value after a newer one of the same key")
	ErrBack        = errors.New("I2: no list goes back: an instance that was taken out stays out until it is put in again")
	ErrFenced      = errors.New("I2: nobody but a cluster's owner writes under its epoch, and nobody under an epoch that is over")
	ErrLoss        = errors.New("I3: no list becomes empty, unknown or less than half of what it was unless the truth does")
	ErrVanished    = errors.New("I3: no instance that is listed all the time vanishes while its own registry is not lied about")
	ErrIsolation   = errors.New("I4: what goes wrong in one cluster changes no other cluster's list")
	ErrHung        = errors.New("I5: every call ends, with an answer or an error, within its time")
	ErrTwice       = errors.New("I5: a call that is not idempotent is executed at most once")
	ErrNotExecuted = errors.New("I5: who is told that a call was not executed is told the truth, and so is who is told that it was")
	ErrMisrouted   = errors.New("I5: a call is served by the service that it names, in a cluster that its strategy allows")
	ErrUntyped     = errors.New("I5: an error says which of the documented ones it is")
	ErrUndeserved  = errors.New("I5: no call fails because of what callers do not depend on")
	ErrDied        = errors.New("I6: no process ends, panics or races by itself")
	ErrUnbounded   = errors.New("I6: memory, goroutines and open files stay bounded")
	ErrAge         = errors.New("I7: nobody calls a cluster fresh that could not be read")
	ErrCoverage    = errors.New("I8: every change in the store reaches every reader")
	// ErrNothing is for a history that does not show whether the others hold.
	ErrNothing = errors.New("nothing to judge")
)

// Violation is a promise that was broken, and by what.
type Violation struct {
	Promise error
	What    string
	At      time.Duration // of the event that broke it, in the history's time
}

var _ error = Violation{}

// Error gives the promise and what broke it.
func (v Violation) Error() string {
	return fmt.Sprintf("%v: at %v: %s", v.Promise, v.At.Round(time.Millisecond), v.What)
}

// Unwrap gives the promise.
func (v Violation) Unwrap() error { return v.Promise }

// most is how many violations of one promise are told: the first are what one looks at.
const most = 5

// Judge judges one episode, that of the last event. Events of episodes before it are what stood when
// it began (history.Standing). It gives what was broken, in the order of time; nothing where every
// promise was kept and could be seen to be.
func Judge(events []history.Event) []Violation {
	e, ok := newEpisode(events)
	if !ok {
		return []Violation{{Promise: ErrNothing, What: "there are no events"}}
	}
	for _, judge := range []func(*episode){
		(*episode).lists, (*episode).returns, (*episode).convergence, (*episode).order, (*episode).fences,
		(*episode).calls, (*episode).processes, (*episode).ages, (*episode).coverage,
	} {
		judge(e)
	}
	slices.SortStableFunc(e.found, func(a, b Violation) int { return cmp.Compare(a.At, b.At) })
	return e.found
}

// place is a service in a cluster.
type place struct{ cluster, service string }

func (p place) String() string { return p.service + " of " + p.cluster }

// truth is what a service had from a time on.
type truth struct {
	at   time.Duration
	have []string
}

// span is a fault from its beginning to its end.
type span struct {
	history.Fault
	since, from, to time.Duration // began to be made, was made, was over
	ended           bool
}

// episode is a history taken apart.
type episode struct {
	events  []history.Event // of the episode, in order
	stood   []history.Event // what stood before it
	last    history.Event
	truths  map[place][]truth // the first of each is what stood at the beginning
	ever    map[place][]string
	faults  []*span
	settled time.Duration // when all was settled; 0 where it never was
	found   []Violation
	told    map[error]int
}

func newEpisode(events []history.Event) (*episode, bool) {
	if len(events) == 0 {
		return nil, false
	}
	e := &episode{
		last: events[len(events)-1], truths: map[place][]truth{}, ever: map[place][]string{}, told: map[error]int{},
	}
	for _, v := range events {
		if t := v.Truth; t != nil {
			p := place{t.Cluster, t.Service}
			e.truths[p] = append(e.truths[p], truth{v.At, t.Instances})
			for _, id := range slices.Concat(t.Ever, t.Instances) {
				if !slices.Contains(e.ever[p], id) {
					e.ever[p] = append(e.ever[p], id)
				}
			}
		}
		if v.Episode != e.last.Episode {
			e.stood = append(e.stood, v)
			continue
		}
		e.events = append(e.events, v)
		switch {
		case v.Phase != nil && v.Phase.Name == history.Settled:
			e.settled = v.At
		case v.Fault != nil:
			e.fault(v)
		}
	}
	return e, true
}

func (e *episode) fault(v history.Event) {
	f := v.Fault
	if !f.Ended {
		e.faults = append(e.faults, &span{Fault: *f, since: cmp.Or(f.Since, v.At), from: v.At, to: e.last.At})
		return
	}
	for _, s := range e.faults {
		if s.Kind == f.Kind && s.Target == f.Target && !s.ended {
			s.to, s.ended, s.Effect = v.At, true, f.Effect
			return
		}
	}
}

// broke writes a violation down.
func (e *episode) broke(promise error, at time.Duration, format string, args ...any) {
	if e.told[promise]++; e.told[promise] <= most {
		e.found = append(e.found, Violation{promise, fmt.Sprintf(format, args...), at})
	}
}

// nothing says that a promise could not be judged.
func (e *episode) nothing(format string, args ...any) {
	e.found = append(e.found, Violation{ErrNothing, fmt.Sprintf(format, args...), e.last.At})
}

// forgot reports whether an observer lost what it kept in this episode, before at.
func (e *episode) forgot(who string, at time.Duration) bool {
	return slices.ContainsFunc(e.faults, func(s *span) bool { return s.Forgets == who && s.since <= at })
}

// before gives what a service had until at and since the episode's beginning, oldest first.
func (e *episode) before(p place, at time.Duration) []truth {
	all := e.truths[p]
	n := 0
	for n < len(all) && all[n].at <= at {
		n++
	}
	return all[:n]
}
