package synchronizer

import (
	"context"
	"log/slog"
	"slices"
	"time"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/resolvers/intake"
	"github.com/farcall/farcall/synchronizer/links"
)

// confirmEvery is how often the publishing loop says that its sources were confirmed. It is
// below the heartbeat's second, so that no heartbeat misses a confirmation.
const confirmEvery = 500 * time.Millisecond

// confirmWithin is how old the oldest registry's confirmation may be to pass for one of now: the
// second in which resolvers confirm, and one to spare.
const confirmWithin = 2 * time.Second

// tellEvery bounds how often a cluster's description and its holds are written where no list changes:
// of a registry that lists something and lists it no more, many times a second, what is held changes
// with every read.
const tellEvery = time.Second

// own is the publishing loop of one cluster: it runs while this replica owns the cluster. The
// freshness of the cluster comes from here, so a loop that hangs makes the cluster stale even
// while the process and its connections live.
func (s *Synchronizer) own(ctx context.Context, term *store.Term) error {
	o := s.newOwner(term)
	o.log.Info("owns the cluster")
	defer o.log.Info("owns the cluster no more")
	if o.links != nil {
		defer o.links.Own(false)
	}
	if err := o.takeOver(ctx); err != nil {
		return err
	}
	o.table.signal()
	s.hub.watchdog.begin(term.Cluster())
	defer s.hub.watchdog.end(term.Cluster())
	tick := time.NewTicker(confirmEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-o.table.wake:
			if err := o.publish(ctx); err != nil {
				return err
			}
		case <-tick.C:
			if err := o.repair(ctx); err != nil {
				return err
			}
			if err := o.tell(ctx, time.Now()); err != nil {
				return err
			}
		}
		o.confirm()
	}
}

// owner is one term of one cluster. Only its loop uses it.
type owner struct {
	s        *Synchronizer
	term     *store.Term
	table    *table
	intake   *intake.Intake
	links    *links.Cluster // nil where the registries are read from here
	log      *slog.Logger
	locality catalog.Locality
	labels   map[string]string

	begun     bool // something was published in this term, or looked at for that
	full      bool // the first full publish of this term is done
	confirmed time.Time
	times     times
	left      int // how many strategies were left out of the last description
	described description
	recorded  recorded
	told      time.Time // when tell last wrote something
	// stored are the services that the store has, by this term's own reads and writes: the mirror may not
	// have come to them.
	stored map[catalog.Name]struct{}
}

func (s *Synchronizer) newOwner(term *store.Term) *owner {
	name := term.Cluster()
	o := &owner{
		s: s, term: term,
		table:  s.tables[name],
		intake: s.intakes[name],
		links:  s.links[name],
		log:    s.log.With("cluster", name, "epoch", term.Epoch()),
	}
	for _, c := range s.cfg.Clusters {
		if c.Intake.Cluster == name {
			o.locality, o.labels = c.Locality, c.Labels
		}
	}
	return o
}

// publish writes what the table holds unpublished. The description comes first: a registry whose
// instances are in the store is in it, so that who takes over knows that they are somebody's. Then
// comes what is held: where this process ends between that and the lists, what is held is not judged
// again. Where there is no list to write, both are left to tell.
func (o *owner) publish(ctx context.Context) error {
	w := withUnread(o.table.take(o.all), o.intake.Status())
	full := w.complete && !o.full
	if o.begun && len(w.lists) == 0 && !full {
		return nil
	}
	err := o.describe(ctx)
	if err == nil {
		err = o.record(ctx)
	}
	if err != nil {
		o.table.giveBack(w)
		return err
	}
	lists := make(map[catalog.Name]store.List, len(w.lists))
	for n, l := range w.lists {
		// A service that none of the registries that were read knows may be known to the others.
		_, known := o.stored[n]
		lists[n] = store.List{Instances: l.Instances, Gone: l.Gone && (w.complete || !known)}
	}
	if len(lists) > 0 || full {
		start := time.Now()
		if err := o.term.Publish(ctx, lists, full); err != nil {
			o.table.giveBack(w)
			return err
		}
		o.s.metrics.published.WithLabelValues(o.term.Cluster()).Inc()
		o.s.metrics.publishSeconds.Observe(time.Since(start).Seconds())
		o.full = o.full || full
		o.wrote(lists, full)
	}
	o.begun = true
	return nil
}

// wrote notes what the store has since a publish.
func (o *owner) wrote(lists map[catalog.Name]store.List, full bool) {
	if full {
		clear(o.stored)
	}
	for n, l := range lists {
		if l.Gone {
			delete(o.stored, n)
		} else {
			o.stored[n] = struct{}{}
		}
	}
}

// tell writes what is new of the cluster's registries and of what is held, where nothing else is to be
// written, once in tellEvery at most.
func (o *owner) tell(ctx context.Context, now time.Time) error {
	if now.Sub(o.told) < tellEvery {
		return nil
	}
	described, recorded := o.described.at, o.recorded.at
	if err := o.describe(ctx); err != nil {
		return err
	}
	if err := o.record(ctx); err != nil {
		return err
	}
	if described != o.described.at || recorded != o.recorded.at {
		o.told = now
	}
	return nil
}

// all reports whether everything is to be published, and not only what changed: to begin with, and
// when the cluster is complete for the first time.
func (o *owner) all(w work) bool { return !o.full && (!o.begun || w.complete) }

// withUnread adds the registries that were added since the work was put together: what the store
// holds of them is unread, not gone.
func withUnread(w work, now []catalog.RegistryStatus) work {
	for _, r := range now {
		if !slices.ContainsFunc(w.registries, func(k catalog.RegistryStatus) bool { return k.Name == r.Name }) {
			w.registries = append(w.registries, catalog.RegistryStatus{Name: r.Name})
			w.complete = false
		}
	}
	return w
}

// repair writes the cluster again where somebody else changed its keys. It runs by the tick, so
// that what is told of an own write is never ahead of the write's answer by much; where it is
// all the same, reading once too often does no harm.
func (o *owner) repair(ctx context.Context) error {
	if !o.full || !o.s.hub.watchdog.foreign(o.term.Cluster(), o.term.Wrote) {
		return nil
	}
	o.log.Warn("keys of the cluster were changed by somebody else; what is not right is written again")
	o.s.metrics.foreignWrites.Inc()
	if err := o.term.Distrust(ctx); err != nil {
		return err
	}
	found, err := o.term.Found(ctx)
	if err != nil {
		return err
	}
	o.found(found)
	o.full, o.begun = false, false
	o.described, o.recorded = description{}, recorded{}
	return o.publish(ctx)
}

// confirm says that the cluster is fresh, where every registry was confirmed since the last
// time and nothing waits to be published.
func (o *owner) confirm() {
	at, ok := o.intake.Confirmed()
	if !ok || !o.full || !at.After(o.confirmed) || time.Since(at) > confirmWithin || !o.table.clean() {
		return
	}
	o.confirmed = at
	o.term.Confirm()
}

// describe writes what readers are told of the cluster, where there is something new to tell.
func (o *owner) describe(ctx context.Context) error {
	now := time.Now()
	next := o.meta(o.intake.Status(), now)
	if !o.described.due(next, now) {
		return nil
	}
	if err := o.term.PutMeta(ctx, next); err != nil {
		return err
	}
	o.described = description{meta: next, at: now}
	return nil
}

// meta describes the cluster for readers. Counts and times that move with every read are left
// out: the lists tell them, and a write more per read would be for nobody.
func (o *owner) meta(registries []catalog.RegistryStatus, now time.Time) *storev1.ClusterMeta {
	m := &storev1.ClusterMeta{Locality: o.locality.Proto(), Labels: o.labels}
	if o.links != nil {
		m.Via = viaAgents
	}
	for _, r := range registries {
		st := &storev1.RegistryStatus{
			Name:         r.Name,
			State:        storev1.RegistryStatus_State(r.State),
			LastError:    r.LastError,
			Revision:     r.Revision,
			Held:         uint64(r.Held),
			SetAside:     uint64(r.SetAside),
			LastSetAside: r.SetAsides,
			Shadowed:     uint64(r.Shadowed),
			Strategies:   stated(r),
		}
		st.Since, st.LastSuccess = o.times.of(r, now)
		if o.links != nil {
			st.Reporter = o.links.Reporter(r.Name)
		}
		m.Registries = append(m.Registries, st)
	}
	left := fitStrategies(m.Registries, maxStrategiesBytes)
	if left > 0 && o.left == 0 {
		o.log.Warn("registries state more strategies of services than can be told: write policies instead", "not_told", left)
	}
	o.left = left
	return m
}
