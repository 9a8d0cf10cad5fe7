package synchronizer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
	"github.com/farcall/farcall/resolvers/intake"
)

// registry is a resolver whose registry is the test.
type registry struct {
	mu       sync.Mutex
	list     []*catalog.Instance
	strategy string // that it states for cart; empty: none
	broken   error
	absence  bool // what is not in its list is absent, not removed on purpose
	nameless bool // a list without instances names no service
	reads    int  // where it is above 0, each read has a revision of its own
	changed  chan struct{}
}

var _ resolvers.Resolver = (*registry)(nil)

func newRegistry(ids ...string) *registry {
	r := &registry{changed: make(chan struct{}, 1)}
	r.set(ids...)
	return r
}

// set makes the registry hold these instances of cart.
func (r *registry) set(ids ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = nil
	for _, id := range ids {
		r.list = append(r.list, &catalog.Instance{
			ID:      catalog.ID{Name: catalog.Name{Service: "cart"}, Instance: id},
			Address: "10.0.0.1", Port: 80, Weight: 1, Health: catalog.Healthy,
		})
	}
	r.wake()
}

// states makes the registry state a strategy for cart, or none.
func (r *registry) states(strategy string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.strategy = strategy
	r.wake()
}

// fail makes every read fail from now on; nil mends it.
func (r *registry) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = err
	r.wake()
}

func (r *registry) wake() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

func (r *registry) Run(ctx context.Context, out resolvers.Sink) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	published := false
	for {
		r.mu.Lock()
		all := catalog.Snapshot{Source: "all", Services: []catalog.Name{{Service: "cart"}}, Instances: r.list}
		if r.nameless && len(r.list) == 0 {
			all.Services = nil
		}
		if r.strategy != "" {
			all.Strategies = map[catalog.Name]string{{Service: "cart"}: r.strategy}
		}
		broken, revision, explicit := r.broken, "", published && !r.absence
		if r.reads > 0 {
			r.reads++
			revision = fmt.Sprint(r.reads)
		}
		r.mu.Unlock()
		if broken != nil {
			out.Failed(broken)
		} else {
			out.Publish(catalog.Update{Full: true, Explicit: explicit, Revision: revision, Snapshots: []catalog.Snapshot{all}})
			published = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-r.changed:
		}
	}
}

// replica is a Synchronizer under test and a client of it.
type replica struct {
	s     *Synchronizer
	admin adminv1.AdminClient
	feed  feedv1.FeedClient
	stop  func()
}

// start runs a replica that reads these clusters. One without registries is read via its agents.
func start(t *testing.T, dir string, clusters map[string][]*registry) *replica {
	t.Helper()
	return startOn(t, "r1", store.Config{Federation: "test", Embedded: &store.EmbeddedConfig{DataDir: dir}}, clusters)
}

// startOn is start for one of several replicas, with the store that they have.
func startOn(t *testing.T, id string, st store.Config, clusters map[string][]*registry) *replica {
	t.Helper()
	cfg := Config{Federation: "test", ReplicaID: id, Store: st}
	for name, list := range clusters {
		in := intake.Config{Cluster: name}
		for n, r := range list {
			in.Registries = append(in.Registries, intake.Registry{Name: fmt.Sprint("reg-", n+1), Resolver: r})
		}
		cfg.Clusters = append(cfg.Clusters, Cluster{Intake: in, ViaAgents: len(list) == 0})
	}
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	deps := Deps{Log: testkit.Quiet(), Registry: prometheus.NewRegistry(), GRPC: listen(), HTTP: listen()}
	s, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{s: s, stop: testkit.Go(t, "synchronizer", s.Run)}
	conn, err := grpc.NewClient(deps.GRPC.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r.admin, r.feed = adminv1.NewAdminClient(conn), feedv1.NewFeedClient(conn)
	return r
}

// lists waits until ListInstances names exactly these, as "cluster/id".
func (r *replica) lists(t *testing.T, want string) {
	t.Helper()
	ctx := testkit.Context(t)
	testkit.Eventually(t, ctx, "the list", func() error {
		resp, err := r.admin.ListInstances(ctx, &adminv1.ListInstancesRequest{})
		if err != nil {
			return err
		}
		var got []string
		for _, i := range resp.GetInstances() {
			got = append(got, i.GetCluster()+"/"+i.GetId())
		}
		if g := strings.Join(got, " "); g != want {
			return fmt.Errorf("have %q, want %q", g, want)
		}
		return nil
	})
}

func (r *replica) cluster(t *testing.T, name string) *adminv1.Cluster {
	t.Helper()
	resp, err := r.admin.ListClusters(testkit.Context(t), &adminv1.ListClustersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range resp.GetClusters() {
		if c.GetName() == name {
			return c
		}
	}
	t.Fatalf("no cluster %s in %v", name, resp)
	return nil
}

func TestListsFollowTheRegistries(t *testing.T) {
	east, west := newRegistry("a", "b"), newRegistry("w")
	r := start(t, t.TempDir(), map[string][]*registry{"east": {east}, "west": {west}})
	r.lists(t, "east/a east/b west/w")
	east.set("b", "c")
	r.lists(t, "east/b east/c west/w")
	east.set()
	r.lists(t, "west/w")
	resp, err := r.admin.ListServices(testkit.Context(t), &adminv1.ListServicesRequest{})
	if err != nil || len(resp.GetServices()) != 1 || len(resp.GetServices()[0].GetClusters()) != 2 {
		t.Errorf("an empty service is still a service of its cluster: %v %v", resp, err)
	}
}

func TestPages(t *testing.T) {
	ids := make([]string, 2345)
	for n := range ids {
		ids[n] = fmt.Sprintf("i%04d", n)
	}
	east := newRegistry(ids...)
	r := start(t, t.TempDir(), map[string][]*registry{"east": {east}})
	ctx := testkit.Context(t)
	testkit.Eventually(t, ctx, "all are listed", func() error {
		if n := r.cluster(t, "east").GetInstances(); n != uint64(len(ids)) {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	var got []string
	token := ""
	for page := 0; ; page++ {
		resp, err := r.admin.ListInstances(ctx, &adminv1.ListInstancesRequest{PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range resp.GetInstances() {
			got = append(got, i.GetId())
		}
		if page == 0 {
			// What leaves before the next page's place pushes nobody out of it.
			east.set(ids[1:]...)
			testkit.Eventually(t, ctx, "one left", func() error {
				if n := r.cluster(t, "east").GetInstances(); n != uint64(len(ids)-1) {
					return fmt.Errorf("%d", n)
				}
				return nil
			})
		}
		if token = resp.GetNextPageToken(); token == "" {
			break
		}
		if len(resp.GetInstances()) != maxPage {
			t.Errorf("page %d holds %d", page, len(resp.GetInstances()))
		}
	}
	if strings.Join(got, " ") != strings.Join(ids, " ") {
		t.Errorf("%d instances on the pages, want %d in order", len(got), len(ids))
	}
	for _, bad := range []*adminv1.ListInstancesRequest{{PageSize: -1}, {PageSize: maxPage + 1}, {PageToken: "?"}, {PageToken: "anVuaw"}} {
		if _, err := r.admin.ListInstances(ctx, bad); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestRegistryThatFailsMakesItsClusterStaleAndNoMore(t *testing.T) {
	east, west := newRegistry("a"), newRegistry("w")
	r := start(t, t.TempDir(), map[string][]*registry{"east": {east}, "west": {west}})
	r.lists(t, "east/a west/w")
	east.fail(errors.New("no route to registry"))
	ctx := testkit.Context(t)
	testkit.Eventually(t, ctx, "stale", func() error {
		c := r.cluster(t, "east")
		if c.GetState() != catalogv1.ClusterState_STALE || !strings.Contains(c.GetRegistries()[0].GetLastError(), "no route") {
			return fmt.Errorf("%v", c)
		}
		return nil
	})
	r.lists(t, "east/a west/w")
	_, err := r.admin.ListInstances(ctx, &adminv1.ListInstancesRequest{MaxStaleness: durationpb.New(2 * time.Second)})
	if reason(err) != "Unavailable STALE" {
		t.Errorf("max_staleness: %v", err)
	}
	// On a machine that is busy with other things a heartbeat may come late.
	testkit.Eventually(t, ctx, "the other cluster is fresh", func() error {
		_, err := r.admin.ListInstances(ctx, &adminv1.ListInstancesRequest{Cluster: "west", MaxStaleness: durationpb.New(2 * time.Second)})
		return err
	})
	east.fail(nil)
	testkit.Eventually(t, ctx, "fresh again", func() error {
		if c := r.cluster(t, "east"); c.GetState() != catalogv1.ClusterState_SYNCED {
			return fmt.Errorf("%v", c)
		}
		return nil
	})
}

func reason(err error) string {
	st := status.Convert(err)
	for _, d := range st.Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok {
			return st.Code().String() + " " + i.GetReason()
		}
	}
	return st.Code().String()
}

func TestNeverReadIsUnknownNotEmpty(t *testing.T) {
	east := newRegistry()
	east.fail(errors.New("connection refused"))
	r := start(t, t.TempDir(), map[string][]*registry{"east": {east}})
	ctx := testkit.Context(t)
	testkit.Eventually(t, ctx, "the failure shows", func() error {
		c := r.cluster(t, "east")
		if len(c.GetRegistries()) != 1 || c.GetRegistries()[0].GetLastError() == "" {
			return fmt.Errorf("%v", c)
		}
		return nil
	})
	if c := r.cluster(t, "east"); c.GetState() != catalogv1.ClusterState_CLUSTER_STATE_UNKNOWN || c.GetAge() != nil {
		t.Errorf("never read is %v of age %v, want UNKNOWN without one", c.GetState(), c.GetAge())
	}
	e, err := r.admin.Explain(ctx, &adminv1.ExplainRequest{Service: "cart", From: "east"})
	if err != nil || e.GetUnavailable() != "NOT_SYNCED" {
		t.Errorf("Explain says %v %v", e, err)
	}
}

// A synchronizer that restarts while one of a cluster's registries is down keeps what that
// registry said before, and still follows the other.
func TestRestartWithOneRegistryDown(t *testing.T) {
	dir := t.TempDir()
	one, two := newRegistry("a"), newRegistry("z")
	r := start(t, dir, map[string][]*registry{"east": {one, two}})
	r.lists(t, "east/a east/z")
	r.stop()
	two.fail(errors.New("down"))
	one.set("b")
	r = start(t, dir, map[string][]*registry{"east": {one, two}})
	r.lists(t, "east/b east/z")
	two.set()
	two.fail(nil)
	r.lists(t, "east/b")
}

func TestOneAgentPerNode(t *testing.T) {
	r := start(t, t.TempDir(), nil)
	ctx, cancel := context.WithCancel(testkit.Context(t))
	defer cancel()
	report := func(incarnation string) (grpc.ClientStreamingClient[feedv1.ReportRequest, feedv1.ReportResponse], error) {
		s, err := r.feed.Report(ctx)
		if err != nil {
			return nil, err
		}
		return s, s.Send(&feedv1.ReportRequest{Federation: "test", Agent: &catalogv1.Agent{Cluster: "east", Node: "n1", Incarnation: incarnation, Address: "10.0.0.1:1"}})
	}
	connected := func(want bool) func() error {
		return func() error {
			list, err := r.admin.ListAgents(ctx, &adminv1.ListAgentsRequest{})
			if err == nil && (len(list.GetAgents()) != 1 || list.GetAgents()[0].GetConnected() != want) {
				err = fmt.Errorf("%v", list)
			}
			return err
		}
	}
	first, err := report("i1")
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, ctx, "the agent is listed", connected(true))
	second, err := report("i2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.CloseAndRecv(); status.Code(err) != codes.AlreadyExists || !strings.Contains(err.Error(), "n1") {
		t.Errorf("the second claimant: %v", err)
	}
	if _, err := first.CloseAndRecv(); err != nil {
		t.Errorf("the first was disturbed: %v", err)
	}
	testkit.Eventually(t, ctx, "its record outlives its stream", connected(false))
	third, err := report("i3")
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, ctx, "a successor takes the place", connected(true))
	if err := third.Send(&feedv1.ReportRequest{Federation: "test", Leaving: true, Agent: &catalogv1.Agent{Cluster: "east", Node: "n1", Incarnation: "i3", Address: "10.0.0.1:1"}}); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, ctx, "it takes its record back", func() error {
		list, err := r.admin.ListAgents(ctx, &adminv1.ListAgentsRequest{})
		if err == nil && len(list.GetAgents()) > 0 {
			err = fmt.Errorf("%v", list)
		}
		return err
	})
	foreign, err := r.feed.Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := foreign.Send(&feedv1.ReportRequest{Federation: "other", Agent: &catalogv1.Agent{Cluster: "east", Node: "n2", Incarnation: "i1", Address: "10.0.0.1:1"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := foreign.CloseAndRecv(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("an agent of another federation: %v", err)
	}
	for name, a := range map[string]*catalogv1.Agent{
		"no incarnation": {Cluster: "east", Node: "n1", Address: "10.0.0.1:1"},
		"bad address":    {Cluster: "east", Node: "n1", Incarnation: "i", Address: "10.0.0.1"},
		"bad cluster":    {Cluster: "East", Node: "n1", Incarnation: "i", Address: "10.0.0.1:1"},
		"no node":        {Cluster: "east", Incarnation: "i", Address: "10.0.0.1:1"},
	} {
		s, err := r.feed.Report(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(&feedv1.ReportRequest{Federation: "test", Agent: a}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.CloseAndRecv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A record that the store lost comes back with the agent's next report.
func TestAgentRecordComesBack(t *testing.T) {
	r := start(t, t.TempDir(), nil)
	ctx := testkit.Context(t)
	say := &feedv1.ReportRequest{Federation: "test", Agent: &catalogv1.Agent{Cluster: "east", Node: "n1", Incarnation: "i1", Address: "10.0.0.9:50002"}}
	s, err := r.feed.Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	listed := func(want int) func() error {
		return func() error {
			if want > 0 {
				if err := s.Send(say); err != nil {
					return err
				}
			}
			list, err := r.admin.ListAgents(ctx, &adminv1.ListAgentsRequest{})
			if err == nil && len(list.GetAgents()) != want {
				err = fmt.Errorf("%v", list)
			}
			return err
		}
	}
	testkit.Eventually(t, ctx, "listed", listed(1))
	if err := r.s.store.DeleteAgent(ctx, "east", "n1", "i1"); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, ctx, "lost", listed(0))
	testkit.Eventually(t, ctx, "listed again", listed(1))
	if _, err := s.CloseAndRecv(); err != nil {
		t.Error(err)
	}
}

// After its store was wiped, an owner takes its cluster above the epoch that agents remember:
// otherwise they would refuse all it writes.
func TestWipedStoreGoesAboveWhatAgentsRemember(t *testing.T) {
	dir := t.TempDir()
	east := newRegistry("a")
	clusters := map[string][]*registry{"east": {east}}
	r := start(t, dir, clusters)
	r.lists(t, "east/a")
	r.stop()
	entries, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(e); err != nil {
			t.Fatal(err)
		}
	}
	r = start(t, dir, clusters)
	r.lists(t, "east/a")
	ctx := testkit.Context(t)
	s, err := r.feed.Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&feedv1.ReportRequest{Federation: "test", Epochs: map[string]uint64{"east": 41}, Agent: &catalogv1.Agent{Cluster: "east", Node: "n1", Incarnation: "i1", Address: "10.0.0.1:1"}}); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, ctx, "the epoch is above", func() error {
		if e := r.cluster(t, "east").GetEpoch(); e <= 41 {
			return fmt.Errorf("%d", e)
		}
		return nil
	})
	r.lists(t, "east/a")
	if _, err := s.CloseAndRecv(); err != nil {
		t.Error(err)
	}
}

func TestFeedRefusesAnotherFederation(t *testing.T) {
	r := start(t, t.TempDir(), nil)
	for code, req := range map[codes.Code]*feedv1.WatchRequest{
		codes.FailedPrecondition: {Federation: "other", Cluster: "east", Node: "n1"},
		codes.InvalidArgument:    {Cluster: "east"},
	} {
		s, err := r.feed.Watch(testkit.Context(t), req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); status.Code(err) != code {
			t.Errorf("%v: %v, want %v", req, err, code)
		}
	}
}

func TestExplainNamesTheRule(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"east": {newRegistry("a")}, "west": {newRegistry("w")}})
	r.lists(t, "east/a west/w")
	ctx := testkit.Context(t)
	e, err := r.admin.Explain(ctx, &adminv1.ExplainRequest{Service: "cart", From: "east", Strategy: "local"})
	if err != nil {
		t.Fatal(err)
	}
	if e.GetStrategy() != "local-first" || e.GetStrategySource() != "request" {
		t.Errorf("an alias is printed as %s from %s", e.GetStrategy(), e.GetStrategySource())
	}
	for _, i := range e.GetInstances() {
		if i.GetReason() != "UNDIALABLE" || i.GetDetail() == "" || i.GetTier() != -1 {
			t.Errorf("no agent and no relay: %v", i)
		}
	}
	for _, c := range []struct {
		req  *adminv1.ExplainRequest
		code codes.Code
	}{
		{&adminv1.ExplainRequest{Service: "cart"}, codes.InvalidArgument},
		{&adminv1.ExplainRequest{Service: "cart", From: "north"}, codes.NotFound},
		{&adminv1.ExplainRequest{Service: "a.b.c", From: "east"}, codes.InvalidArgument},
		{&adminv1.ExplainRequest{Service: "cart", From: "east", Strategy: "LOCAL-FIRST"}, codes.InvalidArgument},
	} {
		if _, err := r.admin.Explain(ctx, c.req); status.Code(err) != c.code {
			t.Errorf("%v: %v, want %v", c.req, err, c.code)
		}
	}
}
