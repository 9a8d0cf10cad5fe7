package relay

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/proxy"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

// script is what the applications of one node do, by port: the i-th instance listens at port i.
type script []func() (*invoke.Response, error)

func (s script) Deliver(_ context.Context, e app.Endpoint, r *invoke.Request) (*invoke.Response, error) {
	if r.Rest != nil {
		_, _ = r.Rest.Read(make([]byte, 1))
	}
	return s[e.Port]()
}

func (s script) Open(context.Context, app.Endpoint, *proxy.Call) (*proxy.Stream, *invoke.Error) {
	return nil, invoke.Errorf(codes.FailedPrecondition, invoke.ReasonUnsupported, "a script takes no streams")
}

func served(status int) func() (*invoke.Response, error) {
	return func() (*invoke.Response, error) {
		return &invoke.Response{Status: status, Length: 2, Body: io.NopCloser(strings.NewReader("ok"))}, nil
	}
}

func failed(e *invoke.Error) func() (*invoke.Response, error) {
	return func() (*invoke.Response, error) { return nil, e }
}

var (
	refused = failed(invoke.NotDispatched(invoke.ReasonAppDown, "down"))
	unknown = failed(invoke.OutcomeUnknown("broke"))
	denied  = failed(invoke.Errorf(codes.PermissionDenied, invoke.ReasonDenied, "no"))
	late    = failed(invoke.Errorf(codes.DeadlineExceeded, invoke.ReasonDeadline, "late"))
)

// list is a Choice of the first n instances of a script.
type list struct {
	n, next  int
	terms    Terms // 3 attempts where it says none
	clusters []ClusterChoice
	outcomes []string
}

func (l *list) Strategy() string          { return "local-first" }
func (l *list) Clusters() []ClusterChoice { return l.clusters }
func (l *list) Terms() *Terms {
	terms := l.terms
	terms.Attempts = cmp.Or(terms.Attempts, 3)
	return &terms
}
func (l *list) Next() (Target, bool) {
	if l.next == l.n {
		return Target{}, false
	}
	i := l.next
	l.next++
	return Target{
		Instance: &catalog.Instance{ID: catalog.ID{Cluster: "east", Instance: fmt.Sprint(i)}},
		Local:    true, App: app.Endpoint{Port: i}, Tier: i, TierName: fmt.Sprint("tier ", i),
		Done: func(o Outcome, _ time.Duration) { l.outcomes = append(l.outcomes, o.String()) },
	}, true
}

type noRouter struct{ err error }

func (n noRouter) Route(context.Context, Query) (Choice, error) { return nil, n.err }

func newRelay(t *testing.T, s script, log io.Writer, level AccessLog) *Relay {
	t.Helper()
	r, err := New(Config{Cluster: "east", Node: "n", AccessLog: level}, Deps{
		Router: noRouter{errors.New("odd")}, Apps: s, Log: slog.New(slog.NewTextHandler(log, nil)), Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// TestDo is the table of which attempts follow which, and what the caller is told in the end.
func TestDo(t *testing.T) {
	for _, c := range []struct {
		what     string
		verb     string
		script   script
		stream   bool
		terms    Terms
		budget   float64 // tokens; 100 where 0
		attempts int
		err      string // reason
		outcomes string
	}{
		{what: "first serves", verb: "POST", script: script{served(200), served(200)}, attempts: 1, outcomes: "served"},
		{what: "an application's own error is an answer", verb: "GET", script: script{served(503), served(200)}, attempts: 1, outcomes: "served_error"},
		{what: "refused, then served", verb: "POST", script: script{refused, served(200)}, attempts: 2, outcomes: "refused served"},
		{what: "three at most", verb: "POST", script: script{refused, refused, refused, served(200)}, attempts: 3, err: invoke.ReasonAppDown, outcomes: "refused refused refused"},
		{what: "no more instances", verb: "POST", script: script{refused, refused}, attempts: 2, err: invoke.ReasonAppDown, outcomes: "refused refused"},
		{what: "no instance", verb: "POST", script: script{}, err: invoke.ReasonNoInstance},
		{what: "unknown outcome of a POST", verb: "POST", script: script{unknown, served(200)}, attempts: 1, err: invoke.ReasonOutcomeUnknown, outcomes: "lost"},
		{what: "unknown outcome of gRPC", verb: "", script: script{unknown, served(200)}, attempts: 1, err: invoke.ReasonOutcomeUnknown, outcomes: "lost"},
		{what: "unknown outcome of a GET", verb: "GET", script: script{unknown, served(200)}, attempts: 2, outcomes: "lost served"},
		{what: "refused after unknown stays unknown", verb: "GET", script: script{unknown, refused, refused}, attempts: 3, err: invoke.ReasonOutcomeUnknown, outcomes: "lost refused refused"},
		{what: "unknown after refused", verb: "POST", script: script{refused, unknown, served(200)}, attempts: 2, err: invoke.ReasonOutcomeUnknown, outcomes: "refused lost"},
		{what: "denied is final", verb: "GET", script: script{denied, served(200)}, attempts: 1, err: invoke.ReasonDenied, outcomes: "served"},
		{what: "late is final", verb: "GET", script: script{late, served(200)}, attempts: 1, err: invoke.ReasonDeadline, outcomes: "late"},
		{what: "a body that was sent in part", verb: "POST", stream: true, script: script{refused, served(200)}, attempts: 1, err: invoke.ReasonAppDown, outcomes: "refused"},
		{what: "first refusal is outside the budget, the second is not", verb: "POST", budget: -1e6, script: script{refused, refused, served(200)}, attempts: 2, err: invoke.ReasonAppDown, outcomes: "refused refused"},
		{what: "one attempt, says the policy", verb: "GET", terms: Terms{Attempts: 1}, script: script{refused, served(200)}, attempts: 1, err: invoke.ReasonAppDown, outcomes: "refused"},
		{what: "five attempts, says the policy", verb: "POST", terms: Terms{Attempts: 5}, script: script{refused, refused, refused, refused, served(200), served(200)}, attempts: 5, outcomes: "refused refused refused refused served"},
		{what: "unknown outcome of a PUT", verb: "PUT", script: script{unknown, served(200)}, attempts: 1, err: invoke.ReasonOutcomeUnknown, outcomes: "lost"},
		{what: "unknown outcome of a PUT that the policy calls idempotent", verb: "PUT", terms: Terms{Idempotent: []string{"DELETE", "PUT"}}, script: script{unknown, served(200)}, attempts: 2, outcomes: "lost served"},
		{what: "unknown outcome of a POST where the policy calls others idempotent", verb: "POST", terms: Terms{Idempotent: []string{"DELETE", "PUT"}}, script: script{unknown, served(200)}, attempts: 1, err: invoke.ReasonOutcomeUnknown, outcomes: "lost"},
		{what: "unknown outcome of gRPC, which has no method to name", verb: "", terms: Terms{Idempotent: []string{"PUT"}}, script: script{unknown, served(200)}, attempts: 1, err: invoke.ReasonOutcomeUnknown, outcomes: "lost"},
		{what: "an idempotent PUT whose body was sent in part", verb: "PUT", terms: Terms{Idempotent: []string{"PUT"}}, stream: true, script: script{unknown, served(200)}, attempts: 1, err: invoke.ReasonOutcomeUnknown, outcomes: "lost"},
		{what: "a policy's idempotence is inside the budget", verb: "PUT", terms: Terms{Idempotent: []string{"PUT"}}, budget: -1e6, script: script{unknown, served(200)}, attempts: 1, err: invoke.ReasonOutcomeUnknown, outcomes: "lost"},
		{what: "idempotence is inside the budget", verb: "GET", budget: -1e6, script: script{unknown, served(200)}, attempts: 1, err: invoke.ReasonOutcomeUnknown, outcomes: "lost"},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := newRelay(t, c.script, io.Discard, LogOff)
			if c.budget != 0 {
				r.budget.tokens = c.budget
			}
			req := &invoke.Request{Service: "cart", Verb: c.verb}
			if c.stream {
				req.Rest, req.Length = invoke.NewStream(strings.NewReader("body"), nil), -1
			}
			ch := &list{n: len(c.script), terms: c.terms}
			ch.terms.Rule = "so says the policy"
			a := r.Do(testkit.Context(t), ch, req)
			if c.err == "" {
				if a.Err != nil {
					t.Fatalf("got %v", a.Err)
				}
				if b, err := io.ReadAll(a.Response.Body); err != nil || string(b) != "ok" {
					t.Errorf("got %q, %v", b, err)
				}
				a.Response.Body.Close()
				a.Response.Body.Close()
				if a.Instance.Instance != fmt.Sprint(c.attempts-1) || a.Tier != c.attempts-1 {
					t.Errorf("served by %s of tier %d", a.Instance.Instance, a.Tier)
				}
			} else if a.Err == nil || a.Err.Reason != c.err || a.Response != nil {
				t.Errorf("got %+v", a)
			} else if lost := slices.IndexFunc(strings.Fields(c.outcomes), func(o string) bool { return o == "lost" || o == "late" }); lost < 0 && (a.Instance != nil || a.Tier != -1) {
				t.Errorf("nobody can have executed it, and it names %v of tier %d", a.Instance, a.Tier)
			} else if lost >= 0 && (a.Instance == nil || a.Instance.Instance != fmt.Sprint(lost) || a.Tier != lost) {
				t.Errorf("%d may have executed it, and it names %v of tier %d", lost, a.Instance, a.Tier)
			}
			rule := "so says the policy"
			if a.Tier > 0 { // here each attempt has a tier of its own
				rule += fmt.Sprintf("; attempt %d, in tier tier %d", a.Tier+1, a.Tier)
			}
			if a.Attempts != c.attempts || a.Strategy != "local-first" || a.Rule != rule {
				t.Errorf("%d attempts by %q, %q", a.Attempts, a.Strategy, a.Rule)
			}
			if a.Tier < 0 && a.TierName != "" || a.Tier >= 0 && a.TierName != fmt.Sprint("tier ", a.Tier) {
				t.Errorf("tier %d is %q", a.Tier, a.TierName)
			}
			if got := strings.Join(ch.outcomes, " "); got != c.outcomes {
				t.Errorf("told the picker %q, want %q", got, c.outcomes)
			}
		})
	}
}

// TestNothingAfterTheFirstByte says that an answer that breaks off is not asked for again, whatever
// the method is.
func TestNothingAfterTheFirstByte(t *testing.T) {
	torn := func() (*invoke.Response, error) {
		return &invoke.Response{Status: 200, Length: -1, Body: io.NopCloser(io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("torn"))))}, nil
	}
	r := newRelay(t, script{torn, served(200)}, io.Discard, LogOff)
	ch := &list{n: 2}
	a := r.Do(testkit.Context(t), ch, &invoke.Request{Service: "cart", Verb: "GET"})
	if b, err := io.ReadAll(a.Response.Body); string(b) != "half" || err == nil {
		t.Errorf("got %q, %v", b, err)
	}
	a.Response.Body.Close()
	if ch.next != 1 || strings.Join(ch.outcomes, " ") != "lost" {
		t.Errorf("%d instances were tried, and the picker was told %q", ch.next, ch.outcomes)
	}
}

// TestOver says that a call that is over is not tried again, nor at all.
func TestOver(t *testing.T) {
	ctx, cancel := context.WithCancel(testkit.Context(t))
	r := newRelay(t, script{func() (*invoke.Response, error) { cancel(); return refused() }, served(200)}, io.Discard, LogOff)
	if a := r.Do(ctx, &list{n: 2}, &invoke.Request{}); a.Attempts != 1 || a.Response != nil {
		t.Errorf("got %+v", a)
	}
	if a := r.Do(ctx, &list{n: 2}, &invoke.Request{}); a.Attempts != 0 || a.Err.Code != codes.Canceled {
		t.Errorf("got %+v", a)
	}
}

func TestRouteErrors(t *testing.T) {
	r := newRelay(t, nil, io.Discard, LogOff)
	if _, e := r.Route(testkit.Context(t), Query{}); e == nil || !e.NotExecuted() {
		t.Errorf("got %v", e)
	}
	ctx, cancel := context.WithTimeout(testkit.Context(t), 0)
	defer cancel()
	if _, e := r.Route(ctx, Query{}); e == nil || e.Code != codes.DeadlineExceeded {
		t.Errorf("got %v", e)
	}
}

// TestBudget says how many retries a share of the calls and ten a second are.
func TestBudget(t *testing.T) {
	now := time.Unix(0, 0)
	b := newBudget(now)
	take := func() (n int) {
		for b.take(now) {
			n++
		}
		return n
	}
	if n := take(); n != 10 {
		t.Errorf("at first: %d", n)
	}
	now = now.Add(time.Second)
	if n := take(); n != 10 {
		t.Errorf("a second later: %d", n)
	}
	for range 55 {
		b.call()
	}
	if n := take(); n != 5 {
		t.Errorf("after 55 calls: %d", n)
	}
	for range 5 {
		b.call()
	}
	if n := take(); n != 1 {
		t.Errorf("the other half of a retry was lost: %d", n)
	}
	now = now.Add(time.Hour)
	if n := take(); n != budgetMax {
		t.Errorf("after an hour: %d", n)
	}
	now = now.Add(-time.Hour)
	if n := take(); n != 0 {
		t.Errorf("after the clock went back: %d", n)
	}
}

// TestRecord says which calls are logged, with what, and that all are counted.
func TestRecord(t *testing.T) {
	instance := &catalog.Instance{ID: catalog.ID{Cluster: "west", Instance: "cart-1"}}
	good := Answer{Response: &invoke.Response{Status: 200}, Instance: instance, Strategy: "local-first", Rule: "local is empty", Tier: 1, TierName: "* (region eu)", Attempts: 2}
	own := good
	own.Response = &invoke.Response{Status: 500}
	bad := Answer{Err: invoke.OutcomeUnknown("broke"), Strategy: "local-first", Tier: -1, Attempts: 1}
	for _, c := range []struct {
		level AccessLog
		a     Answer
		err   error
		want  string
	}{
		{LogOff, bad, nil, ""},
		{LogErrors, good, nil, ""},
		{LogErrors, bad, nil, `level=WARN msg=call caller=web service=shop/cart strategy=local-first tier=none attempts=1 code=502 duration=_ trace=4bf9 error="OUTCOME_UNKNOWN: broke"`},
		{LogErrors, own, nil, `level=WARN msg=call caller=web service=shop/cart strategy=local-first tier="* (region eu)" cluster=west instance=cart-1 attempts=2 code=500 duration=_ reason="local is empty" trace=4bf9`},
		{LogErrors, good, errors.New("torn"), `error="answer cut short: torn"`},
		{LogAll, good, nil, `level=INFO msg=call caller=web service=shop/cart strategy=local-first tier="* (region eu)" cluster=west instance=cart-1 attempts=2 code=200 duration=_ reason="local is empty" trace=4bf9`},
	} {
		var out bytes.Buffer
		r := newRelay(t, nil, &out, c.level)
		rec := r.Begin(invoke.Identity{AppID: "web"})
		rec.Name = catalog.Name{Namespace: "shop", Service: "cart"}
		rec.TraceParent = "00-4bf9-00f0-01"
		rec.End(c.a, c.err)
		got := out.String()
		if i := strings.Index(got, "duration="); i >= 0 {
			j := i + strings.IndexAny(got[i:], " \n")
			got = got[:i] + "duration=_" + got[j:]
		}
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: logged %q, want %q", c.level, got, c.want)
		}
		var m dto.Metric
		if err := r.metrics.inFlight.Write(&m); err != nil || m.GetGauge().GetValue() != 0 {
			t.Errorf("%v in flight, %v", m.GetGauge().GetValue(), err)
		}
	}
	if _, err := New(Config{AccessLog: "some"}, Deps{Router: noRouter{}, Apps: script{}, Log: slog.Default(), Metrics: prometheus.NewRegistry()}); err == nil || !strings.Contains(err.Error(), "off, errors or all") {
		t.Errorf("got %v", err)
	}
	if _, err := New(Config{}, Deps{}); err == nil {
		t.Error("made a relay of nothing")
	}
}

func TestLabelsAreBounded(t *testing.T) {
	for tier, want := range map[int]string{-1: "none", 0: "0", 7: "7", 8: "8+", 1000: "8+"} {
		if got := tierLabel(tier); got != want {
			t.Errorf("%d: %s", tier, got)
		}
	}
	for _, c := range []struct {
		a    Answer
		err  error
		want string
	}{
		{Answer{Response: &invoke.Response{Status: 204}}, nil, "2xx"},
		{Answer{Response: &invoke.Response{Status: 5}}, nil, "4xx"},
		{Answer{Response: &invoke.Response{Status: 999}}, nil, "other"},
		{Answer{Response: &invoke.Response{Status: 200}}, io.ErrUnexpectedEOF, "Aborted"},
		{Answer{Err: invoke.Invalid("x")}, nil, "InvalidArgument"},
	} {
		if got := codeLabel(c.a, c.err); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}
