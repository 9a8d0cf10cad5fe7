package agent

import (
	"context"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/farcall/farcall/agent/conns"
	"github.com/farcall/farcall/agent/reachability"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/identity"
)

// upward is how synchronizers are spoken to; nil is for plaintext.
func (a *Agent) upward() credentials.TransportCredentials {
	if a.deps.Identity == nil {
		return nil
	}
	return a.deps.Identity.ClientCredentials(identity.Any(identity.Synchronizer))
}

// sideways is how peers are spoken to; nil is for plaintext.
func (a *Agent) sideways() func(conns.Who) credentials.TransportCredentials {
	id := a.deps.Identity
	if id == nil {
		return nil
	}
	return func(w conns.Who) credentials.TransportCredentials {
		if w.Plaintext {
			return insecure.NewCredentials()
		}
		return id.ClientCredentials(identity.AgentOf(w.Cluster, w.Node))
	}
}

// greeter finds out whether a relay answers; nil is for the tracker's own, which is plaintext. Whose
// agent is there is looked at by calls.
func (a *Agent) greeter() func(context.Context, string) (time.Duration, error) {
	if a.deps.Identity == nil {
		return nil
	}
	return reachability.GreetOver(a.deps.Identity.ClientConfig(identity.Any(identity.Agent)), len(a.cfg.PlaintextRelays) > 0)
}

// who is wanted at the address that an instance is dialled at: the agent that says it is there, else
// somebody whom the instance's registry states, which is some agent of the instance's cluster, or
// where that cluster is among those whose relays may be without an identity, anybody.
func (r *router) who(n catalog.Name, i *catalog.Instance, dial string) conns.Who {
	node, agent := r.book.Service(n).AgentAt(i, dial)
	if !agent && r.plaintext[i.Cluster] {
		return conns.Who{Plaintext: true}
	}
	return conns.Who{Cluster: i.Cluster, Node: node}
}
