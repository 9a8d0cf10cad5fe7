//go:build unix

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// An instance that begins to fail gets at most 5 % of the calls after 5 s; where every one fails,
// calls still go out.
func TestAFailingInstanceIsSetAside(t *testing.T) {
	w := newWorld(t, options{}, "east", "west")
	east := w.clusters["east"]
	for _, id := range []string{"cart-3", "cart-4"} {
		east.start(t, id)
		east.registry.put(id, east.apps[id].port, "east-1")
	}
	testkit.Eventually(t, w.ctx, "four instances are called", func() error {
		for range 40 {
			w.must("east", "cart/method/x")
		}
		for id, i := range east.apps {
			if i.hits.Load() == 0 {
				return errors.New(id + " was not called yet")
			}
		}
		return nil
	})
	tr := w.traffic("farcall-strategy: local-only")
	bad := east.apps["cart-1"]
	began := time.Now()
	bad.failing.Store(true)
	w.passes(11 * time.Second)
	log := tr.end()
	late, badly := 0, 0
	for _, c := range log {
		if c.err != nil {
			t.Error(c.err)
		}
		if c.at.Sub(began) > 5*time.Second {
			late++
			if c.answer.servedBy == "east/cart-1" {
				badly++
			}
		}
	}
	t.Logf("%d calls, of %d after 5 s went %d to the instance that fails", len(log), late, badly)
	if late < 100 || badly*20 > late {
		t.Errorf("after 5 s %d of %d calls went to the instance that fails", badly, late)
	}
	e, err := w.connect().Explain(w.ctx, &adminv1.ExplainRequest{Service: "cart", From: "east", Strategy: "local-only"})
	if err != nil {
		t.Fatal(err)
	}
	why := ""
	for _, i := range e.GetInstances() {
		if i.GetInstance().GetCluster() == "east" && i.GetInstance().GetId() == "cart-1" {
			why = i.GetReason() + " " + i.GetDetail()
		}
	}
	if !strings.HasPrefix(why, "EJECTED ") {
		t.Errorf("explain says of it: %q", why)
	}
	for _, i := range east.apps {
		i.failing.Store(true)
	}
	hits := func() (n int64) {
		for _, i := range east.apps {
			n += i.hits.Load()
		}
		return n
	}
	for range 200 {
		before := hits()
		a := w.must("east", "cart/method/x", "farcall-strategy: local-only")
		if a.status != http.StatusInternalServerError || hits() == before {
			t.Fatalf("with every instance failing: %d %s", a.status, a.body)
		}
	}
}

// passes waits for a time to go by; what happens in it is the traffic's business.
func (w *world) passes(d time.Duration) {
	w.t.Helper()
	began := time.Now()
	testkit.Eventually(w.t, w.ctx, fmt.Sprint(d, " go by"), func() error {
		if time.Since(began) < d {
			return errors.New("not yet")
		}
		return nil
	})
}

// Part of the local instances failing their checks moves that part of the calls, and no more.
func TestSpillOverIsSharedOut(t *testing.T) {
	w := newWorld(t, options{}, "east", "west")
	east := w.clusters["east"].registry.(*fileRegistry)
	port := w.clusters["east"].apps["cart-1"].port
	east.more = ""
	for n := range 8 {
		health := "UNHEALTHY"
		if n == 0 {
			health = "HEALTHY"
		}
		// With cart-1 and cart-2 that makes 3 healthy ones of 10.
		east.list[fmt.Sprint("more-", n)] = fmt.Sprintf("      - {id: more-%d, address: 127.0.0.1, port: %d, node: east-1, health: %s%%s}\n", n, port, health)
	}
	east.save()
	w.does("service: cart\nstrategy: local-first\nfailover: {threshold: 50, mode: spill}\nfailback: {hold: 0s, ramp: 0s}\n", "policy", "apply", "-f", "-")
	testkit.Eventually(t, w.ctx, "the policy and ten instances are there", func() error {
		if a := w.must("east", "cart/method/x"); !strings.Contains(a.reason, "3 of 10") {
			return errors.New(a.reason)
		}
		return nil
	})
	home, calls := 0, 2000
	for range calls {
		if w.must("east", "cart/method/x").cluster() == "east" {
			home++
		}
	}
	// 60 % of 2000 is 1200 with a standard deviation of 22: five of them on either side.
	t.Logf("%d of %d calls stayed", home, calls)
	if home < 1090 || home > 1310 {
		t.Errorf("%d of %d calls stayed, want 60 %%", home, calls)
	}
}
