package consult

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/farcall/farcall/agent/view"
	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/internal/reach"
	"github.com/farcall/farcall/internal/testkit"
)

// agent is the node n1 of east with a real view: cart has e1 and w1, till of shop w2 alone, and far
// of shop s1.
type agent struct {
	t       *testing.T
	book    *view.Book
	counter *Counter
	answers *Answers
}

func newAgent(t *testing.T, policies ...*policyv1.Policy) *agent {
	t.Helper()
	schema, err := keys.New("test")
	if err != nil {
		t.Fatal(err)
	}
	m := mirror.New(schema)
	a := &agent{t: t, counter: NewCounter()}
	a.book = view.New(view.Config{Self: reach.Self{Cluster: "east", Node: "n1", Address: "10.0.0.1:50002"}},
		view.Deps{Metrics: prometheus.NewRegistry(), Connected: func() bool { return true }})
	a.book.Attach(m)
	var entries []*feedv1.Entry
	add := func(k keys.Key, v proto.Message) {
		b, err := keys.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, &feedv1.Entry{Key: schema.Format(k), Value: b, Revision: 1})
	}
	list := func(cluster string, n catalog.Name, id string) {
		add(keys.Key{Kind: keys.Slice, Cluster: cluster, Name: n}, &storev1.Slice{
			Cluster: cluster, Namespace: n.Namespace, Service: n.Service, Epoch: 1, Seq: 1,
			Instances: []*catalogv1.Instance{{
				Cluster: cluster, Namespace: n.Namespace, Service: n.Service, Id: id, Address: "10.1.0.1", Port: 80, Relay: "10.1.0.1:50002", Weight: 1,
			}},
		})
	}
	list("east", cart, "e1")
	list("west", cart, "w1")
	list("west", till, "w2")
	list("south", catalog.Name{Namespace: "shop", Service: "far"}, "s1")
	for _, c := range []string{"east", "west", "south"} {
		add(keys.Key{Kind: keys.Synced, Cluster: c}, &storev1.Synced{Cluster: c, Epoch: 1})
	}
	for _, p := range policies {
		read, err := policy.FromProto(p)
		if err != nil {
			t.Fatal(err)
		}
		add(keys.Key{Kind: keys.Policy, ID: read.ID()}, p)
	}
	add(keys.Key{Kind: keys.PoliciesSynced}, &storev1.PoliciesSynced{Revision: 1})
	m.Begin("s")
	a.book.Changed(m.Apply(time.Now(), entries, 1))
	a.book.Changed(m.End(1))
	a.answers = FromBook(n1, a.book, a.counter.Calls)
	return a
}

// says is a policy about "cart", "ns shop" or "cluster east".
func says(target, kind string, from ...string) *policyv1.Policy {
	p := &policyv1.Policy{Target: &policyv1.Target{Service: target}, From: from, Settings: &policyv1.Settings{Strategy: &kind}}
	switch what, name, _ := strings.Cut(target, " "); what {
	case "ns":
		p.Target = &policyv1.Target{Namespace: name}
	case "cluster":
		p.Target = &policyv1.Target{Cluster: name}
	}
	return p
}

func TestItExplainsFromItsOwnView(t *testing.T) {
	a := newAgent(t, says("cart", "external-first"))
	explain := func(req *adminv1.ExplainRequest) string {
		t.Helper()
		req.Service = "cart"
		e, err := a.answers.Explain(testkit.Context(t), req)
		if err != nil {
			t.Fatal(err)
		}
		if e.GetComputedBy() != "agent east/n1, from its own view" || e.GetFrom() != "east" || len(e.GetClusters()) != 3 || len(e.GetSettings()) == 0 {
			t.Errorf("%v: %v", req, e)
		}
		out := e.GetStrategy() + " by " + e.GetStrategySource() + ":"
		for _, i := range e.GetInstances() {
			if i.GetPicked() {
				out += " " + i.GetInstance().GetId()
			}
		}
		return out
	}
	for _, c := range []struct {
		req  *adminv1.ExplainRequest
		want string
	}{
		{&adminv1.ExplainRequest{}, "external-first by policy service default/cart: w1"},
		{&adminv1.ExplainRequest{From: "east", Strategy: "local"}, "local-first by request: e1"},
		{&adminv1.ExplainRequest{Cluster: "east"}, "external-first by policy service default/cart: e1"},
		{&adminv1.ExplainRequest{Policy: says("cart", "local-only", "east")}, "local-only by policy service default/cart from east: e1"},
		{&adminv1.ExplainRequest{Policy: says("cart", "local-only", "west")}, "external-first by policy service default/cart: w1"},
		{&adminv1.ExplainRequest{Policy: says("cluster east", "local-only")}, "external-first by policy service default/cart: w1"},
	} {
		if got := explain(c.req); got != c.want {
			t.Errorf("%v: %s, want %s", c.req, got, c.want)
		}
	}
	if e, err := a.answers.Explain(testkit.Context(t), &adminv1.ExplainRequest{Service: "nobody"}); err != nil || e.GetUnavailable() != "NOT_FOUND" {
		t.Errorf("a name that nobody knows: %v %v", e, err)
	}
}

func TestItExplainsNothingThatMakesNoSense(t *testing.T) {
	a := newAgent(t)
	for what, c := range map[string]struct {
		req  *adminv1.ExplainRequest
		code codes.Code
	}{
		"no name":                 {&adminv1.ExplainRequest{Service: "a.b.c"}, codes.InvalidArgument},
		"another cluster's":       {&adminv1.ExplainRequest{Service: "cart", From: "west"}, codes.FailedPrecondition},
		"no strategy":             {&adminv1.ExplainRequest{Service: "cart", Strategy: "nonsense"}, codes.InvalidArgument},
		"a pin to nowhere":        {&adminv1.ExplainRequest{Service: "cart", Cluster: "wset"}, codes.InvalidArgument},
		"a policy of a newer one": {&adminv1.ExplainRequest{Service: "cart", Policy: says("cart", "nearest-moon")}, codes.FailedPrecondition},
	} {
		if _, err := a.answers.Explain(testkit.Context(t), c.req); status.Code(err) != c.code {
			t.Errorf("%s: %v, want %v", what, err, c.code)
		}
	}
}

// moves gives what would become of the calls, as "cart 5: east 100>0, west 0>100".
func (a *agent) moves(req *adminv1.PreviewPolicyRequest) string {
	a.t.Helper()
	resp, err := a.answers.PreviewPolicy(testkit.Context(a.t), req)
	if err != nil {
		a.t.Fatalf("%v: %v", req, err)
	}
	if resp.GetAgents() != 1 || resp.GetAnswered() != 1 {
		a.t.Errorf("%d of %d agents", resp.GetAnswered(), resp.GetAgents())
	}
	var out []string
	for _, m := range resp.GetMoves() {
		w := fmt.Sprintf("%s %d:", m.GetService(), m.GetCalls())
		for _, c := range m.GetClusters() {
			w += fmt.Sprintf(" %s %.4g>%.4g", c.GetCluster(), c.GetBefore(), c.GetAfter())
		}
		if m.GetUnavailableAfter() != "" {
			w += " " + m.GetUnavailableAfter()
		}
		if m.GetFrom() != "east" {
			a.t.Errorf("from %s", m.GetFrom())
		}
		out = append(out, w)
	}
	return strings.Join(out, "; ")
}

func TestItSaysWhatWouldMove(t *testing.T) {
	a := newAgent(t, says("ns shop", "external-first"))
	for range 5 {
		a.counter.Add(cart)
	}
	a.counter.Add(till)
	for _, c := range []struct {
		name string
		req  *adminv1.PreviewPolicyRequest
		want string
	}{
		{"a service", &adminv1.PreviewPolicyRequest{Policy: says("cart", "external-first")}, "cart 5: east 100>0 west 0>100"},
		{"for others", &adminv1.PreviewPolicyRequest{Policy: says("cart", "external-first", "west")}, ""},
		{"for this cluster", &adminv1.PreviewPolicyRequest{Policy: says("cart", "broadcast", "east", "west")}, "cart 5: east 100>100 west 0>100"},
		{"nothing but the word", &adminv1.PreviewPolicyRequest{Policy: says("cart", "local-only")}, "cart 5: east 100>100"},
		{"a namespace, with one that nobody calls", &adminv1.PreviewPolicyRequest{Policy: says("ns shop", "local-only")},
			"till 1: west 100>0 NO_LOCAL_INSTANCES; far 0: south 100>0 NO_LOCAL_INSTANCES"},
		// What is not concerned and called is told, so that what others say can be weighed.
		{"the cluster", &adminv1.PreviewPolicyRequest{Policy: says("cluster east", "external-only")}, "cart 5: east 100>0 west 0>100; till 1: west 100>100"},
		{"another cluster", &adminv1.PreviewPolicyRequest{Policy: says("cluster west", "external-only")}, ""},
		{"a deletion", &adminv1.PreviewPolicyRequest{Policy: &policyv1.Policy{Target: &policyv1.Target{Namespace: "shop"}}, Delete: true}, "till 1: west 100>100"},
	} {
		if got := a.moves(c.req); got != c.want {
			t.Errorf("%s:\nhave %s\nwant %s", c.name, got, c.want)
		}
	}
	for what, req := range map[string]*adminv1.PreviewPolicyRequest{
		"a policy of a newer one":   {Policy: says("cart", "nearest-moon")},
		"a deletion of what is not": {Delete: true},
	} {
		if _, err := a.answers.PreviewPolicy(testkit.Context(t), req); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%s: %v", what, err)
		}
	}
	gone, cancel := context.WithCancel(testkit.Context(t))
	cancel()
	if _, err := a.answers.PreviewPolicy(gone, &adminv1.PreviewPolicyRequest{Policy: says("cart", "any")}); status.Code(err) != codes.Canceled {
		t.Errorf("nobody waits any more: %v", err)
	}
}
