package synchronizer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	caller "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/nearest"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/internal/store"
)

// Every agent holds all policies and cordons, and brings all of them back in one report where a
// store has lost them; gRPC's readers take 4 MiB. How large a single one may be is said by package
// policy.
const (
	maxPolicies    = 10_000
	maxCordons     = 10_000
	maxStatedBytes = 3 << 20
)

// seenWithin is how long a write that is made waits until this replica has seen it, so that who
// wrote it finds it in the next list.
const seenWithin = time.Second

// authorKey is the metadata in which a caller may say who it speaks for.
const authorKey = "farcall-author"

// errUnread is the answer of a replica that has not read the policies for the first time.
var errUnread = status.Error(codes.Unavailable, "the policies were not read from the store yet")

// PutPolicy writes one policy. It is in force where it stands in the feed, a moment after.
func (a *admin) PutPolicy(ctx context.Context, req *adminv1.PutPolicyRequest) (*adminv1.PutPolicyResponse, error) {
	m := &policyv1.Policy{}
	if req.GetPolicy() != nil {
		m = proto.CloneOf(req.GetPolicy())
	}
	m.Revision, m.Since, m.Author = 0, timestamppb.Now(), author(ctx, m.GetAuthor())
	p, err := policy.FromProto(m)
	if err != nil {
		return nil, badPolicy(err)
	}
	revision, err := a.s.store.PutPolicy(ctx, p, store.Condition{
		IfRevision: req.IfRevision,
		Agree: a.agree(func(all mirror.Policies) error {
			if other, overlaps := all.Set.Overlap(p); overlaps {
				return badPolicy(overlapping(other))
			}
			was := 0
			if old := all.Set.Policy(p.ID()); old != nil {
				was = proto.Size(old.Proto())
			}
			return room(all, was, len(all.Set.Policies()), maxPolicies, "policies", proto.Size(p.Proto()))
		}),
	})
	if err != nil {
		return nil, writeStatus(ctx, "policy "+p.String(), req.IfRevision, err)
	}
	a.audit(ctx, p.Author, revision).Info("policy is put", "policy", p.String())
	a.s.await(ctx, revision)
	resp := &adminv1.PutPolicyResponse{Policy: p.Proto(), Warnings: a.s.mirror.Policies().Set.Warnings(p, a.clusterNames())}
	resp.Policy.Revision = revision
	return resp, nil
}

// DeletePolicy takes one policy back.
func (a *admin) DeletePolicy(ctx context.Context, req *adminv1.DeletePolicyRequest) (*adminv1.DeletePolicyResponse, error) {
	target, err := policy.TargetFromProto(req.GetTarget())
	if err != nil {
		return nil, badPolicy(err)
	}
	p := &policy.Policy{Target: target, From: slices.Compact(slices.Sorted(slices.Values(req.GetFrom())))}
	if _, from, err := policy.ParseID(p.ID()); err != nil || !slices.Equal(from, p.From) {
		return nil, badPolicy(policy.Errors{{Path: "from", Text: fmt.Sprintf("%q is not what a policy of %s can have", req.GetFrom(), target)}})
	}
	revision, err := a.s.store.DeletePolicy(ctx, p.ID(), store.Condition{IfRevision: req.IfRevision, Agree: a.agree(nil)})
	if errors.Is(err, store.ErrNoPolicy) {
		var others []string
		for _, o := range a.s.mirror.Policies().Set.Policies() {
			others = append(others, o.String())
		}
		return nil, noSuch("policy", p.String(), others)
	}
	if err != nil {
		return nil, writeStatus(ctx, "policy "+p.String(), req.IfRevision, err)
	}
	a.audit(ctx, author(ctx, ""), revision).Info("policy is deleted", "policy", p.String())
	a.s.await(ctx, revision)
	return &adminv1.DeletePolicyResponse{Revision: revision}, nil
}

// ListPolicies lists what this replica has from the store, and who follows it at any replica.
func (a *admin) ListPolicies(ctx context.Context, req *adminv1.ListPoliciesRequest) (*adminv1.ListPoliciesResponse, error) {
	all := a.s.mirror.Policies()
	if !all.Known {
		return nil, errUnread
	}
	resp := &adminv1.ListPoliciesResponse{Revision: all.Set.Revision()}
	f := a.s.roster.follows(resp.GetRevision())
	resp.Agents, resp.Applied, resp.Refused = f.agents, f.applied, f.refused
	if req.GetHere() {
		return resp, nil
	}
	names := a.clusterNames()
	for _, p := range all.Set.Policies() {
		resp.Policies = append(resp.Policies, &adminv1.PolicyStatus{Policy: p.Proto(), Warnings: all.Set.Warnings(p, names)})
	}
	for _, why := range all.Refused {
		resp.Refused = append(resp.Refused, "synchronizer "+a.s.cfg.ReplicaID+": "+why)
	}
	a.askFollowers(ctx, resp)
	return resp, nil
}

// askFollowers adds those who follow other replicas. One that does not answer is not counted: its
// agents will be at another before long.
func (a *admin) askFollowers(ctx context.Context, resp *adminv1.ListPoliciesResponse) {
	ctx, cancel := within(ctx, consultWithin)
	defer cancel()
	peers := a.s.peers()
	answers := make([]*adminv1.ListPoliciesResponse, len(peers))
	var asking errgroup.Group
	for n, p := range peers {
		asking.Go(func() error {
			return a.s.call(p, func(c adminv1.AdminClient) error {
				theirs, err := c.ListPolicies(ctx, &adminv1.ListPoliciesRequest{Here: true}, grpc.WaitForReady(false))
				if err != nil {
					a.s.log.Debug("another replica does not say who follows the policies", "replica", p.id, "error", err)
					return nil
				}
				answers[n] = theirs
				return nil
			})
		})
	}
	_ = asking.Wait() // who does not answer is not counted
	for _, theirs := range answers {
		resp.Agents += theirs.GetAgents()
		// A replica that is behind speaks of another revision.
		if theirs.GetRevision() >= resp.GetRevision() {
			resp.Applied += theirs.GetApplied()
		}
		resp.Refused = append(resp.Refused, theirs.GetRefused()...)
	}
	slices.Sort(resp.Refused)
}

// agree has a write wait until this replica holds exactly what the write is made upon, and then asks
// whether it may be made.
func (a *admin) agree(may func(mirror.Policies) error) func(context.Context, uint64) error {
	return func(ctx context.Context, revision uint64) error {
		all, err := a.s.policiesAt(ctx, revision)
		if err != nil || may == nil {
			return err
		}
		return may(all)
	}
}

// policiesAt waits until this replica has seen a revision of policies and cordons, and the store has
// all that was in force before.
func (s *Synchronizer) policiesAt(ctx context.Context, revision uint64) (mirror.Policies, error) {
	for {
		changed := s.hub.policiesChanged()
		all := s.mirror.Policies()
		if all.Known && !all.Behind && all.Seen >= revision {
			return all, nil
		}
		select {
		case <-ctx.Done():
			return all, fmt.Errorf("this replica has not seen revision %d of the policies yet: %w", revision, ctx.Err())
		case <-changed:
		}
	}
}

// await waits a moment until this replica has seen a revision. That it has not is no error: it is
// written.
func (s *Synchronizer) await(ctx context.Context, revision uint64) {
	ctx, cancel := context.WithTimeout(ctx, seenWithin)
	defer cancel()
	_, _ = s.policiesAt(ctx, revision)
}

// room says why there is none for a policy or cordon of size bytes, in the place of one of was bytes;
// 0 where it is a new one.
func room(all mirror.Policies, was, have, most int, what string, size int) error {
	switch more := size - was; {
	case was == 0 && have >= most:
		return status.Errorf(codes.ResourceExhausted, "there are %d %s already, which is the most", have, what)
	case more > 0 && all.Size+more > maxStatedBytes:
		return status.Errorf(codes.ResourceExhausted, "there is no room for %d bytes more: all policies and cordons take %d of at most %d", more, all.Size, maxStatedBytes)
	}
	return nil
}

// clusterNames gives the clusters that somebody has heard of.
func (a *admin) clusterNames() []string {
	clusters := a.clusters()
	names := make([]string, 0, len(clusters))
	for _, c := range clusters {
		names = append(names, c.Name)
	}
	return names
}

// author is who a caller says it speaks for: in its metadata, or in what it writes; where it says
// nothing, the address that it calls from.
func author(ctx context.Context, written string) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if said := md.Get(authorKey); len(said) > 0 && said[0] != "" {
		return said[0]
	}
	if written != "" {
		return written
	}
	return peerAddress(ctx)
}

func peerAddress(ctx context.Context) string {
	if p, ok := caller.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return ""
}

// audit gives the log for a change of policies or cordons, with who made it and the revision it
// made.
func (a *admin) audit(ctx context.Context, author string, revision uint64) *slog.Logger {
	return a.s.log.With("author", author, "peer", peerAddress(ctx), "revision", revision)
}

// writeStatus maps why something was not written.
func writeStatus(ctx context.Context, what string, wanted *uint64, err error) error {
	var other *store.RevisionError
	var said interface{ GRPCStatus() *status.Status }
	switch {
	case errors.As(err, &other):
		st := status.Newf(codes.Aborted, "%s: %v; it was to be written at revision %d only", what, other, *wanted)
		info := &errdetails.ErrorInfo{
			Reason: "REVISION", Domain: "farcall.io",
			Metadata: map[string]string{"revision": strconv.FormatUint(other.Stored, 10)},
		}
		if d, err := st.WithDetails(info); err == nil {
			st = d
		}
		return st.Err()
	case errors.As(err, &said):
		return said.GRPCStatus().Err()
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	}
	return status.Errorf(codes.Unavailable, "%s: it is not known to be written: %v", what, err)
}

// noSuch is NOT_FOUND with the nearest of what there is, so that a misspelling is seen at once.
func noSuch(what, name string, others []string) error {
	word, near := nearest.Word(name, others)
	hint := "there is none at all"
	switch {
	case near:
		hint = fmt.Sprintf("did you mean %q?", word)
	case word != "":
		hint = fmt.Sprintf("the nearest is %q", word)
	}
	return status.Errorf(codes.NotFound, "there is no %s of %s; %s", what, name, hint)
}
