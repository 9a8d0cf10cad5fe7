package dns

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	miekg "github.com/miekg/dns"
)

// stub is a DNS server in the test's own process, for answers that real ones give rarely or never.
// It is authoritative for everything.
type stub struct {
	addr string

	mu      sync.Mutex
	records map[question][]miekg.RR
	rcodes  map[string]int
	// handle answers instead, where it is set and returns true.
	handle func(w miekg.ResponseWriter, m *miekg.Msg) bool
	asked  map[question]int
	ports  map[string]bool
}

func newStub(t testing.TB, records ...string) *stub {
	t.Helper()
	s := &stub{records: map[question][]miekg.RR{}, rcodes: map[string]int{}, asked: map[question]int{}, ports: map[string]bool{}}
	udp, tcp := listen(t)
	s.addr = tcp.Addr().String()
	serve(t, &miekg.Server{PacketConn: udp, Handler: miekg.HandlerFunc(s.answer)})
	serve(t, &miekg.Server{Listener: tcp, Handler: miekg.HandlerFunc(s.answer)})
	s.add(t, records...)
	return s
}

// listen binds one port for UDP and for TCP. Whoever takes them closes them.
func listen(t testing.TB) (udp net.PacketConn, tcp net.Listener) {
	t.Helper()
	for range 100 {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		if err == nil {
			return udp, tcp
		}
		tcp.Close() // somebody has the other half
	}
	t.Fatal("no port is free for both UDP and TCP")
	return nil, nil
}

// serve runs a server on what it was given until the test ends.
func serve(t testing.TB, srv *miekg.Server) {
	t.Helper()
	up, ended := make(chan struct{}), make(chan error, 1)
	srv.NotifyStartedFunc = func() { close(up) }
	go func() { ended <- srv.ActivateAndServe() }()
	select {
	case <-up:
	case err := <-ended:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(srv.Shutdown(), <-ended); err != nil {
			t.Error(err)
		}
	})
}

func rr(t testing.TB, text string) miekg.RR {
	t.Helper()
	r, err := miekg.NewRR(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (s *stub) add(t testing.TB, records ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, text := range records {
		r := rr(t, text)
		q := question{canonical(r.Header().Name), r.Header().Rrtype}
		s.records[q] = append(s.records[q], r)
	}
}

// drop forgets all records of a name.
func (s *stub) drop(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for q := range s.records {
		if q.name == name {
			delete(s.records, q)
		}
	}
}

// say makes a response code the answer to all questions for a name; -1 is no answer at all.
func (s *stub) say(name string, rcode int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rcodes[name] = rcode
}

func (s *stub) hooked(handle func(miekg.ResponseWriter, *miekg.Msg) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handle = handle
}

// times says how often a question was asked, and in all.
func (s *stub) times(name string, typ uint16) (this, all int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.asked {
		all += n
	}
	return s.asked[question{name, typ}], all
}

func (s *stub) answer(w miekg.ResponseWriter, m *miekg.Msg) {
	q := question{canonical(m.Question[0].Name), m.Question[0].Qtype}
	s.mu.Lock()
	s.asked[q]++
	if a, ok := w.RemoteAddr().(*net.UDPAddr); ok {
		s.ports[fmt.Sprint(a.Port)] = true
	}
	handle := s.handle
	reply, silent := s.reply(m, q)
	s.mu.Unlock()
	if handle != nil && handle(w, m) || silent {
		return
	}
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		size := miekg.MinMsgSize
		if o := m.IsEdns0(); o != nil {
			size = int(o.UDPSize())
		}
		reply.Truncate(size)
	}
	_ = w.WriteMsg(reply) // the asker may be gone
}

func (s *stub) reply(m *miekg.Msg, q question) (reply *miekg.Msg, silent bool) {
	reply = new(miekg.Msg).SetReply(m)
	reply.Authoritative = true
	reply.Compress = true
	rcode, forced := s.rcodes[q.name]
	if forced {
		reply.Rcode = max(rcode, 0)
		return reply, rcode < 0
	}
	reply.Answer = append(s.records[question{q.name, miekg.TypeCNAME}], s.records[q]...)
	if len(reply.Answer) > 0 {
		return reply, false
	}
	reply.Rcode = miekg.RcodeNameError
	for other := range s.records {
		if other.name == q.name {
			reply.Rcode = miekg.RcodeSuccess
		}
	}
	reply.Ns = []miekg.RR{&miekg.SOA{Hdr: miekg.RR_Header{Name: ".", Rrtype: miekg.TypeSOA, Class: miekg.ClassINET, Ttl: 1}, Ns: "ns.", Mbox: "h.", Minttl: 1}}
	return reply, false
}

// zoneOf writes the records of an SRV service with n targets, each with an address.
func zoneOf(service string, n int) []string {
	var out []string
	for i := range n {
		host := fmt.Sprintf("%s-%d.test.", strings.Trim(service, "_."), i)
		out = append(out, fmt.Sprintf("%s 60 IN SRV 0 1 50002 %s", service, host), fmt.Sprintf("%s 60 IN A 10.%d.%d.%d", host, 1+i>>16, i>>8&255, i&255))
	}
	return out
}
