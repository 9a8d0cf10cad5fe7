package pick

import (
	"container/heap"
	"fmt"
	"testing"
	"time"

	"github.com/farcall/farcall/strategy"
)

// simulation calls a service in simulated time and does what the owner of pickers does: judges when
// a call is suspicious and when it is time, and makes the picker anew when that changed something.
type simulation struct {
	balancer strategy.Balancer
	list     []Candidate
	// behave says how a call to an instance that begins at a time ends.
	behave func(at int, now time.Duration) (time.Duration, Outcome)

	picker  *Picker
	judge   time.Time // the next judgement
	running ends
	counts  []int // calls that began after 5 s
	total   int
}

type end struct {
	at      time.Time
	picked  Picked
	latency time.Duration
	outcome Outcome
}

type ends []end

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(end)) }
func (e *ends) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func (s *simulation) judgeAt(now time.Time) {
	changed, next := Judge(now, loadsOf(s.list))
	s.judge = next
	if changed || s.picker == nil {
		var up []Candidate
		for _, c := range s.list {
			if c.Load.Ejected() == "" {
				up = append(up, c)
			}
		}
		s.picker = New(Config{Balancer: s.balancer}, []Tier{{Share: 100, Groups: groupOf(up)}})
	}
}

// until lets calls end, and the owner judge, until a time.
func (s *simulation) until(now time.Time) {
	for {
		ended := len(s.running) > 0 && !s.running[0].at.After(now)
		if !s.judge.IsZero() && !s.judge.After(now) && (!ended || s.judge.Before(s.running[0].at)) {
			s.judgeAt(s.judge)
			continue
		}
		if !ended {
			return
		}
		e := heap.Pop(&s.running).(end)
		suspicious := e.picked.Done(e.at, e.latency, e.outcome)
		if suspicious || e.outcome != Answered && s.judge.IsZero() {
			s.judgeAt(e.at)
		}
	}
}

// run makes so many calls a second for a minute.
func (s *simulation) run(t *testing.T, perSecond int) {
	t.Helper()
	s.counts = make([]int, len(s.list))
	s.judgeAt(start)
	for n := range 60 * perSecond {
		since := time.Duration(n) * time.Second / time.Duration(perSecond)
		now := start.Add(since)
		s.until(now)
		var call Call
		call.SetKey(fmt.Sprint(n % 1000))
		picked, ok := s.picker.Pick(&call)
		if !ok {
			t.Fatalf("%s: after %v there was nobody to call", s.balancer, since)
		}
		picked.Begin()
		latency, outcome := s.behave(picked.Instance.Port, since)
		heap.Push(&s.running, end{now.Add(latency), picked, latency, outcome})
		if since >= 5*time.Second {
			s.counts[picked.Instance.Port]++
			s.total++
		}
	}
}

func TestOneThatStartsFailingGetsFewCalls(t *testing.T) {
	const well = 10 * time.Millisecond
	for _, failing := range []struct {
		how   string
		after func(n int) (time.Duration, Outcome)
	}{
		{"refuses at once", func(int) (time.Duration, Outcome) { return time.Millisecond, Failed }},
		{"hangs until the deadline", func(int) (time.Duration, Outcome) { return time.Second, Failed }},
		{"answers with errors", func(int) (time.Duration, Outcome) { return time.Millisecond, Errored }},
		{"fails every other call", func(n int) (time.Duration, Outcome) {
			return well, []Outcome{Answered, Errored}[n%2]
		}},
	} {
		for _, b := range balancers {
			for _, n := range []int{2, 3, 10} {
				bad := 0
				s := &simulation{balancer: b, list: candidates("i", equal(n)...)}
				s.behave = func(at int, _ time.Duration) (time.Duration, Outcome) {
					if at != 0 {
						return well, Answered
					}
					bad++
					return failing.after(bad)
				}
				s.run(t, 200)
				if part := float64(s.counts[0]) / float64(s.total); part > 0.05 {
					t.Errorf("%s, %d instances, one of which %s: after 5 s it got %.1f %% of the calls", b, n, failing.how, 100*part)
				}
			}
		}
	}
}

func TestOneThatRecoversGetsItsShareAgain(t *testing.T) {
	for _, b := range balancers {
		s := &simulation{balancer: b, list: candidates("i", equal(4)...)}
		s.behave = func(at int, since time.Duration) (time.Duration, Outcome) {
			if at == 0 && since < 8*time.Second {
				return time.Millisecond, Failed
			}
			return 10 * time.Millisecond, Answered
		}
		s.run(t, 200)
		// Ejected from the start until 10 s, it has a quarter for 50 of the 55 s.
		if part := float64(s.counts[0]) / float64(s.total); part < 0.15 || part > 0.30 {
			t.Errorf("%s: it got %.1f %% of the calls", b, 100*part)
		}
	}
}

func TestWhereAllFailCallsStillGoOut(t *testing.T) {
	for _, outcome := range []Outcome{Failed, Errored} {
		for _, b := range balancers {
			for _, n := range []int{1, 2, 3, 10} {
				s := &simulation{balancer: b, list: candidates("i", equal(n)...)}
				s.behave = func(int, time.Duration) (time.Duration, Outcome) {
					if ejected := len(out(loadsOf(s.list))); ejected > n/2 {
						t.Fatalf("%s: %d of %d are ejected", b, ejected, n)
					}
					return time.Millisecond, outcome
				}
				s.run(t, 100)
				for i, got := range s.counts {
					if got == 0 {
						t.Errorf("%s, %d instances that fail: number %d was not tried again", b, n, i)
					}
				}
			}
		}
	}
}
