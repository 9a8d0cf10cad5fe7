package reach

import (
	"testing"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// agents: two of east, one of west, one of west on loopback.
var agents = []*catalogv1.Agent{
	{Cluster: "east", Node: "n1", Address: "10.0.0.1:50002"},
	{Cluster: "east", Node: "n2", Address: "10.0.0.2:50002"},
	{Cluster: "lab", Node: "l1", Address: "127.0.0.1:7001"},
	{Cluster: "west", Node: "n1", Address: "10.1.0.1:50002"},
}

func TestPath(t *testing.T) {
	self := Self{Cluster: "east", Node: "n1", Address: "10.0.0.1:50002"}
	loopback := Self{Cluster: "east", Node: "n1", Address: "127.0.0.1:6001", Loopback: true}
	instance := func(cluster, node, address, relay string) *catalog.Instance {
		return &catalog.Instance{ID: catalog.ID{Cluster: cluster}, Node: node, Address: address, Port: 80, Relay: relay}
	}
	for name, c := range map[string]struct {
		self Self
		i    *catalog.Instance
		want Path
	}{
		"own node by name":                          {self, instance("east", "n1", "10.9.9.9", ""), Path{Local: true}},
		"own node by host":                          {self, instance("east", "", "10.0.0.1", ""), Path{Local: true}},
		"own relay stated":                          {self, instance("east", "", "10.9.9.9", "10.0.0.1:50002"), Path{Local: true}},
		"own node but a sidecar's relay":            {self, instance("east", "n1", "10.0.0.1", "10.0.0.1:41000"), Path{Address: "10.0.0.1:41000"}},
		"own cluster, other node by name":           {self, instance("east", "n2", "10.0.0.1", ""), Path{Address: "10.0.0.2:50002"}},
		"own cluster, stated relay before agent":    {self, instance("east", "n2", "10.0.0.2", "10.0.0.2:41000"), Path{Address: "10.0.0.2:41000"}},
		"own cluster, nobody":                       {self, instance("east", "n7", "10.0.0.7", ""), Path{Nobody: "no agent on its node and no relay stated"}},
		"external: agent of its node":               {self, instance("west", "n1", "10.1.0.9", "10.1.0.9:3"), Path{Address: "10.1.0.1:50002"}},
		"external: agent by host":                   {self, instance("west", "x", "10.1.0.1", ""), Path{Address: "10.1.0.1:50002"}},
		"external: node names are per cluster":      {self, instance("north", "n1", "10.3.0.1", "10.3.0.1:9"), Path{Address: "10.3.0.1:9"}},
		"external: nobody":                          {self, instance("west", "n9", "10.1.0.9", ""), Path{Nobody: "no agent on its node and no relay stated"}},
		"loopback relay seen from a network":        {self, instance("west", "n9", "10.1.0.9", "127.0.0.1:9"), Path{Nobody: "its relay 127.0.0.1:9 is loopback, and this agent's internal listener is not"}},
		"loopback agent seen from a network":        {self, instance("lab", "l1", "10.1.0.9", ""), Path{Nobody: "its relay 127.0.0.1:7001 is loopback, and this agent's internal listener is not"}},
		"loopback agent on one host":                {loopback, instance("lab", "l1", "127.0.0.1", ""), Path{Address: "127.0.0.1:7001"}},
		"link-local relay is never dialled":         {loopback, instance("west", "n9", "10.1.0.9", "169.254.169.254:80"), Path{Nobody: "169.254.169.254 is a link-local address"}},
		"own host, but an agent of that node lives": {self, instance("east", "n2", "10.0.0.1", ""), Path{Address: "10.0.0.2:50002"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := NewIndex(agents).Path(c.self, c.i); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestPathWithoutAFeed(t *testing.T) {
	self := Self{Cluster: "east", Node: "n1", Address: "10.0.0.1:50002"}
	x := NewIndex(nil)
	own := &catalog.Instance{ID: catalog.ID{Cluster: "east"}, Address: "10.0.0.1", Port: 80}
	if got := x.Path(self, own); !got.Local {
		t.Errorf("own instance by host: %+v", got)
	}
	if x.Owns(Self{Cluster: "east"}, own) {
		t.Error("nobody's agent owns an instance")
	}
}

func TestAgentAt(t *testing.T) {
	twice := append([]*catalogv1.Agent{
		{Cluster: "north", Node: "old", Address: "10.2.0.1:50002"},
		{Cluster: "north", Node: "new", Address: "10.2.0.1:50002"},
	}, agents...)
	for _, c := range []struct {
		name                   string
		cluster, node, address string
		want                   string
		ok                     bool
	}{
		{"its node's agent", "west", "n1", "10.1.0.1:50002", "n1", true},
		{"an agent whose node the registry calls otherwise", "west", "x", "10.1.0.1:50002", "n1", true},
		{"a stated relay", "west", "n1", "10.1.0.1:41000", "", false},
		{"another cluster's agent", "west", "", "10.0.0.1:50002", "", false},
		{"a cluster without agents", "south", "n1", "10.1.0.1:50002", "", false},
		{"a node that got another name", "north", "new", "10.2.0.1:50002", "new", true},
		{"nobody knows which of two", "north", "", "10.2.0.1:50002", "", true},
	} {
		i := &catalog.Instance{ID: catalog.ID{Cluster: c.cluster}, Node: c.node}
		if node, ok := NewIndex(twice).AgentAt(i, c.address); node != c.want || ok != c.ok {
			t.Errorf("%s: %q %v, want %q %v", c.name, node, ok, c.want, c.ok)
		}
	}
}
