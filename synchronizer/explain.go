package synchronizer

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/explain"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/strategy"
)

// maxAnswer is what an answer may have in bytes: gRPC's readers take no more than 4 MiB by default.
const maxAnswer = 3 << 20

// question is what Explain is asked, checked and in canonical words.
type question struct {
	*adminv1.ExplainRequest
	name     catalog.Name
	override strategy.Kind
	supposed *policy.Policy // that is not applied; nil without one
	clusters []mirror.Cluster
}

// Explain is answered by a live agent of the caller's cluster, from its own view: one that is
// connected here, else one that is connected to another replica. Where none answers, this
// synchronizer decides as an agent of that cluster would, from what it holds, and says so: what an
// agent measures itself (relays that do not answer it, instances that fail) is not known here.
func (a *admin) Explain(ctx context.Context, req *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
	q, err := a.question(req)
	if err != nil {
		return nil, err
	}
	asks, here := a.whom(q)
	resp, failures := first(ctx, asks, here)
	if resp != nil {
		return resp, nil
	}
	why := ""
	for n, err := range failures {
		switch {
		case status.Code(err) == codes.InvalidArgument:
			return nil, err
		case err == nil || isNoAgent(err): // nobody to ask, or no time was left
		case why != "":
			why += "; " + noAnswer(asks[n].who, err)
		default:
			why = noAnswer(asks[n].who, err)
		}
	}
	switch {
	case why == "" && q.GetNode() == "":
		why = fmt.Sprintf("no agent of cluster %s is connected", q.GetFrom())
	case why == "":
		why = fmt.Sprintf("agent %s/%s is not connected", q.GetFrom(), q.GetNode())
	}
	switch {
	case !q.GetHere():
		return a.compute(q, why)
	case here == 0:
		return nil, noAgent(why)
	}
	return nil, status.Error(codes.Unavailable, why)
}

// question checks what is asked, so that agents are asked nothing that makes no sense.
func (a *admin) question(req *adminv1.ExplainRequest) (*question, error) {
	name, err := catalog.ParseName(req.GetService(), req.GetNamespace())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if req.GetFrom() == "" {
		return nil, status.Error(codes.InvalidArgument, "from is empty: name the cluster of the caller")
	}
	q := &question{ExplainRequest: proto.CloneOf(req), name: name, clusters: a.clusters()}
	q.Service, q.Namespace = name.Service, name.Namespace
	if _, err := a.only(q.GetFrom()); err != nil {
		return nil, err
	}
	if q.GetStrategy() != "" {
		if q.override, err = strategy.Parse(q.GetStrategy()); err != nil {
			return nil, inputStatus(err)
		}
	}
	if q.GetPolicy() != nil {
		if q.supposed, err = a.proposed(q.GetPolicy()); err != nil {
			return nil, err
		}
	}
	if q.GetNode() != "" && !q.GetHere() {
		return q, a.knowsNode(q.GetFrom(), q.GetNode())
	}
	return q, nil
}

// proposed reads a policy that is not to be written, by the rules of one that is.
func (a *admin) proposed(m *policyv1.Policy) (*policy.Policy, error) {
	p, err := policy.FromProto(m)
	if err != nil {
		return nil, badPolicy(err)
	}
	if other, overlaps := a.s.mirror.Policies().Set.Overlap(p); overlaps {
		return nil, badPolicy(overlapping(other))
	}
	return p, nil
}

// knowsNode says NOT_FOUND where no agent of that node is known: a misspelt name must not look like
// an agent that is away.
func (a *admin) knowsNode(cluster, node string) error {
	if len(a.s.consults.of(cluster, node)) > 0 {
		return nil
	}
	known := "none"
	for _, r := range a.s.mirror.Agents() {
		switch {
		case r.GetCluster() != cluster:
		case r.GetNode() == node:
			return nil
		case known == "none":
			known = r.GetNode()
		default:
			known += ", " + r.GetNode()
		}
	}
	return status.Errorf(codes.NotFound, "cluster %q has no agent %q; known: %s", cluster, node, known)
}

// whom gives who can be asked: agents that are connected here, of which there are here many, and
// then other replicas.
func (a *admin) whom(q *question) (asks []ask, here int) {
	for _, x := range a.s.consults.of(q.GetFrom(), q.GetNode()) {
		if len(asks) == hedgeAgents {
			break
		}
		asks = append(asks, ask{"agent " + x.String(), func(ctx context.Context) (*adminv1.ExplainResponse, error) {
			got, err := x.ask(ctx, &feedv1.Question{What: &feedv1.Question_Explain{Explain: q.ExplainRequest}})
			return got.GetExplain(), err
		}})
	}
	here = len(asks)
	if q.GetHere() {
		return asks, here
	}
	forwarded := proto.CloneOf(q.ExplainRequest)
	forwarded.Here = true
	for _, p := range a.s.peers() {
		asks = append(asks, ask{"synchronizer " + p.id, func(ctx context.Context) (resp *adminv1.ExplainResponse, err error) {
			err = a.s.call(p, func(c adminv1.AdminClient) error {
				resp, err = c.Explain(ctx, forwarded)
				return err
			})
			return resp, err
		}})
	}
	return asks, here
}

// compute answers for want of an agent; why says in words how it came to that.
func (a *admin) compute(q *question, why string) (*adminv1.ExplainResponse, error) {
	o := a.outlook(q.clusters)
	set := o.policies.Set
	if q.supposed != nil {
		set = set.With(q.supposed)
	}
	d, effective, err := o.decide(q.name, q.GetFrom(), set, q.override, q.GetCluster())
	if err != nil {
		return nil, inputStatus(err)
	}
	var notes []string
	for _, r := range o.policies.Refused {
		notes = append(notes, "this synchronizer does not follow a policy: "+r)
	}
	resp := explain.Response(explain.Facts{
		Name: q.name, From: q.GetFrom(),
		ComputedBy: fmt.Sprintf("synchronizer %s, from its own lists: %s", a.s.cfg.ReplicaID, why),
		Decision:   d, Policy: effective, PoliciesKnown: o.policies.Known,
		Override: q.override, Pin: q.GetCluster(), Supposed: q.supposed,
		Clusters: statuses(q.clusters), Notes: notes,
	})
	explain.Trim(resp, maxAnswer)
	return resp, nil
}

// noAnswer says in words why somebody who was asked gave no answer.
func noAnswer(who string, err error) string {
	if st := status.FromContextError(err); st.Code() == codes.DeadlineExceeded || status.Code(err) == codes.DeadlineExceeded {
		return who + " did not answer in time"
	}
	text := err.Error()
	if st, ok := status.FromError(err); ok {
		text = st.Message()
	}
	return who + " did not answer: " + strings.TrimSpace(text)
}
