package synchronizer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/testkit"
)

// dialable is a registry whose instances have a relay.
func dialable(ids ...string) *registry {
	r := newRegistry(ids...)
	for _, i := range r.list {
		i.Relay = "10.0.0.1:50002"
	}
	return r
}

// consulted is an agent with a real Consult stream.
type consulted struct {
	stream grpc.BidiStreamingClient[feedv1.ConsultRequest, feedv1.ConsultResponse]
	// leave ends the stream, and returns when the synchronizer has noticed.
	leave func()

	mu    sync.Mutex
	asked []*feedv1.Question
	came  chan struct{} // closed at the first question
}

// consult connects an agent that answers with what answer gives; nil: it does not.
func (r *replica) consult(t *testing.T, cluster, node string, answer func(*feedv1.Question) *feedv1.Answer) *consulted {
	t.Helper()
	ctx, cancel := context.WithCancel(testkit.Context(t))
	before := r.s.consults.of(cluster, node)
	c := &consulted{came: make(chan struct{})}
	var err error
	if c.stream, err = r.feed.Consult(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.stream.Send(&feedv1.ConsultRequest{Agent: &feedv1.Contributor{Federation: "test", Cluster: cluster, Node: node, Incarnation: "i"}}); err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() { c.talk(answer) })
	var x *consultant
	testkit.Eventually(t, ctx, "the agent can be asked", func() error {
		now := r.s.consults.of(cluster, node)
		if len(now) == 0 || len(before) > 0 && now[0] == before[0] {
			return errors.New("it cannot")
		}
		x = now[0]
		return nil
	})
	c.leave = sync.OnceFunc(func() { cancel(); done.Wait(); <-x.gone })
	t.Cleanup(c.leave)
	return c
}

// talk answers all questions at the same time.
func (c *consulted) talk(answer func(*feedv1.Question) *feedv1.Answer) {
	var answering sync.WaitGroup
	defer answering.Wait()
	var sending sync.Mutex
	for {
		m, err := c.stream.Recv()
		if err != nil {
			return
		}
		c.mu.Lock()
		if c.asked = append(c.asked, m.GetQuestion()); len(c.asked) == 1 {
			close(c.came)
		}
		c.mu.Unlock()
		answering.Go(func() {
			if a := answer(m.GetQuestion()); a != nil {
				a.Id = m.GetQuestion().GetId()
				sending.Lock()
				defer sending.Unlock()
				_ = c.stream.Send(&feedv1.ConsultRequest{Answer: a}) // it may be over
			}
		})
	}
}

func (c *consulted) questions() []*feedv1.Question {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

// says answers Explain by this name.
func says(name string) func(*feedv1.Question) *feedv1.Answer {
	return func(*feedv1.Question) *feedv1.Answer {
		return &feedv1.Answer{What: &feedv1.Answer_Explain{Explain: &adminv1.ExplainResponse{ComputedBy: name}}}
	}
}

// hangs never answers.
func hangs(*feedv1.Question) *feedv1.Answer { return nil }

// refuses answers with a status.
func refuses(code codes.Code, text string) func(*feedv1.Question) *feedv1.Answer {
	return func(*feedv1.Question) *feedv1.Answer {
		b, _ := proto.Marshal(status.New(code, text).Proto()) // a status can be encoded
		return &feedv1.Answer{What: &feedv1.Answer_Refused{Refused: b}}
	}
}

// computedBy asks why cart is called as it is from east, and gives who says so.
func (r *replica) computedBy(t *testing.T, req *adminv1.ExplainRequest) string {
	t.Helper()
	if req.GetService() == "" {
		req.Service = "cart"
	}
	req.From = "east"
	resp, err := r.admin.Explain(testkit.Context(t), req)
	if err != nil {
		t.Fatalf("%v: %v", req, err)
	}
	return resp.GetComputedBy()
}

func TestAnAgentExplains(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"east": {newRegistry("a")}, "west": {newRegistry("w")}})
	r.lists(t, "east/a west/w")
	r.consult(t, "west", "n1", says("of another cluster"))
	if got := r.computedBy(t, &adminv1.ExplainRequest{}); got != "synchronizer r1, from its own lists: no agent of cluster east is connected" {
		t.Errorf("without an agent: %s", got)
	}
	one := r.consult(t, "east", "n1", says("n1"))
	two := r.consult(t, "east", "n2", says("n2"))
	if got := r.computedBy(t, &adminv1.ExplainRequest{Service: "cart.shop", Strategy: "local", Cluster: "west"}); got != "n1" {
		t.Errorf("answered by %s", got)
	}
	want := &adminv1.ExplainRequest{Service: "cart", Namespace: "shop", From: "east", Strategy: "local", Cluster: "west"}
	if got := one.questions()[0].GetExplain(); !proto.Equal(got, want) {
		t.Errorf("asked %v, want %v", got, want)
	}
	if got := r.computedBy(t, &adminv1.ExplainRequest{Node: "n2"}); got != "n2" || len(two.questions()) != 1 {
		t.Errorf("n2 was asked for, and %s answered", got)
	}
	two.leave()
	_, err := r.admin.Explain(testkit.Context(t), &adminv1.ExplainRequest{Service: "cart", From: "east", Node: "n2"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("an agent that nobody knows: %v", err)
	}
	one.leave()
	r.report(t, "east", "n2")
	if got := r.computedBy(t, &adminv1.ExplainRequest{Node: "n2"}); !strings.HasSuffix(got, ": agent east/n2 is not connected") {
		t.Errorf("an agent that is known and cannot be asked: %s", got)
	}
}

// report makes an agent known that cannot be asked.
func (r *replica) report(t *testing.T, cluster, node string) {
	t.Helper()
	ctx := testkit.Context(t)
	s, err := r.feed.Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&feedv1.ReportRequest{Federation: "test", Agent: agentRecord(cluster, node)}); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, ctx, "the agent is known", func() error {
		for _, a := range r.s.mirror.Agents() {
			if a.GetCluster() == cluster && a.GetNode() == node {
				return nil
			}
		}
		return errors.New("it is not")
	})
}

func TestAnAgentThatHangsIsNotWaitedFor(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"east": {newRegistry("a")}})
	r.lists(t, "east/a")
	one := r.consult(t, "east", "n1", hangs)
	ctx, cancel := context.WithTimeout(testkit.Context(t), 6*consultWithin/5)
	defer cancel()
	resp, err := r.admin.Explain(ctx, &adminv1.ExplainRequest{Service: "cart", From: "east"})
	if err != nil || resp.GetComputedBy() != "synchronizer r1, from its own lists: agent east/n1 did not answer in time" {
		t.Errorf("within the caller's time: %v %v", resp.GetComputedBy(), err)
	}
	r.consult(t, "east", "n2", says("n2"))
	r.answers(t, "another one is there", &adminv1.ExplainRequest{}, "n2")
	// Where that one is late once, the one that hangs is asked, too.
	testkit.Eventually(t, testkit.Context(t), "the one that answered is asked before the one that hangs", func() error {
		before := len(one.questions())
		if got := r.computedBy(t, &adminv1.ExplainRequest{}); got != "n2" || len(one.questions()) != before {
			return fmt.Errorf("%s answered, and the other was asked %d times, and then %d", got, before, len(one.questions()))
		}
		return nil
	})
	if got := r.computedBy(t, &adminv1.ExplainRequest{Node: "n1"}); !strings.HasSuffix(got, "agent east/n1 did not answer in time") {
		t.Errorf("the one that hangs was asked for: %s", got)
	}
}

// Whoever asks several takes the first answer: the others are not silent for that, and are asked as
// before the next time.
func TestWhoIsOvertakenAtOnceIsNotSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newConsults(prometheus.NewRegistry()).join(mirror.AgentKey{Cluster: "east", Node: "n1"})
		ask := func(wait func(context.Context) (context.Context, context.CancelFunc)) bool {
			ctx, cancel := wait(t.Context())
			defer cancel()
			if _, err := x.ask(ctx, &feedv1.Question{}); err == nil {
				t.Error("nobody answers, and yet there is an answer")
			}
			return x.silent.Load()
		}
		dropped := func(after time.Duration) func(ctx context.Context) (context.Context, context.CancelFunc) {
			return func(ctx context.Context) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(ctx)
				time.AfterFunc(after, cancel)
				return ctx, cancel
			}
		}
		if ask(dropped(hedgeAfter / 2)) {
			t.Error("it is silent although it was hardly asked")
		}
		if !ask(dropped(2 * hedgeAfter)) {
			t.Error("it is not silent although somebody else was asked meanwhile, and faster")
		}
		x.silent.Store(false)
		if !ask(func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, hedgeAfter/2)
		}) {
			t.Error("it is not silent although there was no more time")
		}
	})
}

// The first is asked first, and when it is silent the next is asked while the first still may answer.
func TestASlowAgentIsOvertaken(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"east": {newRegistry("a")}})
	r.lists(t, "east/a")
	one := r.consult(t, "east", "n1", hangs)
	r.consult(t, "east", "n2", says("n2"))
	r.answers(t, "the first is silent", &adminv1.ExplainRequest{}, "n2")
	if len(one.questions()) == 0 {
		t.Error("n1 was not asked")
	}
}

func TestAnAgentGoesAwayMidQuestion(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"east": {newRegistry("a")}})
	r.lists(t, "east/a")
	one := r.consult(t, "east", "n1", hangs)
	var away sync.WaitGroup
	away.Go(func() {
		<-one.came
		one.leave()
	})
	defer away.Wait()
	if got := r.computedBy(t, &adminv1.ExplainRequest{}); got != "synchronizer r1, from its own lists: agent east/n1 did not answer: it went away" {
		t.Errorf("computed by %s", got)
	}
}

func TestWhatAnAgentRefuses(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"east": {newRegistry("a")}})
	r.lists(t, "east/a")
	one := r.consult(t, "east", "n1", refuses(codes.InvalidArgument, "no such cluster"))
	_, err := r.admin.Explain(testkit.Context(t), &adminv1.ExplainRequest{Service: "cart", From: "east"})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "no such cluster") {
		t.Errorf("the question makes no sense: %v", err)
	}
	one.leave()
	one = r.consult(t, "east", "n1", refuses(codes.FailedPrecondition, "too old for it"))
	if got := r.computedBy(t, &adminv1.ExplainRequest{}); !strings.HasSuffix(got, "agent east/n1 did not answer: too old for it") {
		t.Errorf("one that cannot answer, and no other: %s", got)
	}
	r.consult(t, "east", "n2", says("n2"))
	if got := r.computedBy(t, &adminv1.ExplainRequest{}); got != "n2" {
		t.Errorf("one that cannot answer, and another: %s", got)
	}
	one.leave()
	odd := &feedv1.Answer{What: &feedv1.Answer_Preview{}}
	r.consult(t, "east", "n0", func(*feedv1.Question) *feedv1.Answer { return odd })
	if got := r.computedBy(t, &adminv1.ExplainRequest{}); got != "n2" {
		t.Errorf("one that answers something else, and another: %s", got)
	}
}

func TestManyQuestionsAtTheSameTime(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"east": {newRegistry("a")}})
	r.lists(t, "east/a")
	const many = 20
	var all sync.WaitGroup
	all.Add(many)
	r.consult(t, "east", "n1", func(q *feedv1.Question) *feedv1.Answer {
		all.Done()
		all.Wait() // so that all are asked before one is answered
		return says(q.GetExplain().GetService())(q)
	})
	var asking sync.WaitGroup
	for n := range many {
		asking.Go(func() {
			service := fmt.Sprintf("s%d", n)
			if got := r.computedBy(t, &adminv1.ExplainRequest{Service: service}); got != service {
				t.Errorf("asked of %s, answered of %s", service, got)
			}
		})
	}
	asking.Wait()
}

func TestQuestionsAreBounded(t *testing.T) {
	c := newConsults(newTestRegistry())
	x := c.join(agentKey("east", "n1"))
	ctx, cancel := context.WithCancel(testkit.Context(t))
	var asking sync.WaitGroup
	for range maxQuestions {
		asking.Go(func() {
			if _, err := x.ask(ctx, &feedv1.Question{}); !errors.Is(err, errGone) {
				t.Errorf("a question ends with %v", err)
			}
		})
	}
	testkit.Eventually(t, ctx, "all are waiting", func() error {
		if n := len(x.out); n != maxQuestions {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	if _, err := x.ask(ctx, &feedv1.Question{}); !errors.Is(err, errBusy) {
		t.Errorf("one too many: %v", err)
	}
	c.leave(x)
	asking.Wait()
	cancel()
	if len(x.waiting) != 0 || len(c.of("east", "")) != 0 {
		t.Error("something is left of it")
	}
}

// An agent that reconnects has two streams for a moment; the end of the older does not end the newer.
func TestTheNewestStreamIsAsked(t *testing.T) {
	c := newConsults(newTestRegistry())
	older := c.join(agentKey("east", "n1"))
	newer := c.join(agentKey("east", "n1"))
	if got := c.of("east", "n1"); len(got) != 1 || got[0] != newer {
		t.Errorf("%v are asked", got)
	}
	c.leave(older)
	if got := c.of("east", ""); len(got) != 1 || got[0] != newer {
		t.Errorf("%v are asked", got)
	}
	newer.take(&feedv1.Answer{Id: 7}) // nobody asked
}

func TestWhoMayBeAsked(t *testing.T) {
	r := start(t, t.TempDir(), nil)
	good := &feedv1.Contributor{Federation: "test", Cluster: "east", Node: "n1"}
	for what, c := range map[string]struct {
		says []*feedv1.ConsultRequest
		code codes.Code
	}{
		"nobody":             {[]*feedv1.ConsultRequest{{}}, codes.InvalidArgument},
		"another federation": {[]*feedv1.ConsultRequest{{Agent: &feedv1.Contributor{Federation: "other", Cluster: "east", Node: "n1"}}}, codes.FailedPrecondition},
		"no node":            {[]*feedv1.ConsultRequest{{Agent: &feedv1.Contributor{Federation: "test", Cluster: "east"}}}, codes.InvalidArgument},
		"twice":              {[]*feedv1.ConsultRequest{{Agent: good}, {Agent: good}}, codes.InvalidArgument},
	} {
		s, err := r.feed.Consult(testkit.Context(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range c.says {
			_ = s.Send(m) // it may be refused already
		}
		if _, err := s.Recv(); status.Code(err) != c.code {
			t.Errorf("%s: %v, want %v", what, err, c.code)
		}
	}
}

// meets makes a replica see the heartbeat of another, which has a store of its own here.
func (r *replica) meets(t *testing.T, id, address string) {
	t.Helper()
	b, err := keys.Encode(&storev1.Replica{Id: id, Tick: 1, Address: address})
	if err != nil {
		t.Fatal(err)
	}
	h := r.s.hub
	h.Apply([]store.Entry{{Key: h.watchdog.schema.Format(keys.Key{Kind: keys.Replica, Replica: id}), Value: b, Revision: 1}}, 1)
}

func TestAnotherReplicasAgentExplains(t *testing.T) {
	a := start(t, t.TempDir(), map[string][]*registry{"east": {newRegistry("a")}})
	b := start(t, t.TempDir(), map[string][]*registry{"east": {newRegistry("b")}})
	a.lists(t, "east/a")
	b.lists(t, "east/b")
	a.meets(t, "r2", b.s.grpcL.Addr().String())
	b.meets(t, "r2", a.s.grpcL.Addr().String())
	// Each passes the question on once and to nobody further.
	if got := a.computedBy(t, &adminv1.ExplainRequest{}); got != "synchronizer r1, from its own lists: no agent of cluster east is connected" {
		t.Errorf("no agent anywhere: %s", got)
	}
	one := b.consult(t, "east", "n1", says("n1"))
	a.answers(t, "an agent at the other replica", &adminv1.ExplainRequest{}, "n1")
	two := b.consult(t, "east", "n2", says("n2"))
	a.report(t, "east", "n2")
	a.answers(t, "n2 is at the other replica", &adminv1.ExplainRequest{Node: "n2"}, "n2")
	three := a.consult(t, "east", "n3", says("n3"))
	a.answers(t, "one is here", &adminv1.ExplainRequest{}, "n3")
	three.leave()
	one.leave()
	two.leave()
	b.consult(t, "east", "n4", hangs)
	if got := a.computedBy(t, &adminv1.ExplainRequest{}); !strings.Contains(got, "synchronizer r2 did not answer: agent east/n4 did not answer in time") {
		t.Errorf("one hangs at the other replica: %s", got)
	}
	a.meets(t, "r3", testClosed(t))
	b.consult(t, "east", "n5", says("n5"))
	a.answers(t, "a third replica is dead", &adminv1.ExplainRequest{}, "n5")
}

// answers waits until this one answers: on a machine that is busy with other things, the time for it
// may be over before.
func (r *replica) answers(t *testing.T, when string, req *adminv1.ExplainRequest, want string) {
	t.Helper()
	testkit.Eventually(t, testkit.Context(t), when, func() error {
		if got := r.computedBy(t, req); got != want {
			return fmt.Errorf("%s answered", got)
		}
		return nil
	})
}

// testClosed gives an address that nobody listens at.
func testClosed(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return l.Addr().String()
}
