package synchronizer

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/store/storetest"
	"github.com/farcall/farcall/internal/testkit"
)

var (
	schedules = flag.Int("schedules", 300, "how many schedules TestSimulation goes through")
	firstSeed = flag.Uint64("seed", 1, "the seed of the first schedule of TestSimulation; the others follow")
)

// How long readers may take to come to the truth after the last fault: the comparisons that find a
// lost event come every 25 s, and agents report every few seconds.
const settleWithin = 90 * time.Second

// TestSimulation takes two or three replicas' own code of store, mirror and feed, with agents that
// follow them, through schedules of faults over an etcd in memory, and judges every commit and
// every step of every reader. What is random comes from the seed: a schedule that fails is named,
// and fails again.
//
//	go test ./synchronizer -run TestSimulation -schedules=1 -seed=<the seed> -v
func TestSimulation(t *testing.T) {
	warmUp(t)
	var next atomic.Uint64
	var all tally
	workers := min(runtime.GOMAXPROCS(0), *schedules)
	began := time.Now()
	// In a group, which waits for the parallel ones.
	t.Run("", func(t *testing.T) {
		for range workers {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for !t.Failed() {
					n := next.Add(1) - 1
					if n >= uint64(*schedules) {
						return
					}
					simulate(t, *firstSeed+n, &all)
				}
			})
		}
	})
	t.Logf("%d schedules, %v of their time in %v: %s", all.schedules, all.took.Round(time.Second), time.Since(began).Round(time.Millisecond), all.String())
	if *schedules < 100 || t.Failed() {
		return
	}
	for _, k := range kinds {
		if all.effects[k.name] == 0 {
			t.Errorf("no schedule had a fault %q with any effect", k.name)
		}
	}
}

// warmUp makes what is made once and shared by all: it must not belong to a bubble.
func warmUp(t *testing.T) {
	t.Helper()
	b, err := keys.Encode(longMeta())
	if err == nil {
		err = keys.Decode(b, longMeta())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// tally counts what faults had an effect.
type tally struct {
	mu        sync.Mutex
	schedules int
	effects   map[string]int
	took      time.Duration
}

func (a *tally) add(effects map[string]int, took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.effects == nil {
		a.effects = map[string]int{}
	}
	for k, n := range effects {
		a.effects[k] += n
	}
	a.schedules++
	a.took += took
}

func (a *tally) String() string {
	var words []string
	for _, k := range slices.Sorted(maps.Keys(a.effects)) {
		words = append(words, fmt.Sprintf("%s %d", k, a.effects[k]))
	}
	return strings.Join(words, ", ")
}

// simulate runs one schedule in a bubble of its own.
func simulate(t *testing.T, seed uint64, all *tally) {
	t.Helper()
	log := testkit.Quiet()
	if *schedules == 1 {
		log = testkit.Log(t)
	}
	again := fmt.Sprintf("go test ./synchronizer -run 'TestSimulation$' -schedules=1 -seed=%d -v", seed)
	done := false
	defer func() {
		if !done {
			t.Errorf("seed %d did not end; again: %s", seed, again)
		}
	}()
	var s *simulation
	synctest.Test(t, func(*testing.T) {
		s = newSimulation(seed, log)
		s.run()
	})
	done = true
	all.add(s.effects, s.lasted)
	for _, err := range s.violations {
		t.Errorf("seed %d: %v", seed, err)
	}
	if len(s.violations) > 0 {
		t.Logf("again: %s", again)
	}
}

// simulation is one schedule: a store, the replicas and agents around it, and what the registries say.
type simulation struct {
	seed     uint64
	log      *slog.Logger
	rnd      *rand.Rand // of the plan alone
	schema   keys.Schema
	clusters []string
	services []catalog.Name
	weather  storetest.Weather
	deep     bool // every reader's values are looked at one by one
	// deceived says that a watch lost an event without a word: until the next comparison with the
	// store finds that, nobody can know that what a marker vouches for was not brought. Or that a
	// process without any memory began in a store that was wiped and is about to be restored. Then
	// lists are not judged by what was in them; epochs and commits are.
	deceived atomic.Bool
	wiped    bool // of what was in the store there is a backup only
	copied   bool // there is a backup
	began    time.Time
	ctx      context.Context
	end      context.CancelFunc
	wg       sync.WaitGroup

	etcd    *storetest.Etcd
	clerk   *clerk
	truth   *truth
	agents  []*simulatedAgent
	lives   []int
	effects map[string]int
	lasted  time.Duration

	mu         sync.Mutex
	living     []*process        // by replica; nil while it is dead
	all        []*process        // that there ever were
	owners     map[string]string // by cluster: the link whose lease holds the owner key
	violations []error
}

func newSimulation(seed uint64, log *slog.Logger) *simulation {
	schema, _ := keys.New("test")
	s := &simulation{seed: seed, log: log, rnd: rand.New(rand.NewPCG(seed, 7)), schema: schema, began: time.Now(),
		effects: map[string]int{}, owners: map[string]string{}}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.clusters = []string{"east", "west"}[:1+s.rnd.IntN(2)]
	for _, n := range []string{"a", "b", "c"}[:1+s.rnd.IntN(3)] {
		s.services = append(s.services, catalog.Name{Namespace: "default", Service: n})
	}
	s.deep = s.rnd.IntN(4) == 0
	latencies := []time.Duration{2 * time.Millisecond, 20 * time.Millisecond, 60 * time.Millisecond, 250 * time.Millisecond}
	s.weather = storetest.Weather{Latency: latencies[s.rnd.IntN(len(latencies))]}
	s.truth = newTruth(s.clusters)
	s.clerk = newClerk(s)
	s.etcd = storetest.New(seed, s.clerk.observe, s.clerk.reset)
	replicas := 2
	if s.rnd.IntN(4) == 0 {
		replicas = 3
	}
	s.living, s.lives = make([]*process, replicas), make([]int, replicas)
	return s
}

// chance gives a duration below most that hangs on the seed, the moment and who asks.
func (s *simulation) chance(who string, most time.Duration) time.Duration {
	return storetest.Chance(s.seed, who, most)
}

func (s *simulation) trace(msg string, args ...any) {
	s.log.Info(msg, args...) //nolint:sloglint // One of a few words of this file.
}

// violated notes that something is not as it must be.
func (s *simulation) violated(what error, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := fmt.Errorf("after %v: %w: %s", time.Since(s.began).Round(time.Millisecond), what, fmt.Sprintf(format, args...))
	s.log.Error("violated", "error", err)
	if len(s.violations) < 5 {
		s.violations = append(s.violations, err)
	}
}

func (s *simulation) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.violations) > 0
}

func (s *simulation) set(n int, p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.living[n] = p
	if p != nil {
		s.all = append(s.all, p)
	}
}

// processes gives those that live.
func (s *simulation) processes() []*process {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*process
	for _, p := range s.living {
		if p != nil {
			out = append(out, p)
		}
	}
	return out
}

// alive gives one of those that live, nil where none does.
func (s *simulation) alive(n int) *process {
	all := s.processes()
	if len(all) == 0 {
		return nil
	}
	return all[n%len(all)]
}

// run goes through the schedule.
func (s *simulation) run() {
	s.wg.Go(func() { s.etcd.Run(s.ctx) })
	for _, c := range s.clusters {
		for _, n := range s.services {
			s.truth.put(c, n, s.some(n)...)
		}
	}
	for n := range s.living {
		s.begin(n)
	}
	for n := range 2 {
		s.agents = append(s.agents, s.agent(n))
	}
	s.settle("the start")
	if !s.failed() && s.rnd.IntN(5) == 0 {
		s.quietDeath()
	}
	if !s.failed() {
		s.faults()
		s.settle("the faults")
	}
	s.lasted = time.Since(s.began)
	for _, p := range s.all {
		p.kill()
	}
	s.end()
	s.wg.Wait()
}

// some gives the identities that a service begins with; now and then so many that they are in
// several slices.
func (s *simulation) some(n catalog.Name) []string {
	count := s.rnd.IntN(5)
	if n.Service == "b" && s.rnd.IntN(8) == 0 {
		count = 95 + s.rnd.IntN(120)
	}
	ids := make([]string, 0, count)
	for i := range count {
		ids = append(ids, fmt.Sprintf("i%03d", i))
	}
	return ids
}

// settle waits until every reader holds what is true.
func (s *simulation) settle(after string) {
	began := time.Now()
	for {
		why := s.behind()
		if why == "" {
			s.trace("all agree", "after", after, "took", time.Since(began))
			return
		}
		if time.Since(began) > settleWithin {
			s.violated(errNotConverged, "%v after %s: %s", settleWithin, after, why)
			return
		}
		if s.failed() {
			return
		}
		time.Sleep(200*time.Millisecond + s.chance("settle", 200*time.Millisecond))
	}
}

// noteOwners keeps who holds the owner keys. It is called under the store's lock.
func (s *simulation) noteOwners(commit *storetest.Commit) {
	for _, ch := range commit.Changes {
		key := ch.Is
		if key == nil {
			key = ch.Was
		}
		k, err := s.schema.Parse(string(key.Key))
		if err != nil || k.Kind != keys.Owner {
			continue
		}
		s.mu.Lock()
		if ch.Is != nil {
			s.owners[k.Cluster] = s.etcd.Grantee(ch.Is.Lease)
		} else {
			delete(s.owners, k.Cluster)
		}
		s.mu.Unlock()
	}
}

// owned gives the clusters that a link's process owns.
func (s *simulation) owned(link string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for c, by := range s.owners {
		if by == link {
			out = append(out, c)
		}
	}
	return out
}

// takeOverWithin is what is promised of an owner's death.
const takeOverWithin = 5 * time.Second

// quietDeath kills an owner while all else is well.
func (s *simulation) quietDeath() {
	if s.weather.Latency > 60*time.Millisecond {
		return // what takes so long is not promised
	}
	time.Sleep(time.Duration(s.rnd.Int64N(int64(3 * time.Second))))
	n := s.rnd.IntN(len(s.living))
	p := s.living[n]
	had := s.owned(p.link.Name())
	s.trace("a replica dies", "replica", p.link.Name(), "owned", had)
	p.kill()
	s.set(n, nil)
	time.Sleep(takeOverWithin)
	for _, c := range had {
		s.mu.Lock()
		by := s.owners[c]
		s.mu.Unlock()
		if by == "" || by == p.link.Name() {
			s.violated(errTakeOver, "%s is owned by %q %v after the death of %s", c, by, takeOverWithin, p.link.Name())
		}
	}
	if len(had) > 0 {
		s.effects["quiet death"]++
	}
	s.begin(n)
}
