package uplink

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var cart = catalog.Name{Namespace: "default", Service: "cart"}

// synchronizer is a feed server that says what the test tells it to: faults and refusals that a
// real one shows only by chance.
type synchronizer struct {
	feedv1.UnimplementedFeedServer
	address string
	server  *grpc.Server
	done    chan struct{}

	mu      sync.Mutex
	watches []*feedv1.WatchRequest
	reports []*feedv1.ReportRequest
	send    chan *feedv1.WatchResponse
	refuse  error
	hello   *feedv1.WatchResponse // the first message of every stream, where set

	turnAway error // what a Watch ends with at once, where set
}

func serve(t *testing.T) *synchronizer {
	t.Helper()
	s := &synchronizer{send: make(chan *feedv1.WatchResponse, 10)}
	s.start(t, "127.0.0.1:0")
	return s
}

func (s *synchronizer) start(t *testing.T, address string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s.address, s.server, s.done = l.Addr().String(), grpc.NewServer(), make(chan struct{})
	feedv1.RegisterFeedServer(s.server, s)
	server, done := s.server, s.done
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { server.Stop(); <-done })
}

func (s *synchronizer) stop() { s.server.Stop(); <-s.done }

func (s *synchronizer) Watch(req *feedv1.WatchRequest, stream grpc.ServerStreamingServer[feedv1.WatchResponse]) error {
	s.mu.Lock()
	s.watches = append(s.watches, req)
	hello, turnAway := s.hello, s.turnAway
	s.mu.Unlock()
	if turnAway != nil {
		return turnAway
	}
	if hello != nil {
		if err := stream.Send(hello); err != nil {
			return err
		}
	}
	for {
		select {
		case m := <-s.send:
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
		refuse := s.refuse
		s.mu.Unlock()
		if refuse != nil {
			return refuse
		}
	}
}

func (s *synchronizer) seen() (watches []*feedv1.WatchRequest, reports []*feedv1.ReportRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(watches, s.watches...), append(reports, s.reports...)
}

// listener holds the mirror as a view would.
type listener struct {
	mu      sync.Mutex
	m       *mirror.Mirror
	changes int
}

func (l *listener) Attach(m *mirror.Mirror) { l.mu.Lock(); l.m = m; l.mu.Unlock() }

func (l *listener) Changed(mirror.Changes) { l.mu.Lock(); l.changes++; l.mu.Unlock() }

func (l *listener) ids() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m == nil {
		return "no mirror"
	}
	var out []string
	list, _ := l.m.Instances("west", cart)
	for _, i := range list {
		out = append(out, i.Instance)
	}
	return strings.Join(out, " ")
}

func (l *listener) want(ids string) func() error {
	return func() error {
		if got := l.ids(); got != ids {
			return fmt.Errorf("have %q, want %q", got, ids)
		}
		return nil
	}
}

func slice(t *testing.T, seq uint64, ids ...string) *feedv1.Entry {
	t.Helper()
	v := &storev1.Slice{Cluster: "west", Namespace: "default", Service: "cart", Epoch: 1, Seq: seq}
	for _, id := range ids {
		v.Instances = append(v.Instances, &catalogv1.Instance{Cluster: "west", Namespace: "default", Service: "cart", Id: id, Address: "10.0.0.1", Port: 80})
	}
	return entry(t, keys.Key{Kind: keys.Slice, Cluster: "west", Name: cart}, v)
}

func entry(t *testing.T, k keys.Key, v proto.Message) *feedv1.Entry {
	t.Helper()
	schema, err := keys.New("test")
	if err != nil {
		t.Fatal(err)
	}
	b, err := keys.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return &feedv1.Entry{Key: schema.Format(k), Value: b}
}

func snapshot(t *testing.T, rev int64, entries ...*feedv1.Entry) *feedv1.WatchResponse {
	t.Helper()
	entries = append(entries, entry(t, keys.Key{Kind: keys.Synced, Cluster: "west"}, &storev1.Synced{Cluster: "west", Epoch: 1}))
	return &feedv1.WatchResponse{Federation: "test", StoreId: "s1", Revision: rev, SnapshotBegin: true, SnapshotEnd: true, Entries: entries}
}

func newUplink(t *testing.T, file string, addresses ...string) (*Uplink, *listener) {
	t.Helper()
	l := &listener{}
	u := New(Config{
		Synchronizers: addresses, File: file,
		Agent: &catalogv1.Agent{Cluster: "east", Node: "n1", Incarnation: "i1", Address: "127.0.0.1:1"},
	}, Deps{Log: testkit.Log(t), Metrics: prometheus.NewRegistry(), Listener: l})
	return u, l
}

func TestFollowsResumesAndKeepsWhatItHas(t *testing.T) {
	ctx := testkit.Context(t)
	s := serve(t)
	u, l := newUplink(t, "", s.address)
	testkit.Go(t, "uplink", u.Run)
	s.send <- snapshot(t, 7, slice(t, 1, "a"))
	testkit.Eventually(t, ctx, "the snapshot", l.want("a"))
	s.send <- &feedv1.WatchResponse{StoreId: "s1", Revision: 9, Entries: []*feedv1.Entry{slice(t, 2, "a", "b")}}
	testkit.Eventually(t, ctx, "the delta", l.want("a b"))

	s.stop()
	testkit.Eventually(t, ctx, "it notices", func() error {
		if u.Connected() {
			return errors.New("still says connected")
		}
		return nil
	})
	if err := l.want("a b")(); err != nil {
		t.Errorf("a lost feed changed the view: %v", err)
	}
	s.start(t, s.address)
	testkit.Eventually(t, ctx, "it resumes", func() error {
		watches, _ := s.seen()
		last := watches[len(watches)-1]
		if last.GetStoreId() != "s1" || last.GetRevision() != 9 || last.GetFederation() != "test" {
			return fmt.Errorf("asked for %v", last)
		}
		return nil
	})
}

func TestReportsAndSaysGoodbye(t *testing.T) {
	ctx := testkit.Context(t)
	s := serve(t)
	u, l := newUplink(t, "", s.address)
	u.held = func(time.Time) []*feedv1.HeldBack { return []*feedv1.HeldBack{{Registry: "consul", Instances: 7}} }
	stop := testkit.Go(t, "uplink", u.Run)
	s.send <- snapshot(t, 7, slice(t, 1, "a"))
	testkit.Eventually(t, ctx, "the snapshot", l.want("a"))
	// Who ends before it said anything has nothing to take back.
	testkit.Eventually(t, ctx, "the first report", func() error {
		if _, reports := s.seen(); len(reports) == 0 {
			return errors.New("none yet")
		}
		return nil
	})
	stop()
	_, reports := s.seen()
	first, last := reports[0], reports[len(reports)-1]
	if first.GetAgent().GetNode() != "n1" || first.GetLeaving() || len(first.GetHeld()) != 1 || first.GetHeld()[0].GetInstances() != 7 {
		t.Errorf("first report %v", first)
	}
	if !last.GetLeaving() || last.GetEpochs()["west"] != 1 || last.GetRevision() != 7 {
		t.Errorf("the goodbye is %v", last)
	}
}

func TestLostConnectionIsNoGoodbye(t *testing.T) {
	ctx := testkit.Context(t)
	s := serve(t)
	s.hello = snapshot(t, 7, slice(t, 1, "a"))
	u, _ := newUplink(t, "", s.address)
	testkit.Go(t, "uplink", u.Run)
	for range 3 {
		testkit.Eventually(t, ctx, "a report", func() error {
			if _, reports := s.seen(); len(reports) == 0 {
				return errors.New("none yet")
			}
			return nil
		})
		s.stop()
		s.mu.Lock()
		for _, r := range s.reports {
			if r.GetLeaving() {
				t.Error("said goodbye though it stays")
			}
		}
		s.reports = nil
		s.mu.Unlock()
		s.start(t, s.address)
	}
}

func TestSavedViewIsTheStart(t *testing.T) {
	ctx := testkit.Context(t)
	file := filepath.Join(t.TempDir(), "view")
	s := serve(t)
	u, l := newUplink(t, file, s.address)
	stop := testkit.Go(t, "uplink", u.Run)
	s.send <- snapshot(t, 7, slice(t, 1, "a", "b"))
	testkit.Eventually(t, ctx, "the snapshot", l.want("a b"))
	stop()
	s.stop()

	again, l := newUplink(t, file, s.address)
	testkit.Go(t, "uplink again", again.Run)
	testkit.Eventually(t, ctx, "the view from disk", l.want("a b"))
	if again.Connected() {
		t.Error("says connected with no synchronizer")
	}
}

// A synchronizer of another federation is a wrong address: nothing of it is believed, nothing
// said to it, and the right one is still followed.
func TestAnotherFederationIsAWrongAddress(t *testing.T) {
	ctx := testkit.Context(t)
	s := serve(t)
	u, l := newUplink(t, "", s.address)
	testkit.Go(t, "uplink", u.Run)
	s.send <- snapshot(t, 7, slice(t, 1, "a"))
	testkit.Eventually(t, ctx, "the snapshot", l.want("a"))
	s.stop()
	s.mu.Lock()
	s.reports = nil
	s.mu.Unlock()
	s.start(t, s.address)
	other := snapshot(t, 9, slice(t, 2, "foreign"))
	other.Federation = "other"
	s.send <- other
	testkit.Eventually(t, ctx, "it turns away", func() error {
		if w, _ := s.seen(); len(w) < 3 {
			return fmt.Errorf("%d watches", len(w))
		}
		return nil
	})
	if _, reports := s.seen(); len(reports) > 0 {
		t.Errorf("it reported to another federation: %v", reports)
	}
	if err := l.want("a")(); err != nil {
		t.Error(err)
	}
	s.send <- snapshot(t, 10, slice(t, 2, "b"))
	testkit.Eventually(t, ctx, "the right one again", l.want("b"))
}

// A snapshot that breaks off is asked for again from where the last complete one was.
func TestSnapshotThatBreaksOff(t *testing.T) {
	ctx := testkit.Context(t)
	s := serve(t)
	u, l := newUplink(t, "", s.address)
	testkit.Go(t, "uplink", u.Run)
	s.send <- snapshot(t, 1000, slice(t, 1, "a"))
	testkit.Eventually(t, ctx, "the snapshot", l.want("a"))
	s.send <- &feedv1.WatchResponse{StoreId: "s2", Revision: 5, SnapshotBegin: true, Entries: []*feedv1.Entry{slice(t, 2, "a", "b")}}
	testkit.Eventually(t, ctx, "the first part", l.want("a b"))
	s.stop()
	s.start(t, s.address)
	testkit.Eventually(t, ctx, "it asks again", func() error {
		w, _ := s.seen()
		if last := w[len(w)-1]; len(w) < 2 || last.GetStoreId() != "s1" || last.GetRevision() != 1000 {
			return fmt.Errorf("%v", w[len(w)-1])
		}
		return nil
	})
	s.send <- &feedv1.WatchResponse{Federation: "test", StoreId: "s2", Revision: 5, SnapshotBegin: true, SnapshotEnd: true}
	testkit.Eventually(t, ctx, "the whole of it", func() error {
		if id, rev := l.m.Position(); id != "s2" || rev != 5 {
			return fmt.Errorf("%s %d", id, rev)
		}
		return nil
	})
	if err := l.want("a b")(); err != nil {
		t.Errorf("a store that is being refilled emptied the view: %v", err)
	}
}

// deaf is a synchronizer that takes streams and reads nothing.
type deaf struct{ feedv1.UnimplementedFeedServer }

func (deaf) Watch(_ *feedv1.WatchRequest, s grpc.ServerStreamingServer[feedv1.WatchResponse]) error {
	if err := s.Send(&feedv1.WatchResponse{Federation: "test", StoreId: "s1", Revision: 1, SnapshotBegin: true, SnapshotEnd: true}); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

func (deaf) Report(s grpc.ClientStreamingServer[feedv1.ReportRequest, feedv1.ReportResponse]) error {
	<-s.Context().Done()
	return nil
}

func TestDeafSynchronizerHoldsUpNothing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	feedv1.RegisterFeedServer(srv, deaf{})
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { srv.Stop(); <-served })
	// One report of this size fills the stream's window: the next Send would wait for ever.
	a := &catalogv1.Agent{Cluster: "east", Node: "n1", Incarnation: "i1", Address: "127.0.0.1:1"}
	for i := range 40_000 {
		a.Apps = append(a.Apps, &catalogv1.App{Namespace: "default", Id: fmt.Sprint("application-", i), Port: 1})
	}
	u := New(Config{Synchronizers: []string{l.Addr().String()}, Agent: a}, Deps{Log: testkit.Log(t), Metrics: prometheus.NewRegistry(), Listener: &listener{}})
	stop := testkit.Go(t, "uplink", u.Run)
	testkit.Eventually(t, testkit.Context(t), "connected", func() error {
		if !u.Connected() {
			return errors.New("not yet")
		}
		return nil
	})
	stop() // fails the test where it takes longer than 20 s
}

func TestRefusedReportEndsTheSession(t *testing.T) {
	ctx := testkit.Context(t)
	s := serve(t)
	s.hello = snapshot(t, 7, slice(t, 1, "a"))
	s.refuse = errors.New("another agent reports as this node")
	u, _ := newUplink(t, "", s.address)
	testkit.Go(t, "uplink", u.Run)
	testkit.Eventually(t, ctx, "it comes back", func() error {
		if w, r := s.seen(); len(r) < 2 || len(w) < 1 {
			return errors.New("not yet")
		}
		return nil
	})
}

// TestTwoAgentsOfOneNodeAreToldOnce says that an agent whose place is taken says so once, not once
// a second, and not that all is well in between.
func TestTwoAgentsOfOneNodeAreToldOnce(t *testing.T) {
	s := serve(t)
	s.hello = snapshot(t, 7, slice(t, 1, "a"))
	s.refuse = status.Error(codes.AlreadyExists, "another agent reports as this node")
	var said lines
	u := New(Config{
		Synchronizers: []string{s.address},
		Agent:         &catalogv1.Agent{Cluster: "east", Node: "n1", Incarnation: "i1", Address: "127.0.0.1:1"},
	}, Deps{Log: slog.New(slog.NewTextHandler(&said, nil)), Metrics: prometheus.NewRegistry(), Listener: &listener{}})
	stop := testkit.Go(t, "uplink", u.Run)
	testkit.Eventually(t, testkit.Context(t), "it was refused three times", func() error {
		if _, r := s.seen(); len(r) < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	stop()
	if text := said.String(); strings.Count(text, "feed is up") != 1 || strings.Count(text, "another agent reports") != 1 {
		t.Errorf("it says\n%s", text)
	}
	if err := u.Trouble(); status.Code(err) != codes.AlreadyExists {
		t.Errorf("the trouble is %v", err)
	}
}

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
