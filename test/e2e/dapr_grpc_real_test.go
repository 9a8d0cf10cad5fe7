//go:build real && linux

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
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

// grpcParts is what holds on every way for gRPC callers.
var grpcParts = []part{
	{"unary", (*way).grpcUnary}, {"client stream", (*way).grpcUp}, {"server stream", (*way).grpcDown},
	{"both streams", (*way).grpcBoth}, {"statuses", (*way).grpcStatuses}, {"errors", (*way).grpcErrors},
	{"deadline", (*way).grpcDeadline}, {"cancel", (*way).grpcCancel},
	{"InvokeService", (*way).invokeService}, {"OnInvoke", (*way).onInvoke},
}

// to is a context whose calls go to an application; kv is further metadata.
func to(ctx context.Context, app string, kv ...string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, append([]string{"dapr-app-id", app}, kv...)...)
}

// unary calls the method Unary of an application.
func (s *way) unary(ctx context.Context, app, say string, opts ...grpc.CallOption) (string, error) {
	out := new(wrapperspb.BytesValue)
	err := s.conn.Invoke(to(ctx, app), sample+"Unary", wrapperspb.Bytes([]byte(say)), out, opts...)
	return string(out.Value), err
}

// stream opens one of the service's streams.
func (s *way) stream(ctx context.Context, method string) grpc.ClientStream {
	s.t.Helper()
	cs, err := s.conn.NewStream(to(ctx, s.sale), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, sample+method)
	if err != nil {
		s.t.Fatal(err)
	}
	return cs
}

func (s *way) send(cs grpc.ClientStream, b []byte) {
	s.t.Helper()
	if err := cs.SendMsg(wrapperspb.Bytes(b)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *way) recv(cs grpc.ClientStream) []byte {
	s.t.Helper()
	out := new(wrapperspb.BytesValue)
	if err := cs.RecvMsg(out); err != nil {
		s.t.Fatal(err)
	}
	return out.Value
}

// over checks that a stream ended well, with the application's trailer.
func (s *way) over(cs grpc.ClientStream) {
	s.t.Helper()
	if err := cs.RecvMsg(new(wrapperspb.BytesValue)); err != io.EOF {
		s.t.Errorf("the end: %v", err)
	}
	s.trailed(cs.Trailer())
}

func (s *way) trailed(trailer metadata.MD) {
	s.t.Helper()
	if !slices.Equal(trailer["x-trailer"], []string{"the end"}) || !slices.Equal(trailer["x-trailer-bin"], []string{"\x00\xff"}) {
		s.t.Errorf("the trailer: %v", trailer)
	}
}

func (s *way) grpcUnary() {
	for _, say := range []string{"", "hello", string(big[:3<<20])} {
		before := s.rpc.hits.Load()
		var header, trailer metadata.MD
		ctx := metadata.AppendToOutgoingContext(s.ctx, "x-ask", "1", "x-ask", "two", "x-ask-bin", "\x00\x01\xff", "dapr-caller-app-id", "spoofed")
		got, err := s.unary(ctx, s.sale, say, grpc.Header(&header), grpc.Trailer(&trailer))
		if err != nil || got != say {
			s.t.Errorf("%.20q: %.20q %v", say, got, err)
			continue
		}
		slices.Sort(header["x-leaked"])
		for k, want := range map[string][]string{
			"x-got-x-ask": {"1", "two"}, "x-got-x-ask-bin": {"\x00\x01\xff"}, "x-leaked": s.marks,
		} {
			if !slices.Equal(header[k], want) {
				s.t.Errorf("%s is %q, want %q", k, header[k], want)
			}
		}
		if got := header["x-got-dapr-caller-app-id"]; !slices.Equal(got, []string{s.caller}) {
			s.t.Errorf("the caller is %q, want %q", got, s.caller)
		}
		if served := header["farcall-served-by"]; len(served) != 1 || !strings.HasSuffix(served[0], "/"+s.sale+"-1") {
			s.t.Errorf("served by %q", served)
		}
		s.trailed(trailer)
		if n := s.rpc.hits.Load() - before; n != 1 {
			s.t.Errorf("the application was called %d times", n)
		}
	}
}

// grpcUp: 10 MiB in pieces, and one answer.
func (s *way) grpcUp() {
	cs := s.stream(s.ctx, "Up")
	for i := 0; i < bigBody; i += piece {
		s.send(cs, big[i:i+piece])
	}
	if err := cs.CloseSend(); err != nil {
		s.t.Fatal(err)
	}
	if got, want := string(s.recv(cs)), fmt.Sprintf("%d %x", bigBody/piece, sha256.Sum256(big)); got != want {
		s.t.Errorf("%s, want %s", got, want)
	}
	s.over(cs)
}

// grpcDown: the first message arrives before the application has sent the second.
func (s *way) grpcDown() {
	cs := s.stream(s.ctx, "Down")
	s.send(cs, nil)
	if err := cs.CloseSend(); err != nil {
		s.t.Fatal(err)
	}
	got := s.recv(cs)
	select {
	case s.rpc.more <- struct{}{}:
	case <-s.ctx.Done():
		s.t.Fatal("the application does not wait for the rest")
	}
	for len(got) < bigBody {
		got = append(got, s.recv(cs)...)
	}
	if !bytes.Equal(got, big) {
		s.t.Error("other bytes than were sent")
	}
	s.over(cs)
}

// grpcBoth: each side hears the other before it goes on.
func (s *way) grpcBoth() {
	before := s.rpc.hits.Load()
	cs := s.stream(s.ctx, "Both")
	for i := range 20 {
		say := fmt.Sprint("message ", i)
		s.send(cs, []byte(say))
		if got := string(s.recv(cs)); got != "re "+say {
			s.t.Errorf("%q to %q", got, say)
		}
	}
	if h, err := cs.Header(); err != nil || len(h["farcall-served-by"]) != 1 {
		s.t.Errorf("the header: %v %v", h, err)
	}
	if err := cs.CloseSend(); err != nil {
		s.t.Fatal(err)
	}
	if got := string(s.recv(cs)); got != "bye" {
		s.t.Errorf("%q at the end", got)
	}
	s.over(cs)

	cs = s.stream(s.ctx, "Both")
	s.send(cs, []byte("one"))
	s.recv(cs)
	s.send(cs, []byte("fail"))
	if err := cs.RecvMsg(new(wrapperspb.BytesValue)); status.Code(err) != codes.DataLoss {
		s.t.Errorf("an error in the middle: %v", err)
	}
	s.trailed(cs.Trailer())
	if n := s.rpc.hits.Load() - before; n != 2 {
		s.t.Errorf("the application was called %d times", n)
	}
}

// grpcStatuses: an application's error is its own, whatever its code, and nothing is called twice.
func (s *way) grpcStatuses() {
	before := s.rpc.hits.Load()
	var trailer metadata.MD
	_, err := s.unary(metadata.AppendToOutgoingContext(s.ctx, "x-do", "fail"), s.sale, "x", grpc.Trailer(&trailer))
	is := status.Convert(err)
	if is.Code() != codes.FailedPrecondition || is.Message() != "sold out: 0 of 3" || reason(err) != "SOLD_OUT" {
		s.t.Errorf("%v with %v", err, is.Details())
	}
	s.trailed(trailer)
	_, err = s.unary(metadata.AppendToOutgoingContext(s.ctx, "x-do", "refuse"), s.sale, "x")
	if is := status.Convert(err); is.Code() != codes.Unavailable || is.Message() != "closed today" {
		s.t.Errorf("an application's own UNAVAILABLE: %v", err)
	}
	cs := s.stream(metadata.AppendToOutgoingContext(s.ctx, "x-do", "fail"), "Down")
	s.send(cs, nil)
	if err := cs.RecvMsg(new(wrapperspb.BytesValue)); reason(err) != "SOLD_OUT" {
		s.t.Errorf("a stream: %v", err)
	}
	if n := s.rpc.hits.Load() - before; n != 3 {
		s.t.Errorf("the application was called %d times for three calls", n)
	}
	err = s.conn.Invoke(to(s.ctx, s.sale), sample+"Nothing", wrapperspb.Bytes(nil), new(wrapperspb.BytesValue))
	if status.Code(err) != codes.Unimplemented {
		s.t.Errorf("a method that the application does not have: %v", err)
	}
}

// reason is what the status of an error says in its ErrorInfo.
func reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.Reason
		}
	}
	return ""
}

// grpcErrors: what no application said. A daprd 1.14 passes on a proxied call's status as it is.
func (s *way) grpcErrors() {
	before := s.rpc.hits.Load()
	for _, c := range []struct {
		name, app string
		kv        []string
		want      codes.Code
	}{
		{"an unknown application", "nobody", nil, codes.NotFound},
		{"an unknown strategy", s.sale, []string{"farcall-strategy", "nearest"}, codes.InvalidArgument},
		{"a bad timeout", s.sale, []string{"farcall-timeout", "soon"}, codes.InvalidArgument},
		{"broadcast", s.sale, []string{"farcall-strategy", "broadcast"}, codes.FailedPrecondition},
	} {
		if _, err := s.unary(metadata.AppendToOutgoingContext(s.ctx, c.kv...), c.app, "x"); status.Code(err) != c.want {
			s.t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if n := s.rpc.hits.Load() - before; n != 0 {
		s.t.Errorf("the application was called %d times", n)
	}
}

// grpcDeadline: the application is told how long it has, and learns when that is over.
func (s *way) grpcDeadline() {
	const long = 50 * time.Second
	ctx, cancel := context.WithTimeout(s.ctx, long)
	defer cancel()
	for name, ctx := range map[string]context.Context{
		"gRPC's":          ctx,
		"farcall-timeout": metadata.AppendToOutgoingContext(s.ctx, "farcall-timeout", long.String()),
	} {
		var header metadata.MD
		if _, err := s.unary(ctx, s.sale, "x", grpc.Header(&header)); err != nil {
			s.t.Errorf("%s: %v", name, err)
			continue
		}
		left, err := time.ParseDuration(strings.Join(header["x-left"], ""))
		if err != nil || left > long || left < long/2 {
			s.t.Errorf("%s: the application had %v of %v", name, header["x-left"], long)
		}
	}
	before := s.rpc.hits.Load()
	ctx = metadata.AppendToOutgoingContext(s.ctx, "x-do", "wait", "farcall-timeout", "400ms")
	if _, err := s.unary(ctx, s.sale, "x"); status.Code(err) != codes.DeadlineExceeded {
		s.t.Errorf("a unary call: %v", err)
	}
	s.noticed(s.rpc.hits.Load, before, s.rpc.ended)
	before = s.rpc.hits.Load()
	if err := s.stream(ctx, "Both").RecvMsg(new(wrapperspb.BytesValue)); status.Code(err) != codes.DeadlineExceeded {
		s.t.Errorf("a stream: %v", err)
	}
	s.noticed(s.rpc.hits.Load, before, s.rpc.ended)
}

func (s *way) grpcCancel() {
	for _, method := range []string{"Unary", "Both"} {
		ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(s.ctx, "x-do", "wait"))
		before := s.rpc.hits.Load()
		cs := s.stream(ctx, method)
		s.send(cs, nil)
		if method == "Unary" {
			if err := cs.CloseSend(); err != nil {
				s.t.Fatal(err)
			}
		}
		s.arrives(s.rpc.hits.Load, before)
		cancel()
		s.noticed(s.rpc.hits.Load, before, s.rpc.ended)
	}
}

// invoke calls InvokeService, which Dapr's SDKs use.
func (s *way) invoke(app, method string, kv ...string) (*commonv1.InvokeResponse, metadata.MD, error) {
	var header metadata.MD
	resp, err := runtimev1.NewDaprClient(s.conn).InvokeService(metadata.AppendToOutgoingContext(s.ctx, kv...), &runtimev1.InvokeServiceRequest{Id: app, Message: &commonv1.InvokeRequest{
		Method: method, Data: &anypb.Any{Value: []byte("hello")}, ContentType: "text/x-ask",
		HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_POST, Querystring: "q=1"},
	}}, grpc.Header(&header))
	return resp, header, err
}

// refused checks an error of InvokeService that no application gave.
func (s *way) refused(what string, err error, want codes.Code) {
	s.t.Helper()
	is := status.Convert(err)
	if s.sidecar {
		// daprd says Internal for whatever its peer said, and that in words.
		if is.Code() != codes.Internal || !strings.Contains(is.Message(), "code = "+want.String()) {
			s.t.Errorf("%s: %v, want Internal that says %v", what, err, want)
		}
	} else if is.Code() != want {
		s.t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// invokeService: a gRPC caller of an HTTP application.
func (s *way) invokeService() {
	before := s.app.hits.Load()
	resp, header, err := s.invoke(s.web, "echo", "x-custom", "1")
	if err != nil || string(resp.GetData().GetValue()) != "POST /echo?q=1 hello" || resp.GetContentType() != "text/x-echo" {
		s.t.Errorf("%v %v", resp, err)
	}
	if !slices.Equal(header["x-app"], []string{"1"}) || !slices.Equal(header["x-caller"], []string{s.caller}) || len(header["farcall-served-by"]) != 1 {
		s.t.Errorf("the header: %v", header)
	}
	for code, want := range map[int]codes.Code{404: codes.NotFound, 409: codes.AlreadyExists, 503: codes.Unavailable, 418: codes.Unknown} {
		_, header, err := s.invoke(s.web, fmt.Sprint("status/", code))
		if status.Code(err) != want || !slices.Equal(header["dapr-http-status"], []string{fmt.Sprint(code)}) {
			s.t.Errorf("an application's %d: %v %v, want %v", code, err, header, want)
		}
	}
	if n := s.app.hits.Load() - before; n != 5 {
		s.t.Errorf("the application was called %d times for five calls", n)
	}
	before = s.app.hits.Load()
	_, _, err = s.invoke("nobody", "echo")
	s.refused("an unknown application", err, codes.NotFound)
	_, _, err = s.invoke(s.web, "wait", "farcall-timeout", "400ms")
	s.refused("a deadline", err, codes.DeadlineExceeded)
	s.noticed(s.app.hits.Load, before, s.app.ended)
}

// onInvoke: gRPC and HTTP callers of a gRPC application's OnInvoke.
func (s *way) onInvoke() {
	before := s.rpc.hits.Load()
	resp, _, err := s.invoke(s.sale, "stock/a")
	if err != nil || string(resp.GetData().GetValue()) != "POST stock/a?q=1 text/x-ask hello" || resp.GetContentType() != "text/x-invoked" {
		s.t.Errorf("%v %v", resp, err)
	}
	if _, _, err := s.invoke(s.sale, "missing"); status.Code(err) != codes.NotFound || status.Convert(err).Message() != "no such thing" {
		s.t.Errorf("an application's error: %v", err)
	}
	a, err := s.get(s.ctx, http.MethodPut, s.url(s.sale, "stock/a?q=1"), strings.NewReader("hello"), "Content-Type: text/x-ask")
	if err != nil || a.status != http.StatusOK || a.body != "PUT stock/a?q=1 text/x-ask hello" || a.header.Get("Content-Type") != "text/x-invoked" {
		s.t.Errorf("HTTP: %v %v", a, err)
	}
	a, err = s.get(s.ctx, http.MethodPost, s.url(s.sale, "missing"), strings.NewReader("hello"))
	if err != nil || a.status != http.StatusNotFound || !strings.Contains(a.body, "no such thing") {
		s.t.Errorf("HTTP, an application's error: %v %v", a, err)
	}
	if n := s.rpc.hits.Load() - before; n != 4 {
		s.t.Errorf("the application was called %d times for four calls", n)
	}
	if s.buffers {
		return // a daprd 1.14 tells its gRPC application neither a deadline nor that the caller went away
	}
	before = s.rpc.hits.Load()
	_, _, err = s.invoke(s.sale, "wait", "farcall-timeout", "400ms")
	if status.Code(err) != codes.DeadlineExceeded { // it is where the application was the first to say so
		s.refused("a deadline", err, codes.DeadlineExceeded)
	}
	s.noticed(s.rpc.hits.Load, before, s.rpc.ended)
}
