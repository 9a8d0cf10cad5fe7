package face

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/relay"
	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	internalsv1 "github.com/farcall/farcall/api/dapr/proto/internals/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// bothListeners runs a test at the face for peers and at the one for sidecars, which reach the same
// application.
func bothListeners(t *testing.T, h http.HandlerFunc, f func(t *testing.T, addr string)) {
	t.Helper()
	p := newPeerAgent(t, "west", "cart-1", application(t, h))
	t.Run("internal", func(t *testing.T) { f(t, p.addr) })
	t.Run("dapr", func(t *testing.T) {
		f(t, newSidecarFace(t, &plan{targets: []relay.Target{p.target()}}).addr)
	})
}

type change = func(*internalsv1.InternalInvokeRequest)

func query(q string) change {
	return func(p *internalsv1.InternalInvokeRequest) { p.Message.HttpExtension.Querystring = q }
}

// TestOddCalls says what becomes of calls on Dapr's wire that are malformed, or could be read in two
// ways: they are refused by what they are, or reach the application once, in one form.
func TestOddCalls(t *testing.T) {
	w := &witness{}
	long := strings.Repeat("a", 200<<10)
	bothListeners(t, w.ServeHTTP, func(t *testing.T, addr string) {
		c := sidecar(t, addr)
		for _, c2 := range []struct {
			what, method string
			change       change
			code         codes.Code
			text         string
			calls        string
		}{
			{"in order", "x", nil, codes.OK, "", `POST /x 0 "" whole 0 []`},
			{"a slash escaped, and a way up", "admin%2F..%2Fpublic", nil, codes.OK, "", `POST /public 0 "" whole 0 []`},
			{"dots escaped", "%2e%2e/%2E%2E/x", nil, codes.OK, "", `POST /x 0 "" whole 0 []`},
			{"an escape escaped", "a%252F..%252Fb", nil, codes.OK, "", `POST /a%252F..%252Fb 0 "" whole 0 []`},
			{"a percent sign", "100%", nil, codes.OK, "", `POST /100%25 0 "" whole 0 []`},
			{"a way up", "../../x", nil, codes.OK, "", `POST /x 0 "" whole 0 []`},
			{"backslashes", `..\..\x`, nil, codes.OK, "", `POST /..%5C..%5Cx 0 "" whole 0 []`},
			{"no method", "", nil, codes.OK, "", `POST / 0 "" whole 0 []`},
			{"a hash", "a#b", nil, codes.InvalidArgument, "invalid method", ""},
			{"a hash escaped", "a%23b", nil, codes.InvalidArgument, "invalid method", ""},
			{"a query in the method", "a?b", nil, codes.InvalidArgument, "invalid method", ""},
			{"a query escaped", "a%3Fb", nil, codes.InvalidArgument, "invalid method", ""},
			{"NUL", "a\x00b", nil, codes.InvalidArgument, "invalid method", ""},
			{"NUL escaped", "a%00b", nil, codes.InvalidArgument, "invalid method", ""},
			{"a line break escaped", "a%0d%0aX-A: 1", nil, codes.InvalidArgument, "invalid method", ""},
			{"no UTF-8 escaped", "a%ff", nil, codes.InvalidArgument, "invalid method", ""},
			{"a line break in the query", "x", query("a=1\r\nX-A: 1"), codes.InvalidArgument, "invalid query", ""},
			{"a request in the query", "x", query("a=1 HTTP/1.1\r\nHost: h\r\n\r\nGET /y"), codes.InvalidArgument, "invalid query", ""},
			{"a blank in the query", "x", query("a b"), codes.InvalidArgument, "invalid query", ""},
			{"a hash in the query", "x", query("a#b"), codes.InvalidArgument, "invalid query", ""},
			{"two lengths", "x", with("Content-Length", "0", "content-length", "5"), codes.InvalidArgument, "Content-Length is said to be 0, and 5", ""},
			{"a length with a sign", "x", with("Content-Length", "+0"), codes.InvalidArgument, "is not a number", ""},
			{"no version", "x", func(p *internalsv1.InternalInvokeRequest) { p.Ver = 0 }, codes.InvalidArgument, "unsupported version 0", ""},
			{"another version", "x", func(p *internalsv1.InternalInvokeRequest) { p.Ver = 7 }, codes.InvalidArgument, "unsupported version 7", ""},
			{"no metadata", "x", func(p *internalsv1.InternalInvokeRequest) { p.Metadata = nil }, codes.InvalidArgument, "metadata is empty", ""},
			{"no message", "x", func(p *internalsv1.InternalInvokeRequest) { p.Message = nil }, codes.InvalidArgument, "message is nil", ""},
			{"an unknown verb", "x", func(p *internalsv1.InternalInvokeRequest) { p.Message.HttpExtension.Verb = 77 }, codes.InvalidArgument, "missing HTTP extension field", ""},
			{"CONNECT", "x", func(p *internalsv1.InternalInvokeRequest) {
				p.Message.HttpExtension.Verb = commonv1.HTTPExtension_CONNECT
			}, codes.InvalidArgument, "invalid HTTP verb", ""},
			{"chunked, it says", "x", with("Transfer-Encoding", "chunked", "TE", "trailers", "Upgrade", "websocket"), codes.OK, "", `POST /x 0 "" whole 0 []`},
			{"another host, it says", "x", with("Host", "elsewhere.example", "host", "elsewhere.example"), codes.OK, "", `POST /x 0 "" whole 0 []`},
			{"hop by hop", "x", with("Connection", "close, X-Mine", "X-Mine", "1"), codes.OK, "", `POST /x 0 "" whole 0 []`},
			{"a header in a value", "x", with("X-A", "1\r\nX-Evil: 1"), codes.OK, "", `POST /x 0 "" whole 0 []`},
			{"a header in a name", "x", with("X-A: 1\r\nX-Evil", "1", "", "1", "X B", "1"), codes.OK, "", `POST /x 0 "" whole 0 []`},
			{"headers larger than the application takes", "x", with("X-A", long+long+long+long+long+long), codes.OK, "", ""},
		} {
			for form, call := range map[string]func(p *internalsv1.InternalInvokeRequest) error{
				"stream": func(p *internalsv1.InternalInvokeRequest) error { return stream(t, c, nil, &reqMsg{Request: p}).err },
				"unary": func(p *internalsv1.InternalInvokeRequest) error {
					_, err := c.CallLocal(testkit.Context(t), p)
					return err
				},
			} {
				p := leading(c2.method)
				if c2.change != nil {
					c2.change(p)
				}
				err := call(p)
				st := status.Convert(err)
				if st.Code() != c2.code || !strings.Contains(st.Message(), c2.text) {
					t.Errorf("%s, %s: got %v, want %v with %q", c2.what, form, err, c2.code, c2.text)
				}
				// A stream does not say that it has no body, unless it says so.
				calls := strings.ReplaceAll(strings.Join(w.take(), "; "), `-1 "chunked"`, `0 ""`)
				if calls != c2.calls {
					t.Errorf("%s, %s: the application saw %s, want %s", c2.what, form, calls, c2.calls)
				}
			}
		}
	})
}

// TestOddStreams says that a stream which goes wrong on its way never ends at the application as a
// whole body.
func TestOddStreams(t *testing.T) {
	w := &witness{}
	big := strings.Repeat("x", 100<<10) // more than is held back until it is whole
	bothListeners(t, w.ServeHTTP, func(t *testing.T, addr string) {
		c := sidecar(t, addr)
		for _, c2 := range []struct {
			what string
			msgs []*reqMsg
			code codes.Code
			text string
			sees string // empty: nothing, or a torn body
		}{
			{"in order", []*reqMsg{{Request: leading("x"), Payload: piece(0, "a")}, {}, {Payload: piece(1, "")}, {Payload: piece(2, "b")}}, codes.OK, "", "whole 2"},
			{"nothing", nil, codes.InvalidArgument, "the stream has no message", ""},
			{"no head", []*reqMsg{{Payload: piece(0, "x")}}, codes.InvalidArgument, "no request", ""},
			{"an empty head", []*reqMsg{{Request: &internalsv1.InternalInvokeRequest{}}}, codes.InvalidArgument, "message is nil", ""},
			{"data in the head", []*reqMsg{{Request: leading("x", func(p *internalsv1.InternalInvokeRequest) {
				p.Message.Data = &anypb.Any{Value: []byte("x")}
			})}}, codes.InvalidArgument, "message.data is set", ""},
			{"a number too high at first", []*reqMsg{{Request: leading("x"), Payload: piece(1, "x")}}, codes.InvalidArgument, "1 (expected: 0)", ""},
			{"a number too high", []*reqMsg{{Request: leading("x"), Payload: piece(0, big)}, {Payload: piece(2, "y")}}, codes.InvalidArgument, "2 (expected: 1)", ""},
			{"a number twice", []*reqMsg{{Request: leading("x"), Payload: piece(0, big)}, {Payload: piece(0, "y")}}, codes.InvalidArgument, "0 (expected: 1)", ""},
			{"the highest number", []*reqMsg{{Request: leading("x"), Payload: piece(0, big)}, {Payload: piece(1<<64-1, "y")}}, codes.InvalidArgument, "(expected: 1)", ""},
			{"a second head", []*reqMsg{{Request: leading("x"), Payload: piece(0, big)}, {Request: leading("y"), Payload: piece(1, "y")}}, codes.InvalidArgument, "non-leading", ""},
			{"more than its length", []*reqMsg{{Request: leading("x", with("Content-Length", "3")), Payload: piece(0, "ab")}, {Payload: piece(1, "cd")}}, codes.InvalidArgument, "longer than its Content-Length", ""},
			{"less than its length", []*reqMsg{{Request: leading("x", with("Content-Length", "5")), Payload: piece(0, "ab")}}, codes.InvalidArgument, "ended after 2 of 5", ""},
			{"less than its length, streamed", []*reqMsg{{Request: leading("x", with("Content-Length", "500000")), Payload: piece(0, big)}}, codes.InvalidArgument, "ended after", ""},
			{"more than its length, streamed", []*reqMsg{{Request: leading("x", with("Content-Length", "150000")), Payload: piece(0, big)}, {Payload: piece(1, big)}}, codes.InvalidArgument, "longer than its Content-Length", ""},
			{"a message beyond all", []*reqMsg{{Request: leading("x"), Payload: piece(0, strings.Repeat("x", 5<<20))}}, codes.ResourceExhausted, "", ""},
		} {
			got := stream(t, c, nil, c2.msgs...)
			if st := status.Convert(got.err); st.Code() != c2.code || !strings.Contains(st.Message(), c2.text) {
				t.Errorf("%s: got %v, want %v with %q", c2.what, got.err, c2.code, c2.text)
			}
			if calls := strings.Join(w.whole(), "; "); (calls != "") != (c2.sees != "") || !strings.Contains(calls, c2.sees) {
				t.Errorf("%s: the application saw %s", c2.what, calls)
			}
		}
	})
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (rawCodec) Unmarshal([]byte, any) error   { return nil }
func (rawCodec) Name() string                  { return "proto" }

// TestNoProtobuf says that messages that are none are refused as such.
func TestNoProtobuf(t *testing.T) {
	w := &witness{}
	bothListeners(t, w.ServeHTTP, func(t *testing.T, addr string) {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for _, b := range []string{"\x0a", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x0a\x05\x1a\xff\xff\xff\x7f", "hello"} {
			for _, method := range []string{"CallLocal", "CallLocalStream"} {
				var out []byte
				err := conn.Invoke(testkit.Context(t), "/dapr.proto.internals.v1.ServiceInvocation/"+method, []byte(b), &out)
				if code := status.Code(err); code != codes.Internal && code != codes.InvalidArgument {
					t.Errorf("%s %q: got %v", method, b, err)
				}
			}
		}
		if calls := w.take(); len(calls) > 0 {
			t.Errorf("the application saw %v", calls)
		}
	})
}

// frames is a connection of HTTP/2 whose every frame is the test's.
type frames struct {
	*http2.Framer
	conn net.Conn
}

func newFrames(t *testing.T, addr string) *frames {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	f := &frames{http2.NewFramer(c, c), c}
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return f
}

// head gives the header block of a call.
func head(kv ...string) []byte {
	var b strings.Builder
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(kv); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]}) // into memory
	}
	return []byte(b.String())
}

// ends reads until stream 1, or the connection, has ended, and gives how.
func (f *frames) ends() string {
	for {
		fr, err := f.ReadFrame()
		switch fr := fr.(type) {
		case nil:
			return "the connection: " + err.Error()
		case *http2.RSTStreamFrame:
			return "the stream: " + fr.ErrCode.String()
		case *http2.GoAwayFrame:
			return "the connection: " + fr.ErrCode.String()
		case *http2.HeadersFrame:
			if fr.StreamEnded() {
				return "an answer"
			}
		case *http2.DataFrame:
			if fr.StreamEnded() {
				return "an answer"
			}
		}
	}
}

// TestFloodOfHeaders says that headers without end reach nobody, and take nothing along but their
// own connection.
func TestFloodOfHeaders(t *testing.T) {
	const whole, part = 64 << 20, 16 << 10
	w := &witness{}
	flood := func(t *testing.T, addr string, kv ...string) {
		t.Helper()
		f := newFrames(t, addr)
		over := make(chan string, 1)
		go func() { over <- f.ends() }()
		err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head(kv...)})
		sent := 0
		// Literals without a place in the table, so that each byte is one of the headers.
		block := []byte("\x00\x03x-a\x7f\x81\x7f" + strings.Repeat("a", 16<<10)) // the length in HPACK: 127 + 16257
		block = block[:part]
		for err == nil && sent < whole {
			err = f.WriteContinuation(1, false, block)
			sent += len(block)
		}
		if err == nil {
			// All went into the sockets' buffers, or was read and thrown away.
			_ = f.WriteContinuation(1, true, nil)
		}
		if how := <-over; how == "an answer" && err == nil && sent >= whole {
			t.Logf("refused by an answer after %d bytes", sent)
		} else if !strings.HasPrefix(how, "the ") && how != "an answer" {
			t.Errorf("ended by %q", how)
		}
		if calls := w.take(); len(calls) > 0 {
			t.Errorf("the application saw %v", calls)
		}
	}
	bothListeners(t, w.ServeHTTP, func(t *testing.T, addr string) {
		flood(t, addr, ":method", "POST", ":scheme", "http", ":authority", "h",
			":path", "/dapr.proto.internals.v1.ServiceInvocation/CallLocalStream", "content-type", "application/grpc", "te", "trailers")
		if got := stream(t, sidecar(t, addr), nil, &reqMsg{Request: leading("x"), Payload: piece(0, "a")}); got.err != nil {
			t.Errorf("the next call: %v", got.err)
		}
		w.take()
	})
	p := newPeerAgent(t, "west", "cart-1", application(t, w.ServeHTTP))
	a := newCallerAgent(t, &plan{targets: []relay.Target{p.target()}})
	flood(t, strings.TrimPrefix(a.url, "http://"), ":method", "GET", ":scheme", "http", ":authority", "h", ":path", "/x", "dapr-app-id", "cart")
	want(t, call(t, "GET", a.url+"/x", nil, "dapr-app-id", "cart"), 200, "served")
}

// TestOddFrames says that over HTTP/2 a body is as long as it says, or none, and that headers of
// HTTP/1.1's connections stay out.
func TestOddFrames(t *testing.T) {
	w := &witness{}
	p := newPeerAgent(t, "west", "cart-1", application(t, w.ServeHTTP))
	a := newCallerAgent(t, &plan{targets: []relay.Target{p.target()}})
	for _, c := range []struct {
		what   string
		length string
		data   int
		more   []string
		ends   string
		sees   string
	}{
		{"as long as it says", "5", 5, nil, "an answer", `POST /x 5 "" whole 5 []`},
		{"as long as it says, streamed", "100000", 100000, nil, "an answer", `POST /x 100000 "" whole 100000 []`},
		{"shorter", "5", 3, nil, "", ""},
		{"longer", "3", 5, nil, "the stream: PROTOCOL_ERROR", ""},
		{"shorter, streamed", "200000", 100000, nil, "", ""},
		{"two lengths", "5", 5, []string{"content-length", "3"}, "", ""},
		{"no number", "x", 5, nil, "", ""},
		{"a number with a sign", "+5", 5, nil, "", ""},
		{"chunked", "5", 5, []string{"transfer-encoding", "chunked"}, "an answer", ""},
		{"connection", "5", 5, []string{"connection", "x-a", "x-a", "1"}, "an answer", ""},
		{"upgrade", "5", 5, []string{"upgrade", "websocket"}, "an answer", ""},
		{"a capital letter", "5", 5, []string{"X-A", "1"}, "the ", ""},
		{"a line break", "5", 5, []string{"x-a", "1\r\nx-b: 2"}, "the ", ""},
		{"a protocol of its own", "5", 5, []string{":protocol", "websocket"}, "the stream: PROTOCOL_ERROR", ""},
		{"no slash in the path", "5", 5, []string{":path", "y"}, "the stream: PROTOCOL_ERROR", ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			f := newFrames(t, strings.TrimPrefix(a.url, "http://"))
			kv := []string{":method", "POST", ":scheme", "http", ":authority", "h"}
			if len(c.more) == 0 || c.more[0] != ":path" {
				kv = append(kv, ":path", "/x")
			}
			kv = append(kv, c.more...)
			kv = append(kv, "dapr-app-id", "cart", "content-length", c.length)
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head(kv...), EndHeaders: true}); err != nil {
				t.Fatal(err)
			}
			for left := c.data; left > 0; left -= 16 << 10 {
				n := min(left, 16<<10)
				if err := f.WriteData(1, left == n, make([]byte, n)); err != nil {
					break
				}
			}
			if how := f.ends(); !strings.HasPrefix(how, c.ends) {
				t.Errorf("ended by %s, want %s", how, c.ends)
			}
			if calls := strings.Join(w.whole(), "; "); calls != c.sees {
				t.Errorf("the application saw %s", calls)
			}
		})
	}
}

// TestPeerAnswersHalfAndHangs says that an answer which does not go on ends with the call's deadline
// on Dapr's wire too, at the application as well.
func TestPeerAnswersHalfAndHangs(t *testing.T) {
	ended := make(chan bool, 4)
	bothListeners(t, func(w http.ResponseWriter, r *http.Request) {
		defer func() { ended <- true }()
		_, _ = io.ReadAll(r.Body)
		_, _ = io.WriteString(w, "hello")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}, func(t *testing.T, addr string) {
		c := sidecar(t, addr)
		ctx, cancel := context.WithTimeout(testkit.Context(t), 300*time.Millisecond)
		defer cancel()
		st, err := c.CallLocalStream(ctx)
		if err == nil {
			err = errors.Join(st.Send(&reqMsg{Request: leading("x"), Payload: piece(0, "a")}), st.CloseSend())
		}
		for got := 0; err == nil; got++ {
			_, err = st.Recv()
		}
		wantStatus(t, err, codes.DeadlineExceeded, "")
		<-ended
		if strings.HasSuffix(t.Name(), "dapr") {
			got := stream(t, c, nil, &reqMsg{Request: leading("x", with(invoke.TimeoutKey, "200ms")), Payload: piece(0, "a")})
			wantStatus(t, got.err, codes.DeadlineExceeded, "the call's deadline passed")
			<-ended
		}
	})
}
