package mdns

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

// stand is a responder in a time of its own.
type stand struct {
	t    testing.TB
	now  time.Time
	r    *responder
	sent []outgoing
}

func cart(namespace string) resolvers.Registration {
	return resolvers.Registration{Name: catalog.Name{Namespace: namespace, Service: "cart"}, Node: "node-1",
		ID: "cart-node-1-8080", Address: "10.0.0.1", Port: 8080, RelayPort: 50002}
}

func newStand(t testing.TB, apps ...resolvers.Registration) *stand {
	s := &stand{t: t, now: time.Unix(1_000_000, 0), r: newResponder()}
	for _, a := range apps {
		s.r.stand(s.now, a.ID, offers(a, []netip.Addr{netip.MustParseAddr(a.Address)}, DefaultTTL))
	}
	return s
}

// cart gives what became of the application that cart makes.
func (s *stand) cart() *standing { return s.r.standings[cart("").ID] }

func (s *stand) pass(d time.Duration) {
	for end := s.now.Add(d); !s.now.After(end); s.now = s.now.Add(10 * time.Millisecond) {
		s.sent = append(s.sent, s.r.step(s.now)...)
	}
}

// take gives what was sent since it was last called.
func (s *stand) take() []outgoing {
	sent := s.sent
	s.sent = nil
	return sent
}

func (s *stand) hears(src string, m dns.Msg) {
	s.t.Helper()
	b, err := m.Pack()
	if err != nil {
		s.t.Fatal(err)
	}
	msg, err := decode(b)
	if err != nil {
		s.t.Fatal(err)
	}
	s.r.hear(s.now, netip.MustParseAddrPort(src), msg)
}

func ask(kind uint16, class uint16, names ...string) (m dns.Msg) {
	for _, n := range names {
		m.Question = append(m.Question, dns.Question{Name: n, Qtype: kind, Qclass: class})
	}
	return m
}

// kinds lists records as "PTR cart.local. 4500 flush".
func kinds(rrs []dns.RR) []string {
	var out []string
	for _, rr := range rrs {
		h := rr.Header()
		line := dns.TypeToString[h.Rrtype] + " " + h.Name
		if h.Class&topBit != 0 {
			line += " flush"
		}
		if h.Ttl == 0 {
			line += " bye"
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

func TestProbesThenAnnouncements(t *testing.T) {
	s := newStand(t, cart(""))
	s.pass(900 * time.Millisecond)
	var probed int
	for _, o := range s.sent {
		if !o.packet.Response {
			probed++
			if len(o.packet.Question) != 2 || len(o.packet.Ns) != 4 {
				t.Errorf("a probe asks %v and proposes %v", o.packet.Question, kinds(o.packet.Ns))
			}
		}
	}
	s.pass(8 * time.Second)
	sent := s.take()
	if probed != probes || len(sent)-probed != announcements {
		t.Fatalf("%d probes, %d announcements", probed, len(sent)-probed)
	}
	want := []string{
		"A farcall-host-10-0-0-1.local. flush",
		"PTR _farcall._tcp.local.", "PTR _services._dns-sd._udp.local.", "PTR _services._dns-sd._udp.local.", "PTR cart.local.",
		"SRV cart-node-1-8080._farcall._tcp.local. flush", "SRV cart-node-1-8080.cart.local. flush",
		"TXT cart-node-1-8080._farcall._tcp.local. flush", "TXT cart-node-1-8080.cart.local. flush",
	}
	if got := kinds(sent[len(sent)-1].packet.Answer); !slices.Equal(got, want) {
		t.Errorf("announced is\n%s", strings.Join(got, "\n"))
	}
	s.pass(time.Minute)
	if sent := s.take(); len(sent) > 0 {
		t.Errorf("unasked, it says %d more packets", len(sent))
	}
}

func TestWhatIsAnnouncedForWhom(t *testing.T) {
	long := cart("")
	long.ID = strings.Repeat("ü", 40)
	echo := cart("")
	echo.ID = "farcall-node-1-8080"
	for _, tt := range []struct {
		name  string
		app   resolvers.Registration
		types []string
		label string
		txt   []string
	}{
		{"the default namespace, in both conventions", cart("default"), []string{ownType, "cart.local."}, "cart-node-1-8080",
			[]string{"txtvers=1", "app=cart", "node=node-1", "relay=50002"}},
		{"another namespace, not in Dapr's", cart("shop"), []string{ownType}, "cart-node-1-8080",
			[]string{"txtvers=1", "app=cart", "ns=shop", "node=node-1", "relay=50002"}},
		{"a long id", long, []string{ownType, "cart.local."}, strings.Repeat("ü", 27) + "-5b8acb4b",
			[]string{"txtvers=1", "app=cart", "node=node-1", "relay=50002", "id=" + long.ID}},
		{"an id that looks like an echo", echo, []string{ownType, "cart.local."}, "app-farcall-node-1-8080",
			[]string{"txtvers=1", "app=cart", "node=node-1", "relay=50002", "id=" + echo.ID}},
		{"no relay: nothing that a sidecar could call", func() resolvers.Registration { a := cart(""); a.RelayPort = 0; return a }(), []string{ownType}, "cart-node-1-8080",
			[]string{"txtvers=1", "app=cart", "node=node-1"}},
		{"an app-id that is no label", func() resolvers.Registration { a := cart(""); a.Name.Service = "a.b"; return a }(), []string{ownType}, "cart-node-1-8080",
			[]string{"txtvers=1", "app=a.b", "node=node-1", "relay=50002"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list := offers(tt.app, []netip.Addr{netip.MustParseAddr("10.0.0.1")}, DefaultTTL)
			var types []string
			for _, o := range list {
				types = append(types, o.pointer.name)
				label, _ := labelOf(o.name, o.pointer.name)
				if len(label) > mostLabel || !strings.HasPrefix(label, tt.label[:min(20, len(tt.label))]) || tt.name != "a long id" && label != tt.label {
					t.Errorf("the label is %q, want %q", label, tt.label)
				}
				if isEcho(label) {
					t.Errorf("%q would be taken for an echo", label)
				}
			}
			if !slices.Equal(types, tt.types) || !slices.Equal(list[0].txt.texts, tt.txt) {
				t.Errorf("types %v, TXT %q", types, list[0].txt.texts)
			}
			// What is announced is listed as what was registered.
			s := oneLink(t)
			for _, o := range list {
				s.hears(said(o.all()...))
			}
			in := s.sink.instances()
			if len(in) != 1 || in[0].Instance != tt.app.ID || in[0].Service != tt.app.Name.Service || in[0].Port != 8080 ||
				in[0].Address != "10.0.0.1" || in[0].Node != "node-1" || (tt.app.RelayPort > 0) != (in[0].Relay == "10.0.0.1:50002") {
				t.Errorf("listed are %v", in)
			}
		})
	}
}

func TestAnswers(t *testing.T) {
	const own = "cart-node-1-8080._farcall._tcp.local."
	for _, tt := range []struct {
		name   string
		from   string
		ask    dns.Msg
		within time.Duration
		to     bool // to the asker alone
		answer []string
		extra  []string
	}{
		{name: "Dapr's question: all in one packet", from: "10.0.0.9:5353", ask: ask(dns.TypePTR, dns.ClassINET, "cart.local."), within: 130 * time.Millisecond,
			answer: []string{"PTR cart.local."},
			extra:  []string{"A farcall-host-10-0-0-1.local. flush", "SRV cart-node-1-8080.cart.local. flush", "TXT cart-node-1-8080.cart.local. flush"}},
		{name: "types", from: "10.0.0.9:5353", ask: ask(dns.TypePTR, dns.ClassINET, enumeration), within: 130 * time.Millisecond,
			answer: []string{"PTR _services._dns-sd._udp.local.", "PTR _services._dns-sd._udp.local."}},
		{name: "an own record is answered at once", from: "10.0.0.9:5353", ask: ask(dns.TypeSRV, dns.ClassINET, strings.ToUpper(own)), within: 10 * time.Millisecond,
			answer: []string{"SRV " + own + " flush"}, extra: []string{"A farcall-host-10-0-0-1.local. flush"}},
		{name: "an address", from: "10.0.0.9:5353", ask: ask(dns.TypeA, dns.ClassINET, "farcall-host-10-0-0-1.local."), within: 10 * time.Millisecond,
			answer: []string{"A farcall-host-10-0-0-1.local. flush"}},
		{name: "somebody else's", from: "10.0.0.9:5353", ask: ask(dns.TypePTR, dns.ClassINET, "till.local."), within: time.Second},
		{name: "who would like a unicast answer", from: "10.0.0.9:5353", ask: ask(dns.TypeSRV, dns.ClassINET|topBit, own), within: 10 * time.Millisecond, to: true,
			answer: []string{"SRV " + own + " flush"}, extra: []string{"A farcall-host-10-0-0-1.local. flush"}},
		{name: "who speaks plain DNS", from: "10.0.0.9:40000", ask: ask(dns.TypeSRV, dns.ClassINET, own), within: 10 * time.Millisecond, to: true,
			answer: []string{"SRV " + own}, extra: []string{"A farcall-host-10-0-0-1.local."}},
		{name: "a probe for our name", from: "10.0.0.9:5353", ask: func() dns.Msg {
			m := ask(dns.TypeANY, dns.ClassINET, own)
			m.Ns = []dns.RR{record{name: own, kind: dns.TypeSRV, target: "zz.local.", port: 65000, ttl: time.Minute}.rr(time.Minute, false)}
			return m
		}(), within: 10 * time.Millisecond,
			answer: []string{"SRV " + own + " flush", "TXT " + own + " flush"}, extra: []string{"A farcall-host-10-0-0-1.local. flush"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStand(t, cart(""))
			s.pass(20 * time.Second)
			s.take()
			s.hears(tt.from, tt.ask)
			s.pass(tt.within)
			sent := s.take()
			if len(tt.answer) == 0 {
				if len(sent) > 0 {
					t.Errorf("it says %v", kinds(sent[0].packet.Answer))
				}
				return
			}
			if len(sent) != 1 || sent[0].to.IsValid() != tt.to || !sent[0].packet.Response {
				t.Fatalf("sent was %+v", sent)
			}
			if a, x := kinds(sent[0].packet.Answer), kinds(sent[0].packet.Extra); !slices.Equal(a, tt.answer) || !slices.Equal(x, tt.extra) {
				t.Errorf("answered is %q, and %q", a, x)
			}
			if plain := strings.HasSuffix(tt.from, ":40000"); plain != (len(sent[0].packet.Question) == 1) || plain && sent[0].packet.Answer[0].Header().Ttl > 10 {
				t.Errorf("the form of the answer is wrong: %v", &sent[0].packet)
			}
		})
	}
}

func TestKnownAnswersAndRepetitionsAreLeftOut(t *testing.T) {
	s := newStand(t, cart(""))
	s.pass(20 * time.Second)
	s.take()
	ptr := s.cart().offers[1].pointer
	m := ask(dns.TypePTR, dns.ClassINET, "cart.local.")
	m.Answer = []dns.RR{ptr.rr(ptr.ttl*3/4, false)}
	s.hears("10.0.0.9:5353", m)
	s.pass(time.Second)
	if sent := s.take(); len(sent) > 0 {
		t.Errorf("what the asker knows is repeated: %v", kinds(sent[0].packet.Answer))
	}
	m.Answer = []dns.RR{ptr.rr(ptr.ttl/4, false)}
	s.hears("10.0.0.9:5353", m)
	s.pass(200 * time.Millisecond)
	if sent := s.take(); len(sent) != 1 {
		t.Error("what the asker will forget soon is not repeated")
	}
	s.hears("10.0.0.8:5353", ask(dns.TypePTR, dns.ClassINET, "cart.local."))
	s.pass(500 * time.Millisecond)
	if sent := s.take(); len(sent) > 0 {
		t.Error("it was said to all within the last second")
	}
	s.pass(600 * time.Millisecond)
	if sent := s.take(); len(sent) != 1 {
		t.Error("who asked after it was said does not hear it when the second is over")
	}
	s.hears("10.0.0.7:5353", ask(dns.TypePTR, dns.ClassINET, "cart.local."))
	s.pass(10 * time.Millisecond)
	s.hears("[fe80::7]:5353", ask(dns.TypePTR, dns.ClassINET, "cart.local."))
	s.pass(3 * time.Second)
	if sent := s.take(); len(sent) != 1 {
		t.Errorf("two who asked before it was said are told in %d packets", len(sent))
	}

	// Known answers that follow in a second packet.
	s.pass(2 * time.Second)
	q := ask(dns.TypePTR, dns.ClassINET, "cart.local.")
	q.Truncated = true
	s.hears("10.0.0.9:5353", q)
	s.pass(300 * time.Millisecond)
	rest := dns.Msg{Answer: []dns.RR{ptr.rr(ptr.ttl, false)}}
	s.hears("10.0.0.9:5353", rest)
	s.pass(time.Second)
	if sent := s.take(); len(sent) > 0 {
		t.Errorf("the known answer in the second packet was not looked at: %v", kinds(sent[0].packet.Answer))
	}
}

func TestGoodbye(t *testing.T) {
	s := newStand(t, cart(""))
	s.pass(20 * time.Second)
	s.take()
	s.hears("10.0.0.9:5353", ask(dns.TypePTR, dns.ClassINET, "cart.local.")) // its answer waits
	s.r.leave(s.now, cart("").ID)
	s.pass(5 * time.Second)
	sent := s.take()
	want := []string{
		"PTR _farcall._tcp.local. bye", "PTR cart.local. bye",
		"SRV cart-node-1-8080._farcall._tcp.local. flush bye", "SRV cart-node-1-8080.cart.local. flush bye",
		"TXT cart-node-1-8080._farcall._tcp.local. flush bye", "TXT cart-node-1-8080.cart.local. flush bye",
	}
	if len(sent) != 2 {
		t.Fatalf("%d packets were sent, want the goodbye twice and nothing after it", len(sent))
	}
	for _, o := range sent {
		if got := kinds(o.packet.Answer); !slices.Equal(got, want) {
			t.Errorf("the goodbye is\n%s", strings.Join(got, "\n"))
		}
	}
	s.hears("10.0.0.9:5353", ask(dns.TypePTR, dns.ClassINET, "cart.local."))
	s.pass(time.Second)
	if len(s.take()) > 0 {
		t.Error("it answers for an application that is away")
	}

	never := newStand(t, cart(""))
	never.pass(100 * time.Millisecond)
	never.take()
	never.r.leave(never.now, cart("").ID)
	never.pass(time.Second)
	if sent := never.take(); len(sent) > 0 {
		t.Error("a goodbye for what was never announced could take a namesake's place")
	}
}

func TestConflicts(t *testing.T) {
	theirs := offers(resolvers.Registration{Name: catalog.Name{Service: "cart"}, Node: "node-1", ID: "cart-node-1-8080",
		Address: "10.0.0.7", Port: 8080, RelayPort: 50002}, []netip.Addr{netip.MustParseAddr("10.0.0.7")}, DefaultTTL)
	probe := dns.Msg{Question: []dns.Question{{Name: theirs[0].name, Qtype: dns.TypeANY, Qclass: dns.ClassINET}},
		Ns: []dns.RR{theirs[0].srv.rr(time.Minute, false)}}

	t.Run("somebody has the name", func(t *testing.T) {
		s := newStand(t, cart(""))
		s.pass(300 * time.Millisecond)
		s.hears("10.0.0.7:5353", said(theirs[0].all()...))
		s.take()
		s.pass(8 * time.Second)
		if sent := s.take(); len(sent) > 0 || s.cart().stage != stageConflict || len(s.r.contested) != 1 {
			t.Errorf("stage %d, contested %v, sent %v", s.cart().stage, s.r.contested, sent)
		}
		s.pass(10 * time.Second)
		if s.cart().stage != stageStanding {
			t.Error("the name is not taken, though nobody has it any more")
		}
	})
	t.Run("our own words come back", func(t *testing.T) {
		s := newStand(t, cart(""))
		s.pass(2 * time.Second)
		s.hears("10.0.0.1:5353", said(s.cart().offers[0].all()...))
		if s.cart().stage != stageStanding {
			t.Error("they were taken for somebody else's")
		}
	})
	t.Run("somebody comes later and does not ask", func(t *testing.T) {
		s := newStand(t, cart(""))
		s.pass(20 * time.Second)
		s.hears("10.0.0.7:5353", said(theirs[0].all()...))
		if s.cart().stage != stageProbing {
			t.Fatal("it does not look who has the name")
		}
		s.hears("10.0.0.7:5353", said(theirs[0].all()...))
		if s.cart().stage != stageConflict {
			t.Error("it announces what somebody else answers for")
		}
	})
	t.Run("two probe at the same time", func(t *testing.T) {
		s := newStand(t, cart(""))
		s.pass(600 * time.Millisecond)
		s.hears("10.0.0.7:5353", probe) // the later address goes first
		s.take()
		s.pass(900 * time.Millisecond)
		if sent := s.take(); len(sent) > 0 {
			t.Error("the one with the earlier data does not wait")
		}
		earlier := newStand(t, func() resolvers.Registration { a := cart(""); a.Address = "10.0.0.9"; return a }())
		earlier.pass(600 * time.Millisecond)
		earlier.hears("10.0.0.7:5353", probe)
		earlier.pass(time.Second)
		if earlier.cart().stage != stageStanding {
			t.Error("the one with the later data waits")
		}
	})
	t.Run("somebody takes ours back", func(t *testing.T) {
		s := newStand(t, cart(""))
		s.pass(20 * time.Second)
		s.take()
		s.hears("10.0.0.1:5353", said(gone(s.cart().offers[0].all()[:3])...))
		s.pass(100 * time.Millisecond)
		if sent := s.take(); len(sent) != 1 || len(sent[0].packet.Answer) == 0 {
			t.Error("it is not announced anew")
		}
	})
}

func TestARestartedLinkIsToldAnew(t *testing.T) {
	s := newStand(t, cart(""), func() resolvers.Registration { a := cart(""); a.ID = "other"; return a }())
	s.r.leave(s.now, "other")
	s.pass(20 * time.Second)
	s.take()
	s.r.restart(s.now)
	s.pass(20 * time.Second)
	sent := s.take()
	if len(sent) != probes+announcements || s.r.standings["other"].stage != stageAway {
		t.Errorf("%d packets were sent", len(sent))
	}
}

func TestManyApplicationsAreSpreadOverPackets(t *testing.T) {
	var apps []resolvers.Registration
	for i := range 60 {
		a := cart("")
		a.ID, a.Name.Service = "cart-node-1-"+string(rune('a'+i%26))+string(rune('a'+i/26)), "cart"
		apps = append(apps, a)
	}
	s := newStand(t, apps...)
	s.pass(20 * time.Second)
	s.take()
	s.hears("10.0.0.9:5353", ask(dns.TypePTR, dns.ClassINET, "cart.local."))
	s.pass(200 * time.Millisecond)
	sent, answers := s.take(), 0
	for _, o := range sent {
		b, err := pack(&o.packet)
		if err != nil || len(b) > packetBudget {
			t.Errorf("a packet of %d bytes: %v", len(b), err)
		}
		answers += len(o.packet.Answer)
		if len(o.packet.Extra) < 2*len(o.packet.Answer) {
			t.Error("an instance and its details are not in one packet")
		}
	}
	if len(sent) < 2 || answers != 60 {
		t.Errorf("%d answers in %d packets", answers, len(sent))
	}
}

func TestRegistrationsThatCannotBeAnnounced(t *testing.T) {
	r, err := NewRegistrar(Config{}, deps(t))
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(*resolvers.Registration)) resolvers.Registration { a := cart(""); f(&a); return a }
	for says, apps := range map[string][]resolvers.Registration{
		"an id, an address and a port": {change(func(a *resolvers.Registration) { a.ID = "" })},
		"port 0":                       {change(func(a *resolvers.Registration) { a.Port = 0 })},
		"relay port 70000":             {change(func(a *resolvers.Registration) { a.RelayPort = 70000 })},
		"both have the label":          {cart(""), cart("shop")},
		"250 bytes":                    {change(func(a *resolvers.Registration) { a.Node = strings.Repeat("x", 251) })},
	} {
		if err := r.Run(t.Context(), apps); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ended, nil); err != context.Canceled {
		t.Errorf("without applications: %v", err)
	}
}
