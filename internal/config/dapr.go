package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/farcall/farcall/internal/catalog"
)

// Dapr is the listener for Dapr sidecars, and who is told of it.
type Dapr struct {
	// Listen is host:port. Port 0 takes a free one.
	Listen string `yaml:"listen"`
	// Insecure allows plaintext on an address that is not loopback.
	Insecure bool `yaml:"insecure,omitempty"`
	// TLS is the listener's certificate; nil: it is plaintext.
	TLS *ServerTLS `yaml:"tls,omitempty"`
	// Announce has it announced by multicast DNS; nil: nobody is told.
	Announce *Announce `yaml:"announce,omitempty"`
}

// Announce says where the applications that live in other clusters are announced.
type Announce struct {
	// Interfaces are the names of the network interfaces; empty: the one that has the address of
	// Listen, or, where that is unspecified, all that can multicast.
	Interfaces []string `yaml:"interfaces,omitempty"`
}

// Listener gives the listener alone.
func (d *Dapr) Listener() Listener {
	return Listener{Listen: d.Listen, Insecure: d.Insecure, TLS: d.TLS}
}

// dapr checks the listener for Dapr sidecars, which dial TCP only.
func (v *validator) dapr(d *Dapr) {
	switch {
	case d == nil:
		return
	case d.Listen == "":
		v.missing("dapr", "listen", true, "want where the sidecars of this node call, for example listen: 127.0.0.1:50003")
	default:
		v.listener("dapr", d.Listener(), "50003", false)
	}
	if d.Announce == nil {
		return
	}
	v.interfaces("dapr.announce.interfaces", d.Announce.Interfaces)
	if d.Listen != "" && catalog.IsLoopback(d.Listen) {
		v.errorf("dapr.announce", "stands beside dapr.listen: %s, which is loopback: sidecars that hear of it would call their own host; "+
			"listen on an address of the link (and allow it with insecure: true), or leave announce out", d.Listen)
	}
}

// interfaces checks a list of names of network interfaces.
func (v *validator) interfaces(at string, list []string) {
	for i, name := range list {
		at := fmt.Sprintf("%s[%d]", at, i)
		switch {
		// The kernel's bounds: IFNAMSIZ, and dev_valid_name.
		case name == "" || len(name) > 15 || strings.ContainsAny(name, "/: \t\n"):
			v.errorf(at, "%q is not the name of a network interface, such as eth0", name)
		case slices.Index(list, name) < i:
			v.errorf(at, "%s is listed twice", name)
		}
	}
}
