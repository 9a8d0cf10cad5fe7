package face

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/agent/wire"
	internalsv1 "github.com/farcall/farcall/api/dapr/proto/internals/v1"
	runtimev1 "github.com/farcall/farcall/api/dapr/proto/runtime/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/identity"
	"github.com/farcall/farcall/internal/identity/authority"
	"github.com/farcall/farcall/internal/testkit"
)

const domain = "example.org"

// sourceOfID makes the identity of a process of the test's trust domain.
func sourceOfID(t *testing.T, a *authority.Authority, id identity.ID, metrics prometheus.Registerer) *identity.Source {
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
		identity.Deps{Log: testkit.Quiet(), Metrics: metrics},
	)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Where agents have identities, the face for peers serves them and nobody else, and none of them as
// somebody else.
func TestPeerServesAgentsOnly(t *testing.T) {
	a, err := authority.New(domain, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	apps := app.New()
	t.Cleanup(apps.Close)
	o := OwnInstance{
		Instance: &catalog.Instance{ID: catalog.ID{Cluster: "west", Name: catalog.Name{Namespace: "shop", Service: "cart"}, Instance: "cart-1"}},
		App:      application(t, echo),
	}
	p, err := NewPeer(Config{Cluster: "west", Node: "node-2"}, PeerDeps{
		Own: own{o}, Apps: apps, Metrics: prometheus.NewRegistry(), Identity: sourceOfID(t, a, identity.AgentID(domain, "west", "node-2"), prometheus.NewRegistry()),
	})
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	testkit.Go(t, "peer", func(ctx context.Context) error { return p.Run(ctx, l) })

	meant := identity.AgentOf("west", "node-2")
	east := sourceOfID(t, a, identity.AgentID(domain, "east", "node-1"), prometheus.NewRegistry()).ClientCredentials(meant)
	for _, c := range []struct {
		name   string
		as     credentials.TransportCredentials
		origin []string
		want   codes.Code
	}{
		{"an agent", east, []string{"east/node-1"}, codes.OK},
		{"an agent that does not say who it is", east, nil, codes.OK},
		{"an agent as another node's", east, []string{"east/node-2"}, codes.PermissionDenied},
		{"an agent as another cluster's", east, []string{"west/node-1"}, codes.PermissionDenied},
		{"an agent as two", east, []string{"east/node-1", "west/node-1"}, codes.PermissionDenied},
		{"a synchronizer", sourceOfID(t, a, identity.ID{TrustDomain: domain, Role: identity.Synchronizer, Name: "x"}, prometheus.NewRegistry()).ClientCredentials(meant), nil, codes.Unavailable},
		{"a person", sourceOfID(t, a, identity.ID{TrustDomain: domain, Role: identity.User, Name: "x"}, prometheus.NewRegistry()).ClientCredentials(meant), nil, codes.Unavailable},
		{"a sidecar", insecure.NewCredentials(), nil, codes.Unavailable},
	} {
		conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(c.as))
		if err != nil {
			t.Fatal(err)
		}
		md := metadata.MD{invoke.TargetKey: {wire.FormatTarget(o.Instance.ID)}, invoke.HopKey: {"1"}, invoke.OriginKey: c.origin}
		got := stream(t, internalsv1.NewServiceInvocationClient(conn), md, &reqMsg{Request: leading("echo")})
		if status.Code(got.err) != c.want {
			t.Errorf("%s: %v, want %v", c.name, got.err, c.want)
		}
		if c.want == codes.PermissionDenied && (!strings.Contains(got.err.Error(), "the caller is spiffe://example.org/cluster/east/agent/node-1") || len(got.trailer[invoke.NotDispatchedKey]) > 0) {
			t.Errorf("%s: %v, trailer %v", c.name, got.err, got.trailer)
		}
		conn.Close()
	}
}

// A listener with a certificate serves HTTP/1.1 and HTTP/2 over it, and gRPC.
func TestFacesOverTLS(t *testing.T) {
	ca := testkit.NewAuthority(t)
	cert, key := ca.Issue("web", "127.0.0.1")
	shown, err := identity.NewWeb("http", identity.WebConfig{Cert: cert, Key: key}, testkit.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	p := newPeerAgent(t, "west", "cart-1", application(t, echo))
	agent := newCallerAgent(t, &plan{targets: []relay.Target{p.local()}})
	face, err := NewHTTP(Config{Cluster: "east", Node: "node-1", Apps: []App{{Name: web}}}, Deps{Relay: agent.relay, Own: own{}, Log: testkit.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	rpc, err := NewGRPC(Config{Cluster: "east", Node: "node-1", Apps: []App{{Name: web}}}, Deps{Relay: agent.relay, Own: own{}, Views: agent.views, Log: testkit.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	hl, gl := listen(t), listen(t)
	testkit.Go(t, "https", func(ctx context.Context) error { return face.Run(ctx, tls.NewListener(hl, shown.Config())) })
	testkit.Go(t, "grpc", func(ctx context.Context) error { return rpc.Run(ctx, tls.NewListener(gl, shown.Config())) })
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(ca.CA)
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	for _, two := range []bool{false, true} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, Protocols: new(http.Protocols)}
		transport.Protocols.SetHTTP1(!two)
		transport.Protocols.SetHTTP2(two)
		t.Cleanup(transport.CloseIdleConnections)
		resp, err := (&http.Client{Transport: transport}).Post("https://"+hl.Addr().String()+"/v1.0/invoke/cart/method/echo", "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || string(b) != "hello" || (resp.ProtoMajor == 2) != two {
			t.Errorf("HTTP/2 %v: %s %s %q %v", two, resp.Proto, resp.Status, b, err)
		}
	}
	conn, err := grpc.NewClient(gl.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := runtimev1.NewDaprClient(conn).InvokeService(testkit.Context(t), &runtimev1.InvokeServiceRequest{Id: "cart"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("gRPC over TLS: %v, want a complaint about the request", err)
	}
}

// A connection that is busy all the time is made anew in the end, so that whoever is believed no more
// is noticed; no call is lost by it.
func TestConnectionsAreJudgedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, err := authority.New(domain, time.Now(), 24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		apps := app.New()
		defer apps.Close()
		metrics := prometheus.NewRegistry()
		p, err := NewPeer(Config{Cluster: "west", Node: "node-2"}, PeerDeps{
			Own: own{}, Apps: apps, Metrics: prometheus.NewRegistry(), Identity: sourceOfID(t, a, identity.AgentID(domain, "west", "node-2"), metrics),
		})
		if err != nil {
			t.Fatal(err)
		}
		l := bufconn.Listen(64 << 10)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if err := p.Run(ctx, l); err != nil {
				t.Error(err)
			}
		})
		caller := sourceOfID(t, a, identity.AgentID(domain, "east", "node-1"), prometheus.NewRegistry())
		conn, err := grpc.NewClient("passthrough:///peer", grpc.WithTransportCredentials(caller.ClientCredentials(identity.AgentOf("west", "node-2"))),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		for range 45 {
			// Nobody is there to be called, which only the agent itself can say.
			_, err := internalsv1.NewServiceInvocationClient(conn).CallLocal(ctx, leading("echo"))
			if err == nil || !strings.Contains(err.Error(), "no available instance") {
				t.Errorf("a call was lost: %v", err)
			}
			time.Sleep(time.Minute)
		}
		conn.Close()
		cancel()
		all.Wait()
		families, err := metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		handshakes := 0.0
		for _, f := range families {
			if f.GetName() == "farcall_identity_handshakes_total" {
				handshakes = f.GetMetric()[0].GetCounter().GetValue()
			}
		}
		if handshakes != 2 {
			t.Errorf("in 45 minutes there were %v handshakes, want 2", handshakes)
		}
	})
}
