package identity_test

import (
	"crypto/tls"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/internal/identity"
	"github.com/farcall/farcall/internal/testkit"
)

// shown is what somebody shows who follows no rules: whatever is in the files.
func shown(t *testing.T, f files) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(f.path("cert"), f.path("key"))
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true, NextProtos: []string{"h2"}}
}

var (
	agentUp   = identity.AgentID(domain, "east", "node-1")
	agentWest = identity.AgentID(domain, "west", "node-1")
	syncMain  = identity.ID{TrustDomain: domain, Role: identity.Synchronizer, Name: "main"}
	alice     = identity.ID{TrustDomain: domain, Role: identity.User, Name: "alice"}
)

// Each wrong caller, and each wrong server: refused, counted by its reason, and named in the log.
func TestWrongOnesAreRefused(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	uri := agentUp.String()
	for _, c := range []struct {
		name   string
		forge  func(f files)
		reason identity.Reason
		named  string
	}{
		{"expired", func(f files) { f.sign(a, -time.Minute, uri) }, identity.ReasonExpired, uri},
		{"no URI", func(f files) { f.sign(a, time.Hour) }, identity.ReasonNoIdentity, ""},
		{"a URI that is no identity", func(f files) { f.sign(a, time.Hour, "https://example.org/x") }, identity.ReasonNoIdentity, ""},
		{"two URIs", func(f files) { f.sign(a, time.Hour, uri, agentWest.String()) }, identity.ReasonTwoIdentities, ""},
		{"the same URI twice", func(f files) { f.sign(a, time.Hour, uri, uri) }, identity.ReasonTwoIdentities, ""},
		{"another trust domain", func(f files) { f.sign(a, time.Hour, "spiffe://example.com/cluster/east/agent/node-1") }, identity.ReasonTrustDomain, "spiffe://example.com/"},
		{"an identity of nobody's kind", func(f files) { f.sign(a, time.Hour, "spiffe://example.org/root") }, identity.ReasonRole, "spiffe://example.org/root"},
		{"an authority that nobody trusts", func(f files) { f.sign(stranger, time.Hour, uri) }, identity.ReasonAuthority, uri},
		{"another cluster's agent", func(f files) { f.sign(a, time.Hour, agentWest.String()) }, identity.ReasonOther, agentWest.String()},
		{"another node's agent", func(f files) { f.sign(a, time.Hour, "spiffe://example.org/cluster/east/agent/node-2") }, identity.ReasonOther, "node-2"},
		{"a synchronizer", func(f files) { f.sign(a, time.Hour, syncMain.String()) }, identity.ReasonRole, syncMain.String()},
		{"a user", func(f files) { f.sign(a, time.Hour, alice.String()) }, identity.ReasonRole, alice.String()},
		{"an authority itself", func(f files) {
			cert, key, err := a.PEM()
			if err != nil {
				t.Fatal(err)
			}
			f.put("cert", cert)
			f.put("key", key)
		}, identity.ReasonCertificate, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFiles(t)
			c.forge(f)
			ctx := testkit.Context(t)

			// As a client.
			s, own := of(t, a, syncMain)
			address := serve(t, s, identity.AgentOf("east", "node-1"))
			if err := dial(ctx, address, credentials.NewTLS(shown(t, f))); err == nil {
				t.Error("it was let in")
			}
			// The server may be told after the client.
			testkit.Eventually(t, ctx, "counted", func() error {
				return s.saw(t, "server", c.reason, c.named)
			})
			s.keepsSecrets(t, own, f)

			// As a server.
			forged := serveForged(t, shown(t, f))
			err := dial(ctx, forged, s.ClientCredentials(identity.AgentOf("east", "node-1")))
			if status.Code(err) != codes.Unavailable {
				t.Errorf("a call to it: %v", err)
			}
			testkit.Eventually(t, ctx, "counted", func() error {
				return s.saw(t, "client", c.reason, c.named)
			})
			s.keepsSecrets(t, own, f)
		})
	}
}

// saw says how what was counted and logged of a refusal differs from this.
func (s *source) saw(t *testing.T, side string, reason identity.Reason, named string) error {
	if s.count(t, "farcall_identity_refused_total", "side="+side, "reason="+string(reason)) == 0 {
		return fmt.Errorf("no refusal for %s at the %s: %s", reason, side, s.log)
	}
	if log := s.log.String(); !strings.Contains(log, "reason="+string(reason)) || !strings.Contains(log, named) {
		return fmt.Errorf("the log does not name %q for %s: %s", named, reason, log)
	}
	return nil
}

// keepsSecrets fails the test if the log holds a line of a key.
func (s *source) keepsSecrets(t *testing.T, all ...files) {
	t.Helper()
	log := s.log.String()
	for _, f := range all {
		key, err := os.ReadFile(f.path("key"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(key)) {
			if line = strings.TrimSpace(line); len(line) > 8 && strings.Contains(log, line) {
				t.Errorf("the log holds a line of %s: %q", f.path("key"), line)
			}
		}
	}
}

// The rest of those who cannot come in: without a certificate, without TLS, with an older TLS; and one
// who can.
func TestOthersAtTheDoor(t *testing.T) {
	a := newAuthority(t)
	s, _ := of(t, a, syncMain)
	address := serve(t, s, identity.Any(identity.Agent, identity.Synchronizer))
	agent, f := of(t, a, agentUp)
	ctx := testkit.Context(t)

	old := shown(t, f)
	old.MaxVersion = tls.VersionTLS12
	for _, c := range []struct {
		name   string
		creds  credentials.TransportCredentials
		reason identity.Reason
	}{
		{"no certificate", credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}), identity.ReasonNoCertificate},
		{"no TLS", insecure.NewCredentials(), identity.ReasonPlaintext},
		{"TLS 1.2", credentials.NewTLS(old), identity.ReasonHandshake},
	} {
		if err := dial(ctx, address, c.creds); err == nil {
			t.Errorf("%s: let in", c.name)
		}
		testkit.Eventually(t, ctx, c.name, func() error { return s.saw(t, "server", c.reason, "") })
	}
	if err := dial(ctx, address, agent.ClientCredentials(identity.Any(identity.Synchronizer))); err != nil {
		t.Errorf("the agent was not let in: %v", err)
	}
	if n := s.count(t, "farcall_identity_handshakes_total", "side=server"); n != 1 {
		t.Errorf("%v handshakes were counted, want the agent's", n)
	}
}

// Those who knock cannot fill the log.
func TestRefusalsAreNotAllLogged(t *testing.T) {
	a := newAuthority(t)
	s, _ := of(t, a, syncMain)
	address := serve(t, s, identity.Any(identity.Agent))
	ctx := testkit.Context(t)
	const knocks = 200
	for range knocks {
		if err := dial(ctx, address, insecure.NewCredentials()); err == nil {
			t.Fatal("let in")
		}
	}
	testkit.Eventually(t, ctx, "all are counted", func() error {
		if n := s.count(t, "farcall_identity_refused_total", "side=server"); n < knocks {
			return fmt.Errorf("%v", n)
		}
		return nil
	})
	if n := strings.Count(s.log.String(), "reason=plaintext"); n == 0 || n > knocks/2 {
		t.Errorf("%d lines for %d refusals", n, knocks)
	}
}

// One's own certificate, when it is wrong, is refused at the start, in words that help.
func TestOwnIdentity(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	self := identity.Self{Role: identity.Agent, Cluster: "east", Node: "node-1"}
	for _, c := range []struct {
		name  string
		forge func(f files)
		self  identity.Self
		want  string
	}{
		{"no files", func(files) {}, self, "cert.pem: no such file"},
		{"another's node", func(f files) { f.issue(a, identity.AgentID(domain, "east", "node-2"), time.Hour) }, self, "farcall certs agent east node-1"},
		{"a synchronizer's", func(f files) { f.issue(a, syncMain, time.Hour) }, self, "must have spiffe://example.org/cluster/east/agent/node-1"},
		{"an agent's", func(f files) { f.issue(a, agentUp, time.Hour) }, identity.Self{Role: identity.Synchronizer}, "farcall certs synchronizer <name>"},
		{"expired", func(f files) { f.sign(a, -time.Minute, agentUp.String()) }, self, "expired"},
		{"another authority's", func(f files) { f.issue(other, agentUp, time.Hour) }, self, "signed by no authority that is trusted here"},
		{"two URIs", func(f files) { f.sign(a, time.Hour, agentUp.String(), agentUp.String()) }, self, "more than one URI"},
		{"the key of another", func(f files) {
			f.issue(a, agentUp, time.Hour)
			_, key, err := a.Issue(agentUp, time.Now(), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			f.put("key", key)
		}, self, "private key does not match public key"},
		{"half an authority", func(f files) {
			f.issue(a, agentUp, time.Hour)
			b, err := os.ReadFile(f.path("ca"))
			if err != nil {
				t.Fatal(err)
			}
			f.put("ca", append(b, b[:len(b)/2]...))
		}, self, "ends in the middle of certificate 2"},
		{"no authority", func(f files) { f.issue(a, agentUp, time.Hour); f.put("ca", []byte("hello\n")) }, self, "holds no certificate in PEM"},
		{"a leaf as authority", func(f files) {
			f.issue(a, agentUp, time.Hour)
			b, err := os.ReadFile(f.path("cert"))
			if err != nil {
				t.Fatal(err)
			}
			f.put("ca", b)
		}, self, "is not an authority's"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFiles(t)
			f.trust(a)
			c.forge(f)
			cfg := f.config()
			cfg.Self = c.self
			_, err := makeSource(cfg)
			if err := wants(err, c.want); err != nil {
				t.Error(err)
			}
		})
	}
	// A right one is right, with other authorities beside its own.
	f := newFiles(t)
	f.trust(other, a)
	f.issue(a, agentUp, time.Hour)
	cfg := f.config()
	cfg.Self = self
	s := newSource(t, cfg)
	if id, ok := s.ID(); !ok || id != agentUp || s.Trouble(time.Now()) != "" {
		t.Errorf("identity is %v %v, in trouble %q", id, ok, s.Trouble(time.Now()))
	}
	if s.Trouble(time.Now().Add(2*time.Hour)) == "" {
		t.Error("an expired identity is no trouble")
	}
}
