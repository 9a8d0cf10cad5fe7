package agent

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

// TestManners says what each application is shown, and how TLS is spoken with it.
func TestManners(t *testing.T) {
	settings := &app.TLS{CA: "ca.pem"}
	name := func(s string) catalog.Name { return catalog.Name{Namespace: "default", Service: s} }
	c := Config{AppToken: "all", Apps: []App{
		{Name: name("plain")},
		{Name: name("own"), Token: "own", Protocol: app.H2C},
		{Name: name("secure"), Protocol: app.HTTPS, TLS: settings},
		{Name: name("both"), Protocol: app.GRPC, TLS: settings, Token: "both"},
		{Name: name("sidecar"), Protocol: app.Dapr, Token: "known-by"},
	}}
	r := newRouting(t, "a")
	for _, common := range []string{"all", ""} {
		c.AppToken = common
		r.spoken, r.others = manners(c)
		for service, want := range map[string]struct {
			protocol app.Protocol
			token    string
			tls      *app.TLS
		}{
			"plain": {"", common, nil}, "stranger": {"", common, nil}, "own": {app.H2C, "own", nil},
			"secure": {app.HTTPS, common, settings}, "both": {app.GRPC, "both", settings}, "sidecar": {app.Dapr, "", nil},
		} {
			i := instance("east", "a")
			i.Name = name(service)
			got := r.endpoint(i)
			access := app.Access{}
			if got.Access != nil {
				access = *got.Access
			}
			if got.Protocol != want.protocol || access.Token != want.token || access.TLS != want.tls {
				t.Errorf("%s: got %+v with %+v, want %+v", service, got, access, want)
			}
			if again := r.endpoint(i); again != got {
				t.Errorf("%s: two endpoints of one instance differ, and so would their connections", service)
			}
		}
	}
}

func TestRouterKnowsWhoIsWhere(t *testing.T) {
	r := newRouting(t, "a", "b")
	for text, want := range map[string]bool{"": true, "10.9.0.1": true, "10.9.0.2": false} {
		var a netip.Addr
		if text != "" {
			a = netip.MustParseAddr(text)
		}
		if got, ok := r.At(a); ok != want || ok && got != cart {
			t.Errorf("%q: got %v, %t", text, got, ok)
		}
	}
}

// A token is asked for at the agent's listeners, and tells who calls.
func TestTokensAtTheListeners(t *testing.T) {
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	internal, calls := listen(), listen()
	a, err := New(Config{
		Cluster: "edge", Node: "n1", Synchronizers: []string{"127.0.0.1:1"}, Address: internal.Addr().String(), AccessLog: "off",
		APIToken: "all", Apps: []App{{Name: cart, Port: 1, Token: "carts"}, {Name: catalog.Name{Namespace: "default", Service: "till"}, Port: 2}},
	}, Deps{Log: testkit.Log(t), Registry: prometheus.NewRegistry(), Internal: internal, HTTP: calls, GRPC: listen(), Metrics: listen()})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Go(t, "agent", func(ctx context.Context) error { return a.Run(ctx) })
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for token, want := range map[string]string{"": "401 invalid api token", "x": "401 invalid api token", "all": `200 "id":"node/edge/n1"`, "carts": `200 "id":"cart"`} {
		req, err := http.NewRequestWithContext(testkit.Context(t), http.MethodGet, "http://"+calls.Addr().String()+"/v1.0/metadata", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("dapr-api-token", token)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		status, words, _ := strings.Cut(want, " ")
		if err != nil || !strings.HasPrefix(resp.Status, status) || !strings.Contains(string(b), words) || strings.Contains(string(b), "carts") {
			t.Errorf("token %q: got %s %s, %v", token, resp.Status, b, err)
		}
	}
}
