package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/config"
	"github.com/farcall/farcall/internal/identity"
	"github.com/farcall/farcall/internal/testkit"
)

// mode fails the test where a file can be read by others.
func mode(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v", path, info.Mode())
	}
}

// What the verbs make is what the daemons take: the printed line is a configuration's, and the files
// are the identity that it is to be.
func TestCertsMakeIdentities(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	if r := farcall(t, "", "certs", "init", "--dir", dir, "--trust-domain", "example.org"); r.code != 0 || r.stdout != filepath.Join(dir, "ca.pem")+"\n" {
		t.Fatalf("init: %+v", r)
	}
	mode(t, filepath.Join(dir, "ca-key.pem"))
	for _, c := range []struct {
		args []string
		self identity.Self
		path string
	}{
		{[]string{"synchronizer", "main"}, identity.Self{Role: identity.Synchronizer}, "synchronizer/main"},
		{[]string{"agent", "east", "node-1"}, identity.Self{Role: identity.Agent, Cluster: "east", Node: "node-1"}, "cluster/east/agent/node-1"},
		{[]string{"user", "alice"}, identity.Self{Role: identity.User}, "user/alice"},
	} {
		r := farcall(t, "", append(append([]string{"certs"}, c.args...), "--dir", dir, "--for", "1h")...)
		if r.code != 0 || !strings.Contains(r.stderr, "spiffe://example.org/"+c.path) {
			t.Fatalf("%v: %+v", c.args, r)
		}
		at := filepath.Join(dir, c.path)
		mode(t, filepath.Join(at, "key.pem"))
		cfg := identity.Config{Cert: filepath.Join(at, "cert.pem"), Key: filepath.Join(at, "key.pem"), CA: filepath.Join(at, "ca.pem"), Self: c.self}
		if _, err := identity.New(cfg, identity.Deps{Log: testkit.Log(t), Metrics: prometheus.NewRegistry()}); err != nil {
			t.Error(err)
		}
		pair, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil || time.Until(leaf.NotAfter) > time.Hour {
			t.Errorf("%v: valid until %v, %v", c.args, leaf.NotAfter, err)
		}
		switch c.self.Role {
		case identity.Synchronizer:
			s, err := config.ParseSynchronizer("s.yaml", []byte("federation: f\n"+r.stdout))
			if err != nil || s.TLS.Cert != cfg.Cert || s.TLS.Key != cfg.Key || s.TLS.CA != cfg.CA {
				t.Errorf("%q is not the synchronizer's: %v", r.stdout, err)
			}
		case identity.Agent:
			a, err := config.ParseAgent("a.yaml", []byte("cluster: east\nnode: node-1\nsynchronizers: [127.0.0.1:7700]\n"+r.stdout))
			if err != nil || a.TLS.Cert != cfg.Cert || a.TLS.Key != cfg.Key || a.TLS.CA != cfg.CA {
				t.Errorf("%q is not the agent's: %v", r.stdout, err)
			}
		default:
			if want := fmt.Sprintf("export FARCALL_TLS_CERT=%s FARCALL_TLS_KEY=%s FARCALL_TLS_CA=%s\n", cfg.Cert, cfg.Key, cfg.CA); r.stdout != want {
				t.Errorf("got %q, want %q", r.stdout, want)
			}
		}
	}
	r := farcall(t, "", "certs", "user", "bob", "--dir", dir, "-o", "json")
	var made struct {
		SpiffeID string `json:"spiffeId"`
		Cert     string
	}
	if err := json.Unmarshal([]byte(r.stdout), &made); err != nil || made.SpiffeID != "spiffe://example.org/user/bob" || made.Cert != filepath.Join(dir, "user/bob/cert.pem") {
		t.Errorf("%v: %s", err, r.stdout)
	}
}

// Nothing is overwritten that nobody wants overwritten, and nothing wrong is made.
func TestCertsRefuse(t *testing.T) {
	dir := t.TempDir()
	at := []string{"--dir", dir}
	run := func(args ...string) result {
		return farcall(t, "", append(append([]string{"certs"}, args...), at...)...)
	}
	if r := run("agent", "east", "n"); r.code != exitFailed || !strings.Contains(r.stderr, "farcall certs init --dir") {
		t.Errorf("without an authority: %+v", r)
	}
	if r := run("init"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if r := run("agent", "east", "n"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"a second authority", []string{"init"}, exitFailed, "--force makes another"},
		{"a second identity", []string{"agent", "east", "n"}, exitFailed, "--force makes it anew"},
		{"a cluster that is none", []string{"agent", "East", "n"}, exitUsage, "want lower-case letters"},
		{"a node that is a path", []string{"agent", "east", "../../n"}, exitUsage, "spiffe://farcall.local/"},
		{"a group that is a path", []string{"synchronizer", ".."}, exitUsage, "spiffe://farcall.local/"},
		{"no time", []string{"user", "x", "--for", "0s"}, exitUsage, "want a time to be valid for"},
		{"no trust domain", []string{"init", "--force", "--trust-domain", "A b"}, exitUsage, "is not a trust domain"},
		{"too many names", []string{"user", "x", "y"}, exitUsage, "accepts 1 arg"},
	} {
		if r := run(c.args...); r.code != c.code || !strings.Contains(r.stderr, c.want) {
			t.Errorf("%s: %d %s, want %d %s", c.name, r.code, r.stderr, c.code, c.want)
		}
	}
	if after, err := os.ReadFile(filepath.Join(dir, "ca.pem")); err != nil || string(after) != string(ca) {
		t.Errorf("the authority is another now: %v", err)
	}
	if r := run("agent", "east", "n", "--force"); r.code != 0 {
		t.Errorf("%+v", r)
	}
	if r := run("init", "--force"); r.code != 0 {
		t.Errorf("%+v", r)
	}
	if after, err := os.ReadFile(filepath.Join(dir, "ca.pem")); err != nil || string(after) == string(ca) {
		t.Errorf("the authority is the same: %v", err)
	}
	r := farcall(t, "", "get", "clusters", "--tls-cert", filepath.Join(dir, "x.pem"))
	if r.code != exitUsage || !strings.Contains(r.stderr, "--tls-cert stands without") {
		t.Errorf("half of an identity: %+v", r)
	}
}
