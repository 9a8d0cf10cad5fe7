package synchronizer

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/mirror"
)

// statuses gives the registries of a cluster as their owner described them, with what whoever
// answers knows better: how much each lists, and when those that are read were read last.
func (s *Synchronizer) statuses(c mirror.Cluster, now time.Time) []*storev1.RegistryStatus {
	if len(c.Meta.GetRegistries()) == 0 {
		return nil
	}
	counts := s.countByRegistry(c.Name)
	allOK := true
	for _, r := range c.Meta.GetRegistries() {
		allOK = allOK && r.GetState() == storev1.RegistryStatus_OK
	}
	var out []*storev1.RegistryStatus
	for _, r := range c.Meta.GetRegistries() {
		st := proto.CloneOf(r)
		st.Services, st.Instances = counts[r.GetName()].services, counts[r.GetName()].instances
		if st.GetState() == storev1.RegistryStatus_OK && st.GetLastSuccess() == nil {
			st.LastSuccess = lastRead(c, allOK, now)
		}
		out = append(out, st)
	}
	return out
}

// lastRead reckons when a registry was last read that its owner does not complain of. The
// cluster is as old as its oldest registry; where that one is broken, the others are as old as
// their owner's last word.
func lastRead(c mirror.Cluster, allOK bool, now time.Time) *timestamppb.Timestamp {
	switch {
	case !allOK && c.OwnerKnown:
		return timestamppb.New(now.Add(-c.OwnerAge))
	case c.AgeKnown:
		return timestamppb.New(now.Add(-c.Age))
	}
	return nil
}

type registryCount struct{ services, instances uint64 }

// countByRegistry counts what each registry of a cluster lists: instances by the registry that
// said so, and services with at least one of them.
func (s *Synchronizer) countByRegistry(cluster string) map[string]registryCount {
	counts := map[string]registryCount{}
	for _, n := range s.mirror.Names(cluster) {
		list, _ := s.mirror.Instances(cluster, n)
		here := map[string]uint64{}
		for _, i := range list {
			here[i.Registry]++
		}
		for registry, instances := range here {
			count := counts[registry]
			counts[registry] = registryCount{count.services + 1, count.instances + instances}
		}
	}
	return counts
}

// revisionEvery is how often a cluster's meta is written for the sake of revisions alone, which
// move with every read of some registries and are for people only.
const revisionEvery = 10 * time.Second

// description is what a cluster's owner last wrote of it.
type description struct {
	meta *storev1.ClusterMeta // nil: nothing, or it may have been changed
	at   time.Time
}

// due reports whether next is to be written: at once where it says anything new, once in a
// while where that is only revisions.
func (d description) due(next *storev1.ClusterMeta, now time.Time) bool {
	switch {
	case d.meta == nil:
		return true
	case proto.Equal(d.meta, next):
		return false
	}
	return now.Sub(d.at) >= revisionEvery || !proto.Equal(withoutRevisions(d.meta), withoutRevisions(next))
}

func withoutRevisions(m *storev1.ClusterMeta) *storev1.ClusterMeta {
	m = proto.CloneOf(m)
	for _, r := range m.GetRegistries() {
		r.Revision = ""
	}
	return m
}

// registryTimes is since when a registry is in a state, and when it was last read.
type registryTimes struct {
	state       storev1.RegistryStatus_State
	since, read *timestamppb.Timestamp
}

// times keeps, over one term, what people are told of when. It begins with what the owner before
// wrote: that a registry cannot be read does not begin anew with another owner.
type times map[string]registryTimes

func timesOf(before []*storev1.RegistryStatus) times {
	t := times{}
	for _, r := range before {
		t[r.GetName()] = registryTimes{r.GetState(), r.GetSince(), r.GetLastSuccess()}
	}
	return t
}

// of gives the times of a registry whose status is r now. read is unset while it is being read.
func (t times) of(r catalog.RegistryStatus, now time.Time) (since, read *timestamppb.Timestamp) {
	was, known := t[r.Name]
	is := registryTimes{state: storev1.RegistryStatus_State(r.State), since: was.since, read: was.read}
	if r.State == catalog.RegistryPending && known {
		// This process has not come to read it yet: nothing was learned.
		return was.since, was.read
	}
	if !known || was.state != is.state {
		is.since = timestamppb.New(now)
	}
	if !r.LastSuccess.IsZero() {
		is.read = timestamppb.New(r.LastSuccess)
	}
	t[r.Name] = is
	if r.State == catalog.RegistryOK && now.Sub(r.LastSuccess) <= mirror.StaleAfter {
		return is.since, nil
	}
	return is.since, is.read
}

// stated gives the strategies that a registry states, by "namespace/service".
func stated(r catalog.RegistryStatus) map[string]string {
	if len(r.Strategies) == 0 {
		return nil
	}
	all := make(map[string]string, len(r.Strategies))
	for n, kind := range r.Strategies {
		all[n.String()] = kind
	}
	return all
}

// maxStrategiesBytes bounds what all registries of a cluster state of strategies, in bytes. It stands
// in one value of the store, which etcd takes up to 1.5 MiB, and what agents report is theirs to
// choose: a cluster that cannot be described is not written at all.
const maxStrategiesBytes = 512 << 10

// fitStrategies leaves out strategies, those of the last registries first, until all fit into limit
// bytes, and gives how many it left out.
func fitStrategies(registries []*storev1.RegistryStatus, limit int) (left int) {
	for _, r := range registries {
		size := 0
		for n, word := range r.GetStrategies() {
			size += len(n) + len(word)
		}
		if size <= limit {
			limit -= size
			continue
		}
		some := map[string]string{}
		for _, n := range slices.Sorted(maps.Keys(r.GetStrategies())) {
			if limit -= len(n) + len(r.Strategies[n]); limit < 0 {
				break
			}
			some[n] = r.Strategies[n]
		}
		left += len(r.Strategies) - len(some)
		r.Strategies, limit = some, 0
	}
	return left
}
