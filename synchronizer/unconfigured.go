package synchronizer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/synchronizer/links"
)

// The words for why more than single instances is held.
const (
	heldUnconfigured = "unconfigured" // no living replica is configured for the cluster
	heldUnreported   = "unreported"   // no agent reports the link
)

// unconfigured reports whether a cluster is in the store that no living replica is configured for.
// Its list stays: a line that is missing in a file is no word on what the cluster's registries have.
func (a *admin) unconfigured(cluster string) bool {
	replicas, known := a.s.mirror.Configured(cluster)
	return known && len(replicas) == 0 && a.s.tables[cluster] == nil
}

// unconfiguredHold tells of such a cluster as of one hold that does not end by itself.
func unconfiguredHold(k mirror.Cluster, now time.Time) *adminv1.Hold {
	h := &adminv1.Hold{
		Cluster: k.Name, Reason: heldUnconfigured,
		Detail: fmt.Sprintf("no synchronizer has it in its configuration: its %s of %s stay until one has, or until it is released",
			plural(k.Instances, "instance"), plural(k.Services, "service")),
	}
	if k.AgeKnown {
		h.Since = timestamppb.New(now.Add(-k.Age))
	}
	return h
}

// linkHold tells of a link that no agent reports any more as of one hold.
func linkHold(cluster string, l links.Abandoned) *adminv1.Hold {
	detail := "no agent reports it"
	if l.Reporter != "" {
		detail += "; " + l.Reporter + " did last"
	}
	return &adminv1.Hold{
		Cluster: cluster, Registry: l.Name, Reason: heldUnreported,
		Since: timestamppb.New(l.Since), Until: timestamppb.New(l.Until),
		Detail: detail + ": its " + plural(l.Instances, "instance") + " stay",
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// deleteCluster releases a cluster that no replica is configured for: its keys go, and with them its
// list at every agent.
func (a *admin) deleteCluster(ctx context.Context, req *adminv1.ReleaseHoldRequest, k mirror.Cluster) (*adminv1.ReleaseHoldResponse, error) {
	if req.GetRegistry()+req.GetNamespace()+req.GetService()+req.GetInstance() != "" {
		return nil, status.Errorf(codes.InvalidArgument, "cluster %s is held as a whole, for no synchronizer has it in its configuration: release it without naming a part of it", k.Name)
	}
	gone, err := a.s.store.DeleteCluster(ctx, k.Name)
	switch {
	case errors.Is(err, store.ErrConfigured):
		return nil, status.Errorf(codes.FailedPrecondition, "cluster %s is not deleted: %v", k.Name, err)
	case err != nil:
		return nil, status.Errorf(codes.Unavailable, "it is not known that cluster %s was deleted: %v", k.Name, err)
	}
	a.s.log.Info("cluster is released and deleted", "author", author(ctx, ""), "peer", peerAddress(ctx), "cluster", k.Name,
		"services", k.Services, "instances", k.Instances, "keys", gone)
	return &adminv1.ReleaseHoldResponse{Released: uint64(k.Instances), Owner: a.s.cfg.ReplicaID, Deleted: true}, nil
}

// dropLinks lets go of the links that no agent reports any more and that a release names. It gives
// their names.
func (a *admin) dropLinks(req *adminv1.ReleaseHoldRequest) []string {
	ln := a.s.links[req.GetCluster()]
	if ln == nil || req.GetNamespace()+req.GetService()+req.GetInstance() != "" {
		return nil
	}
	return ln.Drop(time.Now(), func(name string) bool { return req.GetRegistry() == "" || req.GetRegistry() == name })
}
