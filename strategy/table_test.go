package strategy

import (
	"strings"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// The columns of the decision table, in its order, and any, which the text defines.
var columns = [...]Kind{LocalFirst, ExternalFirst, Broadcast, LocalOnly, ExternalOnly, Any}

// situation is a row of the decision table, or one of the cases of a row. The table in
// docs/strategies.md is made of these.
type situation struct {
	state string
	when  string // tells the cases of one state apart
	// The input: a caller in cluster east (L), one or more external clusters (E).
	instances string
	known     bool
	clusters  map[string]ClusterInfo
	change    func(*Input)
	// What each column says, in the words of the table, and which instances stand in which tier:
	// what is behind the first "|" is where retries go.
	cells, tiers [len(columns)]string
}

// silent is a cluster that nobody confirmed for a time.
func silent(d time.Duration) ClusterInfo {
	return ClusterInfo{State: catalog.StateStale, StaleSince: noon.Add(-d)}
}

func with(name string, info ClusterInfo) map[string]ClusterInfo {
	m := synced("east", "west")
	m[name] = info
	return m
}

func threshold(percent uint32, mode FailoverMode) func(*Input) {
	return func(in *Input) { in.Policy.Failover.Threshold, in.Policy.Failover.Mode = percent, mode }
}

func cordon(cluster string) func(*Input) {
	return func(in *Input) { in.Cordons = []Cordon{{Cluster: cluster, Text: "by ann: upgrade"}} }
}

func all(s string) [len(columns)]string { return [...]string{s, s, s, s, s, s} }

// contract are the rows of the decision table that Farcall's strategies are specified by, in its order.
var contract = []situation{
	{state: "L ok, E ok", instances: "e1 e2 w1 w2",
		cells: [...]string{"L", "E", "each cluster", "L", "E", "L and E"},
		tiers: [...]string{"e1 e2 | w1 w2", "w1 w2 | e1 e2", "e1 e2 + w1 w2", "e1 e2", "w1 w2", "e1 e2 w1 w2"}},
	{state: "L 30 % healthy, threshold 50 spill", instances: "e0 e1 e2 e*7:UNHEALTHY w1", change: threshold(50, Spill),
		cells: [...]string{"L 60 % / E 40 %", "E", "each cluster", "L", "E", "L and E"},
		tiers: [...]string{"e0 e1 e2 | w1", "w1 | e0 e1 e2", "e0 e1 e2 + w1", "e0 e1 e2", "w1", "e0 e1 e2 w1"}},
	{state: "L u, E ok", instances: "e1:UNHEALTHY e2:UNHEALTHY w1 w2:UNHEALTHY",
		cells: [...]string{"E", "E", "E clusters", "recover-all L", "E", "E"},
		tiers: [...]string{"- | w1", "w1 | -", "w1", "recover-all e1:UNHEALTHY e2:UNHEALTHY", "w1", "w1"}},
	{state: "L ok, E u", instances: "e1 w1:UNHEALTHY w2:UNHEALTHY",
		cells: [...]string{"L", "L", "L", "L", "recover-all E", "L"},
		tiers: [...]string{"e1 | -", "- | e1", "e1", "e1", "recover-all w1:UNHEALTHY w2:UNHEALTHY", "e1"}},
	{state: "L u, E u", instances: "e1:UNHEALTHY w1:UNHEALTHY",
		cells: [...]string{"recover-all L", "recover-all E", "recover-all each cluster", "recover-all L", "recover-all E", "recover-all L and E"},
		tiers: [...]string{"recover-all e1:UNHEALTHY | -", "recover-all w1:UNHEALTHY | -", "recover-all e1:UNHEALTHY + w1:UNHEALTHY",
			"recover-all e1:UNHEALTHY", "recover-all w1:UNHEALTHY", "recover-all e1:UNHEALTHY w1:UNHEALTHY"}},
	{state: "L ∅ confirmed, E ok", instances: "w1", known: true,
		cells: [...]string{"E", "E", "E clusters", "`NO_LOCAL_INSTANCES`", "E", "E"},
		tiers: [...]string{"- | w1", "w1 | -", "w1", "NO_LOCAL_INSTANCES", "w1", "w1"}},
	{state: "L registry unreachable, E ok", when: "L is reachable", instances: "e1 w1", clusters: with("east", in(catalog.StateStale)),
		cells: [...]string{"L", "E", "each cluster", "L", "E", "L and E"},
		tiers: [...]string{"e1 | w1", "w1 | e1", "e1 + w1", "e1", "w1", "e1 w1"}},
	{state: "L registry unreachable, E ok", when: "not", instances: "e1 w1", clusters: with("east", cutOff(catalog.StateStale)),
		cells: [...]string{"E", "E", "E clusters (L is a named failure)", "recover-all L", "E", "E"},
		tiers: [...]string{"- | w1", "w1 | -", "local!UNREACHABLE + w1", "recover-all e1", "w1", "w1"}},
	{state: "E STALE, L ok", when: "E is reachable", instances: "e1 w1 w2:UNHEALTHY", clusters: with("west", silent(time.Hour)),
		cells: [...]string{"L", "E", "each cluster", "L", "E", "L and E"},
		tiers: [...]string{"e1 | w1", "w1 | e1", "e1 + w1", "e1", "w1", "e1 w1"}},
	{state: "E STALE, L ok", when: "not", instances: "e1 w1 w2:UNHEALTHY", clusters: with("west", cutOff(catalog.StateStale)),
		cells: [...]string{"L", "L", "L (E is a named failure)", "L", "recover-all E", "L"},
		tiers: [...]string{"e1 | -", "- | e1", "e1 + west!UNREACHABLE", "e1", "recover-all w1", "e1"}},
	{state: "E x, L ok", instances: "e1 w1", clusters: with("west", silent(24*time.Hour)),
		cells: [...]string{"L", "L (degraded)", "L", "L", "`NO_EXTERNAL_INSTANCES`", "L"},
		tiers: [...]string{"e1 | -", "- | e1 (degraded)", "e1", "e1", "NO_EXTERNAL_INSTANCES", "e1"}},
	{state: "L only DRAINING, E ok", instances: "e1:DRAINING e2:DRAINING w1",
		cells: [...]string{"E", "E", "E clusters", "`NO_LOCAL_INSTANCES` (draining)", "E", "E"},
		tiers: [...]string{"- | w1", "w1 | -", "w1", "NO_LOCAL_INSTANCES", "w1", "w1"}},
	{state: "never heard of the service", cells: all("`NOT_FOUND`"), tiers: all("NOT_FOUND")},
}

// beyond are more rows: what the text around the table says of other states.
var beyond = []situation{
	{state: "L 30 % healthy, threshold 0", instances: "e0 e1 e2 e*7:UNHEALTHY w1",
		cells: [...]string{"L", "E", "each cluster", "L", "E", "L and E"},
		tiers: [...]string{"e0 e1 e2 | w1", "w1 | e0 e1 e2", "e0 e1 e2 + w1", "e0 e1 e2", "w1", "e0 e1 e2 w1"}},
	{state: "L 30 % healthy, threshold 50 strict", instances: "e0 e1 e2 e*7:UNHEALTHY w1", change: threshold(50, Strict),
		cells: [...]string{"E", "E", "each cluster", "L", "E", "L and E"},
		tiers: [...]string{"e0 e1 e2 | w1", "w1 | e0 e1 e2", "e0 e1 e2 + w1", "e0 e1 e2", "w1", "e0 e1 e2 w1"}},
	{state: "E 30 % healthy, threshold 50 spill", instances: "e1 w0 w1 w2 w*7:UNHEALTHY", change: threshold(50, Spill),
		cells: [...]string{"L", "E 60 % / L 40 %", "each cluster", "L", "E", "L and E"},
		tiers: [...]string{"e1 | w0 w1 w2", "w0 w1 w2 | e1", "e1 + w0 w1 w2", "e1", "w0 w1 w2", "e1 w0 w1 w2"}},
	{state: "known, no instance anywhere", known: true,
		cells: [...]string{"`NO_INSTANCES`", "`NO_INSTANCES`", "`NO_INSTANCES`", "`NO_LOCAL_INSTANCES`", "`NO_EXTERNAL_INSTANCES`", "`NO_INSTANCES`"},
		tiers: [...]string{"NO_INSTANCES", "NO_INSTANCES", "NO_INSTANCES", "NO_LOCAL_INSTANCES", "NO_EXTERNAL_INSTANCES", "NO_INSTANCES"}},
	{state: "never heard of the service, E never synced", clusters: with("west", in(catalog.StateUnknown)),
		cells: all("`NOT_SYNCED`"), tiers: all("NOT_SYNCED")},
	{state: "L ∅ confirmed, E never synced", known: true, clusters: with("west", in(catalog.StateUnknown)),
		cells: [...]string{"`NOT_SYNCED`", "`NOT_SYNCED`", "`NOT_SYNCED`", "`NO_LOCAL_INSTANCES`", "`NOT_SYNCED`", "`NOT_SYNCED`"},
		tiers: [...]string{"NOT_SYNCED", "NOT_SYNCED", "NOT_SYNCED", "NO_LOCAL_INSTANCES", "NOT_SYNCED", "NOT_SYNCED"}},
	{state: "L never synced, E ok", instances: "w1", clusters: with("east", in(catalog.StateUnknown)),
		cells: [...]string{"E", "E", "E clusters", "`NOT_SYNCED`", "E", "E"},
		tiers: [...]string{"- | w1", "w1 | -", "w1", "NOT_SYNCED", "w1", "w1"}},
	{state: "policies not known yet, L ok, E ok", instances: "e1 w1", change: func(in *Input) { in.PoliciesKnown = false },
		cells: [...]string{"L", "L", "L", "L", "`NOT_SYNCED`", "L"},
		tiers: [...]string{"e1", "e1", "e1", "e1", "NOT_SYNCED", "e1"}},
	{state: "policies not known yet, L ∅ confirmed, E ok", instances: "w1", change: func(in *Input) { in.PoliciesKnown = false },
		cells: all("`NOT_SYNCED`"), tiers: all("NOT_SYNCED")},
	{state: "E ejected by this agent, L ok", instances: "e1 w1:HEALTHYx",
		cells: [...]string{"L", "L", "each cluster", "L", "recover-all E", "L"},
		tiers: [...]string{"e1 | -", "- | e1", "e1 + w1", "e1", "recover-all w1", "e1"}},
	{state: "E PROTECTED, L ok", instances: "e1 w1", clusters: with("west", in(catalog.StateProtected)),
		cells: [...]string{"L", "E", "each cluster", "L", "E", "L and E"},
		tiers: [...]string{"e1 | w1", "w1 | e1", "e1 + w1", "e1", "w1", "e1 w1"}},
	{state: "E REMOVED, L ok", instances: "e1 w1", clusters: with("west", in(catalog.StateRemoved)),
		cells: [...]string{"L", "L", "L", "L", "`NO_EXTERNAL_INSTANCES`", "L"},
		tiers: [...]string{"e1 | -", "- | e1", "e1", "e1", "NO_EXTERNAL_INSTANCES", "e1"}},
	{state: "E cordoned, L ok", instances: "e1 w1", change: cordon("west"),
		cells: [...]string{"L", "L", "L", "L", "`NO_EXTERNAL_INSTANCES`", "L"},
		tiers: [...]string{"e1 | -", "- | e1", "e1", "e1", "NO_EXTERNAL_INSTANCES", "e1"}},
	{state: "L cordoned, E ok", instances: "e1 w1", change: cordon("east"),
		cells: [...]string{"E", "E", "E clusters", "`NO_LOCAL_INSTANCES`", "E", "E"},
		tiers: [...]string{"- | w1", "w1 | -", "w1", "NO_LOCAL_INSTANCES", "w1", "w1"}},
	{state: "L x, E ok: the own cluster never expires", instances: "e1 w1",
		clusters: with("east", ClusterInfo{State: catalog.StateExpired, StaleSince: noon.Add(-48 * time.Hour)}),
		cells:    [...]string{"L", "E", "each cluster", "L", "E", "L and E"},
		tiers:    [...]string{"e1 | w1", "w1 | e1", "e1 + w1", "e1", "w1", "e1 w1"}},
	{state: "E silent for a day, but so is everybody", instances: "e1 w1", clusters: with("west", silent(24*time.Hour)),
		change: func(in *Input) { in.Advancing = false },
		cells:  [...]string{"L", "E", "each cluster", "L", "E", "L and E"},
		tiers:  [...]string{"e1 | w1", "w1 | e1", "e1 + w1", "e1", "w1", "e1 w1"}},
	{state: "L u, E u, `recoverAll: false`", instances: "e1:UNHEALTHY w1:UNHEALTHY", change: func(in *Input) { in.Policy.RecoverAll = false },
		cells: [...]string{"`NO_INSTANCES`", "`NO_INSTANCES`", "`NO_INSTANCES`", "`NO_LOCAL_INSTANCES`", "`NO_EXTERNAL_INSTANCES`", "`NO_INSTANCES`"},
		tiers: [...]string{"NO_INSTANCES", "NO_INSTANCES", "NO_INSTANCES", "NO_LOCAL_INSTANCES", "NO_EXTERNAL_INSTANCES", "NO_INSTANCES"}},
	{state: "L u among what is never recovered, E of that alone",
		instances: "e1:DRAINING e2:DISABLED e3:UNHEALTHY e4:UNHEALTHY0 e5:UNHEALTHY? e6:HEALTHYx e7:HEALTHY! w1:DRAINING w2:DISABLED",
		cells:     [...]string{"recover-all L", "recover-all L", "recover-all L", "recover-all L", "`NO_EXTERNAL_INSTANCES` (draining)", "recover-all L"},
		tiers: [...]string{"recover-all e3:UNHEALTHY e6 e7 | -", "recover-all - | e3:UNHEALTHY e6 e7", "recover-all e3:UNHEALTHY e6 e7",
			"recover-all e3:UNHEALTHY e6 e7", "NO_EXTERNAL_INSTANCES", "recover-all e3:UNHEALTHY e6 e7"}},
	{state: "registries that know no health", instances: "e1:UNKNOWN w1:UNKNOWN",
		cells: [...]string{"L", "E", "each cluster", "L", "E", "L and E"},
		tiers: [...]string{"e1:UNKNOWN | w1:UNKNOWN", "w1:UNKNOWN | e1:UNKNOWN", "e1:UNKNOWN + w1:UNKNOWN", "e1:UNKNOWN", "w1:UNKNOWN", "e1:UNKNOWN w1:UNKNOWN"}},
	{state: "L cannot be dialled, E ok", instances: "e1:HEALTHY? w1",
		cells: [...]string{"E", "E", "E clusters", "`NO_LOCAL_INSTANCES`", "E", "E"},
		tiers: [...]string{"- | w1", "w1 | -", "w1", "NO_LOCAL_INSTANCES", "w1", "w1"}},
	{state: "L u, E unreachable", instances: "e1:UNHEALTHY w1 w2:UNHEALTHY", clusters: with("west", cutOff(catalog.StateSynced)),
		cells: [...]string{"recover-all L", "recover-all E", "recover-all L (E is a named failure)", "recover-all L", "recover-all E", "recover-all L and E"},
		tiers: [...]string{"recover-all e1:UNHEALTHY | -", "recover-all w1 | -", "recover-all e1:UNHEALTHY + west!UNREACHABLE",
			"recover-all e1:UNHEALTHY", "recover-all w1", "recover-all e1:UNHEALTHY w1"}},
}

// input is the situation as a caller in cluster east meets it.
func (s *situation) input(k Kind) Input {
	in := scene(k, s.instances)
	in.Known = s.known
	if s.clusters != nil {
		in.Clusters = s.clusters
	}
	if s.change != nil {
		s.change(&in)
	}
	return in
}

// cell says a decision in the words of the table.
func cell(d Decision) string {
	if d.Unavailable != "" {
		if strings.Contains(d.Detail, "DRAINING") {
			return "`" + string(d.Unavailable) + "` (draining)"
		}
		return "`" + string(d.Unavailable) + "`"
	}
	var used, failed []string
	for _, t := range d.Tiers {
		who := "E"
		if t.Name == "local" {
			who = "L"
		}
		switch {
		case t.Failure != "":
			failed = append(failed, who)
		case t.Share > 0 && t.Share < 100:
			used = append(used, who+" "+strings.TrimSuffix(percent(t.Share), "%")+" %")
		case t.Share > 0 && d.Strategy == Any:
			used = append(used, sides(t))
		case t.Share > 0:
			used = append(used, who)
		}
	}
	s := strings.Join(used, " / ")
	if d.Strategy == Broadcast {
		s = map[string]string{"L / E": "each cluster", "E": "E clusters", "L": "L"}[s]
	}
	if d.RecoverAll {
		s = "recover-all " + s
	}
	if d.Degraded {
		s += " (degraded)"
	}
	if len(failed) > 0 {
		s += " (" + strings.Join(failed, " and ") + " is a named failure)"
	}
	return s
}

// sides says of a tier of all clusters who is in it.
func sides(t Tier) string {
	var local, external bool
	for c := range t.Candidates() {
		local = local || c.Instance.Cluster == "east"
		external = external || c.Instance.Cluster != "east"
	}
	switch {
	case local && external:
		return "L and E"
	case local:
		return "L"
	}
	return "E"
}

// TestDecisionTable goes through the table row by row and column by column.
func TestDecisionTable(t *testing.T) {
	for _, rows := range [][]situation{contract, beyond} {
		for _, s := range rows {
			for i, k := range columns {
				t.Run(s.state+" "+s.when+"/"+string(k), func(t *testing.T) {
					in := s.input(k)
					d := mustDecide(t, in)
					if got := cell(d); got != s.cells[i] {
						t.Errorf("got %s, want %s", got, s.cells[i])
					}
					if got := golden(d); got != s.tiers[i] {
						t.Errorf("got tiers %s, want %s", got, s.tiers[i])
					}
					if d.Strategy != k && in.PoliciesKnown {
						t.Errorf("strategy %q", d.Strategy)
					}
				})
			}
		}
	}
}
