//go:build real && linux

package mdns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
)

// webApp is an application at one of the test's own addresses.
func webApp(t testing.TB, at netip.Addr, says string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(at, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, says)
	})}}
	srv.Start()
	t.Cleanup(srv.Close)
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func TestRealDaprdIsListedUntilItsGoodbye(t *testing.T) {
	t.Parallel()
	if !testkit.Inside(t) {
		return
	}
	n := testkit.NewNetwork(t)
	self := n.Attach()
	app := webApp(t, self.Addr, "hello")
	one := testkit.Daprd(t, n.Host("alpha"), testkit.DaprdConfig{AppID: "cart", App: app})
	rec := follow(t, Config{Interfaces: []string{self.Link}})
	two := testkit.Daprd(t, n.Host("beta"), testkit.DaprdConfig{AppID: "cart", App: app})
	rec.eventually(t, "both daprds are listed", func(list []*catalog.Instance) error {
		return wantRelays(list, "cart", one.Internal, two.Internal)
	})
	two.Stop()
	rec.eventually(t, "the one that said goodbye is gone", func(list []*catalog.Instance) error {
		return wantRelays(list, "cart", one.Internal)
	})
	if !rec.lastRemovalExplicit() {
		t.Error("a goodbye is an explicit removal, and was not told as one")
	}
}

func wantRelays(list []*catalog.Instance, service string, want ...netip.AddrPort) error {
	have := map[string]bool{}
	for _, in := range list {
		if in.Service == service && in.Port == 0 {
			have[in.Relay] = true
		}
	}
	for _, w := range want {
		if !have[w.String()] {
			return fmt.Errorf("%s is not listed: %v", w, list)
		}
	}
	if len(list) != len(want) {
		return fmt.Errorf("listed are %v", list)
	}
	return nil
}

// TestRealDaprdFindsWhatIsAnnounced: a sidecar on the link resolves an application that the
// Registrar announced, and calls the relay port.
func TestRealDaprdFindsWhatIsAnnounced(t *testing.T) {
	t.Parallel()
	if !testkit.Inside(t) {
		return
	}
	n := testkit.NewNetwork(t)
	self := n.Attach()
	app := webApp(t, self.Addr, "hello")
	caller := testkit.Daprd(t, n.Host("caller"), testkit.DaprdConfig{AppID: "shop", App: app})

	relay := newRefusal(t, self.Addr)
	announce(t, Config{Interfaces: []string{self.Link}}, resolvers.Registration{
		Name: catalog.Name{Namespace: "default", Service: "cart"}, Node: "node-1", ID: "cart-node-1",
		Address: self.Addr.String(), Port: int(app.Port()), RelayPort: int(relay.at.Port()),
	})
	testkit.Eventually(t, testkit.Context(t), "the sidecar calls the relay", func() error {
		return relay.called(testkit.Context(t), caller.Invoke("cart", "x"))
	})
}

// refusal is a relay that refuses every call in words of its own, which is enough to see that it is
// called.
type refusal struct{ at netip.AddrPort }

const refused = "this relay refuses everything"

func newRefusal(t testing.TB, at netip.Addr) *refusal {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(at, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return errors.New(refused) }))
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { server.Stop(); <-served })
	return &refusal{l.Addr().(*net.TCPAddr).AddrPort()}
}

// called makes a call by way of a sidecar, and says why it did not arrive here.
func (r *refusal) called(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && !strings.Contains(string(body), refused) {
		err = fmt.Errorf("%d %s", resp.StatusCode, body)
	}
	return err
}
