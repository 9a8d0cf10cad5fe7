package consult

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/explain"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/strategy"
)

// Plans decides as calls are decided, with all that the agent measured.
type Plans interface {
	// Decide gives the decision that is in force for a service, and its policy. The error is a
	// *strategy.InputError.
	Decide(n catalog.Name, override strategy.Kind, pin string) (strategy.Decision, *policy.Effective, error)
	// Suppose is Decide as if set were what the policies are, and as if nobody had called before.
	Suppose(n catalog.Name, set *policy.Set, override strategy.Kind, pin string) (strategy.Decision, *policy.Effective, error)
}

// Known is what the agent knows beside its plans.
type Known interface {
	Policies() mirror.Policies
	// Names are all services that some cluster lists, in order.
	Names() []catalog.Name
	// Clusters are the members of the federation and how each stands, in order.
	Clusters() []*adminv1.ClusterStatus
}

// Answers answers from the agent's own view.
type Answers struct {
	cfg   Config
	plans Plans
	known Known
	calls func() map[catalog.Name]uint64
}

var _ Answerer = (*Answers)(nil)

// NewAnswers returns the Answers of this agent. calls gives how many calls of each service it made
// in the last minute: Counter.Calls.
func NewAnswers(cfg Config, plans Plans, known Known, calls func() map[catalog.Name]uint64) *Answers {
	return &Answers{cfg: cfg, plans: plans, known: known, calls: calls}
}

// Explain says of every known instance why this agent would call it or not. An empty from stands for
// the agent's own cluster; of another one it knows nothing.
func (a *Answers) Explain(_ context.Context, req *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
	name, err := catalog.ParseName(req.GetService(), req.GetNamespace())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if f := req.GetFrom(); f != "" && f != a.cfg.Cluster {
		return nil, status.Errorf(codes.FailedPrecondition, "this agent is of cluster %q and does not know what callers in %q see", a.cfg.Cluster, f)
	}
	policies := a.known.Policies()
	f := explain.Facts{
		Name: name, From: a.cfg.Cluster,
		ComputedBy:    fmt.Sprintf("agent %s/%s, from its own view", a.cfg.Cluster, a.cfg.Node),
		PoliciesKnown: policies.Known, Pin: req.GetCluster(), Clusters: a.known.Clusters(),
	}
	if req.GetStrategy() != "" {
		if f.Override, err = strategy.Parse(req.GetStrategy()); err != nil {
			return nil, inputStatus(err)
		}
	}
	if req.GetPolicy() != nil {
		if f.Supposed, err = policy.FromProto(req.GetPolicy()); err != nil {
			return nil, status.Error(codes.FailedPrecondition, "this agent does not understand the policy: "+err.Error())
		}
		f.Decision, f.Policy, err = a.plans.Suppose(name, policies.Set.With(f.Supposed), f.Override, f.Pin)
	} else {
		f.Decision, f.Policy, err = a.plans.Decide(name, f.Override, f.Pin)
	}
	if err != nil {
		return nil, inputStatus(err)
	}
	for _, r := range policies.Refused {
		f.Notes = append(f.Notes, "this agent does not follow a policy: "+r)
	}
	resp := explain.Response(f)
	explain.Trim(resp, maxAnswer)
	return resp, nil
}

// PreviewPolicy says what would become of this agent's calls: of each service that the policy
// concerns, decided by the policies as they are and as they would be.
func (a *Answers) PreviewPolicy(ctx context.Context, req *adminv1.PreviewPolicyRequest) (*adminv1.PreviewPolicyResponse, error) {
	before := a.known.Policies().Set
	target, after, concerned, err := a.change(req, before)
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, "this agent does not understand the policy: "+err.Error())
	}
	resp := &adminv1.PreviewPolicyResponse{Agents: 1, Answered: 1}
	if !concerned {
		return resp, nil
	}
	calls := a.calls()
	var moves []*adminv1.Move
	for _, n := range a.names(target, calls) {
		if err := ctx.Err(); err != nil {
			return nil, status.FromContextError(err).Err()
		}
		was, err := a.outcome(n, before)
		if err != nil {
			return nil, inputStatus(err)
		}
		is, err := a.outcome(n, after)
		if err != nil {
			return nil, inputStatus(err)
		}
		m := explain.Move(n, a.cfg.Cluster, calls[n], was, is)
		if calls[n] > 0 || explain.Changed(m) {
			moves = append(moves, m)
		}
	}
	var left int
	resp.Moves, left = explain.Tell(moves)
	if left += explain.Fit(resp, maxAnswer); left > 0 {
		resp.Warnings = append(resp.Warnings, fmt.Sprintf("agent %s/%s has more services whose calls would move than it can tell", a.cfg.Cluster, a.cfg.Node))
	}
	return resp, nil
}

// change reads what would be done: whom it is about, the policies after it, and whether it concerns
// this agent's callers.
func (a *Answers) change(req *adminv1.PreviewPolicyRequest, set *policy.Set) (policy.Target, *policy.Set, bool, error) {
	var target policy.Target
	var from []string
	var err error
	if req.GetDelete() {
		if target, err = policy.TargetFromProto(req.GetPolicy().GetTarget()); err != nil {
			return target, nil, false, err
		}
		from = slices.Compact(slices.Sorted(slices.Values(req.GetPolicy().GetFrom())))
		set = set.Without(policy.FormatID(target, from))
	} else {
		p, err := policy.FromProto(req.GetPolicy())
		if err != nil {
			return target, nil, false, err
		}
		target, from, set = p.Target, p.From, set.With(p)
	}
	if target.Cluster != "" {
		return target, set, target.Cluster == a.cfg.Cluster, nil
	}
	return target, set, len(from) == 0 || slices.Contains(from, a.cfg.Cluster), nil
}

// names are the services that a policy of this target is about: those that are known, and those
// that are called although nobody lists them.
func (a *Answers) names(t policy.Target, calls map[catalog.Name]uint64) []catalog.Name {
	if t.Name.Service != "" {
		return []catalog.Name{t.Name}
	}
	all := map[catalog.Name]struct{}{}
	for n := range calls {
		all[n] = struct{}{}
	}
	for _, n := range a.known.Names() {
		all[n] = struct{}{}
	}
	list := slices.SortedFunc(maps.Keys(all), catalog.Name.Compare)
	return slices.DeleteFunc(list, func(n catalog.Name) bool { return t.Cluster == "" && n.Namespace != t.Name.Namespace })
}

func (a *Answers) outcome(n catalog.Name, set *policy.Set) (explain.Outcome, error) {
	d, effective, err := a.plans.Suppose(n, set, "", "")
	if err != nil {
		return explain.Outcome{}, err
	}
	return explain.Outcome{Decision: d, Policy: effective.Policy}, nil
}

// inputStatus maps what was asked wrongly to INVALID_ARGUMENT with the reason.
func inputStatus(err error) error {
	var in *strategy.InputError
	if !errors.As(err, &in) {
		return status.Error(codes.Internal, err.Error())
	}
	st := status.New(codes.InvalidArgument, strings.TrimSpace(in.Text))
	if d, err := st.WithDetails(&errdetails.ErrorInfo{Reason: string(in.Reason), Domain: "farcall.io"}); err == nil {
		st = d
	}
	return st.Err()
}
