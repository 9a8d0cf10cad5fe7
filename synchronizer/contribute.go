package synchronizer

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers/intake"
	"github.com/farcall/farcall/synchronizer/links"
)

// viaAgents is the value of ClusterMeta.via of a cluster that its own agents read.
const viaAgents = "agents"

// contributeStream is one agent's Contribute.
type contributeStream = grpc.BidiStreamingServer[feedv1.ContributeRequest, feedv1.ContributeResponse]

// Contribute takes what one agent hears of its cluster's registries until it goes, and tells it
// what it is to report. What it is told waits in its Contributor, never in the way of others.
func (f *feed) Contribute(stream contributeStream) error {
	req, err := stream.Recv()
	if err != nil {
		return endOfRecv(err)
	}
	x, err := f.join(stream.Context(), req.GetContributor())
	if err != nil {
		return err
	}
	ctx, cancel := f.until(stream.Context())
	var telling sync.WaitGroup
	// In this order: the place is free before the last word to the agent is out.
	defer telling.Wait()
	defer func() {
		cancel()
		x.Leave(time.Now())
	}()
	telling.Go(func() { tell(ctx, stream, x) })
	for first := true; ; first = false {
		if !first && req.GetContributor() != nil {
			return status.Error(codes.InvalidArgument, "only the first message of a stream names the contributor")
		}
		if err := x.Take(time.Now(), req); err != nil {
			return err
		}
		if req, err = stream.Recv(); err != nil {
			return endOfRecv(err)
		}
	}
}

// join checks who contributes and to what.
func (f *feed) join(ctx context.Context, who *feedv1.Contributor) (*links.Contributor, error) {
	if who == nil {
		return nil, status.Error(codes.InvalidArgument, "the first message must name the contributor")
	}
	if theirs := who.GetFederation(); theirs != f.s.cfg.Federation {
		return nil, wrongFederation(f.s.cfg.Federation, theirs)
	}
	if err := f.speaker(ctx, who.GetCluster(), who.GetNode()); err != nil {
		return nil, err
	}
	name := who.GetCluster()
	switch ln := f.s.links[name]; {
	case ln != nil:
		return ln.Join(time.Now(), who)
	case f.s.tables[name] != nil:
		return nil, status.Errorf(codes.FailedPrecondition, "cluster %q is not read via its agents: the synchronizer reads its registries itself", name)
	}
	known := strings.Join(slices.Sorted(maps.Keys(f.s.tables)), ", ")
	return nil, status.Errorf(codes.NotFound, "this synchronizer is not configured for a cluster %q; it is for: %s", name, known)
}

// tell sends what the agent is to be told until ctx is done or the stream is.
func tell(ctx context.Context, stream contributeStream, x *links.Contributor) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-x.Wake():
		}
		if m := x.Next(); m != nil {
			if err := stream.Send(m); err != nil {
				return // the stream is broken, and whoever receives from it learns why
			}
		}
	}
}

// endOfRecv is what a stream returns whose client has finished, or gone.
func endOfRecv(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// newLinks makes the links of a cluster that its agents read.
func (s *Synchronizer) newLinks(cluster string, m *links.Metrics) *links.Cluster {
	return links.New(cluster, links.Deps{
		Log: s.log, Metrics: m,
		Registries: s.intakes[cluster],
		Known:      func() []links.Known { return knownLinks(s.mirror.Meta(cluster)) },
		Stored:     func(link string) []*catalog.Instance { return s.stored(cluster, link) },
		Reported:   s.tables[cluster].signal,
	})
}

// knownLinks gives the links that the store has of a cluster, which is described as meta says.
func knownLinks(meta *storev1.ClusterMeta) []links.Known {
	if meta.GetVia() != viaAgents {
		return nil // it was read otherwise before: those were no links
	}
	var out []links.Known
	for _, r := range meta.GetRegistries() {
		if r.GetName() != links.Apps {
			out = append(out, links.Known{Name: r.GetName(), Reporter: r.GetReporter()})
		}
	}
	return out
}

// stored gives the instances that the store holds of one registry.
func (s *Synchronizer) stored(cluster, registry string) []*catalog.Instance {
	var out []*catalog.Instance
	for _, n := range s.mirror.Names(cluster) {
		list, _ := s.mirror.Instances(cluster, n)
		for _, i := range list {
			if i.Registry == registry {
				out = append(out, i)
			}
		}
	}
	return out
}

// adopt makes known what the store has of all clusters, and lets those begin that wait for it.
func (s *Synchronizer) adopt(ctx context.Context) error {
	select {
	case <-s.hub.listed:
	case <-ctx.Done():
		return ctx.Err()
	}
	for cluster, ln := range s.links {
		ln.Adopt(time.Now(), knownLinks(s.mirror.Meta(cluster)))
	}
	now := time.Now()
	for cluster, in := range s.intakes {
		in.Adopt(intake.Baseline{Registries: s.before(now, cluster)})
	}
	close(s.adopted)
	return nil
}

// whenAdopted runs f once what the store holds is known.
func (s *Synchronizer) whenAdopted(ctx context.Context, f func() error) error {
	select {
	case <-s.adopted:
		return f()
	case <-ctx.Done():
		return ctx.Err()
	}
}
