// Package reachability measures which relay addresses do not answer. A call that could not
// reach one makes it a suspect; suspects are dialled, and those that do not answer are down
// until they do.
//
// It measures only what calls stumbled over: an address that nobody calls is nobody's news. It
// removes nothing from any list; what it finds is one input of the strategy.
//
// Goroutines: Run owns one loop and one for each address that is being dialled.
package reachability

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// dialTimeout is how long a suspect may take to answer: above any round trip that calls would
	// be sent over, far below a caller's patience.
	dialTimeout = time.Second
	// probeEvery is how soon an address that is down is dialled again.
	probeEvery = 500 * time.Millisecond
	// forgetAfter is how long an address stays down without anybody calling it. It is then
	// forgotten: its instances may be gone for good, and the next call will find out.
	forgetAfter = 10 * time.Minute
)

// Tracker knows which addresses are down.
type Tracker struct {
	log     *slog.Logger
	changed func(down map[string]struct{})
	suspect chan string

	addresses prometheus.Gauge
	changes   prometheus.Counter
}

// New returns a Tracker; it starts nothing. changed is called by Run's goroutine whenever the
// set of addresses that are down is another; the map is not changed afterwards.
func New(log *slog.Logger, r prometheus.Registerer, changed func(down map[string]struct{})) *Tracker {
	t := &Tracker{
		log: log, changed: changed,
		suspect: make(chan string, 64),
		addresses: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "farcall_reachability_down_addresses", Help: "Relay addresses that do not answer.",
		}),
		changes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "farcall_reachability_changes_total", Help: "Relay addresses that stopped or began to answer.",
		}),
	}
	r.MustRegister(t.addresses, t.changes)
	return t
}

// Suspect says that a call could not reach an address. It does not block; when many addresses
// are suspected at once some are left to the next call.
func (t *Tracker) Suspect(address string) {
	select {
	case t.suspect <- address:
	default:
	}
}

// result is what a dial found out.
type result struct {
	address string
	err     error
}

// Run dials suspects until ctx is done and returns ctx.Err().
func (t *Tracker) Run(ctx context.Context) error {
	var dials sync.WaitGroup
	defer dials.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := loop{t: t, results: make(chan result), dialling: map[string]bool{}, down: map[string]time.Time{}}
	l.dial = func(address string) {
		dials.Go(func() {
			err := dial(ctx, address)
			select {
			case l.results <- result{address, err}:
			case <-ctx.Done():
			}
		})
	}
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case a := <-t.suspect:
			l.look(a)
		case r := <-l.results:
			l.found(r)
		case <-tick.C:
			l.probe()
		}
	}
}

// loop is the state of Run; only its goroutine uses it.
type loop struct {
	t        *Tracker
	dial     func(string)
	results  chan result
	dialling map[string]bool
	down     map[string]time.Time // since when, or since the last suspicion
}

func (l *loop) look(address string) {
	if _, ok := l.down[address]; ok {
		l.down[address] = time.Now()
	}
	if !l.dialling[address] {
		l.dialling[address] = true
		l.dial(address)
	}
}

func (l *loop) found(r result) {
	delete(l.dialling, r.address)
	_, was := l.down[r.address]
	switch {
	case r.err != nil && !was:
		l.down[r.address] = time.Now()
		l.t.log.Warn("a relay does not answer", "address", r.address, "error", r.err)
	case r.err == nil && was:
		delete(l.down, r.address)
		l.t.log.Info("a relay answers again", "address", r.address)
	default:
		return
	}
	l.tell()
}

func (l *loop) probe() {
	forgotten := false
	for a, since := range l.down {
		if time.Since(since) > forgetAfter {
			delete(l.down, a)
			forgotten = true
			continue
		}
		if !l.dialling[a] {
			l.dialling[a] = true
			l.dial(a)
		}
	}
	if forgotten {
		l.tell()
	}
}

func (l *loop) tell() {
	down := make(map[string]struct{}, len(l.down))
	for a := range maps.Keys(l.down) {
		down[a] = struct{}{}
	}
	l.t.addresses.Set(float64(len(down)))
	l.t.changes.Inc()
	l.t.changed(down)
}

func dial(ctx context.Context, address string) error {
	d := net.Dialer{Timeout: dialTimeout}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}
