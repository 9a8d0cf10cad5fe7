package face

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/internal/testkit"
)

func TestDeadline(t *testing.T) {
	bothLegs(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, func(t *testing.T, a *callerAgent) {
		got := call(t, "GET", a.url+"/m", nil, "dapr-app-id", "cart", "farcall-timeout", "50ms")
		want(t, got, 504, `{"errorCode":"DEADLINE_EXCEEDED"`)
		wantHeader(t, got.Header, "farcall-attempts", "1", "farcall-strategy", "local-first", "farcall-served-by", "west/cart-1")
		if s := a.plan.said(); s != "cart-1 late" {
			t.Errorf("told the router %q", s)
		}
		// A body that does not come in time is late as well.
		r, w := io.Pipe()
		defer w.Close()
		req, _ := http.NewRequestWithContext(testkit.Context(t), "POST", a.url+"/m", r)
		req.ContentLength = 10
		req.Header.Set("dapr-app-id", "cart")
		req.Header.Set("farcall-timeout", "50ms")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != 504 {
			t.Errorf("got %d", resp.StatusCode)
		}
	})
}

// TestCallerGoes says that a caller that hangs up ends its call at the application.
func TestCallerGoes(t *testing.T) {
	began, ended := make(chan bool), make(chan bool)
	bothLegs(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		began <- true
		<-r.Context().Done()
		ended <- true
	}, func(t *testing.T, a *callerAgent) {
		ctx, cancel := context.WithCancel(testkit.Context(t))
		req, _ := http.NewRequestWithContext(ctx, "POST", a.url+"/m", strings.NewReader("x"))
		req.Header.Set("dapr-app-id", "cart")
		gone := make(chan error, 1)
		go func() {
			_, err := client.Do(req)
			gone <- err
		}()
		<-began
		cancel()
		<-ended
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		testkit.Eventually(t, testkit.Context(t), "the router hears of it", func() error {
			if s := a.plan.said(); s != "cart-1 abandoned" {
				return fmt.Errorf("told the router %q", s)
			}
			return nil
		})
	})
}

// dying is an application that reads a request's head and hangs up, after say has been said.
func dying(t *testing.T, say string) (e app.Endpoint, calls func() int) {
	t.Helper()
	l := listen(t)
	count := make(chan int, 1)
	count <- 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				count <- <-count + 1
				_, _ = io.WriteString(c, say)
			}
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return endpoint(t, l.Addr(), app.HTTP), func() int { n := <-count; count <- n; return n }
}

// TestApplicationDies says what is tried again when an application dies, and what is not.
func TestApplicationDies(t *testing.T) {
	for _, local := range []bool{false, true} {
		for _, c := range []struct {
			verb     string
			status   int
			attempts string
		}{{"POST", 502, "1"}, {"PUT", 502, "1"}, {"GET", 200, "2"}, {"HEAD", 200, "2"}, {"OPTIONS", 200, "2"}} {
			t.Run(fmt.Sprintf("%s local=%v", c.verb, local), func(t *testing.T) {
				e, calls := dying(t, "")
				bad, good := newPeerAgent(t, "west", "bad", e), newPeerAgent(t, "west", "good", application(t, echo))
				first := bad.target()
				if local {
					first = bad.local()
				}
				a := newCallerAgent(t, &plan{targets: []relay.Target{first, good.target()}})
				got := call(t, c.verb, a.url+"/m", nil, "dapr-app-id", "cart")
				want(t, got, c.status, "")
				wantHeader(t, got.Header, "farcall-attempts", c.attempts)
				if calls() != 1 {
					t.Errorf("called %d times", calls())
				}
				if c.status == 502 {
					want(t, got, 502, `{"errorCode":"OUTCOME_UNKNOWN"`)
					if s := a.plan.said(); s != "bad lost" {
						t.Errorf("told the router %q", s)
					}
				}
			})
		}
	}
}

// TestCutShort says that half an answer never passes for a whole one.
func TestCutShort(t *testing.T) {
	for _, say := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 50_000),
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
	} {
		for _, local := range []bool{false, true} {
			e, calls := dying(t, say)
			p := newPeerAgent(t, "west", "cart-1", e)
			target := p.target()
			if local {
				target = p.local()
			}
			a := newCallerAgent(t, &plan{targets: []relay.Target{target, nobody(t, "other")}})
			got := call(t, "GET", a.url+"/m", nil, "dapr-app-id", "cart")
			if got.err == nil || calls() != 1 {
				t.Errorf("local=%v: got %d with %d bytes as whole, after %d calls", local, got.StatusCode, len(got.body), calls())
			}
			testkit.Eventually(t, testkit.Context(t), "the router hears of it", func() error {
				if s := a.plan.said(); s != "cart-1 lost" {
					return fmt.Errorf("told the router %q", s)
				}
				return nil
			})
		}
	}
}

// TestRetriesElsewhere says that what was certainly not executed is tried elsewhere, whatever the
// method, and for three attempts in all.
func TestRetriesElsewhere(t *testing.T) {
	good := newPeerAgent(t, "west", "good", application(t, echo))
	down := nobody(t, "x").Dial
	host, port, _ := net.SplitHostPort(down)
	_ = host
	deaf := newPeerAgent(t, "west", "deaf", app.Endpoint{Address: "127.0.0.1", Port: atoi(t, port)})
	wrong := good.target()
	wrong.Instance = nobody(t, "not-there").Instance
	drained := newPeerAgent(t, "west", "drained", application(t, echo))
	drained.peer.BeginDrain()
	killed := newPeerAgent(t, "west", "killed", application(t, echo))

	for _, c := range []struct {
		what     string
		targets  []relay.Target
		status   int
		attempts string
		said     string
	}{
		{"peer refuses the connection", []relay.Target{nobody(t, "a"), good.target()}, 200, "2", "a not_executed, good served"},
		{"application refuses the connection", []relay.Target{deaf.target(), good.target()}, 200, "2", "deaf refused, good served"},
		{"own application refuses the connection", []relay.Target{deaf.local(), good.target()}, 200, "2", "deaf refused, good served"},
		{"wrong target", []relay.Target{wrong, good.target()}, 200, "2", "not-there refused, good served"},
		{"draining", []relay.Target{drained.target(), good.target()}, 200, "2", "drained draining, good served"},
		{"two in a row", []relay.Target{drained.target(), nobody(t, "a"), good.target()}, 200, "3", "drained draining, a not_executed, good served"},
		{"three in a row", []relay.Target{drained.target(), nobody(t, "a"), wrong, good.target()}, 503, "3", "drained draining, a not_executed, not-there refused"},
		{"nothing else", []relay.Target{drained.target()}, 503, "1", "drained draining"},
		{"nothing at all", nil, 503, "0", ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			a := newCallerAgent(t, &plan{targets: c.targets})
			got := call(t, "POST", a.url+"/m", strings.NewReader("hi"), "dapr-app-id", "cart")
			want(t, got, c.status, "")
			wantHeader(t, got.Header, "farcall-attempts", c.attempts, "farcall-strategy", "local-first")
			if s := a.plan.said(); s != c.said {
				t.Errorf("told the router %q", s)
			}
		})
	}
	t.Run("a peer that was killed after a call", func(t *testing.T) {
		p := &plan{targets: []relay.Target{killed.target()}}
		a := newCallerAgent(t, p)
		want(t, call(t, "POST", a.url+"/m", strings.NewReader("hi"), "dapr-app-id", "cart"), 200, "hi")
		killed.peer.server.Stop()
		p.said()
		p.mu.Lock()
		p.targets = []relay.Target{killed.target(), good.target()}
		p.mu.Unlock()
		testkit.Eventually(t, testkit.Context(t), "the call goes elsewhere", func() error {
			got := call(t, "POST", a.url+"/m", strings.NewReader("hi"), "dapr-app-id", "cart")
			if got.StatusCode != 200 || got.Header.Get("farcall-served-by") != "west/good" {
				return fmt.Errorf("got %d by %s", got.StatusCode, got.Header.Get("farcall-served-by"))
			}
			return nil
		})
	})
	t.Run("a streamed body that nobody touched", func(t *testing.T) {
		a := newCallerAgent(t, &plan{targets: []relay.Target{nobody(t, "a"), good.target()}})
		got := call(t, "POST", a.url+"/m", struct{ io.Reader }{strings.NewReader("streamed")}, "dapr-app-id", "cart")
		want(t, got, 200, "streamed")
		wantHeader(t, got.Header, "farcall-attempts", "2")
	})
}

// TestUnknownOutlivesRefusal says that a call that may have been executed is never reported as one
// that was not, whatever became of its later attempts.
func TestUnknownOutlivesRefusal(t *testing.T) {
	e, _ := dying(t, "")
	bad := newPeerAgent(t, "west", "bad", e)
	a := newCallerAgent(t, &plan{targets: []relay.Target{bad.target(), nobody(t, "other")}})
	got := call(t, "GET", a.url+"/m", nil, "dapr-app-id", "cart")
	want(t, got, 502, "OUTCOME_UNKNOWN")
	wantHeader(t, got.Header, "farcall-attempts", "2")
}
