package wire

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	internalsv1 "github.com/farcall/farcall/api/dapr/proto/internals/v1"
)

func listOf(values ...string) *internalsv1.ListStringValue {
	return &internalsv1.ListStringValue{Values: values}
}

// messages are what travels, and what hardly ever does.
func messages() map[string]proto.Message {
	metadata := map[string]*internalsv1.ListStringValue{
		"Content-Length": listOf("1024"), "Accept": listOf("text/html", "*/*"), "X-Empty": listOf(""), "x-none": listOf(), "": listOf("ü"),
	}
	any := &anypb.Any{TypeUrl: "type.googleapis.com/x", Value: []byte("v")}
	request := func(change func(*internalsv1.InternalInvokeRequest)) *internalsv1.InternalInvokeRequestStream {
		r := &internalsv1.InternalInvokeRequest{
			Ver: internalsv1.APIVersion_V1, Metadata: metadata,
			Message: &commonv1.InvokeRequest{
				Method: "items/1", ContentType: "application/json",
				HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_POST, Querystring: "a=b"},
			},
		}
		change(r)
		return &internalsv1.InternalInvokeRequestStream{Request: r, Payload: &commonv1.StreamPayload{Data: bytes.Repeat([]byte("x"), 1024)}}
	}
	response := func(s *internalsv1.Status, data *anypb.Any) *internalsv1.InternalInvokeResponseStream {
		return &internalsv1.InternalInvokeResponseStream{Response: &internalsv1.InternalInvokeResponse{
			Status: s, Headers: metadata, Trailers: map[string]*internalsv1.ListStringValue{"t": listOf("1")},
			Message: &commonv1.InvokeResponse{ContentType: "text/plain", Data: data},
		}}
	}
	return map[string]proto.Message{
		"request":            request(func(*internalsv1.InternalInvokeRequest) {}),
		"no metadata":        request(func(r *internalsv1.InternalInvokeRequest) { r.Metadata = nil }),
		"no message":         request(func(r *internalsv1.InternalInvokeRequest) { r.Message = nil }),
		"an empty message":   request(func(r *internalsv1.InternalInvokeRequest) { r.Message = &commonv1.InvokeRequest{} }),
		"an empty extension": request(func(r *internalsv1.InternalInvokeRequest) { r.Message.HttpExtension = &commonv1.HTTPExtension{} }),
		"a packed message":   request(func(r *internalsv1.InternalInvokeRequest) { r.Message.Data = any }),
		"an actor":           request(func(r *internalsv1.InternalInvokeRequest) { r.Actor = &internalsv1.Actor{ActorId: "a"} }),
		"a later payload":    &internalsv1.InternalInvokeRequestStream{Payload: &commonv1.StreamPayload{Data: bytes.Repeat([]byte("y"), ChunkSize), Seq: 1 << 40}},
		"an empty payload":   &internalsv1.InternalInvokeRequestStream{Payload: &commonv1.StreamPayload{}},
		"nothing":            &internalsv1.InternalInvokeRequestStream{},
		"answer":             response(&internalsv1.Status{Code: 200}, nil),
		"an empty status":    response(&internalsv1.Status{}, nil),
		"a negative status":  response(&internalsv1.Status{Code: -1, Message: "?"}, nil),
		"details":            response(&internalsv1.Status{Code: 5, Message: "no", Details: []*anypb.Any{any}}, nil),
		"a packed answer":    response(nil, any),
		"an empty answer":    &internalsv1.InternalInvokeResponseStream{Response: &internalsv1.InternalInvokeResponse{}, Payload: &commonv1.StreamPayload{Seq: 3}},
		"not of a stream":    &internalsv1.InternalInvokeRequest{Metadata: metadata},
	}
}

// Whatever one side writes the other reads, in both directions between Codec and the generated code.
func TestCodecSpeaksProtobuf(t *testing.T) {
	for name, m := range messages() {
		out, err := Codec{}.Marshal(m)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		generated := m.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(out.Materialize(), generated); err != nil || !proto.Equal(m, generated) {
			t.Errorf("%s, as the generated code reads it: %v %v", name, generated, err)
		}
		if b, err := proto.Marshal(m); err != nil || len(b) != out.Len() {
			t.Errorf("%s: %d bytes, %d of the generated code: %v", name, out.Len(), len(b), err)
		}
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		// In pieces, as it comes from HTTP/2.
		k := len(b) / 2
		read := m.ProtoReflect().New().Interface()
		err = Codec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b[:k]), mem.SliceBuffer(b[k:])}, read)
		clear(b) // they are gRPC's again
		if err != nil || !proto.Equal(m, read) {
			t.Errorf("%s, as Codec reads it: %v %v", name, read, err)
		}
		out.Free()
	}
}

// What is no text in UTF-8 is refused, as by the generated code.
func TestCodecRefusesWhatIsNotUTF8(t *testing.T) {
	bad := "\xff"
	for name, m := range map[string]proto.Message{
		"a key":    &internalsv1.InternalInvokeRequestStream{Request: &internalsv1.InternalInvokeRequest{Metadata: map[string]*internalsv1.ListStringValue{bad: nil}}},
		"a value":  &internalsv1.InternalInvokeRequestStream{Request: &internalsv1.InternalInvokeRequest{Metadata: map[string]*internalsv1.ListStringValue{"k": listOf("", bad)}}},
		"a method": &internalsv1.InternalInvokeRequestStream{Request: &internalsv1.InternalInvokeRequest{Message: &commonv1.InvokeRequest{Method: bad}}},
		"a type":   &internalsv1.InternalInvokeResponseStream{Response: &internalsv1.InternalInvokeResponse{Message: &commonv1.InvokeResponse{ContentType: bad}}},
		"a status": &internalsv1.InternalInvokeResponseStream{Response: &internalsv1.InternalInvokeResponse{Status: &internalsv1.Status{Message: bad}}},
	} {
		if _, err := (Codec{}).Marshal(m); err == nil {
			t.Errorf("%s is written", name)
		}
	}
	// A text in the place of another.
	b, err := proto.Marshal(&internalsv1.InternalInvokeRequestStream{Request: &internalsv1.InternalInvokeRequest{Message: &commonv1.InvokeRequest{Method: "method"}}})
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.Replace(b, []byte("method"), []byte("meth\xffd"), 1)
	if err := (Codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, new(internalsv1.InternalInvokeRequestStream)); err == nil || !strings.Contains(err.Error(), "UTF-8") {
		t.Errorf("it is read: %v", err)
	}
}

// FuzzCodec: any bytes are to Codec what they are to the generated code.
func FuzzCodec(f *testing.F) {
	for _, m := range messages() {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(b, b...))                                                            // one message in two parts
		f.Add(protowire.AppendVarint(protowire.AppendTag(b, 9, protowire.VarintType), 1)) // a field that nobody knows
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range []proto.Message{new(internalsv1.InternalInvokeRequestStream), new(internalsv1.InternalInvokeResponseStream)} {
			want := m.ProtoReflect().New().Interface()
			wantErr := proto.Unmarshal(b, want)
			err := Codec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, m)
			if (err == nil) != (wantErr == nil) {
				t.Fatalf("%v, want %v", err, wantErr)
			}
			if err != nil {
				continue
			}
			if !proto.Equal(m, want) {
				t.Fatalf("%v, want %v", m, want)
			}
			out, err := Codec{}.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			again := m.ProtoReflect().New().Interface()
			if err := proto.Unmarshal(out.Materialize(), again); err != nil {
				t.Fatal(err)
			}
			out.Free()
			if !unknownBelow(want) && !proto.Equal(again, want) {
				t.Fatalf("written anew: %v, want %v", again, want)
			}
		}
	})
}

// unknownBelow reports whether parts of a message hold fields that nobody knows, which Codec does not write.
func unknownBelow(m proto.Message) bool {
	b, err := proto.Marshal(m)
	if err != nil {
		return true
	}
	known := m.ProtoReflect().New().Interface()
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, known); err != nil {
		return true
	}
	return !proto.Equal(m, known)
}

func BenchmarkCodec(b *testing.B) {
	for _, c := range []struct {
		name  string
		codec interface {
			Marshal(any) (mem.BufferSlice, error)
			Unmarshal(mem.BufferSlice, any) error
		}
	}{{"ours", Codec{}}, {"generated", usual}} {
		for _, name := range []string{"request", "answer"} {
			m := messages()[name]
			b.Run(c.name+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					out, err := c.codec.Marshal(m)
					if err != nil {
						b.Fatal(err)
					}
					if err := c.codec.Unmarshal(out, m.ProtoReflect().New().Interface()); err != nil {
						b.Fatal(err)
					}
					out.Free()
				}
			})
		}
	}
}
