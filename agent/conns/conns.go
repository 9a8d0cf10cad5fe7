// Package conns keeps one gRPC connection for each address that is called, made on the first call
// and given up when it is not used any more.
//
// It is not a balancer and retries nothing. It runs no goroutines of its own; those of the
// connections end with Close.
package conns

import (
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
)

// idleAfter is how long a connection without a call is kept, as a daprd does.
const idleAfter = 3 * time.Minute

// Config says how a Pool dials.
type Config struct {
	Options []grpc.DialOption
}

// Pool holds the connections. It is safe for concurrent use.
type Pool struct {
	opts []grpc.DialOption

	mu    sync.Mutex
	conns map[string]*Conn
}

// Conn is a borrowed connection. Its unexported fields are guarded by Pool.mu.
type Conn struct {
	*grpc.ClientConn
	addr    string
	calls   int
	retired bool
}

// New makes an empty pool.
func New(c Config) *Pool {
	opts := append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// An address comes from a registry: no proxy stands before it, and its name is not asked
		// for a service configuration, which could switch gRPC's own retries on.
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(idleAfter),
	}, c.Options...)
	return &Pool{opts: opts, conns: map[string]*Conn{}}
}

// Acquire gives the connection for an address, host:port, which need not be up. It is given back
// with Release.
func (p *Pool) Acquire(addr string) (*Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.conns[addr]; c != nil {
		c.calls++
		return c, nil
	}
	// A new address is rare enough to look for those that went quiet: gRPC has closed what hung
	// on them, the rest goes here.
	for _, c := range p.conns {
		if c.calls == 0 && c.GetState() == connectivity.Idle {
			p.retire(c)
		}
	}
	cc, err := grpc.NewClient("passthrough:///"+addr, p.opts...)
	if err != nil {
		return nil, err
	}
	c := &Conn{ClientConn: cc, addr: addr, calls: 1}
	p.conns[addr] = c
	return c, nil
}

// Release gives a connection back when its call is over.
func (p *Pool) Release(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.calls--
	if c.retired && c.calls == 0 {
		closeConn(c)
	}
}

// GiveUp says that a call learnt from this connection that the address does not answer: the next
// call dials afresh, where otherwise it would fail at once until gRPC has tried again by itself,
// with the pauses that Options say. The connection is still to be given back.
func (p *Pool) GiveUp(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !c.retired {
		p.retire(c)
	}
}

// Reconnect says that an address answers again: where the connection to it has failed and pauses, the
// next call dials afresh. (One that is told to try at once fails calls until it has connected.)
func (p *Pool) Reconnect(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.conns[addr]; c != nil && c.GetState() == connectivity.TransientFailure {
		p.retire(c)
	}
}

// Close ends all connections, and the calls on them.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.calls = 0
		p.retire(c)
	}
}

// Size gives the number of addresses that there is a connection for.
func (p *Pool) Size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// retire takes a connection out of the pool; it lives as long as its calls do.
func (p *Pool) retire(c *Conn) {
	delete(p.conns, c.addr)
	c.retired = true
	if c.calls == 0 {
		closeConn(c)
	}
}

// closeConn ignores Close's error, which only ever says that it was closed before.
func closeConn(c *Conn) { _ = c.ClientConn.Close() }
