package view

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/reach"
	"github.com/farcall/farcall/resolvers/intake"
)

// An application that is delivered to by way of its sidecar is the node's own wherever that
// sidecar is known, and the application's own port is never taken for the sidecar's.
func TestSidecarOfAnOwnInstance(t *testing.T) {
	const self = "10.0.0.1:50002"
	for _, c := range []struct {
		what     string
		told     int // apps[].port
		instance catalog.Instance
		host     string
		port     int
	}{
		{what: "the port that the agent was told", told: 3502, instance: catalog.Instance{Address: "10.0.0.1", Port: 8080, Relay: "10.0.0.1:50010"}, host: "10.0.0.1", port: 3502},
		{what: "told, and the registry states no address", told: 3502, instance: catalog.Instance{Node: "n1"}, host: "127.0.0.1", port: 3502},
		{what: "the relay that the registry states", instance: catalog.Instance{Address: "10.0.0.1", Port: 8080, Relay: "10.0.0.1:50010"}, host: "10.0.0.1", port: 50010},
		{what: "a relay alone", instance: catalog.Instance{Address: "10.0.0.1", Relay: "10.0.0.1:50010"}, host: "10.0.0.1", port: 50010},
		{what: "the agent itself as relay", instance: catalog.Instance{Address: "10.0.0.1", Port: 8080, Relay: self}},
		{what: "nobody states it", instance: catalog.Instance{Address: "10.0.0.1", Port: 8080}},
	} {
		t.Run(c.what, func(t *testing.T) {
			b := New(Config{
				Self: reach.Self{Cluster: "east", Node: "n1", Address: self}, HasRegistry: true,
				Ports: map[catalog.Name]int{cart: c.told}, Sidecars: map[catalog.Name]bool{cart: true},
			}, Deps{Metrics: prometheus.NewRegistry()})
			i := c.instance
			i.ID = catalog.ID{Cluster: "east", Name: cart, Instance: "a"}
			b.Local(intake.Change{Complete: true, Services: map[catalog.Name]intake.List{cart: {Instances: []*catalog.Instance{&i}}}})
			host, port := b.Sidecar(&i)
			if host != c.host || port != c.port || b.Port(&i) != c.port {
				t.Errorf("got %s:%d and port %d, want %s:%d", host, port, b.Port(&i), c.host, c.port)
			}
			if _, own := b.Own(i.ID); own != (c.port > 0) {
				t.Errorf("own: %t", own)
			}
		})
	}
}
