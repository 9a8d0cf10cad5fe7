package consul

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// seen is what identifies a registry: the ids of Consul's servers, and how far each table's
// index had come.
type seen struct {
	servers map[string]bool // of the last answer that named any
	gone    bool            // Consul's own entry has vanished since
	indexes
}

// indexes are where the tables stand.
type indexes struct{ services, checks, nodes uint64 }

// identify takes the ids of the servers that Consul lists under its own name and says in words
// why that looks like another registry, or nothing. A catalogue that never listed its servers
// (a token may not see them) says nothing about its identity.
func (s *seen) identify(servers []string) string {
	if len(servers) == 0 {
		if len(s.servers) == 0 || s.gone {
			return ""
		}
		s.gone = true
		return "consul's own entry vanished"
	}
	before := s.servers
	s.servers, s.gone = make(map[string]bool, len(servers)), false
	known := len(before) == 0
	for _, id := range servers {
		s.servers[id] = true
		known = known || before[id]
	}
	if known {
		return ""
	}
	return fmt.Sprintf("identity changed: none of its %d servers is one of the %d before", len(servers), len(before))
}

// advance takes the index of an answer about one table and says in words if it went backwards,
// which an index does only where the state behind it is another one (restored, wiped,
// restarted without a disk). Consul's rule is to ask from 0 then.
func advance(table string, held *uint64, got uint64) string {
	before := *held
	*held = got
	if got < before {
		return fmt.Sprintf("index of %s went backwards from %d to %d", table, before, got)
	}
	return ""
}

// backoff gives growing pauses with jitter. The zero value is ready.
type backoff struct{ d time.Duration }

const (
	backoffFirst = 100 * time.Millisecond
	backoffMost  = 2 * time.Second
)

// next gives the next pause: between half and the whole of a span that doubles.
func (b *backoff) next() time.Duration {
	b.d = min(max(2*b.d, backoffFirst), backoffMost)
	return jitter(b.d)
}

// jitter gives between half of d and d.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }
