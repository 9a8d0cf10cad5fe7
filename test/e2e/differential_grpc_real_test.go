//go:build real && linux

package e2e

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	runtimev1 "github.com/farcall/farcall/api/dapr/proto/runtime/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// metadata takes down what is said beside a message, but for what is gRPC's own.
func (a account) metadata(kind string, md metadata.MD) {
	for k, v := range md {
		if k != "content-type" && k != "grpc-status-details-bin" {
			a[kind+" "+k] = strings.Join(v, " | ")
		}
	}
}

// recorderRPC is recorder for Dapr's AppCallback.
type recorderRPC struct {
	runtimev1.UnimplementedAppCallbackServer
	port  int
	mu    sync.Mutex
	calls []account
}

func newRecorderRPC(t *testing.T) *recorderRPC {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &recorderRPC{port: l.Addr().(*net.TCPAddr).Port}
	s := grpc.NewServer()
	runtimev1.RegisterAppCallbackServer(s, r)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return r
}

// take gives the calls since the last take.
func (r *recorderRPC) take() []account {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = nil
	return calls
}

// OnInvoke implements runtimev1.AppCallbackServer.
func (r *recorderRPC) OnInvoke(ctx context.Context, in *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	a := account{
		"method": in.GetMethod(), "verb": in.GetHttpExtension().GetVerb().String(), "query": in.GetHttpExtension().GetQuerystring(),
		"type": in.GetContentType(), "type of the data": in.GetData().GetTypeUrl(), "body": string(in.GetData().GetValue()),
		"extension": fmt.Sprint(in.GetHttpExtension() != nil),
	}
	a.metadata("metadata", md)
	r.mu.Lock()
	r.calls = append(r.calls, a)
	r.mu.Unlock()
	out := &commonv1.InvokeResponse{Data: &anypb.Any{Value: []byte("answer")}, ContentType: "text/plain"}
	switch strings.Join(md["x-answer"], ",") {
	case "headers":
		// They fail only where the call is over.
		_ = grpc.SetHeader(ctx, metadata.Pairs("x-a", "1", "x-a", "2", "x-some-bin", "\x00\x01", "content-language", "de",
			"set-cookie", "a=1", "farcall-served-by", "a/lie", "dapr-mine", "1"))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-t", "1"))
	case "typed":
		out.Data.TypeUrl = "type.googleapis.com/example"
	case "empty":
		return &commonv1.InvokeResponse{}, nil
	case "error":
		st, err := status.New(codes.FailedPrecondition, "not today").WithDetails(&errdetails.ErrorInfo{Reason: "R", Domain: "d"})
		if err != nil {
			return nil, err
		}
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-t", "1"))
		return nil, st.Err()
	case "unavailable":
		return nil, status.Error(codes.Unavailable, "closed")
	case "42":
		return nil, status.Error(42, "odd")
	}
	return out, nil
}

// oddInvocation is a call of InvokeService.
type oddInvocation struct {
	name, id, method string
	verb             commonv1.HTTPExtension_Verb
	bare             bool // has no HTTPExtension
	query            string
	typ, typeURL     string
	body             string
	md               []string
}

func (s side) invoke(t *testing.T, o oddInvocation) account {
	t.Helper()
	conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent("caller"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	msg := &commonv1.InvokeRequest{Method: o.method, ContentType: o.typ, HttpExtension: &commonv1.HTTPExtension{Verb: o.verb, Querystring: o.query}}
	if o.bare {
		msg.HttpExtension = nil
	}
	if o.body != "" || o.typeURL != "" {
		msg.Data = &anypb.Any{TypeUrl: o.typeURL, Value: []byte(o.body)}
	}
	var header, trailer metadata.MD
	ctx := metadata.AppendToOutgoingContext(testkit.Context(t), o.md...)
	out, err := runtimev1.NewDaprClient(conn).InvokeService(ctx, &runtimev1.InvokeServiceRequest{Id: o.id, Message: msg}, grpc.Header(&header), grpc.Trailer(&trailer))
	st := status.Convert(err)
	a := account{
		"status": st.Code().String(), "message": st.Message(), "body": string(out.GetData().GetValue()),
		"type": out.GetContentType(), "type of the data": out.GetData().GetTypeUrl(),
	}
	for i, d := range st.Details() {
		// A message prints its fields with one blank between them, or two.
		a[fmt.Sprint("detail ", i)] = strings.Join(strings.Fields(fmt.Sprint(d)), " ")
	}
	a.metadata("header", header)
	a.metadata("trailer", trailer)
	return a
}

const (
	verbGet  = commonv1.HTTPExtension_GET
	verbPost = commonv1.HTTPExtension_POST
)

var oddInvocations = []oddInvocation{
	{name: "gRPC to HTTP", id: "rec", method: "a/b", verb: verbPost, query: "x=1&y=%20", typ: "text/plain", body: "hello", md: []string{"x-a", "1", "x-a", "2", "x-some-bin", "\x00\x01", "grpc-mine", "1", "authorization", "Bearer x", "accept", "*/*", "host", "h"}},
	{name: "gRPC to HTTP, GET", id: "rec", method: "a", verb: verbGet},
	{name: "gRPC to HTTP, no verb", id: "rec", method: "a"},
	{name: "gRPC to HTTP, bare", id: "rec", method: "a", bare: true},
	{name: "gRPC to HTTP, CONNECT", id: "rec", method: "a", verb: commonv1.HTTPExtension_CONNECT},
	{name: "gRPC to HTTP, leading slash", id: "rec", method: "/a", verb: verbGet},
	{name: "gRPC to HTTP, no method", id: "rec", verb: verbGet},
	{name: "gRPC to HTTP, escaped", id: "rec", method: "a%20b", verb: verbGet},
	{name: "gRPC to HTTP, blank", id: "rec", method: "a b", verb: verbGet},
	{name: "gRPC to HTTP, escaped percent", id: "rec", method: "100%25", verb: verbGet},
	{name: "gRPC to HTTP, query in the method", id: "rec", method: "a?x=1", verb: verbGet},
	{name: "gRPC to HTTP, blank in the query", id: "rec", method: "a", query: "x=a b", verb: verbGet},
	{name: "gRPC to HTTP, no type", id: "rec", method: "a", verb: verbPost, body: "hello"},
	{name: "gRPC to HTTP, typed data", id: "rec", method: "a", verb: verbPost, body: "hello", typ: "text/plain", typeURL: "type.googleapis.com/example"},
	{name: "gRPC to HTTP, trace", id: "rec", method: "a", verb: verbGet, md: []string{"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", "tracestate", "a=1", "baggage", "k=v"}},
	{name: "gRPC to HTTP, 201", id: "rec", method: "a", verb: verbGet, md: []string{"x-answer", "201"}},
	{name: "gRPC to HTTP, 204", id: "rec", method: "a", verb: verbGet, md: []string{"x-answer", "204"}},
	{name: "gRPC to HTTP, 302", id: "rec", method: "a", verb: verbGet, md: []string{"x-answer", "302"}},
	{name: "gRPC to HTTP, 400", id: "rec", method: "a", verb: verbGet, md: []string{"x-answer", "400"}},
	{name: "gRPC to HTTP, 404", id: "rec", method: "a", verb: verbGet, md: []string{"x-answer", "404"}},
	{name: "gRPC to HTTP, 500", id: "rec", method: "a", verb: verbGet, md: []string{"x-answer", "500"}},
	{name: "gRPC to HTTP, 503", id: "rec", method: "a", verb: verbGet, md: []string{"x-answer", "503"}},
	{name: "gRPC to HTTP, 999", id: "rec", method: "a", verb: verbGet, md: []string{"x-answer", "999"}},
	{name: "gRPC to HTTP, its headers", id: "rec", method: "a", verb: verbGet, md: []string{"x-answer", "headers"}},
	{name: "gRPC to HTTP, no type of the answer", id: "rec", method: "a", verb: verbGet, md: []string{"x-answer", "no type"}},

	{name: "gRPC to gRPC", id: "rpc", method: "a/b", verb: verbPost, query: "x=1", typ: "text/plain", body: "hello", md: []string{"x-a", "1", "x-a", "2", "x-some-bin", "\x00\x01", "grpc-mine", "1", "authorization", "Bearer x", "accept", "*/*"}},
	{name: "gRPC to gRPC, bare", id: "rpc", method: "A.Method", bare: true, body: "hello"},
	{name: "gRPC to gRPC, typed data", id: "rpc", method: "a", body: "hello", typ: "text/plain", typeURL: "type.googleapis.com/example"},
	{name: "gRPC to gRPC, typed answer", id: "rpc", method: "a", md: []string{"x-answer", "typed"}},
	{name: "gRPC to gRPC, empty answer", id: "rpc", method: "a", md: []string{"x-answer", "empty"}},
	{name: "gRPC to gRPC, its headers", id: "rpc", method: "a", md: []string{"x-answer", "headers"}},
	{name: "gRPC to gRPC, its error", id: "rpc", method: "a", md: []string{"x-answer", "error"}},
	{name: "gRPC to gRPC, its refusal", id: "rpc", method: "a", md: []string{"x-answer", "unavailable"}},
	{name: "gRPC to gRPC, its odd code", id: "rpc", method: "a", md: []string{"x-answer", "42"}},
	{name: "gRPC to gRPC, trace", id: "rpc", method: "a", md: []string{"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", "tracestate", "a=1", "baggage", "k=v"}},
	{name: "gRPC to gRPC, identity", id: "rpc", method: "a", md: []string{"dapr-caller-app-id", "admin", "dapr-callee-app-id", "other", "destination-app-id", "other", "dapr-api-token", "secret"}},
}
