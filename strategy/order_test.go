package strategy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/catalog"
)

// continents is a federation of seven clusters with one instance each; the caller is in eu-a.
func continents(k Kind, region string) Input {
	in := Input{
		Service: cart, Caller: Caller{Cluster: "eu-a", Node: "n1", Locality: catalog.Locality{Region: region}}, Policy: Defaults(),
		Clusters: map[string]ClusterInfo{}, ClustersKnown: true, PoliciesKnown: true, Now: noon,
	}
	in.Policy.Strategy = k
	for _, c := range []struct {
		name, region, zone string
		distance           int
		labels             map[string]string
	}{
		{"eu-a", "eu", "eu-a", 0, nil},
		{"eu-b", "eu", "eu-b", 1, map[string]string{"tier": "gold"}},
		{"eu-c", "eu", "eu-c", 3, nil},
		{"nowhere", "", "", 2, map[string]string{"tier": "gold"}},
		{"us-1", "us", "us-1", 5, nil},
		{"us-2", "us", "us-2", 5, map[string]string{"tier": "gold", "gpu": "yes"}},
		{"asia", "asia", "asia-1", 2, nil},
	} {
		in.Clusters[c.name] = ClusterInfo{State: catalog.StateSynced, Distance: c.distance, Labels: c.labels,
			Locality: catalog.Locality{Region: c.region, Zone: c.zone}}
		in.Instances = append(in.Instances, Candidate{Instance: &catalog.Instance{
			ID: catalog.ID{Cluster: c.name, Name: cart, Instance: "1"}, Weight: 1}})
	}
	return in
}

func TestExternalOrder(t *testing.T) {
	for _, c := range []struct {
		name   string
		kind   Kind
		region string
		order  [][]string
		want   []string
		left   string // clusters left out for ORDER
	}{
		{name: "nothing stated: the region, then by distance", kind: LocalFirst, region: "eu",
			want: []string{"local[eu-a]", "* (region eu)[eu-b eu-c]", "* (distance 2)[asia nowhere]", "* (distance 5)[us-1 us-2]"}},
		{name: "external-first", kind: ExternalFirst, region: "us",
			want: []string{"* (region us)[us-1 us-2]", "* (distance 1)[eu-b]", "* (distance 2)[asia nowhere]", "* (distance 3)[eu-c]", "local[eu-a]"}},
		{name: "a caller without a region", kind: ExternalOnly,
			want: []string{"* (distance 1)[eu-b]", "* (distance 2)[asia nowhere]", "* (distance 3)[eu-c]", "* (distance 5)[us-1 us-2]"}},
		{name: "names", kind: LocalFirst, region: "eu", order: [][]string{{"us-2"}, {"eu-b", "us-1"}},
			want: []string{"local[eu-a]", "us-2[us-2]", "eu-b, us-1[eu-b us-1]"}, left: "asia eu-c nowhere"},
		{name: "one after two by name, then the rest", kind: LocalFirst, region: "eu", order: [][]string{{"eu-b"}, {"us-1", "us-2"}, {"*"}},
			want: []string{"local[eu-a]", "eu-b[eu-b]", "us-1, us-2[us-1 us-2]", "* (region eu)[eu-c]", "*[asia nowhere]"}},
		{name: "the rest first", kind: LocalFirst, region: "eu", order: [][]string{{"*"}, {"us-1", "eu-b"}},
			want: []string{"local[eu-a]", "* (region eu)[eu-c]", "* (distance 2)[asia nowhere]", "* (distance 5)[us-2]", "us-1, eu-b[eu-b us-1]"}},
		{name: "* with others is one pool", kind: ExternalOnly, region: "eu", order: [][]string{{"us-1", "*"}},
			want: []string{"us-1, *[asia eu-b eu-c nowhere us-1 us-2]"}},
		{name: "* twice: the first takes all", kind: ExternalOnly, order: [][]string{{"us-1", "*"}, {"*"}},
			want: []string{"us-1, *[asia eu-b eu-c nowhere us-1 us-2]"}},
		{name: "the region as a property", kind: ExternalOnly, region: "eu", order: [][]string{{"region=us"}, {"region=eu"}},
			want: []string{"region=us[us-1 us-2]", "region=eu[eu-b eu-c]"}, left: "asia nowhere"},
		{name: "a zone and a label", kind: ExternalOnly, region: "eu", order: [][]string{{"zone=asia-1", "gpu=yes"}, {"tier=gold"}},
			want: []string{"zone=asia-1, gpu=yes[asia us-2]", "tier=gold[eu-b nowhere]"}, left: "eu-c us-1"},
		{name: "a name beats a property that comes before it, and a property beats *", kind: ExternalOnly, region: "eu",
			order: [][]string{{"*", "eu-c"}, {"region=us"}, {"us-1"}},
			want:  []string{"*, eu-c[asia eu-b eu-c nowhere]", "region=us[us-2]", "us-1[us-1]"}},
		{name: "the own cluster is ignored", kind: LocalFirst, region: "eu", order: [][]string{{"eu-a"}, {"eu-a", "us-1"}},
			want: []string{"local[eu-a]", "us-1[us-1]"}, left: "asia eu-b eu-c nowhere us-2"},
		{name: "* beside the own cluster is alone", kind: ExternalOnly, order: [][]string{{"us-1", "us-2"}, {"eu-a", "*"}},
			want: []string{"us-1, us-2[us-1 us-2]", "* (distance 1)[eu-b]", "* (distance 2)[asia nowhere]", "* (distance 3)[eu-c]"}},
		{name: "clusters that nobody has", kind: LocalFirst, order: [][]string{{"mars"}, {"us-1", "mars"}, {"region="}, {"tier=silver"}},
			want: []string{"local[eu-a]", "us-1, mars[us-1]"}, left: "asia eu-b eu-c nowhere us-2"},
		{name: "any", kind: Any, region: "eu", order: [][]string{{"us-1"}, {"eu-b"}},
			want: []string{"any[eu-a eu-b us-1]"}, left: "asia eu-c nowhere us-2"},
		{name: "any of all", kind: Any, region: "eu",
			want: []string{"any[asia eu-a eu-b eu-c nowhere us-1 us-2]"}},
		{name: "a broadcast", kind: Broadcast, region: "eu", order: [][]string{{"us-1"}, {"eu-b"}, {"us-2"}},
			want: []string{"local[eu-a]", "us-1[us-1]", "eu-b[eu-b]", "us-2[us-2]"}, left: "asia eu-c nowhere"},
		{name: "local-only has no use for it", kind: LocalOnly, region: "eu", order: [][]string{{"us-1"}},
			want: []string{"local[eu-a]"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := continents(c.kind, c.region)
			in.Policy.ExternalOrder = c.order
			d := mustDecide(t, in)
			if got := tierNames(d); !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			var out []string
			for _, l := range d.Left {
				if l.Reason == ByOrder {
					out = append(out, l.Instance.Cluster)
				}
			}
			if got := strings.Join(out, " "); got != c.left {
				t.Errorf("left out for ORDER: %q, want %q", got, c.left)
			}
		})
	}
}

// Without any distances "*" has no more to say than before there were any.
func TestEqualDistancesAreNotNamed(t *testing.T) {
	in := continents(ExternalOnly, "")
	for name, info := range in.Clusters {
		info.Distance = 7
		in.Clusters[name] = info
	}
	if got := tierNames(mustDecide(t, in)); !slices.Equal(got, []string{"*[asia eu-b eu-c nowhere us-1 us-2]"}) {
		t.Errorf("%q", got)
	}
}

func TestABroadcastGoesLocalThenNearest(t *testing.T) {
	d := mustDecide(t, continents(Broadcast, "eu"))
	var got []string
	for _, tier := range d.Tiers {
		got = append(got, tier.Name)
	}
	slices.Sort(got[1:3])
	slices.Sort(got[3:5])
	slices.Sort(got[5:7])
	if want := []string{"local", "eu-b", "eu-c", "asia", "nowhere", "us-1", "us-2"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestNobodyInTheOrderSaysSo(t *testing.T) {
	in := scene(ExternalOnly, "e1 s1 s2 w1:UNHEALTHY", "east", "south", "west", "north")
	in.Policy.ExternalOrder, in.Policy.RecoverAll = [][]string{{"west"}, {"north"}}, false
	d := mustDecide(t, in)
	want := "default/cart has no instance to call in any other cluster that the policy allows (1 UNHEALTHY, 2 ORDER); the policy forbids recover-all"
	if d.Unavailable != NoExternalInstances || d.Detail != want {
		t.Errorf("%s: %s\nwant %s", d.Unavailable, d.Detail, want)
	}
	if got := fmt.Sprint(left(d)); got != "[e1 STRATEGY s1 ORDER s2 ORDER w1 UNHEALTHY]" {
		t.Errorf("left out: %s", got)
	}
}

// Equal clusters have an order, but not the same at every agent.
func TestEqualClustersAreDrawnByAgent(t *testing.T) {
	in := scene(ExternalOnly, "", "east", "c1", "c2", "c3", "c4")
	first := map[string]int{}
	const agents = 1000
	for n := range agents {
		in.Caller.Node = fmt.Sprint("node-", n)
		d := mustDecide(t, in)
		if again := mustDecide(t, in); !slices.Equal(d.Tiers[0].Clusters, again.Tiers[0].Clusters) {
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

// In the caller's region all are equal, whatever their distance.
func TestDistanceCountsOutsideTheRegionOnly(t *testing.T) {
	first := map[string]int{}
	in := continents(ExternalOnly, "eu")
	for n := range 100 {
		in.Caller.Node = fmt.Sprint("node-", n)
		first[mustDecide(t, in).Tiers[0].Clusters[0]]++
	}
	if first["eu-b"] < 20 || first["eu-c"] < 20 {
		t.Errorf("who comes first at 100 agents: %v", first)
	}
}
