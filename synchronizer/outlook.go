package synchronizer

import (
	"errors"
	"slices"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/explain"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/internal/reach"
	"github.com/farcall/farcall/strategy"
)

// outlook is what this synchronizer knows at one moment, put as an agent would: from it, decisions
// are made for want of an agent.
type outlook struct {
	mirror    *mirror.Mirror
	now       time.Time
	policies  mirror.Policies
	clusters  map[string]strategy.ClusterInfo
	index     *reach.Index
	loopback  bool
	advancing bool
}

func (a *admin) outlook(clusters []mirror.Cluster) *outlook {
	o := &outlook{
		mirror: a.s.mirror, now: time.Now(),
		policies: a.s.mirror.Policies(),
		clusters: map[string]strategy.ClusterInfo{},
		index:    reach.NewIndex(a.s.mirror.Agents()),
		loopback: catalog.IsLoopback(a.s.grpcL.Addr().String()),
		advancing: slices.ContainsFunc(clusters, func(c mirror.Cluster) bool {
			return c.State == catalog.StateSynced || c.State == catalog.StateProtected
		}),
	}
	for _, c := range clusters {
		info := strategy.ClusterInfo{State: c.State, Locality: c.Locality, Labels: c.Meta.GetLabels()}
		if c.State == catalog.StateStale && c.AgeKnown {
			info.StaleSince = o.now.Add(-c.Age)
		}
		o.clusters[c.Name] = info
	}
	return o
}

// decide decides as an agent anywhere in the cluster from would, under a set of policies. Its error
// is a *strategy.InputError.
func (o *outlook) decide(n catalog.Name, from string, set *policy.Set, override strategy.Kind, pin string) (strategy.Decision, *policy.Effective, error) {
	// What the agents of that cluster have in their own configuration is not known here.
	effective := set.Effective(n, from, o.mirror.Annotation(from, n), policy.Settings{})
	in := strategy.Input{
		Service: n, Policy: effective.Policy, Override: override, Pin: pin,
		Caller:        strategy.Caller{Cluster: from, Locality: o.clusters[from].Locality},
		Clusters:      o.clusters,
		ClustersKnown: true,
		PoliciesKnown: o.policies.Known,
		Cordons:       set.CordonsOf(n),
		Advancing:     o.advancing,
		Now:           o.now,
	}
	self := reach.Self{Cluster: from, Loopback: o.loopback}
	for name := range o.clusters {
		list, known := o.mirror.Instances(name, n)
		in.Known = in.Known || known
		for _, i := range list {
			p := o.index.Path(self, i)
			in.Instances = append(in.Instances, strategy.Candidate{Instance: i, Dial: p.Address, Undialable: p.Nobody})
		}
	}
	d, _, err := strategy.Decide(in)
	if err != nil {
		return d, nil, err
	}
	// As agents put it, in their answers' headers.
	d.Rule = explain.Source(effective, d.Strategy, override, pin) + ": " + d.Rule
	return d, effective, nil
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
