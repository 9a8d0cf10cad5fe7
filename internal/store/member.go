package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// The lease decides how soon a dead replica's clusters are taken over (five seconds at most,
// with etcd's half second of granularity, the notice and the load of the cluster); the beat is
// what readers count a cluster's age in.
const (
	leaseTTL     = 3 * time.Second
	beatInterval = time.Second
	// A hold that returned by itself is not called again at once.
	holdPause = time.Second
	// How long a replica that is told to stop spends on giving back what it has.
	resignTimeout = time.Second
)

// maxEpoch is the highest epoch that is believed. No cluster gets there by itself; above it
// counting on would wrap around.
const maxEpoch = 1 << 62

// Why a term ends, beside its replica's being told to stop.
var (
	errPreferred   = errors.New("another replica is preferred")
	errEpochRaised = errors.New("a higher epoch is known")
	errLeaseLost   = errors.New("the lease is lost")
	errHoldEnded   = errors.New("the owner's work ended by itself")
)

// MemberConfig is one synchronizer replica's part in the federation.
type MemberConfig struct {
	// ID is unique among the replicas of the federation.
	ID string
	// Address is host:port of its gRPC listener, for the others to know.
	Address string
	// Clusters are those of its configuration: it may own them.
	Clusters []string
	// Demand, where not nil, gives the least epoch under which what this replica reads lets the owner
	// of a cluster be believed, 0 where any will do. It is called from several goroutines and must not
	// block.
	Demand func(cluster string) uint64
}

// Member takes part in the federation: it keeps the replica's heartbeat and owns clusters.
type Member struct {
	store *Store
	cfg   MemberConfig
	// For tests; set before Run.
	ttl  time.Duration
	beat time.Duration

	left clientv3.LeaseID // that the last session could not give back; Run's alone

	start time.Time
	tick  atomic.Uint64 // of the last heartbeat sent

	mu     sync.Mutex
	raised map[string]uint64 // the highest epoch reported, by cluster
	terms  map[string]*Term  // running now, by cluster
}

// Member returns a member that does nothing until its Run.
func (s *Store) Member(cfg MemberConfig) *Member {
	cfg.Clusters = slices.Clone(cfg.Clusters)
	slices.Sort(cfg.Clusters)
	cfg.Clusters = slices.Compact(cfg.Clusters)
	return &Member{
		store:  s,
		cfg:    cfg,
		ttl:    leaseTTL,
		beat:   beatInterval,
		start:  time.Now(),
		raised: map[string]uint64{},
		terms:  map[string]*Term{},
	}
}

// Run keeps a lease and under it the replica's heartbeat, takes the clusters that this replica
// is preferred for (by rendezvous hash over the live replicas entitled to each), and gives up
// those that it is not. It blocks until ctx is done, then returns nil once every hold has
// returned and what it owned is given back.
//
// For each cluster that it owns it calls hold in a goroutine of its own. The ctx of hold ends
// when the ownership does, for whatever reason (context.Cause tells), and hold must return
// soon after: the cluster goes to nobody before. When hold returns by itself, ownership is
// given up and taken again after a pause, if still preferred. There is never more than one
// hold of a cluster, and each gets a Term with a higher epoch than the one before.
//
// A lease that is lost, by a pause longer than it lasts or with the store that it was in, ends
// all terms; a new lease and new terms follow. It fails only with ErrStopped.
func (m *Member) Run(ctx context.Context, hold func(context.Context, *Term) error) error {
	leave, err := m.store.enter(ctx)
	if err != nil {
		return stopError(ctx, fmt.Errorf("store: member: %w", err))
	}
	defer leave()
	pauses := m.store.backoff()
	failed := false
	for ctx.Err() == nil {
		s := newSession(m, hold)
		err := s.open(ctx)
		if ctx.Err() == nil && !errors.Is(err, errReplicaTaken) {
			m.store.wrote(err)
		}
		if err == nil {
			pauses.reset()
			m.store.log.Info("replica takes part", "replica", m.cfg.ID, "lease", int64(s.lease))
			failed = false
			err = s.run(ctx)
		}
		m.store.metrics.sessions.WithLabelValues(sessionEnd(ctx, err)).Inc()
		if ctx.Err() != nil {
			break
		}
		if m.store.isStopped() {
			return fmt.Errorf("store: member: %w", ErrStopped)
		}
		if !failed {
			m.store.log.Warn("replica does not take part", "replica", m.cfg.ID, "error", err)
		}
		failed = true
		pauses.after(ctx, err)
	}
	return nil
}

func sessionEnd(ctx context.Context, err error) string {
	switch {
	case ctx.Err() != nil:
		return "stopped"
	case errors.Is(err, errReplicaTaken):
		return "id-taken"
	case errors.Is(err, errLeaseLost):
		return "lease-lost"
	}
	return "failed"
}

// RaiseEpoch says that somebody has seen a cluster's values under this epoch. Where this
// replica owns the cluster under a lower one, that term ends and the cluster is taken again
// above it, and everything is written anew: readers refuse what is older than they know.
func (m *Member) RaiseEpoch(cluster string, epoch uint64) {
	if epoch > maxEpoch {
		m.store.metrics.epochsRefused.Inc()
		m.store.log.Debug("reported epoch is not believed", "cluster", cluster, "epoch", epoch)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if epoch > m.raised[cluster] {
		m.raised[cluster] = epoch
	}
	if t := m.terms[cluster]; t != nil && t.epoch.Load() != 0 && t.epoch.Load() < epoch {
		t.end(errEpochRaised)
	}
}

// learn raises the epochs to what is read to be demanded here.
func (m *Member) learn() {
	if m.cfg.Demand == nil {
		return
	}
	for _, c := range m.cfg.Clusters {
		m.RaiseEpoch(c, m.cfg.Demand(c))
	}
}

// demanded gives the epochs that are to be told to the other replicas, one of which may own what this
// one knows of.
func (m *Member) demanded() map[string]uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.raised)
}

// nextTick is the tick of the next heartbeat: beats since the start, so that beats that could
// not be written count too, and always more than the last.
func (m *Member) nextTick() uint64 {
	n := uint64((time.Since(m.start)+m.beat/2)/m.beat) + 1
	return max(n, m.tick.Load()+1)
}

// setTerm makes t the running term of its cluster; nil ends that.
func (m *Member) setTerm(cluster string, t *Term) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t == nil {
		delete(m.terms, cluster)
	} else {
		m.terms[cluster] = t
	}
	m.store.metrics.owned.Set(float64(len(m.terms)))
}

// confirmed gives, for each cluster owned, the tick of its last confirmation.
func (m *Member) confirmed(tick uint64) map[string]uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string]uint64, len(m.terms))
	for c, t := range m.terms {
		if at := t.confirmedAt.Load(); at != 0 {
			out[c] = min(at, tick)
		}
	}
	return out
}

// preferred gives the replica that should own a cluster: the one of the live, entitled ones
// with the highest hash of cluster and replica (rendezvous hashing, Thaler and Ravishankar
// 1998). When a replica comes or goes only its own share of the clusters moves.
func preferred(cluster string, live map[string][]string) string {
	var best string
	var bestScore uint64
	for id, clusters := range live {
		if !slices.Contains(clusters, cluster) {
			continue
		}
		sum := sha256.Sum256([]byte(cluster + "\x00" + id))
		score := binary.BigEndian.Uint64(sum[:])
		if best == "" || score > bestScore || score == bestScore && id < best {
			best, bestScore = id, score
		}
	}
	return best
}
