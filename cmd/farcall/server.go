package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
)

const (
	// askTimeout bounds every question that has one answer. A list of the largest federation
	// takes seconds.
	askTimeout = 30 * time.Second
	// maxAnswer bounds one message: a page of 1000 instances with full metadata is 64 MiB.
	maxAnswer = 80 << 20
)

// admin is a connection to a synchronizer.
type admin struct {
	adminv1.AdminClient
	conn   *grpc.ClientConn
	server string
	ended  ended
}

// ended notes whether the synchronizer itself ended the last question that was begun: the state of
// a connection follows what happens on it, and may not have come to it when an answer is there.
type ended struct{ byItself atomic.Bool }

var _ stats.Handler = (*ended)(nil)

// HandleRPC implements stats.Handler.
func (e *ended) HandleRPC(_ context.Context, s stats.RPCStats) {
	switch s.(type) {
	case *stats.Begin:
		e.byItself.Store(false)
	case *stats.InTrailer:
		e.byItself.Store(true)
	}
}

// TagRPC implements stats.Handler.
func (e *ended) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// TagConn implements stats.Handler.
func (e *ended) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (e *ended) HandleConn(context.Context, stats.ConnStats) {}

// ask opens a connection for the time of f. An error of f that carries a gRPC status comes back
// in words, with an exit code; what says what was asked.
func (c *cli) ask(what string, f func(*admin) error) error {
	a := &admin{server: c.server}
	secure, err := c.credentials()
	if err != nil {
		return err
	}
	// No proxy: a synchronizer is dialled directly, whatever the shell's variables say.
	conn, err := grpc.NewClient(c.server,
		grpc.WithTransportCredentials(secure),
		grpc.WithNoProxy(),
		grpc.WithStatsHandler(&a.ended),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return usagef("--server %q: %w", c.server, err)
	}
	defer conn.Close()
	a.AdminClient, a.conn = adminv1.NewAdminClient(conn), conn
	if err := f(a); err != nil {
		return c.hinted(a.inWords(what, err))
	}
	return nil
}

// once is ask for a question with one answer, which must come within askTimeout.
func (c *cli) once(ctx context.Context, what string, f func(context.Context, *admin) error) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return c.ask(what, func(a *admin) error { return f(ctx, a) })
}

// many is ask for as many questions as a file makes; each has askTimeout for itself (question).
func (c *cli) many(ctx context.Context, what string, f func(context.Context, *admin) error) error {
	return c.ask(what, func(a *admin) error { return f(ctx, a) })
}

// question bounds one of many questions.
func question(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, askTimeout)
}

// inWords turns a gRPC status into an error for people, with an exit code. Other errors pass.
func (a *admin) inWords(what string, err error) error {
	var has interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &has) {
		return fmt.Errorf("%s: %w", what, err)
	}
	st := has.GRPCStatus()
	connected := a.ended.byItself.Load() || a.conn.GetState() == connectivity.Ready
	if !connected && (st.Code() == codes.Unavailable || st.Code() == codes.DeadlineExceeded) {
		return &exitError{
			code: exitUnreachable,
			err:  fmt.Errorf("%s: nobody answers at %s: %s", what, a.server, st.Message()),
			hint: fmt.Sprintf("is a synchronizer running at %s? --server says where to ask", a.server),
		}
	}
	words := codeWords(st.Code())
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() != "" {
			words += " (" + info.GetReason() + ")"
		}
	}
	return &exitError{code: exitCodeOf(st.Code()), err: fmt.Errorf("%s: %s: %s", what, words, st.Message())}
}

func exitCodeOf(c codes.Code) int {
	switch c {
	case codes.Canceled:
		return exitInterrupted
	case codes.DeadlineExceeded:
		return exitDeadline
	case codes.Unavailable:
		return exitUnavailable
	case codes.Aborted:
		return exitConflict
	case codes.NotFound, codes.AlreadyExists, codes.InvalidArgument, codes.OutOfRange,
		codes.FailedPrecondition, codes.PermissionDenied, codes.Unauthenticated:
		return exitRefused
	}
	return exitFailed
}

// codeWords gives "deadline exceeded" for DeadlineExceeded.
func codeWords(c codes.Code) string {
	var b strings.Builder
	for i, r := range c.String() {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
