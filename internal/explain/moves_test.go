package explain

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/strategy"
)

func outcome(k strategy.Kind, tiers ...strategy.Tier) Outcome {
	return Outcome{Decision: strategy.Decision{Strategy: k, Tiers: tiers}, Policy: strategy.Defaults()}
}

func lost(k strategy.Kind, why strategy.Reason) Outcome {
	return Outcome{Decision: strategy.Decision{Strategy: k, Unavailable: why}, Policy: strategy.Defaults()}
}

// say gives a move as "default/cart from east: 5 calls, 2 agents, local-first>any, east 100>50".
func say(m *adminv1.Move) string {
	s := fmt.Sprintf("%s/%s from %s: %d calls, %d agents", m.GetNamespace(), m.GetService(), m.GetFrom(), m.GetCalls(), m.GetAgents())
	if m.GetStrategyBefore() != m.GetStrategyAfter() {
		s += ", " + m.GetStrategyBefore() + ">" + m.GetStrategyAfter()
	}
	for _, c := range m.GetClusters() {
		s += fmt.Sprintf(", %s %.4g>%.4g", c.GetCluster(), c.GetBefore(), c.GetAfter())
	}
	if m.GetUnavailableBefore() != "" || m.GetUnavailableAfter() != "" {
		s += fmt.Sprintf(", %q>%q", m.GetUnavailableBefore(), m.GetUnavailableAfter())
	}
	return s
}

func TestMove(t *testing.T) {
	weighted := outcome(strategy.Any, tier("any", 100, "e1 w1"))
	weighted.Policy.Weights = map[string]uint32{"west": 3}
	for _, c := range []struct {
		name          string
		calls         uint64
		before, after Outcome
		want          string
		changed       bool
	}{
		{"nothing", 5, outcome(strategy.LocalFirst, tier("local", 100, "e1"), tier("*", 0, "w1")), outcome(strategy.LocalFirst, tier("local", 100, "e1")),
			"5 calls, 1 agents, east 100>100", false},
		{"a spill", 5, outcome(strategy.LocalFirst, tier("local", 100, "e1"), tier("*", 0, "w1 s1")), outcome(strategy.LocalFirst, tier("local", 60, "e1"), tier("*", 40, "w1:3 s1")),
			"5 calls, 1 agents, east 100>60, south 0>10, west 0>30", true},
		{"one tier of two pools both sides", 5, outcome(strategy.ExternalFirst, tier("west", 50, "w1"), tier("*", 50, "w1 s1")), outcome(strategy.ExternalFirst, tier("west", 100, "w1")),
			"5 calls, 1 agents, south 25>0, west 75>100", true},
		{"the nearest group alone counts", 5, outcome(strategy.LocalFirst, tier("local", 100, "e1, w1")), outcome(strategy.LocalFirst, tier("local", 100, "e1 w1")),
			"5 calls, 1 agents, east 100>50, west 0>50", true},
		{"weights", 5, outcome(strategy.Any, tier("any", 100, "e1 w1")), weighted, "5 calls, 1 agents, east 50>25, west 50>75", true},
		{"a broadcast calls all", 5, outcome(strategy.LocalFirst, tier("local", 100, "e1 e2")), outcome(strategy.Broadcast, tier("local", 100, "e1 e2"), tier("west", 100, "w1")),
			"5 calls, 1 agents, local-first>broadcast, east 100>100, west 0>100", true},
		{"another strategy that is called", 1, outcome(strategy.LocalFirst, tier("local", 100, "e1")), outcome(strategy.LocalOnly, tier("local", 100, "e1")),
			"1 calls, 1 agents, local-first>local-only, east 100>100", true},
		{"another strategy that nobody calls", 0, outcome(strategy.LocalFirst, tier("local", 100, "e1")), outcome(strategy.LocalOnly, tier("local", 100, "e1")),
			"0 calls, 1 agents, local-first>local-only, east 100>100", false},
		{"left with nobody", 0, outcome(strategy.LocalFirst, tier("*", 100, "w1")), lost(strategy.LocalOnly, strategy.NoLocalInstances),
			`0 calls, 1 agents, local-first>local-only, west 100>0, "">"NO_LOCAL_INSTANCES"`, true},
		{"nobody by another word", 0, lost(strategy.LocalFirst, strategy.NoInstances), lost(strategy.LocalFirst, strategy.NoLocalInstances),
			`0 calls, 1 agents, "NO_INSTANCES">"NO_LOCAL_INSTANCES"`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := Move(cart, "east", c.calls, c.before, c.after)
			if got := say(m); got != "default/cart from east: "+c.want || Changed(m) != c.changed {
				t.Errorf("have %s, %t\nwant %s, %t", got, Changed(m), c.want, c.changed)
			}
		})
	}
}

// one is what an agent says of a service: calls, and the share of west before and after.
func one(service string, calls uint64, before, after float64) *adminv1.Move {
	return &adminv1.Move{
		Namespace: "default", Service: service, From: "east", Calls: calls, Agents: 1, StrategyBefore: "local-first", StrategyAfter: "local-first",
		Clusters: []*adminv1.Shift{{Cluster: "west", Before: before, After: after}},
	}
}

func TestSumWeighsByCalls(t *testing.T) {
	var s Sum
	s.Add([]*adminv1.Move{one("cart", 90, 0, 0), one("idle", 0, 0, 100), one("same", 7, 50, 50)})
	s.Add([]*adminv1.Move{one("cart", 10, 0, 100), one("idle", 0, 0, 50)})
	odd := one("cart", 0, 0, 100)
	odd.StrategyAfter, odd.UnavailableAfter = "any", "NO_INSTANCES"
	s.Add([]*adminv1.Move{odd})
	moves, left := s.Moves()
	var got []string
	for _, m := range OnlyChanged(moves) {
		got = append(got, say(m))
	}
	want := []string{
		`default/cart from east: 100 calls, 3 agents, west 0>10, "">"NO_INSTANCES"`,
		"default/idle from east: 0 calls, 2 agents, west 0>75",
	}
	if !slices.Equal(got, want) || left != 0 {
		t.Errorf("have %s and %d more\nwant %s", strings.Join(got, "\n     "), left, strings.Join(want, "\n     "))
	}
}

// What replicas add up and one of them adds up again is what one of them would have added up.
func TestSumsAddUp(t *testing.T) {
	all := [][]*adminv1.Move{
		{one("cart", 90, 0, 0), one("idle", 0, 0, 100)}, {one("cart", 10, 0, 100), one("idle", 0, 0, 50)}, {one("idle", 0, 0, 30), one("cart", 100, 0, 55)},
	}
	var whole, first, second, both Sum
	for n, moves := range all {
		whole.Add(moves)
		if n < 2 {
			first.Add(moves)
		} else {
			second.Add(moves)
		}
	}
	for _, s := range []*Sum{&first, &second} {
		moves, _ := s.Moves()
		both.Add(moves)
	}
	want, _ := whole.Moves()
	got, _ := both.Moves()
	if !slices.EqualFunc(got, want, func(a, b *adminv1.Move) bool { return say(a) == say(b) }) {
		t.Errorf("have %v\nwant %v", got, want)
	}
}

// An agent's voice counts once whether it computed or not, and who computes is no agent.
func TestWhoComputesIsNoAgent(t *testing.T) {
	var s Sum
	m := one("cart", 0, 0, 100)
	m.Agents = 0
	s.Add([]*adminv1.Move{m})
	if moves, _ := s.Moves(); len(moves) != 1 || say(moves[0]) != "default/cart from east: 0 calls, 0 agents, west 0>100" {
		t.Errorf("have %v", moves)
	}
}

func TestTellOrdersAndBounds(t *testing.T) {
	var moves []*adminv1.Move
	for n := range MaxMoves + 10 {
		moves = append(moves, one(fmt.Sprintf("s%04d", n), uint64(n), 0, 100), one(fmt.Sprintf("t%04d", n), uint64(n), 0, 0))
	}
	told, left := Tell(moves)
	if left != 10 || len(told) != 2*MaxMoves {
		t.Errorf("%d told, %d left", len(told), left)
	}
	if told[0].GetService() != "s1009" || told[MaxMoves-1].GetService() != "s0010" || told[MaxMoves].GetService() != "t1009" {
		t.Errorf("the order is %s %s %s", told[0].GetService(), told[MaxMoves-1].GetService(), told[MaxMoves].GetService())
	}
	gone := Move(catalog.Name{Namespace: "z", Service: "z"}, "east", 0, outcome(strategy.LocalFirst, tier("*", 100, "w1")), lost(strategy.LocalOnly, strategy.NoLocalInstances))
	told, _ = Tell([]*adminv1.Move{one("a", 0, 0, 100), gone, one("b", 1, 0, 100)})
	if told[0].GetService() != "b" || told[1] != gone {
		t.Errorf("the order is %v", told)
	}
}

func TestFit(t *testing.T) {
	resp := &adminv1.PreviewPolicyResponse{}
	for n := range 100 {
		resp.Moves = append(resp.Moves, one(fmt.Sprint(n), 1, 0, 100))
	}
	if size := proto.Size(resp); Fit(resp, size) != 0 || len(resp.GetMoves()) != 100 {
		t.Error("what fits was cut")
	} else if left := Fit(resp, size/2); left < 49 || left > 53 || len(resp.GetMoves()) != 100-left || proto.Size(resp) > size/2 {
		t.Errorf("%d were left out and %d bytes stay of %d", left, proto.Size(resp), size)
	}
}
