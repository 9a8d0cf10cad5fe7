package dns

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	miekg "github.com/miekg/dns"
)

// set is what is known of one question, to the end of its chain of aliases. It is immutable.
type set struct {
	outcome outcome // never aliased
	records []miekg.RR
	at      time.Time // when the answer came
	expires time.Time
	broken  string
	// extra are sets that came along.
	extra map[question]*set
}

// lookups asks questions, each once at a time, and holds the answers for as long as they may be
// believed. Its methods are safe for concurrent use.
type lookups struct {
	client         *client
	metrics        registryMetrics
	minTTL, maxTTL time.Duration

	mu   sync.Mutex
	held map[question]*lookup
}

// lookup is one question, under way until done is closed.
type lookup struct {
	done chan struct{}
	set  *set
	err  error
}

func newLookups(c *client, cfg Config, m registryMetrics) *lookups {
	return &lookups{client: c, metrics: m, minTTL: cfg.MinTTL, maxTTL: cfg.MaxTTL, held: map[question]*lookup{}}
}

// get gives what is known of a question and asks where nothing is, or where afresh says that what
// is held will not do. An error is the failure of every server, or ctx's.
func (l *lookups) get(ctx context.Context, q question, afresh bool) (*set, error) {
	l.mu.Lock()
	w, ok := l.held[q]
	if ok {
		select {
		case <-w.done:
			if ok = !afresh && time.Now().Before(w.set.expires); ok {
				l.metrics.held.Inc()
			}
		default:
			l.metrics.joined.Inc()
		}
	}
	if !ok {
		w = &lookup{done: make(chan struct{})}
		l.held[q] = w
		l.mu.Unlock()
		w.set, w.err = l.chase(ctx, q)
		if w.err != nil {
			l.forget(q)
		}
		close(w.done)
		return w.set, w.err
	}
	l.mu.Unlock()
	select {
	case <-w.done:
		return w.set, w.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *lookups) forget(q question) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, q)
}

// prune forgets what has expired.
func (l *lookups) prune(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for q, w := range l.held {
		select {
		case <-w.done:
			if !now.Before(w.set.expires) {
				delete(l.held, q)
			}
		default:
		}
	}
}

// chase asks, and asks on where an answer ends in an alias.
func (l *lookups) chase(ctx context.Context, q question) (*set, error) {
	var path chain
	at := q
	var ttl time.Duration
	for first := true; ; first = false {
		a, err := l.client.ask(ctx, at)
		if err != nil {
			return nil, err
		}
		if first || a.ttl < ttl {
			ttl = a.ttl
		}
		if a.outcome == aliased {
			if a.broken = path.add(at.name, a.next); a.broken == "" {
				at.name = a.next
				continue
			}
			a.outcome = noData
		}
		now := time.Now()
		s := &set{outcome: a.outcome, records: a.records, broken: a.broken, at: now, expires: now.Add(l.lifetime(ttl))}
		for eq, e := range a.extra {
			if s.extra == nil {
				s.extra = make(map[question]*set, len(a.extra))
			}
			s.extra[eq] = &set{outcome: e.outcome, records: e.records, at: now, expires: now.Add(l.lifetime(e.ttl))}
		}
		return s, nil
	}
}

// lifetime bounds a TTL and adds up to a tenth, so that names that were asked for together are not
// for ever, and a cache on the way has forgotten its answer, too.
func (l *lookups) lifetime(ttl time.Duration) time.Duration {
	ttl = min(max(ttl, l.minTTL), l.maxTTL)
	return ttl + rand.N(ttl/10+1)
}
