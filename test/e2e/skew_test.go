//go:build unix

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/keys"
)

// otherVersion stands between an agent and a synchronizer and makes of the latter one of another version.
type otherVersion struct {
	feedv1.UnimplementedFeedServer
	to     feedv1.FeedClient
	ask    func(*feedv1.WatchRequest)
	send   func(*feedv1.WatchResponse)
	report func(*feedv1.ReportRequest)
}

// Watch implements feedv1.FeedServer.
func (o *otherVersion) Watch(req *feedv1.WatchRequest, out grpc.ServerStreamingServer[feedv1.WatchResponse]) error {
	o.ask(req)
	in, err := o.to.Watch(out.Context(), req)
	if err != nil {
		return err
	}
	for {
		m, err := in.Recv()
		if err != nil {
			return err
		}
		o.send(m)
		if err := out.Send(m); err != nil {
			return err
		}
	}
}

// Report implements feedv1.FeedServer.
func (o *otherVersion) Report(in grpc.ClientStreamingServer[feedv1.ReportRequest, feedv1.ReportResponse]) error {
	out, err := o.to.Report(in.Context())
	if err != nil {
		return err
	}
	for {
		m, err := in.Recv()
		if errors.Is(err, io.EOF) {
			resp, err := out.CloseAndRecv()
			if err != nil {
				return err
			}
			return in.SendAndClose(resp)
		}
		if err != nil {
			return err
		}
		o.report(m)
		if err := out.Send(m); err != nil {
			return err
		}
	}
}

// through runs a feed in front of a synchronizer, which it is given.
func through(t *testing.T, feed feedv1.FeedServer, to *feedv1.FeedClient) func(admin string) string {
	return func(admin string) string {
		conn, err := grpc.NewClient(admin, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		*to = feedv1.NewFeedClient(conn)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv, done := grpc.NewServer(), make(chan struct{})
		feedv1.RegisterFeedServer(srv, feed)
		go func() {
			defer close(done)
			_ = srv.Serve(l) // ends with Stop
		}()
		t.Cleanup(func() { srv.Stop(); <-done })
		return l.Addr().String()
	}
}

// laterSynchronizer sends fields, keys, words and questions that today's agents do not know.
type laterSynchronizer struct {
	otherVersion
	t      *testing.T
	schema keys.Schema

	mu      sync.Mutex
	refused int // questions of its own that agents refused
}

// more gives a message a field that this version does not know.
func more[M proto.Message](m M) M {
	b := protowire.AppendTag(nil, 1000, protowire.BytesType)
	m.ProtoReflect().SetUnknown(protowire.AppendString(b, "said by a later version"))
	return m
}

// more makes more of what there is.
func (s *laterSynchronizer) more(m *feedv1.WatchResponse) {
	more(m)
	for n, e := range m.GetEntries() {
		k, err := s.schema.Parse(e.GetKey())
		if err != nil || e.GetDeleted() {
			continue
		}
		// The entry is the synchronizer's message no more: what came over the wire is ours to change.
		switch k.Kind {
		case keys.Slice:
			m.Entries[n] = s.change(e, &storev1.Slice{}, func(v *storev1.Slice) {
				for _, i := range v.GetInstances() {
					if more(i); i.GetCluster() == "west" && i.GetId() == "cart-1" {
						i.Health = 99
					}
				}
			})
		case keys.Meta:
			m.Entries[n] = s.change(e, &storev1.ClusterMeta{}, func(v *storev1.ClusterMeta) {
				v.Via = "carrier pigeons"
				for _, r := range v.GetRegistries() {
					more(r).State = 99
					r.Strategies = map[string]string{"default/cart": "by-the-moon"}
				}
			})
		}
	}
	if m.GetFederation() != "" { // the first message of a stream
		m.Entries = append(m.Entries, more(&feedv1.Entry{Key: s.schema.Root() + "forecasts/west", Value: []byte("\x07"), Revision: 1}))
	}
}

func (s *laterSynchronizer) change(e *feedv1.Entry, into proto.Message, by any) *feedv1.Entry {
	err := keys.Decode(e.GetValue(), into)
	if err != nil {
		s.t.Errorf("%s: %v", e.GetKey(), err)
		return e
	}
	switch by := by.(type) {
	case func(*storev1.Slice):
		by(into.(*storev1.Slice))
	case func(*storev1.ClusterMeta):
		by(into.(*storev1.ClusterMeta))
	}
	b, err := keys.Encode(more(into))
	if err != nil {
		s.t.Errorf("%s: %v", e.GetKey(), err)
	}
	return more(&feedv1.Entry{Key: e.GetKey(), Value: b, Revision: e.GetRevision()})
}

// newQuestion is the id of a question that only later versions know.
const newQuestion = 1 << 40

// Consult implements feedv1.FeedServer: before each question it asks one of its own.
func (s *laterSynchronizer) Consult(agent grpc.BidiStreamingServer[feedv1.ConsultRequest, feedv1.ConsultResponse]) error {
	up, err := s.to.Consult(agent.Context())
	if err != nil {
		return err
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() {
		for {
			m, err := up.Recv()
			if err != nil {
				return
			}
			for _, q := range []*feedv1.ConsultResponse{more(&feedv1.ConsultResponse{}), {Question: more(&feedv1.Question{Id: newQuestion})}, more(m)} {
				if agent.Send(q) != nil {
					return
				}
			}
		}
	})
	defer func() { _ = up.CloseSend() }()
	for {
		m, err := agent.Recv()
		if err != nil {
			return err
		}
		if a := m.GetAnswer(); a.GetId() == newQuestion {
			if len(a.GetRefused()) > 0 {
				s.mu.Lock()
				s.refused++
				s.mu.Unlock()
			}
			continue
		}
		if err := up.Send(m); err != nil {
			return err
		}
	}
}

// servedBy makes calls that have to go to another cluster, and says whom they reached.
func (w *world) servedBy(from string) string {
	w.t.Helper()
	seen := map[string]bool{}
	for range 20 {
		a := w.must(from, "cart/method/x", "farcall-strategy: external-only")
		if a.status != http.StatusOK {
			w.t.Errorf("%d: %s", a.status, a.body)
		}
		seen[a.servedBy] = true
	}
	var out []string
	for _, i := range []string{"west/cart-1", "west/cart-2"} {
		if seen[i] {
			out = append(out, i)
		}
		delete(seen, i)
	}
	return strings.Join(append(out, fmt.Sprint(len(seen), " others")), ", ")
}

// explained asks why calls from east go where they go.
func (w *world) explained() *adminv1.ExplainResponse {
	w.t.Helper()
	resp, err := w.connect().Explain(w.ctx, &adminv1.ExplainRequest{Service: "cart", From: "east", Strategy: "external-only"})
	if err != nil {
		w.t.Fatal(err)
	}
	return resp
}

// TestAgentsFollowALaterSynchronizer: all that is known works, and words that are not known have a meaning
// that is safe: an instance of such a health is not called while there is a better one.
func TestAgentsFollowALaterSynchronizer(t *testing.T) {
	schema, err := keys.New("e2e")
	if err != nil {
		t.Fatal(err)
	}
	s := &laterSynchronizer{t: t, schema: schema}
	s.ask, s.send, s.report = func(m *feedv1.WatchRequest) { more(m) }, s.more, func(m *feedv1.ReportRequest) { more(m) }
	w := newWorld(t, options{through: through(t, s, &s.to)}, "east", "west")
	follows := func() {
		t.Helper()
		if got := w.servedBy("east"); got != "west/cart-2, 0 others" {
			t.Errorf("served by %s", got)
		}
		page, err := w.get("http://" + w.clusters["east"].health + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		for _, reason := range []string{"health", "skipped", "strategy"} {
			if !strings.Contains(page, `farcall_mirror_refused_total{reason="`+reason+`"}`) {
				t.Errorf("nothing is counted as %s", reason)
			}
		}
	}
	follows()
	x := w.explained()
	if strings.HasPrefix(x.GetComputedBy(), "synchronizer ") {
		t.Errorf("explained by %q", x.GetComputedBy())
	}
	for _, i := range x.GetInstances() {
		if c := i.GetInstance(); c.GetCluster() == "west" && (c.GetHealth() == catalogv1.Health_UNHEALTHY) != (c.GetId() == "cart-1") {
			t.Errorf("explained: %v", i)
		}
	}
	s.mu.Lock()
	if s.refused == 0 {
		t.Error("the agent did not say that it does not know a question")
	}
	s.mu.Unlock()

	w.clusters["east"].agent.Kill()
	w.clusters["east"].agent.Start()
	w.reaches("east", "west")
	follows()
}

// TestAgentsFollowAnOlderSynchronizer: one of the time before digests, Consult and Contribute, which takes
// no word of policies from agents.
func TestAgentsFollowAnOlderSynchronizer(t *testing.T) {
	s := &otherVersion{
		ask:  func(m *feedv1.WatchRequest) { m.Digest = nil },
		send: func(m *feedv1.WatchResponse) { m.Digest, m.Drifted = nil, nil },
		report: func(m *feedv1.ReportRequest) {
			*m = feedv1.ReportRequest{Agent: m.GetAgent(), Epochs: m.GetEpochs(), StoreId: m.GetStoreId(), Revision: m.GetRevision(), Leaving: m.GetLeaving(), Federation: m.GetFederation()}
		},
	}
	w := newWorld(t, options{through: through(t, s, &s.to)}, "east", "west")
	follows := func() {
		t.Helper()
		if got := w.servedBy("east"); got != "west/cart-1, west/cart-2, 0 others" {
			t.Errorf("served by %s", got)
		}
		if got := w.explained().GetComputedBy(); !strings.HasPrefix(got, "synchronizer ") {
			t.Errorf("explained by %q", got)
		}
		agents, err := w.connect().ListAgents(w.ctx, &adminv1.ListAgentsRequest{})
		if err != nil || len(agents.GetAgents()) != 2 || !agents.GetAgents()[0].GetConnected() || !agents.GetAgents()[1].GetConnected() {
			t.Errorf("agents: %v, %v", agents, err)
		}
	}
	follows()
	w.clusters["east"].agent.Kill()
	w.clusters["east"].agent.Start()
	w.reaches("east", "west")
	follows()
}
