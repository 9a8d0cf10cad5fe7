//go:build real && linux

package robustness

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/farcall/farcall/test/robustness/history"
)

// registry is where a cluster keeps its instances. What it says may be a lie; what is true is told
// to the history, and not by what it says.
type registry interface {
	// config is the resolver's entry in both daemons' configuration, one line of YAML.
	config() string
	// truth gives the ids of each service's instances, in order.
	truth() map[string][]string
	// put and remove change the truth, and what the registry says unless it lies.
	put(i inst)
	remove(service, id string)
	// honest reports whether it says the truth now.
	honest() bool
}

// inst is an instance as a registry states it.
type inst struct {
	service, id, node string
	port              int
	revision          uint64 // when it was put; of Consul's
}

// services are what every cluster has, but for solo, which is in one: how many instances there are at
// first, and of how many altogether. cart is large enough for the five removals that the guard lets pass
// to be less than half of it.
var services = []struct {
	name        string
	first, pool int
	only        string // the one cluster that has it
}{{"cart", 12, 15, ""}, {"orders", 4, 6, ""}, {"solo", 2, 2, "zone"}}

// idOf names an instance: one name stands for one application of the whole federation.
func idOf(cluster, service string, n int) string {
	return fmt.Sprintf("%s-%s-%02d", cluster, service, n)
}

// book is what is true of a cluster's instances. Its methods are safe for concurrent use.
type book struct {
	rec     *history.Recorder
	cluster string
	how     string // how the registry tells of a removal: "explicit" or "absence"
	// say says what is true now; it is called with mu held.
	say func()

	mu    sync.Mutex
	list  map[string]map[string]inst // by service and id
	lying bool
	moves uint64
}

func newBook(w *world, cluster, how string) *book {
	return &book{rec: w.rec, cluster: cluster, how: how, list: map[string]map[string]inst{}}
}

func (b *book) put(i inst) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.list[i.service] == nil {
		b.list[i.service] = map[string]inst{}
	}
	b.moves++
	i.revision = b.moves
	b.list[i.service][i.id] = i
	b.tell(i.service)
	b.say()
}

func (b *book) remove(service, id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.list[service], id)
	b.moves++
	b.tell(service)
	b.say()
}

// tell writes the truth down, before anybody can hear of it.
func (b *book) tell(service string) {
	t := history.Truth{Cluster: b.cluster, Service: service, How: b.how, Instances: slices.Sorted(maps.Keys(b.list[service]))}
	for _, s := range services {
		for n := range s.pool {
			if s.name == service {
				t.Ever = append(t.Ever, idOf(b.cluster, service, n+1))
			}
		}
	}
	b.rec.Add(history.Event{Truth: &t})
}

func (b *book) truth() map[string][]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[string][]string{}
	for service, list := range b.list {
		out[service] = slices.Sorted(maps.Keys(list))
	}
	return out
}

func (b *book) honest() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.lying
}

// all gives the instances that there are, in order.
func (b *book) all() []inst {
	var out []inst
	for _, service := range slices.Sorted(maps.Keys(b.list)) {
		for _, id := range slices.Sorted(maps.Keys(b.list[service])) {
			out = append(out, b.list[service][id])
		}
	}
	return out
}

// newRegistry makes the registry of a cluster with its first truth, and starts its applications.
func newRegistry(w *world, c *cluster) registry {
	w.t.Helper()
	var r registry
	if c.name == "files" {
		r = newFileRegistry(w, c)
	} else {
		r = newConsul(w, c)
	}
	for _, s := range services {
		if s.only != "" && s.only != c.name {
			continue
		}
		for n := range s.pool {
			a := w.newApplication(c.name, s.name, idOf(c.name, s.name, n+1), c.agents[n%len(c.agents)].node)
			if n < s.first {
				r.put(a.inst)
			}
		}
	}
	return r
}
