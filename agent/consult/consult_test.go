package consult

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// synchronizer asks what the test tells it to, one stream after the other.
type synchronizer struct {
	feedv1.UnimplementedFeedServer
	client  feedv1.FeedClient
	ask     chan *feedv1.Question
	answers chan *feedv1.Answer
	hello   chan *feedv1.Contributor
	end     chan error // ends the stream
}

func (s *synchronizer) Consult(stream grpc.BidiStreamingServer[feedv1.ConsultRequest, feedv1.ConsultResponse]) error {
	ended := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			if m.GetAgent() != nil {
				s.hello <- m.GetAgent()
			} else {
				s.answers <- m.GetAnswer()
			}
		}
	}()
	for {
		select {
		case q := <-s.ask:
			if err := stream.Send(&feedv1.ConsultResponse{Question: q}); err != nil {
				return err
			}
		case err := <-s.end:
			return err
		case err := <-ended:
			return err
		}
	}
}

// serve starts a server and gives a client of it.
func serve(t *testing.T, feed feedv1.FeedServer) feedv1.FeedClient {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, done := grpc.NewServer(), make(chan struct{})
	feedv1.RegisterFeedServer(server, feed)
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { server.Stop(); <-done })
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return feedv1.NewFeedClient(conn)
}

func newSynchronizer(t *testing.T) *synchronizer {
	t.Helper()
	s := &synchronizer{
		ask: make(chan *feedv1.Question, 100), answers: make(chan *feedv1.Answer, 100),
		hello: make(chan *feedv1.Contributor, 10), end: make(chan error),
	}
	s.client = serve(t, s)
	return s
}

// answerer answers with these.
type answerer struct {
	explain func(context.Context, *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error)
}

func (a answerer) Explain(ctx context.Context, req *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
	return a.explain(ctx, req)
}

func (a answerer) PreviewPolicy(context.Context, *adminv1.PreviewPolicyRequest) (*adminv1.PreviewPolicyResponse, error) {
	return &adminv1.PreviewPolicyResponse{Agents: 1, Answered: 1}, nil
}

var n1 = Config{Cluster: "east", Node: "n1", Incarnation: "i1"}

// follow has an agent answer until the test ends.
func follow(t *testing.T, client feedv1.FeedClient, explain func(context.Context, *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error)) (stop func()) {
	t.Helper()
	c := New(n1, Deps{
		Log: testkit.Log(t), Metrics: prometheus.NewRegistry(), Federation: func() string { return "test" }, Answerer: answerer{explain},
	})
	return testkit.Go(t, "consultant", func(ctx context.Context) error { return c.Follow(ctx, client) })
}

func echo(_ context.Context, req *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
	return &adminv1.ExplainResponse{Service: req.GetService()}, nil
}

func question(id uint64, service string) *feedv1.Question {
	return &feedv1.Question{Id: id, What: &feedv1.Question_Explain{Explain: &adminv1.ExplainRequest{Service: service}}}
}

func receive[T any](t *testing.T, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-testkit.Context(t).Done():
		t.Fatal("nothing came")
	}
	return v
}

func TestItSaysWhoItIsAndAnswers(t *testing.T) {
	s := newSynchronizer(t)
	follow(t, s.client, echo)
	want := &feedv1.Contributor{Federation: "test", Cluster: "east", Node: "n1", Incarnation: "i1"}
	if got := receive(t, s.hello); !proto.Equal(got, want) {
		t.Errorf("it is %v, want %v", got, want)
	}
	s.ask <- question(7, "cart")
	if a := receive(t, s.answers); a.GetId() != 7 || a.GetExplain().GetService() != "cart" {
		t.Errorf("the answer is %v", a)
	}
	s.ask <- &feedv1.Question{Id: 8, What: &feedv1.Question_Preview{Preview: &adminv1.PreviewPolicyRequest{}}}
	if a := receive(t, s.answers); a.GetId() != 8 || a.GetPreview().GetAnswered() != 1 {
		t.Errorf("the answer is %v", a)
	}
	s.ask <- nil // of a newer synchronizer: no question
	s.ask <- question(9, "till")
	if a := receive(t, s.answers); a.GetId() != 9 || a.GetExplain().GetService() != "till" {
		t.Errorf("the answer is %v", a)
	}
}

// refusal gives the status that an answer refuses with.
func refusal(t *testing.T, a *feedv1.Answer) *status.Status {
	t.Helper()
	no, ok := a.GetWhat().(*feedv1.Answer_Refused)
	if !ok {
		t.Fatalf("no refusal: %v", a)
	}
	var st spb.Status
	if err := proto.Unmarshal(no.Refused, &st); err != nil {
		t.Fatal(err)
	}
	return status.FromProto(&st)
}

func TestItRefuses(t *testing.T) {
	s := newSynchronizer(t)
	follow(t, s.client, func(_ context.Context, req *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
		if req.GetService() == "odd" {
			return nil, errors.New("odd")
		}
		return nil, status.Error(codes.InvalidArgument, "no such thing")
	})
	for what, c := range map[string]struct {
		q    *feedv1.Question
		code codes.Code
		text string
	}{
		"a status":           {question(1, "cart"), codes.InvalidArgument, "no such thing"},
		"an error":           {question(2, "odd"), codes.Unknown, "odd"},
		"a question too new": {&feedv1.Question{Id: 3}, codes.Unimplemented, "this agent is older and does not know the question"},
	} {
		s.ask <- c.q
		a := receive(t, s.answers)
		if st := refusal(t, a); a.GetId() != c.q.GetId() || st.Code() != c.code || st.Message() != c.text {
			t.Errorf("%s: %v in %v", what, st, a)
		}
	}
}

func TestQuestionsAreAnsweredInAnyOrderAndBounded(t *testing.T) {
	s := newSynchronizer(t)
	release := make(chan struct{})
	var working, most atomic.Int32
	follow(t, s.client, func(ctx context.Context, req *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
		most.Store(max(most.Load(), working.Add(1)))
		defer working.Add(-1)
		select {
		case <-release:
		case <-ctx.Done():
		}
		return echo(ctx, req)
	})
	for n := range uint64(maxWaiting) {
		s.ask <- question(n+1, fmt.Sprint(n+1))
	}
	s.ask <- question(99, "too many")
	if a := receive(t, s.answers); a.GetId() != 99 || refusal(t, a).Code() != codes.ResourceExhausted {
		t.Errorf("one too many: %v", a)
	}
	close(release)
	got := map[uint64]bool{}
	for range maxWaiting {
		a := receive(t, s.answers)
		if fmt.Sprint(a.GetId()) != a.GetExplain().GetService() {
			t.Errorf("question %d was answered with what belongs to %s", a.GetId(), a.GetExplain().GetService())
		}
		got[a.GetId()] = true
	}
	if len(got) != maxWaiting || most.Load() > maxWorking {
		t.Errorf("%d were answered, %d at the same time", len(got), most.Load())
	}
}

func TestItComesBackAfterTheStreamBroke(t *testing.T) {
	s := newSynchronizer(t)
	follow(t, s.client, echo)
	for _, err := range []error{status.Error(codes.Unavailable, "gone"), nil} {
		receive(t, s.hello)
		s.end <- err
	}
	receive(t, s.hello)
	s.ask <- question(1, "cart")
	receive(t, s.answers)
}

func TestItStopsInTheMiddleOfAnAnswer(t *testing.T) {
	s := newSynchronizer(t)
	begun := make(chan struct{})
	stop := follow(t, s.client, func(ctx context.Context, _ *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
		close(begun)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	s.ask <- question(1, "cart")
	receive(t, begun)
	stop()
}

// An older synchronizer does not know the call: the agent asks it once and then leaves it alone.
func TestAnOlderSynchronizerIsLeftAlone(t *testing.T) {
	old := &older{}
	client := serve(t, old)
	c := New(n1, Deps{Log: testkit.Log(t), Metrics: prometheus.NewRegistry(), Federation: func() string { return "test" }, Answerer: answerer{echo}})
	ctx, cancel := context.WithCancel(testkit.Context(t))
	var following sync.WaitGroup
	following.Go(func() {
		if err := c.Follow(ctx, client); !errors.Is(err, context.Canceled) {
			t.Errorf("Follow ended with %v", err)
		}
	})
	testkit.Eventually(t, ctx, "it asked", func() error {
		if old.asked.Load() == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	cancel()
	following.Wait()
	if n := old.asked.Load(); n != 1 {
		t.Errorf("it asked %d times", n)
	}
}

type older struct {
	feedv1.UnimplementedFeedServer
	asked atomic.Int32
}

func (o *older) Consult(stream grpc.BidiStreamingServer[feedv1.ConsultRequest, feedv1.ConsultResponse]) error {
	o.asked.Add(1)
	return o.UnimplementedFeedServer.Consult(stream)
}
