package config

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/strategy"
)

// The sample of the design.
const samplePolicy = `service: cart            # or namespace: shop, or cluster: east (defaults)
from: [east]             # optional: which clusters' callers
strategy: local-first
override: allow          # per-call headers may choose another strategy or pin a cluster; deny forbids it
externalOrder: [[west], ["*"]]
failover: {threshold: 50, minAvailable: 1, mode: spill}
balancer: least-request
locality: prefer
weights: {west: 1}
failback: {hold: 0s, ramp: 0s}
recoverAll: true
retry: {attempts: 3, idempotent: [PUT]}
broadcast: {minSuccess: all, targetTimeout: 10s, maxParallel: 16}
staleTTL: 24h
warmUp: 0s
hashHeader: x-user
`

// parsed gives the one policy in a text.
func parsed(t *testing.T, text string) *policy.Policy {
	t.Helper()
	list, err := ParsePolicies("farcall.yaml", []byte(text))
	if err != nil || len(list) != 1 {
		t.Fatalf("%s\nreads as %d policies, %v", text, len(list), err)
	}
	p, err := policy.FromProto(list[0])
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPolicySample(t *testing.T) {
	p := parsed(t, samplePolicy)
	if p.String() != "service default/cart from east" {
		t.Errorf("it is %s", p)
	}
	want := strategy.Defaults()
	want.ExternalOrder = [][]string{{"west"}, {"*"}}
	want.Failover.Threshold = 50
	want.Weights = map[string]uint32{"west": 1}
	want.Retry.Idempotent = []string{"PUT"}
	want.HashHeader = "x-user"
	if got := p.Settings.Over(strategy.Policy{}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if stated := p.Settings.Stated(); len(stated) != len(policy.Keys()) {
		t.Errorf("only %v are stated", stated)
	}
}

func TestSpellingsOfATarget(t *testing.T) {
	for text, want := range map[string]string{
		"service: cart":                    "service default/cart",
		"service: cart\nnamespace: shop":   "service shop/cart",
		"service: cart.shop":               "service shop/cart",
		"service: shop/cart":               "service shop/cart",
		"service: shop/cart.v2":            "service shop/cart.v2",
		"namespace: shop":                  "namespace shop",
		"namespace: shop\nfrom: [b, a]":    "namespace shop from a,b",
		"cluster: east":                    "cluster east",
		"service: \"1\"\nnamespace: \"2\"": "service 2/1",
	} {
		if p := parsed(t, text+"\nstrategy: remote\n"); p.String() != want || *p.Settings.Strategy != strategy.ExternalFirst {
			t.Errorf("%s is %s, want %s", text, p, want)
		}
	}
}

func TestBlocksTakeTheirDefaults(t *testing.T) {
	p := parsed(t, "cluster: east\nfailover: {}\nfailback: {}\nretry: {}\nbroadcast: {}\nweights: {}\n")
	if d := strategy.Defaults(); !reflect.DeepEqual(p.Settings.Failover, &d.Failover) || !reflect.DeepEqual(p.Settings.Retry, &d.Retry) ||
		!reflect.DeepEqual(p.Settings.Broadcast, &d.Broadcast) || *p.Settings.Failback != d.Failback || p.Settings.Weights == nil {
		t.Errorf("got %+v", p.Settings)
	}
	if p := parsed(t, "cluster: east\nbroadcast: {minSuccess: 2}\nretry: {idempotent: []}\n"); p.Settings.Broadcast.MinSuccess != 2 || p.Settings.Retry.Attempts != 3 {
		t.Errorf("got %+v, %+v", p.Settings.Broadcast, p.Settings.Retry)
	}
}

func TestSeveralPoliciesInAFile(t *testing.T) {
	list, err := ParsePolicies("farcall.yaml", []byte("# a comment\n---\nservice: cart\nstrategy: any\n---\n---\n# nothing\n---\nnamespace: shop\nfrom: [east]\nrecoverAll: false\n---\nnamespace: shop\nfrom: [west]\nstaleTTL: 0s\n"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range list {
		p, err := policy.FromProto(m)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p.String()+" "+strings.Join(p.Settings.Stated(), ","))
	}
	if s := strings.Join(got, "; "); s != "service default/cart strategy; namespace shop from east recoverAll; namespace shop from west staleTTL" {
		t.Errorf("got %s", s)
	}
}

// policyMistakes are files of policies that are wrong, and every word of what is said about them.
var policyMistakes = []struct {
	name, text string
	want       []string
}{
	{"an empty file", "", []string{"farcall.yaml:1: is empty: want at least one policy"}},
	{"empty documents", "---\n---\n# nothing\n", []string{"farcall.yaml:1: is empty: want at least one policy"}},
	{"a list", "- service: cart\n", []string{"farcall.yaml:1: want a mapping of keys to values, got a list"}},
	{"no YAML in the second", "service: cart\nstrategy: any\n---\nservice: [\n", []string{"farcall.yaml:4: not YAML: did not find expected node content"}},
	{"nothing stated", "service: cart\n", []string{
		"farcall.yaml:1: states nothing: want at least one of strategy, override, externalOrder, failover, balancer, locality, weights, failback, recoverAll, retry, broadcast, staleTTL, warmUp, hashHeader"}},
	{"no target", "strategy: any\n", []string{"farcall.yaml:1: names nobody: want a service, a namespace or a cluster"}},
	{"a misspelt target is not also a missing one", "servce: cart\nstrategy: any\n", []string{`farcall.yaml:1: servce: unknown key; did you mean "service"?`}},
	{"two targets", "service: cart\ncluster: east\nstrategy: any\n", []string{"farcall.yaml:1: names a cluster beside a service or a namespace: want one of them"}},
	{"two namespaces", "service: cart.shop\nnamespace: shop\nstrategy: any\n", []string{
		`farcall.yaml:2: namespace: stands beside service "cart.shop", which names a namespace itself: for the service "cart.shop" of namespace "shop" write service: shop/cart.shop`}},
	{"a service of three", "service: a.b.c\nstrategy: any\n", []string{`farcall.yaml:1: service: service "a.b.c" has more than one dot: write app-id or app-id.namespace`}},
	{"an empty service", "service: ''\nnamespace: shop\nstrategy: any\n", []string{"farcall.yaml:1: service: is empty: want the app-id"}},
	{"everything at once", `service: cart
from:
  - east
  - West
strategy: Local-First
override: no
externalOrder:
  - [west]
  - [us, west]
failover:
  treshold: 50
  mode: spil
threshold: 3
balancer: ring-hash
weights: {west: 0, us: -1}
failback: {hold: -1s}
retry: {attempts: 11, idempotent: [put]}
broadcast: {minSuccess: none, targetTimeout: 0s}
staleTTL: 24
`, []string{
		`farcall.yaml:4: from[1]: cluster name "West": want lower-case letters, digits and inner dashes (RFC 1123 label)`,
		`farcall.yaml:5: strategy: unknown strategy "Local-First": did you mean "local-first"? Accepted are local-first, external-first, broadcast, local-only, external-only, any; also active-active (any), none (any), local (local-first), remote (external-first)`,
		`farcall.yaml:6: override: unknown word "no": want "allow" or "deny"`,
		`farcall.yaml:9: externalOrder[1][1]: "west" is named in externalOrder[0][0] already`,
		`farcall.yaml:11: failover.treshold: unknown key; did you mean "threshold"?`,
		`farcall.yaml:12: failover.mode: unknown word "spil": want "spill" or "strict"; did you mean "spill"?`,
		`farcall.yaml:13: threshold: unknown key here; it goes inside "failover"`,
		`farcall.yaml:14: balancer: ring-hash needs hashHeader beside it: the name of the request header whose value decides, for example hashHeader: x-user`,
		`farcall.yaml:15: weights.us: want a whole number that is not negative, got a number`,
		`farcall.yaml:16: failback.hold: -1s is negative: want 0s or more`,
		`farcall.yaml:17: retry.attempts: 11 is above 10`,
		`farcall.yaml:17: retry.idempotent[0]: unknown word "put": want "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT" or "TRACE"; did you mean "PUT"?`,
		`farcall.yaml:18: broadcast.minSuccess: want "all" or a number of targets from 1, got text`,
		`farcall.yaml:18: broadcast.targetTimeout: 0s is no time to answer in: want more, for example 10s`,
		`farcall.yaml:19: staleTTL: want a duration such as 500ms or 60s, got a number`,
	}},
	{"values that are none", "service: cart\nexternalOrder: []\nstrategy:\nbroadcast: {minSuccess: 0}\nfailover: {threshold: 130}\nweights: {West: 1}\n", []string{
		`farcall.yaml:2: externalOrder: has no pool: want at least one, for example [["*"]]`,
		"farcall.yaml:3: strategy: has no value: write one, or leave the key out",
		`farcall.yaml:4: broadcast.minSuccess: want "all" or a number of targets from 1, got a number`,
		"farcall.yaml:5: failover.threshold: 130 is not in 0 to 100: it is the percentage of the known instances that must be available",
		`farcall.yaml:6: weights: cluster name "West": want lower-case letters, digits and inner dashes (RFC 1123 label)`,
	}},
	{"mistakes in two documents", "service: cart\nstrategy: x\n---\n\nservice: order\noverride: x\n", []string{
		`farcall.yaml:2: strategy: unknown strategy "x": did you mean "any"? Accepted are local-first, external-first, broadcast, local-only, external-only, any; also active-active (any), none (any), local (local-first), remote (external-first)`,
		`farcall.yaml:6: override: unknown word "x": want "allow" or "deny"`,
	}},
	{"one policy twice", "service: cart\nstrategy: any\n---\nservice: default/cart\nrecoverAll: true\n", []string{
		"farcall.yaml:4: service default/cart: service default/cart stands in line 1 already: of one target and one cluster there is one policy"}},
	{"callers twice", "service: cart\nfrom: [a, b]\nstrategy: any\n---\nservice: cart\nfrom: [b, c]\nrecoverAll: true\n", []string{
		"farcall.yaml:5: service default/cart from b,c: service default/cart from a,b stands in line 1 already: of one target and one cluster there is one policy"}},
	{"from on a cluster", "cluster: east\nfrom: [west]\nstrategy: any\n", []string{
		"farcall.yaml:2: from: is not for the policy of a cluster, which is for the callers in that cluster and no others"}},
}

func TestMistakesInPoliciesAreToldAllAtOnce(t *testing.T) {
	for _, c := range policyMistakes {
		t.Run(c.name, func(t *testing.T) {
			list, err := ParsePolicies("farcall.yaml", []byte(c.text))
			if err == nil {
				t.Fatalf("%d policies are taken", len(list))
			}
			if got := err.Error(); got != strings.Join(c.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", got, strings.Join(c.want, "\n"))
			}
		})
	}
}

const agentWithPolicy = okAgent + `policy:
  strategy: remote
  externalOrder: [[west]]
  failover: {threshold: 50}
  broadcast: {minSuccess: 2}
  weights: {west: 2}
`

func TestTheAgentsOwnPolicy(t *testing.T) {
	a, err := ParseAgent("farcall.yaml", []byte(agentWithPolicy))
	if err != nil {
		t.Fatal(err)
	}
	got := a.Base()
	if want := []string{"strategy", "externalOrder", "failover", "weights", "broadcast"}; !reflect.DeepEqual(got.Stated(), want) {
		t.Errorf("it states %v, want %v", got.Stated(), want)
	}
	p := got.Over(strategy.Defaults())
	if p.Strategy != strategy.ExternalFirst || p.Failover != (strategy.Failover{Threshold: 50, MinAvailable: 1, Mode: strategy.Spill}) ||
		p.Broadcast != (strategy.BroadcastTerms{MinSuccess: 2, TargetTimeout: 10 * time.Second, MaxParallel: 16}) {
		t.Errorf("got %+v", p)
	}
	again, err := ParseAgent("effective", a.Effective())
	if err != nil || !reflect.DeepEqual(again, a) {
		t.Errorf("%s\nreads back as %+v, %v", a.Effective(), again, err)
	}
	if text := string(a.Effective()); !strings.Contains(text, "strategy: external-first") || !strings.Contains(text, "minAvailable: 1") {
		t.Errorf("what takes effect is not shown:\n%s", text)
	}

	short, err := ParseAgent("farcall.yaml", []byte(okAgent+"strategy: local\n"))
	if err != nil {
		t.Fatal(err)
	}
	if s := short.Base(); len(s.Stated()) != 1 || *s.Strategy != strategy.LocalFirst {
		t.Errorf("the shorthand gives %+v", s)
	}
	if s := (&Agent{}).Base(); !s.Empty() {
		t.Errorf("nothing stated gives %+v", s)
	}
	if s := (&Agent{Strategy: "nonsense"}).Base(); !s.Empty() {
		t.Errorf("what is not valid gives %+v", s)
	}
}

func TestMistakesInTheAgentsOwnPolicy(t *testing.T) {
	_, err := ParseAgent("farcall.yaml", []byte(okAgent+`strategy: local
policy:
  strategy: any
  override: deny
  from: [east]
  failover: {threshold: 101}
  externalOrder: [[a, a]]
  balancer: ring-hash
  staleTTL: -1s
`))
	want := []string{
		"farcall.yaml:6: policy.strategy: stands beside strategy in line 4: want one of them",
		`farcall.yaml:7: policy.override: unknown key; the keys here are balancer, broadcast, externalOrder, failback, failover, hashHeader, locality, recoverAll, retry, staleTTL, strategy, warmUp, weights`,
		`farcall.yaml:8: policy.from: unknown key; the keys here are balancer, broadcast, externalOrder, failback, failover, hashHeader, locality, recoverAll, retry, staleTTL, strategy, warmUp, weights`,
		"farcall.yaml:9: policy.failover.threshold: 101 is not in 0 to 100: it is the percentage of the known instances that must be available",
		`farcall.yaml:10: policy.externalOrder[0][1]: "a" is named in externalOrder[0][0] already`,
		"farcall.yaml:11: policy.balancer: ring-hash needs hashHeader beside it: the name of the request header whose value decides, for example hashHeader: x-user",
		"farcall.yaml:12: policy.staleTTL: -1s is negative: want 0s or more",
	}
	if err == nil || err.Error() != strings.Join(want, "\n") {
		t.Errorf("got\n%v\nwant\n%s", err, strings.Join(want, "\n"))
	}
}

func FuzzParsePolicies(f *testing.F) {
	f.Add([]byte(samplePolicy))
	for _, c := range policyMistakes {
		f.Add([]byte(c.text))
	}
	f.Add([]byte("cluster: east\nweights: &a {b: 1}\n---\nservice: a/b.c\nexternalOrder: *a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := ParsePolicies("f.yaml", data)
		if err != nil {
			oneLineEach(t, err)
			return
		}
		for _, m := range list {
			again, err := policy.FromProto(m)
			if err != nil || !proto.Equal(again.Proto(), m) {
				t.Errorf("%q\nis read as\n%v, and that as %v, %v", data, m, again, err)
			}
		}
	})
}
