//go:build real && unix

package testkit

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestRealDNSServersServeWhatTheirZonesSayAndRefuseTheRest(t *testing.T) {
	for name, start := range map[string]func(testing.TB, ...string) *DNSServer{"CoreDNS": CoreDNS, "named": Named} {
		t.Run(name, func(t *testing.T) {
			s := start(t, "one.test.", "two.test.")
			s.SetZone("one.test.", "a A 10.0.0.1")
			s.SetZone("two.test.", "a A 10.0.0.2")
			s.SetZone("one.test.", "a A 10.0.0.3")
			answers := func(when string) {
				t.Helper()
				for _, c := range []struct {
					name  string
					rcode int
					want  string
				}{
					{"a.one.test.", dns.RcodeSuccess, "10.0.0.3"},
					{"a.two.test.", dns.RcodeSuccess, "10.0.0.2"},
					{"b.one.test.", dns.RcodeNameError, ""},
					{"a." + BrokenZone, dns.RcodeServerFailure, ""},
					{"a.elsewhere.test.", dns.RcodeRefused, ""},
				} {
					m, _, err := exchange(s, c.name, 10*time.Second)
					if err != nil {
						t.Fatalf("%s: %s: %v", when, c.name, err)
					}
					got := ""
					if len(m.Answer) > 0 {
						got = m.Answer[0].(*dns.A).A.String()
					}
					if m.Rcode != c.rcode || got != c.want {
						t.Errorf("%s: %s is answered with %s %q, want %s %q", when, c.name,
							dns.RcodeToString[m.Rcode], got, dns.RcodeToString[c.rcode], c.want)
					}
				}
			}
			answers("at first")

			s.Pause()
			if _, _, err := exchange(s, "a.one.test.", time.Second); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a paused server: %v, want no answer until the deadline", err)
			}
			s.Resume()
			answers("after a pause")

			s.Kill()
			if _, _, err := exchange(s, "a.one.test.", time.Second); err == nil {
				t.Error("a killed server answers")
			}
			s.SetZone("one.test.", "a A 10.0.0.3", "c A 10.0.0.4")
			s.Start()
			answers("after a restart")
			if m, _, err := exchange(s, "c.one.test.", 10*time.Second); err != nil || len(m.Answer) != 1 {
				t.Errorf("what was written while it was down: %v, %v", m, err)
			}
		})
	}
}

func exchange(s *DNSServer, name string, within time.Duration) (*dns.Msg, time.Duration, error) {
	c := &dns.Client{Timeout: within}
	return c.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), s.Addr)
}
