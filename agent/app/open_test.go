package app

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/farcall/farcall/agent/proxy"
	"github.com/farcall/farcall/internal/testkit"
)

// proxied makes one proxied call at e, and gives the application's answer and what went wrong.
func proxied(t *testing.T, c *Channels, e Endpoint) (string, error) {
	t.Helper()
	var readers sync.WaitGroup
	s := grpc.NewServer(proxy.ServerOptions(func(_ any, stream grpc.ServerStream) error {
		ctx, cancel := context.WithCancel(stream.Context())
		call := proxy.NewCall(stream, "/test.Talk/One", nil, cancel)
		defer call.End()
		call.Service, call.Header = "cart", metadata.Pairs("x-a", "1")
		call.Read(&readers)
		to, failed := c.Open(ctx, e, call)
		if failed != nil {
			return failed.GRPCStatus().Err()
		}
		end, failed := call.Run(ctx, to, stream.SendHeader)
		if failed != nil {
			return failed.GRPCStatus().Err()
		}
		return end.Status.Err()
	})...)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := testkit.Go(t, "proxy", func(context.Context) error { return s.Serve(l) })
	defer func() {
		s.Stop()
		stop()
		readers.Wait()
	}()
	cc, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	out := new(wrapperspb.StringValue)
	err = cc.Invoke(testkit.Context(t), "/test.Talk/One", wrapperspb.String("hi"), out)
	return out.GetValue(), err
}

// echoing takes every method: it answers with what it was told, and with the token that it was shown.
func echoing(options ...grpc.ServerOption) *grpc.Server {
	return grpc.NewServer(append(options, grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		in := new(wrapperspb.StringValue)
		if err := s.RecvMsg(in); err != nil {
			return err
		}
		md, _ := metadata.FromIncomingContext(s.Context())
		for _, token := range md["dapr-api-token"] {
			in.Value += " " + token
		}
		return s.SendMsg(in)
	}))...)
}

func serveEcho(t *testing.T, l net.Listener, s *grpc.Server) Endpoint {
	t.Helper()
	stop := testkit.Go(t, "app", func(context.Context) error { return s.Serve(l) })
	t.Cleanup(func() {
		s.Stop()
		stop()
	})
	e := endpoint(t, l.Addr())
	e.Protocol = GRPC
	return e
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestOpen says which applications take proxied calls.
func TestOpen(t *testing.T) {
	authority := testkit.NewAuthority(t)
	plain := serveEcho(t, listen(t), echoing())
	secured := serveEcho(t, listen(t), echoing(grpc.Creds(credentials.NewTLS(authority.Server(false, "127.0.0.1")))))
	trusting := &Access{TLS: &TLS{CA: authority.CA}}
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	with := func(e Endpoint, p Protocol, a *Access) Endpoint {
		e.Protocol, e.Access = p, a
		return e
	}
	for _, c := range []struct {
		what string
		e    Endpoint
		want string
		code codes.Code
		text string
	}{
		{what: "grpc", e: plain, want: "hi"},
		{what: "h2c", e: with(plain, H2C, nil), want: "hi"},
		{what: "grpc with a token", e: with(plain, GRPC, &Access{Token: "t0"}), want: "hi t0"},
		{what: "grpc over TLS", e: with(secured, GRPC, trusting), want: "hi"},
		{what: "https", e: with(secured, HTTPS, trusting), want: "hi"},
		{what: "TLS of somebody else", e: with(secured, GRPC, &Access{TLS: &TLS{CA: testkit.NewAuthority(t).CA}}), code: codes.Unavailable, text: "certificate"},
		{what: "http", e: with(plain, HTTP, nil), code: codes.FailedPrecondition, text: "apps[].protocol"},
		{what: "nothing said", e: with(plain, "", nil), code: codes.FailedPrecondition, text: `its protocol is "http"`},
		{what: "no gRPC there", e: with(endpoint(t, web.Listener.Addr()), GRPC, nil), code: codes.Unavailable},
		{what: "nobody there", e: with(endpoint(t, testkit.Nobody(t)), GRPC, nil), code: codes.Unavailable, text: "does not take connections"},
	} {
		t.Run(c.what, func(t *testing.T) {
			got, err := proxied(t, channels(t), c.e)
			if st := status.Convert(err); st.Code() != c.code || !strings.Contains(st.Message(), c.text) {
				t.Errorf("got %v, want %s with %q", err, c.code, c.text)
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// An application that listens again is dialled at once, however long it did not.
func TestOpenDialsAfresh(t *testing.T) {
	c := channels(t)
	l := listen(t)
	addr := l.Addr().String()
	e := endpoint(t, l.Addr())
	e.Protocol = GRPC
	_ = l.Close()
	for range 3 {
		if _, err := proxied(t, c, e); status.Code(err) != codes.Unavailable {
			t.Fatalf("got %v", err)
		}
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	serveEcho(t, l, echoing())
	if got, err := proxied(t, c, e); got != "hi" {
		t.Errorf("got %q %v", got, err)
	}
}
