package identity_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/internal/identity"
	"github.com/farcall/farcall/internal/identity/authority"
	"github.com/farcall/farcall/internal/testkit"
)

// workloadAPI is a Workload API as SPIRE's agent serves it, on a unix socket.
type workloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	t      testing.TB
	socket string

	mu      sync.Mutex
	answer  *workload.X509SVIDResponse
	changed chan struct{} // closed when answer is another
}

func newWorkloadAPI(t testing.TB) *workloadAPI {
	t.Helper()
	return &workloadAPI{t: t, socket: filepath.Join(t.TempDir(), "s"), changed: make(chan struct{})}
}

func (w *workloadAPI) config(self identity.Self) identity.Config {
	return identity.Config{WorkloadAPI: "unix://" + w.socket, Self: self}
}

// give makes the authority's identities what is answered from now on.
func (w *workloadAPI) give(a *authority.Authority, ids ...identity.ID) {
	w.t.Helper()
	der := func(b []byte) []byte {
		block, _ := pem.Decode(b)
		return block.Bytes
	}
	ca, _, err := a.PEM()
	if err != nil {
		w.t.Fatal(err)
	}
	answer := &workload.X509SVIDResponse{}
	for _, id := range ids {
		cert, key, err := a.Issue(id, time.Now(), time.Hour)
		if err != nil {
			w.t.Fatal(err)
		}
		answer.Svids = append(answer.Svids, &workload.X509SVID{SpiffeId: id.String(), X509Svid: der(cert), X509SvidKey: der(key), Bundle: der(ca)})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = answer
	close(w.changed)
	w.changed = make(chan struct{})
}

// FetchX509SVID implements the Workload API.
func (w *workloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	// The specification demands it of clients, against those who were tricked into asking.
	if md, _ := metadata.FromIncomingContext(stream.Context()); len(md["workload.spiffe.io"]) != 1 {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	for {
		w.mu.Lock()
		answer, changed := w.answer, w.changed
		w.mu.Unlock()
		if answer != nil {
			if err := stream.Send(answer); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// serve listens at the socket until stop.
func (w *workloadAPI) serve() (stop func()) {
	w.t.Helper()
	l, err := net.Listen("unix", w.socket)
	if err != nil {
		w.t.Fatal(err)
	}
	srv := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(srv, w)
	return testkit.Go(w.t, "workload API", func(ctx context.Context) error {
		ended := make(chan error, 1)
		go func() { ended <- srv.Serve(l) }()
		<-ctx.Done()
		srv.Stop()
		return <-ended
	})
}

// An identity from the Workload API: there is none before it answers, it is the process's own of those
// that it has, it follows what is new, and it stays when the socket is gone.
func TestWorkloadAPI(t *testing.T) {
	ctx := testkit.Context(t)
	first, second := newAuthority(t), newAuthority(t)
	api := newWorkloadAPI(t)
	s := newSource(t, api.config(identity.Self{Role: identity.Agent, Cluster: "east", Node: "node-1"}))
	address := serve(t, s, identity.Any(identity.Agent))
	client, _ := of(t, first, agentWest)
	call := func(c *source) error {
		return dial(ctx, address, c.ClientCredentials(identity.AgentOf("east", "node-1")))
	}

	if _, ok := s.ID(); ok || s.Trouble(time.Now()) == "" {
		t.Error("there is an identity before anybody gave one")
	}
	if err := call(client); err == nil {
		t.Error("a handshake without an own identity")
	}
	testkit.Go(t, "source", s.Run)
	testkit.Eventually(t, ctx, "it is told that nobody answers", func() error {
		return wants(fmt.Errorf("%s", s.log), "the Workload API does not answer")
	})
	stop := api.serve()
	api.give(first, syncMain, agentWest, agentUp)
	testkit.Eventually(t, ctx, "the identity is there", func() error {
		if id, ok := s.ID(); !ok || id != agentUp {
			return fmt.Errorf("%v %v: %s", id, ok, s.log)
		}
		return nil
	})
	if err := call(client); err != nil {
		t.Error(err)
	}

	// Somebody else's is not taken; what is right again is.
	api.give(second, agentWest)
	testkit.Eventually(t, ctx, "the wrong one is counted", func() error {
		if n := s.count(t, "farcall_identity_reloads_total", "result=failed"); n != 1 {
			return fmt.Errorf("%v: %s", n, s.log)
		}
		return wants(fmt.Errorf("%s", s.log), "is this process's")
	})
	if err := call(client); err != nil {
		t.Errorf("the last good identity is not in force: %v", err)
	}
	renewed, _ := of(t, second, agentWest)
	api.give(second, agentUp)
	testkit.Eventually(t, ctx, "another authority is in force", func() error { return call(renewed) })
	if err := call(client); err == nil {
		t.Error("the old authority is still believed")
	}

	stop()
	if err := call(renewed); err != nil {
		t.Errorf("without the socket: %v", err)
	}
}
