package consul

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		want []string // words of the error; none: it is valid
	}{
		{"nothing said", Config{}, nil},
		{"host and port", Config{Address: "consul.example:8500"}, nil},
		{"IPv6", Config{Address: "[::1]:8500"}, nil},
		{"a URL", Config{Address: "https://consul.example:8501", TLS: &TLS{}}, nil},
		{"no port", Config{Address: "consul.example"}, []string{`"consul.example"`, "host:port"}},
		{"another scheme", Config{Address: "unix:///run/consul.sock"}, []string{"unix:///run/consul.sock", "https://host:port"}},
		{"a path", Config{Address: "http://consul.example:8500/ui"}, []string{"host:port"}},
		{"credentials in the address", Config{Address: "http://a:b@consul.example:8500"}, []string{"host:port"}},
		{"two tokens", Config{Token: "a", TokenFile: "b"}, []string{"token and tokenFile"}},
		{"half a key pair", Config{TLS: &TLS{Cert: "c.pem"}}, []string{"cert and key go together"}},
		{"plain in spite of TLS", Config{Address: "http://127.0.0.1:8500", TLS: &TLS{}}, []string{"plain HTTP"}},
		{"a pattern that is none", Config{Exclude: []string{"["}}, []string{"exclude", `"["`}},
		{"everything at once", Config{Address: "x", Token: "a", TokenFile: "b", TLS: &TLS{Key: "k"}},
			[]string{"host:port", "token and tokenFile", "cert and key"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := New(c.cfg, deps(t))
			_, again := NewRegistrar(c.cfg, deps(t))
			for _, err := range []error{err, again} {
				if (err == nil) != (c.want == nil) {
					t.Fatalf("error %v, want words %q", err, c.want)
				}
				for _, w := range c.want {
					if !strings.Contains(err.Error(), w) {
						t.Errorf("error %q has no %q", err, w)
					}
				}
			}
		})
	}
	missing := filepath.Join(t.TempDir(), "ca.pem")
	if _, err := New(Config{TLS: &TLS{CA: missing}}, deps(t)); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("a missing CA file: error %v, want its name", err)
	}
}

func TestExcludes(t *testing.T) {
	for _, c := range []struct {
		name    string
		exclude []string
		service string
		want    bool
	}{
		{"Consul itself by default", nil, "consul", true},
		{"a proxy by default", nil, "web-sidecar-proxy", true},
		{"others not", nil, "consul-web", false},
		{"nothing, if one says so", []string{}, "consul", false},
		{"what one says", []string{"test-*"}, "test-web", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := (Config{Exclude: c.exclude}).excludes(c.service); got != c.want {
				t.Errorf("excludes(%q) = %v", c.service, got)
			}
		})
	}
}
