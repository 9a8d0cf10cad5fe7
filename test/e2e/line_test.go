//go:build unix

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// The whole line on files: what TestRealConsul holds for Consul, this holds for every machine.
func TestLineOnFiles(t *testing.T) { theLine(t, newWorld(t, options{}, "east", "west")) }

// theLine is what every kind of registry must show.
func theLine(t *testing.T, w *world) {
	t.Run("strategies", func(t *testing.T) { w.t = t; strategies(w) })
	t.Run("overrides and errors", func(t *testing.T) { w.t = t; overrides(w) })
	t.Run("admin", func(t *testing.T) { w.t = t; admin(w) })
	t.Run("an instance leaves", func(t *testing.T) { w.t = t; leave(w) })
	t.Run("instances die in mid-traffic", func(t *testing.T) { w.t = t; die(w) })
	t.Run("control plane away", func(t *testing.T) { w.t = t; controlPlaneAway(w) })
}

func strategies(w *world) {
	w.served("east", "local-first", "east")
	w.served("west", "local-first", "west")
	w.served("east", "external-first", "west")
	w.served("east", "local-only", "east")
	w.served("east", "external-only", "west")
	w.served("west", "external-only", "east")
	w.served("east", "any", "east", "west")
	a := w.must("east", "cart/method/x", "farcall-strategy: broadcast")
	if got := broadcast(w, a); a.status != http.StatusMultiStatus || got != "east 200, west 200" {
		w.t.Errorf("broadcast: %d %s", a.status, got)
	}
}

// broadcast reads the list that a broadcast is answered with.
func broadcast(w *world, a answer) string {
	w.t.Helper()
	var list []struct {
		Cluster, Instance, Body, Error string
		Status                         int
	}
	if err := json.Unmarshal([]byte(a.body), &list); err != nil {
		w.t.Fatalf("%v: %s", err, a.body)
	}
	var words []string
	for _, r := range list {
		word := fmt.Sprint(r.Cluster, " ", r.Status)
		if r.Error != "" {
			word = r.Cluster + " failed"
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

func overrides(w *world) {
	for _, c := range []struct {
		name, path string
		headers    []string
		status     int
		code       string
	}{
		{"unknown strategy", "cart/method/x", []string{"farcall-strategy: Local-First"}, 400, "BAD_STRATEGY"},
		{"unknown cluster", "cart/method/x", []string{"farcall-cluster: wset"}, 400, "NO_SUCH_CLUSTER"},
		{"contradiction", "cart/method/x", []string{"farcall-cluster: west", "farcall-strategy: local-only"}, 400, "CONTRADICTION"},
		{"bad timeout", "cart/method/x", []string{"farcall-timeout: soon"}, 400, ""},
		{"unknown service", "nobody/method/x", nil, 404, "NOT_FOUND"},
		{"too many dots", "a.b.c/method/x", nil, 400, ""},
		{"pinned to the own cluster", "cart/method/x", []string{"farcall-cluster: east", "farcall-strategy: local-only"}, 200, ""},
		{"namespace in the name", "cart.default/method/x", nil, 200, ""},
		{"pinned", "cart/method/x", []string{"farcall-cluster: west"}, 200, ""},
	} {
		a := w.must("east", c.path, c.headers...)
		if a.status != c.status || !strings.Contains(a.body, c.code) {
			w.t.Errorf("%s: %d %s, want %d %s", c.name, a.status, a.body, c.status, c.code)
		}
	}
	a, err := w.call("east", http.MethodPost, "cart/method/a/b%20c?x=1&y=%2F", "farcall-cluster: west")
	if err != nil || !strings.HasPrefix(a.body, "POST /a/b%20c?x=1&y=%2F west/cart-") || !strings.HasSuffix(a.body, " hello") {
		w.t.Errorf("method, query and body across clusters: %v %s", err, a.body)
	}
	if a.servedBy == "" || a.attempts != "1" {
		w.t.Errorf("served by %q in %q attempts", a.servedBy, a.attempts)
	}
}

func admin(w *world) {
	c := w.connect()
	list, err := c.ListInstances(w.ctx, &adminv1.ListInstancesRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	var ids []string
	for _, i := range list.GetInstances() {
		ids = append(ids, i.GetCluster()+"/"+i.GetId())
	}
	if want := []string{"east/cart-1", "east/cart-2", "west/cart-1", "west/cart-2"}; !slices.Equal(ids, want) {
		w.t.Errorf("ListInstances: %v, want %v", ids, want)
	}
	printed, err := exec.CommandContext(w.ctx, filepath.Join(bin, "farcall"), "--server", w.admin, "get", "instances", "-o", "json").Output()
	if err != nil {
		w.t.Fatal(err)
	}
	var again adminv1.ListInstancesResponse
	if err := protojson.Unmarshal(printed, &again); err != nil {
		w.t.Fatalf("%v: %s", err, printed)
	}
	again.Clusters, list.Clusters = nil, nil // ages move on
	if !proto.Equal(&again, list) {
		w.t.Errorf("farcall get instances prints %v, the API says %v", &again, list)
	}
	if _, err := c.ListInstances(w.ctx, &adminv1.ListInstancesRequest{Cluster: "wset"}); status.Code(err) != codes.NotFound {
		w.t.Errorf("an unknown cluster: %v", err)
	}
	e, err := c.Explain(w.ctx, &adminv1.ExplainRequest{Service: "cart", From: "east", Strategy: "external-only"})
	if err != nil {
		w.t.Fatal(err)
	}
	reasons := map[string]int{}
	for _, i := range e.GetInstances() {
		reasons[i.GetInstance().GetCluster()+" "+i.GetReason()]++
	}
	if reasons["west "] != 2 || reasons["east STRATEGY"] != 2 {
		w.t.Errorf("Explain: %v", reasons)
	}
	agents, err := c.ListAgents(w.ctx, &adminv1.ListAgentsRequest{})
	if err != nil || len(agents.GetAgents()) != 2 || !agents.GetAgents()[0].GetConnected() {
		w.t.Errorf("ListAgents: %v %v", agents, err)
	}
	if h, err := healthv1.NewHealthClient(w.conn).Check(w.ctx, &healthv1.HealthCheckRequest{Service: "farcall.admin.v1.Admin"}); err != nil || h.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		w.t.Errorf("grpc.health: %v %v", h, err)
	}
	if names := reflected(w); !slices.Contains(names, "farcall.admin.v1.Admin") || !slices.Contains(names, "grpc.health.v1.Health") {
		w.t.Errorf("reflection names %v", names)
	}
}

// reflected asks for the services as grpcurl does.
func reflected(w *world) []string {
	w.t.Helper()
	conn, err := grpc.NewClient(w.admin, grpc.WithTransportCredentials(w.secure))
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	s, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := s.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		w.t.Fatal(err)
	}
	resp, err := s.Recv()
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, svc := range resp.GetListServicesResponse().GetService() {
		names = append(names, svc.GetName())
	}
	if err := s.CloseSend(); err != nil {
		w.t.Fatal(err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		w.t.Errorf("the end of reflection: %v", err)
	}
	return names
}

// leave takes an instance out of one cluster's registry and waits for the other's agent.
func leave(w *world) {
	west := w.clusters["west"]
	stream, err := w.connect().WatchInstances(w.ctx, &adminv1.WatchInstancesRequest{Cluster: "west"})
	if err != nil {
		w.t.Fatal(err)
	}
	for synced := false; !synced; {
		m, err := stream.Recv()
		if err != nil {
			w.t.Fatal(err)
		}
		synced = m.GetType() == adminv1.WatchInstancesResponse_SYNCED
	}
	began := time.Now()
	west.registry.remove("cart-1")
	testkit.Eventually(w.t, w.ctx, "cart-1 is picked no more", func() error {
		before := west.apps["cart-1"].hits.Load()
		for range 20 {
			if a := w.must("east", "cart/method/x", "farcall-strategy: external-only"); a.status != http.StatusOK {
				return fmt.Errorf("%d %s", a.status, a.body)
			}
		}
		if n := west.apps["cart-1"].hits.Load(); n != before {
			return fmt.Errorf("%d more calls", n-before)
		}
		return nil
	})
	w.t.Logf("gone from the other cluster's picks after %s (20 calls included)", time.Since(began).Round(time.Millisecond))
	for {
		m, err := stream.Recv()
		if err != nil {
			w.t.Fatal(err)
		}
		if m.GetType() == adminv1.WatchInstancesResponse_DELETE {
			if m.GetInstance().GetId() != "cart-1" {
				w.t.Errorf("deleted %v", m)
			}
			break
		}
	}
	west.registry.put("cart-1", west.apps["cart-1"].port, "west-1")
	testkit.Eventually(w.t, w.ctx, "cart-1 is back", func() error {
		before := west.apps["cart-1"].hits.Load()
		for range 10 {
			w.must("east", "cart/method/x", "farcall-strategy: external-only")
		}
		if west.apps["cart-1"].hits.Load() == before {
			return errors.New("not called yet")
		}
		return nil
	})
}

// die kills an application, then a whole node, under traffic: no GET may fail while another
// instance can serve it, and no POST that was not sent.
func die(w *world) {
	west := w.clusters["west"]
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed []string
	sent := 0
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a, err := w.call("east", http.MethodGet, "cart/method/x", "farcall-strategy: external-first")
				mu.Lock()
				sent++
				if err != nil || a.status != http.StatusOK {
					failed = append(failed, fmt.Sprint(a.status, " ", a.body, err))
				}
				mu.Unlock()
			}
		})
	}
	enough := func(n int) {
		w.t.Helper()
		mu.Lock()
		goal := sent + n
		mu.Unlock()
		testkit.Eventually(w.t, w.ctx, "traffic", func() error {
			mu.Lock()
			defer mu.Unlock()
			if sent < goal {
				return fmt.Errorf("%d of %d calls", sent, goal)
			}
			return nil
		})
	}
	enough(50)
	west.apps["cart-1"].stop()
	enough(200)
	west.agent.Kill()
	enough(200)
	close(stop)
	wg.Wait()
	for _, f := range failed {
		w.t.Errorf("a call that could be retried failed: %s", f)
	}
	w.t.Logf("%d calls", sent)
	west.start(w.t, "cart-1")
	west.agent.Start()
	w.reaches("east", "west")
	w.reaches("west", "east")
}

// controlPlaneAway kills the synchronizer with its store, and has an agent start without them.
func controlPlaneAway(w *world) {
	w.sync.Kill()
	strategies(w)
	east := w.clusters["east"]
	east.agent.Kill()
	east.agent.Start()
	w.reaches("east", "west") // from the view on its disk
	strategies(w)
	w.sync.Start()
	testkit.Eventually(w.t, w.ctx, "the synchronizer knows both clusters again", func() error {
		list, err := w.connect().ListInstances(w.ctx, &adminv1.ListInstancesRequest{})
		if err == nil && len(list.GetInstances()) != 4 {
			err = fmt.Errorf("%d instances", len(list.GetInstances()))
		}
		return err
	})
}
