package uplink

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// Whoever answers questions is given the connection of every session once its feed is up, and is
// told when that is over.
func TestConsultGoesWithTheFeed(t *testing.T) {
	ctx := testkit.Context(t)
	s := serve(t)
	u, l := newUplink(t, "", s.address)
	var begun, ended atomic.Int32
	u.consult = func(ctx context.Context, client feedv1.FeedClient) error {
		if u.Federation() != "test" {
			t.Errorf("it begins in federation %q", u.Federation())
		}
		rpc, err := client.Consult(ctx)
		if err == nil {
			_, err = rpc.Recv()
		}
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("the synchronizer is older and says %v", err)
		}
		begun.Add(1)
		<-ctx.Done()
		ended.Add(1)
		return ctx.Err()
	}
	testkit.Go(t, "uplink", u.Run)
	is := func(what string, number *atomic.Int32, want int32) {
		t.Helper()
		testkit.Eventually(t, ctx, what, func() error {
			if got := number.Load(); got != want {
				return fmt.Errorf("%d, want %d", got, want)
			}
			return nil
		})
	}
	testkit.Eventually(t, ctx, "a stream", func() error {
		if watches, _ := s.seen(); len(watches) == 0 {
			return errors.New("none yet")
		}
		return nil
	})
	if begun.Load() != 0 {
		t.Error("it began before the feed was up")
	}
	s.send <- snapshot(t, 7, slice(t, 1, "a"))
	is("it begins", &begun, 1)
	// A synchronizer that asks nobody is followed all the same.
	s.send <- &feedv1.WatchResponse{StoreId: "s1", Revision: 9, Entries: []*feedv1.Entry{slice(t, 2, "a", "b")}}
	testkit.Eventually(t, ctx, "the delta", l.want("a b"))
	s.stop()
	is("it ends with the session", &ended, 1)
	s.hello = snapshot(t, 9, slice(t, 2, "a", "b"))
	s.start(t, s.address)
	is("it begins again", &begun, 2)
}
