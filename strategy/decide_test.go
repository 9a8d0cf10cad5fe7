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
	all := instances("e1 e2 s1 w1 w2:UNHEALTHY")
	for _, c := range []struct {
		name      string
		strategy  Kind
		inherited bool
		pin       string
		instances []Candidate
		want      string // golden, or the reason of the error
		followed  Kind
	}{
		{name: "an external cluster", strategy: LocalFirst, pin: "west", want: "w1:HEALTHY", followed: LocalFirst},
		{name: "the own cluster", strategy: ExternalFirst, pin: "east", want: "e1:HEALTHY e2:HEALTHY", followed: ExternalFirst},
		{name: "any", strategy: Any, pin: "south", want: "s1:HEALTHY", followed: Any},
		{name: "broadcast to one", strategy: Broadcast, pin: "west", want: "w1:HEALTHY", followed: Broadcast},
		{name: "external-only abroad", strategy: ExternalOnly, pin: "west", want: "w1:HEALTHY", followed: ExternalOnly},
		{name: "local-only at home", strategy: LocalOnly, pin: "east", want: "e1:HEALTHY e2:HEALTHY", followed: LocalOnly},
		{name: "recover-all inside", strategy: LocalFirst, pin: "west", instances: instances("e1 w1:UNHEALTHY"), want: "recover-all w1:UNHEALTHY", followed: LocalFirst},
		{name: "none there", strategy: LocalFirst, pin: "west", instances: instances("e1"), want: "NO_EXTERNAL_INSTANCES", followed: LocalFirst},
		{name: "no such cluster", strategy: LocalFirst, pin: "wset", want: "NO_SUCH_CLUSTER"},
		{name: "a variant in case", strategy: LocalFirst, pin: "West", want: "NO_SUCH_CLUSTER"},
		{name: "local-only abroad", strategy: LocalOnly, pin: "west", want: "CONTRADICTION"},
		{name: "external-only at home", strategy: ExternalOnly, pin: "east", want: "CONTRADICTION"},
		{name: "the default is no contradiction", pin: "west", want: "w1:HEALTHY", followed: LocalFirst},
		{name: "inherited local-only abroad", strategy: LocalOnly, inherited: true, pin: "west", want: "w1:HEALTHY", followed: ExternalOnly},
		{name: "inherited external-only at home", strategy: ExternalOnly, inherited: true, pin: "east", want: "e1:HEALTHY e2:HEALTHY", followed: LocalOnly},
		{name: "inherited broadcast", strategy: Broadcast, inherited: true, pin: "west", want: "w1:HEALTHY", followed: Broadcast},
		{name: "inherited, no such cluster", strategy: LocalOnly, inherited: true, pin: "wset", want: "NO_SUCH_CLUSTER"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.instances == nil {
				c.instances = all
			}
			d, err := Decide(Input{Service: cart, Caller: Caller{Cluster: "east"}, Strategy: c.strategy, Inherited: c.inherited,
				Pin: c.pin, Instances: c.instances, Clusters: synced("east", "west", "south"), ClustersKnown: true})
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
			}
		})
	}
	_, err := Decide(Input{Caller: Caller{Cluster: "east"}, Pin: "wset", Clusters: synced("east", "west", "south"), ClustersKnown: true})
	if err == nil || !strings.Contains(err.Error(), `did you mean "west"? Its clusters are east, south, west`) {
		t.Errorf("a pin with a typing error: %v", err)
	}
}

func TestAStrategyThatWasNotParsedIsAnError(t *testing.T) {
	for _, k := range []Kind{"Local-First", "none", "nonsense"} {
		_, err := Decide(Input{Strategy: k})
		var bad *InputError
		if !errors.As(err, &bad) || bad.Reason != BadStrategy {
			t.Errorf("%q: %v", k, err)
		}
	}
	d, err := Decide(Input{Service: cart, Caller: Caller{Cluster: "east"}, Instances: instances("e1 w1")})
	if err != nil || d.Strategy != LocalFirst || golden(d) != "e1:HEALTHY | w1:HEALTHY" {
		t.Errorf("no strategy: %s under %q, %v", golden(d), d.Strategy, err)
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
	decide := func(k Kind, c Caller, pin string) string {
		t.Helper()
		c.Cluster = "east"
		d, err := Decide(Input{Service: cart, Caller: c, Strategy: k, Pin: pin, Instances: list, Clusters: synced("east", "west"), ClustersKnown: true})
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(golden(d), ":HEALTHY", "")
	}
	here := Caller{Node: "n1", Locality: catalog.Locality{Region: "eu", Zone: "eu-1"}}
	for _, c := range []struct {
		name   string
		kind   Kind
		caller Caller
		pin    string
		want   string
	}{
		{"node, zone, region, rest", LocalFirst, here, "", "e6 e7, e4 e5, e3, e1 e2 e8 | w1 w2"},
		{"a pool of others is not ordered", ExternalOnly, here, "", "w1 w2"},
		{"a broadcast orders at home", Broadcast, here, "", "e6 e7, e4 e5, e3, e1 e2 e8 + w1 w2"},
		{"any is one pool", Any, here, "", "e1 e2 e3 e4 e5 e6 e7 e8 w1 w2"},
		{"pinned home", LocalFirst, here, "east", "e6 e7, e4 e5, e3, e1 e2 e8"},
		{"pinned abroad", LocalFirst, here, "west", "w1 w2"},
		{"a caller that knows nothing of itself", LocalOnly, Caller{}, "", "e1 e2 e3 e4 e5 e6 e7 e8"},
		{"a caller with a zone alone", LocalOnly, Caller{Locality: catalog.Locality{Zone: "eu-1"}}, "", "e2 e4 e5, e1 e3 e6 e7 e8"},
	} {
		if got := decide(c.kind, c.caller, c.pin); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestTheOwnRegionComesFirstAmongOthers(t *testing.T) {
	clusters := map[string]ClusterInfo{}
	var list []Candidate
	for _, c := range []struct{ name, region string }{
		{"eu-a", "eu"}, {"eu-b", "eu"}, {"eu-c", "eu"}, {"nowhere", ""}, {"us-a", "us"},
	} {
		clusters[c.name] = ClusterInfo{State: catalog.StateSynced, Locality: catalog.Locality{Region: c.region}}
		list = append(list, Candidate{Instance: &catalog.Instance{ID: catalog.ID{Cluster: c.name, Name: cart, Instance: "1"}, Weight: 1}})
	}
	names := func(k Kind, region string) []string {
		d, err := Decide(Input{Service: cart, Caller: Caller{Cluster: "eu-a", Locality: catalog.Locality{Region: region}},
			Strategy: k, Instances: list, Clusters: clusters, ClustersKnown: true})
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, tier := range d.Tiers {
			slices.Sort(tier.Clusters)
			out = append(out, fmt.Sprint(tier.Name, tier.Clusters))
		}
		return out
	}
	for _, c := range []struct {
		kind   Kind
		region string
		want   []string
	}{
		{LocalFirst, "eu", []string{"local[eu-a]", "* (region eu)[eu-b eu-c]", "*[nowhere us-a]"}},
		{ExternalFirst, "eu", []string{"* (region eu)[eu-b eu-c]", "*[nowhere us-a]", "local[eu-a]"}},
		{ExternalOnly, "us", []string{"* (region us)[us-a]", "*[eu-b eu-c nowhere]"}},
		{LocalFirst, "", []string{"local[eu-a]", "*[eu-b eu-c nowhere us-a]"}},
		{Any, "eu", []string{"any[eu-a eu-b eu-c nowhere us-a]"}},
	} {
		if got := names(c.kind, c.region); !slices.Equal(got, c.want) {
			t.Errorf("%s from region %q: %q, want %q", c.kind, c.region, got, c.want)
		}
	}
	b := names(Broadcast, "eu")
	if b[0] != "local[eu-a]" || !strings.HasPrefix(b[1], "eu-") || !strings.HasPrefix(b[2], "eu-") {
		t.Errorf("targets of a broadcast: %q, want local, then its region", b)
	}
}

// Equal clusters have an order, but not the same at every agent.
func TestEqualClustersAreDrawnByAgent(t *testing.T) {
	clusters := synced("east", "c1", "c2", "c3", "c4")
	first := map[string]int{}
	const agents = 1000
	for n := range agents {
		in := Input{Service: cart, Caller: Caller{Cluster: "east", Node: fmt.Sprint("node-", n)}, Strategy: ExternalOnly,
			Clusters: clusters, ClustersKnown: true}
		d, err := Decide(in)
		if err != nil {
			t.Fatal(err)
		}
		again, _ := Decide(in)
		if !slices.Equal(d.Tiers[0].Clusters, again.Tiers[0].Clusters) {
			t.Fatal("one agent gave two orders")
		}
		first[d.Tiers[0].Clusters[0]]++
	}
	for _, name := range []string{"c1", "c2", "c3", "c4"} {
		// 250 expected, 14 the standard deviation.
		if n := first[name]; n < 180 || n > 320 {
			t.Errorf("%s comes first at %d of %d agents", name, n, agents)
		}
	}
}

func TestDecideLeavesItsInputAlone(t *testing.T) {
	list := instances("w1 e2 e1")
	before := slices.Clone(list)
	if _, err := Decide(Input{Service: cart, Caller: Caller{Cluster: "east"}, Instances: list, Clusters: synced("east", "west")}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(list, before) {
		t.Error("the input was reordered")
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000, 100_000} {
		for _, k := range []Kind{LocalFirst, LocalOnly, Any} {
			var list []Candidate
			for i := range n {
				list = append(list, Candidate{Instance: &catalog.Instance{
					ID:     catalog.ID{Cluster: []string{"east", "south", "west"}[i*3/n], Name: cart, Instance: fmt.Sprintf("%06d", i)},
					Weight: 1,
				}})
			}
			in := Input{Service: cart, Caller: Caller{Cluster: "east", Node: "n1"}, Strategy: k, Instances: list,
				Clusters: synced("east", "south", "west"), ClustersKnown: true}
			b.Run(fmt.Sprintf("%s/%d", k, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if d, err := Decide(in); err != nil || len(d.Tiers) == 0 {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
