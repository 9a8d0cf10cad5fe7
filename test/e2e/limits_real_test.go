//go:build real && linux

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/farcall/farcall/internal/testkit"
)

const (
	mebi = 1 << 20
	gibi = 1 << 30
)

// pattern is what large bodies are made of, over and over.
var pattern = func() []byte {
	b := make([]byte, mebi)
	fill := rand.NewChaCha8([32]byte{3})
	_, _ = fill.Read(b) // never fails
	return b
}()

// castagnoli makes sums that cost next to nothing.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// patterns is a body of so many bytes.
type patterns struct {
	left int64
	read atomic.Int64
}

func (p *patterns) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	from := int(p.read.Load() % mebi)
	n := copy(b[:min(int64(len(b)), p.left)], pattern[from:])
	p.left -= int64(n)
	p.read.Add(int64(n))
	return n, nil
}

// sum reads a body to its end, and gives its length and its sum in words.
func sum(r io.Reader) (string, error) {
	h := crc32.New(castagnoli)
	n, err := io.Copy(h, r)
	return fmt.Sprintf("%d %x", n, h.Sum32()), err
}

// bulk is an application that takes and gives large bodies.
type bulk struct {
	down atomic.Int64  // how much of an answer was written
	goOn chan struct{} // what /slow waits for before it reads
}

// ServeHTTP implements http.Handler.
func (a *bulk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/slow":
		<-a.goOn
		fallthrough
	case "/sum":
		if s, err := sum(r.Body); err == nil {
			fmt.Fprint(w, s)
		}
	case "/down":
		size, err := strconv.ParseInt(r.URL.Query().Get("size"), 10, 64)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if r.URL.Query().Has("length") {
			w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		}
		body := &patterns{left: size}
		buf := make([]byte, 64<<10)
		for {
			n, err := body.Read(buf)
			if err != nil {
				return
			}
			if _, err := w.Write(buf[:n]); err != nil {
				return // the caller is gone
			}
			a.down.Add(int64(n))
		}
	}
}

// bytesCodec carries a gRPC message as it is. It copies it, since gRPC keeps what it sends for
// longer than SendMsg lasts.
type bytesCodec struct{}

func (bytesCodec) Marshal(v any) ([]byte, error) { return bytes.Clone(*v.(*[]byte)), nil }
func (bytesCodec) Unmarshal(b []byte, v any) error {
	*v.(*[]byte) = append((*v.(*[]byte))[:0], b...)
	return nil
}
func (bytesCodec) Name() string { return "proto" }

// serveEcho runs a gRPC application that says every message back, and gives its port.
func serveEcho(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.ForceServerCodec(bytesCodec{}), grpc.UnknownServiceHandler(func(_ any, st grpc.ServerStream) error {
		var b []byte
		for {
			if err := st.RecvMsg(&b); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			if err := st.SendMsg(&b); err != nil {
				return err
			}
		}
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().(*net.TCPAddr).Port
}

// peak gives the most memory that a process ever had, in bytes.
func peak(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), "VmHWM:")
	n, err := strconv.ParseInt(strings.Fields(after + " ?")[0], 10, 64)
	if err != nil {
		t.Fatalf("no VmHWM in %s", b)
	}
	return n << 10
}

// loaded is a federation of two agents with the applications bulk and echo in west.
type loaded struct {
	*world
	app *bulk
}

// within runs a test, and fails it where an agent came to need more than so much memory for it.
func (l *loaded) within(t *testing.T, name string, most int64, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		before := map[string]int64{}
		for name, c := range l.clusters {
			before[name] = peak(t, c.agent.Pid())
		}
		f(t)
		for name, c := range l.clusters {
			grown := peak(t, c.agent.Pid()) - before[name]
			t.Logf("the agent of %s grew by %d MiB, from %d", name, grown/mebi, before[name]/mebi)
			if grown > most {
				t.Errorf("the agent of %s grew by %d MiB, more than %d", name, grown/mebi, most/mebi)
			}
		}
	})
}

func (l *loaded) call(t *testing.T, method, path string, body io.Reader, length int64) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(l.ctx, method, "http://"+l.clusters["east"].http+"/v1.0/invoke/bulk/method/"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = length
	resp, err := l.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// sums checks what is read, to its end, from a body.
func sums(t *testing.T, what string, r io.ReadCloser, want string) {
	t.Helper()
	defer r.Close()
	if got, err := sum(r); err != nil || got != want {
		t.Errorf("%s: got %s, %v, want %s", what, got, err, want)
	}
}

// words checks an answer of words.
func words(t *testing.T, what string, resp *http.Response, want string) {
	t.Helper()
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != want {
		t.Errorf("%s: got %d %.200s, %v, want %s", what, resp.StatusCode, b, err, want)
	}
}

// stands waits until a count stands still, and checks that it does so below most.
func (l *loaded) stands(t *testing.T, what string, n *atomic.Int64, most int64) {
	t.Helper()
	last, same := int64(-1), 0
	testkit.Eventually(t, l.ctx, what+" stands still", func() error {
		if now := n.Load(); now == 0 || now != last {
			last, same = now, 0
		}
		if same++; same < 50 {
			return fmt.Errorf("%d bytes", last)
		}
		return nil
	})
	if last > most {
		t.Errorf("%s: %d bytes were taken that nobody reads", what, last)
	}
}

// TestRealLargeBodies moves bodies of 1 GiB, and many at once, over both agents. They need no more
// memory for it than the windows of their connections.
func TestRealLargeBodies(t *testing.T) {
	dir := t.TempDir()
	build := exec.CommandContext(testkit.Context(t), "go", "build", "-o", dir, "./cmd/agent")
	build.Dir = testkit.Root(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// The race detector needs memory of its own for all that passes by.
	w := newWorld(t, options{program: filepath.Join(dir, "agent"), apps: "apps: [{id: echo, protocol: grpc}]\n"}, "east", "west")
	l := &loaded{w, &bulk{goOn: make(chan struct{})}}
	reg := w.clusters["west"].registry.(*fileRegistry)
	reg.addService("bulk", "bulk-1", serveApp(t, l.app, nil), "west-1")
	reg.addService("echo", "echo-1", serveEcho(t), "west-1")
	w.ready("bulk/method/ready")
	want := func(n int64) string {
		s, err := sum(&patterns{left: n})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	whole := want(gibi)
	l.within(t, "1 GiB up", 64*mebi, func(t *testing.T) {
		words(t, "known length", l.call(t, http.MethodPost, "sum", &patterns{left: gibi}, gibi), whole)
	})
	l.within(t, "1 GiB up in chunks", 64*mebi, func(t *testing.T) {
		words(t, "unknown length", l.call(t, http.MethodPost, "sum", &patterns{left: gibi}, -1), whole)
	})
	l.within(t, "1 GiB down", 64*mebi, func(t *testing.T) {
		sums(t, "known length", l.call(t, http.MethodGet, fmt.Sprintf("down?length&size=%d", gibi), nil, 0).Body, whole)
	})
	l.within(t, "1 GiB down in chunks", 64*mebi, func(t *testing.T) {
		sums(t, "unknown length", l.call(t, http.MethodGet, fmt.Sprintf("down?size=%d", gibi), nil, 0).Body, whole)
	})
	l.within(t, "1 GiB both ways over gRPC", 64*mebi, func(t *testing.T) { l.echo(t, gibi) })
	l.within(t, "a reader that waits", 64*mebi, func(t *testing.T) {
		l.app.down.Store(0)
		resp := l.call(t, http.MethodGet, fmt.Sprintf("down?size=%d", gibi/4), nil, 0)
		l.stands(t, "the answer", &l.app.down, 64*mebi)
		sums(t, "in the end", resp.Body, want(gibi/4))
	})
	l.within(t, "an application that waits", 64*mebi, func(t *testing.T) {
		body := &patterns{left: gibi / 4}
		answered := make(chan *http.Response, 1)
		go func() { answered <- l.call(t, http.MethodPost, "slow", body, gibi/4) }()
		l.stands(t, "the request", &body.read, 64*mebi)
		l.app.goOn <- struct{}{}
		words(t, "in the end", <-answered, want(gibi/4))
	})
	l.within(t, "50 at once", 192*mebi, func(t *testing.T) {
		part := want(32 * mebi)
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				if i%2 == 0 {
					words(t, "up", l.call(t, http.MethodPost, "sum", &patterns{left: 32 * mebi}, 32*mebi), part)
				} else {
					sums(t, "down", l.call(t, http.MethodGet, fmt.Sprintf("down?size=%d", 32*mebi), nil, 0).Body, part)
				}
			})
		}
		wg.Wait()
	})
}

// echo sends so many bytes in messages of 64 KiB over a proxied stream, and reads them back.
func (l *loaded) echo(t *testing.T, size int64) {
	t.Helper()
	conn, err := grpc.NewClient(l.clusters["east"].grpc, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(l.ctx, "dapr-app-id", "echo"))
	defer cancel()
	st, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/e2e.Bytes/Echo")
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		body := &patterns{left: size}
		buf := make([]byte, 64<<10)
		for {
			n, err := body.Read(buf)
			if err == io.EOF {
				sent <- st.CloseSend()
				return
			}
			part := buf[:n]
			if err := st.SendMsg(&part); err != nil {
				sent <- err
				return
			}
		}
	}()
	h := crc32.New(castagnoli)
	n := int64(0)
	var b []byte
	for {
		if err = st.RecvMsg(&b); err != nil {
			break
		}
		_, _ = h.Write(b) // never fails
		n += int64(len(b))
	}
	want, _ := sum(&patterns{left: size})
	if got := fmt.Sprintf("%d %x", n, h.Sum32()); got != want || err != io.EOF {
		t.Errorf("got %s back, %v, want %s", got, err, want)
	}
	cancel()
	if err := <-sent; err != nil && !errors.Is(err, io.EOF) {
		t.Errorf("sending: %v", err)
	}
}
