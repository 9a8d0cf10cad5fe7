package view

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	dto "github.com/prometheus/client_model/go"

	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/resolvers/intake"
	"github.com/farcall/farcall/strategy"
)

func ptr[T any](v T) *T { return &v }

// says is a policy; target is "cart", "ns default" or "cluster east".
func says(target, strategy string, from ...string) *policyv1.Policy {
	p := &policyv1.Policy{Target: &policyv1.Target{Namespace: "default", Service: target}, From: from, Settings: &policyv1.Settings{}}
	if kind, name, ok := strings.Cut(target, " "); ok {
		p.Target = &policyv1.Target{Namespace: name}
		if kind == "cluster" {
			p.Target = &policyv1.Target{Cluster: name}
		}
	}
	if strategy != "" {
		p.Settings.Strategy = &strategy
	}
	return p
}

// two is a rig whose service has an instance here and one in west.
func two(t testing.TB, base ...policy.Settings) *rig {
	r := newRig(t, true, base...)
	r.b.Local(local(true, "l@n1"))
	r.feed(r.list("west", "w@x"), r.agent("west", "x", "10.1.0.1:1"), r.synced("east"), r.synced("west"))
	return r
}

// inForce gives the strategy of calls that name none, and who stated it.
func (r *rig) inForce() string {
	r.t.Helper()
	s := r.b.Service(cart)
	p, err := s.Plan("", "")
	if err != nil {
		return err.Error()
	}
	if p.Decision.Strategy != s.Policy().Strategy {
		r.t.Errorf("%s is followed, %s is in force", p.Decision.Strategy, s.Policy().Strategy)
	}
	source := s.Policy().Sources["strategy"]
	if !strings.HasPrefix(p.Terms.Rule, source+": ") || p.Terms.Rule != p.Decision.Rule {
		r.t.Errorf("the rule %q does not begin with its source %q", p.Terms.Rule, source)
	}
	return fmt.Sprint(p.Decision.Strategy, " by ", source)
}

// The more specific goes before the less specific, whenever it comes, and what it leaves unsaid is
// said by the other.
func TestPrecedenceOfPolicies(t *testing.T) {
	r := two(t, policy.Settings{Strategy: ptr(strategy.Any), Locality: ptr(strategy.LocalityNone)})
	for _, c := range []struct {
		name string
		do   func()
		want string
	}{
		{"the agent's configuration", func() {}, "any by agent's configuration"},
		{"the cluster's", func() { r.put(says("cluster east", "external-only")) }, "external-only by policy cluster east"},
		{"another cluster's", func() { r.put(says("cluster west", "broadcast")) }, "external-only by policy cluster east"},
		{"the namespace's", func() { r.put(says("ns default", "local-only")) }, "local-only by policy namespace default"},
		{"the namespace's for others", func() { r.put(says("ns default", "broadcast", "west")) }, "local-only by policy namespace default"},
		{"the namespace's from here", func() { r.put(says("ns default", "any", "east")) }, "any by policy namespace default from east"},
		{"the service's", func() { r.put(says("cart", "external-first")) }, "external-first by policy service default/cart"},
		{"another service's", func() { r.put(says("till", "broadcast")) }, "external-first by policy service default/cart"},
		{"the annotation", func() { r.b.Local(annotated("local-first")) }, "local-first by annotation in cluster east"},
		{"the service's from here", func() { r.put(says("cart", "local-only", "east")) }, "local-only by policy service default/cart from east"},
		{"the last goes", func() { r.drop(says("cart", "", "east")) }, "local-first by annotation in cluster east"},
		{"the annotation goes", func() { r.b.Local(annotated("")) }, "external-first by policy service default/cart"},
		{"the service's goes", func() { r.drop(says("cart", "")) }, "any by policy namespace default from east"},
	} {
		if c.do(); r.inForce() != c.want {
			t.Fatalf("%s: %s, want %s", c.name, r.inForce(), c.want)
		}
	}
	if l := r.b.Service(cart).Policy().Locality; l != strategy.LocalityNone {
		t.Errorf("locality %s, want what the agent's configuration says and no policy", l)
	}
}

// annotated is what a registry says that states a strategy of cart.
func annotated(word string) intake.Change {
	status := catalog.RegistryStatus{Name: "kubernetes", Complete: true}
	if word != "" {
		status.Strategies = map[catalog.Name]string{cart: word, {Namespace: "default", Service: "till"}: "nonsense"}
	}
	return intake.Change{Complete: true, Registries: []catalog.RegistryStatus{status}}
}

// An agent without registries of its own is told of annotations by the feed.
func TestAnnotationFromTheFeed(t *testing.T) {
	r := newRig(t, false)
	meta := func(word string) *storev1.ClusterMeta {
		r.seq++
		return &storev1.ClusterMeta{Cluster: "east", Epoch: 1, Seq: r.seq, Registries: []*storev1.RegistryStatus{
			{Name: "kubernetes", Strategies: map[string]string{"default/cart": word}},
		}}
	}
	r.feed(r.list("east", "l@n1"), r.synced("east"), r.entry(keys.Key{Kind: keys.Meta, Cluster: "east"}, meta("local-only")))
	if got := r.inForce(); got != "local-only by annotation in cluster east" {
		t.Error(got)
	}
	r.change(r.entry(keys.Key{Kind: keys.Meta, Cluster: "east"}, meta("external-first")))
	if got := r.inForce(); got != "external-first by annotation in cluster east" {
		t.Error(got)
	}
}

func TestCallsStayLocalUntilPoliciesAreKnown(t *testing.T) {
	r := newRig(t, true)
	r.b.Local(local(true, "l@n1"))
	r.feedBare(r.list("west", "w@x"), r.agent("west", "x", "10.1.0.1:1"), r.synced("east"), r.synced("west"))
	for _, kind := range []strategy.Kind{"", strategy.ExternalFirst, strategy.Any, strategy.ExternalOnly} {
		p, err := r.b.Service(cart).Plan(kind, "")
		if err != nil {
			t.Fatal(err)
		}
		if picked, ok := p.Picker.Pick(nil); ok && picked.Instance.Cluster != "east" {
			t.Errorf("%s: a call leaves the cluster before policies are known", kind)
		}
	}
	if r.b.Policies().Known {
		t.Error("policies are known without their marker")
	}
	r.change(r.marker())
	r.want(strategy.ExternalFirst, "*: w | local: l")
	if !r.b.Policies().Known {
		t.Error("policies are not known with their marker")
	}
}

// What nobody changed anything about keeps its plan.
func TestAPolicyConcernsOnlyItsService(t *testing.T) {
	r := two(t)
	p, err := r.b.Service(cart).Plan("", "")
	if err != nil {
		t.Fatal(err)
	}
	r.put(says("till", "local-only"), &policyv1.Cordon{Cluster: "west", Namespace: "default", Service: "till"})
	if again, _ := r.b.Service(cart).Plan("", ""); again != p {
		t.Error("the plan of a service was made anew for the policy of another")
	}
	r.put(says("cart", "local-only"))
	if again, _ := r.b.Service(cart).Plan("", ""); again == p || again.Decision.Strategy != strategy.LocalOnly {
		t.Error("the service's own policy is not in force")
	}
}

func TestTermsComeFromThePolicy(t *testing.T) {
	r := two(t)
	p := says("cart", "")
	p.Settings.Retry = &policyv1.Retry{Attempts: 2, Idempotent: []string{"PUT"}}
	p.Settings.Broadcast = &policyv1.Broadcast{MinSuccess: 1, TargetTimeout: durationpb.New(time.Second), MaxParallel: 3}
	r.put(p)
	plan, err := r.b.Service(cart).Plan(strategy.Broadcast, "")
	if err != nil {
		t.Fatal(err)
	}
	plan.Terms.Rule = strings.Split(plan.Terms.Rule, ":")[0]
	want := Terms{Rule: "request", Attempts: 2, Idempotent: []string{"PUT"}, MinSuccess: 1, TargetTimeout: time.Second, MaxParallel: 3}
	if fmt.Sprint(plan.Terms) != fmt.Sprint(want) {
		t.Errorf("terms %+v, want %+v", plan.Terms, want)
	}
	if len(plan.Clusters) != 2 || plan.Clusters[1].Tier != 1 || plan.Clusters[1].Cluster != "west" {
		t.Errorf("targets %+v", plan.Clusters)
	}
}

// Weights of clusters and of instances multiply.
func TestClusterWeights(t *testing.T) {
	r := two(t)
	p := says("cart", "any")
	p.Settings.Weights = &policyv1.Weights{Clusters: map[string]uint32{"west": 9}}
	r.put(p)
	if n := r.share("west", 2000); n < 1700 || n > 1900 {
		t.Errorf("%d of 2000 calls go to the cluster of weight 9 beside one of weight 1", n)
	}
	p.Settings.Weights.Clusters = map[string]uint32{"west": 0, "east": 1}
	r.put(p)
	if n := r.share("west", 200); n != 0 {
		t.Errorf("%d of 200 calls go to a cluster of weight 0", n)
	}
}

// share counts how many of a number of calls go to a cluster.
func (r *rig) share(cluster string, calls int) (n int) {
	r.t.Helper()
	for range calls {
		p, err := r.b.Service(cart).Plan("", "")
		if err != nil {
			r.t.Fatal(err)
		}
		picked, ok := p.Picker.Pick(nil)
		if !ok {
			r.t.Fatalf("nobody: %s", p.Terms.Rule)
		}
		if picked.Instance.Cluster == cluster {
			n++
		}
	}
	return n
}

func TestSupposeChangesNothing(t *testing.T) {
	r := two(t)
	before, _ := r.b.Service(cart).Plan("", "")
	p, err := policy.FromProto(says("cart", "external-only"))
	if err != nil {
		t.Fatal(err)
	}
	plan, effective, err := r.b.Suppose(cart, r.b.Policies().Set.With(p), "", "")
	if err != nil || plan.Decision.Strategy != strategy.ExternalOnly || effective.Sources["strategy"] != "policy service default/cart" {
		t.Errorf("supposed: %+v, %v", effective, err)
	}
	if plan, _, _ = r.b.Suppose(cart, r.b.Policies().Set.With(p), strategy.LocalOnly, ""); plan.Decision.Strategy != strategy.LocalOnly {
		t.Errorf("with an override: %s", plan.Decision.Strategy)
	}
	if _, _, err = r.b.Suppose(cart, nil, "", "wset"); err == nil {
		t.Error("a pin to no cluster was taken")
	}
	nobody := catalog.Name{Namespace: "default", Service: "nobody"}
	if plan, _, err = r.b.Suppose(nobody, nil, "", ""); err != nil || plan.Decision.Unavailable != strategy.NotFound {
		t.Errorf("of an unknown service: %v, %v", plan, err)
	}
	if after, _ := r.b.Service(cart).Plan("", ""); after != before {
		t.Error("a supposition made the plan in force anew")
	}
}

func TestWhatIsKnown(t *testing.T) {
	r := two(t)
	till := catalog.Name{Namespace: "default", Service: "till"}
	r.b.Local(intake.Change{Complete: true, Services: map[catalog.Name]intake.List{till: {}}})
	if got := fmt.Sprint(r.b.Names()); got != "[default/cart default/till]" {
		t.Errorf("names %s", got)
	}
	if got := r.b.Clusters(now); len(got) != 2 || got[1].Name != "west" {
		t.Errorf("clusters %+v", got)
	}
}

// metric reads a gauge or a counter.
func (r *rig) metric(name string) float64 {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			if f.GetType() == dto.MetricType_COUNTER {
				return m.GetCounter().GetValue()
			}
			return m.GetGauge().GetValue()
		}
	}
	r.t.Fatalf("there is no metric %s", name)
	return 0
}

func TestPoliciesThatAreNotUnderstood(t *testing.T) {
	r := two(t)
	r.put(says("cart", "local-only"))
	newer := says("cart", "nearest-first")
	id := keys.Key{Kind: keys.Policy, ID: "service/default/cart/*"}
	r.change(r.entry(id, newer), r.marker())
	if got := r.inForce(); got != "local-only by policy service default/cart" {
		t.Error(got)
	}
	if got := r.metric("farcall_view_policies_refused"); got != 1 || len(r.b.Policies().Refused) != 1 {
		t.Errorf("refused: %v, %q", got, r.b.Policies().Refused)
	}
	if got := r.metric("farcall_view_policies_revision"); got != float64(r.revision) {
		t.Errorf("revision %v, want %d", got, r.revision)
	}
}

// The rings of a service go from one of its Services to the next.
func TestRingsAreHandedOn(t *testing.T) {
	r := two(t)
	if r.b.Service(cart).rings != nil {
		t.Error("rings where no balancer has any")
	}
	p := says("cart", "any")
	p.Settings.Balancer, p.Settings.HashHeader = ptr("ring-hash"), ptr("x-user")
	r.put(p)
	before := r.b.Service(cart)
	r.b.Reachable(nil, nil, map[string]int{"west": 1})
	if now := r.b.Service(cart); now == before || now.rings == nil || now.rings != before.rings {
		t.Error("the rings are not handed on")
	}
}
