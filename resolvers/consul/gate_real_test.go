//go:build real

package consul

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// gate stands between a Resolver and Consul, to break it and to make it hang. It also counts
// connections.
type gate struct {
	consul    string
	transport *http.Transport

	mu       sync.Mutex
	broken   bool
	hanging  chan struct{}      // closed when it hangs no more; nil when it does not hang
	current  context.Context    // ends at each change, and ends the requests under way
	end      context.CancelFunc // of current
	conns    map[net.Conn]bool
	maxConns int
}

// gateTo starts a gate to a Consul and gives its address.
func gateTo(t testing.TB, consul string) (*gate, string) {
	t.Helper()
	g := &gate{consul: consul, transport: &http.Transport{MaxIdleConnsPerHost: 50}, conns: map[net.Conn]bool{}}
	g.current, g.end = context.WithCancel(context.Background())
	srv := httptest.NewUnstartedServer(g)
	srv.Config.ConnState = g.count
	srv.Start()
	t.Cleanup(func() {
		g.set(func() { g.broken, g.hanging = true, nil })
		srv.Close()
		g.transport.CloseIdleConnections()
		g.end()
	})
	return g, srv.Listener.Addr().String()
}

// count is the server's ConnState.
func (g *gate) count(c net.Conn, s http.ConnState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s == http.StateClosed || s == http.StateHijacked {
		delete(g.conns, c)
	} else {
		g.conns[c] = true
	}
	g.maxConns = max(g.maxConns, len(g.conns))
}

// set changes what the gate does, also to the requests under way.
func (g *gate) set(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
	g.end()
	g.current, g.end = context.WithCancel(context.Background())
}

func (g *gate) breakIt(testing.TB) (mend func()) {
	g.set(func() { g.broken = true })
	return func() { g.set(func() { g.broken = false }) }
}

func (g *gate) hang(testing.TB) (release func()) {
	released := make(chan struct{})
	g.set(func() { g.hanging = released })
	return func() { g.set(func() { close(released); g.hanging = nil }) }
}

func (g *gate) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	for req.Context().Err() == nil {
		g.mu.Lock()
		broken, hanging, current := g.broken, g.hanging, g.current
		g.mu.Unlock()
		if broken {
			http.Error(w, "broken by the test", http.StatusInternalServerError)
			return
		}
		if hanging != nil {
			select {
			case <-hanging:
			case <-req.Context().Done():
			}
			continue
		}
		if g.forward(w, req, current) {
			return
		}
	}
}

// forward asks Consul, unless the gate changes meanwhile.
func (g *gate) forward(w http.ResponseWriter, req *http.Request, current context.Context) (answered bool) {
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel()
	defer context.AfterFunc(current, cancel)()
	out := req.Clone(ctx)
	out.URL.Scheme, out.URL.Host, out.RequestURI = "http", g.consul, ""
	resp, err := g.transport.RoundTrip(out)
	if err != nil {
		if current.Err() != nil {
			return false
		}
		http.Error(w, err.Error(), http.StatusBadGateway)
		return true
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || current.Err() != nil {
		return false
	}
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(body) // whoever asked may be gone
	return true
}
