//go:build unix

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
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
	t.Run("renewal under load", func(t *testing.T) { renewalUnderLoad(t, w) })
	t.Run("plaintext is over", func(t *testing.T) { plaintextIsOver(t, w) })
	t.Run("agents are no operators", func(t *testing.T) { agentsAreNoOperators(t, w) })
}

// renewalUnderLoad: every process gets a new certificate, of two minutes, several times while calls go
// across; none fails, and the feed stays up.
func renewalUnderLoad(t *testing.T, w *world) {
	loading, stop := context.WithCancel(w.ctx)
	defer stop()
	var load sync.WaitGroup
	var calls atomic.Int64
	for from, to := range map[string]string{"east": "west", "west": "east"} {
		load.Go(func() {
			for loading.Err() == nil {
				// A connection lasts: that new ones are made of new certificates is tested beside identity.
				a, err := w.call(from, http.MethodGet, "cart/method/x", "farcall-cluster: "+to)
				if err != nil || a.status != http.StatusOK {
					t.Errorf("from %s: %v %d %s", from, err, a.status, a.body)
					return
				}
				calls.Add(1)
			}
		})
	}
	pages := map[string][]string{
		w.http:                    {"synchronizer", "main"},
		w.clusters["east"].health: {"agent", "east", "east-1"},
		w.clusters["west"].health: {"agent", "west", "west-1"},
	}
	for round := 1; round <= 3; round++ {
		for _, identity := range pages {
			w.certs.line(append(identity, "--force", "--for", "2m")...)
		}
		for url, identity := range pages {
			testkit.Eventually(t, w.ctx, strings.Join(identity, " ")+" takes the new certificate", func() error {
				page, err := w.get("http://" + url + "/metrics")
				if want := fmt.Sprintf("farcall_identity_reloads_total{result=\"ok\"} %d\n", round); err == nil && !strings.Contains(page, want) {
					err = fmt.Errorf("no %s", want)
				}
				return err
			})
		}
	}
	stop()
	load.Wait()
	if calls.Load() == 0 {
		t.Error("no call was made")
	}
	// And whoever comes anew is let in with what is new.
	w.clusters["east"].agent.Term()
	if err := w.clusters["east"].agent.Wait(); err != nil {
		t.Error(err)
	}
	w.clusters["east"].agent.Start()
	w.t = t
	w.reaches("east", "west")
	w.reaches("west", "east")
	testkit.Eventually(t, w.ctx, "both agents are connected", func() error {
		list, err := w.connect().ListAgents(w.ctx, &adminv1.ListAgentsRequest{})
		if err == nil && len(list.GetAgents()) == 2 && list.GetAgents()[0].GetConnected() && list.GetAgents()[1].GetConnected() {
			return nil
		}
		return fmt.Errorf("%v %v", list, err)
	})
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
