package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	// watchLeast and watchMost bound how long the API server keeps a watch open. Then it is opened
	// again where it ended; the spread keeps agents out of step.
	watchLeast = 4 * time.Minute
	watchMost  = 8 * time.Minute
	// openTimeout is how long the opening may take.
	openTimeout = 10 * time.Second
	// quietFor is how long a watch may say nothing, not even a bookmark, which the API server sends
	// about every minute. Then it is opened again: somebody in between may have forgotten it.
	quietFor = 3 * time.Minute
)

// news is what a watcher or a probe has to tell. Exactly one of its last four fields is set.
type news struct {
	table  *table
	opened bool
	event  *watch.Event
	ended  *ended
	probe  *probe
}

// ended says that a watch is not open any more; err is nil where nothing is wrong with that.
type ended struct {
	err error
	// early says that it was over before the time that had been asked for: a connection was lost, or
	// an API server went.
	early bool
}

// watcher keeps the watch of one table open and hands on what it says.
type watcher struct {
	c    *connection
	t    *table
	feed chan<- news
	// revision is the last one that was handed on; the watcher's own.
	revision string

	mu      sync.Mutex
	attempt context.CancelFunc // ends the present watch
}

// again has the watch opened anew, from where it stands.
func (w *watcher) again() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.attempt != nil {
		w.attempt()
	}
}

// run goes on until ctx is done or the watch has expired.
func (w *watcher) run(ctx context.Context) {
	var wait backoff
	for ctx.Err() == nil {
		began := time.Now()
		end := w.once(ctx)
		if time.Since(began) > backoffMost {
			wait = backoff{} // one that opens and ends at once is no better than one that does not open
		}
		w.send(ctx, news{table: w.t, ended: &end})
		if expired(end.err) {
			return
		}
		pause(ctx, wait.next())
	}
}

// once opens the watch and hands on what it says until it ends.
func (w *watcher) once(ctx context.Context) ended {
	attempt, cancel := context.WithCancel(ctx)
	defer cancel()
	w.mu.Lock()
	w.attempt = cancel
	w.mu.Unlock()

	opening := time.AfterFunc(openTimeout, cancel)
	lasting := (watchLeast + rand.N(watchMost-watchLeast)).Truncate(time.Second)
	over := time.Now().Add(lasting) // the API server counts from later on
	stream, err := w.c.watch(attempt, w.t, w.revision, lasting)
	late := !opening.Stop()
	if err != nil {
		switch {
		case late && ctx.Err() == nil:
			return ended{err: w.failed(silence(openTimeout))}
		case attempt.Err() != nil:
			return ended{} // somebody wanted it so
		}
		return ended{err: err}
	}
	defer func() {
		stream.Stop()
		for range stream.ResultChan() { // until client-go's goroutine has ended
		}
	}()
	select {
	case e, ok := <-stream.ResultChan():
		if !ok { // what client-go makes of a connection that broke off
			return ended{err: w.failed(errors.New("the API server broke the connection off"))}
		}
		w.send(ctx, news{table: w.t, opened: true})
		if err := w.hand(ctx, e); err != nil {
			return ended{err: err}
		}
	default:
		w.send(ctx, news{table: w.t, opened: true})
	}
	return w.listen(ctx, attempt, stream, over)
}

// listen hands on events. The API server ends the watch when over has come.
func (w *watcher) listen(ctx, attempt context.Context, stream watch.Interface, over time.Time) ended {
	quiet := time.NewTimer(quietFor)
	defer quiet.Stop()
	for {
		select {
		case <-attempt.Done():
			return ended{}
		case <-quiet.C:
			return ended{early: true}
		case e, ok := <-stream.ResultChan():
			if !ok {
				return ended{early: time.Now().Before(over)}
			}
			if err := w.hand(ctx, e); err != nil {
				return ended{err: err}
			}
			quiet.Reset(quietFor)
		}
	}
}

// hand hands on one event, or gives the error that it is.
func (w *watcher) hand(ctx context.Context, e watch.Event) error {
	w.c.metrics.events.WithLabelValues(w.c.registry, w.t.resource, strings.ToLower(string(e.Type))).Inc()
	if e.Type == watch.Error {
		return w.failed(apierrors.FromObject(e.Object))
	}
	o, err := meta.Accessor(e.Object)
	if err != nil {
		return w.failed(fmt.Errorf("event %s: %w", e.Type, err))
	}
	w.send(ctx, news{table: w.t, event: &e})
	w.revision = o.GetResourceVersion()
	return nil
}

func (w *watcher) failed(err error) error { return w.c.words("watch", w.t, err) }

func (w *watcher) send(ctx context.Context, n news) { send(ctx, w.feed, n) }

func send(ctx context.Context, feed chan<- news, n news) {
	select {
	case feed <- n:
	case <-ctx.Done():
	}
}
