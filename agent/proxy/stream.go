package proxy

import (
	"context"
	"io"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/agent/conns"
	"github.com/farcall/farcall/agent/invoke"
)

// The two ways to open a callee's stream. Of a call that is one message the end is sent with it.
var (
	sendOne  = &grpc.StreamDesc{ServerStreams: true}
	sendMany = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
)

// Way is how a callee is reached.
type Way struct {
	Pool *conns.Pool
	// Address is the callee's, host:port, and To whom is wanted there.
	Address string
	To      conns.Who
	// Refused says that there is no connection, in gRPC's words: certainly not executed.
	Refused func(why string) *invoke.Error
	// Failed says what it means that a stream ended without a word of the application, be it that
	// the connection broke or, where Peer, that an agent says so. trailer is what came with it.
	Failed func(err error, trailer metadata.MD) *invoke.Error
	// Afresh says that a call after one that could not connect dials anew, and does not wait until
	// gRPC tries again by itself.
	Afresh bool
	// Peer says that an agent may be there, or a sidecar somewhere else. An agent says in the trailer
	// whose word a status is. Without Peer, the connections in Pool are made with Watch.
	Peer bool
}

// Stream is the callee's side of one attempt.
type Stream struct {
	grpc.ClientStream
	way  Way
	conn *conns.Conn
	// spoken says that the stream's end came in from its server.
	spoken atomic.Bool
}

type streamKey struct{}

// Open opens a callee's stream; more is said beside the call's own header: key, value, key, value.
// Nothing waits for what the caller says. An error means that there is no stream, so that nothing
// was sent. The stream is closed by Call.Run.
func Open(ctx context.Context, w Way, c *Call, more ...string) (*Stream, *invoke.Error) {
	conn, err := w.Pool.AcquireTo(w.Address, w.To)
	if err != nil {
		return nil, w.Refused(err.Error())
	}
	s := &Stream{way: w, conn: conn}
	out := metadata.AppendToOutgoingContext(metadata.NewOutgoingContext(ctx, c.Header), more...)
	if !w.Peer {
		out = context.WithValue(out, streamKey{}, s)
	}
	desc := sendMany
	if c.single() {
		desc = sendOne
	}
	if s.ClientStream, err = conn.NewStream(out, desc, c.Method, c.options...); err == nil {
		return s, nil
	}
	defer w.Pool.Release(conn)
	st := status.Convert(err)
	if e := c.done(ctx); e != nil {
		return nil, e
	}
	if st.Code() == codes.Internal {
		// gRPC itself refuses metadata that is none, or more than the other side takes.
		return nil, invoke.Invalid("%s: %s", w.Address, st.Message())
	}
	if w.Afresh {
		w.Pool.GiveUp(conn)
	}
	return nil, w.Refused(st.Message())
}

// Ending is how a callee ended a call.
type Ending struct {
	// Status and Trailer are the application's.
	Status  *status.Status
	Trailer metadata.MD
}

// Run makes one attempt at s: it sends what the caller says and hands on what s answers until s
// has ended. began is called as soon as s answers, with its header; it writes that to the caller,
// and its error means that the caller is gone. Where s ends without any, began is not called.
//
// The error says that the ending is not the application's.
func (c *Call) Run(ctx context.Context, s *Stream, began func(header metadata.MD) error) (Ending, *invoke.Error) {
	defer s.way.Pool.Release(s.conn)
	c.attach(s)
	// Why there is none is said by RecvMsg as well.
	header, _ := s.Header()
	if header != nil {
		c.begun()
		if err := began(header); err != nil {
			return Ending{}, c.gone(ctx)
		}
	}
	err := c.copy(s)
	c.detach()
	if err == nil || c.failed.Load() != nil {
		return Ending{}, c.gone(ctx)
	}
	if err == io.EOF {
		err = nil
	}
	trailer := s.Trailer()
	if s.fromApplication(ctx, err, header != nil, trailer) {
		return Ending{Status: status.Convert(err), Trailer: trailer}, nil
	}
	if len(trailer) == 0 {
		if e := invoke.FromContext(ctx); e != nil {
			return Ending{}, e
		}
	}
	return Ending{}, s.way.Failed(err, trailer)
}

// gone says that the caller takes nothing more, or says what cannot be handed on.
func (c *Call) gone(ctx context.Context) *invoke.Error {
	c.cancel() // the callee's stream ends with it
	return c.done(ctx)
}

// done says why the call's context is done, nil where it is not: what cannot be handed on ends it too.
func (c *Call) done(ctx context.Context) *invoke.Error {
	if e := c.failed.Load(); e != nil {
		return e
	}
	return invoke.FromContext(ctx)
}

// copy hands on the callee's messages, and gives the error that its stream ended with, io.EOF for
// success; nil where it was the caller who took no more.
func (c *Call) copy(s *Stream) error {
	var f frame
	for {
		if err := s.RecvMsg(&f); err != nil {
			return err
		}
		err := c.stream.SendMsg(&f)
		f.free()
		if err != nil {
			return nil
		}
	}
}

// fromApplication reports whether the status that a stream ended with is the application's: not that
// of an agent, and not one that gRPC makes up for a broken connection, which looks the same.
func (s *Stream) fromApplication(ctx context.Context, err error, answered bool, trailer metadata.MD) bool {
	if s.way.Peer {
		if len(trailer[invoke.NotDispatchedKey]) > 0 {
			return false
		}
		if by := trailer[invoke.StatusByKey]; len(by) > 0 {
			return by[0] == invoke.ByApplication
		}
	}
	switch {
	case err == nil:
		return true // gRPC makes up no success
	case len(trailer) > 0:
		return true
	case !s.way.Peer:
		return s.spoken.Load()
	}
	// A sidecar's, or nobody's: where it may be nobody's, it is taken for that.
	return answered && ctx.Err() == nil && status.Code(err) != codes.Unavailable
}

// Watch is what the connections of a pool are made with for their streams to know who ended them.
// It costs each of them a little.
func Watch() grpc.DialOption { return grpc.WithStatsHandler(watch{}) }

// watch sees the end of a stream come in.
type watch struct{}

var _ stats.Handler = watch{}

// TagRPC implements stats.Handler.
func (watch) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (watch) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.InTrailer); ok {
		if s, ok := ctx.Value(streamKey{}).(*Stream); ok {
			s.spoken.Store(true)
		}
	}
}

// TagConn implements stats.Handler.
func (watch) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (watch) HandleConn(context.Context, stats.ConnStats) {}
