package wire

import (
	"bytes"
	"io"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/farcall/farcall/agent/invoke"
	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	internalsv1 "github.com/farcall/farcall/api/dapr/proto/internals/v1"
)

// TestLengths says which lengths are believed. Keys are compared in whatever case, and a map has no
// order: where two of them differ neither is.
func TestLengths(t *testing.T) {
	for _, c := range []struct {
		h    invoke.Header
		want int64 // -2: refused
	}{
		{invoke.Header{}, -1},
		{invoke.Header{"Content-Length": nil}, -1},
		{invoke.Header{"Content-Length": {"5"}}, 5},
		{invoke.Header{"content-length": {"005"}}, 5},
		{invoke.Header{"Content-Length": {"5"}, "content-length": {"5"}, "CONTENT-LENGTH": {"5", "05"}}, 5},
		{invoke.Header{"Content-Length": {"5"}, "content-length": {"6"}}, -2},
		{invoke.Header{"Content-Length": {"5", "6"}}, -2},
		{invoke.Header{"Content-Length": {"5, 5"}}, -2},
		{invoke.Header{"Content-Length": {""}}, -2},
		{invoke.Header{"Content-Length": {"+5"}}, -2},
		{invoke.Header{"Content-Length": {"-0"}}, -2},
		{invoke.Header{"Content-Length": {" 5"}}, -2},
		{invoke.Header{"Content-Length": {"0x5"}}, -2},
		{invoke.Header{"Content-Length": {"9223372036854775808"}}, -2},
		{invoke.Header{"Content-Length": {"9223372036854775807"}}, 9223372036854775807},
	} {
		for range 8 { // a map is read in another order each time
			got, err := lengthIn(c.h)
			if err != nil {
				got = -2
			}
			if got != c.want {
				t.Errorf("%v: got %d, %v, want %d", c.h, got, err, c.want)
			}
		}
	}
}

// TestSpoiltStaysSpoilt says that a body that went wrong does not end well after all when it is read
// on, whatever comes then.
func TestSpoiltStaysSpoilt(t *testing.T) {
	r, err := ReadRequest(feed(&reqMsg{Request: head(), Payload: payload(0, "a")}, &reqMsg{Payload: payload(5, "b")}, &reqMsg{Payload: payload(1, "c")}))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := ReadResponse(feed(&respMsg{Response: answer(200), Payload: payload(0, "a")}, &respMsg{Payload: payload(5, "b")}, &respMsg{Payload: payload(1, "c")}), nil)
	if err != nil {
		t.Fatal(err)
	}
	short, err := ReadRequest(feed(&reqMsg{Request: head(length("5")), Payload: payload(0, "a")}))
	if err != nil {
		t.Fatal(err)
	}
	for what, body := range map[string]io.Reader{"request": r.Rest, "answer": resp.Body, "too short": short.Rest} {
		for i := range 3 {
			if got, err := io.ReadAll(body); err == nil || string(got) != "a"[:max(0, 1-i)] {
				t.Errorf("%s, read %d: got %q, %v", what, i, got, err)
			}
		}
	}
}

// TestAnswerLengths says that an answer is as long as it announces, but for one to HEAD.
func TestAnswerLengths(t *testing.T) {
	for announced, whole := range map[string]bool{"2": false, "3": true, "4": false} {
		for _, byWriter := range []bool{false, true} {
			r, err := ReadResponse(feed(&respMsg{Response: answer(200, "content-length", announced), Payload: payload(0, "ab")}, &respMsg{Payload: payload(1, "c")}), nil)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if byWriter {
				_, err = r.Body.(io.WriterTo).WriteTo(&out)
			} else {
				_, err = out.ReadFrom(r.Body)
			}
			if (err == nil) != whole {
				t.Errorf("3 bytes, announced as %s: %q, %v", announced, out.String(), err)
			} else if err != nil {
				wantUnknown(t, err, "the answer")
			}
		}
	}
	r, err := ReadResponse(feed(&respMsg{Response: answer(200, "content-length", "5")}), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r.Body); len(b) > 0 || err != nil || r.Length != 5 {
		t.Errorf("HEAD: got %q, %v, of %d", b, err, r.Length)
	}
}

// TestMethodsStandEscaped says that a "%" in a method crosses the wire as one, which a daprd would
// take for the beginning of an escape.
func TestMethodsStandEscaped(t *testing.T) {
	r := &invoke.Request{Service: "cart", Verb: "GET", Method: "100%/a%2Fb c", Header: invoke.Header{}, Length: 0}
	p := EncodeRequest(r)
	if got := p.GetMessage().GetMethod(); got != "100%25/a%252Fb c" {
		t.Errorf("it stands as %q", got)
	}
	if got, err := DecodeUnary(p); err != nil || got.Method != r.Method {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestChunksFit says that a whole piece of a body, as a message, fits into one of gRPC's buffers of
// 32 KiB: the next larger ones are of 1 MiB, and there is one for each call that streams.
func TestChunksFit(t *testing.T) {
	part := &commonv1.StreamPayload{Data: make([]byte, ChunkSize), Seq: 1<<64 - 1}
	for _, m := range []proto.Message{
		&internalsv1.InternalInvokeRequestStream{Payload: part}, &internalsv1.InternalInvokeResponseStream{Payload: part},
	} {
		if n := proto.Size(m); n > 32<<10 {
			t.Errorf("a message of %d bytes", n)
		}
	}
}
