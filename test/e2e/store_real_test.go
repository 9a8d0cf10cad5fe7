//go:build real && unix

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// grow puts a further instance of cart into west's registry, for later.
func (w *world) grow(id string) {
	w.t.Helper()
	c := w.clusters["west"]
	c.start(w.t, id)
	c.registry.put(id, c.apps[id].port, "west-1")
}

// The store does not answer for longer than every lease: because most of its members are gone, and because
// all of them stand still, as on a disk that does not come back. Nothing leaves any list, no call is lost,
// people are told that the lists are old, and what changed meanwhile arrives afterwards.
func TestRealStoreIsSilentForLong(t *testing.T) {
	etcd := testkit.Etcd(t, 3)
	w := newWorld(t, options{store: "etcd: {endpoints: [" + strings.Join(etcd.Endpoints, ", ") + "]}"}, "east", "west")
	for n, c := range []struct {
		what         string
		breaks, ends func()
	}{
		{"two of three members are gone", func() {
			etcd.Members[0].Kill()
			etcd.Members[1].Kill()
		}, func() {
			etcd.Members[0].Start()
			etcd.Members[1].Start()
		}},
		{"all members stand still", func() {
			for _, m := range etcd.Members {
				m.Pause()
			}
		}, func() {
			for _, m := range etcd.Members {
				m.Resume()
			}
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			w.t = t
			east, west := w.steady("east", w.all()...), w.steady("west", w.all()...)
			enough := w.calls("east", "west")
			c.breaks()
			id := fmt.Sprint("late-", n)
			w.grow(id)
			testkit.Eventually(t, w.ctx, "the lists are old by the synchronizer's word", func() error {
				out, err := w.farcall("", "get", "clusters")
				if err == nil && strings.Count(out, "STALE") != 2 {
					err = errors.New(out)
				}
				return err
			})
			w.passes(5 * time.Second)
			if err := w.unready(); err != nil {
				t.Error(err)
			}
			if out, err := w.farcall("", "check"); err == nil || !strings.Contains(out, "its store does not") {
				t.Errorf("%v: check says\n%s", err, out)
			}
			c.ends()
			etcd.WaitReady()
			testkit.Eventually(t, w.ctx, "what changed meanwhile arrives", func() error { return errors.Join(east.lists("west/"+id), west.lists("west/"+id)) })
			enough(c.what)
			east.end()
			west.end()
			w.until("west", 3+n, catalogv1.ClusterState_SYNCED)
		})
	}
}

// All of etcd's members stand still for a third of a second, again and again, as on a disk that is far too
// slow. Changes come and go as ever, only later; nothing leaves any list and no call is lost.
func TestRealStoreIsSlow(t *testing.T) {
	etcd := testkit.Etcd(t, 3)
	w := newWorld(t, options{store: "etcd: {endpoints: [" + strings.Join(etcd.Endpoints, ", ") + "]}"}, "east", "west")
	east, west := w.steady("east", w.all()...), w.steady("west", w.all()...)
	enough := w.calls("east", "west")
	// slowly waits for something while the store stands still half of the time.
	slowly := func(what string, ok func() error) {
		t.Helper()
		testkit.Eventually(t, w.ctx, what, func() error {
			for _, m := range etcd.Members {
				m.Pause()
			}
			w.passes(300 * time.Millisecond)
			for _, m := range etcd.Members {
				m.Resume()
			}
			w.passes(200 * time.Millisecond)
			return ok()
		})
	}
	for n := range 5 {
		id := fmt.Sprint("slow-", n)
		w.grow(id)
		slowly(id+" arrives", func() error { return errors.Join(east.lists("west/"+id), west.lists("west/"+id)) })
		w.clusters["west"].registry.remove(id)
		slowly(id+" leaves", func() error { return errors.Join(east.lacks("west/"+id), west.lacks("west/"+id)) })
	}
	enough("while the store was slow")
	east.end()
	west.end()
	w.until("west", 2, catalogv1.ClusterState_SYNCED)
}

// unready says what is wrong where the synchronizer does not say that its store is away.
func (w *world) unready() error {
	req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, "http://"+w.http+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(b), "store")) {
		err = fmt.Errorf("/readyz is %d %s", resp.StatusCode, b)
	}
	return err
}

// written counts the requests to write that an etcd has taken so far, refused ones included.
func written(ctx context.Context, endpoint string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	total := 0.
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "grpc_server_handled_total{") {
			continue
		}
		for _, method := range []string{"Txn", "Put", "LeaseGrant"} {
			if strings.Contains(line, `grpc_method="`+method+`"`) {
				n, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
				if err != nil {
					return 0, err
				}
				total += n
			}
		}
	}
	return total, err
}

// etcdctl runs etcd's own command, as an operator does.
func etcdctl(t *testing.T, endpoint string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(testkit.Context(t), filepath.Join(testkit.Root(t), "test", "servers", "bin", "etcdctl"), append([]string{"--endpoints", endpoint}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("etcdctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// etcd raises its alarm NOSPACE, as it does when its quota is used up: it takes no write until somebody
// disarms it. No call is lost and nothing leaves any list; the synchronizer says what is wrong, in its log,
// its /readyz and `farcall check`, and asks seldom; afterwards it writes what changed meanwhile.
func TestRealStoreIsFull(t *testing.T) {
	etcd := testkit.Etcd(t, 1)
	w := newWorld(t, options{store: "etcd: {endpoints: [" + etcd.Endpoints[0] + "]}"}, "east", "west")
	east, west := w.steady("east", w.all()...), w.steady("west", w.all()...)
	enough := w.calls("east", "west")

	req, err := http.NewRequestWithContext(w.ctx, http.MethodPost, etcd.Endpoints[0]+"/v3/maintenance/alarm", bytes.NewBufferString(`{"action":"ACTIVATE","memberID":"0","alarm":"NOSPACE"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if out := etcdctl(t, etcd.Endpoints[0], "alarm", "list"); !strings.Contains(out, "NOSPACE") {
		t.Fatalf("no alarm: %s", out)
	}
	w.grow("cart-3")
	testkit.Eventually(t, w.ctx, "it is said", func() error {
		page, err := w.get("http://" + w.http + "/readyz")
		if err == nil && !strings.Contains(page, "database space exceeded") {
			err = fmt.Errorf("/readyz: %s", page)
		}
		if err == nil && !strings.Contains(w.sync.Log(), "database space exceeded") {
			err = errors.New("nothing in the log")
		}
		return err
	})
	testkit.Eventually(t, w.ctx, "the lists are old", func() error {
		out, err := w.farcall("", "get", "clusters")
		if err == nil && strings.Count(out, "STALE") != 2 {
			err = errors.New(out)
		}
		return err
	})
	// By now no lease stands any more, and nobody owns anything.
	if out, err := w.farcall("", "check"); err == nil || !strings.Contains(out, "/readyz") {
		t.Errorf("%v: check says\n%s", err, out)
	}
	before, err := written(w.ctx, etcd.Endpoints[0])
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	w.passes(10 * time.Second)
	after, err := written(w.ctx, etcd.Endpoints[0])
	if err != nil {
		t.Fatal(err)
	}
	seconds := time.Since(began).Seconds()
	t.Logf("%.0f attempts to write in %.1f s", after-before, seconds)
	if after == before || after-before > seconds+1 {
		t.Errorf("%.0f attempts to write in %.1f s, want some, and one a second at most", after-before, seconds)
	}

	etcdctl(t, etcd.Endpoints[0], "alarm", "disarm")
	testkit.Eventually(t, w.ctx, "what changed meanwhile arrives", func() error { return errors.Join(east.lists("west/cart-3"), west.lists("west/cart-3")) })
	w.until("west", 3, catalogv1.ClusterState_SYNCED)
	testkit.Eventually(t, w.ctx, "it is well again", func() error {
		page, err := w.get("http://" + w.http + "/readyz")
		if err == nil && page != "ok\n" {
			err = errors.New(page)
		}
		return err
	})
	enough("while the store was full")
	east.end()
	west.end()
}
