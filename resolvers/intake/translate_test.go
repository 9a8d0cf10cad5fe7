package intake

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

func one(t *testing.T, cfg Registry) *registry {
	t.Helper()
	cfg.Name, cfg.Resolver = "consul", newSaid()
	in, err := New(Config{Cluster: "east", Registries: []Registry{cfg}}, Deps{Log: testkit.Quiet(), Metrics: NewMetrics(prometheus.NewRegistry())})
	if err != nil {
		t.Fatal(err)
	}
	return in.registries[0]
}

func TestNames(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Registry
		from string // namespace/service
		want string // empty: left out
	}{
		{"no namespace is the default one", Registry{}, "/cart", "default/cart"},
		{"no namespace is the configured one", Registry{Namespace: "shop"}, "/cart", "shop/cart"},
		{"a namespace is kept", Registry{Namespace: "shop"}, "prod/cart", "prod/cart"},
		{"a namespace is mapped", Registry{Namespaces: map[string]string{"prod": "shop"}}, "prod/cart", "shop/cart"},
		{"another is kept", Registry{Namespaces: map[string]string{"prod": "shop"}}, "test/cart", "test/cart"},
		{"the default is not mapped", Registry{Namespaces: map[string]string{"default": "shop"}}, "/cart", "default/cart"},
		{"included by pattern", Registry{Include: []string{"pay", "ca*"}}, "/cart", "default/cart"},
		{"not included", Registry{Include: []string{"ca*"}}, "/order", ""},
		{"excluded by pattern", Registry{Exclude: []string{"consul", "*-sidecar-proxy"}}, "/cart-sidecar-proxy", ""},
		{"not excluded", Registry{Exclude: []string{"*-sidecar-proxy"}}, "/cart", "default/cart"},
		{"exclude is stronger", Registry{Include: []string{"*"}, Exclude: []string{"cart"}}, "/cart", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns, service, _ := strings.Cut(tt.from, "/")
			n := catalog.Name{Namespace: ns, Service: service}
			in := &catalog.Instance{ID: catalog.ID{Name: n, Instance: "1"}, Address: "10.0.0.1", Port: 80}
			u := catalog.Update{Snapshots: []catalog.Snapshot{{Source: "s", Services: []catalog.Name{n}, Instances: []*catalog.Instance{in}}}}
			ours, _ := one(t, tt.cfg).translate(u)
			snap := ours.Snapshots[0]
			if tt.want == "" {
				if len(snap.Services)+len(snap.Instances) != 0 {
					t.Errorf("taken as %v %v, want left out", snap.Services, snap.Instances)
				}
				return
			}
			if len(snap.Services) != 1 || snap.Services[0].String() != tt.want || len(snap.Instances) != 1 || snap.Instances[0].Name.String() != tt.want {
				t.Errorf("taken as %v %v, want %s", snap.Services, snap.Instances, tt.want)
			}
		})
	}
}

func TestRecordsAreSetAsideAndTheGoodOnesGoOn(t *testing.T) {
	r := one(t, Registry{})
	bad := func(change func(*catalog.Instance)) *catalog.Instance {
		in := &catalog.Instance{ID: catalog.ID{Name: catalog.Name{Service: "cart"}, Instance: "bad"}, Address: "10.0.0.1", Port: 80}
		change(in)
		return in
	}
	u := update("cart: 1 2 1:8081", "order: 1")
	u.Snapshots[0].Instances = append(u.Snapshots[0].Instances,
		bad(func(in *catalog.Instance) { in.Port = 70000 }),
		bad(func(in *catalog.Instance) { in.Address = "" }),
		bad(func(in *catalog.Instance) { in.Instance = "" }),
		bad(func(in *catalog.Instance) { in.Address = "169.254.1.1" }),
		bad(func(in *catalog.Instance) { in.Locality.Zone = "a\xff" }),
	)
	u.Snapshots[0].Services = append(u.Snapshots[0].Services, catalog.Name{Service: "bad\n"})
	u.Snapshots[1].SetAside = []catalog.SetAside{{Record: "order-2\xff", Reason: strings.Repeat("long ", 1000)}}
	ours, unusable := r.translate(u)
	var ids []string
	for _, s := range ours.Snapshots {
		for _, in := range s.Instances {
			ids = append(ids, fmt.Sprintf("%s:%d", in.ID, in.Port))
		}
	}
	if want := []string{"east/default/cart/1:80", "east/default/cart/2:80", "east/default/order/1:80"}; !slices.Equal(ids, want) {
		t.Errorf("taken are %v, want %v", ids, want)
	}
	if len(unusable) != 5 || unusable[0].String() != "east/default/cart/bad" {
		t.Errorf("unusable are %v", unusable)
	}
	for class, n := range map[int]float64{invalid: 6, duplicate: 1, unreadable: 1} {
		if got := value(t, r.metrics.setAside[class]); got != n {
			t.Errorf("%v records are counted as %s, want %v", got, classWords[class], n)
		}
	}
	st := r.status()
	if st.SetAside != 8 || !strings.HasPrefix(st.SetAsides, "default/bad\uFFFD: ") || strings.Count(st.SetAsides, "; ") < 4 || !utf8.ValidString(st.SetAsides) || len(st.SetAsides) > 5*2100 {
		t.Errorf("the status is %+v", st)
	}

	// A later read of one source speaks for that source only.
	delta := update("order: 1")
	delta.Full = false
	r.translate(delta)
	if st := r.status(); st.SetAside != 7 || !strings.HasPrefix(st.SetAsides, "default/bad\uFFFD: ") {
		t.Errorf("after a good read of one source the status is %+v", st)
	}
	r.translate(update("order: 1"))
	if st := r.status(); st.SetAside != 0 || st.SetAsides != "" {
		t.Errorf("after a good full read the status is %+v", st)
	}
}
