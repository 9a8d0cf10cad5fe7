package synchronizer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// edge starts a replica with one cluster, which is read via its agents.
func edge(t *testing.T, dir string) *replica {
	t.Helper()
	return start(t, dir, map[string][]*registry{"edge": nil})
}

// registryOf waits until ok is content with what ListClusters says of a registry of edge; nil is
// one that it does not name.
func (r *replica) registryOf(t *testing.T, name, what string, ok func(*storev1.RegistryStatus) bool) {
	t.Helper()
	testkit.Eventually(t, testkit.Context(t), what, func() error {
		c := r.cluster(t, "edge")
		var st *storev1.RegistryStatus
		for _, s := range c.GetRegistries() {
			if s.GetName() == name {
				st = s
			}
		}
		if !ok(st) {
			return fmt.Errorf("%v", c)
		}
		return nil
	})
}

func ids(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("i%02d", i))
	}
	return out
}

func edges(ids ...string) string {
	var out []string
	for _, id := range ids {
		out = append(out, "edge/"+id)
	}
	return strings.Join(out, " ")
}

// watchFor watches a service and counts what was taken away from its list at any moment.
func (r *replica) watchFor(t *testing.T) (removed func() []string) {
	t.Helper()
	return r.watchOf(t, "edge")
}

// watchOf is watchFor for another cluster than edge.
func (r *replica) watchOf(t *testing.T, cluster string) (removed func() []string) {
	t.Helper()
	stream, err := r.admin.WatchInstances(testkit.Context(t), &adminv1.WatchInstancesRequest{Cluster: cluster})
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan string, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			if m.GetType() == adminv1.WatchInstancesResponse_DELETE {
				gone <- m.GetInstance().GetId()
			}
		}
	}()
	t.Cleanup(func() { r.stop(); <-done })
	return func() (all []string) {
		for {
			select {
			case id := <-gone:
				all = append(all, id)
			default:
				return all
			}
		}
	}
}

// Two agents hear one registry: one of them reports it, and when its stream breaks, the other
// does, while nobody who watches the list sees less of it.
func TestHandOverWithoutADip(t *testing.T) {
	r := edge(t, t.TempDir())
	ctx := testkit.Context(t)
	a := r.contribute(t, "node-a", map[string][]string{"consul": ids(8)})
	r.lists(t, edges(ids(8)...))
	b := r.contribute(t, "node-b", map[string][]string{"consul": ids(8)})
	removed := r.watchFor(t)
	testkit.Eventually(t, ctx, "synced", func() error {
		if c := r.cluster(t, "edge"); c.GetState() != catalogv1.ClusterState_SYNCED {
			return fmt.Errorf("%v", c)
		}
		return nil
	})
	if b.term("consul") > 0 { // on a machine that stood still for a while
		a, b = b, a
	}
	old := a.term("consul")
	if old == 0 || b.term("consul") != 0 {
		t.Fatalf("the terms are %d and %d, want one to report", old, b.term("consul"))
	}
	r.registryOf(t, "consul", "its status", func(s *storev1.RegistryStatus) bool {
		return s.GetReporter() == a.node && s.GetState() == storev1.RegistryStatus_OK && s.GetInstances() == 8 && s.GetServices() == 1 &&
			s.GetRevision() == "1" && time.Since(s.GetLastSuccess().AsTime()) < time.Minute
	})

	a.leave()
	r.registryOf(t, "consul", "the hand-over", func(s *storev1.RegistryStatus) bool {
		return s.GetReporter() == b.node && s.GetState() == storev1.RegistryStatus_OK
	})
	b.set("consul", false, "2", append(ids(8), "new")...)
	r.lists(t, edges(append(ids(8), "new")...))

	// The first one comes back; what it still has to say under its old term is nobody's concern.
	a = r.contribute(t, a.node, map[string][]string{"consul": append(ids(8), "new")})
	a.send(&feedv1.ContributeRequest{Contribution: &feedv1.Contribution{Link: "consul", Term: old, Full: true, Snapshots: carts([]string{"late"})}})
	testkit.Eventually(t, ctx, "it is dropped", func() error {
		return wantMetric(ctx, r, `farcall_synchronizer_contributions_dropped_total{cluster="edge",reason="old_term"}`)
	})
	r.lists(t, edges(append(ids(8), "new")...))
	if gone := removed(); len(gone) > 0 {
		t.Errorf("the list lost %v meanwhile", gone)
	}
	if err := wantMetric(ctx, r, `farcall_synchronizer_link_handovers_total{cluster="edge"}`); err != nil {
		t.Error(err)
	}
}

// wantMetric wants a line of /metrics with a value above 0.
func wantMetric(ctx context.Context, r *replica, name string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.s.httpL.Addr().String()+"/metrics", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	for l := range strings.Lines(string(b)) {
		if value, is := strings.CutPrefix(l, name+" "); is && value != "0\n" {
			return nil
		}
	}
	return fmt.Errorf("nothing was counted as %s", name)
}

// What a link's registry says was removed goes at once, above the guard's floor, too; what is
// only missing is held.
func TestRemovalsOfALink(t *testing.T) {
	r := edge(t, t.TempDir())
	a := r.contribute(t, "node-a", map[string][]string{"mdns@10.8.0.0/24": ids(20)})
	r.lists(t, edges(ids(20)...))
	a.set("mdns@10.8.0.0/24", true, "2", ids(8)...)
	r.lists(t, edges(ids(8)...))
	a.set("mdns@10.8.0.0/24", false, "3")
	r.registryOf(t, "mdns@10.8.0.0/24", "the hold", func(s *storev1.RegistryStatus) bool {
		return s.GetHeld() == 8 && s.GetInstances() == 8
	})
	if c := r.cluster(t, "edge"); c.GetState() != catalogv1.ClusterState_PROTECTED {
		t.Errorf("the cluster is %v", c.GetState())
	}
	r.lists(t, edges(ids(8)...))
}

// A cluster that was read from here is read via its agents now, and the first of them hears nothing yet:
// what was listed stays until it has listened for some rounds.
func TestADeafAgentTakesNothingBack(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir, map[string][]*registry{"edge": {newRegistry("a", "b")}})
	r.lists(t, edges("a", "b"))
	r.stop()

	r = edge(t, dir)
	removed := r.watchFor(t)
	c := r.contribute(t, "node-a", map[string][]string{"mdns@10.8.0.0/24": {}})
	c.change(func() { c.read = time.Now() })
	r.registryOf(t, "mdns@10.8.0.0/24", "its first list, an empty one", func(s *storev1.RegistryStatus) bool { return s != nil && s.GetReporter() == "node-a" })
	pause := time.NewTimer(3 * time.Second)
	<-pause.C
	r.lists(t, edges("a", "b"))
	c.set("mdns@10.8.0.0/24", false, "2", "a", "b")
	c.change(func() { c.read = time.Time{} })
	r.registryOf(t, "reg-1", "what was read before is done with", func(s *storev1.RegistryStatus) bool { return s == nil })
	r.lists(t, edges("a", "b"))
	if gone := removed(); len(gone) > 0 {
		t.Errorf("the list lost %v meanwhile", gone)
	}
	c.set("mdns@10.8.0.0/24", true, "3", "b")
	r.lists(t, edges("b"))
}

// A link under a new name is there before the old one goes.
func TestRenamedLinkLosesNothing(t *testing.T) {
	r := edge(t, t.TempDir())
	a := r.contribute(t, "node-a", map[string][]string{"mdns@10.8.0.0/24": ids(8)})
	r.lists(t, edges(ids(8)...))
	removed := r.watchFor(t)
	a.change(func() {
		a.links["mdns@10.9.0.0/24"] = a.links["mdns@10.8.0.0/24"]
		delete(a.links, "mdns@10.8.0.0/24")
	})
	r.registryOf(t, "mdns@10.9.0.0/24", "the new name", func(s *storev1.RegistryStatus) bool {
		return s.GetState() == storev1.RegistryStatus_OK
	})
	r.registryOf(t, "mdns@10.8.0.0/24", "the old name is retired", func(s *storev1.RegistryStatus) bool {
		return s == nil || strings.Contains(s.GetLastError(), "no agent names it any more")
	})
	r.lists(t, edges(ids(8)...))
	if gone := removed(); len(gone) > 0 {
		t.Errorf("the list lost %v meanwhile", gone)
	}
}

// A replica that begins anew knows the links that the store has: what each listed stays until its
// own reporter is back, whichever of the others are.
func TestRestartKeepsTheLinksThatAreNotBack(t *testing.T) {
	dir := t.TempDir()
	r := edge(t, dir)
	a := r.contribute(t, "node-a", map[string][]string{"consul": {"c1"}, "file@node-a": {"a1"}})
	b := r.contribute(t, "node-b", map[string][]string{"file@node-b": {"b1", "b2"}})
	z := r.contribute(t, "node-z", map[string][]string{"file@node-z": {"z1"}})
	r.lists(t, edges("a1", "b1", "b2", "c1", "z1"))
	r.registryOf(t, "file@node-b", "its reporter is in the store", func(s *storev1.RegistryStatus) bool { return s.GetReporter() == "node-b" })
	a.leave()
	b.leave()
	z.leave()
	r.stop()

	r = edge(t, dir)
	r.registryOf(t, "file@node-b", "known from the store", func(s *storev1.RegistryStatus) bool {
		return s.GetState() == storev1.RegistryStatus_FAILED && s.GetLastError() == "no agent reports it; node-b did last" && s.GetInstances() == 2
	})
	removed := r.watchFor(t)
	r.contribute(t, "node-a", map[string][]string{"consul": {"c1", "c2"}, "file@node-a": {"a1"}})
	r.lists(t, edges("a1", "b1", "b2", "c1", "c2", "z1"))
	if c := r.cluster(t, "edge"); c.GetState() != catalogv1.ClusterState_STALE {
		t.Errorf("the cluster is %v though one of its registries was not read", c.GetState())
	}
	if gone := removed(); len(gone) > 0 {
		t.Errorf("the list lost %v", gone)
	}
	b = r.contribute(t, "node-b", map[string][]string{"file@node-b": {"b2"}})
	r.lists(t, edges("a1", "b2", "c1", "c2", "z1"))
	r.contribute(t, "node-z", map[string][]string{"file@node-z": {"z2"}})
	r.lists(t, edges("a1", "b2", "c1", "c2", "z2"))
	testkit.Eventually(t, testkit.Context(t), "all are back", func() error {
		if c := r.cluster(t, "edge"); c.GetState() != catalogv1.ClusterState_SYNCED {
			return fmt.Errorf("%v", c)
		}
		return nil
	})
	b.change(func() { b.broken["file@node-b"] = "file: /etc/edge.yaml: no such file" })
	r.registryOf(t, "file@node-b", "its error", func(s *storev1.RegistryStatus) bool {
		return s.GetLastError() == "file: /etc/edge.yaml: no such file" && s.GetLastSuccess() != nil && s.GetInstances() == 1
	})
}

// The applications of agents are instances where no registry has them.
func TestAppsOfAgents(t *testing.T) {
	r := edge(t, t.TempDir())
	ctx := testkit.Context(t)
	report, err := r.feed.Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	agent := &catalogv1.Agent{
		Cluster: "edge", Node: "n1", Incarnation: "of-n1", Address: "10.8.0.7:50002", Locality: &catalogv1.Locality{Zone: "z1"},
		Apps: []*catalogv1.App{
			{Namespace: "default", Id: "cart", Port: 8080}, {Namespace: "shop", Id: "cart", Port: 8081},
			{Namespace: "default", Id: "listed", Port: 8082, Registered: true}, {Namespace: "default", Id: "portless"},
			{Namespace: "default", Id: "bad", Port: 70000},
		},
	}
	say := &feedv1.ReportRequest{Federation: "test", Agent: agent}
	if err := report.Send(say); err != nil {
		t.Fatal(err)
	}
	r.registryOf(t, "apps", "nobody contributes yet", func(s *storev1.RegistryStatus) bool {
		return s.GetState() == storev1.RegistryStatus_FAILED && strings.Contains(s.GetLastError(), "no agent of cluster")
	})
	if c := r.cluster(t, "edge"); c.GetState() != catalogv1.ClusterState_CLUSTER_STATE_UNKNOWN {
		t.Errorf("the cluster is %v though no agent has said what it hears", c.GetState())
	}
	r.lists(t, "")
	r.contribute(t, "n1", nil)
	r.lists(t, "edge/cart-n1-8080 edge/cart-n1-8081")
	list, err := r.admin.ListInstances(ctx, &adminv1.ListInstancesRequest{Namespace: "shop"})
	if err != nil || len(list.GetInstances()) != 1 {
		t.Fatal(list, err)
	}
	i := list.GetInstances()[0]
	if i.GetAddress() != "10.8.0.7" || i.GetPort() != 8081 || i.GetNode() != "n1" || i.GetRegistry() != "apps" || i.GetWeight() != 1 ||
		i.GetLocality().GetZone() != "z1" || i.GetHealth() != catalogv1.Health_UNKNOWN {
		t.Errorf("it is %v", i)
	}
	r.registryOf(t, "apps", "the bad one is set aside", func(s *storev1.RegistryStatus) bool {
		return s.GetState() == storev1.RegistryStatus_OK && s.GetSetAside() == 1 && s.GetInstances() == 2 && s.GetServices() == 2
	})
	// Many at once: it is the agent's own word.
	for n := range 20 {
		agent.Apps = append(agent.Apps, &catalogv1.App{Namespace: "default", Id: fmt.Sprintf("x%02d", n), Port: 9000})
	}
	if err := report.Send(say); err != nil {
		t.Fatal(err)
	}
	r.registryOf(t, "apps", "more", func(s *storev1.RegistryStatus) bool { return s.GetInstances() == 22 })
	say.Leaving = true
	if err := report.Send(say); err != nil {
		t.Fatal(err)
	}
	r.lists(t, "")
	if _, err := report.CloseAndRecv(); err != nil {
		t.Error(err)
	}
}

func TestContributeRefusals(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"edge": nil, "east": {newRegistry("a")}})
	r.contribute(t, "n1", map[string][]string{"consul": {"x"}})
	r.lists(t, "east/a edge/x") // it has its place
	who := func(change func(*feedv1.Contributor)) *feedv1.ContributeRequest {
		c := &feedv1.Contributor{Federation: "test", Cluster: "edge", Node: "n2", Incarnation: "i"}
		change(c)
		return &feedv1.ContributeRequest{Contributor: c}
	}
	for _, c := range []struct {
		what string
		code codes.Code
		says string
		req  []*feedv1.ContributeRequest
	}{
		{"nobody", codes.InvalidArgument, "name the contributor", []*feedv1.ContributeRequest{{}}},
		{"other federation", codes.FailedPrecondition, `federation "test"`, []*feedv1.ContributeRequest{who(func(c *feedv1.Contributor) { c.Federation = "other" })}},
		{"unknown cluster", codes.NotFound, "east, edge", []*feedv1.ContributeRequest{who(func(c *feedv1.Contributor) { c.Cluster = "north" })}},
		{"read from here", codes.FailedPrecondition, "not read via its agents", []*feedv1.ContributeRequest{who(func(c *feedv1.Contributor) { c.Cluster = "east" })}},
		{"bad cluster", codes.InvalidArgument, "RFC 1123", []*feedv1.ContributeRequest{who(func(c *feedv1.Contributor) { c.Cluster = "Edge" })}},
		{"no node", codes.InvalidArgument, "node", []*feedv1.ContributeRequest{who(func(c *feedv1.Contributor) { c.Node = "" })}},
		{"no incarnation", codes.InvalidArgument, "incarnation", []*feedv1.ContributeRequest{who(func(c *feedv1.Contributor) { c.Incarnation = "" })}},
		{"taken", codes.AlreadyExists, `node "n1"`, []*feedv1.ContributeRequest{who(func(c *feedv1.Contributor) { c.Node = "n1" })}},
		{"twice", codes.InvalidArgument, "first message", []*feedv1.ContributeRequest{who(func(*feedv1.Contributor) {}), who(func(*feedv1.Contributor) {})}},
		{"bad link", codes.InvalidArgument, "apps", []*feedv1.ContributeRequest{who(func(*feedv1.Contributor) {}), {Standing: &feedv1.Standing{Links: []*feedv1.Link{{Name: "apps"}}}}}},
	} {
		s, err := r.feed.Contribute(testkit.Context(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range c.req {
			if err := s.Send(m); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		}
		for err == nil {
			_, err = s.Recv()
		}
		if status.Code(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %v with %q", c.what, err, c.code, c.says)
		}
	}
	s, err := r.feed.Contribute(testkit.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("one that said nothing: %v", err)
	}
}

// An agent learns whether it talks to the owner, and its stream ends with the synchronizer.
func TestContributorLearnsOfTheOwner(t *testing.T) {
	r := edge(t, t.TempDir())
	a := r.contribute(t, "n1", map[string][]string{"consul": {"x"}})
	testkit.Eventually(t, testkit.Context(t), "the owner's word", func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if !a.owner {
			return errors.New("not the owner")
		}
		return nil
	})
	r.stop()
	if err := a.failed(t); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
}

// An agent that does not read what it is told holds up nobody.
func TestAgentThatDoesNotListen(t *testing.T) {
	r := edge(t, t.TempDir())
	deaf, err := r.feed.Contribute(testkit.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := deaf.Send(&feedv1.ContributeRequest{Contributor: &feedv1.Contributor{Federation: "test", Cluster: "edge", Node: "deaf", Incarnation: "i"}}); err != nil {
		t.Fatal(err)
	}
	// Grants by the thousand, none of which it takes from the stream.
	long := strings.Repeat("x", 400)
	for n := range 3000 {
		st := &feedv1.Standing{}
		for l := range 8 {
			st.Links = append(st.Links, &feedv1.Link{Name: fmt.Sprint(long, l), Complete: n%2 == 0, Age: durationpb.New(0)})
		}
		if err := deaf.Send(&feedv1.ContributeRequest{Standing: st}); err != nil {
			t.Fatal(err)
		}
	}
	r.contribute(t, "n1", map[string][]string{"consul": {"x"}})
	r.lists(t, "edge/x")
}
