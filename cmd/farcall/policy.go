package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/config"
	"github.com/farcall/farcall/internal/nearest"
)

// maxPolicies bounds a file of policies, in bytes.
const maxPolicies = 4 << 20

func (c *cli) policyCommand() *cobra.Command {
	return group("policy", "Say how calls are to be treated",
		c.policyApply(), c.policyDelete(), c.policyPreview())
}

// readPolicies gives the policies of a file, or of stdin where name is "-", spelt as the
// synchronizer spells them. Nothing of a file is used before all of it is right: every mistake in
// it is the command line's.
func (c *cli) readPolicies(name string) ([]*policyv1.Policy, error) {
	data, err := c.readFile(name)
	if err != nil {
		return nil, err
	}
	if name == "-" {
		name = "stdin"
	}
	list, err := config.ParsePolicies(name, data)
	if err != nil {
		return nil, mistakes(name, err)
	}
	return list, nil
}

// onePolicy is readPolicies for a file that must hold exactly one.
func (c *cli) onePolicy(flag, name string) (*policyv1.Policy, error) {
	list, err := c.readPolicies(name)
	if err != nil {
		return nil, err
	}
	if len(list) != 1 {
		return nil, usagef("%s %s: holds %s, want one", flag, name, policies(len(list)))
	}
	return list[0], nil
}

func (c *cli) readFile(name string) ([]byte, error) {
	in := c.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, usagef("%w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxPolicies+1))
	switch {
	case err != nil:
		return nil, usagef("read %s: %w", name, err)
	case len(data) > maxPolicies:
		return nil, usagef("%s is larger than %d MiB: this is no policy", name, maxPolicies>>20)
	}
	return data, nil
}

// mistakes makes a usage error of what is wrong with a file, one line for each mistake.
func mistakes(name string, err error) error {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	if len(lines) == 1 {
		return &exitError{code: exitUsage, err: err}
	}
	return &exitError{code: exitUsage, err: fmt.Errorf("%s has %d mistakes", name, len(lines)), lines: lines}
}

// selection is how a verb is told which policies: by a file that states them, or by target and
// from.
type selection struct {
	file string
	from []string
}

func (s *selection) fileFlag(cmd *cobra.Command, use string) {
	cmd.Flags().StringVarP(&s.file, "filename", "f", "", use)
}

func (s *selection) fromFlag(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&s.from, "from", nil, "the clusters of the policy's callers, where it is limited to some")
}

// required gives the file's name, which a verb cannot do without.
func (s *selection) required(verb string) (string, error) {
	if s.file == "" {
		return "", usagef("%s what? -f names the file with the policy, - is stdin", verb)
	}
	return s.file, nil
}

// named gives the target and from that stand on the command line, without any settings.
func (s *selection) named(word string) (*policyv1.Policy, error) {
	target, err := parseTarget(word)
	if err != nil {
		return nil, err
	}
	from := slices.Clone(s.from)
	for _, k := range from {
		if err := catalog.CheckClusterName(k); err != nil {
			return nil, usagef("--from: %w", err)
		}
	}
	slices.Sort(from)
	return &policyv1.Policy{Target: target, From: slices.Compact(from)}, nil
}

// targetKinds are the words before the slash of a target.
var targetKinds = []string{"service", "namespace", "cluster"}

// parseTarget reads service/cart, service/cart.shop, service/shop/cart, namespace/shop and
// cluster/east.
func parseTarget(s string) (*policyv1.Target, error) {
	kind, name, ok := strings.Cut(s, "/")
	switch {
	case !ok || name == "":
		return nil, usagef("%q: want service/cart, service/shop/cart, namespace/shop or cluster/east", s)
	case kind == "service":
		n, err := catalog.ParseName(name, "")
		if err != nil {
			return nil, usagef("%q: %w", s, err)
		}
		return &policyv1.Target{Service: n.Service, Namespace: n.Namespace}, nil
	case kind == "namespace":
		if err := (catalog.Name{Namespace: name, Service: "any"}).Check(); err != nil {
			return nil, usagef("%q: %w", s, err)
		}
		return &policyv1.Target{Namespace: name}, nil
	case kind == "cluster":
		if err := catalog.CheckClusterName(name); err != nil {
			return nil, usagef("%q: %w", s, err)
		}
		return &policyv1.Target{Cluster: name}, nil
	}
	if word, near := nearest.Word(kind, targetKinds); near {
		return nil, usagef("%q: there is no %q; did you mean %q?", s, kind, word+"/"+name)
	}
	return nil, usagef("%q: there is no %q: want one of %s, then / and a name", s, kind, strings.Join(targetKinds, ", "))
}

// targetArg writes a target as parseTarget reads it.
func targetArg(t *policyv1.Target) string {
	switch {
	case t.GetService() != "":
		return "service/" + cmp.Or(t.GetNamespace(), catalog.DefaultNamespace) + "/" + t.GetService()
	case t.GetNamespace() != "":
		return "namespace/" + t.GetNamespace()
	}
	return "cluster/" + t.GetCluster()
}

// policyArg writes a policy as the command line names it.
func policyArg(p *policyv1.Policy) string {
	s := targetArg(p.GetTarget())
	if len(p.GetFrom()) > 0 {
		s += " --from " + strings.Join(p.GetFrom(), ",")
	}
	return s
}

// targetWords writes a target for people. It takes any, so that what a newer synchronizer keeps
// can be listed, too.
func targetWords(t *policyv1.Target) string {
	kind, name, _ := strings.Cut(targetArg(t), "/")
	return kind + " " + name
}

func policyWords(p *policyv1.Policy) string {
	s := targetWords(p.GetTarget())
	if len(p.GetFrom()) > 0 {
		s += " from " + strings.Join(p.GetFrom(), ",")
	}
	return s
}

// stored finds the policy of p's target and from in a list, nil where there is none.
func stored(list *adminv1.ListPoliciesResponse, p *policyv1.Policy) *adminv1.PolicyStatus {
	for _, s := range list.GetPolicies() {
		if policyArg(s.GetPolicy()) == policyArg(p) {
			return s
		}
	}
	return nil
}

// unknownPolicy is the error about a policy that nobody has written, with the one that may have
// been meant.
func unknownPolicy(list *adminv1.ListPoliciesResponse, p *policyv1.Policy) error {
	err := &exitError{code: exitRefused, err: fmt.Errorf("not found: there is no policy %s", policyWords(p)),
		hint: "farcall get policies lists them"}
	var args []string
	for _, s := range list.GetPolicies() {
		if targetArg(s.GetPolicy().GetTarget()) == targetArg(p.GetTarget()) {
			err.hint = fmt.Sprintf("there is one for %s: did you mean %s?", policyWords(s.GetPolicy()), policyArg(s.GetPolicy()))
			return err
		}
		args = append(args, policyArg(s.GetPolicy()))
	}
	if word, near := nearest.Word(policyArg(p), args); near {
		err.hint = fmt.Sprintf("did you mean %s?", word)
	}
	return err
}

// warn says on stderr what was accepted and yet may be a mistake.
func (c *cli) warn(about string, warnings []string) {
	if c.output != formatTable {
		return
	}
	for _, w := range warnings {
		fmt.Fprintf(c.stderr, "warning: %s: %s\n", clean(about), clean(w))
	}
}

// policies counts them in words.
func policies(n int) string {
	if n == 1 {
		return "1 policy"
	}
	return fmt.Sprintf("%d policies", n)
}

// listPolicies asks for all policies and who follows them.
func listPolicies(ctx context.Context, a *admin) (*adminv1.ListPoliciesResponse, error) {
	ctx, cancel := question(ctx)
	defer cancel()
	return a.ListPolicies(ctx, &adminv1.ListPoliciesRequest{})
}
