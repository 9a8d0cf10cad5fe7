package synchronizer

import (
	"bytes"
	"testing"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/store"
)

// TestWhatALaterVersionWroteIsForwardedAsItIs: keys and values that this synchronizer does not understand
// reach agents byte by byte, in snapshots and as changes, and whoever lacks nothing of them is sent nothing.
func TestWhatALaterVersionWroteIsForwardedAsItIs(t *testing.T) {
	h := newTestHub(t)
	later := []store.Entry{
		{Key: "/farcall/v1/test/forecasts/west", Value: []byte("\x09of a kind"), Revision: 3},
		{Key: "/farcall/v1/test/clusters/west/services/default/cart/0", Value: []byte("\x09of a format"), Revision: 4},
		{Key: "/farcall/v1/test/clusters/west/forecast/0", Value: []byte{}, Revision: 5},
	}
	list(h, "s1", 5, later...)
	all, changes := h.read("", 0), h.read("s1", 5)
	sent := func(r *reader) (out []*feedv1.Entry) {
		t.Helper()
		for {
			if len(r.queued) == 0 {
				if m, wait := r.step(); m != nil {
					out = append(out, m.GetEntries()...)
					continue
				} else if wait != nil {
					return out
				}
			}
			m, err := r.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, m.GetEntries()...)
		}
	}
	same := func(what string, got []*feedv1.Entry, want []store.Entry) {
		t.Helper()
		if len(got) != len(want) {
			t.Fatalf("%s: got %v, want %v", what, got, want)
		}
		by := map[string]*feedv1.Entry{}
		for _, e := range got {
			by[e.GetKey()] = e
		}
		for _, w := range want {
			if e := by[w.Key]; !bytes.Equal(e.GetValue(), w.Value) || e.GetRevision() != w.Revision || e.GetDeleted() != w.Deleted {
				t.Errorf("%s: got %v, want %v", what, e, w)
			}
		}
	}
	same("a snapshot", sent(all), later)
	same("who has all of it", sent(changes), nil)
	next := []store.Entry{{Key: later[0].Key, Value: []byte("\x09another"), Revision: 6}, {Key: later[2].Key, Revision: 6, Deleted: true}}
	h.Apply(next, 6)
	same("changes", sent(changes), next)
}
