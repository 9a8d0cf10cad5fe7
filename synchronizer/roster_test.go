package synchronizer

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/testkit"
)

// An agent whose host lost its power leaves a connection that nobody closes. Its place is taken by its
// next life as soon as it has been silent for longer than a live one is, and the old one, should it
// live after all, does not have it back while the new one is there.
func TestAPlaceOfWhichNothingIsHeardIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		schema, err := keys.New("test")
		if err != nil {
			t.Fatal(err)
		}
		r := newRoster(nil, nil, mirror.New(schema), map[string]*table{"east": nil}, nil, testkit.Quiet())
		life := func(incarnation string) *catalogv1.Agent {
			return &catalogv1.Agent{Cluster: "east", Node: "n1", Incarnation: incarnation, Address: "10.0.0.1:1"}
		}
		sits := func(incarnation string, want codes.Code) *seat {
			t.Helper()
			s, err := r.sit(life(incarnation))
			if status.Code(err) != want {
				t.Errorf("%s sits down with %v, want %s", incarnation, err, want)
			}
			return s
		}
		wait := func(d time.Duration) { <-time.NewTimer(d).C }
		old := sits("i1", codes.OK)
		wait(reportsWithin)
		sits("i2", codes.AlreadyExists)
		r.hear(old)
		wait(reportsWithin)
		sits("i2", codes.AlreadyExists)
		wait(time.Millisecond)
		again := sits("i2", codes.OK)
		if again == nil || again == old || reportsWithin >= 10*time.Second {
			t.Fatal("it has the old one's seat")
		}
		// The old one goes on after all.
		if err := r.report(t.Context(), old, &feedv1.ReportRequest{Agent: life("i1")}); status.Code(err) != codes.AlreadyExists {
			t.Errorf("the old one's next report: %v", err)
		}
		r.leave(old)
		sits("i1", codes.AlreadyExists)
		if !r.status(life("i2")).GetConnected() {
			t.Error("the new one lost its place when the old one left")
		}
		r.leave(again)
		sits("i1", codes.OK)
	})
}

// The place of an agent is taken while another of its name is live at any replica; not while that one is
// silent, or at a replica that does not answer.
func TestAPlaceIsTakenAtAnotherReplica(t *testing.T) {
	a := start(t, t.TempDir(), map[string][]*registry{"east": {newRegistry("a")}})
	b := start(t, t.TempDir(), map[string][]*registry{"east": {newRegistry("a")}})
	a.lists(t, "east/a")
	b.lists(t, "east/a")
	b.meets(t, "r2", a.s.grpcL.Addr().String())
	b.meets(t, "r3", testClosed(t))
	old, late := agentRecord("east", "n1"), agentRecord("east", "n1")
	late.Incarnation = "later"
	ctx := testkit.Context(t)
	claim := func(what string, want codes.Code) {
		t.Helper()
		testkit.Eventually(t, ctx, what, func() error {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			s, err := b.feed.Report(ctx)
			if err != nil {
				return err
			}
			if err := s.Send(&feedv1.ReportRequest{Federation: "test", Agent: late}); err != nil {
				return err
			}
			if _, err := s.CloseAndRecv(); status.Code(err) != want {
				return fmt.Errorf("%v, want %s", err, want)
			}
			return nil
		})
	}
	at, err := a.feed.Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := at.Send(&feedv1.ReportRequest{Federation: "test", Agent: old}); err != nil {
		t.Fatal(err)
	}
	value, err := keys.Encode(old)
	if err != nil {
		t.Fatal(err)
	}
	h := b.s.hub
	h.Apply([]store.Entry{{Key: h.watchdog.schema.Format(keys.Key{Kind: keys.Agent, Cluster: "east", Node: "n1"}), Value: value, Revision: 2}}, 2)
	testkit.Eventually(t, ctx, "the first one is known", func() error {
		if known := a.s.mirror.Agents(); len(known) != 1 {
			return fmt.Errorf("%v", known)
		}
		return nil
	})
	claim("a second one while the first is live", codes.AlreadyExists)
	if _, err := at.CloseAndRecv(); err != nil {
		t.Errorf("the first was disturbed: %v", err)
	}
	claim("a second one when the first has gone", codes.OK)
}
