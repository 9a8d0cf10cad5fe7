package uplink

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/testkit"
)

var (
	schedules = flag.Uint64("schedules", 300, "how many schedules a simulation plays")
	firstSeed = flag.Uint64("seed", 1, "the seed of a simulation's first schedule; the next ones follow")
)

// What is promised of an agent's view, each as a sentence.
var (
	errSimTruth  = errors.New("once the feed is itself again, an agent holds what the store holds")
	errSimBack   = errors.New("an agent never goes back to an older value")
	errSimEmpty  = errors.New("an agent never shows a list empty that was not")
	errSimDigest = errors.New("what an agent says it holds is what it holds")
)

// simulation is one schedule: an uplink that follows a feed which breaks off, comes from replicas that
// are behind, of stores that were wiped or restored, and, in some schedules, loses, repeats and swaps
// messages. The feed moves on whenever the uplink asks for the next message, so that all is done in one
// goroutine, and the seed decides everything.
type simulation struct {
	*simWorld
	t     *testing.T
	file  string
	up    *Uplink
	write func(format string, args ...any)

	// bad has messages lost and swapped, as nothing between two hosts does.
	bad     bool
	healed  bool
	highest map[string][2]uint64 // (epoch, seq) of each slice that is held
	shown   map[string]bool      // the clusters of which cart was seen
	differs int                  // how often in a row the agent said that it holds something else
}

// errQuiet is the end of a stream on which nothing more is to come.
var errQuiet = errors.New("nothing more is to come")

// client is the feed's client, by which the uplink reads.
type simClient struct {
	feedv1.FeedClient
	*simulation
}

// Watch answers as a replica does that is as far as the store, or behind it.
func (c simClient) Watch(_ context.Context, req *feedv1.WatchRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[feedv1.WatchResponse], error) {
	s := &simStream{simulation: c.simulation, store: c.store, first: true}
	s.write("asked for %s %d", req.GetStoreId(), req.GetRevision())
	s.place(req)
	return s, nil
}

// simStream is one stream of a replica.
type simStream struct {
	grpc.ServerStreamingClient[feedv1.WatchResponse]
	*simulation
	store  *fed // that it serves; another one is followed by a snapshot
	at     int64
	queued []*feedv1.WatchResponse
	first  bool
	whole  *feedv1.Digest // what the agent was told with the last message that it must hold, or nil
}

// place decides how the stream begins, by the protocol.
func (s *simStream) place(req *feedv1.WatchRequest) {
	f := s.simWorld.store
	switch rev := req.GetRevision(); {
	case req.GetStoreId() != f.id:
		s.snapshot(nil)
	case rev >= f.kept:
		s.at = rev
	case req.GetDigest() != nil:
		var younger []*feedv1.Entry
		for _, e := range f.entries {
			if e.GetRevision() > rev {
				younger = append(younger, e)
			}
		}
		slices.SortFunc(younger, func(a, b *feedv1.Entry) int { return int(a.GetRevision() - b.GetRevision()) })
		s.queued = append(s.queued, &feedv1.WatchResponse{StoreId: f.id, Revision: f.rev, Entries: younger, Digest: &feedv1.Digest{Parts: s.parts(f)}})
		s.at = f.rev
	default:
		s.snapshot(nil)
	}
}

// snapshot queues everything, in several messages, a cluster's marker after its slices.
func (s *simStream) snapshot(drifted []string) {
	f := s.simWorld.store
	s.store, s.at, s.queued = f, f.rev, nil
	var slicesOf, markers []*feedv1.Entry
	for key, e := range f.entries {
		if k, err := s.schema.Parse(key); err == nil && k.Kind == keys.Synced {
			markers = append(markers, e)
		} else {
			slicesOf = append(slicesOf, e)
		}
	}
	byKey := func(a, b *feedv1.Entry) int { return compareKeys(a.GetKey(), b.GetKey()) }
	slices.SortFunc(slicesOf, byKey)
	slices.SortFunc(markers, byKey)
	for some := range slices.Chunk(append(slicesOf, markers...), 1+s.rnd.IntN(5)) {
		s.queued = append(s.queued, &feedv1.WatchResponse{StoreId: f.id, Revision: f.rev, Entries: some})
	}
	if len(s.queued) == 0 {
		s.queued = append(s.queued, &feedv1.WatchResponse{StoreId: f.id, Revision: f.rev})
	}
	s.queued[0].SnapshotBegin, s.queued[0].Drifted = true, drifted
	s.queued[len(s.queued)-1].SnapshotEnd = true
}

func compareKeys(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Recv judges what came of the message before, has the world move on, and gives the next message.
func (s *simStream) Recv() (*feedv1.WatchResponse, error) {
	if !s.first {
		s.judge()
		s.judgeWhole()
	}
	for turn := 0; ; turn++ {
		if s.rnd.IntN(12) == 0 && !s.healed {
			return nil, errors.New("the connection broke")
		}
		if m := s.next(); m != nil {
			if s.first {
				m = &feedv1.WatchResponse{
					StoreId: m.GetStoreId(), Revision: m.GetRevision(), SnapshotBegin: m.GetSnapshotBegin(), SnapshotEnd: m.GetSnapshotEnd(),
					Entries: m.GetEntries(), Drifted: m.GetDrifted(), Digest: m.GetDigest(), Federation: "test",
				}
				s.first = false
			}
			s.whole = m.GetDigest()
			s.write("sent %d of %s: %d entries, begin %t, end %t", m.GetRevision(), m.GetStoreId(), len(m.GetEntries()), m.GetSnapshotBegin(), m.GetSnapshotEnd())
			return m, nil
		}
		switch {
		case s.healed && s.first: // a stream's first message is sent even where nothing is new
			s.queued = append(s.queued, &feedv1.WatchResponse{StoreId: s.store.id, Revision: s.at})
		case s.healed:
			if !s.repair() {
				return nil, errQuiet
			}
		default:
			s.write("%s", s.turn())
		}
	}
}

// judgeWhole holds that an agent that goes on with a stream holds what it was told that it must.
func (s *simStream) judgeWhole() {
	if s.whole == nil {
		return
	}
	if d, ok := s.up.mirror.Load().Digest(); !ok || len(mirror.Differ(d.Parts, s.whole.GetParts())) > 0 {
		s.t.Fatalf("%v: it goes on, and lacks something", errSimDigest)
	}
}

// next gives the next message of the stream, nil where there is none.
func (s *simStream) next() *feedv1.WatchResponse {
	f := s.simWorld.store
	if f.id != s.store.id && len(s.queued) == 0 {
		s.snapshot(nil)
	}
	if len(s.queued) == 0 && f.kept > s.at {
		s.snapshot(nil) // it fell out of the history
	}
	if len(s.queued) == 0 {
		for _, m := range f.log {
			if m.GetRevision() > s.at {
				s.queued = append(s.queued, m)
			}
		}
		s.at = max(s.at, f.rev)
		s.spoil()
	}
	if len(s.queued) == 0 {
		return nil
	}
	m := s.queued[0]
	s.queued = s.queued[1:]
	return m
}

// spoil repeats a message, and where the feed is bad loses or swaps some.
func (s *simStream) spoil() {
	n := len(s.queued)
	if n == 0 || s.healed {
		return
	}
	at := s.rnd.IntN(n)
	switch p := s.rnd.IntN(10); {
	case p == 0:
		s.queued = slices.Insert(s.queued, at, s.queued[at])
	case p == 1 && s.bad:
		s.queued = slices.Delete(s.queued, at, at+1)
	case p == 2 && s.bad && at > 0:
		s.queued[at-1], s.queued[at] = s.queued[at], s.queued[at-1]
	}
}

// repair heeds the epochs that the agent reports, compares what it says that it holds with what it was
// sent, as a synchronizer does, and queues a snapshot where that differs. It reports whether there is more
// to be sent.
func (s *simStream) repair() bool {
	r, err := s.up.reportNow(false)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.demanded(r.GetEpochs()) {
		return true
	}
	if r.GetStoreId() == s.store.id && r.GetRevision() == s.store.rev && len(mirror.Differ(r.GetDigest().GetParts(), s.parts(s.store))) == 0 {
		return false
	}
	if s.differs++; s.differs > 3 {
		s.t.Fatalf("%v: it was sent everything %d times", errSimTruth, s.differs)
	}
	s.snapshot([]string{"something"})
	return true
}

// judge looks at what the agent shows now.
func (s *simulation) judge() {
	m := s.up.mirror.Load()
	for _, c := range simClusters {
		list, _ := m.Instances(c, cart)
		switch {
		case len(list) > 0:
			s.shown[c] = true
		case s.shown[c] && !s.bad:
			s.t.Fatalf("%v: cart of %s", errSimEmpty, c)
		}
	}
	_, _, entries, err := m.Save(time.Now())
	if err != nil {
		s.t.Fatal(err)
	}
	before := s.highest
	s.highest = map[string][2]uint64{} // of what is held: of what went nobody remembers how far it was
	for _, e := range entries {
		k, err := s.schema.Parse(e.GetKey())
		if err != nil || k.Kind != keys.Slice {
			continue
		}
		var v storev1.Slice
		if err := keys.Decode(e.GetValue(), &v); err != nil {
			s.t.Fatal(err)
		}
		was, is := before[e.GetKey()], [2]uint64{v.GetEpoch(), v.GetSeq()}
		if slices.Compare(is[:], was[:]) < 0 && !s.bad {
			s.t.Fatalf("%v: %s from %v to %v", errSimBack, e.GetKey(), was, is)
		}
		s.highest[e.GetKey()] = is
	}
}

// begin begins a life of the agent, with what it saved in the one before.
func (s *simulation) begin() {
	s.up = New(Config{File: s.file, Agent: &catalogv1.Agent{Cluster: "east", Node: "n1", Incarnation: "i1", Address: "127.0.0.1:1"}},
		Deps{Log: testkit.Quiet(), Metrics: prometheus.NewRegistry(), Listener: &listener{}})
	s.up.Load()
}

// play plays the whole schedule.
func (s *simulation) play() {
	s.begin()
	ctx := context.Background()
	for n := range 6 + s.rnd.IntN(10) {
		s.healed = n > 5 && s.rnd.IntN(4) == 0
		err := s.up.watch(ctx, simClient{simulation: s}, "", make(chan struct{}))
		s.write("the stream ended: %v", err)
		switch s.rnd.IntN(6) {
		case 0:
			if err := s.up.save(); err != nil {
				s.t.Fatal(err)
			}
		case 1:
			s.write("the agent begins anew")
			s.begin()
			s.highest, s.shown = map[string][2]uint64{}, map[string]bool{}
		}
	}
	s.healed = true
	s.heal()
	for range 3 { // an agent that lacks something asks again
		if err := s.up.watch(ctx, simClient{simulation: s}, "", make(chan struct{})); errors.Is(err, errQuiet) {
			break
		}
	}
	m := s.up.mirror.Load()
	for _, c := range simClusters {
		for _, service := range []string{"cart", "pay"} {
			list, _ := m.Instances(c, catalog.Name{Namespace: "default", Service: service})
			var ids []string
			for _, in := range list {
				ids = append(ids, in.Instance)
			}
			if want := s.truth(c, service); !slices.Equal(ids, want) {
				s.t.Fatalf("%v: %s of %s is %v, want %v", errSimTruth, service, c, ids, want)
			}
		}
	}
	if d, ok := m.Digest(); !ok || len(mirror.Differ(d.Parts, s.parts(s.store))) > 0 {
		s.t.Fatalf("%v: %v, want %v", errSimDigest, d, s.parts(s.store))
	}
}

// TestSimulation plays schedules by seed. To see one that fails step by step:
//
//	go test ./agent/uplink -run TestSimulation -schedules=1 -seed=N -v
func TestSimulation(t *testing.T) {
	dir := t.TempDir()
	for n := range *schedules {
		seed := *firstSeed + n
		s := &simulation{
			t: t, write: func(string, ...any) {}, file: filepath.Join(dir, fmt.Sprint(seed)),
			highest: map[string][2]uint64{}, shown: map[string]bool{},
		}
		rnd := rand.New(rand.NewPCG(seed, 0))
		s.simWorld, s.bad = newSimWorld(rnd), rnd.IntN(3) == 0
		if *schedules == 1 {
			s.write = t.Logf
		}
		func() {
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			s.play()
		}()
	}
}
