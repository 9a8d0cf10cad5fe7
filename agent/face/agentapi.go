package face

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	agentv1 "github.com/farcall/farcall/api/farcall/agent/v1"
	"github.com/farcall/farcall/internal/catalog"
)

// Views answers from the agent's view what an application asks beside calls. The queries are as
// those of relay.Router, without headers. An error is an *invoke.Error, and is about the question
// (a bad strategy, an unknown cluster, and for Resolve a denied override, of which Explain tells in
// its notes); that nobody can be called is an answer.
// It is safe for concurrent use.
type Views interface {
	Resolve(ctx context.Context, q relay.Query) (*agentv1.ResolveResponse, error)
	Explain(ctx context.Context, q relay.Query) (*adminv1.ExplainResponse, error)
	// Changed gives a channel that is closed as soon as Resolve may answer otherwise for the name
	// than it did when Changed was called.
	Changed(n catalog.Name) <-chan struct{}
}

// watchPause is the shortest time between two messages of one Watch. What changes meanwhile is in
// the next one.
const watchPause = 50 * time.Millisecond

// agentAPI is farcall.agent.v1.Agent, which is served beside InvokeService.
type agentAPI struct {
	agentv1.UnimplementedAgentServer
	face  *GRPC
	views Views
}

var _ agentv1.AgentServer = (*agentAPI)(nil)

// Resolve says where a call would go.
func (a *agentAPI) Resolve(ctx context.Context, in *agentv1.ResolveRequest) (*agentv1.ResolveResponse, error) {
	ctx, cancel, q, e := a.query(ctx, in.GetService(), in.GetStrategy(), in.GetCluster())
	if e != nil {
		return nil, e.GRPCStatus().Err()
	}
	defer cancel()
	out, err := a.views.Resolve(ctx, q)
	if err != nil {
		return nil, viewError(ctx, err)
	}
	return out, nil
}

// Explain says of every known instance why it is called or not.
func (a *agentAPI) Explain(ctx context.Context, in *agentv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
	ctx, cancel, q, e := a.query(ctx, in.GetService(), in.GetStrategy(), in.GetCluster())
	if e != nil {
		return nil, e.GRPCStatus().Err()
	}
	defer cancel()
	out, err := a.views.Explain(ctx, q)
	if err != nil {
		return nil, viewError(ctx, err)
	}
	return out, nil
}

// Watch sends what Resolve says, at once and whenever it says something else, until the caller or
// this face ends it.
func (a *agentAPI) Watch(in *agentv1.ResolveRequest, stream agentv1.Agent_WatchServer) error {
	ctx, cancel, q, e := a.query(stream.Context(), in.GetService(), in.GetStrategy(), in.GetCluster())
	if e != nil {
		return e.GRPCStatus().Err()
	}
	defer cancel()
	pause := time.NewTimer(0)
	defer pause.Stop()
	var last *agentv1.ResolveResponse
	for {
		if err := a.await(ctx, nil, pause.C); err != nil {
			return err
		}
		changed := a.views.Changed(q.Name)
		out, err := a.views.Resolve(ctx, q)
		if err != nil {
			return viewError(ctx, err)
		}
		if last == nil || !proto.Equal(last, out) {
			if err := stream.Send(out); err != nil {
				return err
			}
			last = out
		}
		pause.Reset(watchPause)
		if err := a.await(ctx, changed, nil); err != nil {
			return err
		}
	}
}

// await waits for a change or a timer, either of which may be nil; an error says that the call is
// over before.
func (a *agentAPI) await(ctx context.Context, change <-chan struct{}, timer <-chan time.Time) error {
	select {
	case <-change:
		return nil
	case <-timer:
		return nil
	case <-ctx.Done():
		return invoke.FromContext(ctx).GRPCStatus().Err()
	case <-a.face.ending:
		return invoke.NotDispatched(invoke.ReasonDraining, "the agent is going").GRPCStatus().Err()
	}
}

// query reads a question. The context, which must be cancelled, has the deadline that the caller
// stated in farcall-timeout.
func (a *agentAPI) query(ctx context.Context, service, strategy, cluster string) (context.Context, context.CancelFunc, relay.Query, *invoke.Error) {
	from, e := a.face.identifyGRPC(ctx)
	if e != nil {
		return nil, nil, relay.Query{}, e
	}
	name, err := catalog.ParseName(service, from.Namespace)
	if err != nil {
		return nil, nil, relay.Query{}, invoke.Invalid("%v", err)
	}
	md, _ := metadata.FromIncomingContext(ctx)
	limit, e := timeout(firstOf(md)(invoke.TimeoutKey))
	if e != nil {
		return nil, nil, relay.Query{}, e
	}
	ctx, cancel := deadline(ctx, limit)
	return ctx, cancel, relay.Query{Name: name, Strategy: strategy, Cluster: cluster}, nil
}

// viewError gives the status for an error of Views.
func viewError(ctx context.Context, err error) error {
	var e *invoke.Error
	if errors.As(err, &e) {
		return e.GRPCStatus().Err()
	}
	if e := invoke.FromContext(ctx); e != nil {
		return e.GRPCStatus().Err()
	}
	return status.Error(codes.Internal, err.Error())
}
