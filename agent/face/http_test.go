package face

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/internal/testkit"
)

// bothLegs runs a test with the application behind a peer, and as one of the caller's own node.
func bothLegs(t *testing.T, h http.HandlerFunc, f func(t *testing.T, a *callerAgent)) {
	t.Helper()
	for _, local := range []bool{false, true} {
		t.Run(fmt.Sprintf("local=%v", local), func(t *testing.T) {
			p := newPeerAgent(t, "west", "cart-1", application(t, h))
			target := p.target()
			if local {
				target = p.local()
			}
			f(t, newCallerAgent(t, &plan{targets: []relay.Target{target}}))
			client.CloseIdleConnections()
		})
	}
}

// TestInvokeForms says how an HTTP caller may name what it calls.
func TestInvokeForms(t *testing.T) {
	bothLegs(t, echo, func(t *testing.T, a *callerAgent) {
		for _, c := range []struct {
			what, path string
			header     []string
			url        string // as the application sees it
			name       string
		}{
			{"path", "/v1.0/invoke/cart/method/a/b?x=1&y=%20z", nil, "/a/b?x=1&y=%20z", "shop/cart"},
			{"namespace", "/v1.0/invoke/cart.prod/method/a", nil, "/a", "prod/cart"},
			{"namespace and slash", "/v1.0/invoke/prod%2Fcart/method/a", nil, "/a", "prod/cart"},
			{"escaped", "/v1.0/invoke/cart/method/a%20b/%252F%C3%BC", nil, "/a%20b/%252F%C3%BC", "shop/cart"},
			{"method named method", "/v1.0/invoke/cart/method/x/method/y", nil, "/x/method/y", "shop/cart"},
			{"root", "/v1.0/invoke/cart/method/", nil, "/", "shop/cart"},
			{"up and away", "/v1.0/invoke/cart/method/../../../etc", nil, "/etc", "shop/cart"},
			{"up, escaped", "/v1.0/invoke/cart/method/a/%2e%2e/%2e%2e/etc", nil, "/etc", "shop/cart"},
			{"header", "/a/b?q", []string{"dapr-app-id", "cart"}, "/a/b?q", "shop/cart"},
			{"header beats path", "/v1.0/invoke/x/method/a", []string{"dapr-app-id", "cart.prod"}, "/v1.0/invoke/x/method/a", "prod/cart"},
			{"basic auth", "/a", []string{"Authorization", "Basic ZGFwci1hcHAtaWQ6Y2FydA=="}, "/a", "shop/cart"},
			{"looks like health", "/x/v1.0/healthz", []string{"dapr-app-id", "cart"}, "/x/v1.0/healthz", "shop/cart"},
		} {
			t.Run(c.what, func(t *testing.T) {
				got := call(t, "PUT", a.url+c.path, strings.NewReader("hi"), c.header...)
				want(t, got, 200, "hi")
				wantHeader(t, got.Header, "X-Method", "PUT", "X-Url", c.url, "Content-Length", "2",
					"farcall-served-by", "west/cart-1", "farcall-strategy", "local-first", "farcall-attempts", "1")
				a.plan.mu.Lock()
				q := a.plan.queries[len(a.plan.queries)-1]
				a.plan.mu.Unlock()
				if q.Name.String() != c.name {
					t.Errorf("asked for %s, want %s", q.Name, c.name)
				}
			})
		}
	})
}

func TestRefusedAtTheFace(t *testing.T) {
	a := newCallerAgent(t, &plan{})
	for _, c := range []struct {
		what, path string
		header     []string
		status     int
		body       string
	}{
		{"nothing named", "/v1.0/other", nil, 404, "failed getting app id"},
		{"no method", "/v1.0/invoke/cart", nil, 404, "failed getting app id"},
		{"no app", "/v1.0/invoke//method/x", nil, 404, "failed getting app id"},
		{"traversal as app", "/v1.0/invoke/%2e%2e/method/x", nil, 400, "more than one dot"},
		{"two dots", "/v1.0/invoke/a.b.c/method/x", nil, 400, "more than one dot"},
		{"question mark", "/v1.0/invoke/cart/method/a%3Fb", nil, 400, "invalid method"},
		{"hash", "/v1.0/invoke/cart/method/a%23b", nil, 400, "invalid method"},
		{"NUL", "/v1.0/invoke/cart/method/a%00b", nil, 400, "invalid method"},
		{"not UTF-8", "/v1.0/invoke/cart/method/a%ffb", nil, 400, "not UTF-8"},
		{"timeout", "/v1.0/invoke/cart/method/a", []string{"farcall-timeout", "soon"}, 400, "want a positive duration such as 500ms"},
		{"timeout without unit", "/v1.0/invoke/cart/method/a", []string{"farcall-timeout", "500"}, 400, "want a positive duration"},
		{"timeout of nothing", "/v1.0/invoke/cart/method/a", []string{"farcall-timeout", "0s"}, 400, "want a positive duration"},
	} {
		t.Run(c.what, func(t *testing.T) {
			got := call(t, "GET", a.url+c.path, nil, c.header...)
			want(t, got, c.status, c.body)
			want(t, got, c.status, `{"errorCode":"`)
			wantHeader(t, got.Header, "Content-Type", "application/json", "farcall-strategy", "")
		})
	}
	if len(a.plan.queries) != 0 {
		t.Errorf("asked the router: %v", a.plan.queries)
	}
}

// TestRouterErrors pins the fixed codes of design.md.
func TestRouterErrors(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		body   string
	}{
		{invoke.Errorf(codes.InvalidArgument, "BAD_STRATEGY", "no strategy is spelt so"), 400, `{"errorCode":"BAD_STRATEGY","message":"no strategy is spelt so"}`},
		{invoke.Errorf(codes.PermissionDenied, invoke.ReasonDenied, "override: deny"), 403, "PERMISSION_DENIED"},
		{invoke.Errorf(codes.NotFound, invoke.ReasonNotFound, "unknown"), 404, "NOT_FOUND"},
		{invoke.Errorf(codes.Unavailable, "NOT_SYNCED", "wait"), 503, "NOT_SYNCED"},
		{errors.New("odd"), 503, "odd"},
	} {
		a := newCallerAgent(t, &plan{err: c.err})
		got := call(t, "POST", a.url+"/v1.0/invoke/cart/method/m", strings.NewReader("x"), "farcall-strategy", "s", "farcall-cluster", "c")
		want(t, got, c.status, c.body)
		if q := a.plan.queries[0]; q.Strategy != "s" || q.Cluster != "c" {
			t.Errorf("asked %+v", q)
		}
	}
}

// TestIdentity says that nothing a caller says of itself survives, and who it is is stamped.
func TestIdentity(t *testing.T) {
	seen := make(chan http.Header, 1)
	bothLegs(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header }, func(t *testing.T, a *callerAgent) {
		got := call(t, "GET", a.url+"/m", nil,
			"dapr-app-id", "cart", "Dapr-Caller-App-Id", "admin", "DAPR_CALLER_APP_ID", "admin", "Dapr-Caller-Namespace", "kube-system",
			"Dapr-Callee-App-Id", "other", "Destination-App-Id", "other", "Dapr-Api-Token", "secret", "Farcall-Served-By", "x", "Farcall-Target", "x",
			"Farcall-Hop", "0", "Farcall-Strategy", "any", "X-Forwarded-For", "1.2.3.4", "Connection", "X-Mine", "X-Mine", "1", "X-Kept", "1",
			"Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "Proxy-Authorization", "secret")
		want(t, got, 200, "")
		wantHeader(t, <-seen,
			"Dapr-Caller-App-Id", "web", "DAPR_CALLER_APP_ID", "", "Dapr-Caller-Namespace", "shop", "Dapr-Callee-App-Id", "cart",
			"Destination-App-Id", "", "Dapr-Api-Token", "", "Dapr-App-Id", "", "Farcall-Served-By", "", "Farcall-Target", "", "Farcall-Hop", "", "Farcall-Strategy", "",
			"X-Forwarded-For", "1.2.3.4|10.0.0.1", "X-Forwarded-Host", "node-1", "Forwarded", "for=10.0.0.1;by=10.0.0.1;host=node-1",
			"X-Mine", "", "X-Kept", "1", "Proxy-Authorization", "",
			"Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	})
}

// TestApplicationsAnswer says that an application's own answer travels back as it is.
func TestApplicationsAnswer(t *testing.T) {
	bothLegs(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Farcall-Served-By", "a/lie")
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(304)
		case "/302":
			http.Redirect(w, r, "http://elsewhere.example/", 302)
		case "/503":
			w.WriteHeader(503)
			_, _ = io.WriteString(w, "my own")
		case "/notype":
			w.Header()["Content-Type"] = nil
			_, _ = io.WriteString(w, "<html>")
		case "/trailer":
			w.Header().Set(http.TrailerPrefix+"X-T", "1")
			_, _ = io.WriteString(w, "x")
		default:
			w.Header().Set("Content-Length", "5")
			if r.Method != "HEAD" {
				_, _ = io.WriteString(w, "hello")
			}
		}
	}, func(t *testing.T, a *callerAgent) {
		for _, c := range []struct {
			verb, path string
			status     int
			body       string
			header     []string
		}{
			{"GET", "/200", 200, "hello", []string{"Content-Length", "5"}},
			{"HEAD", "/200", 200, "", []string{"Content-Length", "5"}},
			{"GET", "/204", 204, "", []string{"Content-Length", ""}},
			{"GET", "/304", 304, "", []string{"Etag", `"x"`}},
			{"GET", "/302", 302, "", []string{"Location", "http://elsewhere.example/"}},
			{"POST", "/503", 503, "my own", nil},
			{"GET", "/notype", 200, "<html>", []string{"Content-Type", ""}},
			{"GET", "/trailer", 200, "x", []string{"X-T", ""}},
			{"OPTIONS", "/200", 200, "hello", nil},
			{"PROPFIND", "/200", 200, "hello", nil},
		} {
			got := call(t, c.verb, a.url+c.path, nil, "dapr-app-id", "cart")
			want(t, got, c.status, c.body)
			wantHeader(t, got.Header, append(c.header, "farcall-served-by", "west/cart-1", "Set-Cookie", "a=1|b=2")...)
			if len(got.Trailer) > 0 || got.err != nil {
				t.Errorf("%s: trailer %v, %v", c.path, got.Trailer, got.err)
			}
		}
	})
}

// TestBodies says that bodies of every size and form arrive whole, both ways.
func TestBodies(t *testing.T) {
	type sum struct {
		length int64
		coding string
	}
	seen := make(chan sum, 1)
	bothLegs(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- sum{r.ContentLength, strings.Join(r.TransferEncoding, ",")}
		echo(w, r)
	}, func(t *testing.T, a *callerAgent) {
		for _, c := range []struct {
			size  int
			known bool
		}{{0, true}, {1, true}, {1024, true}, {maxReplay, true}, {maxReplay + 1, true}, {10 << 20, true}, {1, false}, {100_000, false}, {10 << 20, false}} {
			data := make([]byte, c.size)
			_, _ = rand.Read(data)
			var body io.Reader = bytes.NewReader(data)
			expect := sum{length: int64(c.size)}
			if !c.known {
				body = struct{ io.Reader }{body}
				expect = sum{-1, "chunked"}
			}
			got := call(t, "POST", a.url+"/m", body, "dapr-app-id", "cart")
			if got.StatusCode != 200 || sha256.Sum256([]byte(got.body)) != sha256.Sum256(data) {
				t.Errorf("%d bytes: got %d with %d bytes (%v)", c.size, got.StatusCode, len(got.body), got.err)
			}
			if s := <-seen; s != expect {
				t.Errorf("%d bytes: the application saw %+v, want %+v", c.size, s, expect)
			}
		}
	})
}

// TestBoundedMemory streams 64 MiB each way, in lock step with what the heap holds meanwhile.
func TestBoundedMemory(t *testing.T) {
	const size, most = 64 << 20, 24 << 20
	bothLegs(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	}, func(t *testing.T, a *callerAgent) {
		runtime.GC()
		var before, now runtime.MemStats
		runtime.ReadMemStats(&before)
		req, err := http.NewRequestWithContext(testkit.Context(t), "POST", a.url+"/m", io.LimitReader(zeros{}, size))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("dapr-app-id", "cart")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		buf := make([]byte, 1<<20)
		total, peak := 0, uint64(0)
		for {
			n, err := io.ReadFull(resp.Body, buf)
			if total += n; err != nil {
				break
			}
			if total%(16<<20) == 0 {
				runtime.GC()
				runtime.ReadMemStats(&now)
				peak = max(peak, now.HeapAlloc-min(now.HeapAlloc, before.HeapAlloc))
			}
		}
		if total != size || peak > most {
			t.Errorf("%d bytes came back, with %d on the heap", total, peak)
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestStreams says that headers and each event of a stream arrive when they are sent, not later.
func TestStreams(t *testing.T) {
	step := make(chan string)
	bothLegs(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		for event := range step {
			if event == "" {
				return
			}
			_, _ = io.WriteString(w, event)
			_ = http.NewResponseController(w).Flush()
		}
	}, func(t *testing.T, a *callerAgent) {
		req, err := http.NewRequestWithContext(testkit.Context(t), "GET", a.url+"/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("dapr-app-id", "cart")
		req.Header.Set("Accept", "text/event-stream")
		resp, err := client.Do(req) // returns although no event was sent yet
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		wantHeader(t, resp.Header, "Content-Type", "text/event-stream", "farcall-served-by", "west/cart-1")
		lines := bufio.NewReader(resp.Body)
		for _, event := range []string{"data: 1\n", "data: 2\n"} {
			step <- event
			if got, err := lines.ReadString('\n'); got != event || err != nil {
				t.Fatalf("got %q, %v", got, err)
			}
		}
		step <- ""
		if _, err := lines.ReadByte(); err != io.EOF {
			t.Errorf("got %v", err)
		}
	})
}

// TestEarlyAnswer says that an application may answer before it has read the body, and that the
// connection to the caller is of use afterwards or closed, but never stuck.
func TestEarlyAnswer(t *testing.T) {
	bothLegs(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(413)
		_, _ = w.Write(bytes.Repeat([]byte("x"), 100_000))
	}, func(t *testing.T, a *callerAgent) {
		r, w := io.Pipe()
		defer w.Close()
		got := call(t, "POST", a.url+"/m", r, "dapr-app-id", "cart") // the body never comes
		if got.StatusCode != 413 || len(got.body) != 100_000 {
			t.Errorf("got %d with %d bytes, %v", got.StatusCode, len(got.body), got.err)
		}
	})
}

func TestDeadline(t *testing.T) {
	bothLegs(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, func(t *testing.T, a *callerAgent) {
		got := call(t, "GET", a.url+"/m", nil, "dapr-app-id", "cart", "farcall-timeout", "50ms")
		want(t, got, 504, `{"errorCode":"DEADLINE_EXCEEDED"`)
		wantHeader(t, got.Header, "farcall-attempts", "1", "farcall-strategy", "local-first", "farcall-served-by", "")
		if s := a.plan.said(); s != "cart-1 lost" {
			t.Errorf("told the router %q", s)
		}
		// A body that does not come in time is late as well.
		r, w := io.Pipe()
		defer w.Close()
		req, _ := http.NewRequestWithContext(testkit.Context(t), "POST", a.url+"/m", r)
		req.ContentLength = 10
		req.Header.Set("dapr-app-id", "cart")
		req.Header.Set("farcall-timeout", "50ms")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != 504 {
			t.Errorf("got %d", resp.StatusCode)
		}
	})
}

// TestCallerGoes says that a caller that hangs up ends its call at the application.
func TestCallerGoes(t *testing.T) {
	began, ended := make(chan bool), make(chan bool)
	bothLegs(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		began <- true
		<-r.Context().Done()
		ended <- true
	}, func(t *testing.T, a *callerAgent) {
		ctx, cancel := context.WithCancel(testkit.Context(t))
		req, _ := http.NewRequestWithContext(ctx, "POST", a.url+"/m", strings.NewReader("x"))
		req.Header.Set("dapr-app-id", "cart")
		gone := make(chan error, 1)
		go func() {
			_, err := client.Do(req)
			gone <- err
		}()
		<-began
		cancel()
		<-ended
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		testkit.Eventually(t, testkit.Context(t), "the router hears of it", func() error {
			if s := a.plan.said(); s != "cart-1 abandoned" {
				return fmt.Errorf("told the router %q", s)
			}
			return nil
		})
	})
}

// dying is an application that reads a request's head and hangs up, after say has been said.
func dying(t *testing.T, say string) (e app.Endpoint, calls func() int) {
	t.Helper()
	l := listen(t)
	count := make(chan int, 1)
	count <- 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				count <- <-count + 1
				_, _ = io.WriteString(c, say)
			}
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return endpoint(t, l.Addr(), app.HTTP), func() int { n := <-count; count <- n; return n }
}

// TestApplicationDies says what is tried again when an application dies, and what is not.
func TestApplicationDies(t *testing.T) {
	for _, local := range []bool{false, true} {
		for _, c := range []struct {
			verb     string
			status   int
			attempts string
		}{{"POST", 502, "1"}, {"PUT", 502, "1"}, {"GET", 200, "2"}, {"HEAD", 200, "2"}, {"OPTIONS", 200, "2"}} {
			t.Run(fmt.Sprintf("%s local=%v", c.verb, local), func(t *testing.T) {
				e, calls := dying(t, "")
				bad, good := newPeerAgent(t, "west", "bad", e), newPeerAgent(t, "west", "good", application(t, echo))
				first := bad.target()
				if local {
					first = bad.local()
				}
				a := newCallerAgent(t, &plan{targets: []relay.Target{first, good.target()}})
				got := call(t, c.verb, a.url+"/m", nil, "dapr-app-id", "cart")
				want(t, got, c.status, "")
				wantHeader(t, got.Header, "farcall-attempts", c.attempts)
				if calls() != 1 {
					t.Errorf("called %d times", calls())
				}
				if c.status == 502 {
					want(t, got, 502, `{"errorCode":"OUTCOME_UNKNOWN"`)
					if s := a.plan.said(); s != "bad lost" {
						t.Errorf("told the router %q", s)
					}
				}
			})
		}
	}
}

// TestCutShort says that half an answer never passes for a whole one.
func TestCutShort(t *testing.T) {
	for _, say := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 50_000),
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
	} {
		for _, local := range []bool{false, true} {
			e, calls := dying(t, say)
			p := newPeerAgent(t, "west", "cart-1", e)
			target := p.target()
			if local {
				target = p.local()
			}
			a := newCallerAgent(t, &plan{targets: []relay.Target{target, nobody(t, "other")}})
			got := call(t, "GET", a.url+"/m", nil, "dapr-app-id", "cart")
			if got.err == nil || calls() != 1 {
				t.Errorf("local=%v: got %d with %d bytes as whole, after %d calls", local, got.StatusCode, len(got.body), calls())
			}
			testkit.Eventually(t, testkit.Context(t), "the router hears of it", func() error {
				if s := a.plan.said(); s != "cart-1 lost" {
					return fmt.Errorf("told the router %q", s)
				}
				return nil
			})
		}
	}
}

// TestRetriesElsewhere says that what was certainly not executed is tried elsewhere, whatever the
// method, and for three attempts in all.
func TestRetriesElsewhere(t *testing.T) {
	good := newPeerAgent(t, "west", "good", application(t, echo))
	down := nobody(t, "x").Dial
	host, port, _ := net.SplitHostPort(down)
	_ = host
	deaf := newPeerAgent(t, "west", "deaf", app.Endpoint{Address: "127.0.0.1", Port: atoi(t, port)})
	wrong := good.target()
	wrong.Instance = nobody(t, "not-there").Instance
	drained := newPeerAgent(t, "west", "drained", application(t, echo))
	drained.peer.BeginDrain()
	killed := newPeerAgent(t, "west", "killed", application(t, echo))

	for _, c := range []struct {
		what     string
		targets  []relay.Target
		status   int
		attempts string
		said     string
	}{
		{"peer refuses the connection", []relay.Target{nobody(t, "a"), good.target()}, 200, "2", "a not_executed, good served"},
		{"application refuses the connection", []relay.Target{deaf.target(), good.target()}, 200, "2", "deaf refused, good served"},
		{"own application refuses the connection", []relay.Target{deaf.local(), good.target()}, 200, "2", "deaf refused, good served"},
		{"wrong target", []relay.Target{wrong, good.target()}, 200, "2", "not-there refused, good served"},
		{"draining", []relay.Target{drained.target(), good.target()}, 200, "2", "drained refused, good served"},
		{"two in a row", []relay.Target{drained.target(), nobody(t, "a"), good.target()}, 200, "3", "drained refused, a not_executed, good served"},
		{"three in a row", []relay.Target{drained.target(), nobody(t, "a"), wrong, good.target()}, 503, "3", "drained refused, a not_executed, not-there refused"},
		{"nothing else", []relay.Target{drained.target()}, 503, "1", "drained refused"},
		{"nothing at all", nil, 503, "0", ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			a := newCallerAgent(t, &plan{targets: c.targets})
			got := call(t, "POST", a.url+"/m", strings.NewReader("hi"), "dapr-app-id", "cart")
			want(t, got, c.status, "")
			wantHeader(t, got.Header, "farcall-attempts", c.attempts, "farcall-strategy", "local-first")
			if s := a.plan.said(); s != c.said {
				t.Errorf("told the router %q", s)
			}
		})
	}
	t.Run("a peer that was killed after a call", func(t *testing.T) {
		p := &plan{targets: []relay.Target{killed.target()}}
		a := newCallerAgent(t, p)
		want(t, call(t, "POST", a.url+"/m", strings.NewReader("hi"), "dapr-app-id", "cart"), 200, "hi")
		killed.peer.server.Stop()
		p.said()
		p.mu.Lock()
		p.targets = []relay.Target{killed.target(), good.target()}
		p.mu.Unlock()
		testkit.Eventually(t, testkit.Context(t), "the call goes elsewhere", func() error {
			got := call(t, "POST", a.url+"/m", strings.NewReader("hi"), "dapr-app-id", "cart")
			if got.StatusCode != 200 || got.Header.Get("farcall-served-by") != "west/good" {
				return fmt.Errorf("got %d by %s", got.StatusCode, got.Header.Get("farcall-served-by"))
			}
			return nil
		})
	})
	t.Run("a streamed body that nobody touched", func(t *testing.T) {
		a := newCallerAgent(t, &plan{targets: []relay.Target{nobody(t, "a"), good.target()}})
		got := call(t, "POST", a.url+"/m", struct{ io.Reader }{strings.NewReader("streamed")}, "dapr-app-id", "cart")
		want(t, got, 200, "streamed")
		wantHeader(t, got.Header, "farcall-attempts", "2")
	})
}

// TestUnknownOutlivesRefusal says that a call that may have been executed is never reported as one
// that was not, whatever became of its later attempts.
func TestUnknownOutlivesRefusal(t *testing.T) {
	e, _ := dying(t, "")
	bad := newPeerAgent(t, "west", "bad", e)
	a := newCallerAgent(t, &plan{targets: []relay.Target{bad.target(), nobody(t, "other")}})
	got := call(t, "GET", a.url+"/m", nil, "dapr-app-id", "cart")
	want(t, got, 502, "OUTCOME_UNKNOWN")
	wantHeader(t, got.Header, "farcall-attempts", "2")
}

func TestHealthAndMetadata(t *testing.T) {
	a := newCallerAgent(t, &plan{})
	want(t, call(t, "GET", a.url+"/v1.0/healthz", nil), 204, "")
	want(t, call(t, "GET", a.url+"/v1.0/healthz/outbound", nil), 204, "")
	want(t, call(t, "GET", a.url+"/v1.0/healthz?appid=web", nil), 204, "")
	want(t, call(t, "GET", a.url+"/v1.0/healthz?appid=other", nil), 500, "ERR_HEALTH_APPID_NOT_MATCH")
	want(t, call(t, "GET", a.url+"/v1.0/metadata", nil), 200, `"id":"web"`)
	a.http.BeginDrain()
	want(t, call(t, "GET", a.url+"/v1.0/healthz", nil), 500, "draining")
}

// TestH2C says that the face takes HTTP/2 without TLS.
func TestH2C(t *testing.T) {
	p := newPeerAgent(t, "west", "cart-1", application(t, echo))
	a := newCallerAgent(t, &plan{targets: []relay.Target{p.target()}})
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	for _, body := range []io.Reader{strings.NewReader("abc"), io.LimitReader(zeros{}, 1<<20)} {
		req, _ := http.NewRequestWithContext(testkit.Context(t), "POST", a.url+"/m", body)
		req.Header.Set("dapr-app-id", "cart")
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.ProtoMajor != 2 || resp.StatusCode != 200 || err != nil || (len(b) != 3 && len(b) != 1<<20) {
			t.Errorf("got HTTP/%d %d, %d bytes, %v", resp.ProtoMajor, resp.StatusCode, len(b), err)
		}
	}
}

// TestDrainHTTP says that a call under way outlives the listener.
func TestDrainHTTP(t *testing.T) {
	began, release := make(chan bool), make(chan bool)
	p := newPeerAgent(t, "west", "cart-1", application(t, func(w http.ResponseWriter, r *http.Request) {
		began <- true
		<-release
		echo(w, r)
	}))
	a := newCallerAgent(t, &plan{targets: []relay.Target{p.target()}})
	got := make(chan answer)
	go func() { got <- call(t, "POST", a.url+"/m", strings.NewReader("hi"), "dapr-app-id", "cart") }()
	<-began
	stopped := make(chan bool)
	go func() { a.stop(); close(stopped) }()
	testkit.Eventually(t, testkit.Context(t), "the listener closes", func() error {
		c, err := net.DialTimeout("tcp", strings.TrimPrefix(a.url, "http://"), time.Second)
		if err != nil {
			return nil
		}
		c.Close()
		return errors.New("it takes connections")
	})
	close(release)
	want(t, <-got, 200, "hi")
	<-stopped
}
