package synchronizer

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

// when notes when something was published first.
type when struct{ published chan time.Time }

func (w when) Confirm()     {}
func (w when) Failed(error) {}
func (w when) Publish(catalog.Update) {
	select {
	case w.published <- time.Now():
	default:
	}
}

// The first word of an agent is what the applications wait for: they are published with it, and
// not at the next look.
func TestAppsArePublishedWithTheFirstWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := make(chan struct{})
		a := &apps{
			cluster:   "edge",
			agents:    func() []*catalogv1.Agent { return nil },
			changed:   func() <-chan struct{} { return nil },
			heard:     func() <-chan struct{} { return heard },
			connected: func() int { return 1 },
		}
		out := when{make(chan time.Time, 1)}
		stop := testkit.Go(t, "apps", func(ctx context.Context) error { return a.Run(ctx, out) })
		const early = 1300 * time.Millisecond
		began := time.Now()
		<-time.NewTimer(early).C
		if len(out.published) > 0 {
			t.Error("published before anybody said which links it has")
		}
		close(heard)
		if late := (<-out.published).Sub(began.Add(early)); late != 0 {
			t.Errorf("published %s after the first word", late)
		}
		stop()
	})
}
