//go:build real && unix

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// instances counts what is listed of a cluster, and gives the cluster's state.
func (w *world) instances(cluster string) (int, catalogv1.ClusterState, error) {
	resp, err := w.connect().ListInstances(w.ctx, &adminv1.ListInstancesRequest{Cluster: cluster})
	if err != nil {
		return 0, 0, err
	}
	return len(resp.GetInstances()), resp.GetClusters()[0].GetState(), nil
}

func (w *world) until(cluster string, n int, state catalogv1.ClusterState) {
	w.t.Helper()
	testkit.Eventually(w.t, w.ctx, fmt.Sprint(cluster, " has ", n, " instances and is ", state), func() error {
		have, st, err := w.instances(cluster)
		if err == nil && (have != n || st != state) {
			err = fmt.Errorf("%d, %s", have, st)
		}
		return err
	})
}

// A Consul that loses all it knew empties nobody: neither the other cluster's agents, nor the
// agents beside it; and its instances' return ends the hold.
func TestRealConsulThatForgetsEmptiesNobody(t *testing.T) {
	servers := map[string]*testkit.ConsulServer{}
	regs := map[string]*consulRegistry{}
	w := newWorld(t, options{
		hold: "5m",
		registry: func(name string) registry {
			servers[name] = testkit.Consul(t)
			regs[name] = consulRegistryOf(t, servers[name])
			return regs[name]
		},
	}, "east", "west")
	west := w.clusters["west"]
	again := map[string]int{}
	for n := 1; n <= 8; n++ {
		id := fmt.Sprint("cart-", n)
		if west.apps[id] == nil {
			west.start(t, id)
			west.registry.put(id, west.apps[id].port, "")
		}
		again[id] = west.apps[id].port
	}
	w.until("west", 8, catalogv1.ClusterState_SYNCED)
	testkit.Eventually(t, w.ctx, "the agent beside it knows all of them too", func() error {
		w.must("west", "cart/method/x", "farcall-strategy: local-only")
		for id, i := range west.apps {
			if i.hits.Load() == 0 {
				return fmt.Errorf("%s was not called yet", id)
			}
		}
		return nil
	})

	servers["west"].Kill()
	w.until("west", 8, catalogv1.ClusterState_STALE)
	w.served("east", "external-only", "west")
	servers["west"].Start() // empty
	w.until("west", 8, catalogv1.ClusterState_PROTECTED)
	w.served("east", "external-only", "west")
	w.served("west", "local-only", "west")
	for id, port := range again {
		west.registry.put(id, port, "")
	}
	w.until("west", 8, catalogv1.ClusterState_SYNCED)
	west.registry.remove("cart-8")
	w.until("west", 7, catalogv1.ClusterState_SYNCED)
}

// Of two synchronizers on one etcd each owns its share; when one dies, the other takes over
// within 5 s, and nothing is seen of it by callers.
func TestRealTakeOver(t *testing.T) {
	etcd := testkit.Etcd(t, 1)
	second, secondHTTP := loopback(t), loopback(t)
	w := newWorld(t, options{store: "etcd: {endpoints: [" + etcd.Endpoints[0] + "]}", second: second}, "east", "west", "edge")
	text, err := os.ReadFile(filepath.Join(w.dir, "synchronizer.yml"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(w.dir, "second.yml")
	write(t, file, strings.NewReplacer(w.admin, second, w.http, secondHTTP, filepath.Join(w.dir, "sync"), filepath.Join(w.dir, "sync2")).Replace(string(text)))
	other := testkit.NewDaemon(t, filepath.Join(bin, "synchronizer"), "synchronizer-2", "--config", file)
	other.Start()

	conn, err := grpc.NewClient(second, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// owners counts the clusters that each replica owns, by the word of the second.
	owners := func() (map[string]int, error) {
		resp, err := adminv1.NewAdminClient(conn).ListClusters(w.ctx, &adminv1.ListClustersRequest{})
		out, fresh := map[string]int{}, 0
		for _, c := range resp.GetClusters() {
			if c.GetState() == catalogv1.ClusterState_SYNCED {
				out[c.GetOwner()]++
				fresh++
			}
		}
		if err == nil && fresh != 3 {
			err = fmt.Errorf("%v", resp)
		}
		return out, err
	}
	testkit.Eventually(t, w.ctx, "the second knows every cluster", func() error { _, err := owners(); return err })
	before, err := owners()
	if err != nil {
		t.Fatal(err)
	}
	w.sync.Kill()
	began := time.Now()
	for _, c := range w.clusters {
		c.registry.remove("cart-1")
	}
	testkit.Eventually(t, w.ctx, "the second owns all, and all changes are through", func() error {
		after, err := owners()
		if err != nil {
			return err
		}
		resp, err := adminv1.NewAdminClient(conn).ListInstances(w.ctx, &adminv1.ListInstancesRequest{})
		if err == nil && (len(after) != 1 || len(resp.GetInstances()) != 3) {
			err = fmt.Errorf("owners %v, %d instances", after, len(resp.GetInstances()))
		}
		return err
	})
	t.Logf("owned before: %v; all taken over and changed %s after the kill", before, time.Since(began).Round(time.Millisecond))
	for range 20 {
		if a := w.must("east", "cart/method/x", "farcall-strategy: external-only"); a.status != http.StatusOK {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
}

// A value in etcd that nobody can read, or a key that somebody deletes, spoils nothing for long:
// readers keep the last good value, and the owner writes again what is not as it shall be.
func TestRealCorruptValueInEtcd(t *testing.T) {
	etcd := testkit.Etcd(t, 1)
	w := newWorld(t, options{store: "etcd: {endpoints: [" + etcd.Endpoints[0] + "]}"}, "east", "west")
	key := "/farcall/v1/e2e/clusters/west/services/default/cart/0"
	etcd.Put(key, "garbage")
	testkit.Eventually(t, w.ctx, "it is counted", func() error {
		text, err := w.get("http://" + w.clusters["east"].health + "/metrics")
		if err == nil && !strings.Contains(text, `farcall_mirror_refused_total{reason="corrupt"} 1`) {
			err = errors.New("not in the metrics")
		}
		return err
	})
	w.served("east", "external-only", "west")
	w.until("west", 2, catalogv1.ClusterState_SYNCED)
	right := func(what string) {
		t.Helper()
		testkit.Eventually(t, w.ctx, what+" is written again", func() error {
			if v := etcd.Get(key); v == "" || v == "garbage" {
				return fmt.Errorf("the value is %q", v)
			}
			return nil
		})
		w.until("west", 2, catalogv1.ClusterState_SYNCED)
	}
	right("a corrupt value")
	etcd.Delete(key)
	right("a deleted key")
	w.sync.Kill()
	etcd.Put(key, "garbage")
	w.sync.Start()
	right("what was spoilt while nobody owned it")
	w.clusters["west"].registry.remove("cart-2")
	w.until("west", 1, catalogv1.ClusterState_SYNCED)
	w.served("east", "external-only", "west")
}
