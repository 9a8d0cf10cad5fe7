//go:build unix

package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// bin holds the programs under test, built with the race detector.
var bin string

func TestMain(m *testing.M) {
	var err error
	if bin, err = os.MkdirTemp("", "farcall-e2e-"); err == nil {
		err = testkit.Build(filepath.Join("..", ".."), bin, "./cmd/synchronizer", "./cmd/agent", "./cmd/farcall", "./test/e2e/echo")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	testkit.Main(m, func() { os.RemoveAll(bin) })
}

// registry is where a cluster of the test keeps its instances: the same behaviours hold for all.
type registry interface {
	// config is the resolver's entry in the daemons' configuration, one line of YAML.
	config() string
	put(id string, port int, node string)
	remove(id string)
}

// world is a federation of processes: one synchronizer, and clusters of one node each.
type world struct {
	t        *testing.T
	ctx      context.Context
	dir      string
	admin    string // host:port
	http     string // of the synchronizer
	sync     *testkit.Daemon
	clusters map[string]*cluster
	client   *http.Client
	conn     *grpc.ClientConn                 // to admin
	certs    *certs                           // nil where the world is plaintext
	secure   credentials.TransportCredentials // the test's own, for admin
}

type cluster struct {
	name                         string
	registry                     registry
	agent                        *testkit.Daemon
	http, grpc, internal, health string
	apps                         map[string]*instance
}

// instance is one application of the test, that says who it is.
type instance struct {
	id     string
	port   int
	server *http.Server
	hits   atomic.Int64
	// failing makes every answer a server error.
	failing atomic.Bool
	l       net.Listener
	done    chan struct{}
}

// options of a world.
type options struct {
	store    string                     // the synchronizer's store block; embedded when empty
	registry func(name string) registry // a file when nil
	apps     string                     // an agent's apps block
	agent    func(name string) string   // what else a cluster's agent is told; may be nil
	hold     string                     // guard.hold; 2s when empty
	tls      bool                       // every process has an identity
	second   string                     // host:port of a further synchronizer that agents know
	program  string                     // the agents' program; one with the race detector when empty
	through  func(admin string) string  // what agents follow in place of the synchronizer; may be nil
	control  string                     // the synchronizer's program; one with the race detector when empty
}

// newWorld starts clusters named so, with two instances of cart each, and waits until every
// agent can reach every cluster.
func newWorld(t *testing.T, o options, names ...string) *world {
	t.Helper()
	w := &world{t: t, ctx: testkit.Context(t), clusters: map[string]*cluster{}}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	w.client = &http.Client{Transport: transport}
	w.admin, w.http = loopback(t), loopback(t)
	w.secure = insecure.NewCredentials()
	if o.tls {
		w.certs = newCerts(t)
		w.secure = w.certs.credentials()
	}
	conn, err := grpc.NewClient(w.admin, grpc.WithTransportCredentials(w.secure))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	w.conn = conn
	dir := t.TempDir()
	w.dir = dir
	store := "store: {embedded: {dataDir: " + filepath.Join(dir, "store") + "}}\n"
	if o.store != "" {
		store = "store: {" + o.store + "}\ndataDir: " + filepath.Join(dir, "sync") + "\n"
	}
	o.hold = cmp.Or(o.hold, "2s")
	synchronizers := w.admin
	if o.through != nil {
		synchronizers = o.through(w.admin)
	}
	if o.second != "" {
		synchronizers += ", " + o.second
	}
	var text strings.Builder
	text.WriteString(w.certs.line("synchronizer", "main"))
	fmt.Fprintf(&text, "federation: e2e\nlisten: %s\nhttp: {listen: %s}\n%sguard: {hold: %s}\nclusters:\n", w.admin, w.http, store, o.hold)
	for _, name := range names {
		c := &cluster{name: name, apps: map[string]*instance{}, http: loopback(t), grpc: loopback(t), internal: loopback(t), health: loopback(t)}
		if o.registry == nil {
			c.registry = &fileRegistry{t: t, path: filepath.Join(dir, name+".yaml"), list: map[string]string{}}
		} else {
			c.registry = o.registry(name)
		}
		w.clusters[name] = c
		for _, id := range []string{"cart-1", "cart-2"} {
			c.start(t, id)
			c.registry.put(id, c.apps[id].port, name+"-1")
		}
		fmt.Fprintf(&text, "  - {name: %s, resolvers: [%s]}\n", name, c.registry.config())
		agent := fmt.Sprintf("cluster: %s\nnode: %s-1\nsynchronizers: [%s]\ndataDir: %s\nresolvers: [%s]\ninternal: {listen: %s}\nhttp: {listen: %s}\ngrpc: {listen: %s}\nmetrics: {listen: %s}\nguard: {hold: %s}\naccessLog: errors\n%s",
			name, name, synchronizers, filepath.Join(dir, "agent-"+name), c.registry.config(), c.internal, c.http, c.grpc, c.health, o.hold, o.apps)
		agent += w.certs.line("agent", name, name+"-1")
		if o.agent != nil {
			agent += o.agent(name)
		}
		file := filepath.Join(dir, "agent-"+name+".yml")
		write(t, file, agent)
		c.agent = testkit.NewDaemon(t, cmp.Or(o.program, filepath.Join(bin, "agent")), "agent-"+name, "--config", file)
	}
	write(t, filepath.Join(dir, "synchronizer.yml"), text.String())
	w.sync = testkit.NewDaemon(t, cmp.Or(o.control, filepath.Join(bin, "synchronizer")), "synchronizer", "--config", filepath.Join(dir, "synchronizer.yml"))
	w.sync.Start()
	for _, c := range w.clusters {
		c.agent.Start()
	}
	for _, from := range names {
		for _, to := range names {
			w.reaches(from, to)
		}
	}
	return w
}

func loopback(t *testing.T) string { return fmt.Sprint("127.0.0.1:", testkit.FreePort(t)) }

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start runs an instance's application, again at the same port where it ran before.
func (c *cluster) start(t *testing.T, id string) {
	t.Helper()
	i := c.apps[id]
	if i == nil {
		i = &instance{id: id, port: testkit.FreePort(t)}
		c.apps[id] = i
	}
	l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", i.port))
	if err != nil {
		t.Fatal(err)
	}
	i.l, i.done = l, make(chan struct{})
	i.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.hits.Add(1)
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return // the caller is gone
		}
		w.Header().Set("X-Served-By", c.name+"/"+id)
		if i.failing.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.URL.RequestURI(), c.name+"/"+id, b)
	})}
	done, server := i.done, i.server
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends with stop
	}()
	t.Cleanup(func() { server.Close(); <-done })
}

// stop ends the application as a crash does: connections are cut.
func (i *instance) stop() {
	i.server.Close()
	<-i.done
}

// answer is what an application gets from its agent.
type answer struct {
	status   int
	servedBy string
	strategy string
	attempts string
	reason   string
	body     string
}

func (a answer) cluster() string {
	c, _, _ := strings.Cut(a.servedBy, "/")
	return c
}

// call makes one HTTP invocation from a cluster; headers are "key: value".
func (w *world) call(from, method, path string, headers ...string) (answer, error) {
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader("hello")
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+w.clusters[from].http+"/v1.0/invoke/"+path, body)
	if err != nil {
		return answer{}, err
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Set(k, v)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	h := resp.Header
	return answer{resp.StatusCode, h.Get("farcall-served-by"), h.Get("farcall-strategy"), h.Get("farcall-attempts"), h.Get("farcall-reason"), string(b)}, err
}

// get gives the body of a page.
func (w *world) get(url string) (string, error) {
	req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s %s", url, resp.Status, b)
	}
	return string(b), err
}

// must is call that has to be answered.
func (w *world) must(from, path string, headers ...string) answer {
	w.t.Helper()
	a, err := w.call(from, http.MethodGet, path, headers...)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// reaches waits until a call from one cluster, pinned to another, is served there.
func (w *world) reaches(from, to string) {
	w.t.Helper()
	testkit.Eventually(w.t, w.ctx, from+" reaches "+to, func() error {
		a, err := w.call(from, http.MethodGet, "cart/method/ready", "farcall-cluster: "+to)
		if err == nil && (a.status != http.StatusOK || a.cluster() != to) {
			err = fmt.Errorf("%d by %q: %s", a.status, a.servedBy, a.body)
		}
		return err
	})
}

// serve waits until calls under a strategy are served by one of the clusters only.
func (w *world) served(from, strategy string, by ...string) {
	w.t.Helper()
	for range 12 {
		a := w.must(from, "cart/method/x", "farcall-strategy: "+strategy)
		ok := false
		for _, c := range by {
			ok = ok || a.cluster() == c
		}
		if a.status != http.StatusOK || !ok || a.strategy != strategy {
			w.t.Errorf("%s from %s: %d by %q as %q (%s), want by one of %v", strategy, from, a.status, a.servedBy, a.strategy, a.body, by)
		}
	}
}

// connect gives a client of the admin API, always the same.
func (w *world) connect() adminv1.AdminClient { return adminv1.NewAdminClient(w.conn) }

// fileRegistry is a cluster's registry in a file.
type fileRegistry struct {
	t    *testing.T
	path string
	list map[string]string
	more string // further services
	says string // what every instance's record says besides: "health: DRAINING"
}

func (f *fileRegistry) config() string { return "{file: {path: " + f.path + "}}" }

func (f *fileRegistry) put(id string, port int, node string) {
	f.list[id] = fmt.Sprintf("      - {id: %s, address: 127.0.0.1, port: %d, node: %s%%s}\n", id, port, node)
	f.save()
}

func (f *fileRegistry) remove(id string) {
	delete(f.list, id)
	f.save()
}

func (f *fileRegistry) save() {
	text := "services:\n  - name: cart\n    instances:\n"
	if len(f.list) == 0 {
		text = "services:\n  - name: cart\n    instances: []\n"
	}
	for _, l := range f.list {
		says := f.says
		if says != "" {
			says = ", " + says
		}
		text += strings.ReplaceAll(l, "%s", says)
	}
	text += f.more
	if err := errors.Join(os.WriteFile(f.path+".new", []byte(text), 0o600), os.Rename(f.path+".new", f.path)); err != nil {
		f.t.Fatal(err)
	}
}
