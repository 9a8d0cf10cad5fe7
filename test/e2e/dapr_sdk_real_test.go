//go:build real && linux

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/testkit"
)

// sdkCall and sdkAnswer are what the program of test/servers/sdk reads and writes.
type sdkCall struct {
	App, Method, Verb string
	Data              *string           `json:",omitempty"`
	Custom            map[string]string `json:",omitempty"`
	ContentType       string            `json:",omitempty"`
	Timeout           time.Duration     `json:",omitempty"`
}

type sdkAnswer struct {
	Data, Code, Message, Reason string
	Failed                      bool
}

// sdk is a caller that uses Dapr's Go SDK: it knows its agent by the environment of a Dapr
// application, and nothing else.
type sdk struct {
	w    *world
	bin  string
	grpc string // the agent's listener
}

// call makes the calls with a token of the environment, or none, and metadata (key=value).
func (s *sdk) call(t *testing.T, token string, md []string, calls ...sdkCall) []sdkAnswer {
	t.Helper()
	_, port, err := net.SplitHostPort(s.grpc)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(s.w.ctx, s.bin, append([]string{"call"}, md...)...)
	cmd.Env = []string{"DAPR_GRPC_PORT=" + port}
	if token != "" {
		cmd.Env = append(cmd.Env, "DAPR_API_TOKEN="+token)
	}
	var in, out, log bytes.Buffer
	for _, c := range calls {
		if err := json.NewEncoder(&in).Encode(c); err != nil {
			t.Fatal(err)
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &out, &log
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, &log)
	}
	var answers []sdkAnswer
	for line := range bytes.Lines(out.Bytes()) {
		var a sdkAnswer
		if err := json.Unmarshal(line, &a); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		answers = append(answers, a)
	}
	if len(answers) != len(calls) {
		t.Fatalf("%d answers to %d calls: %s", len(answers), len(calls), &log)
	}
	return answers
}

// withEnv prepares a program that is started with variables (KEY=value) in its environment.
func withEnv(t *testing.T, name string, env []string, args ...string) *testkit.Daemon {
	t.Helper()
	path, err := exec.LookPath("env")
	if err != nil {
		t.Fatal(err)
	}
	return testkit.NewDaemon(t, path, name, append(env, args...)...)
}

func content(s string) *string { return &s }

// An application that uses Dapr's Go SDK calls, and is called, as beside a daprd: its environment
// says that the agent is its sidecar, and nothing else is different.
func TestRealDaprSDK(t *testing.T) {
	s := &sdk{bin: filepath.Join(testkit.Root(t), "test", "servers", "bin", "sdk")}
	if _, err := os.Stat(s.bin); err != nil {
		t.Fatalf("%v: run make servers", err)
	}
	ports := map[string]int{}
	for _, kind := range []string{"http", "grpc"} {
		ports[kind] = testkit.FreePort(t)
		// The service takes only calls of its sidecar, which shows the token.
		withEnv(t, "sdk-"+kind, []string{"APP_API_TOKEN=secret-of-" + kind}, s.bin, "serve", kind, local(ports[kind]).String()).Start()
	}
	down := testkit.FreePort(t)
	s.w = newWorld(t, options{agent: func(name string) string {
		if name == "east" {
			return "apps:\n  - {id: shop, token: secret-of-shop}\n  - {id: other}\n"
		}
		return "apps:\n  - {id: shelf-http, token: secret-of-http}\n  - {id: shelf-grpc, protocol: grpc, token: secret-of-grpc}\n"
	}}, "east", "west")
	west := s.w.clusters["west"].registry.(*fileRegistry)
	west.addService("shelf-http", "shelf-http-1", ports["http"], "west-1")
	west.addService("shelf-grpc", "shelf-grpc-1", ports["grpc"], "west-1")
	west.addService("down", "down-1", down, "west-1")
	s.grpc = s.w.clusters["east"].grpc
	for _, app := range []string{"shelf-http", "shelf-grpc"} {
		testkit.Eventually(t, s.w.ctx, app+" is ready", func() error {
			a, err := s.w.call("east", http.MethodPost, app+"/method/echo")
			if err == nil && a.status != http.StatusOK {
				err = fmt.Errorf("%d %s", a.status, a.body)
			}
			return err
		})
	}
	t.Run("http", func(t *testing.T) { s.service(t, "shelf-http", "Internal Server Error") })
	t.Run("grpc", func(t *testing.T) { s.service(t, "shelf-grpc", "not today") })
	t.Run("errors", s.errors)
	t.Run("tokens", s.tokens)
}

// service makes each kind of call to one of the services, whose error is told as fault.
func (s *sdk) service(t *testing.T, app, fault string) {
	const from = "node/east/east-1"
	calls := []struct {
		call sdkCall
		want string
	}{
		{sdkCall{App: app, Method: "echo", Verb: "get"}, "GET ?   x-custom=1 caller=" + from},
		{sdkCall{App: app, Method: "echo?a=b%20c", Verb: "delete"}, "DELETE ?a=b%20c   x-custom=1 caller=" + from},
		{sdkCall{App: app, Method: "echo", Verb: "post", Data: content("hello"), ContentType: "text/plain"}, "POST ? text/plain hello x-custom=1 caller=" + from},
		{sdkCall{App: app, Method: "echo?q=1", Verb: "put", Custom: map[string]string{"a": "b"}, ContentType: "application/json"}, `PUT ?q=1 application/json {"a":"b"} x-custom=1 caller=` + from},
	}
	var in []sdkCall
	for _, c := range calls {
		in = append(in, c.call)
	}
	for i, a := range s.call(t, "", []string{"x-custom=1"}, in...) {
		if a.Failed || a.Data != calls[i].want {
			t.Errorf("%+v: %+v, want %q", calls[i].call, a, calls[i].want)
		}
	}
	// The SDK drops an invocation's metadata where it has a token to show.
	a := s.call(t, "secret-of-shop", []string{"x-custom=1"}, in[2])[0]
	if want := "POST ? text/plain hello x-custom= caller=shop"; a.Failed || a.Data != want {
		t.Errorf("with a token: %+v, want %q", a, want)
	}
	if a := s.call(t, "", nil, sdkCall{App: app, Method: "fail", Verb: "post"})[0]; a.Code != "Unknown" || a.Message != fault {
		t.Errorf("the service's error: %+v, want %q", a, fault)
	}
}

// errors: what the agent says reaches the SDK's user as gRPC's status.
func (s *sdk) errors(t *testing.T) {
	post := func(app string) sdkCall { return sdkCall{App: app, Method: "echo", Verb: "post"} }
	for _, c := range []struct {
		name string
		call sdkCall
		md   []string
		want string
	}{
		{"an unknown application", post("nobody"), nil, "NotFound"},
		{"not listening", post("down"), nil, "Unavailable"},
		{"an unknown strategy", post("shelf-http"), []string{"farcall-strategy=nearest"}, "InvalidArgument"},
		{"no instance in the own cluster", post("shelf-http"), []string{"farcall-strategy=local-only"}, "Unavailable"},
		{"a route that the service does not have", sdkCall{App: "shelf-http", Method: "nothing", Verb: "get"}, nil, "NotFound"},
	} {
		if a := s.call(t, "", c.md, c.call)[0]; !a.Failed || a.Code != c.want {
			t.Errorf("%s: %+v, want %s", c.name, a, c.want)
		}
	}
	for _, c := range []struct{ token, want string }{{"", ""}, {"wrong", "Unauthenticated"}} {
		if a := s.call(t, c.token, nil, post("shelf-http"))[0]; a.Failed != (c.want != "") || strings.TrimPrefix(a.Code, c.want) != "" {
			t.Errorf("with the token %q: %+v, want %s", c.token, a, c.want)
		}
	}
}

// tokens: with DAPR_API_TOKEN in the agent's environment, as in a daprd's, nobody calls without one.
func (s *sdk) tokens(t *testing.T) {
	east := s.w.clusters["east"]
	east.agent.Kill()
	again := withEnv(t, "agent-east", []string{"DAPR_API_TOKEN=secret"}, filepath.Join(bin, "agent"), "--config", filepath.Join(s.w.dir, "agent-east.yml"))
	again.Start()
	call := sdkCall{App: "shelf-grpc", Method: "echo", Verb: "get"}
	testkit.Eventually(t, s.w.ctx, "the agent is ready", func() error {
		if a := s.call(t, "secret", nil, call)[0]; a.Failed {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
	for token, want := range map[string]string{"secret": "caller=node/east/east-1", "secret-of-shop": "caller=shop"} {
		if a := s.call(t, token, nil, call)[0]; a.Failed || !strings.HasSuffix(a.Data, want) {
			t.Errorf("with the token %q: %+v, want %s", token, a, want)
		}
	}
	for _, token := range []string{"", "wrong"} {
		if a := s.call(t, token, nil, call)[0]; a.Code != "Unauthenticated" {
			t.Errorf("with the token %q: %+v", token, a)
		}
	}
}
