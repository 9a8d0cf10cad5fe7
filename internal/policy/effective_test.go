package policy

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/strategy"
)

var cart = catalog.Name{Namespace: "shop", Service: "cart"}

// Two settings that state every key, each in another way than the other and the default.
var (
	these = Settings{
		Strategy: new(strategy.LocalOnly), OverrideDenied: new(true), ExternalOrder: [][]string{{"west"}},
		Failover: &strategy.Failover{Threshold: 50, MinAvailable: 1, Mode: strategy.Spill}, Balancer: new(strategy.RoundRobin),
		Locality: new(strategy.LocalityNone), Weights: map[string]uint32{"west": 2}, Failback: &strategy.Failback{Hold: time.Second},
		RecoverAll: new(false), Retry: &strategy.Retry{Attempts: 2}, Broadcast: &strategy.BroadcastTerms{MinSuccess: 1, TargetTimeout: 1, MaxParallel: 1},
		StaleTTL: new(time.Hour), WarmUp: new(time.Second), HashHeader: new("x-user"),
	}
	those = Settings{
		Strategy: new(strategy.Any), OverrideDenied: new(false), ExternalOrder: [][]string{{"us"}},
		Failover: &strategy.Failover{Threshold: 70, MinAvailable: 2, Mode: strategy.Strict}, Balancer: new(strategy.Random),
		Locality: new(strategy.LocalityStrict), Weights: map[string]uint32{"us": 3}, Failback: &strategy.Failback{Ramp: time.Second},
		RecoverAll: new(true), Retry: &strategy.Retry{Attempts: 5}, Broadcast: &strategy.BroadcastTerms{MinSuccess: 2, TargetTimeout: 2, MaxParallel: 2},
		StaleTTL: new(time.Minute), WarmUp: new(time.Minute), HashHeader: new("x-tenant"),
	}
)

// only gives one key of settings.
func only(k string, s Settings) Settings {
	from, to := reflect.ValueOf(s), reflect.ValueOf(&Settings{}).Elem()
	to.Field(slices.Index(Keys(), k)).Set(from.Field(slices.Index(Keys(), k)))
	return to.Interface().(Settings)
}

// The levels, from the most specific to the least. An annotation states a strategy only.
var levels = []string{
	"policy service shop/cart from east,north",
	"annotation in cluster east",
	"policy service shop/cart",
	"policy namespace shop from east",
	"policy namespace shop",
	"policy cluster east",
	"agent's configuration",
	"default",
}

// at gives the policy of a level, or nil where it is none.
func at(level string, s Settings) *Policy {
	switch level {
	case levels[0]:
		return &Policy{Target: Target{Name: cart}, From: []string{"east", "north"}, Settings: s}
	case levels[2]:
		return &Policy{Target: Target{Name: cart}, Settings: s}
	case levels[3]:
		return &Policy{Target: Target{Name: catalog.Name{Namespace: "shop"}}, From: []string{"east"}, Settings: s}
	case levels[4]:
		return &Policy{Target: Target{Name: catalog.Name{Namespace: "shop"}}, Settings: s}
	case levels[5]:
		return &Policy{Target: Target{Cluster: "east"}, Settings: s}
	}
	return nil
}

// strangers are policies that are none of this caller's and this service's business.
func strangers(s Settings) []*Policy {
	return []*Policy{
		{Target: Target{Name: cart}, From: []string{"west"}, Settings: s},
		{Target: Target{Name: catalog.Name{Namespace: "default", Service: "cart"}}, Settings: s},
		{Target: Target{Name: catalog.Name{Namespace: "shop", Service: "order"}}, From: []string{"east"}, Settings: s},
		{Target: Target{Name: catalog.Name{Namespace: "shop"}}, From: []string{"west"}, Settings: s},
		{Target: Target{Name: catalog.Name{Namespace: "default"}}, Settings: s},
		{Target: Target{Cluster: "west"}, Settings: s},
	}
}

// Each key is taken from the most specific level that states it, whatever the less specific
// ones state, and whoever it does not concern.
func TestPrecedenceOfEachKey(t *testing.T) {
	defaults := strategy.Defaults()
	for _, k := range Keys() {
		for i, level := range levels {
			if strings.HasPrefix(level, "annotation") && k != "strategy" {
				continue
			}
			this, that := only(k, these), only(k, those)
			policies, base, annotation := strangers(that), Settings{}, strategy.Kind("")
			want := this.Over(defaults)
			for j, other := range levels[i:] {
				stated := that
				if j == 0 {
					stated = this
				}
				switch p := at(other, stated); {
				case p != nil:
					policies = append(policies, p)
				case strings.HasPrefix(other, "annotation") && k == "strategy":
					annotation = *stated.Strategy
				case other == "agent's configuration":
					base = stated
				case other == "default" && j == 0:
					want = defaults
				}
			}
			if want.Failover.Threshold > 0 && k != "failback" {
				want.Failback = strategy.Failback{Hold: 30 * time.Second, Ramp: 30 * time.Second}
			}
			got := NewSet(policies, nil, 1).Effective(cart, "east", annotation, base)
			if !reflect.DeepEqual(got.Policy, want) {
				t.Errorf("%s stated by %s: got %+v, want %+v", k, level, got.Policy, want)
			}
			for key, source := range got.Sources {
				if key == k && source != level || key != k && source != "default" {
					t.Errorf("%s stated by %s: %s is said to be by %s", k, level, key, source)
				}
			}
		}
	}
}

// What a policy leaves out comes from the next less specific one, key by key.
func TestKeysMix(t *testing.T) {
	s := NewSet([]*Policy{
		at(levels[0], only("balancer", these)),
		at(levels[2], Settings{Strategy: new(strategy.LocalOnly), Balancer: new(strategy.Weighted)}),
		at(levels[4], Settings{Failover: &strategy.Failover{Threshold: 50, MinAvailable: 1, Mode: strategy.Spill}, Strategy: new(strategy.Any)}),
		at(levels[5], only("weights", these)),
	}, nil, 9)
	e := s.Effective(cart, "east", strategy.ExternalOnly, Settings{HashHeader: new("x-user"), Weights: map[string]uint32{}})
	want := []Setting{
		{"strategy", "external-only", "annotation in cluster east"},
		{"override", "allow", "default"},
		{"externalOrder", `[["*"]]`, "default"},
		{"failover", "{threshold: 50, minAvailable: 1, mode: spill}", "policy namespace shop"},
		{"balancer", "round-robin", "policy service shop/cart from east,north"},
		{"locality", "prefer", "default"},
		{"weights", "{west: 2}", "policy cluster east"},
		{"failback", "{hold: 30s, ramp: 30s}", "default"},
		{"recoverAll", "true", "default"},
		{"retry", "{attempts: 3, idempotent: []}", "default"},
		{"broadcast", "{minSuccess: all, targetTimeout: 10s, maxParallel: 16}", "default"},
		{"staleTTL", "24h", "default"},
		{"warmUp", "0s", "default"},
		{"hashHeader", "x-user", "agent's configuration"},
	}
	if got := e.Settings(); !slices.Equal(got, want) {
		t.Errorf("got\n%v, want\n%v", got, want)
	}
	e = s.Effective(cart, "west", "", Settings{})
	if e.Strategy != strategy.LocalOnly || e.Sources["strategy"] != "policy service shop/cart" || e.Balancer != strategy.Weighted || e.Weights != nil {
		t.Errorf("for callers in another cluster: %+v", e)
	}
}

func TestFailbackIsSlowWhereAThresholdIsSetAndNobodySaysOtherwise(t *testing.T) {
	set := func(failback *strategy.Failback, threshold uint32) strategy.Failback {
		base := Settings{Failback: failback, Failover: &strategy.Failover{Threshold: threshold, MinAvailable: 1, Mode: strategy.Spill}}
		var none *Set
		return none.Effective(cart, "east", "", base).Failback
	}
	if got := set(nil, 0); got != (strategy.Failback{}) {
		t.Errorf("without a threshold: %v", got)
	}
	if got := set(nil, 1); got != (strategy.Failback{Hold: 30 * time.Second, Ramp: 30 * time.Second}) {
		t.Errorf("with a threshold: %v", got)
	}
	if got := set(&strategy.Failback{}, 50); got != (strategy.Failback{}) {
		t.Errorf("with a threshold, and none wanted: %v", got)
	}
}

// What two people wrote at the same time in spite of the check is not left to chance.
func TestOfOverlappingPoliciesTheLaterOneCounts(t *testing.T) {
	early := &Policy{Target: Target{Name: cart}, From: []string{"east"}, Settings: these, Revision: 4}
	late := &Policy{Target: Target{Name: cart}, From: []string{"east", "west"}, Settings: those, Revision: 5}
	for _, list := range [][]*Policy{{early, late}, {late, early}} {
		s := NewSet(list, nil, 5)
		if e := s.Effective(cart, "east", "", Settings{}); e.Sources["strategy"] != "policy service shop/cart from east,west" {
			t.Errorf("the strategy is by %s", e.Sources["strategy"])
		}
		if o, ok := s.Overlap(late); !ok || o != early {
			t.Errorf("the later one overlaps with %v", o)
		}
	}
	s := NewSet([]*Policy{early}, nil, 5)
	for name, p := range map[string]*Policy{
		"itself":          {Target: Target{Name: cart}, From: []string{"east"}},
		"another cluster": {Target: Target{Name: cart}, From: []string{"west"}},
		"all clusters":    {Target: Target{Name: cart}},
		"another service": {Target: Target{Name: catalog.Name{Namespace: "shop", Service: "order"}}, From: []string{"east", "west"}},
		"the namespace":   {Target: Target{Name: catalog.Name{Namespace: "shop"}}, From: []string{"east", "west"}},
	} {
		if o, ok := s.Overlap(p); ok {
			t.Errorf("%s: overlaps with %v", name, o)
		}
	}
}

func TestSetsAreNotChanged(t *testing.T) {
	a, b := at(levels[2], these), at(levels[5], these)
	s := NewSet([]*Policy{a, b}, []*Cordon{{Cluster: "us"}}, 3)
	other := at(levels[2], those)
	with, without := s.With(other), s.Without(a.ID())
	for name, c := range map[string]struct {
		set  *Set
		want []*Policy
	}{
		"before":  {s, []*Policy{b, a}},
		"with":    {with, []*Policy{b, other}},
		"without": {without, []*Policy{b}},
		"a new one": {
			without.With(at(levels[3], these)).With(a),
			[]*Policy{b, without.With(at(levels[3], these)).Policy("namespace/shop/east"), a},
		},
	} {
		if got := c.set.Policies(); !reflect.DeepEqual(got, c.want) || len(c.set.Cordons()) != 1 || c.set.Revision() != 3 {
			t.Errorf("%s: got %v, revision %d, want %v", name, got, c.set.Revision(), c.want)
		}
	}
	if s.Policy(a.ID()) != a || s.Policy("service/shop/order/*") != nil || s.Policy("nonsense") != nil {
		t.Error("policies are not found by their ID")
	}
	var none *Set
	if none.With(a).Policy(a.ID()) != a || none.Without(a.ID()).Revision() != 0 || none.Policies() != nil || none.Policy(a.ID()) != nil {
		t.Error("a set of nothing")
	}
	if _, ok := none.Overlap(a); ok {
		t.Error("a set of nothing overlaps")
	}
}

func TestClustersThatNobodyHasHeardOfAreWarnedOf(t *testing.T) {
	p := &Policy{
		Target: Target{Name: cart}, From: []string{"east", "esat"},
		Settings: Settings{ExternalOrder: [][]string{{"west", "region=eu"}, {"mars", "*"}}, Weights: map[string]uint32{"west": 1, "wset": 2}},
	}
	var s *Set
	got := s.Warnings(p, []string{"east", "west"})
	want := []string{
		`from[1]: nobody has heard of a cluster "esat"; did you mean "east"?`,
		`externalOrder[1][0]: nobody has heard of a cluster "mars"`,
		`weights.wset: nobody has heard of a cluster "wset"; did you mean "west"?`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := s.Warnings(&Policy{Target: Target{Cluster: "mars"}}, nil); len(got) != 1 || !strings.HasPrefix(got[0], "cluster: ") {
		t.Errorf("of a cluster's policy: %q", got)
	}
}

func TestTexts(t *testing.T) {
	p := those.Over(strategy.Defaults())
	p.ExternalOrder = [][]string{{"us", "region=eu"}, {"*"}}
	p.Retry.Idempotent = []string{"PUT", "DELETE"}
	e := &Effective{Policy: p}
	got := map[string]string{}
	for _, s := range e.Settings() {
		got[s.Key] = s.Value
	}
	for k, want := range map[string]string{
		"externalOrder": `[[us, region=eu], ["*"]]`,
		"weights":       "{us: 3}",
		"retry":         "{attempts: 5, idempotent: [PUT, DELETE]}",
		"broadcast":     "{minSuccess: 2, targetTimeout: 2ns, maxParallel: 2}",
		"staleTTL":      "1m",
		"hashHeader":    "x-tenant",
		"recoverAll":    "true",
	} {
		if got[k] != want {
			t.Errorf("%s is %s, want %s", k, got[k], want)
		}
	}
	for d, want := range map[time.Duration]string{90 * time.Minute: "1h30m", 10 * time.Second: "10s", 0: "0s", time.Hour + time.Second: "1h0m1s", 20 * time.Minute: "20m"} {
		if got := durationText(d); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
}

func BenchmarkEffective(b *testing.B) {
	s := NewSet([]*Policy{at(levels[0], only("balancer", these)), at(levels[2], these), at(levels[5], those)}, nil, 1)
	b.ReportAllocs()
	for b.Loop() {
		s.Effective(cart, "east", "", Settings{})
	}
}
