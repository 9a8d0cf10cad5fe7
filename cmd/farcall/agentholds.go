package main

import (
	"fmt"
	"strings"
	"time"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
)

// someHolders is how many agents are named that hold the same.
const someHolders = 3

// holding is what agents hold back of one registry, which as many of them read as there are nodes:
// those that say the same make one line.
type holding struct {
	first *adminv1.AgentHolds
	nodes []string
}

// holders puts agents that hold the same of the same registry together, in the order of the list.
func holders(list []*adminv1.AgentHolds) []*holding {
	type key struct {
		cluster, registry, reason, detail string
		instances, followed               uint64
	}
	at := map[key]*holding{}
	var order []*holding
	for _, h := range list {
		k := key{h.GetCluster(), h.GetRegistry(), h.GetReason(), h.GetDetail(), h.GetInstances(), h.GetFollowed()}
		g := at[k]
		if g == nil {
			g = &holding{first: h}
			at[k] = g
			order = append(order, g)
		}
		g.nodes = append(g.nodes, h.GetNode())
	}
	return order
}

// names gives the agents, the first few of them.
func (g *holding) names() string {
	if len(g.nodes) == 1 {
		return "agent " + g.nodes[0]
	}
	return "agents " + g.some()
}

func (g *holding) some() string {
	if more := len(g.nodes) - someHolders; more > 0 {
		return strings.Join(g.nodes[:someHolders], ", ") + " and " + fmt.Sprint(more) + " more"
	}
	return strings.Join(g.nodes, ", ")
}

// services gives the services of what is held, as far as they are named, and whether these are all.
func (g *holding) services() (names []string, all bool) {
	for _, i := range g.first.GetSome() {
		if s := i.GetNamespace() + "/" + i.GetService(); len(names) == 0 || names[len(names)-1] != s {
			names = append(names, s)
		}
	}
	return names, uint64(len(g.first.GetSome())) == g.first.GetInstances()
}

// ends says who ends it.
func (g *holding) ends() string {
	switch h := g.first; {
	case h.GetFollowed() == 0:
		return "ends by the agent's own time"
	case h.GetFollowed() == h.GetInstances():
		return "ends when the cluster's owner lists them no more"
	default:
		return fmt.Sprintf("%d of them end when the cluster's owner lists them no more, the others by the agent's own time", h.GetFollowed())
	}
}

// until says when it ends: what the owner's word ends has no time.
func (g *holding) until(now time.Time) string {
	if g.first.GetFollowed() > 0 {
		return "-"
	}
	return until(g.first.GetUntil(), now)
}

func (g *holding) row(now time.Time) []string {
	h := g.first
	service, id := "*", count(h.GetInstances(), "instance")
	if names, all := g.services(); all && len(names) == 1 {
		service = names[0]
	}
	if some := h.GetSome(); len(some) == 1 && h.GetInstances() == 1 {
		id = some[0].GetId()
	}
	return []string{
		h.GetCluster(), h.GetRegistry(), service, id, since(h.GetSince(), now), g.until(now), g.names(), h.GetReason(), h.GetDetail() + "; " + g.ends(),
	}
}

// heldByAgents notes what agents hold back for themselves.
func (k *checker) heldByAgents(g *holding, now time.Time) {
	h := g.first
	of, all := g.services()
	if len(of) > someServices || !all {
		of = append(of[:min(len(of), someServices):min(len(of), someServices)], "others")
	}
	do := "look at the registry from there; nothing is to be done if they are gone: each ends by itself"
	if h.GetFollowed() > 0 {
		do = fmt.Sprintf("look whether they are gone: if so, farcall holds release %s, which these agents follow", h.GetCluster())
	}
	k.add(levelWarn, do, "%s: %s, as read by %s, no longer lists %s of %s since %s, held: %s; %s",
		h.GetCluster(), h.GetRegistry(), g.names(), count(h.GetInstances(), "instance"), strings.Join(of, ", "), since(h.GetSince(), now), h.GetDetail(), g.ends())
}
