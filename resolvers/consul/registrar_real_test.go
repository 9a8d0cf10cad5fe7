//go:build real

package consul

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
)

// app is an application: a port that listens or does not.
type app struct {
	t    testing.TB
	port int
	l    net.Listener
}

func newApp(t testing.TB) *app {
	a := &app{t: t}
	a.listen()
	t.Cleanup(a.close)
	return a
}

func (a *app) listen() {
	a.t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", a.port))
	if err != nil {
		a.t.Fatal(err)
	}
	a.l, a.port = l, l.Addr().(*net.TCPAddr).Port
}

func (a *app) close() { _ = a.l.Close() }

func (a *app) registration(name catalog.Name) resolvers.Registration {
	return resolvers.Registration{Name: name, Node: "node-1", ID: name.Service + "-1", Address: "127.0.0.1", Port: a.port, RelayPort: 50002}
}

func register(t testing.TB, cfg Config, apps ...resolvers.Registration) (stop func()) {
	t.Helper()
	r, err := NewRegistrar(cfg, deps(t))
	if err != nil {
		t.Fatal(err)
	}
	return testkit.Go(t, "Registrar.Run", func(ctx context.Context) error {
		if err := r.Run(ctx, apps); !errors.Is(err, context.Canceled) {
			return fmt.Errorf("Run returned %w", err)
		}
		return nil
	})
}

func TestRealRegistrarFollowsTheApplication(t *testing.T) {
	srv := testkit.Consul(t)
	rec, _ := run(t, Config{Address: srv.Addr})
	cart, shop := newApp(t), newApp(t)
	stop := register(t, Config{Address: srv.Addr},
		cart.registration(catalog.Name{Namespace: "default", Service: "cart"}),
		shop.registration(catalog.Name{Namespace: "shop", Service: "till"}))
	line := func(name string, a *app, health string) string {
		_, service, _ := strings.Cut(name, "/")
		if service == "" {
			service = name
		}
		return fmt.Sprintf("%s/%s-1 127.0.0.1:%d w=1 %s via 127.0.0.1:50002", name, service, a.port, health)
	}
	see := func(what string, lines ...string) {
		t.Helper()
		testkit.Eventually(t, within(t, 30*time.Second), what, rec.Shows(lines...))
	}
	see("both are registered", line("cart", cart, "HEALTHY"), line("shop/till", shop, "HEALTHY"))

	cart.close()
	see("an application that is away is critical", line("cart", cart, "UNHEALTHY"), line("shop/till", shop, "HEALTHY"))
	cart.listen()
	see("and passing when it is back", line("cart", cart, "HEALTHY"), line("shop/till", shop, "HEALTHY"))

	began := time.Now()
	stop()
	if took := time.Since(began); took > time.Second {
		t.Errorf("Run took %v to return", took)
	}
	h := handOf(t, srv.Addr, "")
	services, err := h.Agent().Services()
	if err != nil || len(services) != 0 {
		t.Errorf("when Run had returned, the agent still had %v (%v)", services, err)
	}
	see("nothing is left in the catalogue")
}

// TestRealRegistrarRespectsARemoval: who takes an application out of Consul means it, until the
// application itself was away and came back.
func TestRealRegistrarRespectsARemoval(t *testing.T) {
	srv := testkit.Consul(t)
	h := handOf(t, srv.Addr, "")
	cart := newApp(t)
	register(t, Config{Address: srv.Addr}, cart.registration(catalog.Name{Namespace: "default", Service: "cart"}))
	registered := func(want bool) func() error {
		return func() error {
			services, err := h.Agent().Services()
			if err != nil {
				return err
			}
			if _, ok := services["cart-1"]; ok != want {
				return fmt.Errorf("registered: %v, want %v", ok, want)
			}
			return nil
		}
	}
	testkit.Eventually(t, within(t, 30*time.Second), "it is registered", registered(true))
	if err := h.Agent().ServiceDeregister("cart-1"); err != nil {
		t.Fatal(err)
	}
	// Three rounds of the Registrar would have restored it.
	timer := time.NewTimer(3 * keepEvery)
	defer timer.Stop()
	<-timer.C
	if err := registered(false)(); err != nil {
		t.Fatalf("removed by a person: %v", err)
	}
	cart.close()
	timer.Reset(2 * keepEvery)
	<-timer.C
	if err := registered(false)(); err != nil {
		t.Fatalf("removed, and the application is away: %v", err)
	}
	cart.listen()
	testkit.Eventually(t, within(t, 30*time.Second), "it comes back with the application", registered(true))
}

// TestRealRegistrarOutlivesConsul: a Consul that forgot is told again.
func TestRealRegistrarOutlivesConsul(t *testing.T) {
	srv := testkit.Consul(t)
	cart := newApp(t)
	rec, _ := run(t, Config{Address: srv.Addr})
	register(t, Config{Address: srv.Addr}, cart.registration(catalog.Name{Namespace: "default", Service: "cart"}))
	line := fmt.Sprintf("cart/cart-1 127.0.0.1:%d w=1 HEALTHY via 127.0.0.1:50002", cart.port)
	testkit.Eventually(t, within(t, 30*time.Second), "it is registered", rec.Shows(line))
	srv.Kill()
	before, _, _ := rec.All() // the new one may have been read by the time that it is known to be ready
	srv.Start()
	testkit.Eventually(t, within(t, 30*time.Second), "it is registered again", func() error {
		if updates, _, _ := rec.All(); len(updates) == len(before) {
			return errors.New("the new Consul was not read yet")
		}
		return rec.Shows(line)()
	})
}

// TestRealRegistrarNeedsOnlyServiceWrite: a token that may write its service and nothing else
// is enough.
func TestRealRegistrarNeedsOnlyServiceWrite(t *testing.T) {
	srv := testkit.Consul(t, testkit.ConsulACL(master))
	h := handOf(t, srv.Addr, master)
	cart := newApp(t)
	tok := h.token("cart", `service "cart" { policy = "write" }`)
	rec, _ := run(t, Config{Address: srv.Addr, Token: master})
	stop := register(t, Config{Address: srv.Addr, Token: tok.SecretID}, cart.registration(catalog.Name{Service: "cart"}))
	testkit.Eventually(t, within(t, 30*time.Second), "it is registered", func() error { return holds(rec, "cart/cart-1") })
	stop()
	testkit.Eventually(t, within(t, 30*time.Second), "and taken back", rec.Shows())
}
