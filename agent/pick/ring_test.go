package pick

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/farcall/farcall/strategy"
)

// ownersOf gives for each key the place (Port) of the instance that has it.
func ownersOf(list []Candidate, keys int) []int {
	p := one(strategy.RingHash, list)
	out := make([]int, keys)
	for i := range out {
		var call Call
		call.SetKey(fmt.Sprintf("user-%d", i))
		got, _ := p.Pick(&call)
		out[i] = got.Instance.Port
	}
	return out
}

func TestRingSharesByWeight(t *testing.T) {
	for _, weights := range append([][]uint64{equal(10), equal(100)}, weightSets...) {
		owners := ownersOf(candidates("i", weights...), 200_000)
		counts, total := make([]float64, len(weights)), 0.0
		for _, o := range owners {
			counts[o]++
		}
		for _, w := range weights {
			total += float64(w)
		}
		for i, w := range weights {
			share := float64(w) / total
			// The ring has 2^14 parts, each of which has its owner by chance; so have the keys.
			sigma := math.Sqrt(share * (1 - share) * (1.0/minParts + 1.0/200_000))
			if got := counts[i] / 200_000; math.Abs(got-share) > 5*sigma {
				t.Errorf("weights %v: instance %d has %.4f of the keys, its share is %.4f", weights, i, got, share)
			}
			if w == 0 && counts[i] > 0 {
				t.Errorf("weights %v: weight 0 has keys", weights)
			}
		}
	}
}

// With many instances a share is less even, but nobody has a multiple of it.
func TestLargeRing(t *testing.T) {
	const n, keys = 5000, 500_000
	counts := make([]int, n)
	for _, o := range ownersOf(candidates("i", equal(n)...), keys) {
		counts[o]++
	}
	slices.Sort(counts)
	if low, high := counts[n/100], counts[n-1]; low < keys/n/5 || high > keys/n*4 {
		t.Errorf("all but 1 %% have at least %d keys, one has %d; a share is %d", low, high, keys/n)
	}
}

func TestRingIsTheSameForEveryAgent(t *testing.T) {
	weights := []uint64{3, 1, 1, 7, 2, 2, 5, 1}
	want := ownersOf(candidates("i", weights...), 10_000)
	random := rand.New(rand.NewPCG(1, 2))
	for range 5 {
		list := candidates("i", weights...)
		random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		for i := range list {
			list[i].Weight *= 6 // only proportions count
			list[i].Dial, list[i].Local = "elsewhere", i%2 == 0
			list[i].Load.outstanding.Store(int32(i))
		}
		if got := ownersOf(list, 10_000); !slices.Equal(got, want) {
			t.Fatal("the order of the candidates changed who has which key")
		}
	}
	// Agents of different versions serve one federation: what follows is never to change.
	if got, pinned := fmt.Sprint(want[:24]), "[6 6 0 3 4 3 6 6 3 3 3 6 6 4 0 6 6 3 3 6 4 3 4 3]"; got != pinned {
		t.Errorf("the first keys are at %s, they were at %s", got, pinned)
	}
}

// moved counts the keys whose owner differs, except those that were or are at the place.
func moved(before, after []int, place int) (others, own int) {
	for i := range before {
		switch {
		case before[i] == after[i]:
		case before[i] == place || after[i] == place:
			own++
		default:
			others++
		}
	}
	return others, own
}

func TestOneThatGoesMovesItsShareOnly(t *testing.T) {
	const keys = 200_000
	for _, c := range []struct {
		n int
		// others is how much of one share may move between those that stay.
		others float64
	}{{2, 0}, {3, 0.03}, {4, 0.03}, {10, 0.03}, {11, 0.03}, {100, 0.06}, {2000, 0.2}, {5000, 1}} {
		list := candidates("i", equal(c.n)...)
		gone := c.n / 3
		before := ownersOf(list, keys)
		after := ownersOf(slices.Delete(slices.Clone(list), gone, gone+1), keys)
		others, own := moved(before, after, gone)
		share := keys / float64(c.n)
		if float64(others) > c.others*share {
			t.Errorf("%d instances, one goes: %d keys moved between the others, a share is %.0f", c.n, others, share)
		}
		if sigma := math.Sqrt(share + share*share*float64(c.n)/float64(max(minParts, partsEach*c.n))); math.Abs(float64(own)-share) > 5*sigma {
			t.Errorf("%d instances, one goes: %d of its keys moved, a share is %.0f", c.n, own, share)
		}
	}
}

func TestAnotherWeightMovesKeysOfThatOneOnly(t *testing.T) {
	list := candidates("i", 5, 1, 1, 3, 4, 2, 1, 1)
	before := ownersOf(list, 100_000)
	for _, weight := range []uint64{1, 8, 50} {
		changed := slices.Clone(list)
		changed[4].Weight = weight
		others, own := moved(before, ownersOf(changed, 100_000), 4)
		if others > 400 || own < 1000 {
			t.Errorf("weight 4 became %d: %d keys moved to or from it, %d between the others", weight, own, others)
		}
	}
}

func TestRetriesFollowTheRing(t *testing.T) {
	list := candidates("i", 1, 1, 2, 1, 3, 1)
	turned := candidates("i", 1, 1, 2, 1, 3, 1)
	slices.Reverse(turned)
	a, b := one(strategy.RingHash, list), one(strategy.RingHash, turned)
	second := map[string]map[string]bool{}
	for n := range 500 {
		var one, other Call
		one.SetKey(fmt.Sprint(n))
		other.SetKey(fmt.Sprint(n))
		var order []string
		for {
			x, okX := a.Pick(&one)
			y, okY := b.Pick(&other)
			if okX != okY || okX && x.Instance.ID != y.Instance.ID {
				t.Fatal("two agents retry differently")
			}
			if !okX {
				break
			}
			one.Add(x.Instance)
			other.Add(y.Instance)
			order = append(order, x.Instance.Instance)
		}
		if len(order) != len(list) {
			t.Fatalf("%d attempts for %d instances", len(order), len(list))
		}
		if second[order[0]] == nil {
			second[order[0]] = map[string]bool{}
		}
		second[order[0]][order[1]] = true
	}
	for first, next := range second {
		if len(next) != len(list)-1 {
			t.Errorf("retries after %s all go to %d of the others", first, len(next))
		}
	}
}

func TestKeysStayInTheirTier(t *testing.T) {
	const keys = 20_000
	tiers := func(share float64) *Picker {
		return New(Config{Balancer: strategy.RingHash}, tiersOf(share, 100-share))
	}
	p, more, first := tiers(60), tiers(70), 0
	for n := range keys {
		var ids [3]string
		for i, picker := range []*Picker{p, p, more} {
			var call Call
			call.SetKey(fmt.Sprint(n))
			got, _ := picker.Pick(&call)
			ids[i] = got.Instance.Instance
			if i == 0 && got.Tier == 0 {
				first++
			}
		}
		if ids[0] != ids[1] {
			t.Fatalf("key %d went to %s, and then to %s", n, ids[0], ids[1])
		}
		if ids[0][0] == '0' && ids[2] != ids[0] {
			t.Fatalf("key %d left the tier whose share grew", n)
		}
	}
	binomial(t, "keys of the first tier", first, keys, 0.6)
}

func TestCallsWithoutAKeyAreDrawnByWeight(t *testing.T) {
	p, counts := one(strategy.RingHash, candidates("i", 1, 2, 5)), make([]int, 3)
	const draws = 100_000
	for n := range draws {
		call := new(Call)
		if n%2 == 0 {
			call = nil
		}
		got, _ := p.Pick(call)
		counts[got.Instance.Port]++
	}
	for i, w := range []float64{1, 2, 5} {
		if got := float64(counts[i]) / draws; math.Abs(got-w/8) > 0.025 {
			t.Errorf("instance %d of weight %v had %.3f of the calls", i, w, got)
		}
	}
	var empty Call
	empty.SetKey("")
	first, _ := p.Pick(&empty)
	for range 20 {
		if got, _ := p.Pick(&empty); got.Instance != first.Instance {
			t.Fatal("an empty key is a key")
		}
	}
}

func TestSeedsTellIdentitiesApart(t *testing.T) {
	base := candidates("i", 1)[0].Instance
	seen := map[uint64]bool{seed(base): true}
	for _, change := range []struct{ cluster, namespace, service, instance string }{
		{"west", "default", "cart", "i-0"}, {"east", "shop", "cart", "i-0"}, {"east", "default", "art", "i-0"},
		{"east", "default", "cart", "i-1"}, {"eastd", "efault", "cart", "i-0"}, {"east", "default", "carti", "-0"},
		{"", "eastdefault", "cart", "i-0"},
	} {
		i := *base
		i.Cluster, i.Namespace, i.Service, i.ID.Instance = change.cluster, change.namespace, change.service, change.instance
		if s := seed(&i); seen[s] {
			t.Errorf("%+v has the seed of another", change)
		} else {
			seen[s] = true
		}
	}
}

func FuzzRing(f *testing.F) {
	f.Add([]byte{1, 2, 3}, "key")
	f.Add([]byte{0, 255}, "")
	f.Add([]byte{255, 1, 1, 1, 0, 9}, "\xff\x00")
	f.Fuzz(func(t *testing.T, data []byte, key string) {
		var weights []uint64
		for _, b := range data[:min(len(data), 30)] {
			weights = append(weights, uint64(b)<<(b%33))
		}
		list := candidates("i", weights...)
		p := one(strategy.RingHash, list)
		usable := 0
		for _, w := range weights {
			if w > 0 {
				usable++
			}
		}
		var call, again Call
		call.SetKey(key)
		again.SetKey(key)
		slices.Reverse(list)
		turned := one(strategy.RingHash, list)
		for range usable {
			a, okA := p.Pick(&call)
			b, okB := turned.Pick(&again)
			if !okA || !okB || a.Instance != b.Instance || a.Weight == 0 {
				t.Fatalf("weights %v, key %q: %v %v", weights, key, okA, okB)
			}
			call.Add(a.Instance)
			again.Add(b.Instance)
		}
		if _, ok := p.Pick(&call); ok {
			t.Fatalf("weights %v: more than %d were picked", weights, usable)
		}
	})
}

// Pickers of the same instances and weights have one ring; any other is made, and goes with its
// Pickers.
func TestRingsAreFoundAgain(t *testing.T) {
	var rings Rings
	of := func(tiers ...[]Candidate) *Picker {
		var in []Tier
		for _, list := range tiers {
			in = append(in, Tier{Share: 50, Groups: groupOf(list)})
		}
		return New(Config{Balancer: strategy.RingHash, Rings: &rings}, in)
	}
	list := candidates("i", 1, 2, 3)
	first := of(list)
	reversed := slices.Clone(list)
	slices.Reverse(reversed)
	if of(reversed).groups[0].ring != first.groups[0].ring {
		t.Error("the same instances and weights have another ring")
	}
	other := candidates("j", 1, 2, 3)
	if again := of(other, list); again.groups[1].ring != first.groups[0].ring || again.groups[0].ring == first.groups[0].ring {
		t.Error("a ring is not found in another tier, or that of others is")
	}
	for name, list := range map[string][]Candidate{"weights": candidates("i", 1, 2, 4), "one gone": candidates("i", 1, 2), "one more": candidates("i", 1, 2, 3, 1)} {
		p, alone := of(list), one(strategy.RingHash, list)
		if p.groups[0].ring == first.groups[0].ring || !slices.Equal(p.groups[0].ring.owners, alone.groups[0].ring.owners) {
			t.Errorf("%s: another's ring", name)
		}
	}
	runtime.KeepAlive(first)
	runtime.GC()
	runtime.GC()
	last := of(list)
	if len(rings.made) != 1 {
		t.Errorf("%d rings are remembered, one is in use", len(rings.made))
	}
	runtime.KeepAlive(last)
}
