package invoke

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
)

func TestNormalizeMethod(t *testing.T) {
	for _, c := range []struct{ in, want, err string }{
		{in: "echo", want: "echo"},
		{in: "/echo", want: "echo"},
		{in: "//a//b/", want: "a/b"},
		{in: "a/../b", want: "b"},
		{in: "../../etc/passwd", want: "etc/passwd"},
		{in: "/../../x", want: "x"},
		{in: "a/../../../b", want: "b"},
		{in: "..", want: ""},
		{in: ".", want: ""},
		{in: "/", want: ""},
		{in: "", want: ""},
		{in: "a b/ü", want: "a b/ü"},
		{in: "admin%2F..%2Fpublic", want: "admin%2F..%2Fpublic"},
		{in: "..foo/bar", want: "..foo/bar"},
		{in: "a?b", err: `'?'`},
		{in: "a#b", err: `"#"`},
		{in: "a\x00b", err: `"\x00" at byte 1`},
		{in: "a\nb", err: `"\n"`},
		{in: "a\u0085b", err: "not allowed"},
		{in: "a\xffb", err: "not UTF-8"},
	} {
		got, err := NormalizeMethod(c.in)
		if c.err != "" {
			var e *Error
			if !errors.As(err, &e) || e.Code != codes.InvalidArgument {
				t.Errorf("%q: got %q, %v; want InvalidArgument", c.in, got, err)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("%q: got %q, %v; want %q", c.in, got, err, c.want)
		}
	}
}

func FuzzNormalizeMethod(f *testing.F) {
	for _, s := range []string{"", "a/b", "/../x", "..", "../..", "a//b/.", "....//x", "a?b", "\x00", "/.././/..//a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := NormalizeMethod(s)
		if err != nil {
			return
		}
		if again, err := NormalizeMethod(m); err != nil || again != m {
			t.Fatalf("%q became %q, and that %q, %v", s, m, again, err)
		}
		if strings.HasPrefix(m, "/") || m == ".." || strings.HasPrefix(m, "../") || strings.Contains(m, "/../") || strings.ContainsAny(m, "#?\x00\r\n") {
			t.Fatalf("%q became %q", s, m)
		}
	})
}

func TestVerbs(t *testing.T) {
	for _, verb := range []string{"", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"} {
		if got := VerbFromProto(VerbToProto(verb)); got != verb {
			t.Errorf("%q came back as %q", verb, got)
		}
	}
	if got := VerbToProto("patch").String(); got != "PATCH" {
		t.Errorf("patch became %s", got)
	}
	for _, verb := range []string{"PROPFIND", "GETS", "NONE", "none"} {
		if got := VerbFromProto(VerbToProto(verb)); got != "POST" {
			t.Errorf("%q came back as %q, want POST as Dapr does", verb, got)
		}
	}
	if got := VerbFromProto(77); got != "" {
		t.Errorf("an unknown number gave %q", got)
	}
}

// TestStatusTables pins Dapr's two tables (dapr-interop.md 1.7).
func TestStatusTables(t *testing.T) {
	toHTTP := map[codes.Code]int{
		codes.OK: 200, codes.Canceled: 408, codes.Unknown: 500, codes.InvalidArgument: 400, codes.DeadlineExceeded: 504,
		codes.NotFound: 404, codes.AlreadyExists: 409, codes.PermissionDenied: 403, codes.Unauthenticated: 401,
		codes.ResourceExhausted: 429, codes.FailedPrecondition: 400, codes.Aborted: 409, codes.OutOfRange: 400,
		codes.Unimplemented: 501, codes.Internal: 500, codes.Unavailable: 503, codes.DataLoss: 500, 99: 500,
	}
	for c, want := range toHTTP {
		if got := HTTPFromGRPC(int(c)); got != want {
			t.Errorf("%s: got %d, want %d", c, got, want)
		}
	}
	toGRPC := map[int]codes.Code{
		200: codes.OK, 204: codes.OK, 299: codes.OK, 408: codes.Canceled, 500: codes.Unknown, 400: codes.Internal,
		504: codes.DeadlineExceeded, 404: codes.NotFound, 409: codes.AlreadyExists, 403: codes.PermissionDenied,
		401: codes.Unauthenticated, 429: codes.ResourceExhausted, 501: codes.Unimplemented, 503: codes.Unavailable,
		302: codes.Unknown, 418: codes.Unknown, 502: codes.Unknown,
	}
	for s, want := range toGRPC {
		if got := GRPCFromHTTP(s); got != want {
			t.Errorf("%d: got %s, want %s", s, got, want)
		}
	}
}

// TestErrorCodes pins design.md "Codes".
func TestErrorCodes(t *testing.T) {
	for _, c := range []struct {
		err  *Error
		http int
	}{
		{Invalid("x"), 400},
		{Errorf(codes.PermissionDenied, ReasonDenied, "x"), 403},
		{Errorf(codes.NotFound, ReasonNotFound, "x"), 404},
		{NotDispatched(ReasonAppDown, "x"), 503},
		{OutcomeUnknown("x"), 502},
		{Errorf(codes.DeadlineExceeded, ReasonDeadline, "x"), 504},
		{Errorf(codes.ResourceExhausted, ReasonTooLarge, "x"), 413},
	} {
		if got := c.err.HTTPStatus(); got != c.http {
			t.Errorf("%v: got %d, want %d", c.err, got, c.http)
		}
		st := c.err.GRPCStatus()
		info, ok := st.Details()[0].(*errdetails.ErrorInfo)
		if st.Code() != c.err.Code || !ok || info.GetReason() != c.err.Reason || info.GetDomain() != ErrorDomain {
			t.Errorf("%v: got status %v with %v", c.err, st, st.Details())
		}
	}
}

func TestFromContext(t *testing.T) {
	if e := FromContext(t.Context()); e != nil {
		t.Errorf("a context that lives gave %v", e)
	}
	late, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	if e := FromContext(late); e == nil || e.Code != codes.DeadlineExceeded {
		t.Errorf("got %v", e)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if e := FromContext(gone); e == nil || e.Code != codes.Canceled {
		t.Errorf("got %v", e)
	}
	if e := FromContext(unheard{t.Context(), time.Now()}); e == nil || e.Code != codes.DeadlineExceeded {
		t.Errorf("a deadline that the context has not heard of: %v", e)
	}
	if e := FromContext(unheard{t.Context(), time.Now().Add(time.Hour)}); e != nil {
		t.Errorf("before the deadline: %v", e)
	}
}

// unheard is a context whose deadline may have passed without its knowing.
type unheard struct {
	context.Context
	at time.Time
}

func (c unheard) Deadline() (time.Time, bool) { return c.at, true }

func TestHopByHop(t *testing.T) {
	for _, k := range []string{"Connection", "keep-alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade", "HTTP2-Settings", "TE", "Trailer", "Proxy-Authorization", "proxy-authenticate"} {
		if !HopByHop(k) {
			t.Errorf("%s is hop by hop", k)
		}
	}
	for _, k := range []string{"", "Content-Type", "Accept", "Authorization", "X", "Trailers", "Te1"} {
		if HopByHop(k) {
			t.Errorf("%s is not hop by hop", k)
		}
	}
	got := ConnectionNames(Header{"connection": {"close, X-Secret", " , Other "}, "X": {"y"}})
	if strings.Join(got, "|") != "close|x-secret|other" {
		t.Errorf("got %q", got)
	}
}

func TestClaimsIdentity(t *testing.T) {
	for _, k := range []string{
		"Dapr-Caller-App-Id", "dapr-caller-app-id", "DAPR_CALLER_APP_ID", "Dapr_Caller-Namespace", "dapr-caller-future",
		"Dapr-Callee-App-Id", "Dapr-App-Id", "Destination-App-Id", "Dapr-Api-Token",
		"Farcall-Served-By", "farcall-target", "Farcall_Hop", "FARCALL-ORIGIN", "farcall-strategy",
	} {
		if !ClaimsIdentity(k) {
			t.Errorf("%s claims identity", k)
		}
	}
	for _, k := range []string{"", "Date", "Forwarded", "From", "Daprx", "X-Dapr-Caller-App-Id", "Content-Type", "Dapr-Http-Status"} {
		if ClaimsIdentity(k) {
			t.Errorf("%s claims nothing", k)
		}
	}
}

func TestReplayable(t *testing.T) {
	r := &Request{Head: []byte("x")}
	if !r.Replayable() {
		t.Error("a body in memory can be sent again")
	}
	stopped := 0
	r = &Request{Rest: NewStream(strings.NewReader("abc"), func() { stopped++ })}
	if !r.Replayable() {
		t.Error("a stream that nobody touched can be sent")
	}
	if _, err := io.ReadAll(r.Rest); err != nil || r.Replayable() {
		t.Errorf("a stream that was read cannot be sent again (%v)", err)
	}
	if r.Rest.Stop(); stopped != 0 {
		t.Error("a body that was read to its end needs no stopping")
	}
	bad := errors.New("torn")
	s := NewStream(iotest.ErrReader(bad), func() { stopped++ })
	_, _ = io.ReadAll(s)
	if s.Stop(); stopped != 1 || !errors.Is(s.Err(), bad) {
		t.Errorf("stopped %d times, error %v", stopped, s.Err())
	}
	for verb, want := range map[string]bool{http.MethodGet: true, http.MethodHead: true, http.MethodOptions: true, http.MethodPut: false, http.MethodDelete: false, "": false} {
		if got := (&Request{Verb: verb}).Idempotent(); got != want {
			t.Errorf("%q idempotent: %v", verb, got)
		}
	}
}

func TestCopyWritesPieceByPiece(t *testing.T) {
	var pieces []string
	w := writerFunc(func(p []byte) (int, error) { pieces = append(pieces, string(p)); return len(p), nil })
	n, err := Copy(w, iotest.OneByteReader(io.MultiReader(strings.NewReader("abc"))))
	if n != 3 || err != nil || strings.Join(pieces, "|") != "a|b|c" {
		t.Errorf("got %d, %v, %q", n, err, pieces)
	}
	bad := errors.New("torn")
	if _, err := Copy(w, io.MultiReader(strings.NewReader("x"), iotest.ErrReader(bad))); !errors.Is(err, bad) {
		t.Errorf("got %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestText says what becomes of words that a header cannot carry.
func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"":                                  "",
		"plain ~ words":                     "plain ~ words",
		"a\nb\r\n\tc":                       "a b   c",
		"f\u00fcr\x00\x7f\xff":              "f?r???",
		strings.Repeat("x", MaxText):        strings.Repeat("x", MaxText),
		strings.Repeat("x", 1+MaxText):      strings.Repeat("x", MaxText-3) + "...",
		strings.Repeat("\u00fc", MaxText):   strings.Repeat("?", MaxText),
		strings.Repeat("\u00fc", 1+MaxText): strings.Repeat("?", MaxText-3) + "...",
	} {
		if got := Text(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	long := strings.Repeat("x", MaxText)
	if n := testing.AllocsPerRun(100, func() { Text(long) }); n != 0 {
		t.Errorf("%v allocations for words that can stand as they are", n)
	}
}

// TestWithTraceParent says that another traceparent replaces the old one where it stood, and that
// the request it was made of stays as it is.
func TestWithTraceParent(t *testing.T) {
	body := NewStream(strings.NewReader("x"), nil)
	for _, c := range []struct{ from, to Header }{
		{Header{"Traceparent": {"old"}, "X": {"1"}}, Header{"Traceparent": {"new"}, "X": {"1"}}},
		{Header{"traceparent": {"old", "older"}}, Header{"traceparent": {"new"}}},
		{Header{}, Header{"Traceparent": {"new"}}},
		{nil, Header{"Traceparent": {"new"}}},
	} {
		r := &Request{Service: "cart", Header: c.from, Rest: body}
		before := maps.Clone(c.from)
		got := r.WithTraceParent("new")
		if !reflect.DeepEqual(got.Header, c.to) || got.TraceParent() != "new" || got.Service != "cart" || got.Rest != body {
			t.Errorf("%v: got %v", c.from, got.Header)
		}
		if !reflect.DeepEqual(r.Header, before) {
			t.Errorf("the request was changed to %v", r.Header)
		}
	}
	for _, h := range []Header{{"Tracestate": {"a=1", "b=2"}}, {"tracestate": {"a=1,b=2"}}} {
		if got := h.TraceState(); got != "a=1,b=2" {
			t.Errorf("%v: got %q", h, got)
		}
	}
	if got := (Header{}).TraceState(); got != "" {
		t.Errorf("got %q", got)
	}
}
