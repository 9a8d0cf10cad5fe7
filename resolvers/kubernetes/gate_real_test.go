//go:build real

package kubernetes

import (
	"net"
	"sync"
	"testing"
)

// gate stands between a Resolver and an API server and passes bytes on, so that TLS and HTTP/2
// are the real ones. It can break every connection, and let them hang.
type gate struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu      sync.Mutex
	server  string
	broken  bool
	hanging chan struct{} // closed when it hangs no more; nil when it does not hang
	conns   map[net.Conn]struct{}
}

// gateTo starts a gate to an API server; the test ends it.
func gateTo(t testing.TB, server string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{server: server, listener: l, conns: map[net.Conn]struct{}{}}
	g.wg.Go(g.accept)
	t.Cleanup(func() {
		g.breakIt(t)
		l.Close()
		g.wg.Wait()
	})
	return g
}

func (g *gate) url() string { return "https://" + g.listener.Addr().String() }

func (g *gate) accept() {
	for {
		in, err := g.listener.Accept()
		if err != nil {
			return
		}
		g.wg.Go(func() { g.serve(in) })
	}
}

// keep takes a connection in, so that breaking the gate closes it.
func (g *gate) keep(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.broken {
		c.Close()
		return false
	}
	g.conns[c] = struct{}{}
	return true
}

func (g *gate) close(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
	c.Close()
}

func (g *gate) serve(in net.Conn) {
	if !g.keep(in) {
		return
	}
	defer g.close(in)
	g.mu.Lock()
	server := g.server
	g.mu.Unlock()
	out, err := net.Dial("tcp", server)
	if err != nil || !g.keep(out) {
		return
	}
	defer g.close(out)
	var both sync.WaitGroup
	both.Go(func() { g.pass(out, in) })
	both.Go(func() { g.pass(in, out) })
	both.Wait()
}

// pass copies until one side ends, and then ends both.
func (g *gate) pass(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		g.mu.Lock()
		hanging := g.hanging
		g.mu.Unlock()
		if hanging != nil {
			<-hanging
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// turn leads to another server from now on; what is open to the present one is cut.
func (g *gate) turn(server string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.server = server
	for c := range g.conns {
		c.Close()
	}
}

func (g *gate) breakIt(testing.TB) (mend func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.broken = true
	for c := range g.conns {
		c.Close()
	}
	if g.hanging != nil {
		close(g.hanging)
		g.hanging = nil
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.broken = false
	}
}

func (g *gate) hang(testing.TB) (release func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hanging = make(chan struct{})
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.hanging != nil {
			close(g.hanging)
			g.hanging = nil
		}
	}
}
