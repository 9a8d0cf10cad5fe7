package synchronizer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/internal/store"
)

// Cordon takes a cluster, or one service in it, out of everybody's choice. One that is cordoned
// already is cordoned anew: with this reason, and until then.
func (a *admin) Cordon(ctx context.Context, req *adminv1.CordonRequest) (*adminv1.CordonResponse, error) {
	m := &policyv1.Cordon{}
	if req.GetCordon() != nil {
		m = proto.CloneOf(req.GetCordon())
	}
	now := time.Now()
	if err := expiry(m, req, now); err != nil {
		return nil, badPolicy(err)
	}
	m.Revision, m.Author = 0, author(ctx, m.GetAuthor())
	if m.GetSince() == nil {
		m.Since = timestamppb.New(now)
	}
	c, err := policy.CordonFromProto(m)
	if err != nil {
		return nil, badPolicy(err)
	}
	revision, err := a.s.store.PutCordon(ctx, c, store.Condition{Agree: a.agree(func(all mirror.Policies) error {
		was := 0
		if old := cordonOf(all.Set, c.Cluster, c.Name); old != nil {
			was = proto.Size(old.Proto())
		}
		return room(all, was, len(all.Set.Cordons()), maxCordons, "cordons", proto.Size(m))
	})})
	if err != nil {
		return nil, writeStatus(ctx, "cordon of "+c.String(), nil, err)
	}
	a.audit(ctx, c.Author, revision).Info("cordon is put", "cordon", c.String(), "reason", c.Reason, "expires", c.Expires)
	a.s.await(ctx, revision)
	resp := &adminv1.CordonResponse{Cordon: c.Proto(), Warnings: c.Warnings(a.clusterNames())}
	resp.Cordon.Revision = revision
	return resp, nil
}

// expiry checks when a cordon shall end, and reckons it where only a time to live is given.
func expiry(m *policyv1.Cordon, req *adminv1.CordonRequest, now time.Time) error {
	mistake := func(path, format string, args ...any) error {
		return policy.Errors{{Path: path, Text: fmt.Sprintf(format, args...)}}
	}
	ttl := req.GetTtl()
	switch {
	case ttl != nil && m.GetExpires() != nil:
		return mistake("ttl", "stands beside expires: want one of them")
	case ttl != nil && (ttl.CheckValid() != nil || ttl.AsDuration() <= 0):
		return mistake("ttl", "must be a positive duration")
	case ttl != nil:
		m.Expires = timestamppb.New(now.Add(ttl.AsDuration()))
	}
	switch e := m.GetExpires(); {
	case e == nil:
	case e.CheckValid() != nil:
		return mistake("expires", "is not a time")
	case !e.AsTime().After(now):
		return mistake("expires", "%s is over already: it is %s here", e.AsTime().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// Uncordon takes a cordon back.
func (a *admin) Uncordon(ctx context.Context, req *adminv1.UncordonRequest) (*adminv1.UncordonResponse, error) {
	c, err := policy.CordonFromProto(&policyv1.Cordon{Cluster: req.GetCluster(), Namespace: req.GetNamespace(), Service: req.GetService()})
	if err != nil {
		return nil, badPolicy(err)
	}
	revision, err := a.s.store.DeleteCordon(ctx, c.Cluster, c.Name, store.Condition{Agree: a.agree(nil)})
	if errors.Is(err, store.ErrNoPolicy) {
		var others []string
		for _, o := range a.s.mirror.Policies().Set.Cordons() {
			others = append(others, o.String())
		}
		return nil, noSuch("cordon", c.String(), others)
	}
	if err != nil {
		return nil, writeStatus(ctx, "cordon of "+c.String(), nil, err)
	}
	a.audit(ctx, author(ctx, ""), revision).Info("cordon is taken back", "cordon", c.String())
	a.s.await(ctx, revision)
	return &adminv1.UncordonResponse{Revision: revision}, nil
}

// ListCordons lists the cordons in force. One that has expired is in force no more, though it may
// not have been removed yet.
func (a *admin) ListCordons(context.Context, *adminv1.ListCordonsRequest) (*adminv1.ListCordonsResponse, error) {
	all := a.s.mirror.Policies()
	if !all.Known {
		return nil, errUnread
	}
	now := time.Now()
	resp := &adminv1.ListCordonsResponse{Revision: all.Set.Revision()}
	for _, c := range all.Set.Cordons() {
		if c.Expires.IsZero() || c.Expires.After(now) {
			resp.Cordons = append(resp.Cordons, c.Proto())
		}
	}
	return resp, nil
}

func cordonOf(set *policy.Set, cluster string, n catalog.Name) *policy.Cordon {
	for _, c := range set.Cordons() {
		if c.Cluster == cluster && c.Name == n {
			return c
		}
	}
	return nil
}
