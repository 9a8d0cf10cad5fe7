package proxy

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // callers may compress what is proxied
	protoenc "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/wire"
)

// MaxMessage is the largest message, in bytes and not compressed, that is proxied in either
// direction. Applications that say nothing take 4 MiB themselves.
const MaxMessage = 16 << 20

// maxRegistered is the largest message that a registered service of a proxying server takes:
// gRPC's default, which the server's own limit has to be above.
const maxRegistered = 4 << 20

// frame is one message that nobody here understands. Who has one frees it.
type frame struct{ data mem.BufferSlice }

func (f *frame) free() {
	f.data.Free()
	f.data = nil
}

// codec hands frames on as they are; anything else it leaves to the usual one. Its value is the
// content-subtype: "" is application/grpc, "proto" is application/grpc+proto.
type codec string

var _ encoding.CodecV2 = codec("")

var usual = wire.Codec{}

// Name implements encoding.CodecV2.
func (c codec) Name() string { return string(c) }

// Marshal implements encoding.CodecV2. gRPC frees what it gets, so a frame is shared with it.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		f.data.Ref()
		return f.data, nil
	}
	return usual.Marshal(v)
}

// Unmarshal implements encoding.CodecV2. gRPC frees data afterwards, so a frame shares it.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch v := v.(type) {
	case *frame:
		data.Ref()
		v.data = data
		return nil
	case *limited:
		if v.size = data.Len(); v.size > maxRegistered {
			return nil // limited.read says so, with the code that gRPC has for it
		}
		return usual.Unmarshal(data, v.message)
	}
	return usual.Unmarshal(data, v)
}

// limited is a message of a registered service while it is read.
type limited struct {
	message any
	size    int
}

func (l *limited) read(m any, recv func(any) error) error {
	l.message = m
	if err := recv(l); err != nil {
		return err
	}
	if l.size > maxRegistered {
		return invoke.Errorf(codes.ResourceExhausted, invoke.ReasonTooLarge, "received message larger than max (%d vs. %d)", l.size, maxRegistered)
	}
	return nil
}

// registrar holds the messages of the services that are registered by way of it to maxRegistered.
type registrar struct{ grpc.ServiceRegistrar }

// Limited gives what the services of a server with ServerOptions are registered by, so that the
// larger messages which are proxied do not raise the bound of theirs.
func Limited(r grpc.ServiceRegistrar) grpc.ServiceRegistrar { return registrar{r} }

// RegisterService implements grpc.ServiceRegistrar.
func (r registrar) RegisterService(desc *grpc.ServiceDesc, impl any) {
	d := *desc
	d.Methods = append([]grpc.MethodDesc(nil), desc.Methods...)
	for i := range d.Methods {
		d.Methods[i].Handler = limitUnary(d.Methods[i].Handler)
	}
	d.Streams = append([]grpc.StreamDesc(nil), desc.Streams...)
	for i := range d.Streams {
		handler := d.Streams[i].Handler
		d.Streams[i].Handler = func(srv any, s grpc.ServerStream) error {
			return handler(srv, &limitedStream{ServerStream: s})
		}
	}
	r.ServiceRegistrar.RegisterService(&d, impl)
}

func limitUnary(h grpc.MethodHandler) grpc.MethodHandler {
	return func(srv any, ctx context.Context, dec func(any) error, in grpc.UnaryServerInterceptor) (any, error) {
		return h(srv, ctx, func(m any) error { return new(limited).read(m, dec) }, in)
	}
}

type limitedStream struct {
	grpc.ServerStream
	limited limited
}

func (s *limitedStream) RecvMsg(m any) error { return s.limited.read(m, s.ServerStream.RecvMsg) }

// callOptions are those of the stream to a callee, whose content-subtype is the caller's.
func callOptions(contentType []string) []grpc.CallOption {
	sub := ""
	if len(contentType) > 0 {
		_, sub, _ = strings.Cut(contentType[0], "+")
	}
	switch sub {
	case "":
		return bareOptions
	case protoenc.Name:
		return namedOptions
	}
	return optionsFor(codec(sub))
}

// named is the codec of servers, where only registered services ask for its name.
const named = codec(protoenc.Name)

var bareOptions, namedOptions = optionsFor(""), optionsFor(named)

func optionsFor(c codec) []grpc.CallOption {
	return []grpc.CallOption{
		grpc.ForceCodecV2(c),
		grpc.MaxCallRecvMsgSize(MaxMessage),
		// What gRPC itself may send again, on a stream that its peer certainly did not look at.
		grpc.MaxRetryRPCBufferSize(maxReplay),
	}
}
