package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/farcall/farcall/agent/invoke"
	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	runtimev1 "github.com/farcall/farcall/api/dapr/proto/runtime/v1"
	"github.com/farcall/farcall/internal/testkit"
)

func channels(t *testing.T) *Channels {
	c := New()
	t.Cleanup(c.Close)
	return c
}

// serve starts an HTTP application, which speaks HTTP/1.1 and h2c.
func serve(t *testing.T, h http.HandlerFunc) Endpoint {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return endpoint(t, s.Listener.Addr())
}

func endpoint(t *testing.T, a net.Addr) Endpoint {
	t.Helper()
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return Endpoint{Address: host, Port: n}
}

func post(body string) *invoke.Request {
	return &invoke.Request{Service: "cart", Verb: "POST", Method: "m", Header: invoke.Header{}, Head: []byte(body), Length: int64(len(body))}
}

func read(t *testing.T, r *invoke.Response) string {
	t.Helper()
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// TestHTTPRequest says what of a call reaches an HTTP application.
func TestHTTPRequest(t *testing.T) {
	for _, protocol := range []Protocol{HTTP, H2C, ""} {
		t.Run(string(protocol), func(t *testing.T) {
			var got *http.Request
			var body string
			e := serve(t, func(_ http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				got, body = r, string(b)
			})
			e.Protocol = protocol
			c := channels(t)
			r := &invoke.Request{
				Service: "cart", Verb: "PUT", Method: "a b/%2F/ü", Query: "x=1&y=%20", ContentType: "text/plain",
				Header: invoke.Header{
					"Accept": {"a", "b"}, "x-lower": {"1"}, "dapr-caller-app-id": {"web"},
					"destination-app-id": {"cart"}, "Content-Type": {"wrong/type"}, "content-length": {"99"},
					"Connection": {"close, X-Named"}, "X-Named": {"n"}, "Keep-Alive": {"5"}, "Te": {"trailers"}, "Transfer-Encoding": {"chunked"},
					"Upgrade": {"websocket"}, "Expect": {"100-continue"}, "trace-bin": {"AAA="}, ":authority": {"h"}, "grpc-timeout": {"1S"},
					"Baggage": {"a=1", "b=2"}, "Traceparent": {"00-1-2-03"}, "X Bad": {"1"}, "X-Evil": {"a\r\nX-Smuggled: 1"}, "X-None": {},
				},
				Head: []byte("abc"), Length: 3,
			}
			resp, err := c.Deliver(testkit.Context(t), e, r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got.Method != "PUT" || got.URL.Path != "/a b/%2F/ü" || got.URL.RawQuery != "x=1&y=%20" || body != "abc" || got.ContentLength != 3 {
				t.Errorf("got %s %q ? %q, %d bytes: %q", got.Method, got.URL.Path, got.URL.RawQuery, got.ContentLength, body)
			}
			want := map[string]string{
				"Accept": "a|b", "X-Lower": "1", "Dapr-Caller-App-Id": "web", "Content-Type": "text/plain", "Content-Length": "3",
				"Dapr-Authority": "h", "Dapr-Grpc-Timeout": "1S", "Baggage": "a=1", "Traceparent": "00-1-2-03",
			}
			for k, v := range got.Header {
				if w := want[k]; w != strings.Join(v, "|") {
					t.Errorf("%s: got %q, want %q", k, v, w)
				}
				delete(want, k)
			}
			if len(want) > 0 {
				t.Errorf("missing: %v", want)
			}
		})
	}
}

// TestHTTPFraming says that a known length reaches the application, and no body none.
func TestHTTPFraming(t *testing.T) {
	for _, c := range []struct {
		what, verb string
		change     func(*invoke.Request)
		want       string // Content-Length, Transfer-Encoding, body
	}{
		{"GET without a body", "GET", func(r *invoke.Request) {}, "0 [] "},
		{"POST without a body", "POST", func(r *invoke.Request) {}, "0 [] "},
		{"POST in memory", "POST", func(r *invoke.Request) { r.Head, r.Length = []byte("abc"), 3 }, "3 [] abc"},
		{"POST of known length", "POST", func(r *invoke.Request) {
			r.Rest, r.Length = invoke.NewStream(strings.NewReader("abcd"), nil), 4
		}, "4 [] abcd"},
		{"POST of unknown length", "POST", func(r *invoke.Request) {
			r.Rest, r.Length = invoke.NewStream(strings.NewReader("abcde"), nil), -1
		}, "-1 [chunked] abcde"},
	} {
		t.Run(c.what, func(t *testing.T) {
			got := ""
			e := serve(t, func(_ http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				got = fmt.Sprint(r.ContentLength, " ", r.TransferEncoding, " ", string(b))
			})
			r := post("")
			r.Verb = c.verb
			c.change(r)
			resp, err := channels(t).Deliver(testkit.Context(t), e, r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestHTTPResponse says what of an application's answer travels back.
func TestHTTPResponse(t *testing.T) {
	e := serve(t, func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-App", "1")
		h.Add("Set-Cookie", "a=1")
		h.Add("Set-Cookie", "b=2")
		h.Set("Content-Type", "text/x")
		h.Set("Connection", "X-Hop")
		h.Set("X-Hop", "1")
		h.Set("Keep-Alive", "timeout=5")
		h.Set("Farcall-Served-By", "a/lie")
		h.Set("Trailer", "X-Trailer")
		defer h.Set(http.TrailerPrefix+"X-Trailer", "t")
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.WriteHeader(304)
		case "/418":
			w.WriteHeader(418)
			_, _ = io.WriteString(w, "teapot")
		case "/head":
			h.Set("Content-Length", "1234")
		}
	})
	for _, c := range []struct {
		verb, method string
		status       int
		length       int64
		body         string
	}{
		{"GET", "redirect", 302, -2, ""},
		{"GET", "204", 204, 0, ""},
		{"GET", "304", 304, 0, ""},
		{"POST", "418", 418, -2, "teapot"},
		{"HEAD", "head", 200, 1234, ""},
	} {
		r := post("")
		r.Verb, r.Method = c.verb, c.method
		resp, err := channels(t).Deliver(testkit.Context(t), e, r)
		if err != nil {
			t.Fatal(err)
		}
		body := read(t, resp)
		if resp.Status != c.status || (c.length != -2 && resp.Length != c.length) || (c.body != "" && body != c.body) {
			t.Errorf("%s: got %d, length %d, %q", c.method, resp.Status, resp.Length, body)
		}
		if got := strings.Join(resp.Header["Set-Cookie"], "|"); got != "a=1|b=2" || resp.Header.First("X-App") != "1" {
			t.Errorf("%s: got %v", c.method, resp.Header)
		}
		for _, k := range []string{"Content-Length", "Content-Type", "Connection", "Keep-Alive", "X-Hop", "Farcall-Served-By", "Trailer", "X-Trailer"} {
			if v, ok := resp.Header[k]; ok {
				t.Errorf("%s: %s: %q travelled back", c.method, k, v)
			}
		}
	}
}

func wantError(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	var e *invoke.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Error(), text) {
		t.Errorf("got %v, want %s with %q", err, code, text)
	}
}

// TestNotListening says that a refused connection proves that nothing was executed, and that the
// next call dials afresh.
func TestNotListening(t *testing.T) {
	for _, protocol := range []Protocol{HTTP, H2C, GRPC} {
		t.Run(string(protocol), func(t *testing.T) {
			at := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: testkit.FreePort(t)}
			e := endpoint(t, at)
			e.Protocol = protocol
			c := channels(t)
			ctx := testkit.Context(t)
			for range 2 {
				_, err := c.Deliver(ctx, e, post("x"))
				wantError(t, err, codes.Unavailable, "does not take connections")
			}
			l, err := net.Listen("tcp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			serveAll(t, l)
			resp, err := c.Deliver(ctx, e, post("x"))
			if err != nil {
				t.Fatalf("once it listens: %v", err)
			}
			resp.Body.Close()
		})
	}
}

// serveAll serves HTTP/1.1, h2c and gRPC on one listener.
func serveAll(t *testing.T, l net.Listener) {
	g := grpc.NewServer()
	runtimev1.RegisterAppCallbackServer(g, &callback{})
	s := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			g.ServeHTTP(w, r)
		}
	})}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() { s.Close(); g.Stop(); <-done })
}

// TestDies says that a connection that breaks after the call was written leaves the outcome open.
func TestDies(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = bufio.NewReader(c).ReadString('\n')
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	for _, protocol := range []Protocol{HTTP, H2C, GRPC} {
		e := endpoint(t, l.Addr())
		e.Protocol = protocol
		_, err := channels(t).Deliver(testkit.Context(t), e, post("x"))
		if protocol == GRPC {
			// gRPC waits for the server's preface, which never came: no call was sent.
			wantError(t, err, codes.Unavailable, "does not take connections")
			continue
		}
		var was *invoke.Error
		if protocol == H2C && errors.As(err, &was) && was.NotExecuted() && strings.Contains(was.Message, "before the call was sent") {
			continue // the connection broke between its preface and the call
		}
		wantError(t, err, codes.Internal, invoke.ReasonOutcomeUnknown)
	}
}

func TestDeadlineAndCancel(t *testing.T) {
	release := make(chan struct{})
	e := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	ctx, cancel := context.WithTimeout(testkit.Context(t), 30*time.Millisecond)
	defer cancel()
	_, err := channels(t).Deliver(ctx, e, post("x"))
	wantError(t, err, codes.DeadlineExceeded, "deadline")
	ctx, cancel = context.WithCancel(testkit.Context(t))
	time.AfterFunc(30*time.Millisecond, cancel)
	_, err = channels(t).Deliver(ctx, e, post("x"))
	wantError(t, err, codes.Canceled, "went away")
}

// TestBodyFails says that a call whose body breaks is the caller's fault, and that the
// application does not take half of it for the whole.
func TestBodyFails(t *testing.T) {
	whole := make(chan error, 1)
	e := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		whole <- err
	})
	r := post("")
	r.Length = -1
	r.Rest = invoke.NewStream(io.MultiReader(strings.NewReader("half"), failing{}), nil)
	_, err := channels(t).Deliver(testkit.Context(t), e, r)
	wantError(t, err, codes.InvalidArgument, "torn")
	if err := <-whole; err == nil {
		t.Error("the application read a whole body")
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, invoke.Invalid("torn") }

func TestCannotBeSaid(t *testing.T) {
	e := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("was called") })
	r := post("")
	r.Verb = ""
	_, err := channels(t).Deliver(testkit.Context(t), e, r)
	wantError(t, err, codes.InvalidArgument, "missing HTTP extension field")
	r.Verb = "CONNECT"
	_, err = channels(t).Deliver(testkit.Context(t), e, r)
	wantError(t, err, codes.InvalidArgument, "invalid HTTP verb")
	e.Protocol = "telnet"
	_, err = channels(t).Deliver(testkit.Context(t), e, post(""))
	wantError(t, err, codes.Unavailable, "http, https, h2c, grpc")
	e.Protocol = GRPC
	r = post("")
	r.Head = make([]byte, MaxMessage+1)
	_, err = channels(t).Deliver(testkit.Context(t), e, r)
	wantError(t, err, codes.ResourceExhausted, "larger than")
	r = post("")
	r.Length, r.Rest = -1, invoke.NewStream(io.LimitReader(zeros{}, MaxMessage+1), nil)
	_, err = channels(t).Deliver(testkit.Context(t), e, r)
	wantError(t, err, codes.ResourceExhausted, "larger than")
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// callback is a gRPC application.
type callback struct {
	runtimev1.UnimplementedAppCallbackServer
	md  metadata.MD
	msg *commonv1.InvokeRequest
	err error
}

func (c *callback) OnInvoke(ctx context.Context, in *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
	c.md, _ = metadata.FromIncomingContext(ctx)
	c.msg = in
	_ = grpc.SetHeader(ctx, metadata.Pairs("x-app", "1", "x-bin", "\x00\x01", "farcall-served-by", "a/lie"))
	_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "t"))
	if c.err != nil {
		return nil, c.err
	}
	return &commonv1.InvokeResponse{Data: &anypb.Any{Value: in.GetData().GetValue()}, ContentType: "text/y"}, nil
}

func TestGRPCApplication(t *testing.T) {
	app := &callback{}
	s := grpc.NewServer()
	runtimev1.RegisterAppCallbackServer(s, app)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	testkit.Go(t, "app", func(context.Context) error { return s.Serve(l) })
	t.Cleanup(s.Stop)
	e := endpoint(t, l.Addr())
	e.Protocol = GRPC
	c := channels(t)
	r := post("abc")
	r.Query, r.ContentType = "q=1", "text/plain"
	r.Header = invoke.Header{
		"Accept": {"x"}, "User-Agent": {"ua"}, "Authorization": {"Bearer x"}, "Content-Type": {"text/plain"}, "accept": {"grpc-spelt"}, "X-Own": {"1", "2"}, "X-Uml": {"\u00e4"}, "trace-bin": {"AAE="}, "bad-bin": {"?"},
		"dapr-caller-app-id": {"web"}, "destination-app-id": {"cart"}, "content-type": {"application/grpc"}, "Connection": {"x"}, ":authority": {"h"}, "grpc-foo": {"1"}, "x(y": {"1"},
	}
	resp, err := c.Deliver(testkit.Context(t), e, r)
	if err != nil {
		t.Fatal(err)
	}
	if body := read(t, resp); resp.Status != 0 || body != "abc" || resp.ContentType != "text/y" || resp.Length != 3 {
		t.Errorf("got %+v, %q", resp, body)
	}
	if resp.Header.First("x-app") != "1" || resp.Header.First("x-bin") != "AAE=" || resp.Trailer.First("x-trailer") != "t" || resp.Header.First("farcall-served-by") != "" {
		t.Errorf("got %v and %v", resp.Header, resp.Trailer)
	}
	for k, want := range map[string]string{
		"dapr-accept": "x", "accept": "grpc-spelt", "x-own": "1|2", "trace-bin": "\x00\x01", "dapr-caller-app-id": "web", "dapr-content-type": "text/plain",
		"dapr-authority": "h", "dapr-grpc-foo": "1", "dapr-user-agent": "", "authorization": "Bearer x", "destination-app-id": "", "connection": "", "x-uml": "", "x(y": "", "bad-bin": "",
	} {
		if got := strings.Join(app.md[k], "|"); got != want {
			t.Errorf("%s: got %q, want %q", k, got, want)
		}
	}
	if app.msg.GetMethod() != "m" || app.msg.GetHttpExtension().GetQuerystring() != "q=1" || app.msg.GetHttpExtension().GetVerb() != commonv1.HTTPExtension_POST || app.msg.GetContentType() != "text/plain" {
		t.Errorf("got %v", app.msg)
	}

	// What the application answers is an answer, UNAVAILABLE included.
	for code, want := range map[codes.Code]int{codes.NotFound: 5, codes.Unavailable: 14, 300: 2} {
		app.err = status.Error(code, "says the application")
		resp, err = c.Deliver(testkit.Context(t), e, post("abc"))
		if err != nil || resp.Status != want || resp.Message != "says the application" {
			t.Errorf("%d: got %+v, %v", code, resp, err)
		}
	}
}
