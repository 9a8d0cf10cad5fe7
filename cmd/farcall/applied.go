package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
)

const (
	// waitLimit is how long a verb that writes waits for the agents, which take a second.
	waitLimit = 5 * time.Second
	// waitEvery is how often it looks.
	waitEvery = 100 * time.Millisecond
)

func waitFlag(cmd *cobra.Command, wait *bool) {
	cmd.Flags().BoolVar(wait, "wait", true, fmt.Sprintf("wait until all connected agents apply it, at most %s", waitLimit))
}

// applied says how far a revision of policies and cordons has come, for JSON and YAML.
type applied struct {
	Revision uint64   `json:"revision,string"`
	Agents   uint32   `json:"agents"`
	Applied  uint32   `json:"applied"`
	Refused  []string `json:"refused,omitempty"`
}

// waitApplied waits until all connected agents apply a revision, and says so. An error without
// an answer is that of the question; with one it says that agents are late.
func (c *cli) waitApplied(ctx context.Context, a *admin, revision uint64) (*applied, error) {
	list, all, err := waitPolicies(ctx, a, revision, waitLimit)
	if err != nil {
		return nil, a.inWords("it is written, but nobody can say who applies it", err)
	}
	now := &applied{Revision: list.GetRevision(), Agents: list.GetAgents(), Applied: list.GetApplied(), Refused: list.GetRefused()}
	c.footer(list)
	if all {
		return now, nil
	}
	words := fmt.Sprintf("it is written at revision %d, but only %d of %s applied it within %s",
		revision, list.GetApplied(), count(uint64(list.GetAgents()), "agent"), waitLimit)
	// Who they are is a help; that nobody can say so is no other error.
	ctx, cancel := question(ctx)
	defer cancel()
	if agents, err := a.ListAgents(ctx, &adminv1.ListAgentsRequest{}); err == nil {
		if late := behind(agents, revision); len(late) == int(list.GetAgents()-list.GetApplied()) {
			words += "; not " + strings.Join(late, ", ")
		}
	}
	return now, &exitError{code: exitDeadline, err: errors.New(words), hint: "farcall check says what to do"}
}

// behind names the connected agents that have not applied a revision of the policies whole.
func behind(list *adminv1.ListAgentsResponse, revision uint64) []string {
	var late []string
	for _, s := range list.GetAgents() {
		if s.GetConnected() && s.GetPolicyRevision() < revision {
			late = append(late, agentName(s))
		}
	}
	return late
}

func agentName(s *adminv1.AgentStatus) string {
	return s.GetAgent().GetCluster() + "/" + s.GetAgent().GetNode()
}

// waitPolicies asks until all connected agents apply at least a revision, or a time is over; it
// gives the last answer and whether all do.
func waitPolicies(ctx context.Context, a *admin, revision uint64, limit time.Duration) (*adminv1.ListPoliciesResponse, bool, error) {
	over := time.NewTimer(limit)
	defer over.Stop()
	tick := time.NewTicker(waitEvery)
	defer tick.Stop()
	for {
		list, err := listPolicies(ctx, a)
		if err != nil {
			return nil, false, err
		}
		if list.GetRevision() >= revision && list.GetApplied() >= list.GetAgents() {
			return list, true, nil
		}
		select {
		case <-ctx.Done():
			return nil, false, status.FromContextError(ctx.Err()).Err()
		case <-over.C:
			return list, false, nil
		case <-tick.C:
		}
	}
}

// footer says on stderr by whom the policies are applied, and by whom not.
func (c *cli) footer(list *adminv1.ListPoliciesResponse) {
	if c.output != formatTable {
		return
	}
	if list.GetAgents() == 0 {
		fmt.Fprintln(c.stderr, "no agent is connected")
	} else {
		fmt.Fprintf(c.stderr, "applied by %d of %s\n", list.GetApplied(), count(uint64(list.GetAgents()), "agent"))
	}
	for _, r := range list.GetRefused() {
		fmt.Fprintf(c.stderr, "refused by %s\n", clean(r))
	}
}
