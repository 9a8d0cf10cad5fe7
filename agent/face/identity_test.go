package face

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

// homes says which application is where; the zero Addr has the node's only one.
type homes map[netip.Addr]catalog.Name

func (homes) Find(catalog.ID) (OwnInstance, bool) { return OwnInstance{}, false }
func (homes) Any(string) (OwnInstance, bool)      { return OwnInstance{}, false }
func (h homes) At(a netip.Addr) (catalog.Name, bool) {
	n, ok := h[a]
	return n, ok
}

// till is an application of the node that only its registry knows, bank one with a token.
var (
	till = catalog.Name{Namespace: "market", Service: "till"}
	bank = catalog.Name{Namespace: "money", Service: "bank"}
)

// TestIdentify holds the order in which a caller is told (design.md "Caller identity").
func TestIdentify(t *testing.T) {
	var (
		none  = netip.Addr{}
		four  = netip.MustParseAddr("10.0.0.4")
		six   = netip.MustParseAddr("2001:db8::6")
		other = netip.MustParseAddr("10.0.0.9")
	)
	tokens := []App{{Name: web, Token: "webs"}, {Name: bank, Token: "banks"}}
	for _, c := range []struct {
		name  string
		apps  []App
		api   string
		at    homes
		from  netip.Addr
		token string
		want  catalog.Name
		fails bool
	}{
		{name: "nothing is known", from: four},
		{name: "a source address", at: homes{four: till}, from: four, want: till},
		{name: "a source address, IPv6", at: homes{six: till}, from: six, want: till},
		{name: "another source address", at: homes{four: till}, from: other},
		{name: "a source address before the only application", apps: []App{{Name: web}}, at: homes{four: till, none: web}, from: four, want: till},
		{name: "the only application", apps: []App{{Name: web}}, at: homes{none: web}, from: other, want: web},
		{name: "the only application on a unix socket", at: homes{four: till, none: till}, from: none, want: till},
		{name: "a unix socket and several applications", at: homes{four: till}, from: none},
		{name: "a token before a source address", apps: tokens, at: homes{four: till, none: till}, from: four, token: "banks", want: bank},
		{name: "a token on a unix socket", apps: tokens, from: none, token: "webs", want: web},
		{name: "no token where none is demanded", apps: tokens, at: homes{four: till}, from: four, want: till},
		{name: "a wrong token where there are some", apps: tokens, at: homes{four: till}, from: four, token: "tills", fails: true},
		{name: "any token where there is none", apps: []App{{Name: web}}, at: homes{none: web}, from: four, token: "any", want: web},
		{name: "the common token", api: "all", at: homes{four: till}, from: four, token: "all", want: till},
		{name: "an application's token in place of the common one", apps: tokens, api: "all", from: four, token: "webs", want: web},
		{name: "no token where one is demanded", api: "all", at: homes{four: till}, from: four, fails: true},
		{name: "a wrong token where one is demanded", apps: tokens, api: "all", from: four, token: "al", fails: true},
		{name: "one token for all and for an application", apps: tokens, api: "webs", from: four, token: "webs", want: web},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := newIdentities(Config{Cluster: "east", Node: "node-1", Apps: c.apps, APIToken: c.api}, c.at)
			got, err := i.identify(c.from, c.token)
			if c.fails {
				if err == nil || err.Code != codes.Unauthenticated || got != nil {
					t.Fatalf("got %+v, %v", got, err)
				}
				return
			}
			want := invoke.Identity{AppID: "node/east/node-1"}
			if c.want != (catalog.Name{}) {
				want = identityOf(c.want)
			}
			if err != nil || got.Identity != want {
				t.Fatalf("got %+v, %v, want %+v", got, err, want)
			}
			if got.appID[0] != want.AppID || (len(got.namespace) > 0) != (want.Namespace != "") {
				t.Errorf("stamped are %q and %q", got.appID, got.namespace)
			}
		})
	}
}

func TestSource(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.4:80": "10.0.0.4", "[2001:db8::6]:80": "2001:db8::6", "[::ffff:10.0.0.4]:80": "::ffff:10.0.0.4", "@": "invalid IP", "": "invalid IP", "/run/x": "invalid IP",
	} {
		if got := source(text); got.String() != want {
			t.Errorf("%q: got %s", text, got)
		}
	}
	for want, a := range map[string]net.Addr{
		"10.0.0.4":   &net.TCPAddr{IP: net.IPv4(10, 0, 0, 4).To4(), Port: 1},
		"invalid IP": &net.UnixAddr{Name: "/run/x", Net: "unix"},
	} {
		if got := sourceOf(peer.NewContext(t.Context(), &peer.Peer{Addr: a})); got.String() != want {
			t.Errorf("%v: got %s", a, got)
		}
	}
	if got := sourceOf(t.Context()); got.IsValid() {
		t.Errorf("got %s of nothing", got)
	}
}

// asked gives the caller that the callee is told of, and the namespace that the name was looked up
// in.
func asked(t *testing.T, p *plan) (header chan http.Header, namespace func() string) {
	t.Helper()
	header = make(chan http.Header, 1)
	east := newPeerAgent(t, "west", "cart-1", application(t, func(_ http.ResponseWriter, r *http.Request) { header <- r.Header }))
	p.targets = []relay.Target{east.target()}
	return header, func() string {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.queries[len(p.queries)-1].Name.Namespace
	}
}

// The callee is told of the caller that was found, and a bare name is looked up in its namespace.
func TestCallerOfAnAddress(t *testing.T) {
	p := &plan{}
	header, namespace := asked(t, p)
	a := newAgent(t, p, nil, Config{Apps: []App{{Name: web}, {Name: bank, Token: "banks"}}}, homes{netip.MustParseAddr("127.0.0.1"): till})
	for _, c := range []struct {
		name  string
		token string
		want  catalog.Name
	}{
		{"by its address", "", till},
		{"by its token", "banks", bank},
	} {
		said := []string{"dapr-app-id", "cart", "dapr-caller-app-id", "spoofed", "dapr-caller-namespace", "spoofed"}
		if c.token != "" {
			said = append(said, invoke.APIToken, c.token)
		}
		want(t, call(t, "POST", a.url+"/m", http.NoBody, said...), 200, "")
		wantHeader(t, <-header, "Dapr-Caller-App-Id", c.want.Service, "Dapr-Caller-Namespace", c.want.Namespace, "Dapr-Api-Token", "")
		if got := namespace(); got != c.want.Namespace {
			t.Errorf("%s over HTTP: looked up in %q", c.name, got)
		}
		if got := invokeService(t, a, "cart", "hi", 3, said[2:]...); got.err != nil {
			t.Error(got.err)
		}
		wantHeader(t, <-header, "Dapr-Caller-App-Id", c.want.Service, "Dapr-Caller-Namespace", c.want.Namespace, "Dapr-Api-Token", "")
		if got := namespace(); got != c.want.Namespace {
			t.Errorf("%s over gRPC: looked up in %q", c.name, got)
		}
	}
}

// A connection over a unix socket has no source address: the only application calls, or the node.
func TestCallerOnAUnixSocket(t *testing.T) {
	p := &plan{}
	header, _ := asked(t, p)
	a := newAgent(t, p, nil, Config{}, homes{netip.MustParseAddr("127.0.0.1"): till})
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := NewHTTP(Config{Cluster: "east", Node: "node-1"}, Deps{Relay: a.relay, Own: homes{netip.MustParseAddr("127.0.0.1"): till}, Log: testkit.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Go(t, "http", func(ctx context.Context) error { return h.Run(ctx, l) })
	over := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	defer over.CloseIdleConnections()
	req, err := http.NewRequestWithContext(testkit.Context(t), http.MethodGet, "http://agent/v1.0/invoke/cart/method/m", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := over.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	wantHeader(t, <-header, "Dapr-Caller-App-Id", "node/east/node-1", "Dapr-Caller-Namespace", "")
}
