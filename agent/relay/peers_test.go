package relay

import (
	"context"
	"net"
	"strconv"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/farcall/farcall/agent/conns"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/internal/testkit"
)

// lateNews is the context of a call whose deadline has passed, of which the contexts made from it
// have not heard yet: the first of them to learn of it must not look to the others like the
// caller's going away.
type lateNews struct {
	context.Context
	passed atomic.Bool
}

func (c *lateNews) Err() error {
	if c.passed.Load() {
		return context.DeadlineExceeded
	}
	return c.Context.Err()
}

// Read is that of the call's body, which hears of the deadline first.
func (c *lateNews) Read([]byte) (int, error) {
	c.passed.Store(true)
	return 0, context.DeadlineExceeded
}

// TestDeadlineSeenByTheBodyFirst says that a call whose body stops at the deadline ran into it.
func TestDeadlineSeenByTheBodyFirst(t *testing.T) {
	e, _ := (&daprd{whole: true}).serve(t, "127.0.0.1:0")
	p := newPeers("east", "n1", nil)
	t.Cleanup(p.close)
	ctx := &lateNews{Context: testkit.Context(t)}
	req := &invoke.Request{Service: "cart", Verb: "POST", Method: "m", Header: invoke.Header{}, Length: -1, Rest: invoke.NewStream(ctx, nil)}
	_, err := p.call(ctx, net.JoinHostPort(e.Address, strconv.Itoa(e.Port)), conns.Who{}, req)
	if got := invoke.AsError(err); got.Code != codes.DeadlineExceeded {
		t.Errorf("got %v, want the deadline", err)
	}
}
