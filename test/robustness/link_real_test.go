//go:build real && linux

package robustness

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// weather is what a link does to those who use it. The zero value carries everything at once.
type weather struct {
	// refuse resets the connections that there are, and each new one.
	refuse bool
	// there and back hold what is sent, in the dialler's direction and the other one: connections stay
	// open, and are made, but nothing comes through.
	there, back bool
	// lost says that what is held is never carried: the connections are reset when the weather ends.
	lost bool
	// delay is waited for by each piece of at most 16 KiB, in each direction.
	delay time.Duration
	// rate, where it is set, is how many bytes a second a connection carries in each direction.
	rate int
	// lifetime, where it is set, is after how many bytes a connection is reset, in the middle of
	// whatever it carries.
	lifetime int
}

// blackHole accepts everything and answers nothing.
var blackHole = weather{there: true, back: true}

// link is a way that something takes to a process: a TCP proxy whose weather the test makes.
type link struct {
	addr string // host:port to dial
	to   string // host:port behind it

	ctx      context.Context
	listener net.Listener
	running  sync.WaitGroup

	mu      sync.Mutex
	weather weather
	changed chan struct{} // closed when weather changes
	conns   map[net.Conn]bool

	// spoilt counts what the weather was felt by: connections reset, pieces held or delayed.
	spoilt atomic.Int64
}

// newLink makes a way to a host:port, which need not listen yet. It lives as long as the test.
func newLink(t testing.TB, to string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", loopback(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	l := &link{
		addr: listener.Addr().String(), to: to, ctx: ctx, listener: listener,
		changed: make(chan struct{}), conns: map[net.Conn]bool{},
	}
	l.running.Go(l.accept)
	t.Cleanup(func() {
		cancel()
		listener.Close()
		l.reset()
		l.running.Wait()
	})
	return l
}

// set changes the weather.
func (l *link) set(w weather) {
	l.mu.Lock()
	if l.weather.lost || w.refuse {
		l.cut()
	}
	l.weather = w
	close(l.changed)
	l.changed = make(chan struct{})
	l.mu.Unlock()
}

// now gives the weather, and what is closed when it changes.
func (l *link) now() (weather, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.weather, l.changed
}

// reset ends all connections of now, as a machine does that knows nothing of them.
func (l *link) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut()
}

// open counts the connections of now.
func (l *link) open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns) / 2
}

// cut is reset for who has the lock.
func (l *link) cut() {
	for c := range l.conns {
		l.spoilt.Add(1)
		abort(c)
	}
}

func abort(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // a reset in place of an orderly end
	}
	c.Close()
}

func (l *link) accept() {
	for {
		c, err := l.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		l.running.Go(func() { l.carry(c) })
	}
}

// carry joins a connection with one of its own to the process, until either ends.
func (l *link) carry(near net.Conn) {
	defer near.Close()
	if w, _ := l.now(); w.refuse {
		l.spoilt.Add(1)
		abort(near)
		return
	}
	var dialer net.Dialer
	far, err := dialer.DialContext(l.ctx, "tcp", l.to)
	if err != nil {
		abort(near) // as nobody listens
		return
	}
	defer far.Close()
	if !l.keep(near, far) {
		abort(near)
		return
	}
	var both sync.WaitGroup
	var carried atomic.Int64
	pump := func(to, from net.Conn, held func(weather) bool) func() {
		return func() {
			// An end passes to the other side, in the way it came.
			if l.pump(to, from, held, &carried) {
				abort(to)
				abort(from)
				return
			}
			_ = to.(*net.TCPConn).CloseWrite()
		}
	}
	both.Go(pump(far, near, func(w weather) bool { return w.there }))
	both.Go(pump(near, far, func(w weather) bool { return w.back }))
	both.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, near)
	delete(l.conns, far)
}

// keep remembers two connections, unless the link has ended.
func (l *link) keep(near, far net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return false
	}
	l.conns[near], l.conns[far] = true, true
	return true
}

// pump carries one direction to its end, and reports whether that was a broken one.
func (l *link) pump(to, from net.Conn, held func(weather) bool, carried *atomic.Int64) (broken bool) {
	piece := make([]byte, 16<<10)
	for {
		n, err := from.Read(piece)
		if n > 0 {
			if w, _ := l.now(); w.lifetime > 0 && carried.Add(int64(n)) > int64(w.lifetime) {
				l.spoilt.Add(1)
				_, _ = to.Write(piece[:n/2])
				return true
			}
			if !l.wait(n, held) {
				return true
			}
			if _, err := to.Write(piece[:n]); err != nil {
				return true
			}
		}
		if err != nil {
			var broke *net.OpError
			return errors.As(err, &broke)
		}
	}
}

// wait lets a piece of n bytes wait as the weather is, and reports whether the link goes on.
func (l *link) wait(n int, held func(weather) bool) bool {
	w, changed := l.now()
	if held(w) || w.delay > 0 || w.rate > 0 {
		l.spoilt.Add(1)
	}
	pause := w.delay
	if w.rate > 0 {
		pause += time.Duration(n) * time.Second / time.Duration(w.rate)
	}
	if pause > 0 && !held(w) {
		timer := time.NewTimer(pause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-changed:
		case <-l.ctx.Done():
			return false
		}
		w, changed = l.now()
	}
	for held(w) {
		select {
		case <-changed:
		case <-l.ctx.Done():
			return false
		}
		w, changed = l.now()
	}
	return true
}
