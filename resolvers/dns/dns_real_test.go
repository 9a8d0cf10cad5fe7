//go:build real

package dns

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/testkit"
)

func each(t *testing.T, f func(t *testing.T, srv *testkit.DNSServer)) {
	t.Helper()
	for name, start := range servers {
		t.Run(name, func(t *testing.T) { f(t, start(t, zone, "far.test.")) })
	}
}

// TestRealRecords asks real servers for all that a zone can say.
func TestRealRecords(t *testing.T) {
	each(t, func(t *testing.T, srv *testkit.DNSServer) {
		srv.SetZone(zone,
			"web 1 A 10.0.0.1", "web 1 A 10.0.0.2", "web 1 AAAA fd00::1",
			"six 1 AAAA fd00::6",
			"_srv._tcp 1 SRV 10 5 50002 web-1", "_srv._tcp 1 SRV 10 0 50002 six", "_srv._tcp 1 SRV 20 1 50002 host.far.test.",
			"_srv._tcp 1 SRV 10 1 0 web-1", "_srv._tcp 1 SRV 10 1 50002 nobody", "_srv._tcp 1 SRV 10 1 50002 txt",
			"web-1 1 A 10.0.1.1",
			"_off._tcp 1 SRV 0 0 0 .",
			"txt 1 TXT x",
			"alias 1 CNAME alias2", "alias2 1 CNAME host.far.test.",
			"zero 0 A 10.0.0.7", "long 2147483647 A 10.0.0.8",
			"bad 1 A 224.0.0.1",
		)
		srv.SetZone("far.test.", "host 1 A 10.9.9.9")
		a := func(name string) Service { return Service{Name: name + "." + zone, Port: 80} }
		rec := run(t, Config{Servers: []string{srv.Addr}, Services: map[string]Service{
			"web": a("web"), "six": a("six"), "txt": a("txt"), "none": a("none"), "alias": a("alias"), "zero": a("zero"), "long": a("long"), "bad": a("bad"),
			"shop/srv": {Name: "_srv._tcp." + zone}, "off": {Name: "_off._tcp." + zone},
			"both": {Name: "web." + zone, RelayPort: 50002, Family: FamilyBoth},
		}})
		eventually(t, "everything is listed", rec.Shows(
			"web", "web 10.0.0.1 10.0.0.1:80 w=1", "web 10.0.0.2 10.0.0.2:80 w=1",
			"six", "six fd00::6 fd00::6:80 w=1", "txt", "off",
			"both", "both 10.0.0.1 10.0.0.1:0 w=1 via 10.0.0.1:50002", "both 10.0.0.2 10.0.0.2:0 w=1 via 10.0.0.2:50002", "both fd00::1 fd00::1:0 w=1 via [fd00::1]:50002",
			"set aside: none.conf.test.: no such name (NXDOMAIN): the service is taken for absent",
			"alias", "alias 10.9.9.9 10.9.9.9:80 w=1", "zero", "zero 10.0.0.7 10.0.0.7:80 w=1", "long", "long 10.0.0.8 10.0.0.8:80 w=1",
			"bad", "bad 224.0.0.1 224.0.0.1:80 w=1", // intake sets that aside
			"shop/srv", "shop/srv web-1.conf.test.:50002 10.0.1.1:0 w=5 via 10.0.1.1:50002",
			"shop/srv six.conf.test.:50002 fd00::6:0 w=1 via [fd00::6]:50002",
			"shop/srv host.far.test.:50002 10.9.9.9:0 w=0 via 10.9.9.9:50002",
			"set aside: _srv._tcp.conf.test. SRV web-1.conf.test.:0: port 0: nobody could deliver to it",
			"set aside: _srv._tcp.conf.test. SRV nobody.conf.test.:50002: no such target (NXDOMAIN)",
			"set aside: _srv._tcp.conf.test. SRV txt.conf.test.:50002: its target has no address",
		))
		eventually(t, "which is no failure", rec.Trouble)
		srv.SetZone("far.test.", "host 1 A 10.9.9.10")
		eventually(t, "a change behind aliases and targets is seen", func() error {
			if v := rec.View(); !strings.Contains(v, "alias 10.9.9.10 ") || !strings.Contains(v, "srv host.far.test.:50002 10.9.9.10:0") {
				return errors.New(v)
			}
			return nil
		})
	})
}

// TestRealLongAnswers are too long for any datagram.
func TestRealLongAnswers(t *testing.T) {
	each(t, func(t *testing.T, srv *testkit.DNSServer) {
		var records, want []string
		want = append(want, "web", "srv")
		for i := range 200 {
			records = append(records, fmt.Sprintf("web 1 A 10.0.0.%d", i+1), fmt.Sprintf("_srv._tcp 1 SRV 0 1 50002 h%d", i), fmt.Sprintf("h%d 60 A 10.0.1.%d", i, i+1))
			want = append(want, fmt.Sprintf("web 10.0.0.%d 10.0.0.%[1]d:80 w=1", i+1), fmt.Sprintf("srv h%d.conf.test.:50002 10.0.1.%d:0 w=1 via 10.0.1.%[2]d:50002", i, i+1))
		}
		srv.SetZone(zone, records...)
		rec := run(t, Config{Servers: []string{srv.Addr}, Services: map[string]Service{
			"web": {Name: "web." + zone, Port: 80}, "srv": {Name: "_srv._tcp." + zone},
		}})
		eventually(t, "all of 200 are listed", rec.Shows(want...))
	})
}

// TestRealFailuresAreTold: what a person reads in `farcall get clusters`.
func TestRealFailuresAreTold(t *testing.T) {
	each(t, func(t *testing.T, srv *testkit.DNSServer) {
		srv.SetZone(zone, "web 1 A 10.0.0.1", "ill 1 A 10.0.0.2")
		rec := run(t, Config{Servers: []string{srv.Addr}, Services: map[string]Service{
			"web": {Name: "web." + zone, Port: 80}, "ill": {Name: "ill." + zone, Port: 80},
		}})
		list := []string{"web", "web 10.0.0.1 10.0.0.1:80 w=1", "ill", "ill 10.0.0.2 10.0.0.2:80 w=1"}
		eventually(t, "both are listed", rec.Shows(list...))
		stands := func(what string) {
			t.Helper()
			if err := rec.Shows(list...)(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		for target, words := range map[string][]string{
			"x." + testkit.BrokenZone: {"service ill: ill.conf.test. A/AAAA", "SERVFAIL"},
			"x.elsewhere.test.":       {"service ill: ill.conf.test. A/AAAA", "REFUSED", "check the name"},
		} {
			srv.SetZone(zone, "web 1 A 10.0.0.1", "ill 1 CNAME "+target)
			eventually(t, "an alias to "+target+" is told", rec.failsWith(words...))
			stands("with an alias to " + target)
			srv.SetZone(zone, "web 1 A 10.0.0.1", "ill 1 A 10.0.0.2")
			eventually(t, "it is well again", rec.Trouble)
		}
		srv.Pause()
		eventually(t, "silence is told", rec.failsWith("does not answer within 1s"))
		stands("while it hangs")
		srv.Resume()
		recovers(t, rec)
		srv.Kill()
		eventually(t, "a dead server is told", rec.failsWith("cannot be asked over UDP", "refused"))
		stands("while it is down")
		srv.Start()
		recovers(t, rec)
		stands("after all")
	})
}

// recovers wants the registry read again within 5 s of its return.
func recovers(t *testing.T, rec *record) {
	t.Helper()
	began := time.Now()
	eventually(t, "it recovers", rec.Trouble)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestRealCirclesAreSetAside: CoreDNS and named give a circle of aliases each in its own way.
func TestRealCirclesAreSetAside(t *testing.T) {
	each(t, func(t *testing.T, srv *testkit.DNSServer) {
		srv.SetZone(zone, "web 1 A 10.0.0.1", "l1 1 CNAME l2", "l2 1 CNAME l1", "_srv._tcp 1 SRV 0 1 1 l1", "_srv._tcp 1 SRV 0 1 2 web")
		rec := run(t, Config{Servers: []string{srv.Addr}, Services: map[string]Service{
			"circle": {Name: "l1." + zone, Port: 80}, "srv": {Name: "_srv._tcp." + zone},
		}})
		const circle = "its aliases run in a circle: l1.conf.test. -> l2.conf.test. -> l1.conf.test."
		eventually(t, "the good are listed, the circles set aside", rec.Shows(
			"circle", "set aside: l1.conf.test.: "+circle,
			"srv", "srv web.conf.test.:2 10.0.0.1:0 w=1 via 10.0.0.1:2", "set aside: _srv._tcp.conf.test. SRV l1.conf.test.:1: target: "+circle))
		eventually(t, "which is no failure", rec.Trouble)
	})
}

// TestRealSeveralServers has a dead one, a silent one and one that refuses before the one that
// knows, and then loses and regains servers while it reads.
func TestRealSeveralServers(t *testing.T) {
	one, other := testkit.Named(t, "elsewhere.test."), testkit.CoreDNS(t, zone)
	third := testkit.Named(t, zone)
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, s := range []*testkit.DNSServer{other, third} {
		s.SetZone(zone, "web 1 A 10.0.0.1")
	}
	rec := run(t, Config{
		Servers:  []string{silent.LocalAddr().String(), one.Addr, other.Addr, third.Addr},
		Services: map[string]Service{"web": {Name: "web." + zone, Port: 80}},
	})
	eventually(t, "it is found at the third", rec.Shows("web", "web 10.0.0.1 10.0.0.1:80 w=1"))
	other.Kill()
	for _, s := range []*testkit.DNSServer{other, third} {
		s.SetZone(zone, "web 1 A 10.0.0.2")
	}
	eventually(t, "a change is found at the fourth", rec.Shows("web", "web 10.0.0.2 10.0.0.2:80 w=1"))
	third.Pause()
	eventually(t, "each server's failure is told", rec.failsWith(
		silent.LocalAddr().String()+" does not answer", one.Addr+" answers REFUSED", other.Addr+" cannot be asked", third.Addr+" does not answer"))
	other.Start()
	eventually(t, "it goes on with one that is back", rec.Trouble)
	other.SetZone(zone, "web 1 A 10.0.0.3")
	eventually(t, "and reads there", rec.Shows("web", "web 10.0.0.3 10.0.0.3:80 w=1"))
}

// TestRealChangeToPublish logs how long changes take to be published, by TTL.
func TestRealChangeToPublish(t *testing.T) {
	each(t, func(t *testing.T, srv *testkit.DNSServer) {
		for _, ttl := range []int{1, 5, 300} {
			srv.SetZone(zone, fmt.Sprintf("web %d A 10.0.0.1", ttl))
			rec := run(t, Config{Servers: []string{srv.Addr}, Services: map[string]Service{"web": {Name: "web." + zone, Port: 80}}})
			eventually(t, "it is listed", rec.Shows("web", "web 10.0.0.1 10.0.0.1:80 w=1"))
			srv.SetZone(zone, fmt.Sprintf("web %d A 10.0.0.2", ttl))
			began := time.Now()
			eventually(t, "the change is listed", rec.Shows("web", "web 10.0.0.2 10.0.0.2:80 w=1"))
			t.Logf("TTL %d: published %v after the server answered by it", ttl, time.Since(began).Round(time.Millisecond))
		}
	})
}
