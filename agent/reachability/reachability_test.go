package reachability

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"

	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestSuspectsAreDialledAndComeBack(t *testing.T) {
	ctx := testkit.Context(t)
	var down atomic.Pointer[map[string]struct{}]
	tr := New(Deps{Log: testkit.Log(t), Metrics: prometheus.NewRegistry(), Changed: func(f Findings) { down.Store(&f.Down) }})
	testkit.Go(t, "tracker", tr.Run)

	l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", testkit.FreePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	isDown := func(want bool) func() error {
		return func() error {
			if d := down.Load(); d != nil {
				if _, ok := (*d)[address]; ok == want {
					return nil
				}
			}
			tr.Suspect(address)
			return fmt.Errorf("down: %v", down.Load())
		}
	}
	// While it answers, suspicion alone does not take it down.
	told := &accepting{Listener: l, accepted: make(chan struct{}, 16)}
	stop := serve(t, told)
	tr.Suspect(address)
	select {
	case <-told.accepted:
	case <-ctx.Done():
		t.Fatal("the suspect was not dialled")
	}
	if down.Load() != nil {
		t.Fatalf("taken down though it answers: %v", *down.Load())
	}
	stop()
	testkit.Eventually(t, ctx, "down", isDown(true))
	l, err = net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("the port is taken by somebody else: %v", err)
	}
	serve(t, l)
	testkit.Eventually(t, ctx, "up again", isDown(false))
}

// accepting says when a connection was accepted.
type accepting struct {
	net.Listener
	accepted chan struct{}
}

func (a *accepting) Accept() (net.Conn, error) {
	c, err := a.Listener.Accept()
	if err == nil {
		select {
		case a.accepted <- struct{}{}:
		default:
		}
	}
	return c, err
}

// serve runs a relay as far as a greeting needs one: a gRPC server without any service.
func serve(t *testing.T, l net.Listener) (stop func()) {
	s := grpc.NewServer()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // it ends with stop
	}()
	stop = func() { s.Stop(); <-done }
	t.Cleanup(stop)
	return stop
}

func TestGreet(t *testing.T) {
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	relay, frozen, other := listen(), listen(), listen()
	serve(t, relay)
	web := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Second}
	go func() { _ = web.Serve(other) }() // it ends with Close
	t.Cleanup(func() { web.Close() })
	for _, c := range []struct{ name, address, says string }{
		{"a relay", relay.Addr().String(), ""},
		{"a process that stands still: only the kernel accepts", frozen.Addr().String(), "says nothing"},
		{"something else", other.Addr().String(), "does not speak HTTP/2"},
		{"nobody", testkit.Nobody(t).String(), "refused"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if c.says == "" {
			ctx, cancel = context.WithCancel(testkit.Context(t))
		}
		_, err := Greet(ctx, c.address)
		cancel()
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		}
	}
}

func TestManySuspectsDoNotBlock(t *testing.T) {
	tr := New(Deps{Log: testkit.Quiet(), Metrics: prometheus.NewRegistry(), Changed: func(Findings) {}})
	for i := range 10_000 {
		tr.Suspect(fmt.Sprint("127.0.0.1:", i)) // nobody reads: Run does not run
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tr.Run(ctx); err == nil {
		t.Error("Run ended without an error though its context was done")
	}
}

// network is what a Tracker dials in a bubble: each address answers after its own time, or does
// not answer.
type network struct {
	mu     sync.Mutex
	relays map[string][]string // what the view knows
	after  map[string]time.Duration
	silent map[string]bool
	lost   map[string]int // dials that come to nothing, and then no more
	// refused is lost for dials that fail at once.
	refused map[string]int
	dials   map[string]int
	found   Findings
	told    int
	downs   int           // of what was told, with anything down
	digest  time.Duration // how long it takes to take in what was told
}

// inNetwork runs a Tracker in a bubble of its own time.
func inNetwork(t *testing.T, relays map[string][]string, test func(n *network, tr *Tracker)) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{relays: relays, after: map[string]time.Duration{}, silent: map[string]bool{}, lost: map[string]int{}, refused: map[string]int{}, dials: map[string]int{}}
		tr := New(Deps{
			Log: testkit.Quiet(), Metrics: prometheus.NewRegistry(), Dial: n.dial,
			Relays: func() map[string][]string { n.mu.Lock(); defer n.mu.Unlock(); return n.relays },
			Changed: func(f Findings) {
				n.mu.Lock()
				n.found = f
				n.told++
				n.downs += min(len(f.Down), 1)
				digest := n.digest
				n.mu.Unlock()
				time.Sleep(digest) // of the bubble
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- tr.Run(ctx) }()
		test(n, tr)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func (n *network) dial(ctx context.Context, address string) (time.Duration, error) {
	n.mu.Lock()
	n.dials[address]++
	after, silent := n.after[address], n.silent[address] || n.lost[address] > 0
	n.lost[address]--
	refused := n.refused[address] > 0
	n.refused[address]--
	n.mu.Unlock()
	if refused {
		return 0, errors.New("refused")
	}
	if silent {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	answer := time.NewTimer(after)
	defer answer.Stop()
	select {
	case <-answer.C:
		return after, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// pass lets a time go by and gives what was found by then.
func (n *network) pass(d time.Duration) Findings {
	time.Sleep(d) // of the bubble
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.found
}

func (n *network) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

// value reads a counter.
func value(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// of gives the relays r0, r1, ... of a cluster.
func of(cluster string, count int) (out []string) {
	for i := range count {
		out = append(out, fmt.Sprintf("%s-r%d:1", cluster, i))
	}
	return out
}

func TestADeadClusterIsFoundWithoutACall(t *testing.T) {
	for _, count := range []int{1, 3, 16} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			inNetwork(t, map[string][]string{"west": of("west", count), "north": of("north", 2)}, func(n *network, tr *Tracker) {
				if f := n.pass(10 * time.Second); len(f.Dead)+len(f.Down) > 0 {
					t.Fatalf("in a sound network: %+v", f)
				}
				n.set(func() {
					for _, a := range n.relays["west"] {
						n.silent[a] = true
					}
				})
				f := n.pass(10 * time.Second)
				if _, ok := f.Dead["west"]; !ok || len(f.Dead) != 1 {
					t.Fatalf("10 s after all relays of west fell silent: %+v", f)
				}
				n.set(func() { clear(n.silent) })
				if f := n.pass(2 * time.Second); len(f.Dead)+len(f.Down) > 0 {
					t.Errorf("2 s after they speak again: %+v", f)
				}
				if failed := value(t, tr.metrics.probes.WithLabelValues("failed")); failed == 0 {
					t.Error("no failed probe was counted")
				}
			})
		})
	}
}

// However many relays do not answer, a cluster of which one does is not dead, be it that calls
// stumble over the silent ones again and again.
func TestAPartOfAClusterIsNotTheWhole(t *testing.T) {
	for _, lost := range []int{1, 4, 5, 9, 15} {
		t.Run(fmt.Sprint(lost), func(t *testing.T) {
			inNetwork(t, map[string][]string{"west": of("west", 16)}, func(n *network, tr *Tracker) {
				n.pass(10 * time.Second)
				// One after the other: what falls silent all at once is a cluster that dies.
				for _, a := range n.relays["west"][:lost] {
					n.set(func() { n.silent[a] = true })
					tr.Suspect(a)
					n.pass(3 * time.Second)
				}
				for range 200 {
					for _, a := range of("west", lost) {
						tr.Suspect(a) // calls stumble over them
					}
					if f := n.pass(300 * time.Millisecond); len(f.Dead) > 0 {
						t.Fatalf("%d of 16 relays are silent, and the cluster is dead: %+v", lost, f)
					}
				}
				if f := n.pass(0); len(f.Down) != lost {
					t.Errorf("down are %v", f.Down)
				}
				n.set(func() {
					for _, a := range n.relays["west"] {
						n.silent[a] = true
					}
				})
				if f := n.pass(10 * time.Second); len(f.Dead) != 1 {
					t.Errorf("the rest fell silent 10 s ago: %+v", f)
				}
			})
		})
	}
}

// A rack that goes down takes as many relays as there are witnesses. The others are asked before
// calls leave the cluster for long.
func TestARackIsNotTheWholeCluster(t *testing.T) {
	inNetwork(t, map[string][]string{"west": of("west", 16)}, func(n *network, tr *Tracker) {
		n.pass(10 * time.Second)
		n.set(func() {
			for _, a := range of("west", 8) {
				n.silent[a] = true
			}
		})
		for _, a := range of("west", 8) {
			tr.Suspect(a)
		}
		if f := n.pass(dialTimeout + time.Millisecond); len(f.Down) != 8 || len(f.Dead) != 0 {
			t.Errorf("8 relays of 16 went down together: %+v", f)
		}
		if f := n.pass(30 * time.Second); len(f.Dead) != 0 {
			t.Errorf("and 30 s later: %+v", f)
		}
	})
}

// The others are asked again for a relay that falls silent right after they were, but not for each
// time that one comes and goes.
func TestTheOthersAreAskedInMeasure(t *testing.T) {
	inNetwork(t, map[string][]string{"west": of("west", 16)}, func(n *network, tr *Tracker) {
		n.pass(10 * time.Second)
		n.set(func() { n.silent["west-r0:1"], n.silent["west-r1:1"] = true, true })
		tr.Suspect("west-r0:1")
		n.pass(500 * time.Millisecond)
		tr.Suspect("west-r1:1")
		n.pass(700 * time.Millisecond) // the first is down, and the others have answered
		n.set(func() {
			for _, a := range n.relays["west"] {
				n.silent[a] = true
			}
		})
		if f := n.pass(2500 * time.Millisecond); len(f.Dead) != 1 {
			t.Errorf("all are silent since the second was suspected: %d down, dead are %v", len(f.Down), f.Dead)
		}
		n.set(func() { clear(n.silent) })
		if f := n.pass(10 * time.Second); len(f.Down) > 0 {
			t.Fatalf("down are %v", f.Down)
		}
		n.set(func() { clear(n.dials) })
		for range 100 { // the relay is away for a moment, a hundred times in ten seconds
			n.set(func() { n.refused["west-r0:1"] = 1 })
			tr.Suspect("west-r0:1")
			n.pass(50 * time.Millisecond)
			tr.Suspect("west-r0:1")
			n.pass(50 * time.Millisecond)
		}
		n.set(func() {
			if got := n.dials["west-r9:1"]; got < 5 || got > 15 {
				t.Errorf("another relay was dialled %d times, want about once a second", got)
			}
		})
	})
}

// What was found at the same time, or while somebody still digests what was found before, is told
// at once: each word costs a look at every service.
func TestFindingsAreToldTogether(t *testing.T) {
	inNetwork(t, nil, func(n *network, tr *Tracker) {
		n.set(func() {
			n.digest = 200 * time.Millisecond
			for _, a := range of("west", 40) {
				n.silent[a] = true
			}
		})
		told := func(what string, down int) {
			t.Helper()
			if f := n.pass(5 * time.Second); len(f.Down) != down {
				t.Errorf("%s: %d are down, want %d", what, len(f.Down), down)
			}
			n.set(func() {
				if n.told > 3 {
					t.Errorf("%s: told %d times", what, n.told)
				}
				n.told = 0
			})
		}
		for _, a := range of("west", 40) {
			tr.Suspect(a)
		}
		told("40 relays go down", 40)
		n.set(func() { clear(n.silent) })
		told("40 relays come back", 0)
	})
}

func TestProbesAreLight(t *testing.T) {
	inNetwork(t, map[string][]string{"west": of("west", 16)}, func(n *network, _ *Tracker) {
		n.pass(10 * time.Second) // the first three come sooner
		n.set(func() { clear(n.dials) })
		n.pass(10 * time.Minute)
		total := 0
		n.set(func() {
			for _, c := range n.dials {
				total += c
			}
			if len(n.dials) != samples {
				t.Errorf("%d addresses were probed, want the same %d", len(n.dials), samples)
			}
		})
		if total < 100 || total > 140 {
			t.Errorf("%d probes in ten minutes, want about 120", total)
		}
	})
}

func TestDistanceIsMeasured(t *testing.T) {
	inNetwork(t, map[string][]string{"west": of("west", 2), "far": of("far", 1)}, func(n *network, tr *Tracker) {
		n.set(func() {
			n.after["west-r0:1"], n.after["west-r1:1"], n.after["far-r0:1"] = 4*time.Millisecond, 45*time.Millisecond, 200*time.Millisecond
		})
		if f := n.pass(10 * time.Second); f.Distance["west"] != 0 || f.Distance["far"] != 3 || len(f.Distance) != 2 {
			t.Fatalf("distances %v", f.Distance)
		}
		told := 0
		n.set(func() { told = n.told })
		n.pass(time.Hour)
		n.set(func() {
			if n.told != told {
				t.Errorf("told %d times of a network that stays the same", n.told-told)
			}
			n.relays = map[string][]string{"west": n.relays["west"]}
		})
		if f := n.pass(10 * time.Second); len(f.Distance) != 1 {
			t.Errorf("distances after a cluster is gone: %v", f.Distance)
		}
		gauges := make(chan prometheus.Metric, 10)
		tr.metrics.distance.Collect(gauges)
		if len(gauges) != 1 {
			t.Errorf("the gauge has %d clusters", len(gauges))
		}
	})
}

// A probe that comes to nothing is only a suspicion.
func TestAProbeIsConfirmed(t *testing.T) {
	for lost, want := range []int{0, 0, 1} {
		inNetwork(t, map[string][]string{"west": of("west", 1)}, func(n *network, tr *Tracker) {
			n.pass(10 * time.Second)
			n.set(func() { n.lost["west-r0:1"] = lost })
			n.pass(time.Minute)
			n.set(func() {
				if n.downs != want || len(n.found.Down) != 0 {
					t.Errorf("%d dials in a row came to nothing: %d times told of it", lost, n.downs)
				}
			})
			if got := value(t, tr.metrics.probes.WithLabelValues("failed")); got != float64(min(lost, 1)) {
				t.Errorf("%d dials in a row came to nothing: %v failed probes", lost, got)
			}
		})
	}
}

// What is down and nobody asks about is forgotten; a relay that the view knows is not.
func TestWhatIsDownIsForgotten(t *testing.T) {
	inNetwork(t, map[string][]string{"west": of("west", 2)}, func(n *network, tr *Tracker) {
		n.set(func() { n.silent["10.9.9.9:1"], n.silent["west-r1:1"] = true, true })
		tr.Suspect("10.9.9.9:1")
		tr.Suspect("west-r1:1")
		if f := n.pass(10 * time.Second); len(f.Down) != 2 {
			t.Fatalf("down are %v", f.Down)
		}
		if f := n.pass(forgetAfter); len(f.Down) != 1 {
			t.Errorf("down are %v, want the relay of west alone", f.Down)
		}
	})
}

// What stays down is dialled less and less, and found again within seconds all the same.
func TestWhatStaysDownIsDialledLess(t *testing.T) {
	inNetwork(t, map[string][]string{"west": of("west", 1)}, func(n *network, _ *Tracker) {
		n.set(func() { n.silent["west-r0:1"] = true })
		dials := func(d time.Duration) (count int) {
			n.set(func() { clear(n.dials) })
			n.pass(d)
			n.set(func() { count = n.dials["west-r0:1"] })
			return count
		}
		if got := dials(10 * time.Second); got < 5 {
			t.Errorf("%d dials in the first 10 s", got)
		}
		n.pass(5 * time.Minute)
		if got := dials(time.Minute); got < 8 || got > 14 {
			t.Errorf("%d dials in a minute, some minutes later", got)
		}
		n.set(func() { clear(n.silent) })
		if f := n.pass(redialAtMost + time.Second); len(f.Down)+len(f.Dead) > 0 {
			t.Errorf("it answers again: %+v", f)
		}
	})
}
