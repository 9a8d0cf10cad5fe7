package pick

import (
	"time"

	"github.com/farcall/farcall/strategy"
)

// maxWeight bounds a candidate's weight: 2^32 times 100 for the warm-up leaves room for 2^25
// candidates in 64 bits.
const maxWeight = 1 << 32

// weights gives the effective weight of each candidate, and when they change; zero for never.
func (cfg *Config) weights(list []Candidate) ([]uint64, time.Time) {
	weights := make([]uint64, len(list))
	for i := range list {
		weights[i] = min(list[i].Weight, maxWeight)
		if cfg.Balancer == strategy.Random {
			weights[i] = 1
		}
	}
	if cfg.WarmUp <= 0 {
		return weights, time.Time{}
	}
	first, left := cfg.warmth(list[0].Load)
	mixed := false
	for i := range list {
		percent, more := cfg.warmth(list[i].Load)
		mixed = mixed || percent != first
		left = max(left, more)
		weights[i] *= percent
	}
	if !mixed {
		return weights, time.Time{}
	}
	return weights, cfg.Now.Add(min(left, max(cfg.WarmUp/10, 1)))
}

// warmth gives the percentage of its weight that an instance has, and how long it takes until that
// is 100.
func (cfg *Config) warmth(l *Load) (percent uint64, left time.Duration) {
	if l.Since.IsZero() {
		return 100, 0
	}
	// A clock that was set back leaves it as new as it can be.
	age := max(cfg.Now.Sub(l.Since), 0)
	if age >= cfg.WarmUp {
		return 100, 0
	}
	return 10 + uint64(90*float64(age)/float64(cfg.WarmUp)), cfg.WarmUp - age
}
