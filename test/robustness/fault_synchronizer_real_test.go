//go:build real && linux

package robustness

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/test/robustness/history"
)

// synchronizerKinds are the faults of synchronizers.
func synchronizerKinds() []kind {
	// Whoever is away does not feel what is wrong with its links.
	takes := []string{"synchronizers", "store", "feed"}
	return []kind{
		{name: "owner-paused", matrix: "F8", takes: takes, least: 5 * time.Second, begin: ownerPaused},
		{name: "owner-killed", matrix: "F9", takes: takes, least: 5 * time.Second, begin: ownerKilled},
		{name: "synchronizer-killed-in-a-change", matrix: "F22", takes: takes, begin: killedInAChange},
		{name: "synchronizer-stopped", matrix: "F25", takes: takes, begin: synchronizerStopped},
		{name: "synchronizers-all-killed", matrix: "F38", takes: takes, begin: allSynchronizersKilled},
		{name: "cluster-left-out", matrix: "F44", takes: takes, least: 5 * time.Second, begin: clusterLeftOut},
	}
}

// owner gives the synchronizer that owns a cluster, by the word of one that answers, nil where nobody
// knows. It needs no etcd, which may be what is broken.
func (w *world) owner(ctx context.Context, cluster string) *syncProc {
	for _, asked := range w.synchronizers {
		if asked.down.Load() {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		resp, err := adminv1.NewAdminClient(asked.conn).ListClusters(ctx, &adminv1.ListClustersRequest{})
		cancel()
		if err != nil {
			continue
		}
		for _, c := range resp.GetClusters() {
			if c.GetName() != cluster || c.GetOwner() == "" {
				continue
			}
			for _, s := range w.synchronizers {
				if s.replica() == c.GetOwner() {
					return s
				}
			}
		}
	}
	return nil
}

// replica is the name that the synchronizer has among the replicas, by its own word; it has another
// one each time that it starts.
func (s *syncProc) replica() string {
	log, err := os.ReadFile(s.proc.LogFile())
	if err != nil {
		return ""
	}
	const before = " replica="
	at := bytes.LastIndex(log, []byte(`msg="synchronizer starts"`))
	if at < 0 {
		return ""
	}
	log = log[at:]
	if at = bytes.Index(log, []byte(before)); at < 0 {
		return ""
	}
	name, _, _ := bytes.Cut(log[at+len(before):], []byte(" "))
	return string(name)
}

// anOwner gives a synchronizer and a cluster that it owns. Where nobody owns any at the moment, it is
// one synchronizer, and no cluster.
func (w *world) anOwner(ctx context.Context, rnd *rand.Rand) (s *syncProc, cluster string) {
	other := w.synchronizers[rnd.IntN(len(w.synchronizers))]
	for _, n := range rnd.Perm(len(w.names)) {
		if s := w.owner(ctx, w.names[n]); s != nil {
			return s, w.names[n]
		}
	}
	return other, ""
}

// takenOver says that a cluster has another owner than it had, "" where not.
func (w *world) takenOver(ctx context.Context, cluster string, from *syncProc) string {
	s := w.owner(ctx, cluster)
	if s == nil || s == from {
		return ""
	}
	return fmt.Sprintf("%s took %s over", s.id, cluster)
}

// ownerPaused lets an owner sleep for longer than its lease, under whatever it was doing.
func ownerPaused(ctx context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	s, cluster := w.anOwner(ctx, rnd)
	s.down.Store(true)
	s.proc.Pause()
	return history.Fault{Target: s.id}, func(ctx context.Context) (string, error) {
		effect := w.takenOver(ctx, cluster, s)
		s.proc.Resume()
		s.down.Store(false)
		return effect, nil
	}, nil
}

func ownerKilled(ctx context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	s, cluster := w.anOwner(ctx, rnd)
	s.kill()
	return history.Fault{Target: s.id}, func(ctx context.Context) (string, error) {
		effect := w.takenOver(ctx, cluster, s)
		s.start()
		return effect, nil
	}, nil
}

func (s *syncProc) kill() {
	s.down.Store(true)
	s.proc.Kill()
}

func (s *syncProc) start() {
	s.proc.Start()
	s.down.Store(false)
}

// killedInAChange kills an owner while it publishes a change of many slices.
func killedInAChange(ctx context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	s, cluster := w.anOwner(ctx, rnd)
	if cluster == "" {
		return history.Fault{Target: s.id}, func(context.Context) (string, error) { return "", nil }, nil
	}
	undo, err := w.bigChange(ctx, cluster, rnd)
	if err != nil {
		return history.Fault{}, nil, err
	}
	pause := time.NewTimer(time.Duration(rnd.Int64N(int64(600 * time.Millisecond))))
	defer pause.Stop()
	select {
	case <-ctx.Done():
		return history.Fault{}, nil, ctx.Err()
	case <-pause.C:
	}
	s.kill()
	return history.Fault{Target: s.id}, func(ctx context.Context) (string, error) {
		s.start()
		if err := undo(ctx); err != nil {
			return "", err
		}
		return "killed in a big change of " + cluster, nil
	}, nil
}

// synchronizerStopped stops one in good order, as an update does, and starts it again.
func synchronizerStopped(_ context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	s := w.synchronizers[rnd.IntN(len(w.synchronizers))]
	s.down.Store(true)
	s.proc.Term()
	if err := s.proc.Wait(); err != nil {
		return history.Fault{}, nil, fmt.Errorf("synchronizer %s: it was asked to stop: %w", s.id, err)
	}
	return history.Fault{Target: s.id}, func(context.Context) (string, error) {
		s.start()
		return "it stopped in good order", nil
	}, nil
}

func allSynchronizersKilled(_ context.Context, w *world, _ *rand.Rand) (history.Fault, endFault, error) {
	for _, s := range w.synchronizers {
		s.kill()
	}
	return history.Fault{Target: "all"}, func(context.Context) (string, error) {
		for _, s := range w.synchronizers {
			s.start()
		}
		return "nobody answered", nil
	}, nil
}

// clusterLeftOut starts a synchronizer with a configuration that lacks a cluster which it owned; the
// other one has it still. In the end it has it again.
func clusterLeftOut(ctx context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	s, cluster := w.anOwner(ctx, rnd)
	s.kill()
	s.configure(w, cluster)
	s.start()
	return history.Fault{Target: s.id + " without " + cluster}, func(ctx context.Context) (string, error) {
		effect := w.takenOver(ctx, cluster, s)
		s.kill()
		s.configure(w)
		s.start()
		return effect, nil
	}, nil
}
