package proxy

import (
	"context"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/agent/invoke"
)

// maxReplay is how much of a call, in bytes, is kept until its callee answers, so that the call can
// be made elsewhere. It is below what gRPC takes for one stream without waiting (64 KiB), so that
// sending it again never waits for the callee.
const maxReplay = 64 << 10

// overhead is what a message takes besides its bytes, in that count.
const overhead = 5

// Call is the caller's side of one proxied call: what it says is kept and sent to one callee after
// another, and what a callee answers is handed to it. Run is called by one goroutine, the server's
// handler.
type Call struct {
	// Method is "/service/method".
	Method string
	// Service is the callee's app-id, for messages to people.
	Service string
	// Header is what travels to every callee. It is not changed once there was a Run.
	Header metadata.MD

	stream  grpc.ServerStream
	cancel  context.CancelFunc
	options []grpc.CallOption
	// answered says that a callee began to answer: from then on nothing is sent again.
	answered atomic.Bool
	failed   atomic.Pointer[invoke.Error]

	mu sync.Mutex // guards what follows; the reader holds it while it sends
	// changed wakes the reader, which has a message for which there is neither room nor a callee.
	changed sync.Cond
	to      grpc.ClientStream // nil while there is none
	kept    []mem.BufferSlice // all that the caller said, while whole
	size    int
	whole   bool
	ended   bool // the caller has said all
	over    bool
}

// NewCall makes the caller's side of what a server's unknown-service handler got. contentType is that
// of the call, which its callee gets as well; cancel ends the context that the call is made with.
// Whoever makes a Call sets the rest of it, and ends it with End.
func NewCall(stream grpc.ServerStream, method string, contentType []string, cancel context.CancelFunc) *Call {
	c := &Call{Method: method, stream: stream, cancel: cancel, options: callOptions(contentType), whole: true}
	c.changed.L = &c.mu
	return c
}

// Read begins to read what the caller says, in a goroutine that is counted in readers and ends with
// the server's stream, soon after its handler.
//
// It lets that goroutine go first: what the caller said is mostly there already, and a call that is one message
// then goes to its callee in one write, with its end.
func (c *Call) Read(readers *sync.WaitGroup) {
	readers.Go(c.read)
	runtime.Gosched()
}

func (c *Call) read() {
	var f frame
	for {
		err := c.stream.RecvMsg(&f)
		c.mu.Lock()
		if err == nil {
			err = c.take(&f)
		} else {
			c.finish(err)
		}
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// take keeps a message or sends it, or both; it waits where it can do neither. It takes f's bytes.
// It gives io.EOF where nobody wants them any more.
func (c *Call) take(f *frame) error {
	n := f.data.Len() + overhead
	keep := c.whole && c.size+n <= maxReplay && !c.answered.Load()
	for c.to == nil && !keep && !c.over {
		c.changed.Wait()
	}
	if c.over {
		f.free()
		return io.EOF
	}
	if keep {
		c.kept, c.size = append(c.kept, f.data), c.size+n
	} else {
		c.forget()
	}
	if c.to != nil {
		// A callee that ended says why where its answer is read.
		_ = c.to.SendMsg(f)
	}
	if !keep {
		f.free()
	} else if c.answered.Load() {
		c.forget()
	}
	f.data = nil
	return nil
}

// finish takes the caller's end. One that broke off has not said all, which no callee may take it for.
func (c *Call) finish(err error) {
	if err == io.EOF {
		c.ended = true
		if c.to != nil {
			_ = c.to.CloseSend() // never fails
		}
		return
	}
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable:
		return // the caller is gone, which the context says
	}
	// What the caller said cannot be handed on, so that half of it would pass for the whole.
	c.failed.Store(badMessage(err))
	c.cancel()
}

func badMessage(err error) *invoke.Error {
	st := status.Convert(err)
	if st.Code() == codes.ResourceExhausted {
		return invoke.Errorf(st.Code(), invoke.ReasonTooLarge, "a message of the call: %s", st.Message())
	}
	return invoke.Invalid("a message of the call: %s", st.Message())
}

// forget lets go of what was kept.
func (c *Call) forget() {
	for _, m := range c.kept {
		m.Free()
	}
	c.kept, c.whole = nil, false
}

// Replayable reports whether all that the caller said can be said to another callee.
func (c *Call) Replayable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.whole && !c.answered.Load()
}

// single reports whether all that there is to say is one message that is there.
func (c *Call) single() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended && len(c.kept) == 1
}

// attach sends to s what was kept, and whatever comes from now on.
func (c *Call) attach(s *Stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.kept {
		if s.SendMsg(&frame{m}) != nil {
			break // s has ended
		}
	}
	if c.ended {
		_ = s.CloseSend() // never fails
	}
	c.to = s
	c.changed.Signal()
}

// detach sends nothing more to the callee, which has ended.
func (c *Call) detach() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.to = nil
}

// begun says that the callee answers.
func (c *Call) begun() {
	c.answered.Store(true)
	// The reader may hold the lock for as long as the callee reads nothing; it forgets then.
	if c.mu.TryLock() {
		c.forget()
		c.mu.Unlock()
	}
}

// End ends the call, and the context that it was made with.
func (c *Call) End() {
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over, c.to = true, nil
	c.forget()
	c.changed.Signal()
}
