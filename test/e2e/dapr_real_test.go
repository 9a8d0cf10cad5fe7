//go:build real && linux

package e2e

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc/codes"

	"github.com/farcall/farcall/internal/testkit"
)

// resolver is the configuration that makes a daprd call an address for every app-id.
func resolver(address string) string {
	return fmt.Sprintf(`{component: kubernetes, version: v1, configuration: {template: '%s'}}`, address)
}

// bodies lets daprd take the 10 MiB of the suite.
const bodies = "--max-body-size=16Mi"

// sidecarOf starts a daprd next to an application. It finds itself at any address, which it wants
// to for proxied calls.
func sidecarOf(t *testing.T, id string, port int, tracing string, args ...string) *testkit.DaprdServer {
	t.Helper()
	return testkit.Daprd(t, nil, testkit.DaprdConfig{
		AppID: id, App: local(port), Resolver: resolver("127.0.0.1:1"), Tracing: tracing, Args: append(args, bodies),
	})
}

// spliced is a federation of east and west in which each way has its applications: an HTTP and a
// gRPC one in east, the same two in west, and those behind daprds in west. An application behind a
// daprd in east is the caller, whose every call goes to east's agent.
type spliced struct {
	*world
	app    *daprApp
	rpc    *grpcApp
	caller *testkit.DaprdServer
	// till and tillRPC are the daprds next to applications of west.
	till, tillRPC *testkit.DaprdServer
	listen        string // dapr.listen of east's agent
}

// places is where a world's applications listen, and what agents and daprds are told besides.
type places struct {
	web, sale      int
	agent, tracing string
}

func newSpliced(t *testing.T, p places) *spliced {
	t.Helper()
	s := &spliced{listen: loopback(t)}
	s.till = sidecarOf(t, "till", p.web, p.tracing)
	s.tillRPC = sidecarOf(t, "till-rpc", p.sale, p.tracing, "--app-protocol=grpc")
	s.world = newWorld(t, options{agent: func(name string) string {
		if name == "east" {
			// Of two applications of the node neither is taken for the caller.
			return fmt.Sprintf("dapr: {listen: \"%s\"}\napps:\n  - {id: desk}\n  - {id: desk-rpc, protocol: grpc}\n%s", s.listen, p.agent)
		}
		return fmt.Sprintf("apps:\n  - {id: stall-rpc, protocol: grpc}\n  - {id: till, port: %d, protocol: dapr}\n  - {id: till-rpc, port: %d, protocol: dapr}\n  - {id: down, port: %d, protocol: dapr}\n%s",
			s.till.Internal.Port(), s.tillRPC.Internal.Port(), testkit.FreePort(t), p.agent)
	}}, "east", "west")
	east, west := s.clusters["east"].registry.(*fileRegistry), s.clusters["west"].registry.(*fileRegistry)
	east.addService("desk", "desk-1", p.web, "east-1")
	east.addService("desk-rpc", "desk-rpc-1", p.sale, "east-1")
	west.addService("stall", "stall-1", p.web, "west-1")
	west.addService("stall-rpc", "stall-rpc-1", p.sale, "west-1")
	west.addService("till", "till-1", p.web, "west-1")
	west.addService("till-rpc", "till-rpc-1", p.sale, "west-1")
	west.addService("dead", "dead-1", testkit.FreePort(t), "west-1")
	west.addService("down", "down-1", p.web, "west-1")
	s.caller = testkit.Daprd(t, nil, testkit.DaprdConfig{AppID: "web", Resolver: resolver(s.listen), Tracing: p.tracing, Args: []string{bodies}})
	return s
}

// What agents tell a daprd beside a proxied call: one that is known to be the sidecar of an
// application, and one that a registry lists, which might as well be an agent.
var (
	toSidecar = []string{"farcall-hop"}
	toPeer    = []string{"farcall-hop", "farcall-origin", "farcall-target"}
)

// The four ways.
func (w *spliced) daprdAgentApp(t *testing.T) *way {
	return &way{
		t: t, ctx: testkit.Context(t), w: w.world, app: w.app, rpc: w.rpc, web: "desk", sale: "desk-rpc", sidecar: true, caller: "node/east/east-1",
		http: w.caller.HTTP.String(), conn: dial(t, w.caller.GRPC.String()),
	}
}

func (w *spliced) agentDaprdApp(t *testing.T) *way {
	return &way{
		t: t, ctx: testkit.Context(t), w: w.world, app: w.app, rpc: w.rpc, web: "till", sale: "till-rpc", buffers: true, caller: "node/west/west-1", marks: toSidecar,
		http: w.clusters["west"].http, conn: dial(t, w.clusters["west"].grpc),
	}
}

func (w *spliced) agentAgentApp(t *testing.T) *way {
	return &way{
		t: t, ctx: testkit.Context(t), w: w.world, app: w.app, rpc: w.rpc, web: "stall", sale: "stall-rpc", caller: "node/east/east-1",
		http: w.clusters["east"].http, conn: dial(t, w.clusters["east"].grpc),
	}
}

func (w *spliced) daprdAgentAgentDaprd(t *testing.T) *way {
	return &way{
		t: t, ctx: testkit.Context(t), w: w.world, app: w.app, rpc: w.rpc, web: "till", sale: "till-rpc", sidecar: true, buffers: true, caller: "node/east/east-1",
		marks: toSidecar, http: w.caller.HTTP.String(), conn: dial(t, w.caller.GRPC.String()),
	}
}

// ways names them.
var ways = []struct {
	name string
	of   func(*spliced, *testing.T) *way
}{
	{"daprd, agent, application", (*spliced).daprdAgentApp},
	{"agent, daprd, application", (*spliced).agentDaprdApp},
	{"agent, agent, application", (*spliced).agentAgentApp},
	{"daprd, agent, agent, daprd, application", (*spliced).daprdAgentAgentDaprd},
}

// One suite holds on all four ways.
func TestRealDaprOnEveryWay(t *testing.T) {
	app, rpc, spans := newDaprApp(t), newGRPCApp(t), newSpans(t)
	w := newSpliced(t, places{web: app.port, sale: rpc.port, agent: spans.ofAgents(), tracing: spans.ofDaprds()})
	w.app, w.rpc = app, rpc
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			s := way.of(w, t)
			s.ready()
			t.Run("HTTP", func(t *testing.T) { s.at(t).each(httpParts...) })
			t.Run("gRPC", func(t *testing.T) { s.at(t).each(grpcParts...) })
		})
	}
	t.Run("traces", func(t *testing.T) { w.traces(t, spans) })
	t.Run("of daprd", func(t *testing.T) { w.more(t) })
}

// more is what only a daprd can ask for, or only one next to an application does.
func (w *spliced) more(t *testing.T) {
	s := w.daprdAgentAgentDaprd(t)
	post := func(app string, headers ...string) daprAnswer {
		t.Helper()
		a, err := s.get(s.ctx, http.MethodPost, s.url(app, "echo"), strings.NewReader("x"), headers...)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	t.Run("application not listening", func(t *testing.T) {
		began := time.Now()
		s.fails("dead", post("dead"), http.StatusServiceUnavailable, codes.Unavailable)
		if took := time.Since(began); took < 2*time.Second {
			t.Errorf("it took %v: daprd has not tried again what certainly was not executed", took)
		}
	})
	t.Run("sidecar not listening", func(t *testing.T) {
		before := w.app.hits.Load()
		s.fails("down", post("down"), http.StatusServiceUnavailable, codes.Unavailable)
		if w.app.hits.Load() != before {
			t.Error("the application was called past its sidecar")
		}
	})
	t.Run("namespace", func(t *testing.T) {
		// A daprd does not say which namespace its application means.
		if a := post("stall.elsewhere"); a.status != http.StatusOK || !strings.HasPrefix(a.header.Get("Farcall-Served-By"), "west/") {
			t.Errorf("%d %v %s", a.status, a.header, a.body)
		}
	})
	t.Run("broadcast", func(t *testing.T) {
		a := post("cart", "farcall-strategy: broadcast")
		if said := a.header.Values("Farcall-Broadcast"); a.status != http.StatusOK || !strings.HasPrefix(a.body, "POST /echo east/") || len(said) != 2 {
			t.Errorf("%d %v %s", a.status, a.header, a.body)
		}
	})
	t.Run("a template with a condition", func(t *testing.T) {
		some := testkit.Daprd(t, nil, testkit.DaprdConfig{
			AppID: "other", Resolver: resolver(fmt.Sprintf(`{{if eq .ID "till"}}%s{{else}}%s{{end}}`, w.till.Internal, w.listen)),
		})
		s := &way{t: t, ctx: testkit.Context(t), w: w.world, web: "till", http: some.HTTP.String()}
		if a := s.call(http.MethodGet, "echo", nil); a.status != http.StatusOK || a.header.Get("Farcall-Served-By") != "" || a.header.Get("X-Caller") != "other" {
			t.Errorf("past the agent: %d %v %s", a.status, a.header, a.body)
		}
		s.web = "stall"
		if a := s.call(http.MethodGet, "echo", nil); a.status != http.StatusOK || a.header.Get("Farcall-Served-By") == "" {
			t.Errorf("through the agent: %d %v %s", a.status, a.header, a.body)
		}
	})
}

// Agents call applications behind daprds that a registry lists: with the relay's address stated in
// a file, and in Consul as a daprd registers itself.
func TestRealAgentCallsDaprdFromRegistry(t *testing.T) {
	app, rpc := newDaprApp(t), newGRPCApp(t)
	till, sale := sidecarOf(t, "till", app.port, ""), sidecarOf(t, "till-rpc", rpc.port, "", "--app-protocol=grpc")
	// Of two applications of the node neither is taken for the caller.
	const two = "apps: [{id: one}, {id: two}]\n"
	listed := func(t *testing.T, w *world) *way {
		s := &way{
			t: t, ctx: testkit.Context(t), w: w, app: app, rpc: rpc, web: "till", sale: "till-rpc", buffers: true, caller: "node/east/east-1",
			marks: toPeer, http: w.clusters["east"].http, conn: dial(t, w.clusters["east"].grpc),
		}
		s.ready()
		return s
	}
	t.Run("file", func(t *testing.T) {
		w := newWorld(t, options{apps: two}, "east")
		reg := w.clusters["east"].registry.(*fileRegistry)
		for id, d := range map[string]*testkit.DaprdServer{"till": till, "till-rpc": sale} {
			reg.more += fmt.Sprintf("  - name: %s\n    instances: [{id: %[1]s-1, address: 127.0.0.1, relay: \"%s\"}]\n", id, d.Internal)
		}
		reg.save()
		s := listed(t, w)
		t.Run("HTTP", func(t *testing.T) { s.at(t).each(httpParts...) })
		t.Run("gRPC", func(t *testing.T) { s.at(t).each(grpcParts...) })
	})
	t.Run("consul", func(t *testing.T) {
		regs := map[string]*consulRegistry{}
		w := newWorld(t, options{apps: two, registry: func(name string) registry {
			regs[name] = newConsulRegistry(t)
			return regs[name]
		}}, "east")
		for id, d := range map[string]*testkit.DaprdServer{"till": till, "till-rpc": sale} {
			err := regs["east"].client.Agent().ServiceRegister(&api.AgentServiceRegistration{
				ID: fmt.Sprintf("%s-1", id), Name: id, Address: "127.0.0.1", Port: app.port,
				Meta: map[string]string{"DAPR_PORT": strconv.Itoa(int(d.Internal.Port()))},
				Check: &api.AgentServiceCheck{
					CheckID: "daprHealth:" + id, Name: "Dapr Health Status", Interval: "1s",
					HTTP: fmt.Sprintf("http://%s/v1.0/healthz?appid=%s", d.HTTP, id),
				},
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		s := listed(t, w)
		s.each(part{"HTTP", (*way).httpUnary}, part{"gRPC", (*way).grpcUnary}, part{"statuses", (*way).httpStatuses})
	})
}
