package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os/user"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
)

// What became of a policy.
const (
	actionCreated   = "created"
	actionChanged   = "changed"
	actionUnchanged = "unchanged"
	actionDeleted   = "deleted"
)

// written is what policy apply and policy delete print as JSON and YAML.
type written struct {
	Policies []writtenPolicy `json:"policies"`
	// Applied is left out where nobody waited.
	Applied *applied `json:"applied,omitempty"`
}

type writtenPolicy struct {
	Action string `json:"action"`
	// Revision is where the policies stand with this one; uint64 is text, as protobuf's JSON
	// mapping has it.
	Revision uint64          `json:"revision,string"`
	Policy   json.RawMessage `json:"policy"`
	Warnings []string        `json:"warnings,omitempty"`
}

func (c *cli) policyApply() *cobra.Command {
	var s selection
	var ifRevision uint64
	var wait, preview bool
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Write policies, and wait until every agent applies them",
		Long: "Writes the policies of a file, several documents allowed, and waits until all connected agents apply them.\n\n" +
			"Everything in the file is checked before anything is sent. A policy that is stored just so is not written again.",
		Example: "  farcall policy apply -f cart.yaml\n  farcall policy apply -f cart.yaml --preview\n  echo '{service: cart, strategy: external-first}' | farcall policy apply -f -",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			name, err := s.required("policy apply")
			if err != nil {
				return err
			}
			list, err := c.readPolicies(name)
			if err != nil {
				return err
			}
			w := &writer{cli: c}
			if cmd.Flags().Changed("if-revision") {
				if len(list) > 1 {
					return usagef("--if-revision is for one policy: %s holds %s", name, policies(len(list)))
				}
				w.ifRevision = &ifRevision
			}
			if preview {
				if w.ifRevision != nil {
					return usagef("--preview writes nothing: --if-revision is of no use with it")
				}
				return c.preview(cmd.Context(), previews(list))
			}
			return c.many(cmd.Context(), "policy apply", func(ctx context.Context, a *admin) error {
				return w.write(ctx, a, wait, func(is *adminv1.ListPoliciesResponse) error { return w.apply(ctx, a, is, list) })
			})
		},
	}
	s.fileFlag(cmd, "file with the policies, - is stdin (required)")
	cmd.Flags().Uint64Var(&ifRevision, "if-revision", 0, "write only where the stored policy has this revision; 0: where there is none")
	waitFlag(cmd, &wait)
	cmd.Flags().BoolVar(&preview, "preview", false, "only say what would change, as policy preview does")
	return cmd
}

func (c *cli) policyDelete() *cobra.Command {
	var s selection
	var wait bool
	cmd := &cobra.Command{
		Use:   "delete <target> | -f FILE",
		Short: "Take policies back",
		Long: "Takes back one policy, named by its target and, where it is for callers of some clusters only, by --from;\n" +
			"or those that a file states.\n\n" +
			"A target is service/cart, service/cart.shop, service/shop/cart, namespace/shop or cluster/east.",
		Example: "  farcall policy delete service/cart\n  farcall policy delete service/shop/cart --from east,west\n  farcall policy delete -f cart.yaml",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := c.chosen("policy delete", &s, args)
			if err != nil {
				return err
			}
			w := &writer{cli: c}
			return c.many(cmd.Context(), "policy delete", func(ctx context.Context, a *admin) error {
				return w.write(ctx, a, wait, func(is *adminv1.ListPoliciesResponse) error { return w.remove(ctx, a, is, list) })
			})
		},
	}
	s.fileFlag(cmd, "file with the policies to take back, - is stdin")
	s.fromFlag(cmd)
	waitFlag(cmd, &wait)
	return cmd
}

// chosen gives the policies that a target on the command line or a file names, without their
// settings.
func (c *cli) chosen(verb string, s *selection, args []string) ([]*policyv1.Policy, error) {
	switch {
	case len(args) > 0 && s.file != "":
		return nil, usagef("want a target or -f, not both")
	case len(args) > 0:
		p, err := s.named(args[0])
		if err != nil {
			return nil, err
		}
		return []*policyv1.Policy{p}, nil
	case s.file == "":
		return nil, usagef("%s what? Want a target, for example service/cart, or -f FILE", verb)
	case len(s.from) > 0:
		return nil, usagef("--from goes with a target: a file says it itself")
	}
	list, err := c.readPolicies(s.file)
	if err != nil {
		return nil, err
	}
	for _, p := range list {
		p.Settings = nil
	}
	return list, nil
}

// writer writes policies and keeps what became of each.
type writer struct {
	cli        *cli
	ifRevision *uint64
	out        written
	revision   uint64 // the highest that was written or found
}

// write asks what is stored, has change make its changes to it, waits for the agents and prints.
// What was done before an error is printed all the same.
func (w *writer) write(ctx context.Context, a *admin, wait bool, change func(*adminv1.ListPoliciesResponse) error) error {
	list, err := listPolicies(ctx, a)
	if err != nil {
		return err
	}
	if err := change(list); err != nil {
		return cmp.Or(err, w.print())
	}
	var late error
	if wait {
		w.out.Applied, late = w.cli.waitApplied(ctx, a, w.revision)
	}
	return cmp.Or(late, w.print())
}

func (w *writer) apply(ctx context.Context, a *admin, is *adminv1.ListPoliciesResponse, list []*policyv1.Policy) error {
	for _, p := range list {
		was := stored(is, p)
		if w.same(was, p) {
			if err := w.add(actionUnchanged, was.GetPolicy(), was.GetPolicy().GetRevision(), was.GetWarnings()); err != nil {
				return err
			}
			continue
		}
		p.Author = author()
		answer, err := putPolicy(ctx, a, &adminv1.PutPolicyRequest{Policy: p, IfRevision: w.ifRevision})
		if err != nil {
			return a.inWords(policyWords(p), err)
		}
		action := actionChanged
		if was == nil {
			action = actionCreated
		}
		if err := w.add(action, answer.GetPolicy(), answer.GetPolicy().GetRevision(), answer.GetWarnings()); err != nil {
			return err
		}
	}
	return nil
}

func putPolicy(ctx context.Context, a *admin, req *adminv1.PutPolicyRequest) (*adminv1.PutPolicyResponse, error) {
	ctx, cancel := question(ctx)
	defer cancel()
	return a.PutPolicy(ctx, req)
}

func deletePolicy(ctx context.Context, a *admin, req *adminv1.DeletePolicyRequest) (*adminv1.DeletePolicyResponse, error) {
	ctx, cancel := question(ctx)
	defer cancel()
	return a.DeletePolicy(ctx, req)
}

// same reports whether what is stored needs no writing. A revision that was asked for and is
// another is the synchronizer's to refuse.
func (w *writer) same(was *adminv1.PolicyStatus, p *policyv1.Policy) bool {
	return was != nil && proto.Equal(was.GetPolicy().GetSettings(), p.GetSettings()) &&
		(w.ifRevision == nil || *w.ifRevision == was.GetPolicy().GetRevision())
}

func (w *writer) remove(ctx context.Context, a *admin, is *adminv1.ListPoliciesResponse, list []*policyv1.Policy) error {
	for _, p := range list {
		if stored(is, p) == nil {
			return unknownPolicy(is, p)
		}
	}
	for _, p := range list {
		answer, err := deletePolicy(ctx, a, &adminv1.DeletePolicyRequest{Target: p.GetTarget(), From: p.GetFrom()})
		if err != nil {
			return a.inWords(policyWords(p), err)
		}
		if err := w.add(actionDeleted, p, answer.GetRevision(), nil); err != nil {
			return err
		}
	}
	return nil
}

// add notes what became of a policy, and tells it at once where a person reads.
func (w *writer) add(action string, p *policyv1.Policy, revision uint64, warnings []string) error {
	w.revision = max(w.revision, revision)
	if w.cli.output != formatTable {
		b, err := protojson.Marshal(p)
		if err != nil {
			return err
		}
		w.out.Policies = append(w.out.Policies, writtenPolicy{action, revision, b, warnings})
		return nil
	}
	w.cli.warn(policyWords(p), warnings)
	words := map[string]string{
		actionCreated:   "applied at revision %d (created)",
		actionChanged:   "applied at revision %d (changed)",
		actionUnchanged: "unchanged at revision %d",
		actionDeleted:   "deleted at revision %d",
	}[action]
	_, err := fmt.Fprintf(w.cli.stdout, "%s: "+words+"\n", clean(policyWords(p)), revision)
	return err
}

// print writes what became of all of them, where a program reads.
func (w *writer) print() error {
	if w.cli.output == formatTable {
		return nil
	}
	if w.out.Policies == nil {
		w.out.Policies = []writtenPolicy{}
	}
	b, err := json.Marshal(w.out)
	if err != nil {
		return err
	}
	return w.cli.printJSON(b)
}

// author is who a policy or a cordon is said to be from: the user of this process, empty where
// nobody knows.
func author() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return u.Username
}
