package face

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/internal/catalog"
)

// who is whom a call is from, with what is stamped of it made once. It is immutable.
type who struct {
	invoke.Identity
	appID, namespace []string
}

func newWho(i invoke.Identity) *who {
	w := &who{Identity: i, appID: []string{i.AppID}}
	if i.Namespace != "" {
		w.namespace = []string{i.Namespace}
	}
	return w
}

func identityOf(n catalog.Name) invoke.Identity {
	return invoke.Identity{AppID: n.Service, Namespace: n.Namespace}
}

// identities tells callers from each other.
type identities struct {
	own    Own
	apps   map[catalog.Name]*who
	tokens tokens
	// node is whom a call is from whose application cannot be told: "node/<cluster>/<node>".
	node *who
}

func newIdentities(c Config, own Own) identities {
	out := identities{
		own:    own,
		apps:   make(map[catalog.Name]*who, len(c.Apps)),
		node:   newWho(invoke.Identity{AppID: "node/" + c.Cluster + "/" + c.Node}),
		tokens: newTokens(c.APIToken),
	}
	for _, a := range c.Apps {
		w := newWho(identityOf(a.Name))
		out.apps[a.Name] = w
		if a.Token != "" {
			out.tokens.add(a.Token, w)
		}
	}
	return out
}

// appIDs gives the app-ids that the configuration names, in order; never nil.
func (i *identities) appIDs() []string {
	out := make([]string, 0, len(i.apps))
	for n := range i.apps {
		out = append(out, n.Service)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// identify finds whom a call is from (design.md "Caller identity"): the owner of the token that it
// shows, else whoever locate finds. The error, UNAUTHENTICATED, says that the token is not one, or
// that one is demanded.
func (i *identities) identify(from netip.Addr, token string) (*who, *invoke.Error) {
	w, e := i.tokens.check(token)
	if e != nil || w != nil {
		return w, e
	}
	return i.locate(from), nil
}

// identifyGRPC is identify for a gRPC call.
func (i *identities) identifyGRPC(ctx context.Context) (*who, *invoke.Error) {
	var token string
	if v := metadata.ValueFromIncomingContext(ctx, invoke.APIToken); len(v) > 0 {
		token = v[0]
	}
	return i.identify(sourceOf(ctx), token)
}

// locate finds whom a call is from without asking for a token: the application, where exactly one
// of the node has the connection's source address, else the node's only application, else the
// node.
func (i *identities) locate(from netip.Addr) *who {
	if from.IsValid() {
		if n, ok := i.own.At(from); ok {
			return i.named(n)
		}
	}
	if n, ok := i.own.At(netip.Addr{}); ok {
		return i.named(n)
	}
	return i.node
}

func (i *identities) named(n catalog.Name) *who {
	if w := i.apps[n]; w != nil {
		return w
	}
	return newWho(identityOf(n))
}

// sourceOf gives the source address of a gRPC call's connection; the zero Addr where it has none,
// as on a unix socket.
func sourceOf(ctx context.Context) netip.Addr {
	if p, ok := peer.FromContext(ctx); ok {
		if a, ok := p.Addr.(*net.TCPAddr); ok {
			return a.AddrPort().Addr()
		}
	}
	return netip.Addr{}
}

// source gives the address in net/http's word for where a request came from.
func source(remote string) netip.Addr {
	a, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr()
}
