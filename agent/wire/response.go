package wire

import (
	"io"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/farcall/farcall/agent/invoke"
	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	internalsv1 "github.com/farcall/farcall/api/dapr/proto/internals/v1"
)

// EncodeResponse writes the leading part of an answer, without its body. With withLength a known
// length goes along, so that the other agent can say it to its caller; a daprd's callers expect
// none, so that it is left out towards them.
func EncodeResponse(r *invoke.Response, withLength bool) *internalsv1.InternalInvokeResponse {
	p := &internalsv1.InternalInvokeResponse{
		Status:  &internalsv1.Status{Code: int32(r.Status), Message: validUTF8(r.Message), Details: r.Details},
		Headers: metadataFrom(r.Header, 1),
		Message: &commonv1.InvokeResponse{ContentType: validUTF8(r.ContentType)},
	}
	if withLength && r.Length >= 0 {
		p.Headers[contentLength] = one(strconv.FormatInt(r.Length, 10))
	}
	if len(r.Trailer) > 0 {
		p.Trailers = metadataFrom(r.Trailer, 0)
	}
	if r.TypeURL != "" {
		p.Message.Data = &anypb.Any{TypeUrl: r.TypeURL}
	}
	return p
}

// DecodeUnaryResponse reads the answer to a CallLocal; its Body calls done, once, when it is
// closed. On an error done is not called.
func DecodeUnaryResponse(p *internalsv1.InternalInvokeResponse, done func()) (*invoke.Response, error) {
	r, err := decodeResponse(p)
	if err != nil {
		return nil, err
	}
	data := p.GetMessage().GetData().GetValue()
	r.Length = int64(len(data))
	r.Body = &responseBody{pending: data, err: io.EOF, done: done}
	return r, nil
}

func decodeResponse(p *internalsv1.InternalInvokeResponse) (*invoke.Response, error) {
	st := p.GetStatus()
	if st == nil {
		return nil, invoke.OutcomeUnknown("the answer has no status")
	}
	code := int(st.GetCode())
	switch {
	case code >= 200 && code <= 999:
	case code >= 0 && code <= int(codes.Unauthenticated):
	default:
		// An informational status cannot be an answer, and there is no other meaning to give.
		return nil, invoke.OutcomeUnknown("the answer has status %d", code)
	}
	r := &invoke.Response{
		Status:      code,
		Message:     st.GetMessage(),
		Details:     st.GetDetails(),
		ContentType: p.GetMessage().GetContentType(),
		TypeURL:     p.GetMessage().GetData().GetTypeUrl(),
		Header:      headerFrom(p.GetHeaders()),
	}
	if t := p.GetTrailers(); len(t) > 0 {
		r.Trailer = headerFrom(t)
	}
	n, err := lengthIn(r.Header)
	if err != nil {
		return nil, invoke.OutcomeUnknown("the answer's %v", err)
	}
	r.Length = n
	return r, nil
}

// ReadResponse reads the leading message of a CallLocalStream's answer; its Body reads the rest
// from recv and calls done, once, when it is closed. On an error done is not called, and the
// error is an *invoke.Error or what recv returned, io.EOF included.
func ReadResponse(recv func() (*internalsv1.InternalInvokeResponseStream, error), done func()) (*invoke.Response, error) {
	first, err := recv()
	if err != nil {
		return nil, err
	}
	r, err := decodeResponse(first.GetResponse())
	if err != nil {
		return nil, err
	}
	body := &responseBody{recv: recv, done: done, length: r.Length}
	if err := body.accept(first.GetPayload()); err != nil {
		return nil, err
	}
	r.Body = body
	return r, nil
}

// responseBody is the body of a streamed answer: the payloads, in order, as bytes.
type responseBody struct {
	recv    func() (*internalsv1.InternalInvokeResponseStream, error)
	done    func()
	seq     sequence
	length  int64 // as announced, -1 where it was not
	got     int64
	pending []byte
	err     error // how it ended; what comes after that is not looked at
}

func (b *responseBody) Read(p []byte) (int, error) {
	for len(b.pending) == 0 {
		if err := b.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.pending)
	b.pending = b.pending[n:]
	return n, nil
}

// WriteTo hands each payload on as it came, in one Write and without a buffer in between.
func (b *responseBody) WriteTo(w io.Writer) (int64, error) {
	var n int64
	for {
		if len(b.pending) > 0 {
			k, err := w.Write(b.pending)
			n += int64(k)
			b.pending = nil
			if err != nil {
				return n, err
			}
		}
		if err := b.next(); err == io.EOF {
			return n, nil
		} else if err != nil {
			return n, err
		}
	}
}

func (b *responseBody) next() error {
	if b.err == nil {
		b.err = b.receive()
	}
	return b.err
}

func (b *responseBody) receive() error {
	m, err := b.recv()
	// An answer to HEAD announces what a GET would have, and has nothing of it.
	if err == io.EOF && b.got > 0 && b.got < b.length {
		return invoke.OutcomeUnknown("the answer ended after %d of %d bytes", b.got, b.length)
	}
	if err != nil {
		return err
	}
	if p := m.GetResponse(); p.GetStatus() != nil || p.GetMessage() != nil || len(p.GetHeaders()) > 0 {
		return invoke.OutcomeUnknown("response metadata found in non-leading chunk")
	}
	return b.accept(m.GetPayload())
}

func (b *responseBody) accept(p *commonv1.StreamPayload) error {
	if p == nil {
		return nil
	}
	if err := b.seq.take(p.GetSeq()); err != nil {
		return invoke.OutcomeUnknown("the answer's stream: %v", err)
	}
	data := p.GetData()
	b.got += int64(len(data))
	if b.length >= 0 && b.got > b.length {
		return invoke.OutcomeUnknown("the answer is longer than its Content-Length of %d bytes", b.length)
	}
	b.pending = data
	return nil
}

// Close lets go of the stream; what was not read is thrown away.
func (b *responseBody) Close() error {
	b.err = io.EOF
	b.pending = nil
	if b.done != nil {
		b.done()
		b.done = nil
	}
	return nil
}

var (
	_ io.ReadCloser = (*responseBody)(nil)
	_ io.WriterTo   = (*responseBody)(nil)
)
