//go:build real && linux

package mdns

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
)

// app is an application: a port that listens or does not.
type app struct {
	t  testing.TB
	at string
	l  net.Listener
}

func newApp(t testing.TB, host fmt.Stringer) *app {
	a := &app{t: t, at: net.JoinHostPort(host.String(), "0")}
	a.listen()
	t.Cleanup(a.close)
	return a
}

func (a *app) listen() {
	a.t.Helper()
	l, err := net.Listen("tcp", a.at)
	if err != nil {
		a.t.Fatal(err)
	}
	a.l, a.at = l, l.Addr().String()
}

func (a *app) close() { _ = a.l.Close() }

func (a *app) registration(ns, service string) resolvers.Registration {
	at := a.l.Addr().(*net.TCPAddr)
	return resolvers.Registration{Name: catalog.Name{Namespace: ns, Service: service}, Node: "node-1", ID: service + "-node-1",
		Address: at.IP.String(), Port: at.Port, RelayPort: 50002}
}

// startAnnouncer runs an announcing node on the host as a process; kill ends it as a crash does.
func startAnnouncer(t testing.TB, h *testkit.Host) (kill func()) {
	t.Helper()
	d := h.Daemon("env", "announcer", announceEnv+"="+h.Addr.String(), os.Args[0])
	d.Start()
	return d.Kill
}

func TestRealRegistrarFollowsTheApplication(t *testing.T) {
	t.Parallel()
	if !testkit.Inside(t) {
		return
	}
	n := testkit.NewNetwork(t)
	self := n.Attach()
	peer := testkit.Avahi(t, n.Host("peer"))
	cfg := Config{Interfaces: []string{self.Link}}
	rec := follow(t, cfg)
	cart, till := newApp(t, self.Addr), newApp(t, self.Addr)
	stop := announce(t, cfg, cart.registration("default", "cart"), till.registration("shop", "till"))
	atCart, atTill := "cart-node-1 "+cart.at, "till-node-1 "+till.at
	rec.eventually(t, "both are listed, each once", lists(atCart, atTill))
	rec.eventually(t, "with all that was registered", func(list []*catalog.Instance) error {
		for _, in := range list {
			if in.Node != "node-1" || in.Relay != fmt.Sprintf("%s:50002", self.Addr) || (in.Namespace == "shop") != (in.Service == "till") {
				return fmt.Errorf("listed is %v on %q", in, in.Node)
			}
		}
		return nil
	})
	sees := func(service string, want bool) {
		t.Helper()
		testkit.Eventually(t, testkit.Context(t), fmt.Sprintf("another implementation sees %s: %v", service, want), func() error {
			out, err := peer.Run("avahi-browse", "-rpt", "_farcall._tcp")
			if err == nil && strings.Contains(out, "app="+service) != want {
				err = fmt.Errorf("it sees %s", out)
			}
			return err
		})
	}
	sees("cart", true)
	sees("till", true)

	began := time.Now()
	cart.close()
	rec.eventually(t, "an application that is away is not announced", lists(atTill))
	t.Logf("away after %v", time.Since(began).Round(time.Millisecond)) // up to 1 s to notice, 1 s of RFC 6762 section 10.1
	if !rec.lastRemovalExplicit() {
		t.Error("it was taken back with a goodbye, which is explicit")
	}
	sees("cart", false)
	began = time.Now()
	cart.listen()
	rec.eventually(t, "and it is announced when it is back", lists(atCart, atTill))
	t.Logf("back after %v", time.Since(began).Round(time.Millisecond)) // up to 1 s to notice, 0.75 to 1 s of probing

	self.LinkDown()
	self.LinkUp()
	sees("cart", true)
	rec.eventually(t, "a link that was down is told anew", lists(atCart, atTill))

	began = time.Now()
	stop()
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("Run took %v to return", took)
	}
	rec.eventually(t, "nothing is left", lists())
	sees("till", false)
}

// TestRealANameThatSomebodyHas is not announced by a second node, until it is free.
func TestRealANameThatSomebodyHas(t *testing.T) {
	t.Parallel()
	if !testkit.Inside(t) {
		return
	}
	n := testkit.NewNetwork(t)
	self := n.Attach()
	cfg := Config{Interfaces: []string{self.Link}}
	rec := follow(t, cfg)
	first, second := newApp(t, self.Addr), newApp(t, self.Addr6)
	stop := announce(t, cfg, first.registration("default", "cart"))
	rec.eventually(t, "the first is listed", lists("cart-node-1 "+first.at))

	d := deps(t)
	reg := prometheus.NewRegistry()
	d.Metrics = NewMetrics(reg)
	r, err := NewRegistrar(cfg, d)
	if err != nil {
		t.Fatal(err)
	}
	announceBy(t, r, second.registration("default", "cart"))
	testkit.Eventually(t, testkit.Context(t), "the second one sees the conflict", func() error {
		if value(t, r.metrics.conflict) != 1 {
			return fmt.Errorf("probing %v, announced %v", value(t, r.metrics.probing), value(t, r.metrics.announced))
		}
		return nil
	})
	rec.eventually(t, "the first is listed still", lists("cart-node-1 "+first.at))
	stop()
	rec.eventually(t, "the second takes its place", lists("cart-node-1 "+strings.NewReplacer("[", "", "]", "").Replace(second.at)))
}
