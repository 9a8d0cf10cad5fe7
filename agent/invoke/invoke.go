// Package invoke is the one model of a call that the agent's rooms hand to each other: what was
// asked, what came back, why it failed, and the rules that are the same on every leg (method
// names, headers, status codes).
//
// It is not a transport: it opens no connection, reads no clock and runs no goroutines.
package invoke

import (
	"io"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"

	"google.golang.org/protobuf/types/known/anypb"
)

// Identity says who made a call. AppID is an app-id, or "node/<cluster>/<node>" where the agent
// cannot tell which application it was; Namespace is empty in that case.
type Identity struct {
	AppID     string
	Namespace string
}

// Header holds headers or metadata as their origin spelt them: canonical keys came over HTTP,
// lower-case keys over gRPC, and values of "-bin" keys are base64 (Dapr's convention). Keys are
// never re-spelt on the way, because a daprd tells the origin's protocol by them.
type Header map[string][]string

// Request is one call on its way to an application. It is owned by the face that received it and
// is read, not changed, by everybody else; one Request may be delivered several times one after
// another, or at the same time where Replayable is true.
type Request struct {
	// Service is the callee's app-id, without a namespace.
	Service string
	// Verb is the HTTP method, one that Dapr's wire can say; empty for a call from gRPC that
	// named none, which only a gRPC application can take.
	Verb string
	// Method is what NormalizeMethod returned: the path without its leading slash.
	Method string
	// Query is the raw query string without "?".
	Query       string
	ContentType string
	// TypeURL is set where the body is a packed protobuf (google.protobuf.Any).
	TypeURL string
	Header  Header
	// Length is the whole body's length in bytes, -1 where the caller did not say.
	Length int64
	// Head is the body, or nil where Rest is set. It must not be changed or reused after the
	// call: a transport may read it for longer than the call lasts.
	Head []byte
	// Rest is a body that is streamed, and so can be sent once only; nil where Head is all.
	Rest *Stream
}

// Replayable reports whether the call could be sent (again) with its body whole.
func (r *Request) Replayable() bool { return r.Rest == nil || !r.Rest.Begun() }

// Idempotent reports whether the call may be repeated although an earlier attempt may have been
// executed: GET, HEAD and OPTIONS, as strategies.md says. A policy may name further methods.
func (r *Request) Idempotent() bool {
	return r.Verb == http.MethodGet || r.Verb == http.MethodHead || r.Verb == http.MethodOptions
}

// The keys of the W3C trace context, as HTTP and as gRPC spells them.
const (
	traceParentHTTP = "Traceparent"
	traceParentGRPC = "traceparent"
)

// TraceParent gives the W3C traceparent of the call, or "".
func (r *Request) TraceParent() string { return r.Header.TraceParent() }

// WithTraceParent gives the same call with another traceparent, spelt as the old one was; r stays
// as it is. Both share a body that streams.
func (r *Request) WithTraceParent(tp string) *Request {
	out := *r
	if out.Header = maps.Clone(r.Header); out.Header == nil {
		out.Header = Header{}
	}
	key := traceParentHTTP
	if len(r.Header[key]) == 0 && len(r.Header[traceParentGRPC]) > 0 {
		key = traceParentGRPC
	}
	out.Header[key] = []string{tp}
	return &out
}

// TraceParent gives the W3C traceparent, or "".
func (h Header) TraceParent() string { return h.First(traceParentHTTP, traceParentGRPC) }

// TraceState gives the W3C tracestate, or "".
func (h Header) TraceState() string {
	if v := h["Tracestate"]; len(v) > 0 {
		return strings.Join(v, ",")
	}
	return strings.Join(h["tracestate"], ",")
}

// First gives the first value of the first of the keys that is there, spelt exactly so.
func (h Header) First(keys ...string) string {
	for _, k := range keys {
		if v := h[k]; len(v) > 0 {
			return v[0]
		}
	}
	return ""
}

// Stream is a request body that is read while it arrives. It remembers whether anybody began,
// and what went wrong, since the transports in between do not all hand on a body's error.
type Stream struct {
	r       io.Reader
	stop    func()
	started atomic.Bool
	ended   atomic.Bool
	failed  atomic.Pointer[error]
}

// NewStream wraps r. stop, which may be nil, makes a Read that blocks in another goroutine
// return; it is called at most when the call is over.
func NewStream(r io.Reader, stop func()) *Stream { return &Stream{r: r, stop: stop} }

// Read reads from the body and marks it as begun.
func (s *Stream) Read(p []byte) (int, error) {
	s.started.Store(true)
	n, err := s.r.Read(p)
	switch err {
	case nil:
	case io.EOF:
		s.ended.Store(true)
	default:
		s.failed.Store(&err)
	}
	return n, err
}

// Begun reports whether anybody has begun to read the body.
func (s *Stream) Begun() bool { return s.started.Load() }

// Err gives what made a Read fail, nil where nothing did.
func (s *Stream) Err() error {
	if err := s.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Stop makes a blocked Read return soon; a body that was read to its end is left in peace. A body
// that was not is of no use afterwards.
func (s *Stream) Stop() {
	if s.stop != nil && !s.ended.Load() {
		s.stop()
	}
}

// Response is what an application answered. Whoever gets one must Close its Body.
type Response struct {
	// Status is an HTTP status (100 and up) or a gRPC code (0 to 16), as Dapr's wire has it.
	Status int
	// Message and Details belong to a gRPC code.
	Message     string
	Details     []*anypb.Any
	ContentType string
	TypeURL     string
	Header      Header
	// Trailer is only there from a gRPC application; HTTP trailers are dropped, as Dapr does.
	Trailer Header
	// Length is the body's length in bytes where known (for HEAD: what a GET would have), else -1.
	Length int64
	// Body streams; a Read that fails with anything but io.EOF means that the body is cut short.
	Body io.ReadCloser
}

// HTTP reports whether Status is an HTTP status.
func (r *Response) HTTP() bool { return r.Status >= 100 }

// OK reports whether the application called it a success: HTTP below 400, or gRPC OK.
func (r *Response) OK() bool {
	if r.HTTP() {
		return r.Status < 400
	}
	return r.Status == 0
}

// ServerError reports whether the application said that the fault is its own, which is what
// speaks against an instance.
func (r *Response) ServerError() bool { return r.HTTPStatus() >= 500 }

// HTTPStatus gives the status for an HTTP caller.
func (r *Response) HTTPStatus() int {
	if r.HTTP() {
		return r.Status
	}
	return HTTPFromGRPC(r.Status)
}
