package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/invoke"
	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	internalsv1 "github.com/farcall/farcall/api/dapr/proto/internals/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// daprd is a sidecar that says what it was called with; an old one knows no streams.
type daprd struct {
	internalsv1.UnimplementedServiceInvocationServer
	old   bool
	whole bool // it answers a stream after the body's end, not after its first message
	err   error
	md    metadata.MD
}

func (d *daprd) CallLocal(ctx context.Context, in *internalsv1.InternalInvokeRequest) (*internalsv1.InternalInvokeResponse, error) {
	d.md, _ = metadata.FromIncomingContext(ctx)
	return said("unary", in, string(in.GetMessage().GetData().GetValue())), d.err
}

func (d *daprd) CallLocalStream(s internalsv1.ServiceInvocation_CallLocalStreamServer) error {
	d.md, _ = metadata.FromIncomingContext(s.Context())
	if d.old {
		return status.Error(codes.Unimplemented, "unknown method CallLocalStream")
	}
	first, err := s.Recv()
	if err != nil {
		return err
	}
	if d.err != nil {
		return d.err
	}
	for d.whole {
		if _, err := s.Recv(); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
	}
	out := said("stream", first.GetRequest(), string(first.GetPayload().GetData()))
	body := out.Message.Data.Value
	out.Message.Data = nil
	return s.Send(&internalsv1.InternalInvokeResponseStream{Response: out, Payload: &commonv1.StreamPayload{Data: body}})
}

func said(how string, in *internalsv1.InternalInvokeRequest, body string) *internalsv1.InternalInvokeResponse {
	to := in.GetMetadata()[invoke.DestinationAppID].GetValues()
	return &internalsv1.InternalInvokeResponse{
		Status: &internalsv1.Status{Code: 200},
		Message: &commonv1.InvokeResponse{Data: &anypb.Any{
			Value: []byte(how + " " + in.GetMessage().GetMethod() + " of " + to[0] + ": " + body),
		}},
	}
}

func (d *daprd) serve(t *testing.T, at string) (e app.Endpoint, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	internalsv1.RegisterServiceInvocationServer(s, d)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with Stop
	}()
	stop = func() { s.Stop(); <-done }
	t.Cleanup(stop)
	a := l.Addr().(*net.TCPAddr)
	return app.Endpoint{Address: a.IP.String(), Port: a.Port, Protocol: app.Dapr}, stop
}

func sidecarRequest() *invoke.Request {
	return &invoke.Request{Service: "cart", Verb: "POST", Method: "add", Length: 5, Head: []byte("hello"), Header: invoke.Header{}}
}

func TestSidecarsDeliver(t *testing.T) {
	s := NewSidecars()
	defer s.Close()
	for want, d := range map[string]*daprd{
		"stream add of cart: hello": {},
		"unary add of cart: hello":  {old: true},
	} {
		e, _ := d.serve(t, "127.0.0.1:0")
		resp, err := s.Deliver(testkit.Context(t), e, sidecarRequest())
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(b) != want {
			t.Errorf("got %q, %v, want %q", b, err, want)
		}
		// An agent would refuse it as a second hop; and nobody is named who could be another agent's.
		if hop := d.md[invoke.HopKey]; len(hop) != 1 || hop[0] != "2" || len(d.md[invoke.TargetKey]) > 0 {
			t.Errorf("the sidecar got %v", d.md)
		}
	}
}

// A sidecar that is not there is an application that is not: certainly not executed. It is dialled
// afresh by the next call. What a sidecar itself says proves nothing.
func TestSidecarsFailures(t *testing.T) {
	s := NewSidecars()
	defer s.Close()
	d := &daprd{}
	e, stop := d.serve(t, "127.0.0.1:0")
	stop()
	_, err := s.Deliver(testkit.Context(t), e, sidecarRequest())
	wantError(t, err, codes.Unavailable, invoke.ReasonAppDown)
	again, _ := d.serve(t, net.JoinHostPort(e.Address, strconv.Itoa(e.Port)))
	resp, err := s.Deliver(testkit.Context(t), again, sidecarRequest())
	if err != nil {
		t.Fatalf("the call after the sidecar came back: %v", err)
	}
	resp.Body.Close()
	for code, want := range map[codes.Code]codes.Code{
		codes.Unavailable:      codes.Internal,
		codes.Unauthenticated:  codes.Internal,
		codes.Internal:         codes.Internal,
		codes.PermissionDenied: codes.PermissionDenied,
	} {
		d := &daprd{err: status.Error(code, "so it says")}
		e, _ := d.serve(t, "127.0.0.1:0")
		_, err := s.Deliver(testkit.Context(t), e, sidecarRequest())
		reason := invoke.ReasonOutcomeUnknown
		if want == codes.PermissionDenied {
			reason = invoke.ReasonDenied
		}
		wantError(t, err, want, reason)
	}
}

func wantError(t *testing.T, err error, code codes.Code, reason string) {
	t.Helper()
	var e *invoke.Error
	if !errors.As(err, &e) || e.Code != code || e.Reason != reason {
		t.Errorf("got %v, want %v %s", err, code, reason)
	}
}
