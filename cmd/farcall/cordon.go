package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/catalog"
)

func (c *cli) cordonCommand() *cobra.Command {
	var lasts time.Duration
	var reason string
	var wait bool
	cmd := &cobra.Command{
		Use:   "cordon <cluster> [<service>]",
		Short: "Take a cluster, or one service in it, out of everybody's choice",
		Long: "Takes a cluster, or one service in it, out of everybody's choice, until farcall uncordon or until --for is over.\n" +
			"Calls that are under way end as they would.\n\n" +
			"The service is an app-id, app-id.namespace or namespace/app-id.",
		Example: "  farcall cordon west --for 30m --reason 'new switches'\n  farcall cordon west cart",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			cordon, err := parseCordon(args)
			if err != nil {
				return err
			}
			cordon.Reason, cordon.Author = reason, author()
			req := &adminv1.CordonRequest{Cordon: cordon}
			if cmd.Flags().Changed("for") {
				if lasts <= 0 {
					return usagef("--for %s: want more than 0s; without it the cordon stays until farcall uncordon", lasts)
				}
				req.Ttl = durationpb.New(lasts)
			}
			return c.once(cmd.Context(), "cordon "+cordonArg(cordon), func(ctx context.Context, a *admin) error {
				answer, err := a.Cordon(ctx, req)
				if err != nil {
					return err
				}
				c.warn(cordonWords(cordon), answer.GetWarnings())
				return c.cordoned(ctx, a, wait, answer.GetCordon().GetRevision(), func() error {
					return c.print(answer, func(w io.Writer) error {
						_, err := fmt.Fprintf(w, "%s: cordoned at revision %d%s\n",
							clean(cordonWords(cordon)), answer.GetCordon().GetRevision(), ends(answer.GetCordon(), time.Now()))
						return err
					})
				})
			})
		},
	}
	cmd.Flags().DurationVar(&lasts, "for", 0, "end by itself after this time, for example 30m")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for people")
	waitFlag(cmd, &wait)
	return cmd
}

func (c *cli) uncordonCommand() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "uncordon <cluster> [<service>]",
		Short: "Take a cordon back",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			cordon, err := parseCordon(args)
			if err != nil {
				return err
			}
			return c.once(cmd.Context(), "uncordon "+cordonArg(cordon), func(ctx context.Context, a *admin) error {
				answer, err := a.Uncordon(ctx, &adminv1.UncordonRequest{
					Cluster: cordon.GetCluster(), Namespace: cordon.GetNamespace(), Service: cordon.GetService(),
				})
				if err != nil {
					return err
				}
				return c.cordoned(ctx, a, wait, answer.GetRevision(), func() error {
					return c.print(answer, func(w io.Writer) error {
						_, err := fmt.Fprintf(w, "%s: uncordoned at revision %d\n", clean(cordonWords(cordon)), answer.GetRevision())
						return err
					})
				})
			})
		},
	}
	waitFlag(cmd, &wait)
	return cmd
}

// cordoned prints what was written and waits for the agents where that is wished.
func (c *cli) cordoned(ctx context.Context, a *admin, wait bool, revision uint64, print func() error) error {
	if err := print(); err != nil || !wait {
		return err
	}
	_, err := c.waitApplied(ctx, a, revision)
	return err
}

// parseCordon reads the cluster, and the service where there is one.
func parseCordon(args []string) (*policyv1.Cordon, error) {
	if err := catalog.CheckClusterName(args[0]); err != nil {
		return nil, usagef("%q: %w", args[0], err)
	}
	cordon := &policyv1.Cordon{Cluster: args[0]}
	if len(args) > 1 {
		n, err := catalog.ParseName(args[1], "")
		if err != nil {
			return nil, usagef("%q: %w", args[1], err)
		}
		cordon.Namespace, cordon.Service = n.Namespace, n.Service
	}
	return cordon, nil
}

// cordonArg writes a cordon as parseCordon reads it.
func cordonArg(k *policyv1.Cordon) string {
	if k.GetService() == "" {
		return k.GetCluster()
	}
	return k.GetCluster() + " " + k.GetNamespace() + "/" + k.GetService()
}

func cordonWords(k *policyv1.Cordon) string {
	if k.GetService() == "" {
		return "cluster " + k.GetCluster()
	}
	return "service " + k.GetNamespace() + "/" + k.GetService() + " in " + k.GetCluster()
}

// cordonLine says for people what is cordoned, by whom, since when, why and how long.
func cordonLine(k *policyv1.Cordon, now time.Time) string {
	s := "cordoned"
	if k.GetService() != "" {
		s = "service " + k.GetNamespace() + "/" + k.GetService() + " is cordoned"
	}
	if k.GetAuthor() != "" {
		s += " by " + k.GetAuthor()
	}
	if k.GetSince() != nil {
		s += " since " + since(k.GetSince(), now)
	}
	s += ends(k, now)
	if k.GetReason() != "" {
		s += ": " + k.GetReason()
	}
	return s
}

// ends says when a cordon ends by itself, with a comma before it; nothing where it does not.
func ends(k *policyv1.Cordon, now time.Time) string {
	if k.GetExpires() == nil {
		return ""
	}
	return ", ends in " + until(k.GetExpires(), now)
}

// over reports whether a cordon has ended by itself.
func over(k *policyv1.Cordon, now time.Time) bool {
	return k.GetExpires() != nil && !k.GetExpires().AsTime().After(now)
}

// until writes how long it is to a moment, by this machine's clock.
func until(at *timestamppb.Timestamp, now time.Time) string {
	if at == nil {
		return "-"
	}
	return age(durationpb.New(at.AsTime().Sub(now)))
}

func (c *cli) getCordons() *cobra.Command {
	return &cobra.Command{
		Use: "cordons", Short: "List what is taken out of everybody's choice", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.once(cmd.Context(), "list cordons", func(ctx context.Context, a *admin) error {
				list, err := a.ListCordons(ctx, &adminv1.ListCordonsRequest{})
				if err != nil {
					return err
				}
				c.none(len(list.GetCordons()), "cordons")
				return c.print(list, func(w io.Writer) error { return cordonTable(w, list) })
			})
		},
	}
}

func cordonTable(w io.Writer, list *adminv1.ListCordonsResponse) error {
	now := time.Now()
	var rows [][]string
	for _, k := range list.GetCordons() {
		service, expires := "", ""
		if k.GetService() != "" {
			service = k.GetNamespace() + "/" + k.GetService()
		}
		switch {
		case over(k, now):
			expires = "over"
		case k.GetExpires() != nil:
			expires = until(k.GetExpires(), now)
		}
		rows = append(rows, []string{
			k.GetCluster(), service, since(k.GetSince(), now), expires, strconv.FormatUint(k.GetRevision(), 10), k.GetAuthor(), k.GetReason(),
		})
	}
	return writeTable(w, []string{"CLUSTER", "SERVICE", "SINCE", "ENDS-IN", "REVISION", "AUTHOR", "REASON"}, rows)
}

// cordonsFor gives the cordons to show beside the clusters. That they cannot be had is told, and is
// no reason to show no clusters.
func (c *cli) cordonsFor(ctx context.Context, a *admin) []*policyv1.Cordon {
	list, err := a.ListCordons(ctx, &adminv1.ListCordonsRequest{})
	if err != nil {
		fmt.Fprintf(c.stderr, "note: the cordons are not known: %s\n", clean(status.Convert(err).Message()))
		return nil
	}
	return list.GetCordons()
}
