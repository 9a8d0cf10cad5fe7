package view

import (
	"time"

	"github.com/farcall/farcall/agent/pick"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/strategy"
)

// Trouble says that a call of a service failed. suspicious is what pick.Picked.Done gave: then the
// service's instances are judged at once, else within a second.
func (b *Book) Trouble(n catalog.Name, now time.Time, suspicious bool) {
	if (*b.services.Load())[n] == nil {
		return // nobody knows it any more, or yet
	}
	if !suspicious {
		now = now.Add(judgeWithin)
	}
	b.agenda.trial(n, now)
}

// judge has those instances of a service ejected that fail, and those taken back whose time is
// over. Caller holds mu.
func (b *Book) judge(n catalog.Name, now time.Time) {
	at := (*b.services.Load())[n]
	if at == nil {
		return
	}
	loads := at.service.Load().onTrial()
	was := countEjected(loads)
	changed, next := pick.Judge(now, loads)
	b.agenda.trial(n, next)
	if !changed {
		return
	}
	is := countEjected(loads)
	for l := range is {
		if _, ok := was[l]; !ok {
			b.metrics.ejections.Inc()
		}
	}
	b.remake(n)
}

func countEjected(loads []*pick.Load) map[*pick.Load]struct{} {
	out := map[*pick.Load]struct{}{}
	for _, l := range loads {
		if l.Ejected() != "" {
			out[l] = struct{}{}
		}
	}
	return out
}

// onTrial gives what was measured of those instances that a call could be sent to, were they not
// ejected, whatever strategy it follows.
func (s *Service) onTrial() []*pick.Load {
	p, err := s.Plan("", "")
	if err != nil {
		return nil
	}
	left, out := p.Decision.Left, make([]*pick.Load, 0, len(s.loads))
	for i := range s.candidates {
		c := &s.candidates[i]
		if len(left) > 0 && left[0].Instance == c.Instance {
			reason := left[0].Reason
			left = left[1:]
			if reason != strategy.Ejected && reason != strategy.ByStrategy {
				continue
			}
		}
		if c.Instance.Health.Serving() { // not so where recover-all is in use
			out = append(out, s.loads[i])
		}
	}
	return out
}
