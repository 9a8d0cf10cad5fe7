package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

func TestDiffer(t *testing.T) {
	a, b, c, b2 := instance("a", 1), instance("b", 1), instance("c", 1), instance("b", 2)
	tests := []struct {
		name         string
		before, list []*catalog.Instance
		come, gone   string
		disordered   bool
	}{
		{name: "nothing known", list: []*catalog.Instance{a, b}, come: "a b"},
		{name: "the same", before: []*catalog.Instance{a, b}, list: []*catalog.Instance{a, b}},
		{name: "one changed", before: []*catalog.Instance{a, b, c}, list: []*catalog.Instance{a, b2, c}, come: "b:2", gone: "b"},
		{name: "one comes", before: []*catalog.Instance{a, c}, list: []*catalog.Instance{a, b, c}, come: "b"},
		{name: "one goes", before: []*catalog.Instance{a, b, c}, list: []*catalog.Instance{a, c}, gone: "b"},
		{name: "the first goes", before: []*catalog.Instance{a, b, c}, list: []*catalog.Instance{b, c}, gone: "a"},
		{name: "all go", before: []*catalog.Instance{a, b}, gone: "a b"},
		{name: "one twice", before: []*catalog.Instance{a, b, c}, list: []*catalog.Instance{a, b, b2, c}, come: "a b b:2 c", disordered: true},
		{name: "one twice, the old one last", before: []*catalog.Instance{b}, list: []*catalog.Instance{b2, b}, come: "b:2 b", disordered: true},
		{name: "out of order", before: []*catalog.Instance{a, b}, list: []*catalog.Instance{b, a}, come: "b a", disordered: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := differ(tt.before, List{Instances: tt.list})
			if got := words(d.come); got != tt.come {
				t.Errorf("come %q, want %q", got, tt.come)
			}
			if got := words(d.gone); got != tt.gone {
				t.Errorf("gone %q, want %q", got, tt.gone)
			}
			if d.ordered == tt.disordered {
				t.Errorf("ordered is %v", d.ordered)
			}
		})
	}
}

func words(list []*catalog.Instance) string {
	var out []string
	for _, i := range list {
		w := i.Instance
		if i.Port != 1 {
			w += fmt.Sprint(":", i.Port)
		}
		out = append(out, w)
	}
	return strings.Join(out, " ")
}

// history makes one list of a service after another, as a registry's life would. Whoever did not
// change keeps its pointer.
type history struct {
	r     *rand.Rand
	name  catalog.Name
	alive []*catalog.Instance
	next  List
}

func (h *history) instance(id int) *catalog.Instance {
	i := instance(fmt.Sprintf("i%03d", id), 1+h.r.IntN(9000))
	i.Name = h.name
	return i
}

func (h *history) step() {
	list := slices.Clone(h.alive)
	switch h.r.IntN(12) {
	case 0:
		h.next = List{Gone: true, Instances: list}
		return
	case 1:
		list = nil
	case 2: // half of them go
		list = slices.DeleteFunc(list, func(*catalog.Instance) bool { return h.r.IntN(2) == 0 })
	case 3, 4: // many come
		for range h.r.IntN(200) {
			list = append(list, h.instance(h.r.IntN(400)))
		}
	case 5: // all are read anew, and say the same
		for n, i := range list {
			again := *i
			again.Revision = fmt.Sprint(h.r.IntN(9))
			list[n] = &again
		}
	case 6: // one that cannot be written, in the place of one that could
		bad := h.instance(h.r.IntN(400))
		bad.Locality.Zone = "\xff"
		list = append(list, bad)
	default: // one comes or changes, one goes
		list = append(list, h.instance(h.r.IntN(400)))
		gone := h.r.IntN(len(list))
		list = slices.Delete(list, gone, gone+1)
	}
	slices.SortStableFunc(list, func(a, b *catalog.Instance) int { return a.ID.Compare(b.ID) })
	h.next = List{Instances: list}
	if h.r.IntN(10) > 0 { // else some stand twice this time
		h.next.Instances = slices.CompactFunc(slices.Clone(list), func(a, b *catalog.Instance) bool { return a.ID == b.ID })
	}
	h.alive = h.next.Instances
}

// owned is a federation of its own whose cluster east is owned, for as many terms as wanted.
type owned struct {
	*Store
	office *office
	term   *Term
}

func own(t *testing.T, srv *server, federation string) *owned {
	t.Helper()
	o := &owned{Store: newStore(t, Config{Federation: federation, Etcd: &EtcdConfig{Endpoints: []string{srv.addr}}})}
	runStore(t, o.Store)
	o.begin(t)
	return o
}

// begin ends the term, if there is one, and waits for the next.
func (o *owned) begin(t *testing.T) {
	t.Helper()
	if o.office != nil {
		o.office.stop()
	}
	o.office = openOffice(t, member(o.Store, "a", "east"))
	o.term = o.office.term(t, testkit.Context(t), "east", 1)
}

// bytes gives what the store holds of the cluster's services, by the end of the key.
func (o *owned) bytes(t *testing.T) map[string]string {
	t.Helper()
	prefix := o.schema.Services("east")
	resp, err := o.client.Get(testkit.Context(t), prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, kv := range resp.Kvs {
		out[strings.TrimPrefix(string(kv.Key), prefix)] = string(kv.Value)
	}
	return out
}

// Over any history, a term that goes by what it published last writes the same bytes as one that
// compares all by content every time.
func TestWhatDiffersByPointerIsWhatDiffersByContent(t *testing.T) {
	srv := startServer(t)
	byPointer, byContent := own(t, srv, "pointer"), own(t, srv, "content")
	both := []*owned{byPointer, byContent}
	ctx := testkit.Context(t)
	r := rand.New(rand.NewPCG(7, 7))
	all := map[catalog.Name]*history{}
	for _, s := range []string{"cart", "pay", "user"} {
		all[name(s)] = &history{r: r, name: name(s)}
	}
	for n := range 400 {
		lists, full := map[catalog.Name]List{}, n == 0 || r.IntN(20) == 0
		for _, s := range slices.SortedFunc(maps.Keys(all), catalog.Name.Compare) {
			h := all[s]
			changed := r.IntN(2) == 0
			if changed {
				h.step()
			}
			// A full publish that leaves a service out removes it, one that is not leaves it as it is.
			if changed || r.IntN(4) == 0 || full && r.IntN(4) > 0 {
				lists[s] = h.next
			}
		}
		distrust, newTerm := r.IntN(40) == 0, r.IntN(80) == 0
		for _, o := range both {
			switch {
			case newTerm:
				o.begin(t)
			case distrust:
				if err := o.term.Distrust(ctx); err != nil {
					t.Fatal(err)
				}
			}
			if o == byContent {
				clear(o.term.lists)
			}
			publish(t, ctx, o.term, full, lists)
		}
		if got, want := byPointer.bytes(t), byContent.bytes(t); !maps.Equal(got, want) {
			t.Fatalf("publish %d: the store holds\n%s\nwant\n%s", n, stored(t, byPointer.Store, "east"), stored(t, byContent.Store, "east"))
		}
	}
}

// What a publish that came to nothing wrote of its lists is not taken for what they were.
func TestWhatIsLeftOfAPublishThatWasGivenUpGoes(t *testing.T) {
	srv := startServer(t)
	ctx := testkit.Context(t)
	a, other := srv.replica(t, ""), srv.replica(t, "")
	m := member(a.Store, "a", "east")
	m.ttl = time.Minute // outlives the silence
	term := openOffice(t, m).term(t, ctx, "east", 1)
	kept, lost := list("a b"), list("c")
	publish(t, ctx, term, true, map[catalog.Name]List{cart: {Instances: kept}})
	a.wire.answers.set(false)
	short, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- term.Publish(short, map[catalog.Name]List{cart: {Instances: slices.Concat(kept, lost)}}, false)
	}()
	testkit.Eventually(t, ctx, "the write to arrive, unknown to its writer", func() error {
		if got := stored(t, other.Store, "east"); got != "cart/0 e1: a b c" {
			return errors.New(got)
		}
		return nil
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("it was given up with %v", err)
	}
	a.wire.answers.set(true)
	publish(t, ctx, term, false, map[catalog.Name]List{cart: {Instances: kept}})
	wantStored(t, other.Store, "east", "cart/0 e1: a b")
}

func TestASliceThatIsNotInOrderIsReadAsIfItWere(t *testing.T) {
	s, term := stillTerm(t)
	ctx := testkit.Context(t)
	publish(t, ctx, term, true, one("a b c d"))
	ops, _, err := term.encode(step{name: cart, change: change{puts: []slice{newSlice(0,
		newSlot(instance("d", 1)), newSlot(instance("b", 1)), newSlot(instance("a", 1)), newSlot(instance("c", 1)))}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(term.commit(ctx, ops), term.Distrust(ctx)); err != nil {
		t.Fatal(err)
	}
	all := list("a b c d")
	publish(t, ctx, term, true, map[catalog.Name]List{cart: {Instances: all}})
	wantStored(t, s, "east", "cart/0 e1: d b a c")
	publish(t, ctx, term, false, map[catalog.Name]List{cart: {Instances: all[:3]}})
	wantStored(t, s, "east", "cart/0 e1: a b c")
}
