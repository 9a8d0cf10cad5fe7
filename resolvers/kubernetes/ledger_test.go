package kubernetes

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
)

// svc makes a Service shop/<name> that opted in; change may alter it.
func svc(name string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Annotations: map[string]string{ExportAnnotation: "true"}},
		Spec: corev1.ServiceSpec{
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports:      []corev1.ServicePort{{Name: "http", Port: 80}},
		},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

// slc makes an EndpointSlice of a Service in shop, with Pods at the addresses given as
// "pod@address".
func slc(service, name string, pods ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}},
	}
	for _, p := range pods {
		pod, address, _ := strings.Cut(p, "@")
		if strings.Contains(address, ":") {
			s.AddressType = discoveryv1.AddressTypeIPv6
		}
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{address}, TargetRef: &corev1.ObjectReference{Name: pod}})
	}
	return s
}

// told gives what is published, one line per source: "!" before those from which something was
// taken on purpose.
func told(l *ledger) []string {
	plain, purpose := l.changes()
	var lines []string
	line := func(mark string, s catalog.Snapshot) {
		text := mark + s.Source + ":"
		for _, n := range s.Services {
			text += " [" + n.String() + "]"
			if kind := s.Strategies[n]; kind != "" {
				text += " = " + kind
			}
		}
		for _, i := range s.Instances {
			text += " " + strings.TrimPrefix(i.String(), "/")
		}
		for _, a := range s.SetAside {
			text += " aside " + a.String()
		}
		lines = append(lines, text)
	}
	for _, s := range plain {
		line("", s)
	}
	for _, s := range purpose {
		line("!", s)
	}
	return lines
}

type step struct {
	does string
	do   func(*ledger)
	want []string
}

func play(t *testing.T, l *ledger, steps []step) {
	t.Helper()
	for _, s := range steps {
		s.do(l)
		if got := told(l); !slices.Equal(got, s.want) {
			t.Fatalf("%s:\n%s\nwant\n%s", s.does, strings.Join(got, "\n"), strings.Join(s.want, "\n"))
		}
	}
}

func TestWhatChangesIsToldAndNothingElse(t *testing.T) {
	l := newLedger(rule{})
	play(t, l, []step{
		{"a slice before its Service", func(l *ledger) { l.take(slc("cart", "cart-1", "a@10.0.0.1")) }, nil},
		{"the Service", func(l *ledger) { l.take(svc("cart")) }, []string{
			"service/shop/cart: [shop/cart]", "endpointslice/shop/cart-1: shop/cart/a 10.0.0.1:8080 HEALTHY",
		}},
		{"a second slice", func(l *ledger) { l.take(slc("cart", "cart-2", "b@10.0.0.2", "c@10.0.0.3")) }, []string{
			"endpointslice/shop/cart-2: shop/cart/b 10.0.0.2:8080 HEALTHY shop/cart/c 10.0.0.3:8080 HEALTHY",
		}},
		{"the Service is written without a change", func(l *ledger) { l.take(svc("cart")) }, nil},
		{"a Pod gets another address", func(l *ledger) { l.take(slc("cart", "cart-1", "a@10.0.0.9")) }, []string{
			"endpointslice/shop/cart-1: shop/cart/a 10.0.0.9:8080 HEALTHY",
		}},
		{"a Pod goes", func(l *ledger) { l.take(slc("cart", "cart-2", "c@10.0.0.3")) }, []string{
			"!endpointslice/shop/cart-2: shop/cart/c 10.0.0.3:8080 HEALTHY",
		}},
		{"a Pod moves to another slice", func(l *ledger) {
			l.take(slc("cart", "cart-1"))
			l.take(slc("cart", "cart-2", "a@10.0.0.9", "c@10.0.0.3"))
		}, []string{
			"endpointslice/shop/cart-2: shop/cart/a 10.0.0.9:8080 HEALTHY shop/cart/c 10.0.0.3:8080 HEALTHY",
			"!endpointslice/shop/cart-1:",
		}},
		{"a slice goes", func(l *ledger) { l.drop(slc("cart", "cart-2")) }, []string{"!endpointslice/shop/cart-2:"}},
		{"a slice that nobody knows goes", func(l *ledger) { l.drop(slc("cart", "cart-9")) }, nil},
		{"a slice comes to belong to another Service", func(l *ledger) {
			l.take(slc("cart", "cart-1", "a@10.0.0.1"))
			told(l)
			l.take(svc("order"))
			l.take(slc("order", "cart-1", "a@10.0.0.1"))
		}, []string{
			"service/shop/order: [shop/order]", "!endpointslice/shop/cart-1: shop/order/a 10.0.0.1:8080 HEALTHY",
		}},
		{"and to none", func(l *ledger) { l.take(slc("", "cart-1", "a@10.0.0.1")) }, []string{"!endpointslice/shop/cart-1:"}},
		{"the Services go", func(l *ledger) { l.drop(svc("cart")); l.drop(svc("order")) }, []string{"!service/shop/cart:", "!service/shop/order:"}},
		{"and one that nobody knows", func(l *ledger) { l.drop(svc("cart")) }, nil},
	})
	if len(l.groups)+len(l.owners)+len(l.names) > 0 {
		t.Errorf("something is left: %v %v %v", l.groups, l.owners, l.names)
	}
}

func TestOptingInAndOut(t *testing.T) {
	says := func(word string) *corev1.Service {
		return svc("cart", func(s *corev1.Service) { s.Annotations[ExportAnnotation] = word })
	}
	play(t, newLedger(rule{}), []step{
		{"a Service that did not ask for it", func(l *ledger) {
			l.take(says("false"))
			l.take(slc("cart", "cart-1", "a@10.0.0.1"))
			l.take(slc("cart", "cart-2"))
			l.drop(slc("cart", "cart-2"))
		}, nil},
		{"it opts in", func(l *ledger) { l.take(says("true")) }, []string{
			"service/shop/cart: [shop/cart]", "endpointslice/shop/cart-1: shop/cart/a 10.0.0.1:8080 HEALTHY",
		}},
		{"it opts out", func(l *ledger) { l.take(says("false")) }, []string{"!service/shop/cart:", "!endpointslice/shop/cart-1:"}},
		{"it says something else", func(l *ledger) { l.take(says("yes")) }, []string{
			`service/shop/cart: aside shop/cart: annotation farcall.io/export is "yes": want "true" or "false"`, "endpointslice/shop/cart-1:",
		}},
		{"it gets another name", func(l *ledger) {
			l.take(says("true"))
			told(l)
			l.take(svc("cart", func(s *corev1.Service) { s.Annotations[AppIDAnnotation] = "basket" }))
		}, []string{
			"!service/shop/cart: [shop/basket]", "!endpointslice/shop/cart-1: shop/basket/a 10.0.0.1:8080 HEALTHY",
		}},
		{"it gets another port", func(l *ledger) {
			l.take(svc("cart", func(s *corev1.Service) {
				s.Annotations[AppIDAnnotation], s.Annotations[PortAnnotation] = "basket", "81"
			}))
		}, []string{
			"service/shop/cart: [shop/basket]",
			`endpointslice/shop/cart-1: aside shop/basket/a: annotation farcall.io/port is "81": the Service has no such port`,
		}},
		{"it is deleted", func(l *ledger) { l.drop(says("true")) }, []string{"!service/shop/cart:", "!endpointslice/shop/cart-1:"}},
		{"its slice follows", func(l *ledger) { l.drop(slc("cart", "cart-1")) }, nil},
	})
}

// A Pod of a dual-stack Service has an endpoint in a slice of each family. It is one instance,
// at the address of the Service's first family.
func TestDualStack(t *testing.T) {
	families := func(f ...corev1.IPFamily) *corev1.Service {
		return svc("cart", func(s *corev1.Service) { s.Spec.IPFamilies = f })
	}
	v4, v6 := slc("cart", "cart-4", "a@10.0.0.1"), slc("cart", "cart-6", "a@fd00::1")
	play(t, newLedger(rule{}), []step{
		{"both families", func(l *ledger) {
			l.take(families(corev1.IPv6Protocol, corev1.IPv4Protocol))
			l.take(v4)
			l.take(v6)
		}, []string{
			"service/shop/cart: [shop/cart]", "endpointslice/shop/cart-4:", "endpointslice/shop/cart-6: shop/cart/a fd00::1:8080 HEALTHY",
		}},
		{"the slices of the first family go, for a Service whose slices a person writes", func(l *ledger) { l.drop(v6) }, []string{
			"endpointslice/shop/cart-4: shop/cart/a 10.0.0.1:8080 HEALTHY", "!endpointslice/shop/cart-6:",
		}},
		{"and come again", func(l *ledger) { l.take(v6) }, []string{
			"endpointslice/shop/cart-4:", "endpointslice/shop/cart-6: shop/cart/a fd00::1:8080 HEALTHY",
		}},
		{"the Service has one family only", func(l *ledger) { l.take(families(corev1.IPv4Protocol)) }, []string{
			"service/shop/cart: [shop/cart]", "endpointslice/shop/cart-4: shop/cart/a 10.0.0.1:8080 HEALTHY",
			"endpointslice/shop/cart-6: aside EndpointSlice shop/cart-6: its addresses are IPv6, the Service's are [IPv4]",
		}},
		{"the Service states no family", func(l *ledger) { l.take(families()); l.drop(v6) }, []string{
			"service/shop/cart: [shop/cart]", "endpointslice/shop/cart-4: shop/cart/a 10.0.0.1:8080 HEALTHY", "!endpointslice/shop/cart-6:",
		}},
		{"a slice of names is taken beside the others", func(l *ledger) {
			fqdn := slc("cart", "cart-n", "n@cart.example.com")
			fqdn.AddressType = discoveryv1.AddressTypeFQDN
			l.take(fqdn)
		}, []string{"endpointslice/shop/cart-n: shop/cart/n cart.example.com:8080 HEALTHY"}},
	})
}

func TestExternalName(t *testing.T) {
	host := func(name string, ports ...corev1.ServicePort) *corev1.Service {
		return svc("pay", func(s *corev1.Service) {
			s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: name, Ports: ports}
		})
	}
	web, relay := corev1.ServicePort{Name: "https", Port: 443}, corev1.ServicePort{Name: "farcall", Port: 50002}
	play(t, newLedger(rule{}), []step{
		{"a name without a port is left to its reader, who sets it aside", func(l *ledger) { l.take(host("pay.example.com")) }, []string{
			"service/shop/pay: [shop/pay] shop/pay/pay.example.com pay.example.com:0 UNKNOWN",
		}},
		{"with a port", func(l *ledger) { l.take(host("pay.example.com", web)) }, []string{
			"service/shop/pay: [shop/pay] shop/pay/pay.example.com pay.example.com:443 UNKNOWN",
		}},
		{"with a relay", func(l *ledger) { l.take(host("pay.example.com", web, relay)) }, []string{
			"service/shop/pay: [shop/pay] shop/pay/pay.example.com pay.example.com:443 via pay.example.com:50002 UNKNOWN",
		}},
		{"another name", func(l *ledger) { l.take(host("pay.example.net", web)) }, []string{
			"!service/shop/pay: [shop/pay] shop/pay/pay.example.net pay.example.net:443 UNKNOWN",
		}},
		{"a port that is not there", func(l *ledger) {
			s := host("pay.example.net", web)
			s.Annotations[PortAnnotation] = "444"
			l.take(s)
		}, []string{`service/shop/pay: [shop/pay] aside shop/pay: annotation farcall.io/port is "444": the Service has no such port`}},
		{"it goes", func(l *ledger) { l.drop(host("")) }, []string{"!service/shop/pay:"}},
	})
}

// dapr makes the Service and a slice that Dapr's operator and Kubernetes write for an
// application whose Pods have the app-id cart.
func dapr(pods ...string) (*corev1.Service, *discoveryv1.EndpointSlice) {
	service := svc("cart-dapr", func(s *corev1.Service) {
		s.Annotations[AppIDAnnotation] = "cart"
		s.Spec.ClusterIP = corev1.ClusterIPNone
		s.Spec.Ports = []corev1.ServicePort{{Name: "dapr-http", Port: 80}, {Name: "dapr-internal", Port: 50002}}
	})
	slice := slc("cart-dapr", "cart-dapr-1", pods...)
	slice.Ports = []discoveryv1.EndpointPort{{Name: new("dapr-http"), Port: new(int32(3500))}, {Name: new("dapr-internal"), Port: new(int32(50002))}}
	return service, slice
}

// An application's own Service and Dapr's, under one name: what each says of a Pod is put
// together, whichever comes first.
func TestTwoServicesUnderOneName(t *testing.T) {
	service, slice := dapr("a@10.0.0.1", "b@10.0.0.2")
	play(t, newLedger(rule{}), []step{
		{"Dapr's comes first", func(l *ledger) { l.take(service); l.take(slice) }, []string{
			"service/shop/cart-dapr: [shop/cart]",
			"endpointslice/shop/cart-dapr-1: shop/cart/a 10.0.0.1:0 via 10.0.0.1:50002 HEALTHY shop/cart/b 10.0.0.2:0 via 10.0.0.2:50002 HEALTHY",
		}},
		{"the application's has one of the Pods", func(l *ledger) { l.take(svc("cart")); l.take(slc("cart", "cart-1", "a@10.0.0.1")) }, []string{
			"service/shop/cart: [shop/cart]",
			"endpointslice/shop/cart-1: shop/cart/a 10.0.0.1:8080 via 10.0.0.1:50002 HEALTHY",
			"endpointslice/shop/cart-dapr-1: shop/cart/a 10.0.0.1:8080 via 10.0.0.1:50002 HEALTHY shop/cart/b 10.0.0.2:0 via 10.0.0.2:50002 HEALTHY",
		}},
		{"Dapr's slice loses it", func(l *ledger) { _, s := dapr("b@10.0.0.2"); l.take(s) }, []string{
			"endpointslice/shop/cart-1: shop/cart/a 10.0.0.1:8080 HEALTHY",
			"!endpointslice/shop/cart-dapr-1: shop/cart/b 10.0.0.2:0 via 10.0.0.2:50002 HEALTHY",
		}},
		{"Dapr's Service goes", func(l *ledger) { l.take(slice); told(l); l.drop(service) }, []string{
			"endpointslice/shop/cart-1: shop/cart/a 10.0.0.1:8080 HEALTHY",
			"!service/shop/cart-dapr:", "!endpointslice/shop/cart-dapr-1:",
		}},
	})
}

func TestNodes(t *testing.T) {
	node := func(name, region string) *metav1.PartialObjectMetadata {
		return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyRegion: region}}}
	}
	l := newLedger(rule{})
	slice := slc("cart", "cart-1", "a@10.0.0.1")
	slice.Endpoints[0].NodeName = new("n1")
	region := func() string {
		plain, purpose := l.changes()
		if len(plain) != 1 || len(purpose) != 0 {
			return fmt.Sprintf("%d sources, %d of them on purpose", len(plain)+len(purpose), len(purpose))
		}
		return plain[0].Instances[0].Locality.Region
	}
	l.take(node("n1", "eu"))
	l.take(svc("cart"))
	l.changes()
	l.take(slice)
	if got := region(); got != "eu" {
		t.Errorf("a known node: %s", got)
	}
	l.take(node("n1", "eu"))
	l.take(node("n2", "us"))
	if got := told(l); got != nil {
		t.Errorf("nothing changed for anybody: %v", got)
	}
	l.take(node("n1", "us"))
	if got := region(); got != "us" {
		t.Errorf("another label: %s", got)
	}
	l.drop(node("n1", "us"))
	if got := region(); got != "" {
		t.Errorf("a node that is gone: %s", got)
	}
}

func TestEverything(t *testing.T) {
	l := newLedger(rule{})
	l.take(svc("cart"))
	l.take(slc("cart", "cart-1", "a@10.0.0.1"))
	l.take(svc("quiet", func(s *corev1.Service) { delete(s.Annotations, ExportAnnotation) }))
	l.take(slc("quiet", "quiet-1", "a@10.0.0.1"))
	l.take(slc("nobody", "nobody-1", "a@10.0.0.1"))
	var sources []string
	for _, s := range l.everything() {
		sources = append(sources, s.Source)
	}
	if want := []string{"service/shop/cart", "endpointslice/shop/cart-1"}; !slices.Equal(sources, want) {
		t.Errorf("sources %v, want %v", sources, want)
	}
	if got := told(l); got != nil {
		t.Errorf("it is told again: %v", got)
	}
}

// What the cost of a change depends on is the slice that it is in, not the Service: from the
// event of a watch to what is published. The cluster has 10 000 instances each time, in Services
// of 100 or in one, so that the garbage collector has the same to look through.
func BenchmarkOneChange(b *testing.B) {
	for _, n := range []int{100, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			const all = 10000
			l := newLedger(rule{})
			var states [2]*discoveryv1.EndpointSlice
			for at := range all / 100 {
				name := fmt.Sprintf("cart-%d", at*100/n)
				l.take(svc(name))
				states[0] = bigSlice(name, at)
				l.take(states[0])
			}
			l.changes()
			states[1] = states[0].DeepCopy()
			states[1].Endpoints[50].Conditions.Ready = new(false)
			for i := 0; b.Loop(); i++ {
				l.take(states[(i+1)%2])
				if plain, _ := l.changes(); len(plain) != 1 || len(plain[0].Instances) != 100 {
					b.Fatalf("%d sources", len(plain))
				}
			}
		})
	}
}

// BenchmarkMemory tells what a Service of ten Pods takes here, and with what the guard holds.
func BenchmarkMemory(b *testing.B) {
	const services = 1000
	var own, all float64
	for b.Loop() {
		before := heap()
		l := newLedger(rule{})
		for i := range services {
			name := fmt.Sprintf("service-%d", i)
			l.take(svc(name))
			slice := bigSlice(name, i)
			slice.Endpoints = slice.Endpoints[:10]
			l.take(slice)
		}
		own = float64(heap()-before) / services
		g := guard.New(guard.Config{})
		g.Apply(time.Unix(0, 0), catalog.Update{Full: true, Snapshots: l.everything()})
		all = float64(heap()-before) / services
		runtime.KeepAlive(l)
		runtime.KeepAlive(g)
	}
	b.ReportMetric(own, "bytes/service")
	b.ReportMetric(all, "bytes/service-with-guard")
}

// heap gives the bytes in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// bigSlice makes the n-th slice of a service, with 100 Pods on 20 nodes.
func bigSlice(service string, n int) *discoveryv1.EndpointSlice {
	s := slc(service, fmt.Sprintf("%s-%d", service, n))
	for i := range 100 {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{fmt.Sprintf("10.%d.%d.%d", n>>8, n&255, i+1)},
			Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: fmt.Sprintf("%s-7d4b9c6f5-%05d", service, n*100+i)},
			NodeName:   new(fmt.Sprintf("node-%d", i%20)), Zone: new("eu-1"),
		})
	}
	return s
}
