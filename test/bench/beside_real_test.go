//go:build real

package bench

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/testkit"
)

var (
	agentFlag = flag.String("agent", "", "the `program` that is measured as ours; empty: built from this source")
	againFlag = flag.String("again", "", "the `program` that is measured as ours again; empty: the same as ours")
)

// The arms, in the order of the report.
const (
	direct = "direct"
	floor  = "floor"
	ours   = "ours"
	again  = "ours again"
	daprd  = "daprd"
)

var arms = []string{direct, floor, ours, again, daprd}

// The two ways to call.
const (
	overHTTP = "HTTP"
	overGRPC = "gRPC"
)

var protocols = []string{overGRPC, overHTTP}

// arm is one way from the load generator to the application.
type arm struct {
	callers []caller
	procs   *procs    // of its relays, and the application
	relays  []process // on the way; the caller's first
	base    string    // URL, before a method
}

// beside is all that is measured in a run: the application, and the ways to it.
type beside struct {
	b      testing.TB
	dir    string
	client *http.Client
	conn   *grpc.ClientConn // to the synchronizer
	app    struct {
		process
		http, grpc string
	}
	arms map[string]map[string]*arm // by protocol and name
}

// size is that of a call's body and of its answer's.
const size = 1 << 10

func newBeside(b testing.TB) *beside {
	b.Helper()
	transport := &http.Transport{}
	b.Cleanup(transport.CloseIdleConnections)
	s := &beside{b: b, dir: b.TempDir(), client: &http.Client{Transport: transport}, arms: map[string]map[string]*arm{overGRPC: {}, overHTTP: {}}}
	s.build()
	s.app.http, s.app.grpc = s.loopback(), s.loopback()
	s.app.process = s.start("stand", "application", "app", s.app.http, s.app.grpc)
	s.app.objects = "http://" + s.app.http + "/mallocs"
	s.add(direct, nil, nil, s.app.grpc, "http://"+s.app.http)
	s.startFloor()
	s.startFederation()
	s.startDaprd()
	return s
}

// build builds the programs as they are delivered: without the race detector, unlike other tests.
func (s *beside) build() {
	s.b.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-o", s.dir+string(filepath.Separator), "./cmd/agent", "./cmd/synchronizer", "./test/bench/stand")
	cmd.Dir = testkit.Root(s.b)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.b.Fatalf("%v\n%s", err, out)
	}
}

func (s *beside) loopback() string { return fmt.Sprint("127.0.0.1:", testkit.FreePort(s.b)) }

func (s *beside) start(program, name string, args ...string) process {
	s.b.Helper()
	if !filepath.IsAbs(program) {
		program = filepath.Join(s.dir, program)
	}
	d := testkit.NewDaemon(s.b, program, name, args...)
	d.Start()
	return process{name: name, pid: d.Pid()}
}

func (s *beside) startFloor() {
	s.b.Helper()
	out, inHTTP, inGRPC := s.loopback(), s.loopback(), s.loopback()
	second := s.start("stand", "floor-out", "out", out, s.app.http, s.app.grpc)
	first := s.start("stand", "floor-in", "in", inHTTP, inGRPC, out)
	s.add(floor, []process{first, second}, []process{first, second}, inGRPC, "http://"+inHTTP)
}

// yaml writes a configuration and gives its name.
func (s *beside) yaml(name, format string, args ...any) string {
	s.b.Helper()
	file := filepath.Join(s.dir, name+".yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, format, args...), 0o600); err != nil {
		s.b.Fatal(err)
	}
	return file
}

// pair is an agent that calls and one that serves, each in a cluster of its own, with a pair of applications
// of their own: the same process by two names.
type pair struct {
	arm, east, west string
	http, grpc      string // app-ids
	agent           string // the program
}

// startFederation starts two pairs of agents with one synchronizer.
func (s *beside) startFederation() {
	s.b.Helper()
	pairs := []pair{
		{ours, "east", "west", "cart", "till", *agentFlag},
		{again, "north", "south", "hat", "coat", *againFlag},
	}
	admin := s.loopback()
	var clusters strings.Builder
	registries := map[string]string{}
	for _, p := range pairs {
		registries[p.east] = s.yaml(p.east, "services: []\n")
		registries[p.west] = s.yaml(p.west, `services:
  - {name: %s, instances: [{id: one, address: 127.0.0.1, port: %s, node: %s-1}]}
  - {name: %s, instances: [{id: one, address: 127.0.0.1, port: %s, node: %[3]s-1}]}
`, p.http, port(s.app.http), p.west, p.grpc, port(s.app.grpc))
		for _, c := range []string{p.east, p.west} {
			fmt.Fprintf(&clusters, "  - {name: %s, resolvers: [{file: {path: %s}}]}\n", c, registries[c])
		}
	}
	s.start("synchronizer", "synchronizer", "--config", s.yaml("synchronizer",
		"federation: bench\nlisten: %s\nhttp: {listen: %s}\nstore: {embedded: {dataDir: %s}}\nclusters:\n%s",
		admin, s.loopback(), filepath.Join(s.dir, "store"), &clusters))
	conn, err := grpc.NewClient(admin, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.b.Fatal(err)
	}
	s.b.Cleanup(func() { conn.Close() })
	s.conn = conn
	for _, p := range pairs {
		if p.agent == "" {
			p.agent = "agent"
		}
		west := s.startAgent(p.agent, p.west, admin, registries[p.west], fmt.Sprintf(
			"apps: [{id: %s, port: %s, protocol: http}, {id: %s, port: %s, protocol: grpc}]\n", p.http, port(s.app.http), p.grpc, port(s.app.grpc)))
		east := s.startAgent(p.agent, p.east, admin, registries[p.east], "apps: [{id: web, port: 9}]\n")
		relays := []process{east.process, west.process}
		s.addApp(p.arm, relays, relays, map[string]string{overHTTP: p.http, overGRPC: p.grpc}, east.grpc, east.http)
	}
	s.putPolicies(pairs)
}

func port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }

// started is an agent and where applications call it.
type started struct {
	process
	http, grpc string
}

func (s *beside) startAgent(program, cluster, admin, registry, apps string) started {
	s.b.Helper()
	a := started{http: s.loopback(), grpc: s.loopback()}
	metrics := s.loopback()
	a.process = s.start(program, "agent-"+cluster, "--config", s.yaml("agent-"+cluster,
		"cluster: %s\nnode: %[1]s-1\nsynchronizers: [%s]\ndataDir: %s\nresolvers: [{file: {path: %s}}]\ninternal: {listen: %s}\nhttp: {listen: %s}\ngrpc: {listen: %s}\nmetrics: {listen: %s}\n%s",
		cluster, admin, filepath.Join(s.dir, "agent-"+cluster), registry, s.loopback(), a.http, a.grpc, metrics, apps))
	a.objects = "http://" + metrics + "/metrics"
	return a
}

// putPolicies has every call follow a policy.
func (s *beside) putPolicies(pairs []pair) {
	s.b.Helper()
	ctx := testkit.Context(s.b)
	word := "external-first"
	for _, p := range pairs {
		for _, id := range []string{p.http, p.grpc} {
			if _, err := adminv1.NewAdminClient(s.conn).PutPolicy(ctx, &adminv1.PutPolicyRequest{Policy: &policyv1.Policy{
				Target: &policyv1.Target{Service: id}, Settings: &policyv1.Settings{Strategy: &word},
			}}, grpc.WaitForReady(true)); err != nil {
				s.b.Fatal(err)
			}
		}
	}
}

// startDaprd starts a daprd that calls and, since one speaks one protocol to its application, two that serve.
// Nothing that can be switched off is on, and resolving a name is a look into a template.
func (s *beside) startDaprd() {
	s.b.Helper()
	args := []string{"--max-body-size", "64Mi", "--enable-mtls=false"}
	callee := func(id, protocol, app string) *testkit.DaprdServer {
		return testkit.Daprd(s.b, nil, testkit.DaprdConfig{
			AppID: id, App: netip.MustParseAddrPort(app), Resolver: template("127.0.0.1:1"),
			Args: append([]string{"--app-protocol", protocol}, args...),
		})
	}
	cart, till := callee("cart", "http", s.app.http), callee("till", "grpc", s.app.grpc)
	web := testkit.Daprd(s.b, nil, testkit.DaprdConfig{
		AppID: "web", Args: args,
		Resolver: template(fmt.Sprintf(`{{if eq .ID "till"}}%s{{else}}%s{{end}}`, till.Internal, cart.Internal)),
	})
	one := process{name: "daprd-web", pid: web.Pid()}
	http := []process{one, {name: "daprd-cart", pid: cart.Pid()}}
	grpc := []process{one, {name: "daprd-till", pid: till.Pid()}}
	s.addApp(daprd, grpc, http, map[string]string{overHTTP: "cart", overGRPC: "till"}, web.GRPC.String(), web.HTTP.String())
}

func template(address string) string {
	return fmt.Sprintf(`{component: kubernetes, version: v1, configuration: {template: '%s'}}`, address)
}

// addApp adds an arm whose callers name the application.
func (s *beside) addApp(name string, grpcRelays, httpRelays []process, ids map[string]string, grpcAt, httpAt string) {
	s.b.Helper()
	s.add(name, grpcRelays, httpRelays, grpcAt, "http://"+httpAt+"/v1.0/invoke/"+ids[overHTTP]+"/method", ids[overGRPC])
}

// add adds an arm for either protocol.
func (s *beside) add(name string, grpcRelays, httpRelays []process, grpcAt, httpBase string, id ...string) {
	s.b.Helper()
	made := func(relays []process) *arm {
		return &arm{relays: relays, procs: &procs{list: append([]process{s.app.process}, relays...), client: s.client}}
	}
	g, h := made(grpcRelays), made(httpRelays)
	h.base = httpBase
	for range connections {
		g.callers = append(g.callers, s.grpcCaller(grpcAt, id...))
		h.callers = append(h.callers, s.httpCaller(httpBase+"/echo"))
	}
	s.arms[overGRPC][name], s.arms[overHTTP][name] = g, h
}

// payload is a body that nothing can compress.
func payload() []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
}

func (s *beside) grpcCaller(addr string, id ...string) caller {
	s.b.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.b.Fatal(err)
	}
	s.b.Cleanup(func() { conn.Close() })
	ctx := context.Background()
	if len(id) > 0 {
		ctx = metadata.AppendToOutgoingContext(ctx, "dapr-app-id", id[0])
	}
	in := wrapperspb.Bytes(payload())
	return func() error {
		out := new(wrapperspb.BytesValue)
		if err := conn.Invoke(ctx, "/farcall.bench.v1.Echo/Call", in, out); err != nil {
			return err
		}
		if len(out.GetValue()) != size {
			return fmt.Errorf("%s answered with %d bytes", addr, len(out.GetValue()))
		}
		return nil
	}
}

func (s *beside) httpCaller(url string) caller {
	s.b.Helper()
	transport := &http.Transport{DisableCompression: true}
	s.b.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	body := string(payload())
	return func() error {
		n, err := exchange(client, url, strings.NewReader(body), size)
		if err == nil && n != size {
			err = fmt.Errorf("%s answered with %d bytes", url, n)
		}
		return err
	}
}

// exchange posts a body, if there is one, and gives the answer's length.
func exchange(c *http.Client, url string, body io.Reader, length int64) (int64, error) {
	req, err := http.NewRequest(http.MethodPost, url, body)
	if err != nil {
		return 0, err
	}
	req.ContentLength = length
	resp, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return n, err
}

// ready waits until every arm's calls are answered.
func (s *beside) ready(protocols []string) {
	s.b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, p := range protocols {
		for _, name := range arms {
			for _, call := range s.arms[p][name].callers {
				testkit.Eventually(s.b, ctx, p+", "+name, call)
			}
		}
	}
}
