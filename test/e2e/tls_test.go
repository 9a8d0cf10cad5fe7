//go:build unix

package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"

	"github.com/farcall/farcall/internal/identity"
	"github.com/farcall/farcall/internal/testkit"
)

// certs are the authority and the identities of one world, as farcall makes them; nil are those of a
// world without.
type certs struct {
	t   *testing.T
	dir string
}

// newCerts makes an authority, and the identity of the test itself: it asks the synchronizer as a user.
func newCerts(t *testing.T) *certs {
	c := &certs{t: t, dir: filepath.Join(t.TempDir(), "certs")}
	c.farcall("init", "--trust-domain", "e2e.example")
	c.farcall("user", "tester")
	at := filepath.Join(c.dir, "user", "tester")
	for name, file := range map[string]string{"CERT": "cert.pem", "KEY": "key.pem", "CA": "ca.pem"} {
		t.Setenv("FARCALL_TLS_"+name, filepath.Join(at, file))
	}
	return c
}

// farcall runs `farcall certs` and gives the line that it prints.
func (c *certs) farcall(args ...string) string {
	c.t.Helper()
	out, err := exec.CommandContext(testkit.Context(c.t), filepath.Join(bin, "farcall"), append(append([]string{"certs"}, args...), "--dir", c.dir)...).Output()
	if err != nil {
		c.t.Fatalf("farcall certs %v: %v", args, err)
	}
	return string(out)
}

// line makes an identity and gives the line of configuration that is all it takes; "" without certs.
func (c *certs) line(args ...string) string {
	if c == nil {
		return ""
	}
	return c.farcall(args...)
}

// credentials are the test's own.
func (c *certs) credentials() credentials.TransportCredentials {
	c.t.Helper()
	at := filepath.Join(c.dir, "user", "tester")
	id, err := identity.New(
		identity.Config{Cert: filepath.Join(at, "cert.pem"), Key: filepath.Join(at, "key.pem"), CA: filepath.Join(at, "ca.pem")},
		identity.Deps{Log: testkit.Log(c.t), Metrics: prometheus.NewRegistry()},
	)
	if err != nil {
		c.t.Fatal(err)
	}
	return id.ClientCredentials(identity.Any(identity.Synchronizer))
}

// The whole line again, with an identity for every process: one line of configuration for each.
func TestLineOverTLS(t *testing.T) {
	w := newWorld(t, options{tls: true}, "east", "west")
	theLine(t, w)
	t.Run("plaintext is over", func(t *testing.T) { plaintextIsOver(t, w) })
	t.Run("agents are no operators", func(t *testing.T) { agentsAreNoOperators(t, w) })
}

// plaintextIsOver: neither the synchronizer nor an agent has a word for somebody without an identity.
func plaintextIsOver(t *testing.T, w *world) {
	for _, name := range []string{"CERT", "KEY", "CA"} {
		t.Setenv("FARCALL_TLS_"+name, "")
	}
	for _, address := range []string{w.admin, w.clusters["east"].internal} {
		out, err := exec.CommandContext(w.ctx, filepath.Join(bin, "farcall"), "--server", address, "get", "clusters").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "--tls-cert") {
			t.Errorf("%s: %v %s", address, err, out)
		}
	}
	for what, url := range map[string]string{"synchronizer": w.http, "agent": w.clusters["east"].health} {
		testkit.Eventually(t, w.ctx, "the "+what+" counts it", func() error {
			page, err := w.get("http://" + url + "/metrics")
			if err == nil && !strings.Contains(page, `farcall_identity_refused_total{reason="plaintext",side="server"}`) {
				err = fmt.Errorf("no refusal for plaintext is counted")
			}
			return err
		})
	}
}

// agentsAreNoOperators: an agent's identity, which lies on a node, opens no admin API.
func agentsAreNoOperators(t *testing.T, w *world) {
	at := filepath.Join(w.certs.dir, "cluster", "east", "agent", "east-1")
	for name, file := range map[string]string{"CERT": "cert.pem", "KEY": "key.pem", "CA": "ca.pem"} {
		t.Setenv("FARCALL_TLS_"+name, filepath.Join(at, file))
	}
	out, err := exec.CommandContext(w.ctx, filepath.Join(bin, "farcall"), "--server", w.admin, "cordon", "west").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "may not call farcall.admin.v1.Admin") {
		t.Errorf("%v: %s", err, out)
	}
	if log := w.sync.Log(); !strings.Contains(log, "spiffe://e2e.example/cluster/east/agent/east-1 may not call") {
		t.Errorf("the log does not name it: %s", log)
	}
}
