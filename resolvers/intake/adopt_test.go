package intake

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
)

// reread is a new life of b with the same registries, that goes on from what b believed when it is
// run.
func reread(t *testing.T, b *bench, registries ...Registry) *bench {
	t.Helper()
	next := prepare(t, nil, registries...)
	handedOn := next.Adopt(Baseline{Registries: b.Believed(), Whole: true})
	next.run(t)
	select {
	case <-handedOn:
	default:
		t.Error("what was adopted before Run was not handed on with its first change")
	}
	return next
}

// cart gives the list of cart as it was said last.
func (b *bench) cart() []*catalog.Instance {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lists[catalog.Name{Namespace: "default", Service: "cart"}].Instances
}

// held gives what is held, as "registry/service/id".
func (b *bench) held() string {
	var words []string
	for _, h := range b.Holds() {
		words = append(words, h.Registry+"/"+h.ID.Service+"/"+h.ID.Instance)
	}
	return strings.Join(words, " ")
}

func TestANewLifeOnAnEmptiedRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: res})
		res.publish(stating(update("cart: "+instances(6), "order: 1"), "cart=local-only"))

		again := newSaid()
		next := reread(t, b, Registry{Name: "consul", Resolver: again})
		next.want(t, "default/cart: 1 2 3 4 5 6; default/order: 1", 1)
		if ch := next.last(); ch.Complete || ch.Registries[0].Instances != 7 {
			t.Errorf("before its first read: %+v", ch)
		}
		if _, ok := next.Confirmed(); ok {
			t.Error("it is confirmed before it was read")
		}
		next.inForce(t, "consul", "default/cart=local-only")
		again.publish(update())
		next.want(t, "default/cart: 1 2 3 4 5 6; default/order: 1", 2)
		next.inForce(t, "consul", "default/cart=local-only")
		if ch := next.last(); !ch.Complete || ch.Registries[0].Held != 7 || next.Holds()[0].Reason != guard.Catalogue {
			t.Errorf("after it: %+v, %+v", ch, next.Holds())
		}
		// It returns, and nobody has noticed.
		again.publish(stating(update("cart: "+instances(6), "order: 1"), "cart=local-only"))
		next.want(t, "default/cart: 1 2 3 4 5 6; default/order: 1", 3)
		if next.Held() != 0 {
			t.Errorf("%d are held still", next.Held())
		}
	})
}

func TestANewLifeOnAnUnchangedRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: res})
		res.publish(stating(update("cart: 1 2", "order: 1"), "cart=local-only"))
		again := newSaid()
		next := reread(t, b, Registry{Name: "consul", Resolver: again})
		again.publish(update("cart: 1 2", "order: 1"))
		if ch := next.last(); len(ch.Services) != 0 || !ch.Complete {
			t.Errorf("the first read changed %+v", ch)
		}
		next.inForce(t, "consul") // it states none any more, and holds nothing
	})
}

// Whoever looks at the log of a new life finds what it goes on to hold, once.
func TestHoldsThatAreAdoptedAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: res}, Registry{Name: "dns", Resolver: newSaid()})
		res.publish(update("cart: " + instances(9)))
		res.publish(update("cart: 1"))
		b.want(t, "default/cart: 1 7 8 9", 3)
		pass(t, 40*time.Second)

		log := &strings.Builder{}
		next := prepare(t, nil, Registry{Name: "consul", Resolver: newSaid()}, Registry{Name: "dns", Resolver: newSaid()})
		next.log = slog.New(slog.NewTextHandler(log, nil))
		next.Adopt(Baseline{Registries: b.Believed()})
		next.Adopt(Baseline{Registries: b.Believed(), Whole: true}) // of which nothing is new
		next.run(t)
		if next.held() != b.held() || next.Held() != 3 {
			t.Fatalf("held is %q, want %q", next.held(), b.held())
		}
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 1 {
			t.Fatalf("the log says\n%s", log)
		}
		for _, want := range []string{"level=WARN", "registry=consul", "held=3", "oldest=40s", "ends_within=20s", "reason=burst", "more than 5 removals"} {
			if !strings.Contains(lines[0], want) {
				t.Errorf("the log lacks %s: %s", want, lines[0])
			}
		}
	})
}

// A hold goes on in a new life for as long as it had left, and what it lost before is not judged again.
func TestAHoldOutlivesItsProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: res})
		res.publish(update("cart: " + instances(9)))
		res.publish(update("cart: 1"))
		b.want(t, "default/cart: 1 7 8 9", 3)
		pass(t, 40*time.Second)
		again := newSaid()
		next := reread(t, b, Registry{Name: "consul", Resolver: again})
		again.publish(update("cart: 1"))
		next.want(t, "default/cart: 1 7 8 9", 2)
		if got := next.held(); got != "consul/cart/7 consul/cart/8 consul/cart/9" {
			t.Errorf("held is %q", got)
		}
		if got := next.verdicts(t, "held", "passed"); got[0] != 3 || got[1] != 0 {
			t.Errorf("held, passed are %v", got)
		}
		pass(t, 19*time.Second)
		next.want(t, "default/cart: 1 7 8 9", 2)
		pass(t, time.Second)
		next.want(t, "default/cart: 1", 3)
	})
}

// A registry that was taken out of the configuration, or has another name now, is not read any more:
// what it listed stays until the others were read, and then goes as the guard sees fit.
func TestARegistryThatIsNotReadAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: old})
		old.publish(update("cart: " + instances(6)))

		for name, registries := range map[string][]string{"renamed": {"cart: " + instances(6)}, "taken out": {"pay: 1"}} {
			res := newSaid()
			next := reread(t, b, Registry{Name: "dns", Resolver: res})
			next.want(t, "default/cart: 1 2 3 4 5 6", 1)
			st := next.last().Registries[1]
			if st.Name != "consul" || st.Held != 0 || !strings.Contains(st.LastError, "not read here") {
				t.Errorf("%s: the status is %+v", name, st)
			}
			res.publish(update(registries...))
			if got := next.cart(); len(got) != 6 {
				t.Errorf("%s: %d are listed", name, len(got))
			}
			pass(t, time.Minute)
			left := len(next.cart())
			if want := map[string]int{"renamed": 6}[name]; left != want || len(next.last().Registries) != 1 {
				t.Errorf("%s: a minute later %d are listed, want %d; %+v", name, left, want, next.last().Registries)
			}
		}
	})
}

// However few they are, they stay while it may be that another registry lists them: one that is
// renamed, or one whose name sorts after the old one's among those that are added.
func TestAFewOfARegistryThatIsRenamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: old})
		old.publish(update("cart: 1 2 3"))
		for _, tt := range []struct{ reads, want string }{{"cart: 1 2 3", "1 2 3"}, {"cart: 2", "2"}} {
			first, second := newSaid(), newSaid()
			next := prepare(t, nil, Registry{Name: "dns", Resolver: first})
			next.Adopt(Baseline{Registries: b.Believed(), Whole: true})
			if err := next.Add(Registry{Name: "west", Resolver: second}); err != nil {
				t.Fatal(err)
			}
			next.run(t)
			next.want(t, "default/cart: 1 2 3", 1)
			pass(t, time.Hour)
			first.publish(update())
			pass(t, time.Hour)
			if got := len(next.cart()); got != 3 || next.last().Complete {
				t.Errorf("%d are listed while one registry was not read", got)
			}
			second.publish(update(tt.reads))
			var ids []string
			for _, in := range next.cart() {
				ids = append(ids, in.Instance)
			}
			if got := strings.Join(ids, " "); got != tt.want || !next.last().Complete || len(next.last().Registries) != 2 {
				t.Errorf("after %q there are %q, want %q; %+v", tt.reads, got, tt.want, next.last().Registries)
			}
			if removed := next.verdicts(t, "held"); removed[0] != 0 {
				t.Errorf("%v were held", removed)
			}
		}
	})
}

// Who is added may be deaf at first, and list nothing for it: what a registry listed that is not read
// any more stays until each was read some more times, and where nobody is added, for a while.
func TestWhoIsAddedMayBeDeaf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: old})
		old.publish(update("cart: 1 2 3"))
		want := func(next *bench, when string, n int) {
			t.Helper()
			synctest.Wait()
			if got := len(next.cart()); got != n {
				t.Errorf("%s %d are listed, want %d", when, got, n)
			}
		}
		life := func() (*bench, *said) {
			apps := newSaid()
			next := prepare(t, nil, Registry{Name: "apps", Resolver: apps})
			next.rounds = 2
			next.Adopt(Baseline{Registries: b.Believed(), Whole: true})
			next.run(t)
			return next, apps
		}
		next, apps := life()
		apps.publish(update())
		link := newSaid()
		if err := next.Add(Registry{Name: "mdns@10.8.0.0/24", Resolver: link}); err != nil {
			t.Fatal(err)
		}
		pass(t, time.Hour)
		want(next, "before the link was read", 3)
		link.publish(update())
		want(next, "when a deaf one has read it", 3)
		pass(t, time.Second)
		link.confirm()
		want(next, "after a round", 3)
		pass(t, time.Second)
		link.fail(errors.New("no interface"))
		want(next, "after a round that failed", 3)
		pass(t, time.Second)
		link.publish(update("cart: 2"))
		want(next, "after two rounds", 1)

		next, apps = life()
		apps.publish(update())
		pass(t, time.Minute-time.Second)
		apps.confirm()
		want(next, "without a link", 3)
		pass(t, 2*time.Second)
		apps.confirm()
		want(next, "without a link for a minute", 0)
	})
}

func TestWhatIsAdoptedByWhom(t *testing.T) {
	one := func(id, registry string, change func(*catalog.Instance)) *catalog.Instance {
		in := &catalog.Instance{
			ID:      catalog.ID{Cluster: "east", Name: catalog.Name{Namespace: "default", Service: "cart"}, Instance: id},
			Address: "10.0.0.1", Port: 80, Weight: 1, Registry: registry,
		}
		if change != nil {
			change(in)
		}
		return in
	}
	holds := func(ids ...string) (all []guard.Hold) {
		for _, id := range ids {
			all = append(all, guard.Hold{ID: one(id, "", nil).ID, Until: time.Now().Add(time.Hour)})
		}
		return all
	}
	for _, tt := range []struct {
		name string
		// reads is what consul was read as before; "" for not yet.
		reads string
		b     Baseline
		want  string // what is believed, and behind a bar what is held
	}{
		{"one that was not read takes all", "", Baseline{Registries: map[string]Before{
			"consul": {Instances: []*catalog.Instance{one("1", "consul", nil), one("2", "consul", nil)}, Holds: holds("2")},
		}}, "1 2 | 2"},
		{"one that was read takes holds", "cart: 1", Baseline{Registries: map[string]Before{
			"consul": {Instances: []*catalog.Instance{one("2", "consul", nil), one("3", "consul", nil)}, Holds: holds("3")},
		}}, "1 3 | 3"},
		{"and not even those where they may be out of date", "cart: 1", Baseline{Unread: true, Registries: map[string]Before{
			"consul": {Instances: []*catalog.Instance{one("3", "consul", nil)}, Holds: holds("3")},
		}}, "1 |"},
		{"what was let go there is let go", "hold", Baseline{Whole: true, Registries: map[string]Before{
			"consul": {Instances: []*catalog.Instance{one("1", "consul", nil)}, Holds: holds("1")},
			"dns":    {Instances: []*catalog.Instance{one("2", "dns", nil)}, Holds: holds("2")},
		}}, "1 2 | 1 2 2"},
		{"what is left out there is not let go", "hold", Baseline{Registries: map[string]Before{}}, "1 2 3 4 5 6 | 1 2 3 4 5 6"},
		{"what could not be its own is left out", "", Baseline{Registries: map[string]Before{
			"consul": {Instances: []*catalog.Instance{
				one("1", "dns", nil), one("2", "consul", func(in *catalog.Instance) { in.Cluster = "west" }),
				one("3", "consul", func(in *catalog.Instance) { in.Port = 70_000 }),
				one("4", "consul", func(in *catalog.Instance) { in.Service = "left-out" }), one("5", "consul", nil),
			}},
		}}, "5 |"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				res := newSaid()
				b := begin(t, Registry{Name: "consul", Resolver: res, Exclude: []string{"left-*"}})
				switch tt.reads {
				case "":
				case "hold":
					res.publish(update("cart: " + instances(6)))
					res.publish(update())
				default:
					res.publish(update(tt.reads))
				}
				for _, r := range tt.b.Registries {
					for n := range r.Holds {
						r.Holds[n].Until = time.Now().Add(time.Minute)
					}
				}
				handedOn := b.Adopt(tt.b)
				synctest.Wait()
				select {
				case <-handedOn:
				default:
					t.Error("it was not handed on")
				}
				var words []string
				for _, in := range b.cart() {
					words = append(words, in.Instance)
				}
				words = append(words, "|")
				for _, h := range b.Holds() {
					words = append(words, h.ID.Instance)
				}
				if got := strings.Join(words, " "); got != tt.want {
					t.Errorf("believed | held is %q, want %q", got, tt.want)
				}
			})
		})
	}
}

func TestMovesOfHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: res})
		moves := b.Moves()
		moved := func(what string, want bool) {
			t.Helper()
			if now := b.Moves(); now != moves != want {
				t.Errorf("%s: moved %t", what, now != moves)
			}
			moves = b.Moves()
		}
		res.publish(update("cart: " + instances(6)))
		moved("the first read", false)
		res.publish(update("cart: " + instances(6)))
		res.confirm()
		moved("an unchanged read", false)
		res.publish(update())
		moved("holds begin", true)
		res.confirm()
		moved("nothing", false)
		res.publish(update("cart: 1"))
		moved("one returns", true)
		pass(t, time.Minute)
		moved("they expire", true)
		b.Adopt(Baseline{})
		synctest.Wait()
		moved("an adoption", true)
		if fmt.Sprint(b.Believed()["consul"].Instances) == "[]" {
			t.Error("nothing is believed")
		}
	})
}
