// Package reachability measures which relay addresses do not answer, which clusters cannot be
// reached at all, and how far away the others are.
//
// A call that could not reach an address makes it a suspect. Beside that, one relay of each other
// cluster is connected to about every five seconds, so that a dead cluster is found before a call
// is lost; a probe that fails makes a suspect as well. Suspects are dialled, and those that do not
// answer are down until they do.
//
// It removes nothing from any list, and ejects no instance: what it finds is one input of the
// strategy. It knows addresses and clusters and nothing of services.
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
	// dialTimeout is how long an address may take to answer: above any round trip that calls would
	// be sent over, far below a caller's patience.
	dialTimeout = time.Second
	// redialEvery is how soon an address that is down is dialled again. It takes longer the longer it
	// has been down, a redialPart of that, up to redialAtMost: the many agents that wait for a cluster
	// which stays away shall not be a burden to it.
	redialEvery, redialAtMost = 500 * time.Millisecond, 5 * time.Second
	redialPart                = 20
	// forgetAfter is how long an address stays down that nobody calls and that is no relay which
	// the view knows. It is then forgotten: its instances may be gone for good, and the next call
	// will find out.
	forgetAfter = 10 * time.Minute
)

// Findings are all that was measured. They are not changed once they were handed out.
type Findings struct {
	// Down are the addresses that do not answer.
	Down map[string]struct{}
	// Dead are the clusters of which no relay answers, of all that the view gave.
	Dead map[string]struct{}
	// Distance is the class of the round-trip time to each cluster that was measured, 0 the
	// nearest.
	Distance map[string]int
}

// Deps are what a Tracker uses and does not make.
type Deps struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Relays gives the addresses by which each other cluster can be probed, a few of each. Run's
	// goroutine asks every few seconds; nil is for none.
	Relays func() map[string][]string
	// Changed is told by Run's goroutine whenever anything that was found is another.
	Changed func(Findings)
	// Dial connects to an address and hangs up; nil is for TCP.
	Dial func(ctx context.Context, address string) error
}

// Tracker knows what answers.
type Tracker struct {
	log     *slog.Logger
	relays  func() map[string][]string
	changed func(Findings)
	dial    func(context.Context, string) error
	suspect chan string
	metrics *metrics
}

// New returns a Tracker; it starts nothing.
func New(d Deps) *Tracker {
	t := &Tracker{
		log: d.Log, relays: d.Relays, changed: d.Changed, dial: d.Dial,
		suspect: make(chan string, 64), metrics: newMetrics(d.Metrics),
	}
	if t.relays == nil {
		t.relays = func() map[string][]string { return nil }
	}
	if t.dial == nil {
		t.dial = connect
	}
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
	probe   bool
	took    time.Duration
	err     error
}

// Run dials suspects and probes clusters until ctx is done and returns ctx.Err().
func (t *Tracker) Run(ctx context.Context) error {
	var dials sync.WaitGroup
	defer dials.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := newLoop(t)
	l.dial = func(address string, probe bool) {
		l.dialling[address] = true
		dials.Go(func() {
			began := time.Now()
			dctx, cancel := context.WithTimeout(ctx, dialTimeout)
			err := t.dial(dctx, address)
			cancel()
			select {
			case l.results <- result{address, probe, time.Since(began), err}:
			case <-ctx.Done():
			}
		})
	}
	tick := time.NewTicker(redialEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case a := <-t.suspect:
			l.look(a)
		case r := <-l.results:
			l.found(time.Now(), r)
		case <-tick.C:
			now := time.Now()
			l.learn(now)
			l.redial(now)
			l.probe(now)
		}
		l.drain()
		l.tell()
	}
}

// loop is the state of Run; only its goroutine uses it.
type loop struct {
	t        *Tracker
	dial     func(address string, probe bool)
	results  chan result
	dialling map[string]bool
	down     map[string]*outage

	clusters map[string]*cluster
	owners   map[string][]*cluster // of their relays
	learnAt  time.Time             // when Relays is asked again
	news     bool                  // something changed since tell
}

// outage is an address that does not answer.
type outage struct {
	began     time.Time
	suspected time.Time // by a call, last
	next      time.Time // when it is dialled again
}

func newLoop(t *Tracker) *loop {
	return &loop{
		t: t, results: make(chan result), dialling: map[string]bool{}, down: map[string]*outage{},
		clusters: map[string]*cluster{}, owners: map[string][]*cluster{},
	}
}

// look dials a suspect, unless it is being dialled.
func (l *loop) look(address string) {
	if o := l.down[address]; o != nil {
		o.suspected = time.Now()
	}
	if !l.dialling[address] {
		l.dial(address, false)
	}
}

// drain takes what else is there already, so that it is told together: each word costs those who
// are told a look at all that they have, and while they look more comes in.
func (l *loop) drain() {
	for range cap(l.t.suspect) + len(l.dialling) {
		select {
		case a := <-l.t.suspect:
			l.look(a)
		case r := <-l.results:
			l.found(time.Now(), r)
		default:
			return
		}
	}
}

// found takes what a dial found out. A probe that failed is only a suspicion.
func (l *loop) found(now time.Time, r result) {
	delete(l.dialling, r.address)
	if r.probe {
		l.t.metrics.probed(r.err)
	}
	_, was := l.down[r.address]
	switch {
	case r.err == nil:
		if was {
			delete(l.down, r.address)
			l.news = true
			l.t.metrics.changes.Inc()
			l.t.log.Info("a relay answers again", "address", r.address)
		}
		l.heard(r.address, r.took)
	case r.probe && !was:
		l.look(r.address)
	default:
		if !was {
			l.down[r.address] = &outage{began: now, suspected: now}
			l.news = true
			l.t.metrics.changes.Inc()
			l.t.log.Warn("a relay does not answer", "address", r.address, "error", r.err)
			l.silent(now, r.address)
		}
		o := l.down[r.address]
		// A tick that comes a little early is in time.
		o.next = now.Add(min(max(now.Sub(o.began)/redialPart, redialEvery), redialAtMost) - redialEvery/2)
	}
}

// redial dials what is down again, and forgets what nobody asks about.
func (l *loop) redial(now time.Time) {
	for a, o := range l.down {
		if now.Sub(o.suspected) > forgetAfter && len(l.owners[a]) == 0 {
			delete(l.down, a)
			l.news = true
			continue
		}
		if !l.dialling[a] && !now.Before(o.next) {
			l.dial(a, false)
		}
	}
}

// tell hands out what was found, where it is another than before.
func (l *loop) tell() {
	if !l.news {
		return
	}
	l.news = false
	f := Findings{Down: make(map[string]struct{}, len(l.down)), Dead: map[string]struct{}{}, Distance: map[string]int{}}
	for a := range maps.Keys(l.down) {
		f.Down[a] = struct{}{}
	}
	for name, c := range l.clusters {
		if c.dead {
			f.Dead[name] = struct{}{}
		}
		if c.distance.measured() {
			f.Distance[name] = c.distance.class
		}
	}
	l.t.metrics.found(f)
	l.t.changed(f)
}

func connect(ctx context.Context, address string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}
