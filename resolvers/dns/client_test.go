package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/testkit"
)

var addrA = question{"a.test.", miekg.TypeA}

func clientOf(t testing.TB, timeout time.Duration, servers ...string) *client {
	t.Helper()
	return newClient(servers, timeout, metricsOf(t))
}

func metricsOf(t testing.TB) registryMetrics {
	t.Helper()
	return NewMetrics(prometheus.NewRegistry()).of("test")
}

func TestTruncatedAnswersAreReadOverTCP(t *testing.T) {
	s := newStub(t)
	for i := range 200 {
		s.add(t, fmt.Sprintf("a.test. 60 IN A 10.0.0.%d", i))
	}
	a, err := clientOf(t, 5*time.Second, s.addr).ask(testkit.Context(t), addrA)
	if err != nil || len(a.records) != 200 {
		t.Errorf("%d records, %v, want 200", len(a.records), err)
	}
	if this, _ := s.times("a.test.", miekg.TypeA); this != 2 {
		t.Errorf("it was asked %d times, want twice: over UDP, then over TCP", this)
	}
}

func TestAnAnswerCutInTheMiddleIsReadOverTCP(t *testing.T) {
	s := newStub(t, "a.test. 60 IN A 10.0.0.1")
	s.hooked(func(w miekg.ResponseWriter, m *miekg.Msg) bool {
		if _, udp := w.RemoteAddr().(*net.UDPAddr); !udp {
			return false
		}
		r := new(miekg.Msg).SetReply(m)
		r.Truncated = true
		r.Answer = []miekg.RR{rr(t, "a.test. 60 IN A 10.0.0.1")}
		p, err := r.Pack()
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(p[:len(p)-2])
		return true
	})
	a, err := clientOf(t, 5*time.Second, s.addr).ask(testkit.Context(t), addrA)
	if err != nil || len(a.records) != 1 {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestAnAnswerThatBreaksOffIsAFailure is half an answer over TCP, then the end.
func TestAnAnswerThatBreaksOffIsAFailure(t *testing.T) {
	udp, l := listen(t)
	addr := l.Addr().String()
	serve(t, &miekg.Server{PacketConn: udp, Handler: miekg.HandlerFunc(func(w miekg.ResponseWriter, m *miekg.Msg) {
		r := new(miekg.Msg).SetReply(m)
		r.Truncated = true
		_ = w.WriteMsg(r)
	})})
	testkit.Go(t, "half a server", func(ctx context.Context) error {
		defer context.AfterFunc(ctx, func() { l.Close() })()
		for {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			ask, err := (&miekg.Conn{Conn: c}).ReadMsg()
			if err != nil {
				return err
			}
			r := new(miekg.Msg).SetReply(ask)
			r.Answer = []miekg.RR{rr(t, "a.test. 60 IN A 10.0.0.1"), rr(t, "a.test. 60 IN A 10.0.0.2")}
			p, err := r.Pack()
			if err != nil {
				return err
			}
			_, err = c.Write(append([]byte{byte(len(p) >> 8), byte(len(p))}, p[:len(p)-16]...))
			c.Close()
			if err != nil {
				return err
			}
		}
	})
	_, err := clientOf(t, 5*time.Second, addr).ask(testkit.Context(t), addrA)
	if err == nil || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "over TCP") {
		t.Errorf("error %v, want one that names the server and TCP", err)
	}
}

func TestAServerWithoutEDNSIsAskedWithoutIt(t *testing.T) {
	s := newStub(t, "a.test. 60 IN A 10.0.0.1", "b.test. 60 IN A 10.0.0.2")
	var withEDNS atomic.Int32
	s.hooked(func(w miekg.ResponseWriter, m *miekg.Msg) bool {
		if m.IsEdns0() == nil {
			return false
		}
		withEDNS.Add(1)
		r := new(miekg.Msg).SetRcodeFormatError(m)
		r.Question = nil // as old servers do
		_ = w.WriteMsg(r)
		return true
	})
	c := clientOf(t, 5*time.Second, s.addr)
	for _, name := range []string{"a.test.", "b.test."} {
		if a, err := c.ask(testkit.Context(t), question{name, miekg.TypeA}); err != nil || len(a.records) != 1 {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
	if n := withEDNS.Load(); n != 1 {
		t.Errorf("it was asked with EDNS0 %d times, want once: it is remembered", n)
	}
}

func TestWhatServersSayInsteadOfAnAnswer(t *testing.T) {
	s := newStub(t, "a.test. 60 IN A 10.0.0.1")
	garbage := func(w miekg.ResponseWriter, _ *miekg.Msg) bool {
		_, _ = w.Write([]byte("\x00\xff random bytes that are no message at all"))
		return true
	}
	deaf, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	for _, c := range []struct {
		name   string
		rcode  int
		server string
		hook   func(miekg.ResponseWriter, *miekg.Msg) bool
		words  []string
		silent bool
	}{
		{name: "SERVFAIL", rcode: miekg.RcodeServerFailure, words: []string{"SERVFAIL", "cannot find the answer"}},
		{name: "SERVFAIL with a reason", hook: func(w miekg.ResponseWriter, m *miekg.Msg) bool {
			r := new(miekg.Msg).SetRcode(m, miekg.RcodeServerFailure)
			o := r.SetEdns0(1232, false).IsEdns0()
			o.Option = append(o.Option, &miekg.EDNS0_EDE{InfoCode: miekg.ExtendedErrorCodeStaleAnswer, ExtraText: "two\nlines"})
			_ = w.WriteMsg(r)
			return true
		}, words: []string{"SERVFAIL", `(it says: Stale Answer "two\nlines")`}},
		{name: "REFUSED", rcode: miekg.RcodeRefused, words: []string{"REFUSED", "check the name"}},
		{name: "FORMERR", rcode: miekg.RcodeFormatError, words: []string{"FORMERR"}},
		{name: "something else", rcode: miekg.RcodeNotZone, words: []string{"NOTZONE"}},
		{name: "random bytes", hook: garbage, words: []string{"within 300ms", "no DNS message"}, silent: true},
		{name: "silence", server: deaf.LocalAddr().String(), words: []string{"does not answer within 300ms over UDP"}, silent: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.say("a.test.", c.rcode)
			s.hooked(c.hook)
			address := s.addr
			if c.server != "" {
				address = c.server
			}
			timeout := 10 * time.Second // what answers is not to be late on a busy machine
			if c.silent {
				timeout = 300 * time.Millisecond
			}
			_, err := clientOf(t, timeout, address).ask(testkit.Context(t), addrA)
			var u unanswered
			if !errors.As(err, &u) || u.silent() != c.silent {
				t.Fatalf("error %v, want an unanswered question, silent: %v", err, c.silent)
			}
			for _, w := range append(c.words, address) {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q has no %q", err, w)
				}
			}
		})
	}
}

// TestStrayDatagramsAreNoAnswers sends what an attacker could before the answer.
func TestStrayDatagramsAreNoAnswers(t *testing.T) {
	s := newStub(t, "a.test. 60 IN A 10.0.0.1")
	s.hooked(func(w miekg.ResponseWriter, m *miekg.Msg) bool {
		forged := func(change func(*miekg.Msg)) {
			r := new(miekg.Msg).SetReply(m)
			r.Answer = []miekg.RR{rr(t, "a.test. 60 IN A 10.6.6.6")}
			change(r)
			_ = w.WriteMsg(r)
		}
		forged(func(r *miekg.Msg) { r.Id++ })
		forged(func(r *miekg.Msg) { r.Question[0].Name = "b.test." })
		forged(func(r *miekg.Msg) { r.Question[0].Qtype = miekg.TypeAAAA })
		forged(func(r *miekg.Msg) { r.Question = nil })
		forged(func(r *miekg.Msg) { r.Response = false })
		_, _ = w.Write([]byte{1})
		return false
	})
	c := clientOf(t, 5*time.Second, s.addr)
	for range 5 {
		a, err := c.ask(testkit.Context(t), addrA)
		if err != nil || len(a.records) != 1 || !strings.Contains(a.records[0].String(), "10.0.0.1") {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ports) < 4 {
		t.Errorf("5 questions came from the ports %v: they can be foreseen", s.ports)
	}
}

func TestTheServerThatWorksIsAskedFirst(t *testing.T) {
	deaf, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	s := newStub(t, "a.test. 60 IN A 10.0.0.1")
	c := clientOf(t, time.Second, deaf.LocalAddr().String(), s.addr)
	for range 3 {
		if _, err := c.ask(testkit.Context(t), addrA); err != nil {
			t.Fatal(err)
		}
	}
	if err := deaf.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	asked := 0
	for buf := make([]byte, 512); ; asked++ {
		if _, _, err := deaf.ReadFrom(buf); err != nil {
			break
		}
	}
	if asked != 1 {
		t.Errorf("the silent server was asked %d times, want once", asked)
	}
}

func TestAServerThatRefusesSomeNamesStaysTheFirst(t *testing.T) {
	first, second := newStub(t, "a.test. 60 IN A 10.0.0.1"), newStub(t, "b.test. 60 IN A 10.0.0.2")
	first.say("b.test.", miekg.RcodeRefused)
	second.say("a.test.", miekg.RcodeServerFailure)
	c := clientOf(t, 5*time.Second, first.addr, second.addr)
	for range 10 {
		for _, name := range []string{"a.test.", "b.test."} {
			if a, err := c.ask(testkit.Context(t), question{name, miekg.TypeA}); err != nil || len(a.records) != 1 {
				t.Fatalf("%s: %+v, %v", name, a, err)
			}
		}
	}
	if _, n := second.times("a.test.", miekg.TypeA); n != 10 {
		t.Errorf("the second server was asked %d questions, want those 10 that the first refused", n)
	}
	for range patience + 5 {
		if _, err := c.ask(testkit.Context(t), question{"b.test.", miekg.TypeA}); err != nil {
			t.Fatal(err)
		}
	}
	if n, _ := first.times("b.test.", miekg.TypeA); n > 10+patience {
		t.Errorf("the first server was asked %d times for what it refuses, in spite of %d refusals in a row", n, patience)
	}
}

func TestQuestionsEndWithTheirContext(t *testing.T) {
	deaf, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	began := time.Now()
	if _, err := clientOf(t, time.Minute, deaf.LocalAddr().String()).ask(ctx, addrA); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestNotTooManyQuestionsAtATime(t *testing.T) {
	s := newStub(t)
	var now, most atomic.Int32
	s.hooked(func(miekg.ResponseWriter, *miekg.Msg) bool {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		pass(t, time.Millisecond)
		return false
	})
	services := map[string]Service{}
	for i := range 400 {
		name := fmt.Sprintf("s%d", i)
		services[name] = Service{Name: name + ".test.", Port: 1}
		s.add(t, name+".test. 60 IN A 10.0.0.1")
	}
	rec := run(t, Config{Servers: []string{s.addr}, Services: services, Timeout: 10 * time.Second})
	eventually(t, "all are read", rec.Trouble)
	if n := most.Load(); n > maxQuestions || n < 2 {
		t.Errorf("%d questions were under way at a time, want 2 to %d", n, maxQuestions)
	}
	if updates, _, _ := rec.All(); rec.Sources() != 400 || len(updates) == 0 || !updates[0].Full {
		t.Errorf("%d sources", rec.Sources())
	}
}
