package links

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/durationpb"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers/intake"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// world is a cluster's links and its intake, both under way, and what the intake made of it.
type world struct {
	t       *testing.T
	c       *Cluster
	in      *intake.Intake
	metrics *Metrics

	mu     sync.Mutex
	known  []Known
	stored []*catalog.Instance
	lists  map[catalog.Name]intake.List
	least  int // the fewest instances that were listed since watch
	last   intake.Change
}

// newWorld makes a world in which nothing runs yet.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, lists: map[catalog.Name]intake.List{}}
	in, err := intake.New(intake.Config{Cluster: "edge", Open: true}, intake.Deps{Log: testkit.Quiet(), Metrics: intake.NewMetrics(prometheus.NewRegistry())})
	if err != nil {
		t.Fatal(err)
	}
	w.in, w.metrics = in, NewMetrics(prometheus.NewRegistry())
	w.c = New("edge", Deps{
		Log: testkit.Quiet(), Metrics: w.metrics, Registries: in, Reported: func() {},
		Known: func() []Known {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.known
		},
		Stored: func(link string) []*catalog.Instance {
			w.mu.Lock()
			defer w.mu.Unlock()
			return slices.DeleteFunc(slices.Clone(w.stored), func(i *catalog.Instance) bool { return i.Registry != link })
		},
	})
	return w
}

// start lets it run until the test ends. It is called in a bubble.
func (w *world) start() {
	testkit.Go(w.t, "intake", func(ctx context.Context) error { return w.in.Run(ctx, w.changed) })
	testkit.Go(w.t, "links", w.c.Run)
	synctest.Wait()
}

func begin(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.start()
	return w
}

func (w *world) changed(ch intake.Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.Copy(w.lists, ch.Services)
	w.last = ch
	w.least = min(w.least, w.count())
}

func (w *world) count() int {
	n := 0
	for _, l := range w.lists {
		n += len(l.Instances)
	}
	return n
}

// watch begins to look for the fewest instances that are listed at any moment.
func (w *world) watch() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.least = w.count()
}

// fewest gives how many were listed at the least since watch.
func (w *world) fewest() int {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.least
}

// complete says whether every link was read, as was told last.
func (w *world) complete() bool {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last.Complete
}

// wants compares all that is listed, as "id@registry" in order.
func (w *world) wants(what, want string) {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	var got []string
	for _, l := range w.lists {
		for _, i := range l.Instances {
			got = append(got, i.Instance+"@"+i.Registry)
		}
	}
	slices.Sort(got)
	if g := strings.Join(got, " "); g != want {
		w.t.Errorf("%s: %q is listed, want %q", what, g, want)
	}
}

// status gives "name STATE error" of each registry, and how many removals are held.
func (w *world) status() string {
	synctest.Wait()
	var out []string
	for _, r := range w.in.Status() {
		s := r.Name + " " + [...]string{"PENDING", "OK", "FAILED"}[r.State]
		if r.Held > 0 {
			s += fmt.Sprintf(" %d held", r.Held)
		}
		if r.LastError != "" {
			s += ": " + r.LastError
		}
		out = append(out, s)
	}
	return strings.Join(out, "; ")
}

func (w *world) wantStatus(what, want string) {
	w.t.Helper()
	if got := w.status(); got != want {
		w.t.Errorf("%s: the status is %q, want %q", what, got, want)
	}
}

func (w *world) wantDropped(reason string, want float64) {
	w.t.Helper()
	var m dto.Metric
	if err := w.metrics.dropped.WithLabelValues("edge", reason).Write(&m); err != nil {
		w.t.Fatal(err)
	}
	if got := m.GetCounter().GetValue(); got != want {
		w.t.Errorf("%v were dropped as %s, want %v", got, reason, want)
	}
}

// pass lets time go by in a bubble.
func pass(d time.Duration) {
	<-time.NewTimer(d).C
	synctest.Wait()
}

// agent is one that contributes. It runs in a goroutine of its own until the test ends or it
// leaves.
type agent struct {
	t    testing.TB
	c    *Cluster
	x    *Contributor
	node string
	stop func()

	mu      sync.Mutex
	poke    chan struct{}
	links   map[string]*hears
	granted map[string]uint64
	silent  bool // it takes grants and sends nothing for them
	mute    bool // it sends no standing either
}

// hears is one link as the agent hears it.
type hears struct {
	complete bool
	age      time.Duration
	failure  string
	services map[string][]string       // ids by service
	full     func() []*feedv1.Snapshot // where it is set, what the link lists instead of services
	queued   []*feedv1.Contribution
}

// join connects an agent that hears these links, all of them read.
func join(t testing.TB, c *Cluster, node string, links ...string) *agent {
	t.Helper()
	a := &agent{t: t, c: c, node: node, poke: make(chan struct{}, 1), links: map[string]*hears{}, granted: map[string]uint64{}}
	for _, l := range links {
		a.links[l] = &hears{complete: true, services: map[string][]string{}}
	}
	x, err := c.Join(time.Now(), &feedv1.Contributor{Cluster: "edge", Node: node, Incarnation: "of-" + node})
	if err != nil {
		t.Fatal(err)
	}
	a.x = x
	a.stop = testkit.Go(t, "agent "+node, a.run)
	return a
}

// joinSilent is join of an agent that takes grants and sends nothing for them: it is so before it
// has a link, so that nothing is sent before.
func joinSilent(t testing.TB, c *Cluster, node, link string) *agent {
	t.Helper()
	a := join(t, c, node)
	a.change(func() { a.silent, a.links[link] = true, &hears{complete: true, services: map[string][]string{}} })
	return a
}

func (a *agent) run(ctx context.Context) error {
	defer func() { a.x.Leave(time.Now()) }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		a.stand()
		a.send()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-a.poke:
		case <-a.x.Wake():
			a.mu.Lock()
			for _, g := range a.x.Next().GetGrants() {
				if g.GetTerm() == 0 {
					delete(a.granted, g.GetLink())
					continue
				}
				a.granted[g.GetLink()] = g.GetTerm()
				if l := a.links[g.GetLink()]; l != nil {
					l.queued = []*feedv1.Contribution{{Full: true, Snapshots: l.snapshots()}}
				}
			}
			a.mu.Unlock()
		}
	}
}

func (a *agent) stand() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mute {
		return
	}
	st := &feedv1.Standing{}
	for name, l := range a.links {
		st.Links = append(st.Links, &feedv1.Link{Name: name, Complete: l.complete, Age: durationpb.New(l.age), Error: l.failure})
	}
	a.take(&feedv1.ContributeRequest{Standing: st})
}

func (a *agent) send() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, l := range a.links {
		term, ok := a.granted[name]
		if !ok || a.silent || l.failure != "" {
			continue
		}
		for _, c := range l.queued {
			c.Link, c.Term = name, term
			a.take(&feedv1.ContributeRequest{Contribution: c})
		}
		l.queued = nil
	}
}

func (a *agent) take(req *feedv1.ContributeRequest) {
	if err := a.x.Take(time.Now(), req); err != nil {
		a.t.Errorf("%s: %v", a.node, err)
	}
}

// term gives the term under which the agent reports a link; 0 where it does not.
func (a *agent) term(link string) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.granted[link]
}

// change changes what the agent hears and wakes it.
func (a *agent) change(f func()) {
	a.mu.Lock()
	f()
	a.mu.Unlock()
	select {
	case a.poke <- struct{}{}:
	default:
	}
}

// lists makes a link list these instances of cart, as a plain read.
func (a *agent) lists(link string, ids ...string) { a.read(link, false, ids) }

// removes is lists where the registry says that what is missing was removed.
func (a *agent) removes(link string, ids ...string) { a.read(link, true, ids) }

func (a *agent) read(link string, explicit bool, ids []string) {
	a.change(func() {
		l := a.links[link]
		l.services["cart"] = ids
		l.queued = append(l.queued, &feedv1.Contribution{Explicit: explicit, Snapshots: []*feedv1.Snapshot{snapshot("cart", ids)}})
	})
	if _, in := a.t.(*testing.T); in {
		synctest.Wait()
	}
}

func (l *hears) snapshots() []*feedv1.Snapshot {
	if l.full != nil {
		return l.full()
	}
	var out []*feedv1.Snapshot
	for name, ids := range l.services {
		out = append(out, snapshot(name, ids))
	}
	return out
}

func snapshot(service string, ids []string) *feedv1.Snapshot {
	s := &feedv1.Snapshot{Source: service, Services: []*feedv1.ServiceName{{Namespace: "default", Service: service}}}
	for _, id := range ids {
		s.Instances = append(s.Instances, &catalogv1.Instance{Cluster: "edge", Namespace: "default", Service: service, Id: id, Address: "10.0.0.1", Port: 80, Weight: 1})
	}
	return s
}

// ids gives n names.
func ids(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("i%02d", i))
	}
	return out
}

// stored gives n instances as the store has them of a link.
func stored(link string, n int) []*catalog.Instance {
	var out []*catalog.Instance
	for _, id := range ids(n) {
		out = append(out, &catalog.Instance{ID: catalog.ID{Cluster: "edge", Name: catalog.Name{Namespace: "default", Service: "cart"}, Instance: id}, Address: "10.0.0.1", Port: 80, Registry: link})
	}
	return out
}

var errNotYet = errors.New("not yet")
