//go:build real

package drift

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/testkit"
)

// rate follows how many requests an etcd takes: its own counters, read five times a second.
type rate struct {
	mu    sync.Mutex
	peak  float64 // a second
	total float64
}

func watchRate(t testing.TB, endpoint string) *rate {
	t.Helper()
	r := &rate{}
	testkit.Go(t, "rate", func(ctx context.Context) error {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		last, at := -1., time.Now()
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
			n, err := requests(ctx, endpoint)
			now := time.Now()
			r.mu.Lock()
			if err == nil && last >= 0 {
				if n < last {
					last = 0 // it was restarted, and counts anew
				}
				r.total += n - last
				r.peak = max(r.peak, (n-last)/now.Sub(at).Seconds())
			}
			r.mu.Unlock()
			if err == nil {
				last, at = n, now
			}
		}
	})
	return r
}

// requests is how many requests an etcd has begun to serve, the streams' messages not counted.
func requests(ctx context.Context, endpoint string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}).Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	total := 0.
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if line := lines.Text(); strings.HasPrefix(line, "grpc_server_started_total{") {
			n, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			if err != nil {
				return 0, err
			}
			total += n
		}
	}
	return total, nil
}

// take gives what came since the last time.
func (r *rate) take() (peak, total float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	peak, total = r.peak, r.total
	r.peak, r.total = 0, 0
	return peak, total
}

// TestRealManyAgentsAtOnce says that agents which come to one synchronizer at the same moment all come to
// hold everything, and that none of them ever holds less than it did.
func TestRealManyAgentsAtOnce(t *testing.T) { atOnce(t, 100) }

// BenchmarkRealThousandAgentsAtOnce is the same with a thousand of them: how long it takes, and what etcd
// is asked for, stands in its log.
func BenchmarkRealThousandAgentsAtOnce(b *testing.B) {
	for b.Loop() {
		atOnce(b, 1000)
	}
}

// atOnce lets agents come to one synchronizer at the same moment: for the first time, after the
// synchronizer was restarted, and after its store was wiped.
func atOnce(t testing.TB, herd int) {
	ctx := testkit.Context(t)
	east, west := newRegistry(), newRegistry()
	east.fill(10, 100)
	west.fill(10, 100)
	const instances = 2000
	etcd := testkit.Etcd(t, 1)
	st := store.Config{Etcd: &store.EtcdConfig{Endpoints: etcd.Endpoints, DataDir: t.TempDir()}}
	registries := map[string]*registry{"east": east, "west": west}
	c := run(t, "127.0.0.1:0", st, registries)
	all := make([]*agent, herd)
	etcdRate := watchRate(t, etcd.Endpoints[0])

	began := time.Now()
	for n := range all {
		all[n] = follow(t, fmt.Sprintf("n%04d", n), c.addr)
	}
	synced := func(another string) func() error {
		return func() error {
			for _, a := range all {
				m := a.mirror()
				if m == nil {
					return errors.New("one has not heard anything")
				}
				if id, _ := m.Position(); id == "" || id == another || !a.uplink.Connected() {
					return fmt.Errorf("%s is at store %q, connected: %v", a.node, id, a.uplink.Connected())
				}
				if n := count(a); n != instances {
					return fmt.Errorf("%s holds %d instances", a.node, n)
				}
				if n := len(m.Agents()); n != herd {
					return fmt.Errorf("%s knows %d agents", a.node, n)
				}
			}
			return nil
		}
	}
	tell := func(what string) {
		t.Helper()
		peak, total := etcdRate.take()
		t.Logf("%s: all synced after %s; etcd took %.0f requests, %.0f a second at the most; snapshots %v, continued %v, turned away %v",
			what, time.Since(began).Round(10*time.Millisecond), total, peak, sum(t, c.metrics, "farcall_feed_snapshots_total"),
			sum(t, c.metrics, "farcall_feed_continued_total"), sum(t, c.metrics, "farcall_feed_turned_away_total"))
	}
	testkit.Eventually(t, ctx, "all hold everything", synced(""))
	tell("first start")

	low := watchLow(t, all)
	began = time.Now()
	c.stop()
	c = run(t, c.addr, st, registries)
	testkit.Eventually(t, ctx, "all are back", synced(""))
	tell("synchronizer restarted")

	before, _ := all[0].mirror().Position()
	began = time.Now()
	etcd.Members[0].Kill()
	if err := os.RemoveAll(etcd.Members[0].DataDir); err != nil {
		t.Fatal(err)
	}
	etcd.Members[0].Start()
	testkit.Eventually(t, ctx, "all are of the new store", synced(before))
	tell("store wiped")
	// Who comes now knows only what the store holds.
	late := follow(t, "late", c.addr)
	testkit.Eventually(t, ctx, "the store has everything again", func() error {
		m := late.mirror()
		if m == nil {
			return errors.New("nothing heard")
		}
		if agents, have := len(m.Agents()), count(late); agents != herd+1 || have != instances {
			return fmt.Errorf("%d agents, %d instances", agents, have)
		}
		return nil
	})
	tell("store filled again")
	if n := low(); n < instances {
		t.Errorf("an agent held %d instances of %d for a moment", n, instances)
	}
	for _, a := range all {
		if n := sum(t, a.metrics, "farcall_uplink_drift_total"); n != 0 {
			t.Fatalf("%s is said to have drifted %v times", a.node, n)
		}
	}
}

func count(a *agent) int {
	n := 0
	for _, c := range a.mirror().Clusters(time.Now()) {
		n += c.Instances
	}
	return n
}

// watchLow looks, over and over, for the fewest instances that one of the agents holds.
func watchLow(t testing.TB, all []*agent) (low func() int) {
	t.Helper()
	var mu sync.Mutex
	least := count(all[0])
	testkit.Go(t, "watch for dips", func(ctx context.Context) error {
		for n := 0; ctx.Err() == nil; n++ {
			if n%len(all) == 0 {
				pause := time.NewTimer(10 * time.Millisecond)
				<-pause.C
			}
			have := count(all[n%len(all)])
			mu.Lock()
			least = min(least, have)
			mu.Unlock()
		}
		return ctx.Err()
	})
	return func() int { mu.Lock(); defer mu.Unlock(); return least }
}
