package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/farcall/farcall/agent/view"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/reach"
	"github.com/farcall/farcall/resolvers"
	"github.com/farcall/farcall/resolvers/intake"
)

// announcer keeps what it is given.
type announcer struct{ given chan []string }

var _ resolvers.Announcer = (*announcer)(nil)

func (a *announcer) Announce(apps []string) { a.given <- apps }

func (a *announcer) Run(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// told is an agent of cluster east as far as its announcements go, in a time of its own.
type told struct {
	t         testing.TB
	a         *announcements
	m         *mirror.Mirror
	schema    keys.Schema
	rev       int64
	seq       uint64
	announcer *announcer
	stop      func()
}

func newTold(t testing.TB, apps ...catalog.Name) *told {
	schema, err := keys.New("test")
	if err != nil {
		t.Fatal(err)
	}
	o := &told{t: t, m: mirror.New(schema), schema: schema, announcer: &announcer{given: make(chan []string, 100)}}
	ports := map[catalog.Name]int{}
	for _, n := range apps {
		ports[n] = 8080
	}
	book := view.New(view.Config{
		Self: reach.Self{Cluster: "east", Node: "n1", Address: "10.0.0.1:50002"}, HasRegistry: true, Ports: ports,
	}, view.Deps{Metrics: prometheus.NewRegistry()})
	o.a = newAnnouncements(book, o.announcer)
	book.Attach(o.m)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = o.a.run(ctx) // ends with ctx
	}()
	o.stop = func() { cancel(); <-ended }
	return o
}

func (o *told) entry(k keys.Key, v proto.Message) *feedv1.Entry {
	o.t.Helper()
	o.rev++
	b, err := keys.Encode(v)
	if err != nil {
		o.t.Fatal(err)
	}
	return &feedv1.Entry{Key: o.schema.Format(k), Value: b, Revision: o.rev}
}

// list is what a cluster lists of a service: instances by id.
func (o *told) list(cluster string, n catalog.Name, ids ...string) *feedv1.Entry {
	o.seq++
	v := &storev1.Slice{Cluster: cluster, Namespace: n.Namespace, Service: n.Service, Epoch: 1, Seq: o.seq}
	for _, id := range ids {
		v.Instances = append(v.Instances, instanceOf(cluster, n, id).Proto())
	}
	return o.entry(keys.Key{Kind: keys.Slice, Cluster: cluster, Name: n}, v)
}

func instanceOf(cluster string, n catalog.Name, id string) *catalog.Instance {
	return &catalog.Instance{ID: catalog.ID{Cluster: cluster, Name: n, Instance: id}, Address: "10.1.0.2", Port: 80, Relay: "10.1.0.2:50002", Weight: 1}
}

// begin is the feed's first list.
func (o *told) begin(entries ...*feedv1.Entry) {
	for _, c := range []string{"east", "west"} {
		entries = append(entries, o.entry(keys.Key{Kind: keys.Synced, Cluster: c}, &storev1.Synced{Cluster: c, Epoch: 1}))
	}
	entries = append(entries, o.entry(keys.Key{Kind: keys.PoliciesSynced}, &storev1.PoliciesSynced{Revision: 1}))
	o.m.Begin("s1")
	o.fed(o.m.Apply(time.Now(), entries, o.rev))
	o.fed(o.m.End(o.rev))
	time.Sleep(time.Second) // it may have looked when only half of this was told
}

// fed takes what the feed changed, as an agent does.
func (o *told) fed(ch mirror.Changes) {
	o.a.book.Changed(ch)
	o.a.fed(ch)
}

func (o *told) change(entries ...*feedv1.Entry) { o.fed(o.m.Apply(time.Now(), entries, o.rev)) }

// local is what the own registry says of a service, as Agent.resolve takes it.
func (o *told) local(complete bool, n catalog.Name, ids ...string) {
	ch := intake.Change{Complete: complete, Services: map[catalog.Name]intake.List{}}
	if n != (catalog.Name{}) {
		l := intake.List{}
		for _, id := range ids {
			l.Instances = append(l.Instances, instanceOf("east", n, id))
		}
		ch.Services[n] = l
	}
	o.a.book.Local(ch)
	o.a.read(ch)
}

// is waits and checks what was announced last; nothing: nothing was since it was last called.
func (o *told) is(what string, want ...string) {
	o.t.Helper()
	synctest.Wait()
	got := "nothing"
	for len(o.announcer.given) > 0 {
		got = strings.Join(<-o.announcer.given, " ")
	}
	if got != strings.Join(want, " ") {
		o.t.Errorf("%s: announced is %q, want %q", what, got, want)
	}
}

func TestAnnouncesWhatOnlyOthersHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newTold(t)
		defer o.stop()
		cart, till := catalog.Name{Namespace: "default", Service: "cart"}, catalog.Name{Namespace: "default", Service: "till"}
		shop := catalog.Name{Namespace: "shop", Service: "bank"}
		o.begin(o.list("west", cart, "1"), o.list("west", shop, "1"))
		o.is("with the feed", "cart") // the feed knows the own cluster's list, which is empty
		o.local(true, catalog.Name{})
		time.Sleep(time.Second)
		o.is("with the own registry", "nothing")

		o.local(true, cart, "mine")
		o.is("one appears in the own cluster", "")
		o.change(o.list("west", till, "1"))
		o.is("right after another change", "nothing")
		time.Sleep(announceEvery)
		o.is("a moment later", "till")
		time.Sleep(time.Second)
		o.local(true, cart)
		o.is("the own one goes", "cart", "till")
		time.Sleep(time.Second)
		o.change(o.list("west", till))
		o.is("the last external one goes", "cart")
		time.Sleep(time.Second)
		o.change(o.list("west", till, "1"), o.entry(keys.Key{Kind: keys.Cordon, Cluster: "west", ID: "*"}, &policyv1.Cordon{Cluster: "west"}))
		o.is("nobody may call there", "")
	})
}

// A node whose only application is in a namespace looks bare names up there.
func TestAnnouncesTheNamespaceOfItsApplication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newTold(t, catalog.Name{Namespace: "shop", Service: "web"})
		defer o.stop()
		o.local(true, catalog.Name{})
		o.begin(o.list("west", catalog.Name{Namespace: "default", Service: "cart"}, "1"), o.list("west", catalog.Name{Namespace: "shop", Service: "bank"}, "1"))
		time.Sleep(announceEvery)
		o.is("with the feed", "bank")
	})
}

func TestNothingIsAnnouncedBeforeEverythingIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newTold(t)
		defer o.stop()
		cart := catalog.Name{Namespace: "default", Service: "cart"}
		o.m.Begin("s1")
		o.fed(o.m.Apply(time.Now(), []*feedv1.Entry{
			o.list("west", cart, "1"), o.entry(keys.Key{Kind: keys.Synced, Cluster: "west"}, &storev1.Synced{Cluster: "west", Epoch: 1}),
			o.entry(keys.Key{Kind: keys.PoliciesSynced}, &storev1.PoliciesSynced{Revision: 1}),
		}, o.rev))
		o.fed(o.m.End(o.rev))
		o.is("the own cluster was read by nobody", "")
		time.Sleep(time.Second)
		o.local(true, catalog.Name{})
		o.is("this agent read it", "cart")
	})
}

// Thousands are told at once, and nothing is when they are looked at again and are the same.
func TestAnnouncesThousands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newTold(t)
		defer o.stop()
		var entries []*feedv1.Entry
		for i := range 3_000 {
			entries = append(entries, o.list("west", catalog.Name{Namespace: "default", Service: fmt.Sprintf("app-%05d", i)}, "1"))
		}
		o.local(true, catalog.Name{})
		o.begin(entries...)
		time.Sleep(time.Minute)
		synctest.Wait()
		var last []string
		times := len(o.announcer.given)
		for len(o.announcer.given) > 0 {
			last = <-o.announcer.given
		}
		if times > 2 { // the first may have come in between
			t.Errorf("they were told %d times", times)
		}
		if len(last) != 3_000 || !slices.IsSorted(last) {
			t.Errorf("announced are %d", len(last))
		}
	})
}

func TestNobodyIsToldWithoutAnAnnouncer(t *testing.T) {
	a := newAnnouncements(nil, nil)
	changed(a, map[catalog.Name]int{{}: 1}, true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.run(ctx); err != context.Canceled {
		t.Error(err)
	}
	if err := a.announce(ctx); err != context.Canceled {
		t.Error(err)
	}
}

// BenchmarkElsewhere is what it costs to look at one name again.
func BenchmarkElsewhere(b *testing.B) {
	o := newTold(b)
	defer o.stop()
	cart := catalog.Name{Namespace: "default", Service: "cart"}
	o.local(true, catalog.Name{})
	o.begin(o.list("west", cart, "1", "2", "3"))
	for b.Loop() {
		if !o.a.book.Elsewhere(cart) {
			b.Fatal("it is not elsewhere")
		}
	}
}
