package consul

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/farcall/farcall/resolvers"
)

const (
	// checkTTL is how long a check stays as it is without being renewed: an agent that died with
	// its node's power is critical after it.
	checkTTL = "10s"
	// deregisterAfter is how long a registration stays critical before Consul drops it, for
	// agents that never came back. Consul's least is a minute; an application that is away for a
	// deployment should be seen as down, not as gone.
	deregisterAfter = "10m"
	callTimeout     = 2 * time.Second
)

// errUnknown says that the agent has no such registration.
var errUnknown = errors.New("consul: the agent does not know the registration")

func checkID(id string) string { return "farcall:" + id }

// register lists an application at the agent, with its check in the given state. It replaces
// what was registered under the same id.
func (c *client) register(ctx context.Context, a resolvers.Registration, portKey string, s appState) error {
	meta := make(map[string]string, 2)
	if a.RelayPort > 0 {
		meta[portKey] = strconv.Itoa(a.RelayPort)
	}
	if ns := namespaceMeta(a.Name); ns != "" {
		meta[NamespaceKey] = ns
	}
	status, note := checkWords(s)
	reg := &api.AgentServiceRegistration{
		ID: a.ID, Name: a.Name.Service, Address: a.Address, Port: a.Port, Meta: meta,
		Check: &api.AgentServiceCheck{
			CheckID: checkID(a.ID), Name: "Farcall: application's port", Notes: note, TTL: checkTTL,
			Status: status, DeregisterCriticalServiceAfter: deregisterAfter,
		},
	}
	return c.call(ctx, "register", func(ctx context.Context) error {
		return c.api.Agent().ServiceRegisterOpts(reg, api.ServiceRegisterOpts{ReplaceExistingChecks: true}.WithContext(ctx))
	})
}

// renew keeps an application's check in the given state for another checkTTL.
func (c *client) renew(ctx context.Context, id string, s appState) error {
	status, note := checkWords(s)
	return c.call(ctx, "renew", func(ctx context.Context) error {
		return c.api.Agent().UpdateTTLOpts(checkID(id), note, status, (&api.QueryOptions{}).WithContext(ctx))
	})
}

func (c *client) deregister(ctx context.Context, id string) error {
	return c.call(ctx, "deregister", func(ctx context.Context) error {
		return c.api.Agent().ServiceDeregisterOpts(id, (&api.QueryOptions{}).WithContext(ctx))
	})
}

// checkWords gives a check's status and output. The output never varies within a status:
// Consul writes each change of it through its servers.
func checkWords(s appState) (status, output string) {
	if s == statePassing {
		return api.HealthPassing, "the application's port accepts connections"
	}
	return api.HealthCritical, "the application's port does not accept connections"
}

// agentID gives the id of the agent's node: a development agent's is another after each start.
// It is empty where the token may not ask (agent:read).
func (c *client) agentID(ctx context.Context) (string, error) {
	var self struct{ Config struct{ NodeID string } }
	err := c.call(ctx, "ask agent", func(ctx context.Context) error {
		_, err := c.api.Raw().Query("/v1/agent/self", &self, (&api.QueryOptions{}).WithContext(ctx))
		return err
	})
	if status := (api.StatusError{}); errors.As(err, &status) && status.Code == http.StatusForbidden {
		return "", nil
	}
	return self.Config.NodeID, err
}

// call bounds, counts and words one call to the agent.
func (c *client) call(ctx context.Context, kind string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := f(ctx)
	c.count(kind, err)
	if err == nil {
		return nil
	}
	if status := (api.StatusError{}); errors.As(err, &status) && status.Code == http.StatusNotFound {
		return errUnknown
	}
	return fmt.Errorf("consul: %s: %w", kind, c.words(err, callTimeout))
}

// accepts reports whether a port takes a connection.
func accepts(ctx context.Context, host string, port int) bool {
	d := net.Dialer{Timeout: dialTime}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return false
	}
	// It was only asked whether it opens: closing it cannot fail in a way that matters.
	_ = conn.Close()
	return true
}
