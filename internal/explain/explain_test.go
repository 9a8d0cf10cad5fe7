package explain

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/strategy"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var cart = catalog.Name{Namespace: "default", Service: "cart"}

// cluster names what an instance's id begins with.
var cluster = map[byte]string{'e': "east", 'w': "west", 's': "south"}

// candidates reads "e1 w1:50": ids, with their weights where those are not 1.
func candidates(words string) []strategy.Candidate {
	var out []strategy.Candidate
	for _, w := range strings.Fields(words) {
		id, weight := w, uint32(1)
		if before, after, ok := strings.Cut(w, ":"); ok {
			n, _ := strconv.Atoi(after) // a test's own words
			id, weight = before, uint32(n)
		}
		out = append(out, strategy.Candidate{
			Instance: &catalog.Instance{ID: catalog.ID{Cluster: cluster[id[0]], Name: cart, Instance: id}, Weight: weight},
			Dial:     id + ":1",
		})
	}
	return out
}

// tier reads "e1 e2, e3": the groups of a tier.
func tier(name string, share float64, groups string) strategy.Tier {
	t := strategy.Tier{Name: name, Share: share, Why: "because of " + name}
	for _, g := range strings.Split(groups, ",") {
		t.Groups = append(t.Groups, candidates(g))
	}
	return t
}

func effective(change func(*strategy.Policy)) *policy.Effective {
	var none *policy.Set
	e := none.Effective(cart, "east", "", policy.Settings{})
	if change != nil {
		change(&e.Policy)
	}
	return e
}

// told gives the instances as "id tier share%", with a star where it could be picked, and the first
// rule where there is one.
func told(resp *adminv1.ExplainResponse) string {
	var out []string
	for _, i := range resp.GetInstances() {
		w := fmt.Sprintf("%s %d %.4g%%", i.GetInstance().GetId(), i.GetTier(), i.GetShare())
		if i.GetPicked() {
			w += "*"
		}
		if i.GetReason() != "" {
			w += " " + i.GetReason()
		}
		out = append(out, w)
	}
	return strings.Join(out, ", ")
}

func TestInstances(t *testing.T) {
	left := []strategy.LeftOut{{Candidate: candidates("s1")[0], Reason: strategy.ByStrategy, Detail: "never"}}
	for _, c := range []struct {
		name    string
		d       strategy.Decision
		weights map[string]uint32
		want    string
	}{
		{name: "one tier serves", d: strategy.Decision{Strategy: strategy.LocalFirst, Left: left, Tiers: []strategy.Tier{tier("local", 100, "e1 e2"), tier("*", 0, "w1")}},
			want: "e1 0 50%*, e2 0 50%*, w1 1 0%, s1 -1 0% STRATEGY"},
		{name: "a spill", d: strategy.Decision{Strategy: strategy.LocalFirst, Tiers: []strategy.Tier{tier("local", 60, "e1 e2:2"), tier("*", 40, "w1")}},
			want: "e1 0 20%*, e2 0 40%*, w1 1 40%*"},
		{name: "the nearest take the calls", d: strategy.Decision{Strategy: strategy.LocalFirst, Tiers: []strategy.Tier{tier("local", 100, "e1, e2 e3")}},
			want: "e1 0 100%*, e2 0 0%, e3 0 0%"},
		{name: "weights of instances and clusters", weights: map[string]uint32{"west": 3}, d: strategy.Decision{Strategy: strategy.Any, Tiers: []strategy.Tier{tier("any", 100, "e1:2 s1:1 w1:1")}},
			want: "e1 0 33.33%*, s1 0 16.67%*, w1 0 50%*"},
		{name: "a cluster of no weight", weights: map[string]uint32{"west": 0}, d: strategy.Decision{Strategy: strategy.Any, Tiers: []strategy.Tier{tier("any", 100, "e1 w1")}},
			want: "e1 0 100%*, w1 0 0%"},
		{name: "the nearest have no weight", weights: map[string]uint32{"east": 0}, d: strategy.Decision{Strategy: strategy.Any, Tiers: []strategy.Tier{tier("any", 100, "e1, w1")}},
			want: "e1 0 0%, w1 0 100%*"},
		{name: "a broadcast", d: strategy.Decision{Strategy: strategy.Broadcast, Tiers: []strategy.Tier{
			tier("local", 100, "e1 e2"), tier("west", 100, "w1"), {Name: "south", Failure: strategy.Unreachable}}},
			want: "e1 0 50%*, e2 0 50%*, w1 1 100%*"},
		{name: "nobody", d: strategy.Decision{Strategy: strategy.LocalOnly, Unavailable: strategy.NoLocalInstances, Left: left, Tiers: []strategy.Tier{{Name: "local"}}},
			want: "s1 -1 0% STRATEGY"},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp := Response(Facts{Name: cart, From: "east", Decision: c.d, PoliciesKnown: true,
				Policy: effective(func(p *strategy.Policy) { p.Weights = c.weights })})
			if got := told(resp); got != c.want {
				t.Errorf("have %s\nwant %s", got, c.want)
			}
			if len(resp.GetTiers()) != len(c.d.Tiers) {
				t.Errorf("%d tiers, want %d", len(resp.GetTiers()), len(c.d.Tiers))
			}
		})
	}
}

func TestResponseHasEveryField(t *testing.T) {
	local := tier("local", 100, "e1:7")
	local.Available, local.Known = 1, 2
	gone := candidates("w1")[0]
	gone.Dial, gone.Undialable = "", "nobody"
	resp := Response(Facts{
		Name: cart, From: "east", ComputedBy: "agent east/n1, from its own view", PoliciesKnown: true,
		Decision: strategy.Decision{
			Strategy: strategy.LocalFirst, Tiers: []strategy.Tier{local}, RecoverAll: true, Rule: "recover-all in local",
			Left: []strategy.LeftOut{{Candidate: gone, Reason: strategy.Undialable, Detail: "nobody"}},
		},
		Policy: effective(func(p *strategy.Policy) { p.Weights = map[string]uint32{"east": 2} }),
		Clusters: []*adminv1.ClusterStatus{
			{Cluster: "east", State: catalogv1.ClusterState_SYNCED, Age: durationpb.New(time.Second)},
			{Cluster: "west", State: catalogv1.ClusterState_STALE},
		},
		Notes: []string{"a note"},
	})
	settings := len(resp.GetSettings())
	resp.Settings = nil
	e1, w1 := candidates("e1:7")[0].Instance.Proto(), candidates("w1")[0].Instance.Proto()
	want := &adminv1.ExplainResponse{
		Namespace: "default", Service: "cart", From: "east", Strategy: "local-first", StrategySource: "default",
		ComputedBy: "agent east/n1, from its own view", RecoverAll: true, Rule: "recover-all in local", Notes: []string{"a note"},
		Tiers: []*adminv1.Tier{{Name: "local", Share: 100, Available: 1, Known: 2, Why: "because of local"}},
		Instances: []*adminv1.ExplainedInstance{
			{Instance: e1, ClusterState: catalogv1.ClusterState_SYNCED, Age: durationpb.New(time.Second), Picked: true, Dial: "e1:1", Weight: 14, Share: 100},
			{Instance: w1, ClusterState: catalogv1.ClusterState_STALE, Tier: -1, Reason: "UNDIALABLE", Detail: "nobody", Weight: 1},
		},
		Clusters: resp.GetClusters(),
	}
	if !proto.Equal(resp, want) {
		t.Errorf("have %v\nwant %v", resp, want)
	}
	if settings == 0 || settings != len(effective(nil).Settings()) {
		t.Errorf("%d settings", settings)
	}
}

func TestWhereTheStrategyComesFrom(t *testing.T) {
	kind := strategy.LocalOnly
	set := policy.NewSet([]*policy.Policy{{Target: policy.Target{Name: cart}, Settings: policy.Settings{Strategy: &kind}}}, nil, 1)
	byPolicy := set.Effective(cart, "east", "", policy.Settings{})
	for _, c := range []struct {
		name     string
		f        Facts
		strategy strategy.Kind
		source   string
	}{
		{"nobody said", Facts{Policy: effective(nil)}, strategy.LocalFirst, "default"},
		{"a policy", Facts{Policy: byPolicy}, strategy.LocalOnly, "policy service default/cart"},
		{"the question", Facts{Policy: byPolicy, Override: strategy.Any}, strategy.Any, "request"},
		{"a pin that the policy excludes", Facts{Policy: byPolicy, Pin: "west"}, strategy.ExternalOnly, "request"},
		{"a pin that it does not", Facts{Policy: byPolicy, Pin: "east"}, strategy.LocalOnly, "policy service default/cart"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.f.Decision.Strategy = c.strategy
			resp := Response(c.f)
			if resp.GetStrategySource() != c.source {
				t.Errorf("from %q, want %q", resp.GetStrategySource(), c.source)
			}
			for _, s := range resp.GetSettings() {
				if s.GetKey() == "strategy" && (s.GetSource() != c.source || s.GetValue() != string(c.strategy)) {
					t.Errorf("the setting is %v", s)
				}
			}
		})
	}
}

func TestNotes(t *testing.T) {
	denied := effective(func(p *strategy.Policy) { p.OverrideDenied = true })
	denied.Sources["override"] = "policy namespace default"
	for _, c := range []struct {
		name string
		f    Facts
		want string
	}{
		{"nothing to say", Facts{Policy: denied, PoliciesKnown: true}, ""},
		{"a denied override", Facts{Policy: denied, PoliciesKnown: true, Override: strategy.Any}, "policy namespace default denies overrides"},
		{"nothing is overridden", Facts{Policy: denied, PoliciesKnown: true, Override: denied.Strategy}, ""},
		{"nothing but the cluster", Facts{Policy: denied, PoliciesKnown: true, Override: denied.Strategy, Pin: "west"}, "PERMISSION_DENIED"},
		{"a denied pin", Facts{Policy: denied, PoliciesKnown: true, Pin: "west"}, "PERMISSION_DENIED"},
		{"no policies yet", Facts{Policy: effective(nil)}, "not read yet"},
		{"a policy that is not applied", Facts{Policy: effective(nil), PoliciesKnown: true, Supposed: &policy.Policy{Target: policy.Target{Name: cart}}}, "as if the policy of service default/cart were applied"},
		{"degraded", Facts{Policy: effective(nil), PoliciesKnown: true, Decision: strategy.Decision{Degraded: true}}, "EXPIRED"},
		{"the caller's own", Facts{Policy: effective(nil), PoliciesKnown: true, Notes: []string{"more"}}, "more"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := strings.Join(Response(c.f).GetNotes(), "; ")
			if !strings.Contains(got, c.want) || (c.want == "") != (got == "") {
				t.Errorf("notes are %q, want %q", got, c.want)
			}
		})
	}
}

func TestTrim(t *testing.T) {
	var d strategy.Decision
	var list []string
	for n := range 500 {
		list = append(list, fmt.Sprintf("e%d", n))
	}
	d.Tiers = []strategy.Tier{tier("local", 100, strings.Join(list, " "))}
	whole := Response(Facts{Name: cart, Policy: effective(nil), PoliciesKnown: true, Decision: d})
	size := proto.Size(whole)
	Trim(whole, size)
	if len(whole.GetInstances()) != 500 || len(whole.GetNotes()) != 0 {
		t.Errorf("what fits was cut to %d", len(whole.GetInstances()))
	}
	Trim(whole, size/2)
	n := len(whole.GetInstances())
	if proto.Size(whole) > size/2 || n < 200 || n > 250 {
		t.Errorf("%d of 500 instances and %d bytes are left of %d", n, proto.Size(whole), size)
	}
	if want := fmt.Sprintf("%d more instances are not listed", 500-n); len(whole.GetNotes()) != 1 || !strings.HasPrefix(whole.GetNotes()[0], want) {
		t.Errorf("notes are %q", whole.GetNotes())
	}
}

// Random draws all alike, and explain must not promise otherwise.
func TestRandomTakesAllAlike(t *testing.T) {
	p := strategy.Defaults()
	p.Weights = map[string]uint32{"west": 9, "north": 0}
	for _, c := range []struct {
		balancer strategy.Balancer
		cluster  string
		weight   uint32
		want     float64
	}{
		{strategy.LeastRequest, "west", 4, 36}, {strategy.Random, "west", 4, 1}, {strategy.Random, "east", 1, 1}, {strategy.Random, "north", 4, 0},
	} {
		p.Balancer = c.balancer
		i := &catalog.Instance{ID: catalog.ID{Cluster: c.cluster}, Weight: c.weight}
		if got := weight(&strategy.Candidate{Instance: i}, &p); got != c.want {
			t.Errorf("%s in %s: %v, want %v", c.balancer, c.cluster, got, c.want)
		}
	}
}
