package view

import (
	"time"

	"github.com/farcall/farcall/agent/pick"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/strategy"
)

// Plan is a decision and what picks from it.
type Plan struct {
	// Decision is the strategy's; its Rule is that of Terms.
	Decision strategy.Decision
	// Source is who stated the strategy that was followed: a policy, "request", "default", ...
	Source string
	// Terms say how calls are made.
	Terms Terms
	// Picker is nil for a broadcast.
	Picker *pick.Picker
	// Clusters are the targets of a broadcast, local first; nil otherwise.
	Clusters []ClusterPlan

	state   strategy.State
	due     time.Time // when it is to be made anew for the time alone; zero for never
	expired []string  // clusters that lost instances to their silence
}

// Terms are what the policy in force says of how a call is made. It has the fields of
// relay.Terms, so that a pointer to one is a pointer to the other.
type Terms struct {
	// Rule says in one line who stated the strategy that was followed, and what it came to.
	Rule          string
	Attempts      int
	Idempotent    []string
	MinSuccess    int
	TargetTimeout time.Duration
	MaxParallel   int
}

// ClusterPlan is one cluster's part in a broadcast.
type ClusterPlan struct {
	Cluster string
	// Tier is its index in the decision.
	Tier int
	// Unreachable clusters are not dialled but reported as failed; they have no Picker.
	Unreachable bool
	Picker      *pick.Picker
}

// byRequest is who stated a strategy that the call itself asks for; explain has the same word.
const byRequest = "request"

// plan makes a plan as of now. previous is what the plan before it remembered.
func (f *facts) plan(override strategy.Kind, pin string, previous strategy.State) (*Plan, error) {
	now := time.Now()
	d, state, err := strategy.Decide(strategy.Input{
		Service: f.name, Caller: f.caller, Policy: f.policy.Policy, Override: override, Pin: pin,
		Instances: f.candidates, Known: f.known, Clusters: f.clusters, ClustersKnown: f.clustersKnown,
		PoliciesKnown: f.policiesKnown, Cordons: f.cordons, Advancing: f.advancing, Now: now, Previous: previous,
	})
	if err != nil {
		return nil, err
	}
	source := f.policy.Sources["strategy"]
	if override != "" || pin != "" && d.Strategy != f.policy.Strategy {
		source = byRequest
	}
	d.Rule = source + ": " + d.Rule
	p := &Plan{Decision: d, Source: source, Terms: f.terms(d.Rule), state: state, due: d.Next, expired: expired(d.Left)}
	picker := func(tiers ...pick.Tier) *pick.Picker {
		made := pick.New(pick.Config{Balancer: f.policy.Balancer, Now: now, WarmUp: f.policy.WarmUp, Rings: f.rings}, tiers)
		p.due = earlier(p.due, made.Next())
		return made
	}
	look := finder{facts: f}
	if d.Strategy != strategy.Broadcast {
		tiers := make([]pick.Tier, len(d.Tiers))
		for at := range d.Tiers {
			tiers[at] = look.tier(&d.Tiers[at])
		}
		p.Picker = picker(tiers...)
		return p, nil
	}
	for at := range d.Tiers {
		t := &d.Tiers[at]
		c := ClusterPlan{Cluster: t.Name, Tier: at, Unreachable: t.Failure != ""}
		if len(t.Clusters) == 1 {
			c.Cluster = t.Clusters[0]
		}
		if !c.Unreachable {
			c.Picker = picker(look.tier(t))
		}
		p.Clusters = append(p.Clusters, c)
	}
	return p, nil
}

func (f *facts) terms(rule string) Terms {
	p := &f.policy.Policy
	return Terms{
		Rule: rule, Attempts: int(p.Retry.Attempts), Idempotent: p.Retry.Idempotent,
		MinSuccess: int(p.Broadcast.MinSuccess), TargetTimeout: p.Broadcast.TargetTimeout, MaxParallel: int(p.Broadcast.MaxParallel),
	}
}

// isDue reports whether the plan is another by now for the time alone.
func (p *Plan) isDue(now time.Time) bool { return !p.due.IsZero() && !p.due.After(now) }

// earlier gives the earlier of two times; a zero one does not count.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// expired gives the clusters of which instances were left out for their silence.
func expired(left []strategy.LeftOut) (clusters []string) {
	for i := range left {
		l := &left[i]
		if n := len(clusters); l.Reason == strategy.Expired && (n == 0 || clusters[n-1] != l.Instance.Cluster) {
			clusters = append(clusters, l.Instance.Cluster)
		}
	}
	return clusters
}

// finder finds what was measured of instances.
type finder struct {
	*facts
	at int // where the next one is looked for
}

// tier is the picker's tier for one of the decision.
func (f *finder) tier(t *strategy.Tier) pick.Tier {
	out := pick.Tier{Share: t.Share, Groups: make([]pick.Group, 0, len(t.Groups))}
	for _, g := range t.Groups {
		group := pick.Group{Candidates: make([]pick.Candidate, 0, len(g))}
		for i := range g {
			c := &g[i]
			group.Candidates = append(group.Candidates, pick.Candidate{
				Instance: c.Instance, Dial: c.Dial, Local: c.Dial == "", Load: f.load(c.Instance), Weight: f.weight(c.Instance),
			})
		}
		out.Groups = append(out.Groups, group)
	}
	return out
}

// load finds what was measured of an instance, looking from the last one on and round once: in
// identity order all are found in one round.
func (f *finder) load(i *catalog.Instance) *pick.Load {
	for range f.candidates {
		if f.candidates[f.at].Instance == i {
			break
		}
		f.at = (f.at + 1) % len(f.candidates)
	}
	return f.loads[f.at]
}

// weight is an instance's own times its cluster's; a cluster of which the policy states none has 1.
func (f *facts) weight(i *catalog.Instance) uint64 {
	w := uint64(i.Weight)
	if of, stated := f.policy.Weights[i.Cluster]; stated {
		w *= uint64(of)
	}
	return w
}
