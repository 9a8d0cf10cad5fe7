package pick

import "github.com/farcall/farcall/internal/catalog"

// Call is what one call carries from attempt to attempt: the instances it has used already, the
// tier its first attempt drew, and its key. The zero value is ready. It remembers identities, so
// that it holds for every Picker, also one made between two attempts. Not safe for concurrent use.
type Call struct {
	n     int
	tier  int // 1 + the index of the tier where its attempts begin; 0 before the first
	keyed bool
	key   uint64
	first [4]*catalog.Instance // as many as nearly every call needs: no allocation
	more  []*catalog.Instance
}

// SetKey gives the call the key that decides where strategy.RingHash sends it, a header's value; an
// empty one is a key too. Other balancers do not look at it. It is set before the first attempt.
func (c *Call) SetKey(key string) { c.key, c.keyed = mix(hash(hashBasis, key)), true }

// Add remembers an instance. Adding it again changes nothing.
func (c *Call) Add(i *catalog.Instance) {
	switch {
	case c.has(i):
		return
	case c.n < len(c.first):
		c.first[c.n] = i
	default:
		c.more = append(c.more, i)
	}
	c.n++
}

// Len counts the instances.
func (c *Call) Len() int { return c.n }

// used reports whether there is any; there is none for nil.
func (c *Call) used() bool { return c != nil && c.n > 0 }

func (c *Call) has(i *catalog.Instance) bool {
	for _, o := range c.first[:min(c.n, len(c.first))] {
		if same(i, o) {
			return true
		}
	}
	for _, o := range c.more {
		if same(i, o) {
			return true
		}
	}
	return false
}

// same compares identities; the instance's own id first, which is what mostly differs.
func same(a, b *catalog.Instance) bool {
	return a == b || a.ID.Instance == b.ID.Instance && a.ID == b.ID
}
