package strategy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/catalog"
)

func TestPin(t *testing.T) {
	const everywhere = "e1 e2 s1 w1 w2:UNHEALTHY"
	for _, c := range []struct {
		name             string
		stated, override Kind // by the policy, and by the call
		pin              string
		instances        string
		change           func(*Input)
		want             string // golden, or the reason of the error
		followed         Kind
	}{
		{name: "an external cluster", override: LocalFirst, pin: "west", want: "w1", followed: LocalFirst},
		{name: "the own cluster", override: ExternalFirst, pin: "east", want: "e1 e2", followed: ExternalFirst},
		{name: "any", override: Any, pin: "south", want: "s1", followed: Any},
		{name: "broadcast to one", override: Broadcast, pin: "west", want: "w1", followed: Broadcast},
		{name: "external-only abroad", override: ExternalOnly, pin: "west", want: "w1", followed: ExternalOnly},
		{name: "local-only at home", override: LocalOnly, pin: "east", want: "e1 e2", followed: LocalOnly},
		{name: "recover-all inside", pin: "west", instances: "e1 w1:UNHEALTHY", want: "recover-all w1:UNHEALTHY", followed: LocalFirst},
		{name: "none there", pin: "west", instances: "e1", want: "NO_EXTERNAL_INSTANCES", followed: LocalFirst},
		{name: "no such cluster", pin: "wset", want: "NO_SUCH_CLUSTER"},
		{name: "a variant in case", pin: "West", want: "NO_SUCH_CLUSTER"},
		{name: "local-only abroad", override: LocalOnly, pin: "west", want: "CONTRADICTION"},
		{name: "external-only at home", override: ExternalOnly, pin: "east", want: "CONTRADICTION"},
		{name: "a policy is no contradiction", stated: LocalOnly, override: LocalFirst, pin: "west", want: "w1", followed: LocalFirst},
		{name: "policy local-only abroad", stated: LocalOnly, pin: "west", want: "w1", followed: ExternalOnly},
		{name: "policy external-only at home", stated: ExternalOnly, pin: "east", want: "e1 e2", followed: LocalOnly},
		{name: "policy broadcast", stated: Broadcast, pin: "west", want: "w1", followed: Broadcast},
		{name: "policy, no such cluster", stated: LocalOnly, pin: "wset", want: "NO_SUCH_CLUSTER"},
		{name: "a cluster that externalOrder leaves out", pin: "west", want: "w1", followed: LocalFirst,
			change: func(in *Input) { in.Policy.ExternalOrder = [][]string{{"south"}} }},
		{name: "a cordoned cluster", pin: "west", want: "NO_EXTERNAL_INSTANCES", change: cordon("west"), followed: LocalFirst},
		{name: "the own cluster, cordoned", pin: "east", want: "NO_LOCAL_INSTANCES", change: cordon("east"), followed: LocalFirst},
		{name: "a cluster of weight 0", pin: "west", want: "NO_EXTERNAL_INSTANCES", followed: LocalFirst,
			change: func(in *Input) { in.Policy.Weights = map[string]uint32{"west": 0} }},
		{name: "below every threshold", pin: "west", want: "w1", followed: LocalFirst, change: threshold(100, Strict)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.instances == "" {
				c.instances = everywhere
			}
			in := scene(c.stated, c.instances, "east", "west", "south")
			in.Override, in.Pin = c.override, c.pin
			if c.change != nil {
				c.change(&in)
			}
			d, state, err := Decide(in)
			var bad *InputError
			switch {
			case errors.As(err, &bad):
				if string(bad.Reason) != c.want {
					t.Errorf("%s (%v), want %s", bad.Reason, err, c.want)
				}
			case err != nil:
				t.Fatal(err)
			case golden(d) != c.want || d.Strategy != c.followed:
				t.Errorf("%s under %s, want %s under %s", golden(d), d.Strategy, c.want, c.followed)
			case !strings.HasSuffix(d.Rule, ", pinned"):
				t.Errorf("the rule %q does not say that the call is pinned", d.Rule)
			case state.tiers != nil:
				t.Error("a pinned decision remembers something")
			}
		})
	}
	in := scene("", "e1", "east", "west", "south")
	in.Pin = "wset"
	if _, _, err := Decide(in); err == nil || !strings.Contains(err.Error(), `did you mean "west"? Its clusters are east, south, west`) {
		t.Errorf("a pin with a typing error: %v", err)
	}
}

func TestAStrategyThatWasNotParsedIsAnError(t *testing.T) {
	for _, k := range []Kind{"Local-First", "none", "nonsense"} {
		for _, in := range []Input{{Policy: Policy{Strategy: k}}, {Override: k}} {
			_, _, err := Decide(in)
			var bad *InputError
			if !errors.As(err, &bad) || bad.Reason != BadStrategy {
				t.Errorf("%q: %v", k, err)
			}
		}
	}
	d := mustDecide(t, scene("", "e1 w1"))
	if d.Strategy != LocalFirst || golden(d) != "e1 | w1" {
		t.Errorf("no strategy: %s under %q", golden(d), d.Strategy)
	}
}

func TestACallOverridesThePolicy(t *testing.T) {
	in := scene(LocalOnly, "e1 w1")
	in.Override = ExternalFirst
	if d := mustDecide(t, in); d.Strategy != ExternalFirst || golden(d) != "w1 | e1" {
		t.Errorf("%s under %s", golden(d), d.Strategy)
	}
}

// Nobody has read yet that calls may leave the cluster.
func TestCallsStayLocalUntilPoliciesAreKnown(t *testing.T) {
	for _, c := range []struct {
		stated, override Kind
		pin, instances   string
		want             string
	}{
		{instances: "e1 w1", want: "e1"},
		{stated: ExternalOnly, instances: "e1 w1", want: "NOT_SYNCED"},
		{override: ExternalOnly, instances: "e1 w1", want: "NOT_SYNCED"},
		{stated: Broadcast, instances: "e1 w1", want: "e1"},
		{override: ExternalFirst, instances: "e1 w1", want: "e1"},
		{override: Any, instances: "e1:UNHEALTHY w1", want: "recover-all e1:UNHEALTHY"},
		{pin: "east", instances: "e1 w1", want: "e1"},
		{instances: "w1", want: "NOT_SYNCED"},
		{instances: "e1:DRAINING w1", want: "NOT_SYNCED"},
		{instances: "", want: "NOT_SYNCED"},
		// A pin is a promise to the caller: what is pinned elsewhere is not served at home.
		{pin: "west", instances: "e1 w1", want: "NOT_SYNCED"},
		{stated: ExternalOnly, pin: "west", instances: "e1 w1", want: "NOT_SYNCED"},
	} {
		in := scene(c.stated, c.instances)
		in.Override, in.Pin, in.PoliciesKnown = c.override, c.pin, false
		d := mustDecide(t, in)
		if golden(d) != c.want || d.Strategy != LocalOnly || !strings.HasSuffix(d.Rule, "policies are not known yet") {
			t.Errorf("%+v: %s under %s (%s)", c, golden(d), d.Strategy, d.Rule)
		}
		if d.Unavailable != "" && !strings.Contains(d.Detail, "policies are not known yet") {
			t.Errorf("%+v: the detail %q does not say why", c, d.Detail)
		}
		for _, l := range d.Left {
			if l.Instance.Cluster == "west" && c.pin != "east" && (l.Reason != ByStrategy || !strings.Contains(l.Detail, "policies are not known yet")) {
				t.Errorf("%+v: %s is left out for %s: %s", c, l.Instance.Instance, l.Reason, l.Detail)
			}
		}
	}
}

func TestNearestFirstInTheOwnCluster(t *testing.T) {
	at := func(id, node, region, zone string) Candidate {
		c := instances(id)[0]
		c.Instance.Node, c.Instance.Locality = node, catalog.Locality{Region: region, Zone: zone}
		return c
	}
	list := []Candidate{
		at("e1", "n9", "", ""), at("e2", "n8", "us", "eu-1"), at("e3", "n7", "eu", "eu-2"), at("e4", "n6", "eu", "eu-1"),
		at("e5", "n5", "", "eu-1"), at("e6", "n1", "", ""), at("e7", "n1", "us", "us-1"), at("e8", "", "", ""),
		at("w1", "n1", "eu", "eu-1"), at("w2", "n2", "us", "us-1"),
	}
	here := Caller{Cluster: "east", Node: "n1", Locality: catalog.Locality{Region: "eu", Zone: "eu-1"}}
	inRegion := Caller{Cluster: "east", Locality: catalog.Locality{Region: "eu"}}
	nowhere := Caller{Cluster: "east"}
	for _, c := range []struct {
		name   string
		kind   Kind
		caller Caller
		mode   LocalityMode
		pin    string
		want   string
	}{
		{"node, zone, region, rest", LocalFirst, here, LocalityPrefer, "", "e6 e7, e4 e5, e3, e1 e2 e8 | w1 w2"},
		{"prefer where nothing is said", LocalOnly, here, "", "", "e6 e7, e4 e5, e3, e1 e2 e8"},
		{"a pool of others is not ordered", ExternalOnly, here, LocalityPrefer, "", "w1 w2"},
		{"a broadcast orders at home", Broadcast, here, LocalityPrefer, "", "e6 e7, e4 e5, e3, e1 e2 e8 + w1 w2"},
		{"any is one pool", Any, here, LocalityPrefer, "", "e1 e2 e3 e4 e5 e6 e7 e8 w1 w2"},
		{"pinned home", LocalFirst, here, LocalityPrefer, "east", "e6 e7, e4 e5, e3, e1 e2 e8"},
		{"pinned abroad", LocalFirst, here, LocalityPrefer, "west", "w1 w2"},
		{"a caller that knows nothing of itself", LocalOnly, nowhere, LocalityPrefer, "", "e1 e2 e3 e4 e5 e6 e7 e8"},
		{"a caller with a zone alone", LocalOnly, Caller{Cluster: "east", Locality: catalog.Locality{Zone: "eu-1"}}, LocalityPrefer, "", "e2 e4 e5, e1 e3 e6 e7 e8"},
		{"none", LocalFirst, here, LocalityNone, "", "e1 e2 e3 e4 e5 e6 e7 e8 | w1 w2"},
		{"strict: the zone", LocalFirst, here, LocalityStrict, "", "e6 e7, e4 e5 | w1 w2"},
		{"strict without a zone: the region", LocalOnly, inRegion, LocalityStrict, "", "e3 e4"},
		{"strict without either: nothing to be strict about", LocalOnly, nowhere, LocalityStrict, "", "e1 e2 e3 e4 e5 e6 e7 e8"},
		{"strict is about the own cluster alone", ExternalOnly, here, LocalityStrict, "", "w1 w2"},
		{"strict is not for any", Any, here, LocalityStrict, "", "e1 e2 e3 e4 e5 e6 e7 e8 w1 w2"},
	} {
		in := scene(c.kind, "")
		in.Caller, in.Policy.Locality, in.Pin, in.Instances = c.caller, c.mode, c.pin, list
		if got := golden(mustDecide(t, in)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// Instances that a strict locality does not use are neither available nor known: the tier is
// judged by those that it has for this caller, and moves on where it has none.
func TestStrictLocalityMovesOn(t *testing.T) {
	in := scene(LocalFirst, "e1:UNHEALTHY e2 e3:UNHEALTHY w1")
	in.Caller.Locality.Zone, in.Policy.Locality, in.Caller.Node = "z1", LocalityStrict, ""
	in.Instances[0].Instance.Locality.Zone = "z1"
	in.Instances[1].Instance.Locality.Zone = "z2"
	d := mustDecide(t, in)
	if got := d.Tiers[0]; shares(d) != "* 100%" || got.Available != 0 || got.Known != 1 {
		t.Errorf("%s, %d of %d available at home", shares(d), got.Available, got.Known)
	}
	if got := fmt.Sprint(left(d)); got != "[e1 UNHEALTHY e2 LOCALITY e3 UNHEALTHY]" {
		t.Errorf("left out: %s", got)
	}
	in.Policy.Strategy = LocalOnly
	if d := mustDecide(t, in); golden(d) != "recover-all e1:UNHEALTHY" {
		t.Errorf("recover-all: %s", golden(d))
	}
	in.Instances = in.Instances[1:]
	if d := mustDecide(t, in); d.Unavailable != NoLocalInstances || !strings.Contains(d.Detail, "(1 UNHEALTHY, 1 LOCALITY)") {
		t.Errorf("nobody near: %s %s", golden(d), d.Detail)
	}
}

func TestDecideLeavesItsInputAlone(t *testing.T) {
	in := scene(LocalFirst, "w1 e2 e1")
	before := slices.Clone(in.Instances)
	mustDecide(t, in)
	if !slices.Equal(in.Instances, before) {
		t.Error("the input was reordered")
	}
}

func BenchmarkDecide(b *testing.B) {
	held := func(in *Input) { in.Policy.Failback = Failback{Hold: DefaultFailback, Ramp: DefaultFailback} }
	for _, n := range []int{10, 1000, 10_000, 100_000} {
		for _, c := range []struct {
			name   string
			kind   Kind
			change func(*Input)
		}{
			{"local-first", LocalFirst, nil}, {"local-only", LocalOnly, nil}, {"any", Any, nil}, {"local-first-failback", LocalFirst, held},
		} {
			in := scene(c.kind, "", "east", "south", "west")
			for i := range n {
				in.Instances = append(in.Instances, Candidate{Instance: &catalog.Instance{
					ID:     catalog.ID{Cluster: []string{"east", "south", "west"}[i*3/n], Name: cart, Instance: fmt.Sprintf("%06d", i)},
					Weight: 1,
				}})
			}
			if c.change != nil {
				c.change(&in)
			}
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if d, _, err := Decide(in); err != nil || len(d.Tiers) == 0 {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
