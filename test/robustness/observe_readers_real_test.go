//go:build real && linux

package robustness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	agentv1 "github.com/farcall/farcall/api/farcall/agent/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/test/robustness/history"
	"github.com/farcall/farcall/test/robustness/verdict"
)

const (
	lookEvery = 300 * time.Millisecond
	lookTime  = 5 * time.Second
)

// dial gives a connection that comes back soon after its server did.
func (w *world) dial(addr string) *grpc.ClientConn {
	w.t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: lookTime,
		}))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return conn
}

// watchAgent looks at a service at an agent whenever the agent says that something is otherwise of it.
func (w *world) watchAgent(ctx context.Context, a *agentProc, conn *grpc.ClientConn, service string) {
	client := agentv1.NewAgentClient(conn)
	for {
		stream, err := client.Watch(ctx, &agentv1.ResolveRequest{Service: service, Strategy: "any"})
		for err == nil {
			if _, err = stream.Recv(); err == nil {
				err = w.look(ctx, a, client, service)
			}
		}
		w.seen.lost(verdict.Agent + a.name)
		if !pause(ctx, 50*time.Millisecond) {
			return
		}
	}
}

// askAgent looks at everything at an agent now and then: what is listed and not called is otherwise
// without its telling.
func (w *world) askAgent(ctx context.Context, a *agentProc, conn *grpc.ClientConn) {
	client := agentv1.NewAgentClient(conn)
	for pause(ctx, lookEvery) {
		for _, s := range services {
			if w.look(ctx, a, client, s.name) != nil {
				break // it is down: one knows by the next look
			}
		}
	}
}

// look writes down all that an agent lists of a service.
func (w *world) look(ctx context.Context, a *agentProc, client agentv1.AgentClient, service string) error {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	a.looking.Lock() // what is seen first is written down first
	defer a.looking.Unlock()
	resp, err := client.Explain(ctx, &agentv1.ExplainRequest{Service: service, Strategy: "any"})
	if err != nil {
		w.seen.lost(verdict.Agent + a.name)
		clear(a.known)
		return err
	}
	known := map[string]bool{}
	for _, c := range resp.GetClusters() {
		known[c.GetCluster()] = c.GetState() != catalogv1.ClusterState_CLUSTER_STATE_UNKNOWN
		if service == services[0].name {
			w.seen.cluster(history.Cluster{Who: verdict.Agent + a.name, Name: c.GetCluster(), State: c.GetState().String(), Age: c.GetAge().AsDuration()})
		}
	}
	list := map[string][]string{}
	for _, i := range resp.GetInstances() {
		list[i.GetInstance().GetCluster()] = append(list[i.GetInstance().GetCluster()], i.GetInstance().GetId())
	}
	for _, name := range w.names {
		// An answer takes the clusters' states and the lists one after the other: of a cluster that an
		// agent knows since this moment it may have the state and not the list yet.
		of := sighting{who: a.name, cluster: name, service: service}
		w.seen.view(history.View{
			Who: verdict.Agent + a.name, Cluster: name, Service: service, Instances: list[name], Unknown: !known[name] || !a.known[of],
		})
		a.known[of] = known[name]
	}
	return nil
}

// probe makes calls that are only looks, from an agent to each cluster.
func (w *world) probe(ctx context.Context, a *agentProc) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: lookTime}
	for pause(ctx, 2*lookEvery) {
		for _, name := range w.names {
			began := time.Now()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.http+"/v1.0/invoke/cart/method/look", nil)
			if err != nil {
				w.t.Error(err)
				return
			}
			req.Header.Set("farcall-cluster", name)
			resp, err := client.Do(req)
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					err = errors.New(resp.Status)
				}
			}
			w.seen.probe(a.name+" to "+name, began, err)
		}
	}
}

// watchInstances follows all lists of a synchronizer.
func (w *world) watchInstances(ctx context.Context, s *syncProc) {
	client := adminv1.NewAdminClient(s.conn)
	for {
		stream, err := client.WatchInstances(ctx, &adminv1.WatchInstancesRequest{})
		l := lists{w: w, who: verdict.Synchronizer + s.id, have: map[sighting][]string{}, known: map[string]bool{}}
		for err == nil {
			var m *adminv1.WatchInstancesResponse
			if m, err = stream.Recv(); err == nil {
				l.take(m)
			}
		}
		if status.Code(err) == codes.InvalidArgument {
			w.t.Error(err)
		}
		if !pause(ctx, 50*time.Millisecond) {
			return
		}
	}
}

// lists are what a synchronizer shows, by what its watch said.
type lists struct {
	w      *world
	who    string
	have   map[sighting][]string
	known  map[string]bool
	synced bool
}

func (l *lists) take(m *adminv1.WatchInstancesResponse) {
	at := sighting{"", m.GetInstance().GetCluster(), m.GetInstance().GetService()}
	id := m.GetInstance().GetId()
	switch m.GetType() {
	case adminv1.WatchInstancesResponse_SNAPSHOT, adminv1.WatchInstancesResponse_UPSERT:
		if slices.Contains(l.have[at], id) {
			return
		}
		l.have[at] = append(l.have[at], id)
	case adminv1.WatchInstancesResponse_DELETE:
		l.have[at] = slices.DeleteFunc(l.have[at], func(one string) bool { return one == id })
	case adminv1.WatchInstancesResponse_CLUSTER:
		c := m.GetCluster()
		known := c.GetState() != catalogv1.ClusterState_CLUSTER_STATE_UNKNOWN
		if was := l.known[c.GetCluster()]; was == known {
			return
		}
		l.known[c.GetCluster()] = known
		if l.synced {
			l.show(c.GetCluster(), false)
		}
		return
	case adminv1.WatchInstancesResponse_SYNCED:
		l.synced = true
		for _, name := range l.w.names {
			l.show(name, true)
		}
		return
	default:
		l.w.t.Errorf("%s sends %v", l.who, m)
	}
	if l.synced {
		l.show(at.cluster, false)
	}
}

// show writes down all that there is of a cluster.
func (l *lists) show(cluster string, began bool) {
	for _, s := range services {
		l.w.seen.view(history.View{
			Who: l.who, Cluster: cluster, Service: s.name, Instances: slices.Clone(l.have[sighting{"", cluster, s.name}]),
			Unknown: !l.known[cluster], Began: began,
		})
	}
}

// listClusters asks a synchronizer how its clusters are.
func (w *world) listClusters(ctx context.Context, s *syncProc) {
	client := adminv1.NewAdminClient(s.conn)
	for pause(ctx, lookEvery) {
		within, cancel := context.WithTimeout(ctx, lookTime)
		resp, err := client.ListClusters(within, &adminv1.ListClustersRequest{})
		cancel()
		if err != nil {
			continue // it is down: whoever needs it waits for the next answer
		}
		for _, c := range resp.GetClusters() {
			w.seen.cluster(history.Cluster{Who: verdict.Synchronizer + s.id, Name: c.GetName(), State: c.GetState().String(), Age: c.GetAge().AsDuration()})
		}
	}
}

// observeEpisode writes down what is looked at once per episode: what agents keep on their disks, and
// how the processes are.
func (w *world) observeEpisode(ctx context.Context) error {
	for _, a := range w.agents() {
		if err := w.readDisk(a); err != nil {
			return err
		}
		if err := w.measure(ctx, verdict.Agent+a.name, a.metrics); err != nil {
			return err
		}
	}
	for _, s := range w.synchronizers {
		if err := w.measure(ctx, verdict.Synchronizer+s.id, s.http); err != nil {
			return err
		}
	}
	return nil
}

// measure writes down what a process says of itself.
func (w *world) measure(ctx context.Context, name, addr string) error {
	text, err := patientPage(ctx, "http://"+addr+"/metrics")
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	of := map[string]float64{}
	for line := range strings.Lines(text) {
		var value float64
		key, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if _, err := fmt.Sscan(rest, &value); err == nil {
			of[key] = value
		}
	}
	p := history.Process{
		Name: name, RSS: int64(of["process_resident_memory_bytes"]), Goroutines: int(of["go_goroutines"]), Files: int(of["process_open_fds"]),
	}
	if p.RSS == 0 || p.Goroutines == 0 || p.Files == 0 {
		return fmt.Errorf("%s does not say how large it is: %+v", name, p)
	}
	w.rec.Add(history.Event{Process: &p})
	return nil
}
