package wire

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	internalsv1 "github.com/farcall/farcall/api/dapr/proto/internals/v1"
)

// reader reads the fields of one message. Texts are parts of one string that is made for all of
// a head, instead of one each.
type reader struct {
	b      []byte
	text   string // what b is, in a head
	number bool   // it is the value of a field that holds no message, text or bytes
	bad    bool   // there is something that is left to the generated code
}

// next gives the next field: its value where that is a number, else a reader of what it holds; false at the
// end. A field of any other kind is bad.
func (r *reader) next() (field protowire.Number, v uint64, in reader, ok bool) {
	if r.bad || len(r.b) == 0 {
		return 0, 0, reader{}, false
	}
	field, kind, n := protowire.ConsumeTag(r.b)
	if n < 0 {
		r.bad = true
		return 0, 0, reader{}, false
	}
	r.skip(n)
	switch kind {
	case protowire.VarintType:
		if v, n = protowire.ConsumeVarint(r.b); n >= 0 {
			r.skip(n)
			return field, v, reader{number: true}, true
		}
	case protowire.BytesType:
		if size, n := protowire.ConsumeVarint(r.b); n >= 0 && size <= uint64(len(r.b)-n) {
			r.skip(n)
			in = reader{b: r.b[:size:size]}
			if r.text != "" {
				in.text = r.text[:size]
			}
			r.skip(int(size))
			return field, 0, in, true
		}
	}
	r.bad = true
	return 0, 0, reader{}, false
}

func (r *reader) skip(n int) {
	r.b = r.b[n:]
	if r.text != "" {
		r.text = r.text[n:]
	}
}

// string gives what a field holds as a text.
func (r *reader) string(in reader) string {
	if in.number || !utf8.Valid(in.b) {
		r.bad = true
	}
	return in.text
}

// once is for a message that may be there once: the generated code puts several together.
func (r *reader) once(in reader, there bool) {
	if in.number || there {
		r.bad = true
	}
}

// done hands on whether what a field holds is bad.
func (r *reader) done(in *reader) { r.bad = r.bad || in.bad }

// texts makes the reader of a message whose texts are wanted.
func texts(in reader) reader {
	in.text = string(in.b)
	return in
}

func readRequestStream(b []byte, m *internalsv1.InternalInvokeRequestStream) bool {
	r := reader{b: b}
	for {
		field, _, in, ok := r.next()
		if !ok {
			return !r.bad
		}
		switch field {
		case 1:
			r.once(in, m.Request != nil)
			in = texts(in)
			m.Request = in.request()
			r.done(&in)
		case 2:
			r.once(in, m.Payload != nil)
			m.Payload = in.payload()
			r.done(&in)
		default:
			return false
		}
	}
}

func readResponseStream(b []byte, m *internalsv1.InternalInvokeResponseStream) bool {
	r := reader{b: b}
	for {
		field, _, in, ok := r.next()
		if !ok {
			return !r.bad
		}
		switch field {
		case 1:
			r.once(in, m.Response != nil)
			in = texts(in)
			m.Response = in.response()
			r.done(&in)
		case 2:
			r.once(in, m.Payload != nil)
			m.Payload = in.payload()
			r.done(&in)
		default:
			return false
		}
	}
}

func (r *reader) payload() *commonv1.StreamPayload {
	p := &commonv1.StreamPayload{}
	for {
		field, v, in, ok := r.next()
		if !ok {
			return p
		}
		switch {
		case field == 1 && !in.number:
			p.Data = in.b
		case field == 2 && in.number:
			p.Seq = v
		default:
			r.bad = true
		}
	}
}

func (r *reader) request() *internalsv1.InternalInvokeRequest {
	q := &internalsv1.InternalInvokeRequest{}
	var l lots
	for {
		field, v, in, ok := r.next()
		if !ok {
			return q
		}
		switch {
		case field == 1 && in.number:
			q.Ver = internalsv1.APIVersion(int32(v))
		case field == 2:
			q.Metadata = r.entry(q.Metadata, &l, in)
		case field == 3:
			r.once(in, q.Message != nil)
			q.Message = in.asked()
			r.done(&in)
		default:
			r.bad = true
		}
	}
}

func (r *reader) asked() *commonv1.InvokeRequest {
	m := &commonv1.InvokeRequest{}
	for {
		field, _, in, ok := r.next()
		if !ok {
			return m
		}
		switch field {
		case 1:
			m.Method = r.string(in)
		case 3:
			m.ContentType = r.string(in)
		case 4:
			r.once(in, m.HttpExtension != nil)
			m.HttpExtension = in.extension()
			r.done(&in)
		default:
			r.bad = true
		}
	}
}

func (r *reader) extension() *commonv1.HTTPExtension {
	x := &commonv1.HTTPExtension{}
	for {
		field, v, in, ok := r.next()
		if !ok {
			return x
		}
		switch {
		case field == 1 && in.number:
			x.Verb = commonv1.HTTPExtension_Verb(int32(v))
		case field == 2:
			x.Querystring = r.string(in)
		default:
			r.bad = true
		}
	}
}

func (r *reader) response() *internalsv1.InternalInvokeResponse {
	p := &internalsv1.InternalInvokeResponse{}
	var l lots
	for {
		field, _, in, ok := r.next()
		if !ok {
			return p
		}
		switch field {
		case 1:
			r.once(in, p.Status != nil)
			p.Status = in.status()
			r.done(&in)
		case 2:
			p.Headers = r.entry(p.Headers, &l, in)
		case 3:
			p.Trailers = r.entry(p.Trailers, &l, in)
		case 4:
			r.once(in, p.Message != nil)
			p.Message = in.said()
			r.done(&in)
		default:
			r.bad = true
		}
	}
}

func (r *reader) status() *internalsv1.Status {
	s := &internalsv1.Status{}
	for {
		field, v, in, ok := r.next()
		if !ok {
			return s
		}
		switch {
		case field == 1 && in.number:
			s.Code = int32(v)
		case field == 2:
			s.Message = r.string(in)
		default:
			r.bad = true
		}
	}
}

func (r *reader) said() *commonv1.InvokeResponse {
	m := &commonv1.InvokeResponse{}
	for {
		field, _, in, ok := r.next()
		if !ok {
			return m
		}
		if field != 2 {
			r.bad = true
		}
		m.ContentType = r.string(in)
	}
}

// lot is how many of the small parts of a map are made at once.
const lot = 8

// lots are those that were made and are not used yet.
type lots struct {
	lists  []internalsv1.ListStringValue
	values []string
}

func (l *lots) list() *internalsv1.ListStringValue {
	if len(l.lists) == 0 {
		l.lists = make([]internalsv1.ListStringValue, lot)
	}
	list := &l.lists[0]
	l.lists = l.lists[1:]
	return list
}

// add adds to a list; nearly all hold one value.
func (l *lots) add(to *internalsv1.ListStringValue, v string) {
	if len(to.Values) > 0 {
		to.Values = append(to.Values, v)
		return
	}
	if len(l.values) == 0 {
		l.values = make([]string, lot)
	}
	to.Values = l.values[:1:1]
	to.Values[0] = v
	l.values = l.values[1:]
}

// entry reads one entry of a map.
func (r *reader) entry(m map[string]*internalsv1.ListStringValue, l *lots, in reader) map[string]*internalsv1.ListStringValue {
	if m == nil {
		m = make(map[string]*internalsv1.ListStringValue, lot)
	}
	in.bad = in.number
	list, key, had := l.list(), "", false
	for {
		field, _, part, ok := in.next()
		if !ok {
			break
		}
		switch field {
		case 1:
			key = in.string(part)
		case 2:
			in.once(part, had)
			had = true
			part.values(list, l)
			in.done(&part)
		default:
			in.bad = true
		}
	}
	r.done(&in)
	m[key] = list
	return m
}

func (r *reader) values(list *internalsv1.ListStringValue, l *lots) {
	for {
		field, _, in, ok := r.next()
		if !ok {
			return
		}
		if field != 1 {
			r.bad = true
		}
		l.add(list, r.string(in))
	}
}
