package mdns

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// nic is a network interface as it is now.
type nic struct {
	index    int
	name     string
	flags    net.Flags
	v4, v6   bool // it has an address of that family
	prefixes []netip.Prefix
}

// trouble says why nothing can be heard on an interface, or nothing. An interface whose name was
// chosen need not do more than multicast.
func (n nic) trouble(chosen bool) string {
	switch {
	case n.flags&net.FlagMulticast == 0:
		return "cannot multicast"
	case !chosen && n.flags&net.FlagLoopback != 0:
		return "is a loopback"
	case !chosen && n.flags&net.FlagPointToPoint != 0:
		return "is point-to-point"
	case n.flags&net.FlagUp == 0:
		return "is down"
	case n.flags&net.FlagRunning == 0:
		return "has no carrier"
	case !n.v4 && !n.v6:
		return "has no address"
	// A port of a bridge has a link-local address only: what comes in there is heard on the bridge.
	case !chosen && !slices.ContainsFunc(n.prefixes, func(p netip.Prefix) bool { return !p.Addr().IsLinkLocalUnicast() || p.Addr().Is4() }):
		return "has a link-local address only"
	}
	return ""
}

// examiner looks at the interfaces. Their addresses are asked for anew only now and then.
type examiner struct{ known map[string]nic }

// examine gives every interface. Addresses are read where afresh is set, or where the
// interface is new, changed, or was without.
func (x *examiner) examine(afresh bool) ([]nic, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("mdns: list interfaces: %w", err)
	}
	now := make(map[string]nic, len(list))
	all := make([]nic, 0, len(list))
	for _, i := range list {
		n, ok := x.known[i.Name]
		if same := ok && n.index == i.Index && n.flags == i.Flags && len(n.prefixes) > 0; afresh || !same {
			n = nic{index: i.Index, name: i.Name, flags: i.Flags}
			addrs, err := i.Addrs()
			if err != nil {
				continue // it went away meanwhile
			}
			n.address(addrs)
		}
		now[n.name] = n
		all = append(all, n)
	}
	x.known = now
	slices.SortFunc(all, func(a, b nic) int { return cmp.Compare(a.name, b.name) })
	return all, nil
}

func (n *nic) address(addrs []net.Addr) {
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue // an interface of a kind that has no prefixes
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits())
		n.prefixes = append(n.prefixes, p)
		n.v4 = n.v4 || p.Addr().Is4()
		n.v6 = n.v6 || p.Addr().Is6()
	}
	slices.SortFunc(n.prefixes, netip.Prefix.Compare)
}

// onLink says whether an address belongs to the interface's link (RFC 6762 section 11).
func (n nic) onLink(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return a.IsLinkLocalUnicast() || slices.ContainsFunc(n.prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// own says whether an address is one of the interface's.
func (n nic) own(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(n.prefixes, func(p netip.Prefix) bool { return p.Addr() == a })
}

// reachable gives those of some addresses of this host that the hosts of the interface's link may
// reach: to them, a loopback would be their own.
func (n nic) reachable(addrs []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool {
		return a.IsLoopback() && n.flags&net.FlagLoopback == 0
	})
}

// face gives the address of the interface that the hosts of its link call: an IPv4 one, where it has one,
// rather than IPv6, which with v4 is not given at all. A link-local IPv4 address is the last of its family,
// and a link-local IPv6 one is none, since it means nothing without the caller's own interface. Not
// valid: it has none.
func (n nic) face(v4 bool) (face netip.Addr) {
	rank := func(a netip.Addr) int {
		switch {
		case a.Is4() && !a.IsLinkLocalUnicast():
			return 3
		case a.Is4():
			return 2
		case !v4 && !a.IsLinkLocalUnicast():
			return 1
		}
		return 0
	}
	best := 0
	for _, p := range n.prefixes {
		if r := rank(p.Addr()); r > best && !p.Addr().IsLoopback() {
			face, best = p.Addr(), r
		}
	}
	return face
}

// identity names the links that a set of interfaces is on: their IPv4 subnets, or where one has
// none, its IPv6 prefixes but the link-local one. Hosts of the same links say the same, in the
// ordinary case.
func identity(nics []nic) string {
	var names []string
	for _, n := range nics {
		for _, p := range n.prefixes {
			if p.Addr().Is4() != n.v4 || p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
				continue
			}
			names = append(names, p.Masked().String())
		}
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}
