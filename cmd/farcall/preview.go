package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
)

func (c *cli) policyPreview() *cobra.Command {
	var s selection
	var target string
	cmd := &cobra.Command{
		Use:   "preview -f FILE | --delete <target>",
		Short: "Say which calls a policy would move, and write nothing",
		Long: "Says, from the agents' own counters of the last minute, which services' calls would go elsewhere if a policy were\n" +
			"written, or taken back, and which would be left with nobody. Nothing is written.\n\n" +
			"Several policies in a file are each compared with what is in force now, not with each other.",
		Example: "  farcall policy preview -f cart.yaml\n  farcall policy preview --delete service/cart",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case target != "" && s.file != "":
				return usagef("want -f or --delete, not both")
			case target != "":
				p, err := s.named(target)
				if err != nil {
					return err
				}
				return c.preview(cmd.Context(), []*adminv1.PreviewPolicyRequest{{Policy: p, Delete: true}})
			case len(s.from) > 0:
				return usagef("--from goes with --delete: a file says it itself")
			case s.file == "":
				return usagef("policy preview what? Want -f FILE or --delete with a target, for example service/cart")
			}
			list, err := c.readPolicies(s.file)
			if err != nil {
				return err
			}
			return c.preview(cmd.Context(), previews(list))
		},
	}
	s.fileFlag(cmd, "file with the policies as they would be written, - is stdin")
	cmd.Flags().StringVar(&target, "delete", "", "the target of a policy as if it were taken back, for example service/cart")
	s.fromFlag(cmd)
	return cmd
}

func previews(policies []*policyv1.Policy) []*adminv1.PreviewPolicyRequest {
	var list []*adminv1.PreviewPolicyRequest
	for _, p := range policies {
		list = append(list, &adminv1.PreviewPolicyRequest{Policy: p})
	}
	return list
}

// preview asks for each and prints the answers one after the other.
func (c *cli) preview(ctx context.Context, list []*adminv1.PreviewPolicyRequest) error {
	return c.many(ctx, "policy preview", func(ctx context.Context, a *admin) error {
		for i, r := range list {
			if r.GetDelete() {
				is, err := listPolicies(ctx, a)
				if err != nil {
					return err
				}
				if stored(is, r.GetPolicy()) == nil {
					return unknownPolicy(is, r.GetPolicy())
				}
			}
			answer, err := previewPolicy(ctx, a, r)
			if err != nil {
				return a.inWords(policyWords(r.GetPolicy()), err)
			}
			if i > 0 {
				c.between()
			}
			c.warn(policyWords(r.GetPolicy()), answer.GetWarnings())
			c.counted(r, answer)
			if err := c.print(answer, func(w io.Writer) error { return previewTable(w, answer) }); err != nil {
				return err
			}
		}
		return nil
	})
}

func previewPolicy(ctx context.Context, a *admin, req *adminv1.PreviewPolicyRequest) (*adminv1.PreviewPolicyResponse, error) {
	ctx, cancel := question(ctx)
	defer cancel()
	return a.PreviewPolicy(ctx, req)
}

// between parts two answers: JSON values need nothing.
func (c *cli) between() {
	switch c.output {
	case formatTable:
		fmt.Fprintln(c.stdout)
	case formatYAML:
		fmt.Fprintln(c.stdout, "---")
	}
}

// counted says on stderr what a preview is about and how much of it was counted.
func (c *cli) counted(r *adminv1.PreviewPolicyRequest, p *adminv1.PreviewPolicyResponse) {
	if c.output != formatTable {
		return
	}
	verb := "writing"
	if r.GetDelete() {
		verb = "deleting"
	}
	moved := map[string]bool{}
	for _, m := range p.GetMoves() {
		shifts := slices.ContainsFunc(m.GetClusters(), func(s *adminv1.Shift) bool { return s.GetBefore() != s.GetAfter() })
		if shifts || m.GetUnavailableBefore() != m.GetUnavailableAfter() {
			moved[m.GetNamespace()+"/"+m.GetService()] = true
		}
	}
	fmt.Fprintf(c.stderr, "%s %s would move calls of %s; %d of %s told their calls of the last minute\n",
		verb, clean(policyWords(r.GetPolicy())), count(uint64(len(moved)), "service"), p.GetAnswered(), count(uint64(p.GetAgents()), "agent"))
	if len(p.GetComputedFor()) > 0 {
		fmt.Fprintf(c.stderr, "note: no agent of %s is connected: what is said of callers there is computed, without any calls counted\n",
			clean(strings.Join(p.GetComputedFor(), ", ")))
	}
}

func previewTable(w io.Writer, p *adminv1.PreviewPolicyResponse) error {
	var rows [][]string
	var nobody []string
	for _, m := range p.GetMoves() {
		name := m.GetNamespace() + "/" + m.GetService()
		rows = append(rows, []string{name, m.GetFrom(), strconv.FormatUint(m.GetCalls(), 10), arrow(m.GetStrategyBefore(), m.GetStrategyAfter()), moves(m)})
		if m.GetUnavailableAfter() != "" {
			word := "left"
			if m.GetUnavailableBefore() != "" {
				word = "still"
			}
			nobody = append(nobody, fmt.Sprintf("%s with nobody: %s from %s: %s", word, name, m.GetFrom(), m.GetUnavailableAfter()))
		}
	}
	if err := writeTable(w, []string{"SERVICE", "FROM", "CALLS", "STRATEGY", "MOVES"}, rows); err != nil {
		return err
	}
	writeLines(w, nobody)
	return nil
}

// arrow writes what becomes of a word, once where it stays.
func arrow(before, after string) string {
	if before == after {
		return after
	}
	return cmp.Or(before, "-") + " -> " + cmp.Or(after, "-")
}

// moves writes the parts of the calls that each cluster gets, before and after.
func moves(m *adminv1.Move) string {
	var parts []string
	for _, s := range m.GetClusters() {
		parts = append(parts, fmt.Sprintf("%s %s->%s", s.GetCluster(), percent(s.GetBefore()), percent(s.GetAfter())))
	}
	switch before, after := m.GetUnavailableBefore(), m.GetUnavailableAfter(); {
	case after != "":
		parts = append(parts, "then nobody")
	case before != "":
		parts = append(parts, "nobody until now ("+before+")")
	}
	return strings.Join(parts, ", ")
}
