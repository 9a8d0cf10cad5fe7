package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/metadata"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/catalog"
)

// authorKey is the metadata in which a synchronizer is told who asks.
const authorKey = "farcall-author"

func (c *cli) getHolds() *cobra.Command {
	var f filter
	cmd := &cobra.Command{
		Use: "holds", Short: "List the instances that are kept although their registry lists them no more", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.once(cmd.Context(), "list holds", func(ctx context.Context, a *admin) error {
				list, err := a.ListHolds(ctx, &adminv1.ListHoldsRequest{Cluster: f.cluster, Namespace: f.namespace, Service: f.service})
				if err != nil {
					return err
				}
				if len(list.GetUnknown())+len(list.GetAgentsUnknown()) == 0 {
					c.none(len(list.GetHolds())+len(list.GetAgents()), "holds")
				}
				c.unknownHolds(list)
				return c.print(list, func(w io.Writer) error { return holdTable(w, list) })
			})
		},
	}
	f.clusterFlag(cmd)
	f.namespaceFlag(cmd)
	cmd.Flags().StringVar(&f.service, "service", "", "only of this service")
	return cmd
}

func holdTable(w io.Writer, list *adminv1.ListHoldsResponse) error {
	now := time.Now()
	var rows [][]string
	for _, h := range list.GetHolds() {
		holder := "owner"
		if h.GetRegistry() == "" {
			holder = "" // nobody owns it
		}
		rows = append(rows, []string{
			h.GetCluster(), cmp.Or(h.GetRegistry(), "*"), holdService(h), cmp.Or(h.GetId(), "*"), since(h.GetSince(), now), until(h.GetUntil(), now), holder, h.GetReason(), h.GetDetail(),
		})
	}
	for _, g := range holders(list.GetAgents()) {
		rows = append(rows, g.row(now))
	}
	return writeTable(w, []string{"CLUSTER", "REGISTRY", "SERVICE", "ID", "SINCE", "UNTIL", "HOLDER", "REASON", "WHY"}, rows)
}

func holdService(h *adminv1.Hold) string {
	if h.GetService() == "" {
		return "*"
	}
	return h.GetNamespace() + "/" + h.GetService()
}

// unknownHolds tells on stderr what a list of holds does not say.
func (c *cli) unknownHolds(list *adminv1.ListHoldsResponse) {
	if c.output != formatTable {
		return
	}
	if list.GetMore() > 0 {
		fmt.Fprintf(c.stderr, "note: there are %d more; --cluster and --service list some of them\n", list.GetMore())
	}
	for _, u := range list.GetUnknown() {
		fmt.Fprintf(c.stderr, "note: what is held in %s is not known: %s\n", clean(u.GetCluster()), clean(u.GetWhy()))
	}
	for _, id := range list.GetAgentsUnknown() {
		fmt.Fprintf(c.stderr, "note: what agents hold that report to synchronizer %s is not known: it does not answer\n", clean(id))
	}
}

func (c *cli) holdsCommand() *cobra.Command {
	return group("holds", "End holds by hand", c.releaseHolds())
}

func (c *cli) releaseHolds() *cobra.Command {
	req := &adminv1.ReleaseHoldRequest{}
	cmd := &cobra.Command{
		Use:   "release <cluster> [<service>]",
		Short: "Let go the instances that are kept although their registry lists them no more",
		Long: "Ends the holds of a cluster, or of one service in it: the instances are gone, at every agent. Those that their\n" +
			"registry lists again come back by themselves. farcall get holds says what is held, and why.\n\n" +
			"A link that no agent reports any more is let go with all that it listed. A cluster that no synchronizer has in its\n" +
			"configuration is deleted as a whole; where one has it by then, nothing is deleted.\n\n" +
			"The service is an app-id, app-id.namespace or namespace/app-id.",
		Example: "  farcall holds release west\n  farcall holds release west cart --instance cart-7\n  farcall holds release west --registry consul",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := catalog.CheckClusterName(args[0]); err != nil {
				return usagef("%q: %w", args[0], err)
			}
			req.Cluster = args[0]
			if len(args) > 1 {
				n, err := catalog.ParseName(args[1], "")
				if err != nil {
					return usagef("%q: %w", args[1], err)
				}
				req.Namespace, req.Service = n.Namespace, n.Service
			}
			return c.once(cmd.Context(), "release holds of "+strings.Join(args, " "), func(ctx context.Context, a *admin) error {
				if who := author(); who != "" {
					ctx = metadata.AppendToOutgoingContext(ctx, authorKey, headerWord(who))
				}
				answer, err := a.ReleaseHold(ctx, req)
				if err != nil {
					return err
				}
				if c.output == formatTable {
					c.warn("cluster "+req.GetCluster(), answer.GetWarnings())
				}
				return c.print(answer, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "cluster %s: %s by %s\n", clean(req.GetCluster()), releasedWords(answer), clean(answer.GetOwner()))
					return err
				})
			})
		},
	}
	cmd.Flags().StringVar(&req.Registry, "registry", "", "only what this registry lists no more")
	cmd.Flags().StringVar(&req.Instance, "instance", "", "only the instance with this id")
	return cmd
}

// releasedWords says what a release did.
func releasedWords(answer *adminv1.ReleaseHoldResponse) string {
	switch links := answer.GetLinks(); {
	case answer.GetDeleted():
		return "deleted with its " + count(answer.GetReleased(), "instance")
	case len(links) > 0 && answer.GetReleased() == 0:
		return count(uint64(len(links)), "link") + " let go"
	case len(links) > 0:
		return count(answer.GetReleased(), "hold") + " released and " + count(uint64(len(links)), "link") + " let go"
	}
	return count(answer.GetReleased(), "hold") + " released"
}

// headerWord makes of a name what can stand in metadata: printable ASCII.
func headerWord(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// holds notes what is held: a line for each registry, with how to end it.
func (k *checker) holds(list *adminv1.ListHoldsResponse, now time.Time) {
	type group struct {
		first    *adminv1.Hold
		services []string
		count    uint64
	}
	groups := map[[2]string]*group{}
	var order []*group
	for _, h := range list.GetHolds() {
		if h.GetService() == "" {
			k.heldWhole(h, now)
			continue
		}
		key := [2]string{h.GetCluster(), h.GetRegistry()}
		g := groups[key]
		if g == nil {
			g = &group{first: h}
			groups[key] = g
			order = append(order, g)
		}
		g.count++
		if s := holdService(h); !slices.Contains(g.services, s) && len(g.services) <= someServices {
			g.services = append(g.services, s)
		}
	}
	for _, g := range order {
		h, of := g.first, g.services
		if len(of) > someServices {
			of = append(slices.Clone(of[:someServices]), "others")
		}
		k.add(levelWarn, fmt.Sprintf("look whether they are gone: if so, farcall holds release %s --registry %s", h.GetCluster(), shellWord(h.GetRegistry())),
			"%s: %s no longer lists %s of %s since %s, held for another %s: %s",
			h.GetCluster(), h.GetRegistry(), count(g.count, "instance"), strings.Join(of, ", "), since(h.GetSince(), now), until(h.GetUntil(), now), h.GetDetail())
	}
	for _, g := range holders(list.GetAgents()) {
		k.heldByAgents(g, now)
	}
	if n := list.GetMore(); n > 0 {
		k.add(levelWarn, "farcall get holds --cluster ... lists them", "%s more", count(n, "hold"))
	}
	for _, u := range list.GetUnknown() {
		k.add(levelWarn, "see to "+cmp.Or(u.GetOwner(), "it that a synchronizer has the cluster in its configuration"), "%s: what is held is not known: %s", u.GetCluster(), u.GetWhy())
	}
	for _, id := range list.GetAgentsUnknown() {
		k.add(levelWarn, "see to "+id, "what agents hold that report to synchronizer %s is not known: it does not answer", id)
	}
}

// heldWhole notes a hold of all that a registry lists, or a cluster.
func (k *checker) heldWhole(h *adminv1.Hold, now time.Time) {
	if h.GetRegistry() == "" {
		k.add(levelWarn, "put it back into a synchronizer's configuration, or delete it: farcall holds release "+h.GetCluster(), "%s: %s", h.GetCluster(), h.GetDetail())
		return
	}
	k.add(levelWarn, fmt.Sprintf("start an agent that hears it, or let it go: farcall holds release %s --registry %s", h.GetCluster(), shellWord(h.GetRegistry())),
		"%s: %s: %s for another %s", h.GetCluster(), h.GetRegistry(), h.GetDetail(), until(h.GetUntil(), now))
}

// someServices is how many services are named of one registry's holds.
const someServices = 3

// shellWord quotes a name for a shell, where it needs to be.
func shellWord(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.@:/", r)
	}) {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}
