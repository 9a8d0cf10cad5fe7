package synchronizer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func newTestHub(t *testing.T) *hub {
	t.Helper()
	schema, err := keys.New("test")
	if err != nil {
		t.Fatal(err)
	}
	m := mirror.New(schema)
	return newHub(schema, "test", m, newMetrics(prometheus.NewRegistry(), m))
}

func list(h *hub, id string, rev int64, entries ...store.Entry) {
	h.Begin(id)
	h.Apply(entries, rev)
	h.End(rev)
}

func put(key string, rev int64) store.Entry {
	return store.Entry{Key: key, Value: []byte(key), Revision: rev}
}

// drain reads all that is there and gives it as words: [ begins and ] ends a snapshot, -k is a
// deletion.
func drain(t *testing.T, r *reader) string {
	t.Helper()
	var words []string
	for {
		m, wait := (*feedv1.WatchResponse)(nil), (<-chan struct{})(nil)
		if len(r.queued) > 0 {
			m, _ = r.Next(t.Context())
		} else if m, wait = r.step(); m == nil {
			if wait != nil {
				return strings.Join(words, " ")
			}
			continue
		}
		if m.GetSnapshotBegin() {
			words = append(words, "[")
		}
		for _, e := range m.GetEntries() {
			if e.GetDeleted() {
				words = append(words, "-"+e.GetKey())
			} else {
				words = append(words, e.GetKey())
			}
		}
		if m.GetSnapshotEnd() {
			words = append(words, "]")
		}
	}
}

func wantDrain(t *testing.T, what string, r *reader, want string) {
	t.Helper()
	if got := drain(t, r); got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestHubSnapshotThenDeltas(t *testing.T) {
	h := newTestHub(t)
	early := h.read("", 0)
	wantDrain(t, "before the first list", early, "")
	list(h, "s1", 5, put("b", 3), put("a", 5))
	wantDrain(t, "snapshot", early, "[ a b ]")
	h.Apply([]store.Entry{put("c", 6), {Key: "a", Revision: 6, Deleted: true}}, 6)
	wantDrain(t, "delta", early, "c -a")
	wantDrain(t, "nothing new", early, "")
	h.snapshot.made = time.Now()
	wantDrain(t, "one that is there at once", h.read("", 0), "[ a b ] c -a")
	h.snapshot.made = time.Now().Add(-snapshotAge)
	wantDrain(t, "a late one", h.read("", 0), "[ b c ]")
}

func TestHubResumesByRevision(t *testing.T) {
	h := newTestHub(t)
	list(h, "s1", 5, put("a", 5))
	for rev := int64(6); rev <= 8; rev++ {
		h.Apply([]store.Entry{put(fmt.Sprint("k", rev), rev)}, rev)
	}
	wantDrain(t, "from 6", h.read("s1", 6), "k7 k8")
	wantDrain(t, "from the list itself", h.read("s1", 5), "k6 k7 k8")
	wantDrain(t, "up to date", h.read("s1", 8), "")
	wantDrain(t, "from before the history", h.read("s1", 4), "[ a k6 k7 k8 ]")
	wantDrain(t, "of another store", h.read("s0", 7), "[ a k6 k7 k8 ]")
	ahead := h.read("s1", 10)
	wantDrain(t, "ahead of this replica", ahead, "")
	h.Apply([]store.Entry{put("k11", 11)}, 11)
	wantDrain(t, "caught up", ahead, "k11")
}

func TestHubRelistSendsTheDifference(t *testing.T) {
	h := newTestHub(t)
	list(h, "s1", 5, put("a", 1), put("b", 2), put("c", 3))
	r := h.read("", 0)
	drain(t, r)
	list(h, "s1", 9, put("a", 1), put("b", 8), put("d", 9))
	got := strings.Fields(drain(t, r))
	slices.Sort(got)
	if want := "-c b d"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestHubRelistSendsMarkersAfterWhatTheyMark(t *testing.T) {
	h := newTestHub(t)
	const p = "/farcall/v1/test/"
	list(h, "s1", 5, put("a", 1))
	r := h.read("", 0)
	drain(t, r)
	list(h, "s1", 9, put("a", 1), put(p+"policies-synced", 9), put(p+"policies/service/default/cart/*", 9), put("b", 7))
	wantDrain(t, "the difference", r, "b "+p+"policies/service/default/cart/* "+p+"policies-synced")
}

func TestHubOtherStoreIsASnapshotForAll(t *testing.T) {
	h := newTestHub(t)
	list(h, "s1", 50, put("a", 1))
	r := h.read("", 0)
	drain(t, r)
	list(h, "s2", 2, put("z", 2))
	wantDrain(t, "new store", r, "[ z ]")
}

func TestHubSlowReaderIsListedAgain(t *testing.T) {
	h := newTestHub(t)
	list(h, "s1", 1, put("a", 1))
	slow, quick := h.read("", 0), h.read("", 0)
	drain(t, slow)
	for rev := int64(2); rev < 2+historyEntries/100+10; rev++ {
		batch := make([]store.Entry, 100)
		for i := range batch {
			batch[i] = put(fmt.Sprint("k", i), rev)
		}
		h.Apply(batch, rev)
		drain(t, quick)
	}
	got := drain(t, slow)
	if !strings.HasPrefix(got, "[ a k0 ") || strings.Count(got, "k99") != 1 {
		t.Errorf("the slow reader was not given one snapshot: %.60s...", got)
	}
	if n := h.history.entries; n > historyEntries {
		t.Errorf("history holds %d entries, cap is %d", n, historyEntries)
	}
}

// A reader that comes from a replica ahead of this one is not taken back.
func TestHubLaggingReplicaDoesNotRewind(t *testing.T) {
	h := newTestHub(t)
	list(h, "s", 100, put("k", 90))
	r := h.read("s", 200)
	h.Apply([]store.Entry{{Key: "k", Revision: 150, Deleted: true}}, 150)
	h.Apply([]store.Entry{put("k", 180)}, 180)
	wantDrain(t, "what it has already", r, "")
	h.Apply([]store.Entry{put("j", 201)}, 201)
	wantDrain(t, "what it has not", r, "j")
}

// However much changes at once, no message is larger than agents take; a reader that leaves in
// the middle of a large change comes back for the whole of it.
func TestHubCutsLargeChanges(t *testing.T) {
	h := newTestHub(t)
	list(h, "s", 1, put("k", 1))
	r := h.read("s", 1)
	batch := make([]store.Entry, 300)
	for n := range batch {
		batch[n] = store.Entry{Key: fmt.Sprintf("x%03d", n), Value: make([]byte, 20<<10), Revision: 2}
	}
	h.Apply(batch, 2)
	seen, last := 0, int64(0)
	for range 3 {
		m, _ := r.step()
		if n := proto.Size(m); n > 2*messageBytes {
			t.Errorf("a message of %d bytes", n)
		}
		seen += len(m.GetEntries())
		last = m.GetRevision()
	}
	if last != 1 || seen >= len(batch) {
		t.Fatalf("after three messages at revision %d with %d entries: the rest is still to come", last, seen)
	}
	again := h.read("s", last)
	if n := len(strings.Fields(drain(t, again))); n != len(batch) {
		t.Errorf("back at revision %d it is sent %d entries, want %d", last, n, len(batch))
	}
	if again.revision != 2 {
		t.Errorf("it is at revision %d", again.revision)
	}
}

func TestHubHistoryIsBoundedInBytes(t *testing.T) {
	h := newTestHub(t)
	list(h, "s", 1, put("k", 1))
	for rev := int64(2); rev < 1000; rev++ {
		h.Apply([]store.Entry{{Key: "k", Value: make([]byte, 100<<10), Revision: rev}}, rev)
	}
	if n := h.history.bytes; n > historyBytes || n < historyBytes/2 {
		t.Errorf("history holds %d bytes, cap is %d", n, historyBytes)
	}
}

func TestHubSnapshotOrder(t *testing.T) {
	h := newTestHub(t)
	p := "/farcall/v1/test/"
	order := []string{
		"clusters/east/cordons/*", "policies/service/default/cart/*", "policies-synced",
		"agents/east/n", "clusters/east/meta", "clusters/east/services/policies/policies/0", "store",
		"clusters/east/synced", "replicas/r",
	}
	var entries []store.Entry
	for n, key := range order {
		order[n] = p + key
		entries = append(entries, put(p+key, 1))
	}
	slices.SortFunc(entries, func(a, b store.Entry) int { return strings.Compare(a.Key, b.Key) })
	list(h, "s1", 1, entries...)
	wantDrain(t, "snapshot", h.read("", 0), "[ "+strings.Join(order, " ")+" ]")
}

func TestReaderEndsWithItsContext(t *testing.T) {
	h := newTestHub(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.read("", 0).Next(ctx); err == nil {
		t.Error("waited on though its context was done")
	}
}
