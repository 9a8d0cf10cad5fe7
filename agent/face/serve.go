package face

import (
	"context"
	"log"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// maxStreams bounds the calls under way on one connection; gRPC's own bound is none. A peer has one
// connection, whose calls beyond it wait for others to end: it is far above what one agent relays to
// another, and far below what exhausts a process.
const maxStreams = 10_000

func grace(c Config) time.Duration {
	if c.Grace > 0 {
		return c.Grace
	}
	return defaultGrace
}

// serverLog gives net/http's own messages, which are about single connections, to the log at
// debug level.
func serverLog(l *slog.Logger) *log.Logger { return slog.NewLogLogger(l.Handler(), slog.LevelDebug) }

var keeping = keepalive.ServerParameters{MaxConnectionIdle: 3 * time.Minute, Time: 10 * time.Second, Timeout: 5 * time.Second}

// maxAge is how long a connection of somebody with an identity takes new calls, give or take a tenth;
// then the caller connects anew and is judged anew, be it that its identity was taken back. Calls under
// way go on.
const maxAge = 30 * time.Minute

// judgedAnew bounds the age of connections.
func judgedAnew() grpc.ServerOption {
	k := keeping
	k.MaxConnectionAge = maxAge
	return grpc.KeepaliveParams(k)
}

// serverOptions are those of all gRPC servers. The keepalive rules are a daprd's, which pings
// its peers every 10 s even without a call.
func serverOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 8 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keeping),
		grpc.ConnectionTimeout(5 * time.Second),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.MaxConcurrentStreams(maxStreams),
		// Stop waits as well, so that nothing of a call outlives Run.
		grpc.WaitForHandlers(true),
	}
}

// runGRPC serves on l until ctx is done; it then waits for the calls under way, for grace at
// most, cuts off the rest and returns nil.
func runGRPC(ctx context.Context, what string, s *grpc.Server, l net.Listener, grace time.Duration) error {
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	select {
	case err := <-ended:
		s.Stop()
		return listening(what, l, err)
	case <-ctx.Done():
	}
	calm := make(chan struct{})
	go func() {
		s.GracefulStop()
		close(calm)
	}()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-calm:
	case <-timer.C:
		s.Stop()
		<-calm
	}
	<-ended
	return nil
}
