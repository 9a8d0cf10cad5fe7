package synchronizer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/mirror"
)

const (
	// consultWithin is how long agents are waited for, where the caller does not wait less.
	consultWithin = 2 * time.Second
	// maxQuestions are asked of one agent at the same time; further ones fail at once.
	maxQuestions = 32
)

var (
	errGone = errors.New("it went away")
	errBusy = errors.New("it has too many questions to answer")
)

// consultStream is one agent's Consult.
type consultStream = grpc.BidiStreamingServer[feedv1.ConsultRequest, feedv1.ConsultResponse]

// consults are the agents that answer questions here.
type consults struct {
	asked *prometheus.CounterVec

	mu      sync.Mutex
	streams map[mirror.AgentKey][]*consultant // the newest last: one that reconnects has two for a moment
}

func newConsults(r prometheus.Registerer) *consults {
	c := &consults{
		asked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "farcall_consult_questions_total", Help: "Questions that agents were asked, by how they ended: answered, refused, silent, dropped because somebody else was faster, gone, busy.",
		}, []string{"end"}),
		streams: map[mirror.AgentKey][]*consultant{},
	}
	r.MustRegister(c.asked, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "farcall_consult_agents", Help: "Agents that can be asked here.",
	}, func() float64 {
		c.mu.Lock()
		defer c.mu.Unlock()
		return float64(len(c.streams))
	}))
	return c
}

func (c *consults) join(key mirror.AgentKey) *consultant {
	x := &consultant{
		key: key, asked: c.asked,
		out:     make(chan *feedv1.Question, maxQuestions),
		gone:    make(chan struct{}),
		waiting: map[uint64]chan<- *feedv1.Answer{},
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams[key] = append(c.streams[key], x)
	return x
}

// leave ends what is still asked of the agent.
func (c *consults) leave(x *consultant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rest := slices.DeleteFunc(c.streams[x.key], func(o *consultant) bool { return o == x })
	if c.streams[x.key] = rest; len(rest) == 0 {
		delete(c.streams, x.key)
	}
	close(x.gone)
}

// of gives the agents of a cluster that can be asked here, those first that answered when they were
// asked last; of the one node where that is not empty.
func (c *consults) of(cluster, node string) []*consultant {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*consultant
	for key, list := range c.streams {
		if key.Cluster == cluster && (node == "" || node == key.Node) {
			out = append(out, list[len(list)-1])
		}
	}
	rank := func(x *consultant) string {
		if x.silent.Load() {
			return "1" + x.key.Node
		}
		return "0" + x.key.Node
	}
	slices.SortFunc(out, func(a, b *consultant) int { return strings.Compare(rank(a), rank(b)) })
	return out
}

// consultant is one agent's stream. Its methods are safe for concurrent use.
type consultant struct {
	key    mirror.AgentKey
	asked  *prometheus.CounterVec
	out    chan *feedv1.Question
	gone   chan struct{} // closed when the stream is over
	silent atomic.Bool   // the last question was not answered in time

	mu      sync.Mutex
	last    uint64                           // number of the last question
	waiting map[uint64]chan<- *feedv1.Answer // by question; each takes one answer
}

func (x *consultant) String() string { return x.key.Cluster + "/" + x.key.Node }

// ask puts a question, whose id it sets, and waits for the answer until ctx is done. An agent that
// refuses gives its own status, a *refusal; any other error says that it cannot answer now.
func (x *consultant) ask(ctx context.Context, q *feedv1.Question) (*feedv1.Answer, error) {
	a, end, err := x.wait(ctx, q)
	x.asked.WithLabelValues(end).Inc()
	return a, err
}

func (x *consultant) wait(ctx context.Context, q *feedv1.Question) (a *feedv1.Answer, end string, err error) {
	began, got := time.Now(), make(chan *feedv1.Answer, 1)
	x.mu.Lock()
	x.last++
	q.Id = x.last
	x.waiting[q.GetId()] = got
	x.mu.Unlock()
	defer func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.waiting, q.GetId())
	}()
	select {
	case x.out <- q:
	default:
		return nil, "busy", errBusy
	}
	select {
	case a = <-got:
	case <-x.gone:
		return nil, "gone", errGone
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) && time.Since(began) < hedgeAfter {
			return nil, "dropped", ctx.Err() // it had no time to be silent in
		}
		x.silent.Store(true)
		return nil, "silent", ctx.Err()
	}
	x.silent.Store(false)
	if no, ok := a.GetWhat().(*feedv1.Answer_Refused); ok {
		return nil, "refused", refused(no.Refused)
	}
	return a, "answered", nil
}

// refusal is an agent's word that a question makes no sense, or that it cannot answer it.
type refusal struct{ *status.Status }

func (r *refusal) Error() string { return r.Message() }

// GRPCStatus gives the status to gRPC.
func (r *refusal) GRPCStatus() *status.Status { return r.Status }

func refused(b []byte) error {
	var st spb.Status
	if err := proto.Unmarshal(b, &st); err != nil || codes.Code(st.GetCode()) == codes.OK {
		return errors.New("it refused with a status that cannot be read")
	}
	return &refusal{status.FromProto(&st)}
}

// waits reports whether somebody still waits for the answer to a question.
func (x *consultant) waits(id uint64) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.waiting[id] != nil
}

// take takes an answer. One that nobody waits for any more, or never did, is dropped.
func (x *consultant) take(a *feedv1.Answer) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if got := x.waiting[a.GetId()]; got != nil {
		got <- a
		delete(x.waiting, a.GetId())
	}
}

// put sends the agent its questions until ctx is done or the stream is.
func (x *consultant) put(ctx context.Context, stream consultStream) {
	for {
		select {
		case <-ctx.Done():
			return
		case q := <-x.out:
			if !x.waits(q.GetId()) {
				continue
			}
			if err := stream.Send(&feedv1.ConsultResponse{Question: q}); err != nil {
				return // the stream is broken, and whoever receives from it learns why
			}
		}
	}
}

// Consult asks one agent what people want to know of it, until it goes.
func (f *feed) Consult(stream consultStream) error {
	req, err := stream.Recv()
	if err != nil {
		return endOfRecv(err)
	}
	who := req.GetAgent()
	if who == nil {
		return status.Error(codes.InvalidArgument, "the first message must name the agent")
	}
	if theirs := who.GetFederation(); theirs != f.s.cfg.Federation {
		return wrongFederation(f.s.cfg.Federation, theirs)
	}
	if err := f.speaker(stream.Context(), who.GetCluster(), who.GetNode()); err != nil {
		return err
	}
	ctx, cancel := f.until(stream.Context())
	x := f.s.consults.join(mirror.AgentKey{Cluster: who.GetCluster(), Node: who.GetNode()})
	var putting sync.WaitGroup
	// In this order: nobody is asked any more before the last question is out.
	defer putting.Wait()
	defer func() {
		cancel()
		f.s.consults.leave(x)
	}()
	putting.Go(func() { x.put(ctx, stream) })
	for {
		if req, err = stream.Recv(); err != nil {
			return endOfRecv(err)
		}
		switch {
		case req.GetAgent() != nil:
			return status.Error(codes.InvalidArgument, "only the first message of a stream names the agent")
		case req.GetAnswer() != nil:
			x.take(req.GetAnswer())
		}
	}
}

// within gives the time in which others may answer: limit, and never so much that nothing is left
// of the caller's own time to do without them.
func within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if d, ok := ctx.Deadline(); ok {
		left := time.Until(d)
		limit = min(limit, left-left/5)
	}
	return context.WithTimeout(ctx, limit)
}
