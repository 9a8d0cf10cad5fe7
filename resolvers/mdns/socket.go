package mdns

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// port is multicast DNS's own.
const port = 5353

var (
	group4 = netip.MustParseAddr("224.0.0.251")
	group6 = netip.MustParseAddr("ff02::fb")
)

// packet is what came in.
type packet struct {
	index int // of the interface
	// pulse says that it is a pulse of this very station.
	pulse     bool
	src       netip.AddrPort
	multicast bool // it was sent to the group
	data      []byte
}

// station has the sockets of one Run: per family one that hears and speaks, and one for pulses.
//
// A pulse is a packet to the group that never leaves the host (its TTL is 0). It comes back
// where the interface is up, the group is joined and no filter drops it: the sign that we hear
// what is said on the link, though nobody else may have anything to say. It asks for a random
// name, as other listeners of the host complain about packets that are nothing.
type station struct {
	families []*family
	beacon   []byte
	in       chan packet
	failed   chan error
	done     context.Context
	stop     context.CancelFunc
	readers  sync.WaitGroup
}

// family is the sockets of one address family.
type family struct {
	name   string
	group  *net.UDPAddr
	conn   *net.UDPConn
	pulses *net.UDPConn
	joined map[int]bool

	read  func(b []byte) (n, index int, dst net.IP, src net.Addr, err error)
	write func(b []byte, index int, to net.Addr) error
	pulse func(b []byte, index int) error
	join  func(*net.Interface) error
	leave func(*net.Interface) error
}

// open opens the sockets and starts a reader for each family that the host has. ctx does not
// end it: close does.
func open() (*station, error) {
	s := &station{in: make(chan packet, 64), failed: make(chan error, 2)}
	var q query
	q.add(question{rand.Text() + ".farcall-pulse." + domain, dns.TypeTXT}, nil)
	beacons, err := q.packets()
	if err != nil {
		return nil, fmt.Errorf("mdns: %w", err)
	}
	s.beacon = beacons[0]
	s.done, s.stop = context.WithCancel(context.Background())
	var errs []error
	for _, f := range []func() (*family, error){open4, open6} {
		fam, err := f()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.families = append(s.families, fam)
	}
	if len(s.families) == 0 {
		s.stop()
		return nil, fmt.Errorf("mdns: listen on UDP port %d: %w: does another program hold it without sharing?", port, errors.Join(errs...))
	}
	for _, f := range s.families {
		// Everybody answers the first questions within a tenth of a second. Less room than this, where
		// the system does not grant it, loses packets, which the next round brings again.
		_ = f.conn.SetReadBuffer(2 << 20)
		s.readers.Go(func() { s.hear(f) })
	}
	return s, nil
}

// close ends the readers and waits for them.
func (s *station) close() {
	s.stop()
	for _, f := range s.families {
		_ = f.conn.Close() // nothing that was written can be lost by it
		_ = f.pulses.Close()
	}
	s.readers.Wait()
}

// hear reads until the station is closed or the socket fails.
func (s *station) hear(f *family) {
	buf := make([]byte, 9000+1) // RFC 6762 section 17: no message is larger than 9000 bytes
	for {
		n, index, dst, from, err := f.read(buf)
		if err != nil {
			if s.done.Err() == nil {
				s.failed <- fmt.Errorf("mdns: read from %s: %w", f.name, err)
			}
			return
		}
		src, ok := from.(*net.UDPAddr)
		if !ok || index == 0 {
			continue
		}
		p := packet{index: index, src: src.AddrPort(), multicast: dst.IsMulticast()}
		if p.pulse = bytes.Equal(buf[:n], s.beacon); !p.pulse {
			p.data = bytes.Clone(buf[:n])
		}
		select {
		case s.in <- p:
		case <-s.done.Done():
			return
		}
	}
}

// join joins the group on an interface, in every family that it has an address of.
func (s *station) join(n nic) error {
	var errs []error
	heard := false
	for _, f := range s.families {
		if v4 := f.group.IP.To4() != nil; v4 && !n.v4 || !v4 && !n.v6 {
			continue
		}
		if f.joined[n.index] {
			heard = true
			continue
		}
		if err := f.join(&net.Interface{Index: n.index, Name: n.name}); err != nil {
			errs = append(errs, err)
			continue
		}
		f.joined[n.index] = true
		heard = true
	}
	if heard {
		return nil
	}
	return errors.Join(errs...)
}

// leave forgets an interface, so that it is joined anew when it is back.
func (s *station) leave(n nic) {
	for _, f := range s.families {
		if f.joined[n.index] {
			delete(f.joined, n.index)
			_ = f.leave(&net.Interface{Index: n.index, Name: n.name}) // it may be gone already
		}
	}
}

// say sends a packet to the group on one interface, in each family that it was joined in. It
// fails where none of them took it.
func (s *station) say(index int, b []byte) error {
	return s.each(index, func(f *family) error { return f.write(b, index, f.group) })
}

// beat sends a pulse.
func (s *station) beat(index int) error {
	return s.each(index, func(f *family) error { return f.pulse(s.beacon, index) })
}

func (s *station) each(index int, send func(*family) error) error {
	var errs []error
	sent := false
	for _, f := range s.families {
		if !f.joined[index] {
			continue
		}
		if err := send(f); err != nil {
			errs = append(errs, fmt.Errorf("mdns: send to %s: %w", f.group.IP, err))
			continue
		}
		sent = true
	}
	if sent {
		return nil
	}
	return errors.Join(errs...)
}

// tell sends a packet to one listener.
func (s *station) tell(index int, to netip.AddrPort, b []byte) error {
	for _, f := range s.families {
		if (f.group.IP.To4() != nil) == to.Addr().Unmap().Is4() {
			return f.write(b, index, net.UDPAddrFromAddrPort(to))
		}
	}
	return nil // it came in by a family that is closed now
}

// writeTime bounds a send: a full queue is no reason to wait.
const writeTime = 100 * time.Millisecond

func open4() (*family, error) {
	// For a group's address net sets SO_REUSEADDR, so that all listeners of a host share the port,
	// and binds the wildcard.
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: group4.AsSlice(), Port: port})
	if err != nil {
		return nil, err
	}
	pulses, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4zero})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	p, pp := ipv4.NewPacketConn(conn), ipv4.NewPacketConn(pulses)
	err = errors.Join(
		p.SetControlMessage(ipv4.FlagInterface|ipv4.FlagDst, true),
		p.SetMulticastLoopback(true), // other programs of this host listen, too
		p.SetMulticastTTL(255), p.SetTTL(255),
		pp.SetMulticastLoopback(true), pp.SetMulticastTTL(0),
	)
	if err != nil {
		return nil, errors.Join(err, conn.Close(), pulses.Close())
	}
	group := &net.UDPAddr{IP: group4.AsSlice(), Port: port}
	send := func(p *ipv4.PacketConn, b []byte, index int, to net.Addr) error {
		if err := p.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
			return err
		}
		_, err := p.WriteTo(b, &ipv4.ControlMessage{IfIndex: index}, to)
		return err
	}
	return &family{
		name: "IPv4", group: group, conn: conn, pulses: pulses, joined: map[int]bool{},
		read: func(b []byte) (int, int, net.IP, net.Addr, error) {
			n, cm, src, err := p.ReadFrom(b)
			if cm == nil {
				return n, 0, nil, src, err
			}
			return n, cm.IfIndex, cm.Dst, src, err
		},
		write: func(b []byte, index int, to net.Addr) error { return send(p, b, index, to) },
		pulse: func(b []byte, index int) error { return send(pp, b, index, group) },
		join:  func(i *net.Interface) error { return p.JoinGroup(i, group) },
		leave: func(i *net.Interface) error { return p.LeaveGroup(i, group) },
	}, nil
}

func open6() (*family, error) {
	conn, err := net.ListenUDP("udp6", &net.UDPAddr{IP: group6.AsSlice(), Port: port})
	if err != nil {
		return nil, err
	}
	pulses, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6zero})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	p, pp := ipv6.NewPacketConn(conn), ipv6.NewPacketConn(pulses)
	err = errors.Join(
		p.SetControlMessage(ipv6.FlagInterface|ipv6.FlagDst, true),
		p.SetMulticastLoopback(true),
		p.SetMulticastHopLimit(255), p.SetHopLimit(255),
		pp.SetMulticastLoopback(true), pp.SetMulticastHopLimit(0),
	)
	if err != nil {
		return nil, errors.Join(err, conn.Close(), pulses.Close())
	}
	group := &net.UDPAddr{IP: group6.AsSlice(), Port: port}
	send := func(p *ipv6.PacketConn, b []byte, index int, to net.Addr) error {
		if err := p.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
			return err
		}
		_, err := p.WriteTo(b, &ipv6.ControlMessage{IfIndex: index}, to)
		return err
	}
	return &family{
		name: "IPv6", group: group, conn: conn, pulses: pulses, joined: map[int]bool{},
		read: func(b []byte) (int, int, net.IP, net.Addr, error) {
			n, cm, src, err := p.ReadFrom(b)
			if cm == nil {
				return n, 0, nil, src, err
			}
			return n, cm.IfIndex, cm.Dst, src, err
		},
		write: func(b []byte, index int, to net.Addr) error { return send(p, b, index, to) },
		pulse: func(b []byte, index int) error { return send(pp, b, index, group) },
		join:  func(i *net.Interface) error { return p.JoinGroup(i, group) },
		leave: func(i *net.Interface) error { return p.LeaveGroup(i, group) },
	}, nil
}
