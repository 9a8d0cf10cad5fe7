package intake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// said is a resolver that says what a test tells it to.
type said struct {
	say  chan func(resolvers.Sink)
	runs atomic.Int32
	// fails, where it is set, ends each Run at once.
	fails error
	// lingers, where it is set, is waited for before Run returns; under says how many Runs there are.
	lingers chan struct{}
	under   atomic.Int32
}

var _ resolvers.Resolver = (*said)(nil)

func newSaid() *said { return &said{say: make(chan func(resolvers.Sink))} }

func (s *said) Run(ctx context.Context, out resolvers.Sink) error {
	s.runs.Add(1)
	s.under.Add(1)
	defer s.under.Add(-1)
	if s.fails != nil {
		return s.fails
	}
	for {
		select {
		case <-ctx.Done():
			if s.lingers != nil {
				<-s.lingers
			}
			return ctx.Err()
		case f := <-s.say:
			f(out)
		}
	}
}

func (s *said) publish(u catalog.Update) {
	s.say <- func(out resolvers.Sink) { out.Publish(u) }
	synctest.Wait()
}

func (s *said) confirm() {
	s.say <- func(out resolvers.Sink) { out.Confirm() }
	synctest.Wait()
}

func (s *said) fail(err error) {
	s.say <- func(out resolvers.Sink) { out.Failed(err) }
	synctest.Wait()
}

// update makes a Full update of one source per service: "cart: 1 2:8081" is two instances.
func update(services ...string) catalog.Update {
	u := catalog.Update{Full: true}
	for _, s := range services {
		name, ids, _ := strings.Cut(s, ":")
		snap := catalog.Snapshot{Source: name, Services: []catalog.Name{{Service: name}}}
		for _, id := range strings.Fields(ids) {
			in := &catalog.Instance{ID: catalog.ID{Name: catalog.Name{Service: name}}, Address: "10.0.0.1", Port: 80, Weight: 1}
			if i, port, ok := strings.Cut(id, ":"); ok {
				id = i
				if _, err := fmt.Sscan(port, &in.Port); err != nil {
					panic(err) // a mistake in the test itself
				}
			}
			in.Instance = id
			snap.Instances = append(snap.Instances, in)
		}
		u.Snapshots = append(u.Snapshots, snap)
	}
	return u
}

func instances(n int) string {
	var ids []string
	for i := range n {
		ids = append(ids, fmt.Sprint(i+1))
	}
	return strings.Join(ids, " ")
}

// bench is an Intake under way in a bubble, and what it said.
type bench struct {
	*Intake
	metrics *prometheus.Registry

	mu      sync.Mutex
	lists   map[catalog.Name]List // all that was said
	changes []Change
	// block, where it is set, is waited for inside changed.
	block chan struct{}
}

func begin(t *testing.T, registries ...Registry) *bench {
	t.Helper()
	return deciding(t, nil, registries...)
}

// deciding is begin with somebody who decides on removals.
func deciding(t *testing.T, verdict func(time.Time) func(catalog.ID) guard.Word, registries ...Registry) *bench {
	t.Helper()
	b := prepare(t, verdict, registries...)
	b.run(t)
	return b
}

// prepare is deciding without a Run.
func prepare(t *testing.T, verdict func(time.Time) func(catalog.ID) guard.Word, registries ...Registry) *bench {
	t.Helper()
	b := &bench{metrics: prometheus.NewRegistry(), lists: map[catalog.Name]List{}}
	in, err := New(Config{Cluster: "east", Registries: registries, Open: true}, Deps{Log: testkit.Quiet(), Metrics: NewMetrics(b.metrics), Verdict: verdict})
	if err != nil {
		t.Fatal(err)
	}
	b.Intake = in
	return b
}

// run lets it run until the test ends.
func (b *bench) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx, b.changed) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v, want the context's error", err)
		}
	})
	synctest.Wait()
}

func (b *bench) changed(ch Change) {
	b.mu.Lock()
	maps.Copy(b.lists, ch.Services)
	b.changes = append(b.changes, ch)
	block := b.block
	b.mu.Unlock()
	if block != nil {
		<-block
	}
}

func (b *bench) last() Change {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changes[len(b.changes)-1]
}

func (b *bench) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.changes)
}

// busy makes the user of the Intake busy with its next change until done is called.
func (b *bench) busy() (done func()) {
	block := make(chan struct{})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.block = block
	return func() { close(block); synctest.Wait() }
}

// golden gives all lists as they were said: "default/cart: 1 2:8081; default/order: gone".
func (b *bench) golden() string {
	var lines []string
	for _, n := range slices.SortedFunc(maps.Keys(b.lists), catalog.Name.Compare) {
		l := b.lists[n]
		words := []string{n.String() + ":"}
		if l.Gone {
			words = append(words, "gone")
		}
		for _, in := range l.Instances {
			w := in.Instance
			if in.Port != 80 {
				w += fmt.Sprint(":", in.Port)
			}
			words = append(words, w)
		}
		lines = append(lines, strings.Join(words, " "))
	}
	return strings.Join(lines, "; ")
}

func (b *bench) want(t *testing.T, lists string, changes int) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if got := b.golden(); got != lists {
		t.Fatalf("the lists are\n%s, want\n%s", got, lists)
	}
	if len(b.changes) != changes {
		t.Fatalf("%d changes were sent, want %d", len(b.changes), changes)
	}
}

func TestALineFromResolverToChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: res})
		b.want(t, "", 1)
		if ch := b.last(); ch.Complete || !reflect.DeepEqual(ch.Registries[0], catalog.RegistryStatus{Name: "consul"}) {
			t.Errorf("before the first read the change is %+v, want pending and incomplete", ch)
		}
		if _, ok := b.Confirmed(); ok {
			t.Error("confirmed before the first read")
		}

		u := update("cart: 1 2")
		u.Revision = "7"
		res.publish(u)
		b.want(t, "default/cart: 1 2", 2)
		want := catalog.Instance{
			ID:      catalog.ID{Cluster: "east", Name: catalog.Name{Namespace: "default", Service: "cart"}, Instance: "1"},
			Address: "10.0.0.1", Port: 80, Weight: 1, Registry: "consul",
		}
		first := b.last().Services[want.Name].Instances[0]
		if !first.Equal(&want) {
			t.Errorf("the first instance is %+v, want %+v", first, want)
		}
		if got := u.Snapshots[0].Instances[0]; got.Cluster != "" || got.Registry != "" {
			t.Error("the resolver's own record was written into")
		}
		wantStatus := catalog.RegistryStatus{Name: "consul", State: catalog.RegistryOK, Complete: true, Revision: "7", Services: 1, Instances: 2, LastSuccess: time.Now()}
		if ch := b.last(); !ch.Complete || !reflect.DeepEqual(ch.Registries[0], wantStatus) {
			t.Errorf("after the first read the change is %+v, want %+v", ch, wantStatus)
		}

		again := update("cart: 1 2")
		again.Revision = "8"
		res.publish(again)
		b.want(t, "default/cart: 1 2", 2)

		res.publish(update("cart: 1 2:8081"))
		b.want(t, "default/cart: 1 2:8081", 3)
		if b.last().Services[want.Name].Instances[0] != first {
			t.Error("an unchanged instance is another pointer")
		}
		res.publish(update("cart:", "order: 1"))
		b.want(t, "default/cart:; default/order: 1", 4)
		res.publish(update("order: 1"))
		b.want(t, "default/cart: gone; default/order: 1", 5)
	})
}

func TestARegistryThatFailsKeepsItsListAndTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, bad := newSaid(), newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: good}, Registry{Name: "file", Resolver: bad})
		bad.publish(update("pay: 1"))
		b.want(t, "default/pay: 1", 2)
		if b.last().Complete {
			t.Error("complete though one registry was never read")
		}
		bad.fail(errors.New("file: no such file"))
		good.publish(update("cart: 1"))
		b.want(t, "default/cart: 1; default/pay: 1", 4)
		if !b.last().Complete {
			t.Error("not complete though every registry was read")
		}
		if st := b.last().Registries[1]; st.State != catalog.RegistryFailed || st.LastError != "file: no such file" || st.Instances != 1 {
			t.Errorf("the status of the failed registry is %+v", st)
		}
		bad.fail(errors.New("file: no such file"))
		b.want(t, "default/cart: 1; default/pay: 1", 4)
		bad.confirm()
		if st := b.last().Registries[1]; st.State != catalog.RegistryOK || st.LastError != "" {
			t.Errorf("the status of the registry that is back is %+v", st)
		}
		b.want(t, "default/cart: 1; default/pay: 1", 5)
	})
}

func TestAResolverThatEndsIsRunAgainEverMoreSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad, good := newSaid(), newSaid()
		bad.fails = errors.New("consul: no such datacenter")
		b := begin(t, Registry{Name: "consul", Resolver: bad}, Registry{Name: "file", Resolver: good})
		good.publish(update("cart: 1"))
		sent := b.count() // the first may have told of the failure already
		b.want(t, "default/cart: 1", sent)
		if st := b.last().Registries[0]; st.State != catalog.RegistryFailed || st.LastError != "consul: no such datacenter" {
			t.Errorf("the status is %+v", st)
		}
		pass(t, time.Second)
		if n := bad.runs.Load(); n < 3 || n > 6 {
			t.Errorf("it ran %d times within a second, want pauses of up to 100, 200, 400 ms", n)
		}
		before := bad.runs.Load()
		pass(t, time.Minute)
		if n := bad.runs.Load() - before; n < 11 || n > 27 {
			t.Errorf("it ran %d times in the next minute, want pauses of up to 5 s", n)
		}
		b.want(t, "default/cart: 1", sent)
	})
}

func pass(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	<-timer.C
	synctest.Wait()
}

func TestTheFirstRegistryWinsAnIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newSaid(), newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: first}, Registry{Name: "file", Resolver: second})
		second.publish(update("cart: 1:8002 2:8002"))
		b.want(t, "default/cart: 1:8002 2:8002", 2)
		first.publish(update("cart: 1:8001 3:8001"))
		b.want(t, "default/cart: 1:8001 2:8002 3:8001", 3)
		if n := value(t, b.Intake.metrics.shadowed.WithLabelValues("east")); n != 1 {
			t.Errorf("%v records are shadowed, want 1", n)
		}
		second.publish(update("cart: 1:9999 2:8002"))
		b.want(t, "default/cart: 1:8001 2:8002 3:8001", 3)
		first.publish(update())
		b.want(t, "default/cart: 1:9999 2:8002", 4)
		second.publish(update("cart:"))
		b.want(t, "default/cart:", 5)
		second.publish(update())
		b.want(t, "default/cart: gone", 6)
		if n := value(t, b.Intake.metrics.shadowed.WithLabelValues("east")); n != 0 {
			t.Errorf("%v records are shadowed, want 0", n)
		}
	})
}

func TestAMassRemovalIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: res})
		all := "default/cart: " + instances(8)
		res.publish(update("cart: " + instances(8)))
		b.want(t, all, 2)
		began := time.Now()
		pass(t, time.Second)
		res.publish(update())
		b.want(t, all, 3)
		if st := b.last().Registries[0]; st.Held != 8 || len(b.last().Services) != 0 || b.Held() != 8 {
			t.Errorf("the change is %+v with %d held, want a status with 8 and no list", b.last(), b.Held())
		}
		holds := b.Holds()
		if len(holds) != 8 || holds[0].Registry != "consul" || holds[0].Reason != guard.Catalogue || holds[0].ID.Cluster != "east" {
			t.Errorf("holds are %+v", holds)
		}
		res.publish(update("cart: 1"))
		b.want(t, all, 4)
		pass(t, 59*time.Second)
		b.want(t, all, 4)
		pass(t, 2*time.Second)
		b.want(t, "default/cart: 1", 5)
		if gone := time.Since(began); b.Held() != 0 {
			t.Errorf("%d are still held after %v", b.Held(), gone)
		}
		for verdict, n := range map[string]float64{"held": 8, "returned": 1, "expired": 7, "passed": 0, "explicit": 0} {
			if got := value(t, b.Intake.metrics.removals.WithLabelValues("east", "consul", verdict)); got != n {
				t.Errorf("removals %s: %v, want %v", verdict, got, n)
			}
		}
	})
}

func TestAnExplicitMassRemovalGoesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "file", Resolver: res})
		res.publish(update("cart: "+instances(8), "order: 1"))
		u := update("cart:", "order: 1")
		u.Explicit = true
		res.publish(u)
		b.want(t, "default/cart:; default/order: 1", 3)
	})
}

// A record that can no longer be used was not removed by anybody.
func TestARecordThatGoesBadIsAnAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "file", Resolver: res})
		all := "default/cart: " + instances(8)
		res.publish(update("cart: " + instances(8)))
		u := update("cart: 1:70000 2:70000 3:70000 4:70000 5:70000 6:70000 7:70000 8:70000")
		u.Explicit = true
		res.publish(u)
		b.want(t, all, 3)
		if st := b.last().Registries[0]; st.Held != 8 || st.SetAside != 8 {
			t.Errorf("the status is %+v, want 8 set aside and 8 held", st)
		}
		u = update("cart:")
		u.Explicit = true
		res.publish(u)
		b.want(t, "default/cart:", 4)
	})
}

func TestConfirmedIsTheOldestAndOnlyOfWorkDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newSaid(), newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: one}, Registry{Name: "file", Resolver: two})
		one.publish(update("cart: 1"))
		if at, ok := b.Confirmed(); ok {
			t.Errorf("confirmed at %v though one registry was never read", at)
		}
		pass(t, time.Second)
		two.publish(update())
		first := time.Now()
		check := func(want time.Time) {
			t.Helper()
			if at, ok := b.Confirmed(); !ok || !at.Equal(want) {
				t.Errorf("confirmed at %v %t, want %v", at, ok, want)
			}
		}
		check(first.Add(-time.Second))
		pass(t, time.Second)
		one.confirm()
		check(first)
		two.fail(errors.New("down"))
		check(first)
		pass(t, time.Second)
		two.confirm()
		check(first.Add(time.Second))

		// While its user is busy with a list, a later confirmation is not told.
		done := b.busy()
		two.publish(update("cart: 2"))
		pass(t, time.Second)
		one.confirm()
		two.confirm()
		check(first.Add(time.Second))
		done()
		check(first.Add(3 * time.Second))
	})
}

func TestWhatComesInMeanwhileIsCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := newSaid()
		b := begin(t, Registry{Name: "consul", Resolver: res})
		done := b.busy()
		res.publish(update("cart: 1"))
		for range 50 {
			res.publish(update("cart: 1 2 3", "order: 1"))
			res.publish(update("cart: 1 2"))
		}
		done()
		b.want(t, "default/cart: 1 2", 3)
		if n := value(t, b.Intake.metrics.coalesced.WithLabelValues("east", "consul")); n < 99 {
			t.Errorf("%v snapshots are counted as coalesced, want all but the last", n)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	res := newSaid()
	for _, tt := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"no registry", Config{Cluster: "east"}, "no registry"},
		{"a cluster name", Config{Cluster: "East", Registries: []Registry{{Name: "a", Resolver: res}}}, "RFC 1123"},
		{"two of a name", Config{Cluster: "east", Registries: []Registry{{Name: "a", Resolver: res}, {Name: "a", Resolver: res}}}, `registry "a": name is taken`},
		{"no name", Config{Cluster: "east", Registries: []Registry{{Resolver: res}}}, "name is empty"},
		{"no resolver", Config{Cluster: "east", Registries: []Registry{{Name: "a"}}}, "no resolver"},
		{"a pattern", Config{Cluster: "east", Registries: []Registry{{Name: "a", Resolver: res, Exclude: []string{"[a"}}}}, `exclude: pattern "[a"`},
		{"a namespace", Config{Cluster: "east", Registries: []Registry{{Name: "a", Resolver: res, Namespaces: map[string]string{"x": ""}}}}, "namespaces[x]"},
		{"the guard", Config{Cluster: "east", Guard: guard.Config{Hold: -1}, Registries: []Registry{{Name: "a", Resolver: res}}}, "hold"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(tt.cfg, Deps{Log: testkit.Quiet(), Metrics: NewMetrics(prometheus.NewRegistry())})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("New returned %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestMetricsAreWellNamed(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := NewMetrics(reg)
	for _, cluster := range []string{"east", "west"} {
		if _, err := New(Config{Cluster: cluster, Registries: []Registry{{Name: "a", Resolver: newSaid()}}}, Deps{Log: testkit.Quiet(), Metrics: m}); err != nil {
			t.Fatal(err)
		}
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if len(families) == 0 {
		t.Error("nothing was gathered")
	}
	for _, f := range families {
		counter := f.GetType() == dto.MetricType_COUNTER
		if !strings.HasPrefix(f.GetName(), "farcall_intake_") || strings.HasSuffix(f.GetName(), "_total") != counter || f.GetHelp() == "" {
			t.Errorf("metric %s, counter %t, help %q", f.GetName(), counter, f.GetHelp())
		}
	}
}

// value gives what a counter or a gauge stands at.
func value(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}

// TestShadowedRecordsAreCounted says that a person is told of records that another registry's
// record of the same instance hides.
func TestShadowedRecordsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newSaid(), newSaid()
		b := begin(t, Registry{Name: "kubernetes", Resolver: first}, Registry{Name: "consul", Resolver: second})
		shadowed := func(want ...int) {
			t.Helper()
			for i, st := range b.Status() {
				if st.Shadowed != want[i] {
					t.Errorf("%s: %d records are shadowed, want %d", st.Name, st.Shadowed, want[i])
				}
			}
		}
		second.publish(update("cart: 1 2"))
		shadowed(0, 0)
		first.publish(update("cart: 2:81 3"))
		b.want(t, "default/cart: 1 2:81 3", b.count())
		shadowed(0, 1)
		first.publish(update("cart: 1:81 2:81 3"))
		shadowed(0, 2)
		second.publish(update("cart: 4", "order: 1"))
		shadowed(0, 0)
	})
}

// TestNothingIsShadowedByWhatIsGone says that a service that all registries forget at once leaves
// no shadowed record behind.
func TestNothingIsShadowedByWhatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newSaid(), newSaid()
		b := begin(t, Registry{Name: "kubernetes", Resolver: first}, Registry{Name: "consul", Resolver: second})
		first.publish(update("cart: 1", "order: 1"))
		second.publish(update("cart: 1", "order: 1"))
		done := b.busy()
		first.publish(update("cart: 1", "order: 1 2")) // held up: the next pass takes both that follow
		first.publish(update("order: 1"))
		second.publish(update("order: 1"))
		done()
		if b.lists[catalog.Name{Namespace: "default", Service: "cart"}].Gone != true {
			t.Fatal("cart is still there")
		}
		if st := b.Status()[1]; st.Shadowed != 1 {
			t.Errorf("%d records are shadowed, want that of order alone", st.Shadowed)
		}
	})
}
