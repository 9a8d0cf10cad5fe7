package pick

import "github.com/farcall/farcall/internal/catalog"

// Tried are the instances that a call has used already. The zero value is empty. It remembers
// identities, so that it holds for every Picker, also one made between two attempts. Not safe for
// concurrent use; it belongs to one call.
type Tried struct {
	n     int
	first [4]*catalog.Instance // as many as nearly every call needs: no allocation
	more  []*catalog.Instance
}

// Add remembers an instance. Adding it again changes nothing.
func (t *Tried) Add(i *catalog.Instance) {
	switch {
	case t.has(i):
		return
	case t.n < len(t.first):
		t.first[t.n] = i
	default:
		t.more = append(t.more, i)
	}
	t.n++
}

// Len counts the instances.
func (t *Tried) Len() int { return t.n }

func (t *Tried) has(i *catalog.Instance) bool {
	for _, o := range t.first[:min(t.n, len(t.first))] {
		if same(i, o) {
			return true
		}
	}
	for _, o := range t.more {
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
