package face

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/farcall/farcall/internal/testkit"
)

// A server whose listener fails ends its calls before Run returns: what they use goes away after it.
func TestRunWaitsForItsCalls(t *testing.T) {
	l := listen(t)
	begun, over := make(chan struct{}), new(atomic.Bool)
	s := grpc.NewServer(append(serverOptions(), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		close(begun)
		<-s.Context().Done()
		for range 1000 {
			runtime.Gosched()
		}
		over.Store(true)
		return nil
	}))...)
	ended := make(chan error, 1)
	go func() { ended <- runGRPC(testkit.Context(t), "test", s, l, time.Second) }()
	cc := dial(t, l.Addr().String())
	if _, err := cc.NewStream(testkit.Context(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/s/m"); err != nil {
		t.Fatal(err)
	}
	<-begun
	l.Close()
	if err := <-ended; err == nil {
		t.Error("no error")
	}
	if !over.Load() {
		t.Error("a call is still under way")
	}
}
