package synchronizer

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/identity"
	"github.com/farcall/farcall/internal/identity/authority"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers/intake"
)

// words is a log that can be read while it is written.
type words struct {
	mu sync.Mutex
	b  strings.Builder
}

func (w *words) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(b)
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// identityOf makes the identity of a process of the test's trust domain.
func identityOf(t *testing.T, a *authority.Authority, id identity.ID, log *slog.Logger) *identity.Source {
	t.Helper()
	dir := t.TempDir()
	cert, key, err := a.Issue(id, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ca, _, err := a.PEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"cert": cert, "key": key, "ca": ca} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := identity.New(
		identity.Config{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), CA: filepath.Join(dir, "ca")},
		identity.Deps{Log: log, Metrics: prometheus.NewRegistry()},
	)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Whoever has an identity comes in, and does what its role may, for itself only: the rest is refused
// and named in the log.
func TestDoors(t *testing.T) {
	const domain = "example.org"
	ctx := testkit.Context(t)
	a, err := authority.New(domain, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	log := &words{}
	own := identityOf(t, a, identity.ID{TrustDomain: domain, Role: identity.Synchronizer, Name: "main"}, slog.New(slog.NewTextHandler(log, nil)))
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	deps := Deps{Log: testkit.Quiet(), Registry: prometheus.NewRegistry(), GRPC: listen(), HTTP: listen(), Identity: own}
	s, err := New(Config{
		Federation: "test", ReplicaID: "r1", Store: store.Config{Federation: "test", Embedded: &store.EmbeddedConfig{DataDir: t.TempDir()}},
		Clusters: []Cluster{{Intake: intake.Config{Cluster: "edge"}, ViaAgents: true}},
	}, deps)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Go(t, "synchronizer", s.Run)

	dial := func(id identity.ID) *grpc.ClientConn {
		who := identityOf(t, a, id, testkit.Quiet())
		conn, err := grpc.NewClient(deps.GRPC.Addr().String(), grpc.WithTransportCredentials(who.ClientCredentials(identity.Any(identity.Synchronizer))))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	agent := dial(identity.AgentID(domain, "edge", "n1"))
	other := dial(identity.AgentID(domain, "east", "n1"))
	replica := dial(identity.ID{TrustDomain: domain, Role: identity.Synchronizer, Name: "second"})
	alice := dial(identity.ID{TrustDomain: domain, Role: identity.User, Name: "alice"})
	record := func(cluster, node string) *catalogv1.Agent {
		return &catalogv1.Agent{Cluster: cluster, Node: node, Incarnation: "i", Address: "127.0.0.1:1"}
	}
	// Each says what the first answer of a call is: a message, or a refusal.
	watch := func(cluster, node string) func(*grpc.ClientConn) error {
		return func(c *grpc.ClientConn) error {
			stream, err := feedv1.NewFeedClient(c).Watch(ctx, &feedv1.WatchRequest{Cluster: cluster, Node: node})
			if err != nil {
				return err
			}
			_, err = stream.Recv()
			return err
		}
	}
	report := func(cluster, node string) func(*grpc.ClientConn) error {
		return func(c *grpc.ClientConn) error {
			stream, err := feedv1.NewFeedClient(c).Report(ctx)
			if err != nil {
				return err
			}
			_ = stream.Send(&feedv1.ReportRequest{Federation: "test", Agent: record(cluster, node)}) // its end says why
			_, err = stream.CloseAndRecv()
			return err
		}
	}
	contribute := func(cluster, node string) func(*grpc.ClientConn) error {
		return func(c *grpc.ClientConn) error {
			stream, err := feedv1.NewFeedClient(c).Contribute(ctx)
			if err != nil {
				return err
			}
			who := &feedv1.Contributor{Federation: "test", Cluster: cluster, Node: node, Incarnation: "i"}
			_ = stream.Send(&feedv1.ContributeRequest{Contributor: who}) // its end says why
			_, err = stream.Recv()
			return err
		}
	}
	consult := func(cluster, node string) func(*grpc.ClientConn) error {
		return func(c *grpc.ClientConn) error {
			stream, err := feedv1.NewFeedClient(c).Consult(ctx)
			if err != nil {
				return err
			}
			who := &feedv1.Contributor{Federation: "test", Cluster: cluster, Node: node, Incarnation: "i"}
			_ = stream.Send(&feedv1.ConsultRequest{Agent: who}) // its end says why
			_ = stream.CloseSend()
			_, err = stream.Recv()
			if err != nil && err.Error() == "EOF" {
				err = nil
			}
			return err
		}
	}
	list := func(c *grpc.ClientConn) error {
		_, err := adminv1.NewAdminClient(c).ListClusters(ctx, &adminv1.ListClustersRequest{})
		return err
	}
	put := func(c *grpc.ClientConn) error {
		_, err := adminv1.NewAdminClient(c).Cordon(ctx, &adminv1.CordonRequest{})
		return err
	}
	healthy := func(c *grpc.ClientConn) error {
		_, err := healthv1.NewHealthClient(c).Check(ctx, &healthv1.HealthCheckRequest{})
		return err
	}
	testkit.Eventually(t, ctx, "the synchronizer answers", func() error { return list(alice) })
	for _, c := range []struct {
		name string
		who  *grpc.ClientConn
		call func(*grpc.ClientConn) error
		want string // of the refusal; empty for none
	}{
		{"its own feed", agent, watch("edge", "n1"), ""},
		{"its own report", agent, report("edge", "n1"), ""},
		{"its own contribution", agent, contribute("edge", "n1"), ""},
		{"its own answers", agent, consult("edge", "n1"), ""},
		{"another node's feed", agent, watch("edge", "n2"), `cannot speak for node "n2" of cluster "edge"`},
		{"another cluster's feed", other, watch("edge", "n1"), `spiffe://example.org/cluster/east/agent/n1 cannot speak for node "n1" of cluster "edge"`},
		{"another's report", other, report("edge", "n1"), "cannot speak for"},
		{"another's contribution", other, contribute("edge", "n1"), "cannot speak for"},
		{"another's answers", other, consult("edge", "n1"), "cannot speak for"},
		{"an agent lists", agent, list, "may not call farcall.admin.v1.Admin: that is for users and synchronizers"},
		{"an agent cordons", agent, put, "may not call farcall.admin.v1.Admin"},
		{"an agent asks for health", agent, healthy, ""},
		{"a replica lists", replica, list, ""},
		{"a replica follows the feed", replica, watch("edge", "n1"), "may not call farcall.feed.v1.Feed: that is for agents"},
		{"a person follows the feed", alice, watch("edge", "n1"), "may not call farcall.feed.v1.Feed"},
		{"a person lists", alice, list, ""},
		{"nobody's service", alice, func(c *grpc.ClientConn) error {
			return c.Invoke(ctx, "/farcall.root.v1.Root/Do", &healthv1.HealthCheckRequest{}, &healthv1.HealthCheckResponse{})
		}, "unknown service"},
	} {
		err := c.call(c.who)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		case c.want != "" && status.Code(err) != codes.PermissionDenied && status.Code(err) != codes.Unimplemented:
			t.Errorf("%s: %v", c.name, status.Code(err))
		}
	}
	if said := log.String(); !strings.Contains(said, "cluster/east/agent/n1 cannot speak for") || !strings.Contains(said, "call=admin") {
		t.Errorf("the log does not name who was refused: %s", said)
	}
	bare, err := grpc.NewClient(deps.GRPC.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer bare.Close()
	within, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := func() error {
		_, err := adminv1.NewAdminClient(bare).ListClusters(within, &adminv1.ListClustersRequest{})
		return err
	}(); status.Code(err) != codes.Unavailable {
		t.Errorf("plaintext: %v", err)
	}
}
