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
	cmd := &cobra.Command{
		Use:   "explain <service> --from <cluster>",
		Short: "Say where calls of a service go, and why not elsewhere",
		Long: "Says which instances a caller in a cluster is sent to, and for each of the others the first rule that left it out.\n\n" +
			"The service is an app-id, or app-id.namespace.",
		Example: "  farcall explain cart --from east\n  farcall explain cart.shop --from east --strategy external-first",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if req.GetFrom() == "" {
				return usagef("--from is missing: want the caller's cluster")
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
	cmd.Flags().StringVar(&req.From, "from", "", "the caller's cluster (required)")
	cmd.Flags().StringVar(&req.Namespace, "namespace", "", "namespace of a service that names none")
	cmd.Flags().StringVar(&req.Strategy, "strategy", "", "explain this strategy instead of the one in force")
	return cmd
}

func explanation(w io.Writer, e *adminv1.ExplainResponse) error {
	fmt.Fprintf(w, "%s from %s: %s (%s), computed by %s\n", clean(e.GetNamespace()+"/"+e.GetService()), clean(e.GetFrom()),
		clean(e.GetStrategy()), clean(e.GetStrategySource()), clean(e.GetComputedBy()))
	if e.GetUnavailable() != "" {
		fmt.Fprintf(w, "nobody would be picked: %s\n", clean(e.GetUnavailable()))
	}
	if len(e.GetTiers()) > 0 {
		var rows [][]string
		for i, t := range e.GetTiers() {
			rows = append(rows, []string{
				strconv.Itoa(i), t.GetName(), strconv.FormatFloat(t.GetShare(), 'f', -1, 64) + "%",
				fmt.Sprintf("%d/%d", t.GetAvailable(), t.GetKnown()),
			})
		}
		fmt.Fprintln(w)
		if err := writeTable(w, []string{"TIER", "NAME", "SHARE", "AVAILABLE"}, rows); err != nil {
			return err
		}
	}
	if len(e.GetInstances()) == 0 {
		return nil
	}
	var rows [][]string
	for _, x := range e.GetInstances() {
		rows = append(rows, explainedRow(x))
	}
	fmt.Fprintln(w)
	return writeTable(w, []string{"PICKED", "TIER", "CLUSTER", "STATE", "AGE", "ID", "HEALTH", "DIAL", "WHY NOT"}, rows)
}

func explainedRow(x *adminv1.ExplainedInstance) []string {
	picked, tier := "no", ""
	if x.GetPicked() {
		picked = "yes"
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
		picked, tier, i.GetCluster(), stateWord(x.GetClusterState()), age(x.GetAge()), i.GetId(), i.GetHealth().String(), x.GetDial(), why,
	}
}
