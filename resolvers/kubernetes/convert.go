package kubernetes

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/farcall/farcall/internal/catalog"
)

// endpointSlice is what an EndpointSlice says that counts. It is kept for every Service that is
// read, so it is small.
type endpointSlice struct {
	// owner is the name of its Service; empty where it belongs to none.
	owner     string
	family    discoveryv1.AddressType
	ports     []port
	endpoints []endpoint
	aside     []catalog.SetAside
	revision  string
}

// endpoint is one of its endpoints.
type endpoint struct {
	// target is the name of the object behind it, as a rule a Pod; empty where none is stated.
	target  string
	address string
	node    string
	zone    string
	health  catalog.Health
}

// key tells endpoints of one slice apart.
func (e endpoint) key() string { return cmp.Or(e.target, e.address) }

// id is the instance's: the target, else the address with the first port that is not 0.
func (e endpoint) id(app, relay int) string {
	if e.target != "" {
		return e.target
	}
	return hostPort(e.address, cmp.Or(app, relay))
}

// relay is where CallLocal is served; empty where port is 0.
func (e endpoint) relay(port int) string {
	if port == 0 {
		return ""
	}
	return hostPort(e.address, port)
}

// numbered reports whether the ids of some endpoints hold a port.
func (s *endpointSlice) numbered() bool {
	return slices.ContainsFunc(s.endpoints, func(e endpoint) bool { return e.target == "" })
}

// has reports whether an endpoint has one of these keys.
func (s *endpointSlice) has(keys map[string]struct{}) bool {
	return slices.ContainsFunc(s.endpoints, func(e endpoint) bool {
		_, ok := keys[e.key()]
		return ok
	})
}

// readSlice takes from an EndpointSlice what counts.
func readSlice(s *discoveryv1.EndpointSlice) *endpointSlice {
	out := &endpointSlice{
		owner:     s.Labels[discoveryv1.LabelServiceName],
		family:    s.AddressType,
		endpoints: make([]endpoint, 0, len(s.Endpoints)),
		revision:  s.ResourceVersion,
	}
	for _, p := range s.Ports {
		// A port without a number means all of them, which names none.
		if p.Port != nil && (p.Protocol == nil || *p.Protocol == corev1.ProtocolTCP) {
			out.ports = append(out.ports, port{once(p.Name), int(*p.Port)})
		}
	}
	for i, e := range s.Endpoints {
		if len(e.Addresses) == 0 || e.Addresses[0] == "" {
			out.aside = append(out.aside, catalog.SetAside{
				Record: fmt.Sprintf("%s/%s endpoint %d", s.Namespace, s.Name, i), Reason: "it has no address",
			})
			continue
		}
		read := endpoint{
			// Only the first address has a meaning; Kubernetes' own controllers write one.
			address: e.Addresses[0], node: once(e.NodeName), zone: once(e.Zone), health: healthOf(e.Conditions),
		}
		if e.TargetRef != nil {
			read.target = e.TargetRef.Name
		}
		out.endpoints = append(out.endpoints, read)
	}
	return out
}

// once gives one copy of a string that many endpoints have in common.
func once(s *string) string {
	if s == nil {
		return ""
	}
	return unique.Make(*s).Value()
}

// healthOf says an endpoint's conditions in Farcall's words (strategies.md, "Health"). What is
// not stated means what the API says: ready, serving, not terminating.
//
//   - terminating and still serving is DRAINING: it finishes what it has.
//   - terminating and serving no more is UNHEALTHY. It leaves the list when Kubernetes takes it
//     out, and counts until then.
//   - else ready is HEALTHY and not ready is UNHEALTHY. A Service with publishNotReadyAddresses
//     says that all of its endpoints are ready; that is its author's word.
func healthOf(c discoveryv1.EndpointConditions) catalog.Health {
	is := func(b *bool, otherwise bool) bool {
		if b == nil {
			return otherwise
		}
		return *b
	}
	switch {
	case is(c.Terminating, false) && is(c.Serving, true):
		return catalog.Draining
	case is(c.Terminating, false), !is(c.Ready, true):
		return catalog.Unhealthy
	}
	return catalog.Healthy
}

// place is where a node is.
type place struct{ region, zone string }

// instances makes the instances of one slice of a service. Whether an address, port or name can
// be used is its reader's to judge.
func (s *service) instances(from *endpointSlice, places map[string]place) (list []*catalog.Instance, aside []catalog.SetAside) {
	app, err := s.appPort(from.ports)
	relay := relayPort(from.ports)
	list = make([]*catalog.Instance, 0, len(from.endpoints))
	for _, e := range from.endpoints {
		if err != nil {
			aside = append(aside, catalog.SetAside{Record: s.name.String() + "/" + e.key(), Reason: err.Error()})
			continue
		}
		at := places[e.node]
		in := &catalog.Instance{
			ID:       catalog.ID{Name: s.name, Instance: e.id(app, relay)},
			Node:     e.node,
			Locality: catalog.Locality{Region: at.region, Zone: cmp.Or(e.zone, at.zone)},
			Address:  e.address,
			Port:     app,
			Weight:   1,
			Health:   e.health,
			Revision: from.revision,
			Relay:    e.relay(relay),
		}
		list = append(list, in)
	}
	byID(list)
	return list, append(aside, from.aside...)
}

// outside makes the instance of an ExternalName Service: a host beyond the cluster, of which
// Kubernetes knows a name and no health.
func (s *service) outside() (*catalog.Instance, error) {
	app, err := s.appPort(s.ports)
	if err != nil {
		return nil, err
	}
	in := &catalog.Instance{
		ID:      catalog.ID{Name: s.name, Instance: s.external},
		Address: s.external, Port: app, Weight: 1, Health: catalog.Unknown, Revision: s.revision,
	}
	if relay := relayPort(s.ports); relay != 0 {
		in.Relay = hostPort(s.external, relay)
	}
	return in, nil
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// byID orders a list; of the same identity, the first stays the first.
func byID(list []*catalog.Instance) {
	slices.SortStableFunc(list, func(a, b *catalog.Instance) int { return a.ID.Compare(b.ID) })
}

// lost reports whether an instance of one state of a slice is missing in the next.
func lost(was, is *endpointSlice) bool {
	if was.numbered() && !slices.Equal(was.ports, is.ports) {
		return true
	}
	same := func(a, b endpoint) bool { return a.key() == b.key() }
	if n := len(was.endpoints); n <= len(is.endpoints) && slices.EqualFunc(was.endpoints, is.endpoints[:n], same) {
		return false // most changes leave them where they are
	}
	keys := make(map[string]struct{}, len(is.endpoints))
	for _, e := range is.endpoints {
		keys[e.key()] = struct{}{}
	}
	return slices.ContainsFunc(was.endpoints, func(e endpoint) bool {
		_, ok := keys[e.key()]
		return !ok
	})
}

// differing gives the keys of the endpoints of which two states of a slice state another address or
// other ports, or which only one of them has. was may be nil. A change of health is none.
func differing(was, is *endpointSlice) map[string]struct{} {
	if was == nil {
		was = &endpointSlice{}
	}
	ports := slices.Equal(was.ports, is.ports)
	same := func(a, b endpoint) bool { return a.key() == b.key() && a.address == b.address }
	if ports && slices.EqualFunc(was.endpoints, is.endpoints, same) {
		return nil
	}
	keys, addresses := map[string]struct{}{}, make(map[string]string, len(was.endpoints))
	for _, e := range was.endpoints {
		addresses[e.key()] = e.address
	}
	for _, e := range is.endpoints {
		if address, ok := addresses[e.key()]; !ok || address != e.address || !ports {
			keys[e.key()] = struct{}{}
		}
		delete(addresses, e.key())
	}
	for k := range addresses {
		keys[k] = struct{}{}
	}
	return keys
}
