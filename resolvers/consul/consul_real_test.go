//go:build real

package consul

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
	"github.com/farcall/farcall/resolvers/resolvertest"
)

// hand writes into a real Consul's catalogue.
type hand struct {
	t testing.TB
	*api.Client
}

func handOf(t testing.TB, addr, token string) hand {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	c, err := api.NewClient(&api.Config{Address: addr, Token: token, HttpClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	return hand{t, c}
}

func (h hand) put(r *api.CatalogRegistration) {
	h.t.Helper()
	if r.Address == "" {
		r.Address = "10.0.0.1"
	}
	if _, err := h.Catalog().Register(r, nil); err != nil {
		h.t.Fatalf("register: %v", err)
	}
}

func (h hand) drop(r *api.CatalogDeregistration) {
	h.t.Helper()
	if _, err := h.Catalog().Deregister(r, nil); err != nil {
		h.t.Fatalf("deregister: %v", err)
	}
}

func TestRealConformance(t *testing.T) {
	srv := testkit.Consul(t)
	resolvertest.Run(t, func(t *testing.T) *resolvertest.Registry {
		h := handOf(t, srv.Addr, "")
		g, addr := gateTo(t, srv.Addr)
		// What the gate keeps open would pass for a goroutine of the resolver's.
		g.transport.DisableKeepAlives = true
		h.drop(&api.CatalogDeregistration{Node: "n1"})
		return &resolvertest.Registry{
			Resolver: func(t testing.TB) resolvers.Resolver {
				r, err := New(Config{Address: addr, Exclude: []string{}}, deps(t))
				if err != nil {
					t.Fatal(err)
				}
				return r
			},
			Put: func(t testing.TB, i catalog.Instance) { hand{t, h.Client}.putInstance(i) },
			Remove: func(t testing.TB, id catalog.ID) {
				hand{t, h.Client}.drop(&api.CatalogDeregistration{Node: "n1", ServiceID: id.Instance})
			},
			Break:   g.breakIt,
			Hang:    g.hang,
			Healths: []catalog.Health{catalog.Healthy, catalog.Unhealthy, catalog.Disabled, catalog.Unknown},
			Own:     []string{"consul"},
			Within:  5 * time.Second,
		}
	})
}

// putInstance registers an instance whose checks, or lack of them, mean its health.
func (h hand) putInstance(i catalog.Instance) {
	h.t.Helper()
	h.put(&api.CatalogRegistration{Node: "n1", Service: &api.AgentService{
		ID: i.Instance, Service: i.Service, Address: i.Address, Port: i.Port,
	}})
	check := &api.AgentCheck{Node: "n1", CheckID: "c:" + i.Instance, ServiceID: i.Instance, Status: api.HealthPassing}
	maint := &api.AgentCheck{Node: "n1", CheckID: api.ServiceMaintPrefix + i.Instance, ServiceID: i.Instance, Status: api.HealthCritical}
	want := map[catalog.Health][]*api.AgentCheck{catalog.Healthy: {check}, catalog.Unhealthy: {check}, catalog.Disabled: {check, maint}}
	if i.Health == catalog.Unhealthy {
		check.Status = api.HealthCritical
	}
	for _, c := range []*api.AgentCheck{check, maint} {
		if slices.Contains(want[i.Health], c) {
			h.put(&api.CatalogRegistration{Node: "n1", SkipNodeUpdate: true, Check: c})
		} else {
			h.drop(&api.CatalogDeregistration{Node: "n1", CheckID: c.CheckID})
		}
	}
}

// TestRealEveryChangeIsSeen goes through what can change in a catalogue, with and without
// checks that tell of it. Each change must be seen well within a second.
func TestRealEveryChangeIsSeen(t *testing.T) {
	srv := testkit.Consul(t)
	h := handOf(t, srv.Addr, "")
	rec, _ := run(t, Config{Address: srv.Addr})
	testkit.Eventually(t, testkit.Context(t), "an empty catalogue is published", func() error {
		if updates, _, _ := rec.All(); len(updates) == 0 || !updates[0].Full || len(updates[0].Snapshots) != 0 {
			return fmt.Errorf("updates: %v", updates)
		}
		return nil
	})
	svc := func(id string, port int, change ...func(*api.AgentService)) *api.CatalogRegistration {
		s := &api.AgentService{ID: id, Service: "web", Port: port}
		for _, f := range change {
			f(s)
		}
		return &api.CatalogRegistration{Node: "n1", SkipNodeUpdate: true, Service: s}
	}
	chk := func(id, serviceID, status string) *api.CatalogRegistration {
		return &api.CatalogRegistration{Node: "n1", SkipNodeUpdate: true,
			Check: &api.AgentCheck{Node: "n1", CheckID: id, ServiceID: serviceID, Status: status}}
	}
	relayed := func(s *api.AgentService) { s.Meta = map[string]string{"DAPR_PORT": "50002"} }
	weighed := func(s *api.AgentService) { s.Weights = api.AgentWeights{Passing: 10, Warning: 3} }
	withCheck := func(r *api.CatalogRegistration, c *api.CatalogRegistration) *api.CatalogRegistration {
		r.Check = c.Check
		return r
	}
	steps := []struct {
		what string
		put  *api.CatalogRegistration
		drop *api.CatalogDeregistration
		want []string
	}{
		{what: "a node alone", put: &api.CatalogRegistration{Node: "n1", Address: "10.0.0.1"}},
		{what: "an instance without checks", put: svc("web-1", 80), want: []string{"web/web-1 10.0.0.1:80 w=1 UNKNOWN"}},
		{what: "a second one of the same service", put: svc("web-2", 81), want: []string{
			"web/web-1 10.0.0.1:80 w=1 UNKNOWN", "web/web-2 10.0.0.1:81 w=1 UNKNOWN"}},
		{what: "another port", put: svc("web-2", 82), want: []string{
			"web/web-1 10.0.0.1:80 w=1 UNKNOWN", "web/web-2 10.0.0.1:82 w=1 UNKNOWN"}},
		{what: "metadata", put: svc("web-2", 82, relayed), want: []string{
			"web/web-1 10.0.0.1:80 w=1 UNKNOWN", "web/web-2 10.0.0.1:82 w=1 UNKNOWN via 10.0.0.1:50002"}},
		{what: "weights", put: svc("web-2", 82, relayed, weighed), want: []string{
			"web/web-1 10.0.0.1:80 w=1 UNKNOWN", "web/web-2 10.0.0.1:82 w=10 UNKNOWN via 10.0.0.1:50002"}},
		{what: "the node's address", put: &api.CatalogRegistration{Node: "n1", Address: "10.0.0.9"}, want: []string{
			"web/web-1 10.0.0.9:80 w=1 UNKNOWN", "web/web-2 10.0.0.9:82 w=10 UNKNOWN via 10.0.0.9:50002"}},
		{what: "an instance of which nothing tells goes", drop: &api.CatalogDeregistration{Node: "n1", ServiceID: "web-1"}, want: []string{
			"web/web-2 10.0.0.9:82 w=10 UNKNOWN via 10.0.0.9:50002"}},
		{what: "a check's warning", put: chk("c2", "web-2", "warning"), want: []string{
			"web/web-2 10.0.0.9:82 w=3 HEALTHY via 10.0.0.9:50002"}},
		{what: "a check turns critical", put: chk("c2", "web-2", "critical"), want: []string{
			"web/web-2 10.0.0.9:82 w=10 UNHEALTHY via 10.0.0.9:50002"}},
		{what: "a check turns passing", put: chk("c2", "web-2", "passing"), want: []string{
			"web/web-2 10.0.0.9:82 w=10 HEALTHY via 10.0.0.9:50002"}},
		{what: "an instance with a check", put: withCheck(svc("web-3", 83), chk("c3", "web-3", "passing")), want: []string{
			"web/web-2 10.0.0.9:82 w=10 HEALTHY via 10.0.0.9:50002", "web/web-3 10.0.0.9:83 w=1 HEALTHY"}},
		{what: "service maintenance", put: chk("_service_maintenance:web-3", "web-3", "critical"), want: []string{
			"web/web-2 10.0.0.9:82 w=10 HEALTHY via 10.0.0.9:50002", "web/web-3 10.0.0.9:83 w=1 DISABLED"}},
		{what: "node maintenance", put: chk("_node_maintenance", "", "critical"), want: []string{
			"web/web-2 10.0.0.9:82 w=10 DISABLED via 10.0.0.9:50002", "web/web-3 10.0.0.9:83 w=1 DISABLED"}},
		{what: "the end of node maintenance", drop: &api.CatalogDeregistration{Node: "n1", CheckID: "_node_maintenance"}, want: []string{
			"web/web-2 10.0.0.9:82 w=10 HEALTHY via 10.0.0.9:50002", "web/web-3 10.0.0.9:83 w=1 DISABLED"}},
		{what: "an instance with a check goes", drop: &api.CatalogDeregistration{Node: "n1", ServiceID: "web-3"}, want: []string{
			"web/web-2 10.0.0.9:82 w=10 HEALTHY via 10.0.0.9:50002"}},
		{what: "the node goes", drop: &api.CatalogDeregistration{Node: "n1"}},
	}
	for _, s := range steps {
		began := time.Now()
		if s.put != nil {
			h.put(s.put)
		} else {
			h.drop(s.drop)
		}
		testkit.Eventually(t, testkit.Context(t), s.what, rec.Shows(s.want...))
		t.Logf("%s: seen after %v", s.what, time.Since(began).Round(time.Millisecond))
	}
	if _, _, failures := rec.All(); len(failures) > 0 {
		t.Errorf("nothing was wrong, yet it says %v", failures)
	}
}
