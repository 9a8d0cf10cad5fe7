package mdns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// ofAgent is an agent's claim and echoes on a link whose interface has 10.0.0.1.
func ofAgent(t testing.TB, apps ...string) *stand {
	s := &stand{t: t, now: time.Unix(1_000_000, 0), r: newResponder()}
	addr := netip.MustParseAddr("10.0.0.1")
	s.r.stand(s.now, claim, []*offer{newOffer("farcall-node-1", claimType, hostFor([]netip.Addr{addr}), 50003, []string{"txtvers=1"}, []netip.Addr{addr}, DefaultTTL)})
	s.carries(apps...)
	return s
}

func (s *stand) carries(apps ...string) {
	s.r.carry(s.now, claim, apps, func(app string) *offer {
		return newEcho("farcall-node-1", app, netip.MustParseAddr("10.0.0.1"), 50003)
	})
}

// asks gives what is said when somebody asks for an application as daprd does.
func (s *stand) asks(app string) []outgoing {
	s.t.Helper()
	s.take()
	s.hears("10.0.0.9:5353", ask(dns.TypePTR, dns.ClassINET, escapeLabel(app)+"."+domain))
	s.pass(130 * time.Millisecond)
	return s.take()
}

// about gives the packets that have an answer of such a name, and whether it is a goodbye.
func about(sent []outgoing, name string) (said, byes int) {
	for _, o := range sent {
		for _, rr := range o.packet.Answer {
			switch {
			case rr.Header().Name != name || rr.Header().Rrtype != dns.TypePTR:
			case rr.Header().Ttl == 0:
				byes++
			default:
				said++
			}
		}
	}
	return said, byes
}

func TestEchoesStandWithTheirClaim(t *testing.T) {
	s := ofAgent(t, "cart")
	s.pass(500 * time.Millisecond)
	for _, o := range s.take() {
		if o.packet.Response || len(o.packet.Question) != 1 || o.packet.Question[0].Name != "farcall-node-1."+claimType {
			t.Errorf("before the claim stands it says %v", &o.packet)
		}
	}
	if sent := s.asks("cart"); len(sent) > 0 && sent[0].packet.Response {
		t.Errorf("before the claim stands it answers %v", &sent[0].packet)
	}
	s.pass(10 * time.Second)
	sent := s.take()
	if said, _ := about(sent, "cart.local."); said != 2 {
		t.Errorf("it is announced %d times", said)
	}
	for _, o := range sent {
		for _, rr := range o.packet.Answer {
			if p, ok := rr.(*dns.PTR); ok && p.Hdr.Name == enumeration && p.Ptr != claimType {
				t.Errorf("the enumeration has %s", p.Ptr)
			}
		}
	}
	s.pass(time.Minute)
	sent = s.asks("cart")
	if len(sent) != 1 || sent[0].to.IsValid() {
		t.Fatalf("sent was %+v", sent)
	}
	p := &sent[0].packet
	if a, x := kinds(p.Answer), kinds(p.Extra); !slices.Equal(a, []string{"PTR cart.local."}) || !slices.Equal(x, []string{
		"A farcall-host-10-0-0-1.local. flush", "SRV farcall-node-1.cart.local. flush", "TXT farcall-node-1.cart.local. flush",
	}) {
		t.Errorf("answered is %q, and %q", a, x)
	}
	for _, rr := range append(p.Answer, p.Extra...) {
		switch rr := rr.(type) {
		case *dns.SRV:
			if rr.Port != 50003 {
				t.Errorf("the port is %d", rr.Port)
			}
		case *dns.TXT:
			if !slices.Equal(rr.Txt, []string{"cart"}) {
				t.Errorf("the TXT is %q", rr.Txt)
			}
		}
		if rr.Header().Ttl != 120 {
			t.Errorf("%v lives for %d s", rr, rr.Header().Ttl)
		}
	}
	s.hears("10.0.0.9:5353", ask(dns.TypePTR, dns.ClassINET, enumeration))
	s.pass(200 * time.Millisecond)
	if sent := s.take(); len(sent) != 1 || len(sent[0].packet.Answer) != 1 {
		t.Errorf("the enumeration is answered with %+v", sent)
	}
}

func TestEchoesThatGo(t *testing.T) {
	s := ofAgent(t, "cart", "till", "bank")
	s.pass(20 * time.Second)
	s.take()
	s.carries("till", "bank")
	s.pass(10 * time.Millisecond)
	if _, byes := about(s.sent, "cart.local."); byes != 1 {
		t.Errorf("what is no more is not taken back at once: %d", byes)
	}
	s.pass(5 * time.Second)
	sent := s.take()
	if _, byes := about(sent, "cart.local."); byes != 2 || len(sent) != 2 {
		t.Errorf("%d goodbyes in %d packets", byes, len(sent))
	}
	for _, o := range sent {
		if len(o.packet.Extra) > 0 || len(o.packet.Answer) != 3 {
			t.Errorf("with it goes %v", kinds(append(o.packet.Answer, o.packet.Extra...)))
		}
	}
	if sent := s.asks("cart"); len(sent) > 0 {
		t.Error("it answers for what is no more")
	}

	s.pass(2 * time.Minute) // nobody knows of any of them any more
	s.carries("bank")
	s.pass(time.Second)
	if sent := s.take(); len(sent) > 0 {
		t.Error("a goodbye for what nobody knows")
	}

	s.asks("bank")
	s.carries()
	s.pass(50 * time.Millisecond)
	s.carries("bank") // it is back before the second goodbye
	s.pass(5 * time.Second)
	sent = s.take()
	if said, byes := about(sent, "bank.local."); byes != 1 || said != 2 {
		t.Errorf("%d goodbyes, %d announcements", byes, said)
	}

	s.r.leave(s.now, claim)
	s.pass(5 * time.Second)
	sent = s.take()
	_, bank := about(sent, "bank.local.")
	_, own := about(sent, claimType)
	if bank != 2 || own != 2 || len(s.asks("bank")) > 0 {
		t.Errorf("at the end there are %d goodbyes of one, and %d of the claim", bank, own)
	}
}

// Ten thousand are quiet: some are announced, all are answered for, and of those that go only those
// are taken back that somebody asked for.
func TestTenThousandEchoes(t *testing.T) {
	var apps []string
	for i := range 10_000 {
		apps = append(apps, fmt.Sprintf("app-%05d", i))
	}
	s := ofAgent(t, apps...)
	most, packets := 0, 0
	for range 60 {
		s.pass(time.Second)
		sent := s.take()
		most, packets = max(most, len(sent)), packets+len(sent)
		for _, o := range sent {
			if b, err := pack(&o.packet); err != nil || len(b) > packetBudget {
				t.Errorf("a packet of %d bytes: %v", len(b), err)
			}
		}
	}
	if most > 40 || packets > 100 {
		t.Errorf("in a minute it says %d packets, in one second of it %d", packets, most)
	}
	for _, app := range []string{apps[0], apps[5_000], apps[9_999]} {
		if said, _ := about(s.asks(app), app+".local."); said != 1 {
			t.Errorf("%s is answered for %d times", app, said)
		}
	}
	s.pass(3 * time.Minute)
	s.asks("app-00007")
	s.carries("app-00001")
	s.pass(5 * time.Second)
	if sent := s.take(); len(sent) != 2 {
		t.Errorf("%d packets of goodbyes", len(sent))
	}
	if n := len(s.r.names); n > 10 {
		t.Errorf("%d names are kept", n)
	}
	if n := len(s.r.said); n > 20 {
		t.Errorf("of %d records it is kept when they were said", n)
	}
}

// Whoever only looks when wake says so misses nothing, and is not woken for nothing.
func TestEchoesWakeInTime(t *testing.T) {
	apps := make([]string, 150)
	for i := range apps {
		apps[i] = fmt.Sprint("app-", i)
	}
	s := ofAgent(t, apps...)
	run := func(d time.Duration) (said, byes int) {
		end := s.now.Add(d)
		for n := 0; ; n++ {
			wake := s.r.wake()
			if wake.IsZero() || wake.After(end) {
				s.now = end
				return said, byes
			}
			if s.now = wake; n > 2000 {
				t.Fatal("it is woken over and over")
			}
			for _, o := range s.r.step(s.now) {
				for _, rr := range o.packet.Answer {
					switch p, ok := rr.(*dns.PTR); {
					case !ok || !strings.HasPrefix(p.Hdr.Name, "app-"):
					case p.Hdr.Ttl == 0:
						byes++
					default:
						said++
					}
				}
			}
		}
	}
	if said, _ := run(time.Minute); said != 2*mostFresh {
		t.Errorf("%d announcements", said)
	}
	s.carries()
	if _, byes := run(time.Minute); byes != 2*mostFresh {
		t.Errorf("%d goodbyes", byes)
	}
	if wake := s.r.wake(); !wake.IsZero() {
		t.Errorf("it is woken at %v, for nothing", wake)
	}
}

func TestEchoesInConflict(t *testing.T) {
	theirs := newEcho("farcall-node-1", "cart", netip.MustParseAddr("10.0.0.7"), 50003)
	other := netip.MustParseAddr("10.0.0.7")
	theirClaim := newOffer("farcall-node-1", claimType, hostFor([]netip.Addr{other}), 50003, []string{"txtvers=1"}, []netip.Addr{other}, DefaultTTL)
	t.Run("a namesake is there", func(t *testing.T) {
		s := ofAgent(t, "cart")
		s.pass(300 * time.Millisecond)
		s.hears("10.0.0.7:5353", said(theirClaim.all()...))
		s.pass(5 * time.Second)
		if s.r.standings[claim].stage != stageConflict || len(s.r.contested) != 1 || len(s.asks("cart")) > 0 {
			t.Error("it answers by a name that is somebody else's")
		}
		s.carries()
		s.carries("cart")
		s.pass(20 * time.Second)
		if said, byes := about(s.take(), "cart.local."); said != 2 || byes != 0 {
			t.Errorf("with the name free, there are %d announcements and %d goodbyes", said, byes)
		}
	})
	t.Run("a namesake answers", func(t *testing.T) {
		s := ofAgent(t, "cart")
		s.pass(20 * time.Second)
		s.hears("10.0.0.7:5353", said(theirs.all()...))
		if s.r.standings[claim].stage != stageProbing {
			t.Error("it does not look whose the name is")
		}
		s.hears("10.0.0.7:5353", said(theirs.all()...))
		s.pass(3 * time.Second)
		if s.r.standings[claim].stage != stageStanding {
			t.Error("nobody defends the name, and it is given up")
		}
	})
	t.Run("another agent has the application, too", func(t *testing.T) {
		s := ofAgent(t, "cart")
		s.pass(20 * time.Second)
		s.hears("10.0.0.7:5353", said(newEcho("farcall-node-2", "cart", netip.MustParseAddr("10.0.0.7"), 50003).all()...))
		if s.r.standings[claim].stage != stageStanding || len(s.asks("cart")) != 1 {
			t.Error("that is no conflict")
		}
	})
	t.Run("our own words come back", func(t *testing.T) {
		s := ofAgent(t, "cart")
		s.pass(20 * time.Second)
		for _, o := range s.asks("cart") {
			s.hears("10.0.0.1:5353", o.packet)
		}
		if s.r.standings[claim].stage != stageStanding {
			t.Error("they were taken for somebody else's")
		}
	})
	t.Run("a predecessor says goodbye", func(t *testing.T) {
		s := ofAgent(t, "cart")
		s.pass(20 * time.Second)
		s.take()
		s.hears("10.0.0.1:5353", said(gone(s.r.echoes.of["cart"].all())...))
		s.pass(100 * time.Millisecond)
		if said, _ := about(s.take(), "cart.local."); said != 1 {
			t.Error("it is not announced anew")
		}
	})
}

func TestEchoesOfARestartedLink(t *testing.T) {
	s := ofAgent(t, "cart")
	s.pass(20 * time.Second)
	s.take()
	s.r.restart(s.now)
	s.pass(20 * time.Second)
	if said, _ := about(s.take(), "cart.local."); said != 2 {
		t.Errorf("its listeners are told %d times", said)
	}
	s.r.forget()
	s.pass(20 * time.Second)
	if sent := s.take(); len(sent) > 0 || len(s.asks("cart")) > 0 {
		t.Error("what was forgotten is spoken of")
	}
}

// Who speaks plain DNS, or asks as two families do, is answered as everybody else.
func TestEchoesAnswerEverybody(t *testing.T) {
	s := ofAgent(t, "cart")
	s.pass(20 * time.Second)
	s.take()
	s.hears("10.0.0.9:40000", ask(dns.TypePTR, dns.ClassINET, "cart.local."))
	s.pass(10 * time.Millisecond)
	sent := s.take()
	if len(sent) != 1 || !sent[0].to.IsValid() || len(sent[0].packet.Extra) != 3 {
		t.Fatalf("plain DNS is answered %+v", sent)
	}
	// daprd asks twice, over IPv4 and over IPv6.
	for range 2 {
		s.hears("10.0.0.9:5353", ask(dns.TypePTR, dns.ClassINET, "cart.local."))
		s.hears("[fe80::9]:5353", ask(dns.TypePTR, dns.ClassINET, "cart.local."))
	}
	s.pass(3 * time.Second)
	if sent := s.take(); len(sent) != 1 {
		t.Errorf("one sidecar is answered %d times", len(sent))
	}
}
