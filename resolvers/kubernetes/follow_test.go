package kubernetes

import (
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/farcall/farcall/internal/testkit"
)

// followed is a following of two tables without an API server.
func followed(rec *record) (f *following, services, slices *table) {
	services, slices = &table{resource: "services"}, &table{resource: "endpointslices"}
	c := &connection{tables: []*table{services, slices}, home: &table{resource: "services", namespace: "default"}}
	f = &following{
		Resolver: &Resolver{log: testkit.Quiet()}, out: rec, l: newLedger(rule{}), c: c, open: map[*table]bool{},
		watchers: []*watcher{{t: services}, {t: slices}},
	}
	f.seen.replace(map[*table]string{services: "100", slices: "100"}, "")
	return f, services, slices
}

func event(t *table, what watch.EventType, o runtime.Object) news {
	return news{table: t, event: &watch.Event{Type: what, Object: o}}
}

func TestConfirmTakesEveryWatchAndAProbe(t *testing.T) {
	rec := newRecord()
	f, services, slices := followed(rec)
	good := func(t *table) news { return news{table: t, probe: &probe{revision: "200", floor: "100"}} }
	identified := func(lost int) news {
		return news{table: slices, probe: &probe{revision: "200", floor: "100", identified: true, lost: lost}}
	}
	for _, step := range []struct {
		what     string
		n        news
		confirms int // in all
		again    bool
	}{
		{"one watch is open", news{table: services, opened: true}, 0, false},
		{"a probe, but one watch is missing", good(services), 0, false},
		{"the other watch opens", news{table: slices, opened: true}, 1, false},
		{"nothing was asked since", event(services, watch.Bookmark, svc("x")), 1, false},
		{"a probe", good(slices), 2, false},
		{"a watch ends as it should", news{table: services, ended: &ended{}}, 2, false},
		{"a probe while it is not open", good(services), 2, false},
		{"it is open again", news{table: services, opened: true}, 3, false},
		{"a probe is refused", news{table: services, probe: &probe{err: apierrors.NewServiceUnavailable("x")}}, 3, false},
		{"the next is not", good(services), 4, false},
		{"a probe without an answer", news{table: services, probe: &probe{err: errors.New("no answer")}}, 4, false},
		{"one watch is opened anew", news{table: services, opened: true}, 4, false},
		{"and the other", news{table: slices, opened: true}, 4, false},
		{"a probe that was under way does not tell which cluster it is", good(services), 4, false},
		{"the next does", identified(1), 5, false},
		{"a watch ends early", news{table: services, ended: &ended{early: true}}, 5, false},
		{"it is open again", news{table: services, opened: true}, 5, false},
		{"which cluster it was before is known", identified(1), 5, false},
		{"and now", identified(2), 6, false},
		{"an answer from the past", news{table: services, probe: &probe{revision: "99", floor: "100"}}, 6, true},
	} {
		again, err := f.hear(step.n, make(chan news))
		if _, confirms, _ := rec.All(); len(confirms) != step.confirms || again != step.again || err != nil {
			t.Fatalf("%s: %d confirmations, again %v, %v; want %d, %v", step.what, len(confirms), again, err, step.confirms, step.again)
		}
	}
	if _, _, failures := rec.All(); len(failures) != 2 {
		t.Errorf("failures %v, want those of two probes", failures)
	}
	if !strings.Contains(f.reset, "went backwards, from 100 to 99") {
		t.Errorf("the reset is %q", f.reset)
	}
}

func TestWhatWaitsIsPublishedTogether(t *testing.T) {
	rec := newRecord()
	f, services, table := followed(rec)
	f.l.take(svc("cart"))
	f.l.take(slc("cart", "cart-1", "a@10.0.0.1"))
	f.l.changes()
	feed := make(chan news, 10)
	feed <- event(table, watch.Modified, slc("cart", "cart-1"))
	feed <- event(table, watch.Added, slc("cart", "cart-2", "a@10.0.0.1"))
	feed <- event(services, watch.Added, svc("order"))
	if again, err := f.hear(event(services, watch.Added, svc("pay")), feed); again || err != nil {
		t.Fatal(again, err)
	}
	updates, _, _ := rec.All()
	if len(updates) != 2 || updates[0].Explicit || !updates[1].Explicit || updates[0].Full || updates[1].Full {
		t.Fatalf("updates %+v, want the additions and then the removal", updates)
	}
	var sources []string
	for _, u := range updates {
		for _, s := range u.Snapshots {
			sources = append(sources, s.Source)
		}
	}
	if want := []string{"endpointslice/shop/cart-2", "service/shop/order", "service/shop/pay", "endpointslice/shop/cart-1"}; !slices.Equal(sources, want) {
		t.Errorf("sources %v, want %v", sources, want)
	}
}

// TestInDoubtNothingIsTold: after a lost connection another cluster may answer. What the watches say
// then waits until it is known which one it is, and is never told where it is another.
func TestInDoubtNothingIsTold(t *testing.T) {
	for _, tt := range []struct {
		what    string
		cluster string
		updates int
	}{{"the same", "1", 1}, {"another", "2", 0}} {
		rec := newRecord()
		f, services, table := followed(rec)
		f.l.take(svc("cart"))
		f.l.take(slc("cart", "cart-1", "a@10.0.0.1"))
		f.l.changes()
		f.seen.cluster = "1"
		hear := func(n news) (again bool) {
			again, err := f.hear(n, make(chan news))
			if err != nil {
				t.Fatal(err)
			}
			return again
		}
		hear(news{table: services, ended: &ended{early: true}})
		hear(news{table: services, opened: true})
		hear(event(table, watch.Deleted, slc("cart", "cart-1")))
		if updates, _, _ := rec.All(); len(updates) > 0 {
			t.Errorf("%s: told before it was known which cluster it is: %+v", tt.what, updates)
		}
		again := hear(news{table: services, probe: &probe{revision: "200", identified: true, lost: 1, cluster: tt.cluster}})
		if updates, _, _ := rec.All(); len(updates) != tt.updates || again != (tt.updates == 0) {
			t.Errorf("%s cluster: %d updates, again %v", tt.what, len(updates), again)
		}
	}
}

func TestWhenAllIsReadAgain(t *testing.T) {
	home := func(uid types.UID) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", ResourceVersion: "101", UID: uid}}
	}
	for _, tt := range []struct {
		what  string
		news  func(services *table) []news
		again bool
		err   bool
		reset string
	}{
		{"a watch has expired", func(t *table) []news {
			return []news{{table: t, ended: &ended{err: apierrors.NewResourceExpired("too old")}}}
		}, true, false, ""},
		{"the credentials are refused", func(t *table) []news {
			return []news{{table: t, ended: &ended{err: apierrors.NewUnauthorized("x")}}}
		}, true, true, ""},
		{"another error is waited out", func(t *table) []news {
			return []news{{table: t, ended: &ended{err: errors.New("x")}}}
		}, false, false, ""},
		{"another cluster", func(t *table) []news {
			return []news{event(t, watch.Modified, home("1")), event(t, watch.Added, home("2"))}
		}, true, false, "another cluster answers"},
		{"the Service of the API server is made anew", func(t *table) []news {
			return []news{event(t, watch.Modified, home("1")), event(t, watch.Deleted, home("1")), event(t, watch.Added, home("2"))}
		}, false, false, ""},
	} {
		f, services, _ := followed(newRecord())
		var again bool
		var err error
		for _, n := range tt.news(services) {
			again, err = f.hear(n, make(chan news))
		}
		if again != tt.again || (err != nil) != tt.err || (tt.reset == "") != (f.reset == "") || !strings.Contains(f.reset, tt.reset) {
			t.Errorf("%s: again %v, error %v, reset %q", tt.what, again, err, f.reset)
		}
	}
}
