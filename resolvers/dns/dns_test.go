package dns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/farcall/farcall/internal/testkit"
)

func TestFourKindsOfNothingAreFourThings(t *testing.T) {
	s := newStub(t,
		"here.test. 1 IN A 10.0.0.1",
		"empty.test. 1 IN TXT none",
		"_here._tcp.test. 1 IN SRV 0 5 50002 here.test.", "_off._tcp.test. 1 IN SRV 0 0 0 .")
	rec := run(t, Config{Servers: []string{s.addr}, Services: map[string]Service{
		"here": {Name: "here.test.", Port: 80}, "empty": {Name: "empty.test.", Port: 80}, "gone": {Name: "gone.test.", Port: 80},
		"srv-here": {Name: "_here._tcp.test."}, "srv-off": {Name: "_off._tcp.test."},
	}})
	good := []string{
		"here", "here 10.0.0.1 10.0.0.1:80 w=1",
		"empty",
		"set aside: gone.test.: no such name (NXDOMAIN): the service is taken for absent",
		"srv-here", "srv-here here.test.:50002 10.0.0.1:0 w=5 via 10.0.0.1:50002",
		"srv-off",
	}
	eventually(t, "present, empty, absent and decidedly not available are published", rec.Shows(good...))

	for rcode, words := range map[int][]string{
		miekg.RcodeServerFailure: {"dns: service here", "here.test. A/AAAA: " + s.addr + " answers SERVFAIL"},
		miekg.RcodeRefused:       {"dns: service here", "REFUSED"},
		-1:                       {"dns: service here", "does not answer within 1s"},
	} {
		s.say("here.test.", rcode)
		eventually(t, fmt.Sprintf("code %d is told", rcode), rec.failsWith(words...))
		if err := rec.Shows(good...)(); err != nil {
			t.Errorf("code %d: the list did not stay: %v", rcode, err)
		}
	}
	s.mu.Lock()
	delete(s.rcodes, "here.test.")
	s.mu.Unlock()
	eventually(t, "it works again", rec.Trouble)
	s.drop("here.test.")
	eventually(t, "what is gone is published as gone", rec.Shows("empty", "srv-off", "srv-here",
		"set aside: gone.test.: no such name (NXDOMAIN): the service is taken for absent",
		"set aside: here.test.: no such name (NXDOMAIN): the service is taken for absent",
		"set aside: _here._tcp.test. SRV here.test.:50002: no such target (NXDOMAIN)"))
}

// TestOneNameThatFailsDoesNotHoldUpTheOthers: their news goes on, the failure stays visible, and
// nothing is confirmed.
func TestOneNameThatFailsDoesNotHoldUpTheOthers(t *testing.T) {
	s := newStub(t, "a.test. 1 IN A 10.0.0.1", "b.test. 1 IN A 10.0.0.2")
	rec := run(t, Config{Servers: []string{s.addr}, Services: map[string]Service{
		"a": {Name: "a.test.", Port: 80}, "b": {Name: "b.test.", Port: 80},
	}})
	eventually(t, "both are listed", rec.Shows("a", "a 10.0.0.1 10.0.0.1:80 w=1", "b", "b 10.0.0.2 10.0.0.2:80 w=1"))
	s.say("a.test.", miekg.RcodeServerFailure)
	eventually(t, "the failure is told", rec.failsWith("service a:", "SERVFAIL"))
	s.add(t, "b.test. 1 IN A 10.0.0.3")
	eventually(t, "the other's news is published", rec.Shows("a", "a 10.0.0.1 10.0.0.1:80 w=1",
		"b", "b 10.0.0.2 10.0.0.2:80 w=1", "b 10.0.0.3 10.0.0.3:80 w=1"))
	eventually(t, "and the failure told again", rec.failsWith("service a:", "SERVFAIL"))
	_, before, _ := rec.counts()
	pass(t, 2*time.Second)
	if _, after, _ := rec.counts(); after != before {
		t.Error("something was confirmed while a name could not be read")
	}
}

func TestNothingIsPublishedBeforeEachNameWasAnsweredFor(t *testing.T) {
	s := newStub(t, "a.test. 1 IN A 10.0.0.1")
	s.say("b.test.", miekg.RcodeRefused)
	s.say("0.test.", miekg.RcodeServerFailure)
	rec := run(t, Config{Servers: []string{s.addr}, Services: map[string]Service{
		"a": {Name: "a.test.", Port: 80}, "b": {Name: "b.test.", Port: 80}, "c": {Name: "0.test.", Port: 80},
	}})
	eventually(t, "what stands in the way is told", rec.failsWith("service b (and 1 more)", "REFUSED", "nothing of this registry is published", "taken out of services"))
	if updates, _, _ := rec.counts(); updates > 0 {
		t.Error("it published though two names had never been answered for")
	}
	s.say("b.test.", miekg.RcodeSuccess)
	s.say("0.test.", miekg.RcodeNameError)
	eventually(t, "all is published", rec.Shows("a", "a 10.0.0.1 10.0.0.1:80 w=1", "b",
		"set aside: 0.test.: no such name (NXDOMAIN): the service is taken for absent"))
}

// TestTargetsAreServedStale is RFC 8767 for the hosts behind SRV records.
func TestTargetsAreServedStale(t *testing.T) {
	s := newStub(t, "_a._tcp.test. 1 IN SRV 0 1 1 x.test.", "_a._tcp.test. 1 IN SRV 0 1 2 y.test.", "x.test. 1 IN A 10.0.0.1", "y.test. 1 IN A 10.0.0.2")
	rec := run(t, Config{Servers: []string{s.addr}, Services: map[string]Service{"a": {Name: "_a._tcp.test."}}})
	x, y := "a x.test.:1 10.0.0.1:0 w=1 via 10.0.0.1:1", "a y.test.:2 10.0.0.2:0 w=1 via 10.0.0.2:2"
	eventually(t, "both targets are listed", rec.Shows("a", x, y))
	s.say("x.test.", miekg.RcodeServerFailure)
	eventually(t, "a target's failure is told", rec.failsWith("service a: _a._tcp.test. SRV, target x.test. A/AAAA", "SERVFAIL"))
	s.drop("y.test.")
	s.add(t, "y.test. 1 IN A 10.0.0.3")
	y = "a y.test.:2 10.0.0.3:0 w=1 via 10.0.0.3:2"
	eventually(t, "the other's change is listed beside the stale one", rec.Shows("a", x, y))

	s.say("z.test.", miekg.RcodeServerFailure)
	s.add(t, "_a._tcp.test. 1 IN SRV 0 1 3 z.test.")
	eventually(t, "a new target that cannot be read is set aside", func() error {
		if v := rec.View(); !strings.Contains(v, x) || !strings.Contains(v, y) || !strings.Contains(v, "_a._tcp.test. SRV z.test.:3: its target's addresses cannot be read, and never were") {
			return errors.New(v)
		}
		return nil
	})
	s.mu.Lock()
	clear(s.rcodes)
	s.mu.Unlock()
	s.add(t, "z.test. 1 IN A 10.0.0.4")
	eventually(t, "all is well", rec.Shows("a", x, y, "a z.test.:3 10.0.0.4:0 w=1 via 10.0.0.4:3"))
	eventually(t, "and said to be", rec.Trouble)
}

// TestAServiceIsNotEmptiedByAFailure: what took the place of its targets cannot be read. That is
// neither "none" nor all that is left.
func TestAServiceIsNotEmptiedByAFailure(t *testing.T) {
	s := newStub(t, "_a._tcp.test. 1 IN SRV 0 1 1 x.test.", "x.test. 1 IN A 10.0.0.1", "_b._tcp.test. 1 IN SRV 0 0 0 .")
	s.say("y.test.", miekg.RcodeServerFailure)
	rec := run(t, Config{Servers: []string{s.addr}, Services: map[string]Service{"a": {Name: "_a._tcp.test."}, "b": {Name: "_b._tcp.test."}}})
	before := []string{"a", "a x.test.:1 10.0.0.1:0 w=1 via 10.0.0.1:1", "b"}
	eventually(t, "one is listed, the other is empty", rec.Shows(before...))
	point := func(name, to string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.records[question{name, miekg.TypeSRV}] = []miekg.RR{rr(t, name+" 1 IN SRV 0 1 1 "+to)}
	}
	point("_a._tcp.test.", "y.test.")
	eventually(t, "the new target's failure is told", rec.failsWith("service a: _a._tcp.test. SRV, target y.test. A/AAAA", "SERVFAIL"))
	if err := rec.Shows(before...)(); err != nil {
		t.Error(err)
	}
	s.say("y.test.", miekg.RcodeNameError)
	eventually(t, "what the DNS says for certain counts", rec.Shows("a", "b", "set aside: _a._tcp.test. SRV y.test.:1: no such target (NXDOMAIN)"))
	eventually(t, "which is no failure", rec.Trouble)
	s.say("y.test.", miekg.RcodeServerFailure)
	point("_b._tcp.test.", "z.test.")
	s.say("z.test.", miekg.RcodeServerFailure)
	eventually(t, "an empty service with a target that cannot be read is not confirmed empty", rec.failsWith("service a (and 1 more)", "SERVFAIL"))
}

func TestAFirstReadWithoutOneTargetPublishesNothing(t *testing.T) {
	s := newStub(t, "_a._tcp.test. 1 IN SRV 0 1 1 x.test.", "_a._tcp.test. 1 IN SRV 0 1 2 y.test.", "x.test. 1 IN A 10.0.0.1", "y.test. 1 IN A 10.0.0.2")
	s.say("y.test.", miekg.RcodeServerFailure)
	rec := run(t, Config{Servers: []string{s.addr}, Services: map[string]Service{"a": {Name: "_a._tcp.test."}}})
	eventually(t, "the target is told", rec.failsWith("target y.test.", "SERVFAIL"))
	if updates, _, _ := rec.counts(); updates > 0 {
		t.Error("a partial read was published")
	}
	s.say("y.test.", miekg.RcodeNameError)
	eventually(t, "what the DNS says for certain is published", rec.Shows("a", "a x.test.:1 10.0.0.1:0 w=1 via 10.0.0.1:1",
		"set aside: _a._tcp.test. SRV y.test.:2: no such target (NXDOMAIN)"))
}

func TestAliasesAreFollowed(t *testing.T) {
	s := newStub(t,
		"a.test. 1 IN CNAME b.test.", "b.test. 1 IN CNAME c.test.", "c.test. 1 IN A 10.0.0.1",
		"_s._tcp.test. 1 IN CNAME _t._tcp.test.", "_t._tcp.test. 1 IN SRV 0 1 9 a.test.",
		"l1.test. 1 IN CNAME l2.test.", "l2.test. 1 IN CNAME l1.test.",
		"_l._tcp.test. 1 IN SRV 0 1 9 l1.test.", "_l._tcp.test. 1 IN SRV 0 1 8 c.test.",
		"n.test. 1 IN CNAME none.test.")
	rec := run(t, Config{Servers: []string{s.addr}, Services: map[string]Service{
		"a": {Name: "a.test.", Port: 80}, "s": {Name: "_s._tcp.test."},
		"circle": {Name: "l1.test.", Port: 80}, "l": {Name: "_l._tcp.test."}, "n": {Name: "n.test.", Port: 80},
	}})
	eventually(t, "the ends are listed, circles set aside", rec.Shows(
		"a", "a 10.0.0.1 10.0.0.1:80 w=1",
		"s", "s a.test.:9 10.0.0.1:0 w=1 via 10.0.0.1:9",
		"circle", "set aside: l1.test.: its aliases run in a circle: l1.test. -> l2.test. -> l1.test.",
		"l", "l c.test.:8 10.0.0.1:0 w=1 via 10.0.0.1:8",
		"set aside: _l._tcp.test. SRV l1.test.:9: target: its aliases run in a circle: l1.test. -> l2.test. -> l1.test.",
		"set aside: n.test.: no such name (NXDOMAIN): the service is taken for absent"))
	eventually(t, "which is no failure", rec.Trouble)
}

// TestQuestionsAreAskedOnceForAll: services that share names share answers, and TTLs are kept to.
func TestQuestionsAreAskedOnceForAll(t *testing.T) {
	s := newStub(t, zoneOf("_a._tcp.test.", 20)...)
	services := map[string]Service{}
	for i := range 10 {
		services[fmt.Sprintf("s%d", i)] = Service{Name: "_a._tcp.test."}
	}
	rec := run(t, Config{Servers: []string{s.addr}, Services: services, Timeout: 10 * time.Second})
	eventually(t, "all are read", rec.Trouble)
	if n, _ := s.times("_a._tcp.test.", miekg.TypeSRV); n > 2 {
		t.Errorf("the same question was asked %d times for 10 services", n)
	}
	pass(t, 3*time.Second)
	srv, all := s.times("_a._tcp.test.", miekg.TypeSRV)
	if srv < 3 || srv > 8 {
		t.Errorf("a name was asked for %d times in 3 s, want about one a second to know that the server is there", srv)
	}
	if all-srv != 20 {
		t.Errorf("addresses with a TTL of a minute were asked for %d times, want once for each of 20", all-srv)
	}
}

func TestAnIdleRegistryIsConfirmedInTurn(t *testing.T) {
	s := newStub(t)
	services := map[string]Service{}
	for i := range 3 {
		s.add(t, fmt.Sprintf("s%d.test. 3600 IN A 10.0.0.%d", i, i))
		services[fmt.Sprintf("s%d", i)] = Service{Name: fmt.Sprintf("s%d.test.", i), Port: 1}
	}
	rec := run(t, Config{Servers: []string{s.addr}, Services: services})
	eventually(t, "all are read", rec.Trouble)
	_, before, _ := rec.counts()
	pass(t, 5*time.Second)
	_, after, _ := rec.counts()
	if n := after - before; n < 3 || n > 8 {
		t.Errorf("%d confirmations in 5 s, want about 5", n)
	}
	for i := range 3 {
		if n, _ := s.times(fmt.Sprintf("s%d.test.", i), miekg.TypeA); n < 2 {
			t.Errorf("s%d was never asked for again", i)
		}
	}
}

func TestTheSystemsServersAreReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	rec := run(t, Config{Services: map[string]Service{"a": {Name: "a.test.", Port: 80}}, Timeout: 200 * time.Millisecond}, func(r *Resolver) {
		r.resolvConf = path
	})
	eventually(t, "a missing file is told", rec.failsWith("resolv.conf", "write servers in the dns block"))
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("search example.\n")
	eventually(t, "a file without servers is told", rec.failsWith("names no server"))
	// The file's format knows no port, so the stub cannot be named in it.
	write("nameserver 127.83.12.9\nnameserver 127.83.12.9\n")
	eventually(t, "its servers are asked", rec.failsWith("127.83.12.9:53"))
}

func TestRunEndsWhileServersAreSilent(t *testing.T) {
	s := newStub(t)
	s.say("a.test.", -1)
	r, err := New(Config{Servers: []string{s.addr}, Timeout: time.Minute, Services: map[string]Service{"a": {Name: "a.test.", Port: 80}}}, deps(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testkit.Context(t))
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, newRecord()) }()
	eventually(t, "it asks", func() error {
		if n, _ := s.times("a.test.", miekg.TypeA); n == 0 {
			return errors.New("nothing was asked")
		}
		return nil
	})
	cancel()
	began := time.Now()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v to end", took)
	}
}
