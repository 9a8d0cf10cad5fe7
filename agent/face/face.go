// Package face is what others see of an agent: the HTTP and the gRPC server for the applications
// of its node, the gRPC server for its Dapr sidecars, and the one for peers (agents and sidecars
// elsewhere).
//
// It reads what was asked and writes what came back; choosing and trying is the relay's. The
// faces for applications and sidecars never deliver by themselves, and the face for peers never forwards.
// Each server's goroutines live within its Run.
package face

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/internal/catalog"
)

// maxHeaderBytes bounds the headers of one call, on every face.
const maxHeaderBytes = 64 << 10

// defaultGrace is how long calls under way may take when a server ends.
const defaultGrace = 10 * time.Second

// Config says who the agent is, and to whom it belongs.
type Config struct {
	Cluster string
	Node    string
	Version string
	// Apps are the applications that the node's configuration names.
	Apps []App
	// APIToken, where it is not empty, is demanded of every call at the faces for applications, or
	// else the token of one of Apps (Dapr's DAPR_API_TOKEN).
	APIToken string
	// Host is the node's own IP address, for X-Forwarded-For and Forwarded; empty leaves it out.
	Host string
	// Grace is how long calls under way may take when a server ends; 0 means 10 s.
	Grace time.Duration
}

// App is an application that the node's configuration names.
type App struct {
	Name catalog.Name
	// Token is what the application shows by which it is known; empty: none.
	Token string
}

// Deps is what the faces for applications work with. All are needed, but Views by GRPC only, and
// Attributes only where several faces are to know of the same.
type Deps struct {
	Relay      *relay.Relay
	Own        Own
	Views      Views
	Attributes *Attributes
	Log        *slog.Logger
}

func (d Deps) check() error {
	if d.Relay == nil || d.Own == nil || d.Log == nil {
		return errors.New("face: Relay, Own and Log are all needed")
	}
	return nil
}

// caller is what the faces for applications and sidecars do with a request before it is relayed.
type caller struct {
	identities
	attributes *Attributes
	// What is stamped on every call, made once.
	forwardedFor, forwardedHost, forwarded string
}

func newCaller(c Config, d Deps) caller {
	out := caller{identities: newIdentities(c, d.Own), attributes: d.Attributes, forwardedFor: c.Host, forwardedHost: c.Node}
	if out.attributes == nil {
		out.attributes = NewAttributes(c)
	}
	if c.Host != "" {
		node := c.Host
		if ip, err := netip.ParseAddr(node); err == nil && ip.Is6() {
			node = `"[` + node + `]"` // RFC 7239 section 6
		}
		out.forwarded = "for=" + node + ";by=" + node + ";"
	}
	if c.Node != "" {
		out.forwarded += "host=" + c.Node
	}
	return out
}

// header gives what travels on of a caller's headers, and stamps who calls whom. Nothing that the
// caller says of itself survives.
func (c *caller) header(from invoke.Header, w *who, callee string) invoke.Header {
	named := invoke.ConnectionNames(from)
	h := make(invoke.Header, len(from)+6)
	for k, v := range from {
		if travels(k, named) {
			h[k] = v
		}
	}
	h[invoke.CallerAppID] = w.appID
	if w.namespace != nil {
		h[invoke.CallerNamespace] = w.namespace
	}
	h[invoke.CalleeAppID] = []string{callee}
	add := func(k, v string) {
		if v != "" {
			// The old values belong to the server that read them: clip before adding.
			h[k] = append(h[k][:len(h[k]):len(h[k])], v)
		}
	}
	add("X-Forwarded-For", c.forwardedFor)
	add("X-Forwarded-Host", c.forwardedHost)
	add("Forwarded", c.forwarded)
	return h
}

func travels(k string, named []string) bool {
	switch k {
	case "Content-Length", "Expect":
		// The first is said anew where it is known; the second was for this server.
		return false
	}
	return !invoke.HopByHop(k) && !invoke.ClaimsIdentity(k) && !containsFold(named, k)
}

// query reads what a caller may say about how its call shall be treated.
func (c *caller) query(w *who, app string, first func(key string) string) (relay.Query, *invoke.Error) {
	name, err := catalog.ParseName(app, w.Namespace)
	if err != nil {
		return relay.Query{}, invoke.Invalid("%v", err)
	}
	return relay.Query{Name: name, Strategy: first(invoke.StrategyKey), Cluster: first(invoke.ClusterKey), Header: first}, nil
}

// timeout reads farcall-timeout: 0 where it is not said.
func timeout(v string) (time.Duration, *invoke.Error) {
	if v == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		return 0, invoke.Invalid("%s %.40q: want a positive duration such as 500ms", invoke.TimeoutKey, v)
	}
	return d, nil
}

// deadline makes the context of a call; the zero duration sets none.
func deadline(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d > 0 {
		return context.WithTimeout(ctx, d)
	}
	return context.WithCancel(ctx)
}

// listening wraps the error of a server that ended by itself.
func listening(what string, l net.Listener, err error) error {
	return fmt.Errorf("%s: serve on %s: %w", what, l.Addr(), err)
}
