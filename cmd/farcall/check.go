package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
)

// How much a finding matters.
const (
	levelOK   = "ok"
	levelWarn = "warn" // somebody meant it so, or it passes by itself
	levelFail = "fail"
)

const (
	// answerLimit is how long check waits for a daemon to answer at all.
	answerLimit = 5 * time.Second
	// settleLimit is how long check waits for what was written just now to be applied.
	settleLimit = 2 * time.Second
)

// finding is one thing that was looked at: how it is, and what to do about it.
type finding struct {
	Level string `json:"level"`
	Text  string `json:"text"`
	Do    string `json:"do,omitempty"`
}

// checker collects what was found.
type checker struct {
	cli      *cli
	findings []finding
	// unreachable is why a daemon could not be asked at all.
	unreachable *exitError
}

func (c *cli) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Look whether all is well, and say what to do where it is not",
		Long: "Asks the synchronizer how it, its store, the clusters and their registries are, what is cordoned, what is held, which policies\n" +
			"may be mistaken, and whether all agents apply them. With --agent it asks that agent, too.\n\n" +
			"Every finding is a line: ok, warn for what somebody meant so or what passes by itself, or fail. Only fail makes the\n" +
			"exit code other than 0.",
		Example: "  farcall check\n  farcall check --agent 127.0.0.1:3500\n  farcall check -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			k := &checker{cli: c}
			if err := c.once(cmd.Context(), "check", k.all); err != nil {
				return err
			}
			if cmd.Flags().Changed("agent") {
				k.agent(cmd.Context())
			}
			if cmd.Context().Err() != nil {
				return &exitError{code: exitInterrupted, err: errors.New("check: interrupted")}
			}
			if err := k.print(); err != nil {
				return err
			}
			return k.verdict()
		},
	}
}

func (k *checker) add(level, do, format string, args ...any) {
	k.findings = append(k.findings, finding{level, fmt.Sprintf(format, args...), do})
}

// all asks the synchronizer everything. It fails only for what is wrong with the question.
func (k *checker) all(ctx context.Context, a *admin) error {
	if !k.synchronizer(ctx, a) {
		return nil
	}
	now := time.Now()
	clusters, err := a.ListClusters(ctx, &adminv1.ListClustersRequest{})
	if err != nil {
		k.unanswered(a, "the clusters", err)
	} else {
		k.clusters(clusters, now)
	}
	if cordons, err := a.ListCordons(ctx, &adminv1.ListCordonsRequest{}); err != nil {
		k.unanswered(a, "the cordons", err)
	} else {
		k.cordons(cordons, clusters, now)
	}
	if holds, err := a.ListHolds(ctx, &adminv1.ListHoldsRequest{}); err != nil {
		k.unanswered(a, "the holds", err)
	} else {
		k.holds(holds, now)
	}
	agents, err := a.ListAgents(ctx, &adminv1.ListAgentsRequest{})
	if err != nil {
		k.unanswered(a, "the agents", err)
	} else {
		k.agents(agents)
	}
	if policies, all, err := waitPolicies(ctx, a, 0, settleLimit); err != nil {
		k.unanswered(a, "the policies", err)
	} else {
		k.policies(policies, agents, all)
	}
	return nil
}

// synchronizer asks whether anybody is there, which goes on to be asked, and whether its store
// answers.
func (k *checker) synchronizer(ctx context.Context, a *admin) bool {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	health, err := healthv1.NewHealthClient(a.conn).Check(ctx, &healthv1.HealthCheckRequest{})
	var words *exitError
	switch {
	case err != nil && errors.As(a.inWords("synchronizer", err), &words) && words.code == exitUnreachable:
		k.unreachable = words
		k.add(levelFail, words.hint, "%v", words)
		return false
	case err != nil:
		k.unanswered(a, "the synchronizer's health", err)
	case health.GetStatus() == healthv1.HealthCheckResponse_SERVING:
		k.add(levelOK, "", "synchronizer %s answers, and so does its store", a.server)
	default:
		k.add(levelFail, "see to its etcd: nothing new is written or learnt until it answers, and calls go on with what is known",
			"synchronizer %s answers, but its store does not", a.server)
	}
	return true
}

// unanswered notes that a question got no answer.
func (k *checker) unanswered(a *admin, what string, err error) {
	k.add(levelFail, "look at the synchronizer's log", "%v", a.inWords(what+" cannot be had", err))
}

func (k *checker) clusters(list *adminv1.ListClustersResponse, now time.Time) {
	if len(list.GetClusters()) == 0 {
		k.add(levelWarn, "name the clusters in the synchronizer's configuration", "no cluster is known")
	}
	for _, x := range list.GetClusters() {
		k.cluster(x)
		for _, r := range x.GetRegistries() {
			k.findings = append(k.findings, registryTroubles(x, r, now)...)
		}
	}
}

func (k *checker) cluster(x *adminv1.Cluster) {
	do := "see to its registries, and to the log and /readyz of " + x.GetOwner() + ", which reads them"
	if x.GetOwner() == "" {
		do = "nobody owns it: see to it that a synchronizer with it in its configuration runs, and to what that says on /readyz of its store"
	}
	last := "not confirmed since the synchronizer started"
	if x.GetAge() != nil {
		last = "last confirmed " + age(x.GetAge()) + " ago"
	}
	switch state := x.GetState(); state {
	case catalogv1.ClusterState_SYNCED:
		k.add(levelOK, "", "%s: SYNCED, %s, with %s of %s", x.GetName(), last, count(x.GetInstances(), "instance"), count(x.GetServices(), "service"))
	case catalogv1.ClusterState_CLUSTER_STATE_UNKNOWN:
		k.add(levelFail, do, "%s: was never synced: what it has is unknown", x.GetName())
	case catalogv1.ClusterState_PROTECTED:
		k.add(levelWarn, "look whether the instances are gone: if so, wait", "%s: PROTECTED, a suspicious removal is held; %s", x.GetName(), last)
	case catalogv1.ClusterState_REMOVED:
		k.add(levelWarn, "", "%s: REMOVED, it is exported no more", x.GetName())
	case catalogv1.ClusterState_EXPIRED:
		k.add(levelFail, do, "%s: EXPIRED, %s: its instances are not called", x.GetName(), last)
	default:
		k.add(levelFail, do, "%s: %s, %s: its last list stays in use", x.GetName(), state, last)
	}
}

func (k *checker) cordons(list *adminv1.ListCordonsResponse, clusters *adminv1.ListClustersResponse, now time.Time) {
	known := map[string]bool{}
	for _, x := range clusters.GetClusters() {
		known[x.GetName()] = true
	}
	for _, cordon := range list.GetCordons() {
		if over(cordon, now) {
			continue
		}
		text := cordon.GetCluster() + ": " + cordonLine(cordon, now)
		if clusters != nil && !known[cordon.GetCluster()] {
			text += "; nobody has heard of this cluster"
		}
		k.add(levelWarn, "farcall uncordon "+cordonArg(cordon)+" takes it back", "%s", text)
	}
}

func (k *checker) agents(list *adminv1.ListAgentsResponse) {
	connected := 0
	for _, s := range list.GetAgents() {
		if s.GetConnected() {
			connected++
			continue
		}
		k.add(levelWarn, "start it, unless it reports to another synchronizer or is gone for good", "agent %s: is not connected here", agentName(s))
	}
	switch n := len(list.GetAgents()); {
	case n == 0:
		k.add(levelWarn, "start one on each node: applications call through it", "no agent is known")
	case connected > 0:
		k.add(levelOK, "", "agents: %d of %d connected", connected, n)
	}
}

func (k *checker) policies(list *adminv1.ListPoliciesResponse, agents *adminv1.ListAgentsResponse, all bool) {
	for _, s := range list.GetPolicies() {
		for _, w := range s.GetWarnings() {
			k.add(levelWarn, "correct it, or farcall policy delete "+policyArg(s.GetPolicy()), "policy %s: %s", policyWords(s.GetPolicy()), w)
		}
	}
	for _, r := range list.GetRefused() {
		k.add(levelFail, "upgrade that agent, or write the policy without what it does not know", "policy refused by %s", r)
	}
	text := fmt.Sprintf("%s at revision %d, applied by %d of %s",
		policies(len(list.GetPolicies())), list.GetRevision(), list.GetApplied(), count(uint64(list.GetAgents()), "agent"))
	if all {
		k.add(levelOK, "", "%s", text)
		return
	}
	if late := behind(agents, list.GetRevision()); len(late) == int(list.GetAgents()-list.GetApplied()) {
		text += "; not by " + strings.Join(late, ", ")
	}
	k.add(levelFail, "look at the log and /readyz of those that do not", "%s", text)
}

// agent asks the agent at --agent whether it takes calls.
func (k *checker) agent(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	fail := func(err error) { k.add(levelFail, "look at the agent's log", "agent %s: %v", k.cli.agent, err) }
	host := k.cli.agent
	if strings.HasPrefix(host, "unix:") {
		host = "localhost"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/v1.0/healthz", nil)
	if err != nil {
		fail(err)
		return
	}
	transport := k.cli.transport()
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		k.unreachable = &exitError{
			code: exitUnreachable, err: fmt.Errorf("agent: nobody answers at %s: %w", k.cli.agent, err),
			hint: fmt.Sprintf("is an agent running at %s? --agent says where to ask", k.cli.agent),
		}
		k.add(levelFail, k.unreachable.hint, "%v", k.unreachable)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	switch {
	case err != nil:
		fail(err)
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		k.add(levelOK, "", "agent %s: takes calls", k.cli.agent)
	default:
		fail(fmt.Errorf("takes no calls: %s: %s", resp.Status, body))
	}
}

// print writes one line for each finding, or all of them as one object.
func (k *checker) print() error {
	if k.cli.output != formatTable {
		b, err := json.Marshal(map[string]any{"ok": k.count(levelFail) == 0, "findings": k.findings})
		if err != nil {
			return err
		}
		return k.cli.printJSON(b)
	}
	for _, f := range k.findings {
		line := fmt.Sprintf("%-4s  %s", f.Level, f.Text)
		if f.Do != "" {
			line += " -> " + f.Do
		}
		if _, err := fmt.Fprintln(k.cli.stdout, clean(line)); err != nil {
			return err
		}
	}
	return nil
}

func (k *checker) count(level string) (n uint64) {
	for _, f := range k.findings {
		if f.Level == level {
			n++
		}
	}
	return n
}

// verdict is the exit code, and the sum of it in words.
func (k *checker) verdict() error {
	fails, warns := k.count(levelFail), k.count(levelWarn)
	switch {
	case k.unreachable != nil:
		return fmt.Errorf("check: %w", k.unreachable)
	case fails > 0:
		return fmt.Errorf("check: %s found, and %s", count(fails, "failure"), count(warns, "warning"))
	case k.cli.output == formatTable:
		fmt.Fprintf(k.cli.stderr, "nothing is wrong; %s\n", count(warns, "warning"))
	}
	return nil
}
