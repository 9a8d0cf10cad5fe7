package mdns

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/farcall/farcall/internal/catalog"
)

// echoPrefix begins the instance label of what Farcall announces for applications that live
// elsewhere, as in farcall-node-1. No resolver takes those, or two clusters would hand each
// other's instances to and fro.
const echoPrefix = "farcall-"

// Keys of the TXT of an instance of ownType. Keys are compared without regard to case, and of a
// key that stands twice the first one counts (RFC 6763 section 6.4).
const (
	keyVersion = "txtvers"
	keyApp     = "app"
	keyNS      = "ns"
	keyNode    = "node"
	keyRelay   = "relay"
	keyID      = "id"
)

// slotKey is what an instance is, by whichever convention and on whichever link it was heard.
type slotKey struct{ app, label string } // both folded

// candidate is what a link says of an instance: a record that can be used, or why it cannot.
type candidate struct {
	key   slotKey
	own   bool // said in ownType, which says more
	usage *catalog.Instance
	aside catalog.SetAside
}

func (c *candidate) equal(o *candidate) bool {
	if c == nil || o == nil {
		return c == o
	}
	if c.key != o.key || c.own != o.own || c.aside != o.aside || (c.usage == nil) != (o.usage == nil) {
		return false
	}
	return c.usage == nil || c.usage.Equal(o.usage)
}

func newCandidate(t *serviceType, app, label string) *candidate {
	return &candidate{key: slotKey{fold(app), fold(label)}, own: t.app == ""}
}

func (c *candidate) refuse(t *serviceType, label, format string, args ...any) *candidate {
	c.aside = catalog.SetAside{
		Record: strings.TrimSuffix(label+"."+t.name, "."),
		Reason: fmt.Sprintf(format, args...),
	}
	return c
}

// convert makes an instance of a complete set of records.
func convert(t *serviceType, label string, srv record, texts []string, addr netip.Addr) *candidate {
	if t.app == "" {
		return convertOwn(t, label, srv, texts, addr)
	}
	c := newCandidate(t, t.app, label)
	if len(texts) == 0 || len(texts) == 1 && texts[0] == "" {
		return c.refuse(t, label, "TXT is empty: Dapr's says the app-id %q", t.app)
	}
	// daprd takes an instance only where every string of the TXT is the app-id.
	app := t.app
	for i, s := range texts {
		if !strings.EqualFold(s, t.app) {
			return c.refuse(t, label, "TXT says %q: Dapr's says the app-id %q and nothing else", s, t.app)
		}
		if i == 0 {
			app = s // DNS does not keep the case of a name, a TXT does
		}
	}
	if srv.port == 0 {
		return c.refuse(t, label, "SRV has port 0")
	}
	c.usage = &catalog.Instance{
		ID:      catalog.ID{Name: catalog.Name{Service: app}, Instance: label},
		Address: addr.String(),
		Relay:   joinPort(addr, int(srv.port)), // Dapr states its sidecar's internal port, not the application's
		Weight:  1,
	}
	return c
}

// convertOwn reads Farcall's own convention.
func convertOwn(t *serviceType, label string, srv record, texts []string, addr netip.Addr) *candidate {
	said := map[string]string{}
	for _, s := range texts {
		key, value, _ := strings.Cut(s, "=")
		key = strings.ToLower(key)
		if _, twice := said[key]; !twice {
			said[key] = value
		}
	}
	c := newCandidate(t, said[keyApp], label)
	switch {
	case said[keyVersion] != "" && said[keyVersion] != "1":
		return c.refuse(t, label, "TXT has %s=%s: this version of Farcall knows 1", keyVersion, said[keyVersion])
	case said[keyApp] == "":
		return c.refuse(t, label, "TXT has no %s=<app-id>", keyApp)
	case srv.port == 0:
		return c.refuse(t, label, "SRV has port 0")
	}
	in := &catalog.Instance{
		ID: catalog.ID{
			Name:     catalog.Name{Namespace: said[keyNS], Service: said[keyApp]},
			Instance: cmp.Or(said[keyID], label),
		},
		Node:    said[keyNode],
		Address: addr.String(),
		Port:    int(srv.port),
		Weight:  1,
	}
	if s, ok := said[keyRelay]; ok {
		port, err := strconv.ParseUint(s, 10, 16)
		if err != nil || port == 0 {
			return c.refuse(t, label, "TXT has %s=%s: want a port, 1 to 65535", keyRelay, s)
		}
		in.Relay = joinPort(addr, int(port))
	}
	c.usage = in
	return c
}

// incomplete says what nobody says of an announced instance.
func incomplete(t *serviceType, label string, txt bool) *candidate {
	c := newCandidate(t, t.app, label)
	what := "address of its host"
	if !txt {
		what = "TXT"
	}
	return c.refuse(t, label, "announced, but nobody answers for the %s", what)
}

func joinPort(addr netip.Addr, port int) string {
	return net.JoinHostPort(addr.String(), strconv.Itoa(port))
}

// pickAddress chooses the address that is most likely to be reached from here: one of the
// link's own prefixes, IPv4 before IPv6 as every daprd can dial it, and of equals the lowest,
// so that the choice does not move. Loopback and link-local come last: they are set aside or
// judged by whoever would dial.
func pickAddress(addrs []netip.Addr, prefixes []netip.Prefix) netip.Addr {
	rank := func(a netip.Addr) int {
		near := slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
		switch {
		case a.IsLinkLocalUnicast():
			return 5
		case a.IsLoopback():
			return 4
		case near && a.Is4():
			return 0
		case near:
			return 1
		case a.Is4():
			return 2
		}
		return 3
	}
	return slices.MinFunc(addrs, func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), a.Compare(b))
	})
}
