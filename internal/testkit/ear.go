//go:build linux

package testkit

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// Ear hears what is said by multicast DNS on a network, of instances of applications, and asks. It
// ends with its test.
type Ear struct {
	t     testing.TB
	conn  *net.UDPConn
	mu    sync.Mutex
	heard []Saying
}

// Saying is that an instance, by its label, was said to be one of an application, or taken back.
type Saying struct {
	Label, App string
	Bye        bool
}

// multicastDNS is where everybody listens (RFC 6762 section 3).
var multicastDNS = &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353}

// Listen gives an Ear on the network of a host, which must be the test itself (Network.Attach).
func Listen(t testing.TB, h *Host) *Ear {
	t.Helper()
	link, err := net.InterfaceByName(h.Link)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenMulticastUDP("udp4", link, multicastDNS)
	if err != nil {
		t.Fatal(err)
	}
	e, done := &Ear{t: t, conn: conn}, make(chan struct{})
	go func() {
		defer close(done)
		e.hear()
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done }) // nothing that was sent can be lost by it
	return e
}

// hear notes what is said, until the connection is closed.
func (e *Ear) hear() {
	b := make([]byte, 9001) // RFC 6762 section 17
	for {
		n, _, err := e.conn.ReadFromUDP(b)
		if err != nil {
			return
		}
		var m dns.Msg
		if m.Unpack(b[:n]) != nil || !m.Response {
			continue
		}
		e.mu.Lock()
		for _, rr := range m.Answer {
			if p, ok := rr.(*dns.PTR); ok && strings.HasSuffix(p.Ptr, "."+p.Hdr.Name) {
				e.heard = append(e.heard, Saying{
					Label: strings.TrimSuffix(p.Ptr, "."+p.Hdr.Name), App: strings.TrimSuffix(p.Hdr.Name, ".local."), Bye: p.Hdr.Ttl == 0,
				})
			}
		}
		e.mu.Unlock()
	}
}

// Forget drops what was heard so far.
func (e *Ear) Forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard = nil
}

// Heard says in an error that something was not heard, and what was.
func (e *Ear) Heard(s Saying) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Contains(e.heard, s) {
		return fmt.Errorf("%+v was not heard, but %+v", s, e.heard)
	}
	return nil
}

// Until waits until something is heard that was not forgotten.
func (e *Ear) Until(what string, s Saying) {
	e.t.Helper()
	Eventually(e.t, Context(e.t), what, func() error { return e.Heard(s) })
}

// Answered asks for an application until somebody answers with this label.
func (e *Ear) Answered(label, app string) {
	e.t.Helper()
	Eventually(e.t, Context(e.t), label+" answers for "+app, func() error {
		return errors.Join(e.ask(app), e.Heard(Saying{Label: label, App: app}))
	})
}

// Silent checks that somebody does not answer for an application. Both are asked for at once: the
// other one is answered for, and one who answers for both does so at once.
func (e *Ear) Silent(label, app, other string) {
	e.t.Helper()
	e.Forget()
	Eventually(e.t, Context(e.t), label+" answers for "+other, func() error {
		return errors.Join(e.ask(app, other), e.Heard(Saying{Label: label, App: other}))
	})
	if e.Heard(Saying{Label: label, App: app}) == nil {
		e.t.Errorf("%s answers for %s", label, app)
	}
}

// ask asks for applications, all in one packet.
func (e *Ear) ask(apps ...string) error {
	var m dns.Msg
	for _, app := range apps {
		m.Question = append(m.Question, dns.Question{Name: app + ".local.", Qtype: dns.TypePTR, Qclass: dns.ClassINET})
	}
	b, err := m.Pack()
	if err == nil {
		_, err = e.conn.WriteTo(b, multicastDNS)
	}
	return err
}
