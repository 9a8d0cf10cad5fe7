//go:build real && linux

package robustness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/test/robustness/history"
)

// etcdKinds are the faults of etcd's members and of what they keep.
func etcdKinds() []kind {
	etcd := []string{"etcd"}
	whole := []string{"etcd", "store", "values"} // what else is wrong with the store is not told apart from it
	return []kind{
		{name: "etcd-follower-killed", matrix: "F1", takes: etcd, begin: etcdFollowerKilled},
		{name: "etcd-leader-killed", matrix: "F2", takes: etcd, least: 2 * time.Second, begin: etcdLeaderKilled},
		{name: "etcd-leader-paused", matrix: "F2", takes: etcd, least: 3 * time.Second, begin: etcdLeaderPaused},
		{name: "etcd-quorum-killed", matrix: "F3", takes: etcd, least: 2 * time.Second, begin: etcdQuorumKilled},
		{name: "etcd-quorum-paused", matrix: "F3", takes: etcd, least: 2 * time.Second, begin: etcdQuorumPaused},
		{name: "etcd-wiped", matrix: "F4", takes: whole, begin: etcdWiped},
		{name: "etcd-restored", matrix: "F5", takes: whole, least: 2 * time.Second, begin: etcdRestored},
		{name: "etcd-no-space", matrix: "F6", takes: etcd, least: 2 * time.Second, begin: etcdNoSpace},
		{name: "etcd-disk-slow", matrix: "F7", takes: etcd, least: 2 * time.Second, begin: etcdDiskSlow},
		{name: "etcd-compacted", matrix: "F10", takes: []string{"etcd", "store", "registries"}, least: 3 * time.Second, begin: etcdCompacted},
	}
}

func etcdFollowerKilled(ctx context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	leader, before, err := w.etcdLeader(ctx)
	if err != nil {
		return history.Fault{}, nil, err
	}
	n := (leader + 1 + rnd.IntN(2)) % 3
	w.etcd.Members[n].Kill()
	return history.Fault{Target: fmt.Sprint("member ", n)}, func(ctx context.Context) (string, error) {
		_, gone := w.memberStatus(ctx, n)
		w.etcd.Members[n].Start()
		w.etcd.WaitReady()
		if gone == nil || w.otherLeader(ctx, before) != "" {
			return "", nil // it leads now: this was another fault
		}
		return fmt.Sprintf("member %d did not answer, the leader stayed", n), nil
	}, nil
}

func etcdLeaderKilled(ctx context.Context, w *world, _ *rand.Rand) (history.Fault, endFault, error) {
	n, before, err := w.etcdLeader(ctx)
	if err != nil {
		return history.Fault{}, nil, err
	}
	w.etcd.Members[n].Kill()
	return history.Fault{Target: fmt.Sprint("member ", n)}, func(ctx context.Context) (string, error) {
		effect := w.otherLeader(ctx, before)
		w.etcd.Members[n].Start()
		w.etcd.WaitReady()
		return effect, nil
	}, nil
}

func etcdLeaderPaused(ctx context.Context, w *world, _ *rand.Rand) (history.Fault, endFault, error) {
	n, before, err := w.etcdLeader(ctx)
	if err != nil {
		return history.Fault{}, nil, err
	}
	w.etcd.Members[n].Pause()
	return history.Fault{Target: fmt.Sprint("member ", n)}, func(ctx context.Context) (string, error) {
		effect := w.otherLeader(ctx, before)
		w.etcd.Members[n].Resume()
		w.etcd.WaitReady()
		return effect, nil
	}, nil
}

// two gives two of the three members.
func two(rnd *rand.Rand) []int { return rnd.Perm(3)[:2] }

func etcdQuorumKilled(_ context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	members := two(rnd)
	for _, n := range members {
		w.etcd.Members[n].Kill()
	}
	return history.Fault{Target: fmt.Sprint("members ", members)}, func(ctx context.Context) (string, error) {
		effect := w.refusesWrites(ctx)
		for _, n := range members {
			w.etcd.Members[n].Start()
		}
		w.etcd.WaitReady()
		return effect, nil
	}, nil
}

func etcdQuorumPaused(_ context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	members := two(rnd)
	for _, n := range members {
		w.etcd.Members[n].Pause()
	}
	return history.Fault{Target: fmt.Sprint("members ", members)}, func(ctx context.Context) (string, error) {
		effect := w.refusesWrites(ctx)
		for _, n := range members {
			w.etcd.Members[n].Resume()
		}
		w.etcd.WaitReady()
		return effect, nil
	}, nil
}

// storeID is the key of the store's random id.
const storeID = "/farcall/v1/" + federation + "/store"

// etcdWiped takes away all that the members know; they come back empty, on the same addresses.
func etcdWiped(ctx context.Context, w *world, _ *rand.Rand) (history.Fault, endFault, error) {
	before, _, err := w.etcdValue(ctx, storeID)
	if err != nil {
		return history.Fault{}, nil, err
	}
	for _, m := range w.etcd.Members {
		m.Kill()
		if err := os.RemoveAll(m.DataDir); err != nil {
			return history.Fault{}, nil, err
		}
	}
	return history.Fault{Target: "all members"}, func(ctx context.Context) (string, error) {
		for _, m := range w.etcd.Members {
			m.Start()
		}
		w.etcd.WaitReady()
		after, _, err := w.etcdValue(ctx, storeID)
		if err != nil || before == "" || after == before {
			return "", err
		}
		return fmt.Sprintf("store id %.8x is gone", before), nil
	}, nil
}

// etcdRestored puts all members back to what they had when the fault began.
func etcdRestored(ctx context.Context, w *world, _ *rand.Rand) (history.Fault, endFault, error) {
	backup, err := os.MkdirTemp(w.dir, "backup-")
	if err != nil {
		return history.Fault{}, nil, err
	}
	// What three stopped members have in their folders is what a crash would leave.
	for _, m := range w.etcd.Members {
		m.Pause()
	}
	for n, m := range w.etcd.Members {
		if err == nil {
			err = copyFolder(m.DataDir, filepath.Join(backup, fmt.Sprint(n)))
		}
	}
	for _, m := range w.etcd.Members {
		m.Resume()
	}
	if err != nil {
		return history.Fault{}, nil, err
	}
	w.etcd.WaitReady()
	return history.Fault{Target: "all members"}, func(ctx context.Context) (string, error) {
		defer os.RemoveAll(backup)
		_, before, err := w.etcdValue(ctx, storeID)
		if err != nil {
			return "", err
		}
		for n, m := range w.etcd.Members {
			m.Kill()
			if err := os.RemoveAll(m.DataDir); err != nil {
				return "", err
			}
			if err := os.Rename(filepath.Join(backup, fmt.Sprint(n)), m.DataDir); err != nil {
				return "", err
			}
		}
		for _, m := range w.etcd.Members {
			m.Start()
		}
		w.etcd.WaitReady()
		_, after, err := w.etcdValue(ctx, storeID)
		if err != nil || after >= before {
			return "", err
		}
		return fmt.Sprintf("revision %d became %d", before, after), nil
	}, nil
}

// copyFolder copies a folder; etcd's logs are mostly holes, which stay some.
func copyFolder(from, to string) error {
	if out, err := exec.Command("cp", "-a", "--sparse=always", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// etcdNoSpace raises the alarm that a full quota raises: every write is refused until it is disarmed.
func etcdNoSpace(ctx context.Context, w *world, _ *rand.Rand) (history.Fault, endFault, error) {
	n, s, err := w.etcdLeader(ctx)
	if err != nil {
		return history.Fault{}, nil, err
	}
	alarm := func(ctx context.Context, action string) error {
		var err error
		for _, e := range w.etcd.Endpoints {
			err = askEtcd(ctx, e, "maintenance/alarm", map[string]string{"action": action, "memberID": s.Header.MemberID, "alarm": "NOSPACE"}, nil)
			if err == nil {
				return nil
			}
		}
		return err
	}
	if err := alarm(ctx, "ACTIVATE"); err != nil {
		return history.Fault{}, nil, err
	}
	return history.Fault{Target: fmt.Sprint("member ", n)}, func(ctx context.Context) (string, error) {
		effect := w.refusesWrites(ctx)
		if !strings.Contains(effect, "space exceeded") {
			effect = ""
		}
		return effect, alarm(ctx, "DEACTIVATE")
	}, nil
}

// etcdDiskSlow lets all members stand still for half of the time, as a disk does that stalls: they
// lose elections and answer late.
func etcdDiskSlow(ctx context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	members := rnd.Perm(3)[:1+rnd.IntN(3)]
	slices.Sort(members)
	stall := 200*time.Millisecond + time.Duration(rnd.Int64N(int64(500*time.Millisecond)))
	var pids []int
	for _, n := range members {
		pids = append(pids, w.etcd.Members[n].Pid())
	}
	ctx, stop := context.WithCancel(ctx)
	var stalls int
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(stall)
		defer tick.Stop()
		for ctx.Err() == nil {
			signal := syscall.SIGSTOP
			if stalls++; stalls%2 == 0 {
				signal = syscall.SIGCONT
			}
			for _, pid := range pids {
				_ = syscall.Kill(-pid, signal) // it runs: nobody else kills it meanwhile
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
		for _, pid := range pids {
			_ = syscall.Kill(-pid, syscall.SIGCONT)
		}
	})
	return history.Fault{Target: fmt.Sprint("members ", members)}, func(context.Context) (string, error) {
		stop()
		running.Wait()
		w.etcd.WaitReady()
		if stalls < 3 {
			return "", nil
		}
		return fmt.Sprintf("%d stalls of %s", stalls/2, stall.Round(time.Millisecond)), nil
	}, nil
}

// etcdCompacted takes away the changes that a synchronizer needs which is cut off meanwhile, among them
// that keys are no more: a service of hundreds of instances goes just then.
func etcdCompacted(ctx context.Context, w *world, rnd *rand.Rand) (history.Fault, endFault, error) {
	const cluster = "files" // an edit of a file is believed at once
	undo, err := w.bigChange(ctx, cluster, rnd)
	if err != nil {
		return history.Fault{}, nil, err
	}
	s := w.synchronizers[rnd.IntN(len(w.synchronizers))]
	for _, other := range w.synchronizers {
		if owner := w.owner(ctx, cluster); owner != nil && owner != other {
			s = other
		}
	}
	// Where it does not come to know of them in time, there is just less to miss.
	for range 50 {
		resp, err := adminv1.NewAdminClient(s.conn).ListServices(ctx, &adminv1.ListServicesRequest{Cluster: cluster})
		if err == nil && len(resp.GetServices()) > 2 || !pause(ctx, 50*time.Millisecond) {
			break
		}
	}
	_, cut, err := w.etcdValue(ctx, storeID)
	if err != nil {
		return history.Fault{}, nil, err
	}
	for _, l := range s.store {
		l.set(weather{refuse: true})
	}
	if err := undo(ctx); err != nil {
		return history.Fault{}, nil, err
	}
	return history.Fault{Target: s.id}, func(ctx context.Context) (string, error) {
		_, now, err := w.etcdValue(ctx, storeID)
		if err == nil && now > cut {
			err = w.compact(ctx, now)
		}
		for _, l := range s.store {
			l.set(weather{})
		}
		if err != nil || now <= cut+1 {
			return "", err
		}
		return fmt.Sprintf("%s was cut off at revision %d, %d was compacted", s.id, cut, now), nil
	}, nil
}

// compact forgets what was before a revision.
func (w *world) compact(ctx context.Context, revision int64) (err error) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		for _, e := range w.etcd.Endpoints {
			err = askEtcd(ctx, e, "kv/compaction", map[string]any{"revision": fmt.Sprint(revision), "physical": true}, nil)
			if err == nil || strings.Contains(err.Error(), "has been compacted") {
				return nil
			}
		}
	}
	return err
}
