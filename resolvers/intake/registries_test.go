package intake

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

func (b *bench) add(t *testing.T, name string, res *said) {
	t.Helper()
	if err := b.Add(Registry{Name: name, Resolver: res}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func (b *bench) retire(name string) {
	b.Retire(name)
	synctest.Wait()
}

// statuses gives the names of the registries as they were told last, the unread ones with a
// question mark.
func (b *bench) statuses() string {
	var names []string
	for _, st := range b.last().Registries {
		name := st.Name
		if !st.Complete {
			name += "?"
		}
		if st.Held > 0 {
			name += fmt.Sprint(":", st.Held)
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

// wantState compares the whole state, as it was told last.
func (b *bench) wantState(t *testing.T, statuses string, complete, confirmed bool) {
	t.Helper()
	if got := b.statuses(); got != statuses || b.last().Complete != complete {
		t.Errorf("told was %q, complete %t; want %q, %t", got, b.last().Complete, statuses, complete)
	}
	if _, ok := b.Confirmed(); ok != confirmed {
		t.Errorf("confirmed is %t, want %t", ok, confirmed)
	}
}

func TestWithoutARegistryNothingIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := begin(t)
		b.want(t, "", 1)
		b.wantState(t, "", false, false)
		b.retire("consul")
		b.want(t, "", 1)
	})
}

func TestARegistryComesAndGoesWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t)
		b.add(t, "mdns@10.0.0.0/24", res)
		b.wantState(t, "mdns@10.0.0.0/24?", false, false)
		res.publish(update("cart: 1 2", "pay:"))
		b.want(t, "default/cart: 1 2; default/pay:", 3)
		b.wantState(t, "mdns@10.0.0.0/24", true, true)

		b.retire("mdns@10.0.0.0/24")
		b.want(t, "default/cart: gone; default/pay: gone", b.count())
		b.wantState(t, "", false, false)
		if n := res.under.Load(); n != 0 {
			t.Errorf("%d of the resolver are still running", n)
		}
		families, err := b.metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if text := f.String(); strings.Contains(text, "10.0.0.0/24") {
				t.Errorf("a metric of the retired registry is left: %s", text)
			}
		}
	})
}

func TestAnAddedRegistryIsNotReadYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newSaid(), newSaid()
		b := begin(t, Registry{Name: "apps", Resolver: one})
		one.publish(update("cart: 1"))
		first, _ := b.Confirmed()
		b.add(t, "consul", two)
		b.wantState(t, "apps consul?", false, true)
		pass(t, time.Second)
		one.confirm()
		if at, _ := b.Confirmed(); !at.Equal(first) {
			t.Errorf("confirmed at %v though one registry was never read, want %v as before", at, first)
		}
		two.publish(update("pay: 1"))
		b.wantState(t, "apps consul", true, true)
		if at, _ := b.Confirmed(); !at.Equal(first.Add(time.Second)) {
			t.Errorf("confirmed at %v, want %v", at, first.Add(time.Second))
		}
	})
}

func TestRetiringIsJudgedByTheGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stays, goes := newSaid(), newSaid()
		b := begin(t, Registry{Name: "apps", Resolver: stays})
		stays.publish(update("pay: 1"))
		b.add(t, "consul", goes)
		goes.publish(update("cart: " + instances(8)))
		all := "default/cart: " + instances(8) + "; default/pay: 1"
		b.retire("consul")
		b.wantState(t, "apps consul:8", true, true)
		b.want(t, all, b.count())

		// It is asked no more, so the cluster is as fresh as the others are.
		pass(t, 30*time.Second)
		stays.confirm()
		if at, _ := b.Confirmed(); !at.Equal(time.Now()) {
			t.Errorf("confirmed at %v, want now", at)
		}
		pass(t, 31*time.Second)
		b.wantState(t, "apps", true, true)
		b.want(t, "default/cart: gone; default/pay: 1", b.count())

		b.retire("apps")
		b.wantState(t, "", false, false)
		b.want(t, "default/cart: gone; default/pay: gone", b.count())
	})
}

func TestOnlyWhatIsHeldOfTheLastRegistryIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: res})
		res.publish(update("cart: " + instances(8)))
		res.publish(update())
		b.wantState(t, "consul:8", true, true)
		b.retire("consul")
		b.wantState(t, "consul:8", false, false)
		pass(t, time.Minute)
		b.wantState(t, "", false, false)
		b.want(t, "default/cart: gone", b.count())
	})
}

func TestARegistryThatReturnsFindsWhatStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newSaid(), newSaid()
		b := begin(t)
		b.add(t, "consul", first)
		all := "default/cart: " + instances(8)
		first.publish(update("cart: " + instances(8)))
		b.retire("consul")
		b.wantState(t, "consul:8", false, false)
		b.add(t, "consul", second)
		b.wantState(t, "consul:8", true, true)
		second.publish(update("cart: " + instances(8)))
		b.wantState(t, "consul", true, true)
		b.want(t, all, b.count())
		if n := value(t, b.Intake.metrics.removals.WithLabelValues("east", "consul", "returned")); n != 8 {
			t.Errorf("%v removals returned, want 8", n)
		}
	})
}

func TestANewResolverWaitsForTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newSaid(), newSaid()
		first.lingers = make(chan struct{})
		b := begin(t)
		b.add(t, "consul", first)
		first.publish(update("cart: 1 2"))
		b.retire("consul")
		b.add(t, "consul", second)
		if second.under.Load() != 0 {
			t.Error("the new resolver runs beside the old one")
		}
		close(first.lingers)
		synctest.Wait()
		if first.under.Load() != 0 || second.under.Load() != 1 {
			t.Errorf("running are %d of the old and %d of the new resolver, want 0 and 1", first.under.Load(), second.under.Load())
		}
		b.want(t, "default/cart: 1 2", b.count())
		second.publish(update("cart: 2"))
		b.want(t, "default/cart: 2", b.count())

		// Retired before it was started, it is never run.
		third, fourth := newSaid(), newSaid()
		second.lingers = make(chan struct{})
		b.retire("consul")
		b.add(t, "consul", third)
		b.retire("consul")
		b.add(t, "consul", fourth)
		close(second.lingers)
		synctest.Wait()
		if third.runs.Load() != 0 || fourth.under.Load() != 1 {
			t.Errorf("run was the retired one %d times, running is the last one %d times, want 0 and 1", third.runs.Load(), fourth.under.Load())
		}
	})
}

func TestAddedRegistriesAreBelievedByNameAfterTheConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := map[string]*said{"z": newSaid(), "y": newSaid(), "b": newSaid(), "a": newSaid()}
		b := begin(t, Registry{Name: "z", Resolver: res["z"]}, Registry{Name: "y", Resolver: res["y"]})
		b.add(t, "b", res["b"])
		b.add(t, "a", res["a"])
		b.wantState(t, "z? y? a? b?", false, false)
		for at, name := range []string{"b", "a", "y", "z"} {
			res[name].publish(update(fmt.Sprint("cart: 1:", 9000+at)))
			b.want(t, fmt.Sprint("default/cart: 1:", 9000+at), b.count())
		}
		if n := value(t, b.Intake.metrics.shadowed.WithLabelValues("east")); n != 3 {
			t.Errorf("%v records are shadowed, want 3", n)
		}
		for at, name := range []string{"z", "y", "a"} {
			b.retire(name)
			b.want(t, fmt.Sprint("default/cart: 1:", 9002-at), b.count())
		}
	})
}

func TestAddRefuses(t *testing.T) {
	res := newSaid()
	for _, tt := range []struct {
		name string
		open bool
		cfg  Registry
		want string
	}{
		{"a name that is taken", true, Registry{Name: "consul", Resolver: res}, `registry "consul": name is taken`},
		{"no name", true, Registry{Resolver: res}, "name is empty"},
		{"no resolver", true, Registry{Name: "a"}, "no resolver"},
		{"a pattern", true, Registry{Name: "a", Resolver: res, Include: []string{"[a"}}, `include: pattern "[a"`},
		{"where none may come", false, Registry{Name: "a", Resolver: res}, "not open"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in, err := New(Config{Cluster: "east", Open: tt.open, Registries: []Registry{{Name: "consul", Resolver: res}}},
				Deps{Log: testkit.Quiet(), Metrics: NewMetrics(prometheus.NewRegistry())})
			if err != nil {
				t.Fatal(err)
			}
			if err := in.Add(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Add returned %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// Registries come and go from many sides; whatever comes last holds, and Run joins all.
func TestRegistriesComeAndGoFromManySides(t *testing.T) {
	in, err := New(Config{Cluster: "east", Open: true}, Deps{Log: testkit.Quiet(), Metrics: NewMetrics(prometheus.NewRegistry())})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testkit.Context(t))
	defer cancel()
	var mu sync.Mutex
	var last Change
	done := make(chan error)
	go func() {
		done <- in.Run(ctx, func(ch Change) {
			mu.Lock()
			defer mu.Unlock()
			last = ch
		})
	}()
	var resolvers [4]*said
	var wg sync.WaitGroup
	for at := range resolvers {
		wg.Go(func() {
			for range 50 {
				resolvers[at] = newSaid()
				if err := in.Add(Registry{Name: fmt.Sprint(at), Resolver: resolvers[at]}); err != nil {
					t.Error(err)
				}
				in.Holds()
				in.Retire(fmt.Sprint((at + 1) % len(resolvers)))
				in.Retire(fmt.Sprint(at))
			}
		})
	}
	wg.Wait()
	for at := range resolvers {
		resolvers[at] = newSaid()
		if err := in.Add(Registry{Name: fmt.Sprint(at), Resolver: resolvers[at]}); err != nil {
			t.Error(err)
		}
	}
	in.Retire("1")
	testkit.Eventually(t, ctx, "the registries are those added last", func() error {
		mu.Lock()
		defer mu.Unlock()
		var names []string
		for _, st := range last.Registries {
			names = append(names, st.Name)
		}
		if got := strings.Join(names, " "); got != "0 2 3" {
			return fmt.Errorf("the registries are %q, want 0 2 3", got)
		}
		for at, r := range resolvers {
			if n := r.under.Load(); (n == 1) != (at != 1) {
				return fmt.Errorf("registry %d: %d resolvers run", at, n)
			}
		}
		return nil
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v", err)
	}
	for at, r := range resolvers {
		if r.under.Load() != 0 {
			t.Errorf("the resolver of registry %d was not joined", at)
		}
	}
	if err := in.Add(Registry{Name: "late", Resolver: newSaid()}); err != nil {
		t.Error(err)
	}
}

func TestMapIsTheRegistrysPartOfTranslating(t *testing.T) {
	r := Registry{Namespace: "shop", Namespaces: map[string]string{"prod": "live"}, Exclude: []string{"consul"}}
	in := func(ns, service string) *catalog.Instance {
		return &catalog.Instance{ID: catalog.ID{Name: catalog.Name{Namespace: ns, Service: service}, Instance: "1"}, Port: 70000}
	}
	kept, from := in("test", "pay"), in("prod", "cart")
	u := catalog.Update{Full: true, Explicit: true, Reset: "younger", Revision: "7", Snapshots: []catalog.Snapshot{
		{Source: "a", Services: []catalog.Name{{Service: "cart"}, {Service: "consul"}}, Instances: []*catalog.Instance{kept, from, in("", "consul")},
			SetAside: []catalog.SetAside{{Record: "x", Reason: "y"}}},
		{Source: "b", Instances: []*catalog.Instance{in("", "consul")}},
	}}
	got := r.Map(u)
	if !got.Full || !got.Explicit || got.Reset != "younger" || got.Revision != "7" || len(got.Snapshots) != 2 {
		t.Fatalf("mapped is %+v", got)
	}
	a, b := got.Snapshots[0], got.Snapshots[1]
	if a.Source != "a" || len(a.Services) != 1 || a.Services[0].String() != "shop/cart" || len(a.SetAside) != 1 || len(a.Instances) != 2 {
		t.Fatalf("the first source is %+v", a)
	}
	if a.Instances[0] != kept {
		t.Error("a record that does not change is another")
	}
	if a.Instances[1].Name.String() != "live/cart" || a.Instances[1].Port != 70000 || from.Namespace != "prod" {
		t.Errorf("mapped is %v from %v", a.Instances[1], from)
	}
	if b.Source != "b" || len(b.Instances)+len(b.Services) != 0 {
		t.Errorf("a source of which nothing is taken is %+v", b)
	}
}

// What is dropped by a person's word goes at once, however much it is; its name may come again.
func TestADroppedRegistryGoesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, other := newSaid(), newSaid()
		b := begin(t, Registry{Name: "m", Resolver: one}, Registry{Name: "n", Resolver: other})
		one.publish(update("cart: " + instances(9)))
		other.publish(update("pay: 1"))
		one.publish(update())
		if b.Held() != 9 {
			t.Fatalf("%d are held", b.Held())
		}
		b.Drop("m")
		b.Drop("nobody")
		synctest.Wait()
		if len(b.cart()) != 0 || b.Held() != 0 || len(b.last().Registries) != 1 {
			t.Errorf("%d are listed, %d are held, the registries %+v", len(b.cart()), b.Held(), b.last().Registries)
		}
		again := newSaid()
		if err := b.Add(Registry{Name: "m", Resolver: again}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		again.publish(update("cart: " + instances(9)))
		again.publish(update())
		if b.Held() != 9 {
			t.Errorf("of one that came again %d are held", b.Held())
		}
		b.Retire("m")
		synctest.Wait()
		if b.Held() != 9 {
			t.Errorf("of one that is retired %d are held", b.Held())
		}
		b.Drop("m")
		synctest.Wait()
		if b.Held() != 0 || len(b.last().Registries) != 1 {
			t.Errorf("retired and dropped, %d are held: %+v", b.Held(), b.last().Registries)
		}
	})
}
