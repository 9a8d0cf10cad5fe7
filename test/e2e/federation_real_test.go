//go:build real && linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// aclToken is what both Consul servers of the federation ask for.
const aclToken = "8c1b6d0e-5f43-4d47-9a60-3a6d1f3c2b10"

// federation is every kind of registry, real, in one federation:
//
//	vms     Consul with ACLs; its agent registers the node's application there
//	kube    Kubernetes with RBAC, and a second Consul beside it
//	edge    two hosts that only hear each other by mDNS: via agents
//	legacy  the DNS
//
// Synchronizer, servers and the agents of all clusters but edge are on one host of the network,
// those of edge on two others.
type federation struct {
	t          *testing.T
	dir        string
	admin      adminv1.AdminClient
	server     string // of admin
	client     *http.Client
	here       *testkit.Host
	edge       []*testkit.Host
	sync       *testkit.Daemon
	agents     map[string]*testkit.Daemon // by node
	http       map[string]string          // host:port of an agent's HTTP, by node
	vms        *testkit.ConsulServer
	beside     *testkit.ConsulServer // kube's Consul
	vmPort     int                   // of the application in it
	kubernetes *kubernetes
	dns        *testkit.DNSServer
	relay      map[string]string // host:port of an agent's internal listener, by node
}

// members are the clusters, and the node whose agent calls from each.
var members = map[string]string{"vms": "vms-1", "kube": "kube-1", "edge": "edge-1", "legacy": "legacy-1"}

func newFederation(t *testing.T) *federation {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	f := &federation{
		t: t, dir: t.TempDir(), client: &http.Client{Transport: transport},
		agents: map[string]*testkit.Daemon{}, http: map[string]string{}, relay: map[string]string{},
	}
	n := testkit.NewNetwork(t)
	f.here = n.Attach()
	for _, name := range []string{"edge-1", "edge-2"} {
		f.edge = append(f.edge, n.Host(name))
	}
	f.vms = testkit.Consul(t, testkit.ConsulACL(aclToken))
	f.beside = testkit.Consul(t, testkit.ConsulACL(aclToken))
	f.kubernetes = newKubernetes(t)
	f.dns = testkit.CoreDNS(t, "legacy.test.")

	f.server = f.address(f.here, testkit.FreePort(t))
	conn, err := grpc.NewClient(f.server, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	f.admin = adminv1.NewAdminClient(conn)

	consul := func(s *testkit.ConsulServer) string {
		return "consul: {address: " + s.Addr + ", token: " + aclToken + "}"
	}
	kube := "kubernetes: {kubeconfig: " + f.kubernetes.kubeconfig + ", namespaces: {shop: default}}"
	dns := "dns: {servers: [\"" + f.dns.Addr + "\"], services: {cart: _cart._tcp.legacy.test.}}"
	f.sync = f.daemon(f.here, "synchronizer", "synchronizer", fmt.Sprintf(
		"federation: e2e\nlisten: %s\ninsecure: true\nhttp: {listen: %s}\nstore: {embedded: {dataDir: %s}}\nguard: {hold: 5m}\nclusters:\n"+
			"- {name: vms, resolvers: [%s]}\n- {name: kube, resolvers: [%s, %s]}\n- {name: edge, via: agents}\n- {name: legacy, resolvers: [%s]}\n",
		f.server, loopback(t), filepath.Join(f.dir, "store"), consul(f.vms), kube, consul(f.beside), dns))

	f.agent(f.here, "vms", "vms-1", consul(f.vms), fmt.Sprintf("{id: cart, port: %d, register: true}", f.echo(f.here, "vms/cart")))
	f.agent(f.here, "kube", "kube-1", kube+", "+consul(f.beside), "")
	legacy := f.echo(f.here, "legacy/cart")
	f.agent(f.here, "legacy", "legacy-1", dns, fmt.Sprintf("{id: cart, port: %d}", legacy))
	for _, h := range f.edge {
		f.agent(h, "edge", h.Name, "mdns: {}", fmt.Sprintf("{id: cart, port: %d, register: true}", f.echo(h, "edge/"+h.Name)))
	}
	// What stands in the registries that nobody registers in.
	f.kubernetes.put("cart", "cart-0", "kube-1", f.here.Addr.String(), f.echo(f.here, "kube/pod"))
	f.vmPort = f.echo(f.here, "kube/vm")
	f.register("cart-vm", f.vmPort)
	f.listInDNS(1)

	f.sync.Start()
	for _, a := range f.agents {
		a.Start()
	}
	for from := range members {
		for to := range members {
			f.reaches(from, to)
		}
	}
	return f
}

func (f *federation) address(h *testkit.Host, port int) string {
	return fmt.Sprintf("%s:%d", h.Addr, port)
}

// echo runs an application on a host and gives its port.
func (f *federation) echo(h *testkit.Host, name string) int {
	f.t.Helper()
	port := testkit.FreePort(f.t)
	h.Daemon(filepath.Join(bin, "echo"), "echo-"+strings.ReplaceAll(name, "/", "-"), fmt.Sprint(":", port), name).Start()
	return port
}

func (f *federation) daemon(h *testkit.Host, program, name, text string) *testkit.Daemon {
	f.t.Helper()
	file := filepath.Join(f.dir, name+".yml")
	write(f.t, file, text)
	return h.Daemon(filepath.Join(bin, program), name, "--config", file)
}

// agent prepares the agent of a node. Its HTTP listener is where the test can reach it.
func (f *federation) agent(h *testkit.Host, cluster, node, resolvers, apps string) {
	f.t.Helper()
	f.http[node] = f.address(h, testkit.FreePort(f.t))
	f.relay[node] = f.address(h, testkit.FreePort(f.t))
	f.agents[node] = f.daemon(h, "agent", node, fmt.Sprintf(
		"cluster: %s\nnode: %s\nsynchronizers: [%s]\ndataDir: %s\nresolvers: [%s]\napps: [%s]\nguard: {hold: 5m}\n"+
			"internal: {listen: %s, insecure: true}\nhttp: {listen: %s, insecure: true}\ngrpc: {listen: %s}\nmetrics: {listen: %s}\n",
		cluster, node, f.server, filepath.Join(f.dir, node), resolvers, apps, f.relay[node], f.http[node], loopback(f.t), loopback(f.t)))
}

// consul is a client of the Consul beside Kubernetes.
func (f *federation) consul() *consulapi.Client {
	f.t.Helper()
	c, err := consulapi.NewClient(&consulapi.Config{Address: f.beside.Addr, Token: aclToken, HttpClient: f.client})
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

// register puts an instance of cart into the Consul beside Kubernetes.
func (f *federation) register(id string, port int) {
	f.t.Helper()
	err := f.consul().Agent().ServiceRegister(&consulapi.AgentServiceRegistration{ID: id, Name: "cart", Address: f.here.Addr.String(), Port: port})
	if err != nil {
		f.t.Fatal(err)
	}
}

// listInDNS states the relay of legacy's one node, as SRV records do, under so many names.
func (f *federation) listInDNS(n int) {
	f.t.Helper()
	_, port, _ := strings.Cut(f.relay["legacy-1"], ":")
	var records []string
	for i := range n {
		records = append(records, fmt.Sprintf("_cart._tcp 1 IN SRV 0 0 %s node%d", port, i), fmt.Sprintf("node%d 1 IN A %s", i, f.here.Addr))
	}
	f.dns.SetZone("legacy.test.", records...)
}

// call makes an invocation of cart from a cluster, pinned to another.
func (f *federation) call(from, to string) (answer, error) {
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, "http://"+f.http[members[from]]+"/v1.0/invoke/cart/method/x", nil)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("farcall-cluster", to)
	resp, err := f.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	a := answer{status: resp.StatusCode, servedBy: resp.Header.Get("farcall-served-by"), body: string(b)}
	if err == nil && (a.status != http.StatusOK || a.cluster() != to || !strings.HasPrefix(a.body, "GET /x "+to+"/")) {
		err = fmt.Errorf("from %s to %s: %d by %q: %s", from, to, a.status, a.servedBy, a.body)
	}
	return a, err
}

func (f *federation) reaches(from, to string) {
	f.t.Helper()
	testkit.Eventually(f.t, testkit.Context(f.t), from+" reaches "+to, func() error {
		_, err := f.call(from, to)
		return err
	})
}

// calls makes sure that every cluster is served from every other, once.
func (f *federation) calls() {
	f.t.Helper()
	for from := range members {
		for to := range members {
			if _, err := f.call(from, to); err != nil {
				f.t.Error(err)
			}
		}
	}
}

// listed gives the instances of a cluster as "registry id", sorted.
func (f *federation) listed(cluster string) ([]string, error) {
	resp, err := f.admin.ListInstances(f.t.Context(), &adminv1.ListInstancesRequest{Cluster: cluster})
	var out []string
	for _, i := range resp.GetInstances() {
		out = append(out, i.GetRegistry()+" "+i.GetId())
	}
	slices.Sort(out)
	return out, err
}

// lists waits until a cluster lists so many instances.
func (f *federation) lists(cluster string, n int) []string {
	f.t.Helper()
	var have []string
	testkit.Eventually(f.t, testkit.Context(f.t), fmt.Sprintf("%s lists %d instances", cluster, n), func() (err error) {
		if have, err = f.listed(cluster); err == nil && len(have) != n {
			err = fmt.Errorf("it lists %q", have)
		}
		return err
	})
	return have
}

// status gives what is said of one registry of a cluster.
func (f *federation) status(cluster, registry string) (*storev1.RegistryStatus, *adminv1.Cluster, error) {
	resp, err := f.admin.ListClusters(f.t.Context(), &adminv1.ListClustersRequest{})
	if err != nil {
		return nil, nil, err
	}
	for _, c := range resp.GetClusters() {
		for _, r := range c.GetRegistries() {
			if c.GetName() == cluster && r.GetName() == registry {
				return r, c, nil
			}
		}
	}
	return nil, nil, fmt.Errorf("no registry %s of %s in %v", registry, cluster, resp)
}

// fails waits until a registry is said to fail, and the cluster to be stale.
func (f *federation) fails(cluster, registry string) {
	f.t.Helper()
	testkit.Eventually(f.t, testkit.Context(f.t), registry+" of "+cluster+" fails", func() error {
		r, c, err := f.status(cluster, registry)
		if err == nil && (r.GetState() != storev1.RegistryStatus_FAILED || c.GetState() != catalogv1.ClusterState_STALE) {
			err = fmt.Errorf("%v, %s", r, c.GetState())
		}
		return err
	})
}

// recovers waits until a registry is read again and the cluster is fresh, and says how long it
// took.
func (f *federation) recovers(cluster, registry string) {
	f.t.Helper()
	began := time.Now()
	testkit.Eventually(f.t, testkit.Context(f.t), registry+" of "+cluster+" is read again", func() error {
		r, c, err := f.status(cluster, registry)
		if err == nil && (r.GetState() != storev1.RegistryStatus_OK || c.GetState() != catalogv1.ClusterState_SYNCED) {
			err = fmt.Errorf("%v, %s", r, c.GetState())
		}
		return err
	})
	f.t.Logf("%s of %s is read again %v after its return", registry, cluster, time.Since(began).Round(10*time.Millisecond))
}

// farcall runs the command line and gives what it prints.
func (f *federation) farcall(args ...string) string {
	f.t.Helper()
	out, err := f.here.Command(filepath.Join(bin, "farcall"), append([]string{"--server", f.server}, args...)...).Output()
	if err != nil {
		f.t.Fatalf("farcall %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

// explained finds the line of `farcall get clusters` about a broken registry, and checks that it
// says what a person needs.
func (f *federation) explained(cluster, registry string, words ...string) {
	f.t.Helper()
	testkit.Eventually(f.t, testkit.Context(f.t), "get clusters explains "+registry+" of "+cluster, func() error {
		table := f.farcall("get", "clusters")
		for line := range strings.Lines(table) {
			if !strings.Contains(line, cluster) || !strings.Contains(line, registry) {
				continue
			}
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				f.t.Logf("%s", line)
				return nil
			}
		}
		return fmt.Errorf("no line about %s/%s with %q in\n%s", cluster, registry, words, table)
	})
}

// Consul, Kubernetes, mDNS by way of agents and the DNS are one federation: every cluster is
// called from every other, cart of Consul and shop/cart of Kubernetes are one service, and every
// instance says where it is from.
func TestRealEveryRegistryInOneFederation(t *testing.T) {
	if !testkit.Inside(t) {
		return
	}
	f := newFederation(t)
	link := "mdns@" + f.edgeLink()
	for cluster, want := range map[string][]string{
		"vms":    {"consul "},
		"kube":   {"consul cart-vm", "kubernetes cart-0"},
		"edge":   {link + " ", link + " "},
		"legacy": {"dns "},
	} {
		have := f.lists(cluster, len(want))
		for i := range want {
			if !strings.HasPrefix(have[i], want[i]) {
				t.Errorf("%s lists %q, want %q", cluster, have, want)
			}
		}
	}
	services, err := f.admin.ListServices(t.Context(), &adminv1.ListServicesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if list := services.GetServices(); len(list) != 1 || list[0].GetNamespace() != "default" || len(list[0].GetClusters()) != 4 {
		t.Errorf("the services are %v, want default/cart in four clusters and nothing else", list)
	}
	// Both instances of kube are called, in whatever registry they stand.
	for _, name := range []string{"kube/pod", "kube/vm"} {
		testkit.Eventually(t, testkit.Context(t), name+" is called", func() error {
			a, err := f.call("vms", "kube")
			if err == nil && !strings.HasPrefix(a.body, "GET /x "+name) {
				err = errors.New(a.body)
			}
			return err
		})
	}
	f.statuses(link)
	f.goodbye(link, f.handOver(link))
}

func (f *federation) edgeLink() string {
	p, err := f.edge[0].Addr.Prefix(24)
	if err != nil {
		f.t.Fatal(err)
	}
	return p.String()
}

// statuses: each registry is said to be read, when, and how much it lists.
func (f *federation) statuses(link string) {
	f.t.Helper()
	for _, at := range [][2]string{{"vms", "consul"}, {"kube", "consul"}, {"kube", "kubernetes"}, {"edge", link}, {"legacy", "dns"}} {
		testkit.Eventually(f.t, testkit.Context(f.t), "the status of "+at[1], func() error {
			r, _, err := f.status(at[0], at[1])
			if err == nil && (r.GetState() != storev1.RegistryStatus_OK || r.GetServices() != 1 || r.GetInstances() == 0 || time.Since(r.GetLastSuccess().AsTime()) > 10*time.Second) {
				err = fmt.Errorf("%v", r)
			}
			return err
		})
	}
	f.t.Logf("farcall get clusters:\n%s", f.farcall("get", "clusters"))
}

// handOver: when the agent that reports the link dies, the other one reports it, and at no time
// is the list any shorter. It gives the node of the other one.
func (f *federation) handOver(link string) (other string) {
	f.t.Helper()
	r, _, err := f.status("edge", link)
	if err != nil {
		f.t.Fatal(err)
	}
	reporter := r.GetReporter()
	if f.agents[reporter] == nil {
		f.t.Fatalf("the reporter of %s is %q, which is no agent", link, reporter)
	}
	f.agents[reporter].Kill()
	testkit.Eventually(f.t, testkit.Context(f.t), "another agent reports", func() error {
		if have, err := f.listed("edge"); err != nil || len(have) != 2 {
			f.t.Fatalf("edge lists %q, %v: the hand-over lost something", have, err)
		}
		r, _, err := f.status("edge", link)
		other = r.GetReporter()
		if err == nil && (r.GetReporter() == reporter || r.GetReporter() == "" || r.GetState() != storev1.RegistryStatus_OK) {
			err = fmt.Errorf("%v", r)
		}
		return err
	})
	f.agents[reporter].Start()
	f.recovers("edge", link)
	f.lists("edge", 2)
	return other
}

// goodbye: an agent that is stopped takes its application back, and that counts at once.
func (f *federation) goodbye(link, first string) {
	f.t.Helper()
	last := "edge-1"
	if first == last {
		last = "edge-2"
	}
	f.agents[first].Term()
	f.lists("edge", 1)
	f.reaches("vms", "edge")
	if r, _, err := f.status("edge", link); err != nil || r.GetHeld() != 0 {
		f.t.Errorf("%v, %v: want nothing held of what was taken back", r, err)
	}
	// That holds for the last one, too, after which nobody is left to say what becomes of the link.
	// It began a moment ago, and must have announced its application before it can take it back.
	testkit.Eventually(f.t, testkit.Context(f.t), last+" reports", func() error {
		r, _, err := f.status("edge", link)
		if err == nil && (r.GetReporter() != last || r.GetState() != storev1.RegistryStatus_OK) {
			err = fmt.Errorf("%v", r)
		}
		return err
	})
	f.agents[last].Term()
	f.lists("edge", 0)
}
