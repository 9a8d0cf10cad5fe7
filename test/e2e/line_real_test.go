//go:build real && unix

package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// consulRegistry is a cluster's registry in a real Consul.
type consulRegistry struct {
	t       *testing.T
	address string
	client  *api.Client
}

func newConsulRegistry(t *testing.T) *consulRegistry {
	t.Helper()
	return consulRegistryOf(t, testkit.Consul(t))
}

func consulRegistryOf(t *testing.T, s *testkit.ConsulServer) *consulRegistry {
	t.Helper()

	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	c, err := api.NewClient(&api.Config{Address: s.Addr, HttpClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	return &consulRegistry{t: t, address: s.Addr, client: c}
}

func (r *consulRegistry) config() string { return "{consul: {address: " + r.address + "}}" }

// put registers as an application's own tooling would; node is Consul's own here, so that the
// agent is found by the instance's address.
func (r *consulRegistry) put(id string, port int, _ string) {
	err := r.client.Agent().ServiceRegister(&api.AgentServiceRegistration{
		ID: id, Name: "cart", Address: "127.0.0.1", Port: port,
		Check: &api.AgentServiceCheck{TTL: "10m", Status: api.HealthPassing},
	})
	if err != nil {
		r.t.Error(err)
	}
}

func (r *consulRegistry) remove(id string) {
	if err := r.client.Agent().ServiceDeregister(id); err != nil {
		r.t.Error(err)
	}
}

// Two real Consul servers are two clusters, a real etcd of three members is the store.
func TestRealLineOnConsulAndEtcd(t *testing.T) {
	etcd := testkit.Etcd(t, 3)
	w := newWorld(t, options{
		store:    "etcd: {endpoints: [" + strings.Join(etcd.Endpoints, ", ") + "]}",
		registry: func(string) registry { return newConsulRegistry(t) },
	}, "east", "west")
	theLine(t, w)
	t.Run("etcd away", func(t *testing.T) {
		w.t = t
		for _, m := range etcd.Members {
			m.Kill()
		}
		strategies(w)
		for _, m := range etcd.Members {
			m.Start()
		}
		west := w.clusters["west"]
		west.start(t, "cart-3")
		west.registry.put("cart-3", west.apps["cart-3"].port, "")
		testkit.Eventually(t, w.ctx, "a change arrives after etcd came back", func() error {
			list, err := w.connect().ListInstances(w.ctx, &adminv1.ListInstancesRequest{Cluster: "west"})
			if err == nil && len(list.GetInstances()) != 3 {
				err = fmt.Errorf("%d instances", len(list.GetInstances()))
			}
			return err
		})
		west.registry.remove("cart-3")
	})
}

// The agent registers its node's application in Consul, with a check that follows it.
func TestRealAgentRegistersItsApplication(t *testing.T) {
	app := &cluster{name: "east", apps: map[string]*instance{}}
	app.start(t, "own-1")
	i := app.apps["own-1"]
	regs := map[string]*consulRegistry{}
	w := newWorld(t, options{
		registry: func(name string) registry {
			regs[name] = newConsulRegistry(t)
			return regs[name]
		},
		apps: fmt.Sprintf("apps: [{id: own, port: %d, register: true}]\n", i.port),
	}, "east", "west")
	served := func(want string) func() error {
		return func() error {
			a, err := w.call("west", http.MethodGet, "own/method/x", "farcall-cluster: east")
			if err == nil && (fmt.Sprint(a.status) != want) {
				err = fmt.Errorf("%d %s", a.status, a.body)
			}
			return err
		}
	}
	testkit.Eventually(t, w.ctx, "the other cluster calls the registered application", served("200"))
	entries, _, err := regs["east"].client.Health().Service("own", "", true, nil)
	if err != nil || len(entries) != 1 {
		t.Fatalf("Consul lists %v, %v", entries, err)
	}
	_, port, err := net.SplitHostPort(w.clusters["east"].internal)
	if err != nil {
		t.Fatal(err)
	}
	if got := entries[0].Service; got.Meta["DAPR_PORT"] != port || got.Port != i.port {
		t.Errorf("registered %d with meta %v, want port %d and DAPR_PORT %s", got.Port, got.Meta, i.port, port)
	}
	east := w.clusters["east"].agent
	east.Term()
	if err := east.Wait(); err != nil {
		t.Errorf("the agent ended with %v", err)
	}
	entries, _, err = regs["east"].client.Health().Service("own", "", false, nil)
	if err != nil || len(entries) != 0 {
		t.Errorf("after the agent's end Consul still lists %v (%v)", entries, err)
	}
	testkit.Eventually(t, w.ctx, "its record went with it", func() error {
		list, err := w.connect().ListAgents(w.ctx, &adminv1.ListAgentsRequest{Cluster: "east"})
		if err == nil && len(list.GetAgents()) != 0 {
			err = errors.New("the record is still there")
		}
		return err
	})
}
