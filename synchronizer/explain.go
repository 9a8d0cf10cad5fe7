package synchronizer

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/reach"
	"github.com/farcall/farcall/strategy"
)

// Explain decides as an agent of the caller's cluster would, from what this synchronizer holds,
// and says so: what an agent measured itself (relays that do not answer it, its own registry) is
// not known here.
func (a *admin) Explain(_ context.Context, req *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
	name, err := catalog.ParseName(req.GetService(), req.GetNamespace())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if req.GetFrom() == "" {
		return nil, status.Error(codes.InvalidArgument, "from is empty: name the cluster of the caller")
	}
	clusters := a.clusters()
	if _, err := a.only(req.GetFrom()); err != nil {
		return nil, err
	}
	in := a.input(name, req.GetFrom(), clusters)
	resp := &adminv1.ExplainResponse{
		Namespace: name.Namespace, Service: name.Service, From: req.GetFrom(),
		StrategySource: "default",
		ComputedBy:     "synchronizer " + a.s.cfg.ReplicaID + ", from its own lists",
		Clusters:       statuses(clusters),
	}
	if req.GetStrategy() != "" {
		if in.Strategy, err = strategy.Parse(req.GetStrategy()); err != nil {
			return nil, inputStatus(err)
		}
		resp.StrategySource = "request"
	}
	d, err := strategy.Decide(in)
	if err != nil {
		return nil, inputStatus(err)
	}
	resp.Strategy = string(d.Strategy)
	resp.Unavailable = string(d.Unavailable)
	explainTiers(resp, d, clusters)
	return resp, nil
}

func (a *admin) input(name catalog.Name, from string, clusters []mirror.Cluster) strategy.Input {
	index := reach.NewIndex(a.s.mirror.Agents())
	self := reach.Self{Cluster: from, Loopback: catalog.IsLoopback(a.s.grpcL.Addr().String())}
	in := strategy.Input{
		Service: name, Strategy: strategy.Default, Inherited: true,
		Caller:        strategy.Caller{Cluster: from},
		Clusters:      map[string]strategy.ClusterInfo{},
		ClustersKnown: true,
	}
	for _, c := range clusters {
		in.Clusters[c.Name] = strategy.ClusterInfo{State: c.State, Locality: c.Locality}
		if c.Name == from {
			in.Caller.Locality = c.Locality
		}
		list, known := a.s.mirror.Instances(c.Name, name)
		in.Known = in.Known || known
		for _, i := range list {
			p := index.Path(self, i)
			in.Instances = append(in.Instances, strategy.Candidate{Instance: i, Dial: p.Address, Undialable: p.Nobody})
		}
	}
	return in
}

// explainTiers lists every instance: those in tiers first, best tier first, then those left out.
func explainTiers(resp *adminv1.ExplainResponse, d strategy.Decision, clusters []mirror.Cluster) {
	add := func(c strategy.Candidate, tier int, reason strategy.Reason, detail string, picked bool) {
		e := &adminv1.ExplainedInstance{
			Instance: c.Instance.Proto(), Tier: int32(tier), Reason: string(reason), Detail: detail,
			Picked: picked, Dial: c.Dial,
		}
		if at := slices.IndexFunc(clusters, func(x mirror.Cluster) bool { return x.Name == c.Instance.Cluster }); at >= 0 {
			e.ClusterState = clusters[at].State.Proto()
			e.Age = age(clusters[at])
		}
		resp.Instances = append(resp.Instances, e)
	}
	first := true
	for n := range d.Tiers {
		t := &d.Tiers[n]
		resp.Tiers = append(resp.Tiers, &adminv1.Tier{Name: t.Name, Share: t.Share, Available: uint32(t.Available), Known: uint32(t.Known)})
		// Only the first tier with a candidate takes a call at first; a broadcast goes to all. In
		// the caller's own cluster nearness orders further, which depends on the node.
		takes := t.Failure == "" && len(t.Groups) > 0 && (first || d.Strategy == strategy.Broadcast)
		for _, g := range t.Groups {
			for _, c := range g {
				add(c, n, "", "", takes && d.Unavailable == "")
			}
		}
		first = first && len(t.Groups) == 0
	}
	for _, l := range d.Left {
		add(l.Candidate, -1, l.Reason, l.Detail, false)
	}
}

// inputStatus maps what a caller asked wrongly to INVALID_ARGUMENT with the reason.
func inputStatus(err error) error {
	var in *strategy.InputError
	if !errors.As(err, &in) {
		return status.Error(codes.Internal, err.Error())
	}
	st := status.New(codes.InvalidArgument, in.Text)
	if d, err := st.WithDetails(&errdetails.ErrorInfo{Reason: string(in.Reason), Domain: "farcall.io"}); err == nil {
		st = d
	}
	return st.Err()
}
