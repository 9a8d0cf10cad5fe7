//go:build unix

package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// BrokenZone is a zone of every DNSServer that cannot be loaded: names in it are answered with
// SERVFAIL. Names in no zone of a server are answered with REFUSED.
const BrokenZone = "broken.test."

// DNSServer is a real authoritative DNS server. Its methods are for the test's goroutine only.
type DNSServer struct {
	// Addr is host:port of its UDP and TCP listeners.
	Addr string

	t      testing.TB
	proc   *process
	zones  map[string]*dnsZone
	reload func() // tells a running server that a zone's file is another one; nil: it looks itself
}

type dnsZone struct {
	path    string
	serial  uint32
	records []string
}

// CoreDNS starts a CoreDNS that serves these zones (names with a final dot), empty as yet, for as
// long as the test lives.
func CoreDNS(t testing.TB, zones ...string) *DNSServer {
	t.Helper()
	s := &DNSServer{t: t, zones: map[string]*dnsZone{}}
	launch(t, func() []*process {
		port := FreePort(t)
		s.Addr = fmt.Sprintf("127.0.0.1:%d", port)
		s.proc = newProcess(t, "coredns", "coredns-"+strconv.Itoa(port), "-conf", "Corefile")
		var conf strings.Builder
		for _, z := range zones {
			fmt.Fprintf(&conf, "%s:%d {\n bind 127.0.0.1\n file %s {\n  reload 50ms\n }\n errors\n}\n", z, port, s.addZone(z))
		}
		fmt.Fprintf(&conf, "%s:%d {\n bind 127.0.0.1\n template ANY ANY {\n  rcode SERVFAIL\n }\n}\n", BrokenZone, port)
		s.write("Corefile", conf.String())
		return []*process{s.proc}
	}, s.ready)
	return s
}

// Named is CoreDNS with BIND's server (Debian: bind9), which shares no code with it.
func Named(t testing.TB, zones ...string) *DNSServer {
	t.Helper()
	s := &DNSServer{t: t, zones: map[string]*dnsZone{}}
	s.reload = func() { s.proc.signal(syscall.SIGHUP) }
	launch(t, func() []*process {
		port := FreePort(t)
		s.Addr = fmt.Sprintf("127.0.0.1:%d", port)
		s.proc = newSystemProcess(t, "named", "named-"+strconv.Itoa(port), "-g", "-c", "named.conf", "-p", strconv.Itoa(port), "-n", "1")
		conf := fmt.Sprintf(`options {
	directory %q; pid-file none; session-keyfile none; managed-keys-directory %[1]q;
	listen-on { 127.0.0.1; }; listen-on-v6 { none; };
	recursion no; notify no; dnssec-validation no; minimal-responses no; max-records-per-type 0;
};
controls {};
zone %q { type primary; file "no-such-file"; };
`, s.proc.dir, BrokenZone)
		for _, z := range zones {
			conf += fmt.Sprintf("zone %q { type primary; file %q; check-names ignore; };\n", z, s.addZone(z))
		}
		s.write("named.conf", conf)
		return []*process{s.proc}
	}, s.ready)
	return s
}

// newSystemProcess is newProcess for a server that the system's packages bring.
func newSystemProcess(t testing.TB, binary, name string, args ...string) *process {
	t.Helper()
	path, err := exec.LookPath(binary)
	if err != nil {
		path = filepath.Join("/usr/sbin", binary) // not in everybody's PATH
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: install it (Debian: apt-get install bind9)", err)
	}
	return newProcessAt(t, path, name, args...)
}

// SetZone makes these the records of a zone, in the form of a zone file, beside the SOA and NS that
// each zone has. Where the server runs it returns when the server answers by them; a server that
// does not run will after Start, and a paused one must not be told.
func (s *DNSServer) SetZone(zone string, records ...string) {
	s.t.Helper()
	z := s.zones[zone]
	if z == nil {
		s.t.Fatalf("the server has no zone %s", zone)
	}
	z.serial++
	z.records = records
	s.writeZone(zone)
	if s.proc.cmd == nil {
		return
	}
	if s.reload != nil {
		s.reload()
	}
	Eventually(s.t, Context(s.t), "the server answers by zone "+zone, s.ready)
}

// addZone adds an empty zone and gives its file.
func (s *DNSServer) addZone(zone string) string {
	z := &dnsZone{path: filepath.Join(s.proc.dir, zone+"zone"), serial: 1}
	s.zones[zone] = z
	s.writeZone(zone)
	return z.path
}

func (s *DNSServer) writeZone(zone string) {
	s.t.Helper()
	z := s.zones[zone]
	text := fmt.Sprintf("$ORIGIN %s\n$TTL 1\n@ 1 IN SOA ns hostmaster %d 3600 600 86400 1\n@ 1 IN NS ns\nns 1 IN A 127.0.0.1\n%s\n",
		zone, z.serial, strings.Join(z.records, "\n"))
	s.write(filepath.Base(z.path), text)
}

// write replaces a file as a whole: the server may be reading it.
func (s *DNSServer) write(name, text string) {
	s.t.Helper()
	path := filepath.Join(s.proc.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		s.t.Fatal(err)
	}
}

// ready asks whether every zone is served as it was written last.
func (s *DNSServer) ready() error {
	for name, z := range s.zones {
		m := new(dns.Msg).SetQuestion(name, dns.TypeSOA)
		c := &dns.Client{Timeout: 500 * time.Millisecond}
		r, _, err := c.Exchange(m, s.Addr)
		if err != nil {
			return err
		}
		if len(r.Answer) != 1 {
			return fmt.Errorf("zone %s: %s", name, dns.RcodeToString[r.Rcode])
		}
		if soa, ok := r.Answer[0].(*dns.SOA); !ok || soa.Serial != z.serial {
			return fmt.Errorf("zone %s: %v, want serial %d", name, r.Answer[0], z.serial)
		}
	}
	return nil
}

// Kill ends the server at once. Its zones stay.
func (s *DNSServer) Kill() { s.proc.kill() }

// Start starts a killed server again on the same port and waits until it serves its zones.
func (s *DNSServer) Start() {
	s.t.Helper()
	s.proc.start()
	if err := awaitReady(s.t, []*process{s.proc}, s.ready); err != nil {
		s.t.Fatal(err)
	}
}

// Pause stops the server's work (SIGSTOP): what is sent to it is lost or waits, and nothing is
// answered.
func (s *DNSServer) Pause() { s.proc.pause() }

// Resume ends a Pause.
func (s *DNSServer) Resume() { s.proc.signal(syscall.SIGCONT) }
