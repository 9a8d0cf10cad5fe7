package face

import (
	"context"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/farcall/farcall/agent/app"
)

// wordMsg is a message of the test application.
type wordMsg = wrapperspb.BytesValue

func said(s string) *wordMsg { return wrapperspb.Bytes([]byte(s)) }

// talker is a gRPC application: what it does with a call is the test's to say.
type talker struct {
	unary  func(ctx context.Context, in *wordMsg) (*wordMsg, error)
	stream func(s grpc.ServerStream) error

	mu     sync.Mutex
	calls  int
	seen   []metadata.MD
	ended  chan error // gets why each stream's context ended, where not nil
	server *grpc.Server
}

func (t *talker) begin(ctx context.Context) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.calls++
	md, _ := metadata.FromIncomingContext(ctx)
	t.seen = append(t.seen, md)
}

// count gives how many calls there were.
func (t *talker) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.calls
}

// last gives the metadata of the last call.
func (t *talker) last() metadata.MD {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.seen) == 0 {
		return nil
	}
	return t.seen[len(t.seen)-1]
}

// The methods of the test application, in full.
const (
	sayOne  = "/test.Talk/One"
	sayMany = "/test.Talk/Many"
)

var talkDesc = grpc.ServiceDesc{
	ServiceName: "test.Talk",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "One",
		Handler: func(srv any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			t, in := srv.(*talker), new(wordMsg)
			if err := dec(in); err != nil {
				return nil, err
			}
			t.begin(ctx)
			if t.unary == nil {
				return in, nil
			}
			return t.unary(ctx, in)
		},
	}},
	Streams: []grpc.StreamDesc{{
		StreamName: "Many", ClientStreams: true, ServerStreams: true,
		Handler: func(srv any, s grpc.ServerStream) error {
			t := srv.(*talker)
			t.begin(s.Context())
			do := t.stream
			if do == nil {
				do = echoStream
			}
			err := do(s)
			if t.ended != nil {
				<-s.Context().Done()
				err = s.Context().Err()
				t.ended <- err
			}
			return err
		},
	}},
}

// echoStream answers each message with itself, and their number in a trailer.
func echoStream(s grpc.ServerStream) error {
	for n := 0; ; n++ {
		m := new(wordMsg)
		switch err := s.RecvMsg(m); err {
		case nil:
		case io.EOF:
			s.SetTrailer(metadata.Pairs("x-messages", strconv.Itoa(n)))
			return nil
		default:
			return err
		}
		if err := s.SendMsg(m); err != nil {
			return err
		}
	}
}

// talk starts a gRPC application.
func talk(t testing.TB, a *talker, options ...grpc.ServerOption) app.Endpoint {
	t.Helper()
	return talkAt(t, listen(t), a, options...)
}

func talkAt(t testing.TB, l net.Listener, a *talker, options ...grpc.ServerOption) app.Endpoint {
	t.Helper()
	a.server = grpc.NewServer(options...)
	a.server.RegisterService(&talkDesc, a)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = a.server.Serve(l)
	}()
	t.Cleanup(func() {
		a.server.Stop()
		<-done
	})
	return endpoint(t, l.Addr(), app.GRPC)
}

// dial connects to a gRPC server.
func dial(t testing.TB, addr string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+addr, append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

func wantCode(t testing.TB, err error, code codes.Code) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("got %v, want %s", err, code)
	}
}
