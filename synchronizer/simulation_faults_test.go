package synchronizer

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
)

// fault is a kind of fault of the simulation.
type fault struct {
	name string
	// begin makes it happen, and gives how it ends; nil where it had no effect. Both are called by
	// the schedule's own goroutine.
	begin func(s *simulation) (end func())
}

func nothing() {}

// kinds are all kinds of faults. The rows of the fault matrix are named where one stands for them.
var kinds = []fault{
	{"replica paused", (*simulation).pauseReplica},             // F8, F23
	{"replica cut off", (*simulation).cutReplica},              // F14
	{"replica killed", (*simulation).killReplica},              // F9, F22, F24
	{"replica restarted", (*simulation).stopReplica},           // F25
	{"watches broken", (*simulation).breakWatches},             // F1
	{"leader lost", (*simulation).loseLeader},                  // F2
	{"watches starved", (*simulation).starve},                  // F11
	{"event lost", (*simulation).loseEvent},                    // F11
	{"compacted", (*simulation).compact},                       // F10
	{"store wiped", (*simulation).wipe},                        // F4
	{"store restored", (*simulation).restore},                  // F5
	{"store wiped and restored", (*simulation).wipeAndRestore}, // F4, F5
	{"quorum lost", (*simulation).loseQuorum},                  // F3
	{"lease revoked", (*simulation).revoke},                    // F9
	{"messages lost", (*simulation).storm},                     // F16
	{"requests late", (*simulation).delay},                     // F23
	{"feed cut", (*simulation).cutFeed},                        // F12, F38
	{"agent slow", (*simulation).slowAgent},                    // F12
	{"key removed by hand", (*simulation).removeKey},           // F32
	{"everybody killed", (*simulation).killAll},                // F38
	{"compacted behind a watch", (*simulation).outcompact},     // F10
}

// faults goes through faults and changes of the truth, and ends the faults.
func (s *simulation) faults() {
	type moment struct {
		at time.Duration
		do func()
	}
	var plan []moment
	length := 4*time.Second + time.Duration(s.rnd.Int64N(int64(10*time.Second)))
	for at := time.Duration(0); at < length; at += time.Duration(s.rnd.Int64N(int64(600 * time.Millisecond))) {
		plan = append(plan, moment{at, s.churn})
	}
	var open []func()
	for range 1 + s.rnd.IntN(4) {
		k := kinds[s.rnd.IntN(len(kinds))]
		at := time.Duration(s.rnd.Int64N(int64(length)))
		lasts := time.Duration(s.rnd.Int64N(int64(8 * time.Second)))
		var end func()
		plan = append(plan, moment{at, func() {
			if end = k.begin(s); end == nil {
				s.trace("a fault has no effect", "fault", k.name)
				return
			}
			s.effects[k.name]++
			s.trace("a fault begins", "fault", k.name)
		}})
		finish := func() {
			if end != nil {
				s.trace("a fault ends", "fault", k.name)
				end()
				end = nil
			}
		}
		plan = append(plan, moment{at + lasts, finish})
		open = append(open, finish)
	}
	slices.SortStableFunc(plan, func(a, b moment) int { return int(a.at - b.at) })
	began := time.Now()
	for _, m := range plan {
		// A moment of its own, so that it does not coincide with a tick.
		time.Sleep(m.at - time.Since(began) + s.chance("plan", time.Millisecond))
		m.do()
		if s.failed() {
			break
		}
	}
	for _, finish := range open {
		finish()
	}
	for n := range s.living {
		if p := s.process(n); p == nil {
			s.begin(n)
		}
	}
}

// churn changes the truth of one service.
func (s *simulation) churn() {
	c, n := s.clusters[s.rnd.IntN(len(s.clusters))], s.services[s.rnd.IntN(len(s.services))]
	id := fmt.Sprintf("i%03d", s.rnd.IntN(6))
	switch s.rnd.IntN(10) {
	case 0:
		s.truth.remove(c, n, "")
	case 1, 2, 3:
		s.truth.remove(c, n, id)
	case 4:
		s.truth.put(c, n, id, fmt.Sprintf("i%03d", 6+s.rnd.IntN(4)))
	default:
		s.truth.put(c, n, id)
	}
}

func (s *simulation) process(n int) *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.living[n]
}

// victim gives a replica that lives.
func (s *simulation) victim() (int, *process) {
	n := s.rnd.IntN(len(s.living))
	return n, s.process(n)
}

func (s *simulation) pauseReplica() func() {
	_, p := s.victim()
	if p == nil {
		return nil
	}
	p.link.Hold(true)
	return func() { p.link.Hold(false) }
}

func (s *simulation) cutReplica() func() {
	_, p := s.victim()
	if p == nil {
		return nil
	}
	p.link.Cut(true)
	return func() { p.link.Cut(false) }
}

func (s *simulation) killReplica() func() {
	n, p := s.victim()
	if p == nil {
		return nil
	}
	p.kill()
	s.set(n, nil)
	return func() { s.revive(n) }
}

// revive starts a replica where it is dead.
func (s *simulation) revive(n int) {
	if s.process(n) == nil {
		s.begin(n)
	}
}

func (s *simulation) killAll() func() {
	all := s.processes()
	if len(all) == 0 {
		return nil
	}
	for _, p := range all {
		p.kill()
	}
	for n := range s.living {
		s.set(n, nil)
	}
	return func() {
		for n := range s.living {
			s.revive(n)
		}
	}
}

func (s *simulation) stopReplica() func() {
	n, p := s.victim()
	if p == nil {
		return nil
	}
	p.stop()
	s.set(n, nil)
	return func() { s.revive(n) }
}

func (s *simulation) breakWatches() func() {
	_, p := s.victim()
	if p == nil || !p.link.Break(false) {
		return nil
	}
	return nothing
}

func (s *simulation) loseLeader() func() {
	some := false
	for _, p := range s.processes() {
		some = p.link.Break(true) || some
	}
	if !some {
		return nil
	}
	return nothing
}

func (s *simulation) starve() func() {
	_, p := s.victim()
	if p == nil || !p.link.Starve(true) {
		return nil
	}
	return func() { p.link.Starve(false) }
}

func (s *simulation) loseEvent() func() {
	_, p := s.victim()
	if p == nil || !p.link.Lose() {
		return nil
	}
	s.deceived.Store(true)
	return nothing
}

func (s *simulation) compact() func() {
	s.etcd.Compact(int64(s.rnd.IntN(20)))
	return nothing
}

// outcompact lets a watch fall behind and forgets what it has not brought yet.
func (s *simulation) outcompact() func() {
	_, p := s.victim()
	if p == nil {
		return nil
	}
	p.link.Cut(true)
	return func() {
		s.etcd.Compact(0)
		p.link.Cut(false)
	}
}

func (s *simulation) wipe() func() {
	s.etcd.Wipe()
	return nothing
}

// youngestCopy is how old a backup is at least that is restored: readers look every second whether the
// store still has what it had, and whoever goes back by less may not be found out.
const youngestCopy = 3 * time.Second

// restore goes back to what the store is now, later; once in a schedule, for the same reason.
func (s *simulation) restore() func() {
	if s.copied {
		return nil
	}
	s.copied = true
	c, at := s.etcd.Copy(), time.Now()
	return func() {
		time.Sleep(youngestCopy - time.Since(at))
		s.etcd.Restore(c)
	}
}

// wipeAndRestore is what happens where a store was lost that somebody has a backup of.
func (s *simulation) wipeAndRestore() func() {
	end := s.restore()
	if end == nil {
		return nil
	}
	s.etcd.Wipe()
	s.wiped = true
	return func() {
		end()
		s.wiped = false
	}
}

func (s *simulation) loseQuorum() func() {
	s.etcd.SetDown(true)
	return func() { s.etcd.SetDown(false) }
}

func (s *simulation) revoke() func() {
	_, p := s.victim()
	if p == nil || !s.etcd.Revoke(p.link.Name()) {
		return nil
	}
	return nothing
}

func (s *simulation) storm() func() {
	w := s.weather
	w.LoseRequest, w.LoseAnswer = 0.1+0.3*s.rnd.Float64(), 0.1+0.3*s.rnd.Float64()
	for _, p := range s.processes() {
		p.link.SetWeather(w)
	}
	return s.clearUp
}

func (s *simulation) delay() func() {
	w := s.weather
	w.Late, w.LateShare = 6*time.Second, 0.2*s.rnd.Float64()
	for _, p := range s.processes() {
		p.link.SetWeather(w)
	}
	return s.clearUp
}

func (s *simulation) clearUp() {
	for _, p := range s.processes() {
		p.link.SetWeather(s.weather)
	}
}

func (s *simulation) cutFeed() func() {
	f := s.agents[s.rnd.IntN(len(s.agents))]
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cut == nil {
		return nil
	}
	f.cut()
	return nothing
}

func (s *simulation) slowAgent() func() {
	f := s.agents[s.rnd.IntN(len(s.agents))]
	set := func(slow bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.slow = slow
	}
	set(true)
	return func() { set(false) }
}

// removeKey removes something of a cluster, as a person might.
func (s *simulation) removeKey() func() {
	some := s.etcd.Scan(s.schema.Cluster(s.clusters[s.rnd.IntN(len(s.clusters))]))
	if len(some) == 0 {
		return nil
	}
	key := string(some[s.rnd.IntN(len(some))].Key)
	// Readers are right to believe it of a list. Where only the description says which epochs there
	// were, nobody could know them without it.
	k, err := s.schema.Parse(key)
	marker := s.schema.Format(keys.Key{Kind: keys.Synced, Cluster: k.Cluster})
	if err != nil || k.Kind == keys.Slice || k.Kind == keys.Meta && len(s.etcd.Scan(marker)) == 0 {
		return nil
	}
	s.etcd.Delete(key)
	return nothing
}

// longMeta is a value that is compressed.
func longMeta() *storev1.ClusterMeta {
	return &storev1.ClusterMeta{Cluster: "east", Labels: map[string]string{"long": strings.Repeat("word ", 200)}}
}

// TestTruthRemembersWhatWent says what the judges go by.
func TestTruthRemembersWhatWent(t *testing.T) {
	n := catalog.Name{Namespace: "default", Service: "a"}
	tr := newTruth([]string{"east"})
	tr.put("east", n, "x")
	tr.put("east", n, "x", "y")
	tr.remove("east", n, "x")
	tr.put("east", n, "x")
	got, _ := tr.of("east")
	if s := spell(got[n]); s != "[x:3 y:1]" {
		t.Errorf("it is %s", s)
	}
	x := catalog.ID{Cluster: "east", Name: n, Instance: "x"}
	if tr.gone[x] != 2 {
		t.Errorf("x went as of change %d, not 2", tr.gone[x])
	}
}
