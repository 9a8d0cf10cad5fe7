package face

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/test/bufconn"

	"github.com/farcall/farcall/agent/app"
	"github.com/farcall/farcall/internal/testkit"
)

// peerConn is a bare connection to an agent, on which a peer says what it likes, and when. It
// answers the agent's own pings, as every peer does.
type peerConn struct {
	conn   net.Conn
	framer *http2.Framer

	mu    sync.Mutex
	pings int    // that were answered
	ended string // how the agent ended the connection; empty: it has not
}

func newPeerConn(t *testing.T, l *bufconn.Listener) *peerConn {
	t.Helper()
	conn, err := l.DialContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := &peerConn{conn: conn, framer: http2.NewFramer(conn, conn)}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

// read takes in what the agent says until the connection ends.
func (c *peerConn) read() {
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			return
		}
		c.mu.Lock()
		switch f := f.(type) {
		case *http2.PingFrame:
			if f.IsAck() {
				c.pings++
			} else {
				_ = c.framer.WritePing(true, f.Data) // the end of the connection is read
			}
		case *http2.GoAwayFrame:
			if c.ended == "" {
				c.ended = strings.TrimSpace(f.ErrCode.String() + " " + string(f.DebugData()))
			}
		}
		c.mu.Unlock()
	}
}

func (c *peerConn) ping() {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.framer.WritePing(false, [8]byte{1}) // the end of the connection is read
}

func (c *peerConn) state() (pings int, ended string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pings, c.ended
}

// TestKeepalive says how often a peer may ask whether an agent is there, without a call: as often
// as a daprd does, which is every 10 s, and not all the time; and that a connection without a call
// ends after three minutes, in peace.
func TestKeepalive(t *testing.T) {
	for _, c := range []struct {
		what  string
		every time.Duration // 0: never
		count int
		wait  time.Duration // afterwards
		ended string
	}{
		{"as a daprd", 10 * time.Second, 17, 0, ""},
		{"a little more often", 8500 * time.Millisecond, 20, 0, ""},
		{"too eagerly", time.Second, 30, 0, "ENHANCE_YOUR_CALM too_many_pings"},
		{"a quiet one", 0, 0, 2*time.Minute + 50*time.Second, ""},
		{"a quiet one, for long", 0, 0, 3*time.Minute + 10*time.Second, "NO_ERROR max_idle"},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				apps := app.New()
				p, err := NewPeer(Config{Cluster: "west", Node: "node-2"}, PeerDeps{Own: own{}, Apps: apps, Metrics: prometheus.NewRegistry()})
				if err != nil {
					t.Fatal(err)
				}
				l := bufconn.Listen(64 << 10)
				ctx, cancel := context.WithCancel(t.Context())
				var all sync.WaitGroup
				all.Go(func() {
					if err := p.Run(ctx, l); err != nil {
						t.Error(err)
					}
				})
				peer := newPeerConn(t, l)
				all.Go(peer.read)
				for range c.count {
					time.Sleep(c.every)
					peer.ping()
				}
				time.Sleep(c.wait)
				synctest.Wait()
				pings, ended := peer.state()
				if ended != c.ended || ended == "" && pings != c.count {
					t.Errorf("after %d pings, %d of them answered, the connection was ended by %q, want %q", c.count, pings, ended, c.ended)
				}
				peer.conn.Close()
				cancel()
				all.Wait()
				apps.Close()
			})
		})
	}
}

// TestEventsOnTheWire says that on Dapr's wire each event of a stream arrives when it is sent.
func TestEventsOnTheWire(t *testing.T) {
	next := make(chan string)
	bothListeners(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") != "text/event-stream" {
			t.Errorf("the application got %v", r.Header)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for event := range next {
			_, _ = io.WriteString(w, event)
			_ = http.NewResponseController(w).Flush()
			if event == "data: 2\n\n" {
				return
			}
		}
	}, func(t *testing.T, addr string) {
		st, err := sidecar(t, addr).CallLocalStream(testkit.Context(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Send(&reqMsg{Request: leading("x", with("Accept", "text/event-stream", "Content-Length", "0"))}); err != nil {
			t.Fatal(err)
		}
		if err := st.CloseSend(); err != nil {
			t.Fatal(err)
		}
		for i := 1; i <= 2; i++ {
			event := fmt.Sprintf("data: %d\n\n", i)
			next <- event
			for got := ""; got != event; {
				m, err := st.Recv()
				if err != nil || !strings.HasPrefix(event, got+string(m.GetPayload().GetData())) {
					t.Fatalf("got %q and then %v, %v", got, m, err)
				}
				got += string(m.GetPayload().GetData())
			}
		}
		if _, err := st.Recv(); err != io.EOF {
			t.Errorf("got %v", err)
		}
	})
}
