// Ledger is an application of the tests that gets killed: it writes down each call that it
// executes, holds the call until its caller is gone, and writes that down too. What is in the
// file outlives it. It knows nothing of Farcall or Dapr, and serves HTTP and gRPC. Its goroutines
// are the servers' and one for each body that it reads on.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// main serves HTTP at the address that is the first argument, gRPC at the second, and appends to
// the file that is the third.
func main() {
	file, err := os.OpenFile(os.Args[3], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	l := ledger{file}
	listener, err := net.Listen("tcp", os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() {
		fmt.Fprintln(os.Stderr, http.ListenAndServe(os.Args[1], http.HandlerFunc(l.http))) //nolint:gosec // it serves the tests only
		os.Exit(1)
	}()
	// A service of any name: the method's is what counts.
	fmt.Fprintln(os.Stderr, grpc.NewServer(grpc.UnknownServiceHandler(l.grpc)).Serve(listener))
	os.Exit(1)
}

type ledger struct{ file *os.File }

// hold writes down that a call is executed, and, when its caller is gone, that it is over.
func (l ledger) hold(ctx context.Context, id string) {
	fmt.Fprintln(l.file, "begin", id)
	<-ctx.Done()
	fmt.Fprintln(l.file, "end", id)
}

// http answers /echo at once. It holds /whole when it has the body, and /part with its first byte.
func (l ledger) http(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("id")
	switch r.URL.Path {
	case "/whole":
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			l.hold(r.Context(), id)
		}
	case "/part":
		if _, err := r.Body.Read(make([]byte, 1)); err == nil {
			ctx, cancel := context.WithCancel(r.Context())
			go func() {
				defer cancel()
				_, _ = io.Copy(io.Discard, r.Body) // ends when the caller is gone
			}()
			l.hold(ctx, id)
		}
	default:
		fmt.Fprintln(w, "ready")
		return
	}
	panic(http.ErrAbortHandler) // whoever may still listen gets no answer
}

// grpc answers Unary at once. It holds Hold when it has the message that is the call's id, and
// Both when it has answered that.
func (l ledger) grpc(_ any, s grpc.ServerStream) error {
	id := new(wrapperspb.BytesValue)
	if err := s.RecvMsg(id); err != nil {
		return err
	}
	method, _ := grpc.MethodFromServerStream(s)
	switch path.Base(method) {
	case "Hold":
		l.hold(s.Context(), string(id.Value))
	case "Both":
		if err := s.SendMsg(id); err != nil {
			return err
		}
		l.hold(s.Context(), string(id.Value))
	default:
		return s.SendMsg(id)
	}
	return s.Context().Err()
}
