//go:build real && unix

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// heard is a cluster that two agents hear, and two synchronizers on one etcd that hear them. Each
// agent has a file of its own, and both have one in common.
type heard struct {
	*world
	syncs  []*replica
	shared *fileRegistry
	own    []*fileRegistry
	agents []*cluster
}

// replica is one of several synchronizers.
type replica struct {
	*testkit.Daemon
	http  string
	admin adminv1.AdminClient
}

func newHeard(t *testing.T) *heard {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	h := &heard{world: &world{t: t, ctx: testkit.Context(t), dir: t.TempDir(), clusters: map[string]*cluster{}, client: &http.Client{Transport: transport}}}
	etcd := testkit.Etcd(t, 1)
	var addresses []string
	for n := range 2 {
		r := &replica{http: loopback(t)}
		address, name := loopback(t), fmt.Sprint("synchronizer-", n+1)
		addresses = append(addresses, address)
		file := filepath.Join(h.dir, name+".yml")
		write(t, file, fmt.Sprintf("federation: e2e\nlisten: %s\nhttp: {listen: %s}\nstore: {etcd: {endpoints: [%s]}}\ndataDir: %s\nguard: {hold: 5m}\nclusters: [{name: edge, via: agents}]\n",
			address, r.http, etcd.Endpoints[0], filepath.Join(h.dir, name)))
		r.Daemon = testkit.NewDaemon(t, filepath.Join(bin, "synchronizer"), name, "--config", file)
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		r.admin = adminv1.NewAdminClient(conn)
		h.syncs = append(h.syncs, r)
	}
	h.shared = &fileRegistry{t: t, path: filepath.Join(h.dir, "shared.yaml"), list: map[string]string{}}
	for n := range 8 { // more than the guard lets go at once
		h.shared.put(fmt.Sprint("both-", n), 1, "far")
	}
	for n := range 2 {
		h.agent(fmt.Sprint("edge-", n+1), strings.Join(addresses, ", "))
	}
	for _, d := range h.syncs {
		d.Start()
	}
	for _, a := range h.agents {
		a.agent.Start()
	}
	return h
}

// agent prepares the agent of a node. Its file lists an instance of cart; an application that is
// called as the node is in none.
func (h *heard) agent(node, synchronizers string) {
	h.t.Helper()
	c := &cluster{name: node, apps: map[string]*instance{}, http: loopback(h.t), grpc: loopback(h.t), internal: loopback(h.t), health: loopback(h.t)}
	file := &fileRegistry{t: h.t, path: filepath.Join(h.dir, node+".yaml"), list: map[string]string{}}
	c.start(h.t, "cart")
	c.start(h.t, node)
	file.put("at-"+node, c.apps["cart"].port, node)
	path := filepath.Join(h.dir, node+".yml")
	write(h.t, path, fmt.Sprintf(
		"cluster: edge\nnode: %s\nsynchronizers: [%s]\ndataDir: %s\nresolvers: [{file: {path: %s}}, {file: {path: %s, link: both}}]\napps: [{id: %s, port: %d}]\nguard: {hold: 5m}\n"+
			"internal: {listen: %s}\nhttp: {listen: %s}\ngrpc: {listen: %s}\nmetrics: {listen: %s}\n",
		node, synchronizers, filepath.Join(h.dir, "agent-"+node), file.path, h.shared.path, node, c.apps[node].port, c.internal, c.http, c.grpc, c.health))
	c.agent = testkit.NewDaemon(h.t, filepath.Join(bin, "agent"), node, "--config", path)
	h.clusters[node] = c
	h.own = append(h.own, file)
	h.agents = append(h.agents, c)
}

// all is what the cluster lists at first: 8 that both hear, and of each node one instance of cart
// and its application.
func (h *heard) all() []string {
	out := []string{"at-edge-1", "at-edge-2"}
	for n := range 8 {
		out = append(out, fmt.Sprint("both-", n))
	}
	for _, a := range h.agents {
		out = append(out, fmt.Sprintf("%s-%s-%d", a.name, a.name, a.apps[a.name].port))
	}
	slices.Sort(out)
	return out
}

// listed gives the cluster's instances, by their ids in order, and its registries by name.
func (r *replica) listed(ctx context.Context) ([]string, map[string]*storev1.RegistryStatus, *adminv1.Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	list, err := r.admin.ListInstances(ctx, &adminv1.ListInstancesRequest{Cluster: "edge"})
	if err != nil {
		return nil, nil, nil, err
	}
	var ids []string
	for _, i := range list.GetInstances() {
		ids = append(ids, i.GetId())
	}
	slices.Sort(ids)
	clusters, err := r.admin.ListClusters(ctx, &adminv1.ListClustersRequest{})
	if err != nil {
		return nil, nil, nil, err
	}
	c := clusters.GetClusters()[0]
	registries := map[string]*storev1.RegistryStatus{}
	for _, st := range c.GetRegistries() {
		registries[st.GetName()] = st
	}
	return ids, registries, c, nil
}

// until waits until a replica lists exactly these, in this state, with one of the nodes as the
// reporter of what both hear.
func (h *heard) until(r *replica, what string, want []string, state catalogv1.ClusterState, reporters ...string) {
	h.t.Helper()
	began := time.Now()
	testkit.Eventually(h.t, h.ctx, what, func() error {
		have, registries, c, err := r.listed(h.ctx)
		reporter := registries["file-2@both"].GetReporter()
		switch {
		case err != nil:
			return err
		case !slices.Equal(have, want):
			return fmt.Errorf("it lists %q, want %q", have, want)
		case c.GetState() != state:
			return fmt.Errorf("it is %v", c)
		case len(reporters) > 0 && !slices.Contains(reporters, reporter):
			return fmt.Errorf("%q reports, want one of %q", reporter, reporters)
		}
		return nil
	})
	h.t.Logf("%s: %s", what, time.Since(began).Round(10*time.Millisecond))
}

// owner gives the replica that writes the cluster, and the other one.
func (h *heard) owner() (owner, other *replica) {
	h.t.Helper()
	testkit.Eventually(h.t, h.ctx, "one of the two owns the cluster", func() error {
		for n, r := range h.syncs {
			text, err := h.get("http://" + r.http + "/metrics")
			if err != nil {
				return err
			}
			if strings.Contains(text, "\nfarcall_store_owned_clusters 1\n") {
				owner, other = r, h.syncs[1-n]
				return nil
			}
		}
		return errors.New("neither does")
	})
	return owner, other
}

// lost watches the cluster by a replica until the test's end, and gives what was taken from its
// list since.
func (h *heard) lost(r *replica) func() []string {
	h.t.Helper()
	ctx, cancel := context.WithCancel(h.ctx)
	stream, err := r.admin.WatchInstances(ctx, &adminv1.WatchInstancesRequest{Cluster: "edge"}, grpc.WaitForReady(true))
	if err != nil {
		h.t.Fatal(err)
	}
	var mu sync.Mutex
	var gone []string
	synced, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			m, err := stream.Recv()
			switch {
			case err != nil:
				return
			case m.GetType() == adminv1.WatchInstancesResponse_SYNCED:
				close(synced)
			case m.GetType() == adminv1.WatchInstancesResponse_DELETE:
				mu.Lock()
				gone = append(gone, m.GetInstance().GetId())
				mu.Unlock()
			}
		}
	}()
	h.t.Cleanup(func() { cancel(); <-done })
	select {
	case <-synced:
	case <-done:
		h.t.Fatal("the watch ended")
	}
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(gone)
	}
}

// reachesNodes waits until the application of each node is reached from one.
func (h *heard) reachesNodes(from *cluster) {
	h.t.Helper()
	for _, to := range h.agents {
		testkit.Eventually(h.t, h.ctx, from.name+" reaches "+to.name, func() error {
			a, err := h.call(from.name, http.MethodGet, to.name+"/method/ready")
			if err == nil && a.status != http.StatusOK {
				err = fmt.Errorf("%d %s", a.status, a.body)
			}
			return err
		})
	}
}

// calls makes sure that the application of each node is reached from both.
func (h *heard) calls(what string) {
	h.t.Helper()
	for _, from := range h.agents {
		for _, to := range h.agents {
			if a := h.must(from.name, to.name+"/method/x"); a.status != http.StatusOK {
				h.t.Errorf("%s: from %s to %s: %d %s", what, from.name, to.name, a.status, a.body)
			}
		}
	}
}

// The replica that writes the cluster dies: the other has heard all that it did, takes over
// without taking anything from a list, and what changes afterwards goes through. So it is with
// the agent that reports.
func TestRealTakeOverViaAgents(t *testing.T) {
	h := newHeard(t)
	h.until(h.syncs[0], "the beginning", h.all(), catalogv1.ClusterState_SYNCED, "edge-1", "edge-2")
	h.until(h.syncs[1], "the other knows it, too", h.all(), catalogv1.ClusterState_SYNCED)
	for _, from := range h.agents {
		h.reachesNodes(from)
	}
	owner, other := h.owner()
	lost := h.lost(other)

	owner.Kill()
	h.shared.put("both-8", 1, "far")
	now := append(h.all(), "both-8")
	slices.Sort(now)
	h.until(other, "the other one takes over", now, catalogv1.ClusterState_SYNCED, "edge-1", "edge-2")
	h.calls("after it")

	_, registries, _, err := other.listed(h.ctx)
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(h.agents, func(c *cluster) bool { return c.name == registries["file-2@both"].GetReporter() })
	if at < 0 {
		t.Fatalf("nobody reports: %v", registries)
	}
	h.agents[at].agent.Kill()
	h.shared.put("both-9", 1, "far")
	now = append(now, "both-9")
	slices.Sort(now)
	h.until(other, "the other agent reports", now, catalogv1.ClusterState_STALE, h.agents[1-at].name)
	h.agents[at].agent.Start()
	owner.Start()
	h.until(other, "all are back", now, catalogv1.ClusterState_SYNCED)
	h.until(owner, "by the one that is back, too", now, catalogv1.ClusterState_SYNCED)
	if gone := lost(); len(gone) > 0 {
		t.Errorf("the list lost %q meanwhile", gone)
	}

	// What the registry says is gone goes at once, however much that is.
	for n := range 10 {
		delete(h.shared.list, fmt.Sprint("both-", n))
	}
	h.shared.put("both-10", 1, "far")
	now = append(slices.DeleteFunc(now, func(id string) bool { return strings.HasPrefix(id, "both-") }), "both-10")
	slices.Sort(now)
	h.until(other, "ten were removed", now, catalogv1.ClusterState_SYNCED)
	h.calls("in the end")
}

// Both synchronizers begin anew while one of two agents is down: what only that one hears stays,
// and so does the application that its record tells of.
func TestRealRestartWithoutOneOfTheAgents(t *testing.T) {
	h := newHeard(t)
	h.until(h.syncs[0], "the beginning", h.all(), catalogv1.ClusterState_SYNCED)
	down, up := h.agents[0], h.agents[1]
	down.agent.Kill()
	for _, r := range h.syncs {
		r.Kill()
	}
	for _, r := range h.syncs {
		r.Start()
	}
	r := h.syncs[0]
	testkit.Eventually(t, h.ctx, "it answers", func() error {
		have, _, _, err := r.listed(h.ctx)
		if err == nil && !slices.Equal(have, h.all()) {
			// Its store says so before anybody contributes.
			err = fmt.Errorf("it lists %q", have)
		}
		return err
	})
	lost := h.lost(r)
	h.own[1].put("new", 1, up.name)
	now := append(h.all(), "new")
	slices.Sort(now)
	h.until(r, "the one that is there is heard", now, catalogv1.ClusterState_STALE, up.name)
	testkit.Eventually(t, h.ctx, "what nobody hears says so", func() error {
		_, registries, _, err := r.listed(h.ctx)
		st := registries["file@edge-1"]
		if err == nil && (st.GetState() != storev1.RegistryStatus_FAILED || st.GetLastError() != "no agent reports it; edge-1 did last" || st.GetInstances() != 1) {
			err = fmt.Errorf("its status is %v", st)
		}
		return err
	})
	down.agent.Start()
	h.until(r, "all are back", now, catalogv1.ClusterState_SYNCED)
	h.reachesNodes(up)
	h.reachesNodes(down)
	if gone := lost(); len(gone) > 0 {
		t.Errorf("the list lost %q meanwhile", gone)
	}
	// An agent that goes for good takes its application with it, and nothing else.
	down.agent.Term()
	if err := down.agent.Wait(); err != nil {
		t.Errorf("the agent ended with %v", err)
	}
	now = slices.DeleteFunc(now, func(id string) bool { return strings.HasPrefix(id, down.name+"-") })
	h.until(r, "one agent has left", now, catalogv1.ClusterState_STALE)
}
