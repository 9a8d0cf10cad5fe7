package consul

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/hashicorp/consul/api"
)

// ownService is the name under which Consul's servers list themselves.
const ownService = "consul"

// services lists the names of all services with their tags. Consul lists itself, so that a
// list without anything means that it has just started or hides everything: an error, not an
// empty registry. Only where Consul says that it left something out for the token's sake, and
// the token may see nodes at all, such a list means what it says.
func (c *client) services(ctx context.Context, index uint64) (reply[map[string][]string], error) {
	r, err := ask[map[string][]string](ctx, c, list("list services", "/v1/catalog/services", index))
	if err == nil && len(r.body) == 0 {
		if !r.filtered {
			return r, errors.New("consul: list services: nothing is listed, not even Consul itself: it has just started, or anonymous access may not read services")
		}
		_, err = c.nodes(ctx, 0)
	}
	return r, err
}

// check is what of a health check says that something about it changed.
type check struct {
	Node        string
	CheckID     string
	ServiceName string // empty for a check of the node
	ModifyIndex uint64
}

func (c *client) checks(ctx context.Context, index uint64) (reply[[]check], error) {
	return ask[[]check](ctx, c, list("list checks", "/v1/health/state/any", index))
}

// node is what of a node says that something about it changed.
type node struct {
	ID          string
	Node        string
	ModifyIndex uint64
}

// nodes lists all nodes. Consul's servers are among them; who may see none can see no instance
// either, which is not the same as that there is none.
func (c *client) nodes(ctx context.Context, index uint64) (reply[[]node], error) {
	r, err := ask[[]node](ctx, c, list("list nodes", "/v1/catalog/nodes", index))
	if err == nil && len(r.body) == 0 {
		return r, errors.New("consul: list nodes: none is listed, not even Consul's own: the token needs node:read")
	}
	return r, err
}

// listed is what of a registration on a node says that something about it changed.
type listed struct {
	ID          string
	Service     string
	Kind        api.ServiceKind
	ModifyIndex uint64
}

// onNode lists the registrations of one node.
func (c *client) onNode(ctx context.Context, name string) ([]listed, error) {
	r, err := ask[struct{ Services []listed }](ctx, c, query{
		kind: "read node", path: "/v1/catalog/node-services/" + name, timeout: readTimeout,
	})
	return r.body.Services, err
}

// list asks for a whole table, at once or once its index is above the given one.
func list(kind, path string, index uint64) query {
	q := query{kind: kind, path: path, index: index, timeout: listTimeout}
	if index > 0 {
		q.timeout = blockTimeout
	}
	return q
}

// service reads one service, which is without entries when its last registration has just gone.
func (c *client) service(ctx context.Context, name string) (reply[[]*api.ServiceEntry], error) {
	r, err := ask[[]*api.ServiceEntry](ctx, c, query{
		kind: "read service", path: "/v1/health/service/" + name, timeout: readTimeout,
	})
	if err != nil {
		return r, err
	}
	for _, e := range r.body {
		if !whole(e) {
			return r, errors.New("consul: read service: an entry has no node or no service")
		}
	}
	return r, nil
}

// whole reports whether an entry has all that convert takes for granted.
func whole(e *api.ServiceEntry) bool { return e != nil && e.Node != nil && e.Service != nil }

// probe is where Consul stands, asked without waiting and without a list.
type probe struct {
	at      time.Time // when it was asked
	nodes   uint64    // index of the nodes; every change of a service instance moves it too
	checks  uint64
	servers []string // ids of Consul's own servers
}

// nothing matches no node and no service: what counts is the index of the empty answer, which
// is the whole table's and costs Consul one look-up.
const nothing = "farcall-matches-nothing"

// probe asks for the tables' indexes and for Consul's own entry.
func (c *client) probe(ctx context.Context) (probe, error) {
	p := probe{at: time.Now()}
	nodes, err := ask[[]node](ctx, c, query{kind: "probe nodes", path: "/v1/catalog/nodes", nodeMeta: nothing, timeout: probeTimeout})
	if err != nil {
		return p, err
	}
	checks, err := ask[[]check](ctx, c, query{kind: "probe checks", path: "/v1/health/checks/" + nothing, timeout: probeTimeout})
	if err != nil {
		return p, err
	}
	servers, err := ask[[]node](ctx, c, query{kind: "probe servers", path: "/v1/catalog/service/" + ownService, timeout: probeTimeout})
	if err != nil {
		return p, err
	}
	p.nodes, p.checks = nodes.index, checks.index
	for _, n := range servers.body {
		p.servers = append(p.servers, cmp.Or(n.ID, n.Node))
	}
	return p, nil
}
