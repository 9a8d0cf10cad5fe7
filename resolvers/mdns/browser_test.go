package mdns

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestFirstUpdateComesAfterTwoRounds(t *testing.T) {
	s := newScene(t, nil, nicAt(1, "eth0", "10.0.0.1/24"))
	s.pass(0)
	s.hears(said(daprd("cart", "host:1", "10.0.0.9", 50002)...))
	s.pass(2900 * time.Millisecond)
	if len(s.sink.updates) > 0 {
		t.Fatal("a list was published before everybody could answer")
	}
	if asked := s.asked("eth0"); asked["PTR "+enumeration] != 2 || asked["PTR "+ownType] != 2 || asked["PTR cart.local."] != 2 {
		t.Errorf("asked was %v, want each type twice", asked)
	}
	s.pass(200 * time.Millisecond)
	if len(s.sink.updates) != 1 || !s.sink.updates[0].Full {
		t.Fatalf("updates are %+v, want a Full one", s.sink.updates)
	}
	s.shows("cart/host:1 10.0.0.9:0 via 10.0.0.9:50002")
	if !s.b.holds() || s.err != nil {
		t.Errorf("holds: %v, error: %v", s.b.holds(), s.err)
	}
}

func TestASilentLinkIsAnEmptyRegistry(t *testing.T) {
	s := oneLink(t)
	if len(s.sink.updates) != 1 || !s.sink.updates[0].Full || len(s.sink.updates[0].Snapshots) != 0 {
		t.Errorf("updates are %+v, want one, Full and empty", s.sink.updates)
	}
}

func TestConventions(t *testing.T) {
	rename := func(list []record, change func(*record)) []record {
		for i := range list {
			change(&list[i])
		}
		return list
	}
	txt := func(list []record, texts ...string) []record {
		return rename(list, func(r *record) {
			if r.kind == dns.TypeTXT {
				r.texts = texts
			}
		})
	}
	srvPort := func(list []record, port uint16) []record {
		return rename(list, func(r *record) { r.port = port })
	}
	for _, tt := range []struct {
		name  string
		heard []record
		want  []string
	}{
		{name: "daprd", heard: daprd("cart", "host:1", "10.0.0.9", 50002), want: []string{"cart/host:1 10.0.0.9:0 via 10.0.0.9:50002"}},
		{name: "a host name with dots makes a label with dots", heard: daprd("cart", "a.example.com:1", "10.0.0.9", 50002),
			want: []string{"cart/a.example.com:1 10.0.0.9:0 via 10.0.0.9:50002"}},
		{name: "IPv6", heard: daprd("cart", "host:1", "2001:db8::9", 50002), want: []string{"cart/host:1 2001:db8::9:0 via [2001:db8::9]:50002"}},
		{name: "the TXT keeps the case of the app-id", heard: txt(daprd("cart", "host:1", "10.0.0.9", 50002), "Cart"),
			want: []string{"Cart/host:1 10.0.0.9:0 via 10.0.0.9:50002"}},
		{name: "a bare type of somebody else's", heard: txt(daprd("cart", "host:1", "10.0.0.9", 50002), "cart", "v=2"),
			want: []string{`host:1.cart.local: TXT says "v=2": Dapr's says the app-id "cart" and nothing else`}},
		{name: "an empty TXT", heard: txt(daprd("cart", "host:1", "10.0.0.9", 50002)),
			want: []string{`host:1.cart.local: TXT is empty: Dapr's says the app-id "cart"`}},
		{name: "port 0", heard: srvPort(daprd("cart", "host:1", "10.0.0.9", 50002), 0), want: []string{"host:1.cart.local: SRV has port 0"}},
		{name: "a loopback of another host", heard: daprd("cart", "host:1", "127.0.0.1", 50002),
			want: []string{"host:1.cart.local: another host says that it is at 127.0.0.1, which is every host's own"}},
		{name: "an echo", heard: daprd("cart", "farcall-node-1", "10.0.0.9", 50002)},
		{name: "an echo in capitals", heard: daprd("cart", "FarCall-node-1", "10.0.0.9", 50002)},
		{name: "a daprd of a host whose name begins so", heard: daprd("cart", "farcall-node-1:77", "10.0.0.9", 50002),
			want: []string{"cart/farcall-node-1:77 10.0.0.9:0 via 10.0.0.9:50002"}},
		{name: "a printer", heard: rename(daprd("x", "printer", "10.0.0.9", 631), func(r *record) {
			r.name, r.target = strings.Replace(r.name, "x.local.", "_ipp._tcp.local.", 1), strings.Replace(r.target, "x.local.", "_ipp._tcp.local.", 1)
		})},
		{name: "Farcall's own", heard: farcall("till", "node-1", "10.0.0.9", 8080),
			want: []string{"shop/till/till-node-1-8080 10.0.0.9:8080 via 10.0.0.9:50002 on node-1"}},
		{name: "with another id than its label", heard: txt(farcall("till", "node-1", "10.0.0.9", 8080), "app=till", "id=seven"),
			want: []string{"till/seven 10.0.0.9:8080"}},
		{name: "without an app-id", heard: txt(farcall("till", "node-1", "10.0.0.9", 8080), "node=n"),
			want: []string{"till-node-1-8080._farcall._tcp.local: TXT has no app=<app-id>"}},
		{name: "of a later version", heard: txt(farcall("till", "node-1", "10.0.0.9", 8080), "txtvers=2", "app=till"),
			want: []string{"till-node-1-8080._farcall._tcp.local: TXT has txtvers=2: this version of Farcall knows 1"}},
		{name: "relay port 70000", heard: txt(farcall("till", "node-1", "10.0.0.9", 8080), "app=till", "relay=70000"),
			want: []string{"till-node-1-8080._farcall._tcp.local: TXT has relay=70000: want a port, 1 to 65535"}},
		{name: "keys in capitals, and the first one counts", heard: txt(farcall("till", "node-1", "10.0.0.9", 8080), "APP=till", "app=other"),
			want: []string{"till/till-node-1-8080 10.0.0.9:8080"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := oneLink(t)
			s.hears(said(tt.heard...))
			s.shows(tt.want...)
		})
	}
}

func TestALoopbackOfThisHostIsListed(t *testing.T) {
	s := oneLink(t)
	s.hearsFrom(1, netip.MustParseAddrPort("10.0.0.1:5353"), packed(t, said(daprd("cart", "host:1", "127.0.0.1", 50002)...)).data)
	s.shows("cart/host:1 127.0.0.1:0 via 127.0.0.1:50002")
}

func TestTheSameApplicationInBothConventionsIsOneInstance(t *testing.T) {
	s := oneLink(t)
	bare := daprd("till", "till-node-1-8080", "10.0.0.9", 50002)
	own := farcall("till", "node-1", "10.0.0.9", 8080)
	s.hears(said(bare...))
	s.shows("till/till-node-1-8080 10.0.0.9:0 via 10.0.0.9:50002")
	s.hears(said(own...))
	s.shows("shop/till/till-node-1-8080 10.0.0.9:8080 via 10.0.0.9:50002 on node-1")
	s.hears(said(gone(own[:3])...))
	s.pass(1100 * time.Millisecond)
	s.shows("till/till-node-1-8080 10.0.0.9:0 via 10.0.0.9:50002")
}

func TestAGoodbyeIsExplicitAndOfOneSource(t *testing.T) {
	s := oneLink(t)
	one, two := daprd("cart", "host:1", "10.0.0.9", 50002), daprd("cart", "host:2", "10.0.0.8", 50002)
	s.hears(said(one...))
	s.hears(said(two...))
	before := len(s.sink.updates)
	s.hears(said(gone(one)...)) // daprd takes back the enumeration of the type, too
	s.pass(900 * time.Millisecond)
	if len(s.sink.updates) != before {
		t.Fatal("a goodbye took effect before its second had passed (RFC 6762 section 10.1)")
	}
	s.pass(200 * time.Millisecond)
	s.shows("cart/host:2 10.0.0.8:0 via 10.0.0.8:50002")
	u := s.sink.updates[before:]
	if len(u) != 1 || !u[0].Explicit || u[0].Full || len(u[0].Snapshots) != 1 || u[0].Snapshots[0].Source != "cart/host:1" {
		t.Errorf("updates are %+v, want an explicit one of the source cart/host:1 alone", u)
	}
	if _, followed := s.b.ears["eth0"].types["cart.local."]; !followed {
		t.Error("the type is not looked for any more, though an instance of it stands")
	}
}

func TestARecordThatIsHeardAgainWithinASecondSurvivesItsGoodbye(t *testing.T) {
	s := oneLink(t)
	one := daprd("cart", "host:1", "10.0.0.9", 50002)
	s.hears(said(one...))
	s.hears(said(gone(one)...))
	s.pass(500 * time.Millisecond)
	s.hears(said(one...))
	s.pass(2 * time.Second)
	s.shows("cart/host:1 10.0.0.9:0 via 10.0.0.9:50002")
}

// TestACrashIsAnAbsence: nobody says goodbye, nobody answers.
func TestACrashIsAnAbsence(t *testing.T) {
	s := oneLink(t)
	s.hears(said(daprd("cart", "host:1", "10.0.0.9", 50002)...))
	s.asked("eth0")
	s.pass(95 * time.Second)
	if n := s.asked("eth0")["SRV host:1.cart.local."]; n != 0 {
		t.Errorf("the SRV was asked for %d times before 80 %% of its time", n)
	}
	s.pass(24 * time.Second) // 119 s: asked for at 80, 85, 90 and 95 %
	asked := s.asked("eth0")
	// Its address asks for the SRV, too, in packets of their own where the times differ.
	if n := asked["SRV host:1.cart.local."]; n < 4 || n > 8 {
		t.Errorf("the SRV was asked for %d times: %v", n, asked)
	}
	s.shows("cart/host:1 10.0.0.9:0 via 10.0.0.9:50002")
	s.pass(2 * time.Second)
	s.shows()
	if s.sink.explicit {
		t.Error("an expiry is no explicit removal")
	}
	s.pass(20 * time.Second)
	if n := len(s.b.ears["eth0"].found); n != 0 {
		t.Errorf("%d instances are still looked for, though nobody answers for their SRV", n)
	}
}

func TestWhatIsAnsweredForStays(t *testing.T) {
	s := oneLink(t)
	one := daprd("cart", "host:1", "10.0.0.9", 50002)
	s.hears(said(one...))
	s.asked("eth0")
	updates := len(s.sink.updates)
	for range 1000 {
		s.pass(time.Second)
		// zeroconf answers for the instance only, but tells the address with it.
		if s.asked("eth0")["SRV host:1.cart.local."] > 0 {
			s.hears(said(one...))
		}
	}
	s.shows("cart/host:1 10.0.0.9:0 via 10.0.0.9:50002")
	if len(s.sink.updates) != updates {
		t.Errorf("%d updates were published, though nothing changed", len(s.sink.updates)-updates)
	}
}

func TestQuestionsBecomeRareAndCarryWhatIsKnown(t *testing.T) {
	s := oneLink(t)
	one := daprd("cart", "host:1", "10.0.0.9", 50002)
	s.hears(said(one...))
	s.pass(50 * time.Millisecond)
	s.asked("eth0")
	s.pass(90 * time.Second)
	n, known := 0, 0
	for _, m := range s.sent["eth0"] {
		for _, q := range m.Question {
			if q.Name == "cart.local." && q.Qtype == dns.TypePTR {
				n++
			}
		}
		for _, rr := range m.Answer {
			if p, ok := rr.(*dns.PTR); ok && p.Ptr == "host:1.cart.local." && p.Hdr.Ttl > 1600 {
				known++
			}
		}
	}
	// At 1, 3, 7, 15, 31 and 63 s, and then once a minute.
	if n != 6 || known != n {
		t.Errorf("cart was asked for %d times, %d times with the known answer", n, known)
	}
}

func TestANewAddressReplacesTheOld(t *testing.T) {
	s := oneLink(t)
	one := daprd("cart", "host:1", "10.0.0.9", 50002)
	s.hears(said(one...))
	s.pass(2 * time.Second)
	a := one[len(one)-1]
	a.addr = netip.MustParseAddr("10.0.0.99")
	s.hears(said(a)) // with the cache-flush bit: the old one is no more
	s.shows("cart/host:1 10.0.0.99:0 via 10.0.0.99:50002")
	s.pass(2 * time.Second)
	if n := len(s.b.ears["eth0"].cache.of(a.name, dns.TypeA)); n != 1 {
		t.Errorf("%d addresses are kept", n)
	}
	if s.sink.updates[len(s.sink.updates)-1].Explicit {
		t.Error("a change is no removal")
	}
}

func TestWhatAnAnnouncementLacksIsAskedFor(t *testing.T) {
	s := oneLink(t)
	one := farcall("till", "node-1", "10.0.0.9", 8080)
	s.hears(said(one[2]))
	s.pass(100 * time.Millisecond)
	asked := s.asked("eth0")
	if asked["SRV "+one[0].name] != 1 || asked["TXT "+one[0].name] != 1 {
		t.Fatalf("asked was %v, want the SRV and the TXT", asked)
	}
	s.hears(said(one[0], one[1]))
	s.pass(time.Second)
	if asked = s.asked("eth0"); asked["A "+one[0].target] != 1 || asked["AAAA "+one[0].target] != 1 {
		t.Fatalf("asked was %v, want the addresses of the host", asked)
	}
	s.shows()
	s.pass(16 * time.Second)
	s.shows("till-node-1-8080._farcall._tcp.local: announced, but nobody answers for the address of its host")
	s.hears(said(one[4:]...))
	s.shows("shop/till/till-node-1-8080 10.0.0.9:8080 via 10.0.0.9:50002 on node-1")
}

func TestAnInterfaceThatGoesAwayTakesNothingWithIt(t *testing.T) {
	for _, tt := range []struct {
		name  string
		names []string
		cut   func(*scene)
		mend  func(*scene)
		says  string
	}{
		{name: "down", says: "interface eth0 is down",
			cut: func(s *scene) { s.nics[0].flags &^= net.FlagUp | net.FlagRunning }, mend: func(s *scene) { s.nics[0].flags = plainFlags }},
		{name: "no carrier", says: "interface eth0 has no carrier",
			cut: func(s *scene) { s.nics[0].flags &^= net.FlagRunning }, mend: func(s *scene) { s.nics[0].flags = plainFlags }},
		{name: "gone, and there is no other", says: "interface eth0 is gone",
			cut: func(s *scene) { s.nics = nil }, mend: func(s *scene) { s.nics = []nic{nicAt(7, "eth0", "10.0.0.1/24")} }},
		{name: "gone, and it was named", names: []string{"eth0"}, says: "interface eth0 does not exist",
			cut: func(s *scene) { s.nics = nil }, mend: func(s *scene) { s.nics = []nic{nicAt(7, "eth0", "10.0.0.1/24")} }},
		{name: "own pulses do not come back", says: "a packet filter may drop UDP port 5353",
			cut: func(s *scene) { s.quiet[1] = true }, mend: func(s *scene) { clear(s.quiet) }},
		{name: "the process stands still", says: "",
			cut: func(s *scene) { s.now = s.now.Add(time.Hour) }, mend: func(*scene) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t, tt.names, nicAt(1, "eth0", "10.0.0.1/24"))
			one, two := daprd("cart", "host:1", "10.0.0.9", 50002), daprd("cart", "host:2", "10.0.0.8", 50002)
			s.pass(0)
			s.hears(said(one...))
			s.hears(said(two...))
			s.pass(4 * time.Second)
			s.shows("cart/host:1 10.0.0.9:0 via 10.0.0.9:50002", "cart/host:2 10.0.0.8:0 via 10.0.0.8:50002")

			tt.cut(s)
			if tt.says != "" {
				s.pass(4 * time.Second)
				if s.b.holds() || s.err == nil || !strings.Contains(s.err.Error(), tt.says) {
					t.Errorf("holds: %v, error: %v, want %q", s.b.holds(), s.err, tt.says)
				}
				s.pass(10 * time.Minute)
			}
			s.shows("cart/host:1 10.0.0.9:0 via 10.0.0.9:50002", "cart/host:2 10.0.0.8:0 via 10.0.0.8:50002")
			if id := s.b.identity(); id != "10.0.0.0/24" {
				t.Errorf("the link is called %q while it is away", id)
			}

			tt.mend(s)
			s.asked("eth0")
			s.pass(200 * time.Millisecond)
			for s.now.UnixMilli()%1000 != 0 || s.b.ears["eth0"].deaf != "" {
				s.pass(50 * time.Millisecond)
			}
			s.pass(200 * time.Millisecond)
			for _, m := range s.sent["eth0"] {
				if len(m.Answer) > 0 {
					t.Errorf("known answers keep others from saying that they are still there: %v", m.Answer)
				}
			}
			if s.b.holds() {
				t.Error("the list counts as confirmed before anybody could answer")
			}
			index := s.nics[0].index
			s.hearsPacket(index, said(one...))
			s.pass(4 * time.Second)
			s.shows("cart/host:1 10.0.0.9:0 via 10.0.0.9:50002")
			if s.sink.explicit {
				t.Error("nobody said that it was removed")
			}
			if !s.b.holds() || s.err != nil {
				t.Errorf("it does not hold: %v", s.err)
			}
		})
	}
}

func (s *scene) hearsPacket(index int, m dns.Msg) {
	s.t.Helper()
	b, err := m.Pack()
	if err != nil {
		s.t.Fatal(err)
	}
	s.hearsFrom(index, peerAddr, b)
}

// TestALinkThatIsBackAndSilentIsNotEmpty: a switch may pass nothing on for half a minute.
func TestALinkThatIsBackAndSilentIsNotEmpty(t *testing.T) {
	s := oneLink(t)
	one := daprd("cart", "host:1", "10.0.0.9", 50002)
	s.hears(said(one...))
	s.nics[0].flags &^= net.FlagRunning
	s.pass(5 * time.Second)
	s.nics[0].flags = plainFlags
	s.pass(35 * time.Second)
	s.shows("cart/host:1 10.0.0.9:0 via 10.0.0.9:50002")
	if s.b.holds() || s.err == nil || !strings.Contains(s.err.Error(), "nobody is heard on it yet") {
		t.Errorf("holds: %v, error: %v", s.b.holds(), s.err)
	}
	s.hears(said(daprd("cart", "host:2", "10.0.0.8", 50002)...))
	s.pass(2 * time.Second)
	s.hears(said(one...))
	s.pass(2 * time.Second)
	s.shows("cart/host:1 10.0.0.9:0 via 10.0.0.9:50002", "cart/host:2 10.0.0.8:0 via 10.0.0.8:50002")
	if !s.b.holds() {
		t.Errorf("it does not hold: %v", s.err)
	}

	s.nics[0].flags &^= net.FlagRunning
	s.pass(5 * time.Second)
	s.nics[0].flags = plainFlags
	s.pass(45 * time.Second)
	s.shows() // by now it is believed
	if !s.b.holds() {
		t.Errorf("it does not hold: %v", s.err)
	}
}

func TestSeveralLinks(t *testing.T) {
	s := newScene(t, nil, nicAt(1, "eth0", "10.0.0.1/24"), nicAt(2, "eth1", "10.9.0.1/24"),
		nic{index: 3, name: "lo", flags: plainFlags | net.FlagLoopback}, nic{index: 4, name: "tun0", flags: plainFlags &^ net.FlagMulticast})
	s.pass(4 * time.Second)
	if id := s.b.identity(); id != "10.0.0.0/24,10.9.0.0/24" {
		t.Errorf("the links are called %q", id)
	}
	both, far := daprd("cart", "host:1", "10.0.0.9", 50002), daprd("cart", "host:2", "10.9.0.8", 50002)
	s.hearsPacket(1, said(both...))
	s.hearsPacket(2, said(both...))
	s.hearsPacket(2, said(far...))
	s.shows("cart/host:1 10.0.0.9:0 via 10.0.0.9:50002", "cart/host:2 10.9.0.8:0 via 10.9.0.8:50002")

	// Taken back on one link, it is still there on the other.
	s.hearsPacket(1, said(gone(both)...))
	s.pass(1500 * time.Millisecond)
	s.shows("cart/host:1 10.0.0.9:0 via 10.0.0.9:50002", "cart/host:2 10.9.0.8:0 via 10.9.0.8:50002")
	s.hearsPacket(1, said(both...))

	// A link that is away keeps its own, and what was taken back elsewhere is not kept for it.
	s.nics[1].flags &^= net.FlagUp
	s.pass(2 * time.Second)
	s.hearsPacket(1, said(gone(both)...))
	s.pass(1500 * time.Millisecond)
	s.shows("cart/host:2 10.9.0.8:0 via 10.9.0.8:50002")
	if !s.sink.explicit {
		t.Error("its owner took it back")
	}

	// Deleted, it is not expected for longer than its records live.
	s.nics = s.nics[:1]
	s.pass(110 * time.Second)
	s.shows("cart/host:2 10.9.0.8:0 via 10.9.0.8:50002")
	s.pass(10 * time.Second)
	s.shows()
	s.pass(20 * time.Second)
	if !s.b.holds() || s.err != nil {
		t.Errorf("it does not hold without an interface that nobody misses: %v", s.err)
	}
}

func TestWhatIsNotTaken(t *testing.T) {
	s := oneLink(t)
	good := said(daprd("cart", "host:1", "10.0.0.9", 50002)...)
	b, err := good.Pack()
	if err != nil {
		t.Fatal(err)
	}
	failed := good.Copy()
	failed.Rcode = dns.RcodeServerFailure
	f, err := failed.Pack()
	if err != nil {
		t.Fatal(err)
	}
	for reason, p := range map[string]packet{
		"off-link":  {index: 1, src: netip.MustParseAddrPort("192.0.2.7:5353"), data: b},
		"port":      {index: 1, src: netip.MustParseAddrPort("10.0.0.9:1234"), multicast: true, data: b},
		"malformed": {index: 1, src: peerAddr, multicast: true, data: b[:len(b)/2]},
		"":          {index: 99, src: peerAddr, multicast: true, data: b},
	} {
		s.b.heard(s.now, p)
		s.step()
		s.shows()
		if reason == "" {
			continue
		}
		if n := value(t, s.b.metrics.dropped[reason]); n != 1 {
			t.Errorf("%s: counted %v times", reason, n)
		}
	}
	s.hearsFrom(1, peerAddr, f)
	s.shows()
	// What was sent to this host alone is taken from hosts of the link.
	s.b.heard(s.now, packet{index: 1, src: peerAddr, data: b})
	s.step()
	s.shows("cart/host:1 10.0.0.9:0 via 10.0.0.9:50002")
}

func TestTTLsAreBounded(t *testing.T) {
	for seconds, want := range map[uint32]time.Duration{0: 0, 1: time.Second, 120: 2 * time.Minute, 3200: 2 * time.Minute, 1 << 31: 2 * time.Minute, 1<<32 - 1: 2 * time.Minute} {
		if got := boundTTL(dns.TypeSRV, seconds); got != want {
			t.Errorf("an SRV of %d s lives %v, want %v", seconds, got, want)
		}
	}
	if got := boundTTL(dns.TypePTR, 1<<31); got != 75*time.Minute {
		t.Errorf("a PTR of 2^31 s lives %v", got)
	}
}

func TestThousandsOfBogusNamesAreBounded(t *testing.T) {
	s := oneLink(t)
	good := daprd("cart", "host:1", "10.0.0.9", 50002)
	s.hears(said(good...))
	for i := range mostTypes + 500 {
		s.b.heard(s.now, packed(t, said(record{name: enumeration, kind: dns.TypePTR, target: fmt.Sprintf("bogus-%d.local.", i), ttl: time.Hour})))
	}
	for i := range 300 {
		s.b.heard(s.now, packed(t, said(record{name: good[4].name, kind: dns.TypeA, addr: netip.AddrFrom4([4]byte{10, 1, byte(i / 256), byte(i)}), ttl: time.Minute})))
	}
	for i := 0; i < mostRecords+1000; i += 20 {
		var m []record
		for k := range 20 {
			m = append(m, record{name: "cart.local.", kind: dns.TypePTR, target: fmt.Sprintf("x%d.cart.local.", i+k), ttl: time.Hour})
		}
		s.b.heard(s.now, packed(t, said(m...)))
	}
	s.step()
	l := s.b.ears["eth0"]
	if len(l.types) > mostTypes || len(l.cache.entries) > mostRecords || len(l.cache.of(good[4].name, dns.TypeA)) > mostSiblings {
		t.Errorf("kept are %d types, %d records, %d addresses", len(l.types), len(l.cache.entries), len(l.cache.of(good[4].name, dns.TypeA)))
	}
	if value(t, s.b.metrics.dropped["full"]) == 0 {
		t.Error("drops are not counted")
	}
	s.shows("cart/host:1 10.0.0.9:0 via 10.0.0.9:50002",
		fmt.Sprintf("interface eth0: more than %d records, %d types, or %d records of one name: new ones are dropped", mostRecords, mostTypes, mostSiblings))
}

func packed(t testing.TB, m dns.Msg) packet {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return packet{index: 1, src: peerAddr, multicast: true, data: b}
}
