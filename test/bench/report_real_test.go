//go:build real

package bench

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
)

// report gives the run in Markdown.
func (s *beside) report(r *run) string {
	var out strings.Builder
	turns := r.rounds * len(arms) * len(r.protocols)
	fmt.Fprintf(&out, "%s. %d rounds; bodies of %d bytes both ways; %d connections; latency at %v calls a second, "+
		"begun at random times that were made up before, %v a turn; saturated: one call under way on each connection, %v a turn.\n",
		machine(), r.rounds, size, connections, r.rate, r.low, r.full)
	if r.first < turns {
		fmt.Fprintf(&out, "\nThe load generator had no privilege to run before all others in %d turns of %d.\n", turns-r.first, turns)
	}
	if r.voids > 0 {
		fmt.Fprintf(&out, "\n**%d turns of %d are void: the load generator itself was late (p99 above %v) or took more than %v of a core.**\n",
			r.voids, turns, maxLag, maxOwn)
	}
	for _, protocol := range r.protocols {
		s.reportProtocol(&out, r, protocol)
	}
	reportBodies(&out, r)
	return out.String()
}

func (s *beside) reportProtocol(out *strings.Builder, r *run, protocol string) {
	relays := s.relays(protocol)
	ratios, all := compare(protocol, r.arms[protocol], relays)
	fmt.Fprintf(out, "\n| %s | p50 | p90 | p99 | p99.9 | µs of processor a call: caller's relay, callee's | saturated: calls/s | µs of processor: caller's relay, callee's, application | objects: caller's relay, callee's |\n|---|---|---|---|---|---|---|---|---|\n", protocol)
	for _, name := range arms {
		f := all[name]
		each := func(of map[string]float64, more ...string) string {
			var cells []string
			for _, p := range relays[name] {
				if v, ok := of[p.name]; ok {
					cells = append(cells, fmt.Sprintf("%.0f", v))
				}
			}
			for _, m := range more {
				cells = append(cells, fmt.Sprintf("%.0f", of[m]))
			}
			return strings.Join(cells, ", ")
		}
		fmt.Fprintf(out, "| %s | %.0f µs | %.0f | %.0f | %.0f | %s | %.0f | %s | %s |\n",
			name, f.p50, f.p90, f.p99, f.p999, each(f.low), f.rate, each(f.full, "application"), each(f.mallocs))
	}
	fmt.Fprintf(out, "\n| %s | What | Ratio | 95 %% of cases | Goal |\n|---|---|---|---|---|\n", protocol)
	for _, q := range ratios {
		fmt.Fprintf(out, "| %s | %s | %.2f | %.2f to %.2f | %s |\n", q.key, q.what, q.value, q.least, q.most, q.verdict())
	}
}

// verdict says what the goal is and whether it is met, with all of the range.
func (r *ratio) verdict() string {
	if r.goal == 0 {
		return ""
	}
	sign, word := "≤", "met"
	if r.atLeast {
		sign = "≥"
	}
	if !r.met() {
		word = "**missed**"
	}
	return fmt.Sprintf("%s %v: %s", sign, r.goal, word)
}

func reportBodies(out *strings.Builder, r *run) {
	fmt.Fprintf(out, "\n| %d MiB over HTTP, one at a time, medians | up, MiB/s | down, MiB/s | the relay that grew most, MiB |\n|---|---|---|---|\n", large>>20)
	for _, name := range []string{direct, ours, daprd} {
		b := r.bodies[name]
		grown := "" // there is none
		if name != direct {
			grown = fmt.Sprintf("%.1f", float64(b.grown)/(1<<20))
		}
		fmt.Fprintf(out, "| %s | %.0f | %.0f | %s |\n", name, median(b.up), median(b.down), grown)
	}
	d, o := r.bodies[direct], r.bodies[ours]
	fmt.Fprintf(out, "| X3 | %.2f of direct | %.2f of direct | %.2f of the body |\n",
		median(o.up)/median(d.up), median(o.down)/median(d.down), float64(o.grown)/large)
}

// machine says what it ran on.
func machine() string {
	model := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if k, v, _ := strings.Cut(line, ":"); strings.TrimSpace(k) == "model name" {
				model = strings.TrimSpace(v)
				break
			}
		}
	}
	var u syscall.Utsname
	release := ""
	if syscall.Uname(&u) == nil {
		for _, c := range u.Release {
			if c == 0 || c == '-' {
				break
			}
			release += string(rune(c))
		}
	}
	return fmt.Sprintf("%s, %d cores, Linux %s, %s", model, runtime.NumCPU(), release, runtime.Version())
}
