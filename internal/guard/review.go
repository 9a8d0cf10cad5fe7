package guard

import (
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// Word is what who decides says of an instance that this registry no longer states.
type Word int

// The words. The zero value is that of one who cannot be asked.
const (
	Silent   Word = iota
	Listed        // it is in the list
	Unlisted      // it is not
)

// Review asks who decides what became of every instance that is held, and returns what changed of
// what is believed. Listed keeps an instance held, for another Hold where less than half of its time
// is left: where the answers cease, some time is left for them to come back. Unlisted ends a hold
// during which it was Listed; before that it says nothing, for what was never listed there may be
// unknown there for another reason. Silent, or no word at all, leaves a hold to the guard's own rule.
//
// It costs in proportion to what is held.
func (r *Registry) Review(now time.Time, word func(catalog.ID) Word) Changes {
	p := r.newPass()
	for id, h := range r.held {
		said := Silent
		if word != nil {
			said = word(id)
		}
		h.listed = said == Listed
		switch {
		case h.listed:
			h.Listed = true
			if h.Until.Sub(now) < r.cfg.Hold/2 {
				r.prolong(h, now.Add(r.cfg.Hold))
			}
		case said == Unlisted && h.Listed:
			p.remove(id)
			r.removals.Followed++
		}
	}
	return p.end()
}
