//go:build real && linux

package mdns

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

// wire hears everything that is said on the links of some hosts, which are the test itself.
type wire struct {
	t testing.TB
	s *station
}

func newWire(t testing.TB, hosts ...*testkit.Host) *wire {
	t.Helper()
	s, err := open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	nics, err := new(examiner).examine(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nics {
		for _, h := range hosts {
			if n.name == h.Link {
				if err := s.join(n); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	return &wire{t, s}
}

// until waits for a response in which a pointer of that name stands, with this or a goodbye.
func (w *wire) until(what, name string, bye bool) (message, packet) {
	w.t.Helper()
	for {
		select {
		case p := <-w.s.in:
			m, err := decode(p.data)
			if err != nil || !m.response {
				continue
			}
			for _, r := range m.records {
				if r.kind == dns.TypePTR && r.name == name && (r.ttl == 0) == bye {
					return m, p
				}
			}
		case <-testkit.Context(w.t).Done():
			w.t.Fatalf("%s: nothing is said of %s", what, name)
		}
	}
}

// startAnnouncing runs an Announcer until the test ends, or until stop.
func startAnnouncing(t testing.TB, a *Announcer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != context.Canceled {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func (a *Announcer) stands(t testing.TB, apps int) {
	t.Helper()
	testkit.Eventually(t, testkit.Context(t), "the claim stands", func() error {
		if n := value(t, a.announced); n != float64(apps) {
			return fmt.Errorf("%v are announced", n)
		}
		return nil
	})
}

// TestRealNobodyTakesAnEcho: what an agent announces on the link of its own cluster for applications
// of another one is listed by none of the cluster's Resolvers, by way of no enumeration, and beside a
// daprd of the same app-id only that daprd is.
func TestRealNobodyTakesAnEcho(t *testing.T) {
	t.Parallel()
	if !testkit.Inside(t) {
		return
	}
	n := testkit.NewNetwork(t)
	self := n.Attach()
	peer := testkit.Avahi(t, n.Host("peer"))
	till := testkit.Daprd(t, n.Host("till"), testkit.DaprdConfig{AppID: "till"})
	w := newWire(t, self)
	a := announcerAt(t, netip.AddrPortFrom(self.Addr, 50003).String(), Config{})
	a.Announce([]string{"cart", "till"}) // an agent would leave till to its daprd
	stop := startAnnouncing(t, a)
	w.until("an announcement", "cart.local.", false)
	a.stands(t, 2)

	d := deps(t)
	d.Metrics = NewMetrics(prometheus.NewRegistry())
	r, err := New(Config{}, d)
	if err != nil {
		t.Fatal(err)
	}
	rec := followResolver(t, r)
	rec.eventually(t, "of all, the daprd is listed", func(list []*catalog.Instance) error {
		return wantRelays(list, "till", till.Internal)
	})
	// The Resolver asks for till, whereupon the agent answers, too.
	testkit.Eventually(t, testkit.Context(t), "the echo was heard", func() error {
		if value(t, r.metrics.dropped["echo"]) == 0 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	for range 3 {
		rec.confirmed(t)
	}
	if err := wantRelays(rec.instances(), "till", till.Internal); err != nil {
		t.Error(err)
	}
	testkit.Eventually(t, testkit.Context(t), "another implementation sees the agent, and no application of it among the types", func() error {
		out, err := peer.Run("avahi-browse", "-apt")
		if err == nil && (!strings.Contains(out, "_farcall-dapr._tcp") || strings.Contains(out, "cart")) {
			err = fmt.Errorf("it sees %s", out)
		}
		return err
	})

	a.Announce([]string{"till"})
	w.until("what is no more", "cart.local.", true)
	began := time.Now()
	stop()
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("Run took %v to return", took)
	}
	w.until("at the end", "till.local.", true)
	w.until("at the end", claimType, true)
	if err := wantRelays(rec.instances(), "till", till.Internal); err != nil {
		t.Errorf("with the agent gone: %v", err)
	}
}

// TestRealEachLinkHasItsOwnAddress where the agent takes calls at every address, and only the link of
// its address hears of an agent that does at one.
func TestRealEachLinkHasItsOwnAddress(t *testing.T) {
	t.Parallel()
	if !testkit.Inside(t) {
		return
	}
	one, two := testkit.NewNetwork(t).Attach(), testkit.NewNetwork(t).Attach()
	w := newWire(t, one, two)
	address := func(what, app string) map[string]bool {
		t.Helper()
		m, _ := w.until(what, app+".local.", false)
		list := map[string]bool{}
		for _, r := range m.records {
			if r.kind == dns.TypeA || r.kind == dns.TypeAAAA {
				list[r.addr.String()] = true
			}
		}
		return list
	}
	everywhere := announcerAt(t, "[::]:50003", Config{})
	everywhere.Announce([]string{"cart"})
	stop := startAnnouncing(t, everywhere)
	seen := map[string]bool{}
	for len(seen) < 2 {
		list := address("on each link", "cart")
		if len(list) != 1 {
			t.Fatalf("a packet has the addresses %v", list)
		}
		for a := range list {
			seen[a] = true
		}
	}
	if !seen[one.Addr.String()] || !seen[two.Addr.String()] {
		t.Errorf("announced are %v, want %s and %s", seen, one.Addr, two.Addr)
	}
	stop()

	here := announcerAt(t, netip.AddrPortFrom(two.Addr, 50003).String(), Config{})
	here.Announce([]string{"till"})
	startAnnouncing(t, here)
	nics, err := new(examiner).examine(true)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 { // two announcements, over IPv4 and IPv6
		_, p := w.until("on one link", "till.local.", false)
		for _, n := range nics {
			if n.index == p.index && n.name != two.Link {
				t.Errorf("it is announced on %s", n.name)
			}
		}
	}
	here.stands(t, 1)
	two.LinkDown()
	here.stands(t, 0)
	two.LinkUp()
	newWire(t, two).until("a link that was down is told anew", "till.local.", false)
}

// TestRealDaprdCallsWhereTheEchoLeads: the address of an echo is the one that a sidecar calls, the first
// call as well, be there hundreds, and sidecars that look for it at the same moment all find it.
func TestRealDaprdCallsWhereTheEchoLeads(t *testing.T) {
	t.Parallel()
	if !testkit.Inside(t) {
		return
	}
	n := testkit.NewNetwork(t)
	self := n.Attach()
	app := webApp(t, self.Addr, "hello")
	relay := newRefusal(t, self.Addr)
	a := announcerAt(t, relay.at.String(), Config{})
	apps := make([]string, 1000)
	for i := range apps {
		apps[i] = fmt.Sprintf("app-%04d", i)
	}
	a.Announce(apps)
	startAnnouncing(t, a)
	a.stands(t, len(apps))
	var callers []*testkit.DaprdServer
	for _, name := range []string{"alpha", "beta", "gamma"} {
		callers = append(callers, testkit.Daprd(t, n.Host(name), testkit.DaprdConfig{AppID: "shop", App: app}))
	}
	said := make(chan error, len(callers))
	for _, c := range callers {
		go func() { said <- relay.called(testkit.Context(t), c.Invoke("app-0999", "x")) }()
	}
	for range callers {
		if err := <-said; err != nil {
			t.Error(err)
		}
	}
}
