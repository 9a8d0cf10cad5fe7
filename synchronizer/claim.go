package synchronizer

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/mirror"
)

// claimWithin bounds how long other replicas are asked whether another agent reports to them.
const claimWithin = time.Second

// claimed refuses an agent whose place belongs to another, live one that reports to another replica.
// Those are asked only where the store has the record of another life of the agent: after its restart,
// or where two claim one name. One that does not answer in time keeps nobody out. Two who come to two
// replicas at the same moment, neither having a record yet, are both let in.
func (s *Synchronizer) claimed(ctx context.Context, a *catalogv1.Agent) error {
	key := mirror.AgentKey{Cluster: a.GetCluster(), Node: a.GetNode()}
	known := slices.ContainsFunc(s.mirror.Agents(), func(o *catalogv1.Agent) bool { return otherLife(o, a) })
	peers := s.peers()
	if !known || len(peers) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, claimWithin)
	defer cancel()
	if s.roster.asks.Acquire(ctx, 1) != nil {
		return nil
	}
	defer s.roster.asks.Release(1)
	var asking errgroup.Group
	for _, p := range peers {
		asking.Go(func() error {
			var resp *adminv1.ListAgentsResponse
			err := s.call(p, func(c adminv1.AdminClient) (err error) {
				resp, err = c.ListAgents(ctx, &adminv1.ListAgentsRequest{Cluster: key.Cluster, Node: key.Node})
				return err
			})
			if err != nil {
				s.log.Debug("another replica does not say who reports to it", "replica", p.id, "error", err)
			}
			if slices.ContainsFunc(resp.GetAgents(), func(o *adminv1.AgentStatus) bool { return live(o) && otherLife(o.GetAgent(), a) }) {
				return placeTaken(key)
			}
			return nil
		})
	}
	return asking.Wait()
}

// otherLife reports whether two records are of one name and not of one process.
func otherLife(o, a *catalogv1.Agent) bool {
	return o.GetCluster() == a.GetCluster() && o.GetNode() == a.GetNode() && o.GetIncarnation() != a.GetIncarnation()
}

func live(o *adminv1.AgentStatus) bool {
	return o.GetConnected() && o.GetSilent().AsDuration() <= reportsWithin
}
