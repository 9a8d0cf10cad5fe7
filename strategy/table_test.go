package strategy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/catalog"
)

var cart = catalog.Name{Namespace: "default", Service: "cart"}

// The clusters of the tests: an instance's cluster is told by its first letter.
var letters = map[byte]string{'e': "east", 'w': "west", 's': "south"}

// instances reads "e1:HEALTHY w1:DRAINING", or "e1" for a healthy one. "x" behind the health makes it
// ejected, "?" undialable, "0" gives it weight 0.
func instances(s string) []Candidate {
	var out []Candidate
	for word := range strings.FieldsSeq(s) {
		id, health, _ := strings.Cut(word, ":")
		i := &catalog.Instance{
			ID:     catalog.ID{Cluster: letters[id[0]], Name: cart, Instance: id},
			Weight: 1,
			Health: catalog.Healthy,
		}
		c := Candidate{Instance: i, Dial: "10.0.0.1:50002"}
		c.Ejected = strings.HasSuffix(health, "x")
		if strings.HasSuffix(health, "?") {
			c.Dial, c.Undialable = "", "no agent on its node and no relay address"
		}
		if strings.HasSuffix(health, "0") {
			i.Weight = 0
		}
		if h, err := catalog.ParseHealth(strings.TrimRight(health, "x?0")); err == nil {
			i.Health = h
		}
		out = append(out, c)
	}
	return out
}

func synced(names ...string) map[string]ClusterInfo {
	m := map[string]ClusterInfo{}
	for _, n := range names {
		m[n] = ClusterInfo{State: catalog.StateSynced}
	}
	return m
}

func in(state catalog.ClusterState) ClusterInfo { return ClusterInfo{State: state} }

// unreachable is in for a cluster that was measured unreachable.
func unreachable(state catalog.ClusterState) ClusterInfo {
	return ClusterInfo{State: state, Unreachable: true}
}

// golden prints a decision on one line: the tiers separated by "|" (a broadcast's by "+"), the
// groups within by ",", then why nobody is there.
func golden(d Decision) string {
	var tiers []string
	for _, t := range d.Tiers {
		var groups []string
		for _, g := range t.Groups {
			var list []string
			for _, c := range g {
				list = append(list, c.Instance.Instance+":"+c.Instance.Health.String())
			}
			groups = append(groups, strings.Join(list, " "))
		}
		s := strings.Join(groups, ", ")
		if t.Failure != "" {
			s = t.Name + "!" + string(t.Failure)
		}
		if s == "" {
			s = "-"
		}
		tiers = append(tiers, s)
	}
	sep := " | "
	if d.Strategy == Broadcast {
		sep = " + "
	}
	out := strings.Join(tiers, sep)
	if d.RecoverAll {
		out = "recover-all " + out
	}
	if d.Degraded {
		out += " (degraded)"
	}
	if d.Unavailable != "" {
		out = string(d.Unavailable)
	}
	return out
}

// The columns of the decision table, in its order, and any, which the text defines.
var columns = [...]Kind{LocalFirst, ExternalFirst, Broadcast, LocalOnly, ExternalOnly, Any}

// TestDecisionTable is the table of the strategies' contract with threshold 0, row by row and column by
// column. What stands behind the first "|" is where retries go.
func TestDecisionTable(t *testing.T) {
	type row struct {
		state     string
		instances string
		known     bool
		clusters  map[string]ClusterInfo
		want      [len(columns)]string
	}
	both := synced("east", "west")
	for _, r := range []row{
		{state: "L ok, E ok", instances: "e1 e2 w1 w2", clusters: both, want: [...]string{
			"e1:HEALTHY e2:HEALTHY | w1:HEALTHY w2:HEALTHY",
			"w1:HEALTHY w2:HEALTHY | e1:HEALTHY e2:HEALTHY",
			"e1:HEALTHY e2:HEALTHY + w1:HEALTHY w2:HEALTHY",
			"e1:HEALTHY e2:HEALTHY",
			"w1:HEALTHY w2:HEALTHY",
			"e1:HEALTHY e2:HEALTHY w1:HEALTHY w2:HEALTHY",
		}},
		{state: "L 30 % healthy, threshold 0: any available one serves",
			instances: "e0 e1 e2 e3:UNHEALTHY e4:UNHEALTHY e5:UNHEALTHY e6:UNHEALTHY e7:UNHEALTHY e8:UNHEALTHY e9:UNHEALTHY w1",
			clusters:  both, want: [...]string{
				"e0:HEALTHY e1:HEALTHY e2:HEALTHY | w1:HEALTHY",
				"w1:HEALTHY | e0:HEALTHY e1:HEALTHY e2:HEALTHY",
				"e0:HEALTHY e1:HEALTHY e2:HEALTHY + w1:HEALTHY",
				"e0:HEALTHY e1:HEALTHY e2:HEALTHY",
				"w1:HEALTHY",
				"e0:HEALTHY e1:HEALTHY e2:HEALTHY w1:HEALTHY",
			}},
		{state: "L u, E ok", instances: "e1:UNHEALTHY e2:UNHEALTHY w1 w2:UNHEALTHY", clusters: both, want: [...]string{
			"- | w1:HEALTHY",
			"w1:HEALTHY | -",
			"w1:HEALTHY",
			"recover-all e1:UNHEALTHY e2:UNHEALTHY",
			"w1:HEALTHY",
			"w1:HEALTHY",
		}},
		{state: "L ok, E u", instances: "e1 w1:UNHEALTHY w2:UNHEALTHY", clusters: both, want: [...]string{
			"e1:HEALTHY | -",
			"- | e1:HEALTHY",
			"e1:HEALTHY",
			"e1:HEALTHY",
			"recover-all w1:UNHEALTHY w2:UNHEALTHY",
			"e1:HEALTHY",
		}},
		{state: "L u, E u", instances: "e1:UNHEALTHY w1:UNHEALTHY", clusters: both, want: [...]string{
			"recover-all e1:UNHEALTHY | -",
			"recover-all w1:UNHEALTHY | -",
			"recover-all e1:UNHEALTHY + w1:UNHEALTHY",
			"recover-all e1:UNHEALTHY",
			"recover-all w1:UNHEALTHY",
			"recover-all e1:UNHEALTHY w1:UNHEALTHY",
		}},
		{state: "L ∅ confirmed, E ok", instances: "w1", known: true, clusters: both, want: [...]string{
			"- | w1:HEALTHY",
			"w1:HEALTHY | -",
			"w1:HEALTHY",
			"NO_LOCAL_INSTANCES",
			"w1:HEALTHY",
			"w1:HEALTHY",
		}},
		{state: "L registry unreachable, L reachable, E ok", instances: "e1 w1",
			clusters: map[string]ClusterInfo{"east": in(catalog.StateStale), "west": in(catalog.StateSynced)}, want: [...]string{
				"e1:HEALTHY | w1:HEALTHY",
				"w1:HEALTHY | e1:HEALTHY",
				"e1:HEALTHY + w1:HEALTHY",
				"e1:HEALTHY",
				"w1:HEALTHY",
				"e1:HEALTHY w1:HEALTHY",
			}},
		{state: "L registry unreachable, L unreachable, E ok", instances: "e1 w1",
			clusters: map[string]ClusterInfo{"east": unreachable(catalog.StateStale), "west": in(catalog.StateSynced)}, want: [...]string{
				"- | w1:HEALTHY",
				"w1:HEALTHY | -",
				"local!UNREACHABLE + w1:HEALTHY",
				"recover-all e1:HEALTHY",
				"w1:HEALTHY",
				"w1:HEALTHY",
			}},
		{state: "E STALE and reachable, L ok", instances: "e1 w1",
			clusters: map[string]ClusterInfo{"east": in(catalog.StateSynced), "west": in(catalog.StateStale)}, want: [...]string{
				"e1:HEALTHY | w1:HEALTHY",
				"w1:HEALTHY | e1:HEALTHY",
				"e1:HEALTHY + w1:HEALTHY",
				"e1:HEALTHY",
				"w1:HEALTHY",
				"e1:HEALTHY w1:HEALTHY",
			}},
		{state: "E STALE and unreachable, L ok", instances: "e1 w1 w2:UNHEALTHY",
			clusters: map[string]ClusterInfo{"east": in(catalog.StateSynced), "west": unreachable(catalog.StateStale)}, want: [...]string{
				"e1:HEALTHY | -",
				"- | e1:HEALTHY",
				"e1:HEALTHY + west!UNREACHABLE",
				"e1:HEALTHY",
				"recover-all w1:HEALTHY",
				"e1:HEALTHY",
			}},
		{state: "E x, L ok", instances: "e1 w1",
			clusters: map[string]ClusterInfo{"east": in(catalog.StateSynced), "west": in(catalog.StateExpired)}, want: [...]string{
				"e1:HEALTHY | -",
				"- | e1:HEALTHY (degraded)",
				"e1:HEALTHY",
				"e1:HEALTHY",
				"NO_EXTERNAL_INSTANCES",
				"e1:HEALTHY",
			}},
		{state: "L only DRAINING, E ok", instances: "e1:DRAINING e2:DRAINING w1", clusters: both, want: [...]string{
			"- | w1:HEALTHY",
			"w1:HEALTHY | -",
			"w1:HEALTHY",
			"NO_LOCAL_INSTANCES",
			"w1:HEALTHY",
			"w1:HEALTHY",
		}},
		{state: "never heard of the service", clusters: both, want: [...]string{
			"NOT_FOUND", "NOT_FOUND", "NOT_FOUND", "NOT_FOUND", "NOT_FOUND", "NOT_FOUND",
		}},
		// What the text around the table says of these states.
		{state: "known, no instance anywhere", known: true, clusters: both, want: [...]string{
			"NO_INSTANCES", "NO_INSTANCES", "NO_INSTANCES", "NO_LOCAL_INSTANCES", "NO_EXTERNAL_INSTANCES", "NO_INSTANCES",
		}},
		{state: "never heard of the service, E never synced",
			clusters: map[string]ClusterInfo{"east": in(catalog.StateSynced), "west": in(catalog.StateUnknown)}, want: [...]string{
				"NOT_SYNCED", "NOT_SYNCED", "NOT_SYNCED", "NOT_SYNCED", "NOT_SYNCED", "NOT_SYNCED",
			}},
		{state: "L ∅ confirmed, E never synced", known: true,
			clusters: map[string]ClusterInfo{"east": in(catalog.StateSynced), "west": in(catalog.StateUnknown)}, want: [...]string{
				"NOT_SYNCED", "NOT_SYNCED", "NOT_SYNCED", "NO_LOCAL_INSTANCES", "NOT_SYNCED", "NOT_SYNCED",
			}},
		{state: "L never synced, E ok", instances: "w1",
			clusters: map[string]ClusterInfo{"east": in(catalog.StateUnknown), "west": in(catalog.StateSynced)}, want: [...]string{
				"- | w1:HEALTHY", "w1:HEALTHY | -", "w1:HEALTHY", "NOT_SYNCED", "w1:HEALTHY", "w1:HEALTHY",
			}},
		{state: "E PROTECTED", instances: "e1 w1",
			clusters: map[string]ClusterInfo{"east": in(catalog.StateSynced), "west": in(catalog.StateProtected)}, want: [...]string{
				"e1:HEALTHY | w1:HEALTHY", "w1:HEALTHY | e1:HEALTHY", "e1:HEALTHY + w1:HEALTHY", "e1:HEALTHY", "w1:HEALTHY", "e1:HEALTHY w1:HEALTHY",
			}},
		{state: "E REMOVED", instances: "e1 w1",
			clusters: map[string]ClusterInfo{"east": in(catalog.StateSynced), "west": in(catalog.StateRemoved)}, want: [...]string{
				"e1:HEALTHY | -", "- | e1:HEALTHY", "e1:HEALTHY", "e1:HEALTHY", "NO_EXTERNAL_INSTANCES", "e1:HEALTHY",
			}},
		{state: "recover-all never uses DRAINING, DISABLED, weight 0 nor what nobody can dial",
			instances: "e1:DRAINING e2:DISABLED e3:UNHEALTHY e4:UNHEALTHY0 e5:UNHEALTHY? e6:HEALTHYx w1:DRAINING w2:DISABLED",
			clusters:  both, want: [...]string{
				"recover-all e3:UNHEALTHY e6:HEALTHY | -",
				"recover-all - | e3:UNHEALTHY e6:HEALTHY",
				"recover-all e3:UNHEALTHY e6:HEALTHY",
				"recover-all e3:UNHEALTHY e6:HEALTHY",
				"NO_EXTERNAL_INSTANCES",
				"recover-all e3:UNHEALTHY e6:HEALTHY",
			}},
		{state: "registries that know no health", instances: "e1:UNKNOWN w1:UNKNOWN", clusters: both, want: [...]string{
			"e1:UNKNOWN | w1:UNKNOWN", "w1:UNKNOWN | e1:UNKNOWN", "e1:UNKNOWN + w1:UNKNOWN", "e1:UNKNOWN", "w1:UNKNOWN", "e1:UNKNOWN w1:UNKNOWN",
		}},
		{state: "L cannot be dialled, E ok", instances: "e1:HEALTHY? w1", clusters: both, want: [...]string{
			"- | w1:HEALTHY", "w1:HEALTHY | -", "w1:HEALTHY", "NO_LOCAL_INSTANCES", "w1:HEALTHY", "w1:HEALTHY",
		}},
		{state: "nobody available, everything unreachable", instances: "e1:UNHEALTHY w1 w2:UNHEALTHY",
			clusters: map[string]ClusterInfo{"east": in(catalog.StateSynced), "west": unreachable(catalog.StateSynced)}, want: [...]string{
				"recover-all e1:UNHEALTHY | -",
				"recover-all w1:HEALTHY | -",
				"recover-all e1:UNHEALTHY + west!UNREACHABLE",
				"recover-all e1:UNHEALTHY",
				"recover-all w1:HEALTHY",
				"recover-all e1:UNHEALTHY w1:HEALTHY",
			}},
	} {
		for i, k := range columns {
			t.Run(r.state+"/"+string(k), func(t *testing.T) {
				d, err := Decide(Input{
					Service: cart, Caller: Caller{Cluster: "east", Node: "n1"}, Strategy: k,
					Instances: instances(r.instances), Known: r.known, Clusters: r.clusters, ClustersKnown: true,
				})
				if err != nil {
					t.Fatal(err)
				}
				if got := golden(d); got != r.want[i] {
					t.Errorf("got  %s\nwant %s", got, r.want[i])
				}
				if d.Strategy != k {
					t.Errorf("strategy %q", d.Strategy)
				}
			})
		}
	}
}

func TestWhyNobodyCanBePickedIsSaidInWords(t *testing.T) {
	for _, c := range []struct {
		name  string
		in    Input
		words []string
	}{
		{"draining", Input{Strategy: LocalOnly, Instances: instances("e1:DRAINING e2:DRAINING e3:DISABLED w1")},
			[]string{"NO_LOCAL_INSTANCES", "default/cart", "cluster east", "1 DISABLED, 2 DRAINING"}},
		{"expired", Input{Strategy: ExternalOnly, Instances: instances("e1 w1"),
			Clusters: map[string]ClusterInfo{"east": in(catalog.StateSynced), "west": in(catalog.StateExpired)}},
			[]string{"NO_EXTERNAL_INSTANCES", "1 EXPIRED"}},
		{"undialable", Input{Instances: instances("e1:HEALTHY? w1:UNHEALTHY?")},
			[]string{"NO_INSTANCES", "1 UNHEALTHY, 1 UNDIALABLE"}},
		{"never synced", Input{Clusters: map[string]ClusterInfo{"east": in(catalog.StateSynced), "west": {}, "south": {}}},
			[]string{"NOT_SYNCED", "cluster south is UNKNOWN, cluster west is UNKNOWN"}},
		{"expired clusters cannot vouch for absence", Input{Clusters: map[string]ClusterInfo{"east": in(catalog.StateSynced), "west": in(catalog.StateExpired)}},
			[]string{"NOT_SYNCED", "cluster west is EXPIRED"}},
		{"an agent whose own cluster is not listed", Input{Clusters: synced("west")},
			[]string{"NOT_SYNCED", "cluster east is UNKNOWN"}},
		{"pinned and empty", Input{Pin: "west", Instances: instances("e1 w1:DRAINING")},
			[]string{"NO_EXTERNAL_INSTANCES", "cluster west", "1 DRAINING"}},
		{"pinned at home and empty", Input{Pin: "east", Instances: instances("w1")},
			[]string{"NO_LOCAL_INSTANCES", "cluster east"}},
		{"pinned to a cluster never synced", Input{Pin: "west", Instances: instances("e1"),
			Clusters: map[string]ClusterInfo{"east": in(catalog.StateSynced), "west": {}}},
			[]string{"NOT_SYNCED", "cluster west is UNKNOWN"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.in.Service, c.in.Caller, c.in.ClustersKnown = cart, Caller{Cluster: "east"}, true
			if c.in.Clusters == nil {
				c.in.Clusters = synced("east", "west")
			}
			d, err := Decide(c.in)
			if err != nil {
				t.Fatal(err)
			}
			got := string(d.Unavailable) + " " + d.Detail
			for _, w := range c.words {
				if !strings.Contains(got, w) {
					t.Errorf("%q does not say %q", got, w)
				}
			}
		})
	}
}

// Until the members of the federation were read once, nothing is called absent, save what only the own
// cluster could have.
func TestUnknownFederation(t *testing.T) {
	for _, c := range []struct {
		strategy Kind
		known    bool
		pin      string
		want     string
	}{
		{strategy: LocalFirst, want: "NOT_SYNCED"},
		{strategy: LocalOnly, want: "NOT_SYNCED"},
		{strategy: LocalFirst, known: true, want: "NOT_SYNCED"},
		{strategy: ExternalOnly, known: true, want: "NOT_SYNCED"},
		{strategy: LocalOnly, known: true, want: "NO_LOCAL_INSTANCES"},
		{strategy: LocalFirst, pin: "west", want: "NOT_SYNCED"},
		{strategy: LocalFirst, pin: "east", known: true, want: "NO_LOCAL_INSTANCES"},
	} {
		d, err := Decide(Input{Service: cart, Caller: Caller{Cluster: "east"}, Strategy: c.strategy, Pin: c.pin,
			Known: c.known, Clusters: synced("east")})
		if err != nil || golden(d) != c.want {
			t.Errorf("%+v: %s, %v", c, golden(d), err)
		}
	}
}

func TestEveryInstanceLeftOutHasItsFirstRule(t *testing.T) {
	d, err := Decide(Input{
		Service: cart, Caller: Caller{Cluster: "east"}, Strategy: LocalOnly, ClustersKnown: true,
		Clusters:  map[string]ClusterInfo{"east": in(catalog.StateSynced), "west": unreachable(catalog.StateSynced), "south": in(catalog.StateExpired)},
		Instances: instances("e1 e2:DISABLED0 e3:UNHEALTHY0 e4:UNHEALTHYx e5:DRAININGx e6:HEALTHYx e7:HEALTHY? s1:UNHEALTHY s2:DISABLED w1 w2:UNHEALTHY w3:HEALTHY?"),
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range d.Left {
		got = append(got, l.Instance.Instance+" "+string(l.Reason))
		if l.Detail == "" {
			t.Errorf("%s: no detail", l.Instance.ID)
		}
	}
	want := []string{"e2 DISABLED", "e3 WEIGHT_ZERO", "e4 UNHEALTHY", "e5 DRAINING", "e6 EJECTED", "e7 UNDIALABLE",
		"s1 EXPIRED", "s2 DISABLED", "w1 STRATEGY", "w2 UNHEALTHY", "w3 UNDIALABLE"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if tier := d.Tiers[0]; tier.Available != 1 || tier.Known != 4 || tier.Share != 100 {
		t.Errorf("local tier: available %d, known %d, share %v; want 1, 4, 100", tier.Available, tier.Known, tier.Share)
	}
}

func TestUnreachableAndPinnedElsewhereAreReasons(t *testing.T) {
	clusters := synced("east", "west", "south")
	clusters["west"] = unreachable(catalog.StateSynced)
	for _, c := range []struct{ pin, want string }{
		{"", "[w1 UNREACHABLE]"},
		{"south", "[e1 PIN w1 PIN]"},
		{"west", "[e1 PIN s1 PIN]"},
	} {
		d, err := Decide(Input{Service: cart, Caller: Caller{Cluster: "east"}, Pin: c.pin, ClustersKnown: true,
			Clusters: clusters, Instances: instances("e1 s1 w1")})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, l := range d.Left {
			got = append(got, l.Instance.Instance+" "+string(l.Reason))
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("pin %q: %v, want %s", c.pin, got, c.want)
		}
	}
}
