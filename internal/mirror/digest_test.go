package mirror

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
)

// truth is a store that the test writes, and what stands for it: reckoned from its keys alone, as
// somebody would who knows nothing of mirrors.
type truth struct {
	id      string
	rev     int64
	entries map[string]*feedv1.Entry
	past    []*feedv1.Entry // every change, oldest first
}

func newTruth(id string) *truth { return &truth{id: id, entries: map[string]*feedv1.Entry{}} }

func (s *truth) write(key string, value []byte) *feedv1.Entry {
	s.rev++
	e := &feedv1.Entry{Key: key, Value: value, Revision: s.rev, Deleted: value == nil}
	if delete(s.entries, key); value != nil {
		s.entries[key] = e
	}
	s.past = append(s.past, e)
	return e
}

func (s *truth) list() []*feedv1.Entry {
	return slices.SortedFunc(maps.Values(s.entries), func(a, b *feedv1.Entry) int { return int(a.GetRevision() - b.GetRevision()) })
}

func (s *truth) parts(schema keys.Schema) map[string]uint64 {
	out := map[string]uint64{}
	for key, e := range s.entries {
		if k, err := schema.Parse(key); err == nil {
			if part, ok := PartOf(k); ok {
				out[part] += keys.Mark(key, e.GetRevision())
			}
		}
	}
	return out
}

// dice makes a store's life at random: what readers believe and what they do not.
type dice struct {
	*rig
	*rand.Rand
	seq uint64
}

func (d *dice) value(v proto.Message) []byte {
	b, err := keys.Encode(v)
	if err != nil {
		d.t.Fatal(err)
	}
	return b
}

func (d *dice) cluster() string { return []string{"east", "west"}[d.IntN(2)] }

// entry gives a key and a value; the value may be garbage, of another key, or of a lower epoch.
func (d *dice) roll() (string, []byte) {
	d.seq++
	c, epoch := d.cluster(), uint64(1+d.IntN(3))
	k, v := keys.Key{Cluster: c}, proto.Message(nil)
	switch d.IntN(9) {
	case 0, 1, 2:
		k.Kind, k.Name, k.Slice = keys.Slice, catalog.Name{Namespace: "default", Service: []string{"cart", "pay"}[d.IntN(2)]}, uint32(d.IntN(2))
		v = &storev1.Slice{Cluster: c, Namespace: "default", Service: k.Name.Service, Slice: k.Slice, Epoch: epoch, Seq: d.seq, Instances: []*catalogv1.Instance{
			{Cluster: c, Namespace: "default", Service: k.Name.Service, Id: fmt.Sprint(d.IntN(5)), Address: "10.0.0.1", Port: 80},
		}}
	case 3:
		k.Kind, v = keys.Meta, &storev1.ClusterMeta{Cluster: c, Epoch: epoch, Seq: d.seq}
	case 4:
		k.Kind, v = keys.Synced, &storev1.Synced{Cluster: c, Epoch: epoch}
	case 5:
		k.Kind, k.Node = keys.Agent, fmt.Sprint("n", d.IntN(3))
		v = &catalogv1.Agent{Cluster: c, Node: k.Node, Incarnation: fmt.Sprint(d.IntN(2))}
	case 6:
		k.Kind, k.Cluster, k.ID, v = keys.Policy, "", fmt.Sprint("service/default/", d.IntN(2), "/*"), &policyv1.Policy{Revision: d.seq}
	case 7:
		k.Kind, k.Cluster, v = keys.PoliciesSynced, "", &storev1.PoliciesSynced{Revision: d.seq}
	case 8:
		if d.IntN(2) == 0 {
			return d.schema.Root() + "of-a-newer-version/" + c, []byte("?")
		}
		k.Kind, k.Cluster, k.Replica, v = keys.Replica, "", "r1", &storev1.Replica{Id: "r1", Tick: d.seq}
	}
	value := d.value(v)
	switch d.IntN(8) {
	case 0:
		value = []byte("garbage")
	case 1:
		value = d.value(&storev1.Slice{Cluster: "foreign"})
	}
	return d.schema.Format(k), value
}

// TestDigestIsThatOfTheStore says that whatever a reader makes of what it is told, refused values,
// older epochs, lists that break off, stores that are wiped and restarts from a saved view among
// them, its digest is that of the store. Else it would be listed again for ever.
func TestDigestIsThatOfTheStore(t *testing.T) {
	for seed := range uint64(100) {
		d := &dice{rig: newRig(t), Rand: rand.New(rand.NewPCG(seed, 1))}
		s := newTruth("s0")
		s.write(d.schema.Root()+"policies-synced", d.value(&storev1.PoliciesSynced{}))
		relist := func() {
			d.m.Begin(s.id)
			d.m.Apply(start, s.list(), s.rev)
			d.m.End(s.rev)
		}
		relist()
		for step := range 120 {
			what := "change"
			switch n := d.IntN(30); {
			case n < 24:
				key, value := d.roll()
				if d.IntN(4) == 0 {
					value = nil
				}
				d.m.Apply(start, []*feedv1.Entry{s.write(key, value)}, s.rev)
			case n == 24:
				what = "list again"
				relist()
			case n == 25:
				what = "a list that breaks off, then changes"
				from := s.rev
				for range 3 {
					s.write(d.roll())
				}
				d.m.Begin(s.id)
				all := s.list()
				d.m.Apply(start, all[:d.IntN(len(all)+1)], s.rev)
				d.m.Abandon()
				for _, e := range s.past {
					if e.GetRevision() > from {
						d.m.Apply(start, []*feedv1.Entry{e}, e.GetRevision())
					}
				}
			case n == 26:
				what = "another store"
				old := s
				s = newTruth(fmt.Sprint("s", step))
				for _, e := range old.list() {
					if d.IntN(2) == 0 {
						s.write(e.GetKey(), e.GetValue())
					}
				}
				relist()
			default:
				what = "restart"
				id, rev, entries, err := d.m.Save(start)
				if err != nil {
					t.Fatal(err)
				}
				d.rig = &rig{t: t, m: New(d.schema), schema: d.schema}
				d.list(id, entries...)
				d.m.revision = rev
				if id == "" {
					if _, ok := d.m.Digest(); ok {
						t.Fatalf("seed %d step %d: a view of no store has a digest", seed, step)
					}
					relist()
				}
			}
			got, ok := d.m.Digest()
			if !ok || got.StoreID != s.id || got.Revision != s.rev {
				t.Fatalf("seed %d step %d, %s: %v %+v, the store %s is at %d", seed, step, what, ok, got, s.id, s.rev)
			}
			if parts := Differ(got.Parts, s.parts(d.schema)); len(parts) > 0 {
				t.Fatalf("seed %d step %d, after %s: the digest differs in %q", seed, step, what, parts)
			}
		}
	}
}

// content is all that a mirror answers, as text.
func content(m *Mirror) string {
	var out []string
	for _, c := range m.Clusters(start) {
		if c.Meta == nil && c.Services == 0 {
			continue // only its name is left
		}
		out = append(out, fmt.Sprint(c.Name, c.Meta, c.State))
		for _, n := range m.Names(c.Name) {
			list, _ := m.Instances(c.Name, n)
			for _, i := range list {
				out = append(out, fmt.Sprint(i.ID))
			}
		}
	}
	for _, a := range m.Agents() {
		out = append(out, a.String())
	}
	p := m.Policies()
	// Not whether the store is behind: a marker that cannot be read counts in a list only.
	return fmt.Sprint(out, p.Set.Revision(), len(p.Set.Policies()), len(p.Refused))
}

// TestWhatDigestsDoNotTellNobodyCanRepair says that where changes were lost, came twice or in another
// order, either the digest differs from the store's, or to list again would change nothing.
func TestWhatDigestsDoNotTellNobodyCanRepair(t *testing.T) {
	found, same := 0, 0
	for seed := range uint64(100) {
		d := &dice{rig: newRig(t), Rand: rand.New(rand.NewPCG(seed, 2))}
		s := newTruth("s1")
		for range 20 {
			s.write(d.roll())
		}
		relist := func() {
			d.m.Begin(s.id)
			d.m.Apply(start, s.list(), s.rev)
			d.m.End(s.rev)
		}
		relist()
		var late []*feedv1.Entry
		for range 30 {
			key, value := d.roll()
			if d.IntN(3) == 0 {
				value = nil
			}
			e := s.write(key, value)
			switch d.IntN(12) {
			case 0: // lost
			case 1:
				d.m.Apply(start, []*feedv1.Entry{e}, s.rev)
				d.m.Apply(start, []*feedv1.Entry{e}, s.rev)
			case 2:
				late = append(late, e)
			default:
				d.m.Apply(start, []*feedv1.Entry{e}, s.rev)
				d.m.Apply(start, late, 0)
				late = nil
			}
		}
		d.m.Apply(start, nil, s.rev)
		got, ok := d.m.Digest()
		if !ok {
			t.Fatalf("seed %d: no digest", seed)
		}
		before := content(d.m)
		if len(Differ(got.Parts, s.parts(d.schema))) > 0 {
			found++
			relist()
			if got, _ := d.m.Digest(); len(Differ(got.Parts, s.parts(d.schema))) > 0 {
				t.Fatalf("seed %d: it differs still, after a list", seed)
			}
			continue
		}
		same++
		if relist(); content(d.m) != before {
			t.Fatalf("seed %d: the digest is the store's, and yet a list changes\n%s\nto\n%s", seed, before, content(d.m))
		}
	}
	if found == 0 || same == 0 {
		t.Errorf("%d differed, %d did not: the faults do not show both", found, same)
	}
}

// TestSweepThatForgetsIsFound says that the digest is of what is held, not of what was told: a slice
// that should be gone and is not makes another one.
func TestSweepThatForgetsIsFound(t *testing.T) {
	r := newRig(t)
	stays, marker := r.slice("east", 0, 1, 1, "a"), r.synced("east", 1)
	r.list("s1", stays, r.slice("east", 1, 1, 2, "b"), marker)
	ghost := r.m.clusters["east"].services[cart].slices[1]
	r.list("s1", stays, marker)
	swept, _ := r.m.Digest()
	r.m.clusters["east"].services[cart].slices[1] = ghost
	if d, _ := r.m.Digest(); len(Differ(d.Parts, swept.Parts)) == 0 {
		t.Error("a slice that the list did not name is held, and the digest says nothing of it")
	}
	r.list("s1", stays, marker)
	r.want("east", "a")
	if d, _ := r.m.Digest(); len(Differ(d.Parts, swept.Parts)) > 0 {
		t.Error("listed again, the digest is another one than at first")
	}
}

// TestNoDigestWhereItCannotBeSaid says when a mirror says nothing instead of something wrong.
func TestNoDigestWhereItCannotBeSaid(t *testing.T) {
	r := newRig(t)
	says := func(what string, want bool) {
		t.Helper()
		if _, ok := r.m.Digest(); ok != want {
			t.Errorf("%s: a digest: %v, want %v", what, ok, want)
		}
	}
	says("nothing was listed", false)
	e := r.slice("east", 0, 1, 1, "a")
	r.m.Begin("s1")
	r.m.Apply(start, []*feedv1.Entry{e}, r.rev)
	says("within a list", false)
	r.m.End(r.rev)
	says("after it", true)
	at := r.rev
	first, second := r.slice("east", 0, 1, 2, "a", "b"), r.slice("east", 1, 1, 3, "c")
	r.m.Apply(start, []*feedv1.Entry{first}, at)
	says("after the first part of a change", false)
	r.m.Apply(start, []*feedv1.Entry{second}, r.rev)
	says("after the last", true)

	old := proto.CloneOf(e)
	old.Revision = 0
	r.list("s1", old)
	says("of entries that do not say their revision", false)
	r.m.Begin("s1")
	r.m.Abandon()
	says("a list broke off after that", false)
	again := r.restart(0)
	if _, ok := again.m.Digest(); ok {
		t.Error("restarted from it, there is a digest")
	}
	r.list("s1", e)
	says("listed anew", true)
}

// BenchmarkDigest is the cost of one digest at an agent of 100 000 instances in 2 000 services, and of
// the report that carries it.
func BenchmarkDigest(b *testing.B) {
	schema, err := keys.New("test")
	if err != nil {
		b.Fatal(err)
	}
	m := New(schema)
	m.Begin("s1")
	rev := int64(0)
	for n := range 2000 {
		cluster, name := fmt.Sprint("cluster-", n%10), catalog.Name{Namespace: "default", Service: fmt.Sprint("svc-", n)}
		v := &storev1.Slice{Cluster: cluster, Namespace: "default", Service: name.Service, Epoch: 1, Seq: 1}
		for i := range 50 {
			v.Instances = append(v.Instances, &catalogv1.Instance{Cluster: cluster, Namespace: "default", Service: name.Service, Id: fmt.Sprint(i), Address: "10.0.0.1", Port: 80})
		}
		value, err := keys.Encode(v)
		if err != nil {
			b.Fatal(err)
		}
		rev++
		m.Apply(start, []*feedv1.Entry{{Key: schema.Format(keys.Key{Kind: keys.Slice, Cluster: cluster, Name: name}), Value: value, Revision: rev}}, rev)
	}
	m.End(rev)
	b.ReportAllocs()
	for b.Loop() {
		m.Digest()
	}
	d, _ := m.Digest()
	b.ReportMetric(float64(proto.Size(&feedv1.Digest{Parts: d.Parts})), "wire-B")
}
