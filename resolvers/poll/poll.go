// Package poll makes a resolver of something that can only be asked: it asks at once and then
// on every tick.
//
// It is not a cache and knows nothing of what it asks for. It runs no goroutines.
package poll

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers"
)

// ErrUnsettled is a Fetch's answer while it cannot tell yet: it is neither a failure nor a
// confirmation, and nothing is told to the Sink.
var ErrUnsettled = errors.New("not settled yet")

// Fetch asks the registry once and returns the whole list, or changed == false where it is
// what the last successful Fetch returned. A read that failed or came back in part is an
// error. It must return when ctx is done, and is called by one goroutine at a time.
type Fetch func(ctx context.Context) (u catalog.Update, changed bool, err error)

// Config says how often is asked.
type Config struct {
	// Every is the time from one Fetch's start to the next; default 1 s. A Fetch that takes
	// longer delays the next, it never overlaps it.
	Every time.Duration
	// Timeout bounds one Fetch; default 5 s. Its end is a failed read.
	Timeout time.Duration
}

// Poll is a resolver that asks.
type Poll struct {
	cfg   Config
	fetch Fetch
	// last is what fetch returned last; a later Run begins with it where nothing changed.
	last *catalog.Update
}

var _ resolvers.Resolver = (*Poll)(nil)

// New returns a resolver that asks fetch. It starts nothing.
func New(cfg Config, fetch Fetch) *Poll {
	cfg.Every = cmp.Or(max(cfg.Every, 0), time.Second)
	cfg.Timeout = cmp.Or(max(cfg.Timeout, 0), 5*time.Second)
	return &Poll{cfg: cfg, fetch: fetch}
}

// Run asks until ctx is done and returns ctx.Err(). A list that changed is published as Full,
// an unchanged one is confirmed, an error is told as Failed and publishes nothing.
func (p *Poll) Run(ctx context.Context, out resolvers.Sink) error {
	tick := time.NewTicker(p.cfg.Every)
	defer tick.Stop()
	published := false
	for ctx.Err() == nil {
		p.ask(ctx, out, &published)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	return ctx.Err()
}

func (p *Poll) ask(ctx context.Context, out resolvers.Sink, published *bool) {
	bounded, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	u, changed, err := p.fetch(bounded)
	switch {
	case ctx.Err() != nil || errors.Is(err, ErrUnsettled):
		// An answer that comes with the end may be a read that the end cut short.
	case err != nil:
		out.Failed(err)
	case changed:
		u.Full = true
		p.last = &u
		out.Publish(u)
		*published = true
	case *published:
		out.Confirm()
	case p.last != nil:
		out.Publish(*p.last)
		*published = true
	}
}
