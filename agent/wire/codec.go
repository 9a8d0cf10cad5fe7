package wire

import (
	"google.golang.org/grpc/encoding"
	protoenc "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	internalsv1 "github.com/farcall/farcall/api/dapr/proto/internals/v1"
)

// Codec is gRPC's codec of protocol buffers, and quicker at the messages of CallLocalStream, which are
// all that most calls consist of: the generated code reads and writes maps by reflection, one object for each
// key and value. What it does not know (fields that are none of Dapr's, messages in pieces, anything
// malformed) it leaves to that code, so that both always say the same.
type Codec struct{}

var _ encoding.CodecV2 = Codec{}

var usual = encoding.GetCodecV2(protoenc.Name)

// Name implements encoding.CodecV2.
func (Codec) Name() string { return protoenc.Name }

// Marshal implements encoding.CodecV2. What it gives holds none of v's bytes.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	var w writer
	switch m := v.(type) {
	case *internalsv1.InternalInvokeRequestStream:
		w = writer{m.GetRequest(), nil, m.GetPayload()}
	case *internalsv1.InternalInvokeResponseStream:
		w = writer{nil, m.GetResponse(), m.GetPayload()}
	default:
		return usual.Marshal(v)
	}
	if !w.plain() {
		return usual.Marshal(v)
	}
	pool := mem.DefaultBufferPool()
	n := w.size()
	if mem.IsBelowBufferPoolingThreshold(n) {
		return mem.BufferSlice{mem.SliceBuffer(w.append(make([]byte, 0, n)))}, nil
	}
	buf := pool.Get(n)
	w.append((*buf)[:0])
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

// Unmarshal implements encoding.CodecV2. v's bytes are its own.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	var err error
	switch m := v.(type) {
	case *internalsv1.InternalInvokeRequestStream:
		b := data.Materialize()
		if !readRequestStream(b, m) {
			proto.Reset(m)
			err = proto.Unmarshal(b, m)
		}
	case *internalsv1.InternalInvokeResponseStream:
		b := data.Materialize()
		if !readResponseStream(b, m) {
			proto.Reset(m)
			err = proto.Unmarshal(b, m)
		}
	default:
		return usual.Unmarshal(data, v)
	}
	return err
}
