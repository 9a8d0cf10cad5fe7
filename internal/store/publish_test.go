package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
)

// stillTerm gives a term in a store that nothing else writes: no beats, so that revisions
// count the term's own writes.
func stillTerm(t *testing.T) (*Store, *Term) {
	t.Helper()
	s, _ := embeddedStore(t, t.TempDir())
	m := member(s, "a", "east")
	m.ttl, m.beat = 2*time.Hour, time.Hour
	return s, openOffice(t, m).term(t, testkit.Context(t), "east", 1)
}

// named is an instance of another service.
func named(service, id string) *catalog.Instance {
	i := instance(id, 1)
	i.Service = service
	return i
}

func name(service string) catalog.Name {
	return catalog.Name{Namespace: "default", Service: service}
}

func TestPublishWritesOnlyWhatChanged(t *testing.T) {
	s, term := stillTerm(t)
	ctx := testkit.Context(t)
	steps := []struct {
		name   string
		lists  map[catalog.Name]List
		full   bool
		writes int64 // transactions, each of one revision
		want   string
	}{
		{"a first full publish, and its marker", one("a b"), true, 2, "cart/0 e1: a b"},
		{"the same", one("a b"), true, 0, "cart/0 e1: a b"},
		{"the same, made anew, with another revision of the registry's", map[catalog.Name]List{cart: {Instances: func() []*catalog.Instance {
			l := list("a b")
			l[0].Revision = "18"
			return l
		}()}}, false, 0, "cart/0 e1: a b"},
		{"one changed instance", one("a:2 b"), false, 1, "cart/0 e1: a:2 b"},
		{"two services in one transaction", map[catalog.Name]List{
			cart: {Instances: list("a")}, name("pay"): {Instances: []*catalog.Instance{named("pay", "p")}},
		}, false, 1, "cart/0 e1: a\npay/0 e1: p"},
		{"confirmed empty", map[catalog.Name]List{cart: {}}, false, 1, "cart/0 e1:\npay/0 e1: p"},
		{"still empty", map[catalog.Name]List{cart: {}}, false, 0, "cart/0 e1:\npay/0 e1: p"},
		{"gone", map[catalog.Name]List{cart: {Gone: true}}, false, 1, "pay/0 e1: p"},
		{"still gone", map[catalog.Name]List{cart: {Gone: true}}, false, 0, "pay/0 e1: p"},
		{"what a full publish does not name is gone", one("z"), true, 1, "cart/0 e1: z"},
		{"an empty cluster", nil, true, 1, ""},
		{"nothing", nil, false, 0, ""},
	}
	for _, tt := range steps {
		before := revision(t, s)
		publish(t, ctx, term, tt.full, tt.lists)
		if wrote := revision(t, s) - before; wrote != tt.writes {
			t.Errorf("%s: %d transactions, want %d", tt.name, wrote, tt.writes)
		}
		if got := stored(t, s, "east"); got != tt.want {
			t.Errorf("%s: the store holds\n%s\nwant\n%s", tt.name, got, tt.want)
		}
	}
}

func TestMarkerComesWithTheFirstFullPublishOnly(t *testing.T) {
	s, term := stillTerm(t)
	ctx := testkit.Context(t)
	key := s.schema.Format(keys.Key{Kind: keys.Synced, Cluster: "east"})
	marker := func() *storev1.Synced {
		v := &storev1.Synced{}
		resp, err := s.client.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.Kvs) > 0 {
			if err := keys.Decode(resp.Kvs[0].Value, v); err != nil {
				t.Fatal(err)
			}
		}
		return v
	}
	publish(t, ctx, term, false, one("a"))
	if m := marker(); m.Epoch != 0 {
		t.Errorf("marker %v after a publish that was not full", m)
	}
	publish(t, ctx, term, true, one("a"))
	if m := marker(); m.Epoch != term.Epoch() || m.Cluster != "east" {
		t.Errorf("marker %v", m)
	}
}

func TestPutMeta(t *testing.T) {
	s, term := stillTerm(t)
	ctx := testkit.Context(t)
	get := func() *storev1.ClusterMeta {
		resp, err := s.client.Get(ctx, s.schema.Format(keys.Key{Kind: keys.Meta, Cluster: "east"}))
		if err != nil || len(resp.Kvs) != 1 {
			t.Fatalf("%v, %v", resp, err)
		}
		var v storev1.ClusterMeta
		if err := keys.Decode(resp.Kvs[0].Value, &v); err != nil {
			t.Fatal(err)
		}
		return &v
	}
	if m := get(); m.Epoch != term.Epoch() || m.Owner != "a" || m.Cluster != "east" {
		t.Errorf("a term begins with %v", m)
	}
	put := func(m *storev1.ClusterMeta) int64 {
		before := revision(t, s)
		if err := term.PutMeta(ctx, m); err != nil {
			t.Fatal(err)
		}
		return revision(t, s) - before
	}
	mine := &storev1.ClusterMeta{Cluster: "forged", Epoch: 99, Owner: "forged", Labels: map[string]string{"a": "b"}}
	if n := put(mine); n != 1 {
		t.Errorf("%d writes", n)
	}
	first := get()
	if first.Epoch != term.Epoch() || first.Owner != "a" || first.Cluster != "east" || first.Labels["a"] != "b" {
		t.Errorf("got %v", first)
	}
	if mine.Owner != "forged" {
		t.Error("the caller's message was changed")
	}
	if n := put(mine); n != 0 {
		t.Errorf("the same took %d writes", n)
	}
	if n := put(nil); n != 1 || get().Seq <= first.Seq || len(get().Labels) != 0 {
		t.Errorf("%d writes, %v after %v", n, get(), first)
	}
}

func TestTakeOverKeepsLayoutAndEpochOfWhatDidNotChange(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	first := openOffice(t, member(s, "a", "east"))
	ids := func(from, to int) string {
		var b strings.Builder
		for i := from; i < to; i++ {
			fmt.Fprintf(&b, " i%03d", i)
		}
		return b.String()
	}
	term := first.term(t, ctx, "east", 1)
	publish(t, ctx, term, true, one(ids(0, 100)))
	publish(t, ctx, term, false, one(ids(0, 250)))
	publish(t, ctx, term, false, one(ids(50, 250)+ids(900, 930)))
	if err := term.PutMeta(ctx, &storev1.ClusterMeta{Labels: map[string]string{"a": "b"}}); err != nil {
		t.Fatal(err)
	}
	before := stored(t, s, "east")
	want := "cart/0 e1:" + ids(50, 100) + ids(900, 930) + "\ncart/1 e1:" + ids(100, 200) + "\ncart/2 e1:" + ids(200, 250)
	if before != want {
		t.Fatalf("layout\n%s\nwant\n%s", before, want)
	}
	first.stop()
	next := openOffice(t, member(s, "b", "east")).term(t, ctx, "east", 1)
	if next.Epoch() != 2 || next.meta.GetLabels()["a"] != "b" {
		t.Errorf("epoch %d, meta %v", next.Epoch(), next.meta)
	}
	publish(t, ctx, next, true, one(ids(50, 250)+ids(900, 930)))
	wantStored(t, s, "east", before)
	publish(t, ctx, next, false, one(ids(50, 250)+ids(900, 930)+" zzz"))
	wantStored(t, s, "east", strings.Replace(before, "e1:"+ids(50, 100)+ids(900, 930), "e2:"+ids(50, 100)+ids(900, 930)+" zzz", 1))
}

func TestReadersMissNobodyWhileALargeListChanges(t *testing.T) {
	t.Parallel()
	s, term := stillTerm(t)
	ctx := testkit.Context(t)
	// About 60 KiB of metadata each: a slice takes 17 by size, a transaction one slice.
	r := rand.New(rand.NewPCG(1, 1))
	fat := func(i int) *catalog.Instance {
		noise := make([]byte, 60<<10)
		for j := range noise {
			noise[j] = byte('!' + r.UintN(90))
		}
		in := instance(fmt.Sprintf("i%03d", i), 1)
		in.Metadata = map[string]string{"noise": string(noise)}
		return in
	}
	var lists []*catalog.Instance
	for i := range 60 {
		lists = append(lists, fat(i))
	}
	publish(t, ctx, term, true, map[catalog.Name]List{cart: {Instances: lists}})
	resp, err := s.client.Get(ctx, s.schema.Services("east"), clientv3.WithPrefix())
	if err != nil || len(resp.Kvs) < 4 {
		t.Fatalf("%d slices, %v", len(resp.Kvs), err)
	}
	for _, kv := range resp.Kvs {
		if len(kv.Value) > 1<<20 {
			t.Errorf("%s has %d bytes", kv.Key, len(kv.Value))
		}
	}

	// All but every fifth go, others come: whoever stays must be there at every revision.
	var next []*catalog.Instance
	for i, in := range lists {
		if i%5 == 0 {
			next = append(next, in)
		}
	}
	stay := slices.Clone(next)
	for i := 100; i < 140; i++ {
		next = append(next, fat(i))
	}
	from := revision(t, s)
	publish(t, ctx, term, false, map[catalog.Name]List{cart: {Instances: next}})
	for rev, to := from, revision(t, s); rev <= to; rev++ {
		at, err := s.client.Get(ctx, s.schema.Services("east"), clientv3.WithPrefix(), clientv3.WithRev(rev))
		if err != nil {
			t.Fatal(err)
		}
		there := map[string]bool{}
		for _, kv := range at.Kvs {
			var v storev1.Slice
			if err := keys.Decode(kv.Value, &v); err != nil {
				t.Fatal(err)
			}
			for _, i := range v.Instances {
				there[i.Id] = true
			}
		}
		for _, in := range stay {
			if !there[in.Instance] {
				t.Errorf("%s is missing at revision %d", in.Instance, rev)
			}
		}
	}
}

func TestManyServicesGoIntoFewTransactions(t *testing.T) {
	s, term := stillTerm(t)
	ctx := testkit.Context(t)
	lists := map[catalog.Name]List{}
	for i := range 250 {
		n := fmt.Sprintf("s%03d", i)
		lists[name(n)] = List{Instances: []*catalog.Instance{named(n, "x")}}
	}
	before := revision(t, s)
	publish(t, ctx, term, false, lists)
	if wrote := revision(t, s) - before; wrote != 3 {
		t.Errorf("250 puts took %d transactions", wrote)
	}
}

func TestWhatCannotBeWrittenDoesNotHinderTheRest(t *testing.T) {
	s, term := stillTerm(t)
	good, text, huge, foreign := instance("good", 1), instance("text", 1), instance("huge", 1), instance("foreign", 1)
	text.Locality.Zone = "\xff"
	huge.Revision = strings.Repeat("x", 1<<20)
	foreign.Cluster = "west"
	lists := map[catalog.Name]List{
		cart:                         {Instances: []*catalog.Instance{foreign, good, huge, text}},
		{Namespace: "", Service: ""}: {},
	}
	publish(t, testkit.Context(t), term, true, lists)
	wantStored(t, s, "east", "cart/0 e1: good")
	if n := len(lists[cart].Instances); n != 4 {
		t.Errorf("the caller's list has %d instances now", n)
	}
}

func TestCorruptValuesAreWrittenAgain(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	first := openOffice(t, member(s, "a", "east"))
	publish(t, ctx, first.term(t, ctx, "east", 1), true, map[catalog.Name]List{
		cart: {Instances: list("a b")}, name("pay"): {Instances: []*catalog.Instance{named("pay", "p")}},
	})
	first.stop()
	slice := func(n catalog.Name, index uint32) string {
		return s.schema.Format(keys.Key{Kind: keys.Slice, Cluster: "east", Name: n, Slice: index})
	}
	pay, err := s.client.Get(ctx, slice(name("pay"), 0))
	if err != nil {
		t.Fatal(err)
	}
	later := s.schema.Cluster("east") + "holds/x"
	for key, value := range map[string]string{
		slice(cart, 0):         "\x09rubbish",
		slice(cart, 7):         string(pay.Kvs[0].Value), // under another's key
		slice(name("dead"), 0): "",
		later:                  "a newer version's",
		s.schema.Format(keys.Key{Kind: keys.Meta, Cluster: "east"}): "\x01\xff",
	} {
		if _, err := s.client.Put(ctx, key, value); err != nil {
			t.Fatal(err)
		}
	}
	term := openOffice(t, member(s, "b", "east")).term(t, ctx, "east", 1)
	publish(t, ctx, term, true, map[catalog.Name]List{
		cart: {Instances: list("a b")}, name("pay"): {Instances: []*catalog.Instance{named("pay", "p")}},
	})
	wantStored(t, s, "east", "cart/0 e2: a b\npay/0 e1: p")
	if resp, err := s.client.Get(ctx, later); err != nil || len(resp.Kvs) != 1 {
		t.Errorf("a newer version's key is gone: %v", err)
	}
}

func TestPublishGoesOnWhenTheAnswerWasLost(t *testing.T) {
	t.Parallel()
	srv := startServer(t)
	ctx := testkit.Context(t)
	a, other := srv.replica(t, ""), srv.replica(t, "")
	m := member(a.Store, "a", "east")
	m.ttl = time.Minute // outlives the silence
	term := openOffice(t, m).term(t, ctx, "east", 1)
	publish(t, ctx, term, true, one("a b"))
	was := term.renewed

	a.wire.answers.set(false)
	done := make(chan error, 1)
	go func() { done <- term.Publish(ctx, one("a b c"), false) }()
	testkit.Eventually(t, ctx, "the write to arrive, unknown to its writer", func() error {
		if got := stored(t, other.Store, "east"); got != "cart/0 e1: a b c" {
			return errors.New(got)
		}
		return nil
	})
	if !pause(ctx, writeTimeout) {
		t.Fatal("no time left")
	}
	select {
	case err := <-done:
		t.Fatalf("it returned without an answer: %v", err)
	default:
	}
	a.wire.answers.set(true)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantStored(t, other.Store, "east", "cart/0 e1: a b c")
	if term.renewed == was {
		t.Error("the fence was not renewed: a write still on its way could come after the next")
	}
	publish(t, ctx, term, false, one("c"))
	wantStored(t, other.Store, "east", "cart/0 e1: c")
}

func TestAWriteFromBeforeTheFenceWasRenewedComesToNothing(t *testing.T) {
	s, term := stillTerm(t)
	ctx := testkit.Context(t)
	publish(t, ctx, term, true, one("a"))
	was := term.renewed
	if err := term.recover(ctx); err != nil {
		t.Fatal(err)
	}
	now := term.renewed
	key := s.schema.Format(keys.Key{Kind: keys.Slice, Cluster: "east", Name: cart})
	term.renewed = was // as it was compared by what is still on its way
	if err := term.commit(ctx, []clientv3.Op{clientv3.OpDelete(key)}); !errors.Is(err, errFenceMoved) {
		t.Errorf("got %v, want errFenceMoved", err)
	}
	term.renewed = now
	publish(t, ctx, term, false, one("a b"))
	wantStored(t, s, "east", "cart/0 e1: a b")
}

func TestPublishEndsWithItsContext(t *testing.T) {
	srv := startServer(t)
	ctx := testkit.Context(t)
	a := srv.replica(t, "")
	term := openOffice(t, member(a.Store, "a", "east")).term(t, ctx, "east", 1)
	a.wire.hold()
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if err := term.Publish(short, one("a"), true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("it took %v to give up", took)
	}
	a.wire.release()
}

func TestEveryWriteComparesTheOwnerKey(t *testing.T) {
	s, term := stillTerm(t)
	ctx := testkit.Context(t)
	publish(t, ctx, term, true, one("a"))
	key := s.schema.Format(keys.Key{Kind: keys.Slice, Cluster: "east", Name: cart})
	refused := func(when string) {
		t.Helper()
		// Past Publish, which the end of the term would stop first.
		if err := term.commit(ctx, []clientv3.Op{clientv3.OpDelete(key)}); !errors.Is(err, ErrNotOwner) {
			t.Errorf("%s: a write gives %v, want ErrNotOwner", when, err)
		}
		if err := term.recover(ctx); !errors.Is(err, ErrNotOwner) {
			t.Errorf("%s: renewing the fence gives %v, want ErrNotOwner", when, err)
		}
		wantStored(t, s, "east", "cart/0 e1: a")
	}
	if _, err := s.client.Delete(ctx, term.ownKey); err != nil {
		t.Fatal(err)
	}
	refused("no owner")
	if _, err := s.client.Put(ctx, term.ownKey, "another's"); err != nil {
		t.Fatal(err)
	}
	refused("another owner")
}
