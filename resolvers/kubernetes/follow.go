package kubernetes

import (
	"cmp"
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

const (
	// probeEvery is how often the API server is asked whether it is there.
	probeEvery = time.Second
	// gather bounds how many news are taken in before they are published.
	gather = 1024
)

// probe is the answer to one.
type probe struct {
	revision string
	// floor is what had been seen of the table before the question.
	floor string
	// identified says that it also asked which cluster answers, and cluster what it is; lost is how
	// many connections had been lost by then.
	identified bool
	cluster    string
	lost       int
	err        error
}

// follow keeps what was published up to date. It returns nil when everything is to be read
// again because a watch has expired or the cluster looks like another one (r.reset says why),
// and an error when a new connection may do better.
func (r *Resolver) follow(ctx context.Context, c *connection, out resolvers.Sink, l *ledger, at map[*table]string) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	feed := make(chan news, 256)
	f := &following{Resolver: r, out: out, l: l, c: c, open: map[*table]bool{}}
	for _, t := range c.tables {
		w := &watcher{c: c, t: t, feed: feed, revision: at[t]}
		f.watchers = append(f.watchers, w)
		wg.Go(func() { w.run(ctx) })
	}
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case n := <-feed:
			if again, err := f.hear(n, feed); again {
				return err
			}
		case <-tick.C:
			if p := f.ask(); p != nil {
				wg.Go(func() { p(ctx, feed) })
			}
		}
	}
}

// following is one run of follow. Its methods report whether to begin again from a full read,
// and the error that led to it, if one did.
type following struct {
	*Resolver
	out      resolvers.Sink
	l        *ledger
	c        *connection
	watchers []*watcher
	// open says which tables have a watch.
	open map[*table]bool
	// turn is the table that is probed next, asking that a probe is under way.
	turn   int
	asking bool
	// alive says that a probe was answered since the last confirmation.
	alive bool
	// lost counts the connections that were lost, and known is how many of them the last
	// identification of the cluster came after.
	lost, known int
}

// doubt reports whether there may be another cluster behind the same address by now: then nothing
// of what the watches say is told.
func (f *following) doubt() bool { return f.c.home != nil && f.known < f.lost }

// ask gives the next probe to run, nil while one is under way. Each table has its turn, so that
// the right to each is tried, too; one that fails keeps it.
func (f *following) ask() func(context.Context, chan<- news) {
	if f.asking {
		return nil
	}
	f.asking = true
	c, t := f.c, f.c.tables[f.turn]
	p := &probe{floor: f.seen.revisions[t.resource], identified: f.doubt(), lost: f.lost}
	return func(ctx context.Context, feed chan<- news) {
		if p.identified {
			p.cluster, p.err = c.identify(ctx)
		}
		if p.err == nil {
			p.revision, p.err = c.probe(ctx, t)
		}
		send(ctx, feed, news{table: t, probe: p})
	}
}

// hear takes in one piece of news and what else waits to be told, publishes what is new, and
// confirms where the API server is known to be there for every table.
func (f *following) hear(n news, feed <-chan news) (again bool, err error) {
	for range gather {
		if again, err = f.take(n); again {
			break
		}
		select {
		case n = <-feed:
			continue
		default:
		}
		break
	}
	if f.reset == "" && !f.doubt() {
		f.publish()
	}
	if again {
		return true, err
	}
	if f.alive && len(f.open) == len(f.c.tables) {
		f.alive = false
		f.out.Confirm()
	}
	return false, nil
}

func (f *following) take(n news) (again bool, err error) {
	switch {
	case n.opened:
		f.open[n.table] = true
	case n.event != nil:
		return f.apply(n.table, *n.event), nil
	case n.ended != nil:
		delete(f.open, n.table)
		return f.end(*n.ended)
	case n.probe != nil:
		return f.judge(n.table, *n.probe)
	}
	return false, nil
}

// apply takes one event in.
func (f *following) apply(t *table, e watch.Event) (again bool) {
	was := f.l.cluster
	switch e.Type {
	case watch.Added, watch.Modified:
		f.l.take(e.Object)
	case watch.Deleted:
		f.l.drop(e.Object)
	case watch.Bookmark, watch.Error: // the first only has a revision, the second ended the watch
	}
	if o, err := meta.Accessor(e.Object); err == nil { // the watcher looked
		f.seen.note(t.resource, o.GetResourceVersion())
	}
	if was != "" && f.l.cluster == "" {
		f.seen.cluster = "" // the API server makes the Service again, with another uid
	}
	reason := f.seen.another(f.l.cluster)
	f.suspect(reason)
	f.seen.cluster = cmp.Or(f.seen.cluster, f.l.cluster)
	return reason != ""
}

// end takes in that a watch ended.
func (f *following) end(e ended) (again bool, _ error) {
	err := e.err
	if e.early || err != nil && !answered(err) {
		f.lost++
	}
	switch {
	case err == nil:
		return false, nil
	case expired(err):
		f.log.Info("kubernetes no longer has what changed meanwhile: all is read again", "registry", f.name, "reason", err)
		return true, nil
	case stale(err):
		return true, err
	}
	f.out.Failed(err)
	return false, nil
}

// judge takes in the answer to a probe.
func (f *following) judge(t *table, p probe) (again bool, err error) {
	f.asking = false
	if p.err != nil {
		f.alive = false
		if stale(p.err) || !answered(p.err) && f.c.rewritten() {
			return true, p.err
		}
		f.out.Failed(p.err)
		if !answered(p.err) {
			f.lost++
			// The watches may hang on a connection that is dead while the next probe takes another
			// one. They have to be opened anew before anything is confirmed.
			for _, w := range f.watchers {
				w.again()
			}
			clear(f.open)
		}
		return false, nil
	}
	// A watch that begins behind what the server has would be silent until it has caught up.
	if reason := backwards(t.resource, p.floor, p.revision); reason != "" {
		f.suspect(reason)
		return true, nil
	}
	if reason := f.seen.another(p.cluster); reason != "" {
		f.suspect(reason)
		return true, nil
	}
	f.seen.note(t.resource, p.revision)
	if p.identified {
		f.known = p.lost
	}
	f.turn = (f.turn + 1) % len(f.c.tables)
	f.alive = !f.doubt()
	return false, nil
}

// publish tells what changed. Additions come first, so that an endpoint that moved from one
// slice to another is never missing in between. What a watch says to be gone was taken away on
// purpose, since somebody wrote that: absences are found by lists only.
func (f *following) publish() {
	plain, purpose := f.l.changes()
	if len(plain) > 0 {
		f.out.Publish(catalog.Update{Snapshots: plain, Revision: f.seen.revision()})
	}
	if len(purpose) > 0 {
		f.out.Publish(catalog.Update{Snapshots: purpose, Explicit: true, Revision: f.seen.revision()})
	}
}
