package face

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

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

func TestHealthAndMetadata(t *testing.T) {
	a := newCallerAgent(t, &plan{})
	want(t, call(t, "GET", a.url+"/v1.0/healthz", nil), 204, "")
	want(t, call(t, "GET", a.url+"/v1.0/healthz/outbound", nil), 204, "")
	want(t, call(t, "GET", a.url+"/v1.0/healthz?appid=web", nil), 204, "")
	want(t, call(t, "GET", a.url+"/v1.0/healthz?appid=other", nil), 500, "ERR_HEALTH_APPID_NOT_MATCH")
	want(t, call(t, "GET", a.url+"/v1.0/metadata", nil), 200, `"id":"web"`)
	a.http.BeginDrain()
	want(t, call(t, "GET", a.url+"/v1.0/healthz", nil), 500, "ERR_HEALTH_NOT_READY")
	want(t, call(t, "GET", a.url+"/v1.0/healthz/outbound", nil), 500, "ERR_OUTBOUND_HEALTH_NOT_READY")
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
