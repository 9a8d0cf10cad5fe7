package intake

import (
	"errors"
	"fmt"
	"strings"
	"testing/synctest"
	"time"

	"github.com/farcall/farcall/internal/guard"
)

// step does one thing that may happen, at random, and then lets some time pass.
func (s *simulation) step() error {
	k := s.rnd.IntN(len(s.registries))
	var err error
	switch p := s.rnd.IntN(100); {
	case p < 34:
		err = s.churn(k)
	case p < 52:
		err = s.lie(k)
	case p < 57:
		err = s.flap(k)
	case p < 65:
		err = s.calm(k)
	case p < 72:
		err = s.crowd()
	case p < 80:
		err = s.release()
	case p < 90:
		err = s.decide()
	case p < 93:
		s.save()
	case p < 98:
		err = s.restart()
	default:
		err = s.end(k)
	}
	if err != nil || s.rnd.IntN(2) == 0 {
		return err
	}
	return s.sleep([]time.Duration{time.Second, 3 * time.Second, 10 * time.Second, 7500 * time.Millisecond}[s.rnd.IntN(4)])
}

// sleep lets time pass. What is due in between is due at its time.
func (s *simulation) sleep(d time.Duration) error {
	time.Sleep(d)
	synctest.Wait()
	return s.judge(fmt.Sprintf("%v pass", d), [2]happened{{slept: true}, {slept: true}})
}

// alter changes the truth of a registry, and says what it lost.
func (s *simulation) alter(k int) (what string, lost set) {
	r := s.registries[k]
	switch s.rnd.IntN(8) {
	case 0, 1: // some begin
		added := s.picked(everything&^r.truth, 1+s.rnd.IntN(12))
		r.truth |= added
		return fmt.Sprintf("%v begin", added), 0
	case 2, 3, 4: // a few end
		lost = s.picked(r.truth, 1+s.rnd.IntN(3))
		r.truth &^= lost
	case 5: // many end
		lost = s.picked(r.truth, 4+s.rnd.IntN(12))
		r.truth &^= lost
	case 6: // what they are changes
		altered := s.picked(r.truth, 1+s.rnd.IntN(4))
		altered.each(func(n int) { r.version[n]++ })
		return fmt.Sprintf("%v change", altered), 0
	default: // a record becomes one that cannot be used, or one that can
		r.broken ^= s.picked(r.truth, 1+s.rnd.IntN(2))
		return fmt.Sprintf("%v are broken", r.broken), 0
	}
	return fmt.Sprintf("%v end", lost), lost
}

// churn changes the truth, and the registry says so in its manner.
func (s *simulation) churn(k int) error {
	r := s.registries[k]
	if r.truth.size() < 8 {
		r.truth |= s.picked(everything, 12)
	}
	what, lost := s.alter(k)
	return s.publishOps(fmt.Sprintf("%s: %s", r.name, what), s.truly(k, lost))
}

// truly is what an honest registry says of its truth, of which it just lost something.
func (s *simulation) truly(k int, lost set) []op {
	r := s.registries[k]
	switch {
	case r.unread:
		return []op{r.says(k, r.truth, everything, r.kind == edited, "")}
	case r.kind == edited:
		return []op{r.says(k, r.truth, everything, true, "")}
	case r.kind == polled && s.rnd.IntN(2) == 0:
		return []op{r.says(k, r.truth, everything, false, "")}
	}
	// It says service by service what changed, and where it watches, what of that was removed.
	var ops []op
	for service := range simServices {
		of := ofService(service)
		if lost == 0 || lost&of != 0 {
			ops = append(ops, r.says(k, r.truth, of, r.kind == watched && lost&of != 0, ""))
		}
	}
	return ops
}

// lie has a registry say what is not so, or nothing.
func (s *simulation) lie(k int) error {
	r := s.registries[k]
	if r.kind == edited || s.rnd.IntN(4) == 0 {
		return s.fail(k)
	}
	found, reset := r.truth, ""
	switch s.rnd.IntN(4) {
	case 0:
		found = 0
	case 1:
		found &= set(s.rnd.Uint64())
	case 2:
		found, reset = found&set(s.rnd.Uint64()), "its index went back"
	default:
		reset = "its identity is another"
		if s.rnd.IntN(2) == 0 {
			found = 0
		}
	}
	if err := s.publish(k, "it lies", found, everything, false, reset); err != nil || s.rnd.IntN(2) == 0 {
		return err
	}
	if err := s.sleep(time.Duration(s.rnd.IntN(8)) * time.Second); err != nil {
		return err
	}
	return s.publish(k, "it is itself again", r.truth, everything, false, "")
}

func (s *simulation) fail(k int) error {
	s.registries[k].out.Failed(errors.New("it answers with an error"))
	synctest.Wait()
	var h [2]happened
	h[k].failed = true
	return s.judge(s.registries[k].name+" fails", h)
}

// flap has a registry lose some and find them again, several times a second.
func (s *simulation) flap(k int) error {
	r := s.registries[k]
	if r.kind == edited {
		return nil
	}
	flaps := s.picked(r.truth, 1+s.rnd.IntN(8))
	for n := range 2 * (1 + s.rnd.IntN(4)) {
		found := r.truth
		if n%2 == 0 {
			found &^= flaps
		}
		if err := s.publish(k, fmt.Sprintf("%v flap", flaps), found, everything, false, ""); err != nil {
			return err
		}
		if err := s.sleep(50 * time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// calm has a registry say again and again that nothing is new.
func (s *simulation) calm(k int) error {
	every := []time.Duration{time.Second, 4 * time.Second}[s.rnd.IntN(2)]
	for range 3 + s.rnd.IntN(5) {
		s.registries[k].out.Confirm()
		synctest.Wait()
		var h [2]happened
		h[k].answered = true
		if err := s.judge(s.registries[k].name+" is confirmed", h); err != nil {
			return err
		}
		if err := s.sleep(every); err != nil {
			return err
		}
	}
	return nil
}

// crowd has both registries say so much while nobody listens that several updates are taken as one.
func (s *simulation) crowd() error {
	var ops []op
	for range 2 + s.rnd.IntN(4) {
		k := s.rnd.IntN(len(s.registries))
		r := s.registries[k]
		if r.unread {
			continue
		}
		what, lost := s.alter(k)
		s.write("crowd: %s: %s", r.name, what)
		ops = append(ops, s.truly(k, lost)...)
	}
	gate := make(chan struct{})
	s.gate.Store(&gate)
	return s.hand("they say much at once", ops)
}

// publish has a registry say what a read found.
func (s *simulation) publish(k int, what string, found, covers set, explicit bool, reset string) error {
	r := s.registries[k]
	o := r.says(k, found, covers, explicit, reset)
	return s.publishOps(fmt.Sprintf("%s: %s: %v", r.name, what, o.states), []op{o})
}

// publishOps has a registry say one thing after the other, each of which is taken by itself.
func (s *simulation) publishOps(what string, ops []op) error {
	for _, o := range ops {
		if err := s.hand(what, []op{o}); err != nil {
			return err
		}
	}
	return nil
}

// hand hands ops to the intake and judges what came of them. While a gate is set, the first that is
// news keeps the intake busy, and the others are taken as one.
func (s *simulation) hand(what string, ops []op) error {
	var h [2]happened
	for _, o := range ops {
		r := s.registries[o.of]
		r.out.Publish(o.update)
		r.unread = false
		if !s.busy.Load() {
			synctest.Wait()
		}
		h[o.of].ops = append(h[o.of].ops, o)
	}
	if gate := s.gate.Swap(nil); gate != nil {
		close(*gate)
		synctest.Wait()
	}
	return s.judge(what, h)
}

// release has a person release some of what is held.
func (s *simulation) release() error {
	f := Filter{}
	if s.rnd.IntN(2) == 0 {
		f.Registry = s.registries[s.rnd.IntN(2)].name
	}
	if s.rnd.IntN(2) == 0 {
		f.Service = simIDs[s.rnd.IntN(len(simIDs))].Service
	}
	if s.rnd.IntN(4) == 0 {
		f.Instance = simIDs[s.rnd.IntN(len(simIDs))].Instance
	}
	var h [2]happened
	asked := 0
	for k, l := range s.ledgers {
		l.held.each(func(n int) {
			if (f.Registry == "" || f.Registry == s.registries[k].name) &&
				strings.HasPrefix(simIDs[n].Service, f.Service) && strings.HasPrefix(simIDs[n].Instance, f.Instance) {
				h[k].release |= 1 << n
				asked++
			}
		})
	}
	released, err := s.intake.Release(s.context, f)
	if err != nil {
		return err
	}
	synctest.Wait()
	if len(released) != asked {
		return fmt.Errorf("%w: %d were, %d should be", errSimReleased, len(released), asked)
	}
	return s.judge(fmt.Sprintf("%+v is released", f), h)
}

// decide has who decides list otherwise, or come or go.
func (s *simulation) decide() error {
	if !s.decides {
		return nil
	}
	there := set(s.there.Load())
	switch s.rnd.IntN(4) {
	case 0:
		s.reachable.Store(!s.reachable.Load())
	case 1:
		there = s.ledgers[0].stated | s.ledgers[0].held | s.ledgers[1].stated | s.ledgers[1].held
	case 2:
		there = s.picked(there, there.size()/2)
	default:
		there = s.registries[0].truth | s.registries[1].truth
	}
	s.there.Store(uint64(there))
	s.intake.Review()
	synctest.Wait()
	return s.judge(fmt.Sprintf("decided: reachable %t, %v", s.reachable.Load(), there), [2]happened{})
}

// end ends the Run of a registry's resolver; another begins soon.
func (s *simulation) end(k int) error {
	r := s.registries[k]
	r.ends <- errors.New("the connection broke")
	synctest.Wait()
	var h [2]happened
	h[k].failed = true
	if err := s.judge(r.name+"'s resolver ends", h); err != nil {
		return err
	}
	return s.sleep(mostPause)
}

// heldOf is what is held as a set.
func heldOf(holds map[int]guard.Hold) (all set) {
	for n := range holds {
		all |= 1 << n
	}
	return all
}
