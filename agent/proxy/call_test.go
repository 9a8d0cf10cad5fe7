package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/agent/conns"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/internal/testkit"
)

// speaker is a server's stream: what its caller says comes out of a channel.
type speaker struct {
	grpc.ServerStream
	ctx   context.Context
	words chan any // mem.BufferSlice, or the error that ends it
}

func (s *speaker) Context() context.Context { return s.ctx }
func (s *speaker) RecvMsg(m any) error {
	select {
	case w := <-s.words:
		if err, ok := w.(error); ok {
			return err
		}
		m.(*frame).data = w.(mem.BufferSlice)
		return nil
	case <-s.ctx.Done():
		return status.FromContextError(s.ctx.Err()).Err()
	}
}

// listener is a callee's stream: it keeps what it is told, and closes when it ends.
type listener struct {
	grpc.ClientStream
	mu    sync.Mutex
	heard []string
	ended chan struct{} // SendMsg fails once this is closed
	full  chan struct{} // SendMsg waits until this or ended is closed; nil for not at all
}

func newListener() *listener { return &listener{ended: make(chan struct{})} }

func (l *listener) SendMsg(m any) error {
	if l.full != nil {
		select {
		case <-l.full:
		case <-l.ended:
		}
	}
	select {
	case <-l.ended:
		return io.EOF
	default:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := m.(*frame).data.Materialize()
	l.heard = append(l.heard, string(b[:1]))
	return nil
}

func (l *listener) CloseSend() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = append(l.heard, ".")
	return nil
}

func (l *listener) said() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.heard, "")
}

// talk is a call with its caller, in a bubble of its own.
type talk struct {
	*Call
	t       *testing.T
	pool    *counted
	words   chan any
	readers sync.WaitGroup
	cancel  context.CancelFunc // ends the server's stream
	ctx     context.Context    // the call's
}

func inTalk(t *testing.T, f func(*talk)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &talk{t: t, pool: &counted{}, words: make(chan any, 100)}
		stream := &speaker{words: c.words}
		stream.ctx, c.cancel = context.WithCancel(t.Context())
		ctx, cancel := context.WithCancel(stream.ctx)
		c.Call, c.ctx = NewCall(stream, "/s/m", nil, cancel), ctx
		c.Read(&c.readers)
		f(c)
		c.End()
		c.cancel() // the handler has returned
		c.readers.Wait()
		for len(c.words) > 0 {
			if b, ok := (<-c.words).(mem.BufferSlice); ok {
				b.Free()
			}
		}
		if n := c.pool.out.Load(); n != 0 {
			t.Errorf("%d messages were never let go of", n)
		}
	})
}

// say makes the caller say one message for each letter, of size bytes, and waits until nothing
// happens any more.
func (c *talk) say(letters string, size int) {
	for _, l := range letters {
		if l == '.' {
			c.words <- io.EOF
			continue
		}
		c.words <- mem.BufferSlice{mem.Copy(bytes.Repeat([]byte{byte(l)}, size), c.pool)}
	}
	synctest.Wait()
}

func (c *talk) to(l *listener) { c.attach(&Stream{ClientStream: l}) }

func (c *talk) want(l *listener, heard string, replayable bool) {
	c.t.Helper()
	synctest.Wait()
	if got := l.said(); got != heard {
		c.t.Errorf("heard %q, want %q", got, heard)
	}
	if got := c.Replayable(); got != replayable {
		c.t.Errorf("replayable: %t", got)
	}
}

func TestCallIsSaidAgain(t *testing.T) {
	inTalk(t, func(c *talk) {
		c.say("ab", 2<<10)
		first, second, third := newListener(), newListener(), newListener()
		c.to(first)
		c.say("c", 2<<10)
		c.want(first, "abc", true)
		close(first.ended)
		c.say("d", 2<<10) // into the void
		c.detach()
		c.say("e", 2<<10) // nobody listens
		c.to(second)
		c.say("f.", 2<<10)
		c.want(second, "abcdef.", true)
		c.detach()
		c.to(third)
		c.want(third, "abcdef.", true)
		c.begun()
		c.want(third, "abcdef.", false)
		if n := c.pool.out.Load(); n != 0 {
			t.Errorf("%d messages are kept for nothing", n)
		}
	})
}

// Above the bound nothing is kept, and nothing more is read while nobody listens.
func TestCallKeepsLittle(t *testing.T) {
	inTalk(t, func(c *talk) {
		l := newListener()
		c.say("abcdefgh", 20<<10)
		if n := len(c.words); n != 4 {
			t.Errorf("%d messages wait at the caller, want 4: three are kept and one is in hand", n)
		}
		c.to(l)
		c.want(l, "abcdefgh", false)
		if n := c.pool.out.Load(); n != 0 {
			t.Errorf("%d messages are kept for nothing", n)
		}
		c.say("i.", 20<<10)
		c.want(l, "abcdefghi.", false)
	})
	t.Run("a single one that is larger", func(t *testing.T) {
		inTalk(t, func(c *talk) {
			l := newListener()
			c.say("a", maxReplay)
			c.to(l)
			c.want(l, "a", false)
		})
	})
}

// An answer that begins while the reader waits for the callee to listen does not wait for it.
func TestCallAnsweredWhileSending(t *testing.T) {
	inTalk(t, func(c *talk) {
		l := newListener()
		l.full = make(chan struct{})
		c.to(l)
		c.say("ab", 2<<10)
		c.begun()
		close(l.full)
		c.want(l, "ab", false)
		if n := c.pool.out.Load(); n != 0 {
			t.Errorf("%d messages are kept for nothing", n)
		}
	})
}

// A call that ends lets go of its reader wherever that is, and of what it holds.
func TestCallEnds(t *testing.T) {
	for what, begin := range map[string]func(*talk){
		"nothing said":           func(*talk) {},
		"with something kept":    func(c *talk) { c.say("ab", 2<<10) },
		"with no room":           func(c *talk) { c.say("abcdefgh", 20<<10) },
		"all said":               func(c *talk) { c.say("ab.", 2<<10) },
		"with somebody to speak": func(c *talk) { c.to(newListener()); c.say("abcdefgh", 20<<10) },
	} {
		t.Run(what, func(t *testing.T) { inTalk(t, begin) })
	}
}

// A message that cannot be read ends the call with the caller's fault; a caller that goes away does
// so by its context alone.
func TestCallBroken(t *testing.T) {
	for _, c := range []struct {
		err  error
		code codes.Code
	}{
		{status.Error(codes.ResourceExhausted, "larger than max"), codes.ResourceExhausted},
		{status.Error(codes.Internal, "bad gzip"), codes.InvalidArgument},
	} {
		t.Run(fmt.Sprint(c.code), func(t *testing.T) {
			inTalk(t, func(call *talk) {
				call.words <- c.err
				synctest.Wait()
				if e := call.gone(call.ctx); e == nil || e.Code != c.code {
					t.Errorf("got %v", e)
				}
				if call.ctx.Err() == nil {
					t.Error("the call goes on")
				}
			})
		})
	}
	inTalk(t, func(call *talk) {
		call.cancel()
		synctest.Wait()
		if e := call.gone(call.ctx); e.Code != codes.Canceled {
			t.Errorf("got %v", e)
		}
	})
}

// What a caller leaves unfinished does not reach a callee as if it were all: it has no end.
func TestCallBrokenBeforeItsCallee(t *testing.T) {
	for what, err := range map[string]error{
		"a message that cannot be read": status.Error(codes.ResourceExhausted, "larger than max"),
		"a caller that went away":       status.Error(codes.Canceled, "context canceled"),
	} {
		t.Run(what, func(t *testing.T) {
			inTalk(t, func(call *talk) {
				call.say("a", 2<<10)
				call.words <- err
				synctest.Wait()
				if call.single() {
					t.Error("one message passes for the whole call")
				}
				l := newListener()
				call.to(l)
				call.want(l, "a", true)
			})
		})
	}
}

// A message that cannot be read says so as well where its callee is not even connected.
func TestCallBrokenWhileOpening(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // it takes connections, and says nothing on them
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	pool := conns.New(conns.Config{Options: DialOptions()})
	defer pool.Close()
	server, end := context.WithCancel(testkit.Context(t))
	ctx, cancel := context.WithCancel(server)
	words := make(chan any, 1)
	call := NewCall(&speaker{ctx: server, words: words}, "/s/m", nil, cancel)
	var readers sync.WaitGroup
	call.Read(&readers)
	defer func() {
		call.End()
		end()
		readers.Wait()
	}()
	words <- status.Error(codes.ResourceExhausted, "larger than max")
	_, failed := Open(ctx, Way{
		Pool: pool, Address: l.Addr().String(),
		Refused: func(why string) *invoke.Error { return invoke.NotDispatched(invoke.ReasonNoConnection, "%s", why) },
	}, call)
	if failed == nil || failed.Reason != invoke.ReasonTooLarge {
		t.Errorf("got %v", failed)
	}
}
