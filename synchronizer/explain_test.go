package synchronizer

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/testkit"
)

func newTestRegistry() *prometheus.Registry { return prometheus.NewRegistry() }

func agentKey(cluster, node string) mirror.AgentKey {
	return mirror.AgentKey{Cluster: cluster, Node: node}
}

func agentRecord(cluster, node string) *catalogv1.Agent {
	return &catalogv1.Agent{Cluster: cluster, Node: node, Incarnation: "of-" + node, Address: "10.0.0.1:50002"}
}

// cartPolicy is a policy of cart, for callers from these clusters.
func cartPolicy(s *policyv1.Settings, from ...string) *policyv1.Policy {
	return &policyv1.Policy{Target: &policyv1.Target{Service: "cart"}, From: from, Settings: s}
}

// knows waits until the policies were read.
func (r *replica) knows(t *testing.T, revision uint64) {
	t.Helper()
	testkit.Eventually(t, testkit.Context(t), "the policies are known", func() error {
		if p := r.s.mirror.Policies(); !p.Known || p.Set.Revision() < revision {
			return fmt.Errorf("known %t, revision %d", p.Known, p.Set.Revision())
		}
		return nil
	})
}

// puts writes a policy and waits for it.
func (r *replica) puts(t *testing.T, m *policyv1.Policy) {
	t.Helper()
	p, err := policy.FromProto(m)
	if err != nil {
		t.Fatal(err)
	}
	revision, err := r.s.store.PutPolicy(testkit.Context(t), p, store.Condition{})
	if err != nil {
		t.Fatal(err)
	}
	r.knows(t, revision)
}

// picks gives the instances that could be picked, as "west/w 100".
func picks(resp *adminv1.ExplainResponse) string {
	var out []string
	for _, i := range resp.GetInstances() {
		if i.GetPicked() {
			out = append(out, fmt.Sprintf("%s/%s %g", i.GetInstance().GetCluster(), i.GetInstance().GetId(), i.GetShare()))
		}
	}
	return strings.Join(out, " ")
}

func TestExplainComputesByThePolicies(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"east": {dialable("a")}, "west": {dialable("w")}})
	r.lists(t, "east/a west/w")
	r.knows(t, 0)
	ctx := testkit.Context(t)
	ask := func(req *adminv1.ExplainRequest) *adminv1.ExplainResponse {
		t.Helper()
		req.Service, req.From = "cart", "east"
		resp, err := r.admin.Explain(ctx, req)
		if err != nil {
			t.Fatalf("%v: %v", req, err)
		}
		return resp
	}
	if e := ask(&adminv1.ExplainRequest{}); picks(e) != "east/a 100" || e.GetStrategySource() != "default" || len(e.GetNotes()) != 0 {
		t.Errorf("without a policy: %v", e)
	}
	supposed := cartPolicy(&policyv1.Settings{Strategy: proto.String("external-only")}, "east")
	if e := ask(&adminv1.ExplainRequest{Policy: supposed}); picks(e) != "west/w 100" || e.GetStrategySource() != "policy service default/cart from east" || len(e.GetNotes()) != 1 {
		t.Errorf("as if a policy were applied: %v", e)
	}
	r.puts(t, cartPolicy(&policyv1.Settings{Strategy: proto.String("external-first"), Override: proto.String("deny")}))
	if e := ask(&adminv1.ExplainRequest{}); picks(e) != "west/w 100" || e.GetStrategySource() != "policy service default/cart" || !strings.HasPrefix(e.GetRule(), "policy service default/cart: ") {
		t.Errorf("by a policy: %v", e)
	}
	for _, req := range []*adminv1.ExplainRequest{{Strategy: "local-only"}, {Cluster: "east"}} {
		if e := ask(req); picks(e) != "east/a 100" || len(e.GetNotes()) != 1 || !strings.Contains(e.GetNotes()[0], "denies overrides") {
			t.Errorf("%v against a policy that denies it: %v", req, e)
		}
	}
	if _, err := r.s.store.PutCordon(ctx, &policy.Cordon{Cluster: "west"}, store.Condition{}); err != nil {
		t.Fatal(err)
	}
	r.knows(t, 2)
	if e := ask(&adminv1.ExplainRequest{}); picks(e) != "east/a 100" {
		t.Errorf("with a cordon: %v", e)
	}
}

func TestExplainRefusesWhatMakesNoSense(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"east": {newRegistry("a")}, "west": {newRegistry("w")}})
	r.lists(t, "east/a west/w")
	r.knows(t, 0)
	r.puts(t, cartPolicy(&policyv1.Settings{Strategy: proto.String("local-only")}, "east"))
	ctx := testkit.Context(t)
	for what, c := range map[string]struct {
		req  *adminv1.ExplainRequest
		code codes.Code
	}{
		"no from":            {&adminv1.ExplainRequest{Service: "cart"}, codes.InvalidArgument},
		"no such cluster":    {&adminv1.ExplainRequest{Service: "cart", From: "north"}, codes.NotFound},
		"no such node":       {&adminv1.ExplainRequest{Service: "cart", From: "east", Node: "n9"}, codes.NotFound},
		"no name":            {&adminv1.ExplainRequest{Service: "a.b.c", From: "east"}, codes.InvalidArgument},
		"a case variant":     {&adminv1.ExplainRequest{Service: "cart", From: "east", Strategy: "LOCAL-FIRST"}, codes.InvalidArgument},
		"a pin to nowhere":   {&adminv1.ExplainRequest{Service: "cart", From: "east", Cluster: "wset"}, codes.InvalidArgument},
		"a contradiction":    {&adminv1.ExplainRequest{Service: "cart", From: "east", Strategy: "local-only", Cluster: "west"}, codes.InvalidArgument},
		"an empty policy":    {&adminv1.ExplainRequest{Service: "cart", From: "east", Policy: &policyv1.Policy{}}, codes.InvalidArgument},
		"two for one caller": {&adminv1.ExplainRequest{Service: "cart", From: "east", Policy: cartPolicy(&policyv1.Settings{Strategy: proto.String("any")}, "east", "west")}, codes.InvalidArgument},
	} {
		if _, err := r.admin.Explain(ctx, c.req); status.Code(err) != c.code {
			t.Errorf("%s: %v, want %v", what, err, c.code)
		}
	}
	_, err := r.admin.Explain(ctx, &adminv1.ExplainRequest{Service: "cart", From: "east", Policy: cartPolicy(&policyv1.Settings{Strategy: proto.String("nonsense"), Failover: &policyv1.Failover{Threshold: 130}})})
	if got := strings.Join(fields(err), " "); got != "strategy failover.threshold" {
		t.Errorf("the mistakes are in %q: %v", got, err)
	}
}

// fields gives the fields that an error says are wrong.
func fields(err error) []string {
	var out []string
	for _, d := range status.Convert(err).Details() {
		if b, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range b.GetFieldViolations() {
				out = append(out, v.GetField())
			}
		}
	}
	return out
}

func TestNoAnswerInWords(t *testing.T) {
	for want, err := range map[string]error{
		"n1 did not answer in time":         status.Error(codes.DeadlineExceeded, "late"),
		"n1 did not answer: it went away":   errGone,
		"n1 did not answer: no route there": status.Error(codes.Unavailable, "no route there"),
		"n1 did not answer: odd":            errors.New("odd"),
	} {
		if got := noAnswer("n1", err); got != want {
			t.Errorf("have %q, want %q", got, want)
		}
	}
}
