// Package consult answers what a synchronizer asks this agent on behalf of people: where a call of
// a service would go, and what another policy would make of the calls that it counted.
//
// It decides nothing and changes nothing: Answers asks the agent's view, as calls do. It does not
// connect either: the uplink hands it the connection that the feed is on.
//
// Goroutines: Follow owns one for each question that is being answered.
package consult

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
)

const (
	// retryCap bounds the pause between two tries to be asked; the pause is jittered below it.
	retryCap = time.Second
	// maxWaiting questions are taken at the same time, further ones are refused; maxWorking of them
	// are worked on, so that people's questions leave calls their processors.
	maxWaiting = 32
	maxWorking = 2
	// answerWithin bounds the work on one answer: no synchronizer waits that long.
	answerWithin = 3 * time.Second
	// maxAnswer is what an answer may have in bytes: gRPC's servers take no more than 4 MiB by default.
	maxAnswer = 3 << 20
)

// Config is who answers.
type Config struct {
	Cluster, Node, Incarnation string
}

// An Answerer answers questions. An error with a gRPC status is told as it is. It is safe for
// concurrent use.
type Answerer interface {
	Explain(context.Context, *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error)
	PreviewPolicy(context.Context, *adminv1.PreviewPolicyRequest) (*adminv1.PreviewPolicyResponse, error)
}

// Deps are what a Consultant uses and does not make.
type Deps struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Federation is the one that the agent is in; it is asked for once the feed is up.
	Federation func() string
	Answerer   Answerer
}

// Consultant is this agent as the one who is asked.
type Consultant struct {
	cfg       Config
	deps      Deps
	questions *prometheus.CounterVec
}

// New returns a Consultant; it starts nothing.
func New(cfg Config, deps Deps) *Consultant {
	c := &Consultant{cfg: cfg, deps: deps, questions: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "farcall_consult_answers_total", Help: "Questions of synchronizers, by what they were about and how they ended: answered, refused, busy.",
	}, []string{"about", "end"})}
	deps.Metrics.MustRegister(c.questions)
	return c
}

// Follow answers what the synchronizer at the other end asks until ctx is done, and returns
// ctx.Err(). Nothing that goes wrong here is a reason to give up the connection, which is the feed's:
// a synchronizer that cannot ask is left alone.
func (c *Consultant) Follow(ctx context.Context, client feedv1.FeedClient) error {
	said := "" // the last error that was logged
	for ctx.Err() == nil {
		err := c.session(ctx, client)
		if ctx.Err() != nil {
			break
		}
		if status.Code(err) == codes.Unimplemented {
			c.deps.Log.Debug("this synchronizer is older and asks agents nothing")
			<-ctx.Done()
			break
		}
		if word := err.Error(); word != said {
			c.deps.Log.Debug("the synchronizer cannot ask this agent", "error", err)
			said = word
		}
		pause := time.NewTimer(rand.N(retryCap))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
	return ctx.Err()
}

// stream is one Consult stream.
type stream struct {
	c       *Consultant
	rpc     grpc.BidiStreamingClient[feedv1.ConsultRequest, feedv1.ConsultResponse]
	waiting chan struct{} // holds a token for each question that was taken
	working chan struct{} // and for each that is worked on

	mu sync.Mutex // one sends at a time
}

// session answers over one stream until it ends, and says why.
func (c *Consultant) session(ctx context.Context, client feedv1.FeedClient) error {
	ctx, cancel := context.WithCancel(ctx)
	var answering sync.WaitGroup
	defer answering.Wait()
	defer cancel()
	rpc, err := client.Consult(ctx)
	if err != nil {
		return fmt.Errorf("consult: %w", err)
	}
	s := &stream{c: c, rpc: rpc, waiting: make(chan struct{}, maxWaiting), working: make(chan struct{}, maxWorking)}
	// Where the stream is broken already, what is received says why.
	_ = rpc.Send(&feedv1.ConsultRequest{Agent: &feedv1.Contributor{
		Federation: c.deps.Federation(), Cluster: c.cfg.Cluster, Node: c.cfg.Node, Incarnation: c.cfg.Incarnation,
	}})
	for {
		m, err := rpc.Recv()
		if err != nil {
			return fmt.Errorf("consult: %w", err)
		}
		q := m.GetQuestion()
		if q == nil {
			continue
		}
		select {
		case s.waiting <- struct{}{}:
			answering.Go(func() {
				defer func() { <-s.waiting }()
				s.work(ctx, q)
			})
		default:
			c.questions.WithLabelValues(about(q), "busy").Inc()
			s.send(refuse(q, status.Error(codes.ResourceExhausted, "too many questions at the same time")))
		}
	}
}

// work answers a question when it is its turn.
func (s *stream) work(ctx context.Context, q *feedv1.Question) {
	select {
	case s.working <- struct{}{}:
		defer func() { <-s.working }()
	case <-ctx.Done():
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	a, err := s.c.answer(ctx, q)
	end := "answered"
	if err != nil {
		end, a = "refused", refuse(q, err)
	}
	s.c.questions.WithLabelValues(about(q), end).Inc()
	s.send(a)
}

// answer gives the answer to a question, or why there is none.
func (c *Consultant) answer(ctx context.Context, q *feedv1.Question) (*feedv1.Answer, error) {
	switch what := q.GetWhat().(type) {
	case *feedv1.Question_Explain:
		resp, err := c.deps.Answerer.Explain(ctx, what.Explain)
		return &feedv1.Answer{Id: q.GetId(), What: &feedv1.Answer_Explain{Explain: resp}}, err
	case *feedv1.Question_Preview:
		resp, err := c.deps.Answerer.PreviewPolicy(ctx, what.Preview)
		return &feedv1.Answer{Id: q.GetId(), What: &feedv1.Answer_Preview{Preview: resp}}, err
	}
	return nil, status.Error(codes.Unimplemented, "this agent is older and does not know the question")
}

func refuse(q *feedv1.Question, err error) *feedv1.Answer {
	b, err := proto.Marshal(status.Convert(err).Proto())
	if err != nil {
		b = nil // a status with nothing in it is a refusal as well
	}
	return &feedv1.Answer{Id: q.GetId(), What: &feedv1.Answer_Refused{Refused: b}}
}

// about is the question in one word, for metrics.
func about(q *feedv1.Question) string {
	switch q.GetWhat().(type) {
	case *feedv1.Question_Explain:
		return "explain"
	case *feedv1.Question_Preview:
		return "preview"
	}
	return "unknown"
}

// send sends an answer. A stream that is broken ends in session, which learns why.
func (s *stream) send(a *feedv1.Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.rpc.Send(&feedv1.ConsultRequest{Answer: a})
}
