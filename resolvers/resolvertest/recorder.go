package resolvertest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

// What a resolver may break by the mere order of its calls. Each error is the promise.
var (
	errBrokeFirstFull  = errors.New("the first update of a Run must be Full")
	errBrokeConfirm    = errors.New("a Run must not confirm before it published: there is nothing to confirm")
	errBrokeSilence    = errors.New("the sink must not be called after Run returned")
	errBrokeOneCaller  = errors.New("the sink must be called by one goroutine at a time")
	errBrokeImmutable  = errors.New("what was published must not be changed afterwards")
	errBrokeExplicit   = errors.New("an update must say Explicit exactly where the registry says that instances were removed on purpose")
	errBrokeStaysGone  = errors.New("an instance that was removed must not come back by itself")
	errBrokeNilReturn  = errors.New("Run must not return nil")
	errBrokeLastReturn = errors.New("Run must return the context's error once its context is done")
	errBrokePromptness = errors.New("Run must return within a second of its context's end")
)

// recorder keeps what a resolver told its sinks, over several Runs, and checks as it goes
// what holds of every resolver at every time. Its methods may be called concurrently.
type recorder struct {
	own      []string
	explicit bool
	id       func(*catalog.Instance) string

	mu        sync.Mutex
	run       int                         // counts Runs
	sources   map[string]catalog.Snapshot // of the present Run; nil before its first Full
	published []kept
	alive     []time.Time // every Publish and Confirm
	failures  int
	lastFail  error
	gone      map[string]bool // key of instances that must not be listed
	unseen    map[string]bool // key of instances whose removal the resolver could not see happen
	broken    []error
}

type kept struct {
	update catalog.Update
	print  string
	run    int
	listed map[string]bool // instances listed after this update
}

func newRecorder(reg *Registry) *recorder {
	r := &recorder{own: reg.Own, explicit: reg.Explicit, id: reg.ID, gone: map[string]bool{}, unseen: map[string]bool{}}
	if r.id == nil {
		r.id = func(i *catalog.Instance) string { return i.Instance }
	}
	return r
}

// sink begins a Run. The sink of the Run before is closed by returned.
func (r *recorder) sink() *sink {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.run++
	r.sources = nil
	return &sink{r: r}
}

func (r *recorder) breaks(err error, format string, args ...any) {
	r.broken = append(r.broken, fmt.Errorf("%w: %s", err, fmt.Sprintf(format, args...)))
}

// sink is one Run's.
type sink struct {
	r    *recorder
	busy atomic.Bool
	done bool // guarded by r.mu
}

var _ resolvers.Sink = (*sink)(nil)

// enter locks the recorder; the caller leaves.
func (s *sink) enter(what string) {
	alone := s.busy.CompareAndSwap(false, true)
	s.r.mu.Lock()
	if !alone {
		s.r.breaks(errBrokeOneCaller, "%s came during another call", what)
	}
	if s.done {
		s.r.breaks(errBrokeSilence, "%s", what)
	}
}

func (s *sink) leave() {
	s.r.mu.Unlock()
	s.busy.Store(false)
}

func (s *sink) returned() {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.done = true
}

func (s *sink) Publish(u catalog.Update) {
	s.enter("Publish")
	defer s.leave()
	r := s.r
	r.alive = append(r.alive, time.Now())
	if r.sources == nil {
		if !u.Full {
			r.breaks(errBrokeFirstFull, "run %d began with sources %v", r.run, sourcesOf(u))
		}
		r.sources = map[string]catalog.Snapshot{}
	}
	before := r.listed()
	if u.Full {
		clear(r.sources)
	}
	for _, snap := range u.Snapshots {
		r.sources[snap.Source] = snap
	}
	after := r.listed()
	for key := range before {
		if !after[key] && u.Explicit != r.explicit && !(r.explicit && r.unseen[key]) {
			r.breaks(errBrokeExplicit, "%s went with Explicit=%t", key, u.Explicit)
		}
	}
	for key := range after {
		if r.gone[key] {
			r.breaks(errBrokeStaysGone, "%s in run %d", key, r.run)
		}
	}
	r.published = append(r.published, kept{update: u, print: print(u), run: r.run, listed: after})
}

func (s *sink) Confirm() {
	s.enter("Confirm")
	defer s.leave()
	s.r.alive = append(s.r.alive, time.Now())
	if s.r.sources == nil {
		s.r.breaks(errBrokeConfirm, "run %d", s.r.run)
	}
}

func (s *sink) Failed(err error) {
	s.enter("Failed")
	defer s.leave()
	s.r.failed(err)
}

func (r *recorder) failed(err error) {
	r.failures++
	r.lastFail = err
}

func sourcesOf(u catalog.Update) []string {
	var names []string
	for _, s := range u.Snapshots {
		names = append(names, s.Source)
	}
	return names
}

// print is the whole content of an update, to see later whether somebody wrote into it.
func print(u catalog.Update) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%t %t %q %q\n", u.Full, u.Explicit, u.Reset, u.Revision)
	for _, s := range u.Snapshots {
		fmt.Fprintf(&b, "%q %q %q %q\n", s.Source, s.Services, s.Strategies, s.SetAside)
		for _, i := range s.Instances {
			fmt.Fprintf(&b, "%#v\n", *i) // not by its String, which leaves out most of it
		}
	}
	return b.String()
}

func key(service, id string) string { return service + "/" + id }

// instances gives what the present Run lists, by key. The caller holds r.mu.
func (r *recorder) instances() map[string]*catalog.Instance {
	all := map[string]*catalog.Instance{}
	for _, name := range slices.Sorted(maps.Keys(r.sources)) {
		for _, in := range r.sources[name].Instances {
			if !slices.Contains(r.own, in.Service) {
				all[key(in.Service, r.id(in))] = in
			}
		}
	}
	return all
}

// listed is the set of keys of instances. The caller holds r.mu.
func (r *recorder) listed() map[string]bool {
	set := map[string]bool{}
	for k := range r.instances() {
		set[k] = true
	}
	return set
}

// listedBy is the number of instances that stood in the list after the n-th update.
func (r *recorder) listedBy(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.published[n].listed)
}

// names is the set of services that the present Run states to exist.
func (r *recorder) names() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	set := map[string]bool{}
	for _, snap := range r.sources {
		for _, n := range snap.Services {
			if !slices.Contains(r.own, n.Service) {
				set[n.Service] = true
			}
		}
	}
	return set
}

// forbid says that instances were removed: from now on, listing them is a resurrection.
func (r *recorder) forbid(keys ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range keys {
		r.gone[k] = true
	}
}

// missed says that an instance was removed while the registry could not be read: also where
// removals are explicit, this one may be told as an absence, as nobody saw it happen.
func (r *recorder) missed(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unseen[key] = true
}

// counts says how often the sinks were published to and how often they heard of a failure.
func (r *recorder) counts() (published, failures int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.published), r.failures
}

// longestGap is the longest time between two signs of life from since until now.
func (r *recorder) longestGap(since, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	var longest time.Duration
	last := since
	for _, at := range append(slices.Clone(r.alive), now) {
		if at.After(since) {
			longest = max(longest, at.Sub(last))
			last = at
		}
	}
	return longest
}

// differs says how the list differs from want, or nil.
func (r *recorder) differs(want []catalog.Instance) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sources == nil {
		if r.lastFail != nil {
			return fmt.Errorf("nothing was published yet; the last failure: %w", r.lastFail)
		}
		return errors.New("nothing was published yet")
	}
	have := r.instances()
	var lines []string
	for _, w := range want {
		k := key(w.Service, w.Instance)
		h, ok := have[k]
		delete(have, k)
		switch {
		case !ok:
			lines = append(lines, k+" is missing")
		case h.Address != w.Address || h.Port != w.Port || h.Health != w.Health:
			lines = append(lines, fmt.Sprintf("%s is %s:%d %s, want %s:%d %s", k, h.Address, h.Port, h.Health, w.Address, w.Port, w.Health))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(have)) {
		lines = append(lines, k+" is listed and should not be")
	}
	if len(lines) == 0 {
		return nil
	}
	return errors.New(strings.Join(lines, "; "))
}

// verdict returns every promise broken so far.
func (r *recorder) verdict() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	broken := slices.Clone(r.broken)
	for i, k := range r.published {
		if print(k.update) != k.print {
			broken = append(broken, fmt.Errorf("%w: update %d of run %d", errBrokeImmutable, i, k.run))
		}
	}
	return errors.Join(broken...)
}
