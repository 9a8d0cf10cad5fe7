package reachability

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestSuspectsAreDialledAndComeBack(t *testing.T) {
	ctx := testkit.Context(t)
	var down atomic.Pointer[map[string]struct{}]
	tr := New(testkit.Log(t), prometheus.NewRegistry(), func(d map[string]struct{}) { down.Store(&d) })
	testkit.Go(t, "tracker", tr.Run)

	l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", testkit.FreePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	isDown := func(want bool) func() error {
		return func() error {
			if d := down.Load(); d != nil {
				if _, ok := (*d)[address]; ok == want {
					return nil
				}
			}
			tr.Suspect(address)
			return fmt.Errorf("down: %v", down.Load())
		}
	}
	// While it answers, suspicion alone does not take it down.
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		if c, err := l.Accept(); err == nil {
			c.Close()
		}
	}()
	tr.Suspect(address)
	select {
	case <-accepted:
	case <-ctx.Done():
		t.Fatal("the suspect was not dialled")
	}
	if down.Load() != nil {
		t.Fatalf("taken down though it answers: %v", *down.Load())
	}
	l.Close()
	testkit.Eventually(t, ctx, "down", isDown(true))
	l, err = net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("the port is taken by somebody else: %v", err)
	}
	defer l.Close()
	testkit.Eventually(t, ctx, "up again", isDown(false))
}

func TestManySuspectsDoNotBlock(t *testing.T) {
	tr := New(testkit.Quiet(), prometheus.NewRegistry(), func(map[string]struct{}) {})
	for i := range 10_000 {
		tr.Suspect(fmt.Sprint("127.0.0.1:", i)) // nobody reads: Run does not run
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tr.Run(ctx); err == nil {
		t.Error("Run ended without an error though its context was done")
	}
}
