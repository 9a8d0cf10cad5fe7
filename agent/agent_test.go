package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/farcall/farcall/agent/tracing"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers/file"
	"github.com/farcall/farcall/resolvers/intake"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// synchronizer is the far end of an agent's streams: it says what the test tells it to.
type synchronizer struct {
	feedv1.UnimplementedFeedServer
	address string
	feed    chan *feedv1.WatchResponse
	owner   bool

	mu            sync.Mutex
	reports       []*feedv1.ReportRequest
	contributor   *feedv1.Contributor
	contributions []*feedv1.Contribution
}

func serve(t *testing.T, owner bool) *synchronizer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &synchronizer{address: l.Addr().String(), feed: make(chan *feedv1.WatchResponse, 10), owner: owner}
	server, served := grpc.NewServer(), make(chan struct{})
	feedv1.RegisterFeedServer(server, s)
	go func() {
		defer close(served)
		_ = server.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { server.Stop(); <-served })
	return s
}

func (s *synchronizer) Watch(_ *feedv1.WatchRequest, stream grpc.ServerStreamingServer[feedv1.WatchResponse]) error {
	for {
		select {
		case m := <-s.feed:
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (s *synchronizer) Report(stream grpc.ClientStreamingServer[feedv1.ReportRequest, feedv1.ReportResponse]) error {
	for {
		r, err := stream.Recv()
		if err != nil {
			return stream.SendAndClose(&feedv1.ReportResponse{})
		}
		s.mu.Lock()
		s.reports = append(s.reports, r)
		s.mu.Unlock()
	}
}

// Contribute grants every link that is complete, once.
func (s *synchronizer) Contribute(stream grpc.BidiStreamingServer[feedv1.ContributeRequest, feedv1.ContributeResponse]) error {
	if err := stream.Send(&feedv1.ContributeResponse{Owner: s.owner}); err != nil {
		return err
	}
	granted := map[string]bool{}
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil
		}
		s.mu.Lock()
		if c := m.GetContributor(); c != nil {
			s.contributor = c
		}
		if c := m.GetContribution(); c != nil {
			s.contributions = append(s.contributions, c)
		}
		s.mu.Unlock()
		for _, l := range m.GetStanding().GetLinks() {
			if l.GetComplete() && !granted[l.GetName()] {
				granted[l.GetName()] = true
				if err := stream.Send(&feedv1.ContributeResponse{Owner: s.owner, Grants: []*feedv1.Grant{{Link: l.GetName(), Term: 1}}}); err != nil {
					return err
				}
			}
		}
	}
}

// meta is the message that says how the cluster "edge" is read.
func meta(t *testing.T, seq uint64, via string, first bool) *feedv1.WatchResponse {
	t.Helper()
	schema, err := keys.New("test")
	if err != nil {
		t.Fatal(err)
	}
	entry := func(k keys.Key, v proto.Message) *feedv1.Entry {
		b, err := keys.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		return &feedv1.Entry{Key: schema.Format(k), Value: b}
	}
	return &feedv1.WatchResponse{
		Federation: "test", StoreId: "s1", Revision: int64(seq), SnapshotBegin: first, SnapshotEnd: first,
		Entries: []*feedv1.Entry{
			entry(keys.Key{Kind: keys.Meta, Cluster: "edge"}, &storev1.ClusterMeta{Cluster: "edge", Epoch: 1, Seq: seq, Via: via}),
			entry(keys.Key{Kind: keys.Synced, Cluster: "edge"}, &storev1.Synced{Cluster: "edge", Epoch: 1}),
		},
	}
}

// run starts an agent of cluster edge that reads one file, and gives the address of its health.
func run(t *testing.T, s *synchronizer) (health string) {
	health, _ = runTraced(t, s, nil)
	return health
}

// runTraced is run with spans; it also gives the address that applications call.
func runTraced(t *testing.T, s *synchronizer, spans *tracing.Config) (health, calls string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "services.yaml")
	list := "services:\n  - name: cart\n    instances:\n      - {id: cart-1, address: 127.0.0.1, port: 8080, node: n1}\n"
	if err := os.WriteFile(path, []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	res, err := file.New(file.Config{Path: path}, file.Deps{Log: testkit.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	internal, metrics, apps := listen(), listen(), listen()
	a, err := New(Config{
		Cluster: "edge", Node: "n1", Synchronizers: []string{s.address},
		Address: internal.Addr().String(), AccessLog: "off", Tracing: spans,
		Intake: intake.Config{Cluster: "edge", Registries: []intake.Registry{{Name: "file", Resolver: res}}},
		Links:  map[string]func() string{"file": func() string { return "file@n1" }},
		Apps: []App{
			{Name: catalog.Name{Namespace: "default", Service: "cart"}, Port: 8080, Protocol: "http"},
			{Name: catalog.Name{Namespace: "default", Service: "till"}, Port: 8081, Protocol: "http", Register: true},
		},
	}, Deps{Log: testkit.Log(t), Registry: prometheus.NewRegistry(), Internal: internal, HTTP: apps, GRPC: listen(), Metrics: metrics})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Go(t, "agent", a.Run)
	return "http://" + metrics.Addr().String() + "/readyz", "http://" + apps.Addr().String()
}

// ownerless is what an agent says that contributes to everybody but the owner.
const ownerless = "hears nothing of this agent"

// ready waits until /readyz has these words, and none of those.
func ready(t *testing.T, url, has, hasNot string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	testkit.Eventually(t, testkit.Context(t), "/readyz", func() error {
		resp, err := client.Get(url)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if body := string(b); !strings.Contains(body, has) || strings.Contains(body, hasNot) {
			return fmt.Errorf("it says %q", body)
		}
		return nil
	})
}

func TestContributesWhereItsClusterIsReadViaItsAgents(t *testing.T) {
	s := serve(t, true)
	health := run(t, s)
	s.feed <- meta(t, 1, "", true)
	ready(t, health, "stale", ownerless) // this feed has no heartbeats
	s.mu.Lock()
	if s.contributor != nil {
		t.Error("it contributes to a cluster that is read otherwise")
	}
	s.mu.Unlock()

	s.feed <- meta(t, 2, "agents", false)
	testkit.Eventually(t, testkit.Context(t), "what the file says", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.contributions) == 0 {
			return errors.New("nothing yet")
		}
		c := s.contributions[0]
		if c.GetLink() != "file@n1" || !c.GetFull() || len(c.GetSnapshots()) != 1 || c.GetSnapshots()[0].GetInstances()[0].GetId() != "cart-1" {
			return fmt.Errorf("%v", c)
		}
		return nil
	})
	ready(t, health, "stale", ownerless)
	s.mu.Lock()
	defer s.mu.Unlock()
	record := s.reports[0].GetAgent()
	if s.contributor.GetIncarnation() != record.GetIncarnation() || s.contributor.GetFederation() != "test" {
		t.Errorf("%v contributes, %v reports", s.contributor, record)
	}
	if apps := record.GetApps(); apps[0].GetRegistered() || !apps[1].GetRegistered() {
		t.Errorf("applications: %v", apps)
	}
}

func TestIsDegradedWithoutTheOwner(t *testing.T) {
	s := serve(t, false)
	health := run(t, s)
	s.feed <- meta(t, 1, "agents", true)
	ready(t, health, ownerless, "no feed")
	s.feed <- meta(t, 2, "", false)
	ready(t, health, "stale", ownerless)
}

func TestSaysWhichPoliciesItDoesNotFollow(t *testing.T) {
	s := serve(t, true)
	health := run(t, s)
	s.feed <- meta(t, 1, "", true)
	ready(t, health, "policies are not known yet", "not understood")
	schema, err := keys.New("test")
	if err != nil {
		t.Fatal(err)
	}
	change := func(revision int64, k keys.Key, v proto.Message) {
		b, err := keys.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		s.feed <- &feedv1.WatchResponse{Federation: "test", StoreId: "s1", Revision: revision, Entries: []*feedv1.Entry{{Key: schema.Format(k), Value: b, Revision: revision}}}
	}
	change(2, keys.Key{Kind: keys.PoliciesSynced}, &storev1.PoliciesSynced{Revision: 1})
	ready(t, health, "stale", "policies")
	change(3, keys.Key{Kind: keys.Policy, ID: "service/default/cart/*"}, &policyv1.Policy{
		Target: &policyv1.Target{Service: "cart", Namespace: "default"}, Settings: &policyv1.Settings{Strategy: ptr("nearest-first")},
	})
	ready(t, health, "a policy is not understood: policy service default/cart", "not known yet")
}

// collector takes spans.
type collector struct {
	coltracepb.UnimplementedTraceServiceServer
	spans chan *tracepb.Span
}

func (c *collector) Export(_ context.Context, in *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	for _, r := range in.GetResourceSpans() {
		for _, scope := range r.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				select {
				case c.spans <- s:
				default:
				}
			}
		}
	}
	return &coltracepb.ExportTraceServiceResponse{}, nil
}

func TestSampledCallsAreTraced(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{spans: make(chan *tracepb.Span, 10)}
	server, served := grpc.NewServer(), make(chan struct{})
	coltracepb.RegisterTraceServiceServer(server, c)
	go func() {
		defer close(served)
		_ = server.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { server.Stop(); <-served })
	s := serve(t, true)
	s.feed <- meta(t, 1, "", true)
	health, calls := runTraced(t, s, &tracing.Config{Endpoint: l.Addr().String()})
	ready(t, health, "stale", "were not all read")
	req, err := http.NewRequestWithContext(testkit.Context(t), http.MethodGet, calls+"/v1.0/invoke/cart/method/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	select {
	case span := <-c.spans:
		if got := fmt.Sprintf("%x", span.GetTraceId()); got != "0af7651916cd43dd8448eb211c80319c" {
			t.Errorf("a span of trace %s", got)
		}
	case <-testkit.Context(t).Done():
		t.Error("no span arrived")
	}
}
