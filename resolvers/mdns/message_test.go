package mdns

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

func TestNames(t *testing.T) {
	for _, tt := range []struct {
		name, kind string
		app, label string
		bare, is   bool
	}{
		{kind: "cart.local.", name: "host:1.cart.local.", app: "cart", bare: true, label: "host:1", is: true},
		{kind: "Cart.Local.", name: "host:1.cart.LOCAL.", app: "Cart", bare: true, label: "host:1", is: true},
		{kind: "cart.local.", name: `a\.b.cart.local.`, app: "cart", bare: true, label: "a.b", is: true},
		{kind: "cart.local.", name: `a.b.cart.local.`, app: "cart", bare: true, label: "a.b", is: true},
		{kind: "cart.local.", name: `a\.cart.local.`, app: "cart", bare: true},
		{kind: "cart.local.", name: "cart.local.", app: "cart", bare: true},
		{kind: "my.app.local.", name: "x.my.app.local.", app: "my.app", bare: true, label: "x", is: true},
		{kind: `gr\195\188n.local.`, name: `x.gr\195\188n.local.`, app: "grün", bare: true, label: "x", is: true},
		{kind: "_ipp._tcp.local.", name: "x._ipp._tcp.local.", label: "x", is: true},
		{kind: "_sub.cart.local.", name: "x.cart.local."},
		{kind: "local.", name: "x.local.", label: "x", is: true},
		{kind: "cart.example.", name: "x.cart.example.", label: "x", is: true},
	} {
		app, bare := appOf(tt.kind)
		label, is := labelOf(tt.name, tt.kind)
		if app != tt.app || bare != tt.bare || label != tt.label || is != tt.is {
			t.Errorf("%s of %s: app-id %q %v, label %q %v", tt.name, tt.kind, app, bare, label, is)
		}
	}
}

func TestWhatIsWrittenIsReadAgain(t *testing.T) {
	for _, label := range []string{"a", "a.b", `a\b`, "Grüße aus Köln", "two words", `"@;()'`, "\x00\x7f\xff", strings.Repeat("x", 63)} {
		name := escapeLabel(label) + ".cart.local."
		want := []record{
			{name: name, kind: dns.TypeSRV, target: "host.local.", port: 65535, ttl: time.Minute, flush: true},
			{name: name, kind: dns.TypeTXT, texts: []string{label, "", "a=\"b\\\x01"}, ttl: time.Minute, flush: true},
			{name: "cart.local.", kind: dns.TypePTR, target: name, ttl: time.Hour},
			{name: "host.local.", kind: dns.TypeA, addr: netip.MustParseAddr("10.0.0.1"), ttl: time.Minute, flush: true},
			{name: "host.local.", kind: dns.TypeAAAA, addr: netip.MustParseAddr("2001:db8::1"), ttl: 0, flush: true},
		}
		m := said(want...)
		b, err := m.Pack()
		if err != nil {
			t.Fatalf("%q: %v", label, err)
		}
		got, err := decode(b)
		if err != nil || !got.response || len(got.records) != len(want) {
			t.Fatalf("%q: %+v, %v", label, got, err)
		}
		for i, r := range got.records {
			if r.data() != want[i].data() || fold(r.name) != fold(want[i].name) || r.ttl != want[i].ttl || r.flush != want[i].flush {
				t.Errorf("%q: got %+v, want %+v", label, r, want[i])
			}
		}
		if got, ok := labelOf(got.records[0].name, "cart.local."); !ok || got != label {
			t.Errorf("%q is read as %q", label, got)
		}
	}
}

func TestQueriesThatDoNotFitAreSpread(t *testing.T) {
	var q query
	var known []record
	for i := range 400 {
		known = append(known, record{name: "cart.local.", kind: dns.TypePTR, target: labelFor(strings.Repeat("x", i%40)) + "y.cart.local.", ttl: time.Hour})
	}
	q.add(question{"cart.local.", dns.TypePTR}, known)
	q.add(question{"CART.local.", dns.TypePTR}, known)
	for i := range 200 {
		q.add(question{strings.Repeat("x", 1+i%60) + string(rune('a'+i%26)) + ".cart.local.", dns.TypeSRV}, nil)
	}
	packets, err := q.packets()
	if err != nil {
		t.Fatal(err)
	}
	questions, answers := 0, 0
	var truncated bool
	for i, b := range packets {
		if len(b) > packetBudget {
			t.Errorf("packet %d has %d bytes", i, len(b))
		}
		var m dns.Msg
		if err := m.Unpack(b); err != nil {
			t.Fatal(err)
		}
		if truncated && len(m.Question) > 0 {
			t.Errorf("packet %d should have known answers only, as the one before it was truncated", i)
		}
		truncated = m.Truncated
		questions, answers = questions+len(m.Question), answers+len(m.Answer)
	}
	if want := len(q.parts); questions != want || answers != 400 || truncated {
		t.Errorf("%d questions of %d, %d known answers of 400, the last truncated: %v", questions, want, answers, truncated)
	}
}

// seeds are real packets, and what people try against readers of DNS.
func seeds(t testing.TB) [][]byte {
	list := [][]byte{nil, {0}, make([]byte, 11), make([]byte, 12), make([]byte, 9000)}
	for _, records := range [][]record{
		daprd("cart", "host:1", "10.0.0.9", 50002), daprd("cart", "host:1", "fe80::1", 1), gone(daprd("cart", "host:1", "10.0.0.9", 50002)),
		farcall("cart", "node-1", "10.0.0.9", 8080), daprd("cart", "farcall-x", "10.0.0.9", 2),
	} {
		list = append(list, packed(t, said(records...)).data)
	}
	var q query
	q.add(question{enumeration, dns.TypePTR}, nil)
	q.add(question{"cart-node-1-8080._farcall._tcp.local.", dns.TypeANY}, []record{farcall("cart", "node-1", "10.0.0.9", 8080)[0]})
	packets, err := q.packets()
	if err != nil {
		t.Fatal(err)
	}
	list = append(list, packets...)
	response := func(counts [4]uint16, body ...byte) []byte {
		b := []byte{0, 0, 0x84, 0}
		for _, n := range counts {
			b = binary.BigEndian.AppendUint16(b, n)
		}
		return append(b, body...)
	}
	return append(list,
		response([4]uint16{0, 65535, 65535, 65535}),                                        // counts without records
		response([4]uint16{0, 1, 0, 0}, 0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12), // a name that is itself
		response([4]uint16{0, 1, 0, 0}, 0xc0, 14, 0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 9, 0, 0), // two that are each other
		response([4]uint16{0, 1, 0, 0}, 0, 0, 1, 0, 1, 0x80, 0, 0, 0, 0, 0),                // an A without address, TTL 2^31
		response([4]uint16{0, 1, 0, 0}, 0, 0, 33, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 7, 0, 0, 0, 0, 0, 0, 0),
	)
}

// FuzzPacket: whatever comes in, nothing breaks, and what is kept stays bounded and consistent.
func FuzzPacket(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s, s)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		b := make([]byte, rnd.IntN(300))
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		f.Add(b, b)
	}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		s := oneLink(t)
		s.hears(said(daprd("sure", "host:9", "10.0.0.7", 50002)...))
		r := newResponder()
		r.stand(s.now, "cart", offers(resolvers.Registration{Name: catalog.Name{Service: "cart"}, ID: "cart-node-1-8080", Port: 8080, RelayPort: 1},
			[]netip.Addr{netip.MustParseAddr("10.0.0.1")}, DefaultTTL))
		r.carry(s.now, "cart", []string{"till", "ü x"}, func(app string) *offer {
			return newEcho("farcall-n", app, netip.MustParseAddr("10.0.0.1"), 50003)
		})
		for _, b := range [][]byte{one, two} {
			s.hearsFrom(1, peerAddr, b)
			if m, err := decode(b); err == nil {
				r.hear(s.now, peerAddr, m)
			}
			s.pass(600 * time.Millisecond)
			for _, o := range r.step(s.now) {
				if _, err := pack(&o.packet); err != nil {
					t.Errorf("an answer cannot be sent: %v", err)
				}
			}
		}
		consistent(t, s.b)
		s.pass(3 * time.Minute)
		consistent(t, s.b)
	})
}

// consistent looks whether the indexes of a browser agree.
func consistent(t *testing.T, b *browser) {
	t.Helper()
	for _, e := range b.ears {
		pointers, inSets := 0, 0
		for _, st := range e.types {
			pointers += st.pointers
		}
		if pointers != len(e.found) {
			t.Errorf("%d instances, and their types count %d", len(e.found), pointers)
		}
		for _, list := range e.cache.sets {
			inSets += len(list)
		}
		if n := len(e.cache.entries); n > len(e.cache.alarms) || n != inSets {
			t.Errorf("%d records, %d alarms, %d in sets", n, len(e.cache.alarms), inSets)
		}
		for _, r := range e.cache.entries {
			if r.queued.IsZero() || r.queued.After(r.due) || r.due.After(r.ends) {
				t.Errorf("%s has its alarm at %v, is due %v and ends %v", r.name, r.queued, r.due, r.ends)
			}
		}
		for host, at := range e.hosts {
			for f := range at {
				if f.host != host || e.found[fold(f.name)] != f {
					t.Errorf("host %s has an instance %s that is not there", host, f.name)
				}
			}
		}
		for name := range e.placed {
			if f := e.found[name]; f == nil || f.cand == nil {
				t.Errorf("%s is listed, but not found", name)
			}
		}
	}
}
