package consul

import (
	"slices"
	"time"
)

const (
	// grace is how long an unexplained move of the catalogue's index waits for the watcher of the
	// checks to point at the service: both tables move in the same instant, their answers do not
	// arrive in the same one.
	grace = 30 * time.Millisecond
	// precaution is how long after an explained move the catalogue is swept, since a second move
	// may hide behind an explained one.
	precaution = 2 * time.Second
	// chunk is how many items of a sweep are asked for before news is looked at again.
	chunk = 256
)

// sweep plans the rounds through the whole catalogue, which find what no watcher can point at. Between
// two sweeps there is at least the time that the last one took (four times that before a
// precaution), so that sweeping keeps Consul busy for half of the time at most, whatever happens
// in it.
type sweep struct {
	at   time.Time // when the next one is due; zero when none is wanted
	hard bool      // the next one looks for a change that is known to be there
	// moves are the indexes of the catalogue that the next one is to explain.
	moves []uint64

	queue   []string // what the running one has yet to ask for
	byNode  bool     // what the queue holds: nodes, else services
	running bool
	seeking bool   // the running one is a hard one
	upTo    uint64 // where the catalogue stood when the running one began
	began   time.Time
	ended   time.Time
	took    time.Duration
}

// want asks for a sweep; move is the index to explain, or 0 for a precaution.
func (s *sweep) want(now time.Time, move uint64) {
	if move > 0 {
		s.moves, s.hard = append(s.moves, move), true
	}
	if due := s.due(now); s.at.IsZero() || due.Before(s.at) {
		s.at = due
	}
}

func (s *sweep) due(now time.Time) time.Time {
	due, rest := now.Add(precaution), s.ended.Add(4*s.took)
	if s.hard {
		due, rest = now.Add(grace), s.ended.Add(s.took)
	}
	if due.Before(rest) {
		return rest
	}
	return due
}

// explained drops the moves that turned out to have an explanation.
func (s *sweep) explained(now time.Time, is func(uint64) bool) {
	if !s.hard {
		return
	}
	s.moves = slices.DeleteFunc(s.moves, is)
	if len(s.moves) == 0 {
		s.hard = false
		s.at = s.due(now)
	}
}

// sweepReason says why a sweep begins; it is the metric's label. Empty: none begins.
type sweepReason string

const (
	sweepUnexplained sweepReason = "unexplained"
	sweepPrecaution  sweepReason = "precaution"
)

// next gives what to ask for next, or nothing while no sweep is due. plan gives what to ask
// for, and upTo is where the catalogue stands.
func (s *sweep) next(now time.Time, upTo uint64, plan func() (items []string, byNode bool)) (items []string, begins sweepReason) {
	if !s.running && !s.at.IsZero() && !now.Before(s.at) {
		begins = sweepPrecaution
		if s.hard {
			begins = sweepUnexplained
		}
		*s = sweep{running: true, seeking: s.hard, upTo: upTo, began: now, ended: s.ended, took: s.took}
		s.queue, s.byNode = plan()
	}
	n := min(chunk, len(s.queue))
	items, s.queue = s.queue[:n], s.queue[n:]
	return items, begins
}

// again gives the running sweep up and wants another one at the given time.
func (s *sweep) again(at time.Time) {
	s.running, s.queue = false, nil
	if s.seeking {
		s.moves, s.hard = append(s.moves, s.upTo), true
	}
	if s.at.IsZero() || s.at.Before(at) {
		s.at = at
	}
}

// end ends the running sweep if it has read everything, and reports whether it did.
func (s *sweep) end(now time.Time) bool {
	if !s.running || len(s.queue) > 0 {
		return false
	}
	s.running, s.ended, s.took = false, now, now.Sub(s.began)
	return true
}
