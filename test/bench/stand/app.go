package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// method is the application's only one over gRPC: a BytesValue, and the same back.
const method = "/farcall.bench.v1.Echo/Call"

// answer is the application over HTTP. It answers "echo" with what it was sent, "blob" with as many bytes as its
// query says, "sink" with how many it was sent, "mallocs" with how many objects this process has allocated.
func answer(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/blob":
		n, err := strconv.Atoi(r.URL.RawQuery)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(n))
		for piece := [32 << 10]byte{}; n > 0; {
			k, err := w.Write(piece[:min(n, len(piece))])
			if err != nil {
				return // the caller is gone
			}
			n -= k
		}
	case "/sink":
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return // the caller is gone
		}
		fmt.Fprint(w, n)
	case "/mallocs":
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		fmt.Fprint(w, m.Mallocs)
	case "/echo":
		echo(w, r)
	default:
		http.NotFound(w, r) // a daprd asks what it would like to be told
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return // the caller is gone
	}
	// A caller that is gone needs no answer.
	_, _ = w.Write(b)
}

// appServer is the application over gRPC.
func appServer() *grpc.Server {
	s := grpc.NewServer()
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "farcall.bench.v1.Echo",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Call", Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.BytesValue)
			return in, dec(in)
		}}},
	}, nil)
	return s
}
