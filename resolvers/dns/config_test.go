package dns

import (
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

func TestConfig(t *testing.T) {
	one := func(s Service) Config { return Config{Services: map[string]Service{"billing": s}} }
	srv := Service{Name: "_billing._tcp.example."}
	for _, c := range []struct {
		name string
		cfg  Config
		want []string // words of the error; none: it is valid
	}{
		{"SRV, the system's servers", one(srv), nil},
		{"host and port", Config{Servers: []string{"127.0.0.1:5353", "[::1]:53", "::1", "dns.example", "169.254.20.10"}, Services: one(srv).Services}, nil},
		{"addresses with a relay", one(Service{Name: "billing.example", RelayPort: 50002}), nil},
		{"addresses with both ports, one family", one(Service{Name: "billing.example.", Port: 80, RelayPort: 50002, Family: FamilyIPv6}), nil},
		{"SRV for applications", one(Service{Name: srv.Name, SRVPort: PortApp, RelayPort: 50002}), nil},
		{"SRV for relays, applications known", one(Service{Name: srv.Name, Port: 80}), nil},
		{"addresses in spite of the form", one(Service{Name: srv.Name, Type: TypeAddress, Port: 80}), nil},
		{"SRV in spite of the form", one(Service{Name: "billing.example.", Type: TypeSRV}), nil},
		{"a namespace", Config{Services: map[string]Service{"shop/billing": srv}}, nil},

		{"nothing said", Config{}, []string{"services", "at least one"}},
		{"no name", one(Service{}), []string{"services[billing]", `""`, "no DNS name"}},
		{"the root", one(Service{Name: ".", Port: 80}), []string{`"."`}},
		{"a port in the name", one(Service{Name: "billing.example.:8080"}), []string{"port or relayPort"}},
		{"an overlong label", one(Service{Name: strings.Repeat("a", 64) + ".example.", Port: 80}), []string{"no DNS name"}},
		{"addresses without a port", one(Service{Name: "billing.example."}), []string{"state no port", "{name: billing.example., relayPort: 50002}"}},
		{"a port that is none", one(Service{Name: "billing.example.", Port: 70000}), []string{"port: 70000"}},
		{"SRV with a relay port", one(Service{Name: srv.Name, RelayPort: 1}), []string{"relayPort", "srvPort: app"}},
		{"SRV for applications with a port", one(Service{Name: srv.Name, SRVPort: PortApp, Port: 1}), []string{"port: the SRV record"}},
		{"SRV port of addresses", one(Service{Name: "billing.example.", Port: 1, SRVPort: PortApp}), []string{"srvPort", "no port"}},
		{"words misspelt", one(Service{Name: srv.Name, SRVPort: "apps", Family: "ipv5"}), []string{`"apps": did you mean "app"?`, `"ipv5": did you mean "ipv4"?`}},
		{"an unknown word", one(Service{Name: srv.Name, Type: "everything"}), []string{"want one of srv, address"}},
		{"an empty key", Config{Services: map[string]Service{"": srv}}, []string{"app-id"}},
		{"an empty namespace", Config{Services: map[string]Service{"/billing": srv}}, []string{"app-id"}},
		{"a server that is none", Config{Servers: []string{"", "127.0.0.1:dns", "http://127.0.0.1", "[::1"}, Services: one(srv).Services},
			[]string{"servers[0]", "servers[1]", "servers[2]", "servers[3]", "host:port"}},
		{"below 0", Config{Timeout: -1, MinTTL: -1, MaxTTL: -1, Services: one(srv).Services}, []string{"timeout", "minTTL", "maxTTL"}},
		{"bounds crossed", Config{MinTTL: time.Minute, Services: one(srv).Services}, []string{"minTTL 1m0s is above maxTTL 30s"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := New(c.cfg, deps(t))
			if (err == nil) != (c.want == nil) {
				t.Fatalf("error %v, want words %q", err, c.want)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q has no %q", err, w)
				}
			}
		})
	}
}

func TestCompile(t *testing.T) {
	for _, c := range []struct {
		name string
		in   Service
		want service
	}{
		{"SRV", Service{Name: "_Billing._tcp.Example"}, service{ask: question{"_billing._tcp.example.", miekg.TypeSRV}, fromRecord: PortRelay}},
		{"SRV of applications", Service{Name: "_billing._tcp.example.", SRVPort: PortApp, RelayPort: 7},
			service{ask: question{"_billing._tcp.example.", miekg.TypeSRV}, fromRecord: PortApp, relayPort: 7}},
		{"addresses", Service{Name: "billing.example", Port: 80, RelayPort: 7}, service{ask: question{"billing.example.", miekg.TypeA}, appPort: 80, relayPort: 7}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.in.compile("shop/billing")
			c.want.source, c.want.name = "shop/billing", serviceName("shop/billing")
			if err != nil || got != c.want {
				t.Errorf("%+v, %v, want %+v", got, err, c.want)
			}
		})
	}
	if n := serviceName("billing"); n.Namespace != "" || n.Service != "billing" {
		t.Errorf("a key without a namespace is %q", n)
	}
}

func TestServerAddress(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1:5353": "127.0.0.1:5353", "127.0.0.1": "127.0.0.1:53", "::1": "[::1]:53", "[::1]": "[::1]:53",
		"[::1]:5353": "[::1]:5353", "fe80::1%eth0": "[fe80::1%eth0]:53", "kube-dns.kube-system.svc": "kube-dns.kube-system.svc:53",
	} {
		if got, err := serverAddress(in); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", in, got, err, want)
		}
	}
}
