package wire

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/farcall/farcall/agent/invoke"
	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	internalsv1 "github.com/farcall/farcall/api/dapr/proto/internals/v1"
	"github.com/farcall/farcall/internal/catalog"
)

func TestTarget(t *testing.T) {
	id := catalog.ID{Cluster: "east", Name: catalog.Name{Namespace: "default", Service: "cart"}, Instance: "a/b %:ü"}
	s := FormatTarget(id)
	if s != "east/default/cart/a%2Fb%20%25:%C3%BC" {
		t.Errorf("got %q", s)
	}
	if back, err := ParseTarget(s); err != nil || back != id {
		t.Errorf("got %v, %v", back, err)
	}
	for _, bad := range []string{"", "a", "a/b/c", "a/b/c/d/e", "/b/c/d", "a//c/d", "a/b//d", "a/b/c/", "a/b/c/%zz", "a/b/c/%ff", "%ff/b/c/d", "a/b/c%00/d"} {
		if id, err := ParseTarget(bad); err == nil {
			t.Errorf("%q was read as %v", bad, id)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"a/b/c/d", "a/b/c/%2F", "%/b/c/d", "////", "ü/b/c/d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseTarget(s)
		if err != nil {
			return
		}
		if back, err := ParseTarget(FormatTarget(id)); err != nil || back != id {
			t.Fatalf("%q: %v came back as %v, %v", s, id, back, err)
		}
	})
}

func list(v ...string) *internalsv1.ListStringValue { return &internalsv1.ListStringValue{Values: v} }

// head is a leading message that is in order; change spoils it.
func head(change ...func(*internalsv1.InternalInvokeRequest)) *internalsv1.InternalInvokeRequest {
	p := &internalsv1.InternalInvokeRequest{
		Ver:      internalsv1.APIVersion_V1,
		Metadata: map[string]*internalsv1.ListStringValue{invoke.DestinationAppID: list("cart")},
		Message: &commonv1.InvokeRequest{
			Method:        "/a/../b",
			HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_POST, Querystring: "q=1"},
		},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func length(v string) func(*internalsv1.InternalInvokeRequest) {
	return func(p *internalsv1.InternalInvokeRequest) { p.Metadata["content-LENGTH"] = list(v) }
}

func verb(v commonv1.HTTPExtension_Verb) func(*internalsv1.InternalInvokeRequest) {
	return func(p *internalsv1.InternalInvokeRequest) { p.Message.HttpExtension.Verb = v }
}

type reqMsg = internalsv1.InternalInvokeRequestStream

func payload(seq uint64, data string) *commonv1.StreamPayload {
	return &commonv1.StreamPayload{Seq: seq, Data: []byte(data)}
}

// feed gives what a stream's Recv would give.
func feed[M any](msgs ...*M) func() (*M, error) {
	return func() (*M, error) {
		if len(msgs) == 0 {
			return nil, io.EOF
		}
		m := msgs[0]
		msgs = msgs[1:]
		return m, nil
	}
}

func TestReadRequest(t *testing.T) {
	for _, c := range []struct {
		what     string
		msgs     []*reqMsg
		length   int64
		streamed bool
		body     string
		err      string // of the head
		bodyErr  string
	}{
		{what: "small body with its length", msgs: []*reqMsg{{Request: head(length("3")), Payload: payload(0, "abc")}}, length: 3, body: "abc"},
		{what: "no body, said so", msgs: []*reqMsg{{Request: head(length("0"))}}, length: 0},
		{what: "GET of a sidecar", msgs: []*reqMsg{{Request: head(verb(commonv1.HTTPExtension_GET))}}, length: 0},
		{what: "GET with an empty payload", msgs: []*reqMsg{{Request: head(verb(commonv1.HTTPExtension_GET)), Payload: payload(0, "")}}, length: 0},
		{what: "GET with a late body", msgs: []*reqMsg{{Request: head(verb(commonv1.HTTPExtension_GET))}, {Payload: payload(0, "x")}}, length: -1, streamed: true, body: "x"},
		{what: "unknown length streams at once", msgs: []*reqMsg{{Request: head(), Payload: payload(0, "a")}, {Payload: payload(1, "")}, {}, {Payload: payload(2, "b")}}, length: -1, streamed: true, body: "ab"},
		{what: "body in three", msgs: []*reqMsg{{Request: head(length("3")), Payload: payload(0, "a")}, {Payload: payload(1, "b")}, {Request: &internalsv1.InternalInvokeRequest{}, Payload: payload(2, "c")}}, length: 3, streamed: true, body: "abc"},

		{what: "no message", err: "the stream has no message"},
		{what: "no request", msgs: []*reqMsg{{Payload: payload(0, "a")}}, err: "the first message has no request"},
		{what: "no message inside", msgs: []*reqMsg{{Request: head(func(p *internalsv1.InternalInvokeRequest) { p.Message = nil })}}, err: "message is nil"},
		{what: "no metadata", msgs: []*reqMsg{{Request: head(func(p *internalsv1.InternalInvokeRequest) { p.Metadata = nil })}}, err: "metadata is empty"},
		{what: "no version", msgs: []*reqMsg{{Request: head(func(p *internalsv1.InternalInvokeRequest) { p.Ver = 0 })}}, err: "unsupported version 0"},
		{what: "bad method", msgs: []*reqMsg{{Request: head(func(p *internalsv1.InternalInvokeRequest) { p.Message.Method = "a?b" })}}, err: "invalid method"},
		{what: "data in the head", msgs: []*reqMsg{{Request: head(func(p *internalsv1.InternalInvokeRequest) { p.Message.Data = &anypb.Any{Value: []byte("x")} })}}, err: "message.data is set"},
		{what: "length is no number", msgs: []*reqMsg{{Request: head(length("three"))}}, err: "is not a number"},
		{what: "length is negative", msgs: []*reqMsg{{Request: head(length("-3"))}}, err: "is not a number"},
		{what: "first payload out of order", msgs: []*reqMsg{{Request: head(), Payload: payload(1, "a")}}, err: "invalid sequence number received: 1 (expected: 0)"},
		{what: "first payload too long", msgs: []*reqMsg{{Request: head(length("1")), Payload: payload(0, "ab")}}, err: "longer than its Content-Length"},

		{what: "payload skipped", msgs: []*reqMsg{{Request: head(), Payload: payload(0, "a")}, {Payload: payload(2, "b")}}, length: -1, streamed: true, body: "a", bodyErr: "invalid sequence number received: 2 (expected: 1)"},
		{what: "payload repeated", msgs: []*reqMsg{{Request: head(), Payload: payload(0, "a")}, {Payload: payload(0, "a")}}, length: -1, streamed: true, body: "a", bodyErr: "invalid sequence number received: 0 (expected: 1)"},
		{what: "second head", msgs: []*reqMsg{{Request: head()}, {Request: head(), Payload: payload(0, "a")}}, length: -1, streamed: true, bodyErr: "request metadata found in non-leading chunk"},
		{what: "ends early", msgs: []*reqMsg{{Request: head(length("5")), Payload: payload(0, "ab")}}, length: 5, streamed: true, body: "ab", bodyErr: "the body ended after 2 of 5 bytes"},
		{what: "grows too long", msgs: []*reqMsg{{Request: head(length("3")), Payload: payload(0, "ab")}, {Payload: payload(1, "cd")}}, length: 3, streamed: true, body: "ab", bodyErr: "longer than its Content-Length"},
	} {
		t.Run(c.what, func(t *testing.T) {
			r, err := ReadRequest(feed(c.msgs...))
			if c.err != "" {
				wantInvalid(t, err, c.err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.Service != "cart" || r.Method != "b" || r.Query != "q=1" || r.Length != c.length || (r.Rest != nil) != c.streamed {
				t.Errorf("got %+v", r)
			}
			got := r.Head
			if r.Rest != nil {
				got, err = io.ReadAll(r.Rest)
			}
			if string(got) != c.body {
				t.Errorf("body %q, want %q", got, c.body)
			}
			if c.bodyErr != "" {
				wantInvalid(t, err, c.bodyErr)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func wantInvalid(t *testing.T, err error, text string) {
	t.Helper()
	var e *invoke.Error
	if !errors.As(err, &e) || e.Code != codes.InvalidArgument || !strings.Contains(e.Message, text) {
		t.Errorf("got %v, want InvalidArgument with %q", err, text)
	}
}

func TestRequestThereAndBack(t *testing.T) {
	r := &invoke.Request{
		Service: "cart", Verb: "PUT", Method: "a/b", Query: "x=1&y", ContentType: "text/plain",
		Header: invoke.Header{"Accept": {"a", "b"}, "x-lower": {"1"}, "Traceparent": {"00-1-2-3"}},
		Length: 3, Head: []byte("abc"),
	}
	got, err := ReadRequest(feed(&reqMsg{Request: EncodeRequest(r), Payload: payload(0, "abc")}))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range r.Header {
		if !reflect.DeepEqual(got.Header[k], v) {
			t.Errorf("%s: got %q", k, got.Header[k])
		}
	}
	got.Header = r.Header
	if !reflect.DeepEqual(got, r) {
		t.Errorf("got %+v\nwant %+v", got, r)
	}
	unary, err := DecodeUnary(EncodeUnary(r))
	if err != nil || string(unary.Head) != "abc" || unary.Length != 3 || unary.Service != "cart" {
		t.Errorf("got %+v, %v", unary, err)
	}
	// HTTP headers need not be UTF-8, this wire must.
	r.Header = invoke.Header{"X": {"ok", "b\xe4d"}}
	p := EncodeRequest(r)
	if _, err := proto.Marshal(p); err != nil || p.Metadata["X"].Values[1] != "b\uFFFDd" || r.Header["X"][1] != "b\xe4d" {
		t.Errorf("got %v, %v", p.Metadata, err)
	}
}

type respMsg = internalsv1.InternalInvokeResponseStream

func answer(code int32, headers ...string) *internalsv1.InternalInvokeResponse {
	p := &internalsv1.InternalInvokeResponse{
		Status:  &internalsv1.Status{Code: code},
		Headers: map[string]*internalsv1.ListStringValue{},
		Message: &commonv1.InvokeResponse{ContentType: "text/plain"},
	}
	for i := 0; i < len(headers); i += 2 {
		p.Headers[headers[i]] = list(headers[i+1])
	}
	return p
}

func TestReadResponse(t *testing.T) {
	for _, c := range []struct {
		what    string
		msgs    []*respMsg
		length  int64
		body    string
		err     string
		bodyErr string
	}{
		{what: "in one", msgs: []*respMsg{{Response: answer(200), Payload: payload(0, "abc")}}, length: -1, body: "abc"},
		{what: "with length", msgs: []*respMsg{{Response: answer(200, "content-length", "3"), Payload: payload(0, "abc")}}, length: 3, body: "abc"},
		{what: "empty gRPC OK", msgs: []*respMsg{{Response: answer(0)}}, length: -1},
		{what: "empty response in a later message, as daprd's SSE path sends", msgs: []*respMsg{{Response: answer(200)}, {Response: &internalsv1.InternalInvokeResponse{}, Payload: payload(0, "a")}, {Payload: payload(1, "b")}}, length: -1, body: "ab"},
		{what: "no status", msgs: []*respMsg{{Response: &internalsv1.InternalInvokeResponse{}}}, err: "no status"},
		{what: "no response", msgs: []*respMsg{{Payload: payload(0, "a")}}, err: "no status"},
		{what: "informational", msgs: []*respMsg{{Response: answer(101)}}, err: "status 101"},
		{what: "between the scales", msgs: []*respMsg{{Response: answer(17)}}, err: "status 17"},
		{what: "negative", msgs: []*respMsg{{Response: answer(-1)}}, err: "status -1"},
		{what: "beyond HTTP", msgs: []*respMsg{{Response: answer(1000)}}, err: "status 1000"},
		{what: "length is nonsense", msgs: []*respMsg{{Response: answer(200, "Content-Length", "x")}}, err: "not a number"},
		{what: "out of order", msgs: []*respMsg{{Response: answer(200), Payload: payload(3, "a")}}, err: "invalid sequence number"},
		{what: "second head", msgs: []*respMsg{{Response: answer(200), Payload: payload(0, "a")}, {Response: answer(200), Payload: payload(1, "b")}}, length: -1, body: "a", bodyErr: "non-leading"},
		{what: "gap", msgs: []*respMsg{{Response: answer(200), Payload: payload(0, "a")}, {Payload: payload(2, "b")}}, length: -1, body: "a", bodyErr: "expected: 1"},
	} {
		t.Run(c.what, func(t *testing.T) {
			for _, whole := range []bool{false, true} {
				closed := 0
				r, err := ReadResponse(feed(c.msgs...), func() { closed++ })
				if c.err != "" {
					wantUnknown(t, err, c.err)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				var got []byte
				if whole {
					var b bytes.Buffer
					_, err = r.Body.(io.WriterTo).WriteTo(&b)
					got = b.Bytes()
				} else {
					got, err = io.ReadAll(r.Body)
				}
				if string(got) != c.body || r.Length != c.length {
					t.Errorf("body %q, length %d", got, r.Length)
				}
				if c.bodyErr != "" {
					wantUnknown(t, err, c.bodyErr)
				} else if err != nil {
					t.Error(err)
				}
				r.Body.Close()
				r.Body.Close()
				if closed != 1 {
					t.Errorf("let go %d times", closed)
				}
			}
		})
	}
}

func wantUnknown(t *testing.T, err error, text string) {
	t.Helper()
	var e *invoke.Error
	if !errors.As(err, &e) || !e.OutcomeUnknown() || !strings.Contains(e.Message, text) {
		t.Errorf("got %v, want an unknown outcome with %q", err, text)
	}
}

func TestResponseThereAndBack(t *testing.T) {
	r := &invoke.Response{
		Status: 201, ContentType: "text/plain", TypeURL: "type.googleapis.com/x",
		Header: invoke.Header{"X-A": {"1", "2"}}, Trailer: invoke.Header{"t": {"v"}}, Length: 7,
	}
	for withLength, want := range map[bool]int64{true: 7, false: -1} {
		got, err := ReadResponse(feed(&respMsg{Response: EncodeResponse(r, withLength)}), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got.Status != 201 || got.ContentType != r.ContentType || got.TypeURL != r.TypeURL || got.Length != want ||
			!reflect.DeepEqual(got.Header["X-A"], r.Header["X-A"]) || !reflect.DeepEqual(got.Trailer, r.Trailer) {
			t.Errorf("got %+v", got)
		}
	}
}

// FuzzReadRequest feeds streams cut out of arbitrary bytes; nothing may panic, and what is read
// must hold to its announced length.
func FuzzReadRequest(f *testing.F) {
	seed := func(msgs ...proto.Message) {
		var b []byte
		for _, m := range msgs {
			x, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			b = append(append(b, byte(len(x)>>8), byte(len(x))), x...)
		}
		f.Add(b)
	}
	seed(&reqMsg{Request: head(length("3")), Payload: payload(0, "abc")})
	seed(&reqMsg{Request: head()}, &reqMsg{Payload: payload(0, "a")}, &reqMsg{Payload: payload(1, "b")})
	seed(&reqMsg{Request: head(length("5"))}, &reqMsg{Payload: payload(0, "abc")}, &reqMsg{Payload: payload(2, "de")})
	seed(&respMsg{Response: answer(200, "content-length", "1"), Payload: payload(0, "a")})
	f.Fuzz(func(t *testing.T, b []byte) {
		var reqs []*reqMsg
		var resps []*respMsg
		for len(b) >= 2 {
			n := min(int(b[0])<<8|int(b[1]), len(b)-2)
			req, resp := new(reqMsg), new(respMsg)
			if proto.Unmarshal(b[2:2+n], req) == nil {
				reqs = append(reqs, req)
			}
			if proto.Unmarshal(b[2:2+n], resp) == nil {
				resps = append(resps, resp)
			}
			b = b[2+n:]
		}
		if r, err := ReadRequest(feed(reqs...)); err == nil {
			body := r.Head
			if r.Rest != nil {
				body, err = io.ReadAll(r.Rest)
			}
			if err == nil && r.Length >= 0 && int64(len(body)) != r.Length {
				t.Fatalf("%d bytes of a body of %d", len(body), r.Length)
			}
		}
		if r, err := ReadResponse(feed(resps...), nil); err == nil {
			_, _ = io.Copy(io.Discard, r.Body)
			r.Body.Close()
		}
	})
}
