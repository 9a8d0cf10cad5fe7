package synchronizer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers/intake"
)

// TestSumsTellThePast says that what stands for a revision that was passed is what stood for it then.
func TestSumsTellThePast(t *testing.T) {
	const p = "/farcall/v1/test/"
	for seed := range uint64(50) {
		dice := rand.New(rand.NewPCG(seed, 3))
		h := newTestHub(t)
		list(h, "s1", 1, put(p+"clusters/east/meta", 1))
		then := map[int64]map[string]uint64{1: recount(h)}
		rev := int64(1)
		for range 300 {
			rev += 1 + int64(dice.IntN(3))
			var batch []store.Entry
			for range dice.IntN(4) { // the same key may change twice
				key := p + []string{"clusters/east/", "clusters/west/", "policies/", "replicas/", "of-a-newer-version/"}[dice.IntN(5)] + fmt.Sprint("services/default/x/", dice.IntN(3))
				e := put(key, rev)
				if dice.IntN(3) == 0 {
					e = store.Entry{Key: key, Revision: rev, Deleted: true}
				}
				batch = append(batch, e)
			}
			h.Apply(batch, rev)
			then[rev] = recount(h)
			if parts := mirror.Differ(h.sums.parts, then[rev]); len(parts) > 0 {
				t.Fatalf("seed %d revision %d: what stands for %q is wrong", seed, rev, parts)
			}
		}
		for at, want := range then {
			if got, ok := h.sums.at(at, h.revision); !ok || len(mirror.Differ(got, want)) > 0 {
				t.Fatalf("seed %d: of revision %d it tells %v %v, want %v", seed, at, ok, got, want)
			}
		}
		if _, ok := h.sums.at(h.revision+1, h.revision); ok {
			t.Error("it tells of what is to come")
		}
	}
}

// recount reckons what stands for all entries of a hub.
func recount(h *hub) map[string]uint64 {
	s := sums{schema: h.sums.schema}
	s.reset(h.entries, h.revision)
	return s.parts
}

func TestSumsForgetWhatIsLongAgo(t *testing.T) {
	h := newTestHub(t)
	list(h, "s1", 1, put("/farcall/v1/test/clusters/east/meta", 1))
	for rev := int64(2); rev < 3*pastSums; rev++ {
		h.Apply([]store.Entry{put("/farcall/v1/test/clusters/east/meta", rev)}, rev)
	}
	if n := len(h.sums.past); n >= 2*pastSums {
		t.Errorf("%d changes are remembered", n)
	}
	if _, ok := h.sums.at(1, h.revision); ok {
		t.Error("it tells of what it has forgotten")
	}
	old := h.sums.from
	got, ok := h.sums.at(old, h.revision)
	if want := keys.Mark("/farcall/v1/test/clusters/east/meta", old); !ok || got["east"] != want {
		t.Errorf("the first it tells of is %v %v, want %d", ok, got, want)
	}
}

// TestRepairReachesThoseWhoHaveTheRevision says that what a list mends of the past comes to all who
// were sent that past, and not to those who come from a replica that knew better.
func TestRepairReachesThoseWhoHaveTheRevision(t *testing.T) {
	h := newTestHub(t)
	list(h, "s1", 5, put("a", 5))
	live, ahead := h.read("", 0), h.read("s1", 9)
	drain(t, live)
	h.Apply([]store.Entry{put("b", 7)}, 7) // the event of c at 6 was lost
	drain(t, live)
	list(h, "s1", 7, put("a", 5), put("c", 6), put("b", 7))
	wantDrain(t, "who was sent the past", live, "c")
	wantDrain(t, "once", live, "")
	wantDrain(t, "who comes with that revision", h.read("s1", 7), "c")
	wantDrain(t, "who knew better", ahead, "")
	h.Apply([]store.Entry{put("d", 10)}, 10)
	wantDrain(t, "what is new", ahead, "d")
}

// TestReaderIsContinuedFromBeforeTheHistory says that who can tell what it holds is sent what is younger,
// and what it should hold then, instead of everything; and who is sent everything all the same.
func TestReaderIsContinuedFromBeforeTheHistory(t *testing.T) {
	const p = "/farcall/v1/test/"
	entries := []store.Entry{put(p+"clusters/east/services/d/a/0", 5), put(p+"clusters/east/services/d/b/0", 6), put(p+"clusters/west/meta", 7),
		put(p+"clusters/east/synced", 45), put(p+"clusters/east/meta", 45), put(p+"policies-synced", 3), put(p+"replicas/r", 50)}
	policies := map[string]uint64{mirror.PoliciesPart: keys.Mark(p+"policies-synced", 3)}
	for what, c := range map[string]struct {
		id    string
		rev   int64
		parts map[string]uint64
		early bool // it asks before the synchronizer knows anything
		want  string
	}{
		"who can tell":                 {"s1", 40, policies, false, p + "clusters/east/meta " + p + "clusters/east/synced " + p + "replicas/r"},
		"who asks early":               {"s1", 40, policies, true, p + "clusters/east/meta " + p + "clusters/east/synced " + p + "replicas/r"},
		"who lacks a heartbeat":        {"s1", 49, policies, false, p + "replicas/r"},
		"who lacks most":               {"s1", 5, policies, false, "["},
		"who cannot tell":              {"s1", 40, nil, false, "["},
		"who has other policies":       {"s1", 40, map[string]uint64{mirror.PoliciesPart: 1}, false, "["},
		"who comes from another store": {"s0", 40, policies, false, "["},
		"who has nothing":              {"", 0, nil, false, "["},
	} {
		h := newTestHub(t)
		if !c.early {
			list(h, "s1", 50, entries...)
		}
		req := &feedv1.WatchRequest{Cluster: "east", Node: "n", StoreId: c.id, Revision: c.rev}
		if c.parts != nil {
			req.Digest = &feedv1.Digest{Parts: c.parts}
		}
		r := h.follow(req)
		if c.early {
			wantDrain(t, what+", early", r, "")
			list(h, "s1", 50, entries...)
		}
		m, err := r.Next(testkit.Context(t))
		if err != nil {
			t.Fatal(err)
		}
		words := []string{}
		if m.GetSnapshotBegin() {
			words = append(words, "[")
		} else {
			for _, e := range m.GetEntries() {
				words = append(words, e.GetKey())
			}
			if len(mirror.Differ(m.GetDigest().GetParts(), recount(h))) > 0 || m.GetRevision() != 50 {
				t.Errorf("%s: it is told that it should hold %v at %d", what, m.GetDigest(), m.GetRevision())
			}
		}
		if got := strings.Join(words, " "); got != c.want {
			t.Errorf("%s: it is sent %q, want %q", what, got, c.want)
		}
		h.Apply([]store.Entry{put("next", 51)}, 51)
		wantDrain(t, what+", after that", r, "next")
		r.close(req)
		if len(h.readers) != 0 {
			t.Errorf("%s: %d readers are left", what, len(h.readers))
		}
	}
}

// TestReaderThatIsBehindIsToldAtOnce says that changes that queue up for a reader come in one message, as
// long as that is not too large.
func TestReaderThatIsBehindIsToldAtOnce(t *testing.T) {
	h := newTestHub(t)
	list(h, "s1", 1, put("a", 1))
	r := h.read("s1", 1)
	for rev := int64(2); rev <= 2*messageEntries+11; rev++ {
		h.Apply([]store.Entry{put(fmt.Sprint("k", rev%7), rev)}, rev)
	}
	var sizes []int
	last := int64(1)
	for {
		m, _ := r.step()
		if m == nil {
			break
		}
		sizes = append(sizes, len(m.GetEntries()))
		for _, e := range m.GetEntries() {
			if last++; e.GetRevision() != last {
				t.Fatalf("revision %d, want %d", e.GetRevision(), last)
			}
		}
		if m.GetRevision() != last {
			t.Errorf("a message of changes up to %d brings to %d", last, m.GetRevision())
		}
	}
	if !slices.Equal(sizes, []int{messageEntries, messageEntries, 10}) {
		t.Errorf("messages of %v entries", sizes)
	}
}

// station is a hub with one agent's stream and what is compared of it.
type station struct {
	*hub
	req    *feedv1.WatchRequest
	reader *reader
	audits *auditor
	audit  audit
	now    time.Time
}

const eastMeta = "/farcall/v1/test/clusters/east/meta"

func newStation(t *testing.T) *station {
	t.Helper()
	s := &station{hub: newTestHub(t), req: &feedv1.WatchRequest{Cluster: "east", Node: "n1"}, now: time.Now()}
	s.audits = &auditor{hub: s.hub, log: testkit.Quiet(), metrics: s.metrics.drift}
	list(s.hub, "s1", 5, put(eastMeta, 5))
	s.reader = s.follow(s.req)
	drain(t, s.reader)
	return s
}

// report lets the agent report at a revision, holding its cluster's meta as of held, 0 for not at all,
// and gives whether it was listed again because of that.
func (s *station) report(after time.Duration, revision, held int64) bool {
	s.now = s.now.Add(after)
	r := reported{agent: agentOf(s.req), storeID: "s1", revision: revision, says: true, digest: map[string]uint64{}}
	if held > 0 {
		r.digest["east"] = keys.Mark(eastMeta, held)
	}
	s.audits.check(s.now, &s.audit, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	again := s.reader.drifted != nil
	return again
}

func (s *station) drifts(t *testing.T, part string) float64 {
	t.Helper()
	return countOf(t, s.metrics.drift.agents.WithLabelValues(part))
}

func TestAgentThatDriftedIsListedAgain(t *testing.T) {
	s := newStation(t)
	if s.report(0, 5, 5) {
		t.Fatal("who holds what it was sent is listed again")
	}
	if s.report(5*time.Second, 5, 4) {
		t.Error("listed again for one report alone: it may have been between two messages")
	}
	if !s.report(5*time.Second, 5, 4) {
		t.Error("not listed again though it differs for good")
	}
	if n := s.drifts(t, "east"); n != 1 {
		t.Errorf("counted %v times", n)
	}
	m, _ := s.reader.Next(t.Context())
	if !m.GetSnapshotBegin() || !slices.Equal(m.GetDrifted(), []string{"east"}) {
		t.Errorf("it is sent %v", m)
	}
	if shared := s.hub.snapshot.messages[0]; shared.GetDrifted() != nil {
		t.Error("others are told that they drifted")
	}
	if s.report(5*time.Second, 5, 5) || s.drifts(t, "east") != 1 {
		t.Error("cured, it is listed again")
	}
	// The same may happen to it again, and is found again.
	s.report(30*time.Second, 5, 0)
	if !s.report(5*time.Second, 5, 0) {
		t.Error("not listed again the second time")
	}
}

func TestAgentsMakeNoLabels(t *testing.T) {
	s := newStation(t)
	r := reported{agent: agentOf(s.req), storeID: "s1", revision: 5, says: true, digest: map[string]uint64{"east": keys.Mark(eastMeta, 5)}}
	for n := range uint64(1000) {
		r.digest[fmt.Sprint("made-up-", n)] = n + 1
	}
	if differ, known := s.compare(r); !known || !slices.Equal(differ, []string{otherPart}) {
		t.Errorf("what differs is %q", differ)
	}
}

func TestReportOfAnEarlierRevisionIsNoDrift(t *testing.T) {
	s := newStation(t)
	for rev := int64(6); rev < 100; rev++ {
		s.Apply([]store.Entry{put(eastMeta, rev)}, rev)
		if s.report(5*time.Second, rev-1, rev-1) || s.report(5*time.Second, rev, rev) {
			t.Fatal("an agent that is a change behind is listed again")
		}
		drain(t, s.reader)
	}
	if s.report(time.Minute, 1, 1) || s.report(time.Minute, 1000, 1) {
		t.Error("listed again for a revision that nobody can tell of")
	}
}

// TestWhatDiffersForGoodIsNotListedForEver bounds what becomes of an agent that makes something else of
// what it is sent whatever is done: that of another version, perhaps.
func TestWhatDiffersForGoodIsNotListedForEver(t *testing.T) {
	s := newStation(t)
	lists, last := 0, time.Time{}
	for range 24 * 60 * 12 {
		if s.report(5*time.Second, 5, 1) {
			lists++
			last = s.now
			drain(t, s.reader)
		}
	}
	if lists < 20 || lists > 40 {
		t.Errorf("listed %d times in a day", lists)
	}
	if age := s.now.Sub(last); age > maxAgain+time.Minute {
		t.Errorf("given up for %s", age)
	}
}

// TestAgentThatDoesNotComeToWhatItWasSent says that an agent which is always behind, because a message
// was lost that completes a list, is listed again; one to which everything is still under way is not.
func TestAgentThatDoesNotComeToWhatItWasSent(t *testing.T) {
	s := newStation(t)
	s.Apply([]store.Entry{put(eastMeta, 9)}, 9)
	for range 10 {
		if s.report(5*time.Second, 5, 5) {
			t.Fatal("listed again though it was not sent the change yet")
		}
	}
	drain(t, s.reader)
	listed := time.Duration(0)
	for after := 5 * time.Second; after <= time.Minute && listed == 0; after += 5 * time.Second {
		if s.report(5*time.Second, 5, 5) {
			listed = after
		}
	}
	if listed == 0 || listed > 30*time.Second {
		t.Errorf("listed again after %s, want within 30 s", listed)
	}
	if s.drifts(t, revisionPart) != 1 {
		t.Errorf("counted %v times", s.drifts(t, revisionPart))
	}
}

// lossySink loses changes on their way to the hub, as a watch does that skips an event.
type lossySink struct {
	store.Sink
	mu   sync.Mutex
	lose func(*store.Entry) bool // nil: nothing
	lost []string
}

func (l *lossySink) Apply(entries []store.Entry, revision int64) {
	l.mu.Lock()
	if l.lose != nil {
		entries = slices.DeleteFunc(slices.Clone(entries), func(e store.Entry) bool {
			gone := l.lose(&e)
			if gone {
				l.lost = append(l.lost, e.Key)
			}
			return gone
		})
	}
	l.mu.Unlock()
	l.Sink.Apply(entries, revision)
}

func (l *lossySink) set(lose func(*store.Entry) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lose = lose
}

func (l *lossySink) losses() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lost)
}

// startLossy is start with a sink that can lose, and the log as text.
func startLossy(t *testing.T, clusters map[string][]*registry) (*replica, *lossySink, *logged) {
	t.Helper()
	return startLosing(t, t.TempDir(), nil, clusters)
}

// startLosing is startLossy on a directory, with a sink that loses from the beginning.
func startLosing(t *testing.T, dir string, lose func(*store.Entry) bool, clusters map[string][]*registry) (*replica, *lossySink, *logged) {
	t.Helper()
	cfg := Config{Federation: "test", ReplicaID: "r1", Store: store.Config{Federation: "test", Embedded: &store.EmbeddedConfig{DataDir: dir}}}
	for name, registries := range clusters {
		in := intake.Config{Cluster: name}
		for n, r := range registries {
			in.Registries = append(in.Registries, intake.Registry{Name: fmt.Sprint("reg-", n+1), Resolver: r})
		}
		cfg.Clusters = append(cfg.Clusters, Cluster{Intake: in, ViaAgents: len(registries) == 0})
	}
	said := &logged{}
	deps := Deps{Log: slog.New(slog.NewTextHandler(said, nil)), Registry: prometheus.NewRegistry()}
	for _, l := range []*net.Listener{&deps.GRPC, &deps.HTTP} {
		var err error
		if *l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	s, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	sink := &lossySink{Sink: s.hub, lose: lose}
	s.sink = sink
	r := &replica{s: s, stop: testkit.Go(t, "synchronizer", s.Run)}
	conn, err := grpc.NewClient(deps.GRPC.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r.admin, r.feed = adminv1.NewAdminClient(conn), feedv1.NewFeedClient(conn)
	return r, sink, said
}

// logged is a log that can be read while it is written.
type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// mirrors waits until what the mirror lists of a cluster is this.
func (r *replica) mirrors(cluster, want string) func() error {
	return func() error {
		list, _ := r.s.mirror.Instances(cluster, catalog.Name{Namespace: "default", Service: "cart"})
		ids := make([]string, 0, len(list))
		for _, i := range list {
			ids = append(ids, i.Instance)
		}
		if got := strings.Join(ids, " "); got != want {
			return fmt.Errorf("mirrored: %q, want %q", got, want)
		}
		return nil
	}
}

// TestLostEventIsFoundAndRepaired loses an event between etcd and the synchronizer. Without the
// comparison the instance stays unknown, whatever else comes; with it, it is found, named, counted and
// repaired, and nothing goes back.
func TestLostEventIsFoundAndRepaired(t *testing.T) {
	ctx := testkit.Context(t)
	east, west := newRegistry("a"), newRegistry("w")
	r, sink, said := startLossy(t, map[string][]*registry{"east": {east}, "west": {west}})
	testkit.Eventually(t, ctx, "the first lists", func() error {
		return errors.Join(r.mirrors("east", "a")(), r.mirrors("west", "w")())
	})
	c := r.s.comparer()
	outcome := func(word string) float64 {
		return countOf(t, r.s.metrics.drift.comparisons.WithLabelValues(word))
	}
	testkit.Eventually(t, ctx, "a comparison finds nothing", func() error {
		if c.compare(ctx); outcome("same") == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	if n := outcome("drift"); n != 0 {
		t.Fatalf("drift is found %v times before there was any", n)
	}

	sink.set(func(e *store.Entry) bool { return strings.Contains(e.Key, "/clusters/east/services/") })
	east.set("a", "b")
	testkit.Eventually(t, ctx, "the event is lost", func() error {
		if sink.losses() == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	sink.set(nil)
	// The watch goes on: what comes after arrives, and what was lost does not.
	west.set("w", "x")
	testkit.Eventually(t, ctx, "what comes after", r.mirrors("west", "w x"))
	if err := r.mirrors("east", "a")(); err != nil {
		t.Fatalf("nothing was lost: %v", err)
	}

	began := time.Now()
	testkit.Eventually(t, ctx, "it is found", func() error {
		if c.compare(ctx); outcome("drift") == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	testkit.Eventually(t, ctx, "it is repaired", r.mirrors("east", "a b"))
	t.Logf("repaired %s after the comparison began", time.Since(began))
	if n := countOf(t, r.s.metrics.drift.keys.WithLabelValues("east")); n != 1 {
		t.Errorf("%v keys of the cluster are counted, want 1", n)
	}
	if text := said.String(); !strings.Contains(text, "/clusters/east/services/default/cart/0") {
		t.Errorf("the log does not name the key:\n%s", text)
	}
	testkit.Eventually(t, ctx, "nothing differs any more", func() error {
		before := outcome("same")
		if c.compare(ctx); outcome("same") == before {
			return errors.New("not yet")
		}
		return nil
	})
}

// TestMirrorThatMadeSomethingElseIsListedAgain says that the mirror is compared, too: it may hold
// something else than the entries that it was given.
func TestMirrorThatMadeSomethingElseIsListedAgain(t *testing.T) {
	ctx := testkit.Context(t)
	east := newRegistry("a")
	r, _, _ := startLossy(t, map[string][]*registry{"east": {east}})
	testkit.Eventually(t, ctx, "the first list", r.mirrors("east", "a"))
	r.s.hub.mu.Lock()
	var slice *feedv1.Entry
	for key := range r.s.hub.entries {
		if strings.Contains(key, "/services/") {
			slice = &feedv1.Entry{Key: key, Deleted: true, Revision: 1}
		}
	}
	r.s.hub.mirror.Apply(time.Now(), []*feedv1.Entry{slice}, 0)
	r.s.hub.mu.Unlock()
	if err := r.mirrors("east", "")(); err != nil {
		t.Fatal(err)
	}
	c := r.s.comparer()
	testkit.Eventually(t, ctx, "it is repaired", func() error {
		if err := r.mirrors("east", "a")(); err != nil {
			c.compare(ctx)
			return err
		}
		return nil
	})
	if n := countOf(t, r.s.metrics.drift.keys.WithLabelValues("east")); n < 1 {
		t.Errorf("counted %v times", n)
	}
}

// TestComparisonIsPatient says that no comparison takes for drift what cannot be told: a store that does
// not answer, a list that is under way, changes that come at every moment.
func TestComparisonIsPatient(t *testing.T) {
	ctx, cancel := context.WithCancel(testkit.Context(t))
	defer cancel()
	east := newRegistry("a")
	r, _, _ := startLossy(t, map[string][]*registry{"east": {east}})
	testkit.Eventually(t, ctx, "the first list", r.mirrors("east", "a"))
	c := r.s.comparer()
	var all sync.WaitGroup
	all.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			east.set("a", fmt.Sprint("b", n))
			if n%7 == 0 {
				r.s.store.Doubt()
			}
		}
	})
	for range 40 {
		c.compare(ctx)
	}
	cancel()
	all.Wait()
	m := r.s.metrics.drift.comparisons
	if n := countOf(t, m.WithLabelValues("drift")); n != 0 {
		t.Errorf("drift is found %v times where there is none", n)
	}
	if n := countOf(t, m.WithLabelValues("same")); n == 0 {
		t.Error("no comparison came to an end: the test shows nothing")
	}
}

// countOf is the value of a counter.
// Whoever finds the same wrong again and again, or nothing at all, does not look more and more.
func TestComparisonsMoveApart(t *testing.T) {
	c := &comparer{}
	for n, x := range []struct {
		outcome string
		want    time.Duration
	}{
		{same, compareEvery},
		{unknown, compareEvery}, {unknown, 2 * compareEvery}, {unknown, 4 * compareEvery}, {unknown, maxUnknown}, {unknown, maxUnknown},
		{same, compareEvery},
		{drift, compareEvery}, {drift, 2 * compareEvery}, {drift, 4 * compareEvery}, {drift, 8 * compareEvery}, {drift, 16 * compareEvery}, {drift, maxDrifting}, {drift, maxDrifting},
		{unknown, maxUnknown}, {drift, maxDrifting},
		{same, compareEvery}, {drift, compareEvery},
	} {
		if got := c.after(x.outcome); got != x.want {
			t.Errorf("%d: after %s the next is due in %s, want %s", n, x.outcome, got, x.want)
		}
	}
	c.row = 1 << 40
	if got := c.after(drift); got != maxDrifting {
		t.Errorf("after very long it is %s", got)
	}
	least, most := time.Hour, time.Duration(0)
	for range 10_000 {
		d := jittered(compareEvery)
		least, most = min(least, d), max(most, d)
	}
	if least < 20*time.Second || most > 30*time.Second || most-least < 5*time.Second {
		t.Errorf("the pauses are between %s and %s", least, most)
	}
}

func countOf(t *testing.T, c prometheus.Metric) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue() + m.GetGauge().GetValue()
}
