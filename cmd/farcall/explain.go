package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
)

func (c *cli) explainCommand() *cobra.Command {
	req := &adminv1.ExplainRequest{}
	var file string
	cmd := &cobra.Command{
		Use:   "explain <service> --from <cluster>",
		Short: "Say where calls of a service go, and why not elsewhere",
		Long: "Says which instances a caller in a cluster is sent to, and for each of the others the first rule that left it out;\n" +
			"asked of a live agent of that cluster, where there is one.\n\n" +
			"The service is an app-id, or app-id.namespace.",
		Example: "  farcall explain cart --from east\n  farcall explain cart.shop --from east --strategy external-first\n" +
			"  farcall explain cart --from east --node node-1 --policy cart.yaml",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if req.GetFrom() == "" {
				return usagef("--from is missing: want the caller's cluster")
			}
			if cmd.Flags().Changed("policy") {
				p, err := c.onePolicy("--policy", file)
				if err != nil {
					return err
				}
				req.Policy = p
			}
			req.Service = args[0]
			return c.once(cmd.Context(), "explain "+args[0], func(ctx context.Context, a *admin) error {
				answer, err := a.Explain(ctx, req)
				if err != nil {
					return err
				}
				c.notes(answer.GetClusters())
				return c.print(answer, func(w io.Writer) error { return explanation(w, answer) })
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&req.From, "from", "", "the caller's cluster (required)")
	flags.StringVar(&req.Namespace, "namespace", "", "namespace of a service that names none")
	flags.StringVar(&req.Strategy, "strategy", "", "explain this strategy instead of the one in force")
	flags.StringVar(&req.Cluster, "cluster", "", "explain a call that is pinned to this cluster")
	flags.StringVar(&req.Node, "node", "", "ask the agent of this node of the caller's cluster, not any of them")
	flags.StringVar(&file, "policy", "", "explain as if the policy in this file were applied; - is stdin")
	return cmd
}

// explanation writes an answer for people: who decided and by which rule, the tiers, every
// instance, and what is set otherwise than by default.
func explanation(w io.Writer, e *adminv1.ExplainResponse) error {
	fmt.Fprintf(w, "%s from %s: %s (%s), computed by %s\n", clean(e.GetNamespace()+"/"+e.GetService()), clean(e.GetFrom()),
		clean(e.GetStrategy()), clean(e.GetStrategySource()), clean(computedBy(e)))
	if e.GetRule() != "" {
		fmt.Fprintln(w, clean(e.GetRule()))
	}
	if e.GetUnavailable() != "" {
		fmt.Fprintf(w, "nobody would be picked: %s\n", clean(strings.TrimSuffix(e.GetUnavailable()+": "+e.GetDetail(), ": ")))
	}
	if e.GetRecoverAll() {
		fmt.Fprintln(w, "recover-all: nobody is available, and those that are not well are used all the same")
	}
	var tiers, instances, settings [][]string
	for i, t := range e.GetTiers() {
		tiers = append(tiers, []string{
			strconv.Itoa(i), t.GetName(), percent(t.GetShare()), fmt.Sprintf("%d/%d", t.GetAvailable(), t.GetKnown()), t.GetWhy(),
		})
	}
	for _, x := range e.GetInstances() {
		instances = append(instances, explainedRow(x))
	}
	for _, s := range e.GetSettings() {
		if s.GetSource() != "default" {
			settings = append(settings, []string{s.GetKey(), s.GetValue(), s.GetSource()})
		}
	}
	for _, part := range []struct {
		header []string
		rows   [][]string
	}{
		{[]string{"TIER", "NAME", "SHARE", "AVAILABLE", "WHY"}, tiers},
		{[]string{"PICKED", "TIER", "CLUSTER", "STATE", "AGE", "ID", "REGISTRY", "HEALTH", "WEIGHT", "DIAL", "WHY NOT"}, instances},
		{[]string{"SETTING", "VALUE", "SOURCE"}, settings},
	} {
		if len(part.rows) == 0 {
			continue
		}
		fmt.Fprintln(w)
		if err := writeTable(w, part.header, part.rows); err != nil {
			return err
		}
	}
	var notes []string
	for _, n := range e.GetNotes() {
		notes = append(notes, "note: "+n)
	}
	writeLines(w, notes)
	return nil
}

// computedBy says who decided; an agent is asked what it sees itself.
func computedBy(e *adminv1.ExplainResponse) string {
	by := e.GetComputedBy()
	if strings.HasPrefix(by, "agent ") && !strings.Contains(by, ",") {
		return by + ", from its own view"
	}
	return by
}

// explainedRow writes one instance. PICKED is the part of the calls that it gets, as far as the
// weights tell it.
func explainedRow(x *adminv1.ExplainedInstance) []string {
	picked, tier := "no", ""
	if x.GetPicked() {
		picked = "yes"
		if x.GetShare() > 0 {
			picked = percent(x.GetShare())
		}
	}
	if x.GetTier() >= 0 {
		tier = strconv.Itoa(int(x.GetTier()))
	}
	why := x.GetReason()
	if x.GetDetail() != "" {
		why = strings.TrimPrefix(why+": "+x.GetDetail(), ": ")
	}
	i := x.GetInstance()
	return []string{
		picked, tier, i.GetCluster(), stateWord(x.GetClusterState()), age(x.GetAge()), i.GetId(), i.GetRegistry(), i.GetHealth().String(),
		strconv.FormatFloat(x.GetWeight(), 'f', -1, 64), x.GetDial(), why,
	}
}
