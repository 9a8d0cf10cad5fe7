package face

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/internal/testkit"
)

// witness is an application that writes down each call as it came, and whether its body was whole.
type witness struct {
	mu    sync.Mutex
	calls []string
}

func (w *witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	whole := "whole"
	if err != nil {
		whole = "torn"
	}
	var odd []string
	for k, v := range r.Header {
		if strings.HasPrefix(k, "X-") && !strings.HasPrefix(k, "X-Forwarded-") || k == "Connection" || k == "Upgrade" || k == "Te" || k == "Expect" {
			odd = append(odd, fmt.Sprintf("%s=%q", k, v))
		}
	}
	w.mu.Lock()
	w.calls = append(w.calls, fmt.Sprintf("%s %s %d %q %s %d %v", r.Method, r.RequestURI, r.ContentLength, strings.Join(r.TransferEncoding, ","), whole, len(b), odd))
	w.mu.Unlock()
	rw.Header().Set("Content-Type", "text/plain")
	fmt.Fprint(rw, "served")
}

func (w *witness) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	calls := w.calls
	w.calls = nil
	return calls
}

// whole is take without the calls whose bodies were torn: a body that goes wrong on its way may or
// may not have reached the application before.
func (w *witness) whole() []string {
	return slices.DeleteFunc(w.take(), func(c string) bool { return strings.Contains(c, " torn ") })
}

// say writes raw bytes to a server, and gives what it answers until it ends the connection, or
// until until stands in it.
func say(t *testing.T, addr, text, until string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		return "" // it ended the connection before it had heard all
	}
	var out strings.Builder
	buf := make([]byte, 4096)
	for until == "" || !strings.Contains(out.String(), until) {
		n, err := c.Read(buf)
		out.Write(buf[:n])
		if err != nil {
			break
		}
	}
	return out.String()
}

const to = " HTTP/1.1\r\nHost: h\r\ndapr-app-id: cart\r\n"

// TestOddRequests says what becomes of requests that two servers could read in two ways: they are
// refused, or reach the application as one call in one form.
func TestOddRequests(t *testing.T) {
	w := &witness{}
	p := newPeerAgent(t, "west", "cart-1", application(t, w.ServeHTTP))
	a := newCallerAgent(t, &plan{targets: []relay.Target{p.target()}})
	addr := strings.TrimPrefix(a.url, "http://")
	const served = "served"
	for _, c := range []struct {
		what, text string
		answer     string // how the answer begins; empty: there is none
		calls      string // what the application saw
	}{
		{"a length and chunks", "POST /x" + to + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "HTTP/1.1 200", `POST /x -1 "chunked" whole 5 []`},
		{"two lengths", "POST /x" + to + "Content-Length: 3\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 400", ""},
		{"the same length twice", "POST /x" + to + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200", `POST /x 5 "" whole 5 []`},
		{"a list of lengths", "POST /x" + to + "Content-Length: 5, 5\r\n\r\nhello", "HTTP/1.1 400", ""},
		{"a length with a sign", "POST /x" + to + "Content-Length: +5\r\n\r\nhello", "HTTP/1.1 400", ""},
		{"a negative length", "POST /x" + to + "Content-Length: -5\r\n\r\nhello", "HTTP/1.1 400", ""},
		{"an empty length", "POST /x" + to + "Content-Length: \r\n\r\nhello", "HTTP/1.1 400", ""},
		{"a blank before the colon", "POST /x" + to + "Content-Length : 5\r\n\r\nhello", "HTTP/1.1 400", ""},
		{"an unknown coding", "POST /x" + to + "Transfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "HTTP/1.1 501", ""},
		{"two codings", "POST /x" + to + "Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "HTTP/1.1 501", ""},
		{"chunked twice", "POST /x" + to + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "HTTP/1.1 501", ""},
		{"chunked in a folded line", "POST /x" + to + "X-A: 1\r\n Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200", `POST /x 2 "" whole 2 [X-A=["1 Transfer-Encoding: chunked"]]`},
		{"a folded first line", "GET /x HTTP/1.1\r\n Host: h\r\n\r\n", "HTTP/1.1 400", ""},
		{"a chunk's length that is none", "POST /x" + to + "Transfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n", "HTTP/1.1 400", ""},
		{"a chunk's length beyond all", "POST /x" + to + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n", "HTTP/1.1 400", ""},
		{"an extension of a chunk", "POST /x" + to + "Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n", "HTTP/1.1 200", `POST /x -1 "chunked" whole 5 []`},
		{"a trailer", "POST /x" + to + "Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n", "HTTP/1.1 200", `POST /x -1 "chunked" whole 5 []`},
		{"more than its length", "POST /x" + to + "Content-Length: 2\r\n\r\nhello", "HTTP/1.1 200", `POST /x 2 "" whole 2 []`},
		{"NUL in a header", "GET /x" + to + "X-A: a\x00b\r\n\r\n", "HTTP/1.1 400", ""},
		{"a bare CR in a header", "GET /x" + to + "X-A: a\rX-B: b\r\n\r\n", "HTTP/1.1 400", ""},
		{"no host", "GET /x HTTP/1.1\r\ndapr-app-id: cart\r\n\r\n", "HTTP/1.1 400", ""},
		{"two hosts", "GET /x" + to + "Host: i\r\n\r\n", "HTTP/1.1 400", ""},
		{"HTTP/1.0", "GET /x HTTP/1.0\r\ndapr-app-id: cart\r\n\r\n", "HTTP/1.0 200", `GET /x 0 "" whole 0 []`},
		{"HTTP/1.0 in chunks", "POST /x HTTP/1.0\r\ndapr-app-id: cart\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "HTTP/1.0 200", `POST /x 0 "" whole 0 []`},
		{"HTTP/3.0", "GET /x HTTP/3.0\r\nHost: h\r\n\r\n", "HTTP/1.1 505", ""},
		{"a blank in the target", "GET /x y" + to + "\r\n", "HTTP/1.1 400", ""},
		{"a hash in the query", "GET /x?a#b" + to + "\r\n", "HTTP/1.1 400", ""},
		{"absolute form", "GET http://elsewhere.example/x?y" + to + "\r\n", "HTTP/1.1 200", `GET /x?y 0 "" whole 0 []`},
		{"authority form", "CONNECT elsewhere.example:443" + to + "\r\n", "HTTP/1.1 400", ""},
		{"CONNECT with a path", "CONNECT /x" + to + "\r\n", "HTTP/1.1 400", ""},
		{"TRACE", "TRACE /x" + to + "\r\n", "HTTP/1.1 200", `TRACE /x 0 "" whole 0 []`},
		{"asterisk form", "GET *" + to + "\r\n", "HTTP/1.1 200", `GET /* 0 "" whole 0 []`},
		{"no slash", "GET x" + to + "\r\n", "HTTP/1.1 400", ""},
		{"two slashes", "GET //x//y" + to + "\r\n", "HTTP/1.1 200", `GET /x/y 0 "" whole 0 []`},
		{"hop by hop", "GET /x" + to + "Connection: close, X-Mine\r\nX-Mine: 1\r\nX-Kept: 2\r\nTE: trailers\r\n\r\n", "HTTP/1.1 200", `GET /x 0 "" whole 0 [X-Kept=["2"]]`},
		{"an upgrade", "GET /x" + to + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n", "HTTP/1.1 200", `GET /x 0 "" whole 0 []`},
		{"an upgrade to HTTP/2", "GET /x" + to + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAA\r\n\r\n", "HTTP/1.1 200", `GET /x 0 "" whole 0 []`},
		{"names with underscores", "GET /x" + to + "Dapr_Caller_App_Id: admin\r\nfarcall_hop: 1\r\nX_A: 1\r\n\r\n", "HTTP/1.1 200", `GET /x 0 "" whole 0 []`},
		{"another expectation", "POST /x" + to + "Expect: miracle\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 417", ""},
		{"two applications", "GET /x" + to + "dapr-app-id: other\r\n\r\n", "HTTP/1.1 200", `GET /x 0 "" whole 0 []`},
		{"headers of 64 MiB", "GET /x" + to + "X-A: " + strings.Repeat("a", 64<<20) + "\r\n\r\n", "", ""},
		{"headers of 256 KiB", "GET /x" + to + "X-A: " + strings.Repeat("a", 256<<10) + "\r\n\r\n", "HTTP/1.1 431", ""},
		{"a target of 256 KiB", "GET /" + strings.Repeat("a", 256<<10) + to + "\r\n", "HTTP/1.1 431", ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			text := c.text
			if !strings.Contains(text, "Connection: ") {
				text = strings.Replace(text, to, to+"Connection: close\r\n", 1)
			}
			got := say(t, addr, text, served)
			if !strings.HasPrefix(got, c.answer) && !(c.answer == "HTTP/1.1 431" && got == "") {
				t.Errorf("got %.200q, want %s", got, c.answer)
			}
			if calls := strings.Join(w.whole(), "; "); calls != c.calls {
				t.Errorf("the application saw %s, want %s", calls, c.calls)
			}
		})
	}
	// Nothing of all that has spoilt the server.
	want(t, call(t, "GET", a.url+"/x", nil, "dapr-app-id", "cart"), 200, served)
}

// TestExpectContinue says that a body that waits to be asked for is asked for when somebody wants
// it, and not where nobody does.
func TestExpectContinue(t *testing.T) {
	w := &witness{}
	bothLegs(t, w.ServeHTTP, func(t *testing.T, a *callerAgent) {
		for _, framing := range []string{"Content-Length: 5\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"} {
			c, err := net.Dial("tcp", strings.TrimPrefix(a.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			in := bufio.NewReader(c)
			head := "POST /x" + to + "Expect: 100-continue\r\n" + framing
			if _, err := io.WriteString(c, head); err != nil {
				t.Fatal(err)
			}
			if line, err := in.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
				t.Fatalf("got %q, %v", line, err)
			}
			body := "hello"
			if strings.HasPrefix(framing, "Transfer") {
				body = "5\r\nhello\r\n0\r\n\r\n"
			}
			if _, err := io.WriteString(c, body); err != nil {
				t.Fatal(err)
			}
			_, _ = in.ReadString('\n') // the empty line after 100
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if calls := w.take(); resp.StatusCode != 200 || len(calls) != 1 || !strings.Contains(calls[0], "whole 5 []") {
				t.Errorf("%q: %d, the application saw %v", framing, resp.StatusCode, calls)
			}
		}
		got := say(t, strings.TrimPrefix(a.url, "http://"), "POST /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", "app id")
		if !strings.HasPrefix(got, "HTTP/1.1 404") {
			t.Errorf("a call of nobody: %q", got)
		}
	})
}

// TestOddAnswers says what a caller gets of answers that are none, or that end too soon.
func TestOddAnswers(t *testing.T) {
	for _, c := range []struct {
		what, verb, say string
		status          int // 0: the answer is cut off
		body            string
	}{
		{"a body after HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, ""},
		{"a body after 204", "GET", "HTTP/1.1 204 No Content\r\n\r\nhello", 204, ""},
		{"a length after 204", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", 204, ""},
		{"a body after 304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello", 304, ""},
		{"news first", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, "hi"},
		{"nothing but news", "POST", "HTTP/1.1 103 Early Hints\r\n\r\n", 502, "OUTCOME_UNKNOWN"},
		{"protocols switched unasked", "POST", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhello", 502, "OUTCOME_UNKNOWN"},
		{"a status beyond all", "POST", "HTTP/1.1 1000 Odd\r\n\r\n", 502, "OUTCOME_UNKNOWN"},
		{"a status below all", "POST", "HTTP/1.1 099 Odd\r\n\r\n", 502, "OUTCOME_UNKNOWN"},
		{"no HTTP", "POST", "SSH-2.0-x\r\n", 502, "OUTCOME_UNKNOWN"},
		{"two lengths", "POST", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi", 502, "OUTCOME_UNKNOWN"},
		{"an unknown coding", "POST", "HTTP/1.1 200 OK\r\nTransfer-Encoding: x\r\n\r\nhi", 502, "OUTCOME_UNKNOWN"},
		{"headers without end", "POST", "HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("a", 1<<20), 502, "OUTCOME_UNKNOWN"},
		{"a length and nothing", "POST", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Theirs: 1\r\n\r\n", 502, "OUTCOME_UNKNOWN"},
		{"a large length and nothing", "GET", "HTTP/1.1 201 OK\r\nContent-Length: 5000000\r\n\r\n", 502, "OUTCOME_UNKNOWN"},
		{"a length and half of it", "POST", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", 0, ""},
		{"chunks and no end", "POST", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 0, ""},
		{"chunks and nothing", "POST", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 0, ""},
		{"until the end", "POST", "HTTP/1.1 200 OK\r\n\r\nhello", 200, "hello"},
		{"more than its length", "POST", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhello", 200, "he"},
		{"headers that are the agent's", "POST", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nfarcall-served-by: a/lie\r\nConnection: X-Secret\r\nX-Secret: 1\r\n\r\nhi", 200, "hi"},
	} {
		for _, local := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, local=%v", c.what, local), func(t *testing.T) {
				e, calls := dying(t, c.say)
				p := newPeerAgent(t, "west", "cart-1", e)
				target := p.local()
				if !local {
					target = p.target()
				}
				a := newCallerAgent(t, &plan{targets: []relay.Target{target}})
				got, err := try(t, c.verb, a.url+"/m")
				if calls() != 1 {
					t.Errorf("the application was called %d times", calls())
				}
				if c.status == 0 {
					if err == nil && got.err == nil {
						t.Errorf("got %d with %q as whole", got.StatusCode, got.body)
					}
					return
				}
				if err != nil || got.err != nil {
					t.Fatalf("got %v, %v", err, got.err)
				}
				want(t, got, c.status, c.body)
				wantHeader(t, got.Header, "farcall-served-by", "west/cart-1", "X-Secret", "", "X-Theirs", "")
				if c.status == 502 {
					wantHeader(t, got.Header, "Content-Type", "application/json", "farcall-strategy", "local-first")
				}
			})
		}
	}
}

// try is call for one that may have no answer at all.
func try(t *testing.T, verb, url string, header ...string) (answer, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(testkit.Context(t), verb, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("dapr-app-id", "cart")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp, string(b), err}, nil
}

// TestAnswersHalfAndHangs says that a deadline ends an answer that does not go on: as an error where
// nothing of it was there yet, else by cutting it off.
func TestAnswersHalfAndHangs(t *testing.T) {
	ended := make(chan bool, 1)
	bothLegs(t, func(w http.ResponseWriter, r *http.Request) {
		defer func() { ended <- true }()
		w.Header().Set("Content-Length", "10")
		w.WriteHeader(http.StatusOK)
		if r.URL.Path == "/half" {
			_, _ = io.WriteString(w, "hello")
		}
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}, func(t *testing.T, a *callerAgent) {
		got := call(t, "POST", a.url+"/nothing", nil, "dapr-app-id", "cart", "farcall-timeout", "100ms")
		want(t, got, 504, "DEADLINE_EXCEEDED")
		<-ended
		if got, err := try(t, "POST", a.url+"/half", "farcall-timeout", "100ms"); err == nil && got.err == nil {
			t.Errorf("got %d with %q as whole", got.StatusCode, got.body)
		}
		<-ended
	})
}

// TestIdempotencyKeyIsNoLeave says that a header does not make anybody repeat a call that may have
// been executed.
func TestIdempotencyKeyIsNoLeave(t *testing.T) {
	for _, body := range []string{"", "hello"} {
		l := listen(t)
		count := make(chan int, 1)
		count <- 0
		testkit.Go(t, "application", func(context.Context) error { return serveOnce(l, count) })
		p := newPeerAgent(t, "west", "cart-1", endpoint(t, l.Addr(), app.HTTP))
		for _, target := range []relay.Target{p.local(), p.target()} {
			a := newCallerAgent(t, &plan{targets: []relay.Target{target}})
			<-count
			count <- 0
			post := func() answer {
				return call(t, "POST", a.url+"/m", strings.NewReader(body), "dapr-app-id", "cart", "Idempotency-Key", "1", "X-Idempotency-Key", "2")
			}
			want(t, post(), 200, "hi") // makes a connection that is used again
			want(t, post(), 502, "OUTCOME_UNKNOWN")
			n := <-count
			if count <- n; n != 2 {
				t.Errorf("%q: the application was called %d times, want 2", body, n)
			}
		}
		l.Close()
	}
}

// serveOnce answers the first call of each connection, and hangs up on the second.
func serveOnce(l net.Listener, count chan int) error {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		in := bufio.NewReader(c)
		for range 2 {
			r, err := http.ReadRequest(in)
			if err != nil {
				break
			}
			_, _ = io.ReadAll(r.Body)
			n := <-count + 1
			count <- n
			if n == 1 {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
			} else {
				break
			}
		}
		c.Close()
	}
}
