package uplink

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
)

// fed is a store of a simulation as a synchronizer knows it: what it holds at its revision, and the
// changes that led there.
type fed struct {
	id      string
	rev     int64
	entries map[string]*feedv1.Entry
	log     []*feedv1.WatchResponse // one for each change; Revision is the one it leads to
	kept    int64                   // the changes after this revision are held still
}

func (f *fed) copy() *fed {
	c := *f
	c.entries, c.log = maps.Clone(f.entries), slices.Clone(f.log)
	return &c
}

// simWorld is the truth: three slices of one service and two of another in each of two clusters, and
// the store that holds them. Of cart something stands always; pay comes and goes.
type simWorld struct {
	rnd    *rand.Rand
	schema keys.Schema
	store  *fed
	old    *fed // a backup of it
	stores int
	wants  map[string][]string // ids by slice key
	epoch  map[string]uint64
	seq    uint64
	// owed are the clusters whose store has lost what it held; their owners write it again slice by
	// slice, their markers last.
	owed map[string][]keys.Key
}

var simClusters = []string{"east", "west"}

func newSimWorld(rnd *rand.Rand) *simWorld {
	schema, err := keys.New("test")
	if err != nil {
		panic(err) // a mistake in the test itself
	}
	w := &simWorld{rnd: rnd, schema: schema, wants: map[string][]string{}, epoch: map[string]uint64{"east": 1, "west": 1}, owed: map[string][]keys.Key{}}
	w.found(nil)
	for _, c := range simClusters {
		w.put(w.key(c, "cart", 0), "a", "b")
		w.mark(c)
	}
	w.old = w.store.copy()
	return w
}

func (w *simWorld) key(cluster, service string, slice uint32) keys.Key {
	return keys.Key{Kind: keys.Slice, Cluster: cluster, Name: catalog.Name{Namespace: "default", Service: service}, Slice: slice}
}

// found begins another store: an empty one, or an older copy of this one.
func (w *simWorld) found(copied *fed) {
	w.stores++
	f := &fed{rev: w.rnd.Int64N(5) + 1, entries: map[string]*feedv1.Entry{}}
	if copied != nil {
		f = copied.copy()
		f.rev++
	}
	f.id, f.log, f.kept = fmt.Sprint("s", w.stores), nil, f.rev
	w.store = f
}

// write is one transaction.
func (w *simWorld) write(entries ...*feedv1.Entry) {
	f := w.store
	f.rev++
	for _, e := range entries {
		e.Revision = f.rev
		if e.GetDeleted() {
			delete(f.entries, e.GetKey())
		} else {
			f.entries[e.GetKey()] = e
		}
	}
	f.log = append(f.log, &feedv1.WatchResponse{StoreId: f.id, Revision: f.rev, Entries: entries})
}

func (w *simWorld) encoded(k keys.Key, v proto.Message) *feedv1.Entry {
	b, err := keys.Encode(v)
	if err != nil {
		panic(err) // a mistake in the test itself
	}
	return &feedv1.Entry{Key: w.schema.Format(k), Value: b}
}

func (w *simWorld) slice(k keys.Key) *feedv1.Entry {
	w.seq++
	v := &storev1.Slice{Cluster: k.Cluster, Namespace: k.Name.Namespace, Service: k.Name.Service, Slice: k.Slice, Epoch: w.epoch[k.Cluster], Seq: w.seq}
	for _, id := range w.wants[w.schema.Format(k)] {
		v.Instances = append(v.Instances, &catalogv1.Instance{Cluster: k.Cluster, Namespace: k.Name.Namespace, Service: k.Name.Service, Id: id, Address: "10.0.0.1", Port: 80})
	}
	return w.encoded(k, v)
}

func (w *simWorld) put(k keys.Key, ids ...string) {
	w.wants[w.schema.Format(k)] = ids
	w.write(w.slice(k))
}

func (w *simWorld) mark(cluster string) {
	w.write(w.encoded(keys.Key{Kind: keys.Synced, Cluster: cluster}, &storev1.Synced{Cluster: cluster, Epoch: w.epoch[cluster]}))
}

// turn has something happen to the truth, or to its store.
func (w *simWorld) turn() string {
	c := simClusters[w.rnd.IntN(len(simClusters))]
	if len(w.owed[c]) > 0 {
		return w.refill(c)
	}
	pay := w.key(c, "pay", uint32(w.rnd.IntN(2)))
	spare := w.key(c, "cart", 1)
	_, spared := w.wants[w.schema.Format(spare)]
	switch p := w.rnd.IntN(40); {
	case p < 12: // an edit of what always stands
		w.put(w.key(c, "cart", 0), w.some()...)
		return "cart is edited"
	case p < 18 && spared: // it moves between slices, what comes before what goes
		delete(w.wants, w.schema.Format(spare))
		w.write(w.slice(w.key(c, "cart", 0)), &feedv1.Entry{Key: w.schema.Format(spare), Deleted: true})
		return "a slice of cart is merged"
	case p < 18:
		w.put(spare, "x", "y")
		return "cart has another slice"
	case p < 25:
		w.put(pay, w.some()...)
		return "pay is edited"
	case p < 32:
		delete(w.wants, w.schema.Format(pay))
		w.write(&feedv1.Entry{Key: w.schema.Format(pay), Deleted: true})
		return "pay goes"
	case p < 35:
		w.epoch[c]++
		w.write(w.slice(w.key(c, "cart", 0)))
		w.mark(c)
		return "another owner takes over"
	case p < 36:
		w.old = w.store.copy()
		return "a backup is made"
	case p < 38:
		return w.lose()
	}
	w.store.kept = w.store.rev // the store's history is compacted, and nobody holds the changes
	return "history is lost"
}

func (w *simWorld) some() []string {
	ids := []string{"a", "b", "c", "d", "e", "f"}
	w.rnd.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	return slices.Sorted(slices.Values(ids[:1+w.rnd.IntN(5)]))
}

// lose has the store wiped, or restored from a backup. Owners write it anew above all that was known.
func (w *simWorld) lose() string {
	what := "the store is wiped"
	if w.rnd.IntN(2) == 0 {
		what = "the store is restored"
		w.found(w.old)
	} else {
		w.found(nil)
	}
	for _, c := range simClusters {
		w.owe(c, w.epoch[c]+1)
	}
	return what
}

// owe has a cluster's owner write everything anew under an epoch.
func (w *simWorld) owe(c string, epoch uint64) {
	w.epoch[c], w.owed[c] = epoch, nil
	for _, service := range []string{"cart", "pay"} {
		for n := range uint32(2) {
			w.owed[c] = append(w.owed[c], w.key(c, service, n))
		}
	}
}

// demanded has owners take their clusters above the epochs that an agent reports, where theirs are
// below, and reports whether one was.
func (w *simWorld) demanded(epochs map[string]uint64) (any bool) {
	for _, c := range simClusters {
		if epochs[c] > w.epoch[c] {
			w.owe(c, epochs[c]+1)
			any = true
		}
	}
	if any {
		w.heal()
	}
	return any
}

func (w *simWorld) refill(c string) string {
	k := w.owed[c][0]
	w.owed[c] = w.owed[c][1:]
	key := w.schema.Format(k)
	if _, wanted := w.wants[key]; wanted {
		w.write(w.slice(k))
	} else if w.store.entries[key] != nil {
		w.write(&feedv1.Entry{Key: key, Deleted: true})
	}
	if len(w.owed[c]) == 0 {
		w.mark(c)
		return c + " is published again, and marked"
	}
	return c + " is being published again"
}

// heal brings the store to the truth.
func (w *simWorld) heal() {
	for _, c := range simClusters {
		for len(w.owed[c]) > 0 {
			w.refill(c)
		}
	}
}

// truth gives what is to be had of a service.
func (w *simWorld) truth(cluster, service string) []string {
	var ids []string
	for n := range uint32(2) {
		ids = append(ids, w.wants[w.schema.Format(w.key(cluster, service, n))]...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// parts is the digest of a store, made from scratch.
func (w *simWorld) parts(f *fed) map[string]uint64 {
	out := map[string]uint64{}
	for key, e := range f.entries {
		if k, err := w.schema.Parse(key); err == nil {
			if part, ok := mirror.PartOf(k); ok {
				out[part] += keys.Mark(key, e.GetRevision())
			}
		}
	}
	return out
}
