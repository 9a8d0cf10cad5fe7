package intake

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
)

// verdicts gives how often removals ended so.
func (b *bench) verdicts(t *testing.T, words ...string) (counts []float64) {
	t.Helper()
	families, err := b.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range words {
		n := 0.0
		for _, f := range families {
			if f.GetName() != "farcall_intake_removals_total" {
				continue
			}
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if l.GetName() == "verdict" && l.GetValue() == word {
						n += m.GetCounter().GetValue()
					}
				}
			}
		}
		counts = append(counts, n)
	}
	return counts
}

func TestReleaseEndsWhatItNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, other := newSaid(), newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: one}, Registry{Name: "dns", Resolver: other})
		one.publish(update("cart: 1 2 3", "order: 1 2 3"))
		other.publish(update("pay: " + instances(6)))
		one.publish(update("cart:", "order:"))
		other.publish(update())
		b.want(t, "default/cart: 1 2 3; default/order: 1 2 3; default/pay: 1 2 3 4 5 6", 5)
		if b.Held() != 12 {
			t.Fatalf("%d are held, want 12", b.Held())
		}
		for _, step := range []struct {
			f        Filter
			released int
			lists    string
			changes  int
		}{
			{Filter{Registry: "file"}, 0, "default/cart: 1 2 3; default/order: 1 2 3; default/pay: 1 2 3 4 5 6", 5},
			{Filter{Name: catalog.Name{Service: "cart"}, Instance: "2"}, 1, "default/cart: 1 3; default/order: 1 2 3; default/pay: 1 2 3 4 5 6", 6},
			{Filter{Name: catalog.Name{Namespace: "default", Service: "order"}}, 3, "default/cart: 1 3; default/order:; default/pay: 1 2 3 4 5 6", 7},
			{Filter{Registry: "dns"}, 6, "default/cart: 1 3; default/order:; default/pay: gone", 8},
			{Filter{Name: catalog.Name{Namespace: "shop"}}, 0, "default/cart: 1 3; default/order:; default/pay: gone", 8},
			{Filter{}, 2, "default/cart:; default/order:; default/pay: gone", 9},
		} {
			released, err := b.Release(t.Context(), step.f)
			if err != nil || len(released) != step.released {
				t.Errorf("%+v released %v, %v, want %d", step.f, released, err, step.released)
			}
			// It is handed on by then: nothing is waited for here.
			b.want(t, step.lists, step.changes)
			for _, h := range released {
				if !step.f.Match(h.Registry, h.ID) {
					t.Errorf("%+v released %+v", step.f, h)
				}
			}
		}
		if got := b.verdicts(t, "held", "released", "expired"); got[0] != 12 || got[1] != 12 || got[2] != 0 {
			t.Errorf("held, released, expired are %v", got)
		}
		if b.Held() != 0 || len(b.Holds()) != 0 {
			t.Errorf("held are %v", b.Holds())
		}
	})
}

func TestReleaseThatNobodyCanDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: res})
		res.publish(update("cart: " + instances(6)))
		done := b.busy()
		res.publish(update("cart:"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.Release(ctx, Filter{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while nothing can be handed on, a release says %v", err)
		}
		done()
	})
}

func TestReadsConfirmWhatABurstLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: res})
		res.publish(update("cart: " + instances(9)))
		time.Sleep(time.Second)
		res.publish(update("cart: 1 2"))
		const held = "default/cart: 1 2 8 9"
		b.want(t, held, 3)
		confirmEvery := func(pause time.Duration, times int) {
			t.Helper()
			for range times {
				time.Sleep(pause)
				res.confirm()
			}
		}
		confirmEvery(time.Second, 29)
		b.want(t, held, 3)
		res.fail(errors.New("consul: refused"))
		b.want(t, held, 4)
		confirmEvery(time.Second, 30) // of which the first begins the row anew; 59 s of the hold are over
		b.want(t, held, 5)            // only the registry's state is new
		if got := b.verdicts(t, "confirmed"); got[0] != 0 {
			t.Errorf("%v were confirmed", got)
		}
		time.Sleep(900 * time.Millisecond)
		res.confirm() // it is 59.9 s
		b.want(t, held, 5)
		res.publish(update("cart: 1 2 8 9"))
		res.publish(update("cart: 1 2 9"))
		b.want(t, "default/cart: 1 2 9", 7)
	})
}

func TestReadsConfirmNoEmptiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: res})
		res.publish(update("cart: "+instances(12), "pay: 1"))
		res.publish(update("pay: 1"))
		for range 59 {
			time.Sleep(time.Second)
			res.confirm()
		}
		if b.Held() != 7 {
			t.Errorf("%d are held, want 7 until their time is up", b.Held())
		}
		time.Sleep(time.Second)
		synctest.Wait()
		b.want(t, "default/cart: gone; default/pay: 1", b.count())
		if got := b.verdicts(t, "confirmed", "expired"); got[0] != 0 || got[1] != 7 {
			t.Errorf("confirmed and expired are %v", got)
		}
	})
}

func TestReadsConfirmWhatIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: res})
		res.publish(update("cart: 1 2 3 4 5 6 7 8"))
		time.Sleep(time.Second)
		res.publish(update("cart: 11 12 13 14 15 16 17 18"))
		for range 31 {
			if b.Held() != 3 {
				t.Fatalf("%d are held, want 3", b.Held())
			}
			time.Sleep(time.Second)
			res.confirm()
		}
		b.want(t, "default/cart: 11 12 13 14 15 16 17 18", 4)
		if got := b.verdicts(t, "confirmed"); got[0] != 3 {
			t.Errorf("confirmed are %v", got)
		}
	})
}

func TestWhoDecidesIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		var word atomic.Int32
		word.Store(int32(guard.Listed))
		b := deciding(t, func(time.Time) func(catalog.ID) guard.Word {
			if word.Load() == int32(guard.Silent) {
				return nil
			}
			return func(catalog.ID) guard.Word { return guard.Word(word.Load()) }
		}, Registry{Name: "consul", Resolver: res})
		const all = "default/cart: 1 2 3 4 5 6"
		lose := func() {
			t.Helper()
			res.publish(update("cart: " + instances(6)))
			res.publish(update("cart:"))
			b.want(t, all, b.count())
		}
		lose()
		time.Sleep(10 * time.Minute) // without a word from anybody: the verdict is asked in time
		synctest.Wait()
		b.want(t, all, b.count())
		word.Store(int32(guard.Unlisted))
		b.Review()
		synctest.Wait()
		b.want(t, "default/cart:", b.count())

		word.Store(int32(guard.Listed))
		lose()
		time.Sleep(10 * time.Minute)
		word.Store(int32(guard.Silent))
		time.Sleep(time.Minute)
		synctest.Wait()
		b.want(t, "default/cart:", b.count())
		if got := b.verdicts(t, "followed", "expired"); got[0] != 6 || got[1] != 6 {
			t.Errorf("followed and expired are %v", got)
		}
		before := b.count()
		b.Review() // nothing is held
		synctest.Wait()
		b.want(t, "default/cart:", before)
	})
}
