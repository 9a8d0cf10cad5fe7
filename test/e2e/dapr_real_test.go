//go:build real && linux

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	runtimev1 "github.com/farcall/farcall/api/dapr/proto/runtime/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// daprApp is an application that Dapr users could have: it knows neither Dapr nor Farcall.
type daprApp struct {
	port   int
	server *http.Server
	done   chan struct{}
	hits   atomic.Int64
	ended  chan struct{} // one for each call of /wait whose caller went away
	// more is what /pieces waits for between its two.
	more chan struct{}
}

const (
	piece   = 64 << 10
	bigBody = 10 << 20
)

func newDaprApp(t *testing.T) *daprApp {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &daprApp{port: l.Addr().(*net.TCPAddr).Port, done: make(chan struct{}), ended: make(chan struct{}, 16), more: make(chan struct{})}
	a.server = &http.Server{Handler: http.HandlerFunc(a.serve)}
	go func() {
		defer close(a.done)
		_ = a.server.Serve(l) // ends with stop
	}()
	t.Cleanup(a.stop)
	return a
}

func (a *daprApp) stop() { a.server.Close(); <-a.done }

func (a *daprApp) addr() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(a.port))
}

func (a *daprApp) serve(w http.ResponseWriter, r *http.Request) {
	a.hits.Add(1)
	switch first, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); first {
	case "echo":
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return // the caller is gone
		}
		h := w.Header()
		h.Set("Content-Type", "text/x-echo")
		h.Set("X-App", r.Header.Get("X-Custom"))
		h.Set("X-Caller", r.Header.Get("Dapr-Caller-App-Id"))
		h.Set("X-Got-Type", r.Header.Get("Content-Type"))
		for _, k := range []string{"Farcall-Strategy", "Farcall-Timeout", "Destination-App-Id", "Farcall-Hop"} {
			if v := r.Header.Get(k); v != "" {
				h.Add("X-Leaked", k+": "+v)
			}
		}
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RequestURI(), b)
	case "sum":
		h := sha256.New()
		if n, err := io.Copy(h, r.Body); err == nil {
			fmt.Fprintf(w, "%d %d %x", n, r.ContentLength, h.Sum(nil))
		}
	case "big":
		_, _ = w.Write(big) // a caller that is gone ends the test by itself
	case "pieces":
		for i := range 2 {
			_, _ = w.Write(big[i*piece : (i+1)*piece])
			_ = http.NewResponseController(w).Flush()
			if i == 0 {
				<-a.more
			}
		}
	case "status":
		code, _ := strconv.Atoi(rest)
		w.WriteHeader(code)
		fmt.Fprintf(w, "status %d", code)
	case "wait":
		_, _ = io.Copy(io.Discard, r.Body) // else net/http would not notice that the caller is gone
		<-r.Context().Done()
		a.ended <- struct{}{}
	}
}

var big = func() []byte {
	b := make([]byte, bigBody)
	fill := rand.NewChaCha8([32]byte{2})
	_, _ = fill.Read(b) // never fails
	return b
}()

// splice is one way from a caller to an application, with daprds in it.
type splice struct {
	t      *testing.T
	w      *world
	app    *daprApp
	prefix string // of the URLs by which the application's methods are called
	// sidecar says that the caller speaks to a daprd, which makes one status of all errors.
	sidecar bool
	// buffers says that a daprd is the callee: it takes in the whole answer of an HTTP application
	// before it passes on the first byte.
	buffers bool
	caller  string // whom the application takes for the caller; empty: not looked at
}

type daprAnswer struct {
	status int
	header http.Header
	body   string
}

func (s *splice) request(ctx context.Context, method, path string, body io.Reader, headers ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.prefix+path, body)
	if err != nil {
		return nil, err
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Set(k, v)
	}
	return s.w.client.Do(req)
}

func (s *splice) call(method, path string, body io.Reader, headers ...string) daprAnswer {
	s.t.Helper()
	resp, err := s.request(s.w.ctx, method, path, body, headers...)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Errorf("%s %s: %v", method, path, err)
	}
	return daprAnswer{resp.StatusCode, resp.Header, string(b)}
}

// ready waits until a call goes all the way.
func (s *splice) ready() {
	s.t.Helper()
	testkit.Eventually(s.t, s.w.ctx, s.prefix+" is ready", func() error {
		resp, err := s.request(s.w.ctx, http.MethodGet, "echo", nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%d %s", resp.StatusCode, b)
		}
		return err
	})
}

// fails checks an answer that no application gave.
func (s *splice) fails(what string, a daprAnswer, want int, code codes.Code) {
	s.t.Helper()
	if s.sidecar {
		// daprd says 500 for whatever its peer said, and that in words.
		want = http.StatusInternalServerError
		if !strings.Contains(a.body, "code = "+code.String()) {
			s.t.Errorf("%s: %s does not say %v", what, a.body, code)
		}
	}
	if a.status != want {
		s.t.Errorf("%s: %d %s, want %d", what, a.status, a.body, want)
	}
}

// all is what holds on every way.
func (s *splice) all() {
	s.ready()
	for name, f := range map[string]func(){
		"unary": s.unary, "bodies": s.bodies, "pieces": s.pieces, "statuses": s.statuses,
		"deadline": s.deadline, "cancel": s.cancel,
	} {
		whole := s.t
		whole.Run(name, func(t *testing.T) {
			s.t = t
			defer func() { s.t = whole }()
			f()
		})
	}
}

func (s *splice) unary() {
	for _, c := range []struct{ method, path, body, want string }{
		{http.MethodGet, "echo?x=1&y=a%20b", "", "GET /echo?x=1&y=a%20b "},
		{http.MethodGet, "echo", "", "GET /echo "},
		{http.MethodDelete, "echo/a/b", "", "DELETE /echo/a/b "},
		{http.MethodPost, "echo?q=%C3%BC", "hello", "POST /echo?q=%C3%BC hello"},
		{http.MethodPost, "echo", "", "POST /echo "},
		{http.MethodPut, "echo", strings.Repeat("x", 5000), "PUT /echo " + strings.Repeat("x", 5000)},
	} {
		before := s.app.hits.Load()
		var body io.Reader
		if c.body != "" {
			body = strings.NewReader(c.body)
		}
		a := s.call(c.method, c.path, body, "X-Custom: 1", "Content-Type: text/x-ask", "Dapr-Caller-App-Id: spoofed", "farcall-timeout: 10s")
		if a.status != http.StatusOK || a.body != c.want || a.header.Get("X-App") != "1" || a.header.Get("Content-Type") != "text/x-echo" {
			s.t.Errorf("%s %s: %d %v %.100s, want %.100s", c.method, c.path, a.status, a.header, a.body, c.want)
		}
		if got := a.header.Get("X-Got-Type"); got != "text/x-ask" {
			s.t.Errorf("%s %s: the application got Content-Type %q", c.method, c.path, got)
		}
		if got := a.header.Get("X-Caller"); strings.Contains(got, "spoofed") || s.caller != "" && got != s.caller {
			s.t.Errorf("%s %s: the caller is %q, want %q", c.method, c.path, got, s.caller)
		}
		if leaked := a.header.Values("X-Leaked"); len(leaked) > 0 {
			s.t.Errorf("%s %s: the application got %v", c.method, c.path, leaked)
		}
		if served := a.header.Get("Farcall-Served-By"); served == "" {
			s.t.Errorf("%s %s: nothing says who served it: %v", c.method, c.path, a.header)
		}
		if n := s.app.hits.Load() - before; n != 1 {
			s.t.Errorf("%s %s: the application was called %d times", c.method, c.path, n)
		}
	}
}

func (s *splice) bodies() {
	sum := sha256.Sum256(big)
	for _, c := range []struct {
		name   string
		body   io.Reader
		length int
	}{
		{"known length", bytes.NewReader(big), bigBody},
		{"chunked", io.NopCloser(struct{ io.Reader }{bytes.NewReader(big)}), -1},
	} {
		if a := s.call(http.MethodPost, "sum", c.body); a.body != fmt.Sprintf("%d %d %x", bigBody, c.length, sum) {
			s.t.Errorf("%s: %d %.200s", c.name, a.status, a.body)
		}
	}
	if a := s.call(http.MethodGet, "big", nil); sha256.Sum256([]byte(a.body)) != sum {
		s.t.Errorf("down: %d, %d bytes", a.status, len(a.body))
	}
}

// pieces: the first of an answer arrives before the application has the rest, unless a daprd
// waits for it.
func (s *splice) pieces() {
	if s.buffers {
		go func() { s.app.more <- struct{}{} }()
		if a := s.call(http.MethodGet, "pieces", nil); a.body != string(big[:2*piece]) {
			s.t.Errorf("%d, %d bytes", a.status, len(a.body))
		}
		return
	}
	resp, err := s.request(s.w.ctx, http.MethodGet, "pieces", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	// A daprd writes without flushing, so that the end of a piece may stay behind.
	first := make([]byte, piece/2)
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		s.t.Fatal(err)
	}
	s.app.more <- struct{}{}
	rest, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(append(first, rest...), big[:2*piece]) {
		s.t.Errorf("%d bytes: %v", len(first)+len(rest), err)
	}
}

func (s *splice) statuses() {
	for _, code := range []int{201, 204, 302, 400, 404, 418, 500, 503} {
		before := s.app.hits.Load()
		a := s.call(http.MethodPost, fmt.Sprint("status/", code), strings.NewReader("x"))
		want := fmt.Sprint("status ", code)
		if code == 204 {
			want = ""
		}
		if a.status != code || a.body != want {
			s.t.Errorf("%d: %d %s", code, a.status, a.body)
		}
		if n := s.app.hits.Load() - before; n != 1 {
			s.t.Errorf("%d: the application was called %d times", code, n)
		}
	}
	if a := s.call(http.MethodPost, "echo", strings.NewReader("x"), "farcall-strategy: nearest"); a.status == http.StatusOK {
		s.t.Errorf("an unknown strategy: %d %s", a.status, a.body)
	} else {
		s.fails("an unknown strategy", a, http.StatusBadRequest, codes.InvalidArgument)
	}
}

// deadline: the caller's ends the call, at the application too.
func (s *splice) deadline() {
	for name, body := range map[string]string{"no body": "", "a body": "hello"} {
		before, began := s.app.hits.Load(), time.Now()
		a := s.call(http.MethodPost, "wait", strings.NewReader(body), "farcall-timeout: 400ms")
		s.fails("a deadline, "+name, a, http.StatusGatewayTimeout, codes.DeadlineExceeded)
		if took := time.Since(began); took > 5*time.Second {
			s.t.Errorf("a deadline of 400ms took %v", took)
		}
		s.noticed(before)
	}
}

// cancel: the application learns that its caller went away.
func (s *splice) cancel() {
	ctx, cancel := context.WithCancel(s.w.ctx)
	before := s.app.hits.Load()
	gone := make(chan error, 1)
	go func() {
		resp, err := s.request(ctx, http.MethodPost, "wait", strings.NewReader("hello"))
		if err == nil {
			resp.Body.Close()
		}
		gone <- err
	}()
	testkit.Eventually(s.t, s.w.ctx, "the call arrives", func() error {
		if s.app.hits.Load() == before {
			return fmt.Errorf("not called")
		}
		return nil
	})
	cancel()
	if err := <-gone; err == nil {
		s.t.Error("the call was answered")
	}
	s.noticed(before)
}

// noticed checks that the application was called once since before, and that this call has ended.
func (s *splice) noticed(before int64) {
	s.t.Helper()
	select {
	case <-s.app.ended:
	case <-s.w.ctx.Done():
		s.t.Fatal("the application never learns that its caller went away")
	}
	if n := s.app.hits.Load() - before; n != 1 {
		s.t.Errorf("the application was called %d times", n)
	}
}

// resolver is the configuration that makes a daprd call an address for every app-id.
func resolver(address string) string {
	return fmt.Sprintf(`{component: kubernetes, version: v1, configuration: {template: '%s'}}`, address)
}

// spliced is a federation of east and west with a daprd of an application in east, whose every call
// goes to east's agent.
type spliced struct {
	*world
	caller *testkit.DaprdServer
	listen string // dapr.listen of east's agent
	// down is the port of a sidecar of west that is not there.
	down int
}

const bodies = "--max-body-size=16Mi"

func newSpliced(t *testing.T, west string) *spliced {
	t.Helper()
	listen, down := loopback(t), testkit.FreePort(t)
	w := newWorld(t, options{agent: func(name string) string {
		if name == "east" {
			return "dapr: {listen: \"" + listen + "\"}\n"
		}
		return fmt.Sprintf("apps:\n  - {id: down, port: %d, protocol: dapr}\n%s", down, west)
	}}, "east", "west")
	return &spliced{w, testkit.Daprd(t, nil, testkit.DaprdConfig{AppID: "web", Resolver: resolver(listen), Args: []string{bodies}}), listen, down}
}

func (w *spliced) splice(t *testing.T, app string, a *daprApp) *splice {
	return &splice{t: t, w: w.world, app: a, prefix: w.caller.Invoke(app, ""), sidecar: true, caller: "node/east/east-1"}
}

// An application behind a daprd in east calls one that is in west only, through both agents.
func TestRealDaprdCallsThroughItsAgent(t *testing.T) {
	app := newDaprApp(t)
	w := newSpliced(t, "")
	west := w.clusters["west"].registry.(*fileRegistry)
	west.addService("blob", "blob-1", app.port, "west-1")
	west.addService("dead", "dead-1", testkit.FreePort(t), "west-1")
	west.addService("down", "down-1", app.port, "west-1")
	s := w.splice(t, "blob", app)
	s.all()

	t.Run("unknown application", func(t *testing.T) {
		s := w.splice(t, "nobody", app)
		before := time.Now()
		s.fails("nobody", s.call(http.MethodPost, "echo", strings.NewReader("x")), http.StatusNotFound, codes.NotFound)
		if took := time.Since(before); took > time.Second {
			t.Errorf("it took %v: daprd has tried again", took)
		}
	})
	t.Run("application not listening", func(t *testing.T) {
		s, began := w.splice(t, "dead", app), time.Now()
		s.fails("dead", s.call(http.MethodPost, "echo", strings.NewReader("x")), http.StatusServiceUnavailable, codes.Unavailable)
		if took := time.Since(began); took < 2*time.Second {
			t.Errorf("it took %v: daprd has not tried again what certainly was not executed", took)
		}
	})
	t.Run("namespace", func(t *testing.T) {
		// A daprd does not say which namespace its application means.
		s := w.splice(t, "blob.elsewhere", app)
		if a := s.call(http.MethodGet, "echo", nil); a.status != http.StatusOK || !strings.HasPrefix(a.header.Get("Farcall-Served-By"), "west/") {
			t.Errorf("%d %v %s", a.status, a.header, a.body)
		}
	})
	t.Run("sidecar not listening", func(t *testing.T) {
		s, before := w.splice(t, "down", app), app.hits.Load()
		s.fails("down", s.call(http.MethodPost, "echo", strings.NewReader("x")), http.StatusServiceUnavailable, codes.Unavailable)
		if app.hits.Load() != before {
			t.Error("the application was called past its sidecar")
		}
	})
	t.Run("broadcast", func(t *testing.T) {
		s := w.splice(t, "cart", app)
		a := s.call(http.MethodPost, "x", strings.NewReader("hello"), "farcall-strategy: broadcast")
		if said := a.header.Values("Farcall-Broadcast"); a.status != http.StatusOK || !strings.HasPrefix(a.body, "POST /x east/") || len(said) != 2 {
			t.Errorf("%d %v %s", a.status, a.header, a.body)
		}
	})
	t.Run("gRPC InvokeService", func(t *testing.T) {
		conn, err := grpc.NewClient(w.caller.GRPC.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		client := runtimev1.NewDaprClient(conn)
		invoke := func(id, method string) (string, error) {
			resp, err := client.InvokeService(w.ctx, &runtimev1.InvokeServiceRequest{Id: id, Message: &commonv1.InvokeRequest{
				Method: method, Data: &anypb.Any{Value: []byte("hello")}, ContentType: "text/plain",
				HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_POST, Querystring: "q=1"},
			}})
			return string(resp.GetData().GetValue()), err
		}
		if got, err := invoke("blob", "echo"); err != nil || got != "POST /echo?q=1 hello" {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := invoke("blob", "status/404"); status.Code(err) != codes.NotFound {
			t.Errorf("an application's 404: %v", err)
		}
	})
	t.Run("the agent ends under a call", func(t *testing.T) { w.killed(t, app) })
}

// killed: where the agent next to the application dies under a call, nobody calls a second time.
func (w *spliced) killed(t *testing.T, app *daprApp) {
	s, before := w.splice(t, "blob", app), app.hits.Load()
	var wg sync.WaitGroup
	var a daprAnswer
	wg.Go(func() { a = s.call(http.MethodPost, "wait", strings.NewReader("x")) })
	testkit.Eventually(t, w.ctx, "the call arrives", func() error {
		if app.hits.Load() == before {
			return fmt.Errorf("not called")
		}
		return nil
	})
	w.clusters["west"].agent.Kill()
	wg.Wait()
	s.fails("the agent ended", a, http.StatusBadGateway, codes.Internal)
	if n := app.hits.Load() - before; n != 1 {
		t.Errorf("the application was called %d times", n)
	}
}

// Both ends have a daprd: daprd, agent, agent, daprd, application.
func TestRealDaprdToDaprdThroughAgents(t *testing.T) {
	app := newDaprApp(t)
	callee := testkit.Daprd(t, nil, testkit.DaprdConfig{AppID: "till", App: app.addr(), Args: []string{bodies}})
	w := newSpliced(t, fmt.Sprintf("  - {id: till, port: %d, protocol: dapr}\n", callee.Internal.Port()))
	w.clusters["west"].registry.(*fileRegistry).addService("till", "till-1", app.port, "west-1")
	s := w.splice(t, "till", app)
	s.buffers = true
	s.all()

	t.Run("a template with a condition", func(t *testing.T) {
		some := testkit.Daprd(t, nil, testkit.DaprdConfig{
			AppID: "other", Resolver: resolver(fmt.Sprintf(`{{if eq .ID "till"}}%s{{else}}%s{{end}}`, callee.Internal, w.listen)),
		})
		s := &splice{t: t, w: w.world, app: app, prefix: some.Invoke("till", "")}
		if a := s.call(http.MethodGet, "echo", nil); a.status != http.StatusOK || a.header.Get("Farcall-Served-By") != "" || a.header.Get("X-Caller") != "other" {
			t.Errorf("past the agent: %d %v %s", a.status, a.header, a.body)
		}
		s.prefix = some.Invoke("cart", "")
		if a := s.call(http.MethodGet, "x", nil); a.status != http.StatusOK || a.header.Get("Farcall-Served-By") == "" {
			t.Errorf("through the agent: %d %v %s", a.status, a.header, a.body)
		}
	})

	app.stop()
	before := time.Now()
	// The callee's daprd does not say whether the application was reached.
	s.fails("application not listening", s.call(http.MethodPost, "echo", strings.NewReader("x")), http.StatusBadGateway, codes.Internal)
	if took := time.Since(before); took > time.Second {
		t.Errorf("it took %v: daprd has tried again what may have been executed", took)
	}
}

// Agents call applications behind daprds that a registry lists: with the relay's address stated in
// a file, and in Consul as a daprd registers itself.
func TestRealAgentCallsDaprdFromRegistry(t *testing.T) {
	app := newDaprApp(t)
	callee := testkit.Daprd(t, nil, testkit.DaprdConfig{AppID: "till", App: app.addr(), Args: []string{bodies}})
	port := int(callee.Internal.Port())
	t.Run("file", func(t *testing.T) {
		w := newWorld(t, options{}, "east", "west")
		reg := w.clusters["east"].registry.(*fileRegistry)
		reg.more = fmt.Sprintf("  - name: till\n    instances: [{id: till-1, address: 127.0.0.1, relay: \"%s\"}]\n", callee.Internal)
		reg.save()
		s := &splice{t: t, w: w, app: app, buffers: true, prefix: "http://" + w.clusters["east"].http + "/v1.0/invoke/till/method/"}
		s.all()
	})
	t.Run("consul", func(t *testing.T) {
		regs := map[string]*consulRegistry{}
		w := newWorld(t, options{registry: func(name string) registry {
			regs[name] = newConsulRegistry(t)
			return regs[name]
		}}, "east", "west")
		err := regs["east"].client.Agent().ServiceRegister(&api.AgentServiceRegistration{
			ID: fmt.Sprintf("till-127.0.0.1-%d", callee.HTTP.Port()), Name: "till", Address: "127.0.0.1", Port: app.port,
			Meta: map[string]string{"DAPR_PORT": strconv.Itoa(port)},
			Check: &api.AgentServiceCheck{
				CheckID: "daprHealth:till", Name: "Dapr Health Status", Interval: "1s",
				HTTP: fmt.Sprintf("http://%s/v1.0/healthz?appid=till", callee.HTTP),
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		s := &splice{t: t, w: w, app: app, buffers: true, prefix: "http://" + w.clusters["east"].http + "/v1.0/invoke/till/method/"}
		s.all()
		app.stop()
		s.fails("application not listening", s.call(http.MethodPost, "echo", strings.NewReader("x")), http.StatusBadGateway, codes.Internal)
	})
}
