package intake

import (
	"reflect"
	"slices"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
	"github.com/farcall/farcall/resolvers/inbox"
)

// pass takes what the inboxes hold, lets the guards judge it, and gives what is new, if
// anything is.
func (i *Intake) pass(now time.Time) (Change, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	dirty := guard.Changes{}
	i.adopt(now, dirty)
	// Those that nobody reads here come last: what the others list says what may go of theirs.
	for _, unread := range []bool{false, true} {
		for _, r := range i.registries {
			if r.unread == unread {
				i.read(r, now, dirty)
			}
		}
	}
	ch := Change{Complete: i.standing(), Services: map[catalog.Name]List{}}
	for n, ids := range dirty {
		if l, changed := i.merge(n, ids); changed {
			ch.Services[n] = l
		}
	}
	i.forgetEmptied()
	held := 0
	for _, r := range i.registries {
		st := r.status()
		ch.Registries = append(ch.Registries, st)
		ch.Complete = ch.Complete && st.Complete
		held += st.Held
	}
	i.held.Store(int64(held))
	i.observe(ch.Registries)
	i.settled = i.oldest()

	news := i.told == nil || len(ch.Services) > 0 || i.told.Complete != ch.Complete ||
		!slices.EqualFunc(i.told.Registries, ch.Registries, sameStatus)
	if news {
		i.told = &Change{Complete: ch.Complete, Registries: ch.Registries}
	}
	return ch, news
}

// sameStatus leaves the revision and the time of the last success out: they move with every
// read, and for people only.
func sameStatus(a, b catalog.RegistryStatus) bool {
	a.Revision, a.LastSuccess = b.Revision, b.LastSuccess
	return reflect.DeepEqual(a, b)
}

// read takes one inbox and adds to dirty what its guard believes otherwise now.
func (i *Intake) read(r *registry, now time.Time, dirty guard.Changes) {
	updates, h := r.inbox.Take()
	i.tell(r, h)
	answered := h.At.After(r.heard.At)
	r.heard = h
	heldBefore := r.guard.Counts().Held
	mark := func(changes guard.Changes) {
		for n, ids := range changes {
			dirty[n] = append(dirty[n], ids...)
		}
	}
	for _, u := range updates {
		ours, unusable := r.translate(u)
		mark(r.guard.Apply(now, ours, unusable...))
	}
	if answered && h.Failure == nil && r.guard.Complete() {
		r.answers++
	}
	if r.stopped() && !r.emptied && !(r.unread && i.awaited(r, now)) {
		ours, _ := r.translate(catalog.Update{Full: true, Explicit: r.dropped})
		mark(r.guard.Apply(now, ours))
		r.emptied = true
	}
	if i.verdict != nil && r.guard.Counts().Held > 0 {
		mark(r.guard.Review(now, i.verdict(now)))
	}
	i.release(r, mark)
	mark(r.guard.Expire(now))
	switch {
	case h.Failure != nil:
		r.guard.Interrupt()
	case answered:
		mark(r.guard.Confirm(now))
	}
	r.settleStrategies()
	i.tellHolds(r, heldBefore)
	if r.counted != r.guard.Removals() {
		i.moves.Add(1)
	}
	r.metrics.removed(&r.counted, r.guard.Removals())
}

// tell logs what a person wants to know of a registry: that it fails, and that it is back.
func (i *Intake) tell(r *registry, h inbox.Heard) {
	was, is := r.heard.State(), h.State()
	switch {
	case is == catalog.RegistryFailed && was != is:
		i.log.Warn("registry cannot be read, its last list stays", "registry", r.name, "error", h.Failure)
	case is == catalog.RegistryOK && was != is:
		i.log.Info("registry is read", "registry", r.name, "revision", h.Revision)
	}
}

func (i *Intake) tellHolds(r *registry, before int) {
	after := r.guard.Counts().Held
	switch {
	case before == 0 && after > 0:
		first := r.guard.Holds()[0]
		i.log.Warn("removals are held", "registry", r.name, "held", after, "reason", first.Reason, "detail", first.Detail, "until", first.Until)
	case before > 0 && after == 0:
		i.log.Info("no removal is held any more", "registry", r.name)
	}
}

// settled says when every registry had been confirmed.
type settled struct {
	known bool // every registry was read and confirmed
	none  bool // there is none
	at    time.Time
}

// oldest finds the registry that was confirmed longest ago; a retired one is asked no more.
// The caller holds i.mu.
func (i *Intake) oldest() settled {
	all := settled{known: true, none: true}
	for _, r := range i.registries {
		if r.retired() {
			continue
		}
		if r.heard.At.IsZero() || !r.guard.Complete() {
			return settled{}
		}
		if all.none || r.heard.At.Before(all.at) {
			all.at = r.heard.At
		}
		all.none = false
	}
	return all
}

// settle notes that what was read up to this pass has been handed on.
func (i *Intake) settle() {
	switch at := i.settled.at; {
	case i.settled.none:
		i.confirmed.Store(nil)
	case i.settled.known:
		i.confirmed.Store(&at)
	}
}

// nextExpiry says when the first hold ends, if there is one.
func (i *Intake) nextExpiry() (next time.Time, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, r := range i.registries {
		if at, holds := r.guard.Next(); holds && (!ok || at.Before(next)) {
			next, ok = at, true
		}
	}
	return next, ok
}

// observe brings the gauges up to date.
func (i *Intake) observe(statuses []catalog.RegistryStatus) {
	shadowed := 0
	for at, r := range i.registries {
		shadowed += statuses[at].Shadowed
		r.metrics.observe(statuses[at], r.heard.At)
	}
	i.metrics.shadowed.WithLabelValues(i.cluster).Set(float64(shadowed))
}

// removed adds what became of removals since the last time.
func (m registryMetrics) removed(counted *guard.Removals, now guard.Removals) {
	m.explicit.Add(float64(now.Explicit - counted.Explicit))
	m.passed.Add(float64(now.Passed - counted.Passed))
	m.held.Add(float64(now.Held - counted.Held))
	m.returned.Add(float64(now.Returned - counted.Returned))
	m.expired.Add(float64(now.Expired - counted.Expired))
	m.released.Add(float64(now.Released - counted.Released))
	m.confirmedHolds.Add(float64(now.Confirmed - counted.Confirmed))
	m.followed.Add(float64(now.Followed - counted.Followed))
	*counted = now
}
