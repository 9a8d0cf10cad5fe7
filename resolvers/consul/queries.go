package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"
)

// ownService is the name under which Consul's servers list themselves.
const ownService = "consul"

// services lists the names of all services with their tags. Consul lists itself, so that a
// list without anything means that it has just started or hides everything: an error, not an
// empty registry, except where Consul says that it left something out for the token's sake.
func (c *client) services(ctx context.Context, index uint64) (reply[map[string][]string], error) {
	r, err := ask[map[string][]string](ctx, c, list("list services", "/v1/catalog/services", index))
	if err == nil && len(r.body) == 0 && !r.filtered {
		return r, errors.New("consul: list services: nothing is listed, not even Consul itself: it has just started, or anonymous access may not read services")
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

func (c *client) nodes(ctx context.Context, index uint64) (reply[[]node], error) {
	return ask[[]node](ctx, c, list("list nodes", "/v1/catalog/nodes", index))
}

// list asks for a whole table, at once or once its index is above the given one.
func list(kind, path string, index uint64) query {
	q := query{kind: kind, path: path, index: index, timeout: listTimeout}
	if index > 0 {
		q.timeout = blockTimeout
	}
	return q
}

// service reads one service. A listed service of which a token may see no instance at all is
// an error: it is not empty.
func (c *client) service(ctx context.Context, name string) (reply[[]*api.ServiceEntry], error) {
	r, err := ask[[]*api.ServiceEntry](ctx, c, query{
		kind: "read service", path: "/v1/health/service/" + name, timeout: readTimeout,
	})
	if err != nil {
		return r, err
	}
	if len(r.body) == 0 && r.filtered {
		return r, fmt.Errorf("consul: read service: %s is listed, but the token may see none of its instances: it needs node:read", name)
	}
	for _, e := range r.body {
		if e == nil || e.Node == nil || e.Service == nil {
			return r, fmt.Errorf("consul: read service: %s: an entry has no node or no service", name)
		}
	}
	return r, nil
}

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
