package intake

import (
	"slices"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
)

// pass takes what the inboxes hold, lets the guards judge it, and gives what is new, if
// anything is.
func (i *Intake) pass(now time.Time) (Change, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	dirty := map[catalog.Name]struct{}{}
	for _, r := range i.registries {
		i.read(r, now, dirty)
	}
	ch := Change{Complete: true, Services: map[catalog.Name]List{}}
	for n := range dirty {
		if l, changed := i.merge(n); changed {
			ch.Services[n] = l
		}
	}
	held := 0
	for _, r := range i.registries {
		st := r.status()
		ch.Registries = append(ch.Registries, st)
		ch.Complete = ch.Complete && st.Complete
		held += st.Held
	}
	i.held.Store(int64(held))
	i.observe(ch.Registries)

	news := len(ch.Services) > 0 || !slices.EqualFunc(i.statuses, ch.Registries, sameStatus)
	if news {
		i.statuses = ch.Registries
	}
	return ch, news
}

// sameStatus leaves the revision out: it moves with every read, and for people only.
func sameStatus(a, b catalog.RegistryStatus) bool {
	a.Revision = b.Revision
	return a == b
}

// read takes one inbox and adds to dirty the services that its guard believes otherwise now.
func (i *Intake) read(r *registry, now time.Time, dirty map[catalog.Name]struct{}) {
	updates, h := r.inbox.take()
	i.tell(r, h)
	r.heard = h
	heldBefore := r.guard.Counts().Held
	mark := func(names []catalog.Name) {
		for _, n := range names {
			dirty[n] = struct{}{}
		}
	}
	mark(r.guard.Expire(now))
	for _, u := range updates {
		ours, unusable := r.translate(u)
		mark(r.guard.Apply(now, ours, unusable...))
	}
	i.tellHolds(r, heldBefore)
	r.metrics.removed(&r.counted, r.guard.Removals())
}

// tell logs what a person wants to know of a registry: that it fails, and that it is back.
func (i *Intake) tell(r *registry, h heard) {
	was, is := r.heard.state(), h.state()
	switch {
	case is == catalog.RegistryFailed && was != is:
		i.log.Warn("registry cannot be read, its last list stays", "registry", r.cfg.Name, "error", h.failure)
	case is == catalog.RegistryOK && was != is:
		i.log.Info("registry is read", "registry", r.cfg.Name, "revision", h.revision)
	}
}

func (i *Intake) tellHolds(r *registry, before int) {
	after := r.guard.Counts().Held
	switch {
	case before == 0 && after > 0:
		first := r.guard.Holds()[0]
		i.log.Warn("removals are held", "registry", r.cfg.Name, "held", after, "reason", first.Reason, "detail", first.Detail, "until", first.Until)
	case before > 0 && after == 0:
		i.log.Info("no removal is held any more", "registry", r.cfg.Name)
	}
}

// merge makes the cluster's list of a service and says whether it is another than was sent.
func (i *Intake) merge(n catalog.Name) (List, bool) {
	lists := make([][]*catalog.Instance, 0, len(i.registries))
	for _, r := range i.registries {
		if l, known := r.guard.List(n); known {
			lists = append(lists, l)
		}
	}
	sent, was := i.sent[n]
	if len(lists) == 0 {
		delete(i.sent, n)
		delete(i.shadowed, n)
		return List{Gone: true}, was
	}
	list, shadowed := union(lists)
	if shadowed > 0 {
		i.shadowed[n] = shadowed
	} else {
		delete(i.shadowed, n)
	}
	if was && catalog.EqualLists(sent, list) {
		return List{}, false
	}
	i.sent[n] = list
	return List{Instances: list}, true
}

// union merges lists in identity order; of the same identity, the first list's is taken.
func union(lists [][]*catalog.Instance) (all []*catalog.Instance, shadowed int) {
	if len(lists) == 1 {
		return lists[0], 0
	}
	for _, l := range lists {
		all = append(all, l...)
	}
	// The sort is stable, so the first of equal identities is that of the first list.
	slices.SortStableFunc(all, func(a, b *catalog.Instance) int { return a.ID.Compare(b.ID) })
	whole := len(all)
	all = slices.CompactFunc(all, func(a, b *catalog.Instance) bool { return a.ID == b.ID })
	return all, whole - len(all)
}

// settle notes that what was read up to this pass has been handed on.
func (i *Intake) settle() {
	var oldest time.Time
	for _, r := range i.registries {
		if r.heard.at.IsZero() || !r.guard.Complete() {
			return
		}
		if oldest.IsZero() || r.heard.at.Before(oldest) {
			oldest = r.heard.at
		}
	}
	i.confirmed.Store(&oldest)
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
	for _, n := range i.shadowed {
		shadowed += n
	}
	for at, r := range i.registries {
		shadowed += r.guard.Counts().Shadowed
		r.metrics.observe(statuses[at], r.heard.at)
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
	*counted = now
}
