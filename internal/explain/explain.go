// Package explain turns a decision into what people are told of it: Response says for every known
// instance where it stands and why, and Move says what another set of policies would make of a
// service's calls.
//
// It decides nothing: strategy does, and whoever holds the lists and policies asks it. It does no
// I/O, reads no clock and runs no goroutines.
package explain

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/strategy"
)

// Facts are all that a response is made of. They are only read.
type Facts struct {
	Name catalog.Name
	// From is the caller's cluster.
	From string
	// ComputedBy says who decided, and from what.
	ComputedBy string
	Decision   strategy.Decision
	// Policy is what is in force for the service and the caller's cluster, whoever stated it.
	Policy *policy.Effective
	// PoliciesKnown says that the policies were read once; until then calls stay local.
	PoliciesKnown bool
	// Override and Pin are what the question names as a call would; empty where it names nothing.
	Override strategy.Kind
	Pin      string
	// Supposed is the policy that is not applied but was counted as if it were; nil without one.
	Supposed *policy.Policy
	// Clusters are those of the federation, as whoever decided sees them.
	Clusters []*adminv1.ClusterStatus
	// Notes are what else is to be said, a sentence each.
	Notes []string
}

// Response gives everything that is told of a decision: best tier first, then what was left out.
func Response(f Facts) *adminv1.ExplainResponse {
	d := &f.Decision
	resp := &adminv1.ExplainResponse{
		Namespace: f.Name.Namespace, Service: f.Name.Service, From: f.From,
		Strategy: string(d.Strategy), StrategySource: f.source(),
		ComputedBy:  f.ComputedBy,
		Clusters:    f.Clusters,
		Unavailable: string(d.Unavailable), Detail: d.Detail,
		Settings:   f.settings(),
		RecoverAll: d.RecoverAll,
		Notes:      f.notes(),
		Rule:       d.Rule,
	}
	states := make(map[string]*adminv1.ClusterStatus, len(f.Clusters))
	for _, c := range f.Clusters {
		states[c.GetCluster()] = c
	}
	add := func(c *strategy.Candidate, e *adminv1.ExplainedInstance) {
		e.Instance, e.Dial, e.Weight = c.Instance.Proto(), c.Dial, weight(c, &f.Policy.Policy)
		if st := states[c.Instance.Cluster]; st != nil {
			e.ClusterState, e.Age = st.GetState(), st.GetAge()
		}
		resp.Instances = append(resp.Instances, e)
	}
	for at := range d.Tiers {
		t := &d.Tiers[at]
		resp.Tiers = append(resp.Tiers, &adminv1.Tier{
			Name: t.Name, Share: t.Share, Available: uint32(t.Available), Known: uint32(t.Known), Why: t.Why,
		})
		taking, total := takes(d, t, &f.Policy.Policy)
		for n, g := range t.Groups {
			for i := range g {
				e := &adminv1.ExplainedInstance{Tier: int32(at)}
				if n == taking {
					e.Share = t.Share * weight(&g[i], &f.Policy.Policy) / total
					e.Picked = e.Share > 0
				}
				add(&g[i], e)
			}
		}
	}
	for i := range d.Left {
		l := &d.Left[i]
		add(&l.Candidate, &adminv1.ExplainedInstance{Tier: -1, Reason: string(l.Reason), Detail: l.Detail})
	}
	return resp
}

// weight is what an instance weighs in the choice within its tier; Random takes all alike that
// weigh anything.
func weight(c *strategy.Candidate, p *strategy.Policy) float64 {
	w := float64(c.Instance.Weight)
	if of, stated := p.Weights[c.Instance.Cluster]; stated {
		w *= float64(of)
	}
	if p.Balancer == strategy.Random {
		w = min(w, 1)
	}
	return w
}

// takes gives the group of a tier that calls go to, which is the nearest that has any weight, and
// what its members weigh together; -1 where no call goes to the tier.
func takes(d *strategy.Decision, t *strategy.Tier, p *strategy.Policy) (group int, total float64) {
	if d.Unavailable != "" || t.Failure != "" || t.Share <= 0 {
		return -1, 0
	}
	for n, g := range t.Groups {
		total = 0
		for i := range g {
			total += weight(&g[i], p)
		}
		if total > 0 {
			return n, total
		}
	}
	return -1, 0
}

const (
	strategyKey = "strategy"
	fromRequest = "request"
)

// Source says who stated the strategy that was followed: the question, where it names one or pins a
// cluster that the strategy in force never uses; else whoever stated what is in force.
func Source(p *policy.Effective, followed, override strategy.Kind, pin string) string {
	if override != "" || pin != "" && followed != p.Strategy {
		return fromRequest
	}
	return p.Sources[strategyKey]
}

func (f *Facts) source() string {
	return Source(f.Policy, f.Decision.Strategy, f.Override, f.Pin)
}

func (f *Facts) settings() []*adminv1.Setting {
	var out []*adminv1.Setting
	for _, s := range f.Policy.Settings() {
		e := &adminv1.Setting{Key: s.Key, Value: s.Value, Source: s.Source}
		if s.Key == strategyKey && f.source() == fromRequest {
			e.Value, e.Source = string(f.Decision.Strategy), fromRequest
		}
		out = append(out, e)
	}
	return out
}

func (f *Facts) notes() []string {
	var out []string
	if f.Supposed != nil {
		out = append(out, fmt.Sprintf("this is as if the policy of %s were applied, which it is not", f.Supposed))
	}
	if !f.PoliciesKnown {
		out = append(out, "the policies were not read yet: until they are, calls stay in the caller's own cluster")
	}
	// What a call asks for that is in force anyway overrides nothing.
	if f.Policy.OverrideDenied && (f.Override != "" && f.Override != f.Policy.Strategy || f.Pin != "") {
		out = append(out, f.Policy.Sources["override"]+" denies overrides: a call that asks for this is refused with PERMISSION_DENIED")
	}
	if f.Decision.Degraded {
		out = append(out, "a better tier lost instances because their cluster is EXPIRED")
	}
	if f.Policy.WarmUp > 0 {
		out = append(out, "an instance that this agent has seen for less than warmUp gets fewer calls than is said here")
	}
	return append(out, f.Notes...)
}

// Trim leaves out instances, the last ones first, until the response has no more than limit bytes,
// and notes how many: gRPC refuses messages that are larger than their reader allows.
func Trim(resp *adminv1.ExplainResponse, limit int) {
	size := proto.Size(resp)
	if size <= limit {
		return
	}
	all := len(resp.Instances)
	// The note takes room, too.
	for size > limit-100 && len(resp.Instances) > 0 {
		last := len(resp.Instances) - 1
		size -= proto.Size(resp.Instances[last]) + 1
		resp.Instances = resp.Instances[:last]
	}
	resp.Notes = append(resp.Notes, fmt.Sprintf("%d more instances are not listed: the answer would be too large", all-len(resp.Instances)))
}
