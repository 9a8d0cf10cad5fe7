package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
)

// policyList is what people wrote before the tests begin; the last of them is of a newer version.
var policyList = &adminv1.ListPoliciesResponse{
	Policies: []*adminv1.PolicyStatus{
		{Policy: &policyv1.Policy{
			Target: &policyv1.Target{Cluster: "east"}, Revision: 3, Since: ago(2 * time.Hour),
			Settings: &policyv1.Settings{
				Failover: &policyv1.Failover{Threshold: 80, MinAvailable: 1, Mode: "spill"},
				Weights:  &policyv1.Weights{Clusters: map[string]uint32{"west": 2}},
			},
		}},
		{Policy: &policyv1.Policy{
			Target: &policyv1.Target{Namespace: "shop"}, From: []string{"east", "west"}, Revision: 4, Author: "bob",
			Settings: &policyv1.Settings{
				Strategy: proto.String("local-only"), Override: proto.String("deny"), StaleTtl: durationpb.New(time.Hour),
				Retry: &policyv1.Retry{Attempts: 2, Idempotent: []string{"PUT"}},
			},
		}},
		{
			Policy: &policyv1.Policy{
				Target: &policyv1.Target{Namespace: "default", Service: "cart"}, Revision: 7, Since: ago(-time.Minute), Author: "ann\x1b",
				Settings: &policyv1.Settings{
					Strategy:      proto.String("external-first"),
					ExternalOrder: &policyv1.ExternalOrder{Pools: []*policyv1.Pool{{Clusters: []string{"wset"}}, {Clusters: []string{"*"}}}},
				},
			},
			Warnings: []string{`externalOrder[0][0]: nobody has heard of a cluster "wset"`},
		},
		{Policy: &policyv1.Policy{
			Target: &policyv1.Target{Namespace: "shop", Service: "new"}, Revision: 9, Settings: &policyv1.Settings{Strategy: proto.String("astral-first")},
		}},
	},
	Revision: 9, Agents: 3, Applied: 2, Refused: []string{"east/node-2: policy service shop/new: unknown strategy"},
}

var cordonList = &adminv1.ListCordonsResponse{
	Cordons: []*policyv1.Cordon{
		{Cluster: "east", Revision: 2, Expires: ago(time.Hour)},
		{
			Cluster: "west", Revision: 5, Author: "ann", Reason: "new switches", Since: ago(time.Hour),
			Expires: timestamppb.New(time.Now().Add(5*24*time.Hour + 30*time.Minute)),
		},
		{Cluster: "west", Namespace: "shop", Service: "billing", Revision: 8},
	},
	Revision: 9,
}

var previewed = &adminv1.PreviewPolicyResponse{
	Moves: []*adminv1.Move{
		{
			Namespace: "default", Service: "cart", From: "east", Calls: 1200, StrategyBefore: "local-first", StrategyAfter: "external-first",
			Clusters: []*adminv1.Shift{{Cluster: "east", Before: 100, After: 60}, {Cluster: "west", After: 40}}, Agents: 2,
		},
		{
			Namespace: "shop", Service: "billing", From: "east", Calls: 3, StrategyBefore: "local-only", StrategyAfter: "local-only",
			Clusters: []*adminv1.Shift{{Cluster: "east", Before: 100}}, UnavailableAfter: "NO_LOCAL_INSTANCES", Agents: 1,
		},
		{
			Namespace: "shop", Service: "stock", From: "west", StrategyBefore: "local-only", StrategyAfter: "any",
			Clusters: []*adminv1.Shift{{Cluster: "east", After: 100.0 / 3}}, UnavailableBefore: "NO_LOCAL_INSTANCES",
		},
		{
			Namespace: "shop", Service: "stock", From: "east", StrategyBefore: "local-only", StrategyAfter: "external-only",
			UnavailableBefore: "NO_LOCAL_INSTANCES", UnavailableAfter: "NO_EXTERNAL_INSTANCES",
		},
	},
	Agents: 3, Answered: 2, ComputedFor: []string{"west"}, Warnings: []string{`nobody has heard of a cluster "wset"`},
}

// kept is what people wrote at a fake synchronizer. The zero value begins with policyList and
// cordonList, all agents of which apply everything but lag answers late.
type kept struct {
	mu sync.Mutex
	// list is policyList until something is written.
	list *adminv1.ListPoliciesResponse
	// lag is how many answers long one agent is behind what was written.
	lag int
	// refuse is the service about which a policy is not taken.
	refuse string
	// pace is how long it takes to write one policy; deadlines are until when each may take.
	pace      time.Duration
	deadlines []time.Time
	// written is every request that asks for a change, and previews every one that asks what it
	// would do.
	written  []proto.Message
	previews []*adminv1.PreviewPolicyRequest
}

func (k *kept) policies() *adminv1.ListPoliciesResponse {
	if k.list == nil {
		k.list = proto.CloneOf(policyList)
	}
	return k.list
}

// note takes down a change and gives its revision. From then on all agents apply all, after lag
// answers.
func (k *kept) note(m proto.Message) uint64 {
	k.written = append(k.written, proto.Clone(m))
	list := k.policies()
	list.Revision++
	list.Applied, list.Refused = list.GetAgents(), nil
	return list.GetRevision()
}

// requests gives the changes that were asked for so far.
func (k *kept) requests() []proto.Message {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.written)
}

func (f *fakeAdmin) ListPolicies(context.Context, *adminv1.ListPoliciesRequest) (*adminv1.ListPoliciesResponse, error) {
	f.kept.mu.Lock()
	defer f.kept.mu.Unlock()
	list := proto.CloneOf(f.kept.policies())
	if len(f.kept.written) > 0 && f.kept.lag > 0 {
		f.kept.lag--
		list.Applied--
	}
	return list, nil
}

func (f *fakeAdmin) PutPolicy(ctx context.Context, r *adminv1.PutPolicyRequest) (*adminv1.PutPolicyResponse, error) {
	f.kept.mu.Lock()
	defer f.kept.mu.Unlock()
	until, _ := ctx.Deadline()
	f.kept.deadlines = append(f.kept.deadlines, until)
	if f.kept.pace > 0 {
		<-time.NewTimer(f.kept.pace).C
	}
	if f.kept.refuse != "" && r.GetPolicy().GetTarget().GetService() == f.kept.refuse {
		return nil, status.Error(codes.InvalidArgument, "from: shares east with another policy")
	}
	list := f.kept.policies()
	is := stored(list, r.GetPolicy())
	if r.IfRevision != nil && r.GetIfRevision() != is.GetPolicy().GetRevision() {
		st, err := status.New(codes.Aborted, "it has revision 7").WithDetails(&errdetails.ErrorInfo{Reason: "REVISION"})
		if err != nil {
			return nil, err
		}
		return nil, st.Err()
	}
	p := proto.CloneOf(r.GetPolicy())
	p.Revision = f.kept.note(r)
	if is == nil {
		is = &adminv1.PolicyStatus{}
		list.Policies = append(list.Policies, is)
	}
	is.Policy = p
	return &adminv1.PutPolicyResponse{Policy: p, Warnings: is.GetWarnings()}, nil
}

func (f *fakeAdmin) DeletePolicy(_ context.Context, r *adminv1.DeletePolicyRequest) (*adminv1.DeletePolicyResponse, error) {
	f.kept.mu.Lock()
	defer f.kept.mu.Unlock()
	return &adminv1.DeletePolicyResponse{Revision: f.kept.note(r)}, nil
}

func (f *fakeAdmin) PreviewPolicy(_ context.Context, r *adminv1.PreviewPolicyRequest) (*adminv1.PreviewPolicyResponse, error) {
	f.kept.mu.Lock()
	defer f.kept.mu.Unlock()
	f.kept.previews = append(f.kept.previews, proto.CloneOf(r))
	if f.kept.refuse != "" && r.GetPolicy().GetTarget().GetService() == f.kept.refuse {
		return nil, status.Error(codes.InvalidArgument, "from: shares east with another policy")
	}
	return previewed, nil
}

func (f *fakeAdmin) Cordon(_ context.Context, r *adminv1.CordonRequest) (*adminv1.CordonResponse, error) {
	f.kept.mu.Lock()
	defer f.kept.mu.Unlock()
	k := proto.CloneOf(r.GetCordon())
	k.Revision = f.kept.note(r)
	answer := &adminv1.CordonResponse{Cordon: k}
	if r.GetTtl() != nil {
		k.Expires = timestamppb.New(time.Now().Add(r.GetTtl().AsDuration() + 900*time.Millisecond))
	}
	if k.GetCluster() == "wset" {
		answer.Warnings = []string{`nobody has heard of a cluster "wset"; did you mean "west"?`}
	}
	return answer, nil
}

func (f *fakeAdmin) Uncordon(_ context.Context, r *adminv1.UncordonRequest) (*adminv1.UncordonResponse, error) {
	f.kept.mu.Lock()
	defer f.kept.mu.Unlock()
	if r.GetCluster() != "west" {
		return nil, status.Error(codes.NotFound, "nothing is cordoned there")
	}
	return &adminv1.UncordonResponse{Revision: f.kept.note(r)}, nil
}

func (f *fakeAdmin) ListCordons(context.Context, *adminv1.ListCordonsRequest) (*adminv1.ListCordonsResponse, error) {
	return cordonList, nil
}
