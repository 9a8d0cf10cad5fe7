package pick

import (
	"strings"
	"testing"
	"time"
)

func loadsOf(list []Candidate) []*Load {
	var out []*Load
	for i := range list {
		out = append(out, list[i].Load)
	}
	return out
}

func idle(n int) []*Load { return loadsOf(candidates("i", equal(n)...)) }

// calls counts n calls of one load, the last of which fail.
func calls(l *Load, now time.Time, n, failing int) (suspicious bool) {
	for i := range n {
		o := Answered
		if i >= n-failing {
			o = Failed
		}
		l.outstanding.Add(1)
		suspicious = Picked{Candidate: &Candidate{Load: l}}.Done(now, time.Millisecond, o) || suspicious
	}
	return suspicious
}

// spread is calls with the failures not one after the other.
func spread(l *Load, now time.Time, n, failing int) {
	for i := range n {
		if failed := (i+1)*failing/n > i*failing/n; failed {
			l.begun().count(now, Errored)
		} else {
			l.begun().count(now, Answered)
		}
	}
}

// out gives the places of the ejected.
func out(loads []*Load) string {
	var b strings.Builder
	for i, l := range loads {
		if l.Ejected() != "" {
			b.WriteByte(byte('0' + i))
		}
	}
	return b.String()
}

func TestFiveFailuresOneAfterTheOther(t *testing.T) {
	for _, c := range []struct {
		what       string
		outcomes   []Outcome
		suspicious int // after which it was, counted from 1; 0 for none
		ejected    bool
	}{
		{"four", []Outcome{Failed, Failed, Failed, Failed}, 0, false},
		{"five", []Outcome{Failed, Failed, Failed, Failed, Failed}, 5, true},
		{"six", []Outcome{Failed, Failed, Failed, Failed, Failed, Failed}, 5, true},
		{"the application's own", []Outcome{Errored, Failed, Errored, Failed, Errored}, 5, true},
		{"a success between", []Outcome{Failed, Failed, Failed, Failed, Answered, Failed}, 0, false},
		{"callers that went away between", []Outcome{Failed, Failed, Abandoned, Failed, Abandoned, Failed, Failed}, 7, true},
		{"callers that went away", []Outcome{Abandoned, Abandoned, Abandoned, Abandoned, Abandoned, Abandoned}, 0, false},
		{"a success since", []Outcome{Failed, Failed, Failed, Failed, Failed, Answered}, 5, false},
	} {
		loads, suspicious := idle(2), 0
		for i, o := range c.outcomes {
			if loads[0].begun().count(start, o) {
				suspicious = i + 1
			}
		}
		changed, next := Judge(start, loads)
		if got := loads[0].Ejected(); suspicious != c.suspicious || changed != c.ejected || (got != "") != c.ejected {
			t.Errorf("%s: suspicious after %d, want %d; ejected %q, want %v", c.what, suspicious, c.suspicious, got, c.ejected)
		}
		if c.ejected && !next.Equal(start.Add(10*time.Second)) {
			t.Errorf("%s: next at %v", c.what, next)
		}
	}
}

func TestEjectedTellsPeople(t *testing.T) {
	loads := idle(3)
	calls(loads[0], start, 5, 5)
	spread(loads[1], start, 40, 20)
	calls(loads[2], start, 50, 0)
	Judge(start, loads)
	Judge(start.Add(time.Second), loads)
	if got, want := loads[0].Ejected(), "5 calls failed one after the other; set aside for 10s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := loads[2].Ejected(); got != "" {
		t.Errorf("%q", got)
	}
	loads = loads[1:]
	Judge(start.Add(2*time.Second), append(loads, idle(2)...))
	if got, want := loads[0].Ejected(), "20 of its last 40 calls failed, of the others' 0 of 50; set aside for 10s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestOutliers(t *testing.T) {
	type of struct{ calls, failing int }
	for _, c := range []struct {
		what  string
		loads []of
		want  string
	}{
		{"none fails", []of{{100, 0}, {100, 0}}, ""},
		{"one of two", []of{{20, 2}, {20, 0}}, "0"},
		{"just below the margin", []of{{100, 9}, {100, 0}}, ""},
		{"too few of its own", []of{{19, 19 / 2}, {1000, 0}}, ""},
		{"too few of the others", []of{{1000, 500}, {19, 0}}, ""},
		{"the others together are enough", []of{{1000, 500}, {10, 0}, {10, 0}}, "0"},
		{"alone", []of{{1000, 500}}, ""},
		{"all alike", []of{{100, 20}, {100, 20}, {100, 20}, {100, 20}}, ""},
		{"all alike, nearly", []of{{100, 22}, {100, 20}, {100, 18}, {100, 19}}, ""},
		{"three times and the margin", []of{{100, 40}, {100, 10}, {100, 10}}, "0"},
		{"not quite that", []of{{100, 39}, {100, 10}, {100, 10}}, ""},
		{"most fail everywhere", []of{{100, 90}, {100, 60}, {100, 60}}, ""},
		{"two of four; the second only against what is left", []of{{100, 60}, {100, 0}, {100, 30}, {100, 0}}, "02"},
		{"three of four: two", []of{{100, 20}, {100, 40}, {1000, 0}, {100, 90}}, "13"},
		{"an idle one counts for the ceiling", []of{{100, 50}, {0, 0}, {1000, 0}}, "0"},
	} {
		loads := idle(len(c.loads))
		for i, o := range c.loads {
			spread(loads[i], start, o.calls, o.failing)
			loads[i].begun().failures.Store(0)
		}
		changed, _ := Judge(start, loads)
		if got := out(loads); got != c.want || changed != (c.want != "") {
			t.Errorf("%s: ejected %q, want %q (changed: %v)", c.what, got, c.want, changed)
		}
	}
}

func TestAtMostHalfIsEjectedAndNeverTheLast(t *testing.T) {
	for n, want := range map[int]int{1: 0, 2: 1, 3: 1, 4: 2, 5: 2, 10: 5} {
		loads := idle(n)
		for i, l := range loads {
			calls(l, start, 5+i, 5+i)
		}
		Judge(start, loads)
		for round := range 3 {
			got := out(loads)
			if len(got) != want {
				t.Fatalf("%d instances, round %d: %d are ejected, want %d", n, round, len(got), want)
			}
			// Those with the most failures go first.
			if want > 0 && got[0] != byte('0'+n-want) {
				t.Errorf("%d instances: ejected are %s", n, got)
			}
			if changed, _ := Judge(start.Add(time.Second), loads); changed {
				t.Errorf("%d instances: judged again, something changed", n)
			}
		}
	}
}

// When one comes back, another that fails takes its place.
func TestTheNextTakesThePlace(t *testing.T) {
	loads := idle(3)
	calls(loads[0], start, 9, 9)
	calls(loads[1], start, 7, 7)
	calls(loads[2], start, 5, 5)
	Judge(start, loads)
	if out(loads) != "0" {
		t.Fatalf("ejected: %q", out(loads))
	}
	changed, next := Judge(start.Add(10*time.Second), loads)
	if out(loads) != "1" || !changed || !next.Equal(start.Add(20*time.Second)) {
		t.Errorf("ejected: %q, next %v", out(loads), next)
	}
}

func TestASmallerServiceTakesSomeBack(t *testing.T) {
	loads, more := idle(6), idle(2)
	for i := range 3 {
		calls(loads[2-i], start, 25, 5)
		Judge(start.Add(time.Duration(i)*time.Second), loads)
	}
	if out(loads) != "012" {
		t.Fatalf("ejected: %q", out(loads))
	}
	loads, now := loads[:3], start.Add(2100*time.Millisecond)
	changed, next := Judge(now, loads)
	if out(loads) != "0" || !changed || !next.Equal(start.Add(12*time.Second)) {
		t.Errorf("of three, ejected are %q, next %v", out(loads), next)
	}
	// What failed before its ejection does not count any more.
	calls(loads[1], now, 5, 0)
	calls(loads[2], now, 1000, 0)
	if changed, _ := Judge(now, append(more, loads...)); changed || out(loads) != "0" {
		t.Errorf("after others came back, ejected are %q", out(loads))
	}
	loads = loads[:1]
	if changed, next = Judge(now, loads); out(loads) != "" || !changed || !next.IsZero() {
		t.Errorf("the last one is ejected, next %v", next)
	}
}

func TestEjectionsDoubleAndAreForgotten(t *testing.T) {
	loads, now := idle(2), start
	eject := func(want time.Duration) {
		t.Helper()
		calls(loads[0], now, 5, 5)
		changed, next := Judge(now, loads)
		if !changed || next.Sub(now) != want || !strings.HasSuffix(loads[0].Ejected(), "set aside for "+want.String()) {
			t.Fatalf("ejected for %v, want %v: %q", next.Sub(now), want, loads[0].Ejected())
		}
		if changed, _ := Judge(next.Add(-1), loads); changed {
			t.Fatal("it came back too soon")
		}
		now = next
		changed, _ = Judge(now, loads)
		if !changed || loads[0].Ejected() != "" {
			t.Fatalf("after %v it is still ejected", want)
		}
		if changed, _ := Judge(now, loads); changed {
			t.Fatal("its counters did not begin afresh")
		}
	}
	for _, seconds := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		eject(seconds * time.Second)
	}
	now = now.Add(300*time.Second - 1)
	eject(300 * time.Second)
	now = now.Add(300 * time.Second)
	eject(10 * time.Second)
	now = now.Add(10*time.Second - 1)
	eject(20 * time.Second)
	// Nobody judged for an hour: it has long been over.
	calls(loads[0], now, 5, 5)
	Judge(now, loads)
	now = now.Add(time.Hour)
	Judge(now, loads)
	eject(10 * time.Second)
}

func TestRatesAreOfTheLastSecondsOnly(t *testing.T) {
	for _, c := range []struct {
		after time.Duration
		want  string
	}{
		{0, "0"}, {2400 * time.Millisecond, "0"}, {2600 * time.Millisecond, "0"}, {4900 * time.Millisecond, "0"},
		{5 * time.Second, ""}, {7 * time.Second, ""}, {time.Hour, ""}, {-time.Hour, ""},
	} {
		loads := idle(2)
		spread(loads[0], start, 100, 50)
		spread(loads[1], start, 100, 0)
		loads[0].begun().failures.Store(0)
		if Judge(start.Add(c.after), loads); out(loads) != c.want {
			t.Errorf("%v later: ejected %q, want %q", c.after, out(loads), c.want)
		}
	}
	// The two counters take turns and begin anew.
	var w window
	for n := range 10 {
		now := start.Add(time.Duration(n) * windowPart)
		for i := range 10 {
			w.add(now, i < 3)
		}
		want := tally{20, 6}
		if n == 0 {
			want = tally{10, 3}
		}
		if got := w.sum(now); got != want {
			t.Errorf("part %d: %+v, want %+v", n, got, want)
		}
	}
	w[part(start)&1].Store(part(start)<<stampShift | countMask*oneCall | 7)
	w.add(start, true)
	if got := w.sum(start); got.calls != countMask || got.failures != 7 {
		t.Errorf("a full counter went on: %+v", got)
	}
}

func TestNextOfJudge(t *testing.T) {
	loads := idle(4)
	if changed, next := Judge(start, loads); changed || !next.IsZero() {
		t.Errorf("nothing happened: %v, %v", changed, next)
	}
	if changed, next := Judge(start, nil); changed || !next.IsZero() {
		t.Errorf("nobody there: %v, %v", changed, next)
	}
	calls(loads[1], start, 1, 1)
	if changed, next := Judge(start, loads); changed || !next.Equal(start.Add(time.Second)) {
		t.Errorf("one failure: %v, %v", changed, next)
	}
	if changed, next := Judge(start.Add(5*time.Second), loads); changed || !next.IsZero() {
		t.Errorf("that was long ago: %v, %v", changed, next)
	}
	now := start.Add(6 * time.Second)
	calls(loads[0], now, 5, 5)
	if _, next := Judge(now, loads); !next.Equal(now.Add(10 * time.Second)) {
		t.Errorf("one is ejected: next %v later", next.Sub(now))
	}
	calls(loads[3], now, 2, 1)
	if _, next := Judge(now.Add(time.Second), loads); !next.Equal(now.Add(2 * time.Second)) {
		t.Errorf("one is ejected, another failed: next %v later", next.Sub(now))
	}
	// A failure of the ejected one says nothing new.
	if calls(loads[0], now, 10, 5) {
		t.Error("an ejected instance is suspicious")
	}
}
