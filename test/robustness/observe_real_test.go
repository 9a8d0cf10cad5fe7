//go:build real && linux

package robustness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/farcall/farcall/test/robustness/history"
	"github.com/farcall/farcall/test/robustness/verdict"
)

// fresh is how old an observation may be that stands for now.
const fresh = 3 * time.Second

// sightings are what all observers saw last. Its methods are safe for concurrent use.
type sightings struct {
	rec *history.Recorder

	mu     sync.Mutex
	calmed time.Time            // when the last fault was over and the last call had ended
	at     map[string]time.Time // by observer: when it last showed anything
	views  map[sighting]string
	same   map[sighting]bool           // it was seen since its observer was lost sight of
	states map[sighting]string         // of clusters, without a service
	keys   map[string]map[string]int64 // by reader, and "store": the revision of each key
	probes map[string]time.Time        // by "agent to cluster": when the last call began that was answered
	failed map[string]error            // by the same, why the last one was not
}

// sighting is what an observer shows.
type sighting struct{ who, cluster, service string }

func newSightings(rec *history.Recorder) *sightings {
	return &sightings{
		rec: rec, at: map[string]time.Time{}, views: map[sighting]string{}, same: map[sighting]bool{}, states: map[sighting]string{},
		keys: map[string]map[string]int64{}, probes: map[string]time.Time{}, failed: map[string]error{},
	}
}

// calm says that nothing is wrong from now on.
func (s *sightings) calm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calmed = time.Now()
}

// view writes down what somebody shows, where it is something else than before or the first of a new
// process or stream.
func (s *sightings) view(v history.View) {
	slices.Sort(v.Instances)
	s.mu.Lock()
	defer s.mu.Unlock()
	at := sighting{v.Who, v.Cluster, v.Service}
	text := strings.Join(v.Instances, " ")
	if v.Unknown {
		text = "unknown " + text
	}
	s.at[v.Who] = time.Now()
	v.Began = v.Began || !s.same[at]
	s.same[at] = true
	if old, ok := s.views[at]; ok && old == text && !v.Began {
		return
	}
	s.views[at] = text
	s.rec.Add(history.Event{View: &v})
}

// lost says that an observer may be another process when it is seen next.
func (s *sightings) lost(who string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.same, func(at sighting, _ bool) bool { return at.who == who })
}

// cluster writes down what somebody says of a cluster.
func (s *sightings) cluster(c history.Cluster) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at[c.Who] = time.Now()
	s.states[sighting{c.Who, c.Name, ""}] = c.State
	s.rec.Add(history.Event{Cluster: &c})
}

// entry writes down a value that a reader was given.
func (s *sightings) entry(e history.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys[e.Who] == nil {
		s.keys[e.Who] = map[string]int64{}
	}
	if e.Deleted {
		delete(s.keys[e.Who], e.Key)
	} else {
		s.keys[e.Who][e.Key] = e.Revision
	}
	s.rec.Add(history.Event{Entry: &e})
}

// held gives the keys that a reader holds.
func (s *sightings) held(who string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.keys[who]))
}

// revision gives the revision at which a reader holds a key; 0 for none.
func (s *sightings) revision(who, key string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[who][key]
}

// probe notes whether a call that is only a look was answered.
func (s *sightings) probe(way string, began time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed[way] = err; err == nil {
		s.probes[way] = began
	}
}

// startObservers looks at everybody until stop, which joins what was started.
func (w *world) startObservers(ctx context.Context) (stop func()) {
	w.seen = newSightings(w.rec)
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, a := range w.agents() {
		conn := w.dial(a.grpc)
		for _, s := range services {
			running.Go(func() { w.watchAgent(ctx, a, conn, s.name) })
		}
		running.Go(func() { w.askAgent(ctx, a, conn) })
		running.Go(func() { w.probe(ctx, a) })
	}
	for _, s := range w.synchronizers {
		running.Go(func() { w.watchInstances(ctx, s) })
		running.Go(func() { w.listClusters(ctx, s) })
		running.Go(func() { w.watchFeed(ctx, s) })
	}
	running.Go(func() { w.watchStore(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

// disagreement is nil when everybody shows the truth of now, and each way of calls is open.
func (w *world) disagreement() error {
	truths := map[string]map[string][]string{}
	for _, name := range w.names {
		if !w.clusters[name].registry.honest() {
			return errors.New("the registry of " + name + " lies")
		}
		truths[name] = w.clusters[name].registry.truth()
	}
	var agents, whos []string
	for _, a := range w.agents() {
		agents = append(agents, a.name)
		whos = append(whos, verdict.Agent+a.name)
	}
	for _, s := range w.synchronizers {
		whos = append(whos, verdict.Synchronizer+s.id)
	}
	s := w.seen
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, who := range whos {
		if at := s.at[who]; time.Since(at) > fresh || at.Before(s.calmed) {
			return fmt.Errorf("%s was last seen at %s", who, at.Format(time.TimeOnly))
		}
		for cluster, services := range truths {
			if state := s.states[sighting{who, cluster, ""}]; state != "SYNCED" {
				return fmt.Errorf("%s says that %s is %q", who, cluster, state)
			}
			for service, have := range services {
				if shows := s.views[sighting{who, cluster, service}]; shows != strings.Join(have, " ") {
					return fmt.Errorf("%s shows %s of %s as [%s], and there are %v", who, service, cluster, shows, have)
				}
			}
		}
	}
	for _, a := range agents {
		for cluster := range truths {
			if way := a + " to " + cluster; s.probes[way].Before(s.calmed) || s.failed[way] != nil || s.probes[way].IsZero() {
				return fmt.Errorf("%s: no call was answered: %w", way, s.failed[way])
			}
		}
	}
	return s.behind(w)
}

// behind says which reader of the feed does not hold what the store does; mu is held.
func (s *sightings) behind(w *world) error {
	store := s.keys[verdict.Store]
	if len(store) == 0 {
		return errors.New("the store was not read yet")
	}
	for _, sync := range w.synchronizers {
		who := verdict.Feed + sync.id
		for key, revision := range store {
			if has := s.keys[who][key]; has < revision {
				return fmt.Errorf("%s has %s at revision %d, the store at %d", who, key, has, revision)
			}
		}
		for key := range s.keys[who] {
			if _, ok := store[key]; !ok {
				return fmt.Errorf("%s has %s, the store has not", who, key)
			}
		}
	}
	return nil
}
