package main

import (
	"context"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/strategy"
)

func (c *cli) getPolicies() *cobra.Command {
	return &cobra.Command{
		Use: "policies", Short: "List the policies, and by how many agents they are applied", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.once(cmd.Context(), "list policies", func(ctx context.Context, a *admin) error {
				list, err := listPolicies(ctx, a)
				if err != nil {
					return err
				}
				c.none(len(list.GetPolicies()), "policies")
				c.footer(list)
				return c.print(list, func(w io.Writer) error { return policyTable(w, list) })
			})
		},
	}
}

// policyTable writes the policies as they are stored.
func policyTable(w io.Writer, list *adminv1.ListPoliciesResponse) error {
	now := time.Now()
	var rows [][]string
	for _, s := range list.GetPolicies() {
		p := s.GetPolicy()
		rows = append(rows, []string{
			targetWords(p.GetTarget()), strings.Join(p.GetFrom(), ","), p.GetSettings().GetStrategy(), settingsWords(p.GetSettings()),
			strconv.FormatUint(p.GetRevision(), 10), since(p.GetSince(), now), p.GetAuthor(), strings.Join(s.GetWarnings(), "; "),
		})
	}
	return writeTable(w, []string{"TARGET", "FROM", "STRATEGY", "SETTINGS", "REVISION", "SINCE", "AUTHOR", "WARNINGS"}, rows)
}

// settingsWords writes what a policy states beside the strategy, as YAML has it.
func settingsWords(m *policyv1.Settings) string {
	read, err := policy.SettingsFromProto(m)
	if err != nil {
		// Who wrote it is newer than this command line; -o json has all that can be read of it.
		return "holds what this farcall does not know"
	}
	stated := read.Stated()
	all := policy.Effective{Policy: read.Over(strategy.Defaults())}
	var words []string
	for _, s := range all.Settings() {
		if s.Key != "strategy" && slices.Contains(stated, s.Key) {
			words = append(words, s.Key+": "+s.Value)
		}
	}
	return strings.Join(words, ", ")
}
