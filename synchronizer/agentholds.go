package synchronizer

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/mirror"
)

const (
	// maxHeldOf is how many registries an agent's report is believed to tell holds of, maxHeldSome how
	// many instances it may name of each, and maxHeldWords how long a text in it may be, in bytes.
	maxHeldOf    = 100
	maxHeldSome  = 50
	maxHeldWords = 512
)

// agentHolds reads what an agent says that it holds back, as of now by the clock of this replica.
func agentHolds(now time.Time, key mirror.AgentKey, told []*feedv1.HeldBack) []*adminv1.AgentHolds {
	var all []*adminv1.AgentHolds
	for _, b := range told[:min(len(told), maxHeldOf)] {
		if b.GetInstances() == 0 {
			continue
		}
		h := &adminv1.AgentHolds{
			Cluster: key.Cluster, Node: key.Node, Registry: shortened(b.GetRegistry()),
			Instances: b.GetInstances(), Followed: min(b.GetFollowed(), b.GetInstances()),
			Since: timestamppb.New(now.Add(-b.GetHeld().AsDuration())), Until: timestamppb.New(now.Add(b.GetLeft().AsDuration())),
			Reason: shortened(b.GetReason()), Detail: shortened(b.GetDetail()),
		}
		for _, i := range b.GetSome()[:min(len(b.GetSome()), maxHeldSome)] {
			h.Some = append(h.Some, &adminv1.HeldInstance{Namespace: shortened(i.GetNamespace()), Service: shortened(i.GetService()), Id: shortened(i.GetId())})
		}
		all = append(all, h)
	}
	return all
}

func shortened(s string) string {
	if len(s) > maxHeldWords {
		return strings.ToValidUTF8(s[:maxHeldWords], "") + "..."
	}
	return s
}

// held gives what the agents that report here hold back and a request asks for.
func (r *roster) held(req *adminv1.ListHoldsRequest) []*adminv1.AgentHolds {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*adminv1.AgentHolds
	for _, s := range r.seats {
		if req.GetCluster() != "" && req.GetCluster() != s.key.Cluster {
			continue
		}
		for _, h := range s.held {
			if chosen(req, h) {
				all = append(all, h)
			}
		}
	}
	slices.SortFunc(all, byHolder)
	return all
}

// chosen reports whether something of what is held is, or may be, of the services asked for.
func chosen(req *adminv1.ListHoldsRequest, h *adminv1.AgentHolds) bool {
	if req.GetNamespace() == "" && req.GetService() == "" || h.GetInstances() > uint64(len(h.GetSome())) {
		return true
	}
	return slices.ContainsFunc(h.GetSome(), func(i *adminv1.HeldInstance) bool {
		return (req.GetNamespace() == "" || req.GetNamespace() == i.GetNamespace()) && (req.GetService() == "" || req.GetService() == i.GetService())
	})
}

func byHolder(a, b *adminv1.AgentHolds) int {
	return cmp.Or(cmp.Compare(a.GetCluster(), b.GetCluster()), cmp.Compare(a.GetRegistry(), b.GetRegistry()), cmp.Compare(a.GetNode(), b.GetNode()))
}

// gatherAgents puts together what the replicas say of agents. An agent that has just moved to another
// replica may be told of by both: what the first says is as good.
func gatherAgents(resp *adminv1.ListHoldsResponse, answers []said[*adminv1.ListHoldsResponse]) {
	for _, x := range answers {
		if x.err != nil {
			resp.AgentsUnknown = append(resp.AgentsUnknown, x.replica)
			continue
		}
		resp.Agents = append(resp.Agents, x.resp.GetAgents()...)
	}
	slices.SortStableFunc(resp.Agents, byHolder)
	resp.Agents = slices.CompactFunc(resp.Agents, func(a, b *adminv1.AgentHolds) bool { return byHolder(a, b) == 0 })
	slices.Sort(resp.AgentsUnknown)
}

// trimAgents leaves out what one answer cannot carry beside its holds: first the names of the
// instances, then agents, which are counted.
func trimAgents(resp *adminv1.ListHoldsResponse) {
	size := 0
	for _, h := range resp.GetHolds() {
		size += proto.Size(h) + 8
	}
	for n, h := range resp.GetAgents() {
		bytes := proto.Size(h) + 8
		if size+bytes > maxAnswer-maxAnswer/4 && len(h.GetSome()) > 0 {
			h = proto.CloneOf(h) // a reader may have the other
			h.Some = nil
			resp.Agents[n], bytes = h, proto.Size(h)+8
		}
		if size += bytes; size > maxAnswer {
			for _, left := range resp.GetAgents()[n:] {
				resp.More += left.GetInstances()
			}
			resp.Agents = resp.GetAgents()[:n]
			return
		}
	}
}
