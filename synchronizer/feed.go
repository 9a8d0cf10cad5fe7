package synchronizer

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
)

// feed is the agents' side of the gRPC listener.
type feed struct {
	feedv1.UnimplementedFeedServer
	s *Synchronizer
	// stopping ends the streams when the synchronizer stops.
	stopping context.Context
}

// Watch streams the federation's entries to one agent until it goes or the synchronizer stops.
func (f *feed) Watch(req *feedv1.WatchRequest, stream grpc.ServerStreamingServer[feedv1.WatchResponse]) error {
	if req.GetFederation() != "" && req.GetFederation() != f.s.cfg.Federation {
		return wrongFederation(f.s.cfg.Federation, req.GetFederation())
	}
	if err := f.speaker(stream.Context(), req.GetCluster(), req.GetNode()); err != nil {
		return err
	}
	ctx, cancel := f.until(stream.Context())
	defer cancel()
	f.s.metrics.readers.Inc()
	defer f.s.metrics.readers.Dec()
	r := f.s.hub.follow(req)
	defer r.close(req)
	for first := true; ; first = false {
		m, err := r.Next(ctx)
		if err != nil {
			return streamEnd(stream.Context(), err)
		}
		if first {
			m = &feedv1.WatchResponse{
				StoreId: m.GetStoreId(), Revision: m.GetRevision(), SnapshotBegin: m.GetSnapshotBegin(),
				SnapshotEnd: m.GetSnapshotEnd(), Entries: m.GetEntries(), Drifted: m.GetDrifted(), Digest: m.GetDigest(), Federation: f.s.cfg.Federation,
			}
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
}

// Report takes what one agent says of itself until it goes.
func (f *feed) Report(stream grpc.ClientStreamingServer[feedv1.ReportRequest, feedv1.ReportResponse]) error {
	ctx, cancel := f.until(stream.Context())
	defer cancel()
	ours := f.s.cfg.Federation
	seat := (*seat)(nil)
	defer func() { f.s.roster.leave(seat) }()
	for {
		req, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return stream.SendAndClose(&feedv1.ReportResponse{})
		case err != nil:
			return err
		}
		if theirs := req.GetFederation(); theirs != ours {
			return wrongFederation(ours, theirs)
		}
		if seat == nil {
			if err := f.speaker(ctx, req.GetAgent().GetCluster(), req.GetAgent().GetNode()); err != nil {
				return err
			}
			if err := f.s.claimed(ctx, req.GetAgent()); err != nil {
				return err
			}
			if seat, err = f.s.roster.sit(req.GetAgent()); err != nil {
				return err
			}
		}
		if err := f.s.roster.report(ctx, seat, req); err != nil {
			return err
		}
	}
}

func wrongFederation(ours, theirs string) error {
	return status.Errorf(codes.FailedPrecondition, "this synchronizer serves federation %q, the agent belongs to %q", ours, theirs)
}

// until derives a context that also ends when the synchronizer stops.
func (f *feed) until(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(f.stopping, cancel)
	return ctx, func() { stop(); cancel() }
}

// streamEnd is the status of a stream that ended because of a context: the reader's own, or
// this synchronizer's stopping.
func streamEnd(streamCtx context.Context, err error) error {
	if streamCtx.Err() != nil {
		return status.FromContextError(streamCtx.Err()).Err()
	}
	if errors.Is(err, context.Canceled) {
		return status.Error(codes.Unavailable, "the synchronizer is stopping")
	}
	return err
}

func checkNode(cluster, node string) error {
	if err := catalog.CheckClusterName(cluster); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if err := catalog.CheckNode(node); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return nil
}
