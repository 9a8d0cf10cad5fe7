package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/catalog"
)

// filter holds the flags that choose what is listed. Every verb takes those that its request
// knows.
type filter struct {
	cluster, namespace, service string
	health                      []string
	maxStaleness                time.Duration
}

func (f *filter) clusterFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.cluster, "cluster", "", "only of this cluster")
}

func (f *filter) namespaceFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.namespace, "namespace", "", "only of this namespace")
}

func (f *filter) instanceFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.service, "service", "", "only of this service")
	cmd.Flags().StringSliceVar(&f.health, "health", nil, "only of these healths: UNKNOWN, HEALTHY, UNHEALTHY, DRAINING, DISABLED")
}

func (f *filter) stalenessFlag(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&f.maxStaleness, "max-staleness", 0, "refuse an answer with a cluster confirmed longer ago; 0 takes any")
}

// staleness gives the demand, or nil where there is none.
func (f *filter) staleness() (*durationpb.Duration, error) {
	switch {
	case f.maxStaleness < 0:
		return nil, usagef("--max-staleness %s is below 0", f.maxStaleness)
	case f.maxStaleness == 0:
		return nil, nil
	}
	return durationpb.New(f.maxStaleness), nil
}

func (f *filter) healths() ([]catalogv1.Health, error) {
	var list []catalogv1.Health
	for _, word := range f.health {
		h, err := catalog.ParseHealth(word)
		if err != nil {
			return nil, usagef("--health: %w", err)
		}
		list = append(list, catalogv1.Health(h))
	}
	return list, nil
}

func (c *cli) getCommand() *cobra.Command {
	return group("get", "List what the synchronizer knows",
		c.getClusters(), c.getServices(), c.getInstances(), c.getAgents(), c.getPolicies(), c.getCordons(), c.getHolds())
}

func (c *cli) getClusters() *cobra.Command {
	var f filter
	cmd := &cobra.Command{
		Use: "clusters", Short: "List the clusters, how fresh each is, and its registries", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			staleness, err := f.staleness()
			if err != nil {
				return err
			}
			return c.once(cmd.Context(), "list clusters", func(ctx context.Context, a *admin) error {
				list, err := a.ListClusters(ctx, &adminv1.ListClustersRequest{MaxStaleness: staleness})
				if err != nil {
					return err
				}
				c.none(len(list.GetClusters()), "clusters")
				return c.print(list, func(w io.Writer) error { return clusterTable(w, list, c.cordonsFor(ctx, a)) })
			})
		},
	}
	f.stalenessFlag(cmd)
	return cmd
}

func (c *cli) getServices() *cobra.Command {
	var f filter
	cmd := &cobra.Command{
		Use: "services", Short: "List the services and in which clusters they are", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			staleness, err := f.staleness()
			if err != nil {
				return err
			}
			return c.once(cmd.Context(), "list services", func(ctx context.Context, a *admin) error {
				list, err := a.ListServices(ctx, &adminv1.ListServicesRequest{
					Cluster: f.cluster, Namespace: f.namespace, MaxStaleness: staleness,
				})
				if err != nil {
					return err
				}
				c.notes(list.GetClusters())
				c.none(len(list.GetServices()), "services")
				return c.print(list, func(w io.Writer) error { return serviceTable(w, list) })
			})
		},
	}
	f.clusterFlag(cmd)
	f.namespaceFlag(cmd)
	f.stalenessFlag(cmd)
	return cmd
}

func serviceTable(w io.Writer, list *adminv1.ListServicesResponse) error {
	var rows [][]string
	for _, s := range list.GetServices() {
		var instances, healthy uint32
		var where []string
		for _, k := range s.GetClusters() {
			instances += k.GetInstances()
			healthy += k.GetHealthy()
			where = append(where, fmt.Sprintf("%s %d/%d", k.GetCluster(), k.GetHealthy(), k.GetInstances()))
		}
		rows = append(rows, []string{
			s.GetNamespace(), s.GetName(), fmt.Sprintf("%d/%d", healthy, instances), strings.Join(where, ", "),
		})
	}
	return writeTable(w, []string{"NAMESPACE", "SERVICE", "HEALTHY", "CLUSTERS"}, rows)
}

func (c *cli) getInstances() *cobra.Command {
	var f filter
	cmd := &cobra.Command{
		Use: "instances", Short: "List the instances of all clusters", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			staleness, err := f.staleness()
			if err != nil {
				return err
			}
			health, err := f.healths()
			if err != nil {
				return err
			}
			return c.once(cmd.Context(), "list instances", func(ctx context.Context, a *admin) error {
				list, err := allInstances(ctx, a, &adminv1.ListInstancesRequest{
					Cluster: f.cluster, Namespace: f.namespace, Service: f.service, Health: health, MaxStaleness: staleness,
				})
				if err != nil {
					return err
				}
				c.notes(list.GetClusters())
				c.none(len(list.GetInstances()), "instances")
				return c.print(list, func(w io.Writer) error { return instanceTable(w, list) })
			})
		},
	}
	f.clusterFlag(cmd)
	f.namespaceFlag(cmd)
	f.instanceFlags(cmd)
	f.stalenessFlag(cmd)
	return cmd
}

// allInstances reads every page into one answer, whose clusters are those of the last page:
// the freshest word on them.
func allInstances(ctx context.Context, a *admin, req *adminv1.ListInstancesRequest) (*adminv1.ListInstancesResponse, error) {
	all := &adminv1.ListInstancesResponse{}
	for {
		page, err := a.ListInstances(ctx, req)
		if err != nil {
			return nil, err
		}
		all.Instances = append(all.Instances, page.GetInstances()...)
		all.Clusters = page.GetClusters()
		if page.GetNextPageToken() == "" {
			return all, nil
		}
		if page.GetNextPageToken() == req.GetPageToken() {
			return nil, errors.New("the synchronizer gives the same page again and again")
		}
		req.PageToken = page.GetNextPageToken()
	}
}

func instanceTable(w io.Writer, list *adminv1.ListInstancesResponse) error {
	ages := map[string]string{}
	for _, s := range list.GetClusters() {
		ages[s.GetCluster()] = age(s.GetAge())
	}
	var rows [][]string
	for _, i := range list.GetInstances() {
		rows = append(rows, []string{
			i.GetCluster(), i.GetNamespace(), i.GetService(), i.GetId(), hostPort(i.GetAddress(), i.GetPort()), i.GetRelay(),
			i.GetNode(), i.GetHealth().String(), strconv.FormatUint(uint64(i.GetWeight()), 10), locality(i.GetLocality()),
			i.GetRegistry(), ages[i.GetCluster()],
		})
	}
	return writeTable(w, []string{
		"CLUSTER", "NAMESPACE", "SERVICE", "ID", "ADDRESS", "RELAY", "NODE", "HEALTH", "WEIGHT", "LOCALITY", "REGISTRY", "AGE",
	}, rows)
}

func (c *cli) getAgents() *cobra.Command {
	var f filter
	cmd := &cobra.Command{
		Use: "agents", Short: "List the agents and the applications of each", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.once(cmd.Context(), "list agents", func(ctx context.Context, a *admin) error {
				list, err := a.ListAgents(ctx, &adminv1.ListAgentsRequest{Cluster: f.cluster})
				if err != nil {
					return err
				}
				c.none(len(list.GetAgents()), "agents")
				return c.print(list, func(w io.Writer) error { return agentTable(w, list) })
			})
		},
	}
	f.clusterFlag(cmd)
	return cmd
}

func agentTable(w io.Writer, list *adminv1.ListAgentsResponse) error {
	var rows [][]string
	for _, s := range list.GetAgents() {
		a, connected, revision, drifts := s.GetAgent(), "no", "", ""
		if s.GetConnected() {
			connected, revision = "yes", strconv.FormatInt(s.GetAppliedRevision(), 10)
			drifts = strconv.FormatUint(s.GetDrifts(), 10)
		}
		var apps []string
		for _, p := range a.GetApps() {
			apps = append(apps, fmt.Sprintf("%s/%s (%s)", p.GetNamespace(), p.GetId(), cmp.Or(p.GetProtocol(), "http")))
		}
		slices.Sort(apps)
		rows = append(rows, []string{
			a.GetCluster(), a.GetNode(), a.GetAddress(), connected, revision, drifts, locality(a.GetLocality()), a.GetVersion(), strings.Join(apps, ", "),
		})
	}
	return writeTable(w, []string{"CLUSTER", "NODE", "ADDRESS", "CONNECTED", "REVISION", "DRIFTS", "LOCALITY", "VERSION", "APPLICATIONS"}, rows)
}
