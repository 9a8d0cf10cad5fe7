package guard

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var start = time.Unix(1_000_000, 0)

func name(service string) catalog.Name { return catalog.Name{Namespace: "default", Service: service} }

// inst reads "cart/1" or "cart/1:8080".
func inst(s string) *catalog.Instance {
	id, port, _ := strings.Cut(s, ":")
	service, id, _ := strings.Cut(id, "/")
	in := &catalog.Instance{ID: catalog.ID{Cluster: "east", Name: name(service), Instance: id}, Address: "10.0.0.1", Port: 80}
	if port != "" {
		if _, err := fmt.Sscan(port, &in.Port); err != nil {
			panic(err) // a mistake in the test itself
		}
	}
	return in
}

// snap reads "source: cart/1 cart/2 order": a word without a slash names an empty service.
func snap(s string) catalog.Snapshot {
	source, words, _ := strings.Cut(s, ":")
	out := catalog.Snapshot{Source: source}
	for _, w := range strings.Fields(words) {
		if !strings.Contains(w, "/") {
			out.Services = append(out.Services, name(w))
			continue
		}
		out.Instances = append(out.Instances, inst(w))
	}
	return out
}

func read(snaps ...string) catalog.Update {
	var u catalog.Update
	for _, s := range snaps {
		u.Snapshots = append(u.Snapshots, snap(s))
	}
	return u
}

func full(snaps ...string) catalog.Update {
	u := read(snaps...)
	u.Full = true
	return u
}

func explicit(u catalog.Update) catalog.Update { u.Explicit = true; return u }

func reset(u catalog.Update) catalog.Update { u.Reset = "index went backwards"; return u }

// many gives "service/1 service/2 ... service/n".
func many(service string, n int) string {
	var words []string
	for i := range n {
		words = append(words, fmt.Sprintf("%s/%d", service, i+1))
	}
	return strings.Join(words, " ")
}

// golden gives what is believed: "cart/1 cart/2 | order: empty", with the held in brackets.
func golden(r *Registry) string {
	held := map[catalog.ID]bool{}
	for _, h := range r.Holds() {
		held[h.ID] = true
	}
	var services []string
	for _, n := range r.Names() {
		list, _ := r.List(n)
		words := []string{}
		for _, in := range list {
			w := n.Service + "/" + in.Instance
			if in.Port != 80 {
				w += fmt.Sprintf(":%d", in.Port)
			}
			if held[in.ID] {
				w = "[" + w + "]"
			}
			words = append(words, w)
		}
		if len(list) == 0 {
			words = append(words, n.Service+": empty")
		}
		services = append(services, strings.Join(words, " "))
	}
	return strings.Join(services, " | ")
}

type step struct {
	at     time.Duration
	update *catalog.Update // nil: Expire
	// unusable names a record that was set aside, as inst reads it.
	unusable string
	want     string
	changed  string // services, joined by a space
}

func apply(at time.Duration, u catalog.Update, want, changed string) step {
	return step{at: at, update: &u, want: want, changed: changed}
}

func expire(at time.Duration, want, changed string) step {
	return step{at: at, want: want, changed: changed}
}

func TestRule(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"additions, changes and empty services", []step{
			apply(0, full("a: cart/1"), "cart/1", "cart"),
			apply(0, read("a: cart/1 cart/2"), "cart/1 cart/2", "cart"),
			apply(0, read("a: cart/1 cart/2"), "cart/1 cart/2", ""),
			apply(0, read("a: cart/1 cart/2:81"), "cart/1 cart/2:81", "cart"),
			apply(0, read("b: order"), "cart/1 cart/2:81 | order: empty", "order"),
			apply(0, read("b:"), "cart/1 cart/2:81", "order"),
		}},
		{"few removals go at once", []step{
			apply(0, full("a: "+many("cart", 7)), many("cart", 7), "cart"),
			apply(0, read("a: cart/6 cart/7"), "cart/6 cart/7", "cart"),
		}},
		{"the last instances of a small registry go at once, the service with them", []step{
			apply(0, full("a: "+many("cart", 5)), many("cart", 5), "cart"),
			apply(0, full(), "", "cart"),
		}},
		{"confirmed empty is not unknown", []step{
			apply(0, full("a: cart/1"), "cart/1", "cart"),
			apply(0, full("a: cart"), "cart: empty", "cart"),
			apply(0, full(), "", "cart"),
		}},
		{"above the floor the excess is held, in identity order, until its time", []step{
			apply(0, full("a: "+many("cart", 8)), many("cart", 8), "cart"),
			apply(1*s, read("a: cart/1"), "cart/1 [cart/7] [cart/8]", "cart"),
			apply(2*s, read("a: cart/1"), "cart/1 [cart/7] [cart/8]", ""),
			expire(61*s-1, "cart/1 [cart/7] [cart/8]", ""),
			expire(61*s, "cart/1", "cart"),
		}},
		{"the floor counts over the window, across services", []step{
			apply(0, full("a: "+many("cart", 4), "b: "+many("order", 4)), many("cart", 4)+" | "+many("order", 4), "cart order"),
			apply(0, read("a: cart/1"), "cart/1 | "+many("order", 4), "cart"),
			apply(9*s, read("b: order/1"), "cart/1 | order/1 [order/4]", "order"),
			apply(10*s, read("a: cart"), "cart: empty | order/1 [order/4]", "cart"),
			apply(10*s, read("b:"), "cart: empty | [order/4]", "order"),
		}},
		{"a whole catalogue is held wholly", []step{
			apply(0, full("a: "+many("cart", 5), "b: order/1"), many("cart", 5)+" | order/1", "cart order"),
			apply(1*s, full(), "[cart/1] [cart/2] [cart/3] [cart/4] [cart/5] | [order/1]", ""),
			apply(2*s, full("a: cart/2"), "[cart/1] cart/2 [cart/3] [cart/4] [cart/5] | [order/1]", ""),
			expire(61*s, "cart/2", "cart order"),
		}},
		{"a whole catalogue may go piece by piece", []step{
			apply(0, full("a: "+many("cart", 5), "b: order/1"), many("cart", 5)+" | order/1", "cart order"),
			apply(0, read("a: cart"), "cart: empty | order/1", "cart"),
			apply(10*s, read("b: "), "cart: empty", "order"),
		}},
		{"after a reset even one removal is held", []step{
			apply(0, full("a: cart/1 cart/2"), "cart/1 cart/2", "cart"),
			apply(0, reset(full("a: cart/2 cart/3")), "[cart/1] cart/2 cart/3", "cart"),
			apply(1*s, read("a: cart/3"), "[cart/1] cart/3", "cart"),
			expire(60*s, "cart/3", "cart"),
		}},
		{"explicit removals go at once, however many, and count towards nothing", []step{
			apply(0, full("a: "+many("cart", 9)), many("cart", 9), "cart"),
			apply(0, explicit(reset(full("a: "+many("cart", 5)))), many("cart", 5), "cart"),
			apply(0, read("a: cart"), "cart: empty", "cart"),
			apply(0, explicit(read("a: "+many("cart", 9))), many("cart", 9), "cart"),
			apply(0, explicit(full()), "", "cart"),
		}},
		{"an explicit read ends the holds of its source, and only those", []step{
			apply(0, full("a: cart/1 cart/2", "b: order/1"), "cart/1 cart/2 | order/1", "cart order"),
			apply(0, reset(full()), "[cart/1] [cart/2] | [order/1]", ""),
			apply(1*s, explicit(read("a: cart/2")), "cart/2 | [order/1]", "cart"),
			apply(2*s, explicit(full("a: cart/2")), "cart/2", "order"),
		}},
		{"what returns is held no more, and may be removed anew", []step{
			apply(0, full("a: cart/1"), "cart/1", "cart"),
			apply(0, reset(full()), "[cart/1]", ""),
			apply(30*s, full("a: cart/1:81"), "cart/1:81", "cart"),
			expire(60*s, "cart/1:81", ""),
			apply(60*s, reset(full()), "[cart/1:81]", ""),
			expire(119*s, "[cart/1:81]", ""),
			expire(120*s, "", "cart"),
		}},
		{"an unusable record is absent, not removed", []step{
			apply(0, full("a: "+many("cart", 8)), many("cart", 8), "cart"),
			{0, new(explicit(full("a: cart/2 cart/3 cart/4"))), "cart/1", "cart/2 cart/3 cart/4", "cart"},
			apply(0, reset(full("a: cart/2 cart/3 cart/4")), "cart/2 cart/3 cart/4", ""),
			{0, new(explicit(reset(full("a: cart/3")))), "cart/2", "[cart/2] cart/3", "cart"},
			{0, new(explicit(full("a: cart/3"))), "cart/2", "[cart/2] cart/3", ""},
			apply(0, explicit(full("a: cart/3")), "cart/3", "cart"),
		}},
		{"several sources state one instance: the first by name is believed", []step{
			apply(0, full("b: cart/1:82"), "cart/1:82", "cart"),
			apply(0, read("c: cart/1:83"), "cart/1:82", ""),
			apply(0, read("a: cart/1:81"), "cart/1:81", "cart"),
			apply(0, read("a:"), "cart/1:82", "cart"),
			apply(0, explicit(read("b:")), "cart/1:83", "cart"),
			apply(0, read("c: cart"), "cart: empty", "cart"),
		}},
		{"a source moves to another in one read", []step{
			apply(0, full("a: "+many("cart", 9)), many("cart", 9), "cart"),
			apply(0, full("b: "+many("cart", 9)), many("cart", 9), ""),
		}},
		{"snapshots of one source are one", []step{
			apply(0, full("a: cart/1", "a: cart/2"), "cart/1 cart/2", "cart"),
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := New(Config{})
			for i, st := range tt.steps {
				var changed Changes
				if st.update != nil {
					var unusable []catalog.ID
					if st.unusable != "" {
						unusable = append(unusable, inst(st.unusable).ID)
					}
					changed = r.Apply(start.Add(st.at), *st.update, unusable...)
				} else {
					changed = r.Expire(start.Add(st.at))
				}
				if got := golden(r); got != st.want {
					t.Fatalf("step %d: believed is\n%s, want\n%s", i, got, st.want)
				}
				var words []string
				for _, n := range slices.SortedFunc(maps.Keys(changed), catalog.Name.Compare) {
					words = append(words, n.Service)
				}
				if got := strings.Join(words, " "); got != st.changed {
					t.Fatalf("step %d: changed is %q, want %q", i, got, st.changed)
				}
			}
		})
	}
}

func TestAHoldSaysWhyAndUntilWhen(t *testing.T) {
	for _, tt := range []struct {
		name   string
		from   string
		update catalog.Update
		want   Hold
	}{
		{"burst", "a: " + many("cart", 7), read("a: cart/1"), Hold{ID: inst("cart/7").ID, Reason: Burst, Detail: "more than 5 removals in 10s"}},
		{"catalogue", "a: " + many("cart", 7), full(), Hold{ID: inst("cart/1").ID, Reason: Catalogue, Detail: "all 7 instances of the registry were gone in one read", Doubted: true}},
		{"reset", "a: cart/1", reset(full()), Hold{ID: inst("cart/1").ID, Reason: Reset, Detail: "index went backwards", Doubted: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := New(Config{})
			r.Apply(start, full(tt.from))
			if _, ok := r.Next(); ok {
				t.Error("Expire has work before anything is held")
			}
			r.Apply(start, tt.update)
			tt.want.Since, tt.want.Until = start, start.Add(time.Minute)
			holds := r.Holds()
			if len(holds) == 0 || holds[0] != tt.want {
				t.Errorf("holds are %v, want first %v", holds, tt.want)
			}
			if next, ok := r.Next(); !ok || next != tt.want.Until {
				t.Errorf("Next is %v %t, want %v", next, ok, tt.want.Until)
			}
			r.Expire(tt.want.Until)
			if _, ok := r.Next(); ok || len(r.Holds()) != 0 {
				t.Errorf("still held after %v: %v", tt.want.Until, r.Holds())
			}
		})
	}
}

func TestUnchangedInstancesKeepTheirPointer(t *testing.T) {
	r := New(Config{})
	r.Apply(start, full("a: cart/1 cart/2"))
	before, _ := r.List(name("cart"))
	kept := slices.Clone(before)
	r.Apply(start, full("a: cart/1 cart/2:81 cart/3"))
	after, _ := r.List(name("cart"))
	if after[0] != before[0] {
		t.Error("an instance that says the same is another pointer")
	}
	if after[1] == before[1] {
		t.Error("a changed instance is the same pointer")
	}
	if !slices.Equal(before, kept) {
		t.Error("a list that was handed out was written into")
	}
}

func TestCompleteAndCounts(t *testing.T) {
	r := New(Config{})
	r.Apply(start, read("a: cart/1"))
	if r.Complete() {
		t.Error("complete before a full read")
	}
	r.Apply(start, full("a: cart/1 cart/2", "b: cart/2 order/1 pay"))
	if !r.Complete() {
		t.Error("not complete after a full read")
	}
	if got, want := r.Counts(), (Counts{Services: 3, Instances: 3, Shadowed: 1}); got != want {
		t.Errorf("counts are %+v, want %+v", got, want)
	}
	r.Apply(start, reset(full("b: cart/2")))
	if got, want := r.Counts(), (Counts{Services: 2, Instances: 3, Held: 2}); got != want {
		t.Errorf("counts are %+v, want %+v", got, want)
	}
	r.Apply(start, read("b: cart/1"))
	r.Expire(start.Add(time.Minute))
	r.Apply(start, explicit(full()))
	if got, want := r.Removals(), (Removals{Explicit: 1, Passed: 1, Held: 2, Returned: 1, Expired: 1}); got != want {
		t.Errorf("removals are %+v, want %+v", got, want)
	}
	if got := r.Counts(); got != (Counts{}) {
		t.Errorf("counts of an empty registry are %+v", got)
	}
	if len(r.sources)+len(r.heldBy)+len(r.queue) != 0 {
		t.Error("an empty registry still holds memory of sources or holds")
	}
}

func TestConfigCheck(t *testing.T) {
	if err := (Config{}).Check(); err != nil {
		t.Errorf("the default is refused: %v", err)
	}
	for _, cfg := range []Config{{Hold: -1}, {Floor: -1}, {Window: -1}} {
		if cfg.Check() == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
	r := New(Config{Hold: time.Second, Floor: 1, Window: time.Minute})
	r.Apply(start, full("a: cart/1 cart/2 cart/3"))
	r.Apply(start, read("a: cart/3"))
	if got, want := golden(r), "[cart/2] cart/3"; got != want {
		t.Errorf("with a floor of 1 believed is %s, want %s", got, want)
	}
	r.Expire(start.Add(time.Second))
	if got, want := golden(r), "cart/3"; got != want {
		t.Errorf("after a hold of 1 s believed is %s, want %s", got, want)
	}
}

// The work of one change is that of its source, however large the registry.
func BenchmarkOneChange(b *testing.B) {
	for _, services := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("of %d services", services), func(b *testing.B) {
			r := New(Config{})
			var u catalog.Update
			for i := range services {
				u.Snapshots = append(u.Snapshots, snap(fmt.Sprintf("s%d: %s", i, many(fmt.Sprintf("svc%d", i), 10))))
			}
			u.Full = true
			r.Apply(start, u)
			change := [2]catalog.Update{read("s0: " + many("svc0", 10)), read("s0: " + many("svc0", 9) + " svc0/10:81")}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r.Apply(start, change[(i+1)%2])
				r.List(name("svc0"))
			}
		})
	}
}
