//go:build unix && skew

package e2e

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// old is the commit whose programs run beside those of the checkout: make skew OLD=<commit>.
var old = flag.String("old", "", "the commit of the other version")

// buildOld builds the programs of the other version, from what git has of it.
func buildOld(t *testing.T) string {
	t.Helper()
	if *old == "" {
		t.Fatal("no commit is named: make skew OLD=<commit>")
	}
	src, dir := t.TempDir(), t.TempDir()
	root := testkit.Root(t)
	tar := exec.Command("git", "-C", root, "archive", "--output", filepath.Join(src, "all.tar"), *old)
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("git archive %s: %v: %s", *old, err, out)
	}
	untar := exec.Command("tar", "-xf", "all.tar")
	untar.Dir = src
	if out, err := untar.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	if err := testkit.Build(src, dir, "./cmd/synchronizer", "./cmd/agent"); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestSkewRolling takes a federation from the old version to this one and back, program by program, once with
// the synchronizer first and once with the agents first. After every step everybody reaches everybody, and a
// change of a registry is seen by all. While it goes on, calls from the agent that is not touched in a step
// are answered.
func TestSkewRolling(t *testing.T) {
	dir := buildOld(t)
	for name, steps := range map[string][]string{
		"the synchronizer first":  {"synchronizer", "east", "west"},
		"the agents first":        {"east", "west", "synchronizer"},
		"an agent on either side": {"east", "synchronizer", "west"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, options{program: filepath.Join(dir, "agent"), control: filepath.Join(dir, "synchronizer")}, "east", "west")
			w.changes("of the old version")
			for _, which := range steps {
				w.replace(which, bin, "up")
			}
			w.complaints("of the new version")
			for _, which := range steps {
				w.replace(which, dir, "down")
			}
			w.complaints("of the old version again")
		})
	}
}

// replace ends a program and starts that of another version with the same configuration and data.
func (w *world) replace(which, from, way string) {
	w.t.Helper()
	file := filepath.Join(w.dir, "agent-"+which+".yml")
	daemon, program, name := &w.sync, "synchronizer", which+"-"+way
	if c := w.clusters[which]; c != nil {
		daemon, program = &c.agent, "agent"
	} else {
		file = filepath.Join(w.dir, "synchronizer.yml")
	}
	failed := w.meanwhile(which, func() {
		(*daemon).Term()
		if err := (*daemon).Wait(); err != nil {
			w.t.Errorf("%s did not end well: %v", which, err)
		}
		*daemon = testkit.NewDaemon(w.t, filepath.Join(from, program), name, "--config", file)
		(*daemon).Start()
		for a := range w.clusters {
			for b := range w.clusters {
				w.reaches(a, b)
			}
		}
		w.changes(name)
	})
	w.t.Logf("%s: calls of agents that were left alone: %s", name, failed)
}

// meanwhile makes calls from all agents but one while something is done, and says how they ended.
func (w *world) meanwhile(but string, do func()) string {
	ctx, cancel := context.WithCancel(w.ctx)
	var calling sync.WaitGroup
	var mu sync.Mutex
	good, bad := 0, map[string]int{}
	for from := range w.clusters {
		if from == but {
			continue
		}
		calling.Go(func() {
			for ctx.Err() == nil {
				a, err := w.call(from, http.MethodGet, "cart/method/x", "farcall-strategy: local-first")
				mu.Lock()
				if err == nil && a.status == http.StatusOK {
					good++
				} else {
					bad[fmt.Sprintf("%s: %d %.200s %v", from, a.status, a.body, err)]++
				}
				mu.Unlock()
				pause := time.NewTimer(20 * time.Millisecond)
				select {
				case <-pause.C:
				case <-ctx.Done():
					pause.Stop()
				}
			}
		})
	}
	do()
	cancel()
	calling.Wait()
	for how, n := range bad {
		w.t.Errorf("%d calls ended so: %s", n, how)
	}
	return fmt.Sprint(good, " were answered")
}

// changes has an instance come and go in west, and waits until everybody has seen it.
func (w *world) changes(what string) {
	w.t.Helper()
	c := w.clusters["west"]
	if c.apps["cart-9"] == nil {
		c.start(w.t, "cart-9")
	}
	seen := func(want bool) func() error {
		return func() error {
			list, err := w.connect().ListInstances(w.ctx, &adminv1.ListInstancesRequest{Cluster: "west", Service: "cart"})
			if err != nil {
				return err
			}
			is := false
			for _, i := range list.GetInstances() {
				is = is || i.GetId() == "cart-9"
			}
			if is != want {
				return fmt.Errorf("%d instances", len(list.GetInstances()))
			}
			for from := range w.clusters {
				called := false
				for range 12 {
					a, err := w.call(from, http.MethodGet, "cart/method/x", "farcall-cluster: west")
					if err != nil {
						return err
					}
					called = called || strings.HasSuffix(a.servedBy, "/cart-9")
				}
				if called != want {
					return fmt.Errorf("from %s it is called: %v", from, called)
				}
			}
			return nil
		}
	}
	c.registry.put("cart-9", c.apps["cart-9"].port, "west-1")
	testkit.Eventually(w.t, w.ctx, what+": an instance comes", seen(true))
	c.registry.remove("cart-9")
	testkit.Eventually(w.t, w.ctx, what+": an instance goes", seen(false))
}

// complaints logs what agents did not believe or understand, and what was set aside on disks.
func (w *world) complaints(what string) {
	w.t.Helper()
	for name, c := range w.clusters {
		page, err := w.get("http://" + c.health + "/metrics")
		if err != nil {
			w.t.Error(err)
		}
		for line := range strings.Lines(page) {
			if strings.HasPrefix(line, "farcall_mirror_refused_total") || strings.HasPrefix(line, "farcall_uplink_bad_views_total") ||
				strings.HasPrefix(line, "farcall_recall_bad_files_total") || strings.HasPrefix(line, "farcall_uplink_drift_total") {
				w.t.Logf("%s, agent %s: %s", what, name, strings.TrimSpace(line))
			}
		}
	}
	err := filepath.Walk(w.dir, func(path string, _ os.FileInfo, err error) error {
		if strings.HasSuffix(path, ".unreadable") {
			w.t.Errorf("%s: %s was set aside", what, path)
		}
		return err
	})
	if err != nil {
		w.t.Error(err)
	}
}
