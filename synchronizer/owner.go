package synchronizer

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/resolvers/intake"
)

// confirmEvery is how often the publishing loop says that its sources were confirmed. It is
// below the heartbeat's second, so that no heartbeat misses a confirmation.
const confirmEvery = 500 * time.Millisecond

// confirmWithin is how old the oldest registry's confirmation may be to pass for one of now: the
// second in which resolvers confirm, and one to spare.
const confirmWithin = 2 * time.Second

// own is the publishing loop of one cluster: it runs while this replica owns the cluster. The
// freshness of the cluster comes from here, so a loop that hangs makes the cluster stale even
// while the process and its connections live.
func (s *Synchronizer) own(ctx context.Context, term *store.Term) error {
	o := &owner{
		s: s, term: term,
		table:  s.tables[term.Cluster()],
		intake: s.intakes[term.Cluster()],
		log:    s.log.With("cluster", term.Cluster(), "epoch", term.Epoch()),
		since:  map[string]registrySince{},
	}
	for _, c := range s.cfg.Clusters {
		if c.Intake.Cluster == term.Cluster() {
			o.locality, o.labels = c.Locality, c.Labels
		}
	}
	o.log.Info("owns the cluster")
	defer o.log.Info("owns the cluster no more")
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
	log      *slog.Logger
	locality catalog.Locality
	labels   map[string]string

	full      bool // the first full publish of this term is done
	confirmed time.Time
	since     map[string]registrySince
}

type registrySince struct {
	state catalog.RegistryState
	at    time.Time
}

// publish writes what the table holds unpublished; all of it until the first full publish.
func (o *owner) publish(ctx context.Context) error {
	w := o.table.take(!o.full)
	lists := make(map[catalog.Name]store.List, len(w.lists))
	for n, l := range w.lists {
		lists[n] = o.keepUnread(n, l, w)
	}
	full := w.complete && !o.full
	if len(lists) > 0 || full {
		start := time.Now()
		if err := o.term.Publish(ctx, lists, full); err != nil {
			o.table.giveBack(w)
			return err
		}
		o.s.metrics.published.WithLabelValues(o.term.Cluster()).Inc()
		o.s.metrics.publishSeconds.Observe(time.Since(start).Seconds())
		o.full = o.full || full
	}
	return o.term.PutMeta(ctx, o.meta(w.registries))
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
	o.full = false
	return o.publish(ctx)
}

// keepUnread adds what the store holds of registries that were not read since this process
// began: a synchronizer that restarts while one of a cluster's registries is down must not
// take that registry's silence for an empty list.
func (o *owner) keepUnread(n catalog.Name, l intake.List, w work) store.List {
	out := store.List{Instances: l.Instances, Gone: l.Gone}
	if w.complete {
		return out
	}
	held, known := o.s.mirror.Instances(o.term.Cluster(), n)
	if known && l.Gone {
		out.Gone = false
	}
	var kept []*catalog.Instance
	for _, i := range held {
		unread := slices.ContainsFunc(w.registries, func(r catalog.RegistryStatus) bool {
			return r.Name == i.Registry && !r.Complete
		})
		if unread && !slices.ContainsFunc(l.Instances, func(x *catalog.Instance) bool { return x.ID == i.ID }) {
			kept = append(kept, i)
		}
	}
	if len(kept) > 0 {
		out.Gone = false
		out.Instances = append(slices.Clone(l.Instances), kept...)
		catalog.SortInstances(out.Instances)
	}
	return out
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

// meta describes the cluster for readers. Counts and revisions that move with every change are
// left out: the lists tell them, and a write per change more would be for nobody.
func (o *owner) meta(registries []catalog.RegistryStatus) *storev1.ClusterMeta {
	m := &storev1.ClusterMeta{Locality: o.locality.Proto(), Labels: o.labels}
	for _, r := range registries {
		since, ok := o.since[r.Name]
		if !ok || since.state != r.State {
			since = registrySince{state: r.State, at: time.Now()}
			o.since[r.Name] = since
		}
		m.Registries = append(m.Registries, &storev1.RegistryStatus{
			Name:         r.Name,
			State:        storev1.RegistryStatus_State(r.State),
			LastError:    r.LastError,
			Since:        timestamppb.New(since.at),
			Held:         uint64(r.Held),
			SetAside:     uint64(r.SetAside),
			LastSetAside: r.LastSetAside.String(),
		})
	}
	return m
}
