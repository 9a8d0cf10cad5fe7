package consult

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

var (
	cart = catalog.Name{Namespace: "default", Service: "cart"}
	till = catalog.Name{Namespace: "shop", Service: "till"}
)

// later lets time pass in a bubble.
func later(d time.Duration) {
	t := time.NewTimer(d)
	<-t.C
}

func TestCounterCountsTheLastMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewCounter()
		want := func(what, counts string) {
			t.Helper()
			if got := fmt.Sprint(c.Calls()); got != counts {
				t.Errorf("%s: %s, want %s", what, got, counts)
			}
		}
		want("nothing", "map[]")
		for range 3 {
			c.Add(cart)
		}
		c.Add(till)
		want("at once", "map[default/cart:3 shop/till:1]")
		later(30 * time.Second)
		c.Add(cart)
		want("after half a minute", "map[default/cart:4 shop/till:1]")
		later(29 * time.Second)
		want("before a minute", "map[default/cart:4 shop/till:1]")
		later(2 * time.Second)
		want("after a minute", "map[default/cart:1]")
		later(time.Hour)
		want("after an hour", "map[]")
		c.Add(till)
		want("and again", "map[shop/till:1]")
	})
}

func TestCounterLosesNoCall(t *testing.T) {
	c := NewCounter()
	const workers, calls = 8, 5000
	var adding sync.WaitGroup
	for range workers {
		adding.Go(func() {
			for n := range calls {
				c.Add(catalog.Name{Namespace: "default", Service: fmt.Sprint(n % 7)})
			}
		})
	}
	adding.Wait()
	total := uint64(0)
	for _, n := range c.Calls() {
		total += n
	}
	if total != workers*calls {
		t.Errorf("%d of %d calls were counted", total, workers*calls)
	}
}

func TestCounterIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewCounter()
		for n := range 2 * shards * maxNames {
			c.Add(catalog.Name{Namespace: "default", Service: fmt.Sprint(n)})
		}
		size := 0
		for i := range c.shards {
			size += len(*c.shards[i].rings.Load())
		}
		if size > shards*maxNames {
			t.Errorf("%d services are counted", size)
		}
		later(2 * time.Minute)
		for n := range shards * maxNames {
			c.Add(catalog.Name{Namespace: "later", Service: fmt.Sprint(n)})
		}
		if got := len(c.Calls()); got < shards*maxNames*9/10 {
			t.Errorf("%d services are counted later: those before make no room", got)
		}
	})
}

func BenchmarkCounter(b *testing.B) {
	c := NewCounter()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c.Add(cart)
		}
	})
}
