package agent

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/agent/conns"
	"github.com/farcall/farcall/agent/reachability"
	"github.com/farcall/farcall/internal/identity"
	"github.com/farcall/farcall/internal/identity/authority"
	"github.com/farcall/farcall/internal/testkit"
)

const domain = "example.org"

// identityOf makes the identity of a process of the test's trust domain.
func identityOf(t *testing.T, a *authority.Authority, id identity.ID) *identity.Source {
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
		identity.Deps{Log: slog.New(slog.NewTextHandler(&bytes.Buffer{}, nil)), Metrics: prometheus.NewRegistry()},
	)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// relayOf serves grpc.health at a port of its own, with these credentials, and gives its address.
func relayOf(t *testing.T, c credentials.TransportCredentials) string {
	t.Helper()
	srv := grpc.NewServer(grpc.Creds(c))
	healthv1.RegisterHealthServer(srv, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	testkit.Go(t, "relay", func(ctx context.Context) error {
		ended := make(chan error, 1)
		go func() { ended <- srv.Serve(l) }()
		<-ctx.Done()
		srv.Stop()
		return <-ended
	})
	return l.Addr().String()
}

func TestWhoIsDialled(t *testing.T) {
	a, err := authority.New(domain, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	own := &Agent{deps: Deps{Identity: identityOf(t, a, identity.AgentID(domain, "east", "n1"))}}
	west := identityOf(t, a, identity.AgentID(domain, "west", "w1"))
	syncs := identityOf(t, a, identity.ID{TrustDomain: domain, Role: identity.Synchronizer, Name: "main"})
	agents, synchronizer := relayOf(t, west.ServerCredentials(identity.Any(identity.Agent))), relayOf(t, syncs.ServerCredentials(identity.Any(identity.Agent)))
	sidecar := relayOf(t, insecure.NewCredentials())
	ctx := testkit.Context(t)
	call := func(address string, c credentials.TransportCredentials) error {
		conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(c), grpc.WithNoProxy())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
		return err
	}
	peer := own.sideways()
	for _, c := range []struct {
		name, address string
		as            credentials.TransportCredentials
		want          string // of the refusal; empty for none
	}{
		{"the agent that is meant", agents, peer(conns.Who{Cluster: "west", Node: "w1"}), ""},
		{"any agent of the cluster that is meant", agents, peer(conns.Who{Cluster: "west"}), ""},
		{"another node's", agents, peer(conns.Who{Cluster: "west", Node: "w2"}), "it is the agent of west/w1, where the agent of west/w2 is wanted"},
		{"another cluster's", agents, peer(conns.Who{Cluster: "north"}), "an agent of cluster north is wanted"},
		{"a synchronizer for an agent", synchronizer, peer(conns.Who{Cluster: "west"}), "its role is synchronizer, where agent is wanted"},
		{"a sidecar for an agent", sidecar, peer(conns.Who{Cluster: "west"}), "first record does not look like a TLS handshake"},
		{"a sidecar", sidecar, peer(conns.Who{Plaintext: true}), ""},
		{"an agent for a sidecar", agents, peer(conns.Who{Plaintext: true}), "error reading server preface"},
		{"a synchronizer", synchronizer, own.upward(), ""},
		{"an agent for a synchronizer", agents, own.upward(), "its role is agent, where synchronizer is wanted"},
	} {
		err := call(c.address, c.as)
		if c.want == "" && err != nil || c.want != "" && (status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}

	for _, c := range []struct {
		name, address string
		plaintext     bool
		ok            bool
	}{
		{"an agent", agents, false, true},
		{"a synchronizer", synchronizer, false, false},
		{"a sidecar", sidecar, false, false},
		{"a sidecar that may be one", sidecar, true, true},
		{"an agent, where there may be sidecars", agents, true, true},
		{"a synchronizer, where there may be sidecars", synchronizer, true, false},
	} {
		greet := reachability.GreetOver(own.deps.Identity.ClientConfig(identity.Any(identity.Agent)), c.plaintext)
		if _, err := greet(ctx, c.address); (err == nil) != c.ok {
			t.Errorf("greeting %s: %v", c.name, err)
		}
	}
	stranger, err := authority.New(domain, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	// One that this relay refuses must not find that it answers.
	unknown := identityOf(t, stranger, identity.AgentID(domain, "east", "n1"))
	cfg := unknown.ClientConfig(identity.Any(identity.Agent))
	cfg.VerifyConnection = nil
	if _, err := reachability.GreetOver(cfg, false)(ctx, agents); err == nil {
		t.Error("a relay that refuses this agent seems to answer")
	}
	if (&Agent{}).upward() != nil || (&Agent{}).sideways() != nil || (&Agent{}).greeter() != nil {
		t.Error("an agent without an identity speaks TLS")
	}
}
