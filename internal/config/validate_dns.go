package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// Words of a DNS block.
var (
	dnsTypes    = []string{"srv", "address"}
	dnsSRVPorts = []string{"relay", "app"}
	dnsFamilies = []string{"ipv4", "ipv6", "both"}
)

// dns checks what needs a line to point to; what a name may look like in all is for the resolver
// to say.
func (v *validator) dns(at string, d *DNS) {
	for i, s := range d.Servers {
		at := fmt.Sprintf("%s.servers[%d]", at, i)
		if err := checkDial(withPort(s, "53"), "53"); err != nil {
			v.errorf(at, "%v", err)
		} else if slices.Index(d.Servers, s) < i {
			v.errorf(at, "%s is listed twice", s)
		}
	}
	v.missing(at, "services", len(d.Services) == 0, "want at least one name, for example services: {billing: _billing._tcp.example.com.}")
	for _, key := range slices.Sorted(maps.Keys(d.Services)) {
		v.dnsService(child(at+".services", key), key, d.Services[key])
	}
	for _, t := range []struct {
		key string
		is  time.Duration
	}{{"timeout", d.Timeout}, {"minTTL", d.MinTTL}, {"maxTTL", d.MaxTTL}} {
		if t.is <= 0 {
			v.errorf(at+"."+t.key, "%s is not a time: want more than 0s", t.is)
		}
	}
	if d.MinTTL > d.MaxTTL {
		v.errorf(at+".minTTL", "%s is above maxTTL, which is %s", d.MinTTL, d.MaxTTL)
	}
}

func (v *validator) dnsService(at, key string, s DNSService) {
	n := catalog.Name{Namespace: catalog.DefaultNamespace, Service: key}
	if ns, service, ok := strings.Cut(key, "/"); ok {
		n = catalog.Name{Namespace: ns, Service: service}
	}
	if err := n.Check(); err != nil {
		v.errorf(at, "%v; the key is app-id or namespace/app-id", err)
	}
	v.missing(at, "name", s.Name == "", "want a DNS name, for example _billing._tcp.example.com.")
	if strings.ContainsAny(s.Name, " \t:/") {
		v.errorf(at+".name", "%q is not a DNS name: want one such as _billing._tcp.example.com.; a port goes into port or relayPort", s.Name)
	}
	for _, w := range []struct {
		key, is string
		words   []string
	}{{"type", s.Type, dnsTypes}, {"srvPort", s.SRVPort, dnsSRVPorts}, {"family", s.Family, dnsFamilies}} {
		if _, written := v.lines[at+"."+w.key]; written {
			v.word(at+"."+w.key, w.is, w.words)
		}
	}
	for _, p := range []struct {
		key string
		is  int
	}{{"port", s.Port}, {"relayPort", s.RelayPort}} {
		if _, written := v.lines[at+"."+p.key]; written && (p.is < 1 || p.is > 65535) {
			v.errorf(at+"."+p.key, "%d is not in 1 to 65535", p.is)
		}
	}
	srv := s.Type == "srv" || s.Type == "" && strings.HasPrefix(s.Name, "_")
	if !srv && s.Name != "" && s.Port == 0 && s.RelayPort == 0 {
		v.errorf(at, "address records state no port: write {name: %s, relayPort: 50002} for an agent or sidecar there, or port: for the application's own", s.Name)
	}
}

// withPort adds the port that is meant where none is written.
func withPort(address, port string) string {
	if strings.Contains(address, ":") {
		return address
	}
	return address + ":" + port
}
