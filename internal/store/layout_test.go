package store

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var cart = catalog.Name{Namespace: "default", Service: "cart"}

// instance makes an instance of cart in east; port tells one version of it from another.
func instance(id string, port int) *catalog.Instance {
	return &catalog.Instance{
		ID:      catalog.ID{Cluster: "east", Name: cart, Instance: id},
		Address: "10.0.0.1", Port: port, Weight: 1, Health: catalog.Healthy,
	}
}

// list makes instances from "a b:2", a port after a colon being other than 1.
func list(ids string) []*catalog.Instance {
	var out []*catalog.Instance
	for f := range strings.FieldsSeq(ids) {
		id, port, _ := strings.Cut(f, ":")
		p := 1
		if port != "" {
			_, _ = fmt.Sscan(port, &p)
		}
		out = append(out, instance(id, p))
	}
	catalog.SortInstances(out)
	return out
}

func newSlice(index uint32, slots ...slot) slice {
	s := slice{index: index}
	for _, sl := range slots {
		s.add(sl)
	}
	return s
}

// layout reads "0: a b | 2: c! | 3!:" as slices; an exclamation mark makes a slice dirty.
func layout(s string) []slice {
	var out []slice
	for part := range strings.SplitSeq(s, "|") {
		index, ids, ok := strings.Cut(strings.TrimSpace(part), " ")
		if index == "" && !ok {
			continue
		}
		var sl slice
		sl.dirty = strings.HasSuffix(index, "!")
		_, _ = fmt.Sscan(strings.TrimSuffix(index, "!"), &sl.index)
		for _, i := range list(ids) {
			sl.add(newSlot(i))
		}
		out = append(out, sl)
	}
	return out
}

// show writes changes as one line each: puts as "index=ids", deletes as "-index".
func show(changes []change) string {
	var lines []string
	for _, c := range changes {
		var ops []string
		for _, p := range c.puts {
			ids := []string{}
			for _, s := range p.slots {
				id := s.inst.Instance
				if s.inst.Port != 1 {
					id += fmt.Sprintf(":%d", s.inst.Port)
				}
				ids = append(ids, id)
			}
			ops = append(ops, fmt.Sprintf("%d=%s", p.index, strings.Join(ids, ",")))
		}
		for _, d := range c.deletes {
			ops = append(ops, fmt.Sprintf("-%d", d))
		}
		lines = append(lines, strings.Join(ops, " "))
	}
	return strings.Join(lines, "; ")
}

func TestPlan(t *testing.T) {
	one := newSlot(instance("a", 1)).size
	tests := []struct {
		name string
		have string
		want string
		lim  limits // of zero: four instances, any size
		out  string
	}{
		{name: "a new service", want: "a b", out: "0=a,b"},
		{name: "a new service without instances", out: "0="},
		{name: "nothing changes", have: "0 a b", want: "a b", out: ""},
		{name: "still empty", have: "0", want: "", out: ""},
		{name: "the first instance of an empty service", have: "0", want: "a", out: "0=a"},
		{name: "the last instance goes", have: "0 a", want: "", out: "0="},
		{name: "the last instance goes, and it was not in slice 0", have: "2 a", want: "", out: "0=; -2"},
		{name: "one changed instance is one put", have: "0 a b c d | 1 e f", want: "a b:2 c d e f", out: "0=a,b:2,c,d"},
		{name: "a new one takes the first with room", have: "0 a b c d | 1 e f g | 2 h i j", want: "a b c d e f g h i j k", out: "1=e,f,g,k"},
		{name: "a gap in the indices is filled", have: "0 a b c d | 2 e f g h", want: "a b c d e f g h i", out: "1=i"},
		{name: "a place that became free is used", have: "0 a b c d | 1 e f g h", want: "a b c d f g h i", out: "1=f,g,h,i"},
		{name: "an instance keeps its slice, whatever its order", have: "0 c d e f | 1 g h i", want: "a c d e f g h i", out: "1=a,g,h,i"},
		{name: "an emptied slice goes", have: "0 a b c | 1 d", want: "a b c", out: "-1"},
		{name: "slice 0 goes as any other", have: "0 a | 1 b c d e", want: "b c d e", out: "-0"},
		{name: "additions before removals", have: "0 a b c d | 1 e f g", want: "b c d e f g h i", out: "1=e,f,g,i; 0=b,c,d,h"},
		{name: "two sparse slices merge in one change", have: "0 a | 1 b c", want: "a c", out: "0=a,c -1"},
		{name: "a third sparse slice is left", have: "0 a | 1 b c | 2 d", want: "a c d", out: "0=a,c -1"},
		{name: "sparse slices that lost nothing are left", have: "0 a | 1 b", want: "a b:2", out: "1=b:2"},
		{name: "together more than half full: no merge", have: "0 a b | 1 c d", want: "a b c", out: "1=c"},
		{name: "an instance in two slices stays in the first", have: "0 a b c | 1 a d e f", want: "a b c d e f", out: "1=d,e,f"},
		{name: "twice wanted is once written", want: "a a:2", out: "0=a:2"},
		{name: "a dirty slice is written though nothing changed", have: "0! a b c | 1 d e f", want: "a b c d e f", out: "0=a,b,c"},
		{name: "a dirty slice that holds nothing goes", have: "0 a b c | 1!", want: "a b c", out: "-1"},
		{name: "an unreadable slice is filled again", have: "0! ", want: "a b", out: "0=a,b"},
		{name: "a dirty empty slice 0 is written", have: "0! ", want: "", out: "0="},
		{name: "a slice above the limit gives to others first", have: "0 a b c d e f | 1 g", want: "a b c d e f g", out: "1=e,f,g; 0=a,b,c,d"},
		{name: "size limits as number does", want: "a b c", lim: limits{instances: 4, bytes: 2 * one}, out: "0=a,b; 1=c"},
		{name: "an instance that grew moves", have: "0 a b", want: "a b:99999", lim: limits{instances: 4, bytes: 2*one + 1}, out: "1=b:99999; 0=a"},
		{name: "one that is too large alone stays alone", have: "0 a", want: "a", lim: limits{instances: 4, bytes: 1}, out: ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			lim := cmp.Or(tt.lim, limits{instances: 4, bytes: 1 << 20})
			if got := show(plan(layout(tt.have), differ(nil, List{Instances: list(tt.want)}), lim)); got != tt.out {
				t.Errorf("got  %q\nwant %q", got, tt.out)
			}
		})
	}
}

func TestDropDeletesEverySlice(t *testing.T) {
	if got := show(drop(layout("0 a | 3 b"))); got != "-0; -3" {
		t.Errorf("got %q", got)
	}
}

// checkPlan makes a plan and holds it against everything a plan promises, and against the plan
// that is made where it is known that the layout holds the list before; nil where it may not.
func checkPlan(t *testing.T, have []slice, before, want []*catalog.Instance, lim limits) []slice {
	t.Helper()
	was := show([]change{{puts: have}})
	all := differ(nil, List{Instances: want})
	changes := plan(have, all, lim)
	short := plan(have, differ(before, List{Instances: want}), lim)
	if now := show([]change{{puts: have}}); now != was {
		t.Fatalf("the plan changed what it was given: %s became %s", was, now)
	}
	if got, want := show(short), show(changes); got != want {
		t.Fatalf("by what differs from the list before, the plan for\n%s\nis  %s\nnot %s", was, got, want)
	}
	wanted, had := map[string]*catalog.Instance{}, map[string]bool{}
	for _, w := range want {
		wanted[w.Instance] = w
	}
	for _, s := range have {
		for _, sl := range s.slots {
			had[sl.inst.Instance] = true
		}
	}
	now := have
	ranks := []rank{}
	for _, c := range changes {
		now = c.apply(now)
		ranks = append(ranks, c.rank)
		checkNobodyMissing(t, now, wanted, had)
		checkWorthWriting(t, c, have, lim)
	}
	if !slices.IsSorted(ranks) {
		t.Fatalf("ranks %v are not in order", ranks)
	}
	checkExact(t, now, wanted, lim)
	if again := plan(now, all, lim); len(again) != 0 {
		t.Fatalf("a second plan is not empty: %s", show(again))
	}
	return now
}

// checkNobodyMissing: whoever was there and is wanted is there at every moment between.
func checkNobodyMissing(t *testing.T, now []slice, wanted map[string]*catalog.Instance, had map[string]bool) {
	t.Helper()
	present := map[string]bool{}
	for _, s := range now {
		for _, sl := range s.slots {
			present[sl.inst.Instance] = true
		}
	}
	for id := range had {
		if wanted[id] != nil && !present[id] {
			t.Fatalf("%s is missing in between: %s", id, show([]change{{puts: now}}))
		}
	}
}

// checkWorthWriting: no put writes what is there already, and none is too large.
func checkWorthWriting(t *testing.T, c change, have []slice, lim limits) {
	t.Helper()
	for _, p := range c.puts {
		size := 0
		for _, s := range p.slots {
			size += s.size
		}
		if len(p.slots) > lim.instances || size > lim.bytes && len(p.slots) > 1 {
			t.Fatalf("slice %d has %d instances of %d bytes", p.index, len(p.slots), size)
		}
		for _, h := range have {
			same := slices.EqualFunc(h.slots, p.slots, func(a, b slot) bool { return a.inst.Equal(b.inst) })
			if h.index == p.index && same && !h.dirty {
				t.Fatalf("slice %d is written as it was", p.index)
			}
		}
	}
	if len(c.puts)+len(c.deletes) > txnOps {
		t.Fatalf("a change of %d operations does not go into a transaction", len(c.puts)+len(c.deletes))
	}
}

// checkExact: every wanted instance is in exactly one slice, in order, and nothing else is.
func checkExact(t *testing.T, now []slice, wanted map[string]*catalog.Instance, lim limits) {
	t.Helper()
	in := map[string]uint32{}
	for n, s := range now {
		if n > 0 && now[n-1].index >= s.index {
			t.Fatalf("slices are not in order")
		}
		if len(s.slots) == 0 && (len(wanted) > 0 || s.index != 0) {
			t.Fatalf("slice %d is empty", s.index)
		}
		if len(s.slots) > lim.instances {
			t.Fatalf("slice %d has %d instances", s.index, len(s.slots))
		}
		if sum := newSlice(s.index, s.slots...); s.bytes != sum.bytes {
			t.Fatalf("slice %d is said to have %d bytes, and has %d", s.index, s.bytes, sum.bytes)
		}
		for i, sl := range s.slots {
			id := sl.inst.Instance
			if at, twice := in[id]; twice {
				t.Fatalf("%s is in slices %d and %d", id, at, s.index)
			}
			in[id] = s.index
			if w := wanted[id]; w == nil || !w.Equal(sl.inst) {
				t.Fatalf("%s is not as wanted", id)
			}
			if i > 0 && s.slots[i-1].inst.Instance >= id {
				t.Fatalf("slice %d is not in identity order", s.index)
			}
		}
	}
	if len(in) != len(wanted) || len(now) == 0 {
		t.Fatalf("%d of %d instances have a slice, in %d slices", len(in), len(wanted), len(now))
	}
}

func TestPlansOverALongLife(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		lim := limits{instances: 1 + r.IntN(12), bytes: 100 + r.IntN(1000)}
		alive := map[string]*catalog.Instance{}
		put := func(port int) {
			id := fmt.Sprintf("i%d", r.IntN(200))
			alive[id] = instance(id, port)
		}
		var now []slice
		var before []*catalog.Instance
		for range 200 {
			switch r.IntN(10) {
			case 0: // a mass removal
				for id := range alive {
					if r.IntN(10) > 0 {
						delete(alive, id)
					}
				}
			case 1, 2: // a scale-up
				for range r.IntN(40) {
					put(1)
				}
			case 3: // another version somewhere
				put(1 + r.IntN(60000))
			case 4: // everybody anew, most as they were
				for id, i := range alive {
					alive[id] = instance(id, i.Port)
				}
				put(2)
			default: // one comes, one goes
				put(1)
				delete(alive, fmt.Sprintf("i%d", r.IntN(200)))
			}
			want := slices.Collect(maps.Values(alive))
			catalog.SortInstances(want)
			now = checkPlan(t, now, before, want, lim)
			before = want
		}
	}
}

// FuzzPlan reads a layout and a wish from bytes: two bytes are an instance, its slice in what
// is stored (0 to 6, 7 for none), whether it is wanted, and whether it changed.
func FuzzPlan(f *testing.F) {
	f.Add(uint8(4), uint16(1000), []byte{1, 0, 2, 1, 3, 7, 4, 0x88})
	f.Add(uint8(1), uint16(60), []byte{})
	f.Add(uint8(100), uint16(10), []byte{1, 0x80, 1, 0x81, 2, 0xc0, 3, 0x82})
	f.Fuzz(func(t *testing.T, instances uint8, bytes uint16, data []byte) {
		lim := limits{instances: max(1, int(instances)), bytes: max(1, int(bytes))}
		stored := map[uint32][]slot{}
		held, wanted := map[string]*catalog.Instance{}, map[string]*catalog.Instance{}
		twice := false
		for ; len(data) >= 2; data = data[2:] {
			id, how := fmt.Sprintf("i%d", data[0]), data[1]
			if index := uint32(how & 7); index < 7 {
				if held[id] == nil {
					held[id] = instance(id, 1)
					stored[index] = append(stored[index], newSlot(held[id]))
				} else if !slices.ContainsFunc(stored[index], func(s slot) bool { return s.inst.Instance == id }) {
					twice = true
					stored[index] = append(stored[index], newSlot(instance(id, 1)))
				}
			}
			if how&8 == 0 {
				wanted[id] = instance(id, 1+int(how>>4))
				if how>>4 == 0 && held[id] != nil {
					wanted[id] = held[id]
				}
			}
		}
		var have []slice
		for index, slots := range stored {
			slices.SortFunc(slots, func(a, b slot) int { return a.inst.ID.Compare(b.inst.ID) })
			s := newSlice(index, slots...)
			s.dirty = index == 3
			have = append(have, s)
		}
		slices.SortFunc(have, func(a, b slice) int { return cmp.Compare(a.index, b.index) })
		want, before := slices.Collect(maps.Values(wanted)), slices.Collect(maps.Values(held))
		catalog.SortInstances(want)
		catalog.SortInstances(before)
		if twice {
			before = nil // the layout holds more than this
		}
		checkPlan(t, have, before, want, lim)
	})
}
