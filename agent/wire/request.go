package wire

import (
	"io"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/farcall/farcall/agent/invoke"
	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	internalsv1 "github.com/farcall/farcall/api/dapr/proto/internals/v1"
)

// EncodeRequest writes the leading part of a call, without its body. Metadata is never empty,
// which a daprd insists on.
func EncodeRequest(r *invoke.Request) *internalsv1.InternalInvokeRequest {
	m := metadataFrom(r.Header, 2)
	m[invoke.DestinationAppID] = one(r.Service)
	if r.Length >= 0 {
		m["Content-Length"] = one(strconv.FormatInt(r.Length, 10))
	}
	msg := &commonv1.InvokeRequest{
		Method:      invoke.MethodOnWire(r.Method),
		ContentType: validUTF8(r.ContentType),
		HttpExtension: &commonv1.HTTPExtension{
			Verb:        invoke.VerbToProto(r.Verb),
			Querystring: validUTF8(r.Query),
		},
	}
	if r.TypeURL != "" {
		msg.Data = &anypb.Any{TypeUrl: r.TypeURL}
	}
	return &internalsv1.InternalInvokeRequest{Ver: internalsv1.APIVersion_V1, Metadata: m, Message: msg}
}

// EncodeUnary is EncodeRequest with the body inside, as CallLocal has it. The body must be in
// memory (r.Rest is nil).
func EncodeUnary(r *invoke.Request) *internalsv1.InternalInvokeRequest {
	p := EncodeRequest(r)
	p.Message.Data = &anypb.Any{TypeUrl: r.TypeURL, Value: r.Head}
	return p
}

// DecodeUnary reads a CallLocal request. The error is an *invoke.Error.
func DecodeUnary(p *internalsv1.InternalInvokeRequest) (*invoke.Request, error) {
	r, err := decodeRequest(p)
	if err != nil {
		return nil, err
	}
	// What arrived is the truth, whatever the metadata says of it.
	r.Head = p.GetMessage().GetData().GetValue()
	r.Length = int64(len(r.Head))
	return r, nil
}

func decodeRequest(p *internalsv1.InternalInvokeRequest) (*invoke.Request, error) {
	msg := p.GetMessage()
	switch {
	case p == nil:
		return nil, invoke.Invalid("parsing InternalInvokeRequest error: the first message has no request")
	case msg == nil:
		return nil, invoke.Invalid("parsing InternalInvokeRequest error: message is nil")
	case len(p.GetMetadata()) == 0:
		return nil, invoke.Invalid("parsing InternalInvokeRequest error: metadata is empty")
	case p.GetVer() != internalsv1.APIVersion_V1:
		return nil, invoke.Invalid("parsing InternalInvokeRequest error: unsupported version %d", p.GetVer())
	}
	method, err := invoke.MethodFromWire(msg.GetMethod())
	if err != nil {
		return nil, err
	}
	if err := invoke.CheckQuery(msg.GetHttpExtension().GetQuerystring()); err != nil {
		return nil, err
	}
	r := &invoke.Request{
		Verb:        invoke.VerbFromProto(msg.GetHttpExtension().GetVerb()),
		Method:      method,
		Query:       msg.GetHttpExtension().GetQuerystring(),
		ContentType: msg.GetContentType(),
		TypeURL:     msg.GetData().GetTypeUrl(),
		Header:      headerFrom(p.GetMetadata()),
	}
	r.Service = r.Header.First(invoke.DestinationAppID, invoke.CalleeAppID)
	r.Length, err = lengthIn(r.Header)
	return r, err
}

// lengthIn reads Content-Length, in whatever case, -1 where it is absent. Two that differ are
// refused (RFC 9112 section 6.3): whoever took the other one would see another body.
func lengthIn(h invoke.Header) (int64, error) {
	length := int64(-1)
	for k, values := range h {
		if len(k) != len(contentLength) || !strings.EqualFold(k, contentLength) {
			continue
		}
		for _, v := range values {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil || v[0] == '+' || v[0] == '-' {
				return 0, invoke.Invalid("Content-Length %.40q is not a number", v)
			}
			if length >= 0 && n != length {
				return 0, invoke.Invalid("Content-Length is said to be %d, and %d", min(n, length), max(n, length))
			}
			length = n
		}
	}
	return length, nil
}

// ReadRequest reads the leading message of a CallLocalStream, and the body as far as it came
// with it; the rest, where there is more, stays in Rest and is read from recv. The error is an
// *invoke.Error, or what recv returned.
func ReadRequest(recv func() (*internalsv1.InternalInvokeRequestStream, error)) (*invoke.Request, error) {
	first, err := recv()
	if err == io.EOF {
		return nil, invoke.Invalid("parsing InternalInvokeRequest error: the stream has no message")
	}
	if err != nil {
		return nil, err
	}
	if len(first.GetRequest().GetMessage().GetData().GetValue()) > 0 {
		return nil, invoke.Invalid("parsing InternalInvokeRequest error: message.data is set in a stream")
	}
	r, err := decodeRequest(first.GetRequest())
	if err != nil {
		return nil, err
	}
	body := &requestBody{recv: recv, length: r.Length}
	if err := body.accept(first.GetPayload()); err != nil {
		return nil, err
	}
	if r.Length < 0 && len(body.pending) == 0 && usuallyBodyless(r.Verb) {
		// A sidecar does not say that there is no body; its half-close follows at once and does.
		switch err := body.next(); err {
		case nil:
		case io.EOF:
			r.Length = 0
		default:
			return nil, err
		}
	}
	if body.got == r.Length {
		r.Head = body.pending
		return r, nil
	}
	r.Rest = invoke.NewStream(body, nil)
	return r, nil
}

func usuallyBodyless(verb string) bool {
	switch verb {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodDelete, http.MethodTrace:
		return true
	}
	return false
}

// requestBody is the body of a streamed request: the payloads, in order, as bytes.
type requestBody struct {
	recv    func() (*internalsv1.InternalInvokeRequestStream, error)
	seq     sequence
	length  int64 // as announced, -1 where it was not
	got     int64
	pending []byte
	err     error // how it ended; what comes after that is not looked at
}

func (b *requestBody) Read(p []byte) (int, error) {
	for len(b.pending) == 0 {
		if err := b.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.pending)
	b.pending = b.pending[n:]
	return n, nil
}

func (b *requestBody) next() error {
	if b.err == nil {
		b.err = b.receive()
	}
	return b.err
}

func (b *requestBody) receive() error {
	m, err := b.recv()
	if err == io.EOF && b.length > b.got {
		return invoke.Invalid("the body ended after %d of %d bytes", b.got, b.length)
	}
	if err != nil {
		return err
	}
	if m.GetRequest().GetMessage() != nil || len(m.GetRequest().GetMetadata()) > 0 {
		return invoke.Invalid("request metadata found in non-leading chunk")
	}
	return b.accept(m.GetPayload())
}

func (b *requestBody) accept(p *commonv1.StreamPayload) error {
	if p == nil {
		return nil
	}
	if err := b.seq.take(p.GetSeq()); err != nil {
		return err
	}
	data := p.GetData()
	b.got += int64(len(data))
	if b.length >= 0 && b.got > b.length {
		return invoke.Invalid("the body is longer than its Content-Length of %d bytes", b.length)
	}
	b.pending = data
	return nil
}
