// Package reach decides which address is dialled to have a call served by an instance: the
// agent on its node, the relay its registry states, or nobody and why.
//
// It is pure: it dials nothing, and whether an address answers is found out by calls.
package reach

import (
	"fmt"
	"net"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/catalog"
)

// Self is who would dial.
type Self struct {
	Cluster string
	// Node is empty where no agent asks (the synchronizer explaining).
	Node string
	// Address is the agent's own relay address as peers reach it.
	Address string
	// Loopback says that the own internal listener is on loopback. Only then are loopback relay
	// addresses believed: a one-host federation.
	Loopback bool
}

// Path is how an instance is reached. Exactly one of its fields is set.
type Path struct {
	// Address is the host:port where CallLocal is served for it.
	Address string
	// Local says that this very agent delivers to it.
	Local bool
	// Nobody says in words why no address is dialled.
	Nobody string
}

// Index finds the agent of a node. It is immutable.
type Index struct {
	byNode map[place]string
	byHost map[place]string
	nodeAt map[place]string // by an agent's whole address, its node; "" for several
}

type place struct{ cluster, at string }

// NewIndex returns the index of these agents, which are in cluster and node order: of two
// agents that advertise the same host, the first stands for it.
func NewIndex(agents []*catalogv1.Agent) *Index {
	x := &Index{byNode: map[place]string{}, byHost: map[place]string{}, nodeAt: map[place]string{}}
	for _, a := range agents {
		if p := (place{a.GetCluster(), a.GetAddress()}); x.nodeAt[p] == "" {
			if _, several := x.nodeAt[p]; !several {
				x.nodeAt[p] = a.GetNode()
			}
		} else if x.nodeAt[p] != a.GetNode() {
			x.nodeAt[p] = ""
		}
		x.byNode[place{a.GetCluster(), a.GetNode()}] = a.GetAddress()
		host, _, err := net.SplitHostPort(a.GetAddress())
		if err != nil {
			continue
		}
		if p := (place{a.GetCluster(), host}); x.byHost[p] == "" {
			x.byHost[p] = a.GetAddress()
		}
	}
	return x
}

// agent returns the address of the agent on the instance's node: the one of the same node
// name, else the one whose advertised host is the instance's address.
func (x *Index) agent(i *catalog.Instance) string {
	if i.Node != "" {
		if a := x.byNode[place{i.Cluster, i.Node}]; a != "" {
			return a
		}
	}
	if i.Address == "" {
		return ""
	}
	return x.byHost[place{i.Cluster, i.Address}]
}

// AgentAt gives the node of the agent by which an instance is reached at an address, and whether there
// is one: of the instance's own cluster, since another's speaks for nobody here. The node is empty where
// several agents say that the address is theirs, as after a node got another name.
func (x *Index) AgentAt(i *catalog.Instance, address string) (node string, ok bool) {
	if i.Node != "" && x.byNode[place{i.Cluster, i.Node}] == address {
		return i.Node, true
	}
	node, ok = x.nodeAt[place{i.Cluster, address}]
	return node, ok
}

// Owns reports whether the instance is on the agent's own node.
func (x *Index) Owns(self Self, i *catalog.Instance) bool {
	if self.Node == "" || i.Cluster != self.Cluster {
		return false
	}
	if i.Node == self.Node || i.Relay == self.Address {
		return true
	}
	host, _, err := net.SplitHostPort(self.Address)
	if err != nil || i.Address != host {
		return false
	}
	if i.Node != "" && x.byNode[place{i.Cluster, i.Node}] != "" {
		return false // another agent's
	}
	// Without a feed nobody is in the index, not even this agent.
	a := x.agent(i)
	return a == "" || a == self.Address
}

// Path returns how self reaches the instance. An external one is reached by the agent of its
// node, else by its stated relay; one of the own cluster by its stated relay, else by the agent
// of its node (design.md, "Which address is dialled").
func (x *Index) Path(self Self, i *catalog.Instance) Path {
	if i.Cluster == self.Cluster {
		if x.Owns(self, i) && (i.Relay == "" || i.Relay == self.Address) {
			return Path{Local: true}
		}
		if i.Relay != "" {
			return checked(self, i.Relay)
		}
		return checked(self, x.agent(i))
	}
	if a := x.agent(i); a != "" {
		return checked(self, a)
	}
	return checked(self, i.Relay)
}

func checked(self Self, address string) Path {
	switch {
	case address == "":
		return Path{Nobody: "no agent on its node and no relay stated"}
	case catalog.IsLoopback(address) && !self.Loopback:
		return Path{Nobody: fmt.Sprintf("its relay %s is loopback, and this agent's internal listener is not", address)}
	}
	if err := catalog.CheckHostPort(address); err != nil {
		return Path{Nobody: err.Error()}
	}
	return Path{Address: address}
}
