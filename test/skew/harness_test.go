package skew

import (
	"context"
	"errors"
	"net"
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
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
	"github.com/farcall/farcall/resolvers/intake"
	"github.com/farcall/farcall/synchronizer"
)

var cart = catalog.Name{Namespace: "default", Service: "cart"}

func keySchema(t testing.TB) keys.Schema {
	t.Helper()
	s, err := keys.New("test")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// carts is a registry that lists two instances of cart, and confirms that for ever.
type carts struct{}

// Run implements resolvers.Resolver.
func (carts) Run(ctx context.Context, out resolvers.Sink) error {
	all := catalog.Snapshot{Source: "all", Services: []catalog.Name{{Service: "cart"}}}
	for _, id := range []string{"a", "b"} {
		all.Instances = append(all.Instances, &catalog.Instance{
			ID: catalog.ID{Name: catalog.Name{Service: "cart"}, Instance: id}, Address: "10.0.0.1", Port: 80, Weight: 1, Health: catalog.Healthy,
		})
	}
	out.Publish(catalog.Update{Full: true, Explicit: true, Snapshots: []catalog.Snapshot{all}})
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			out.Confirm()
		}
	}
}

// control is a running synchronizer of this version: cluster west has a registry, edge its agents.
type control struct {
	stop    func()
	metrics *prometheus.Registry
	admin   adminv1.AdminClient
	feed    feedv1.FeedClient
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// run runs a synchronizer with the store in dir.
func run(t testing.TB, dir string) *control {
	t.Helper()
	cfg := synchronizer.Config{
		Federation: "test", ReplicaID: "r1",
		Store: store.Config{Federation: "test", Embedded: &store.EmbeddedConfig{DataDir: dir}},
		Clusters: []synchronizer.Cluster{
			{Intake: intake.Config{Cluster: "west", Registries: []intake.Registry{{Name: "reg", Resolver: carts{}}}}},
			{Intake: intake.Config{Cluster: "edge"}, ViaAgents: true},
		},
	}
	c := &control{metrics: prometheus.NewRegistry()}
	deps := synchronizer.Deps{Log: testkit.Quiet(), Registry: c.metrics, GRPC: listen(t), HTTP: listen(t)}
	s, err := synchronizer.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	c.stop = testkit.Go(t, "synchronizer", s.Run)
	conn := dial(t, deps.GRPC.Addr().String())
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

// serve runs a feed until the test ends or stop is called.
func serve(t testing.TB, feed feedv1.FeedServer) (address string, stop func()) {
	t.Helper()
	l, srv := listen(t), grpc.NewServer()
	feedv1.RegisterFeedServer(srv, feed)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with Stop
	}()
	stop = func() { srv.Stop(); <-done }
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// agent is an uplink of this version and what it holds.
type agent struct {
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

// mirror gives what it holds, nil before there is anything.
func (a *agent) mirror() *mirror.Mirror {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.m
}

func newAgent(file string, addresses ...string) *agent {
	a := &agent{metrics: prometheus.NewRegistry()}
	a.uplink = uplink.New(uplink.Config{
		Synchronizers: addresses, File: file,
		Agent: &catalogv1.Agent{Cluster: "east", Node: "n1", Incarnation: "i1", Address: "127.0.0.1:1"},
	}, uplink.Deps{Log: testkit.Quiet(), Metrics: a.metrics, Listener: a})
	return a
}

func follow(t testing.TB, file string, addresses ...string) *agent {
	t.Helper()
	a := newAgent(file, addresses...)
	a.stop = testkit.Go(t, "agent", a.uplink.Run)
	return a
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

var errNotYet = errors.New("not yet")

// withoutAge leaves out what goes with time.
func withoutAge(s string) string {
	return strings.NewReplacer(" STALE ", " ", " PROTECTED ", " ", " SYNCED ", " ").Replace(s)
}
