package reachability

import (
	"slices"
	"time"
)

// borders are those between the classes of distance: a round trip within a site, within a
// continent's region, within a continent, and further.
var borders = [...]time.Duration{10 * time.Millisecond, 40 * time.Millisecond, 120 * time.Millisecond}

const (
	// recent is of how many connects the shortest counts: a busy moment makes no cluster distant.
	recent = 5
	// enough connects make a class; a single one may have met a cold cache on its way.
	enough = 3
	// inARow is how many times the shortest must speak for another class, a quarter beyond the
	// border, before the class is another.
	inARow = 3
)

// distance turns the times that connects took into a class that changes rarely. The zero value
// has measured nothing.
type distance struct {
	took  []time.Duration // the last of them, oldest first
	class int
	ready bool
	moves int // in a row, of those that speak for another class: above 0 for a higher one
}

// measured reports whether class means anything.
func (d *distance) measured() bool { return d.ready }

// add takes the time of one more connect and reports whether the class is another, or known for
// the first time.
func (d *distance) add(took time.Duration) bool {
	if len(d.took) == recent {
		d.took = append(d.took[:0], d.took[1:]...)
	}
	d.took = append(d.took, took)
	shortest := slices.Min(d.took)
	if !d.ready {
		d.ready = len(d.took) >= enough
		d.class = classOf(shortest)
		return d.ready
	}
	next := beyond(shortest, d.class)
	switch {
	case next > d.class:
		d.moves = max(d.moves, 0) + 1
	case next < d.class:
		d.moves = min(d.moves, 0) - 1
	default:
		d.moves = 0
	}
	if d.moves != inARow && d.moves != -inARow {
		return false
	}
	d.class, d.moves = next, 0
	return true
}

// classOf counts the borders at or below a time.
func classOf(took time.Duration) int {
	class := 0
	for class < len(borders) && took >= borders[class] {
		class++
	}
	return class
}

// beyond gives the class that a time speaks for where class is the one so far: only a border that
// is passed by a quarter counts as passed.
func beyond(took time.Duration, class int) int {
	for class < len(borders) && took*4 >= borders[class]*5 {
		class++
	}
	for class > 0 && took*4 <= borders[class-1]*3 {
		class--
	}
	return class
}
