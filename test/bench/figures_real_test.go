//go:build real

package bench

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// rounds holds one arm's segments: at the low rate and saturated, one of each a round.
type rounds struct{ low, full []segment }

// figures are those of one arm, over some of its rounds. Times are µs.
type figures struct {
	p50, p90, p99, p999 float64
	rate                float64            // calls a second, saturated
	low, full           map[string]float64 // time of the processors for each call, by process
	mallocs             map[string]float64 // objects for each call, saturated
}

// over takes the rounds that pick says, one as often as it is there, for one body of calls.
func (r *rounds) over(pick []int) figures {
	var all []time.Duration
	f := figures{low: map[string]float64{}, full: map[string]float64{}, mallocs: map[string]float64{}}
	var calls, fullCalls int
	var took time.Duration
	for _, i := range pick {
		low, full := &r.low[i], &r.full[i]
		all = append(all, low.latencies...)
		calls, fullCalls, took = calls+low.calls, fullCalls+full.calls, took+full.took
		for name, d := range low.cpu {
			f.low[name] += micros(d)
		}
		for name, d := range full.cpu {
			f.full[name] += micros(d)
		}
		for name, n := range full.mallocs {
			f.mallocs[name] += n / float64(len(pick))
		}
	}
	slices.Sort(all)
	f.p50, f.p90 = micros(percentile(all, 0.5)), micros(percentile(all, 0.9))
	f.p99, f.p999 = micros(percentile(all, 0.99)), micros(percentile(all, 0.999))
	f.rate = float64(fullCalls) / took.Seconds()
	for name := range f.low {
		f.low[name] /= float64(calls)
		f.full[name] /= float64(fullCalls)
	}
	return f
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// sum adds what the relays of an arm have in one of figures' maps.
func sum(of map[string]float64, relays []process) float64 {
	var s float64
	for _, p := range relays {
		s += of[p.name]
	}
	return s
}

// ratio is one thing that is compared, with where it lies in 95 of 100 cases.
type ratio struct {
	key, what   string
	goal        float64 // what it should be at most, or where atLeast is set at least; 0: none
	atLeast     bool
	coarse      bool // it is of hundredths of a second, of which a short run has few
	value       float64
	least, most float64
}

// met reports whether all of the range is on the goal's side.
func (r *ratio) met() bool {
	if r.atLeast {
		return r.least >= r.goal
	}
	return r.most <= r.goal
}

// comparison says how a ratio follows from the figures of the arms of one protocol.
type comparison struct {
	ratio
	of func(f map[string]figures, relays map[string][]process) float64
}

func added(at func(figures) float64, a, b string) func(map[string]figures, map[string][]process) float64 {
	return func(f map[string]figures, _ map[string][]process) float64 {
		return (at(f[a]) - at(f[direct])) / (at(f[b]) - at(f[direct]))
	}
}

func p50(f figures) float64                  { return f.p50 }
func p90(f figures) float64                  { return f.p90 }
func p99(f figures) float64                  { return f.p99 }
func p999(f figures) float64                 { return f.p999 }
func atLow(f figures) map[string]float64     { return f.low }
func atFull(f figures) map[string]float64    { return f.full }
func objectsIn(f figures) map[string]float64 { return f.mallocs }

// comparisons gives what is compared for a protocol. The keys are those of the project's list of goals.
func comparisons(protocol string) []comparison {
	most := func(key, what string, goal float64, of func(map[string]figures, map[string][]process) float64) comparison {
		return comparison{ratio{key: key, what: what, goal: goal}, of}
	}
	spent := func(key, what string, goal float64, of func(figures) map[string]float64, a, b string) comparison {
		c := most(key, what, goal, func(f map[string]figures, relays map[string][]process) float64 {
			return sum(of(f[a]), relays[a]) / sum(of(f[b]), relays[b])
		})
		c.coarse = true
		return c
	}
	first := map[string]string{overGRPC: "M1", overHTTP: "X2"}[protocol]
	second := map[string]string{overGRPC: "M2", overHTTP: "X2"}[protocol]
	times := func(a, b string) comparison {
		goal := map[string]float64{daprd: 2.5, floor: 0.9}[b]
		return comparison{ratio{key: "M5", what: "calls a second, saturated: ours ÷ " + b, goal: goal, atLeast: true},
			func(f map[string]figures, _ map[string][]process) float64 { return f[a].rate / f[b].rate }}
	}
	return []comparison{
		most(first, "added p50: ours ÷ daprd", 0.5, added(p50, ours, daprd)),
		most(second, "added p90: ours ÷ daprd", 0.5, added(p90, ours, daprd)),
		most(second, "added p99: ours ÷ daprd", 0.5, added(p99, ours, daprd)),
		most(second, "added p99.9: ours ÷ daprd", 0.5, added(p999, ours, daprd)),
		most("M3", "added p50: ours ÷ floor", 1.15, added(p50, ours, floor)),
		spent("M4", "processor time of a call's two relays, saturated: ours ÷ daprd", 0.35, atFull, ours, daprd),
		spent("", "the same at the low rate", 0, atLow, ours, daprd),
		spent("", "the same, saturated: ours ÷ floor", 0, atFull, ours, floor),
		times(ours, daprd),
		times(ours, floor),
		most("M6", "objects allocated in a hop ÷ in caller and application", 0.5, func(f map[string]figures, relays map[string][]process) float64 {
			return sum(objectsIn(f[ours]), relays[ours]) / 2 / (f[direct].mallocs[generator] + f[direct].mallocs["application"])
		}),
		most("X1", "added p50 ÷ direct", 2.5, func(f map[string]figures, _ map[string][]process) float64 {
			return (f[ours].p50 - f[direct].p50) / f[direct].p50
		}),
		most("A/A", "added p50: ours again ÷ ours", 0, added(p50, again, ours)),
		most("A/A", "added p99: ours again ÷ ours", 0, added(p99, again, ours)),
		spent("A/A", "processor time, saturated: ours again ÷ ours", 0, atFull, again, ours),
	}
}

// resamples is how often the rounds are drawn anew to see how far a ratio depends on which they were.
const resamples = 400

// compare gives the ratios of a protocol, each with the range of its middle 95 % when the rounds are drawn
// with replacement (the percentile bootstrap): the rounds and not the calls, as calls of a round are alike.
func compare(protocol string, of map[string]*rounds, relays map[string][]process) ([]ratio, map[string]figures) {
	n := len(of[direct].low)
	list := comparisons(protocol)
	seen := make([][]float64, len(list))
	r := rand.New(rand.NewPCG(1, 2))
	figuresOf := func(pick []int) map[string]figures {
		f := map[string]figures{}
		for name, rs := range of {
			f[name] = rs.over(pick)
		}
		return f
	}
	pick := make([]int, n)
	for range resamples {
		for i := range pick {
			pick[i] = r.IntN(n)
		}
		f := figuresOf(pick)
		for i, c := range list {
			seen[i] = append(seen[i], c.of(f, relays))
		}
	}
	for i := range pick {
		pick[i] = i
	}
	all := figuresOf(pick)
	var out []ratio
	for i, c := range list {
		slices.SortFunc(seen[i], func(a, b float64) int { return cmp.Compare(a, b) })
		c.value = c.of(all, relays)
		c.least, c.most = seen[i][resamples*25/1000], seen[i][resamples*975/1000]
		out = append(out, c.ratio)
	}
	return out, all
}

// told reports whether a ratio is a number, which one may be too coarse for.
func (r *ratio) told() bool { return r.coarse || !math.IsNaN(r.value) && !math.IsInf(r.value, 0) }
