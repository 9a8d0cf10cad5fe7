// Stand is what stands around what is measured, as processes of their own: the application that is
// called, and the floor, which is the least that a call by way of two processes can be made of with
// net/http and grpc-go: no choice, no policy, no account of anything.
//
//	stand app HTTP GRPC                the application at two addresses
//	stand out LISTEN HTTP GRPC         the floor's second process, before the application
//	stand in  LISTEN-HTTP LISTEN-GRPC OUT   its first, before the second
//
// It knows nothing of Farcall, and has no goroutines but its servers'.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"

	"google.golang.org/grpc"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 3 && args[0] == "app":
		return serve(args[1], http.HandlerFunc(answer), args[2], appServer())
	case len(args) == 4 && args[0] == "out":
		s, err := outServer(args[2], args[3])
		if err != nil {
			return err
		}
		return serve("", nil, args[1], s)
	case len(args) == 4 && args[0] == "in":
		h, s, err := inServers(args[3])
		if err != nil {
			return err
		}
		return serve(args[1], h, args[2], s)
	default:
		return fmt.Errorf("usage: stand app HTTP GRPC | out LISTEN HTTP GRPC | in HTTP GRPC OUT")
	}
}

// serve serves HTTP, where there is a handler, and gRPC, until one of them fails.
func serve(httpAt string, h http.Handler, grpcAt string, s *grpc.Server) error {
	ended := make(chan error, 2)
	if h != nil {
		l, err := net.Listen("tcp", httpAt)
		if err != nil {
			return err
		}
		go func() { ended <- http.Serve(l, h) }() //nolint:gosec // it serves the measurements only
	}
	l, err := net.Listen("tcp", grpcAt)
	if err != nil {
		return err
	}
	go func() { ended <- s.Serve(l) }()
	return <-ended
}
