package wire

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	internalsv1 "github.com/farcall/farcall/api/dapr/proto/internals/v1"
)

// writer writes one message of CallLocalStream: a head of one kind, or none, and a payload, or none.
type writer struct {
	request  *internalsv1.InternalInvokeRequest
	response *internalsv1.InternalInvokeResponse
	payload  *commonv1.StreamPayload
}

// plain reports whether all that is in the message is what agents put there, in valid UTF-8.
func (w *writer) plain() bool {
	if r := w.request; r != nil {
		m := r.GetMessage()
		return r.GetActor() == nil && m.GetData() == nil && plainMap(r.GetMetadata()) &&
			utf8.ValidString(m.GetMethod()) && utf8.ValidString(m.GetContentType()) && utf8.ValidString(m.GetHttpExtension().GetQuerystring())
	}
	if r := w.response; r != nil {
		return len(r.GetStatus().GetDetails()) == 0 && r.GetMessage().GetData() == nil && plainMap(r.GetHeaders()) && plainMap(r.GetTrailers()) &&
			utf8.ValidString(r.GetStatus().GetMessage()) && utf8.ValidString(r.GetMessage().GetContentType())
	}
	return true
}

func plainMap(m map[string]*internalsv1.ListStringValue) bool {
	for k, v := range m {
		if !utf8.ValidString(k) {
			return false
		}
		for _, s := range v.GetValues() {
			if !utf8.ValidString(s) {
				return false
			}
		}
	}
	return true
}

// The size functions give how long something is, those of messages without the field's own tag and length.

func sizeBytes(n int) int { return 1 + protowire.SizeBytes(n) }

func sizeString(s string) int {
	if s == "" {
		return 0
	}
	return sizeBytes(len(s))
}

func sizeInt(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

func sizeList(v *internalsv1.ListStringValue) int {
	n := 0
	for _, s := range v.GetValues() {
		n += sizeBytes(len(s)) // that of a list is there even where it is empty
	}
	return n
}

func sizeEntry(k string, v *internalsv1.ListStringValue) int {
	return sizeBytes(len(k)) + sizeBytes(sizeList(v))
}

func sizeMap(m map[string]*internalsv1.ListStringValue) int {
	n := 0
	for k, v := range m {
		n += sizeBytes(sizeEntry(k, v))
	}
	return n
}

func sizeExtension(x *commonv1.HTTPExtension) int {
	return sizeInt(uint64(x.GetVerb())) + sizeString(x.GetQuerystring())
}

func sizeAsked(m *commonv1.InvokeRequest) int {
	n := sizeString(m.GetMethod()) + sizeString(m.GetContentType())
	if x := m.GetHttpExtension(); x != nil {
		n += sizeBytes(sizeExtension(x))
	}
	return n
}

func sizeRequest(r *internalsv1.InternalInvokeRequest) int {
	n := sizeInt(uint64(r.GetVer())) + sizeMap(r.GetMetadata())
	if m := r.GetMessage(); m != nil {
		n += sizeBytes(sizeAsked(m))
	}
	return n
}

func sizeStatus(s *internalsv1.Status) int {
	return sizeInt(uint64(int64(s.GetCode()))) + sizeString(s.GetMessage())
}

func sizeResponse(r *internalsv1.InternalInvokeResponse) int {
	n := sizeMap(r.GetHeaders()) + sizeMap(r.GetTrailers())
	if s := r.GetStatus(); s != nil {
		n += sizeBytes(sizeStatus(s))
	}
	if m := r.GetMessage(); m != nil {
		n += sizeBytes(sizeString(m.GetContentType()))
	}
	return n
}

func sizePayload(p *commonv1.StreamPayload) int {
	n := sizeInt(p.GetSeq())
	if d := p.GetData(); len(d) > 0 {
		n += sizeBytes(len(d))
	}
	return n
}

func (w *writer) size() int {
	n := 0
	if w.request != nil {
		n += sizeBytes(sizeRequest(w.request))
	}
	if w.response != nil {
		n += sizeBytes(sizeResponse(w.response))
	}
	if w.payload != nil {
		n += sizeBytes(sizePayload(w.payload))
	}
	return n
}

// The append functions append a field, those for single values nothing where that is the zero one.

func appendTag(b []byte, field protowire.Number, size int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.BytesType), uint64(size))
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return append(appendTag(b, field, len(s)), s...)
}

func appendInt(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendMap(b []byte, field protowire.Number, m map[string]*internalsv1.ListStringValue) []byte {
	for k, v := range m {
		b = appendTag(b, field, sizeEntry(k, v))
		b = append(appendTag(b, 1, len(k)), k...)
		b = appendTag(b, 2, sizeList(v))
		for _, s := range v.GetValues() {
			b = append(appendTag(b, 1, len(s)), s...)
		}
	}
	return b
}

func appendRequest(b []byte, r *internalsv1.InternalInvokeRequest) []byte {
	b = appendTag(b, 1, sizeRequest(r))
	b = appendInt(b, 1, uint64(r.GetVer()))
	b = appendMap(b, 2, r.GetMetadata())
	m := r.GetMessage()
	if m == nil {
		return b
	}
	b = appendTag(b, 3, sizeAsked(m))
	b = appendString(b, 1, m.GetMethod())
	b = appendString(b, 3, m.GetContentType())
	if x := m.GetHttpExtension(); x != nil {
		b = appendTag(b, 4, sizeExtension(x))
		b = appendInt(b, 1, uint64(x.GetVerb()))
		b = appendString(b, 2, x.GetQuerystring())
	}
	return b
}

func appendResponse(b []byte, r *internalsv1.InternalInvokeResponse) []byte {
	b = appendTag(b, 1, sizeResponse(r))
	if s := r.GetStatus(); s != nil {
		b = appendTag(b, 1, sizeStatus(s))
		b = appendInt(b, 1, uint64(int64(s.GetCode())))
		b = appendString(b, 2, s.GetMessage())
	}
	b = appendMap(b, 2, r.GetHeaders())
	b = appendMap(b, 3, r.GetTrailers())
	if m := r.GetMessage(); m != nil {
		b = appendTag(b, 4, sizeString(m.GetContentType()))
		b = appendString(b, 2, m.GetContentType())
	}
	return b
}

func (w *writer) append(b []byte) []byte {
	if w.request != nil {
		b = appendRequest(b, w.request)
	}
	if w.response != nil {
		b = appendResponse(b, w.response)
	}
	if p := w.payload; p != nil {
		b = appendTag(b, 2, sizePayload(p))
		if d := p.GetData(); len(d) > 0 {
			b = append(appendTag(b, 1, len(d)), d...)
		}
		b = appendInt(b, 2, p.GetSeq())
	}
	return b
}
