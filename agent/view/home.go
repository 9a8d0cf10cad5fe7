package view

import (
	"net"
	"net/netip"
	"strings"

	"github.com/farcall/farcall/internal/catalog"
)

// homes says which of the node's applications is where. It is immutable.
type homes struct {
	at   map[netip.Addr]home
	only home
}

// home is an address, or the node, as a place of applications: of one, or of several.
type home struct {
	name    catalog.Name
	several bool
}

func (h home) with(n catalog.Name) home {
	if h.name != (catalog.Name{}) && h.name != n {
		h.several = true
	}
	h.name = n
	return h
}

func (h home) one() (catalog.Name, bool) { return h.name, !h.several && h.name != (catalog.Name{}) }

// OwnAt returns the application of the own node that has this source address, where exactly one
// has it: those of the own instances, and those that the agent was told of. It allocates nothing.
//
// An application that was told of and has no instance is where it would be delivered to, on
// loopback. One at the agent's own address is on loopback too, and the other way round.
func (b *Book) OwnAt(a netip.Addr) (catalog.Name, bool) {
	return b.homes.Load().at[a.Unmap().WithZone("")].one()
}

// OwnOnly returns the node's only application: the one that the agent was told of, or, where it was
// told of none, the one that has instances.
func (b *Book) OwnOnly() (catalog.Name, bool) { return b.homes.Load().only.one() }

// settle finds the homes of the node's applications. Caller holds mu.
func (b *Book) settle(own map[catalog.Name][]*catalog.Instance) *homes {
	h := &homes{at: map[netip.Addr]home{}}
	host, _, _ := net.SplitHostPort(b.cfg.Self.Address)
	machine := append([]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, addresses(host)...)
	put := func(n catalog.Name, list []netip.Addr) {
		for _, a := range list {
			h.at[a] = h.at[a].with(n)
		}
	}
	for n, list := range own {
		for _, i := range list {
			put(n, within(addresses(i.Address), machine))
		}
	}
	for n := range b.cfg.Ports {
		if len(own[n]) == 0 {
			put(n, machine)
		}
		h.only = h.only.with(n)
	}
	if len(b.cfg.Ports) == 0 {
		for n := range own {
			h.only = h.only.with(n)
		}
	}
	return h
}

// within widens a list that has one of the machine's own addresses to all of them.
func within(list, machine []netip.Addr) []netip.Addr {
	for _, a := range list {
		for _, m := range machine {
			if a == m {
				return machine
			}
		}
	}
	return list
}

// addresses gives the source addresses of a host; none for a name, but for that of loopback.
func addresses(host string) []netip.Addr {
	if strings.EqualFold(host, "localhost") {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return nil
	}
	return []netip.Addr{a.Unmap().WithZone("")}
}
