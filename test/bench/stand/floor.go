package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// raw hands messages on as they are. It goes by the name of the codec that applications use.
type raw struct{}

var _ encoding.CodecV2 = raw{}

// Marshal implements encoding.CodecV2 for *[]byte.
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("%T is no *[]byte", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

// Unmarshal implements encoding.CodecV2 for *[]byte.
func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is no *[]byte", v)
	}
	*b = data.Materialize()
	return nil
}

// Name implements encoding.CodecV2.
func (raw) Name() string { return "proto" }

// service is one of a single unary method that takes and gives bytes.
func service(name, method string, call func(ctx context.Context, in *[]byte) (*[]byte, error)) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: name,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: method, Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := new([]byte)
			if err := dec(in); err != nil {
				return nil, err
			}
			return call(ctx, in)
		}}},
	}
}

// dial gives what makes unary calls of one method at an address.
func dial(addr, method string) (func(ctx context.Context, in *[]byte) (*[]byte, error), error) {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, in *[]byte) (*[]byte, error) {
		out := new([]byte)
		return out, conn.Invoke(ctx, method, in, out)
	}, nil
}

func newServer(services ...*grpc.ServiceDesc) *grpc.Server {
	s := grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.MaxRecvMsgSize(64<<20))
	for _, d := range services {
		s.RegisterService(d, nil)
	}
	return s
}

// post is the method by which the floor's first process hands an HTTP body to its second.
const post = "/farcall.bench.v1.Floor/Post"

// outServer takes calls from the floor's first process to the application.
func outServer(httpAt, grpcAt string) (*grpc.Server, error) {
	call, err := dial(grpcAt, method)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true}}
	return newServer(
		service("farcall.bench.v1.Echo", "Call", call),
		service("farcall.bench.v1.Floor", "Post", func(ctx context.Context, in *[]byte) (*[]byte, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+httpAt+"/echo", bytes.NewReader(*in))
			if err != nil {
				return nil, err
			}
			resp, err := client.Do(req)
			if err != nil {
				return nil, err
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			return &b, err
		}),
	), nil
}

// inServers take the callers' calls to the floor's second process.
func inServers(out string) (http.Handler, *grpc.Server, error) {
	call, err := dial(out, method)
	if err != nil {
		return nil, nil, err
	}
	hand, err := dial(out, post)
	if err != nil {
		return nil, nil, err
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return // the caller is gone
		}
		resp, err := hand(r.Context(), &b)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		// A caller that is gone needs no answer.
		_, _ = w.Write(*resp)
	})
	return h, newServer(service("farcall.bench.v1.Echo", "Call", call)), nil
}
