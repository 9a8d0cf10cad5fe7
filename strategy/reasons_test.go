package strategy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

func TestWhyNobodyCanBePickedIsSaidInWords(t *testing.T) {
	for _, c := range []struct {
		name      string
		kind      Kind
		pin       string
		instances string
		clusters  map[string]ClusterInfo
		change    func(*Input)
		words     []string
	}{
		{name: "draining", kind: LocalOnly, instances: "e1:DRAINING e2:DRAINING e3:DISABLED w1",
			words: []string{"NO_LOCAL_INSTANCES", "default/cart", "cluster east", "1 DISABLED, 2 DRAINING"}},
		{name: "expired", kind: ExternalOnly, instances: "e1 w1", clusters: with("west", in(catalog.StateExpired)),
			words: []string{"NO_EXTERNAL_INSTANCES", "1 EXPIRED"}},
		{name: "undialable", instances: "e1:HEALTHY? w1:UNHEALTHY?",
			words: []string{"NO_INSTANCES", "1 UNHEALTHY, 1 UNDIALABLE"}},
		{name: "never synced", clusters: map[string]ClusterInfo{"east": in(catalog.StateSynced), "west": {}, "south": {}},
			words: []string{"NOT_SYNCED", "cluster south is UNKNOWN, cluster west is UNKNOWN"}},
		{name: "expired clusters cannot vouch for absence", clusters: with("west", silent(24*time.Hour)),
			words: []string{"NOT_SYNCED", "cluster west is EXPIRED"}},
		{name: "an agent whose own cluster is not listed", clusters: synced("west"),
			words: []string{"NOT_SYNCED", "cluster east is UNKNOWN"}},
		{name: "pinned and empty", pin: "west", instances: "e1 w1:DRAINING",
			words: []string{"NO_EXTERNAL_INSTANCES", "cluster west", "1 DRAINING"}},
		{name: "pinned at home and empty", pin: "east", instances: "w1",
			words: []string{"NO_LOCAL_INSTANCES", "cluster east"}},
		{name: "pinned to a cluster never synced", pin: "west", instances: "e1", clusters: with("west", ClusterInfo{}),
			words: []string{"NOT_SYNCED", "cluster west is UNKNOWN"}},
		{name: "pinned to a cordoned cluster", pin: "west", instances: "e1 w1 w2", change: cordon("west"),
			words: []string{"NO_EXTERNAL_INSTANCES", "2 CORDONED", "cluster west: its cluster is cordoned: by ann: upgrade"}},
		{name: "unreachable, and no recover-all", kind: ExternalOnly, instances: "w1", clusters: with("west", cutOff(catalog.StateSynced)),
			change: func(in *Input) { in.Policy.RecoverAll = false },
			words:  []string{"NO_EXTERNAL_INSTANCES", "1 UNREACHABLE", "the policy forbids recover-all"}},
		{name: "weight 0", kind: LocalOnly, instances: "e1 e2", change: func(in *Input) { in.Policy.Weights = map[string]uint32{"east": 0} },
			words: []string{"NO_LOCAL_INSTANCES", "2 WEIGHT_ZERO"}},
		{name: "what people wrote stays on its line", kind: LocalOnly, instances: "e1",
			change: func(in *Input) { in.Cordons = []Cordon{{Cluster: "east", Text: "two\r\nlines"}} },
			words:  []string{"two  lines"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := scene(c.kind, c.instances)
			in.Pin = c.pin
			if c.clusters != nil {
				in.Clusters = c.clusters
			}
			if c.change != nil {
				c.change(&in)
			}
			d := mustDecide(t, in)
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
		kind  Kind
		known bool
		pin   string
		want  string
	}{
		{kind: LocalFirst, want: "NOT_SYNCED"},
		{kind: LocalOnly, want: "NOT_SYNCED"},
		{kind: LocalFirst, known: true, want: "NOT_SYNCED"},
		{kind: ExternalOnly, known: true, want: "NOT_SYNCED"},
		{kind: LocalOnly, known: true, want: "NO_LOCAL_INSTANCES"},
		{kind: LocalFirst, pin: "west", want: "NOT_SYNCED"},
		{kind: LocalFirst, pin: "east", known: true, want: "NO_LOCAL_INSTANCES"},
	} {
		in := scene(c.kind, "", "east")
		in.Pin, in.Known, in.ClustersKnown = c.pin, c.known, false
		if got := golden(mustDecide(t, in)); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestEveryInstanceLeftOutHasItsFirstRule(t *testing.T) {
	in := scene(LocalFirst, "e1 e2:DISABLED0 e3:UNHEALTHY0 e4:UNHEALTHYx e5:DRAININGx e6:HEALTHYx e7:HEALTHY? e8:HEALTHY! n1 n2:DISABLED "+
		"s1:UNHEALTHY s2:DISABLED w1 w2:UNHEALTHY w3:HEALTHY?")
	in.Clusters = map[string]ClusterInfo{"east": {State: catalog.StateSynced}, "west": cutOff(catalog.StateSynced),
		"south": silent(48 * time.Hour), "north": silent(48 * time.Hour)}
	cordon("north")(&in)
	in.Policy.ExternalOrder = [][]string{{"*"}}
	d := mustDecide(t, in)
	for _, l := range d.Left {
		if l.Detail == "" {
			t.Errorf("%s: no detail", l.Instance.ID)
		}
	}
	want := []string{"e2 DISABLED", "e3 WEIGHT_ZERO", "e4 UNHEALTHY", "e5 DRAINING", "e6 EJECTED", "e7 UNDIALABLE", "e8 UNREACHABLE",
		"n1 CORDONED", "n2 DISABLED", "s1 EXPIRED", "s2 DISABLED", "w1 UNREACHABLE", "w2 UNHEALTHY", "w3 UNDIALABLE"}
	if got := left(d); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if tier := d.Tiers[0]; tier.Available != 1 || tier.Known != 5 || tier.Share != 100 {
		t.Errorf("local tier: available %d, known %d, share %v; want 1, 5, 100", tier.Available, tier.Known, tier.Share)
	}
}

func TestWhoIsNotAllowedIsLeftOutForThat(t *testing.T) {
	for _, c := range []struct {
		pin  string
		kind Kind
		want string
	}{
		{"", LocalFirst, "[w1 UNREACHABLE]"},
		{"", LocalOnly, "[s1 STRATEGY w1 STRATEGY]"},
		{"south", LocalFirst, "[e1 PIN w1 PIN]"},
		{"west", LocalFirst, "[e1 PIN s1 PIN]"},
	} {
		in := scene(c.kind, "e1 s1 w1", "east", "west", "south")
		in.Clusters["west"] = cutOff(catalog.StateSynced)
		in.Pin = c.pin
		if got := fmt.Sprint(left(mustDecide(t, in))); got != c.want {
			t.Errorf("pin %q, %s: %s, want %s", c.pin, c.kind, got, c.want)
		}
	}
}

func TestCordons(t *testing.T) {
	other := catalog.Name{Namespace: "default", Service: "billing"}
	for _, c := range []struct {
		name    string
		cordons []Cordon
		detail  string // of w1, or "" where it is not left out
		next    time.Duration
	}{
		{"none", nil, "", 0},
		{"the cluster", []Cordon{{Cluster: "west", Text: "upgrade"}}, "its cluster is cordoned: upgrade", 0},
		{"without a reason", []Cordon{{Cluster: "west"}}, "its cluster is cordoned", 0},
		{"the service", []Cordon{{Cluster: "west", Name: cart, Text: "leaks"}}, "the service is cordoned in its cluster: leaks", 0},
		{"another service", []Cordon{{Cluster: "west", Name: other}}, "", 0},
		{"another cluster", []Cordon{{Cluster: "south"}}, "", 0},
		{"for an hour", []Cordon{{Cluster: "west", Until: noon.Add(time.Hour)}}, "its cluster is cordoned", time.Hour},
		{"until now", []Cordon{{Cluster: "west", Until: noon}}, "", 0},
		{"both: the cluster's is told", []Cordon{{Cluster: "west", Name: cart, Text: "leaks", Until: noon.Add(time.Hour)}, {Cluster: "west", Text: "upgrade"}},
			"its cluster is cordoned: upgrade", time.Hour},
		{"two: the longer one is told", []Cordon{{Cluster: "west", Until: noon.Add(time.Hour), Text: "a"}, {Cluster: "west", Until: noon.Add(2 * time.Hour), Text: "b"}},
			"its cluster is cordoned: b", time.Hour},
	} {
		in := scene(LocalFirst, "e1 w1")
		in.Cordons = c.cordons
		for range 2 {
			d := mustDecide(t, in)
			got := ""
			for _, l := range d.Left {
				if l.Reason != Cordoned || l.Instance.Instance != "w1" {
					t.Errorf("%s: %s is left out for %s", c.name, l.Instance.Instance, l.Reason)
				}
				got = l.Detail
			}
			if got != c.detail {
				t.Errorf("%s: %q, want %q", c.name, got, c.detail)
			}
			if c.next == 0 != d.Next.IsZero() || c.next > 0 && !d.Next.Equal(noon.Add(c.next)) {
				t.Errorf("%s: next decision at %v, want %v from now", c.name, d.Next, c.next)
			}
			slices.Reverse(in.Cordons)
		}
	}
}

func TestWeightZeroIsBeforeACordon(t *testing.T) {
	in := scene(LocalFirst, "e1 w1")
	in.Policy.Weights = map[string]uint32{"west": 0}
	cordon("west")(&in)
	if got := left(mustDecide(t, in)); !slices.Equal(got, []string{"w1 WEIGHT_ZERO"}) {
		t.Errorf("%q", got)
	}
}

func TestClustersExpire(t *testing.T) {
	for _, c := range []struct {
		name    string
		cluster string
		info    ClusterInfo
		ttl     time.Duration
		still   bool // nothing advances
		expired bool
		next    time.Duration
	}{
		{name: "fresh", cluster: "west", info: in(catalog.StateSynced), ttl: time.Hour},
		{name: "stale", cluster: "west", info: silent(time.Minute), ttl: time.Hour, next: 59 * time.Minute},
		{name: "just expired", cluster: "west", info: silent(time.Hour), ttl: time.Hour, expired: true},
		{name: "a nanosecond before", cluster: "west", info: silent(time.Hour - 1), ttl: time.Hour, next: 1},
		{name: "never", cluster: "west", info: silent(1000 * time.Hour)},
		{name: "all are silent", cluster: "west", info: silent(2 * time.Hour), ttl: time.Hour, still: true},
		{name: "all are silent, and it is not yet time", cluster: "west", info: silent(time.Minute), ttl: time.Hour, still: true},
		{name: "the own cluster", cluster: "east", info: silent(2 * time.Hour), ttl: time.Hour},
		{name: "said by the caller", cluster: "west", info: in(catalog.StateExpired), expired: true},
		{name: "said by the caller of the own cluster", cluster: "east", info: in(catalog.StateExpired)},
	} {
		in := scene(ExternalFirst, "e1 w1")
		in.Clusters[c.cluster], in.Policy.StaleTTL, in.Advancing = c.info, c.ttl, !c.still
		d := mustDecide(t, in)
		if got := slices.Contains(left(d), "w1 EXPIRED") || slices.Contains(left(d), "e1 EXPIRED"); got != c.expired {
			t.Errorf("%s: expired %v", c.name, got)
		}
		if d.Degraded != c.expired {
			t.Errorf("%s: degraded %v", c.name, d.Degraded)
		}
		if c.next == 0 != d.Next.IsZero() || c.next > 0 && !d.Next.Equal(noon.Add(c.next)) {
			t.Errorf("%s: next decision at %v, want %v from now", c.name, d.Next, c.next)
		}
	}
}

func TestRules(t *testing.T) {
	for _, c := range []struct {
		name      string
		kind      Kind
		instances string
		change    func(*Input)
		rule      string
		why       []string
	}{
		{"all is well", LocalFirst, "e1 w1", nil, "local-first: tier local", []string{"1 of 1 available", "1 of 1 available, stands by"}},
		{"spill", LocalFirst, "e*3 e*7:UNHEALTHY w1", threshold(50, Spill),
			"local-first: 60% tier local (3 of 10 available, threshold 50), 40% tier *",
			[]string{"3 of 10 available, threshold 50", "1 of 1 available, threshold 50"}},
		{"the next tier", LocalFirst, "e1:UNHEALTHY w1", nil, "local-first: tier *, not tier local (0 of 1 available)",
			[]string{"0 of 1 available", "1 of 1 available"}},
		{"nobody", LocalOnly, "w1", nil, "local-only: NO_LOCAL_INSTANCES", []string{"no instance"}},
		{"too few", LocalFirst, "e1 w1 w2", func(in *Input) { in.Policy.Failover.MinAvailable = 2 },
			"local-first: tier *, not tier local (1 of 1 available, minAvailable 2)", []string{"1 of 1 available, minAvailable 2", "2 of 2 available"}},
		{"too few everywhere", LocalFirst, "e1 w1", func(in *Input) { in.Policy.Failover.MinAvailable = 2 },
			"local-first: tier local (1 of 1 available, minAvailable 2, but no tier is sufficient)",
			[]string{"1 of 1 available, minAvailable 2, but no tier is sufficient", "1 of 1 available, minAvailable 2"}},
		{"recover-all", LocalFirst, "e1:UNHEALTHY", nil, "local-first: tier local (0 of 1 available, used all the same: recover-all)",
			[]string{"0 of 1 available, used all the same: recover-all", "no instance"}},
		{"scaled up", LocalFirst, "e*1 e*9:UNHEALTHY w*1 w*9:UNHEALTHY", threshold(50, Spill),
			"local-first: 50% tier local (1 of 10 available, threshold 50, fit for 20%, no room elsewhere), " +
				"50% tier * (1 of 10 available, threshold 50, fit for 20%, no room elsewhere)", nil},
		{"any", Any, "e1 w1", nil, "any: tier any", []string{"2 of 2 available"}},
		{"broadcast", Broadcast, "e1 w1", func(in *Input) { in.Clusters = with("west", cutOff(catalog.StateStale)) },
			"broadcast: each of 2 targets: local, west (UNREACHABLE)", []string{"1 of 1 available", "0 of 1 available, but its cluster was measured unreachable"}},
		{"degraded", ExternalFirst, "e1 w1", func(in *Input) { in.Clusters = with("west", silent(24*time.Hour)) },
			"external-first: tier local, not tier * (1 EXPIRED), degraded", []string{"1 EXPIRED", "1 of 1 available"}},
		{"cordoned", ExternalFirst, "e1 w1 w2", func(in *Input) { in.Cordons = []Cordon{{Cluster: "west"}} },
			"external-first: tier local, not tier * (2 CORDONED)", []string{"2 CORDONED", "1 of 1 available"}},
		{"draining and disabled", LocalFirst, "e1:DRAINING e2:DISABLED w1", nil,
			"local-first: tier *, not tier local (none of 2 counts)", []string{"none of 2 counts", "1 of 1 available"}},
		{"a name from a stranger", LocalFirst, "w1", func(in *Input) { in.Policy.ExternalOrder = [][]string{{"west", "wä\nst"}} },
			"local-first: tier west, w??st, not tier local (no instance)", nil},
	} {
		in := scene(c.kind, c.instances)
		if c.change != nil {
			c.change(&in)
		}
		d := mustDecide(t, in)
		if d.Rule != c.rule {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, d.Rule, c.rule)
		}
		for i, want := range c.why {
			if got := d.Tiers[i].Why; got != want {
				t.Errorf("%s: tier %s: %q, want %q", c.name, d.Tiers[i].Name, got, want)
			}
		}
	}
}

func TestPercentages(t *testing.T) {
	for p, want := range map[float64]string{0: "0%", 0.04: "<0.1%", 0.1: "0.1%", 1.0 / 3: "0.3%", 60: "60%", 66.66: "66.7%", 99.95: ">99.9%", 100: "100%", 100 - 1e-12: "100%"} {
		if got := percent(p); got != want {
			t.Errorf("%v: %s, want %s", p, got, want)
		}
	}
}

// A pin to what nobody has heard of may be any text.
func TestALongPinIsCut(t *testing.T) {
	in := scene(LocalFirst, "e1")
	in.Pin, in.ClustersKnown = strings.Repeat("\n", 5000), false
	d := mustDecide(t, in)
	if d.Unavailable != NotSynced || len(d.Detail) > 500 || len(d.Tiers[0].Name) > 100 || strings.Contains(d.Detail+d.Tiers[0].Name, "\n") {
		t.Errorf("%s: %d bytes of detail: %.100q", d.Unavailable, len(d.Detail), d.Detail)
	}
}
