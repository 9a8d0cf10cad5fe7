package uplink

import (
	"errors"
	"fmt"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// TestReportsWhatItHolds says that a report carries the digest of what is held at the revision it names,
// none while a snapshot is under way, and how often it drifted; and that a snapshot which says why it
// is sent is counted.
func TestReportsWhatItHolds(t *testing.T) {
	ctx := testkit.Context(t)
	s := serve(t)
	u, l := newUplink(t, "", s.address)
	stop := testkit.Go(t, "uplink", u.Run)
	whole := snapshot(t, 7, slice(t, 1, "a"))
	for n, e := range whole.GetEntries() {
		e.Revision = int64(n + 1)
	}
	s.send <- whole
	testkit.Eventually(t, ctx, "the snapshot", l.want("a"))
	r, err := u.reportNow(false)
	if err != nil || r.GetDigest().GetParts()["west"] == 0 || r.GetRevision() != 7 || r.GetDrifts() != 0 {
		t.Errorf("it reports %v, %v", r, err)
	}

	again := slice(t, 2, "a", "b")
	again.Revision = 9
	s.send <- &feedv1.WatchResponse{StoreId: "s1", Revision: 9, SnapshotBegin: true, Entries: []*feedv1.Entry{again}, Drifted: []string{"west", "policies and cordons"}}
	testkit.Eventually(t, ctx, "half of a snapshot", l.want("a b"))
	if r, err = u.reportNow(false); err != nil || r.GetDigest() != nil || r.GetDrifts() != 1 {
		t.Errorf("within a snapshot it reports %v, %v", r, err)
	}
	s.send <- &feedv1.WatchResponse{StoreId: "s1", Revision: 9, SnapshotEnd: true, Entries: whole.GetEntries()[1:]}
	testkit.Eventually(t, ctx, "the whole of it", func() error {
		if r, err = u.reportNow(false); err != nil || r.GetDigest() == nil || r.GetRevision() != 9 {
			return fmt.Errorf("it reports %v, %v", r, err)
		}
		return nil
	})
	stop()
	for part, want := range map[string]float64{"west": 1, "policies and cordons": 1, "east": 0} {
		var m dto.Metric
		if err := u.metrics.drift.WithLabelValues(part).Write(&m); err != nil || m.GetCounter().GetValue() != want {
			t.Errorf("%s: counted %v, %v, want %v", part, m.GetCounter().GetValue(), err, want)
		}
	}
}

// TestSynchronizerThatAsksToBeLeftAlone says that an agent waits as long as it is asked to, that it goes
// to another synchronizer meanwhile, where it knows one, and that nobody can keep it away for long.
func TestSynchronizerThatAsksToBeLeftAlone(t *testing.T) {
	busy, err := status.New(codes.Unavailable, "busy").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(3 * time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		err  error
		want time.Duration
	}{
		"asked":               {busy.Err(), 3 * time.Second},
		"asked through words": {fmt.Errorf("watch: %w", busy.Err()), 3 * time.Second},
		"not asked":           {status.Error(codes.Unavailable, "away"), 0},
		"no status":           {errors.New("broken"), 0},
	} {
		if got := retryAfter(c.err); got != c.want {
			t.Errorf("%s: waits %s, want %s", what, got, c.want)
		}
	}
	for _, wrong := range []time.Duration{-time.Hour, 1000 * time.Hour} {
		st, err := status.New(codes.Unavailable, "busy").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(wrong)})
		if err != nil {
			t.Fatal(err)
		}
		if got := retryAfter(st.Err()); got < 0 || got > maxWait {
			t.Errorf("asked for %s it waits %s", wrong, got)
		}
	}

	u, _ := newUplink(t, "", "a", "b", "c")
	now := time.Now()
	next := 0
	ask := func(want string, wantWait time.Duration) {
		t.Helper()
		if got, wait := u.choose(&next, now); got != want || wait != wantWait {
			t.Errorf("asks %s after %s, want %s after %s", got, wait, want, wantWait)
		}
	}
	ask("a", 0)
	ask("b", 0)
	u.waits["c"] = now.Add(time.Second)
	ask("a", 0)
	u.waits["b"] = now.Add(3 * time.Second)
	ask("a", 0)
	u.waits["a"] = now.Add(2 * time.Second)
	ask("c", time.Second)
	ask("c", time.Second)
	now = now.Add(10 * time.Second)
	ask("a", 0)
}

// TestAgentComesBackWhenItWasAskedTo is the same with a server.
func TestAgentComesBackWhenItWasAskedTo(t *testing.T) {
	ctx := testkit.Context(t)
	st, err := status.New(codes.Unavailable, "too many").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(2 * time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t)
	s.mu.Lock()
	s.turnAway = st.Err()
	s.mu.Unlock()
	u, l := newUplink(t, "", s.address)
	testkit.Go(t, "uplink", u.Run)
	var asked time.Time
	testkit.Eventually(t, ctx, "it is turned away", func() error {
		if w, _ := s.seen(); len(w) == 0 {
			return errors.New("not yet")
		}
		asked = time.Now()
		return nil
	})
	s.mu.Lock()
	s.turnAway = nil
	s.mu.Unlock()
	s.send <- snapshot(t, 7, slice(t, 1, "a"))
	testkit.Eventually(t, ctx, "it comes back", l.want("a"))
	if after := time.Since(asked); after < time.Second {
		t.Errorf("it came back after %s, though it was asked for 2 s", after)
	}
	if w, _ := s.seen(); len(w) != 2 {
		t.Errorf("it asked %d times", len(w))
	}
}

// TestFeedThatContinuesWithTooLittle says that an agent which was continued checks what it was told it
// should hold, and asks for everything where a deletion was missed.
func TestFeedThatContinuesWithTooLittle(t *testing.T) {
	ctx := testkit.Context(t)
	s := serve(t)
	u, l := newUplink(t, "", s.address)
	testkit.Go(t, "uplink", u.Run)
	first := snapshot(t, 7, slice(t, 1, "a"))
	for n, e := range first.GetEntries() {
		e.Revision = int64(n + 1)
	}
	s.send <- first
	testkit.Eventually(t, ctx, "the snapshot", l.want("a"))
	had, _ := l.m.Digest()

	// What it holds is what it should: the feed goes on.
	s.send <- &feedv1.WatchResponse{StoreId: "s1", Revision: 8, Digest: &feedv1.Digest{Parts: had.Parts}}
	younger := slice(t, 2, "a", "b")
	younger.Revision = 9
	s.send <- &feedv1.WatchResponse{StoreId: "s1", Revision: 9, Entries: []*feedv1.Entry{younger}}
	testkit.Eventually(t, ctx, "the feed goes on", l.want("a b"))
	if w, _ := s.seen(); len(w) != 1 {
		t.Fatalf("it asked %d times", len(w))
	}

	s.send <- &feedv1.WatchResponse{StoreId: "s1", Revision: 10, Digest: &feedv1.Digest{Parts: had.Parts}}
	testkit.Eventually(t, ctx, "it asks for everything", func() error {
		w, _ := s.seen()
		if last := w[len(w)-1]; len(w) < 2 || last.GetStoreId() != "" || last.GetRevision() != 0 || last.GetDigest() != nil || last.GetFederation() != "test" {
			return fmt.Errorf("%d times, last %v", len(w), last)
		}
		return l.want("a b")() // and keeps what it has until then
	})
	whole := snapshot(t, 11, slice(t, 3, "c"))
	s.send <- whole
	testkit.Eventually(t, ctx, "everything", l.want("c"))
	s.stop()
	s.start(t, s.address)
	testkit.Eventually(t, ctx, "from then on it continues again", func() error {
		w, _ := s.seen()
		if last := w[len(w)-1]; last.GetStoreId() != "s1" || last.GetRevision() != 11 {
			return fmt.Errorf("it asked for %v", last)
		}
		return nil
	})
}
