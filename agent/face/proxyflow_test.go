package face

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/internal/testkit"
)

// The application speaks first, and the caller says nothing until it has heard the header and then
// the first message.
func TestProxyServerFirst(t *testing.T) {
	a := func() *talker {
		return &talker{stream: func(s grpc.ServerStream) error {
			if err := s.SendHeader(metadata.Pairs("x-ready", "1")); err != nil {
				return err
			}
			if err := s.RecvMsg(new(wordMsg)); err != nil {
				return err
			}
			return s.SendMsg(said("heard"))
		}}
	}
	everyWay(t, a, func(t *testing.T, w *way, a *talker) {
		s := w.many(t, w.ctx(t))
		h, err := s.Header()
		if err != nil || len(h["x-ready"]) != 1 {
			t.Fatalf("header %v %v", h, err)
		}
		send(t, s, "go on")
		hear(t, s, "heard")
		wantCode(t, end(t, s), codes.OK)
	})
	a = func() *talker {
		return &talker{stream: func(s grpc.ServerStream) error {
			if err := s.SendMsg(said("hello")); err != nil {
				return err
			}
			return echoStream(s)
		}}
	}
	everyWay(t, a, func(t *testing.T, w *way, a *talker) {
		s := w.many(t, w.ctx(t))
		hear(t, s, "hello")
		send(t, s, "a")
		hear(t, s, "a")
		_ = s.CloseSend()
		wantCode(t, end(t, s), codes.OK)
	})
}

// The application ends the call while its caller still speaks, or has not said a word.
func TestProxyEndsEarly(t *testing.T) {
	a := func() *talker {
		return &talker{stream: func(s grpc.ServerStream) error {
			md, _ := metadata.FromIncomingContext(s.Context())
			if len(md["x-listen"]) > 0 {
				_ = s.RecvMsg(new(wordMsg))
				_ = s.SendMsg(said("enough"))
			}
			return status.Error(codes.OutOfRange, "enough")
		}}
	}
	everyWay(t, a, func(t *testing.T, w *way, a *talker) {
		s := w.many(t, w.ctx(t, "x-listen", "1"))
		send(t, s, "a")
		hear(t, s, "enough")
		wantCode(t, end(t, s), codes.OutOfRange)
		// Whatever more it says, it learns of the end.
		testkit.Eventually(t, testkit.Context(t), "sending fails", func() error {
			if err := s.SendMsg(said("b")); err != io.EOF {
				return fmt.Errorf("got %v", err)
			}
			return nil
		})
		wantCode(t, end(t, w.many(t, w.ctx(t))), codes.OutOfRange)
	})
}

// TestProxyVolume sends large messages, and many.
func TestProxyVolume(t *testing.T) {
	everyWay(t, plain, func(t *testing.T, w *way, a *talker) {
		large := w.many(t, w.ctx(t), grpc.MaxCallRecvMsgSize(4<<20))
		mib := strings.Repeat("0123456789abcdef", 1<<16)
		for i := range 4 {
			word := fmt.Sprint(i) + mib
			send(t, large, word)
			hear(t, large, word)
		}
		_ = large.CloseSend()
		wantCode(t, end(t, large), codes.OK)

		const n = 10_000
		small := w.many(t, w.ctx(t))
		sent := make(chan error, 1)
		go func() {
			for i := range n {
				if err := small.SendMsg(said(fmt.Sprint(i))); err != nil {
					sent <- err
					return
				}
			}
			sent <- small.CloseSend()
		}()
		for i := range n {
			hear(t, small, fmt.Sprint(i))
		}
		wantCode(t, end(t, small), codes.OK)
		if err := <-sent; err != nil {
			t.Error(err)
		}
	})
}

// TestProxySize says how large a message may be, in either direction.
func TestProxySize(t *testing.T) {
	a := &talker{unary: func(_ context.Context, in *wordMsg) (*wordMsg, error) {
		if n := len(in.GetValue()); n > 0 {
			return said(fmt.Sprint(n)), nil
		}
		return said(strings.Repeat("x", 17<<20)), nil
	}}
	// The application takes more than the agents do.
	w := newWay(t, "relayed", a, grpc.MaxRecvMsgSize(64<<20))
	out := new(wordMsg)
	if err := w.cc.Invoke(w.ctx(t), sayOne, said(strings.Repeat("x", 15<<20)), out); err != nil || string(out.GetValue()) != fmt.Sprint(15<<20) {
		t.Errorf("15 MiB: %q %v", out.GetValue(), err)
	}
	wantStatus(t, w.cc.Invoke(w.ctx(t), sayOne, said(strings.Repeat("x", 17<<20)), out), codes.ResourceExhausted, "larger than max")
	if a.count() != 1 {
		t.Errorf("executed %d times", a.count())
	}
	err := w.cc.Invoke(w.ctx(t), sayOne, said(""), out, grpc.MaxCallRecvMsgSize(64<<20))
	wantStatus(t, err, codes.ResourceExhausted, "larger than max")
	// The bound of what the agents read themselves is as it was.
	wantStatus(t, w.cc.Invoke(w.ctx(t), "/dapr.proto.runtime.v1.Dapr/InvokeService", said(strings.Repeat("x", 5<<20)), out), codes.ResourceExhausted, "larger than max")
}

// A slow reader holds back who speaks to it, in either direction: at no time is more under way than
// the windows between the two hold.
func TestProxyHoldsLittle(t *testing.T) {
	const (
		messages = 64 // of 1 MiB
		underWay = 12 // in the windows of three connections, and in each agent's hands
	)
	mib := said(strings.Repeat("x", 1<<20))
	small := []grpc.DialOption{grpc.WithStaticStreamWindowSize(64 << 10), grpc.WithStaticConnWindowSize(64 << 10)}
	t.Run("caller", func(t *testing.T) {
		var sent atomic.Int64
		a := &talker{stream: func(s grpc.ServerStream) error {
			for range messages {
				if err := s.SendMsg(mib); err != nil {
					return err
				}
				sent.Add(1)
			}
			return nil
		}}
		w := newWay(t, "relayed", a)
		w.cc = dial(t, strings.TrimPrefix(w.cc.Target(), "dns:///"), small...)
		s := w.many(t, w.ctx(t))
		for read := range messages {
			if ahead := sent.Load() - int64(read); ahead > underWay {
				t.Fatalf("after %d messages the application is %d ahead", read, ahead)
			}
			if err := s.RecvMsg(new(wordMsg)); err != nil {
				t.Fatal(err)
			}
		}
		wantCode(t, end(t, s), codes.OK)
	})
	t.Run("application", func(t *testing.T) {
		var heard atomic.Int64
		a := &talker{stream: func(s grpc.ServerStream) error {
			for s.RecvMsg(new(wordMsg)) == nil {
				heard.Add(1)
			}
			return nil
		}}
		w := newWay(t, "relayed", a, grpc.StaticStreamWindowSize(64<<10), grpc.StaticConnWindowSize(64<<10))
		s := w.many(t, w.ctx(t))
		for sent := range messages {
			if ahead := int64(sent) - heard.Load(); ahead > underWay {
				t.Fatalf("after %d messages the caller is %d ahead", sent, ahead)
			}
			if err := s.SendMsg(mib); err != nil {
				t.Fatal(err)
			}
		}
		_ = s.CloseSend()
		wantCode(t, end(t, s), codes.OK)
	})
}

// waits is an application that answers when its caller has gone, and says why.
func waits() *talker {
	a := &talker{ended: make(chan error, 1), stream: func(s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		if len(md["x-begin"]) > 0 {
			return s.SendMsg(said("begun"))
		}
		return nil
	}}
	return a
}

// A deadline, gRPC's or ours, reaches the application and ends the call, before its answer began
// and in the middle of it.
func TestProxyDeadline(t *testing.T) {
	for _, c := range []struct {
		what  string
		md    []string
		limit time.Duration
	}{
		{what: "grpc-timeout", limit: time.Second},
		{what: "farcall-timeout", md: []string{"farcall-timeout", "1s"}},
		{what: "in the middle", md: []string{"farcall-timeout", "1s", "x-begin", "1"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			everyWay(t, waits, func(t *testing.T, w *way, a *talker) {
				if w.plan == nil && c.limit == 0 {
					t.Logf("a peer gets the deadline from gRPC")
					return
				}
				ctx := w.ctx(t, c.md...)
				if c.limit > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.limit)
					defer cancel()
				}
				s := w.many(t, ctx)
				send(t, s, "x")
				if len(c.md) > 2 {
					hear(t, s, "begun")
				}
				wantCode(t, end(t, s), codes.DeadlineExceeded)
				if err := <-a.ended; err == nil {
					t.Error("the application was not told")
				}
				switch {
				case w.plan == nil:
				case c.limit > 0:
					// A caller whose own deadline passed says at once that it is gone.
					w.heard(t, "cart-1 late", "cart-1 abandoned")
				default:
					w.heard(t, "cart-1 late")
				}
			})
		})
	}
}

// heard waits until the router was told of a call's outcome.
func (w *way) heard(t *testing.T, want ...string) {
	t.Helper()
	got := ""
	testkit.Eventually(t, testkit.Context(t), "the router hears of it", func() error {
		if got += w.plan.said(); got == "" {
			return errors.New("nothing yet")
		}
		return nil
	})
	if !slices.Contains(want, got) {
		t.Errorf("the router was told %q, want %q", got, want)
	}
}

// A caller that goes away takes its call along, before the answer began and in the middle of it.
func TestProxyCancel(t *testing.T) {
	for _, begin := range []bool{false, true} {
		everyWay(t, waits, func(t *testing.T, w *way, a *talker) {
			ctx, cancel := context.WithCancel(w.ctx(t))
			defer cancel()
			if begin {
				ctx = metadata.AppendToOutgoingContext(ctx, "x-begin", "1")
			}
			s := w.many(t, ctx)
			send(t, s, "x")
			if begin {
				hear(t, s, "begun")
			}
			testkit.Eventually(t, testkit.Context(t), "the call arrives", func() error {
				if a.count() == 0 {
					return errors.New("not yet")
				}
				return nil
			})
			cancel()
			if err := <-a.ended; !errors.Is(err, context.Canceled) {
				t.Errorf("the application was told %v", err)
			}
			if w.plan != nil {
				w.heard(t, "cart-1 abandoned")
			}
		})
	}
}

// A face that ends gives the calls under way their time, and then cuts them off.
func TestProxyGrace(t *testing.T) {
	a := waits()
	p := newPeerAgentGrace(t, 100*time.Millisecond, "west", "cart-1", talk(t, a))
	w := &way{cc: dial(t, p.addr)}
	s := w.many(t, w.ctx(t, "x-begin", "1"))
	hear(t, s, "begun")
	p.stop()
	if err := end(t, s); err == nil {
		t.Error("the call ended well")
	}
	<-a.ended
}

// TestProxyTraced says what the application gets of the trace of a sampled call.
func TestProxyTraced(t *testing.T) {
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	binary := "\x00\x00" + "\x4b\xf9\x2f\x35\x77\xb3\x4d\xa6\xa3\xce\x92\x9d\x0e\x0e\x47\x36" + "\x01" + "\x00\xf0\x67\xaa\x0b\xa9\x02\xb7" + "\x02\x01"
	for _, c := range []struct {
		what string
		md   []string
	}{
		{"traceparent", []string{"traceparent", "00-" + trace + "-00f067aa0ba902b7-01"}},
		{"grpc-trace-bin", []string{"grpc-trace-bin", binary}},
	} {
		t.Run(c.what, func(t *testing.T) {
			recorder := tracetest.NewSpanRecorder()
			provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())), sdktrace.WithSpanProcessor(recorder))
			a := plain()
			p := newPeerAgent(t, "west", "cart-1", talk(t, a))
			pl := &plan{targets: []relay.Target{nobody(t, "cart-0"), p.target()}}
			w := &way{cc: newTracedAgent(t, pl, provider.Tracer("test")).conn}
			if err := w.cc.Invoke(w.ctx(t, c.md...), sayOne, said("x"), new(wordMsg)); err != nil {
				t.Fatal(err)
			}
			var spans []sdktrace.ReadOnlySpan
			testkit.Eventually(t, testkit.Context(t), "the spans end", func() error {
				if spans = recorder.Ended(); len(spans) != 3 {
					return fmt.Errorf("%d spans", len(spans))
				}
				return nil
			})
			want := fmt.Sprintf("00-%s-%s-01", trace, spans[1].SpanContext().SpanID())
			wantMD(t, a.last(), "traceparent", want, "grpc-trace-bin", "")
			if s := spans[2]; s.Name() != "call" || s.Parent().SpanID().String() != "00f067aa0ba902b7" {
				t.Errorf("%s below %s", s.Name(), s.Parent().SpanID())
			}
		})
	}
}
