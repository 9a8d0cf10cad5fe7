package guard

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// does is one thing that happens to a Registry under test, at a time after start.
type does struct {
	at   time.Duration
	what func(r *Registry, now time.Time) Changes
	want string // as golden has it
}

func reads(at time.Duration, u catalog.Update, want string) does {
	return does{at, func(r *Registry, now time.Time) Changes {
		changed := r.Apply(now, u)
		for n, ids := range r.Confirm(now) {
			changed[n] = append(changed[n], ids...)
		}
		return changed
	}, want}
}

func confirms(at time.Duration, want string) does {
	return does{at, (*Registry).Confirm, want}
}

func fails(at time.Duration, want string) does {
	return does{at, func(r *Registry, _ time.Time) Changes { r.Interrupt(); return nil }, want}
}

func expires(at time.Duration, want string) does {
	return does{at, (*Registry).Expire, want}
}

// reviews is a Review in which who decides lists the words in listed, those in unlisted not, and is
// silent of others.
func reviews(at time.Duration, listed, unlisted, want string) does {
	return does{at, func(r *Registry, now time.Time) Changes {
		return r.Review(now, func(id catalog.ID) Word {
			word := id.Service + "/" + id.Instance
			switch {
			case slices.Contains(strings.Fields(listed), word):
				return Listed
			case slices.Contains(strings.Fields(unlisted), word):
				return Unlisted
			}
			return Silent
		})
	}, want}
}

func play(t *testing.T, r *Registry, steps []does) {
	t.Helper()
	for i, st := range steps {
		before, _ := lists(r)
		changed := st.what(r, start.Add(st.at))
		if got := golden(r); got != st.want {
			t.Fatalf("step %d: believed is\n%s, want\n%s", i, got, st.want)
		}
		if err := (&model{guard: r}).checkChanged(before, changed); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
}

const s = time.Second

func TestConfirmation(t *testing.T) {
	// Eight of cart, of which five go at once and two are held.
	begin := []does{
		reads(0, full("a: "+many("cart", 8)), many("cart", 8)),
		reads(0, read("a: cart/1"), "cart/1 [cart/7] [cart/8]"),
	}
	const held = "cart/1 [cart/7] [cart/8] cart/9"
	grown := append(slices.Clone(begin), reads(0, read("a: cart/1 cart/9"), held))
	for _, tt := range []struct {
		name  string
		begin []does
		steps []does
	}{
		{"three reads over half of the hold", grown, []does{
			confirms(15*s, held), confirms(30*s-1, held), confirms(30*s, "cart/1 cart/9"),
		}},
		{"many reads in less are not enough", grown, []does{
			confirms(1*s, held), confirms(2*s, held), confirms(3*s, held), confirms(29*s, held), expires(59*s, held),
		}},
		{"two reads, however far apart, are not enough", grown, []does{
			confirms(59*s, held), expires(60*s, "cart/1 cart/9"),
		}},
		{"more is held than stated", begin, []does{
			confirms(1*s, "cart/1 [cart/7] [cart/8]"), confirms(20*s, "cart/1 [cart/7] [cart/8]"), confirms(50*s, "cart/1 [cart/7] [cart/8]"),
			reads(51*s, read("a: cart/1 cart/9"), "cart/1 cart/9"),
		}},
		{"a read that fails begins the row anew", grown, []does{
			confirms(15*s, held), fails(29*s, held), confirms(30*s, held), confirms(45*s, held), confirms(59*s, held), confirms(60*s, "cart/1 cart/9"),
		}},
		{"one that returns begins it anew", grown, []does{
			confirms(15*s, held), reads(30*s, read("a: cart/1 cart/9 cart/7"), "cart/1 cart/7 [cart/8] cart/9"),
			confirms(31*s, "cart/1 cart/7 [cart/8] cart/9"), confirms(45*s, "cart/1 cart/7 [cart/8] cart/9"), confirms(59*s, "cart/1 cart/7 [cart/8] cart/9"),
		}},
		{"one more that is lost begins it anew, gone or held", grown, []does{
			confirms(1*s, held), confirms(15*s, held), reads(30*s, read("a: cart/9"), "[cart/7] [cart/8] cart/9"),
			confirms(31*s, "[cart/7] [cart/8] cart/9"), confirms(59*s, "[cart/7] [cart/8] cart/9"),
		}},
		{"an explicit removal does not", grown, []does{
			confirms(1*s, held), reads(15*s, read("b: order/1 order/2"), held+" | order/1 order/2"),
			reads(16*s, explicit(read("b: order/1")), held+" | order/1"), confirms(31*s, "cart/1 cart/9 | order/1"),
		}},
		{"the last of a service is not confirmed", nil, []does{
			reads(0, full("a: "+many("cart", 7), "b: "+many("order", 7)), many("cart", 7)+" | "+many("order", 7)),
			reads(0, read("a: cart", "b: "+many("order", 6)), "[cart/6] [cart/7] | order/1 order/2 order/3 order/4 order/5 order/6 [order/7]"),
			confirms(1*s, "[cart/6] [cart/7] | order/1 order/2 order/3 order/4 order/5 order/6 [order/7]"),
			confirms(2*s, "[cart/6] [cart/7] | order/1 order/2 order/3 order/4 order/5 order/6 [order/7]"),
			confirms(31*s, "[cart/6] [cart/7] | "+many("order", 6)),
			expires(60*s, "cart: empty | "+many("order", 6)),
		}},
		{"a whole catalogue is never confirmed", nil, []does{
			reads(0, full("a: "+many("cart", 6)), many("cart", 6)),
			reads(0, full("a: cart"), "[cart/1] [cart/2] [cart/3] [cart/4] [cart/5] [cart/6]"),
			confirms(1*s, "[cart/1] [cart/2] [cart/3] [cart/4] [cart/5] [cart/6]"),
			confirms(30*s, "[cart/1] [cart/2] [cart/3] [cart/4] [cart/5] [cart/6]"),
			// Nor where the registry has as many others by then.
			reads(31*s, full("a: "+many("cart", 4)+" cart/7 cart/8"), "cart/1 cart/2 cart/3 cart/4 [cart/5] [cart/6] cart/7 cart/8"),
			confirms(32*s, "cart/1 cart/2 cart/3 cart/4 [cart/5] [cart/6] cart/7 cart/8"),
			confirms(33*s, "cart/1 cart/2 cart/3 cart/4 [cart/5] [cart/6] cart/7 cart/8"),
			confirms(59*s, "cart/1 cart/2 cart/3 cart/4 [cart/5] [cart/6] cart/7 cart/8"),
		}},
		{"after a reset nothing is confirmed", grown, []does{
			reads(1*s, reset(full("a: cart/1 cart/9")), held), confirms(2*s, held), confirms(20*s, held), confirms(59*s, held), expires(60*s, "cart/1 cart/9"),
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := New(Config{})
			play(t, r, append(slices.Clone(tt.begin), tt.steps...))
		})
	}
}

func TestReleaseByHand(t *testing.T) {
	r := New(Config{})
	r.Apply(start, full("a: "+many("cart", 4)+" "+many("order", 4)))
	r.Apply(start, full())
	before, _ := lists(r)
	released, changed := r.Release(func(id catalog.ID) bool { return id.Name == name("cart") && id.Instance != "3" })
	if got, want := golden(r), "[cart/3] | [order/1] [order/2] [order/3] [order/4]"; got != want {
		t.Errorf("believed is %s, want %s", got, want)
	}
	if err := (&model{guard: r}).checkChanged(before, changed); err != nil {
		t.Error(err)
	}
	if len(released) != 3 || released[0].ID != inst("cart/1").ID || released[2].ID != inst("cart/4").ID || released[0].Reason != Catalogue {
		t.Errorf("released are %v", released)
	}
	if again, changed := r.Release(func(id catalog.ID) bool { return id == inst("cart/1").ID }); len(again) != 0 || len(changed) != 0 {
		t.Errorf("what is gone was released again: %v", again)
	}
	if got, want := r.Removals(), (Removals{Held: 8, Released: 3}); got != want {
		t.Errorf("removals are %+v, want %+v", got, want)
	}
	// What was released by mistake comes back with the registry, and is no special case then.
	play(t, r, []does{
		reads(1*s, full("a: cart/1"), "cart/1 [cart/3] | [order/1] [order/2] [order/3] [order/4]"),
		expires(60*s, "cart/1"),
	})
}

func TestReview(t *testing.T) {
	// Nine of cart, of which four are held.
	const held = "[cart/6] [cart/7] [cart/8] [cart/9]"
	const all = "cart/6 cart/7 cart/8 cart/9"
	for _, tt := range []struct {
		name  string
		steps []does
	}{
		{"what is listed stays held beyond its time", []does{
			reviews(1*s, all, "", held), reviews(30*s, all, "", held), reviews(31*s, all, "", held), expires(60*s, held),
			reviews(61*s+1, all, "", held), expires(91*s, held), expires(121*s+1, ""),
		}},
		{"what was listed and is no more goes at once", []does{
			reviews(1*s, all, "", held), reviews(2*s, "cart/6 cart/7", "cart/8", "[cart/6] [cart/7] [cart/9]"), reviews(3*s, "", all, ""),
		}},
		{"what was never listed there waits for its time", []does{
			reviews(1*s, "cart/6", "cart/7 cart/8 cart/9", held), reviews(2*s, "", all, "[cart/7] [cart/8] [cart/9]"), expires(60*s, ""),
		}},
		{"when nobody answers the guard's own rule holds", []does{
			reviews(40*s, all, "", held), reviews(41*s, "", "", held), expires(60*s, held), expires(100*s, ""),
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := New(Config{})
			r.Apply(start, full("a: "+many("cart", 9)))
			r.Apply(start, read("a: "+all)) // five go at once
			play(t, r, append([]does{reads(0, read("a:"), held)}, tt.steps...))
		})
	}
}

func TestAListedHoldIsNotConfirmed(t *testing.T) {
	r := New(Config{})
	const held = "cart/1 cart/2 [cart/8] [cart/9]"
	play(t, r, []does{
		reads(0, full("a: "+many("cart", 9)), many("cart", 9)),
		reads(0, read("a: cart/1 cart/2"), held),
		reviews(1*s, "cart/8", "", held),
		confirms(1*s, held), confirms(2*s, held), confirms(31*s, "cart/1 cart/2 [cart/8]"),
		reviews(32*s, "", "cart/8", "cart/1 cart/2"),
	})
	if got, want := r.Removals(), (Removals{Passed: 5, Held: 2, Confirmed: 1, Followed: 1}); got != want {
		t.Errorf("removals are %+v, want %+v", got, want)
	}
}
