package uplink

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/testkit"
)

// savedView is what the agent of these tests may have saved.
func savedView(t *testing.T, rev int64, entries ...*feedv1.Entry) *feedv1.SavedView {
	t.Helper()
	return &feedv1.SavedView{Generation: 3, Saved: timestamppb.Now(), Cluster: "east", Node: "n1", Reads: keys.Reads(), View: snapshot(t, rev, entries...)}
}

func encoded(t *testing.T, v *feedv1.SavedView) []byte {
	t.Helper()
	b, err := encodeView(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBadSavedViewsAreLeftAlone(t *testing.T) {
	good := encoded(t, savedView(t, 7, slice(t, 1, "a")))
	flipped := append([]byte(nil), good...)
	flipped[len(flipped)-1] ^= 1
	another, elsewhere, unwhole := savedView(t, 7, slice(t, 1, "a")), savedView(t, 7, slice(t, 1, "a")), savedView(t, 7)
	another.Node, elsewhere.Cluster, unwhole.View = "n2", "west", nil
	for name, b := range map[string][]byte{
		"empty": {}, "garbage": []byte("hello"), "truncated": good[:len(good)-3], "bit flipped": flipped,
		"header only": good[:headerSize], "an older format": append([]byte("farcall-view-1\n"), good[len(magic):]...),
		"of another node": encoded(t, another), "of another cluster": encoded(t, elsewhere), "of nothing": encoded(t, unwhole),
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "view")
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			s := serve(t)
			u, l := newUplink(t, file, s.address)
			testkit.Go(t, "uplink", u.Run)
			s.send <- snapshot(t, 8, slice(t, 1, "fresh"))
			testkit.Eventually(t, testkit.Context(t), "the feed", l.want("fresh"))
			if w, _ := s.seen(); w[0].GetRevision() != 0 || w[0].GetDigest() != nil {
				t.Errorf("resumed from a view that cannot be used: %v", w[0])
			}
		})
	}
}

// TestNoDamageGoesUnseen flips every bit and cuts at every byte: nothing but the file as it was written
// is a view.
func TestNoDamageGoesUnseen(t *testing.T) {
	good := encoded(t, savedView(t, 7, slice(t, 1, "a")))
	if _, err := decodeView(good); err != nil {
		t.Fatal(err)
	}
	for n := range good {
		if _, err := decodeView(good[:n]); err == nil {
			t.Errorf("cut after %d bytes of %d it is taken", n, len(good))
		}
		for bit := range 8 {
			b := append([]byte(nil), good...)
			b[n] ^= 1 << bit
			if _, err := decodeView(b); err == nil {
				t.Errorf("with bit %d of byte %d flipped it is taken", bit, n)
			}
		}
	}
}

// TestSavedViewIsAsOldAsItIs says that a view that lay on the disk for an hour is an hour older, so that
// nobody takes it for fresh, and that a clock that is wrong makes it neither young nor ancient.
func TestSavedViewIsAsOldAsItIs(t *testing.T) {
	beat := entry(t, keys.Key{Kind: keys.Replica, Replica: "saved-view"}, &storev1.Replica{Id: "saved-view", Tick: 100, Confirmed: map[string]uint64{"west": 98}})
	for name, c := range map[string]struct {
		saved       time.Time
		least, most time.Duration
		state       catalog.ClusterState
	}{
		"an hour ago":                    {time.Now().Add(-time.Hour), time.Hour, time.Hour + time.Minute, catalog.StateStale},
		"when the clock was a year back": {time.Now().AddDate(-1, 0, 0), maxAway, maxAway + time.Minute, catalog.StateStale},
		"when the clock was ahead":       {time.Now().Add(time.Hour), 2 * time.Second, time.Minute, 0},
	} {
		v := savedView(t, 7, slice(t, 1, "a"))
		v.View.Entries = append(v.View.Entries, beat)
		v.Saved = timestamppb.New(c.saved)
		file := filepath.Join(t.TempDir(), "view")
		if err := os.WriteFile(file, encoded(t, v), 0o600); err != nil {
			t.Fatal(err)
		}
		u, l := newUplink(t, file)
		u.Load()
		if err := l.want("a")(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		west := l.m.Clusters(time.Now())[0]
		if !west.AgeKnown || west.Age < c.least || west.Age > c.most || c.state != 0 && west.State != c.state {
			t.Errorf("saved %s: the cluster is %s, %s old", name, west.State, west.Age)
		}
		if (c.state == catalog.StateStale) != u.Stale() {
			t.Errorf("saved %s: the agent says stale: %v", name, u.Stale())
		}
	}
}

// TestOlderViewDoesNotTakeTheFeedBack starts from a view of long ago: what it has is served until the
// feed is there, and nothing of it outlives that.
func TestOlderViewDoesNotTakeTheFeedBack(t *testing.T) {
	ctx := testkit.Context(t)
	file := filepath.Join(t.TempDir(), "view")
	if err := os.WriteFile(file, encoded(t, savedView(t, 7, slice(t, 1, "a", "gone"))), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t)
	u, l := newUplink(t, file, s.address)
	stop := testkit.Go(t, "uplink", u.Run)
	testkit.Eventually(t, ctx, "the old view", l.want("a gone"))
	s.send <- snapshot(t, 900, slice(t, 5, "a", "b"))
	testkit.Eventually(t, ctx, "the feed", l.want("a b"))
	stop()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	v, err := decodeView(b)
	if err != nil || v.GetGeneration() <= 3 || v.GetView().GetRevision() != 900 {
		t.Errorf("saved: generation %d, revision %d, %v", v.GetGeneration(), v.GetView().GetRevision(), err)
	}
}

// TestSavedViewKnowsWhatItHolds says that an agent that starts from its view can say at once what it
// holds, so that it is continued where nothing changed, and is not taken for one that has drifted.
func TestSavedViewKnowsWhatItHolds(t *testing.T) {
	ctx := testkit.Context(t)
	file := filepath.Join(t.TempDir(), "view")
	s := serve(t)
	u, l := newUplink(t, file, s.address)
	stop := testkit.Go(t, "uplink", u.Run)
	first := snapshot(t, 7, slice(t, 1, "a"))
	for n, e := range first.GetEntries() {
		e.Revision = int64(n + 1)
	}
	s.send <- first
	testkit.Eventually(t, ctx, "the snapshot", l.want("a"))
	had, ok := l.m.Digest()
	if !ok || len(had.Parts) != 1 {
		t.Fatalf("holds %v %v", had, ok)
	}
	stop()
	s.stop()

	s.start(t, s.address)
	again, l := newUplink(t, file, s.address)
	testkit.Go(t, "uplink again", again.Run)
	testkit.Eventually(t, ctx, "it asks", func() error {
		w, _ := s.seen()
		last := w[len(w)-1]
		if len(w) < 2 {
			return errors.New("not yet")
		}
		if differ := mirror.Differ(had.Parts, last.GetDigest().GetParts()); len(differ) > 0 || last.GetRevision() != 7 {
			return fmt.Errorf("at revision %d it differs in %q", last.GetRevision(), differ)
		}
		return l.want("a")()
	})
}

func FuzzDecodeView(f *testing.F) {
	body, err := proto.Marshal(&feedv1.SavedView{Generation: 1, Cluster: "c", Node: "n", View: &feedv1.WatchResponse{Federation: "f", StoreId: "s", Revision: 1}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte{})
	f.Add([]byte{0xff, 0xff})
	f.Fuzz(func(t *testing.T, body []byte) {
		// As it is, the checksum keeps everything away from the decoder; with the right one it gets there.
		if _, err := decodeView(body); err == nil && len(body) < headerSize {
			t.Error("a view without a header is taken")
		}
		sum := sha256.Sum256(body)
		v, err := decodeView(append(append([]byte(magic), sum[:]...), body...))
		if err != nil {
			return
		}
		again, err := encodeView(v)
		if err != nil {
			t.Fatal(err)
		}
		if w, err := decodeView(again); err != nil || !proto.Equal(v, w) {
			t.Errorf("what was read is not what is written: %v", err)
		}
	})
}

// FuzzLoad says that no file, whatever it says of itself, ends an agent.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(magic))
	f.Add([]byte{0x0a, 0x02, 0x2a, 0x00})
	f.Fuzz(func(t *testing.T, body []byte) {
		sum := sha256.Sum256(body)
		file := filepath.Join(t.TempDir(), "view")
		if err := os.WriteFile(file, append(append([]byte(magic), sum[:]...), body...), 0o600); err != nil {
			t.Fatal(err)
		}
		u, _ := newUplink(t, file)
		u.Load()
		if m := u.mirror.Load(); m != nil && len(m.Clusters(time.Now())) > 0 && u.Federation() == "" {
			t.Error("clusters of no federation")
		}
	})
}
