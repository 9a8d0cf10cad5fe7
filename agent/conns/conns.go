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
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// idleAfter is how long a connection without a call is kept, as a daprd does.
const idleAfter = 3 * time.Minute

// Config says how a Pool dials.
type Config struct {
	Options []grpc.DialOption
	// Credentials give how whoever is wanted at an address is spoken to; nil is for plaintext, whoever
	// it is.
	Credentials func(Who) credentials.TransportCredentials
}

// Who is whom a caller wants at an address. A connection is for one of them: what is said to one agent
// is never said to another who came to have its address. The zero Who is anybody.
type Who struct {
	// Cluster and Node are an agent's; with an empty Node, any agent of the cluster will do.
	Cluster, Node string
	// Plaintext says that it is somebody without an identity.
	Plaintext bool
}

// Pool holds the connections. It is safe for concurrent use.
type Pool struct {
	opts        []grpc.DialOption
	credentials func(Who) credentials.TransportCredentials

	mu    sync.Mutex
	conns map[place]*Conn
}

// place is where a connection leads.
type place struct {
	addr string
	who  Who
}

// Conn is a borrowed connection. Its unexported fields are guarded by Pool.mu.
type Conn struct {
	*grpc.ClientConn
	at      place
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
	return &Pool{opts: opts, credentials: c.Credentials, conns: map[place]*Conn{}}
}

// Acquire gives the connection for whoever is at an address, host:port, which need not be up. It is
// given back with Release.
func (p *Pool) Acquire(addr string) (*Conn, error) { return p.AcquireTo(addr, Who{}) }

// AcquireTo is Acquire for somebody certain.
func (p *Pool) AcquireTo(addr string, who Who) (*Conn, error) {
	at := place{addr, who}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.conns[at]; c != nil {
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
	opts := p.opts
	if p.credentials != nil {
		opts = append(opts[:len(opts):len(opts)], grpc.WithTransportCredentials(p.credentials(who)))
	}
	cc, err := grpc.NewClient("passthrough:///"+addr, opts...)
	if err != nil {
		return nil, err
	}
	c := &Conn{ClientConn: cc, at: at, calls: 1}
	p.conns[at] = c
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
	for at, c := range p.conns {
		if at.addr == addr && c.GetState() == connectivity.TransientFailure {
			p.retire(c)
		}
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

// Size gives the number of connections, of which each is for another address, or somebody else there.
func (p *Pool) Size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// retire takes a connection out of the pool; it lives as long as its calls do.
func (p *Pool) retire(c *Conn) {
	delete(p.conns, c.at)
	c.retired = true
	if c.calls == 0 {
		closeConn(c)
	}
}

// closeConn ignores Close's error, which only ever says that it was closed before.
func closeConn(c *Conn) { _ = c.ClientConn.Close() }
