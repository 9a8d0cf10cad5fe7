package synchronizer

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// counted answers PreviewPolicy: of so many calls of cart, west gets this part before and after.
func counted(calls uint64, before, after float64) func(*feedv1.Question) *feedv1.Answer {
	return func(q *feedv1.Question) *feedv1.Answer {
		if q.GetPreview() == nil {
			return nil
		}
		return &feedv1.Answer{What: &feedv1.Answer_Preview{Preview: &adminv1.PreviewPolicyResponse{Agents: 1, Answered: 1, Moves: []*adminv1.Move{{
			Namespace: "default", Service: "cart", From: "elsewhere", Calls: calls, StrategyBefore: "local-first", StrategyAfter: "external-first",
			Clusters: []*adminv1.Shift{{Cluster: "west", Before: before, After: after}},
		}}}}}
	}
}

// preview gives what would become of the calls, as "cart from east: 5 calls by 1, east 100>0, 2/2, for west".
func (r *replica) preview(t *testing.T, req *adminv1.PreviewPolicyRequest) string {
	t.Helper()
	resp, err := r.admin.PreviewPolicy(testkit.Context(t), req)
	if err != nil {
		t.Fatalf("%v: %v", req, err)
	}
	var out []string
	for _, m := range resp.GetMoves() {
		w := fmt.Sprintf("%s from %s: %d calls by %d", m.GetService(), m.GetFrom(), m.GetCalls(), m.GetAgents())
		for _, c := range m.GetClusters() {
			w += fmt.Sprintf(", %s %.4g>%.4g", c.GetCluster(), c.GetBefore(), c.GetAfter())
		}
		if u := m.GetUnavailableAfter(); u != "" {
			w += ", " + u
		}
		out = append(out, w)
	}
	out = append(out, fmt.Sprintf("%d/%d", resp.GetAnswered(), resp.GetAgents()))
	if c := resp.GetComputedFor(); len(c) > 0 {
		out = append(out, "for "+strings.Join(c, ","))
	}
	return strings.Join(append(out, resp.GetWarnings()...), "; ")
}

func external(from ...string) *policyv1.Policy {
	return cartPolicy(&policyv1.Settings{Strategy: proto.String("external-first")}, from...)
}

func TestPreviewWithoutAgentsIsComputed(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"east": {dialable("a")}, "west": {dialable("w")}, "south": {dialable()}})
	r.lists(t, "east/a west/w")
	r.knows(t, 0)
	testkit.Eventually(t, testkit.Context(t), "the empty cluster is synced", func() error {
		if c := r.cluster(t, "south"); c.GetState() != catalogv1.ClusterState_SYNCED {
			return fmt.Errorf("%v", c)
		}
		return nil
	})
	local := &policyv1.Settings{Strategy: proto.String("local-only")}
	for _, c := range []struct {
		name string
		req  *adminv1.PreviewPolicyRequest
		want string
	}{
		{"a service for some", &adminv1.PreviewPolicyRequest{Policy: external("east")}, "cart from east: 0 calls by 0, east 100>0, west 0>100; 0/0; for east"},
		{"a service for all", &adminv1.PreviewPolicyRequest{Policy: external()},
			"cart from east: 0 calls by 0, east 100>0, west 0>100; cart from west: 0 calls by 0, east 0>100, west 100>0; 0/0; for east,south,west"},
		{"a cluster", &adminv1.PreviewPolicyRequest{Policy: &policyv1.Policy{Target: &policyv1.Target{Cluster: "south"}, Settings: local}},
			"cart from south: 0 calls by 0, east 50>0, west 50>0, NO_LOCAL_INSTANCES; 0/0; for south"},
		{"a namespace", &adminv1.PreviewPolicyRequest{Policy: &policyv1.Policy{Target: &policyv1.Target{Namespace: "default"}, Settings: local}},
			"cart from south: 0 calls by 0, east 50>0, west 50>0, NO_LOCAL_INSTANCES; 0/0; for east,south,west"},
		{"another namespace", &adminv1.PreviewPolicyRequest{Policy: &policyv1.Policy{Target: &policyv1.Target{Namespace: "shop"}, Settings: local}},
			"0/0; for east,south,west"},
		{"nothing moves", &adminv1.PreviewPolicyRequest{Policy: cartPolicy(local, "east")}, "0/0; for east"},
		{"a cluster that nobody has heard of", &adminv1.PreviewPolicyRequest{Policy: cartPolicy(local, "wset")},
			`0/0; from[0]: nobody has heard of a cluster "wset"; did you mean "west"?`},
		{"another replica asks", &adminv1.PreviewPolicyRequest{Policy: external(), Here: true}, "0/0; for east,south,west"},
	} {
		if got := r.preview(t, c.req); got != c.want {
			t.Errorf("%s:\nhave %s\nwant %s", c.name, got, c.want)
		}
	}
	r.puts(t, external("east"))
	if got := r.preview(t, &adminv1.PreviewPolicyRequest{Policy: &policyv1.Policy{Target: &policyv1.Target{Service: "cart"}, From: []string{"east"}}, Delete: true}); got != "cart from east: 0 calls by 0, east 0>100, west 100>0; 0/0; for east" {
		t.Errorf("a deletion: %s", got)
	}
}

func TestPreviewAddsUpWhatAgentsSay(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"east": {dialable("a")}, "west": {dialable("w")}})
	r.lists(t, "east/a west/w")
	r.knows(t, 0)
	r.consult(t, "east", "n1", counted(90, 0, 0))
	two := r.consult(t, "east", "n2", counted(10, 0, 100))
	other := r.consult(t, "west", "n1", counted(1, 100, 0))
	req := &adminv1.PreviewPolicyRequest{Policy: external("east")}
	if got := r.preview(t, req); got != "cart from east: 100 calls by 2, west 0>10; 2/2" {
		t.Errorf("have %s", got)
	}
	if q := two.questions()[0].GetPreview(); len(other.questions()) != 0 || !proto.Equal(q.GetPolicy(), req.GetPolicy()) || q.GetDelete() {
		t.Errorf("asked %v, and of another cluster %d times", q, len(other.questions()))
	}
	if got := r.preview(t, &adminv1.PreviewPolicyRequest{Policy: external()}); got != "cart from east: 100 calls by 2, west 0>10; cart from west: 1 calls by 1, west 100>0; 3/3" {
		t.Errorf("for all: %s", got)
	}
	// An agent that follows the feed, but cannot be asked, has not answered.
	r.report(t, "east", "n3")
	r.consult(t, "east", "n4", hangs)
	if got := r.preview(t, req); got != "cart from east: 100 calls by 2, west 0>10; 2/4" {
		t.Errorf("with one that hangs and one that is older: %s", got)
	}
}

func TestPreviewComputesWhereNoAgentAnswers(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"east": {dialable("a")}, "west": {dialable("w")}})
	r.lists(t, "east/a west/w")
	r.knows(t, 0)
	r.consult(t, "east", "n1", refuses(codes.FailedPrecondition, "too old"))
	r.consult(t, "west", "n1", counted(5, 100, 0))
	if got := r.preview(t, &adminv1.PreviewPolicyRequest{Policy: external()}); got != "cart from west: 5 calls by 1, west 100>0; cart from east: 0 calls by 0, east 100>0, west 0>100; 1/2; for east" {
		t.Errorf("have %s", got)
	}
}

func TestPreviewAsksAgentsAtEveryReplica(t *testing.T) {
	a := start(t, t.TempDir(), map[string][]*registry{"east": {dialable("a")}, "west": {dialable("w")}})
	b := start(t, t.TempDir(), map[string][]*registry{"east": {dialable("a")}, "west": {dialable("w")}})
	for _, r := range []*replica{a, b} {
		r.lists(t, "east/a west/w")
		r.knows(t, 0)
	}
	a.meets(t, "r2", b.s.grpcL.Addr().String())
	b.meets(t, "r2", a.s.grpcL.Addr().String())
	a.consult(t, "east", "n1", counted(90, 0, 0))
	b.consult(t, "east", "n2", counted(10, 0, 100))
	b.consult(t, "west", "n1", counted(1, 100, 0))
	want := "cart from east: 100 calls by 2, west 0>10; cart from west: 1 calls by 1, west 100>0; 3/3"
	for _, r := range []*replica{a, b} {
		if got := r.preview(t, &adminv1.PreviewPolicyRequest{Policy: external()}); got != want {
			t.Errorf("have %s\nwant %s", got, want)
		}
	}
	a.meets(t, "r3", testClosed(t))
	if got := a.preview(t, &adminv1.PreviewPolicyRequest{Policy: external()}); !strings.HasPrefix(got, want+"; synchronizer r3 did not answer") {
		t.Errorf("with a dead one: %s", got)
	}
}

func TestPreviewRefusesWhatPutPolicyWould(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"east": {newRegistry("a")}})
	r.lists(t, "east/a")
	r.knows(t, 0)
	ctx := testkit.Context(t)
	_, err := r.admin.PreviewPolicy(ctx, &adminv1.PreviewPolicyRequest{Policy: cartPolicy(&policyv1.Settings{Strategy: proto.String("nonsense"), Failover: &policyv1.Failover{Threshold: 130}})})
	if got := fields(err); status.Code(err) != codes.InvalidArgument || !slices.Equal(got, []string{"strategy", "failover.threshold"}) {
		t.Errorf("mistakes: %v in %q", err, got)
	}
	for what, c := range map[string]struct {
		req  *adminv1.PreviewPolicyRequest
		code codes.Code
	}{
		"nothing":                       {&adminv1.PreviewPolicyRequest{}, codes.InvalidArgument},
		"no target":                     {&adminv1.PreviewPolicyRequest{Delete: true}, codes.InvalidArgument},
		"a deletion of what is not set": {&adminv1.PreviewPolicyRequest{Policy: cartPolicy(nil), Delete: true}, codes.NotFound},
	} {
		if _, err := r.admin.PreviewPolicy(ctx, c.req); status.Code(err) != c.code {
			t.Errorf("%s: %v, want %v", what, err, c.code)
		}
	}
}
