package verdict

import (
	"time"

	"github.com/farcall/farcall/test/robustness/history"
)

// What a process may have grown to, against when it was looked at first: enough for the buffers and
// connections of a busy moment, and too little for something that is left behind in every episode.
const (
	moreGoroutines = 300
	moreFiles      = 150
	mostRSS        = 2 << 30 // with the race detector, which takes several times as much
)

// processes judges I6.
func (e *episode) processes() {
	first := map[string]*history.Process{}
	for _, v := range e.stood {
		if v.Process != nil && first[v.Process.Name] == nil {
			first[v.Process.Name] = v.Process
		}
	}
	seen := map[string]bool{}
	for _, v := range e.events {
		p := v.Process
		if p == nil {
			continue
		}
		seen[p.Name] = true
		if p.Died != "" {
			e.broke(ErrDied, v.At, "%s: %s", p.Name, p.Died)
			continue
		}
		was := first[p.Name]
		if was == nil {
			was, first[p.Name] = p, p
		}
		switch {
		case p.Goroutines > 2*was.Goroutines+moreGoroutines:
			e.broke(ErrUnbounded, v.At, "%s has %d goroutines and had %d at first", p.Name, p.Goroutines, was.Goroutines)
		case p.Files > 2*was.Files+moreFiles:
			e.broke(ErrUnbounded, v.At, "%s has %d open files and had %d at first", p.Name, p.Files, was.Files)
		case p.RSS > mostRSS:
			e.broke(ErrUnbounded, v.At, "%s has %d bytes of memory", p.Name, p.RSS)
		}
	}
	for name := range first {
		if !seen[name] {
			e.nothing("%s was not looked at", name)
		}
	}
	if len(seen) == 0 && len(first) == 0 {
		e.nothing("no process was looked at")
	}
}

const (
	// staleAfter is design.md's: STALE after 3 s without movement.
	staleAfter = 3 * time.Second
	// late is how much later than it happened anybody may know of something: what was under way, and
	// what a loaded machine takes.
	late = 3 * time.Second
)

// ages judges I7: while a registry is silenced, everybody's age of its cluster grows with the
// silence, and nobody calls it SYNCED for long. At all times, state and age fit together.
func (e *episode) ages() {
	for _, v := range e.events {
		if c := v.Cluster; c != nil && c.State == "SYNCED" && c.Age > staleAfter+time.Second {
			e.broke(ErrAge, v.At, "%s calls %s SYNCED, %v old", c.Who, c.Name, c.Age)
		}
	}
	for _, s := range e.faults {
		if s.Silences && s.Effect != "" {
			e.silence(s)
		}
	}
}

func (e *episode) silence(s *span) {
	judged := 0
	for _, v := range e.events {
		c := v.Cluster
		if c == nil || c.Name != s.Cluster || v.At < s.from+late || v.At > s.to {
			continue
		}
		judged++
		silent, delay := v.At-s.from, late+e.delayed(s.from, v.At)
		switch {
		case c.State == "SYNCED" && silent > staleAfter+delay:
			e.broke(ErrAge, v.At, "%s calls %s SYNCED after %v of %s", c.Who, c.Name, silent, s.Kind)
		case c.Age < silent-delay:
			e.broke(ErrAge, v.At, "%s says that %s is %v old after %v of %s", c.Who, c.Name, c.Age, silent, s.Kind)
		}
	}
	if judged == 0 && s.to-s.from > late+time.Second {
		e.nothing("nobody said how old %s was during %s", s.Cluster, s.Kind)
	}
}

// delayed is how long other faults may have held up the last good news of a cluster: who gets it late
// counts its age from then.
func (e *episode) delayed(silence, at time.Duration) time.Duration {
	var sum time.Duration
	for _, s := range e.faults {
		if s.Cluster == "" && s.since < at && s.to > silence-late {
			sum += min(s.to, at) - s.since
		}
	}
	return sum
}
