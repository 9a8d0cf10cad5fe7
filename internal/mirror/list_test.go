package mirror

import (
	"fmt"
	"math/rand/v2"
	"testing"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
)

// Clusters are described every second, so instances are counted as they come and go.
func TestInstancesAreCounted(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	r := newRig(t)
	r.list("one", r.synced("east", 1))
	counted := func(after string) {
		t.Helper()
		list, _ := r.m.Instances("east", cart)
		if got := r.m.Clusters(start)[0]; got.Instances != len(list) {
			t.Fatalf("%s: %d instances are counted, and %d listed", after, got.Instances, len(list))
		}
	}
	for n := range uint64(500) {
		var batch []*feedv1.Entry
		for range 1 + random.IntN(3) {
			var ids []string
			for id := range 6 {
				if random.IntN(2) == 0 {
					ids = append(ids, fmt.Sprint("i", id))
				}
			}
			e := r.slice("east", uint32(random.IntN(3)), 1, n+1, ids...)
			if random.IntN(4) == 0 {
				e = deleted(e)
			}
			batch = append(batch, e)
		}
		if random.IntN(10) > 0 {
			r.apply(batch...)
			counted("a change")
			continue
		}
		r.list("one", append(batch, r.synced("east", 1))...)
		counted("a list")
	}
}

// A list of a replica that is behind names the marker of a cluster, and not the slices that its owner has
// written since: they stay.
func TestOlderListSweepsNoYoungerSliceOfWhatItNames(t *testing.T) {
	r := newRig(t)
	before := []*feedv1.Entry{r.slice("east", 0, 1, 1, "a"), r.synced("east", 1)}
	then := r.rev
	r.list("s1", before...)
	r.apply(r.slice("east", 1, 1, 2, "b"))
	r.m.Begin("s1")
	r.m.Apply(start, before, then)
	r.m.End(then)
	r.want("east", "a b")
}
