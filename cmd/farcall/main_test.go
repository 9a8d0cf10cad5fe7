package main

import (
	"bytes"
	"context"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// result is what one command line did.
type result struct {
	code           int
	stdout, stderr string
}

// farcall runs one command line in this process.
func farcall(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := execute(testkit.Context(t), args, strings.NewReader(stdin), &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

// want fails the test unless the exit code is code and stderr holds every one of words.
func (r result) want(t *testing.T, code int, words ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d; stderr:\n%s", r.code, code, r.stderr)
	}
	for _, w := range words {
		if !strings.Contains(r.stderr, w) {
			t.Errorf("stderr lacks %q:\n%s", w, r.stderr)
		}
	}
}

// buffer is a writer that a test may read while a verb still writes.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// fakeAdmin answers as a synchronizer of two clusters would.
type fakeAdmin struct {
	adminv1.UnimplementedAdminServer
	// pageSize is how many instances a page holds.
	pageSize int
	// asIs says that answers are as they stand in this file, with their times.
	asIs bool
	// end closes a watch from the server's side.
	end chan struct{}
	// sick says that the store does not answer.
	sick bool
	// kept is what people wrote.
	kept kept
	// asked is the last question that Explain was asked.
	asked atomic.Pointer[adminv1.ExplainRequest]
}

// serving is what grpc.health says of a synchronizer.
func (f *fakeAdmin) serving() healthv1.HealthCheckResponse_ServingStatus {
	if f.sick {
		return healthv1.HealthCheckResponse_NOT_SERVING
	}
	return healthv1.HealthCheckResponse_SERVING
}

// serve starts one on loopback until the test ends.
func serve(t *testing.T, a interface {
	adminv1.AdminServer
	serving() healthv1.HealthCheckResponse_ServingStatus
}) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, is := a.(*fakeAdmin)
	asIs := is && f.asIs
	s := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, asked *grpc.UnaryServerInfo, do grpc.UnaryHandler) (any, error) {
		resp, err := do(ctx, req)
		if m, is := resp.(proto.Message); is && err == nil && !asIs && strings.Contains(asked.FullMethod, "/List") {
			m = proto.Clone(m)
			shift(m.ProtoReflect(), time.Since(began))
			resp = m
		}
		return resp, err
	}))
	adminv1.RegisterAdminServer(s, a)
	h := health.NewServer()
	h.SetServingStatus("", a.serving())
	healthv1.RegisterHealthServer(s, h)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().String()
}

var eastStatus = &adminv1.ClusterStatus{Cluster: "east", State: catalogv1.ClusterState_SYNCED, Age: durationpb.New(400 * time.Millisecond)}

var clusterStates = []*adminv1.ClusterStatus{
	eastStatus,
	{Cluster: "west", State: catalogv1.ClusterState_STALE, Age: durationpb.New(12 * time.Second)},
	{Cluster: "edge", State: catalogv1.ClusterState_CLUSTER_STATE_UNKNOWN},
}

var instances = []*catalogv1.Instance{
	{
		Cluster: "east", Namespace: "default", Service: "cart", Id: "cart-1", Node: "node-1",
		Locality: &catalogv1.Locality{Region: "eu", Zone: "eu-1"}, Address: "10.0.0.5", Port: 8080, Weight: 1,
		Health: catalogv1.Health_HEALTHY, Registry: "consul", RegistryRevision: "17", Metadata: map[string]string{"version": "v2", "note": "<a&b>\x7f"},
	},
	{
		Cluster: "west", Namespace: "default", Service: "cart", Id: "cart\t2\x1b[31m", Address: "fd00::1", Port: 8080,
		Relay: "10.1.0.6:50002", Weight: 50, Health: catalogv1.Health_UNHEALTHY, Registry: "file",
	},
	{
		Cluster: "west", Namespace: "shop", Service: "billing", Id: "5", Address: "billing.west", Weight: 1,
		Relay: "10.1.0.7:50002", Registry: "file",
	},
}

// began is when the answers below were made: on a machine that is busy with other things a test may ask
// for them minutes later.
var began = time.Now()

// shift makes all times of a message later.
func shift(m protoreflect.Message, by time.Duration) {
	if at, is := m.Interface().(*timestamppb.Timestamp); is {
		at.Seconds += int64(by / time.Second)
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() || f.Message() == nil:
		case f.IsList():
			for n := range v.List().Len() {
				shift(v.List().Get(n).Message(), by)
			}
		default:
			shift(v.Message(), by)
		}
		return true
	})
}

// ago is a time so long ago, and a bit: not so much that it is told otherwise.
func ago(d time.Duration) *timestamppb.Timestamp {
	return timestamppb.New(time.Now().Add(-d - 10*time.Second))
}

var clusters = &adminv1.ListClustersResponse{Clusters: []*adminv1.Cluster{
	{
		Name: "east", State: catalogv1.ClusterState_SYNCED, Age: durationpb.New(400 * time.Millisecond), Owner: "sync-a", Epoch: 3,
		Services: 2, Instances: 7, Locality: &catalogv1.Locality{Region: "eu", Zone: "eu-1"}, Labels: map[string]string{"tier": "gold"},
		Registries: []*storev1.RegistryStatus{{
			Name: "consul", State: storev1.RegistryStatus_OK, Held: 6, Services: 2, Instances: 7, Revision: "1042", LastSuccess: ago(-time.Minute),
		}},
	},
	{
		Name: "west", State: catalogv1.ClusterState_PROTECTED, Age: durationpb.New(3*time.Hour + 5*time.Minute), Epoch: 18446744073709551615,
		Registries: []*storev1.RegistryStatus{
			{
				Name: "file", State: storev1.RegistryStatus_FAILED, LastError: "open west.yaml:\nno such file",
				Since: ago(3*time.Hour + 4*time.Minute), LastSuccess: ago(3*time.Hour + 5*time.Minute), Services: 3, Instances: 12,
			},
			{Name: "consul", State: storev1.RegistryStatus_OK, LastSuccess: ago(-time.Minute), SetAside: 1, LastSetAside: "cart/x: port 70000 is not in 1 to 65535", Shadowed: 3},
			{Name: "dns", State: storev1.RegistryStatus_FAILED, LastError: "dns: 10.0.0.1:53: refused", Since: ago(time.Hour)},
			{Name: "file-2", State: storev1.RegistryStatus_FAILED, LastError: "file: no services key", Since: ago(time.Hour), LastSuccess: ago(2 * time.Hour)},
		},
	},
	{
		Name: "edge", State: catalogv1.ClusterState_STALE, Age: durationpb.New(time.Hour), Owner: "sync-a", Epoch: 1,
		Registries: []*storev1.RegistryStatus{
			{Name: "mdns@10.8.0.0/24", State: storev1.RegistryStatus_OK, LastSuccess: ago(time.Hour), Services: 1, Instances: 1, Reporter: "node-3"},
			{Name: "consul", Since: ago(2 * time.Hour)},
		},
	},
	{Name: "new"},
}}

var services = &adminv1.ListServicesResponse{
	Services: []*adminv1.Service{
		{Namespace: "default", Name: "cart", Clusters: []*adminv1.ServiceInCluster{
			{Cluster: "east", Instances: 3, Healthy: 2}, {Cluster: "west", Instances: 1},
		}},
		{Namespace: "shop", Name: "billing"},
	},
	Clusters: []*adminv1.ClusterStatus{eastStatus},
}

var agents = &adminv1.ListAgentsResponse{Agents: []*adminv1.AgentStatus{
	{
		Agent: &catalogv1.Agent{
			Cluster: "east", Node: "node-1", Incarnation: "x", Address: "10.0.0.1:50002", Version: "v0.1.0",
			Locality: &catalogv1.Locality{Region: "eu"},
			Apps: []*catalogv1.App{
				{Namespace: "shop", Id: "billing", Port: 81, Protocol: "grpc"}, {Namespace: "default", Id: "cart", Port: 80},
			},
		},
		Connected: true, AppliedRevision: 42, PolicyRevision: 9, Drifts: 3,
	},
	{Agent: &catalogv1.Agent{Cluster: "west", Node: "node-2", Address: "10.1.0.1:50002"}},
}}

var explained = &adminv1.ExplainResponse{
	Namespace: "default", Service: "cart", From: "east", Strategy: "local-first", StrategySource: "policy service default/cart", ComputedBy: "agent east/node-1",
	Rule: "policy service default/cart: local-first: local has 2 of 3 available, below the threshold of 80 %",
	Tiers: []*adminv1.Tier{
		{Name: "local", Share: 62.5, Available: 2, Known: 3, Why: "66 % of 80 %"}, {Name: "*", Share: 37.5, Available: 1, Known: 1, Why: "the\x1b rest"},
	},
	Instances: []*adminv1.ExplainedInstance{
		{Instance: instances[0], ClusterState: catalogv1.ClusterState_SYNCED, Age: durationpb.New(0), Picked: true, Dial: "10.0.0.1:50002", Share: 62.5, Weight: 1.5},
		{Instance: instances[1], ClusterState: catalogv1.ClusterState_STALE, Age: durationpb.New(90 * time.Second), Tier: -1,
			Reason: "UNHEALTHY", Detail: "its registry says so", Weight: 50},
	},
	Clusters:   clusterStates,
	RecoverAll: true,
	Settings: []*adminv1.Setting{
		{Key: "strategy", Value: "local-first", Source: "policy service default/cart"}, {Key: "balancer", Value: "least-request", Source: "default"},
		{Key: "failover", Value: "{threshold: 80}", Source: "policy cluster east"},
	},
	Notes: []string{"it does not understand policy namespace shop"},
}

func (f *fakeAdmin) ListClusters(_ context.Context, r *adminv1.ListClustersRequest) (*adminv1.ListClustersResponse, error) {
	if m := r.GetMaxStaleness(); m != nil && m.AsDuration() < time.Hour {
		st, err := status.New(codes.Unavailable, "west was confirmed 3h5m ago").
			WithDetails(&errdetails.ErrorInfo{Reason: "STALE", Domain: "farcall"})
		if err != nil {
			return nil, err
		}
		return nil, st.Err()
	}
	return clusters, nil
}

func (f *fakeAdmin) ListServices(_ context.Context, r *adminv1.ListServicesRequest) (*adminv1.ListServicesResponse, error) {
	switch r.GetCluster() {
	case "wst":
		return nil, status.Error(codes.NotFound, `no cluster "wst"; did you mean "west"?`)
	case "slow":
		return nil, status.Error(codes.DeadlineExceeded, "etcd took too long")
	case "broken":
		return nil, status.Error(codes.DataLoss, "two\nlines")
	case "empty":
		return &adminv1.ListServicesResponse{}, nil
	}
	return services, nil
}

func (f *fakeAdmin) ListInstances(_ context.Context, r *adminv1.ListInstancesRequest) (*adminv1.ListInstancesResponse, error) {
	if r.GetCluster() == "loop" {
		return &adminv1.ListInstancesResponse{NextPageToken: "again"}, nil
	}
	var match []*catalogv1.Instance
	for _, i := range instances {
		if (r.GetCluster() == "" || i.GetCluster() == r.GetCluster()) && (r.GetNamespace() == "" || i.GetNamespace() == r.GetNamespace()) &&
			(r.GetService() == "" || i.GetService() == r.GetService()) && (len(r.GetHealth()) == 0 || r.GetHealth()[0] == i.GetHealth()) {
			match = append(match, i)
		}
	}
	from := 0
	if r.GetPageToken() != "" {
		var err error
		if from, err = strconv.Atoi(r.GetPageToken()); err != nil {
			return nil, status.Error(codes.InvalidArgument, "page token")
		}
	}
	page := &adminv1.ListInstancesResponse{Instances: match[from:min(from+f.pageSize, len(match))], Clusters: clusterStates}
	if from+f.pageSize < len(match) {
		page.NextPageToken = strconv.Itoa(from + f.pageSize)
	}
	return page, nil
}

func (f *fakeAdmin) ListAgents(context.Context, *adminv1.ListAgentsRequest) (*adminv1.ListAgentsResponse, error) {
	return agents, nil
}

func (f *fakeAdmin) Explain(_ context.Context, r *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
	f.asked.Store(r)
	switch {
	case r.GetStrategy() == "local-frist":
		return nil, status.Error(codes.InvalidArgument, `unknown strategy "local-frist": did you mean "local-first"?`)
	case r.GetService() == "lonely":
		return &adminv1.ExplainResponse{
			Namespace: r.GetNamespace(), Service: "lonely", From: r.GetFrom(), Strategy: r.GetStrategy(), StrategySource: "request",
			ComputedBy: "synchronizer", Unavailable: "NO_LOCAL_INSTANCES", Detail: "west has no instance of it",
		}, nil
	}
	return explained, nil
}

var watched = []*adminv1.WatchInstancesResponse{
	{Type: adminv1.WatchInstancesResponse_SNAPSHOT, Instance: instances[0]},
	{Type: adminv1.WatchInstancesResponse_SYNCED},
	{Type: adminv1.WatchInstancesResponse_UPSERT, Instance: instances[1]},
	{Type: adminv1.WatchInstancesResponse_CLUSTER, Cluster: clusterStates[1]},
	{Type: adminv1.WatchInstancesResponse_CLUSTER, Cluster: eastStatus},
	{Type: adminv1.WatchInstancesResponse_DELETE, Instance: instances[0]},
}

func (f *fakeAdmin) WatchInstances(r *adminv1.WatchInstancesRequest, s grpc.ServerStreamingServer[adminv1.WatchInstancesResponse]) error {
	for _, e := range watched {
		if r.GetCluster() != "" && e.GetInstance() != nil && e.GetInstance().GetCluster() != r.GetCluster() {
			continue
		}
		if err := s.Send(e); err != nil {
			return err
		}
	}
	select {
	case <-f.end:
		return nil
	case <-s.Context().Done():
		return s.Context().Err()
	}
}
