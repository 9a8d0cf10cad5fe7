package mdns

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

// scene is a browser in a time of its own, with what it tells and what it sends.
type scene struct {
	t    testing.TB
	now  time.Time
	b    *browser
	sink *sinkRecord
	nics []nic
	// quiet are interfaces whose pulses do not come back.
	quiet map[int]bool
	// sent are the packets on each link since they were last looked at.
	sent map[string][]dns.Msg
	err  error // of the last step
	reg  *prometheus.Registry
}

var plainFlags = net.FlagUp | net.FlagRunning | net.FlagMulticast | net.FlagBroadcast

func nicAt(index int, name string, prefixes ...string) nic {
	n := nic{index: index, name: name, flags: plainFlags}
	var addrs []net.Addr
	for _, p := range prefixes {
		ip, ipnet, err := net.ParseCIDR(p)
		if err != nil {
			panic(err)
		}
		addrs = append(addrs, &net.IPNet{IP: ip, Mask: ipnet.Mask})
	}
	n.address(addrs)
	return n
}

func newScene(t testing.TB, names []string, nics ...nic) *scene {
	s := &scene{t: t, now: time.Unix(1_000_000, 0), sink: &sinkRecord{}, nics: nics,
		quiet: map[int]bool{}, sent: map[string][]dns.Msg{}, reg: prometheus.NewRegistry()}
	s.b = newBrowser(names, s.sink, NewMetrics(s.reg).of("east/mdns"))
	return s
}

// oneLink is a scene with one link, that has been listened to.
func oneLink(t testing.TB) *scene {
	s := newScene(t, nil, nicAt(1, "eth0", "10.0.0.1/24"))
	s.pass(4 * time.Second)
	if !s.b.published {
		t.Fatalf("after %v nothing was published: %v", 4*time.Second, s.err)
	}
	return s
}

// pass lets time go by, as Run does.
func (s *scene) pass(d time.Duration) {
	for end := s.now.Add(d); ; s.now = s.now.Add(50 * time.Millisecond) {
		if s.now.UnixMilli()%1000 == 0 {
			s.look()
		}
		s.step()
		if !s.now.Before(end) {
			return
		}
	}
}

func (s *scene) look() {
	s.b.examined(s.now, s.nics)
	for _, n := range s.nics {
		if n.trouble(false) == "" && !s.quiet[n.index] {
			s.b.heard(s.now, packet{index: n.index, pulse: true})
		}
	}
}

func (s *scene) step() {
	s.err = s.b.step(s.now, func(e *ear, p []byte) error {
		var m dns.Msg
		if err := m.Unpack(p); err != nil {
			s.t.Fatalf("a packet of ours cannot be read: %v", err)
		}
		if len(p) > 1452 {
			s.t.Errorf("a packet of ours has %d bytes", len(p))
		}
		s.sent[e.name] = append(s.sent[e.name], m)
		return nil
	})
}

// asked gives the questions that were sent on a link since they were last looked at.
func (s *scene) asked(link string) map[string]int {
	n := map[string]int{}
	for _, m := range s.sent[link] {
		for _, q := range m.Question {
			n[dns.TypeToString[q.Qtype]+" "+q.Name]++
		}
	}
	s.sent[link] = nil
	return n
}

var peerAddr = netip.MustParseAddrPort("10.0.0.9:5353")

// hears lets a packet come in from the peer on the first link.
func (s *scene) hears(m dns.Msg) {
	s.t.Helper()
	b, err := m.Pack()
	if err != nil {
		s.t.Fatal(err)
	}
	s.hearsFrom(1, peerAddr, b)
}

func (s *scene) hearsFrom(index int, src netip.AddrPort, b []byte) {
	s.b.heard(s.now, packet{index: index, src: src, multicast: true, data: b})
	s.step()
}

// said makes a response of records.
func said(records ...record) (m dns.Msg) {
	m.Response, m.Authoritative, m.Compress = true, true, true
	for _, r := range records {
		m.Answer = append(m.Answer, r.rr(r.ttl, r.flush))
	}
	return m
}

// daprd makes what a daprd announces: SRV, TXT and its pointers for 3200 s, addresses for 120 s.
func daprd(app, label, addr string, relay uint16) []record {
	name, kind, host := escapeLabel(label)+"."+app+"."+domain, app+"."+domain, "host-"+strings.ReplaceAll(addr, ":", "-")+"."+domain
	host = strings.ReplaceAll(host, ".", "-") + "."
	host = strings.TrimSuffix(host, "-local-.") + ".local."
	const long = 3200 * time.Second
	a := netip.MustParseAddr(addr)
	ak := dns.TypeA
	if a.Is6() {
		ak = dns.TypeAAAA
	}
	return []record{
		{name: name, kind: dns.TypeSRV, target: host, port: relay, ttl: long, flush: true},
		{name: name, kind: dns.TypeTXT, texts: []string{app}, ttl: long, flush: true},
		{name: kind, kind: dns.TypePTR, target: name, ttl: long},
		{name: enumeration, kind: dns.TypePTR, target: kind, ttl: long},
		{name: host, kind: ak, addr: a, ttl: 120 * time.Second, flush: true},
	}
}

// farcall makes what a Registrar announces in ownType.
func farcall(app, node, addr string, port int) []record {
	o := offers(resolvers.Registration{Name: catalog.Name{Namespace: "shop", Service: app}, Node: node,
		ID: fmt.Sprintf("%s-%s-%d", app, node, port), Address: addr, Port: port, RelayPort: 50002},
		[]netip.Addr{netip.MustParseAddr(addr)}, DefaultTTL)
	return o[0].all()
}

// gone makes goodbyes of records.
func gone(records []record) []record {
	var out []record
	for _, r := range records {
		r.ttl = 0
		out = append(out, r)
	}
	return out
}

// shows fails the test unless exactly these instances are listed, as "service/id address:port
// via relay", and these records set aside.
func (s *scene) shows(want ...string) {
	s.t.Helper()
	var have []string
	for _, in := range s.sink.instances() {
		line := fmt.Sprintf("%s/%s %s:%d", in.Service, in.Instance, in.Address, in.Port)
		if in.Namespace != "" {
			line = in.Namespace + "/" + line
		}
		if in.Relay != "" {
			line += " via " + in.Relay
		}
		if in.Node != "" {
			line += " on " + in.Node
		}
		have = append(have, line)
	}
	have = append(have, s.sink.setAside()...)
	if a, b := strings.Join(have, "\n"), strings.Join(want, "\n"); a != b {
		s.t.Fatalf("listed are\n%s\nwant\n%s", a, b)
	}
}

// value reads a counter or a gauge.
func value(t testing.TB, m prometheus.Metric) float64 {
	t.Helper()
	var d dto.Metric
	if err := m.Write(&d); err != nil {
		t.Fatal(err)
	}
	return d.GetCounter().GetValue() + d.GetGauge().GetValue()
}
