package synchronizer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/explain"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/policy"
)

// previewAtOnce is how many agents are asked at the same time.
const previewAtOnce = 64

// proposal is a policy that would be written, or taken back.
type proposal struct {
	target   policy.Target
	from     []string
	set      func(*policy.Set) *policy.Set
	warnings []string
	// concerned are the clusters of the federation whose callers it is for, in order.
	concerned []string
}

// PreviewPolicy asks every live agent of the clusters concerned, at every replica, what the policy
// would make of the calls that it counted, and adds up. For a cluster without an agent that answers
// it computes itself, without counters. It writes nothing.
func (a *admin) PreviewPolicy(ctx context.Context, req *adminv1.PreviewPolicyRequest) (*adminv1.PreviewPolicyResponse, error) {
	clusters := a.clusters()
	c, err := a.proposal(req, clusters)
	if err != nil {
		return nil, err
	}
	p := &preview{admin: a, proposal: c, req: req, heard: map[string]bool{}, resp: &adminv1.PreviewPolicyResponse{}}
	p.ask(ctx)
	for _, name := range c.concerned {
		if !p.heard[name] {
			p.resp.ComputedFor = append(p.resp.ComputedFor, name)
		}
	}
	if !req.GetHere() {
		p.warn(c.warnings)
		if err := p.compute(ctx, clusters); err != nil {
			return nil, err
		}
	}
	moves, left := p.sum.Moves()
	if !req.GetHere() {
		moves = explain.OnlyChanged(moves)
	}
	p.resp.Moves = moves
	if left += explain.Fit(p.resp, maxAnswer); left > 0 {
		p.resp.Warnings = append(p.resp.Warnings, fmt.Sprintf("%d more services are not listed", left))
	}
	return p.resp, nil
}

// proposal reads what would be done, by the rules of doing it.
func (a *admin) proposal(req *adminv1.PreviewPolicyRequest, clusters []mirror.Cluster) (*proposal, error) {
	names := make([]string, 0, len(clusters))
	for _, c := range clusters {
		names = append(names, c.Name)
	}
	all := a.s.mirror.Policies()
	if !all.Known {
		return nil, errUnread
	}
	c := &proposal{}
	if req.GetDelete() {
		var err error
		if c.target, err = policy.TargetFromProto(req.GetPolicy().GetTarget()); err != nil {
			return nil, badPolicy(err)
		}
		c.from = slices.Compact(slices.Sorted(slices.Values(req.GetPolicy().GetFrom())))
		taken := &policy.Policy{Target: c.target, From: c.from}
		id := taken.ID()
		if all.Set.Policy(id) == nil {
			var others []string
			for _, o := range all.Set.Policies() {
				others = append(others, o.String())
			}
			return nil, noSuch("policy", taken.String(), others)
		}
		c.set = func(s *policy.Set) *policy.Set { return s.Without(id) }
	} else {
		p, err := a.proposed(req.GetPolicy())
		if err != nil {
			return nil, err
		}
		c.target, c.from = p.Target, p.From
		c.set = func(s *policy.Set) *policy.Set { return s.With(p) }
		c.warnings = all.Set.Warnings(p, names)
	}
	for _, name := range names {
		if c.concerns(name) {
			c.concerned = append(c.concerned, name)
		}
	}
	return c, nil
}

// concerns reports whether callers in a cluster are concerned.
func (c *proposal) concerns(cluster string) bool {
	if c.target.Cluster != "" {
		return c.target.Cluster == cluster
	}
	return len(c.from) == 0 || slices.Contains(c.from, cluster)
}

// names are the services that are concerned, in order, as far as they are known here.
func (p *preview) names() []catalog.Name {
	t := p.proposal.target
	if t.Name.Service != "" {
		return []catalog.Name{t.Name}
	}
	return slices.DeleteFunc(p.admin.s.mirror.Names(""), func(n catalog.Name) bool {
		return t.Cluster == "" && n.Namespace != t.Name.Namespace
	})
}

// preview is one PreviewPolicy.
type preview struct {
	admin    *admin
	proposal *proposal
	req      *adminv1.PreviewPolicyRequest

	// mu guards all below while agents and replicas are asked.
	mu    sync.Mutex
	sum   explain.Sum
	heard map[string]bool // clusters of which an agent answered
	resp  *adminv1.PreviewPolicyResponse
}

// ask asks the agents that are connected here and, unless another replica asks, the other replicas.
func (p *preview) ask(ctx context.Context) {
	ctx, cancel := within(ctx, consultWithin)
	defer cancel()
	var peers sync.WaitGroup
	defer peers.Wait()
	if !p.req.GetHere() {
		for _, o := range p.admin.s.peers() {
			peers.Go(func() { p.askPeer(ctx, o) })
		}
	}
	live := p.admin.s.roster.keys()
	var agents []*consultant
	for _, name := range p.proposal.concerned {
		for _, x := range p.admin.s.consults.of(name, "") {
			live[x.key] = struct{}{}
			agents = append(agents, x)
		}
	}
	for key := range live {
		if slices.Contains(p.proposal.concerned, key.Cluster) {
			p.count(1)
		}
	}
	var asking errgroup.Group
	asking.SetLimit(previewAtOnce)
	for _, x := range agents {
		asking.Go(func() error {
			p.askAgent(ctx, x)
			return nil
		})
	}
	_ = asking.Wait() // there are no errors: who does not answer is not counted
}

func (p *preview) count(agents uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resp.Agents += agents
}

func (p *preview) askAgent(ctx context.Context, x *consultant) {
	got, err := x.ask(ctx, &feedv1.Question{What: &feedv1.Question_Preview{
		Preview: &adminv1.PreviewPolicyRequest{Policy: p.req.GetPolicy(), Delete: p.req.GetDelete()},
	}})
	if err != nil || got.GetPreview() == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resp.Answered++
	p.heard[x.key.Cluster] = true
	for _, m := range got.GetPreview().GetMoves() {
		m.From, m.Agents = x.key.Cluster, 1 // an agent speaks for its own callers only
	}
	p.sum.Add(got.GetPreview().GetMoves())
	p.warn(got.GetPreview().GetWarnings())
}

func (p *preview) askPeer(ctx context.Context, o peer) {
	req := proto.CloneOf(p.req)
	req.Here = true
	var resp *adminv1.PreviewPolicyResponse
	err := p.admin.s.call(o, func(c adminv1.AdminClient) (err error) {
		resp, err = c.PreviewPolicy(ctx, req)
		return err
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.warn([]string{noAnswer("synchronizer "+o.id, err) + ", so the agents that are connected to it were not asked"})
		return
	}
	p.resp.Agents += resp.GetAgents()
	p.resp.Answered += resp.GetAnswered()
	for _, name := range p.proposal.concerned {
		if !slices.Contains(resp.GetComputedFor(), name) {
			p.heard[name] = true
		}
	}
	p.sum.Add(resp.GetMoves())
	p.warn(resp.GetWarnings())
}

// warn adds what was not said yet. Caller holds mu, or is alone.
func (p *preview) warn(texts []string) {
	for _, t := range texts {
		if !slices.Contains(p.resp.Warnings, t) {
			p.resp.Warnings = append(p.resp.Warnings, t)
		}
	}
}

// compute fills in for the clusters of which no agent answered, without counters.
func (p *preview) compute(ctx context.Context, clusters []mirror.Cluster) error {
	if len(p.resp.GetComputedFor()) == 0 {
		return nil
	}
	o := p.admin.outlook(clusters)
	before, after := o.policies.Set, p.proposal.set(o.policies.Set)
	for _, n := range p.names() {
		if err := ctx.Err(); err != nil {
			return status.FromContextError(err).Err()
		}
		for _, from := range p.resp.GetComputedFor() {
			was, err := o.outcome(n, from, before)
			if err != nil {
				return inputStatus(err)
			}
			is, err := o.outcome(n, from, after)
			if err != nil {
				return inputStatus(err)
			}
			m := explain.Move(n, from, 0, was, is)
			m.Agents = 0
			if explain.Changed(m) {
				p.sum.Add([]*adminv1.Move{m})
			}
		}
	}
	return nil
}

// outcome is what becomes of the calls of a service under a set of policies.
func (o *outlook) outcome(n catalog.Name, from string, set *policy.Set) (explain.Outcome, error) {
	d, effective, err := o.decide(n, from, set, "", "")
	if err != nil {
		return explain.Outcome{}, err
	}
	return explain.Outcome{Decision: d, Policy: effective.Policy}, nil
}

// keys gives the agents that report to this replica.
func (r *roster) keys() map[mirror.AgentKey]struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[mirror.AgentKey]struct{}, len(r.seats))
	for key := range r.seats {
		out[key] = struct{}{}
	}
	return out
}

// badPolicy maps the mistakes of a policy to INVALID_ARGUMENT, each with its field.
func badPolicy(err error) error {
	var mistakes policy.Errors
	if !errors.As(err, &mistakes) {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	st := status.New(codes.InvalidArgument, err.Error())
	bad := &errdetails.BadRequest{}
	for _, m := range mistakes {
		bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: m.Path, Description: m.Text})
	}
	if d, err := st.WithDetails(bad, &errdetails.ErrorInfo{Reason: "BAD_POLICY", Domain: "farcall.io"}); err == nil {
		st = d
	}
	return st.Err()
}

// overlapping says that callers in some cluster would have two policies.
func overlapping(other *policy.Policy) error {
	return policy.Errors{{Path: "from", Text: fmt.Sprintf("shares a cluster with the policy of %s: callers there would have two", other)}}
}
