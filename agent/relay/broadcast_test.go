package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/proxy"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

// apps delivers as its function says.
type apps func(ctx context.Context, e app.Endpoint) (*invoke.Response, error)

func (a apps) Deliver(ctx context.Context, e app.Endpoint, _ *invoke.Request) (*invoke.Response, error) {
	return a(ctx, e)
}

func (a apps) Open(context.Context, app.Endpoint, *proxy.Call) (*proxy.Stream, *invoke.Error) {
	return nil, invoke.Errorf(codes.FailedPrecondition, invoke.ReasonUnsupported, "no streams")
}

// part is the Choice within one cluster: instances at the given ports.
type part struct {
	list
	ports []int
}

func (p *part) Next() (Target, bool) {
	if len(p.ports) == 0 {
		return Target{}, false
	}
	port := p.ports[0]
	p.ports = p.ports[1:]
	return Target{
		Instance: &catalog.Instance{ID: catalog.ID{Cluster: "c", Instance: fmt.Sprint(port)}},
		Local:    true, App: app.Endpoint{Port: port}, TierName: "c",
	}, true
}

// fanOut is a broadcast to clusters with instances at the given ports; a cluster without any is
// unreachable.
func fanOut(terms Terms, clusters ...[]int) *broadcastChoice {
	terms.MaxParallel = max(terms.MaxParallel, 1)
	terms.Rule = "all take part"
	b := &broadcastChoice{list: list{terms: terms}}
	for i, ports := range clusters {
		c := ClusterChoice{Cluster: fmt.Sprint("c", i), Unreachable: ports == nil}
		if !c.Unreachable {
			c.Choice = &part{ports: ports}
		}
		b.clusters = append(b.clusters, c)
	}
	return b
}

type broadcastChoice struct{ list }

func (*broadcastChoice) Strategy() string { return Broadcast }

// eachOf gives n clusters with one instance each.
func eachOf(n int) (clusters [][]int) {
	for i := range n {
		clusters = append(clusters, []int{i})
	}
	return clusters
}

func broadcast(t *testing.T, deliver Apps, ctx context.Context, ch Choice, each func(*Reply)) (*Relay, Replies) {
	t.Helper()
	r, err := New(Config{Cluster: "east", Node: "n"}, testDeps(deliver))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r, r.Broadcast(ctx, ch, &invoke.Request{Service: "cart", Verb: "POST"}, 64, each)
}

// TestMinSuccess says when a broadcast as a whole succeeds.
func TestMinSuccess(t *testing.T) {
	ok, app500, down := served(200), served(500), refused
	for _, c := range []struct {
		what       string
		script     script
		minSuccess int
		gone       int // further clusters that are unreachable
		code       codes.Code
		text       string
	}{
		{what: "all of all", script: script{ok, ok, ok}},
		{what: "a failure where all must succeed", script: script{ok, app500, ok}, code: codes.Internal, text: "2 of 3 targets succeeded, and 3 had to; c1: the application answered 500"},
		{what: "enough", script: script{ok, app500, ok}, minSuccess: 2},
		{what: "more than enough", script: script{ok, ok, ok}, minSuccess: 1},
		{what: "too few", script: script{ok, app500, down}, minSuccess: 2, code: codes.Internal, text: "1 of 3 targets succeeded, and 2 had to; c1: the application answered 500; c2: APP_DOWN: down"},
		{what: "more than there are", script: script{ok, ok, ok}, minSuccess: 5, code: codes.Internal, text: "3 of 3 targets succeeded, and 5 had to"},
		{what: "unreachable counts against all", script: script{ok, ok}, gone: 1, code: codes.Internal, text: "2 of 3 targets succeeded, and 3 had to; c2: UNREACHABLE"},
		{what: "unreachable counts against minSuccess", script: script{ok, ok}, gone: 1, minSuccess: 3, code: codes.Internal, text: "c2: UNREACHABLE"},
		{what: "enough without the unreachable", script: script{ok, ok}, gone: 1, minSuccess: 2},
		{what: "nobody executed it", script: script{down}, gone: 1, code: codes.Unavailable, text: "0 of 2 targets succeeded, and 2 had to; c0: APP_DOWN: down; c1: UNREACHABLE"},
		{what: "somebody may have", script: script{down, unknown}, code: codes.Internal, text: "c1: OUTCOME_UNKNOWN: broke"},
		{what: "no target", script: script{}, code: codes.Unavailable, text: "no cluster has an instance"},
		{what: "long words are cut", script: script{failed(invoke.OutcomeUnknown("%s", strings.Repeat("x", 1000)))}, code: codes.Internal, text: "xxx..."},
	} {
		t.Run(c.what, func(t *testing.T) {
			clusters := eachOf(len(c.script))
			for range c.gone {
				clusters = append(clusters, nil)
			}
			_, replies := broadcast(t, c.script, testkit.Context(t), fanOut(Terms{MinSuccess: c.minSuccess}, clusters...), nil)
			a := replies.Answer()
			if a.Strategy != Broadcast || a.Rule != "all take part" || a.Tier != -1 || a.Attempts != len(c.script) {
				t.Errorf("got %+v", a)
			}
			switch {
			case c.code == codes.OK && a.Err != nil:
				t.Errorf("got %v", a.Err)
			case c.code == codes.OK:
			case a.Err == nil || a.Err.Code != c.code || !strings.Contains(a.Err.Message, c.text) || len(a.Err.Message) > 500:
				t.Errorf("got %v, want %v: %s", a.Err, c.code, c.text)
			}
		})
	}
}

// TestManyFailures says that an error which names very many targets stays short.
func TestManyFailures(t *testing.T) {
	_, replies := broadcast(t, apps(func(context.Context, app.Endpoint) (*invoke.Response, error) {
		return nil, invoke.OutcomeUnknown("%s", strings.Repeat("x", 1000))
	}), testkit.Context(t), fanOut(Terms{MaxParallel: 16}, eachOf(50)...), nil)
	text := replies.Answer().Err.Message
	for i := range 50 {
		if !strings.Contains(text, fmt.Sprintf("; c%d: OUTCOME_UNKNOWN", i)) {
			t.Errorf("c%d is not named", i)
		}
	}
	if len(text) > 2000 {
		t.Errorf("%d bytes", len(text))
	}
}

// TestRepliesInOrder says that replies stand in the order of the clusters whoever is first, and
// are handed on as they come in; and that a failed attempt is followed by others in the same
// cluster only.
func TestRepliesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var came []string
		slow := apps(func(_ context.Context, e app.Endpoint) (*invoke.Response, error) {
			if e.Port >= 100 {
				return refused()
			}
			time.Sleep(time.Duration(e.Port) * time.Second)
			return served(200)()
		})
		r, replies := broadcast(t, slow, t.Context(), fanOut(Terms{MaxParallel: 16}, []int{100, 3}, []int{101, 102, 1}, nil, []int{103}, []int{2}), func(reply *Reply) {
			came = append(came, reply.Cluster)
		})
		var got []string
		for i := range replies.List {
			reply := &replies.List[i]
			got = append(got, fmt.Sprintf("%s %d %s%s", reply.Cluster, reply.Attempts, reply.Reason(), reply.Body))
		}
		if s := strings.Join(got, ", "); s != "c0 2 ok, c1 3 ok, c2 0 UNREACHABLE, c3 1 APP_DOWN, c4 1 ok" {
			t.Errorf("got %s", s)
		}
		if s := strings.Join(came, " "); s != "c2 c3 c1 c4 c0" {
			t.Errorf("came in as %s", s)
		}
		for result, want := range map[string]float64{targetSuccess: 3, targetUnreachable: 1, targetNotExecuted: 1, targetLost: 0} {
			if got := targetCount(t, r, result); got != want {
				t.Errorf("%s: counted %v, want %v", result, got, want)
			}
		}
	})
}

func targetCount(t *testing.T, r *Relay, result string) float64 {
	t.Helper()
	var m dto.Metric
	if err := r.metrics.targets.WithLabelValues(result).Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// TestMaxParallel says how many targets are called at the same time, and that the first of them
// come first.
func TestMaxParallel(t *testing.T) {
	for parallel, want := range map[int]time.Duration{1: 5 * time.Second, 2: 3 * time.Second, 16: time.Second} {
		synctest.Test(t, func(t *testing.T) {
			var now, most atomic.Int32
			var mu sync.Mutex
			var order []int
			slow := apps(func(_ context.Context, e app.Endpoint) (*invoke.Response, error) {
				mu.Lock()
				order = append(order, e.Port)
				mu.Unlock()
				if n := now.Add(1); n > most.Load() {
					most.Store(n)
				}
				time.Sleep(time.Second)
				now.Add(-1)
				return served(200)()
			})
			began := time.Now()
			// Each target has its whole time from when it is called.
			_, replies := broadcast(t, slow, t.Context(), fanOut(Terms{MaxParallel: parallel, TargetTimeout: 1500 * time.Millisecond}, eachOf(5)...), nil)
			if took := time.Since(began); took != want || int(most.Load()) > parallel || replies.Succeeded() != 5 {
				t.Errorf("%d in parallel: took %v, %d at the same time, %d succeeded", parallel, took, most.Load(), replies.Succeeded())
			}
			if parallel == 1 && fmt.Sprint(order) != "[0 1 2 3 4]" {
				t.Errorf("called in the order %v", order)
			}
		})
	}
}

// TestTargetTimeout says that a target that does not answer ends by itself, and never later than
// the call; and that those that answer are waited for all the same.
func TestTargetTimeout(t *testing.T) {
	hang := apps(func(ctx context.Context, e app.Endpoint) (*invoke.Response, error) {
		if e.Port == 0 {
			return served(200)()
		}
		<-ctx.Done()
		return nil, invoke.FromContext(ctx)
	})
	for _, c := range []struct {
		target, call, took time.Duration
		text               string
	}{
		{2 * time.Second, 5 * time.Second, 2 * time.Second, "no answer within targetTimeout, which is 2s"},
		{5 * time.Second, 2 * time.Second, 2 * time.Second, "the call's deadline passed"},
		{0, 3 * time.Second, 3 * time.Second, "the call's deadline passed"},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), c.call)
			defer cancel()
			began := time.Now()
			r, replies := broadcast(t, hang, ctx, fanOut(Terms{MaxParallel: 16, TargetTimeout: c.target, MinSuccess: 1}, eachOf(2)...), nil)
			late := &replies.List[1]
			if took := time.Since(began); took != c.took || late.Err == nil || late.Err.Code != codes.DeadlineExceeded || late.Err.Message != c.text {
				t.Errorf("after %v: %v", took, late.Err)
			}
			if a := replies.Answer(); a.Err != nil || targetCount(t, r, targetLost) != 1 {
				t.Errorf("the other one succeeded: %v", a.Err)
			}
		})
	}
}

// TestBodiesOfABroadcastAreClosed says that every answer's body is read within its bound and closed,
// however its call ends.
func TestBodiesOfABroadcastAreClosed(t *testing.T) {
	ctx, cancel := context.WithCancel(testkit.Context(t))
	var open atomic.Int32
	bodies := []func(ctx context.Context) io.Reader{
		func(context.Context) io.Reader { return strings.NewReader("whole") },
		func(context.Context) io.Reader { return iotest.ErrReader(errors.New("torn")) },
		func(context.Context) io.Reader { return strings.NewReader(strings.Repeat("x", 65)) },
		func(ctx context.Context) io.Reader { cancel(); return waiting{ctx} },
	}
	deliver := apps(func(ctx context.Context, e app.Endpoint) (*invoke.Response, error) {
		open.Add(1)
		return &invoke.Response{Status: 200, Length: -1, Body: counted{bodies[e.Port](ctx), &open}}, nil
	})
	r, replies := broadcast(t, deliver, ctx, fanOut(Terms{}, eachOf(len(bodies)+1)...), nil)
	if n := open.Load(); n != 0 {
		t.Errorf("%d bodies were left open", n)
	}
	for i, want := range []string{"", "OUTCOME_UNKNOWN: the answer was cut short: torn", "TOO_LARGE: the answer is larger than 64 bytes", "CANCELLED: the caller went away", "CANCELLED: the caller went away"} {
		reply := &replies.List[i]
		if got := reply.Failure(); got != want || len(reply.Body) > 64 {
			t.Errorf("%d: %q with %d bytes, want %q", i, got, len(reply.Body), want)
		}
	}
	if replies.List[4].Attempts != 0 {
		t.Error("a call that is over was made")
	}
	for result, want := range map[string]float64{targetSuccess: 1, targetLost: 1, targetRefused: 1, targetAbandoned: 2} {
		if got := targetCount(t, r, result); got != want {
			t.Errorf("%s: counted %v, want %v", result, got, want)
		}
	}
}

// counted is a body that is counted out when it is closed.
type counted struct {
	io.Reader
	open *atomic.Int32
}

func (c counted) Close() error { c.open.Add(-1); return nil }

// waiting is a body that comes no further until its call is over.
type waiting struct{ ctx context.Context }

func (w waiting) Read([]byte) (int, error) { <-w.ctx.Done(); return 0, w.ctx.Err() }
