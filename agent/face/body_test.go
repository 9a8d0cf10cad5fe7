package face

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/testkit"
)

// TestBodies says that bodies of every size and form arrive whole, both ways.
func TestBodies(t *testing.T) {
	type sum struct {
		length int64
		coding string
	}
	seen := make(chan sum, 1)
	bothLegs(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- sum{r.ContentLength, strings.Join(r.TransferEncoding, ",")}
		echo(w, r)
	}, func(t *testing.T, a *callerAgent) {
		for _, c := range []struct {
			size  int
			known bool
		}{{0, true}, {1, true}, {1024, true}, {maxReplay, true}, {maxReplay + 1, true}, {10 << 20, true}, {1, false}, {100_000, false}, {10 << 20, false}} {
			data := make([]byte, c.size)
			_, _ = rand.Read(data)
			var body io.Reader = bytes.NewReader(data)
			expect := sum{length: int64(c.size)}
			if !c.known {
				body = struct{ io.Reader }{body}
				expect = sum{-1, "chunked"}
			}
			got := call(t, "POST", a.url+"/m", body, "dapr-app-id", "cart")
			if got.StatusCode != 200 || sha256.Sum256([]byte(got.body)) != sha256.Sum256(data) {
				t.Errorf("%d bytes: got %d with %d bytes (%v)", c.size, got.StatusCode, len(got.body), got.err)
			}
			if s := <-seen; s != expect {
				t.Errorf("%d bytes: the application saw %+v, want %+v", c.size, s, expect)
			}
		}
	})
}

// TestBoundedMemory streams 160 MiB each way, in lock step with what the heap holds meanwhile: the
// windows of the connections, which on a busy machine are all full, and no more.
func TestBoundedMemory(t *testing.T) {
	const size, most = 160 << 20, 80 << 20
	bothLegs(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	}, func(t *testing.T, a *callerAgent) {
		runtime.GC()
		var before, now runtime.MemStats
		runtime.ReadMemStats(&before)
		req, err := http.NewRequestWithContext(testkit.Context(t), "POST", a.url+"/m", io.LimitReader(zeros{}, size))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("dapr-app-id", "cart")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		buf := make([]byte, 1<<20)
		total, peak := 0, uint64(0)
		for {
			n, err := io.ReadFull(resp.Body, buf)
			if total += n; err != nil {
				break
			}
			if total%(16<<20) == 0 {
				runtime.GC()
				runtime.ReadMemStats(&now)
				peak = max(peak, now.HeapAlloc-min(now.HeapAlloc, before.HeapAlloc))
			}
		}
		if total != size || peak > most {
			t.Errorf("%d bytes came back, with %d on the heap", total, peak)
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestStreams says that headers and each event of a stream arrive when they are sent, not later.
func TestStreams(t *testing.T) {
	step := make(chan string)
	bothLegs(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		for event := range step {
			if event == "" {
				return
			}
			_, _ = io.WriteString(w, event)
			_ = http.NewResponseController(w).Flush()
		}
	}, func(t *testing.T, a *callerAgent) {
		req, err := http.NewRequestWithContext(testkit.Context(t), "GET", a.url+"/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("dapr-app-id", "cart")
		req.Header.Set("Accept", "text/event-stream")
		resp, err := client.Do(req) // returns although no event was sent yet
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		wantHeader(t, resp.Header, "Content-Type", "text/event-stream", "farcall-served-by", "west/cart-1")
		lines := bufio.NewReader(resp.Body)
		for _, event := range []string{"data: 1\n", "data: 2\n"} {
			step <- event
			if got, err := lines.ReadString('\n'); got != event || err != nil {
				t.Fatalf("got %q, %v", got, err)
			}
		}
		step <- ""
		if _, err := lines.ReadByte(); err != io.EOF {
			t.Errorf("got %v", err)
		}
	})
}

// TestEarlyAnswer says that an application may answer before it has read the body, and that the
// connection to the caller is of use afterwards or closed, but never stuck.
func TestEarlyAnswer(t *testing.T) {
	bothLegs(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(413)
		_, _ = w.Write(bytes.Repeat([]byte("x"), 100_000))
	}, func(t *testing.T, a *callerAgent) {
		r, w := io.Pipe()
		defer w.Close()
		got := call(t, "POST", a.url+"/m", r, "dapr-app-id", "cart") // the body never comes
		if got.StatusCode != 413 || len(got.body) != 100_000 {
			t.Errorf("got %d with %d bytes, %v", got.StatusCode, len(got.body), got.err)
		}
	})
}
