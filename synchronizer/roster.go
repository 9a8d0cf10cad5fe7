package synchronizer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/store"
)

// What is kept and listed of the policies that agents refuse: so many of one agent, of so many bytes
// each, and so many of all. A thousand agents that are older than a policy must not make the list of
// policies too large to be answered.
const (
	maxRefused     = 32
	maxRefusedText = 512
	maxRefusedAll  = 1000
)

const (
	// maxAsks is how many agents' words are taken to the store at a time.
	maxAsks = 32
	// reportsWithin is how long a live agent may be silent: it reports every 5 s, and has 2 s to spare. A
	// place of which nothing was heard for longer is free for the agent's next life. That of a host that
	// lost its power closes no connection, and a connection's own keepalive takes 15 s.
	reportsWithin = 7 * time.Second
	// hearAgain is how long what was put into the store may take to be heard of from it.
	hearAgain = 2 * time.Second
)

// roster is which agents report to this replica, and what they last said.
type roster struct {
	store  *store.Store
	member *store.Member
	mirror *mirror.Mirror
	log    *slog.Logger
	tables map[string]*table // the clusters that this replica may own
	audits *auditor
	// asks bounds how many agents' words are taken to the store at a time: a thousand that come back at
	// once would keep it from everything else.
	asks *semaphore.Weighted

	// mu guards seats.
	mu    sync.Mutex
	seats map[mirror.AgentKey]*seat
}

// seat is one agent's Report stream. The roster's mu guards its fields.
type seat struct {
	key         mirror.AgentKey
	incarnation string
	revision    int64
	policies    uint64           // the revision of policies and cordons that it applies
	refused     []string         // policies that it does not understand, each with the reason
	disbelieved bool             // what it brings back of policies makes no sense, and that was logged
	streams     int              // an agent that reconnects may have two for a moment
	drifts      uint64           // how often it was sent everything again because of what it held
	audit       audit            // locks for itself
	put         *catalogv1.Agent // the record that was put into the store last
	putAt       time.Time
	heard       time.Time             // when it said anything last
	lost        bool                  // its place was given to the agent's next life
	held        []*adminv1.AgentHolds // what it said last that it holds back; never written into
}

func newRoster(st *store.Store, m *store.Member, mi *mirror.Mirror, tables map[string]*table, audits *auditor, log *slog.Logger) *roster {
	return &roster{
		store: st, member: m, mirror: mi, tables: tables, audits: audits, log: log,
		asks: semaphore.NewWeighted(maxAsks), seats: map[mirror.AgentKey]*seat{},
	}
}

// sit takes the place of (cluster, node) for an agent. A second live claimant is refused: two
// agents under one name would overwrite each other's address. One of which nothing is heard any more
// loses it.
func (r *roster) sit(a *catalogv1.Agent) (*seat, error) {
	if a.GetIncarnation() == "" {
		return nil, status.Error(codes.InvalidArgument, "the report names no incarnation")
	}
	if err := catalog.CheckHostPort(a.GetAddress()); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "agent address: %v", err)
	}
	key := mirror.AgentKey{Cluster: a.GetCluster(), Node: a.GetNode()}
	r.mu.Lock()
	defer r.mu.Unlock()
	s, now := r.seats[key], time.Now()
	if s != nil && s.incarnation != a.GetIncarnation() && now.Sub(s.heard) > reportsWithin {
		r.log.Info("agent is silent, and its place is its next life's", "cluster", key.Cluster, "node", key.Node, "silent", now.Sub(s.heard).Round(time.Second))
		s.lost, s = true, nil
	}
	if s == nil {
		s = &seat{key: key, incarnation: a.GetIncarnation()}
		r.seats[key] = s
		r.log.Info("agent connected", "cluster", key.Cluster, "node", key.Node)
		if r.tables[key.Cluster] == nil && r.mirror.Meta(key.Cluster) == nil {
			r.log.Warn("no synchronizer is configured for the agent's cluster: is its name right?", "cluster", key.Cluster, "node", key.Node)
		}
	} else if s.incarnation != a.GetIncarnation() {
		return nil, placeTaken(key)
	}
	s.streams++
	s.heard = now
	return s, nil
}

// hear notes that a seat's agent said something, and reports whether the seat is still its own.
func (r *roster) hear(s *seat) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.heard = time.Now()
	return !s.lost
}

func placeTaken(key mirror.AgentKey) error {
	return status.Errorf(codes.AlreadyExists, "another agent reports as node %q of cluster %q: give each its own `node`", key.Node, key.Cluster)
}

// leave frees the place when the agent's last stream ends. Its record stays: a lost stream says
// nothing about the agent.
func (r *roster) leave(s *seat) {
	if s == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.streams--; s.streams == 0 && !s.lost {
		delete(r.seats, s.key)
		r.log.Info("agent disconnected", "cluster", s.key.Cluster, "node", s.key.Node)
	}
}

// report takes one message of an agent.
func (r *roster) report(ctx context.Context, s *seat, req *feedv1.ReportRequest) error {
	a := req.GetAgent()
	if a.GetCluster() != s.key.Cluster || a.GetNode() != s.key.Node || a.GetIncarnation() != s.incarnation {
		return status.Error(codes.InvalidArgument, "a report stream speaks for one agent only")
	}
	if err := catalog.CheckHostPort(a.GetAddress()); err != nil {
		return status.Errorf(codes.InvalidArgument, "agent address: %v", err)
	}
	if !r.hear(s) {
		return placeTaken(s.key)
	}
	select {
	case <-r.store.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	if req.GetLeaving() {
		return r.store.DeleteAgent(ctx, s.key.Cluster, s.key.Node, s.incarnation)
	}
	r.mu.Lock()
	s.revision = req.GetRevision()
	s.policies, s.refused = req.GetPolicyRevision(), readable(req.GetPoliciesRefused())
	s.drifts = req.GetDrifts()
	s.held = agentHolds(time.Now(), s.key, req.GetHeld())
	r.mu.Unlock()
	r.audits.check(time.Now(), &s.audit, reported{
		agent: s.key, storeID: req.GetStoreId(), revision: req.GetRevision(), digest: req.GetDigest().GetParts(), says: req.GetDigest() != nil,
	})
	if err := r.tellStore(ctx, s, req); err != nil {
		return err
	}
	for cluster := range r.tables {
		r.member.RaiseEpoch(cluster, req.GetEpochs()[cluster])
	}
	return nil
}

// tellStore takes to the store what it may lack: what a report brings of policies, and the agent's record.
func (r *roster) tellStore(ctx context.Context, s *seat, req *feedv1.ReportRequest) error {
	if !r.news(req) && r.mirror.HasAgent(req.GetAgent()) {
		return nil
	}
	if err := r.asks.Acquire(ctx, 1); err != nil {
		return err
	}
	defer r.asks.Release(1)
	if err := r.learn(ctx, s, req); err != nil {
		return status.Errorf(codes.Unavailable, "store: %v", err)
	}
	// What counts is what the store holds: a wiped one must be told again.
	if r.mirror.HasAgent(req.GetAgent()) {
		return nil
	}
	r.mu.Lock()
	under := proto.Equal(s.put, req.GetAgent()) && time.Since(s.putAt) < hearAgain
	r.mu.Unlock()
	if under {
		return nil // the store told of it, and is about to tell of it here
	}
	if err := r.store.PutAgent(ctx, req.GetAgent()); err != nil {
		return status.Errorf(codes.Unavailable, "store: %v", err)
	}
	r.mu.Lock()
	s.put, s.putAt = req.GetAgent(), time.Now()
	r.mu.Unlock()
	return nil
}

// status returns an agent's record, and what it last said where it, in this incarnation, reports here.
func (r *roster) status(a *catalogv1.Agent) *adminv1.AgentStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.seats[mirror.AgentKey{Cluster: a.GetCluster(), Node: a.GetNode()}]
	if s == nil || s.incarnation != a.GetIncarnation() {
		return &adminv1.AgentStatus{Agent: a}
	}
	return &adminv1.AgentStatus{
		Agent: a, Connected: true, AppliedRevision: s.revision, PolicyRevision: s.policies, Drifts: s.drifts,
		Silent: durationpb.New(time.Since(s.heard)),
	}
}

// news reports whether a report may know more than the store has come to.
func (r *roster) news(req *feedv1.ReportRequest) bool {
	id, revision := r.mirror.Position()
	return len(req.GetPolicies()) > 0 ||
		req.GetStoreId() == id && (req.GetRevision() > revision || req.GetPolicyRevision() > r.mirror.Policies().Seen)
}

// learn takes from a report what the store may have lost: policies that the agent holds and the
// feed did not have, or a revision that the store itself has not come to.
func (r *roster) learn(ctx context.Context, s *seat, req *feedv1.ReportRequest) error {
	if len(req.GetPolicies()) > 0 {
		return r.bringBack(ctx, s, req)
	}
	if !r.news(req) {
		return nil
	}
	// It may well have come from a replica that was ahead of this one: the store itself knows.
	return r.store.Witness(ctx, req.GetStoreId(), req.GetRevision(), req.GetPolicyRevision())
}

// bringBack hands an agent's policies to the store. What makes no sense is the agent's mistake, and
// no reason to do without its report.
func (r *roster) bringBack(ctx context.Context, s *seat, req *feedv1.ReportRequest) error {
	entries := make([]store.Entry, 0, len(req.GetPolicies()))
	for _, e := range req.GetPolicies() {
		entries = append(entries, store.Entry{Key: e.GetKey(), Value: e.GetValue(), Deleted: e.GetDeleted()})
	}
	restored, err := r.store.RestoreReported(ctx, entries)
	cluster, node := req.GetAgent().GetCluster(), req.GetAgent().GetNode()
	switch {
	case errors.Is(err, store.ErrNotBelieved):
		r.mu.Lock()
		said := s.disbelieved
		s.disbelieved = true
		r.mu.Unlock()
		if !said { // it will say so again every few seconds
			r.log.Warn("an agent's policies are not believed", "cluster", cluster, "node", node, "error", err)
		}
		return nil
	case restored:
		r.log.Info("an agent brought policies and cordons back", "cluster", cluster, "node", node, "revision", req.GetPolicyRevision())
	}
	return err
}

// following is how many agents report to a replica, how many of them apply a revision of policies and
// cordons whole, and what they do not understand, "cluster/node: why".
type following struct {
	agents, applied uint32
	refused         []string
}

// follows says who follows a revision of policies and cordons.
func (r *roster) follows(revision uint64) following {
	r.mu.Lock()
	defer r.mu.Unlock()
	var f following
	for _, s := range r.seats {
		f.agents++
		if s.policies >= revision && len(s.refused) == 0 {
			f.applied++
		}
		for _, why := range s.refused {
			f.refused = append(f.refused, s.key.Cluster+"/"+s.key.Node+": "+why)
		}
	}
	slices.Sort(f.refused)
	if more := len(f.refused) - maxRefusedAll; more > 0 {
		f.refused = append(f.refused[:maxRefusedAll:maxRefusedAll], fmt.Sprintf("%d more are not listed", more))
	}
	return f
}

// readable bounds what an agent says that it refuses.
func readable(refused []string) []string {
	var out []string
	for _, why := range refused[:min(len(refused), maxRefused)] {
		if len(why) > maxRefusedText {
			why = strings.ToValidUTF8(why[:maxRefusedText], "") + "..."
		}
		out = append(out, why)
	}
	return out
}
