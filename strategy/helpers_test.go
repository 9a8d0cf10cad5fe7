package strategy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

var (
	cart = catalog.Name{Namespace: "default", Service: "cart"}
	noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
)

// The clusters of the tests: an instance's cluster is told by its first letter.
var letters = map[byte]string{'e': "east", 'n': "north", 's': "south", 'w': "west"}

// instances reads "e1:HEALTHY w1:DRAINING", or "e1" for a healthy one. "x" behind the health makes it
// ejected, "?" undialable, "!" unreachable, "0" gives it weight 0. "e*7:UNHEALTHY" are seven.
func instances(s string) []Candidate {
	var out []Candidate
	for word := range strings.FieldsSeq(s) {
		id, health, _ := strings.Cut(word, ":")
		n := 1
		if cluster, count, ok := strings.Cut(id, "*"); ok {
			if _, err := fmt.Sscan(count, &n); err != nil {
				panic(err)
			}
			id = cluster + strings.ToLower(health)
		}
		for k := range n {
			name := id
			if strings.Contains(word, "*") {
				name += fmt.Sprintf("%03d", k)
			}
			out = append(out, instance(name, health))
		}
	}
	return out
}

func instance(id, health string) Candidate {
	i := &catalog.Instance{
		ID:     catalog.ID{Cluster: letters[id[0]], Name: cart, Instance: id},
		Weight: 1,
		Health: catalog.Healthy,
	}
	c := Candidate{Instance: i, Dial: "10.0.0.1:50002"}
	switch {
	case strings.HasSuffix(health, "x"):
		c.Ejected = "ejected after 5 failures"
	case strings.HasSuffix(health, "?"):
		c.Dial, c.Undialable = "", "no agent on its node and no relay address"
	case strings.HasSuffix(health, "!"):
		c.Unreachable = true
	case strings.HasSuffix(health, "0"):
		i.Weight = 0
	}
	if h, err := catalog.ParseHealth(strings.TrimRight(health, "x?!0")); err == nil {
		i.Health = h
	}
	return c
}

func synced(names ...string) map[string]ClusterInfo {
	m := map[string]ClusterInfo{}
	for _, n := range names {
		m[n] = ClusterInfo{State: catalog.StateSynced}
	}
	return m
}

func in(state catalog.ClusterState) ClusterInfo { return ClusterInfo{State: state} }

// cutOff is in for a cluster that was measured unreachable.
func cutOff(state catalog.ClusterState) ClusterInfo {
	return ClusterInfo{State: state, Unreachable: true}
}

// scene is an Input from cluster east with nothing unusual about it.
func scene(k Kind, list string, clusters ...string) Input {
	if len(clusters) == 0 {
		clusters = []string{"east", "west"}
	}
	in := Input{
		Service: cart, Caller: Caller{Cluster: "east", Node: "n1"}, Policy: Defaults(),
		Instances: instances(list), Clusters: synced(clusters...), ClustersKnown: true, PoliciesKnown: true,
		Advancing: true, Now: noon,
	}
	in.Policy.Strategy = k
	return in
}

func mustDecide(t testing.TB, in Input) Decision {
	t.Helper()
	d, _, err := Decide(in)
	if err != nil {
		t.Fatal(err)
	}
	return d
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
				list = append(list, strings.TrimSuffix(c.Instance.Instance+":"+c.Instance.Health.String(), ":HEALTHY"))
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

// shares prints the tiers that calls go to first: "local 60%, * 40%".
func shares(d Decision) string {
	var out []string
	for _, t := range d.Tiers {
		if t.Share > 0 {
			out = append(out, t.Name+" "+percent(t.Share))
		}
	}
	return strings.Join(out, ", ")
}

// tierNames prints the tiers with their clusters, these in alphabetical order.
func tierNames(d Decision) []string {
	var out []string
	for _, tier := range d.Tiers {
		names := slices.Sorted(slices.Values(tier.Clusters))
		out = append(out, fmt.Sprint(tier.Name, names))
	}
	return out
}

// left prints the instances left out: "e1 DRAINING".
func left(d Decision) []string {
	var out []string
	for _, l := range d.Left {
		out = append(out, l.Instance.Instance+" "+string(l.Reason))
	}
	return out
}
