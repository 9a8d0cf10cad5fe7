package face

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	agentv1 "github.com/farcall/farcall/api/farcall/agent/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

// views is a view that a test changes.
type views struct {
	mu      sync.Mutex
	err     error
	says    *agentv1.ResolveResponse
	changed chan struct{}
	queries []relay.Query
}

func newViews() *views {
	return &views{says: &agentv1.ResolveResponse{Strategy: "local-first"}, changed: make(chan struct{})}
}

func (v *views) set(says *agentv1.ResolveResponse, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.says, v.err = says, err
	close(v.changed)
	v.changed = make(chan struct{})
}

func (v *views) Resolve(_ context.Context, q relay.Query) (*agentv1.ResolveResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.queries = append(v.queries, q)
	return v.says, v.err
}

func (v *views) Explain(_ context.Context, q relay.Query) (*adminv1.ExplainResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.queries = append(v.queries, q)
	return &adminv1.ExplainResponse{}, v.err
}

func (v *views) Changed(catalog.Name) <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.changed
}

func TestResolveAndExplain(t *testing.T) {
	a := newCallerAgent(t, &plan{})
	ctx := testkit.Context(t)
	got, err := a.agent.Resolve(ctx, &agentv1.ResolveRequest{Service: "cart.prod", Strategy: "any", Cluster: "west"})
	if err != nil || got.GetStrategy() != "local-first" {
		t.Fatalf("got %v, %v", got, err)
	}
	if _, err := a.agent.Explain(ctx, &agentv1.ExplainRequest{Service: "cart", Strategy: "any", Cluster: "east"}); err != nil {
		t.Fatal(err)
	}
	// A name without a namespace is the caller's, as for calls.
	want := []relay.Query{
		{Name: catalog.Name{Namespace: "prod", Service: "cart"}, Strategy: "any", Cluster: "west"},
		{Name: catalog.Name{Namespace: "shop", Service: "cart"}, Strategy: "any", Cluster: "east"},
	}
	if !reflect.DeepEqual(a.views.queries, want) {
		t.Errorf("asked %+v", a.views.queries)
	}
	a.views.set(nil, invoke.Errorf(codes.InvalidArgument, "BAD_STRATEGY", "what is that?"))
	for what, err := range map[string]error{
		"resolve": second(a.agent.Resolve(ctx, &agentv1.ResolveRequest{Service: "cart"})),
		"explain": second(a.agent.Explain(ctx, &agentv1.ExplainRequest{Service: "cart"})),
	} {
		if st := status.Convert(err); st.Code() != codes.InvalidArgument || reasonOf(st) != "BAD_STRATEGY" {
			t.Errorf("%s: got %v", what, err)
		}
	}
	a.views.set(nil, errors.New("odd"))
	if err := second(a.agent.Resolve(ctx, &agentv1.ResolveRequest{Service: "cart"})); status.Code(err) != codes.Internal {
		t.Errorf("got %v", err)
	}
	asked := len(a.views.queries)
	for what, err := range map[string]error{
		"no name":     second(a.agent.Resolve(ctx, &agentv1.ResolveRequest{})),
		"bad name":    second(a.agent.Explain(ctx, &agentv1.ExplainRequest{Service: "a.b.c"})),
		"bad timeout": second(a.agent.Resolve(metadata.AppendToOutgoingContext(ctx, "farcall-timeout", "soon"), &agentv1.ResolveRequest{Service: "cart"})),
	} {
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: got %v", what, err)
		}
	}
	if len(a.views.queries) != asked {
		t.Error("a bad question was asked")
	}
}

func second[T any](_ T, err error) error { return err }

func reasonOf(st *status.Status) string {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// TestWatch says that a watch begins with what is, tells of changes and of nothing else, and ends
// with its question, its deadline or its agent.
func TestWatch(t *testing.T) {
	a := newCallerAgent(t, &plan{})
	watch, err := a.agent.Watch(testkit.Context(t), &agentv1.ResolveRequest{Service: "cart"})
	if err != nil {
		t.Fatal(err)
	}
	next := func(want string) {
		t.Helper()
		if got, err := watch.Recv(); err != nil || got.GetStrategy() != want {
			t.Fatalf("got %v, %v, want %s", got, err, want)
		}
	}
	next("local-first")
	a.views.set(&agentv1.ResolveResponse{Strategy: "local-first"}, nil) // as it was
	a.views.set(&agentv1.ResolveResponse{Strategy: "any"}, nil)
	next("any")
	// What changes faster than it is sent is sent as it is in the end.
	for range 1000 {
		a.views.set(&agentv1.ResolveResponse{Strategy: "local-only"}, nil)
		a.views.set(&agentv1.ResolveResponse{Strategy: "broadcast"}, nil)
	}
	for seen := 0; ; seen++ {
		got, err := watch.Recv()
		if err != nil || seen > 100 {
			t.Fatalf("after %d more: %v", seen, err)
		}
		if got.GetStrategy() == "broadcast" {
			break
		}
	}
	a.views.set(nil, invoke.Errorf(codes.PermissionDenied, invoke.ReasonDenied, "not any more"))
	if _, err := watch.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v", err)
	}

	a.views.set(&agentv1.ResolveResponse{}, nil)
	limited, err := a.agent.Watch(metadata.AppendToOutgoingContext(testkit.Context(t), "farcall-timeout", "50ms"), &agentv1.ResolveRequest{Service: "cart"})
	if err != nil {
		t.Fatal(err)
	}
	for err = nil; err == nil; {
		_, err = limited.Recv()
	}
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
	if bad, err := a.agent.Watch(testkit.Context(t), &agentv1.ResolveRequest{}); err != nil {
		t.Error(err)
	} else if _, err := bad.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v", err)
	}

	// A watch does not hold up the end of its agent.
	last, err := a.agent.Watch(testkit.Context(t), &agentv1.ResolveRequest{Service: "cart"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := last.Recv(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	a.stopGRPC()
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("the face ended after %v", took)
	}
	if _, err := last.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "going") {
		t.Errorf("got %v", err)
	}
}
