package consult

import (
	"hash/maphash"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

const (
	// window is over how many seconds calls are counted.
	window = 60
	// shards keep those who count for different services out of each other's way.
	shards = 32
	// maxNames bounds the services of one shard; beyond it, those that were not called lately make
	// room for new ones.
	maxNames = 1024
)

// Counter counts the calls of each service over the last minute. Its methods are safe for
// concurrent use; Add takes no lock, but for a service's first call.
type Counter struct {
	began  time.Time
	seed   maphash.Seed
	shards [shards]shard
}

type shard struct {
	rings atomic.Pointer[map[catalog.Name]*ring] // replaced, never changed

	mu    sync.Mutex // held by who replaces rings
	swept uint64     // the second at which room was made last
}

// ring has a place for each second of the window. A place holds the second that it counts, from
// 1 on, in its upper half and the number of calls in its lower half.
type ring [window]atomic.Uint64

// NewCounter returns a Counter that has counted nothing.
func NewCounter() *Counter {
	c := &Counter{began: time.Now(), seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].rings.Store(&map[catalog.Name]*ring{})
	}
	return c
}

// second gives now in seconds since the counter began, from 1 on.
func (c *Counter) second() uint64 { return 1 + uint64(time.Since(c.began)/time.Second) }

// Add counts one call. It should be called once for each call of an application, whatever becomes of
// it, and not for each attempt, with names only that somebody lists: what a caller makes up is
// nobody's traffic.
func (c *Counter) Add(n catalog.Name) {
	at := c.second()
	s := &c.shards[maphash.Comparable(c.seed, n)%shards]
	r := (*s.rings.Load())[n]
	if r == nil {
		r = s.make(n, at)
	}
	if r != nil {
		r.add(at)
	}
}

// make gives a service its ring; nil where there is no room, which takes more services than an
// agent's applications call.
func (s *shard) make(n catalog.Name, at uint64) *ring {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := *s.rings.Load()
	if r := have[n]; r != nil {
		return r
	}
	if len(have) >= maxNames && s.swept == at {
		return nil // there was no room in this second already
	}
	next := maps.Clone(have)
	if len(next) >= maxNames {
		s.swept = at
		maps.DeleteFunc(next, func(_ catalog.Name, r *ring) bool { return r.sum(at) == 0 })
	}
	if len(next) >= maxNames {
		return nil
	}
	r := &ring{}
	next[n] = r
	s.rings.Store(&next)
	return r
}

func (r *ring) add(at uint64) {
	place := &r[at%window]
	for {
		old := place.Load()
		next := old + 1
		if old>>32 != at {
			next = at<<32 | 1
		}
		if place.CompareAndSwap(old, next) {
			return
		}
	}
}

// sum counts the calls of the window that ends with the second at.
func (r *ring) sum(at uint64) uint64 {
	total := uint64(0)
	for i := range r {
		if v := r[i].Load(); v>>32+window > at {
			total += v & (1<<32 - 1)
		}
	}
	return total
}

// Calls gives how many calls of each service there were in the last minute, those with none left
// out.
func (c *Counter) Calls() map[catalog.Name]uint64 {
	at := c.second()
	out := map[catalog.Name]uint64{}
	for i := range c.shards {
		for n, r := range *c.shards[i].rings.Load() {
			if calls := r.sum(at); calls > 0 {
				out[n] = calls
			}
		}
	}
	return out
}
