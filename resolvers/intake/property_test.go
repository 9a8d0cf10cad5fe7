package intake

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
	"github.com/farcall/farcall/internal/testkit"
)

// What an Intake tells, each as a sentence. What its guards believe is proven in their package.
var (
	errBrokeUnion    = errors.New("what was told is the union of what the guards believe, the first registry first")
	errBrokeChange   = errors.New("a change tells of the services whose list is another, and of no others")
	errBrokeShadowed = errors.New("shadowed is what is believed beyond the union")
	errBrokePointer  = errors.New("an instance that says the same keeps its pointer")
)

// reader puts together what an Intake tells, and compares it with lists made from scratch.
type reader struct {
	*Intake
	now   time.Time
	lists map[catalog.Name][]*catalog.Instance // as told
}

func newReader(t *testing.T) *reader {
	t.Helper()
	registries := []Registry{{Name: "z", Resolver: newSaid()}, {Name: "y", Resolver: newSaid()}}
	in, err := New(Config{Cluster: "east", Registries: registries, Open: true, Guard: guard.Config{Floor: 2, Hold: 20 * time.Second}},
		Deps{Log: testkit.Quiet(), Metrics: NewMetrics(prometheus.NewRegistry())})
	if err != nil {
		t.Fatal(err)
	}
	return &reader{Intake: in, now: time.Unix(1_000_000, 0), lists: map[catalog.Name][]*catalog.Instance{}}
}

// union makes the lists from scratch.
func (r *reader) union() (lists map[catalog.Name][]*catalog.Instance, shadowed int) {
	lists = map[catalog.Name][]*catalog.Instance{}
	for _, reg := range r.registries {
		for _, n := range reg.guard.Names() {
			list, _ := reg.guard.List(n)
			lists[n] = append(lists[n], list...)
		}
	}
	for n, all := range lists {
		// The sort is stable, so the first of equal identities is that of the first registry.
		slices.SortStableFunc(all, func(a, b *catalog.Instance) int { return a.ID.Compare(b.ID) })
		lists[n] = slices.CompactFunc(all, func(a, b *catalog.Instance) bool { return a.ID == b.ID })
		shadowed += len(all) - len(lists[n])
	}
	return lists, shadowed
}

// read takes one pass and checks it.
func (r *reader) read() error {
	before := maps.Clone(r.lists)
	ch, _ := r.pass(r.now)
	r.answer()
	for n, l := range ch.Services {
		if l.Gone {
			delete(r.lists, n)
		} else {
			r.lists[n] = l.Instances
		}
	}
	return r.check(before, ch)
}

func (r *reader) check(before map[catalog.Name][]*catalog.Instance, ch Change) error {
	want, shadowed := r.union()
	if !maps.EqualFunc(r.lists, want, catalog.EqualLists) {
		return fmt.Errorf("%w: told %v, want %v", errBrokeUnion, r.lists, want)
	}
	hidden := 0
	for _, reg := range r.registries {
		hidden += len(reg.hidden)
	}
	if hidden != shadowed {
		return fmt.Errorf("%w: %d, want %d", errBrokeShadowed, hidden, shadowed)
	}
	all := maps.Clone(before)
	maps.Copy(all, want)
	maps.Copy(all, r.lists)
	for n := range all {
		was, knew := before[n]
		is, knows := r.lists[n]
		_, told := ch.Services[n]
		if told != (knew != knows || !catalog.EqualLists(was, is)) {
			return fmt.Errorf("%w: %s, told %t: from %v to %v", errBrokeChange, n, told, was, is)
		}
		for _, in := range is {
			if at := slices.IndexFunc(was, in.Equal); at >= 0 && was[at] != in {
				return fmt.Errorf("%w: %s", errBrokePointer, in)
			}
		}
	}
	return nil
}

// play reads a history from bytes: any bytes make one.
func (r *reader) play(history []byte) error {
	next := func() int {
		if len(history) == 0 {
			return 0
		}
		b := history[0]
		history = history[1:]
		return int(b)
	}
	for len(history) > 0 {
		what, name := next(), []string{"z", "y", "b", "a"}[next()%4]
		at := slices.IndexFunc(r.registries, func(reg *registry) bool { return reg.name == name })
		switch {
		case what%16 == 0:
			r.now = r.now.Add(time.Duration(next()%12) * time.Second)
		case what%16 == 1:
			r.Retire(name)
		case what%16 == 3:
			r.asked = append(r.asked, &release{filter: Filter{Registry: name}, done: make(chan struct{})})
		case at < 0 || r.registries[at].retired():
			if err := r.Add(Registry{Name: name, Resolver: newSaid()}); err != nil {
				return err
			}
		default:
			u := catalog.Update{Full: what&64 != 0, Explicit: what&128 != 0}
			if what%16 == 2 {
				u.Reset = "younger"
			}
			for range next() % 3 {
				u.Snapshots = append(u.Snapshots, someSnapshot(next(), next(), next()))
			}
			r.registries[at].inbox.Publish(u)
		}
		// Not after each: what waits in several inboxes is read in one pass.
		if what&32 != 0 {
			continue
		}
		if err := r.read(); err != nil {
			return err
		}
	}
	return r.finish()
}

// finish lets every hold end and every registry go.
func (r *reader) finish() error {
	err := r.read()
	r.now = r.now.Add(time.Minute)
	err = errors.Join(err, r.read())
	for _, name := range []string{"z", "y", "b", "a"} {
		r.Retire(name)
	}
	err = errors.Join(err, r.read())
	r.now = r.now.Add(time.Minute)
	err = errors.Join(err, r.read())
	if len(r.lists)+len(r.registries) > 0 {
		err = errors.Join(err, fmt.Errorf("%w: in the end %d lists, %d registries", errBrokeUnion, len(r.lists), len(r.registries)))
	}
	return err
}

// someSnapshot states the instances whose bits are set, of two services, in one of three
// sources, so that sources and registries state the same ones, alike and otherwise.
func someSnapshot(source, bits, port int) catalog.Snapshot {
	s := catalog.Snapshot{Source: fmt.Sprint(source % 3)}
	services := []catalog.Name{{Service: "cart"}, {Service: "order"}}
	if source&8 != 0 {
		s.Services = services[:1]
	}
	for i := range 8 {
		if bits&(1<<i) == 0 {
			continue
		}
		s.Instances = append(s.Instances, &catalog.Instance{
			ID: catalog.ID{Name: services[i%2], Instance: fmt.Sprint(i / 2)}, Address: "10.0.0.1", Port: 80 + port%3, Weight: 1,
		})
	}
	return s
}

func FuzzWhatIsToldIsTheUnion(f *testing.F) {
	f.Add([]byte{})
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		history := make([]byte, 600)
		for i := range history {
			history[i] = byte(rnd.Uint32())
		}
		f.Add(history)
	}
	f.Fuzz(func(t *testing.T, history []byte) {
		if err := newReader(t).play(history[:min(len(history), 2000)]); err != nil {
			t.Error(err)
		}
	})
}

// The comparison must be able to fail: each Intake here is broken in one way.
func TestTheComparisonSeesABrokenIntake(t *testing.T) {
	cart := catalog.Name{Namespace: "default", Service: "cart"}
	for _, tt := range []struct {
		name   string
		breaks func(*reader) error
		want   error
	}{
		{"it forgets an instance", func(r *reader) error {
			r.lists[cart] = r.lists[cart][1:]
			return r.check(maps.Clone(r.lists), Change{})
		}, errBrokeUnion},
		{"it believes the second registry", func(r *reader) error {
			slices.Reverse(r.registries)
			return r.check(maps.Clone(r.lists), Change{})
		}, errBrokeUnion},
		{"it counts wrong", func(r *reader) error {
			r.registries[0].hidden[catalog.ID{Instance: "nobody's"}] = struct{}{}
			return r.check(maps.Clone(r.lists), Change{})
		}, errBrokeShadowed},
		{"it tells too little", func(r *reader) error {
			return r.check(map[catalog.Name][]*catalog.Instance{}, Change{})
		}, errBrokeChange},
		{"it tells too much", func(r *reader) error {
			return r.check(maps.Clone(r.lists), Change{Services: map[catalog.Name]List{cart: {}}})
		}, errBrokeChange},
		{"it hands out copies", func(r *reader) error {
			before := maps.Clone(r.lists)
			before[cart] = slices.Clone(before[cart])
			other := *before[cart][0]
			before[cart][0] = &other
			return r.check(before, Change{})
		}, errBrokePointer},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newReader(t)
			r.registries[0].inbox.Publish(catalog.Update{Full: true, Snapshots: []catalog.Snapshot{someSnapshot(0, 15, 0)}})
			r.registries[1].inbox.Publish(catalog.Update{Full: true, Snapshots: []catalog.Snapshot{someSnapshot(0, 255, 1)}})
			if err := r.read(); err != nil {
				t.Fatal(err)
			}
			if err := tt.breaks(r); !errors.Is(err, tt.want) {
				t.Errorf("the comparison says %v, want %v", err, tt.want)
			}
		})
	}
}
