package synchronizer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/resolvers/intake"
)

// said is what one replica answered.
type said[T any] struct {
	replica string
	resp    T
	err     error
}

// everyReplica asks this replica and all others at once, and gives what each said, this one first.
func everyReplica[T any](ctx context.Context, s *Synchronizer, here func(context.Context) (T, error), there func(context.Context, adminv1.AdminClient) (T, error)) []said[T] {
	ctx, cancel := within(ctx, consultWithin)
	defer cancel()
	peers := s.peers()
	all := make([]said[T], 1+len(peers))
	var asking errgroup.Group
	asking.Go(func() error {
		resp, err := here(ctx)
		all[0] = said[T]{s.cfg.ReplicaID, resp, err}
		return nil
	})
	for n, p := range peers {
		asking.Go(func() error {
			all[n+1].replica = p.id
			all[n+1].err = s.call(p, func(c adminv1.AdminClient) (err error) {
				all[n+1].resp, err = there(ctx, c)
				return err
			})
			return nil
		})
	}
	_ = asking.Wait() // what went wrong is said beside the answers
	return all
}

// ListHolds tells what is held, of every cluster by the word of the replica that owns it. Other
// replicas read the same registries and may hold other things; they decide nothing. A cluster that
// nobody is configured for is held as a whole. What agents hold back of the registries that they read
// for themselves stands apart, by their own word.
func (a *admin) ListHolds(ctx context.Context, req *adminv1.ListHoldsRequest) (*adminv1.ListHoldsResponse, error) {
	if req.GetHere() {
		return a.holdsHere(req), nil
	}
	clusters, err := a.only(req.GetCluster())
	if err != nil {
		return nil, err
	}
	forwarded := proto.CloneOf(req)
	forwarded.Here = true
	answers := everyReplica(ctx, a.s,
		func(context.Context) (*adminv1.ListHoldsResponse, error) { return a.holdsHere(forwarded), nil },
		func(ctx context.Context, c adminv1.AdminClient) (*adminv1.ListHoldsResponse, error) {
			return c.ListHolds(ctx, forwarded)
		})
	resp := &adminv1.ListHoldsResponse{}
	taken := map[string]bool{} // replicas that speak for some cluster
	for _, k := range clusters {
		if a.unconfigured(k.Name) {
			resp.Clusters = append(resp.Clusters, k.Name)
			if req.GetNamespace() == "" && req.GetService() == "" {
				resp.Holds = append(resp.Holds, unconfiguredHold(k, time.Now()))
			}
			continue
		}
		x := speaker(answers, k)
		if x == nil {
			resp.Unknown = append(resp.Unknown, &adminv1.UnknownHolds{Cluster: k.Name, Owner: k.Meta.GetOwner(), Why: unheard(answers, k)})
			continue
		}
		resp.Clusters = append(resp.Clusters, k.Name)
		for _, h := range x.resp.GetHolds() {
			if h.GetCluster() == k.Name {
				resp.Holds = append(resp.Holds, h)
			}
		}
		if !taken[x.replica] {
			taken[x.replica] = true
			resp.More += x.resp.GetMore()
		}
	}
	gatherAgents(resp, answers)
	trimHolds(resp)
	trimAgents(resp)
	return resp, nil
}

// holdsHere tells what is held of the clusters that this replica owns.
func (a *admin) holdsHere(req *adminv1.ListHoldsRequest) *adminv1.ListHoldsResponse {
	f := intake.Filter{Name: catalog.Name{Namespace: req.GetNamespace(), Service: req.GetService()}}
	resp := &adminv1.ListHoldsResponse{}
	for name, in := range a.s.intakes {
		if req.GetCluster() != "" && req.GetCluster() != name || !a.s.hub.watchdog.owns(name) {
			continue
		}
		resp.Clusters = append(resp.Clusters, name)
		for _, h := range in.Holds() {
			if f.Match(h.Registry, h.ID) {
				resp.Holds = append(resp.Holds, holdProto(h))
			}
		}
		if ln := a.s.links[name]; ln != nil && f == (intake.Filter{}) {
			for _, l := range ln.Abandoned(time.Now()) {
				resp.Holds = append(resp.Holds, linkHold(name, l))
			}
		}
	}
	slices.Sort(resp.Clusters)
	resp.Agents = a.s.roster.held(req)
	trimHolds(resp)
	trimAgents(resp)
	return resp
}

func holdProto(h intake.Hold) *adminv1.Hold {
	return &adminv1.Hold{
		Cluster: h.ID.Cluster, Registry: h.Registry, Namespace: h.ID.Namespace, Service: h.ID.Service, Id: h.ID.Instance,
		Since: timestamppb.New(h.Since), Until: timestamppb.New(h.Until),
		Reason: string(h.Reason), Detail: strings.ToValidUTF8(h.Detail, "\uFFFD"),
	}
}

// owns reports whether this replica writes the cluster.
func (w *watchdog) owns(cluster string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, is := w.seen[cluster]
	return is
}

// trimHolds leaves out what one answer cannot carry, and counts it.
func trimHolds(resp *adminv1.ListHoldsResponse) {
	size := 0
	for n, h := range resp.GetHolds() {
		if size += proto.Size(h) + 8; size > maxAnswer {
			resp.More += uint64(len(resp.GetHolds()) - n)
			resp.Holds = resp.GetHolds()[:n]
			return
		}
	}
}

// speaker gives the answer that counts for a cluster: of the replica that the store has as its owner,
// else of any that says that it owns it; nil where none does.
func speaker(answers []said[*adminv1.ListHoldsResponse], k mirror.Cluster) (found *said[*adminv1.ListHoldsResponse]) {
	for n := range answers {
		x := &answers[n]
		if x.err != nil || !slices.Contains(x.resp.GetClusters(), k.Name) {
			continue
		}
		if found == nil || x.replica == k.Meta.GetOwner() {
			found = x
		}
	}
	return found
}

// unheard says in words why nobody speaks for a cluster.
func unheard[T any](answers []said[T], k mirror.Cluster) string {
	owner := k.Meta.GetOwner()
	if owner == "" {
		return "nobody owns it"
	}
	for _, x := range answers {
		switch {
		case x.replica != owner:
		case x.err != nil:
			return noAnswer("synchronizer "+owner, x.err)
		default:
			return fmt.Sprintf("synchronizer %s owned it, and nobody does now", owner)
		}
	}
	return fmt.Sprintf("synchronizer %s owned it and is gone, and nobody does now", owner)
}

// ReleaseHold ends holds at the cluster's owner, which writes what follows from it, and at every
// other replica that reads the cluster: none shall bring back what is gone when it takes over.
func (a *admin) ReleaseHold(ctx context.Context, req *adminv1.ReleaseHoldRequest) (*adminv1.ReleaseHoldResponse, error) {
	if req.GetCluster() == "" {
		return nil, status.Error(codes.InvalidArgument, "cluster is empty: name the cluster whose holds shall end")
	}
	if req.GetHere() {
		return a.releaseHere(ctx, req)
	}
	clusters, err := a.only(req.GetCluster())
	if err != nil {
		return nil, err
	}
	if a.unconfigured(req.GetCluster()) {
		return a.deleteCluster(ctx, req, clusters[0])
	}
	forwarded := proto.CloneOf(req)
	forwarded.Here = true
	answers := everyReplica(ctx, a.s,
		func(ctx context.Context) (*adminv1.ReleaseHoldResponse, error) { return a.releaseHere(ctx, forwarded) },
		func(ctx context.Context, c adminv1.AdminClient) (*adminv1.ReleaseHoldResponse, error) {
			return c.ReleaseHold(metadata.AppendToOutgoingContext(ctx, authorKey, author(ctx, "")), forwarded)
		})
	var done *adminv1.ReleaseHoldResponse
	var none error
	var warnings []string
	for _, x := range answers {
		switch {
		case status.Code(x.err) == codes.NotFound: // the owner's word, and nobody else's
			none = x.err
		case x.err != nil:
			warnings = append(warnings, noAnswer("synchronizer "+x.replica, x.err)+"; if it reads the cluster, it holds on for itself")
		case x.resp.GetOwner() != "" && (done == nil || x.replica == clusters[0].Meta.GetOwner()):
			done = x.resp
		}
	}
	switch {
	case done == nil && none != nil:
		return nil, none
	case done == nil:
		return nil, status.Errorf(codes.Unavailable, "it is not known that anything was released: %s", unheard(answers, clusters[0]))
	}
	done.Warnings = warnings
	return done, nil
}

// releaseHere ends holds in this replica.
func (a *admin) releaseHere(ctx context.Context, req *adminv1.ReleaseHoldRequest) (*adminv1.ReleaseHoldResponse, error) {
	in := a.s.intakes[req.GetCluster()]
	if in == nil {
		return &adminv1.ReleaseHoldResponse{}, nil
	}
	f := intake.Filter{
		Registry: req.GetRegistry(), Instance: req.GetInstance(),
		Name: catalog.Name{Namespace: req.GetNamespace(), Service: req.GetService()},
	}
	held, owns := in.Holds(), a.s.hub.watchdog.owns(req.GetCluster())
	released, err := in.Release(ctx, f)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	dropped := a.dropLinks(req)
	if len(released)+len(dropped) > 0 {
		a.s.log.Info("holds are released", "author", author(ctx, ""), "peer", peerAddress(ctx), "cluster", req.GetCluster(),
			"registry", req.GetRegistry(), "namespace", req.GetNamespace(), "service", req.GetService(), "instance", req.GetInstance(),
			"released", len(released), "links", dropped, "owner", owns)
	}
	switch {
	case !owns:
		return &adminv1.ReleaseHoldResponse{}, nil
	case len(released)+len(dropped) == 0:
		return nil, noSuchHold(req, held)
	}
	return &adminv1.ReleaseHoldResponse{Released: uint64(len(released)), Owner: a.s.cfg.ReplicaID, Links: dropped}, nil
}

// noSuchHold is NOT_FOUND with the nearest of what is held, in the words of the question.
func noSuchHold(req *adminv1.ReleaseHoldRequest, held []intake.Hold) error {
	words := func(registry, namespace, service, instance string) string {
		var named []string
		for _, x := range [][2]string{
			{req.GetRegistry(), registry}, {req.GetNamespace(), namespace}, {req.GetService(), service}, {req.GetInstance(), instance},
		} {
			if x[0] != "" {
				named = append(named, x[1])
			}
		}
		return strings.Join(named, "/")
	}
	asked := words(req.GetRegistry(), req.GetNamespace(), req.GetService(), req.GetInstance())
	if asked == "" {
		asked = "any instance"
	}
	var others []string
	for _, h := range held {
		others = append(others, words(h.Registry, h.ID.Namespace, h.ID.Service, h.ID.Instance))
	}
	return noSuch("hold in cluster "+req.GetCluster(), asked, slices.Compact(others))
}
