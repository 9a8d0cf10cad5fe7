package relay

import (
	"sync"
	"sync/atomic"
	"time"
)

// The retries that all calls of an agent may share: a tenth of the calls and ten a second on top,
// with at most ten seconds' worth of the latter saved up.
const (
	budgetPerCall   = 0.1
	budgetPerSecond = 10
	budgetMax       = 100
)

// budget bounds how much retries add to the load of those who are in trouble already.
type budget struct {
	calls atomic.Int64 // since the last take

	mu     sync.Mutex // guards what follows
	tokens float64
	last   time.Time
}

func newBudget(now time.Time) *budget { return &budget{tokens: budgetPerSecond, last: now} }

// call accounts for a call, which is what retries are a share of.
func (b *budget) call() { b.calls.Add(1) }

// take reports whether a retry is within the budget, and if so takes it.
func (b *budget) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens += budgetPerCall * float64(b.calls.Swap(0))
	if d := now.Sub(b.last); d > 0 {
		b.tokens += budgetPerSecond * d.Seconds()
		b.last = now
	}
	b.tokens = min(b.tokens, budgetMax)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
