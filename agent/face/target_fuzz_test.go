package face

import (
	"bufio"
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

// handed is an application of the node that keeps what it is handed.
type handed struct {
	relay.Apps
	requests []*invoke.Request
}

func (h *handed) Deliver(_ context.Context, _ app.Endpoint, r *invoke.Request) (*invoke.Response, error) {
	h.requests = append(h.requests, r)
	return &invoke.Response{Status: http.StatusOK, Length: 0, Body: io.NopCloser(strings.NewReader(""))}, nil
}

// named tells by other means than target does whom a request calls, and with which method; false
// where it calls nobody.
func named(path, header, authorization string) (app, method string, ok bool) {
	if header != "" {
		return header, path, true
	}
	if secret, ok := strings.CutPrefix(authorization, "Basic "); ok {
		if b, err := base64.StdEncoding.DecodeString(secret); err == nil {
			if part := strings.Split(string(b), ":"); len(part) == 2 && strings.EqualFold(part[0], "dapr-app-id") && part[1] != "" {
				return part[1], path, true
			}
		}
	}
	const before, between = "/v1.0/invoke/", "/method/"
	if !strings.HasPrefix(path, before) {
		return "", "", false
	}
	rest := path[len(before):]
	at := strings.Index(rest, between)
	if at < 1 {
		return "", "", false
	}
	app, err := url.QueryUnescape(rest[:at])
	if err != nil {
		app = rest[:at]
	}
	return app, rest[at+len(between):], true
}

// FuzzTarget sends request targets of every form to the HTTP face. A request selects one
// application, or none; the one that is asked for is the one that is called, under the same method
// that was judged, and nothing the caller says of itself goes along.
func FuzzTarget(f *testing.F) {
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, s := range []struct{ target, header, authorization string }{
		{"/v1.0/invoke/cart/method/a/b?x=1", "", ""},
		{"/v1.0/invoke/cart.shop/method/a", "", ""},
		{"/v1.0/invoke/shop%2Fcart/method/a%2F..%2Fb", "", ""},
		{"/v1.0/invoke/shop%252Fcart/method/a", "", ""},
		{"/v1.0/invoke/c%61rt/method/%2e%2e/%2e%2e/b", "", ""},
		{"/v1.0/invoke/cart%2Fmethod%2Fx/method/y", "", ""},
		{"/v1.0/invoke/a+b/method/y", "", ""},
		{"/v1.0/invoke//method/x", "", ""},
		{"/v1.0/invoke//cart/method/x", "", ""},
		{"/v1.0/invoke/cart/methods/x/method/y", "", ""},
		{"//v1.0//invoke//cart//method//x", "", ""},
		{"http://elsewhere.example/v1.0/invoke/cart/method/x", "", ""},
		{"/v1.0/invoke/http://cart/method/x", "", ""},
		{"/a/../b?c", "cart", ""},
		{"/v1.0/invoke/other/method/x", "cart", basic("dapr-app-id:third")},
		{"/v1.0/invoke/other/method/x", "", basic("dapr-app-id:cart")},
		{"/v1.0/invoke/other/method/x", "", basic("dapr-app-id:cart:x")},
		{"/v1.0/invoke/cart/method/x", "", basic("user:password")},
		{"/v1.0/invoke/cart/method/x", "", "Basic ?"},
		{"/v1.0/healthz", "cart", ""},
		{"/v1.0/metadata/", "cart", ""},
		{"*", "cart", ""},
		{"/%00", "cart", ""},
		{"/x?a#b", "a.b.c", ""},
		{"/x", " cart", ""},
		{"/x", "cart\u00fc", ""},
	} {
		f.Add(s.target, s.header, s.authorization)
	}
	to := &handed{}
	pl := &plan{strategy: "local-first", terms: relay.Terms{Attempts: 3, Rule: "by the plan"}, targets: []relay.Target{{
		Instance: &catalog.Instance{ID: catalog.ID{Cluster: "east", Name: catalog.Name{Namespace: "shop", Service: "cart"}, Instance: "cart-1"}}, Local: true,
	}}}
	r, err := relay.New(relay.Config{Cluster: "east", Node: "node-1"}, relay.Deps{Router: pl, Apps: to, Log: testkit.Quiet(), Metrics: prometheus.NewRegistry()})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(r.Close)
	h, err := NewHTTP(Config{Cluster: "east", Node: "node-1", Apps: []App{{Name: web}}}, Deps{Relay: r, Own: own{}, Log: testkit.Quiet()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, line, header, authorization string) {
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + line + " HTTP/1.1\r\nHost: h\r\n\r\n")))
		if err != nil || len(req.Header) > 0 {
			return
		}
		if header != "" {
			req.Header.Set("Dapr-App-Id", header)
		}
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		to.requests, pl.queries, pl.outcomes = nil, nil, nil
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, req.WithContext(t.Context()))
		fixed := strings.HasPrefix(req.URL.Path, "/v1.0/healthz") || req.URL.Path == "/v1.0/metadata"
		app, path, ok := named(req.URL.Path, header, authorization)
		if len(to.requests) == 0 {
			if !fixed && (rec.Code < 400 || !strings.HasPrefix(rec.Body.String(), `{"errorCode":"`)) || len(pl.queries) > 0 {
				t.Fatalf("%q: %d %s without a call, and %v was looked for", line, rec.Code, rec.Body, pl.queries)
			}
			return
		}
		if !ok || len(to.requests) > 1 || len(pl.queries) != 1 {
			t.Fatalf("%q calls %q (%v): %d calls, and %v was looked for", line, app, ok, len(to.requests), pl.queries)
		}
		called := to.requests[0]
		name, err := catalog.ParseName(app, pl.queries[0].Name.Namespace)
		if err != nil || name != pl.queries[0].Name || called.Service != name.Service {
			t.Fatalf("%q calls %q: %v was looked for and %q called (%v)", line, app, pl.queries[0].Name, called.Service, err)
		}
		if m, err := invoke.NormalizeMethod(path); err != nil || m != called.Method || called.Query != req.URL.RawQuery {
			t.Fatalf("%q: %q?%q was called, want %q (%v)", line, called.Method, called.Query, m, err)
		}
		for k, v := range called.Header {
			switch {
			case k == invoke.CalleeAppID && len(v) == 1 && v[0] == name.Service, k == invoke.CallerAppID, k == invoke.CallerNamespace:
			case invoke.ClaimsIdentity(k):
				t.Fatalf("%q: %s: %q went along", line, k, v)
			}
		}
	})
}
