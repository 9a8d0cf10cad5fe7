package synchronizer

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
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
		if _, _, _, ok := r.connected(life("i2")); !ok {
			t.Error("the new one lost its place when the old one left")
		}
		r.leave(again)
		sits("i1", codes.OK)
	})
}
