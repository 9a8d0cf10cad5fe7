package agent

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/farcall/farcall/agent/consult"
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
	book    *view.Book
	tracker *reachability.Tracker
	counter *consult.Counter
	// spoken is how each application that the agent was told of is spoken to; others is for the
	// rest.
	spoken map[catalog.Name]manner
	others manner
	// secure says that the agent has an identity, and whoever it calls must have one: but the relays
	// that the registries of the plaintext clusters state.
	secure    bool
	plaintext map[string]bool
}

var (
	_ relay.Router = (*router)(nil)
	_ face.Own     = (*router)(nil)
)

// overrideDenied is the reason of an error for a call that asks for what a policy leaves to nobody.
const overrideDenied = "OVERRIDE_DENIED"

// ask gives the service of a query and the strategy that the call itself names, empty where it
// names none. Where overrides are denied, one that names what is in force anyway overrides nothing.
// The error is an *invoke.Error.
func (r *router) ask(q relay.Query) (*view.Service, strategy.Kind, error) {
	s := r.book.Service(q.Name)
	if q.Strategy == "" && q.Cluster == "" {
		return s, "", nil
	}
	var kind strategy.Kind
	if q.Strategy != "" {
		var err error
		if kind, err = strategy.Parse(q.Strategy); err != nil {
			return nil, "", inputError(err)
		}
	}
	p := s.Policy()
	switch {
	case !p.OverrideDenied:
		return s, kind, nil
	case kind == p.Strategy && q.Cluster == "":
		return s, "", nil
	}
	return nil, "", invoke.Errorf(codes.PermissionDenied, overrideDenied,
		"%s denies overrides: a call of %s may name neither a strategy nor a cluster", p.Sources["override"], q.Name)
}

// Route plans a call. It does not wait: what the view does not know now is unavailable now.
func (r *router) Route(_ context.Context, q relay.Query) (relay.Choice, error) {
	s, override, err := r.ask(q)
	if err != nil {
		return nil, err
	}
	p, err := s.Plan(override, q.Cluster)
	if err != nil {
		return nil, inputError(err)
	}
	c := &choice{
		r: r, name: q.Name, override: override, pin: q.Cluster,
		strategy: string(p.Decision.Strategy), terms: (*relay.Terms)(&p.Terms),
	}
	why := p.Decision.Unavailable
	if why == strategy.NotFound {
		return c, invoke.Errorf(codes.NotFound, string(why), "%s", p.Decision.Detail)
	}
	if s.Known() && override == "" && q.Cluster == "" {
		r.counter.Add(q.Name) // of those that a policy decides: no policy moves the others
	}
	if why != "" {
		return c, invoke.Errorf(codes.Unavailable, string(why), "%s", p.Decision.Detail)
	}
	if header := s.Policy().HashHeader; header != "" && q.Header != nil {
		if key := q.Header(header); key != "" {
			c.call.SetKey(key)
		}
	}
	return c, nil
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
	r        *router
	name     catalog.Name
	override strategy.Kind
	pin      string
	strategy string
	terms    *relay.Terms
	cluster  string // of a broadcast's part; empty otherwise
	call     pick.Call
}

var _ relay.Choice = (*choice)(nil)

func (c *choice) plan() (*view.Plan, error) {
	return c.r.book.Service(c.name).Plan(c.override, c.pin)
}

// Strategy implements relay.Choice.
func (c *choice) Strategy() string { return c.strategy }

// Terms implements relay.Choice.
func (c *choice) Terms() *relay.Terms { return c.terms }

// Next implements relay.Choice.
func (c *choice) Next() (relay.Target, bool) {
	p, err := c.plan()
	if err != nil {
		return relay.Target{}, false // the pinned cluster left the federation between two attempts
	}
	picker, first := p.Picker, 0
	if c.cluster != "" {
		picker = nil
		for _, part := range p.Clusters {
			if part.Cluster == c.cluster {
				picker, first = part.Picker, part.Tier
			}
		}
	}
	if picker == nil {
		return relay.Target{}, false
	}
	picked, ok := picker.Pick(&c.call)
	if !ok {
		return relay.Target{}, false
	}
	c.call.Add(picked.Instance)
	t := c.r.target(c.name, picked)
	t.Tier += first
	t.TierName = p.Decision.Tiers[t.Tier].Name
	return t, true
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
		one := *c
		one.cluster = part.Cluster
		out = append(out, relay.ClusterChoice{Cluster: part.Cluster, Unreachable: part.Unreachable, Choice: &one})
	}
	return out
}

// target counts the picked instance as busy until its Done, which takes the outcome to those who
// draw conclusions from it.
func (r *router) target(n catalog.Name, p pick.Picked) relay.Target {
	p.Begin()
	t := relay.Target{Instance: p.Instance, Local: p.Local, Dial: p.Dial, Tier: p.Tier}
	switch {
	case p.Local:
		t.App = r.endpoint(p.Instance)
	case r.secure:
		t.Who = r.who(n, p.Instance, p.Dial)
	}
	t.Done = func(o relay.Outcome, latency time.Duration) {
		now, means := time.Now(), meaning(o)
		suspicious := p.Done(now, latency, means)
		if means == pick.Errored || means == pick.Failed || means == pick.Late {
			r.book.Trouble(n, now, suspicious)
		}
		if !p.Local && (o == relay.NotExecuted || o == relay.Lost || o == relay.Late) {
			r.tracker.Suspect(p.Dial)
		}
	}
	return t
}

// meaning is what an attempt's outcome tells of the instance.
func meaning(o relay.Outcome) pick.Outcome {
	switch o {
	case relay.Served:
		return pick.Answered
	case relay.ServedError:
		return pick.Errored
	case relay.Late:
		return pick.Late
	case relay.Abandoned, relay.Draining:
		return pick.Abandoned
	default:
		return pick.Failed
	}
}

// Find implements face.Own.
func (r *router) Find(id catalog.ID) (face.OwnInstance, bool) {
	i, ok := r.book.Own(id)
	if !ok {
		return face.OwnInstance{}, false
	}
	return face.OwnInstance{Instance: i, App: r.endpoint(i)}, true
}

// At implements face.Own.
func (r *router) At(a netip.Addr) (catalog.Name, bool) {
	if !a.IsValid() {
		return r.book.OwnOnly()
	}
	return r.book.OwnAt(a)
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
