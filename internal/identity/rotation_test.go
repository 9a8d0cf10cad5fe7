package identity_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/farcall/farcall/internal/identity"
	"github.com/farcall/farcall/internal/identity/authority"
	"github.com/farcall/farcall/internal/testkit"
)

// party is one process of a rotation.
type party struct {
	*source
	files
	id identity.ID
}

func newParty(t testing.TB, a *authority.Authority, id identity.ID) *party {
	t.Helper()
	s, f := of(t, a, id)
	testkit.Go(t, id.String(), s.Run)
	return &party{s, f, id}
}

// taken waits until every party has taken what change does to its files.
func taken(t *testing.T, ctx context.Context, parties []*party, change func(p *party)) {
	t.Helper()
	before := make([]float64, len(parties))
	for i, p := range parties {
		before[i] = p.count(t, "farcall_identity_reloads_total", "result=ok")
		change(p)
	}
	for i, p := range parties {
		testkit.Eventually(t, ctx, p.id.String()+" takes what is new", func() error {
			if n := p.count(t, "farcall_identity_reloads_total", "result=ok"); n == before[i] {
				return fmt.Errorf("%v reloads: %s", n, p.log)
			}
			return nil
		})
	}
}

// Certificates and then the authority itself are replaced under load, with both authorities believed
// for a while: no call fails, no stream ends, and whoever is left with the old authority is refused.
func TestRotationUnderLoad(t *testing.T) {
	ctx := testkit.Context(t)
	first, second := newAuthority(t), newAuthority(t)
	server := newParty(t, first, syncMain)
	agents := []*party{newParty(t, first, agentUp), newParty(t, first, agentWest)}
	all := append([]*party{server}, agents...)
	word := health.NewServer()
	srv := grpc.NewServer(grpc.Creds(server.ServerCredentials(identity.Any(identity.Agent))), grpc.WaitForHandlers(true))
	healthv1.RegisterHealthServer(srv, word)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	testkit.Go(t, "server", func(ctx context.Context) error {
		ended := make(chan error, 1)
		go func() { ended <- srv.Serve(l) }()
		<-ctx.Done()
		srv.Stop()
		return <-ended
	})

	// The load: each agent makes connection after connection.
	loading, stop := context.WithCancel(ctx)
	defer stop()
	var calls atomic.Int64
	var load sync.WaitGroup
	for _, p := range agents {
		load.Go(func() {
			for loading.Err() == nil {
				if err := dial(ctx, address, p.ClientCredentials(identity.Any(identity.Synchronizer))); err != nil {
					t.Errorf("a call of %s failed: %v", p.id, err)
					return
				}
				calls.Add(1)
			}
		})
	}
	// And a stream that lasts.
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(agents[0].ClientCredentials(identity.Any(identity.Synchronizer))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := healthv1.NewHealthClient(conn).Watch(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}

	for range 3 {
		taken(t, ctx, all, func(p *party) { p.issue(first, p.id, 2*time.Minute) })
	}
	taken(t, ctx, all, func(p *party) { p.trust(second, first) })
	taken(t, ctx, all, func(p *party) { p.issue(second, p.id, 2*time.Minute) })
	old, _ := of(t, first, agentUp)
	taken(t, ctx, all, func(p *party) { p.trust(second) })

	made := calls.Load()
	testkit.Eventually(t, ctx, "calls go on", func() error {
		if n := calls.Load(); n < made+10 && !t.Failed() {
			return fmt.Errorf("%d since", n-made)
		}
		return nil
	})
	stop()
	load.Wait()
	word.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	if m, err := stream.Recv(); err != nil || m.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("the stream said %v, %v", m, err)
	}
	t.Logf("%d calls over connections of their own", calls.Load())

	if err := dial(ctx, address, old.ClientCredentials(identity.Any(identity.Synchronizer))); err == nil {
		t.Error("an identity of the authority that was taken away was let in")
	}
	if err := old.saw(t, "client", identity.ReasonAuthority, syncMain.String()); err != nil {
		t.Error(err)
	}
}

// The server refuses it as well, not only the client the server.
func TestRevokedAuthority(t *testing.T) {
	ctx := testkit.Context(t)
	first, second := newAuthority(t), newAuthority(t)
	server := newParty(t, first, syncMain)
	address := serve(t, server.source, identity.Any(identity.Agent))
	_, f := of(t, first, agentUp)
	f.trust(first, second)
	agent := newSource(t, f.config())
	may := agent.ClientCredentials(identity.Any(identity.Synchronizer))
	if err := dial(ctx, address, may); err != nil {
		t.Fatal(err)
	}
	taken(t, ctx, []*party{server}, func(p *party) {
		p.trust(second)
		p.issue(second, p.id, time.Hour)
	})
	if err := dial(ctx, address, may); err == nil {
		t.Error("let in")
	}
	testkit.Eventually(t, ctx, "counted", func() error {
		return server.saw(t, "server", identity.ReasonAuthority, agentUp.String())
	})
}

// Files that are wrong are told once, and the last good ones stay in force until there are right ones.
func TestBadFilesLeaveTheLastGoodOnes(t *testing.T) {
	ctx := testkit.Context(t)
	a, other := newAuthority(t), newAuthority(t)
	for _, c := range []struct {
		name  string
		spoil func(f files)
		want  string
	}{
		{"half a certificate", func(f files) {
			b, err := os.ReadFile(f.path("cert"))
			if err != nil {
				t.Fatal(err)
			}
			f.put("cert", b[:len(b)/2])
		}, "in the middle of certificate 1"},
		{"an empty key", func(f files) { f.put("key", nil) }, "failed to find any PEM data in key input"},
		{"no file", func(f files) { os.Remove(f.path("ca")) }, "no such file"},
		{"only the certificate is new", func(f files) {
			cert, _, err := a.Issue(agentUp, time.Now(), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			f.put("cert", cert)
		}, "private key does not match public key"},
		{"authorities that did not sign it", func(f files) { f.trust(other) }, "signed by no authority that is trusted here"},
		{"somebody else's", func(f files) { f.issue(a, agentWest, time.Hour) }, "the certificate is for spiffe://example.org/cluster/west/agent/node-1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFiles(t)
			f.issue(a, agentUp, time.Hour)
			f.trust(a)
			cfg := f.config()
			cfg.Self = identity.Self{Role: identity.Agent, Cluster: "east", Node: "node-1"}
			s := newSource(t, cfg)
			testkit.Go(t, "source", s.Run)
			p := &party{s, f, agentUp}
			c.spoil(f)
			testkit.Eventually(t, ctx, "it is told", func() error {
				if log := s.log.String(); !strings.Contains(log, c.want) {
					return fmt.Errorf("%q is not told: %s", c.want, log)
				}
				return nil
			})
			address := serve(t, s, identity.Any(identity.Agent))
			client, _ := of(t, a, agentWest)
			if err := dial(ctx, address, client.ClientCredentials(identity.AgentOf("east", "node-1"))); err != nil {
				t.Errorf("the last good identity is not in force: %v", err)
			}
			taken(t, ctx, []*party{p}, func(p *party) {
				p.trust(a)
				p.issue(a, agentUp, time.Hour)
			})
			told := map[string]bool{}
			for line := range strings.Lines(s.log.String()) {
				_, words, _ := strings.Cut(line, "level=ERROR")
				if words != "" && told[words] {
					t.Errorf("told twice: %s", words)
				}
				told[words] = true
			}
		})
	}
}
