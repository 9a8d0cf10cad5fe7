//go:build real && linux

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	runtimev1 "github.com/farcall/farcall/api/dapr/proto/runtime/v1"
)

const (
	piece   = 64 << 10
	bigBody = 10 << 20
)

var big = func() []byte {
	b := make([]byte, bigBody)
	fill := rand.NewChaCha8([32]byte{2})
	_, _ = fill.Read(b) // never fails
	return b
}()

// local is a port of loopback.
func local(port int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
}

// daprApp is an application that Dapr users could have: it knows neither Dapr nor Farcall.
type daprApp struct {
	port   int
	server *http.Server
	done   chan struct{}
	hits   atomic.Int64
	ended  chan struct{} // one for each call of /wait whose caller went away
	// more is what /pieces and /events wait for between their two.
	more chan struct{}
}

func newDaprApp(t *testing.T) *daprApp {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &daprApp{port: l.Addr().(*net.TCPAddr).Port, done: make(chan struct{}), ended: make(chan struct{}, 16), more: make(chan struct{})}
	a.server = &http.Server{Handler: http.HandlerFunc(a.serve)}
	go func() {
		defer close(a.done)
		_ = a.server.Serve(l) // ends with stop
	}()
	t.Cleanup(a.stop)
	return a
}

func (a *daprApp) stop() { a.server.Close(); <-a.done }

func (a *daprApp) serve(w http.ResponseWriter, r *http.Request) {
	a.hits.Add(1)
	switch first, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); first {
	case "echo":
		a.echo(w, r)
	case "sum":
		h := sha256.New()
		if n, err := io.Copy(h, r.Body); err == nil {
			fmt.Fprintf(w, "%d %d %x", n, r.ContentLength, h.Sum(nil))
		}
	case "big":
		_, _ = w.Write(big) // a caller that is gone ends the test by itself
	case "pieces", "events":
		parts := [][]byte{big[:piece], big[piece : 2*piece]}
		if first == "events" {
			w.Header().Set("Content-Type", "text/event-stream")
			parts = [][]byte{[]byte("data: 1\n\n"), []byte("data: 2\n\n")}
		}
		for i, p := range parts {
			_, _ = w.Write(p)
			_ = http.NewResponseController(w).Flush()
			if i == 0 {
				select {
				case <-a.more:
				case <-r.Context().Done():
				}
			}
		}
	case "status":
		code, _ := strconv.Atoi(rest)
		w.WriteHeader(code)
		fmt.Fprintf(w, "status %d", code)
	case "wait":
		_, _ = io.Copy(io.Discard, r.Body) // else net/http would not notice that the caller is gone
		<-r.Context().Done()
		a.ended <- struct{}{}
		panic(http.ErrAbortHandler) // whoever may still listen gets no answer
	}
}

// echo says what of the call arrived.
func (a *daprApp) echo(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return // the caller is gone
	}
	h := w.Header()
	h.Set("Content-Type", "text/x-echo")
	h["X-App"] = r.Header["X-Custom"]
	h.Set("X-Caller", r.Header.Get("Dapr-Caller-App-Id"))
	h.Set("X-Got-Type", r.Header.Get("Content-Type"))
	h.Set("X-Got-Length", fmt.Sprint(r.ContentLength))
	h.Set("X-Got-Trace", r.Header.Get("Traceparent"))
	for k, v := range r.Header {
		if strings.HasPrefix(k, "Farcall-") || k == "Destination-App-Id" {
			h.Add("X-Leaked", k+": "+v[0])
		}
	}
	fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RequestURI(), b)
}

// grpcApp is an application that speaks gRPC only: a service of its own, written by hand so that no
// code needs to be generated, and what an SDK for Dapr would serve for it.
type grpcApp struct {
	runtimev1.UnimplementedAppCallbackServer
	port  int
	hits  atomic.Int64
	ended chan struct{} // one for each call that was told to wait and whose caller went away
	// more is what Down waits for after its first message.
	more chan struct{}
}

// sample is the service's name.
const sample = "/e2e.Sample/"

func newGRPCApp(t *testing.T) *grpcApp {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &grpcApp{port: l.Addr().(*net.TCPAddr).Port, ended: make(chan struct{}, 16), more: make(chan struct{})}
	s := grpc.NewServer()
	runtimev1.RegisterAppCallbackServer(s, a)
	stream := func(name string, f func(*grpcApp, grpc.ServerStream) error) grpc.StreamDesc {
		return grpc.StreamDesc{StreamName: name, ClientStreams: true, ServerStreams: true, Handler: func(_ any, ss grpc.ServerStream) error {
			if err := a.begin(ss.Context()); err != nil {
				return err
			}
			return f(a, ss)
		}}
	}
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "e2e.Sample", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.BytesValue)
			if err := decode(in); err != nil {
				return nil, err
			}
			return in, a.begin(ctx)
		}}},
		Streams: []grpc.StreamDesc{stream("Up", (*grpcApp).up), stream("Down", (*grpcApp).down), stream("Both", (*grpcApp).both)},
	}, a)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return a
}

// begin says in the answer's metadata what of the call arrived, and then does what the metadata
// x-do asks for: fail, refuse, or wait until the caller is gone.
func (a *grpcApp) begin(ctx context.Context) error {
	a.hits.Add(1)
	in, _ := metadata.FromIncomingContext(ctx)
	left := "none"
	if d, ok := ctx.Deadline(); ok {
		left = time.Until(d).String()
	}
	header := metadata.Pairs("x-left", left)
	for _, k := range []string{"x-ask", "x-ask-bin", "traceparent", "dapr-caller-app-id"} {
		header["x-got-"+k] = in[k]
	}
	for k := range in {
		if strings.HasPrefix(k, "farcall-") {
			header.Append("x-leaked", k)
		}
	}
	if err := grpc.SetHeader(ctx, header); err != nil {
		return err
	}
	if err := grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "the end", "x-trailer-bin", "\x00\xff")); err != nil {
		return err
	}
	switch strings.Join(in["x-do"], "") {
	case "fail":
		s, err := status.New(codes.FailedPrecondition, "sold out: 0 of 3").WithDetails(&errdetails.ErrorInfo{Reason: "SOLD_OUT", Domain: "e2e"})
		if err != nil {
			return err
		}
		return s.Err()
	case "refuse":
		return status.Error(codes.Unavailable, "closed today")
	case "wait":
		<-ctx.Done()
		a.ended <- struct{}{}
		return ctx.Err()
	}
	return nil
}

// up answers with the sum of all messages.
func (a *grpcApp) up(s grpc.ServerStream) error {
	n, h := 0, sha256.New()
	for in := new(wrapperspb.BytesValue); ; n++ {
		if err := s.RecvMsg(in); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		h.Write(in.Value)
	}
	return s.SendMsg(wrapperspb.Bytes(fmt.Appendf(nil, "%d %x", n, h.Sum(nil))))
}

// down answers one message with as many as big has pieces; the second waits for more.
func (a *grpcApp) down(s grpc.ServerStream) error {
	if err := s.RecvMsg(new(wrapperspb.BytesValue)); err != nil {
		return err
	}
	for i := 0; i < len(big); i += piece {
		if err := s.SendMsg(wrapperspb.Bytes(big[i : i+piece])); err != nil {
			return err
		}
		if i == 0 {
			select {
			case <-a.more:
			case <-s.Context().Done():
				return s.Context().Err()
			}
		}
	}
	return nil
}

// both answers each message at once, and the end of them with one more.
func (a *grpcApp) both(s grpc.ServerStream) error {
	for {
		in := new(wrapperspb.BytesValue)
		if err := s.RecvMsg(in); err == io.EOF {
			return s.SendMsg(wrapperspb.Bytes([]byte("bye")))
		} else if err != nil {
			return err
		}
		if bytes.Equal(in.Value, []byte("fail")) {
			return status.Error(codes.DataLoss, "in the middle")
		}
		if err := s.SendMsg(wrapperspb.Bytes(append([]byte("re "), in.Value...))); err != nil {
			return err
		}
	}
}

// OnInvoke is what InvokeService and HTTP callers reach.
func (a *grpcApp) OnInvoke(ctx context.Context, in *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
	a.hits.Add(1)
	switch in.GetMethod() {
	case "missing":
		return nil, status.Error(codes.NotFound, "no such thing")
	case "wait":
		<-ctx.Done()
		a.ended <- struct{}{}
		return nil, ctx.Err()
	}
	said := fmt.Sprintf("%s %s?%s %s %s", in.GetHttpExtension().GetVerb(), in.GetMethod(), in.GetHttpExtension().GetQuerystring(), in.GetContentType(), in.GetData().GetValue())
	return &commonv1.InvokeResponse{Data: &anypb.Any{Value: []byte(said)}, ContentType: "text/x-invoked"}, nil
}
