package guard

import (
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// confirmReads is how many further reads in a row it takes to confirm a hold.
const confirmReads = 3

// row is the reads in a row that lost and returned nothing.
type row struct {
	reads  int
	first  time.Time
	broken bool // by the read that is yet to be confirmed
}

// breaks notes that a read lost something, or that something held returned.
func (w *row) breaks() { *w = row{broken: true} }

// Confirm takes the registry's word that it was read just now and that what Apply was told last is
// still all of it. It is called once for every read, after Apply where there was anything to apply;
// the read that begins a hold is not among those that confirm it. It ends the holds that the rule of
// the package calls confirmed and returns what changed of what is believed.
//
// It costs in proportion to what is held.
func (r *Registry) Confirm(now time.Time) Changes {
	p := r.newPass()
	switch {
	case len(r.held) == 0 || r.row.broken || r.doubtful():
		r.row = row{}
		return p.end()
	case r.row.reads == 0:
		r.row.first = now
	}
	r.row.reads++
	if r.row.reads < confirmReads || now.Sub(r.row.first) < r.cfg.Hold/2 || len(r.held) > r.stated {
		return p.end()
	}
	var confirmed []catalog.ID
	stands := map[catalog.Name]bool{}
	for id, h := range r.held {
		if _, asked := stands[id.Name]; !asked {
			stands[id.Name] = r.services[id.Name].stands()
		}
		if stands[id.Name] && !h.listed {
			confirmed = append(confirmed, id)
		}
	}
	for _, id := range confirmed {
		p.remove(id)
		r.removals.Confirmed++
	}
	return p.end()
}

// Interrupt notes that a read failed: those before it confirm nothing any more.
func (r *Registry) Interrupt() { r.row = row{} }

// doubt takes all holds from what reads may confirm: the registry is not the one that it was.
func (r *Registry) doubt() {
	for _, h := range r.held {
		h.Doubted = true
	}
}

func (r *Registry) doubtful() bool {
	for _, h := range r.held {
		if h.Doubted {
			return true
		}
	}
	return false
}

// stands reports whether some source states an instance of the service.
func (s *service) stands() bool {
	for _, m := range s.members {
		if len(m.stated) > 0 {
			return true
		}
	}
	return false
}
