package mdns

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

func TestWhichInterfacesWillDo(t *testing.T) {
	good := nicAt(1, "eth0", "10.0.0.1/24", "fe80::1/64")
	for _, tt := range []struct {
		name          string
		nic           nic
		found, chosen string // what is in the way of one that was found, or named
	}{
		{name: "an ordinary one", nic: good},
		{name: "IPv6 alone", nic: nicAt(1, "eth0", "fd00::1/64", "fe80::1/64")},
		{name: "an IPv4 address that it gave itself", nic: nicAt(1, "eth0", "169.254.7.7/16")},
		{name: "a port of a bridge", nic: nicAt(1, "veth0", "fe80::1/64"), found: "link-local"},
		{name: "loopback", nic: nic{flags: plainFlags | net.FlagLoopback, prefixes: good.prefixes, v4: true}, found: "loopback"},
		{name: "a tunnel", nic: nic{flags: plainFlags | net.FlagPointToPoint, prefixes: good.prefixes, v4: true}, found: "point-to-point"},
		{name: "without multicast", nic: nic{flags: plainFlags &^ net.FlagMulticast, prefixes: good.prefixes, v4: true}, found: "multicast", chosen: "multicast"},
		{name: "down", nic: nic{flags: plainFlags &^ net.FlagUp, prefixes: good.prefixes, v4: true}, found: "down", chosen: "down"},
		{name: "unplugged", nic: nic{flags: plainFlags &^ net.FlagRunning, prefixes: good.prefixes, v4: true}, found: "carrier", chosen: "carrier"},
		{name: "without an address", nic: nic{flags: plainFlags}, found: "no address", chosen: "no address"},
	} {
		for chosen, want := range map[bool]string{false: tt.found, true: tt.chosen} {
			if got := tt.nic.trouble(chosen); (got == "") != (want == "") || !strings.Contains(got, want) {
				t.Errorf("%s, chosen %v: %q, want %q", tt.name, chosen, got, want)
			}
		}
	}
}

func TestIdentity(t *testing.T) {
	for want, nics := range map[string][]nic{
		"":                          nil,
		"10.8.0.0/24":               {nicAt(1, "eth0", "10.8.0.7/24", "fd00::7/64", "fe80::1/64")},
		"fd00::/64":                 {nicAt(1, "eth0", "fd00::7/64", "fe80::1/64")},
		"10.8.0.0/24,172.16.0.0/12": {nicAt(2, "eth1", "172.16.3.4/12"), nicAt(1, "eth0", "10.8.0.7/24"), nicAt(3, "eth2", "10.8.0.9/24")},
	} {
		if got := identity(nics); got != want {
			t.Errorf("%v are called %q, want %q", nics, got, want)
		}
	}
}

func TestOnLink(t *testing.T) {
	n := nicAt(1, "eth0", "10.8.0.7/24", "fd00::7/64")
	for addr, want := range map[string]bool{
		"10.8.0.9": true, "10.8.1.9": false, "::ffff:10.8.0.9": true, "fd00::9": true, "fd01::9": false, "fe80::9%eth0": true, "169.254.3.4": true,
	} {
		if got := n.onLink(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
	if !n.own(netip.MustParseAddr("::ffff:10.8.0.7")) || n.own(netip.MustParseAddr("10.8.0.9")) {
		t.Error("own addresses are not told from others")
	}
}

func TestALoopbackIsNotToldToOthers(t *testing.T) {
	addrs := []netip.Addr{netip.MustParseAddr("10.8.0.7"), netip.MustParseAddr("127.0.0.1")}
	if got := nicAt(1, "eth0", "10.8.0.7/24").reachable(addrs); len(got) != 1 || got[0] != addrs[0] {
		t.Errorf("announced are %v", got)
	}
	if got := (nic{flags: plainFlags | net.FlagLoopback}).reachable(addrs); len(got) != 2 {
		t.Errorf("on the loopback itself, announced are %v", got)
	}
}

func TestTheNearestAddressIsChosen(t *testing.T) {
	prefixes := []netip.Prefix{netip.MustParsePrefix("10.8.0.7/24"), netip.MustParsePrefix("fd00::7/64")}
	for want, list := range map[string]string{
		"10.8.0.9":    "172.17.0.1 10.8.0.9 fd00::9 fe80::9",
		"10.8.0.5":    "10.8.0.9 10.8.0.5",
		"fd00::9":     "172.17.0.1 fd00::9 fe80::9 2001:db8::1",
		"172.17.0.1":  "2001:db8::1 172.17.0.1 127.0.0.1",
		"2001:db8::1": "2001:db8::1 127.0.0.1 fe80::1",
		"127.0.0.1":   "127.0.0.1 fe80::1",
		"fe80::1":     "fe80::1",
	} {
		var addrs []netip.Addr
		for s := range strings.FieldsSeq(list) {
			addrs = append(addrs, netip.MustParseAddr(s))
		}
		if got := pickAddress(addrs, prefixes); got.String() != want {
			t.Errorf("of %s: %s, want %s", list, got, want)
		}
	}
}
