package dns

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
	dto "github.com/prometheus/client_model/go"

	"github.com/farcall/farcall/internal/catalog"
)

// lines are an instance or a record set aside each.
func lines(s catalog.Snapshot) []string {
	var out []string
	for _, i := range s.Instances {
		out = append(out, fmt.Sprintf("%s %s:%d w=%d prio=%s via %s", i.Instance, i.Address, i.Port, i.Weight, i.Metadata[PriorityKey], i.Relay))
	}
	for _, a := range s.SetAside {
		out = append(out, "aside "+a.Reason)
	}
	return out
}

func TestSRVRecordsBecomeInstances(t *testing.T) {
	at := func(addrs ...string) hosts {
		h := hosts{outcome: found}
		for _, a := range addrs {
			h.addrs = append(h.addrs, netip.MustParseAddr(a))
		}
		return h
	}
	relay := Service{Name: "_a._tcp.test."}
	for _, c := range []struct {
		name    string
		cfg     Service
		records []string
		targets map[string]hosts
		want    []string
	}{
		{"the record's port is the relay's", relay, []string{"0 7 50002 X.test."}, map[string]hosts{"x.test.": at("10.0.0.1")},
			[]string{"x.test.:50002 10.0.0.1:0 w=7 prio=0 via 10.0.0.1:50002"}},
		{"the application's is known", Service{Name: relay.Name, Port: 80}, []string{"0 1 50002 x.test."}, map[string]hosts{"x.test.": at("::1")},
			[]string{"x.test.:50002 ::1:80 w=1 prio=0 via [::1]:50002"}},
		{"the record's port is the application's", Service{Name: relay.Name, SRVPort: PortApp}, []string{"0 1 80 x.test."}, map[string]hosts{"x.test.": at("10.0.0.1")},
			[]string{"x.test.:80 10.0.0.1:80 w=1 prio=0 via "}},
		{"and the relay's is known", Service{Name: relay.Name, SRVPort: PortApp, RelayPort: 50002}, []string{"0 1 80 x.test."}, map[string]hosts{"x.test.": at("10.0.0.1")},
			[]string{"x.test.:80 10.0.0.1:80 w=1 prio=0 via 10.0.0.1:50002"}},
		{"weight 0 is a little, the highest fits", relay, []string{"0 0 1 x.test.", "0 65535 2 x.test."}, map[string]hosts{"x.test.": at("10.0.0.1")},
			[]string{"x.test.:1 10.0.0.1:0 w=1 prio=0 via 10.0.0.1:1", "x.test.:2 10.0.0.1:0 w=65535 prio=0 via 10.0.0.1:2"}},
		{"only the preferred take calls", relay, []string{"20 5 1 x.test.", "10 5 1 y.test."}, map[string]hosts{"x.test.": at("10.0.0.1"), "y.test.": at("10.0.0.2")},
			[]string{"x.test.:1 10.0.0.1:0 w=0 prio=20 via 10.0.0.1:1", "y.test.:1 10.0.0.2:0 w=5 prio=10 via 10.0.0.2:1"}},
		{"the preferred are those that have an address", relay, []string{"20 5 1 x.test.", "10 5 1 y.test.", "5 5 0 x.test."}, map[string]hosts{"x.test.": at("10.0.0.1"), "y.test.": {outcome: noName}},
			[]string{"x.test.:1 10.0.0.1:0 w=5 prio=20 via 10.0.0.1:1", "aside port 0: nobody could deliver to it", "aside no such target (NXDOMAIN)"}},
		{"several addresses of a target", relay, []string{"0 3 1 x.test."}, map[string]hosts{"x.test.": at("10.0.0.1", "10.0.0.2")},
			[]string{"x.test.:1@10.0.0.1 10.0.0.1:0 w=3 prio=0 via 10.0.0.1:1", "x.test.:1@10.0.0.2 10.0.0.2:0 w=3 prio=0 via 10.0.0.2:1"}},
		{"the same twice: the preferred first", relay, []string{"9 1 1 x.test.", "0 2 1 x.test."}, map[string]hosts{"x.test.": at("10.0.0.1")},
			[]string{"x.test.:1 10.0.0.1:0 w=2 prio=0 via 10.0.0.1:1", "x.test.:1 10.0.0.1:0 w=0 prio=9 via 10.0.0.1:1"}},
		{"decidedly not available", relay, []string{"0 0 0 ."}, nil, nil},
		{"not available, and yet", relay, []string{"0 0 0 .", "1 1 1 x.test."}, map[string]hosts{"x.test.": at("10.0.0.1")},
			[]string{"x.test.:1 10.0.0.1:0 w=1 prio=1 via 10.0.0.1:1", `aside its target is ".", which says that the service is not available, but others are listed beside it`}},
		{"a target without an address", relay, []string{"0 0 1 x.test."}, map[string]hosts{"x.test.": {outcome: noData}}, []string{"aside its target has no address"}},
		{"addresses that intake judges", relay, []string{"0 0 1 x.test."}, map[string]hosts{"x.test.": at("224.0.0.1")},
			[]string{"x.test.:1 224.0.0.1:0 w=1 prio=0 via 224.0.0.1:1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := c.cfg.compile("a")
			if err != nil {
				t.Fatal(err)
			}
			set := &set{outcome: found}
			for _, r := range c.records {
				set.records = append(set.records, rr(t, "_a._tcp.test. 1 IN SRV "+r))
			}
			snap := s.srvSnapshot(set, c.targets)
			if got := lines(snap); !slices.Equal(got, c.want) {
				t.Errorf("it lists\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			if len(snap.Services) != 1 || snap.Services[0].Service != "a" {
				t.Errorf("it names %v", snap.Services)
			}
		})
	}
}

func TestFamilies(t *testing.T) {
	s := newStub(t,
		"both.test. 60 IN A 10.0.0.2", "both.test. 60 IN A 10.0.0.1", "both.test. 60 IN AAAA fd00::1", "both.test. 60 IN AAAA ::ffff:10.0.0.1",
		"six.test. 60 IN AAAA fd00::6", "txt.test. 60 IN TXT x")
	l := newLookups(clientOf(t, 5*time.Second, s.addr), Config{MinTTL: time.Second, MaxTTL: time.Minute}, metricsOf(t))
	for _, c := range []struct {
		name, family string
		want         string
		outcome      outcome
	}{
		{"both.test.", "", "10.0.0.1 10.0.0.2", found},
		{"both.test.", FamilyIPv4, "10.0.0.1 10.0.0.2", found},
		{"both.test.", FamilyIPv6, "10.0.0.1 fd00::1", found},
		{"both.test.", FamilyBoth, "10.0.0.1 10.0.0.2 fd00::1", found},
		{"six.test.", "", "fd00::6", found},
		{"six.test.", FamilyIPv4, "", noData},
		{"six.test.", FamilyBoth, "fd00::6", found},
		{"txt.test.", "", "", noData},
		{"none.test.", FamilyBoth, "", noName},
	} {
		t.Run(c.name+c.family, func(t *testing.T) {
			h, err := l.hosts(t.Context(), c.name, c.family, nil, false)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, a := range h.addrs {
				got = append(got, a.String())
			}
			if strings.Join(got, " ") != c.want || h.outcome != c.outcome {
				t.Errorf("%q, outcome %d, want %q, %d", got, h.outcome, c.want, c.outcome)
			}
		})
	}
}

func TestEachStaleTargetIsCounted(t *testing.T) {
	s := newStub(t, zoneOf("_a._tcp.test.", 3)...)
	m := metricsOf(t)
	l := newLookups(newClient([]string{s.addr}, 5*time.Second, m), Config{MinTTL: 1, MaxTTL: 1}, m)
	a, err := Service{Name: "_a._tcp.test."}.compile("a")
	if err != nil {
		t.Fatal(err)
	}
	first, err := l.read(t.Context(), a, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	for name := range first.targets {
		s.say(name, miekg.RcodeServerFailure)
	}
	again, err := l.read(t.Context(), a, first.targets, false)
	if err != nil || again.stale == nil || !sameList(first.snap, again.snap) {
		t.Errorf("%v, %+v", err, again)
	}
	var d dto.Metric
	if err := m.stale.Write(&d); err != nil || d.GetCounter().GetValue() != 3 {
		t.Errorf("%v stale targets are counted, want 3 (%v)", d.GetCounter().GetValue(), err)
	}
}

// FuzzAnswer takes whatever a server may send for whatever was asked to a published list.
func FuzzAnswer(f *testing.F) {
	pack := func(rcode int, sections ...[]string) []byte {
		m := new(miekg.Msg).SetQuestion("_a._tcp.test.", miekg.TypeSRV)
		m.Response, m.Rcode = true, rcode
		for i, s := range sections {
			for _, text := range s {
				r, err := miekg.NewRR(text)
				if err != nil {
					f.Fatal(err)
				}
				switch i {
				case 0:
					m.Answer = append(m.Answer, r)
				case 1:
					m.Ns = append(m.Ns, r)
				default:
					m.Extra = append(m.Extra, r)
				}
			}
		}
		p, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		return p
	}
	f.Add(pack(0, []string{"_a._tcp.test. 1 IN SRV 0 1 2 x.test.", "_a._tcp.test. 1 IN SRV 0 1 2 ."}, nil, []string{"x.test. 1 IN A 10.0.0.1", "x.test. 1 IN AAAA ::1"}))
	f.Add(pack(0, []string{"_a._tcp.test. 1 IN CNAME b.test.", "b.test. 1 IN CNAME _a._tcp.test."}))
	f.Add(pack(3, nil, []string{"test. 1 IN SOA a. b. 1 2 3 4 4294967295"}))
	f.Add(pack(0, nil, []string{"test. 1 IN NS a."}))
	f.Add([]byte("random bytes that are no message at all"))
	f.Fuzz(func(t *testing.T, p []byte) {
		m := new(miekg.Msg)
		if m.Unpack(p) != nil {
			return
		}
		for _, typ := range []uint16{miekg.TypeSRV, miekg.TypeA, miekg.TypeAAAA} {
			q := question{"_a._tcp.test.", typ}
			if len(m.Question) > 0 {
				q.name = canonical(m.Question[0].Name)
			}
			a, err := judge(q, m)
			if err != nil || a.outcome == aliased {
				continue
			}
			if a.ttl < 0 {
				t.Fatalf("TTL %v", a.ttl)
			}
			s := service{source: "a", name: serviceName("a"), ask: q, fromRecord: PortRelay}
			var snap catalog.Snapshot
			if typ == miekg.TypeSRV {
				targets := map[string]hosts{}
				for eq, e := range a.extra {
					h := targets[eq.name]
					h.add(&set{outcome: e.outcome, records: e.records})
					targets[eq.name] = h
				}
				snap = s.srvSnapshot(&set{outcome: a.outcome, records: a.records, broken: a.broken}, targets)
			} else {
				var h hosts
				h.add(&set{outcome: a.outcome, records: a.records, broken: a.broken})
				snap = s.addressSnapshot(h)
			}
			if (a.outcome == noName) != (len(snap.Services) == 0) || a.outcome != found && len(snap.Instances) > 0 {
				t.Fatalf("outcome %d: %+v", a.outcome, snap)
			}
			for _, i := range snap.Instances {
				if i.Instance == "" || i.Address == "" || i.Port == 0 && i.Relay == "" && typ == miekg.TypeSRV {
					t.Fatalf("%+v", i)
				}
			}
		}
	})
}

// BenchmarkOneChange is a service of which one address changed, from the packet to what is
// published. The DNS gives a service's whole list in each answer, and at most 64 KiB of it, which
// is about 4 000 addresses.
func BenchmarkOneChange(b *testing.B) {
	for _, n := range []int{100, 4000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var packets [2][]byte
			for v := range packets {
				m := new(miekg.Msg).SetQuestion("a.test.", miekg.TypeA)
				m.Response, m.Compress = true, true
				for i := range n {
					host := i
					if i == 0 {
						host = n + v
					}
					m.Answer = append(m.Answer, &miekg.A{
						Hdr: miekg.RR_Header{Name: "a.test.", Rrtype: miekg.TypeA, Class: miekg.ClassINET, Ttl: 5},
						A:   []byte{10, 0, byte(host >> 8), byte(host)},
					})
				}
				var err error
				if packets[v], err = m.Pack(); err != nil {
					b.Fatal(err)
				}
			}
			s, err := Service{Name: "a.test.", Port: 80}.compile("a")
			if err != nil {
				b.Fatal(err)
			}
			now := time.Now()
			l := newLedger([]service{s}, now)
			b.ReportAllocs()
			changes := 0
			for i := 0; b.Loop(); i++ {
				m := new(miekg.Msg)
				if err := m.Unpack(packets[i%2]); err != nil {
					b.Fatal(err)
				}
				a, err := judge(s.ask, m)
				if err != nil {
					b.Fatal(err)
				}
				var h hosts
				h.add(&set{outcome: a.outcome, records: a.records, at: now, expires: now})
				slices.SortFunc(h.addrs, netip.Addr.Compare)
				if l.done(l.idlest(now), reading{outcome: h.outcome, snap: s.addressSnapshot(h), due: now}, now) {
					changes++
				}
			}
			if changes < b.N-1 {
				b.Errorf("%d changes of %d were seen", changes, b.N)
			}
		})
	}
}

// BenchmarkMemory is what is held of a service with five targets: the list as published, the
// addresses that may be served stale, and the answers while they are fresh.
func BenchmarkMemory(b *testing.B) {
	const services = 1000
	now := time.Now()
	var kept []any
	before := heapInUse()
	for b.Loop() {
		kept = nil
		var all []service
		for i := range services {
			s, err := Service{Name: fmt.Sprintf("_s%d._tcp.test.", i)}.compile(fmt.Sprintf("s%d", i))
			if err != nil {
				b.Fatal(err)
			}
			all = append(all, s)
		}
		l := newLedger(all, now)
		for range services {
			e := l.next(now)
			m := &miekg.Msg{}
			for _, text := range zoneOf(e.ask.name, 5) {
				if r := rr(b, text); r.Header().Rrtype == miekg.TypeSRV {
					m.Answer = append(m.Answer, r)
				} else {
					m.Extra = append(m.Extra, r)
				}
			}
			a, err := parse(e.ask, m)
			if err != nil {
				b.Fatal(err)
			}
			targets := map[string]hosts{}
			for q, x := range a.extra {
				var h hosts
				h.add(&set{outcome: found, records: x.records, at: now, expires: now})
				targets[q.name] = h
			}
			held := &set{outcome: found, records: a.records, expires: now}
			l.done(e, reading{outcome: found, snap: e.srvSnapshot(held, targets), due: now.Add(time.Hour), targets: targets}, now)
			kept = append(kept, held, a.extra)
		}
		kept = append(kept, l)
	}
	b.ReportMetric(float64(heapInUse()-before)/services, "B/service")
	runtime.KeepAlive(kept)
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
