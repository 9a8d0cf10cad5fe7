package intake

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// stating adds strategies to an update of one source per service: "cart=local-only". A source may
// be named in front of it, which then lists that service and nothing else: "a:cart=any".
func stating(u catalog.Update, strategies ...string) catalog.Update {
	for _, s := range strategies {
		service, kind, _ := strings.Cut(s, "=")
		source, other, named := strings.Cut(service, ":")
		if named {
			service = other
			u.Snapshots = append(u.Snapshots, catalog.Snapshot{Source: source, Services: []catalog.Name{{Service: service}}})
		}
		at := slices.IndexFunc(u.Snapshots, func(s catalog.Snapshot) bool { return s.Source == source })
		u.Snapshots[at].Strategies = map[catalog.Name]string{{Service: service}: kind}
	}
	return u
}

// delta makes an update one that is not full.
func delta(u catalog.Update) catalog.Update {
	u.Full = false
	return u
}

func explicit(u catalog.Update) catalog.Update {
	u.Explicit = true
	return u
}

// inForce compares the strategies of a registry as they were told last: "default/cart=any".
func (b *bench) inForce(t *testing.T, registry string, want ...string) {
	t.Helper()
	for _, st := range b.last().Registries {
		if st.Name != registry {
			continue
		}
		var got []string
		for _, n := range slices.SortedFunc(maps.Keys(st.Strategies), catalog.Name.Compare) {
			got = append(got, n.String()+"="+st.Strategies[n])
		}
		if !slices.Equal(got, want) {
			t.Errorf("in force is %v, want %v", got, want)
		}
		if len(want) == 0 && st.Strategies != nil {
			t.Error("nothing is an empty map")
		}
		return
	}
	t.Errorf("no registry %s", registry)
}

func TestStrategiesAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "kubernetes", Resolver: res, Namespace: "shop", Exclude: []string{"hidden"}})
		res.publish(stating(update("cart:", "pay: 1", "hidden:"), "cart=local-only", "hidden=any"))
		b.want(t, "shop/cart:; shop/pay: 1", 2)
		b.inForce(t, "kubernetes", "shop/cart=local-only")
		if st := b.Status()[0]; len(st.Strategies) != 1 {
			t.Errorf("the status has %v", st.Strategies)
		}

		res.publish(delta(stating(update("cart: 1"), "cart=any")))
		b.inForce(t, "kubernetes", "shop/cart=any")
		// A strategy alone is a change, and the same again is none.
		before := b.count()
		res.publish(delta(stating(update("pay: 1"), "pay=broadcast")))
		res.publish(delta(stating(update("pay: 1"), "pay=broadcast")))
		b.want(t, "shop/cart: 1; shop/pay: 1", before+1)
		b.inForce(t, "kubernetes", "shop/cart=any", "shop/pay=broadcast")
		told := b.last().Registries[0].Strategies

		// The service stays without a strategy, goes by itself, and goes on purpose.
		res.publish(delta(update("cart: 1")))
		b.inForce(t, "kubernetes", "shop/pay=broadcast")
		res.publish(update("cart: 1"))
		b.inForce(t, "kubernetes")
		res.publish(delta(stating(update("cart: 1"), "cart=any")))
		gone := delta(update("cart:"))
		gone.Snapshots[0].Services = nil
		res.publish(explicit(gone))
		b.inForce(t, "kubernetes")
		if len(told) != 2 {
			t.Errorf("what was told was changed afterwards: %v", told)
		}
	})
}

func TestOfSeveralStrategiesOfAServiceTheFirstCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "kubernetes", Resolver: res})
		res.publish(stating(catalog.Update{Full: true}, "b:cart=any", "c:cart=any", "a:cart=local-only"))
		b.inForce(t, "kubernetes", "default/cart=local-only")
		st := b.last().Registries[0]
		want := "b: its strategy any for default/cart is not used: a states local-only; c: its strategy any for default/cart is not used: a states local-only"
		if st.SetAside != 2 || st.SetAsides != want {
			t.Errorf("set aside are %d: %s, want 2: %s", st.SetAside, st.SetAsides, want)
		}
		res.publish(delta(stating(catalog.Update{}, "b:cart=any")))
		if n := value(t, b.Intake.metrics.setAside.WithLabelValues("east", "kubernetes", "duplicate")); n != 2 {
			t.Errorf("%v are counted, want 2", n)
		}

		gone := explicit(catalog.Update{Snapshots: []catalog.Snapshot{{Source: "a"}}})
		res.publish(gone)
		b.inForce(t, "kubernetes", "default/cart=any")
		if st := b.last().Registries[0]; st.SetAside != 0 || st.SetAsides != "" {
			t.Errorf("set aside are %d: %s, want none: they say the same", st.SetAside, st.SetAsides)
		}
		// A full read sets aside anew.
		res.publish(stating(catalog.Update{Full: true}, "b:cart=any", "a:cart=local-only"))
		res.publish(stating(catalog.Update{Full: true}, "b:cart=any", "a:cart=local-only"))
		if st := b.last().Registries[0]; st.SetAside != 1 {
			t.Errorf("set aside are %d, want 1", st.SetAside)
		}
	})
}

// A service that is local-only must not leave its cluster because its registry was read empty.
func TestStrategiesStayWhileRemovalsAreHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "kubernetes", Resolver: res})
		all := stating(update("cart: "+instances(8), "pay:", "order: 1"), "cart=local-only", "pay=any", "order=broadcast")
		res.publish(all)
		res.publish(update())
		b.inForce(t, "kubernetes", "default/cart=local-only", "default/order=broadcast", "default/pay=any")

		// What comes back without one has none, what is deleted is gone, and what comes back with one
		// has that.
		res.publish(delta(update("pay:")))
		b.inForce(t, "kubernetes", "default/cart=local-only", "default/order=broadcast")
		res.publish(delta(stating(update("order: 1"), "order=external-only")))
		b.inForce(t, "kubernetes", "default/cart=local-only", "default/order=external-only")
		res.publish(explicit(catalog.Update{Snapshots: []catalog.Snapshot{{Source: "order"}}}))
		b.inForce(t, "kubernetes", "default/cart=local-only")

		pass(t, 61*time.Second)
		b.inForce(t, "kubernetes")
	})
}

func TestStrategiesOfARetiredRegistryStayAsLongAsItsInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stays, goes := newSaid(), newSaid()
		b := begin(t, Registry{Name: "apps", Resolver: stays})
		stays.publish(update())
		b.add(t, "k", goes)
		goes.publish(stating(update("cart: "+instances(8)), "cart=local-only"))
		b.retire("k")
		b.inForce(t, "k", "default/cart=local-only")
		pass(t, 61*time.Second)
		b.wantState(t, "apps", true, true)
	})
}

// What was taken back on purpose stays so where a plain read follows before anybody looks.
func TestAStrategyTakenBackIsNotKeptByTheReadThatFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "kubernetes", Resolver: res})
		res.publish(stating(update("cart: "+instances(8), "pay: 1"), "pay=any", "cart=local-only"))
		done := b.busy()
		res.publish(explicit(catalog.Update{Snapshots: []catalog.Snapshot{{Source: "pay"}}}))
		res.publish(update())
		done()
		b.inForce(t, "kubernetes", "default/cart=local-only")
	})
}

func TestStrategiesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "kubernetes", Resolver: res})
		u := catalog.Update{Full: true}
		s := catalog.Snapshot{Source: "one", Strategies: map[catalog.Name]string{}}
		for i := range maxStrategies + 2 {
			n := catalog.Name{Service: fmt.Sprintf("s%05d", i)}
			s.Services = append(s.Services, n)
			s.Strategies[n] = "any"
		}
		u.Snapshots = append(u.Snapshots, s)
		res.publish(u)
		st := b.last().Registries[0]
		if len(st.Strategies) != maxStrategies || st.SetAside != 2 || !strings.Contains(st.SetAsides, "default/s04097 is not used: no more than 4096") {
			t.Errorf("%d are in force, %d set aside: %s", len(st.Strategies), st.SetAside, st.SetAsides)
		}
	})
}

// What an agent contributes is mapped by it, so the mapping alone has to carry strategies, too.
func TestMappingKeepsStrategies(t *testing.T) {
	r := Registry{Namespaces: map[string]string{"a": "shop", "b": "shop"}, Exclude: []string{"hidden"}}
	name := func(ns, s string) catalog.Name { return catalog.Name{Namespace: ns, Service: s} }
	got := r.Map(catalog.Update{Snapshots: []catalog.Snapshot{{
		Source:     "s",
		Services:   []catalog.Name{name("a", "cart"), name("b", "cart"), name("a", "hidden"), name("", "pay")},
		Strategies: map[catalog.Name]string{name("b", "cart"): "any", name("a", "cart"): "local-only", name("a", "hidden"): "any"},
	}, {Source: "t", Services: []catalog.Name{name("a", "order")}}}})
	if set := got.Snapshots[0].SetAside; len(set) != 1 || set[0].String() != "s: its strategy any for shop/cart is not used: it states local-only as well" {
		t.Errorf("set aside is %v", set)
	}
	if want := map[catalog.Name]string{name("shop", "cart"): "local-only"}; !maps.Equal(got.Snapshots[0].Strategies, want) || got.Snapshots[1].Strategies != nil {
		t.Errorf("got %v and %v, want %v", got.Snapshots[0].Strategies, got.Snapshots[1].Strategies, want)
	}
}
