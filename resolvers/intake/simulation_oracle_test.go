package intake

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/farcall/farcall/internal/guard"
)

// What is promised of removals, each as a sentence. The oracle judges from outside, by what was
// published, listed, told of holds and counted; it knows nothing of how the guard decides.
var (
	errSimMissing   = errors.New("what a registry lists is listed")
	errSimUnion     = errors.New("the list is what the registries list and what is held, and no more")
	errSimExplicit  = errors.New("an explicit removal goes at once")
	errSimRate      = errors.New("no more than five removals go unasked in any 10 s")
	errSimSuspect   = errors.New("a reset, or a registry that was emptied, removes nothing at once")
	errSimNeedless  = errors.New("nothing is held that is neither of a burst nor of a reset nor of an emptied registry")
	errSimOverdue   = errors.New("nothing is held longer than guard.hold unless who decides lists it")
	errSimEarly     = errors.New("a hold ends by time when its time is up, and not before")
	errSimConfirmed = errors.New("a registry that has yet to vouch for itself confirms nothing")
	errSimFollowed  = errors.New("what who decides lists stays held, and what it listed and lists no more goes")
	errSimReleased  = errors.New("what a person releases goes, and nothing else")
	errSimCounted   = errors.New("every removal, every hold and every end of one is counted once")
	errSimReason    = errors.New("a hold says why")
	errSimAdopted   = errors.New("what is adopted is what was believed: nothing is invented, nothing lost")
)

// unsure is the version of what may be listed in one or another.
const unsure = -1

const (
	promisedFloor  = 5
	promisedWindow = 10 * time.Second
)

// ledger is what the oracle knows of one registry.
type ledger struct {
	stated, held set
	version      [64]int // as stated last
	// from and till are when a hold may end by time, and when it must have.
	from, till [64]time.Time
	listed     set // of the held: listed by who decides during the hold
	doubted    set // of the held: not to be confirmed
	// foreign are those of which nobody knows what source stated them: they were adopted.
	foreign  set
	complete bool // read since this life began
	calm     time.Time
	reads    int // that found nothing new since it is calm
	passed   []time.Time
	counts   verdicts
	base     verdicts // counts when this life began
	expected verdicts // of an adoption
}

// verdicts are the counts of a registry, as its metrics have them.
type verdicts struct{ explicit, passed, held, returned, expired, released, confirmed, followed int }

func countsOf(m registryMetrics) verdicts {
	value := func(c prometheus.Counter) int {
		var out dto.Metric
		if err := c.Write(&out); err != nil {
			return -1
		}
		return int(out.GetCounter().GetValue())
	}
	return verdicts{
		value(m.explicit), value(m.passed), value(m.held), value(m.returned), value(m.expired),
		value(m.released), value(m.confirmedHolds), value(m.followed),
	}
}

func (v verdicts) minus(o verdicts) verdicts {
	return verdicts{
		v.explicit - o.explicit, v.passed - o.passed, v.held - o.held, v.returned - o.returned, v.expired - o.expired,
		v.released - o.released, v.confirmed - o.confirmed, v.followed - o.followed,
	}
}

func (v *verdicts) add(o verdicts) { *v = v.minus(verdicts{}.minus(o)) }

// happened is what a step did to one registry.
type happened struct {
	ops      []op
	failed   bool
	answered bool // it was confirmed without news
	slept    bool
	release  set // that a person asked to release
}

func (h happened) reset() bool {
	for _, o := range h.ops {
		if o.update.Reset != "" {
			return true
		}
	}
	return false
}

// after gives what the registry states once the ops are taken, and what of all that was believed
// before may and must go at once because they said so.
func (l *ledger) after(ops []op) (stated, may, must set) {
	stated = l.stated
	for _, o := range ops {
		if o.update.Explicit {
			out := o.covers &^ o.states &^ o.broken
			if !o.update.Full {
				out &^= l.foreign // nobody knows whether it was among what this source stated
			}
			may |= out
			must |= out
		}
		stated = stated&^o.covers | o.states
		must &^= o.states | o.broken
	}
	return stated, may, must
}

// judge compares what is held now with what happened, and goes on from there.
func (l *ledger) judge(now time.Time, h happened, holds map[int]guard.Hold, counts verdicts, words func(n int) guard.Word) error {
	stated, may, must := l.after(h.ops)
	var held set
	for n := range holds {
		held |= 1 << n
	}
	before, believed := l.stated|l.held, stated|held
	gone, fresh, returned := before&^believed, held&^l.held, l.held&stated
	switch {
	case held&stated != 0:
		return fmt.Errorf("%w: %v is held and listed", errSimUnion, held&stated)
	case must&believed != 0:
		return fmt.Errorf("%w: %v", errSimExplicit, must&believed)
	case len(h.ops) < 2 && fresh&^before != 0 || fresh&^(before|l.coalesced(h.ops)) != 0:
		return fmt.Errorf("%w: %v was not listed before", errSimUnion, fresh&^before)
	}
	d := counts.minus(l.counts)
	emptied := l.stated.size() > promisedFloor && stated == 0
	ended := l.endings(h, gone&^may&l.held, words)
	if len(h.ops) > 1 {
		ended.confirmed = 0 // it may have been back in between, and gone then
	}
	if err := l.judgeEnds(now, h, ended, held, stated, words); err != nil {
		return err
	}
	if err := l.judgePasses(now, h, d.passed, gone&^may&^l.held, fresh, emptied); err != nil {
		return err
	}
	want := verdicts{
		explicit: (gone & may).size(), passed: (gone &^ may &^ l.held).size(), held: fresh.size(), returned: returned.size(),
		expired: ended.expired.size(), released: ended.released.size(), confirmed: ended.confirmed.size(), followed: ended.followed.size(),
	}
	if err := l.judgeCounts(h, d, want, held); err != nil {
		return err
	}
	l.counts = counts
	l.goOn(now, h, stated, held, fresh, gone&^may&^l.held|returned, holds, words)
	return l.judgeHeld(now, holds, fresh, h, emptied, words)
}

// coalesced is what updates that were taken as one may have listed in between.
func (l *ledger) coalesced(ops []op) (all set) {
	for _, o := range ops {
		all |= o.states
	}
	return all
}

// endings are the holds that ended otherwise than by return or explicitly.
type endings struct{ released, followed, expired, confirmed set }

func (l *ledger) endings(h happened, ended set, words func(n int) guard.Word) (e endings) {
	ended.each(func(n int) {
		bit := set(1) << n
		switch {
		case h.release&bit != 0:
			e.released |= bit
		case words(n) == guard.Unlisted && l.listed.has(n):
			e.followed |= bit
		case h.slept:
			e.expired |= bit
		default:
			e.confirmed |= bit
		}
	})
	return e
}

func (l *ledger) judgeEnds(now time.Time, h happened, e endings, held, stated set, words func(n int) guard.Word) (err error) {
	if left := h.release & held & l.held; left != 0 && len(h.ops) == 0 {
		return fmt.Errorf("%w: %v is held still", errSimReleased, left)
	}
	e.expired.each(func(n int) {
		if now.Before(l.from[n]) {
			err = fmt.Errorf("%w: %v had until %v", errSimEarly, simIDs[n], l.from[n])
		}
	})
	(e.expired | e.confirmed).each(func(n int) {
		if words(n) == guard.Listed {
			err = fmt.Errorf("%w: %v is listed and went", errSimFollowed, simIDs[n])
		}
	})
	if e.confirmed == 0 || err != nil {
		return err
	}
	at, reads := l.calm, l.reads
	switch {
	case l.held&l.doubted != 0:
		err = fmt.Errorf("%w: %v is doubted", errSimConfirmed, l.held&l.doubted)
	case h.failed || now.Sub(at) < simHold/2:
		err = fmt.Errorf("%w: %v went, calm since %v, failed %t", errSimConfirmed, e.confirmed, at, h.failed)
	case reads+1 < 3:
		err = fmt.Errorf("%w: %v went after %d reads", errSimConfirmed, e.confirmed, reads)
	case (held | e.confirmed).size() > stated.size():
		err = fmt.Errorf("%w: %v went of a registry that lists only %v", errSimConfirmed, e.confirmed, stated)
	}
	e.confirmed.each(func(n int) {
		if stated&ofService(n/simEach) == 0 {
			err = fmt.Errorf("%w: %v was the last of its service", errSimConfirmed, simIDs[n])
		}
	})
	return err
}

// judgePasses judges what went at once without being explicit.
func (l *ledger) judgePasses(now time.Time, h happened, counted int, gone, fresh set, emptied bool) error {
	for range counted {
		l.passed = append(l.passed, now)
	}
	in := 0
	for _, at := range l.passed {
		if now.Sub(at) < promisedWindow {
			in++
		}
	}
	single := len(h.ops) < 2
	switch {
	case gone.size() > counted:
		return fmt.Errorf("%w: %v went, counted are %d", errSimCounted, gone, counted)
	case in > promisedFloor:
		return fmt.Errorf("%w: %d, %v among them", errSimRate, in, gone)
	case single && (h.reset() || emptied) && gone != 0:
		return fmt.Errorf("%w: %v", errSimSuspect, gone)
	case single && !h.reset() && !emptied && fresh != 0 && in < promisedFloor:
		return fmt.Errorf("%w: %v, while %d went in 10 s", errSimNeedless, fresh, in)
	}
	return nil
}

// judgeCounts compares counts. Of updates that were taken as one, something may have come and gone in
// between: then only their balance must be right.
func (l *ledger) judgeCounts(h happened, d, want verdicts, held set) error {
	if len(h.ops) < 2 {
		if d != want {
			return fmt.Errorf("%w: counted %+v, was %+v", errSimCounted, d, want)
		}
		return nil
	}
	explicit := l.held.size() + d.held - d.returned - d.expired - d.released - d.confirmed - d.followed - held.size()
	if explicit < 0 || explicit > d.explicit || d.held < want.held || d.explicit+d.passed < want.explicit+want.passed-l.held.size() {
		return fmt.Errorf("%w: counted %+v, was %+v, held %v, then %v", errSimCounted, d, want, l.held, held)
	}
	return nil
}

// goOn notes what is so from now on.
func (l *ledger) goOn(now time.Time, h happened, stated, held, fresh, disturbed set, holds map[int]guard.Hold, words func(n int) guard.Word) {
	was := l.version
	for _, o := range h.ops {
		o.states.each(func(n int) { l.version[n] = o.update.Snapshots[o.at(n)].Instances[o.within(n)].Port - 1000 })
	}
	coalesced := len(h.ops) > 1
	if coalesced {
		held.each(func(n int) {
			if holds[n].Since.Equal(now) {
				fresh |= 1 << n // it may have been back in between
			}
			if l.version[n] != was[n] {
				l.version[n] = unsure // whether that was ever looked at
			}
		})
	}
	read := len(h.ops) > 0
	if read && !l.complete {
		l.foreign |= l.stated &^ stated
		l.complete = true
	}
	l.foreign &= held | stated
	l.foreign &^= stated
	l.doubted &= held &^ fresh
	l.listed &= held &^ fresh
	fresh.each(func(n int) {
		l.from[n], l.till[n] = now.Add(simHold), now.Add(simHold)
		if holds[n].Reason != guard.Burst {
			l.doubted |= 1 << n
		}
	})
	if h.reset() {
		l.doubted |= held
	}
	held.each(func(n int) {
		if words(n) != guard.Listed {
			return
		}
		l.listed |= 1 << n
		l.till[n] = latest(l.till[n], now.Add(simHold))
		if !h.slept {
			l.from[n] = latest(l.from[n], now.Add(simHold/2))
		}
	})
	switch {
	case disturbed|fresh != 0 || h.failed:
		l.calm, l.reads = now, 0
	case read:
		l.reads += len(h.ops)
	case h.answered:
		l.reads++
	}
	l.stated, l.held = stated, held
}

// at and within find a record of an instance in an op.
func (o op) at(n int) int {
	for at, s := range o.update.Snapshots {
		if s.Source == simIDs[n].Service {
			return at
		}
	}
	return -1
}

func (o op) within(n int) int {
	for at, in := range o.update.Snapshots[o.at(n)].Instances {
		if in.Instance == simIDs[n].Instance {
			return at
		}
	}
	return -1
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// judgeHeld judges what is held still.
func (l *ledger) judgeHeld(now time.Time, holds map[int]guard.Hold, fresh set, h happened, emptied bool, words func(n int) guard.Word) error {
	for n, hold := range holds {
		want := guard.Burst
		switch {
		case h.reset():
			want = guard.Reset
		case emptied:
			want = guard.Catalogue
		}
		switch {
		case !now.Before(l.till[n]) && words(n) != guard.Listed:
			return fmt.Errorf("%w: %v since %v", errSimOverdue, simIDs[n], hold.Since)
		case l.listed.has(n) && words(n) == guard.Unlisted:
			return fmt.Errorf("%w: %v is held still", errSimFollowed, simIDs[n])
		case len(h.ops) < 2 && fresh.has(n) && hold.Reason != want:
			return fmt.Errorf("%w: %v: %s, want %s", errSimReason, simIDs[n], hold.Reason, want)
		case hold.Detail == "":
			return fmt.Errorf("%w: %v: in no words", errSimReason, simIDs[n])
		}
	}
	return nil
}
