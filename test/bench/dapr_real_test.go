//go:build real

package bench

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// How long and how hard. The defaults take about nine minutes.
var (
	roundsFlag = flag.Int("rounds", 10, "how often each arm gets its turn")
	rateFlag   = flag.Float64("rate", 300, "calls a `second` at the low rate")
	lowFlag    = flag.Duration("low", 3*time.Second, "how long a turn at the low rate is")
	fullFlag   = flag.Duration("full", 1200*time.Millisecond, "how long a turn with all connections busy is")
	onlyFlag   = flag.String("only", "", "the only `protocol` that is measured: gRPC or HTTP")
)

// plan is how a run is made.
type plan struct {
	rounds    int
	rate      float64
	low, full time.Duration
	rest      time.Duration // before each turn
	protocols []string
}

// run is what came of it.
type run struct {
	plan
	arms   map[string]map[string]*rounds
	bodies map[string]*bodies
	voids  int // turns at the low rate that say more of the generator than of whom it called
	first  int // turns at the low rate in which the generator ran before all others
}

// turn is one arm's, of one protocol.
type turn struct{ protocol, arm string }

// measure gives every arm its turns, all of them in every round, in an order that is drawn anew each time.
func (s *beside) measure(p plan) (*run, error) {
	out := &run{plan: p, arms: map[string]map[string]*rounds{}, bodies: map[string]*bodies{}}
	var turns []turn
	for _, protocol := range p.protocols {
		out.arms[protocol] = map[string]*rounds{}
		for _, name := range arms {
			out.arms[protocol][name] = &rounds{}
			turns = append(turns, turn{protocol, name})
		}
	}
	order := rand.New(rand.NewPCG(3, 4))
	for n := -1; n < p.rounds; n++ { // the first of all warms up
		order.Shuffle(len(turns), func(i, j int) { turns[i], turns[j] = turns[j], turns[i] })
		if n >= 0 {
			if err := s.lowRate(out, turns, schedule(p.rate, p.low, uint64(n))); err != nil {
				return nil, err
			}
		}
		for _, t := range turns {
			pause(p.rest)
			a := s.arms[t.protocol][t.arm]
			seg, err := saturate(a.callers, p.full, a.procs)
			if err != nil {
				return nil, fmt.Errorf("%s, %s, saturated: %w", t.protocol, t.arm, err)
			}
			if n >= 0 {
				to := out.arms[t.protocol][t.arm]
				to.full = append(to.full, seg)
			}
		}
	}
	return out, s.largeBodies(out)
}

// lowRate gives each arm its turn at the low rate; those that are void get another at the end.
func (s *beside) lowRate(out *run, turns []turn, times []time.Duration) error {
	turns = slices.Clone(turns)
	for i := 0; i < len(turns); i++ {
		t := turns[i]
		pause(out.rest)
		a := s.arms[t.protocol][t.arm]
		seg, err := open(a.callers, times, a.procs)
		if err != nil {
			return fmt.Errorf("%s, %s, %v calls a second: %w", t.protocol, t.arm, out.rate, err)
		}
		if second := slices.Contains(turns[:i], t); seg.void() && !second {
			turns = append(turns, t)
			continue
		} else if seg.void() {
			out.voids++
		}
		if seg.first {
			out.first++
		}
		to := out.arms[t.protocol][t.arm]
		to.low = append(to.low, seg)
	}
	return nil
}

// largeBodies sends those through, twice as many as there are rounds.
func (s *beside) largeBodies(out *run) error {
	names := []string{direct, ours, daprd}
	for n := range 2*out.rounds + 1 {
		for _, name := range names {
			if out.bodies[name] == nil || n == 1 { // the first warms up
				out.bodies[name] = &bodies{}
			}
			if err := s.transfer(name, out.bodies[name]); err != nil {
				return fmt.Errorf("large bodies, %s: %w", name, err)
			}
		}
	}
	for _, b := range out.bodies {
		b.done()
	}
	return nil
}

// relays gives the processes between, by arm.
func (s *beside) relays(protocol string) map[string][]process {
	out := map[string][]process{}
	for name, a := range s.arms[protocol] {
		out[name] = a.relays
	}
	return out
}

// BenchmarkDapr measures calls by way of two agents beside the same by way of two daprds: `make bench-dapr`.
func BenchmarkDapr(b *testing.B) {
	p := plan{rounds: *roundsFlag, rate: *rateFlag, low: *lowFlag, full: *fullFlag, rest: 100 * time.Millisecond, protocols: protocols}
	if *onlyFlag != "" {
		p.protocols = []string{*onlyFlag}
	}
	s := newBeside(b)
	s.ready(p.protocols)
	out, err := s.measure(p)
	if err != nil {
		b.Fatal(err)
	}
	fmt.Fprint(os.Stdout, "\n", s.report(out))
}

// Every arm's calls succeed, and the report says so of each: this much of the figures holds in a second.
func TestRealDaprFigures(t *testing.T) {
	s := newBeside(t)
	s.ready(protocols)
	out, err := s.measure(plan{rounds: 1, rate: 50, low: 300 * time.Millisecond, full: 200 * time.Millisecond, protocols: protocols})
	if err != nil {
		t.Fatal(err)
	}
	for _, protocol := range protocols {
		ratios, figures := compare(protocol, out.arms[protocol], s.relays(protocol))
		for _, r := range ratios {
			if !r.told() {
				t.Errorf("%s: %s is %v", protocol, r.what, r.value)
			}
		}
		for _, name := range arms {
			if f := figures[name]; f.p50 <= 0 || f.p999 < f.p50 || f.rate <= 0 {
				t.Errorf("%s, %s: %+v", protocol, name, f)
			}
		}
	}
	text := s.report(out)
	for _, want := range append(slices.Clone(arms), "M1", "M4", "X2", "X3", "A/A") {
		if !strings.Contains(text, "| "+want+" |") {
			t.Errorf("the report has no row %q:\n%s", want, text)
		}
	}
}
