package drift

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/farcall/farcall/agent/uplink"
	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
	"github.com/farcall/farcall/resolvers/intake"
	"github.com/farcall/farcall/synchronizer"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// registry is a resolver whose registry is the test: services of one size each.
type registry struct {
	mu      sync.Mutex
	ids     map[string][]string // by service
	changed chan struct{}
}

func newRegistry() *registry {
	return &registry{ids: map[string][]string{}, changed: make(chan struct{}, 1)}
}

func (r *registry) set(service string, ids ...string) {
	r.mu.Lock()
	r.ids[service] = ids
	r.mu.Unlock()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// fill makes so many services of so many instances.
func (r *registry) fill(services, instances int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range services {
		ids := make([]string, instances)
		for n := range ids {
			ids[n] = fmt.Sprintf("svc-%d-7d4b9c6f5-%05d", s, n)
		}
		r.ids[fmt.Sprint("svc-", s)] = ids
	}
}

func (r *registry) read() catalog.Update {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := catalog.Snapshot{Source: "all"}
	for service, ids := range r.ids {
		name := catalog.Name{Service: service}
		all.Services = append(all.Services, name)
		for n, id := range ids {
			all.Instances = append(all.Instances, &catalog.Instance{
				ID: catalog.ID{Name: name, Instance: id}, Address: fmt.Sprintf("10.0.%d.%d", n>>8&255, n&255), Port: 80, Weight: 1, Health: catalog.Healthy,
			})
		}
	}
	return catalog.Update{Full: true, Explicit: true, Snapshots: []catalog.Snapshot{all}}
}

// Run implements resolvers.Resolver.
func (r *registry) Run(ctx context.Context, out resolvers.Sink) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	out.Publish(r.read())
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			out.Confirm()
		case <-r.changed:
			out.Publish(r.read())
		}
	}
}

// control is a running synchronizer.
type control struct {
	addr    string
	stop    func()
	metrics *prometheus.Registry
	admin   adminv1.AdminClient
	feed    feedv1.FeedClient
}

func listen(t testing.TB, address string) net.Listener {
	t.Helper()
	var l net.Listener
	// The port of a synchronizer that was stopped may take a moment to be free.
	testkit.Eventually(t, testkit.Context(t), "listen", func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	return l
}

// run runs a synchronizer at an address, until the test ends or it is stopped.
func run(t testing.TB, address string, st store.Config, clusters map[string]*registry) *control {
	t.Helper()
	st.Federation = "test"
	cfg := synchronizer.Config{Federation: "test", ReplicaID: "r-" + address, Store: st}
	for name, r := range clusters {
		cfg.Clusters = append(cfg.Clusters, synchronizer.Cluster{Intake: intake.Config{Cluster: name, Registries: []intake.Registry{{Name: "reg", Resolver: r}}}})
	}
	c := &control{metrics: prometheus.NewRegistry()}
	deps := synchronizer.Deps{Log: testkit.Quiet(), Registry: c.metrics, GRPC: listen(t, address), HTTP: listen(t, "127.0.0.1:0")}
	c.addr = deps.GRPC.Addr().String()
	s, err := synchronizer.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	c.stop = testkit.Go(t, "synchronizer", s.Run)
	conn := dial(t, c.addr)
	c.admin, c.feed = adminv1.NewAdminClient(conn), feedv1.NewFeedClient(conn)
	return c
}

func dial(t testing.TB, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// agent is an uplink and what it holds.
type agent struct {
	node    string
	uplink  *uplink.Uplink
	metrics *prometheus.Registry
	stop    func()

	mu sync.Mutex
	m  *mirror.Mirror
}

// Attach implements uplink.Listener.
func (a *agent) Attach(m *mirror.Mirror) { a.mu.Lock(); defer a.mu.Unlock(); a.m = m }

// Changed implements uplink.Listener.
func (a *agent) Changed(mirror.Changes) {}

func (a *agent) mirror() *mirror.Mirror {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.m
}

func follow(t testing.TB, node, address string) *agent {
	t.Helper()
	a := &agent{node: node, metrics: prometheus.NewRegistry()}
	a.uplink = uplink.New(uplink.Config{
		Synchronizers: []string{address},
		Agent:         &catalogv1.Agent{Cluster: "east", Node: node, Incarnation: "i1", Address: "127.0.0.1:1"},
	}, uplink.Deps{Log: testkit.Quiet(), Metrics: a.metrics, Listener: a})
	a.stop = testkit.Go(t, "agent "+node, a.uplink.Run)
	return a
}

// holds is all that an agent acts by, as text.
func (a *agent) holds() string {
	m := a.mirror()
	if m == nil {
		return "nothing"
	}
	var out []string
	for _, c := range m.Clusters(time.Now()) {
		for _, n := range m.Names(c.Name) {
			list, _ := m.Instances(c.Name, n)
			for _, i := range list {
				out = append(out, i.Cluster+"/"+i.Instance)
			}
		}
	}
	for _, r := range m.Agents() {
		out = append(out, "agent:"+r.GetNode())
	}
	for _, p := range m.Policies().Set.Policies() {
		out = append(out, "policy:"+p.String())
	}
	return strings.Join(out, " ")
}

// sum is the value of a counter over all its labels that have one of these values, or any where none is
// given.
func sum(t testing.TB, r *prometheus.Registry, name string, values ...string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	total := 0.
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			wanted := len(values) == 0
			for _, l := range m.GetLabel() {
				for _, v := range values {
					wanted = wanted || l.GetValue() == v
				}
			}
			if wanted {
				total += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return total
}

// proxy carries the feed to one agent and spoils it.
type proxy struct {
	feedv1.UnimplementedFeedServer
	addr string
	to   feedv1.FeedClient

	mu    sync.Mutex
	spoil func(*feedv1.WatchResponse) []*feedv1.WatchResponse // gives what is sent in its place; nil: as it is
	mute  bool                                                // reports lose their digests, as those of an older agent
	came  []string                                            // the keys of changes that came, "-" before those that were deleted
}

// forget forgets what came.
func (p *proxy) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.came = nil
}

// sees reports whether a change of a key with this in it came, be it passed on or not.
func (p *proxy) sees(part string, deleted bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.came, func(key string) bool {
		return strings.Contains(key, part) && strings.HasPrefix(key, "-") == deleted
	})
}

func newProxy(t testing.TB, to feedv1.FeedClient) *proxy {
	t.Helper()
	l := listen(t, "127.0.0.1:0")
	p := &proxy{to: to, addr: l.Addr().String()}
	srv := grpc.NewServer()
	feedv1.RegisterFeedServer(srv, p)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { srv.Stop(); <-done })
	return p
}

func (p *proxy) set(spoil func(*feedv1.WatchResponse) []*feedv1.WatchResponse) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spoil = spoil
}

// Watch implements feedv1.FeedServer.
func (p *proxy) Watch(req *feedv1.WatchRequest, out grpc.ServerStreamingServer[feedv1.WatchResponse]) error {
	in, err := p.to.Watch(out.Context(), req)
	if err != nil {
		return err
	}
	for {
		m, err := in.Recv()
		if err != nil {
			return err
		}
		p.mu.Lock()
		for _, e := range m.GetEntries() {
			switch {
			case e.GetDeleted():
				p.came = append(p.came, "-"+e.GetKey())
			case !m.GetSnapshotBegin():
				p.came = append(p.came, e.GetKey())
			}
		}
		all := []*feedv1.WatchResponse{m}
		if p.spoil != nil {
			all = p.spoil(m)
		}
		p.mu.Unlock()
		for _, m := range all {
			if err := out.Send(m); err != nil {
				return err
			}
		}
	}
}

// Report implements feedv1.FeedServer.
func (p *proxy) Report(in grpc.ClientStreamingServer[feedv1.ReportRequest, feedv1.ReportResponse]) error {
	out, err := p.to.Report(in.Context())
	if err != nil {
		return err
	}
	for {
		m, err := in.Recv()
		if errors.Is(err, io.EOF) {
			resp, err := out.CloseAndRecv()
			if err != nil {
				return err
			}
			return in.SendAndClose(resp)
		}
		if err != nil {
			return err
		}
		p.mu.Lock()
		if p.mute {
			m.Digest = nil
		}
		p.mu.Unlock()
		if err := out.Send(m); err != nil {
			return err
		}
	}
}
