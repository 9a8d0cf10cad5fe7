package view

import (
	"net/netip"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/reach"
	"github.com/farcall/farcall/resolvers/intake"
)

// TestOwnAt says which application of the node a source address is taken for.
func TestOwnAt(t *testing.T) {
	till := catalog.Name{Namespace: "market", Service: "till"}
	at := func(n catalog.Name, id, address, node string) *catalog.Instance {
		return &catalog.Instance{ID: catalog.ID{Cluster: "east", Name: n, Instance: id}, Address: address, Port: 8080, Node: node}
	}
	nobody := catalog.Name{}
	for _, c := range []struct {
		what string
		told []catalog.Name
		list []*catalog.Instance
		from map[string]catalog.Name // by source address; "" is the only application
	}{
		{what: "nothing", from: map[string]catalog.Name{"": nobody, "127.0.0.1": nobody}},
		{
			what: "an instance with an address of its own",
			list: []*catalog.Instance{at(cart, "a", "10.1.0.5", "n1")},
			from: map[string]catalog.Name{"": cart, "10.1.0.5": cart, "::ffff:10.1.0.5": cart, "10.1.0.6": nobody, "127.0.0.1": nobody},
		},
		{
			what: "two instances of one application",
			list: []*catalog.Instance{at(cart, "a", "10.1.0.5", "n1"), at(cart, "b", "10.1.0.5", "n1"), at(cart, "c", "10.1.0.6", "n1")},
			from: map[string]catalog.Name{"": cart, "10.1.0.5": cart, "10.1.0.6": cart},
		},
		{
			what: "IPv6",
			list: []*catalog.Instance{at(cart, "a", "2001:db8::5", "n1"), at(till, "b", "2001:db8::6", "n1")},
			from: map[string]catalog.Name{"": nobody, "2001:db8::5": cart, "2001:db8::6": till, "2001:db8::7": nobody},
		},
		{
			what: "several applications at one address",
			list: []*catalog.Instance{at(cart, "a", "10.1.0.5", "n1"), at(till, "b", "10.1.0.5", "n1"), at(till, "c", "10.1.0.6", "n1")},
			from: map[string]catalog.Name{"": nobody, "10.1.0.5": nobody, "10.1.0.6": till},
		},
		{
			what: "an instance of another node",
			list: []*catalog.Instance{at(cart, "a", "10.1.0.5", "n2"), at(till, "b", "10.1.0.6", "n1")},
			from: map[string]catalog.Name{"": till, "10.1.0.5": nobody, "10.1.0.6": till},
		},
		{
			what: "on the machine itself",
			list: []*catalog.Instance{at(cart, "a", "10.0.0.1", "n1")},
			from: map[string]catalog.Name{"10.0.0.1": cart, "127.0.0.1": cart, "::1": cart, "127.0.0.2": nobody},
		},
		{
			what: "on loopback",
			list: []*catalog.Instance{at(cart, "a", "localhost", "n1"), at(till, "b", "127.0.0.2", "n1")},
			from: map[string]catalog.Name{"10.0.0.1": cart, "127.0.0.1": cart, "::1": cart, "127.0.0.2": till},
		},
		{
			what: "an instance with a name for an address",
			list: []*catalog.Instance{at(cart, "a", "cart.example", "n1")},
			from: map[string]catalog.Name{"": cart, "10.1.0.5": nobody},
		},
		{
			what: "one that was told of and has no instance", told: []catalog.Name{till},
			list: []*catalog.Instance{at(cart, "a", "10.1.0.5", "n1")},
			from: map[string]catalog.Name{"": till, "10.1.0.5": cart, "127.0.0.1": till, "10.0.0.1": till},
		},
		{
			what: "one that was told of and has an instance", told: []catalog.Name{cart},
			list: []*catalog.Instance{at(cart, "a", "10.1.0.5", "n1")},
			from: map[string]catalog.Name{"": cart, "10.1.0.5": cart, "127.0.0.1": nobody},
		},
		{
			what: "several that were told of", told: []catalog.Name{cart, till},
			from: map[string]catalog.Name{"": nobody, "127.0.0.1": nobody},
		},
	} {
		t.Run(c.what, func(t *testing.T) {
			ports := map[catalog.Name]int{}
			for _, n := range c.told {
				ports[n] = 0
			}
			b := New(Config{Self: reach.Self{Cluster: "east", Node: "n1", Address: "10.0.0.1:50002"}, HasRegistry: true, Ports: ports}, Deps{Metrics: prometheus.NewRegistry()})
			services := map[catalog.Name]intake.List{}
			for _, i := range c.list {
				services[i.Name] = intake.List{Instances: append(services[i.Name].Instances, i)}
			}
			b.Local(intake.Change{Complete: true, Services: services})
			for from, want := range c.from {
				got, ok := b.OwnOnly()
				if from != "" {
					got, ok = b.OwnAt(netip.MustParseAddr(from))
				}
				if ok != (want != nobody) || ok && got != want {
					t.Errorf("%q: got %v, %t, want %v", from, got, ok, want)
				}
			}
			a := netip.MustParseAddr("10.1.0.5")
			if n := testing.AllocsPerRun(10, func() { b.OwnAt(a) }); n > 0 {
				t.Errorf("a look-up allocates %v times", n)
			}
		})
	}
}

// An application that moves away is not taken for the caller any longer.
func TestOwnAtFollowsTheRegistry(t *testing.T) {
	b := New(Config{Self: reach.Self{Cluster: "east", Node: "n1", Address: "10.0.0.1:50002"}, HasRegistry: true}, Deps{Metrics: prometheus.NewRegistry()})
	a := netip.MustParseAddr("10.1.0.5")
	i := &catalog.Instance{ID: catalog.ID{Cluster: "east", Name: cart, Instance: "a"}, Address: "10.1.0.5", Port: 1, Node: "n1"}
	b.Local(intake.Change{Complete: true, Services: map[catalog.Name]intake.List{cart: {Instances: []*catalog.Instance{i}}}})
	if _, ok := b.OwnAt(a); !ok {
		t.Fatal("the application is not found at its address")
	}
	b.Local(intake.Change{Complete: true, Services: map[catalog.Name]intake.List{cart: {}}})
	if n, ok := b.OwnAt(a); ok {
		t.Errorf("%v is still found at the address that it has left", n)
	}
}
