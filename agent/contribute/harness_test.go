package contribute

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
	"github.com/farcall/farcall/resolvers/intake"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// synchronizer is the far end of Contribute: it does what the test tells it to, faults and
// slowness included, and puts messages together as it must.
type synchronizer struct {
	feedv1.UnimplementedFeedServer
	address string
	server  *grpc.Server
	served  chan struct{}

	owner   bool
	reading sync.Mutex // held by a test: nothing is read

	mu      sync.Mutex
	refuse  error
	streams []*inflow
}

// inflow is one stream as the synchronizer sees it.
type inflow struct {
	owner bool
	out   chan *feedv1.ContributeResponse
	ended chan struct{}

	mu       sync.Mutex
	hello    *feedv1.Contributor
	standing *feedv1.Standing
	said     int // standings
	largest  int // message of a contribution
	messages int
	partial  map[string]*feedv1.Contribution
	got      []*feedv1.Contribution
}

func serve(t *testing.T, owner bool) *synchronizer {
	t.Helper()
	s := &synchronizer{owner: owner}
	s.start(t, "127.0.0.1:0")
	return s
}

func (s *synchronizer) start(t *testing.T, address string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s.address, s.server, s.served = l.Addr().String(), grpc.NewServer(), make(chan struct{})
	feedv1.RegisterFeedServer(s.server, s)
	server, served := s.server, s.served
	go func() {
		defer close(served)
		_ = server.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { server.Stop(); <-served })
}

func (s *synchronizer) stop() { s.server.Stop(); <-s.served }

func (s *synchronizer) Contribute(rpc grpc.BidiStreamingServer[feedv1.ContributeRequest, feedv1.ContributeResponse]) error {
	in := &inflow{owner: s.owner, out: make(chan *feedv1.ContributeResponse, 10), ended: make(chan struct{}), partial: map[string]*feedv1.Contribution{}}
	s.mu.Lock()
	s.streams = append(s.streams, in)
	refuse := s.refuse
	s.mu.Unlock()
	if refuse != nil {
		close(in.ended)
		return refuse
	}
	if err := rpc.Send(&feedv1.ContributeResponse{Owner: s.owner}); err != nil {
		close(in.ended)
		return err
	}
	go func() {
		defer close(in.ended)
		for {
			s.wait()
			m, err := rpc.Recv()
			if err != nil {
				return
			}
			in.take(m)
		}
	}()
	for {
		select {
		case m := <-in.out:
			if err := rpc.Send(m); err != nil {
				<-in.ended
				return err
			}
		case <-in.ended:
			return nil
		}
	}
}

// wait returns when no test holds up the reading.
func (s *synchronizer) wait() {
	s.reading.Lock()
	defer s.reading.Unlock()
}

func (in *inflow) take(m *feedv1.ContributeRequest) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if c := m.GetContributor(); c != nil {
		in.hello = c
	}
	if st := m.GetStanding(); st != nil {
		in.standing = st
		in.said++
	}
	c := m.GetContribution()
	if c == nil {
		return
	}
	in.messages++
	in.largest = max(in.largest, proto.Size(m))
	if p := in.partial[c.GetLink()]; p != nil && p.GetTerm() == c.GetTerm() {
		p.Snapshots = append(p.Snapshots, c.GetSnapshots()...)
		p.More = c.GetMore()
		c = p
	}
	in.partial[c.GetLink()] = c
	if !c.GetMore() {
		delete(in.partial, c.GetLink())
		in.got = append(in.got, c)
	}
}

// stream waits for the stream of that number, counted from 0, and its hello.
func (s *synchronizer) stream(t *testing.T, number int) *inflow {
	t.Helper()
	var in *inflow
	testkit.Eventually(t, testkit.Context(t), fmt.Sprintf("stream %d", number), func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.streams) <= number {
			return fmt.Errorf("%d streams", len(s.streams))
		}
		in = s.streams[number]
		in.mu.Lock()
		defer in.mu.Unlock()
		if in.hello == nil {
			return errors.New("no hello")
		}
		return nil
	})
	return in
}

func (in *inflow) grant(link string, term uint64) {
	in.out <- &feedv1.ContributeResponse{Owner: in.owner, Grants: []*feedv1.Grant{{Link: link, Term: term}}}
}

// standings gives how the agent stands, as words: "mdns@a complete", "file failed: gone".
func (in *inflow) standings() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.standing == nil {
		return "nothing said"
	}
	var out []string
	for _, l := range in.standing.GetLinks() {
		word := l.GetName()
		if l.GetComplete() {
			word += " complete"
		}
		if l.GetError() != "" {
			word += " failed: " + l.GetError()
		}
		if l.GetAge() != nil {
			word += " heard"
		}
		out = append(out, word)
	}
	return strings.Join(out, ", ")
}

// contributions gives what came, as words: "mdns@a/1 full explicit [a: default/cart/c1]".
func (in *inflow) contributions() []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	out := make([]string, 0, len(in.got))
	for _, c := range in.got {
		out = append(out, words(c))
	}
	return out
}

func words(c *feedv1.Contribution) string {
	w := fmt.Sprintf("%s/%d", c.GetLink(), c.GetTerm())
	if c.GetFull() {
		w += " full"
	}
	if c.GetExplicit() {
		w += " explicit"
	}
	if c.GetReset_() != "" {
		w += " reset(" + c.GetReset_() + ")"
	}
	sources := map[string]string{}
	for _, s := range c.GetSnapshots() {
		for _, i := range s.GetInstances() {
			sources[s.GetSource()] += " " + i.GetNamespace() + "/" + i.GetService() + "/" + i.GetId()
		}
		sources[s.GetSource()] += ""
	}
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		w += " [" + name + ":" + sources[name] + "]"
	}
	return w
}

func eventually(t *testing.T, what, want string, got func() string) {
	t.Helper()
	testkit.Eventually(t, testkit.Context(t), what, func() error {
		if have := got(); have != want {
			return fmt.Errorf("have %q, want %q", have, want)
		}
		return nil
	})
}

// sends waits until what came is this, the last line at least.
func (in *inflow) sends(t *testing.T, want ...string) {
	t.Helper()
	eventually(t, "contributions", strings.Join(want, "\n"), func() string { return strings.Join(in.contributions(), "\n") })
}

// registry is a resolver that does what the test tells it to, each in the goroutine of its Run.
type registry struct {
	name string
	do   chan func(resolvers.Sink) error
}

func newRegistry(name string) *registry {
	return &registry{name: name, do: make(chan func(resolvers.Sink) error)}
}

func (r *registry) Run(ctx context.Context, out resolvers.Sink) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case f := <-r.do:
			if err := f(out); err != nil {
				return err
			}
		}
	}
}

func (r *registry) publish(u catalog.Update) {
	r.do <- func(out resolvers.Sink) error { out.Publish(u); return nil }
}

func (r *registry) confirm() { r.do <- func(out resolvers.Sink) error { out.Confirm(); return nil } }

func (r *registry) fail(why string) {
	r.do <- func(out resolvers.Sink) error { out.Failed(errors.New(why)); return nil }
}

// update makes an update; a word is "source: id id".
func update(sources ...string) catalog.Update {
	var u catalog.Update
	for _, w := range sources {
		source, ids, _ := strings.Cut(w, ":")
		s := catalog.Snapshot{Source: source, Services: []catalog.Name{{Service: "cart"}}}
		for _, id := range strings.Fields(ids) {
			s.Instances = append(s.Instances, &catalog.Instance{
				ID: catalog.ID{Name: catalog.Name{Service: "cart"}, Instance: id}, Address: "10.0.0.1", Port: 80, Weight: 1,
			})
		}
		u.Snapshots = append(u.Snapshots, s)
	}
	return u
}

func full(sources ...string) catalog.Update {
	u := update(sources...)
	u.Full = true
	return u
}

// sink notes what a tap hands on.
type sink struct {
	mu       sync.Mutex
	updates  []catalog.Update
	confirms int
	failures []string
}

func (s *sink) Publish(u catalog.Update) {
	s.mu.Lock()
	s.updates = append(s.updates, u)
	s.mu.Unlock()
}
func (s *sink) Confirm() { s.mu.Lock(); s.confirms++; s.mu.Unlock() }
func (s *sink) Failed(err error) {
	s.mu.Lock()
	s.failures = append(s.failures, err.Error())
	s.mu.Unlock()
}

// rig is a Contributor under way, with its registries.
type rig struct {
	*Contributor
	metrics *prometheus.Registry
	sinks   []*sink
	stop    func()

	mu    sync.Mutex
	links []string // as the view was told last
	names map[string]string
}

// contributor starts a Contributor for these registries, each under the link of its own name.
func contributor(t *testing.T, addresses []string, registries ...*registry) *rig {
	t.Helper()
	r := &rig{metrics: prometheus.NewRegistry(), names: map[string]string{}}
	cfg := Config{Cluster: "edge", Node: "n1", Incarnation: "i1", Synchronizers: addresses}
	for _, reg := range registries {
		r.names[reg.name] = reg.name
		cfg.Links = append(cfg.Links, LinkSource{
			Registry: intake.Registry{Name: reg.name, Resolver: reg, Namespace: "shop"},
			Name:     func() string { r.mu.Lock(); defer r.mu.Unlock(); return r.names[reg.name] },
		})
	}
	var err error
	r.Contributor, err = New(cfg, Deps{Log: testkit.Log(t), Metrics: r.metrics, Links: func(l map[string]struct{}) {
		r.mu.Lock()
		r.links = slices.Sorted(maps.Keys(l))
		r.mu.Unlock()
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range r.Registries() {
		s := &sink{}
		r.sinks = append(r.sinks, s)
		testkit.Go(t, in.Name, func(ctx context.Context) error { return in.Resolver.Run(ctx, s) })
	}
	r.stop = testkit.Go(t, "contributor", r.Run)
	return r
}

func (r *rig) rename(registry, link string) {
	r.mu.Lock()
	r.names[registry] = link
	r.mu.Unlock()
}

func (r *rig) told() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.links, " ")
}

// metric gives the sum of a metric's values.
func (r *rig) metric(t *testing.T, name string) float64 {
	t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == "farcall_contribute_"+name {
			for _, m := range f.GetMetric() {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}
