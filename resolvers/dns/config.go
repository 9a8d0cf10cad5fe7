package dns

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/nearest"
)

// Config says which names are asked for, and whom.
type Config struct {
	// Servers are host:port or host (port 53) of recursive servers, or of servers that hold the
	// zones themselves. The first is asked, the next where it fails. Empty: those of
	// /etc/resolv.conf, which is read again about every second.
	Servers []string
	// Services says under which DNS name each of our services is found; at least one. A key is
	// app-id or namespace/app-id.
	Services map[string]Service
	// Timeout is how long one server is waited for, once; default 1 s. A question that nobody
	// answered in time is asked once more before it counts as failed.
	Timeout time.Duration
	// MinTTL and MaxTTL bound how long an answer is believed without asking again; default 1 s and
	// 30 s. A lower MinTTL shows changes sooner where the zone's TTL is low, and asks more.
	MinTTL, MaxTTL time.Duration
}

// Service is where one service stands in the DNS. Records of type SRV state a port, and it is
// that of the relay (where CallLocal is served: an agent or a Dapr sidecar) unless SRVPort says
// otherwise. Address records state none, so Port, RelayPort or both must.
type Service struct {
	// Name is the DNS name, always taken as a full one: no search list is applied.
	Name string
	// Type is TypeSRV or TypeAddress; by default TypeSRV for _service._protocol.name and
	// TypeAddress for all others.
	Type string
	// SRVPort says whose port an SRV record states: PortRelay (default) or PortApp.
	SRVPort string
	// Port is the application's own, where no record states it; 0: only the relay is known, or the
	// agent's apps entry says it.
	Port int
	// RelayPort is the relay's, where no record states it; 0: the agent of the node serves.
	RelayPort int
	// Family says which addresses of a name are instances: FamilyIPv4, FamilyIPv6, or FamilyBoth.
	// By default the IPv4 ones, and where there are none, the IPv6 ones: a host that has both is
	// one instance, and a broadcast must not reach it twice.
	Family string
}

// The words of a Service.
const (
	TypeSRV     = "srv"
	TypeAddress = "address"

	PortRelay = "relay"
	PortApp   = "app"

	FamilyIPv4 = "ipv4"
	FamilyIPv6 = "ipv6"
	FamilyBoth = "both"
)

const (
	defaultTimeout = time.Second
	defaultMinTTL  = time.Second
	defaultMaxTTL  = 30 * time.Second
	defaultPort    = "53"
)

// Validate gives every fault of the configuration at once, or nil. It touches no file.
func (c Config) Validate() error {
	var errs []error
	for i, s := range c.Servers {
		if _, err := serverAddress(s); err != nil {
			errs = append(errs, fmt.Errorf("servers[%d]: %w", i, err))
		}
	}
	if len(c.Services) == 0 {
		errs = append(errs, errors.New("services: none: write at least one, for example billing: _billing._tcp.example.com"))
	}
	for _, key := range slices.Sorted(maps.Keys(c.Services)) {
		if _, err := c.Services[key].compile(key); err != nil {
			errs = append(errs, fmt.Errorf("services[%s]: %w", key, err))
		}
	}
	for _, d := range []struct {
		key string
		is  time.Duration
	}{{"timeout", c.Timeout}, {"minTTL", c.MinTTL}, {"maxTTL", c.MaxTTL}} {
		if d.is < 0 {
			errs = append(errs, fmt.Errorf("%s: %v is below 0", d.key, d.is))
		}
	}
	if full := c.withDefaults(); full.MinTTL > full.MaxTTL {
		errs = append(errs, fmt.Errorf("minTTL %v is above maxTTL %v", full.MinTTL, full.MaxTTL))
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	c.Timeout = cmp.Or(c.Timeout, defaultTimeout)
	c.MinTTL = cmp.Or(c.MinTTL, defaultMinTTL)
	c.MaxTTL = cmp.Or(c.MaxTTL, defaultMaxTTL)
	return c
}

// serverAddress gives host:port. Any host will do that a person may have a DNS server on, the
// link-local ones of clouds and node caches included.
func serverAddress(s string) (string, error) {
	wrong := fmt.Errorf("%q: want host:port, as in 127.0.0.1:53", s)
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = s, defaultPort
		if len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']' {
			host = s[1 : len(s)-1]
		}
		if _, err := netip.ParseAddr(host); err != nil && strings.Contains(host, ":") {
			return "", wrong
		}
	}
	if p, err := strconv.ParseUint(port, 10, 16); err != nil || p == 0 || host == "" || strings.ContainsAny(host, " /[]") {
		return "", wrong
	}
	return net.JoinHostPort(host, port), nil
}

// service is a Service made ready to be asked for.
type service struct {
	source string // its key in the configuration
	name   catalog.Name
	ask    question
	// appPort and relayPort are those that the configuration states; 0: none. fromRecord is the
	// one of them that the record states.
	appPort, relayPort int
	fromRecord         string // PortRelay or PortApp for SRV, else ""
	family             string
}

// compile checks a Service.
func (s Service) compile(key string) (service, error) {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	out := service{source: key, name: serviceName(key), appPort: s.Port, relayPort: s.RelayPort, family: s.Family}
	checked := out.name
	checked.Namespace = cmp.Or(checked.Namespace, catalog.DefaultNamespace)
	if err := checked.Check(); err != nil || strings.HasPrefix(key, "/") {
		add("the key must be app-id or namespace/app-id")
	}
	out.ask.name = canonical(s.Name)
	if _, ok := miekg.IsDomainName(s.Name); !ok || s.Name == "" || s.Name == "." || strings.ContainsAny(s.Name, " \t:/") {
		add("name: %q is no DNS name: want one as in _billing._tcp.example.com.; a port goes into port or relayPort", s.Name)
	}
	kind := s.Type
	if kind == "" {
		kind = kindOf(s.Name)
	}
	for _, port := range []struct {
		key string
		is  int
	}{{"port", s.Port}, {"relayPort", s.RelayPort}} {
		if port.is < 0 || port.is > 65535 {
			add("%s: %d is not in 1 to 65535", port.key, port.is)
		}
	}
	if !slices.Contains([]string{"", FamilyIPv4, FamilyIPv6, FamilyBoth}, s.Family) {
		add("family: %s", unknown(s.Family, FamilyIPv4, FamilyIPv6, FamilyBoth))
	}
	switch kind {
	case TypeSRV:
		out.ask.typ, out.fromRecord = miekg.TypeSRV, cmp.Or(s.SRVPort, PortRelay)
		if err := s.checkSRVPorts(out.fromRecord); err != nil {
			add("%w", err)
		}
	case TypeAddress:
		out.ask.typ = miekg.TypeA
		if s.SRVPort != "" {
			add("srvPort: %s is a name of address records, which state no port", s.Name)
		}
		if s.Port == 0 && s.RelayPort == 0 {
			add("%s is a name of address records, which state no port: write {name: %s, relayPort: 50002} for an agent or sidecar there, port for the application's own",
				cmp.Or(s.Name, "it"), s.Name)
		}
	default:
		add("type: %s", unknown(s.Type, TypeSRV, TypeAddress))
	}
	return out, errors.Join(errs...)
}

// checkSRVPorts refuses a configured port that stands for the one that the record states.
func (s Service) checkSRVPorts(fromRecord string) error {
	switch fromRecord {
	case PortRelay:
		if s.RelayPort != 0 {
			return errors.New("relayPort: the SRV record states it; where the record states the application's port, write srvPort: app")
		}
	case PortApp:
		if s.Port != 0 {
			return errors.New("port: the SRV record states it, as srvPort: app says")
		}
	default:
		return fmt.Errorf("srvPort: %s", unknown(s.SRVPort, PortRelay, PortApp))
	}
	return nil
}

func unknown(word string, words ...string) string {
	if meant, near := nearest.Word(word, words); near {
		return fmt.Sprintf("unknown word %q: did you mean %q?", word, meant)
	}
	return fmt.Sprintf("unknown word %q: want one of %s", word, strings.Join(words, ", "))
}

// kindOf tells a name of SRV records by its form, _service._protocol.name (RFC 2782).
func kindOf(name string) string {
	l := miekg.SplitDomainName(name)
	if len(l) > 2 && strings.HasPrefix(l[0], "_") && strings.HasPrefix(l[1], "_") {
		return TypeSRV
	}
	return TypeAddress
}

// serviceName reads a key of Services. The namespace stays empty where the key states none.
func serviceName(key string) catalog.Name {
	if ns, svc, ok := strings.Cut(key, "/"); ok {
		return catalog.Name{Namespace: ns, Service: svc}
	}
	return catalog.Name{Service: key}
}

// canonical is a name as it is compared: lower case, with the final dot.
func canonical(name string) string { return miekg.CanonicalName(name) }
