package guard

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// before reads "cart/1 [cart/2] [cart/3 5s]": in brackets what was held, with the time it has left
// where that is not ten seconds.
func before(words string) Before {
	var b Before
	for _, part := range strings.SplitAfter(strings.ReplaceAll(words, "[", "|["), "|") {
		part = strings.Trim(part, "| ")
		if in, ok := strings.CutPrefix(part, "["); ok {
			in, rest, _ := strings.Cut(in, "]")
			id, left, _ := strings.Cut(in, " ")
			d, err := time.ParseDuration(left)
			if err != nil {
				d = 10 * time.Second
			}
			i := inst(id)
			b.Instances = append(b.Instances, i)
			b.Holds = append(b.Holds, Hold{ID: i.ID, Since: start.Add(-time.Hour), Until: start.Add(d), Reason: Burst, Detail: "before"})
			part = rest
		}
		for _, w := range strings.Fields(part) {
			b.Instances = append(b.Instances, inst(w))
		}
	}
	return b
}

// gone adds that these, and nothing else, were let go.
func (b Before) gone(words string) Before {
	b.Gone = func(id catalog.ID) bool {
		return slices.ContainsFunc(strings.Fields(words), func(w string) bool { return inst(w).ID == id })
	}
	return b
}

// without takes an instance out of those believed, and leaves its hold.
func (b Before) without(id string) Before {
	b.Instances = slices.DeleteFunc(b.Instances, func(in *catalog.Instance) bool { return in.ID == inst(id).ID })
	return b
}

func TestAdopt(t *testing.T) {
	const s = time.Second
	adopt := func(b Before) func(*Registry) Changes {
		return func(r *Registry) Changes { return r.Adopt(start, b) }
	}
	reads := func(at time.Duration, u catalog.Update) func(*Registry) Changes {
		return func(r *Registry) Changes { return r.Apply(start.Add(at), u) }
	}
	expire := func(at time.Duration) func(*Registry) Changes {
		return func(r *Registry) Changes { return r.Expire(start.Add(at)) }
	}
	type step struct {
		do            func(*Registry) Changes
		want, changed string
	}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"an unchanged registry changes nothing", []step{
			{adopt(before("cart/1 cart/2 order/1")), "cart/1 cart/2 | order/1", "cart order"},
			{reads(0, full("a: cart/1 cart/2 order/1")), "cart/1 cart/2 | order/1", ""},
		}},
		{"a registry emptied meanwhile lost its whole catalogue", []step{
			{adopt(before(many("cart", 6))), many("cart", 6), "cart"},
			{reads(s, full()), "[cart/1] [cart/2] [cart/3] [cart/4] [cart/5] [cart/6]", ""},
			{expire(61*s - 1), "[cart/1] [cart/2] [cart/3] [cart/4] [cart/5] [cart/6]", ""},
			{expire(61 * s), "", "cart"},
		}},
		{"a part that is gone is a burst, a few go", []step{
			{adopt(before(many("cart", 8))), many("cart", 8), "cart"},
			{reads(0, full("a: cart/1")), "cart/1 [cart/7] [cart/8]", "cart"},
		}},
		{"a reset holds all", []step{
			{adopt(before("cart/1 cart/2")), "cart/1 cart/2", "cart"},
			{reads(0, reset(full("a: cart/1"))), "cart/1 [cart/2]", ""},
		}},
		{"an edit of a file is explicit, also one that nobody saw being made", []step{
			{adopt(before(many("cart", 8))), many("cart", 8), "cart"},
			{reads(0, explicit(full("a: cart/1"))), "cart/1", "cart"},
		}},
		{"what was held stays so and is not judged again", []step{
			{adopt(before("cart/1 [cart/2] [cart/3 20s]")), "cart/1 [cart/2] [cart/3]", "cart"},
			{reads(0, full("a: cart/1")), "cart/1 [cart/2] [cart/3]", ""},
			{expire(10 * s), "cart/1 [cart/3]", "cart"},
			{expire(20 * s), "cart/1", "cart"},
		}},
		{"what was held and is stated has returned", []step{
			{adopt(before("[cart/1] [cart/2]")), "[cart/1] [cart/2]", "cart"},
			{reads(0, full("a: cart/2:81")), "[cart/1] cart/2:81", "cart"},
		}},
		{"what a read states is believed rather, in whatever order", []step{
			{reads(0, read("a: cart/1:81")), "cart/1:81", "cart"},
			{adopt(before("cart/1 cart/2")), "cart/1:81 cart/2", "cart"},
			{reads(0, read("a: cart/1:82")), "cart/1:82 cart/2", "cart"},
			{reads(0, full("a: cart/1:82 cart/2")), "cart/1:82 cart/2", ""},
		}},
		{"a hold of what is listed by somebody else's word holds nothing here", []step{
			{adopt(before("cart/1 cart/2")), "cart/1 cart/2", "cart"},
			{adopt(before("cart/1 [cart/2]").without("cart/2")), "cart/1 cart/2", ""},
			{reads(0, full("a: cart/1")), "cart/1", "cart"},
		}},
		{"once it was read, only holds are taken over", []step{
			{reads(0, full("a: cart/1")), "cart/1", "cart"},
			{adopt(before("cart/1 cart/2 [cart/3] order/1")), "cart/1 [cart/3]", "cart"},
		}},
		{"what is stated is not held", []step{
			{reads(0, full("a: cart/1")), "cart/1", "cart"},
			{adopt(before("[cart/1]")), "cart/1", ""},
		}},
		{"a hold of both ends with the later one", []step{
			{reads(0, full("a: "+many("cart", 6))), many("cart", 6), "cart"},
			{reads(0, full("a: cart")), "[cart/1] [cart/2] [cart/3] [cart/4] [cart/5] [cart/6]", ""},
			{adopt(before("[cart/1 70s] [cart/2 5s]")), "[cart/1] [cart/2] [cart/3] [cart/4] [cart/5] [cart/6]", ""},
			{expire(60 * s), "[cart/1]", "cart"},
			{expire(70 * s), "cart: empty", "cart"},
		}},
		{"what was let go there is let go here", []step{
			{reads(0, full("a: "+many("cart", 7)+" order/1")), many("cart", 7) + " | order/1", "cart order"},
			{reads(0, full("a: cart/1")), "cart/1 [cart/7] | [order/1]", "cart"},
			{adopt(before("[order/1]").gone("cart/1 cart/7")), "cart/1 | [order/1]", "cart"},
		}},
		{"what is adopted again replaces what was, where it was let go", []step{
			{adopt(before("cart/1 cart/2 cart/3 [cart/4]")), "cart/1 cart/2 cart/3 [cart/4]", "cart"},
			{adopt(before("cart/1 [cart/2] cart/5").gone("cart/3 cart/4")), "cart/1 [cart/2] cart/5", "cart"},
			{reads(0, full("a: cart/5")), "[cart/2] cart/5", "cart"},
		}},
		{"and adds to it, where that is not known", []step{
			{adopt(before("cart/1 cart/2 [cart/3]")), "cart/1 cart/2 [cart/3]", "cart"},
			{adopt(before("[cart/2] cart/3:81 cart/4")), "cart/1 [cart/2] cart/3:81 cart/4", "cart"},
		}},
		{"holds end in the order of their ends, wherever they come from", []step{
			{reads(0, full("a: "+many("cart", 6))), many("cart", 6), "cart"},
			{adopt(before("[order/1 90s] [order/2 30s]")), many("cart", 6) + " | [order/1] [order/2]", "order"},
			{reads(0, full("a: cart")), "[cart/1] [cart/2] [cart/3] [cart/4] [cart/5] [cart/6] | [order/1] [order/2]", ""},
			{adopt(before("[order/3 10s]")), "[cart/1] [cart/2] [cart/3] [cart/4] [cart/5] [cart/6] | [order/1] [order/2] [order/3]", "order"},
			{expire(10 * s), "[cart/1] [cart/2] [cart/3] [cart/4] [cart/5] [cart/6] | [order/1] [order/2]", "order"},
			{expire(30 * s), "[cart/1] [cart/2] [cart/3] [cart/4] [cart/5] [cart/6] | [order/1]", "order"},
			{expire(60 * s), "cart: empty | [order/1]", "cart"},
			{expire(90 * s), "cart: empty", "order"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := New(Config{})
			for n, s := range tt.steps {
				changed := s.do(r)
				var services []string
				for name := range changed {
					services = append(services, name.Service)
				}
				slices.Sort(services)
				if got := golden(r); got != s.want || strings.Join(services, " ") != s.changed {
					t.Fatalf("step %d: believed is %q, want %q; changed %v, want %q", n, got, s.want, services, s.changed)
				}
			}
			if seen := r.Removals(); seen.Held != seen.Returned+seen.Expired+seen.Released+seen.Confirmed+uint64(r.Counts().Held)+endedOtherwise(r, seen) {
				t.Errorf("the counts do not add up: %+v", seen)
			}
		})
	}
}

// endedOtherwise is how many holds ended explicitly, or because they were let go elsewhere. Of those
// two counts, not all are of holds.
func endedOtherwise(r *Registry, seen Removals) uint64 {
	rest := seen.Held - seen.Returned - seen.Expired - seen.Released - seen.Confirmed - uint64(r.Counts().Held)
	return min(rest, seen.Explicit+seen.Followed)
}

// What was adopted is not confirmed by reads where it was doubted, nor by the very next ones.
func TestAdoptedHoldsAreConfirmedAsOthers(t *testing.T) {
	for _, doubted := range []bool{false, true} {
		r := New(Config{})
		b := before("cart/1 cart/2 [cart/3 1h]")
		b.Holds[0].Doubted = doubted
		r.Adopt(start, b)
		r.Apply(start, full("a: cart/1 cart/2"))
		for at := range 40 {
			r.Confirm(start.Add(time.Duration(at) * time.Second))
			confirmed, want := r.Counts().Held == 0, !doubted && at > 30
			if confirmed && !want || want && !confirmed {
				t.Fatalf("doubted %t: after %d s confirmed is %t", doubted, at, confirmed)
			}
		}
	}
}

var (
	errLostByRestart = errors.New("a guard that begins anew believes what the one before did")
	errShortened     = errors.New("a guard that begins anew holds at least as long")
	errLetGo         = errors.New("a guard that begins anew lets no more go than Floor beyond the one before")
)

// begin makes a guard that goes on from where another is, with the time that it takes to write down
// and to begin: the clock of the new one is ahead by the pause, and what it has left is what was left.
func begin(cfg Config, old *Registry, now time.Time, pause time.Duration) *Registry {
	var b Before
	for _, n := range old.Names() {
		list, _ := old.List(n)
		b.Instances = append(b.Instances, list...)
	}
	for _, h := range old.Holds() {
		h.Since, h.Until = h.Since.Add(pause), h.Until.Add(pause)
		b.Holds = append(b.Holds, h)
	}
	r := New(cfg)
	r.Adopt(now.Add(pause), b)
	return r
}

// restarts plays a history of one source, in which the process begins anew now and then: beside it
// runs a guard that never does.
func restarts(data []byte) error {
	cfg := Config{Hold: 20 * time.Second, Floor: 2, Window: 5 * time.Second}
	steady, restarted := New(cfg), New(cfg)
	now, bits := start, 255
	for len(data) > 1 {
		what, n := data[0], int(data[1])
		data = data[2:]
		switch {
		case what%4 == 0:
			bits = n
		case what%4 == 1:
			now = now.Add(time.Duration(n%8) * time.Second)
		}
		u := catalog.Update{Full: true, Explicit: what == 255, Snapshots: []catalog.Snapshot{randomSnapshot("0", bits, 0)}}
		_, before := lists(restarted)
		if what%8 > 5 {
			next := begin(cfg, restarted, now, time.Duration(n)*time.Second)
			now = now.Add(time.Duration(n) * time.Second)
			if _, after := lists(next); len(after) != len(before) {
				return fmt.Errorf("%w: %d became %d", errLostByRestart, len(before), len(after))
			}
			left := map[catalog.ID]time.Time{}
			for _, h := range next.Holds() {
				left[h.ID] = h.Until
			}
			for _, h := range restarted.Holds() {
				if left[h.ID].Before(h.Until) {
					return fmt.Errorf("%w: %s", errShortened, h.ID)
				}
			}
			restarted = next
		}
		steady.Apply(now, u)
		restarted.Apply(now, u)
		steady.Expire(now)
		restarted.Expire(now)
		_, of := lists(steady)
		_, have := lists(restarted)
		lost := 0
		for id := range before {
			if have[id] == nil && of[id] != nil {
				lost++
			}
		}
		if lost > cfg.Floor {
			return fmt.Errorf("%w: %d", errLetGo, lost)
		}
	}
	return nil
}

func FuzzRestarts(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		history := make([]byte, 200)
		for i := range history {
			history[i] = byte(r.Uint32())
		}
		f.Add(history)
	}
	f.Fuzz(func(t *testing.T, history []byte) {
		if err := restarts(history[:min(len(history), 2000)]); err != nil {
			t.Error(err)
		}
	})
}

// That who decides listed an instance during its hold is known in the next life, too: where it is
// listed there no more by then, it was let go.
func TestWhatWasListedMeanwhileIsFollowed(t *testing.T) {
	for _, listed := range []bool{false, true} {
		r := New(Config{})
		b := before("cart/1 [cart/2]")
		b.Holds[0].Listed = listed
		r.Adopt(start, b)
		r.Review(start, func(catalog.ID) Word { return Unlisted })
		if gone := r.Counts().Held == 0; gone != listed {
			t.Errorf("listed %t: gone %t", listed, gone)
		}
	}
	r := New(Config{})
	r.Adopt(start, before("cart/1 [cart/2]"))
	r.Review(start, func(catalog.ID) Word { return Listed })
	if h := r.Holds(); len(h) != 1 || !h[0].Listed {
		t.Errorf("held is %v", h)
	}
}
