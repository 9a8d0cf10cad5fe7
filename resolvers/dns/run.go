package dns

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

const (
	// maxReads is how many services are being read at a time.
	maxReads = 64
	// probeEvery is how often some name is asked for, due or not.
	probeEvery = time.Second
	// confirmEvery is the least time between two confirmations.
	confirmEvery = 500 * time.Millisecond
)

// ending is the end of one read.
type ending struct {
	e     *entry
	probe bool
	r     reading
	err   error
}

// running is one Run. Its methods are for Run's goroutine.
type running struct {
	*Resolver
	out     resolvers.Sink
	client  *client
	lookups *lookups
	l       *ledger
	ends    chan ending
	readers sync.WaitGroup

	published bool      // the first, full update is out
	answered  time.Time // when a read last succeeded that asked somebody
	confirmed time.Time
	told      time.Time // when Failed was last called
	// systemErr is why the system's servers are not known.
	systemErr error
}

// Run implements resolvers.Resolver. It goes on through every failure, telling the Sink, and
// returns only with ctx.
func (r *Resolver) Run(ctx context.Context, out resolvers.Sink) error {
	ctx, cancel := context.WithCancel(ctx)
	now := time.Now()
	c := newClient(r.servers, r.cfg.Timeout, r.metrics)
	u := &running{
		Resolver: r, out: out, client: c, lookups: newLookups(c, r.cfg, r.metrics),
		l: newLedger(r.services, now), ends: make(chan ending, maxReads),
	}
	defer u.readers.Wait()
	defer cancel()
	u.system()
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case end := <-u.ends:
			u.take(ctx, end)
		case <-tick.C:
			u.tick(ctx)
		case <-due.C:
		}
		now := time.Now()
		for len(u.l.busy) < maxReads {
			e := u.l.next(now)
			if e == nil {
				break
			}
			u.read(ctx, e, false)
		}
		if len(u.l.busy) < maxReads {
			due.Reset(u.l.wake(now))
		}
	}
}

// read reads one service. A probe asks even for what is held.
func (u *running) read(ctx context.Context, e *entry, probe bool) {
	s, before := e.service, e.targets
	u.readers.Go(func() {
		r, err := u.lookups.read(ctx, s, before, probe)
		u.ends <- ending{e: e, probe: probe, r: r, err: err} // there is room for every reader
	})
}

// tick does what is due about every second: it asks for some name if none was answered for.
func (u *running) tick(ctx context.Context) {
	u.system()
	now := time.Now()
	u.lookups.prune(now)
	if now.Sub(u.answered) > probeEvery*3/4 && len(u.l.busy) < maxReads {
		if e := u.l.idlest(now); e != nil {
			u.read(ctx, e, true)
		}
	}
	u.tell(now)
	u.observe()
}

// take takes in the end of a read, and of what else has ended meanwhile, and says what is new.
func (u *running) take(ctx context.Context, end ending) {
	if ctx.Err() != nil {
		return // the end cut it short
	}
	now := time.Now()
	changed := u.hear(nil, end, now)
	for more := true; more; {
		select {
		case end := <-u.ends:
			changed = u.hear(changed, end, now)
		default:
			more = false
		}
	}
	if ctx.Err() != nil {
		return
	}
	switch {
	case !u.published && u.l.complete():
		u.out.Publish(catalog.Update{Full: true, Snapshots: u.l.snapshots()})
		u.published, u.confirmed, u.told = true, now, time.Time{}
		u.observe()
	case u.published && len(changed) > 0:
		u.out.Publish(catalog.Update{Snapshots: changed})
		u.confirmed, u.told = now, time.Time{}
	}
	u.tell(now)
	if u.published && u.answered.Equal(now) && u.l.current(now) && now.Sub(u.confirmed) >= confirmEvery {
		u.out.Confirm()
		u.confirmed = now
	}
}

// hear takes in the end of one read.
func (u *running) hear(changed []catalog.Snapshot, end ending, now time.Time) []catalog.Snapshot {
	e := end.e
	wasFailing, was := e.err != nil, e.outcome
	u.metrics.read(end.probe, end.err == nil)
	if end.err != nil {
		u.l.failed(e, end.err, now)
	} else {
		if u.l.done(e, end.r, now) {
			changed = append(changed, e.snap)
		}
		if !end.r.at.Before(e.began) { // else all of it was held, and nobody was asked
			u.answered = now
		}
	}
	log := u.log.With("service", e.source, "name", e.ask.String())
	switch {
	case e.err != nil && !wasFailing:
		log.Warn("a name cannot be read, the last list stays", "error", e.err)
	case e.err == nil && wasFailing:
		log.Info("the name is read again")
		u.confirmed = time.Time{} // what was failing is to be confirmed at once
	case e.outcome == noName && was != noName:
		log.Info("the name does not exist")
	}
	return changed
}

// tell says what fails, at once after it was news and then about every second.
func (u *running) tell(now time.Time) {
	err := u.l.trouble()
	if u.systemErr != nil {
		err = u.systemErr
	}
	if err != nil && now.Sub(u.told) >= probeEvery*3/4 {
		u.out.Failed(err)
		u.told = now
	}
}

// observe brings the gauges up to date.
func (u *running) observe() {
	found, noDatas, noNames := u.l.states()
	u.metrics.found.Set(float64(found))
	u.metrics.noData.Set(float64(noDatas))
	u.metrics.noName.Set(float64(noNames))
	u.metrics.failing.Set(float64(u.l.failing))
	u.metrics.unread.Set(float64(u.l.unread))
}

// system takes the system's servers up where none are configured. While they cannot be read, the
// last ones stay.
func (u *running) system() {
	if len(u.servers) > 0 {
		return
	}
	servers, err := systemServers(u.resolvConf)
	switch {
	case err == nil:
		u.systemErr = nil
		u.client.use(servers)
	case len(u.client.order()) == 0:
		u.systemErr = err
	}
}

func systemServers(path string) ([]string, error) {
	c, err := miekg.ClientConfigFromFile(path)
	if err != nil {
		return nil, fmt.Errorf("dns: the system's servers: %w: write servers in the dns block", err)
	}
	var out []string
	for _, s := range c.Servers {
		if a, err := serverAddress(s); err == nil && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("dns: %s names no server: write servers in the dns block", path)
	}
	return out, nil
}
