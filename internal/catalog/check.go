package catalog

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits on what one record may hold. They bound a value in the store, not anybody's taste.
const (
	MaxNameLength     = 253      // of a namespace, service, cluster or node
	MaxIDLength       = 1024     // of an instance id
	MaxMetadataBytes  = 64 << 10 // keys and values of one instance together
	MaxInstanceWeight = 1 << 16
)

// Check says why a name cannot be used, or nil. Names are not taken apart by Farcall, so all
// is allowed that a registry may hold, but for control characters and excess.
func (n Name) Check() error {
	if err := checkWord("namespace", n.Namespace, MaxNameLength); err != nil {
		return err
	}
	return checkWord("service", n.Service, MaxNameLength)
}

func checkWord(what, s string, limit int) error {
	switch {
	case s == "":
		return fmt.Errorf("%s is empty", what)
	case len(s) > limit:
		return fmt.Errorf("%s of %d bytes is longer than %d", what, len(s), limit)
	case !utf8.ValidString(s):
		return fmt.Errorf("%s is not UTF-8", what)
	}
	if i := strings.IndexFunc(s, unicode.IsControl); i >= 0 {
		return fmt.Errorf("%s has a control character at byte %d", what, i)
	}
	return nil
}

// CheckClusterName says why s cannot name a cluster, or nil. A cluster's name stands in keys,
// headers and metrics for ever, so it is a DNS label (RFC 1123): lower-case letters, digits
// and inner dashes, at most 63.
func CheckClusterName(s string) error {
	if s == "" {
		return errors.New("cluster name is empty")
	}
	if len(s) > 63 {
		return fmt.Errorf("cluster name %.20q... of %d bytes is longer than 63", s, len(s))
	}
	for i, r := range s {
		inner := i > 0 && i < len(s)-1
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && (r != '-' || !inner) {
			return fmt.Errorf("cluster name %q: want lower-case letters, digits and inner dashes (RFC 1123 label)", s)
		}
	}
	return nil
}

// Check says why an instance cannot be used, or nil. Cluster is not looked at: the reader of a
// registry knows it, the registry does not.
func (i *Instance) Check() error {
	if err := i.Name.Check(); err != nil {
		return err
	}
	if err := checkWord("id", i.Instance, MaxIDLength); err != nil {
		return err
	}
	if i.Node != "" {
		if err := checkWord("node", i.Node, MaxNameLength); err != nil {
			return err
		}
	}
	if i.Locality.Region != "" {
		if err := checkWord("region", i.Locality.Region, MaxNameLength); err != nil {
			return err
		}
	}
	if i.Locality.Zone != "" {
		if err := checkWord("zone", i.Locality.Zone, MaxNameLength); err != nil {
			return err
		}
	}
	if i.Port < 0 || i.Port > 65535 {
		return fmt.Errorf("port %d is not in 1 to 65535", i.Port)
	}
	if i.Port == 0 && i.Relay == "" {
		return errors.New("port 0 and no relay: nobody could deliver to it")
	}
	if i.Address == "" && i.Relay == "" {
		return errors.New("neither address nor relay")
	}
	if i.Address != "" {
		if err := CheckHost(i.Address); err != nil {
			return fmt.Errorf("address: %w", err)
		}
	}
	if i.Relay != "" {
		if err := CheckHostPort(i.Relay); err != nil {
			return fmt.Errorf("relay: %w", err)
		}
	}
	if i.Weight > MaxInstanceWeight {
		return fmt.Errorf("weight %d is above %d", i.Weight, MaxInstanceWeight)
	}
	return i.checkMetadata()
}

func (i *Instance) checkMetadata() error {
	size := 0
	for k, v := range i.Metadata {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return fmt.Errorf("metadata %q is not UTF-8", k)
		}
		size += len(k) + len(v)
	}
	if size > MaxMetadataBytes {
		return fmt.Errorf("metadata of %d bytes is more than %d", size, MaxMetadataBytes)
	}
	return nil
}

// CheckHost says why a host cannot be dialled by anybody, or nil: it must be an IP address or
// a host name, and not unspecified, multicast or link-local. Loopback is left to the reader,
// who alone knows whether it is on the same host.
func CheckHost(host string) error {
	if ip, err := netip.ParseAddr(host); err == nil {
		ip = ip.Unmap()
		switch {
		case ip.IsUnspecified():
			return fmt.Errorf("%s is the unspecified address", host)
		case ip.IsMulticast():
			return fmt.Errorf("%s is a multicast address", host)
		case ip.IsLinkLocalUnicast():
			return fmt.Errorf("%s is a link-local address", host)
		case ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			return fmt.Errorf("%s is the broadcast address", host)
		}
		return nil
	}
	if len(host) > MaxNameLength {
		return fmt.Errorf("host of %d bytes is longer than %d", len(host), MaxNameLength)
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		if label == "" || len(label) > 63 {
			return fmt.Errorf("%q is neither an IP address nor a host name", host)
		}
		for _, r := range label {
			if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' {
				return fmt.Errorf("%q is neither an IP address nor a host name", host)
			}
		}
	}
	return nil
}

// CheckHostPort is CheckHost for host:port, with the port in 1 to 65535.
func CheckHostPort(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not host:port", s)
	}
	if p, err := strconv.ParseUint(port, 10, 16); err != nil || p == 0 {
		return fmt.Errorf("%q: port %q is not in 1 to 65535", s, port)
	}
	return CheckHost(host)
}

// IsLoopback reports whether a host, or the host of a host:port, is this machine's loopback.
func IsLoopback(hostOrHostPort string) bool {
	host := hostOrHostPort
	if h, _, err := net.SplitHostPort(hostOrHostPort); err == nil {
		host = h
	}
	if strings.EqualFold(host, "localhost") || strings.HasSuffix(strings.ToLower(host), ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// CheckNode says why s cannot name a node, or nil.
func CheckNode(s string) error { return checkWord("node", s, MaxNameLength) }
