//go:build real && linux

package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/farcall/farcall/internal/testkit"
)

// apart is a federation whose clusters are hosts of their own on one network, the synchronizer another.
type apart struct {
	*world
	hosts map[string]*testkit.Host
}

func newApart(t *testing.T, names ...string) *apart {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	a := &apart{hosts: map[string]*testkit.Host{}, world: &world{
		t: t, ctx: testkit.Context(t), dir: t.TempDir(), clusters: map[string]*cluster{}, client: &http.Client{Transport: transport},
	}}
	net := testkit.NewNetwork(t)
	net.Attach()
	head := net.Host("head")
	a.admin = head.Addr.String() + ":7700"
	conn, err := grpc.NewClient(a.admin, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	a.conn = conn
	text := fmt.Sprintf("federation: e2e\nlisten: %s\ninsecure: true\nstore: {embedded: {dataDir: %s}}\nclusters:\n", a.admin, filepath.Join(a.dir, "store"))
	var agents []*testkit.Daemon
	for _, name := range names {
		h := net.Host(name)
		a.hosts[name] = h
		registry := &fileRegistry{t: t, path: filepath.Join(a.dir, name+".yaml"), list: map[string]string{}}
		for _, id := range []string{"cart-1", "cart-2"} {
			app := h.Daemon(filepath.Join(bin, "echo"), name+"-"+id, fmt.Sprint("127.0.0.1:", 8080+len(registry.list)), name+"/"+id)
			app.Start()
			registry.put(id, 8080+len(registry.list), name)
		}
		text += fmt.Sprintf("  - {name: %s, resolvers: [%s]}\n", name, registry.config())
		at := h.Addr.String()
		c := &cluster{name: name, registry: registry, http: at + ":3500"}
		file := filepath.Join(a.dir, "agent-"+name+".yml")
		write(t, file, fmt.Sprintf("cluster: %s\nnode: %[1]s\nsynchronizers: [%s]\nresolvers: [%s]\ninternal: {listen: %s:50002, insecure: true}\nhttp: {listen: %[4]s:3500, insecure: true}\n",
			name, a.admin, registry.config(), at))
		c.agent = h.Daemon(filepath.Join(bin, "agent"), "agent-"+name, "--config", file)
		agents = append(agents, c.agent)
		a.clusters[name] = c
	}
	write(t, filepath.Join(a.dir, "synchronizer.yml"), text)
	a.sync = head.Daemon(filepath.Join(bin, "synchronizer"), "synchronizer", "--config", filepath.Join(a.dir, "synchronizer.yml"))
	a.sync.Start()
	for _, d := range agents {
		d.Start()
	}
	for _, to := range names {
		a.reaches("east", to)
	}
	return a
}

// A cluster that the network drops without a word: nothing refuses a connection, packets are
// lost. No call that may be repeated fails, and soon no call goes there any more.
func TestRealPartitionedClusterIsLeft(t *testing.T) {
	a := newApart(t, three...)
	a.hosts["west"].Isolate()
	cut := time.Now()
	var slowest time.Duration
	testkit.Eventually(t, a.ctx, "calls go to the other cluster only", func() error {
		for range 20 {
			began := time.Now()
			got := a.must("east", "cart/method/x", "farcall-strategy: external-first")
			slowest = max(slowest, time.Since(began))
			if got.status != http.StatusOK || got.cluster() == "west" {
				t.Errorf("a GET: %d by %q: %s", got.status, got.servedBy, got.body)
			}
			if time.Since(began) > 100*time.Millisecond {
				return fmt.Errorf("a call took %s", time.Since(began))
			}
		}
		return nil
	})
	t.Logf("calls are quick again %s after the cut; the slowest took %s", time.Since(cut).Round(time.Millisecond), slowest.Round(time.Millisecond))
	for strategy, want := range map[string]string{
		"local-first": "east", "external-first": "north", "local-only": "east", "external-only": "north", "any": "east north",
	} {
		testkit.Eventually(t, a.ctx, strategy, func() error { return a.matches(strategy, want) })
		a.explains(strategy, want)
	}
	got := a.must("east", "cart/method/x", "farcall-strategy: broadcast")
	parts := strings.Split(broadcast(a.world, got), ", ")
	slices.Sort(parts)
	if got.status != http.StatusBadGateway || strings.Join(parts, ", ") != "east 200, north 200, west failed" || !strings.Contains(got.body, "UNREACHABLE") {
		t.Errorf("a broadcast: %d %s", got.status, got.body)
	}
	a.hosts["west"].Rejoin()
	testkit.Eventually(t, a.ctx, "west is called again", func() error { return a.matches("external-only", "north west") })
}
