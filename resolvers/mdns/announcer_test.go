package mdns

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func announcerAt(t testing.TB, at string, cfg Config) *Announcer {
	t.Helper()
	a, err := NewAnnouncer(cfg, Place{Node: "node-1", Address: netip.MustParseAddrPort(at)}, deps(t))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestPlacesThatCannotBeAnnounced(t *testing.T) {
	for says, p := range map[string]Place{
		"no node":               {Address: netip.MustParseAddrPort("10.0.0.1:1")},
		"an IP address":         {Node: "n"},
		"a port":                {Node: "n", Address: netip.MustParseAddrPort("10.0.0.1:0")},
		"127.0.0.1:1":           {Node: "n", Address: netip.MustParseAddrPort("127.0.0.1:1")},
		"means another place":   {Node: "n", Address: netip.MustParseAddrPort("[::1]:1")},
		"[fe80::1]:1: it means": {Node: "n", Address: netip.MustParseAddrPort("[fe80::1%eth0]:1")},
		"127.0.0.2:1: it means": {Node: "n", Address: netip.MustParseAddrPort("[::ffff:127.0.0.2]:1")},
	} {
		if _, err := NewAnnouncer(Config{}, p, deps(t)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	if _, err := NewAnnouncer(Config{Interfaces: []string{""}}, Place{Node: "n", Address: netip.MustParseAddrPort("10.0.0.1:1")}, deps(t)); err == nil {
		t.Error("an interface without a name is taken")
	}
}

func TestLabelsOfEchoes(t *testing.T) {
	for node, want := range map[string]string{
		"node-1":                "farcall-node-1",
		"a.example.com":         "farcall-a.example.com",
		"lab:7":                 "farcall-lab:7-",
		"lab:":                  "farcall-lab:",
		strings.Repeat("x", 70): "farcall-" + strings.Repeat("x", 46) + "-",
	} {
		got := echoLabel(node)
		if !strings.HasPrefix(got, want) || len(got) > mostLabel || !isEcho(got) || got != want && len(node) < 60 {
			t.Errorf("%s: %q", node, got)
		}
	}
	for label, want := range map[string]bool{"farcall-a": true, "FARCALL-a:b": true, "farcall-a:": true, "farcall-a:1": false, "farcall": false, "farcall-:12": false} {
		if isEcho(label) != want {
			t.Errorf("%s: %v", label, !want)
		}
	}
}

func TestAppsThatCannotBeAnnounced(t *testing.T) {
	a := announcerAt(t, "10.0.0.1:50003", Config{})
	a.Announce([]string{"till", "cart", "Cart", "a.b", "_x", strings.Repeat("y", 64), "", "cart", "ü x"})
	a.report(nil)
	if want := []string{"Cart", "till", "ü x"}; !slices.Equal(a.apps, want) || a.out != 5 {
		t.Errorf("announced are %q, %d are left out", a.apps, a.out)
	}
	round := a.round
	a.Announce([]string{"ü x", "till", "Cart"})
	if a.round != round || a.out != 0 {
		t.Error("the same is not the same")
	}
}

// report shows how all stands on these links.
func (a *Announcer) report(links map[string]*spoken) { chant{a}.report(links) }

func TestAnEchoHasTheAddressOfItsLink(t *testing.T) {
	eth := nicAt(1, "eth0", "169.254.3.4/16", "10.0.0.1/24", "10.0.0.7/24", "2001:db8::1/64", "fe80::1/64")
	six := nicAt(2, "eth1", "2001:db8:1::1/64", "fe80::1/64")
	own := nicAt(3, "eth2", "169.254.3.4/16", "fe80::1/64")
	for _, tt := range []struct {
		listen string
		nic    nic
		want   string
	}{
		{"10.0.0.7:50003", eth, "10.0.0.7"},
		{"10.0.0.7:50003", six, "10.0.0.7"}, // the interface was named
		{"0.0.0.0:50003", eth, "10.0.0.1"},
		{"[::]:50003", eth, "10.0.0.1"},
		{"[::]:50003", six, "2001:db8:1::1"},
		{"0.0.0.0:50003", six, ""},
		{"0.0.0.0:50003", own, "169.254.3.4"},
	} {
		c := chant{announcerAt(t, tt.listen, Config{})}
		c.Announce([]string{"cart"})
		l := &spoken{responder: newResponder(), nic: tt.nic}
		now := time.Unix(1_000_000, 0)
		c.tell(now, l)
		if s := l.standings[claim]; tt.want == "" {
			if s != nil || len(l.echoes.of) > 0 {
				t.Errorf("%s on %s: something is announced", tt.listen, tt.nic.name)
			}
			continue
		}
		o := l.echoes.of["cart"]
		if o == nil || len(o.addrs) != 1 || o.addrs[0].addr.String() != tt.want || o.srv.port != 50003 {
			t.Errorf("%s on %s: announced is %+v, want %s", tt.listen, tt.nic.name, o, tt.want)
		}
	}
}

// A link whose interface gets another address is told so, and one that has none any more nothing.
func TestAnAddressThatChanges(t *testing.T) {
	c := chant{announcerAt(t, "0.0.0.0:50003", Config{})}
	c.Announce([]string{"cart"})
	l := &spoken{responder: newResponder(), nic: nicAt(1, "eth0", "10.0.0.1/24")}
	s := &stand{t: t, now: time.Unix(1_000_000, 0), r: l.responder}
	links := map[string]*spoken{"eth0": l}
	c.take(s.now, links)
	s.pass(10 * time.Second)
	c.report(links)
	if n := value(t, c.announced); n != 1 {
		t.Errorf("%v are announced", n)
	}
	s.take()
	c.take(s.now, links)
	s.pass(10 * time.Second)
	if len(s.take()) > 0 {
		t.Error("nothing changed, and it speaks")
	}

	l.nic = nicAt(1, "eth0", "10.0.0.2/24")
	c.take(s.now, links)
	c.report(links)
	if n := value(t, c.waiting); n != 1 {
		t.Errorf("%v wait for the claim", n)
	}
	s.pass(10 * time.Second)
	if said, byes := about(s.take(), "cart.local."); said != 2 || byes != 0 || l.echoes.of["cart"].addrs[0].addr.String() != "10.0.0.2" {
		t.Errorf("%d announcements, %d goodbyes", said, byes)
	}

	l.nic = nicAt(1, "eth0", "2001:db8::1/64")
	c.take(s.now, links)
	s.pass(time.Second)
	if len(s.asks("cart")) > 0 {
		t.Error("it answers with an address that is no more")
	}
	l.nic = nicAt(1, "eth0", "10.0.0.2/24")
	c.take(s.now, links)
	s.pass(10 * time.Second)
	if len(s.asks("cart")) != 1 {
		t.Error("the address is back, and it does not answer")
	}
	c.report(nil)
	if n := value(t, c.announced) + value(t, c.waiting); n != 0 {
		t.Errorf("after the end %v are announced", n)
	}
}

func TestAnnouncerSpeaksWhereItsAddressIs(t *testing.T) {
	eth, other := nicAt(1, "eth0", "10.0.0.1/24"), nicAt(2, "eth1", "10.1.0.1/24")
	for _, tt := range []struct {
		v    voice
		eth0 bool
		eth1 bool
	}{
		{voice{}, true, true},
		{voice{having: netip.MustParseAddr("10.0.0.1")}, true, false},
		{voice{having: netip.MustParseAddr("10.0.0.1"), interfaces: []string{"eth1"}}, false, true},
	} {
		one, _ := tt.v.wants(eth)
		two, _ := tt.v.wants(other)
		if one != tt.eth0 || two != tt.eth1 {
			t.Errorf("%v %v: %v %v", tt.v.having, tt.v.interfaces, one, two)
		}
	}
}

func TestAnnouncerEndsWithItsContext(t *testing.T) {
	a := announcerAt(t, "10.99.99.99:50003", Config{})
	a.Announce([]string{"cart"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Run(ctx); err != context.Canceled {
		t.Error(err)
	}
}

// Whatever agents announce for applications of other clusters, nothing is looked for there and
// nothing of it is kept.
func TestEchoesLeaveNothing(t *testing.T) {
	s := oneLink(t)
	s.hears(said(daprd("till", "host:1", "10.0.0.9", 50002)...))
	s.pass(time.Second)
	l := s.b.ears["eth0"]
	records, types := len(l.cache.entries), len(l.types)
	for _, app := range []string{"cart", "till"} {
		o := newEcho("farcall-node-2", app, netip.MustParseAddr("10.0.0.8"), 50003)
		s.hears(said(append(o.all(), o.addrs...)...))
		s.hears(said(o.srv, o.txt))
	}
	s.pass(time.Minute)
	if len(l.cache.entries) != records || len(l.types) != types {
		t.Errorf("%d records and %d types are kept, of %d and %d", len(l.cache.entries), len(l.types), records, types)
	}
	for q := range s.asked("eth0") {
		if strings.Contains(q, "cart") || strings.Contains(q, "farcall-node") {
			t.Errorf("it asks %s", q)
		}
	}
	s.shows("till/host:1 10.0.0.9:0 via 10.0.0.9:50002")
}
