//go:build real && linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// linked is a federation on one network: clusters east and west of one agent each, cart and stock in
// west, whose registry is a file. The synchronizer runs where the test does, which is a host of the
// network, too.
type linked struct {
	*world
	net  *testkit.Network
	self *testkit.Host
}

// newLinked starts it, but for east's agent. registry is east's, in the synchronizer's configuration.
func newLinked(t *testing.T, registry string) *linked {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	l := &linked{net: testkit.NewNetwork(t), world: &world{
		t: t, ctx: testkit.Context(t), dir: t.TempDir(), clusters: map[string]*cluster{}, client: &http.Client{Transport: transport},
	}}
	l.self = l.net.Attach()
	l.admin = l.self.Addr.String() + ":7700"
	conn, err := grpc.NewClient(l.admin, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	l.conn = conn
	list := filepath.Join(l.dir, "west.yaml")
	write(t, list, `services:
  - {name: cart, instances: [{id: cart-1, address: 127.0.0.1, port: 8080, node: west}]}
  - {name: stock, instances: [{id: stock-1, address: 127.0.0.1, port: 8080, node: west}]}
`)
	file := filepath.Join(l.dir, "synchronizer.yml")
	write(t, file, fmt.Sprintf("federation: e2e\nlisten: %s\ninsecure: true\nhttp: {listen: %s}\nstore: {embedded: {dataDir: %s}}\n"+
		"clusters:\n  - {name: east, resolvers: [%s]}\n  - {name: west, resolvers: [{file: {path: %s}}]}\n",
		l.admin, loopback(t), filepath.Join(l.dir, "store"), registry, list))
	l.sync = testkit.NewDaemon(t, filepath.Join(bin, "synchronizer"), "synchronizer", "--config", file)
	l.sync.Start()
	west := l.net.Host("west")
	l.echo(west, "west/app")
	l.agent(west, "west", "{file: {path: "+list+"}}", "")
	return l
}

// echo runs an application on a host, at port 8080 of its loopback, and gives that address.
func (l *linked) echo(h *testkit.Host, name string) netip.AddrPort {
	l.t.Helper()
	h.Daemon(filepath.Join(bin, "echo"), "echo-"+strings.ReplaceAll(name, "/", "-"), "127.0.0.1:8080", name).Start()
	return local(8080)
}

// agent starts a cluster's only agent, which is the node of the cluster's name.
func (l *linked) agent(h *testkit.Host, name, registry, more string) {
	l.t.Helper()
	at := h.Addr.String()
	file := filepath.Join(l.dir, "agent-"+name+".yml")
	write(l.t, file, fmt.Sprintf("cluster: %s\nnode: %[1]s\nsynchronizers: [%s]\nresolvers: [%s]\ninternal: {listen: \"%s:50002\", insecure: true}\n"+
		"http: {listen: \"%[4]s:3500\", insecure: true}\nmetrics: {listen: \"%[4]s:9464\", insecure: true}\n%s", name, l.admin, registry, at, more))
	c := &cluster{name: name, http: at + ":3500", health: at + ":9464", agent: h.Daemon(filepath.Join(bin, "agent"), "agent-"+name, "--config", file)}
	l.clusters[name] = c
	c.agent.Start()
}

// served waits until a call of an application from a cluster's agent is answered by this one, and says
// which instance served it.
func (l *linked) served(from, app, by string) (served string) {
	l.t.Helper()
	testkit.Eventually(l.t, l.ctx, "a call of "+app+" from "+from+" is answered by "+by, func() error {
		a, err := l.call(from, http.MethodPost, app+"/method/x?y=1")
		if err == nil && (a.status != http.StatusOK || a.body != "POST /x?y=1 "+by+" hello") {
			err = fmt.Errorf("%d by %q: %s", a.status, a.servedBy, a.body)
		}
		served = a.servedBy
		return err
	})
	return served
}

// lists waits until the synchronizer lists so many instances of a service in a cluster.
func (l *linked) lists(cluster, service string, n int) {
	l.t.Helper()
	testkit.Eventually(l.t, l.ctx, fmt.Sprintf("%s lists %d of %s", cluster, n, service), func() error {
		list, err := l.connect().ListInstances(l.ctx, &adminv1.ListInstancesRequest{Cluster: cluster, Service: service})
		if err == nil && len(list.GetInstances()) != n {
			err = fmt.Errorf("it lists %v", list.GetInstances())
		}
		return err
	})
}

// follow gives, whenever it is asked, all instances that the synchronizer has listed in a cluster
// since, as "service/id".
func (l *linked) follow(name string) func() []string {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.ctx)
	stream, err := l.connect().WatchInstances(ctx, &adminv1.WatchInstancesRequest{Cluster: name}, grpc.WaitForReady(true))
	if err != nil {
		l.t.Fatal(err)
	}
	var mu sync.Mutex
	var seen []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			if i := m.GetInstance(); i != nil {
				mu.Lock()
				seen = append(seen, i.GetService()+"/"+i.GetId())
				mu.Unlock()
			}
		}
	}()
	l.t.Cleanup(func() { cancel(); <-done })
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen)
	}
}

// onLink is the registry of a cluster that is what is announced on the link.
const onLink = "{mdns: {}}"

// echoOfEast is the label of what east's agent announces for other clusters.
const echoOfEast = "farcall-east"

// announcing starts east's agent, which tells the sidecars of the link what it finds in other clusters.
func (l *linked) announcing() {
	l.t.Helper()
	h := l.net.Host("east")
	l.agent(h, "east", onLink, fmt.Sprintf("dapr: {listen: \"%s:50003\", insecure: true, announce: {}}\n", h.Addr))
}

// shows waits until an agent's metrics have a line.
func (l *linked) shows(cluster, line string) {
	l.t.Helper()
	testkit.Eventually(l.t, l.ctx, "the agent of "+cluster+" shows "+line, func() error {
		text, err := l.get("http://" + l.clusters[cluster].health + "/metrics")
		if err == nil && !strings.Contains(text, "\n"+line+"\n") {
			err = errors.New("it does not")
		}
		return err
	})
}

// invoke calls an application by way of a sidecar, and says why it was not answered by this one.
func (l *linked) invoke(d *testkit.DaprdServer, app, by string) error {
	resp, err := l.client.Post(d.Invoke(app, "x?y=1"), "text/plain", strings.NewReader("hello"))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || string(b) != "POST /x?y=1 "+by+" hello") {
		err = fmt.Errorf("%d %s", resp.StatusCode, b)
	}
	return err
}

// An application behind an unmodified daprd, which resolves names by mDNS as it does unless it is told
// otherwise, calls one that only another cluster has: application, daprd, agent, agent, application.
// What the own cluster has is left to its daprd, and nobody takes the agent's word for an instance.
func TestRealSidecarFindsOtherClustersByMDNS(t *testing.T) {
	if !testkit.Inside(t) {
		return
	}
	l := newLinked(t, onLink)
	listed := l.follow("east")
	e := testkit.Listen(t, l.self)
	l.announcing()
	e.Answered(echoOfEast, "cart")
	e.Answered(echoOfEast, "stock")
	web := testkit.Daprd(t, l.net.Host("web"), testkit.DaprdConfig{AppID: "web"})
	for _, app := range []string{"cart", "stock"} {
		testkit.Eventually(t, l.ctx, "a sidecar calls "+app, func() error { return l.invoke(web, app, "west/app") })
	}
	if err := l.invoke(web, "nobody", "west/app"); err == nil || !strings.Contains(err.Error(), "couldn't find service: nobody") {
		t.Errorf("what nobody has: %v", err)
	}

	l.lists("east", "web", 1)
	l.shows("east", `farcall_mdns_external_applications{registry="east/dapr",state="announced"} 2`)
	if e.Heard(testkit.Saying{Label: echoOfEast, App: "cart", Bye: true}) == nil {
		t.Error("the agent took back what only west has")
	}

	// One of east's own comes.
	e.Forget()
	here := l.net.Host("here")
	cart := testkit.Daprd(t, here, testkit.DaprdConfig{AppID: "cart", App: l.echo(here, "east/app")})
	e.Until("the agent takes back what its own cluster has now", testkit.Saying{Label: echoOfEast, App: "cart", Bye: true})
	l.served("east", "cart", "east/app")
	e.Silent(echoOfEast, "cart", "stock")
	// What the sidecar remembers of the agent leads to the application as well.
	testkit.Eventually(t, l.ctx, "a sidecar calls its own cluster's", func() error { return l.invoke(web, "cart", "east/app") })
	for range 10 {
		if err := l.invoke(web, "cart", "east/app"); err != nil {
			t.Error(err)
		}
	}
	l.lists("east", "cart", 1)

	// It goes, and then the agent.
	e.Forget()
	cart.Stop()
	e.Until("the agent announces again what only west has", testkit.Saying{Label: echoOfEast, App: "cart"})
	l.served("east", "cart", "west/app")
	e.Answered(echoOfEast, "stock") // nobody would have to be told of what nobody asked for lately
	e.Forget()
	l.clusters["east"].agent.Term()
	e.Until("an agent that ends takes back what it announced", testkit.Saying{Label: echoOfEast, App: "cart", Bye: true})
	e.Until("an agent that ends takes all of it back", testkit.Saying{Label: echoOfEast, App: "stock", Bye: true})
	if err := l.clusters["east"].agent.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}

	// No echo: the agent and the synchronizer heard all this, too.
	for _, id := range listed() {
		if !strings.HasPrefix(id, "web/web:") && !strings.HasPrefix(id, "cart/here:") {
			t.Errorf("east listed %s", id)
		}
	}
	if len(listed()) < 2 {
		t.Errorf("all that east listed is %v", listed())
	}
}

// Agents call an application at the daprd that announces it on the link, those of its own cluster and
// those of others.
func TestRealAgentCallsSidecarHeardOnTheLink(t *testing.T) {
	if !testkit.Inside(t) {
		return
	}
	l := newLinked(t, onLink)
	l.agent(l.net.Host("east"), "east", onLink, "")
	one, two := l.net.Host("one"), l.net.Host("two")
	till := testkit.Daprd(t, one, testkit.DaprdConfig{AppID: "till", App: l.echo(one, "east/one")})
	for _, from := range []string{"east", "west"} {
		if by := l.served(from, "till", "east/one"); !strings.HasPrefix(by, "east/one:") {
			t.Errorf("from %s it is served by %q", from, by)
		}
	}
	second := testkit.Daprd(t, two, testkit.DaprdConfig{AppID: "till", App: l.echo(two, "east/two")})
	l.served("east", "till", "east/two") // after some calls, as both are called
	till.Stop()
	l.lists("east", "till", 1)
	for _, from := range []string{"east", "west"} {
		l.served(from, "till", "east/two")
	}
	second.Stop()
	testkit.Eventually(t, l.ctx, "with its goodbye it is no more", func() error {
		a, err := l.call("east", http.MethodGet, "till/method/x")
		if err == nil && a.status == http.StatusOK {
			err = fmt.Errorf("%d by %q", a.status, a.servedBy)
		}
		return err
	})
}
