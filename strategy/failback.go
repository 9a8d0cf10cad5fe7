package strategy

import (
	"strings"
	"time"
)

// tierState is what is remembered of one tier.
type tierState struct {
	// once says that it was sufficient at some time. Until then it is never held.
	once bool
	// capacity and members are those of the last decision.
	capacity float64
	members  uint64
	// line is what is granted over time. It ends at what has proved to last.
	line line
	// since is when the capacity rose above the end of the line, and lasting the least that it
	// has been since; zero while it is not above.
	since   time.Time
	lasting float64
}

// line goes straight from one percentage to another one that is no less.
type line struct {
	from, to   float64
	begin, end time.Time
}

func flat(at float64) line { return line{from: at, to: at} }

func (l line) at(t time.Time) float64 {
	switch {
	case !t.Before(l.end):
		return l.to
	case !t.After(l.begin):
		return l.from
	}
	return l.from + (l.to-l.from)*float64(t.Sub(l.begin))/float64(l.end.Sub(l.begin))
}

// next follows a tier to now, where its capacity is what is given: less is granted at once, and
// so is what more instances bring; more by health must last, and then comes slowly.
func (s tierState) next(now time.Time, capacity float64, members uint64, f Failback) tierState {
	if !s.once {
		return tierState{capacity: capacity, members: members, line: flat(capacity)}
	}
	s = s.ramp(now, f)
	if members != s.members && capacity > s.capacity {
		more := capacity - s.capacity
		s.line.from, s.line.to, s.lasting = s.line.from+more, s.line.to+more, s.lasting+more
	}
	s.capacity, s.members = capacity, members
	if capacity < s.line.to {
		if granted := s.line.at(now); capacity <= granted {
			s.line = flat(capacity)
		} else {
			s.line = line{from: granted, to: capacity, begin: now, end: s.line.end}
		}
	}
	s = s.watch(now)
	return s.ramp(now, f)
}

// watch notes since when there is more capacity than the line leads to.
func (s tierState) watch(now time.Time) tierState {
	if s.capacity-s.line.to < trifle {
		s.since = time.Time{}
		return s
	}
	if s.since.IsZero() || s.since.After(now) {
		s.since, s.lasting = now, s.capacity
	}
	s.lasting = min(s.lasting, s.capacity)
	return s
}

// ramp begins a new line for what has lasted long enough. Nothing changed between two decisions,
// so that it may begin at any time before now.
func (s tierState) ramp(now time.Time, f Failback) tierState {
	for !s.since.IsZero() {
		begin := s.since.Add(f.Hold)
		if begin.After(now) {
			break
		}
		s.line = line{from: s.line.at(begin), to: s.lasting, begin: begin, end: begin.Add(f.Ramp)}
		s.since = time.Time{}
		s = s.watch(begin)
	}
	return s
}

// remembering says whether the time before matters: only a policy that holds calls back, between
// tiers to choose from, pays for it.
func (d *decider) remembering() bool {
	f := d.in.Policy.Failback
	return (f.Hold > 0 || f.Ramp > 0) && len(d.plan) > 1 && d.kind != Broadcast
}

// recall says what of its capacity each tier is granted now.
func (d *decider) recall() {
	if !d.remembering() {
		for i := range d.plan {
			d.plan[i].granted = d.plan[i].capacity
		}
		return
	}
	f := Failback{Hold: max(0, d.in.Policy.Failback.Hold), Ramp: max(0, d.in.Policy.Failback.Ramp)}
	d.state.tiers = make(map[string]tierState, len(d.plan))
	for i := range d.plan {
		t := &d.plan[i]
		s := d.in.Previous.tiers[t.key()]
		s = s.next(d.in.Now, t.capacity, d.members(t), f)
		s.once = s.once || d.sufficient(t)
		t.granted = min(t.capacity, s.line.at(d.in.Now))
		d.state.tiers[t.key()] = s
	}
}

// remember completes the state with what was handed out: calls that have come back although the
// tier was held stay. It notes when time alone changes anything.
func (d *decider) remember() {
	if !d.remembering() {
		return
	}
	before := 0.0
	for i := range d.plan {
		t, key := &d.plan[i], d.plan[i].key()
		s := d.state.tiers[key]
		if got := min(t.share, t.capacity); got > t.granted+trifle {
			if t.capacity-got < trifle {
				got = t.capacity
			}
			t.granted = got
			s.line = line{from: got, to: max(got, s.line.to), begin: d.in.Now, end: s.line.end}
			s = s.watch(d.in.Now)
			d.state.tiers[key] = s
		}
		// What comes behind tiers that take all calls changes nothing by itself.
		if before < whole-trifle {
			d.wakeFor(s)
		}
		before += t.share
	}
}

func (d *decider) wakeFor(s tierState) {
	f := d.in.Policy.Failback
	if !s.since.IsZero() {
		d.wake(s.since.Add(max(0, f.Hold)))
	}
	if s.line.end.After(d.in.Now) && s.line.to-s.line.from > trifle {
		step := d.in.Now.Add(max(f.Ramp/100, 100*time.Millisecond))
		if step.After(s.line.end) {
			step = s.line.end
		}
		d.wake(step)
	}
}

// key names a tier by its name and clusters: another set of clusters is another tier. Their order is
// always the same at one agent.
func (t *plannedTier) key() string {
	names := make([]string, len(t.clusters))
	for i, c := range t.clusters {
		names[i] = c.name
	}
	return t.name + "\x00" + strings.Join(names, "\x00")
}
