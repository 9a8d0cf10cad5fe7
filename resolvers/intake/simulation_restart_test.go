package intake

import (
	"fmt"
	"testing/synctest"
	"time"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/guard"
	"github.com/farcall/farcall/internal/holds"
)

// saving is what outlives the process: what was believed at some time, as it is written down, and what
// the oracle knew then.
type saving struct {
	at       time.Time
	believed map[string]Before
	groups   []*storev1.HoldGroup
	ledgers  [2]ledger
}

// save writes down what is believed.
func (s *simulation) save() {
	now := time.Now()
	v := &saving{at: now, believed: s.intake.Believed()}
	for name, b := range v.believed {
		v.groups = append(v.groups, holds.Record(now, name, b.Holds)...)
		b.Holds = nil
		v.believed[name] = b
	}
	for k, l := range s.ledgers {
		v.ledgers[k] = *l
	}
	s.saved = v
	s.write("saved")
}

// read gives what was written down as it is read now.
func (v *saving) read(now time.Time) map[string]Before {
	all := map[string]Before{}
	for name, b := range v.believed {
		all[name] = Before{Instances: b.Instances}
	}
	for name, held := range holds.Read(now, "east", v.groups) {
		b := all[name]
		b.Holds = held
		all[name] = b
	}
	return all
}

// The manners in which a life begins.
const (
	lifeFresh   = iota // with nothing
	lifeAdopted        // with what was saved, before anything is read
	lifeWhole          // it has read for itself, and takes over all that was listed
	lifeUnread         // the same, from somebody who may be out of date
	lives
)

// restart ends the process and begins another, while the registries go on.
func (s *simulation) restart() error {
	if s.saved == nil || s.rnd.IntN(2) == 0 {
		s.save()
	}
	s.stop()
	time.Sleep(time.Duration(s.rnd.IntN(20)) * time.Second)
	for k := range s.registries {
		for range s.rnd.IntN(3) {
			s.alter(k)
		}
	}
	if err := s.begin(); err != nil {
		return err
	}
	life := []int{lifeFresh, lifeAdopted, lifeAdopted, lifeAdopted, lifeWhole, lifeUnread}[s.rnd.IntN(6)]
	s.seen.mu.Lock()
	s.seen.lives[life]++
	s.seen.mu.Unlock()
	if life == lifeFresh {
		s.saved = nil
		s.run()
		return s.judge("a new life, with nothing", [2]happened{})
	}
	if life == lifeAdopted {
		return s.adopt("a new life goes on", s.rnd.IntN(2) == 0, false, s.run)
	}
	s.run()
	for k, r := range s.registries {
		if s.rnd.IntN(3) == 0 {
			continue
		}
		if err := s.publish(k, "a new life reads", r.truth, everything, r.kind == edited, ""); err != nil {
			return err
		}
	}
	return s.adopt("and takes over", life == lifeWhole, life == lifeUnread, synctest.Wait)
}

// adopt goes on from what was saved, and judges that nothing is invented and nothing lost. then is what
// makes it so.
func (s *simulation) adopt(what string, whole, unread bool, then func()) error {
	now := time.Now()
	handedOn := s.intake.Adopt(Baseline{Registries: s.saved.read(now), Whole: whole, Unread: unread})
	then()
	select {
	case <-handedOn:
	default:
		return fmt.Errorf("%w: it was not handed on", errSimAdopted)
	}
	s.write("%s: whole %t, unread %t", what, whole, unread)
	var listed set
	for k := range s.ledgers {
		listed |= s.saved.ledgers[k].stated | s.saved.ledgers[k].held
	}
	all := s.holds()
	for k, l := range s.ledgers {
		if unread && l.complete {
			continue
		}
		gone := set(0)
		if whole {
			gone = everything &^ listed
		}
		if err := l.adopt(now, &s.saved.ledgers[k], now.Sub(s.saved.at), gone, all[k], s.word); err != nil {
			return fmt.Errorf("%s: registry %d: %w", what, k, err)
		}
		counts := countsOf(s.counters[k])
		if d := counts.minus(l.counts); d != l.expected {
			return fmt.Errorf("%s: registry %d: %w: counted %+v, was %+v", what, k, errSimCounted, d, l.expected)
		}
		l.counts = counts
	}
	return s.judge(what, [2]happened{})
}

// adopt notes what must be held and listed once it was adopted, and compares it with what is.
func (l *ledger) adopt(now time.Time, was *ledger, ago time.Duration, gone set, holds map[int]guard.Hold, words func(n int) guard.Word) error {
	if !l.complete {
		l.stated = was.stated
		was.stated.each(func(n int) { l.version[n] = was.version[n] })
	}
	resumed := was.held &^ l.stated
	fresh := resumed &^ l.held
	resumed.each(func(n int) {
		from, till := was.from[n].Add(ago), was.till[n].Add(ago)
		if fresh.has(n) {
			l.from[n], l.till[n], l.version[n] = from, till, was.version[n]
			return
		}
		l.from[n], l.till[n] = latest(l.from[n], from), latest(l.till[n], till)
	})
	l.doubted |= was.doubted & resumed
	l.listed |= was.listed & resumed
	l.foreign |= fresh
	(l.held | resumed).each(func(n int) {
		if words(n) == guard.Unlisted && l.listed.has(n) {
			gone |= 1 << n // who decides is asked at once
		}
	})
	followed := (l.held | resumed) & gone
	want := (l.held | resumed) &^ gone
	if held := heldOf(holds); held != want {
		return fmt.Errorf("%w: %v is held, want %v", errSimAdopted, held, want)
	}
	l.held = want
	if fresh != 0 {
		l.calm, l.reads = now, 0
	}
	l.expected = verdicts{held: fresh.size(), followed: followed.size()}
	return nil
}
