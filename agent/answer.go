package agent

import (
	"context"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/farcall/farcall/agent/consult"
	"github.com/farcall/farcall/agent/face"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	agentv1 "github.com/farcall/farcall/api/farcall/agent/v1"
	"github.com/farcall/farcall/internal/catalog"
)

const (
	// maxResolved is about how many bytes the instances of an answer may have: gRPC's readers take no
	// more than 4 MiB in all by default.
	maxResolved = 3 << 20
	// resolvedFrame is what a message holds of an instance beside itself.
	resolvedFrame = 4
)

// views answers what the node's applications ask beside calls. Safe for concurrent use.
type views struct {
	router  *router
	answers *consult.Answers
}

var _ face.Views = views{}

// Resolve implements face.Views.
func (v views) Resolve(_ context.Context, q relay.Query) (*agentv1.ResolveResponse, error) {
	s, override, err := v.router.ask(q)
	if err != nil {
		return nil, err
	}
	p, err := s.Plan(override, q.Cluster)
	if err != nil {
		return nil, inputError(err)
	}
	d := &p.Decision
	out := &agentv1.ResolveResponse{
		Namespace: q.Name.Namespace, Service: q.Name.Service, Strategy: string(d.Strategy), StrategySource: p.Source,
		Unavailable: string(d.Unavailable), Detail: d.Detail,
	}
	if d.Unavailable != "" {
		return out, nil
	}
	room := maxResolved
	for at := range d.Tiers {
		t := &d.Tiers[at]
		told := &agentv1.ResolvedTier{Name: t.Name, Share: t.Share}
		for c := range t.Candidates() {
			if room <= 0 {
				told.Omitted++
				continue
			}
			one := &agentv1.ResolvedInstance{Instance: c.Instance.Proto(), Dial: c.Dial}
			room -= proto.Size(one) + resolvedFrame
			told.Instances = append(told.Instances, one)
		}
		out.Tiers = append(out.Tiers, told)
	}
	return out, nil
}

// Explain implements face.Views.
func (v views) Explain(ctx context.Context, q relay.Query) (*adminv1.ExplainResponse, error) {
	resp, err := v.answers.Explain(ctx, &adminv1.ExplainRequest{
		Service: q.Name.Service, Namespace: q.Name.Namespace, Strategy: q.Strategy, Cluster: q.Cluster,
	})
	if err == nil {
		return resp, nil
	}
	st := status.Convert(err)
	reason := invoke.ReasonInvalid
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			reason = info.GetReason()
		}
	}
	return nil, invoke.Errorf(st.Code(), reason, "%s", st.Message())
}

// Changed implements face.Views.
func (v views) Changed(n catalog.Name) <-chan struct{} { return v.router.book.Watch(n) }
