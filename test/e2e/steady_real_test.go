//go:build real && unix

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	agentv1 "github.com/farcall/farcall/api/farcall/agent/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// steady watches what an agent would call cart at, without a gap: from the first complete answer on,
// some instances have to be in every one that follows.
type steady struct {
	t       *testing.T
	cluster string
	want    []string // cluster/id
	stop    func()

	mu    sync.Mutex
	has   map[string]bool // as of now
	seen  int             // answers
	wrong error           // the first
}

// steady begins to watch at a cluster's agent. It returns once all that is wanted is there.
func (w *world) steady(cluster string, want ...string) *steady {
	w.t.Helper()
	s := &steady{t: w.t, cluster: cluster, want: want}
	conn, err := grpc.NewClient(w.clusters[cluster].grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	s.stop = testkit.Go(w.t, "watch at "+cluster, func(ctx context.Context) error {
		stream, err := agentv1.NewAgentClient(conn).Watch(ctx, &agentv1.ResolveRequest{Service: "cart", Strategy: "any"})
		if err != nil {
			return err
		}
		for {
			m, err := stream.Recv()
			if err != nil {
				return err
			}
			s.look(m)
		}
	})
	testkit.Eventually(w.t, w.ctx, cluster+"'s agent has all", func() error { return s.lists(want...) })
	return s
}

func (s *steady) look(m *agentv1.ResolveResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	complete := s.seen > 0 && s.missing(s.want) == nil
	s.has = map[string]bool{}
	for _, tier := range m.GetTiers() {
		for _, i := range tier.GetInstances() {
			s.has[i.GetInstance().GetCluster()+"/"+i.GetInstance().GetId()] = true
		}
	}
	s.seen++
	if err := s.missing(s.want); err != nil && complete && s.wrong == nil {
		s.wrong = err
	}
}

// missing is called under the lock.
func (s *steady) missing(ids []string) error {
	for _, id := range ids {
		if !s.has[id] {
			return fmt.Errorf("%s's agent would not call %s: it has %v", s.cluster, id, s.has)
		}
	}
	return nil
}

// lists says whether these are there now.
func (s *steady) lists(ids ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.missing(ids)
}

// lacks says whether one is there no more.
func (s *steady) lacks(id string) error {
	if s.lists(id) == nil {
		return fmt.Errorf("%s's agent has %s still", s.cluster, id)
	}
	return nil
}

// end ends the watch and says whether it ever lacked something.
func (s *steady) end() {
	s.t.Helper()
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wrong != nil {
		s.t.Error(s.wrong)
	}
	s.t.Logf("%s's agent: %d answers, none without what was wanted: %t", s.cluster, s.seen, s.wrong == nil)
}

// all gives the two instances that each cluster begins with.
func (w *world) all() []string {
	var out []string
	for name := range w.clusters {
		out = append(out, name+"/cart-1", name+"/cart-2")
	}
	return out
}

// calls makes calls all the time, in turn from each of the clusters to each of the others and to itself.
// What it gives ends that, and fails the test if one was lost.
func (w *world) calls(from ...string) (enough func(what string)) {
	stop, failed, n := make(chan struct{}), make(chan error, 1), 0
	var calling sync.WaitGroup
	once := func(from, to string) error {
		a, err := w.call(from, http.MethodPost, "cart/method/x", "farcall-cluster: "+to)
		if err == nil && (a.status != http.StatusOK || a.cluster() != to) {
			err = fmt.Errorf("from %s to %s: %d by %q: %s", from, to, a.status, a.servedBy, a.body)
		}
		n++
		return err
	}
	calling.Go(func() {
		for {
			for _, from := range from {
				for to := range w.clusters {
					if err := once(from, to); err != nil {
						failed <- err
						return
					}
				}
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	return func(what string) {
		w.t.Helper()
		close(stop)
		calling.Wait()
		select {
		case err := <-failed:
			w.t.Fatalf("%s: a call is lost: %v", what, err)
		default:
			w.t.Logf("%s: %d calls", what, n)
		}
	}
}

// another makes a further synchronizer on the same store, at the address that was kept for it.
func (w *world) another(address string) (d *testkit.Daemon, health string) {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, "synchronizer.yml"))
	if err != nil {
		w.t.Fatal(err)
	}
	health = loopback(w.t)
	file := filepath.Join(w.dir, "second.yml")
	write(w.t, file, strings.NewReplacer(w.admin, address, w.http, health, filepath.Join(w.dir, "sync"), filepath.Join(w.dir, "sync2")).Replace(string(text)))
	return testkit.NewDaemon(w.t, filepath.Join(bin, "synchronizer"), "synchronizer-2", "--config", file), health
}

// metric gives the value of a line of a /metrics page, "" where there is none.
func (w *world) metric(address, line string) (string, error) {
	page, err := w.get("http://" + address + "/metrics")
	for l := range strings.Lines(page) {
		if v, ok := strings.CutPrefix(l, line+" "); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return "", err
}

// replicas are two synchronizers on one store, and agents that know both.
type replicas struct {
	*world
	all     [2]*testkit.Daemon
	health  [2]string
	watched []*steady
	turn    int
}

func newReplicas(t *testing.T) *replicas {
	t.Helper()
	etcd := testkit.Etcd(t, 1)
	second := loopback(t)
	r := &replicas{world: newWorld(t, options{store: "etcd: {endpoints: [" + etcd.Endpoints[0] + "]}", second: second}, "east", "west", "north")}
	r.all[0], r.health[0] = r.sync, r.http
	r.all[1], r.health[1] = r.another(second)
	r.all[1].Start()
	for name := range r.clusters {
		r.watched = append(r.watched, r.steady(name, r.world.all()...))
	}
	return r
}

// owner waits until a replica owns something, and gives one that does: the preferred, where it does.
func (r *replicas) owner(preferred int) (which int) {
	r.t.Helper()
	testkit.Eventually(r.t, r.ctx, "somebody owns something", func() error {
		for n := range 2 {
			which = (preferred + n) % 2
			if owned, err := r.metric(r.health[which], "farcall_store_owned_clusters"); err != nil || owned != "0" {
				return err
			}
		}
		return errors.New("nobody does")
	})
	return which
}

// churn makes one change in each cluster, waits until it is at every agent, and takes it back.
func (r *replicas) churn() {
	r.t.Helper()
	r.turn++
	id := fmt.Sprint("guest-", r.turn)
	each := func(what string, is func(s *steady, id string) error) {
		r.t.Helper()
		testkit.Eventually(r.t, r.ctx, id+what, func() error {
			for _, s := range r.watched {
				for name := range r.clusters {
					if err := is(s, name+"/"+id); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	for _, c := range r.clusters {
		c.start(r.t, id)
		c.registry.put(id, c.apps[id].port, c.name+"-1")
	}
	each(" has arrived", func(s *steady, id string) error { return s.lists(id) })
	for _, c := range r.clusters {
		c.registry.remove(id)
	}
	each(" has left", (*steady).lacks)
}

// The owner of a cluster is killed while its instances come and go, again and again. No agent ever has
// less than what was there all along; no call is lost; what changes meanwhile arrives.
func TestRealOwnerKilledUnderChurn(t *testing.T) {
	r := newReplicas(t)
	enough := r.calls("east", "west", "north")
	r.churn()
	for round := range 4 {
		victim := r.all[r.owner(round%2)]
		victim.Kill()
		began := time.Now()
		r.churn()
		t.Logf("a change came and went everywhere %s after the kill", time.Since(began).Round(time.Millisecond))
		victim.Start()
		r.churn()
	}
	enough("while owners were killed")
	for _, s := range r.watched {
		s.end()
	}
}

// The owner of a cluster stands still until another owns it and has written to it, and wakes up in the
// middle of what it was doing: again no agent has less than what was there, and changes go on to arrive.
func TestRealOwnerPausedUnderChurn(t *testing.T) {
	r := newReplicas(t)
	enough := r.calls("east", "west", "north")
	r.churn()
	for round := range 2 {
		victim := r.owner(round)
		r.all[victim].Pause()
		r.churn()
		r.all[victim].Resume()
		r.churn()
	}
	enough("while owners stood still")
	for _, s := range r.watched {
		s.end()
	}
}

// The only etcd loses all its data while calls go on: no agent loses an instance, and the store is filled
// again with what it held.
func TestRealWipedStoreUnderCalls(t *testing.T) {
	etcd := testkit.Etcd(t, 1)
	w := newWorld(t, options{store: "etcd: {endpoints: [" + etcd.Endpoints[0] + "]}"}, "east", "west")
	w.does("service: cart\nstrategy: external-first\n", "policy", "apply", "-f", "-")
	const (
		key = "/farcall/v1/e2e/clusters/west/services/default/cart/0"
		id  = "/farcall/v1/e2e/store"
	)
	before := etcd.Get(id)
	if before == "" || etcd.Get(key) == "" {
		t.Fatal("the store holds nothing to begin with")
	}
	east, west := w.steady("east", w.all()...), w.steady("west", w.all()...)
	enough := w.calls("east", "west")
	m := etcd.Members[0]
	m.Kill()
	if err := os.RemoveAll(m.DataDir); err != nil {
		t.Fatal(err)
	}
	m.Start()
	etcd.WaitReady()
	testkit.Eventually(t, w.ctx, "the store is filled again", func() error {
		if now := etcd.Get(id); now == "" || now == before {
			return fmt.Errorf("its id is %q, before it was %q", now, before)
		}
		if etcd.Get(key) == "" {
			return errors.New("it lacks west's cart")
		}
		return nil
	})
	w.until("east", 2, catalogv1.ClusterState_SYNCED)
	w.until("west", 2, catalogv1.ClusterState_SYNCED)
	testkit.Eventually(t, w.ctx, "the policies are back", func() error {
		out, err := w.farcall("", "get", "policies")
		if err == nil && !strings.Contains(out, "external-first") {
			err = errors.New(out)
		}
		return err
	})
	c := w.clusters["west"]
	c.start(t, "cart-3")
	c.registry.put("cart-3", c.apps["cart-3"].port, "west-1")
	testkit.Eventually(t, w.ctx, "a change arrives", func() error { return errors.Join(east.lists("west/cart-3"), west.lists("west/cart-3")) })
	enough("while the store was wiped")
	east.end()
	west.end()
}

// The registries, the store and the synchronizer are gone. Two agents and their applications are left, and
// calls go on between them and at home, also when both agents begin anew.
func TestRealNothingLeftButAgents(t *testing.T) {
	etcd := testkit.Etcd(t, 1)
	var consuls []*testkit.ConsulServer
	w := newWorld(t, options{
		store: "etcd: {endpoints: [" + etcd.Endpoints[0] + "]}",
		registry: func(string) registry {
			consuls = append(consuls, testkit.Consul(t))
			return consulRegistryOf(t, consuls[len(consuls)-1])
		},
	}, "east", "west")
	east, west := w.steady("east", w.all()...), w.steady("west", w.all()...)
	enough := w.calls("east", "west")
	w.sync.Kill()
	etcd.Members[0].Kill()
	for _, c := range consuls {
		c.Kill()
	}
	w.passes(5 * time.Second)
	enough("with nothing but the agents")
	east.end()
	west.end()

	// An agent keeps what it knows within a second or so; all of it is older than that here.
	for _, c := range w.clusters {
		c.agent.Kill()
	}
	for _, c := range w.clusters {
		c.agent.Start()
	}
	for _, from := range []string{"east", "west"} {
		for _, to := range []string{"east", "west"} {
			w.reaches(from, to)
		}
	}
	east, west = w.steady("east", w.all()...), w.steady("west", w.all()...)
	enough = w.calls("east", "west")
	w.passes(5 * time.Second)
	enough("after both agents were killed and began anew")
	for _, strategy := range []string{"local-first", "external-first", "any", "broadcast"} {
		if a := w.must("east", "cart/method/x", "farcall-strategy: "+strategy); a.status/100 != 2 {
			t.Errorf("%s: %d %s", strategy, a.status, a.body)
		}
	}
	east.end()
	west.end()
	for _, c := range w.clusters {
		if page, err := w.get("http://" + c.health + "/readyz"); err != nil || !strings.Contains(page, "degraded") {
			t.Errorf("%s's agent does not say what it lacks: %s %v", c.name, page, err)
		}
	}
}
