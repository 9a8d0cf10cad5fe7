package agent

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/face"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/pick"
	"github.com/farcall/farcall/agent/reachability"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/agent/view"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/strategy"
)

// router answers a call's query from the view. Safe for concurrent use.
type router struct {
	book      *view.Book
	tracker   *reachability.Tracker
	strategy  strategy.Kind // where the call names none
	protocols map[catalog.Name]app.Protocol
}

var (
	_ relay.Router = (*router)(nil)
	_ face.Own     = (*router)(nil)
)

// Route plans a call. It does not wait: what the view does not know now is unavailable now.
func (r *router) Route(_ context.Context, q relay.Query) (relay.Choice, error) {
	c := &choice{r: r, name: q.Name, kind: r.strategy, inherited: true, pin: q.Cluster}
	if q.Strategy != "" {
		var err error
		if c.kind, err = strategy.Parse(q.Strategy); err != nil {
			return nil, inputError(err)
		}
		c.inherited = false
	}
	p, err := c.plan()
	if err != nil {
		return nil, inputError(err)
	}
	c.strategy = string(p.Decision.Strategy)
	switch why := p.Decision.Unavailable; why {
	case "":
		return c, nil
	case strategy.NotFound:
		return nil, invoke.Errorf(codes.NotFound, string(why), "%s", p.Decision.Detail)
	default:
		return nil, invoke.Errorf(codes.Unavailable, string(why), "%s", p.Decision.Detail)
	}
}

func inputError(err error) error {
	var in *strategy.InputError
	if errors.As(err, &in) {
		return invoke.Errorf(codes.InvalidArgument, string(in.Reason), "%s", in.Text)
	}
	return invoke.Errorf(codes.Internal, "INTERNAL", "%v", err)
}

// choice is one call's. Every attempt picks from the view as it is then, leaving out what this
// call tried already.
type choice struct {
	r         *router
	name      catalog.Name
	kind      strategy.Kind
	inherited bool
	pin       string
	strategy  string
	cluster   string // of a broadcast's part; empty otherwise
	tried     pick.Tried
}

var _ relay.Choice = (*choice)(nil)

func (c *choice) plan() (*view.Plan, error) {
	return c.r.book.Service(c.name).Plan(c.kind, c.inherited, c.pin)
}

// Strategy implements relay.Choice.
func (c *choice) Strategy() string { return c.strategy }

// Next implements relay.Choice.
func (c *choice) Next() (relay.Target, bool) {
	p, err := c.plan()
	if err != nil {
		return relay.Target{}, false // the pinned cluster left the federation between two attempts
	}
	picker := p.Picker
	if c.cluster != "" {
		picker = nil
		for _, part := range p.Clusters {
			if part.Cluster == c.cluster {
				picker = part.Picker
			}
		}
	}
	if picker == nil {
		return relay.Target{}, false
	}
	picked, ok := picker.Pick(&c.tried)
	if !ok {
		return relay.Target{}, false
	}
	c.tried.Add(picked.Instance)
	return c.r.target(picked), true
}

// Clusters implements relay.Choice.
func (c *choice) Clusters() []relay.ClusterChoice {
	p, err := c.plan()
	if err != nil || len(p.Clusters) == 0 {
		return nil
	}
	out := make([]relay.ClusterChoice, 0, len(p.Clusters))
	for _, part := range p.Clusters {
		if part.Picker == nil && !part.Unreachable {
			continue
		}
		out = append(out, relay.ClusterChoice{
			Cluster: part.Cluster, Unreachable: part.Unreachable,
			Choice: &choice{r: c.r, name: c.name, kind: c.kind, inherited: c.inherited, pin: c.pin, strategy: c.strategy, cluster: part.Cluster},
		})
	}
	return out
}

// target counts the picked instance as busy until its Done, and makes the address of one that
// could not be reached a suspect.
func (r *router) target(p pick.Picked) relay.Target {
	p.Begin()
	t := relay.Target{Instance: p.Instance, Local: p.Local, Dial: p.Dial, Tier: p.Tier}
	if p.Local {
		t.App = r.endpoint(p.Instance)
	}
	t.Done = func(o relay.Outcome, latency time.Duration) {
		answered := pick.Failed
		if o == relay.Served || o == relay.ServedError {
			answered = pick.Answered
		}
		p.Done(time.Now(), latency, answered)
		if !p.Local && (o == relay.NotExecuted || o == relay.Lost) {
			r.tracker.Suspect(p.Dial)
		}
	}
	return t
}

// endpoint is where an own instance's application listens: where its registry says, else on
// loopback at the port that the agent was told.
func (r *router) endpoint(i *catalog.Instance) app.Endpoint {
	e := app.Endpoint{Address: i.Address, Port: r.book.Port(i), Protocol: r.protocols[i.Name]}
	if i.Port == 0 {
		e.Address = "127.0.0.1"
	}
	return e
}

// Find implements face.Own.
func (r *router) Find(id catalog.ID) (face.OwnInstance, bool) {
	i, ok := r.book.Own(id)
	if !ok {
		return face.OwnInstance{}, false
	}
	return face.OwnInstance{Instance: i, App: r.endpoint(i)}, true
}

// Any implements face.Own: an instance that serves, before one that only recover-all would use.
func (r *router) Any(appID string) (face.OwnInstance, bool) {
	list := r.book.OwnApp(appID)
	if appID == "" {
		for _, i := range list {
			if i.Name != list[0].Name {
				return face.OwnInstance{}, false // more than one application: which is meant cannot be told
			}
		}
	}
	var found *catalog.Instance
	for _, i := range list {
		switch {
		case i.Weight == 0 || i.Health == catalog.Disabled || i.Health == catalog.Draining:
		case i.Health.Serving():
			return face.OwnInstance{Instance: i, App: r.endpoint(i)}, true
		case found == nil:
			found = i
		}
	}
	if found == nil {
		return face.OwnInstance{}, false
	}
	return face.OwnInstance{Instance: found, App: r.endpoint(found)}, true
}
