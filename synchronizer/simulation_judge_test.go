package synchronizer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/store/storetest"
)

// What a schedule must never show, by the invariants of the fault matrix.
var (
	errWentBack     = errors.New("I2: what a reader holds went back")
	errFenced       = errors.New("I2: somebody wrote a cluster that is not its owner")
	errSharedEpoch  = errors.New("I2: two terms wrote under one epoch")
	errStoreBack    = errors.New("I2: what is written went back within one store")
	errOwnerReplace = errors.New("F23: an owner was replaced that had not gone")
	errLost         = errors.New("I3: a reader lost what its cluster did not remove")
	errInvented     = errors.New("I1: a reader holds what never was")
	errNotConverged = errors.New("I1, I8: a reader did not come to the truth")
	errTakeOver     = errors.New("F8: a dead owner's cluster was not taken over in time")
)

// truth is what the registries of all clusters say. Its instances carry in their port how often
// each was changed, so that what a reader holds tells how old it is.
type truth struct {
	mu      sync.Mutex
	lists   map[string]map[catalog.Name]map[string]*catalog.Instance
	changes map[catalog.ID]int // how often an instance was put
	gone    map[catalog.ID]int // how often it had been put when it was removed last
	changed map[string]chan struct{}
}

func newTruth(clusters []string) *truth {
	tr := &truth{
		lists:   map[string]map[catalog.Name]map[string]*catalog.Instance{},
		changes: map[catalog.ID]int{}, gone: map[catalog.ID]int{}, changed: map[string]chan struct{}{},
	}
	for _, c := range clusters {
		tr.lists[c] = map[catalog.Name]map[string]*catalog.Instance{}
		tr.changed[c] = make(chan struct{})
	}
	return tr
}

// put adds an instance, or changes the one that there is.
func (tr *truth) put(cluster string, n catalog.Name, ids ...string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.lists[cluster][n] == nil {
		tr.lists[cluster][n] = map[string]*catalog.Instance{}
	}
	for _, id := range ids {
		i := &catalog.Instance{ID: catalog.ID{Cluster: cluster, Name: n, Instance: id}, Node: "n1", Address: "10.0.0.1", Weight: 1, Registry: "r"}
		tr.changes[i.ID]++
		i.Port = tr.changes[i.ID]
		tr.lists[cluster][n][id] = i
	}
	tr.signal(cluster)
}

// remove takes an instance out; an empty id takes out the service.
func (tr *truth) remove(cluster string, n catalog.Name, id string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, i := range tr.lists[cluster][n] {
		if id == "" || i.Instance == id {
			tr.gone[i.ID] = i.Port
			delete(tr.lists[cluster][n], i.Instance)
		}
	}
	if id == "" {
		delete(tr.lists[cluster], n)
	}
	tr.signal(cluster)
}

func (tr *truth) signal(cluster string) {
	close(tr.changed[cluster])
	tr.changed[cluster] = make(chan struct{})
}

// of gives what the registries of a cluster say, and a channel that is closed when that changes.
func (tr *truth) of(cluster string) (map[catalog.Name][]*catalog.Instance, <-chan struct{}) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	out := map[catalog.Name][]*catalog.Instance{}
	for n, all := range tr.lists[cluster] {
		list := slices.Collect(maps.Values(all))
		catalog.SortInstances(list)
		out[n] = list
	}
	return out, tr.changed[cluster]
}

// judge looks at one reader after everything that it applied.
type judge struct {
	s     *simulation
	who   string
	m     *mirror.Mirror
	lists map[string]map[catalog.Name][]*catalog.Instance
	metas map[string]*storev1.ClusterMeta
	deep  bool
	keys  map[string]position
}

// position is where a value stands among those of its key.
type position struct{ epoch, seq uint64 }

func (a position) before(b position) bool {
	return a.epoch < b.epoch || a.epoch == b.epoch && a.seq < b.seq
}

func (s *simulation) judge(who string, m *mirror.Mirror) *judge {
	j := &judge{s: s, who: who, m: m, deep: s.deep, keys: map[string]position{},
		lists: map[string]map[catalog.Name][]*catalog.Instance{}, metas: map[string]*storev1.ClusterMeta{}}
	for _, c := range s.clusters {
		j.lists[c] = map[catalog.Name][]*catalog.Instance{}
	}
	return j
}

// look compares what the reader holds with what it held before.
func (j *judge) look() {
	for _, c := range j.s.clusters {
		for _, n := range j.s.services {
			list, _ := j.m.Instances(c, n)
			was := j.lists[c][n]
			if len(list) == len(was) && (len(list) == 0 || &list[0] == &was[0]) {
				continue
			}
			j.lists[c][n] = list
			j.compare(was, list)
		}
		is := j.m.Meta(c)
		if was := j.metas[c]; was != nil && is != nil && (position{is.GetEpoch(), is.GetSeq()}).before(position{was.GetEpoch(), was.GetSeq()}) {
			j.s.violated(errWentBack, "%s: description of %s: %d.%d after %d.%d", j.who, c, is.GetEpoch(), is.GetSeq(), was.GetEpoch(), was.GetSeq())
		}
		j.metas[c] = is
	}
	if j.deep {
		j.lookDeep()
	}
}

// compare judges a list after another one of the same service. Both are in the order of identities.
func (j *judge) compare(was, is []*catalog.Instance) {
	tr := j.s.truth
	tr.mu.Lock()
	defer tr.mu.Unlock()
	now := make(map[string]*catalog.Instance, len(is))
	for _, i := range is {
		now[i.Instance] = i
		if i.Port > tr.changes[i.ID] {
			j.s.violated(errInvented, "%s: %s as of change %d of %d", j.who, i.ID, i.Port, tr.changes[i.ID])
		}
	}
	for _, i := range was {
		switch n := now[i.Instance]; {
		case n == nil && tr.gone[i.ID] < i.Port && !j.s.deceived.Load():
			j.s.trace("lost", "who", j.who, "was", spell(was), "is", spell(is))
			j.s.violated(errLost, "%s: %s as of change %d; it was removed last as of change %d", j.who, i.ID, i.Port, tr.gone[i.ID])
		case n != nil && n.Port < i.Port && !j.s.deceived.Load():
			j.s.violated(errWentBack, "%s: %s: change %d after %d", j.who, i.ID, n.Port, i.Port)
		}
	}
}

// lookDeep compares the position of every value.
func (j *judge) lookDeep() {
	_, _, entries, err := j.m.Save(time.Now())
	if err != nil {
		j.s.violated(errWentBack, "%s: what is held cannot be saved: %v", j.who, err)
		return
	}
	next := make(map[string]position, len(entries))
	for _, e := range entries {
		k, err := j.s.schema.Parse(e.GetKey())
		if err != nil || k.Kind != keys.Slice && k.Kind != keys.Meta || e.GetDeleted() {
			continue
		}
		p, ok := positionOf(k.Kind, e.GetValue())
		if !ok {
			continue
		}
		next[e.GetKey()] = p
		if was, held := j.keys[e.GetKey()]; held && p.before(was) {
			j.s.violated(errWentBack, "%s: %s: %v after %v", j.who, e.GetKey(), p, was)
		}
	}
	j.keys = next
}

// positionOf reads where a value of a cluster stands.
func positionOf(kind keys.Kind, value []byte) (position, bool) {
	switch kind {
	case keys.Slice:
		var v storev1.Slice
		err := keys.Decode(value, &v)
		return position{v.GetEpoch(), v.GetSeq()}, err == nil
	case keys.Meta:
		var v storev1.ClusterMeta
		err := keys.Decode(value, &v)
		return position{v.GetEpoch(), v.GetSeq()}, err == nil
	case keys.Holds:
		var v storev1.Holds
		err := keys.Decode(value, &v)
		return position{v.GetEpoch(), v.GetSeq()}, err == nil
	case keys.Synced:
		var v storev1.Synced
		err := keys.Decode(value, &v)
		return position{epoch: v.GetEpoch()}, err == nil
	}
	return position{}, false
}

// clerk judges every commit of the store.
type clerk struct {
	s      *simulation
	last   map[string]position         // by cluster: the last that was written in this store
	holder map[string]map[uint64]int64 // by cluster and epoch: the owner key under which it was written
}

func newClerk(s *simulation) *clerk {
	c := &clerk{s: s}
	c.reset()
	return c
}

// reset is the store's word that it is another one.
func (c *clerk) reset() {
	c.last, c.holder = map[string]position{}, map[string]map[uint64]int64{}
	for _, name := range c.s.clusters {
		c.holder[name] = map[uint64]int64{}
	}
}

// observe is called under the store's lock.
func (c *clerk) observe(commit *storetest.Commit) {
	c.s.noteOwners(commit)
	if commit.By == "" {
		return
	}
	for _, ch := range commit.Changes {
		key := ""
		if ch.Is != nil {
			key = string(ch.Is.Key)
		} else {
			key = string(ch.Was.Key)
		}
		k, err := c.s.schema.Parse(key)
		switch {
		case err != nil:
			c.s.violated(errInvented, "key %s", key)
		case k.Kind == keys.Owner && ch.Was != nil && ch.Is != nil && ch.Was.Lease != ch.Is.Lease:
			c.s.violated(errOwnerReplace, "%s by %s", key, commit.By)
		case k.Kind == keys.Slice && *schedules == 1:
			c.tell(commit, k, ch)
			c.written(commit, k, ch)
		case k.Kind == keys.Slice, k.Kind == keys.Meta, k.Kind == keys.Holds, k.Kind == keys.Synced && ch.Is != nil:
			c.written(commit, k, ch)
		}
	}
}

// tell writes a change of a list into the log of a schedule that is run alone.
func (c *clerk) tell(commit *storetest.Commit, k keys.Key, ch storetest.Change) {
	var v storev1.Slice
	if ch.Is == nil || keys.Decode(ch.Is.Value, &v) != nil {
		c.s.trace("a list is gone", "revision", commit.Revision, "by", commit.By, "cluster", k.Cluster, "service", k.Name)
		return
	}
	var list []*catalog.Instance
	for _, i := range v.GetInstances() {
		list = append(list, catalog.InstanceFromProto(i))
	}
	c.s.trace("a list is written", "revision", commit.Revision, "by", commit.By, "cluster", k.Cluster, "service", k.Name, "slice", k.Slice,
		"epoch", v.GetEpoch(), "seq", v.GetSeq(), "list", spell(list))
}

// written judges a write of what belongs to a cluster.
func (c *clerk) written(commit *storetest.Commit, k keys.Key, ch storetest.Change) {
	owner := commit.Before(c.s.schema.Format(keys.Key{Kind: keys.Owner, Cluster: k.Cluster}))
	if owner == nil || c.s.etcd.Grantee(owner.Lease) != commit.By {
		by := "nobody"
		if owner != nil {
			by = c.s.etcd.Grantee(owner.Lease)
		}
		c.s.violated(errFenced, "%s wrote %s of %s, which is %s's", commit.By, k.Kind, k.Cluster, by)
		return
	}
	if ch.Is == nil {
		return
	}
	p, ok := positionOf(k.Kind, ch.Is.Value)
	if !ok {
		c.s.violated(errInvented, "%s wrote a %s that cannot be read", commit.By, k.Kind)
		return
	}
	if by, used := c.holder[k.Cluster][p.epoch]; used && by != owner.CreateRevision {
		c.s.violated(errSharedEpoch, "%s: epoch %d", k.Cluster, p.epoch)
	}
	c.holder[k.Cluster][p.epoch] = owner.CreateRevision
	last := c.last[k.Cluster]
	switch {
	case k.Kind == keys.Synced && p.epoch < last.epoch, k.Kind != keys.Synced && !last.before(p):
		c.s.violated(errStoreBack, "%s: %s of %v after %v", k.Cluster, k.Kind, p, last)
	case k.Kind != keys.Synced:
		c.last[k.Cluster] = p
	}
}

// untrue gives the first way in which a reader's lists are not the truth.
func (s *simulation) untrue(m *mirror.Mirror) string {
	for _, c := range s.clusters {
		want, _ := s.truth.of(c)
		if got := m.Names(c); len(got) != len(want) {
			return fmt.Sprintf("services of %s are %v, not %v", c, got, slices.SortedFunc(maps.Keys(want), catalog.Name.Compare))
		}
		for _, n := range slices.SortedFunc(maps.Keys(want), catalog.Name.Compare) {
			got, _ := m.Instances(c, n)
			list := want[n]
			if !slices.EqualFunc(got, list, (*catalog.Instance).Equal) {
				return fmt.Sprintf("%s of %s is %s, not %s", n, c, spell(got), spell(list))
			}
		}
	}
	return ""
}

func spell(list []*catalog.Instance) string {
	var words []string
	for _, i := range list {
		words = append(words, fmt.Sprintf("%s:%d", i.Instance, i.Port))
	}
	return "[" + strings.Join(words, " ") + "]"
}

// lists gives what is to be published so that a cluster comes to the truth, beginning from what was
// published last.
func lists(last, now map[catalog.Name][]*catalog.Instance) map[catalog.Name]store.List {
	out := map[catalog.Name]store.List{}
	for n, list := range now {
		if was, ok := last[n]; !ok || !slices.Equal(was, list) {
			out[n] = store.List{Instances: list}
		}
	}
	for n := range last {
		if _, ok := now[n]; !ok {
			out[n] = store.List{Gone: true}
		}
	}
	return out
}
