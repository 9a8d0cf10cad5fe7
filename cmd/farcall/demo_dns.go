package main

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/miekg/dns"
)

// demoName is where west's instances of cart stand in the DNS.
const demoName = "_cart._tcp.west.demo."

// demoDNS is a DNS server on loopback that knows one name: the registry of the demo's west.
type demoDNS struct {
	server *dns.Server
	done   chan error
}

func newDemoDNS(apps []*echo) (*demoDNS, error) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	var answer, addresses []dns.RR
	for _, e := range apps {
		host := e.id + ".west.demo."
		header := func(name string, kind uint16) dns.RR_Header {
			return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: 1}
		}
		answer = append(answer, &dns.SRV{Hdr: header(demoName, dns.TypeSRV), Weight: 1, Port: uint16(e.port()), Target: host})
		addresses = append(addresses, &dns.A{Hdr: header(host, dns.TypeA), A: net.IPv4(127, 0, 0, 1)})
	}
	d := &demoDNS{done: make(chan error, 1)}
	d.server = &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Authoritative = true
		switch name := q.Question[0]; {
		case name.Name == demoName && name.Qtype == dns.TypeSRV:
			m.Answer, m.Extra = answer, addresses
		case name.Name != demoName:
			for _, a := range addresses {
				if a.Header().Name == name.Name && name.Qtype == dns.TypeA {
					m.Answer = append(m.Answer, a)
				}
			}
		}
		_ = w.WriteMsg(m) // who asked asks again
	})}
	started := make(chan struct{})
	d.server.NotifyStartedFunc = func() { close(started) }
	go func() { d.done <- d.server.ActivateAndServe() }()
	select {
	case <-started:
		return d, nil
	case err := <-d.done:
		return nil, fmt.Errorf("dns: %w", err)
	}
}

func (d *demoDNS) address() string { return d.server.PacketConn.LocalAddr().String() }

func (d *demoDNS) close() {
	if err := errors.Join(d.server.Shutdown(), <-d.done); err != nil {
		fmt.Fprintln(os.Stderr, "dns:", err)
	}
}
