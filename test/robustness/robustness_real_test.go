//go:build real && linux

package robustness

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/test/robustness/history"
)

var (
	episodes  = flag.Int("robustness.episodes", 0, "how many episodes are made, at least; 0 makes the short set")
	first     = flag.Int("robustness.first", 1, "the episode of the seed's that it begins with")
	seed      = flag.Uint64("robustness.seed", 1, "what decides about everything")
	each      = flag.Int("robustness.each", 0, "goes on until each kind of fault had an effect so many times")
	only      = flag.String("robustness.only", "", "makes episodes of the kinds that begin so, comma-separated, only")
	keepGoing = flag.Bool("robustness.keep-going", false, "goes on after a violation")
	into      = flag.String("robustness.history", "", "folder for histories and, after a violation, logs; a temporary one where none is named")
)

// worldEpisodes is how many episodes one world lives through.
const worldEpisodes = 25

// run is a sequence of episodes of one seed.
type run struct {
	t         testing.TB
	plan      *plan
	dir       string
	outcomes  []outcome
	keepGoing bool
	out       io.Writer // nil: it says nothing before the end
	broken    bool      // the suite itself failed
}

func newRun(t testing.TB, seed uint64, dir, only string) *run {
	t.Helper()
	r := &run{t: t, dir: dir}
	var slots []slot
	for _, k := range kinds() {
		if only == "" || slices.ContainsFunc(strings.Split(only, ","), func(p string) bool { return strings.HasPrefix(k.name, p) }) {
			slots = append(slots, slot{k.name, k.takes, k.least})
		}
	}
	if len(slots) == 0 {
		t.Fatalf("no kind of fault begins with %q", only)
	}
	r.plan = newPlan(seed, slots)
	return r
}

// in makes the next episodes in a world of their own, at most so many, as long as more says so. number
// is the first one's.
func (r *run) in(t *testing.T, number, count int, more func() bool) {
	file, err := os.Create(filepath.Join(r.dir, fmt.Sprintf("history-%03d.jsonl", number)))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	rec := history.NewRecorder(file)
	rec.Add(history.Event{Phase: &history.Phase{Name: history.World}})
	w := newWorld(t, rec)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stop := w.startObservers(ctx)
	defer stop()
	w.ready(testkit.Context(t))
	for n := range count {
		if !more() {
			return
		}
		o, err := w.episode(ctx, number+n, r.plan.next())
		if err != nil {
			w.keepLogs(r.dir)
			r.broken = true
			t.Fatalf("episode %d: %v", number+n, err)
		}
		r.outcomes = append(r.outcomes, o)
		r.say(t, o)
		if len(o.violations) > 0 {
			w.keepLogs(r.dir)
			t.Logf("history and logs are in %s", r.dir)
			if !r.keepGoing {
				return
			}
		}
	}
}

// say tells of an outcome, at once where the run is a long one.
func (r *run) say(t *testing.T, o outcome) {
	t.Helper()
	if r.out == nil {
		t.Log(o)
	} else {
		fmt.Fprintln(r.out, o)
	}
	for _, v := range o.violations {
		if r.out == nil {
			t.Errorf("episode %d: %s", o.number, v)
			continue
		}
		fmt.Fprintln(r.out, "  ", v)
		t.Fail()
	}
}

// effects counts how often each kind had an effect.
func (r *run) effects() map[string]int {
	out := map[string]int{}
	for _, o := range r.outcomes {
		for _, f := range o.faults {
			if f.Effect != "" {
				out[f.Kind]++
			}
		}
	}
	return out
}

// fewest is how often the kind had an effect that had one least often.
func (r *run) fewest() int {
	out, effects := 1<<30, r.effects()
	for _, s := range r.plan.slots {
		out = min(out, effects[s.name])
	}
	return out
}

// table writes what the run did.
func (r *run) table(out io.Writer) {
	times, effects := map[string]int{}, r.effects()
	calls, violations, counted := 0, 0, 0
	for _, o := range r.outcomes {
		for _, f := range o.faults {
			times[f.Kind]++
		}
		if slices.ContainsFunc(o.faults, func(f history.Fault) bool { return f.Effect != "" }) {
			counted++
		}
		calls += o.calls
		violations += len(o.violations)
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "kind\tmatrix\ttimes\twith effect")
	all := kinds()
	slices.SortStableFunc(all, func(a, b kind) int {
		return cmp.Or(cmp.Compare(len(a.matrix), len(b.matrix)), cmp.Compare(a.matrix, b.matrix))
	})
	for _, k := range all {
		if times[k.name] > 0 {
			fmt.Fprintf(t, "%s\t%s\t%d\t%d\n", k.name, k.matrix, times[k.name], effects[k.name])
		}
	}
	_ = t.Flush()
	fmt.Fprintf(out, "%d episodes, %d with an effect; %d calls; %d violations\n", len(r.outcomes), counted, calls, violations)
}

// keepLogs copies what all processes logged to where the history is.
func (w *world) keepLogs(dir string) {
	keep := func(d *testkit.Daemon) {
		b, err := os.ReadFile(d.LogFile())
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(d.LogFile())), b, 0o600)
		}
		if err != nil {
			w.t.Log(err)
		}
	}
	for _, s := range w.synchronizers {
		keep(s.proc)
	}
	for _, a := range w.agents() {
		keep(a.proc)
	}
}

// shortSeeds are the episodes that every change must pass: each is a seed, and so many of its first
// episodes.
var shortSeeds = []struct {
	seed     uint64
	episodes int
}{{1183, 12}}

// TestRealRobustnessSeeds is the short set, or the long run where a number of episodes is given, as
// `make robustness` does: see docs/robustness.md.
func TestRealRobustnessSeeds(t *testing.T) {
	if *episodes > 0 {
		long(t)
		return
	}
	for _, s := range shortSeeds {
		t.Run(fmt.Sprint(s.seed), func(t *testing.T) {
			dir, err := os.MkdirTemp("", "farcall-history-") //nolint:usetesting // it stays after a failure
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if !t.Failed() {
					os.RemoveAll(dir)
				}
			}()
			r := newRun(t, s.seed, dir, "")
			r.in(t, 1, s.episodes, func() bool { return true })
			var text strings.Builder
			r.table(&text)
			t.Logf("\n%s", text.String())
		})
	}
}

// long makes episodes of one seed until there are enough, in as many worlds as that takes.
func long(t *testing.T) {
	dir := *into
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "farcall-history-"); err != nil { //nolint:usetesting // it outlives the test
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	r := newRun(t, *seed, dir, *only)
	r.keepGoing, r.out = *keepGoing, os.Stdout
	fmt.Fprintf(r.out, "seed %d, histories in %s\n", *seed, dir)
	for range *first - 1 {
		r.plan.next()
	}
	more := func() bool {
		return !r.broken && (len(r.outcomes) < *episodes || r.fewest() < *each) && (*keepGoing || !t.Failed())
	}
	for number := *first; more(); number = *first + len(r.outcomes) {
		t.Run(fmt.Sprint("from-", number), func(t *testing.T) { r.in(t, number, worldEpisodes, more) })
	}
	r.table(os.Stdout)
}

// Every kind of fault is named in the document.
func TestRealKindsAreDocumented(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "robustness.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds() {
		if !strings.Contains(string(text), "`"+k.name+"`") {
			t.Errorf("docs/robustness.md does not name %s", k.name)
		}
	}
}
