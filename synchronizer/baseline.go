package synchronizer

import (
	"context"
	"strings"
	"time"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
	"github.com/farcall/farcall/internal/holds"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/resolvers/intake"
)

// recordEvery is how often the time that holds have left is written while nothing else of them
// changes. By so much a hold may last longer when its process begins anew.
const recordEvery = 10 * time.Second

// before gives what the store says of a cluster's registries, as far as it was read by now.
func (s *Synchronizer) before(now time.Time, cluster string) map[string]intake.Before {
	var instances []*catalog.Instance
	for _, n := range s.mirror.Names(cluster) {
		list, _ := s.mirror.Instances(cluster, n)
		instances = append(instances, list...)
	}
	return baseline(now, cluster, instances, s.mirror.Holds(cluster), s.mirror.Meta(cluster))
}

// baseline puts together by registry what was listed, held and stated by its word.
func baseline(now time.Time, cluster string, instances []*catalog.Instance, groups []*storev1.HoldGroup, meta *storev1.ClusterMeta) map[string]intake.Before {
	all := map[string]intake.Before{}
	for _, i := range instances {
		b := all[i.Registry]
		b.Instances = append(b.Instances, i)
		all[i.Registry] = b
	}
	for registry, held := range holds.Read(now, cluster, groups) {
		b := all[registry]
		b.Holds = held
		all[registry] = b
	}
	for _, r := range meta.GetRegistries() {
		if len(r.GetStrategies()) == 0 {
			continue
		}
		b := all[r.GetName()]
		b.Strategies = make(map[catalog.Name]string, len(r.GetStrategies()))
		for word, kind := range r.GetStrategies() {
			if namespace, service, ok := strings.Cut(word, "/"); ok {
				b.Strategies[catalog.Name{Namespace: namespace, Service: service}] = kind
			}
		}
		all[r.GetName()] = b
	}
	return all
}

// takeOver goes on from what the owner before left, as the term read it in the store: the mirror may
// not have come to that yet. It returns when the table has all of it. What a store says that has lost
// something since counts only where a registry was not read here yet, and links that the mirror knows
// are not forgotten for it.
func (o *owner) takeOver(ctx context.Context) error {
	found, err := o.term.Found(ctx)
	if err != nil {
		return err
	}
	o.found(found)
	now := time.Now()
	o.times = timesOf(o.s.statuses(o.before(now, found.Meta), now))
	if o.links != nil {
		known := knownLinks(found.Meta)
		if !found.Whole {
			known = append(known, knownLinks(o.s.mirror.Meta(o.term.Cluster()))...)
		}
		o.links.Adopt(now, known)
		o.links.Own(true)
	}
	handedOn := o.intake.Adopt(intake.Baseline{
		Registries: baseline(now, o.term.Cluster(), found.Instances, found.Holds, found.Meta),
		Whole:      found.Whole, Unread: !found.Whole,
	})
	select {
	case <-handedOn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// found notes which services the store has.
func (o *owner) found(f store.Found) {
	o.stored = make(map[catalog.Name]struct{}, len(f.Names))
	for _, n := range f.Names {
		o.stored[n] = struct{}{}
	}
}

// before gives the cluster as the owner before left it, with what the mirror knows of its age.
func (o *owner) before(now time.Time, meta *storev1.ClusterMeta) mirror.Cluster {
	for _, c := range o.s.mirror.Clusters(now) {
		if c.Name == o.term.Cluster() {
			if meta != nil {
				c.Meta = meta
			}
			return c
		}
	}
	return mirror.Cluster{Name: o.term.Cluster(), Meta: meta}
}

// recorded is what the store was told of holds last.
type recorded struct {
	moves uint64 // of the intake's, as they were counted then
	at    time.Time
}

// record writes what is held, where it may have changed, and now and then for the time that is left.
func (o *owner) record(ctx context.Context) error {
	now, moves := time.Now(), o.intake.Moves()
	if moves == o.recorded.moves && (o.intake.Held() == 0 || now.Sub(o.recorded.at) < recordEvery) {
		return nil
	}
	var groups []*storev1.HoldGroup
	for held := o.intake.Holds(); len(held) > 0; {
		registry := held[0].Registry
		var of []guard.Hold
		for len(held) > 0 && held[0].Registry == registry {
			of, held = append(of, held[0].Hold), held[1:]
		}
		groups = append(groups, holds.Record(now, registry, of)...)
	}
	if err := o.term.PutHolds(ctx, groups); err != nil {
		return err
	}
	o.recorded = recorded{moves, now}
	return nil
}
