// Package proxy carries gRPC calls whose messages it does not know, in whatever shape (unary,
// client-streaming, server-streaming, both), between a server's stream and that of a callee: it
// copies messages both ways, keeps the first 64 KiB of what the caller says so that a call which
// was certainly not executed can be made elsewhere, and tells the application's status from one
// that gRPC makes up for a broken connection.
//
// It does not choose the callee and serves nothing by itself. Each call has one goroutine, which
// reads what the caller says and ends with the server's stream; answers are copied by the server's
// own. How much is held in memory is what gRPC's windows are, and one message each way.
package proxy

import (
	"google.golang.org/grpc"
)

// A stream's window is what one call may hold in memory here, besides the message that is being
// read; fixed windows spare gRPC's bandwidth probes.
const (
	StreamWindow = 1 << 20
	ConnWindow   = 16 << 20
)

// ServerOptions are those of a server that proxies what its services do not have. Its services are
// registered by way of Limited.
func ServerOptions(unknown grpc.StreamHandler) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(named),
		grpc.UnknownServiceHandler(unknown),
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.StaticStreamWindowSize(StreamWindow),
		grpc.StaticConnWindowSize(ConnWindow),
	}
}

// DialOptions are those of the connections in a Way's pool.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithStaticStreamWindowSize(StreamWindow),
		grpc.WithStaticConnWindowSize(ConnWindow),
	}
}
