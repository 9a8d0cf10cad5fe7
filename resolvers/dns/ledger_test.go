package dns

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func ledgerOf(t *testing.T, now time.Time, names ...string) *ledger {
	t.Helper()
	var all []service
	for _, n := range names {
		s, err := Service{Name: n + ".test.", Port: 80}.compile(n)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return newLedger(all, now)
}

func TestLedgerReadsWhatIsDueAndProbesInTurn(t *testing.T) {
	now := time.Unix(1000, 0)
	l := ledgerOf(t, now, "a", "b")
	for range 2 {
		e := l.next(now)
		if e == nil {
			t.Fatal("at the start, everything is due")
		}
		l.done(e, reading{outcome: noData, due: now.Add(time.Minute)}, now)
	}
	if e := l.next(now.Add(59 * time.Second)); e != nil {
		t.Errorf("%s is read before it is due", e.source)
	}
	if d := l.wake(now); d != time.Minute {
		t.Errorf("it sleeps for %v", d)
	}
	var turns []string
	for i := range 4 {
		at := now.Add(time.Duration(i+1) * time.Second)
		e := l.idlest(at)
		turns = append(turns, e.source)
		l.done(e, reading{outcome: noData, due: now.Add(time.Minute)}, at)
	}
	if turns[0] == turns[1] || turns[0] != turns[2] || turns[1] != turns[3] {
		t.Errorf("probed in the order %v", turns)
	}
	a, b := l.idlest(now), l.idlest(now)
	if a == nil || b == nil || l.idlest(now) != nil || l.wake(now) < time.Minute {
		t.Error("what is being read is not to be read again")
	}
}

func TestLedgerIsCurrentWhileNothingFailsOrIsLate(t *testing.T) {
	now := time.Unix(1000, 0)
	l := ledgerOf(t, now, "a", "b")
	a, b := l.next(now), l.next(now)
	l.done(a, reading{outcome: noData, due: now.Add(10 * time.Second)}, now)
	if l.current(now) || l.complete() {
		t.Error("one name was never read")
	}
	l.done(b, reading{outcome: noData, due: now.Add(10 * time.Second)}, now)
	for _, c := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {10 * time.Second, true}, {12 * time.Second, true}, {14 * time.Second, false}} {
		if got := l.current(now.Add(c.after)); got != c.want {
			t.Errorf("after %v of 10 s: current %v", c.after, got)
		}
	}
	e := l.idlest(now)
	if l.current(now.Add(4 * time.Second)) {
		t.Error("a read takes 4 s: what it reads may have changed")
	}
	l.failed(e, errors.New("no"), now)
	if l.current(now) || l.trouble() == nil {
		t.Error("a read failed")
	}
	l.done(l.idlest(now), reading{outcome: noData, due: now.Add(10 * time.Second)}, now)
	l.done(l.take(e, now), reading{outcome: noData, due: now.Add(10 * time.Second)}, now)
	if !l.current(now) || l.trouble() != nil {
		t.Errorf("all is well, yet %v", l.trouble())
	}
}

// Names to which nobody answers keep their places for long; the others find some all the same.
func TestLedgerKeepsPlacesForThoseThatAreAnswered(t *testing.T) {
	now := time.Unix(1000, 0)
	names := []string{"good"}
	for i := range 2 * maxReads {
		names = append(names, fmt.Sprintf("silent-%d", i))
	}
	l := ledgerOf(t, now, names...)
	silence := fmt.Errorf("wrapped: %w", unanswered{{kind: kindTimeout}})
	for e := l.next(now); e != nil; e = l.next(now) {
		if e.source == "good" {
			l.done(e, reading{outcome: noData, due: now.Add(time.Minute)}, now)
		} else {
			l.failed(e, silence, now)
		}
	}
	now = now.Add(time.Minute)
	taken := map[string]*entry{}
	for e := l.next(now); e != nil; e = l.next(now) {
		taken[e.source] = e
	}
	if len(taken) != 1+maxSilent || taken["good"] == nil {
		t.Fatalf("%d are read at a time, want the good one and %d of those that are silent", len(taken), maxSilent)
	}
	if d := l.wake(now); d != time.Hour {
		t.Errorf("it wakes after %v, though nothing more may be read", d)
	}
	var silent *entry
	for _, e := range taken {
		if e.silent {
			silent = e
		}
	}
	l.done(silent, reading{outcome: noData, due: now.Add(time.Minute)}, now)
	if e := l.next(now); e == nil || !e.silent || l.next(now) != nil {
		t.Error("one was answered: another one has its place")
	}
	l.done(taken["good"], reading{outcome: noData, due: now.Add(time.Minute), stale: errors.New("a target")}, now)
	if taken["good"].silent {
		t.Error("a refusal is no silence")
	}
}

func TestLedgerTriesAgainWithinBounds(t *testing.T) {
	now := time.Unix(1000, 0)
	l := ledgerOf(t, now, "a")
	for i := range 20 {
		e := l.idlest(now)
		l.failed(e, errors.New("no"), now)
		pause := e.due.Sub(now)
		if pause > mostRetry || pause < leastRetry*4/5 || i > 3 && pause < mostRetry*4/5 {
			t.Errorf("failure %d: tried again after %v", i, pause)
		}
	}
}
