//go:build real && linux

package robustness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/test/robustness/history"
)

// federation is the name of every world's.
const federation = "chaos"

// hold is guard.hold of all daemons: well above the longest lie of a registry, however slow the machine is.
const hold = "10s"

// world is a federation of processes, and what the test knows of it.
type world struct {
	t   *testing.T
	rec *history.Recorder
	dir string // configurations, data, registry files; the test's

	etcd          *testkit.EtcdCluster
	synchronizers []*syncProc
	clusters      map[string]*cluster
	names         []string // the clusters', in order: "files", "vms", "zone"

	apps map[string]*application // by the ids of their instances
	seen *sightings              // what observers saw last
}

type cluster struct {
	name     string
	registry registry
	agents   []*agentProc
}

// agentProc is an agent, which is the process of a node.
type agentProc struct {
	cluster, node       string // "vms", "vms-1": what the registry calls the node
	name                string // "vms/vms-1"
	http, grpc, metrics string // host:port, straight to the process
	internal            string // host:port where it listens for peers; they are told peers' address
	config, dataDir     string
	proc                *testkit.Daemon
	peers               *link   // the way to internal for everybody else
	feed                []*link // the ways to the synchronizers, in their order
	// down says that it was killed, stopped or paused on purpose: a call through it may be lost.
	down atomic.Bool
	// downs counts how often.
	downs atomic.Int64
	// looking lets one observer at a time look at it, so that what was seen first is written down first.
	looking sync.Mutex
	known   map[sighting]bool // what it said that it knew when it was looked at last; looking guards it
}

// syncProc is a synchronizer.
type syncProc struct {
	id              string // "s1"
	grpc, http      string // host:port, straight to the process
	config, dataDir string
	proc            *testkit.Daemon
	store           []*link          // the ways to etcd's members, in their order
	conn            *grpc.ClientConn // to grpc; made with the world, works again after restarts
	down            atomic.Bool
}

// agents gives all of them, in order.
func (w *world) agents() []*agentProc {
	var out []*agentProc
	for _, name := range w.names {
		out = append(out, w.clusters[name].agents...)
	}
	return out
}

// bin holds the programs under test, built with the race detector.
var bin string

func TestMain(m *testing.M) {
	var err error
	if bin, err = os.MkdirTemp("", "farcall-robustness-"); err == nil {
		err = testkit.Build(filepath.Join("..", ".."), bin, "./cmd/synchronizer", "./cmd/agent")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	testkit.Main(m, func() { os.RemoveAll(bin) })
}

func loopback(t testing.TB) string { return fmt.Sprint("127.0.0.1:", testkit.FreePort(t)) }

func write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// nodes are the clusters, and how many nodes each has.
var nodes = map[string]int{"files": 2, "vms": 2, "zone": 1}

// newWorld starts everything but observers and traffic. It lives as long as the test.
func newWorld(t *testing.T, rec *history.Recorder) *world {
	t.Helper()
	w := &world{t: t, rec: rec, dir: t.TempDir(), clusters: map[string]*cluster{}, names: []string{"files", "vms", "zone"}}
	w.etcd = testkit.Etcd(t, 3)
	for n := range 2 {
		w.synchronizers = append(w.synchronizers, w.newSynchronizer(fmt.Sprint("s", n+1)))
	}
	for _, name := range w.names {
		c := &cluster{name: name}
		w.clusters[name] = c
		for n := range nodes[name] {
			c.agents = append(c.agents, w.newAgent(name, fmt.Sprint(name, "-", n+1)))
		}
		c.registry = newRegistry(w, c)
	}
	for _, s := range w.synchronizers {
		s.configure(w)
		s.proc = testkit.NewDaemon(t, filepath.Join(bin, "synchronizer"), "synchronizer-"+s.id, "--config", s.config)
		s.proc.Start()
	}
	for _, a := range w.agents() {
		write(t, a.config, a.text(w))
		a.proc = testkit.NewDaemon(t, filepath.Join(bin, "agent"), "agent-"+a.node, "--config", a.config)
		a.proc.Start()
	}
	return w
}

func (w *world) newSynchronizer(id string) *syncProc {
	w.t.Helper()
	s := &syncProc{
		id: id, grpc: loopback(w.t), http: loopback(w.t),
		config: filepath.Join(w.dir, "synchronizer-"+id+".yml"), dataDir: filepath.Join(w.dir, "synchronizer-"+id),
	}
	for _, e := range w.etcd.Endpoints {
		s.store = append(s.store, newLink(w.t, strings.TrimPrefix(e, "http://")))
	}
	conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	s.conn = conn
	return s
}

func (w *world) newAgent(cluster, node string) *agentProc {
	w.t.Helper()
	a := &agentProc{
		cluster: cluster, node: node, name: cluster + "/" + node, known: map[sighting]bool{},
		http: loopback(w.t), grpc: loopback(w.t), metrics: loopback(w.t), internal: loopback(w.t),
		config: filepath.Join(w.dir, "agent-"+node+".yml"), dataDir: filepath.Join(w.dir, "agent-"+node),
	}
	a.peers = newLink(w.t, a.internal)
	for _, s := range w.synchronizers {
		a.feed = append(a.feed, newLink(w.t, s.grpc))
	}
	return a
}

// configure writes the synchronizer's configuration, with all clusters but those left out.
func (s *syncProc) configure(w *world, without ...string) {
	w.t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "federation: %s\nlisten: %s\nhttp: {listen: %s}\nstore: {etcd: {endpoints: [%s]}}\ndataDir: %s\nguard: {hold: %s}\nclusters:\n",
		federation, s.grpc, s.http, addresses(s.store), s.dataDir, hold)
	for _, name := range w.names {
		if !slices.Contains(without, name) {
			fmt.Fprintf(&text, "  - {name: %s, resolvers: [%s]}\n", name, w.clusters[name].registry.config())
		}
	}
	write(w.t, s.config, text.String())
}

func addresses(links []*link) string {
	var out []string
	for _, l := range links {
		out = append(out, l.addr)
	}
	return strings.Join(out, ", ")
}

// text is the agent's configuration.
func (a *agentProc) text(w *world) string {
	return fmt.Sprintf("cluster: %s\nnode: %s\nsynchronizers: [%s]\ndataDir: %s\nresolvers: [%s]\ninternal: {listen: %s, advertise: %s}\n"+
		"http: {listen: %s}\ngrpc: {listen: %s}\nmetrics: {listen: %s}\nguard: {hold: %s}\n",
		a.cluster, a.node, addresses(a.feed), a.dataDir, w.clusters[a.cluster].registry.config(), a.internal, a.peers.addr, a.http, a.grpc, a.metrics, hold)
}

// dead says which of our processes ended by itself or complained of itself, nil for none.
func (w *world) dead() (out []history.Process) {
	look := func(name string, d *testkit.Daemon) {
		p := history.Process{Name: name, Died: d.Complaint()}
		if ended, err := d.Ended(); ended {
			p.Died = errors.Join(errors.New("ended by itself"), err).Error()
		}
		if p.Died != "" {
			out = append(out, p)
		}
	}
	for _, s := range w.synchronizers {
		look("synchronizer "+s.id, s.proc)
	}
	for _, a := range w.agents() {
		look("agent "+a.name, a.proc)
	}
	return out
}

// ready waits until everybody shows the truth for the first time.
func (w *world) ready(ctx context.Context) {
	w.t.Helper()
	testkit.Eventually(w.t, ctx, "everybody shows the truth", w.disagreement)
}
