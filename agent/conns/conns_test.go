package conns

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/farcall/farcall/internal/testkit"
)

// server answers UNIMPLEMENTED to everything, which shows that it is there.
func server(t *testing.T, l net.Listener) {
	s := grpc.NewServer()
	testkit.Go(t, "server", func(context.Context) error { return s.Serve(l) })
	t.Cleanup(s.Stop)
}

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func pool(t *testing.T, c Config) *Pool {
	p := New(c)
	t.Cleanup(p.Close)
	return p
}

func ping(ctx context.Context, p *Pool, addr string) codes.Code {
	c, err := p.Acquire(addr)
	if err != nil {
		return codes.Unknown
	}
	defer p.Release(c)
	return status.Code(c.Invoke(ctx, "/a/b", &emptypb.Empty{}, &emptypb.Empty{}))
}

func TestGiveUpDialsAfresh(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	server(t, l)
	p := pool(t, Config{})
	first, err := p.Acquire(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p.GiveUp(first)
	p.GiveUp(first)
	next, err := p.Acquire(l.Addr().String())
	if err != nil || next == first || p.Size() != 1 {
		t.Errorf("the connection that was given up is used again: %v", err)
	}
	if got := status.Code(first.Invoke(testkit.Context(t), "/a/b", &emptypb.Empty{}, &emptypb.Empty{})); got != codes.Unimplemented {
		t.Errorf("a call under way on it ended with %v", got)
	}
	p.Release(first)
	p.Release(next)
}

func TestOneConnectionPerAddress(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	server(t, l)
	p := pool(t, Config{})
	a, err := p.Acquire(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.Acquire(l.Addr().String())
	if err != nil || a != b || p.Size() != 1 {
		t.Errorf("got %v and %v, %d in all, %v", a, b, p.Size(), err)
	}
	p.Release(a)
	p.Release(b)
	if c := ping(testkit.Context(t), p, l.Addr().String()); c != codes.Unimplemented {
		t.Errorf("got %s", c)
	}
}

// TestAfterAFailure says what the next call meets once an address refused a connection.
func TestAfterAFailure(t *testing.T) {
	for _, then := range []string{"nothing", "given up", "reconnected"} {
		t.Run(then, func(t *testing.T) {
			ctx := testkit.Context(t)
			addr := fmt.Sprint("127.0.0.1:", testkit.FreePort(t))
			p := pool(t, Config{Options: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
				Backoff: backoff.Config{BaseDelay: time.Hour, Multiplier: 1, MaxDelay: time.Hour}, MinConnectTimeout: time.Second,
			})}})
			if c := ping(ctx, p, addr); c != codes.Unavailable {
				t.Fatalf("got %s of nobody", c)
			}
			server(t, listen(t, addr))
			want := codes.Unavailable // the pause of an hour has only begun
			switch then {
			case "reconnected":
				p.Reconnect(addr)
				want = codes.Unimplemented
			case "given up":
				c, err := p.Acquire(addr)
				if err != nil {
					t.Fatal(err)
				}
				p.GiveUp(c)
				p.Release(c)
				want = codes.Unimplemented
			}
			if c := ping(ctx, p, addr); c != want {
				t.Errorf("got %s, want %s", c, want)
			}
		})
	}
}

// TestRetiredLivesOn says that a connection that is replaced is closed with its last call.
func TestRetiredLivesOn(t *testing.T) {
	addr := testkit.Nobody(t).String()
	p := pool(t, Config{})
	old, err := p.Acquire(addr)
	if err != nil {
		t.Fatal(err)
	}
	p.GiveUp(old)
	next, err := p.Acquire(addr)
	if err != nil || next == old {
		t.Fatalf("got the same one, %v", err)
	}
	if s := old.GetState(); s == connectivity.Shutdown {
		t.Error("closed under a call")
	}
	p.Release(old)
	if s := old.GetState(); s != connectivity.Shutdown {
		t.Errorf("not closed, but %s", s)
	}
	p.Release(next)
}

// TestQuietOnesGo says that addresses that nobody calls any more are forgotten.
func TestQuietOnesGo(t *testing.T) {
	ctx := testkit.Context(t)
	p := pool(t, Config{Options: []grpc.DialOption{grpc.WithIdleTimeout(10 * time.Millisecond)}})
	first := listen(t, "127.0.0.1:0")
	server(t, first)
	if c := ping(ctx, p, first.Addr().String()); c != codes.Unimplemented {
		t.Fatal(c)
	}
	testkit.Eventually(t, ctx, "only new addresses are there", func() error {
		l := listen(t, "127.0.0.1:0")
		defer l.Close()
		c, err := p.Acquire(l.Addr().String())
		if err != nil {
			return err
		}
		p.Release(c)
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.conns[place{addr: first.Addr().String()}] != nil {
			return fmt.Errorf("%d connections", len(p.conns))
		}
		return nil
	})
}
