package consul

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

const (
	// probeEvery is how often Consul is asked where it stands.
	probeEvery = time.Second
	// breathe is the pause between two blocking queries of a table, so that a burst of changes
	// costs a few long answers instead of many.
	breathe = 100 * time.Millisecond
)

// news is what a watcher or the prober has to tell; one of its fields is set.
type news struct {
	err      error
	services *reply[map[string][]string]
	checks   *reply[[]check]
	nodes    *reply[[]node]
	probe    *probe
}

// LogValue says which index moved where.
func (n news) LogValue() slog.Value {
	switch {
	case n.services != nil:
		return slog.GroupValue(slog.Uint64("services", n.services.index))
	case n.checks != nil:
		return slog.GroupValue(slog.Uint64("checks", n.checks.index))
	case n.nodes != nil:
		return slog.GroupValue(slog.Uint64("nodes", n.nodes.index))
	}
	return slog.GroupValue()
}

var _ slog.LogValuer = news{}

// errDeaf ends a following whose blocking queries are silent while the indexes move.
var errDeaf = errors.New("consul: the blocking queries do not tell what changed: everything is read again")

// follow keeps what was published up to date. It returns nil when the registry looks like
// another one (r.reset says why), and otherwise why it must begin again from a full read.
func (r *Resolver) follow(ctx context.Context, out resolvers.Sink, l *ledger) error {
	ctx, cancel := context.WithCancel(ctx)
	feed := make(chan news)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		watch(ctx, feed, l.start.services, r.client.services, func(a reply[map[string][]string]) news { return news{services: &a} })
	})
	wg.Go(func() {
		watch(ctx, feed, l.start.checks, r.client.checks, func(a reply[[]check]) news { return news{checks: &a} })
	})
	wg.Go(func() {
		watch(ctx, feed, l.start.nodes, r.client.nodes, func(a reply[[]node]) news { return news{nodes: &a} })
	})
	wg.Go(func() { r.prober(ctx, feed) })

	f := following{Resolver: r, out: out, l: l}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case n := <-feed:
			if again, err := f.hear(ctx, n); again {
				return err
			}
			if again, err := f.hearRest(ctx, feed); again {
				return err
			}
		case <-timer.C:
		}
		if again, err := f.round(ctx); again {
			return err
		}
		timer.Reset(l.wake(time.Now()))
	}
}

// watch asks for one table again and again, each time waiting for its index to move on.
func watch[T any](ctx context.Context, feed chan<- news, index uint64, get func(context.Context, uint64) (reply[T], error), wrap func(reply[T]) news) {
	var wait backoff
	for ctx.Err() == nil {
		a, err := get(ctx, index)
		switch {
		case err != nil:
			send(ctx, feed, news{err: err})
			pause(ctx, wait.next())
			continue
		case a.index != index:
			send(ctx, feed, wrap(a))
			index = a.index
		}
		wait = backoff{}
		pause(ctx, jitter(breathe))
	}
}

// prober asks about every second where Consul stands.
func (r *Resolver) prober(ctx context.Context, feed chan<- news) {
	for ctx.Err() == nil {
		pause(ctx, probeEvery-jitter(probeEvery/5))
		p, err := r.client.probe(ctx)
		if err != nil {
			send(ctx, feed, news{err: err})
			continue
		}
		send(ctx, feed, news{probe: &p})
	}
}

func send(ctx context.Context, feed chan<- news, n news) {
	select {
	case feed <- n:
	case <-ctx.Done():
	}
}

// following is one run of follow. Its methods report whether to begin again from a full read,
// and the error that led to it, if one did.
type following struct {
	*Resolver
	out resolvers.Sink
	l   *ledger
	// doubt says that something failed since Consul's identity was last seen: behind the same
	// address there may be another one by now.
	doubt bool
}

// hearRest takes in what else waits to be told, so that a round of reads knows all of it.
func (f *following) hearRest(ctx context.Context, feed <-chan news) (again bool, err error) {
	for {
		select {
		case n := <-feed:
			if again, err = f.hear(ctx, n); again {
				return again, err
			}
		default:
			return false, nil
		}
	}
}

// hear takes one piece of news in.
func (f *following) hear(ctx context.Context, n news) (again bool, err error) {
	if n.err != nil {
		if ctx.Err() == nil {
			f.doubt = true
			f.out.Failed(n.err)
		}
		return false, nil
	}
	if n.probe != nil {
		return f.hearProbe(*n.probe)
	}
	if again, err := f.reassure(ctx); again {
		return again, err
	}
	now, reason := time.Now(), ""
	f.log.Debug("consul's catalogue moved", "registry", f.name, "news", n)
	switch {
	case n.services != nil:
		if reason = advance("services", &f.seen.services, n.services.index); reason == "" {
			f.l.takeServices(now, *n.services)
		}
	case n.checks != nil:
		if reason = advance("checks", &f.seen.checks, n.checks.index); reason == "" {
			f.l.takeChecks(*n.checks)
		}
	case n.nodes != nil:
		if reason = advance("nodes", &f.seen.nodes, n.nodes.index); reason == "" {
			f.l.takeNodes(now, *n.nodes)
		}
	}
	f.suspect(reason)
	return reason != "", nil
}

func (f *following) hearProbe(p probe) (again bool, err error) {
	if reason := f.seen.identify(p.servers); reason != "" {
		f.suspect(reason)
		return true, nil
	}
	f.doubt = false
	if f.l.takeProbe(p) {
		return true, errDeaf
	}
	return false, nil
}

// reassure looks who answers before anything is believed that came after a failure.
func (f *following) reassure(ctx context.Context) (again bool, err error) {
	if !f.doubt {
		return false, nil
	}
	p, err := f.client.probe(ctx)
	if err != nil {
		return true, err
	}
	return f.hearProbe(p)
}

// round does one round of work, and confirms where there is nothing left to read.
func (f *following) round(ctx context.Context) (again bool, err error) {
	began := time.Now()
	if w, ok := f.l.next(began); ok {
		if w.begins != "" {
			f.metrics.sweeps.WithLabelValues(f.name, string(w.begins)).Inc()
		}
		if again, err := f.reassure(ctx); again {
			return again, err
		}
		if len(w.nodes) > 0 {
			err = f.survey(ctx, w)
		} else {
			err = f.update(ctx, w)
		}
		if ctx.Err() != nil {
			return true, ctx.Err()
		}
		f.log.Debug("consul was read", "registry", f.name, "cause", w.why, "services", len(w.services), "nodes", len(w.nodes), "took", time.Since(began))
		if err != nil {
			f.doubt = true
			f.out.Failed(err)
		}
	}
	if f.l.confirms(time.Now()) {
		f.out.Confirm()
	}
	return false, nil
}

// update reads services and publishes those that changed.
func (f *following) update(ctx context.Context, w work) error {
	read, failed, err := f.read(ctx, w.services, w.why)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if changed := f.l.apply(time.Now(), read, failed); len(changed) > 0 {
		f.out.Publish(catalog.Update{Snapshots: changed, Revision: f.l.revision()})
	}
	return err
}

// survey looks through nodes for services to read.
func (f *following) survey(ctx context.Context, w work) error {
	read, _, err := fetch(ctx, w.nodes, f.client.onNode)
	if err != nil {
		f.l.unsurveyed(time.Now())
		return err
	}
	f.l.survey(time.Now(), read)
	return nil
}
