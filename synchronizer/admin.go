package synchronizer

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/mirror"
)

// maxPage is the most instances that one page holds.
const maxPage = 1000

// admin is what people ask. All of it is answered from the mirror.
type admin struct {
	adminv1.UnimplementedAdminServer
	s        *Synchronizer
	stopping context.Context
}

// ListClusters answers for every cluster in the store and every one that this replica is
// configured for, though it may not have been read yet.
func (a *admin) ListClusters(_ context.Context, req *adminv1.ListClustersRequest) (*adminv1.ListClustersResponse, error) {
	now := time.Now()
	clusters := a.clusters()
	if err := fresh(clusters, req.GetMaxStaleness()); err != nil {
		return nil, err
	}
	resp := &adminv1.ListClustersResponse{}
	for _, c := range clusters {
		out := &adminv1.Cluster{
			Name: c.Name, State: c.State.Proto(), Age: age(c), Epoch: c.Epoch,
			Owner: c.Meta.GetOwner(), Locality: c.Meta.GetLocality(), Labels: c.Meta.GetLabels(),
			Services: uint64(c.Services), Instances: uint64(c.Instances),
			Registries: a.s.statuses(c, now),
		}
		resp.Clusters = append(resp.Clusters, out)
	}
	return resp, nil
}

// clusters returns what the mirror knows plus the configured clusters that it does not.
func (a *admin) clusters() []mirror.Cluster {
	known := a.s.mirror.Clusters(time.Now())
	for name := range a.s.tables {
		if !slices.ContainsFunc(known, func(c mirror.Cluster) bool { return c.Name == name }) {
			known = append(known, mirror.Cluster{Name: name})
		}
	}
	slices.SortFunc(known, func(x, y mirror.Cluster) int { return strings.Compare(x.Name, y.Name) })
	return known
}

// only keeps the cluster named, all when name is empty; a name nobody knows is NOT_FOUND, so
// that a misspelling does not look like an empty cluster.
func (a *admin) only(name string) ([]mirror.Cluster, error) {
	all := a.clusters()
	if name == "" {
		return all, nil
	}
	var names []string
	for _, c := range all {
		if c.Name == name {
			return []mirror.Cluster{c}, nil
		}
		names = append(names, c.Name)
	}
	return nil, status.Errorf(codes.NotFound, "no cluster %q; known: %s", name, strings.Join(names, ", "))
}

func age(c mirror.Cluster) *durationpb.Duration {
	if !c.AgeKnown {
		return nil
	}
	return durationpb.New(c.Age)
}

func statuses(clusters []mirror.Cluster) []*adminv1.ClusterStatus {
	out := make([]*adminv1.ClusterStatus, 0, len(clusters))
	for _, c := range clusters {
		out = append(out, clusterStatus(c))
	}
	return out
}

func clusterStatus(c mirror.Cluster) *adminv1.ClusterStatus {
	return &adminv1.ClusterStatus{Cluster: c.Name, State: c.State.Proto(), Age: age(c)}
}

// fresh refuses when a cluster is older than its reader allows; a limit of 0 or none allows all.
func fresh(clusters []mirror.Cluster, limit *durationpb.Duration) error {
	if limit == nil {
		return nil
	}
	if err := limit.CheckValid(); err != nil || limit.AsDuration() <= 0 {
		return status.Error(codes.InvalidArgument, "max_staleness must be a positive duration")
	}
	for _, c := range clusters {
		word := ""
		switch {
		case c.State == catalog.StateUnknown:
			word = "was never synced"
		case !c.AgeKnown:
			word = "was not confirmed since this synchronizer started"
		case c.Age > limit.AsDuration():
			word = fmt.Sprintf("was last confirmed %s ago", c.Age.Round(time.Millisecond))
		default:
			continue
		}
		st := status.Newf(codes.Unavailable, "cluster %q %s; max_staleness is %s", c.Name, word, limit.AsDuration())
		if d, err := st.WithDetails(&errdetails.ErrorInfo{Reason: "STALE", Domain: "farcall.io", Metadata: map[string]string{"cluster": c.Name}}); err == nil {
			st = d
		}
		return st.Err()
	}
	return nil
}

// ListServices answers with every service and, per cluster, how many instances it has there.
func (a *admin) ListServices(_ context.Context, req *adminv1.ListServicesRequest) (*adminv1.ListServicesResponse, error) {
	clusters, err := a.only(req.GetCluster())
	if err != nil {
		return nil, err
	}
	if err := fresh(clusters, req.GetMaxStaleness()); err != nil {
		return nil, err
	}
	resp := &adminv1.ListServicesResponse{Clusters: statuses(clusters)}
	for _, n := range a.s.mirror.Names(req.GetCluster()) {
		if req.GetNamespace() != "" && req.GetNamespace() != n.Namespace {
			continue
		}
		svc := &adminv1.Service{Namespace: n.Namespace, Name: n.Service}
		for _, c := range clusters {
			list, known := a.s.mirror.Instances(c.Name, n)
			if !known {
				continue
			}
			in := &adminv1.ServiceInCluster{Cluster: c.Name, Instances: uint32(len(list))}
			for _, i := range list {
				if i.Health.Serving() {
					in.Healthy++
				}
			}
			svc.Clusters = append(svc.Clusters, in)
		}
		resp.Services = append(resp.Services, svc)
	}
	return resp, nil
}

// filter is which instances a caller asked for; empty fields ask for all.
type filter struct {
	cluster, namespace, service string
	health                      []catalogv1.Health
}

func (f filter) name(n catalog.Name) bool {
	return (f.namespace == "" || f.namespace == n.Namespace) && (f.service == "" || f.service == n.Service)
}

func (f filter) instance(i *catalog.Instance) bool {
	return len(f.health) == 0 || slices.Contains(f.health, catalogv1.Health(i.Health))
}

// each calls yield for the instances that f asks for, in identity order, those after `after`
// only, until yield returns false.
func (a *admin) each(f filter, clusters []mirror.Cluster, after string, yield func(*catalog.Instance) bool) {
	for _, c := range clusters {
		for _, n := range a.s.mirror.Names(c.Name) {
			if !f.name(n) {
				continue
			}
			list, _ := a.s.mirror.Instances(c.Name, n)
			for _, i := range list {
				if !f.instance(i) || after != "" && pageKey(i) <= after {
					continue
				}
				if !yield(i) {
					return
				}
			}
		}
	}
}

// pageKey orders instances as each visits them; NUL stands in no name.
func pageKey(i *catalog.Instance) string {
	return i.Cluster + "\x00" + i.Namespace + "\x00" + i.Service + "\x00" + i.Instance
}

// ListInstances answers with a page of what was asked for. Pages are cut by identity: what
// changes between two pages is neither listed twice nor pushes another out.
func (a *admin) ListInstances(_ context.Context, req *adminv1.ListInstancesRequest) (*adminv1.ListInstancesResponse, error) {
	clusters, err := a.only(req.GetCluster())
	if err != nil {
		return nil, err
	}
	if err := fresh(clusters, req.GetMaxStaleness()); err != nil {
		return nil, err
	}
	size := int(req.GetPageSize())
	if size < 0 || size > maxPage {
		return nil, status.Errorf(codes.InvalidArgument, "page_size %d is not in 0 to %d", size, maxPage)
	}
	if size == 0 {
		size = maxPage
	}
	after, err := base64.RawURLEncoding.DecodeString(req.GetPageToken())
	if err != nil || len(after) > 0 && strings.Count(string(after), "\x00") != 3 {
		return nil, status.Error(codes.InvalidArgument, "page_token is not one that this API gave")
	}
	f := filter{req.GetCluster(), req.GetNamespace(), req.GetService(), req.GetHealth()}
	resp := &adminv1.ListInstancesResponse{Clusters: statuses(clusters)}
	last := ""
	a.each(f, clusters, string(after), func(i *catalog.Instance) bool {
		if len(resp.Instances) == size {
			resp.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(last))
			return false
		}
		resp.Instances = append(resp.Instances, i.Proto())
		last = pageKey(i)
		return true
	})
	return resp, nil
}

// ListAgents answers with every agent's record, and whether it reports to this replica now.
func (a *admin) ListAgents(_ context.Context, req *adminv1.ListAgentsRequest) (*adminv1.ListAgentsResponse, error) {
	if _, err := a.only(req.GetCluster()); err != nil {
		return nil, err
	}
	resp := &adminv1.ListAgentsResponse{}
	for _, r := range a.s.mirror.Agents() {
		if req.GetCluster() != "" && req.GetCluster() != r.GetCluster() || req.GetNode() != "" && req.GetNode() != r.GetNode() {
			continue
		}
		resp.Agents = append(resp.Agents, a.s.roster.status(r))
	}
	return resp, nil
}

// WatchInstances sends the list as it is, then every change, until the caller goes.
func (a *admin) WatchInstances(req *adminv1.WatchInstancesRequest, stream grpc.ServerStreamingServer[adminv1.WatchInstancesResponse]) error {
	if _, err := a.only(req.GetCluster()); err != nil {
		return err
	}
	f := filter{req.GetCluster(), req.GetNamespace(), req.GetService(), req.GetHealth()}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	stop := context.AfterFunc(a.stopping, cancel)
	defer stop()
	w := &instanceWatch{admin: a, filter: f, send: stream.Send, have: map[catalog.ID]*catalog.Instance{}, states: map[string]catalog.ClusterState{}}
	return streamEnd(stream.Context(), w.run(ctx))
}
