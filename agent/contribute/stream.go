package contribute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/farcall/farcall/agent/uplink"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers/inbox"
)

// lastWordWithin is how long a stream may take to end when the agent does.
const lastWordWithin = time.Second

// errNotOwner ends a stream that leads to another synchronizer than the one that writes the
// cluster, while none leads to that one.
var errNotOwner = errors.New("another synchronizer writes this cluster, and no stream leads to it")

// client is the agent's end of a Contribute stream.
type client = grpc.BidiStreamingClient[feedv1.ContributeRequest, feedv1.ContributeResponse]

// stream is one Contribute stream, from when it is up to its end.
type stream struct {
	c    *Contributor
	log  *slog.Logger
	rpc  client
	end  context.CancelCauseFunc
	wake chan struct{} // holds a token while there is something to send
	due  atomic.Bool   // how the agent stands is to be said

	// Guarded by Contributor.mu.
	since    time.Time
	answered bool
	owner    bool

	mu   sync.Mutex
	told map[string]uint64 // terms by link that were told and not looked at yet

	// The rest belongs to the goroutine that sends.
	tick    *time.Ticker
	reports map[string]*report // by link
}

// report is a link that is granted to this agent.
type report struct {
	tap   *tap
	term  uint64
	inbox *inbox.Inbox
	begun bool // the first update of the term was sent
}

// follow keeps a stream to one address until ctx is done.
func (c *Contributor) follow(ctx context.Context, address string) {
	log := c.log.With("synchronizer", address)
	said := "" // the last error that was logged: a synchronizer that stays away is news once
	for ctx.Err() == nil {
		began := time.Now()
		err := c.session(ctx, address, log)
		if ctx.Err() != nil {
			return
		}
		c.metrics.disconnects.Inc()
		if time.Since(began) > 2*retryCap {
			said = ""
		}
		switch word := err.Error(); {
		case errors.Is(err, errNotOwner):
			log.Debug("the stream is dialled afresh", "reason", err)
		case word != said:
			log.Warn("what this agent's registries say does not reach a synchronizer", "error", err)
			said = word
		}
		pause := time.NewTimer(rand.N(retryCap))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// session contributes over one stream until it ends, and says why.
func (c *Contributor) session(ctx context.Context, address string, log *slog.Logger) error {
	conn, err := uplink.Dial(address, c.cfg.Credentials)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is lost with a connection that is given up
	// The stream outlives ctx by a moment, in which the last word is said and heard.
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	defer context.AfterFunc(ctx, func() {
		time.AfterFunc(lastWordWithin, func() { end(context.Cause(ctx)) })
	})()
	rpc, err := feedv1.NewFeedClient(conn).Contribute(life)
	if err != nil {
		return err
	}
	s := &stream{
		c: c, log: log, rpc: rpc, end: end, wake: make(chan struct{}, 1), since: time.Now(),
		told: map[string]uint64{}, tick: time.NewTicker(standEvery), reports: map[string]*report{},
	}
	defer s.tick.Stop()
	s.begin()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.receive()
	}()
	switch err = s.talk(ctx, life); {
	case errors.Is(err, io.EOF): // which means that the receiver has the reason
	case ctx.Err() != nil && rpc.CloseSend() == nil: // the receiver ends with what the synchronizer says to that
	default:
		end(err)
	}
	<-ended
	s.down()
	return context.Cause(life)
}

func (s *stream) begin() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.streams[s] = struct{}{}
}

// down takes back the stream, and all that was granted over it.
func (s *stream) down() {
	for link := range s.reports {
		s.cease(link, "the stream ended")
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	delete(s.c.streams, s)
	if s.answered {
		s.c.metrics.streams.Dec()
	}
}

// receive takes what the synchronizer says, and ends the stream when it ends.
func (s *stream) receive() {
	for {
		m, err := s.rpc.Recv()
		if err != nil {
			s.end(fmt.Errorf("contribute: %w", err))
			return
		}
		s.answer(m.GetOwner())
		s.mu.Lock()
		for _, g := range m.GetGrants() {
			s.told[g.GetLink()] = g.GetTerm()
		}
		s.mu.Unlock()
		wake(s.wake)
	}
}

// answer notes that the synchronizer answered, and whether it is the owner.
func (s *stream) answer(owner bool) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if !s.answered {
		s.answered = true
		s.c.metrics.streams.Inc()
	}
	s.owner = owner
}

// talk says who the agent is, and then what is to be said, until the stream's life or ctx ends.
// With ctx it says what is left to say and returns ctx.Err().
func (s *stream) talk(ctx, life context.Context) error {
	cfg := s.c.cfg
	s.c.mu.Lock()
	federation := s.c.federation
	s.c.mu.Unlock()
	if err := s.rpc.Send(&feedv1.ContributeRequest{Contributor: &feedv1.Contributor{
		Federation: federation, Cluster: cfg.Cluster, Node: cfg.Node, Incarnation: cfg.Incarnation,
	}}); err != nil {
		return err
	}
	s.due.Store(true)
	for {
		last := ctx.Err()
		if err := s.stand(); err != nil {
			return err
		}
		s.take()
		for _, link := range slices.Sorted(maps.Keys(s.reports)) {
			if err := s.forward(link, s.reports[link]); err != nil {
				return err
			}
		}
		if last != nil {
			return last
		}
		select {
		case <-ctx.Done():
		case <-life.Done():
			return context.Cause(life)
		case <-s.wake:
		case <-s.tick.C:
			s.due.Store(true)
		}
	}
}

// stand says how the agent stands with its links, where that is due.
func (s *stream) stand() error {
	if !s.due.Swap(false) {
		return nil
	}
	now := time.Now()
	st := &feedv1.Standing{}
	for _, t := range s.c.taps {
		if l := t.standing(now); l != nil {
			st.Links = append(st.Links, l)
		}
	}
	return s.rpc.Send(&feedv1.ContributeRequest{Standing: st})
}

// take takes up what was granted and gives up what was taken back, or has another name now.
func (s *stream) take() {
	s.mu.Lock()
	told := s.told
	s.told = map[string]uint64{}
	s.mu.Unlock()
	for link, r := range s.reports {
		if r.tap.named() != link {
			s.cease(link, "the link has another name now")
		}
	}
	for _, link := range slices.Sorted(maps.Keys(told)) {
		term := told[link]
		if r := s.reports[link]; r != nil {
			if r.term == term {
				continue
			}
			s.cease(link, "the term is over")
		}
		t := s.c.tap(link)
		switch {
		case term == 0:
		case t == nil:
			s.log.Debug("granted a link that this agent does not hear any more", "link", link, "term", term)
		default:
			s.log.Info("this agent reports a link", "link", link, "term", term)
			s.reports[link] = &report{tap: t, term: term, inbox: inbox.Counted(s.wake, inbox.Counters{Coalesced: s.c.metrics.coalesced})}
			s.c.metrics.grants.Inc()
		}
	}
}

// cease ends a report.
func (s *stream) cease(link, why string) {
	r := s.reports[link]
	delete(s.reports, link)
	r.tap.leave(r.inbox)
	s.c.metrics.grants.Dec()
	s.log.Info("this agent does not report a link any more", "link", link, "term", r.term, "reason", why)
}

// forward sends what waits of a link: at first all that stands, then what came since.
func (s *stream) forward(link string, r *report) error {
	if !r.begun {
		all, ok := r.tap.begin(r.inbox)
		if !ok {
			return nil
		}
		r.begun = true
		return s.contribute(link, r, all)
	}
	updates, heard := r.inbox.Take()
	for _, u := range updates {
		u.Revision = heard.Revision
		if err := s.contribute(link, r, u); err != nil {
			return err
		}
	}
	return nil
}

// contribute sends one update, in as many messages as it takes. It leaves off where the grant
// was taken back meanwhile: nobody would believe the rest.
func (s *stream) contribute(link string, r *report, u catalog.Update) error {
	for part := range parts(link, r.term, r.tap.registry.Map(u)) {
		if s.over(link, r.term) {
			return nil
		}
		if err := s.rpc.Send(&feedv1.ContributeRequest{Contribution: part}); err != nil {
			return err
		}
		s.c.metrics.bytes.Add(float64(proto.Size(part)))
		select {
		case <-s.tick.C:
			s.due.Store(true)
		default:
		}
		if err := s.stand(); err != nil {
			return err
		}
	}
	s.c.metrics.contributions.Inc()
	return nil
}

// over reports whether another term than this one was told of the link.
func (s *stream) over(link string, term uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	told, ok := s.told[link]
	return ok && told != term
}
