package explain

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"google.golang.org/protobuf/proto"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/strategy"
)

// MaxMoves is how many moves one answer has at most.
const MaxMoves = 1000

// Outcome is what becomes of the calls of one service under one set of policies.
type Outcome struct {
	Decision strategy.Decision
	Policy   strategy.Policy
}

// Shares gives the part of the calls that each cluster gets at first, in percent, as far as weights
// tell it: those of all tiers together. With a broadcast each target gets every call.
func (o *Outcome) Shares() map[string]float64 {
	out := map[string]float64{}
	for at := range o.Decision.Tiers {
		t := &o.Decision.Tiers[at]
		group, total := takes(&o.Decision, t, &o.Policy)
		if group < 0 {
			continue
		}
		for i := range t.Groups[group] {
			c := &t.Groups[group][i]
			if w := weight(c, &o.Policy); w > 0 {
				out[c.Instance.Cluster] += t.Share * w / total
			}
		}
	}
	return out
}

// Move says what becomes of the calls of one service from one cluster.
func Move(n catalog.Name, from string, calls uint64, before, after Outcome) *adminv1.Move {
	m := &adminv1.Move{
		Namespace: n.Namespace, Service: n.Service, From: from, Calls: calls, Agents: 1,
		StrategyBefore: string(before.Decision.Strategy), StrategyAfter: string(after.Decision.Strategy),
		UnavailableBefore: string(before.Decision.Unavailable), UnavailableAfter: string(after.Decision.Unavailable),
	}
	was, is := before.Shares(), after.Shares()
	names := maps.Clone(was)
	maps.Copy(names, is)
	for _, c := range slices.Sorted(maps.Keys(names)) {
		m.Clusters = append(m.Clusters, &adminv1.Shift{Cluster: c, Before: was[c], After: is[c]})
	}
	return m
}

// tolerance is the difference of two shares, in percent, that is one of reckoning only.
const tolerance = 0.01

// Changed reports whether a move is one. Without calls another strategy alone moves nothing.
func Changed(m *adminv1.Move) bool {
	if m.GetUnavailableBefore() != m.GetUnavailableAfter() || m.GetCalls() > 0 && m.GetStrategyBefore() != m.GetStrategyAfter() {
		return true
	}
	return slices.ContainsFunc(m.GetClusters(), func(s *adminv1.Shift) bool { return math.Abs(s.GetBefore()-s.GetAfter()) > tolerance })
}

// order puts the most calls first, and among equals those who are left with nobody.
func order(a, b *adminv1.Move) int {
	lost := func(m *adminv1.Move) int {
		if m.GetUnavailableAfter() != "" && m.GetUnavailableBefore() == "" {
			return 0
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(b.GetCalls(), a.GetCalls()), cmp.Compare(lost(a), lost(b)),
		cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetService(), b.GetService()),
		cmp.Compare(a.GetFrom(), b.GetFrom()),
	)
}

// Tell gives of one agent's moves what is to be told, in order: those that are, and those that are
// none of services that are called, which count where other agents' calls do move. Of either there
// are no more than MaxMoves; left is how many there were beyond that of those that are.
func Tell(moves []*adminv1.Move) (told []*adminv1.Move, left int) {
	var changed, same []*adminv1.Move
	for _, m := range moves {
		switch {
		case Changed(m):
			changed = append(changed, m)
		case m.GetCalls() > 0:
			same = append(same, m)
		}
	}
	slices.SortFunc(changed, order)
	slices.SortFunc(same, order)
	left = max(len(changed)-MaxMoves, 0)
	return append(changed[:len(changed)-left], same[:min(len(same), MaxMoves)]...), left
}

// Sum adds up what several agents say. The zero value has nothing; it is used by one goroutine at
// a time.
type Sum struct {
	moves map[moveKey]*summed
}

type moveKey struct {
	name catalog.Name
	from string
}

// summed is what was said of one service's calls from one cluster.
type summed struct {
	move   *adminv1.Move // with the words of the agent that makes most of the calls
	most   uint64
	voices float64 // that say so: agents, and one more for each computation
	shifts map[string]*shift
}

// shift holds sums: weighted by calls, and by voices for where there are none.
type shift struct{ byCalls, byVoices pair }

type pair struct{ before, after float64 }

func (p *pair) add(s *adminv1.Shift, times float64) {
	p.before += s.GetBefore() * times
	p.after += s.GetAfter() * times
}

// Add takes what one agent says, or what another Sum gave of several.
func (s *Sum) Add(moves []*adminv1.Move) {
	if s.moves == nil {
		s.moves = map[moveKey]*summed{}
	}
	for _, m := range moves {
		k := moveKey{catalog.Name{Namespace: m.GetNamespace(), Service: m.GetService()}, m.GetFrom()}
		of := s.moves[k]
		if of == nil {
			of = &summed{move: &adminv1.Move{Namespace: m.GetNamespace(), Service: m.GetService(), From: m.GetFrom()}, shifts: map[string]*shift{}}
			s.moves[k] = of
		}
		of.add(m)
	}
}

func (of *summed) add(m *adminv1.Move) {
	sum, voices := of.move, float64(max(m.GetAgents(), 1))
	if of.voices == 0 || m.GetCalls() > of.most {
		of.most = m.GetCalls()
		sum.StrategyBefore, sum.StrategyAfter = m.GetStrategyBefore(), m.GetStrategyAfter()
	}
	// That somewhere nobody can be called is told, however few calls are made there.
	sum.UnavailableBefore = cmp.Or(sum.UnavailableBefore, m.GetUnavailableBefore())
	sum.UnavailableAfter = cmp.Or(sum.UnavailableAfter, m.GetUnavailableAfter())
	sum.Calls += m.GetCalls()
	sum.Agents += m.GetAgents()
	of.voices += voices
	for _, x := range m.GetClusters() {
		sh := of.shifts[x.GetCluster()]
		if sh == nil {
			sh = &shift{}
			of.shifts[x.GetCluster()] = sh
		}
		sh.byCalls.add(x, float64(m.GetCalls()))
		sh.byVoices.add(x, voices)
	}
}

// Moves gives the sums as Tell does, a share being the mean weighted by calls, and the plain one
// where nobody calls.
func (s *Sum) Moves() (told []*adminv1.Move, left int) {
	var out []*adminv1.Move
	for _, of := range s.moves {
		m := of.move
		m.Clusters = nil
		for _, c := range slices.Sorted(maps.Keys(of.shifts)) {
			by, total := of.shifts[c].byCalls, float64(m.GetCalls())
			if m.GetCalls() == 0 {
				by, total = of.shifts[c].byVoices, of.voices
			}
			m.Clusters = append(m.Clusters, &adminv1.Shift{Cluster: c, Before: by.before / total, After: by.after / total})
		}
		out = append(out, m)
	}
	return Tell(out)
}

// Fit leaves out moves, the last ones first, until the response has no more than limit bytes, and
// gives how many.
func Fit(resp *adminv1.PreviewPolicyResponse, limit int) (left int) {
	for size := proto.Size(resp); size > limit && len(resp.Moves) > 0; left++ {
		last := len(resp.Moves) - 1
		size -= proto.Size(resp.Moves[last])
		resp.Moves = resp.Moves[:last]
	}
	return left
}

// OnlyChanged leaves out the moves that are none, for whoever asked in the first place.
func OnlyChanged(moves []*adminv1.Move) []*adminv1.Move {
	return slices.DeleteFunc(moves, func(m *adminv1.Move) bool { return !Changed(m) })
}
