//go:build real

package consul

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

// fill registers n services of one instance each, spread over nodes n0, n1, ... Those with an
// odd number have a check. It goes through transactions, which take 128 operations.
func (h hand) fill(n, nodes int) {
	h.t.Helper()
	for from := 0; from < n; from += 40 {
		var ops api.TxnOps
		for i := from; i < min(from+40, n); i++ {
			node := fmt.Sprintf("n%d", i%nodes)
			id := fmt.Sprintf("s%d-1", i)
			ops = append(ops,
				&api.TxnOp{Node: &api.NodeTxnOp{Verb: api.NodeSet, Node: api.Node{Node: node, Address: fmt.Sprintf("10.1.0.%d", 1+i%nodes)}}},
				&api.TxnOp{Service: &api.ServiceTxnOp{Verb: api.ServiceSet, Node: node, Service: api.AgentService{
					ID: id, Service: fmt.Sprintf("s%d", i), Port: 8080, Meta: map[string]string{"DAPR_PORT": "50002"}}}})
			if i%2 == 1 {
				ops = append(ops, &api.TxnOp{Check: &api.CheckTxnOp{Verb: api.CheckSet, Check: api.HealthCheck{
					Node: node, CheckID: "c:" + id, ServiceID: id, Status: api.HealthPassing}}})
			}
		}
		if ok, resp, _, err := h.Txn().Txn(ops, nil); err != nil || !ok {
			h.t.Fatalf("transaction: %v %+v", err, resp)
		}
	}
}

// TestRealManyServices: one client within Consul's default limits reads 2 000 services, and each
// single change among them is seen within a second, also one that no check tells of.
func TestRealManyServices(t *testing.T) {
	const services, nodes = 2000, 20
	srv := testkit.Consul(t)
	h := handOf(t, srv.Addr, "")
	h.fill(services, nodes)
	g, addr := gateTo(t, srv.Addr)
	began := time.Now()
	rec, _ := run(t, Config{Address: addr})
	testkit.Eventually(t, testkit.Context(t), "all are listed", func() error {
		if n := rec.Instances(); n != services {
			return fmt.Errorf("%d instances", n)
		}
		return nil
	})
	t.Logf("full read of %d services in %v", services, time.Since(began).Round(time.Millisecond))
	if updates, _, _ := rec.All(); len(updates) != 1 || !updates[0].Full {
		t.Errorf("the full list came in %d updates, want 1", len(updates))
	}

	see := func(what string, ok func() error) {
		t.Helper()
		began := time.Now()
		testkit.Eventually(t, testkit.Context(t), what, ok)
		t.Logf("%s: seen after %v", what, time.Since(began).Round(time.Millisecond))
	}
	h.put(&api.CatalogRegistration{Node: "n7", SkipNodeUpdate: true, Service: &api.AgentService{ID: "s7-1", Service: "s7", Port: 9999}})
	see("another port in a service with a check", func() error { return holds(rec, "s7/s7-1 10.1.0.8:9999") })
	h.put(&api.CatalogRegistration{Node: "n8", SkipNodeUpdate: true, Service: &api.AgentService{ID: "s8-2", Service: "s8", Port: 9998}})
	see("one more instance of a service without checks", func() error { return holds(rec, "s8/s8-2 10.1.0.9:9998") })
	h.drop(&api.CatalogDeregistration{Node: "n9", ServiceID: "s9-1"})
	see("a deregistration", func() error {
		if n := rec.Instances(); n != services {
			return fmt.Errorf("%d instances", n)
		}
		return nil
	})

	before, _, _ := rec.All()
	h.drop(&api.CatalogDeregistration{Node: "n3"})
	see("a node with 100 services", func() error {
		if n := rec.Instances(); n != services-services/nodes {
			return fmt.Errorf("%d instances", n)
		}
		return nil
	})
	updates, _, failures := rec.All()
	if len(updates) != len(before)+1 {
		t.Errorf("what vanished together was told in %d updates, want 1", len(updates)-len(before))
	}
	if len(failures) > 0 {
		t.Errorf("failures: %v", failures)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.maxConns > maxConns {
		t.Errorf("%d connections at once, want at most %d of the 200 that Consul takes", g.maxConns, maxConns)
	}
	t.Logf("at most %d connections", g.maxConns)
}

func holds(rec *record, line string) error {
	if !strings.Contains(rec.View(), line) {
		return fmt.Errorf("there is no %q", line)
	}
	return nil
}

// TestRealRestartIsAReset: a Consul that forgot everything is told as a reset, not as a
// removal, and while it is away nothing is published.
func TestRealRestartIsAReset(t *testing.T) {
	srv := testkit.Consul(t)
	h := handOf(t, srv.Addr, "")
	h.fill(20, 2)
	rec, _ := run(t, Config{Address: srv.Addr})
	testkit.Eventually(t, testkit.Context(t), "all are listed", func() error {
		if n := rec.Instances(); n != 20 {
			return fmt.Errorf("%d instances", n)
		}
		return nil
	})
	srv.Kill()
	testkit.Eventually(t, testkit.Context(t), "the failure is told", rec.FailedWith("connect"))
	if n := rec.Instances(); n != 20 {
		t.Errorf("a Consul that is away lists %d instances, want the last 20", n)
	}
	srv.Start()
	testkit.Eventually(t, testkit.Context(t), "the new Consul is read", func() error {
		if n := rec.Instances(); n != 0 {
			return fmt.Errorf("%d instances", n)
		}
		return nil
	})
	updates, _, _ := rec.All()
	last := updates[len(updates)-1]
	if !last.Full || !strings.Contains(last.Reset, "identity changed") || !strings.Contains(last.Reset, "backwards") {
		t.Errorf("the first update after the restart: full %v, reset %q; want a full one that says that the identity changed and the index went backwards", last.Full, last.Reset)
	}
	for _, u := range updates[:len(updates)-1] {
		if u.Reset != "" {
			t.Errorf("an update before it says reset %q", u.Reset)
		}
	}
	handOf(t, srv.Addr, "").fill(3, 1)
	testkit.Eventually(t, testkit.Context(t), "life goes on", func() error {
		if n := rec.Instances(); n != 3 {
			return fmt.Errorf("%d instances", n)
		}
		return nil
	})
}

// TestRealPausedConsulIsNotConfirmed: freshness comes from answers. A paused server accepts
// connections and answers nothing.
func TestRealPausedConsulIsNotConfirmed(t *testing.T) {
	srv := testkit.Consul(t)
	rec, _ := run(t, Config{Address: srv.Addr})
	confirmed := func(since time.Time) func() error {
		return func() error {
			if _, confirms, _ := rec.All(); len(confirms) == 0 || !confirms[len(confirms)-1].After(since) {
				return fmt.Errorf("confirmed at %v", confirms)
			}
			return nil
		}
	}
	testkit.Eventually(t, within(t, 30*time.Second), "it is confirmed", confirmed(time.Time{}))
	srv.Pause()
	paused := time.Now()
	testkit.Eventually(t, within(t, 30*time.Second), "the silence is told", rec.FailedWith("no answer within"))
	if err := confirmed(paused.Add(100 * time.Millisecond))(); err == nil {
		t.Error("it was confirmed while Consul was paused")
	}
	srv.Resume()
	testkit.Eventually(t, within(t, 30*time.Second), "it is confirmed again", confirmed(time.Now()))
	if updates, _, _ := rec.All(); len(updates) != 1 {
		t.Errorf("%d updates, want the first alone: nothing changed", len(updates))
	}
}

const master = "11111111-2222-3333-4444-555555555555"

// token makes an ACL token with the rules.
func (h hand) token(name, rules string) *api.ACLToken {
	h.t.Helper()
	p, _, err := h.ACL().PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	tok, _, err := h.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: p.ID}}}, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return tok
}

func TestRealTokens(t *testing.T) {
	srv := testkit.Consul(t, testkit.ConsulACL(master))
	h := handOf(t, srv.Addr, master)
	h.fill(4, 1)
	nothingPublished := func(t *testing.T, rec *record) {
		t.Helper()
		if updates, confirms, _ := rec.All(); len(updates)+len(confirms) > 0 {
			t.Errorf("published %v, confirmed %v", updates, confirms)
		}
	}
	for _, c := range []struct {
		name  string
		token string
		words []string
	}{
		{"unknown", "99999999-2222-3333-4444-555555555555", []string{"403", "does not know the configured token"}},
		{"none", "", []string{"nothing is listed, not even Consul itself", "anonymous"}},
		{"no nodes", h.token("no-nodes", `service_prefix "" { policy = "read" }`).SecretID, []string{"list nodes", "node:read"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			rec, stop := run(t, Config{Address: srv.Addr, Token: c.token})
			testkit.Eventually(t, within(t, 30*time.Second), "the failure is told in words", rec.FailedWith(c.words...))
			stop()
			nothingPublished(t, rec)
			if _, _, failures := rec.All(); c.token != "" && strings.Contains(fmt.Sprint(failures), c.token) {
				t.Errorf("the token stands in a failure: %v", failures)
			}
		})
	}
	t.Run("a service alone", func(t *testing.T) {
		tok := h.token("s2", `service "s2" { policy = "read" } node_prefix "" { policy = "read" }`)
		rec, _ := run(t, Config{Address: srv.Addr, Token: tok.SecretID})
		testkit.Eventually(t, within(t, 30*time.Second), "what it may see is listed", rec.Shows("s2/s2-1 10.1.0.1:8080 w=1 UNKNOWN via 10.1.0.1:50002"))
		h.drop(&api.CatalogDeregistration{Node: "n0", ServiceID: "s2-1"})
		testkit.Eventually(t, within(t, 30*time.Second), "and may become empty", rec.Shows())
		if _, _, failures := rec.All(); len(failures) > 0 {
			t.Errorf("failures: %v", failures)
		}
	})
	t.Run("rotated in its file", func(t *testing.T) {
		rules := `service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }`
		first, second := h.token("first", rules), h.token("second", rules)
		file := filepath.Join(t.TempDir(), "token")
		write := func(token string) {
			if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(first.SecretID)
		rec, _ := run(t, Config{Address: srv.Addr, TokenFile: file})
		testkit.Eventually(t, within(t, 30*time.Second), "all are listed", func() error { return holds(rec, "s1/s1-1") })
		if _, err := h.ACL().TokenDelete(first.AccessorID, nil); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, within(t, 20*time.Second), "the deleted token is told", rec.FailedWith("403"))
		if err := holds(rec, "s1/s1-1"); err != nil {
			t.Errorf("with a deleted token: %v", err)
		}
		write(second.SecretID)
		h.put(&api.CatalogRegistration{Node: "n0", SkipNodeUpdate: true, Service: &api.AgentService{ID: "late", Service: "late", Port: 1}})
		testkit.Eventually(t, within(t, 30*time.Second), "the new token is taken up", func() error { return holds(rec, "late/late") })
	})
}

func TestRealUnknownDatacenter(t *testing.T) {
	srv := testkit.Consul(t)
	rec, _ := run(t, Config{Address: srv.Addr, Datacenter: "mars"})
	testkit.Eventually(t, within(t, 30*time.Second), "it is told", rec.FailedWith("does not know the configured datacenter"))
	if updates, _, _ := rec.All(); len(updates) > 0 {
		t.Errorf("published %v", updates)
	}
}

// TestRealOddNames: what Consul takes as a name it must not make us lose or confuse others.
func TestRealOddNames(t *testing.T) {
	srv := testkit.Consul(t)
	h := handOf(t, srv.Addr, "")
	names := []string{"a b", "a/b", "a?b=c", "100%", "ünï", "Web", "web", "a//b", "..", "x/../web", "web-sidecar-proxy"}
	for i, name := range names {
		h.put(&api.CatalogRegistration{Node: "n1", Service: &api.AgentService{ID: fmt.Sprintf("id-%d", i), Service: name, Port: 1}})
	}
	h.put(&api.CatalogRegistration{Node: "n1", Service: &api.AgentService{ID: "proxy", Kind: api.ServiceKindMeshGateway, Service: "gateway", Port: 1}})
	rec, _ := run(t, Config{Address: srv.Addr})
	var want []string
	for i, name := range names[:7] {
		want = append(want, fmt.Sprintf("%s/id-%d 10.0.0.1:1 w=1 UNKNOWN", name, i))
	}
	slices.Sort(want)
	testkit.Eventually(t, within(t, 30*time.Second), "each name has its own instance", rec.Shows(want...))
	updates, _, _ := rec.All()
	var aside []string
	for _, s := range updates[0].Snapshots {
		for _, a := range s.SetAside {
			aside = append(aside, a.Record)
		}
	}
	if slices.Sort(aside); !slices.Equal(aside, []string{"..", "a//b", "x/../web"}) {
		t.Errorf("set aside %q, want those that no URL can name", aside)
	}
	if i := slices.IndexFunc(updates[0].Snapshots, func(s catalog.Snapshot) bool {
		return s.Source == "gateway" || s.Source == "consul" || s.Source == "web-sidecar-proxy"
	}); i >= 0 {
		t.Errorf("%s is listed", updates[0].Snapshots[i].Source)
	}
}

// TestRealBusyRegistryStaysFresh: changes that never end, of checks and of instances that no
// check tells of, keep nobody from confirming.
func TestRealBusyRegistryStaysFresh(t *testing.T) {
	srv := testkit.Consul(t)
	h := handOf(t, srv.Addr, "")
	h.fill(300, 5)
	rec, _ := run(t, Config{Address: srv.Addr})
	testkit.Eventually(t, testkit.Context(t), "all are listed", func() error {
		if n := rec.Instances(); n != 300 {
			return fmt.Errorf("%d instances", n)
		}
		return nil
	})
	began := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 0; time.Since(began) < 6*time.Second; i++ {
		<-tick.C
		h.put(&api.CatalogRegistration{Node: "n1", SkipNodeUpdate: true, Check: &api.AgentCheck{
			Node: "n1", CheckID: "c:s1-1", ServiceID: "s1-1", Status: api.HealthPassing, Output: fmt.Sprint(i)}})
		h.put(&api.CatalogRegistration{Node: "n2", SkipNodeUpdate: true, Service: &api.AgentService{
			ID: "s2-1", Service: "s2", Port: 8080, Tags: []string{"v1"}, EnableTagOverride: i%2 == 0}})
	}
	_, confirms, failures := rec.All()
	last := began
	for _, at := range append(confirms, time.Now()) {
		if gap := at.Sub(last); gap > 3*time.Second {
			t.Errorf("not confirmed for %v", gap.Round(time.Millisecond))
		}
		last = at
	}
	if len(failures) > 0 {
		t.Errorf("failures %v", failures)
	}
	updates, _, _ := rec.All()
	t.Logf("%d confirmations and %d updates in 6 s", len(confirms), len(updates))
}
