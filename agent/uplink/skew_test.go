package uplink

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
)

// TestAViewThatAnotherVersionSaved says that an agent that was upgraded, or taken back, starts from what it
// saved before, and then asks for everything: the other version may have left out what it did not know,
// and nobody would send that again. It goes on asking over restarts until it was told everything once.
func TestAViewThatAnotherVersionSaved(t *testing.T) {
	for name, reads := range map[string]string{"another": "0123456789abcdef", "one before there was a word for it": ""} {
		t.Run(name, func(t *testing.T) {
			ctx := testkit.Context(t)
			file := filepath.Join(t.TempDir(), "view")
			v := savedView(t, 7, slice(t, 1, "a"))
			v.Reads = reads
			if err := os.WriteFile(file, encoded(t, v), 0o600); err != nil {
				t.Fatal(err)
			}
			s := serve(t)
			asked := func(n int) func() error {
				return func() error {
					if w, _ := s.seen(); len(w) < n {
						return errors.New("not yet")
					}
					return nil
				}
			}
			second := secondSlice(t)
			for n := range 2 {
				u, l := newUplink(t, file, s.address)
				stop := testkit.Go(t, "uplink", u.Run)
				testkit.Eventually(t, ctx, "the saved view", l.want("a"))
				testkit.Eventually(t, ctx, "it asks", asked(n+1))
				stop()
			}
			u, l := newUplink(t, file, s.address)
			stop := testkit.Go(t, "uplink", u.Run)
			testkit.Eventually(t, ctx, "it asks", asked(3))
			s.send <- snapshot(t, 7, slice(t, 1, "a"), second)
			testkit.Eventually(t, ctx, "everything", l.want("a b"))
			stop()
			u, l = newUplink(t, file, s.address)
			testkit.Go(t, "uplink", u.Run)
			testkit.Eventually(t, ctx, "the saved view", l.want("a b"))
			testkit.Eventually(t, ctx, "it asks", asked(4))
			watches, _ := s.seen()
			for n, w := range watches[:3] {
				if w.GetStoreId() != "" || w.GetRevision() != 0 || w.GetDigest() != nil || w.GetFederation() != "test" {
					t.Errorf("asked at start %d: %v", n, w)
				}
			}
			if w := watches[3]; w.GetStoreId() != "s1" || w.GetRevision() != 7 {
				t.Errorf("asked with everything: %v", w)
			}
		})
	}
}

// secondSlice is a slice beside that of the other tests.
func secondSlice(t *testing.T) *feedv1.Entry {
	t.Helper()
	return entry(t, keys.Key{Kind: keys.Slice, Cluster: "west", Name: cart, Slice: 1}, &storev1.Slice{
		Cluster: "west", Namespace: "default", Service: "cart", Slice: 1, Epoch: 1, Seq: 1,
		Instances: []*catalogv1.Instance{{Cluster: "west", Namespace: "default", Service: "cart", Id: "b", Address: "10.0.0.1", Port: 80}},
	})
}

// TestAViewSaysWhatItsVersionReads: else it would never be continued from.
func TestAViewSaysWhatItsVersionReads(t *testing.T) {
	ctx := testkit.Context(t)
	file := filepath.Join(t.TempDir(), "view")
	s := serve(t)
	u, l := newUplink(t, file, s.address)
	stop := testkit.Go(t, "uplink", u.Run)
	s.send <- snapshot(t, 7, slice(t, 1, "a"))
	testkit.Eventually(t, ctx, "the feed", l.want("a"))
	stop()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := decodeView(b); err != nil || v.GetReads() != keys.Reads() || len(keys.Reads()) != 16 {
		t.Errorf("it says %q, %v; this version reads %q", v.GetReads(), err, keys.Reads())
	}
}
