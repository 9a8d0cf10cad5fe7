package intake

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
	"github.com/farcall/farcall/internal/testkit"
)

var (
	schedules = flag.Uint64("schedules", 2000, "how many schedules a simulation plays")
	firstSeed = flag.Uint64("seed", 1, "the seed of a simulation's first schedule; the next ones follow")
)

// simHold is guard.hold in a simulation.
const simHold = 20 * time.Second

// simulation is one schedule: an Intake with two registries that lose things, lie, fail and are read
// anew by a process that begins anew, while somebody decides and somebody releases. Whatever is random
// in it comes from its seed.
type simulation struct {
	rnd     *rand.Rand
	metrics *Metrics
	write   func(format string, args ...any)

	registries [2]*scripted
	ledgers    [2]*ledger
	intake     *Intake
	stop       func()
	context    context.Context // of this life
	saved      *saving

	// lists are what was told last.
	mu       sync.Mutex
	lists    map[catalog.Name]List
	counters [2]registryMetrics
	// gate, where it is set, keeps who is told busy; busy says that it is.
	gate atomic.Pointer[chan struct{}]
	busy atomic.Bool

	// decides says whether somebody decides, reachable whether one can be asked, there is what one lists.
	decides   bool
	reachable atomic.Bool
	there     atomic.Uint64
	seen      *sightings
}

// sightings count what schedules had in them, so that a simulation that tries nothing is seen.
type sightings struct {
	mu     sync.Mutex
	counts verdicts
	lives  [lives]int
}

func newSimulation(seed uint64, m *Metrics, seen *sightings, write func(string, ...any)) *simulation {
	s := &simulation{rnd: rand.New(rand.NewPCG(seed, 0)), metrics: m, write: write, seen: seen}
	kinds := []manner{polled, polled, watched, edited}
	for k, name := range []string{"first", "second"} {
		s.registries[k] = &scripted{name: name, kind: kinds[s.rnd.IntN(len(kinds))], ends: make(chan error)}
	}
	s.decides = s.rnd.IntN(2) == 0
	s.reachable.Store(s.rnd.IntN(2) == 0)
	return s
}

// begin begins a life of the process. What its registries and its oracle know is of this life.
func (s *simulation) begin() error {
	cfg := Config{Cluster: "east", Guard: guard.Config{Hold: simHold}}
	for k, r := range s.registries {
		cfg.Registries = append(cfg.Registries, Registry{Name: r.name, Resolver: r})
		s.ledgers[k] = &ledger{calm: time.Now()}
	}
	deps := Deps{Log: testkit.Quiet(), Metrics: s.metrics}
	if s.decides {
		deps.Verdict = func(time.Time) func(catalog.ID) guard.Word {
			if !s.reachable.Load() {
				return nil
			}
			return func(id catalog.ID) guard.Word { return s.word(simPlaces[id]) }
		}
	}
	in, err := New(cfg, deps)
	if err != nil {
		return err
	}
	s.intake, s.lists = in, map[catalog.Name]List{}
	for k := range s.registries {
		s.counters[k] = in.registries[k].metrics
		counts := countsOf(s.counters[k])
		s.ledgers[k].counts, s.ledgers[k].base = counts, counts
	}
	return nil
}

// run lets the life go on until stop is called.
func (s *simulation) run() {
	ctx, cancel := context.WithCancel(context.Background())
	s.context = ctx
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.intake.Run(ctx, s.tell); !errors.Is(err, context.Canceled) {
			panic(err) // it cannot: it returns the context's error
		}
	}()
	s.stop = func() {
		cancel()
		<-done
		s.seen.mu.Lock()
		defer s.seen.mu.Unlock()
		for _, l := range s.ledgers {
			s.seen.counts.add(l.counts.minus(l.base))
		}
	}
	synctest.Wait()
}

func (s *simulation) tell(ch Change) {
	s.mu.Lock()
	maps.Copy(s.lists, ch.Services)
	s.mu.Unlock()
	if gate := s.gate.Load(); gate != nil {
		s.busy.Store(true)
		<-*gate
		s.busy.Store(false)
	}
}

// word is what who decides says of an instance.
func (s *simulation) word(n int) guard.Word {
	switch {
	case !s.decides || !s.reachable.Load():
		return guard.Silent
	case set(s.there.Load()).has(n):
		return guard.Listed
	}
	return guard.Unlisted
}

// judge compares all that can be seen with what happened to each registry.
func (s *simulation) judge(what string, happenings [2]happened) error {
	s.write("%s", what)
	now := time.Now()
	holds := s.holds()
	for k, l := range s.ledgers {
		if err := l.judge(now, happenings[k], holds[k], countsOf(s.counters[k]), s.word); err != nil {
			return fmt.Errorf("%s: registry %d: %w", what, k, err)
		}
		s.write("    %d lists %v, holds %v", k, l.stated, l.held)
	}
	if err := s.judgeLists(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (s *simulation) holds() (holds [2]map[int]guard.Hold) {
	holds = [2]map[int]guard.Hold{{}, {}}
	for _, h := range s.intake.Holds() {
		k := 0
		if h.Registry != s.registries[0].name {
			k = 1
		}
		holds[k][simPlaces[h.ID]] = h.Hold
	}
	return holds
}

// judgeLists compares what was told with what the registries list and what is held, the first registry
// first.
func (s *simulation) judgeLists() error {
	var told set
	version := map[int]int{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, l := range s.lists {
		if l.Gone && len(l.Instances) > 0 {
			return fmt.Errorf("%w: %v is gone and has instances", errSimUnion, n)
		}
		for _, in := range l.Instances {
			at, known := simPlaces[in.ID]
			if !known || told.has(at) {
				return fmt.Errorf("%w: %v", errSimUnion, in)
			}
			told |= 1 << at
			version[at] = in.Port - 1000
		}
	}
	var want set
	for _, l := range s.ledgers {
		if missing := l.stated &^ told; missing != 0 {
			return fmt.Errorf("%w: %v is not", errSimMissing, missing)
		}
		want |= l.stated | l.held
	}
	if told != want {
		return fmt.Errorf("%w: told %v, want %v", errSimUnion, told, want)
	}
	for n, v := range version {
		first := s.ledgers[0]
		if !(first.stated | first.held).has(n) {
			first = s.ledgers[1]
		}
		if first.version[n] != v && first.version[n] != unsure {
			return fmt.Errorf("%w: %v in version %d, want %d", errSimMissing, simIDs[n], v, first.version[n])
		}
	}
	return nil
}

// play plays the whole schedule and gives a sum of all that was seen.
func (s *simulation) play() (sum uint64, err error) {
	h := fnv.New64a()
	if err := s.begin(); err != nil {
		return 0, err
	}
	s.run()
	defer func() { s.stop() }()
	for range 20 + s.rnd.IntN(15) {
		if err := s.step(); err != nil {
			return 0, err
		}
		for k, l := range s.ledgers {
			_, _ = fmt.Fprint(h, k, uint64(l.stated), uint64(l.held), l.counts.minus(l.base), time.Now())
		}
	}
	return h.Sum64(), s.finish()
}

// finish lets the truth be read and every hold end: then the truth is told, and nothing else.
func (s *simulation) finish() error {
	s.reachable.Store(false)
	for k, r := range s.registries {
		r.broken = 0
		if err := s.publish(k, "in the end", r.truth, everything, r.kind == edited, ""); err != nil {
			return err
		}
	}
	if err := s.sleep(simHold); err != nil {
		return err
	}
	for k, l := range s.ledgers {
		if l.held != 0 || l.stated != s.registries[k].truth {
			return fmt.Errorf("%w: in the end %v is held of %v", errSimOverdue, l.held, l.stated)
		}
	}
	return nil
}

// TestSimulation plays schedules by seed. To see one that fails step by step:
//
//	go test ./resolvers/intake -run TestSimulation -schedules=1 -seed=N -v
func TestSimulation(t *testing.T) {
	seen := &sightings{}
	next, failed := atomic.Uint64{}, atomic.Bool{}
	next.Store(*firstSeed)
	t.Run("schedules", func(t *testing.T) {
		for worker := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(worker), func(t *testing.T) {
				t.Parallel()
				m := NewMetrics(prometheus.NewRegistry())
				for seed := next.Add(1) - 1; seed-*firstSeed < *schedules && !failed.Load(); seed = next.Add(1) - 1 {
					if err := playTwice(t, seed, m, seen); err != nil {
						failed.Store(true)
						t.Errorf("seed %d: %v", seed, err)
					}
				}
			})
		}
	})
	t.Logf("seen: %+v, lives %v", seen.counts, seen.lives)
	if *schedules >= 1000 && !t.Failed() {
		seen.check(t)
	}
}

// playTwice plays a seed, now and then a second time to see whether the same happens, and once more
// with words where it fails.
func playTwice(t *testing.T, seed uint64, m *Metrics, seen *sightings) error {
	quiet := func(string, ...any) {}
	sum, err := playSeed(t, seed, m, seen, quiet)
	if err == nil && seed%32 == 0 {
		again, err := playSeed(t, seed, m, &sightings{}, quiet)
		if err == nil && again != sum {
			return errors.New("the same seed, and something else happened")
		}
	}
	if err != nil || *schedules == 1 {
		var words strings.Builder
		start := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
		_, _ = playSeed(t, seed, m, &sightings{}, func(format string, args ...any) {
			_, _ = io.WriteString(&words, fmt.Sprintf("%8v ", time.Since(start))+fmt.Sprintf(format, args...)+"\n")
		})
		t.Logf("seed %d:\n%s", seed, words.String())
	}
	return err
}

func playSeed(t *testing.T, seed uint64, m *Metrics, seen *sightings, write func(string, ...any)) (sum uint64, err error) {
	synctest.Test(t, func(*testing.T) {
		sum, err = newSimulation(seed, m, seen, write).play()
	})
	return sum, err
}

// check fails where something never happened.
func (s *sightings) check(t *testing.T) {
	c := s.counts
	for what, n := range map[string]int{
		"explicit": c.explicit, "passed": c.passed, "held": c.held, "returned": c.returned, "expired": c.expired,
		"released": c.released, "confirmed": c.confirmed, "followed": c.followed,
	} {
		if n == 0 {
			t.Errorf("no removal was ever %s: the schedules try too little", what)
		}
	}
	for life, n := range s.lives {
		if n == 0 {
			t.Errorf("no life began in manner %d: the schedules try too little", life)
		}
	}
}
