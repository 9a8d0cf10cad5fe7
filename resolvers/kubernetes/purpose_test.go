package kubernetes

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// A record that says something unusable is not one that somebody took away: what it hides is
// absent, and the guard has its say.
func TestWhatCannotBeUsedIsNotRemovedOnPurpose(t *testing.T) {
	says := func(word string) *corev1.Service {
		return svc("cart", func(s *corev1.Service) { s.Annotations[ExportAnnotation] = word })
	}
	admin := svc("order", func(s *corev1.Service) {
		s.Annotations[PortAnnotation] = "admin"
		s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "admin", Port: 81}}
	})
	with := slc("order", "order-1", "a@10.0.0.1", "b@10.0.0.2")
	with.Ports = append(with.Ports, discoveryv1.EndpointPort{Name: new("admin"), Port: new(int32(8081))})
	play(t, newLedger(rule{}), []step{
		{"a Service that opted in", func(l *ledger) { l.take(says("true")); l.take(slc("cart", "cart-1", "a@10.0.0.1")) }, []string{
			"service/shop/cart: [shop/cart]", "endpointslice/shop/cart-1: shop/cart/a 10.0.0.1:8080 HEALTHY",
		}},
		{"its annotation is misspelt", func(l *ledger) { l.take(says("ture")) }, []string{
			`service/shop/cart: aside shop/cart: annotation farcall.io/export is "ture": want "true" or "false"`, "endpointslice/shop/cart-1:",
		}},
		{"now it opts out, which ends what the guard holds", func(l *ledger) { l.take(says("false")) }, []string{
			"!service/shop/cart:", "!endpointslice/shop/cart-1:",
		}},
		{"a Service that names a port", func(l *ledger) { l.take(admin); l.take(with) }, []string{
			"service/shop/order: [shop/order]", "endpointslice/shop/order-1: shop/order/a 10.0.0.1:8081 HEALTHY shop/order/b 10.0.0.2:8081 HEALTHY",
		}},
		{"its slice loses that port, and a Pod", func(l *ledger) { l.take(slc("order", "order-1", "a@10.0.0.1")) }, []string{
			`endpointslice/shop/order-1: aside shop/order/a: annotation farcall.io/port is "admin": the EndpointSlice does not have this port`,
		}},
		{"a Pod goes from what can be used", func(l *ledger) {
			l.take(with)
			told(l)
			less := with.DeepCopy()
			less.Endpoints = less.Endpoints[:1]
			l.take(less)
		}, []string{"!endpointslice/shop/order-1: shop/order/a 10.0.0.1:8081 HEALTHY"}},
	})
}

// Where no target is stated, the port is a part of the id: another port is another instance, and
// the old one went on purpose.
func TestAnotherPortOfEndpointsWithoutATarget(t *testing.T) {
	slice := func(number int32) *discoveryv1.EndpointSlice {
		s := slc("db", "db-1", "@10.0.0.1")
		s.Endpoints[0].TargetRef, s.Ports[0].Port = nil, new(number)
		return s
	}
	both := func(annotation string) *corev1.Service {
		return svc("db", func(s *corev1.Service) { s.Annotations[PortAnnotation] = annotation; s.Spec.Ports = nil })
	}
	play(t, newLedger(rule{}), []step{
		{"at first", func(l *ledger) { l.take(svc("db")); l.take(slice(5432)) }, []string{
			"service/shop/db: [shop/db]", "endpointslice/shop/db-1: shop/db/10.0.0.1:5432 10.0.0.1:5432 HEALTHY",
		}},
		{"the slice states another port", func(l *ledger) { l.take(slice(6432)) }, []string{
			"!endpointslice/shop/db-1: shop/db/10.0.0.1:6432 10.0.0.1:6432 HEALTHY",
		}},
		{"the Service states another port", func(l *ledger) { l.take(both("7432")) }, []string{
			"service/shop/db: [shop/db]", "!endpointslice/shop/db-1: shop/db/10.0.0.1:7432 10.0.0.1:7432 HEALTHY",
		}},
		{"Pods keep their names at another port", func(l *ledger) {
			l.take(svc("cart"))
			l.take(slc("cart", "cart-1", "a@10.0.0.1"))
			told(l)
			other := slc("cart", "cart-1", "a@10.0.0.1")
			other.Ports[0].Port = new(int32(8081))
			l.take(other)
		}, []string{"endpointslice/shop/cart-1: shop/cart/a 10.0.0.1:8081 HEALTHY"}},
	})
}

// Kubernetes writes an empty slice for a family of a dual-stack Service in which no Pod has an
// address, as on nodes of one family.
func TestDualStackServiceOfSingleStackPods(t *testing.T) {
	service := svc("cart", func(s *corev1.Service) {
		s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}
	})
	six := slc("cart", "cart-6")
	six.AddressType = discoveryv1.AddressTypeIPv6
	play(t, newLedger(rule{}), []step{
		{"the first family has an empty slice", func(l *ledger) { l.take(service); l.take(six); l.take(slc("cart", "cart-4", "a@10.0.0.1")) }, []string{
			"service/shop/cart: [shop/cart]", "endpointslice/shop/cart-4: shop/cart/a 10.0.0.1:8080 HEALTHY", "endpointslice/shop/cart-6:",
		}},
		{"the Pod gets an address of the first family", func(l *ledger) { l.take(slc("cart", "cart-6", "a@fd00::1")) }, []string{
			"endpointslice/shop/cart-4:", "endpointslice/shop/cart-6: shop/cart/a fd00::1:8080 HEALTHY",
		}},
		{"and loses it", func(l *ledger) { l.take(six) }, []string{
			"endpointslice/shop/cart-4: shop/cart/a 10.0.0.1:8080 HEALTHY", "!endpointslice/shop/cart-6:",
		}},
	})
}

// What changes of one Service is told of another under the same name only where that is completed
// with it.
func TestTwoServicesUnderOneNameTellNoMoreThanChanges(t *testing.T) {
	service, slice := dapr("a@10.0.0.1")
	second := slice.DeepCopy()
	second.Name, second.Endpoints[0].TargetRef.Name, second.Endpoints[0].Addresses[0] = "cart-dapr-2", "b", "10.0.0.2"
	const a = "shop/cart/a 10.0.0.1:8080 via 10.0.0.1:50002 HEALTHY"
	ill := slc("cart", "cart-1", "a@10.0.0.1")
	ill.Endpoints[0].Conditions.Ready = new(false)
	play(t, newLedger(rule{}), []step{
		{"both", func(l *ledger) {
			for _, o := range []*discoveryv1.EndpointSlice{slice, second, slc("cart", "cart-1", "a@10.0.0.1")} {
				l.take(o)
			}
			l.take(service)
			l.take(svc("cart"))
		}, []string{
			"service/shop/cart: [shop/cart]", "endpointslice/shop/cart-1: " + a, "service/shop/cart-dapr: [shop/cart]",
			"endpointslice/shop/cart-dapr-1: " + a, "endpointslice/shop/cart-dapr-2: shop/cart/b 10.0.0.2:0 via 10.0.0.2:50002 HEALTHY",
		}},
		{"a Pod is ill", func(l *ledger) { l.take(ill) }, []string{
			"endpointslice/shop/cart-1: shop/cart/a 10.0.0.1:8080 via 10.0.0.1:50002 UNHEALTHY",
		}},
		{"it comes to the other slice of the one Service", func(l *ledger) { l.take(slc("cart", "cart-2", "b@10.0.0.2")) }, []string{
			"endpointslice/shop/cart-2: shop/cart/b 10.0.0.2:8080 via 10.0.0.2:50002 HEALTHY",
			"endpointslice/shop/cart-dapr-2: shop/cart/b 10.0.0.2:8080 via 10.0.0.2:50002 HEALTHY",
		}},
		{"a slice of the one goes", func(l *ledger) { l.drop(slc("cart", "cart-2")) }, []string{
			"endpointslice/shop/cart-dapr-2: shop/cart/b 10.0.0.2:0 via 10.0.0.2:50002 HEALTHY", "!endpointslice/shop/cart-2:",
		}},
	})
}

// As BenchmarkOneChange, where the application's own Service and Dapr's have the same Pods.
func BenchmarkOneChangeOfTwoServices(b *testing.B) {
	for _, n := range []int{100, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l := newLedger(rule{})
			service, ports := dapr()
			l.take(svc("cart"))
			l.take(service)
			var states [2]*discoveryv1.EndpointSlice
			for at := range n / 100 {
				states[0] = bigSlice("cart", at)
				l.take(states[0])
				sidecars := states[0].DeepCopy()
				sidecars.Name, sidecars.Labels, sidecars.Ports = fmt.Sprintf("cart-dapr-%d", at), ports.Labels, ports.Ports
				l.take(sidecars)
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
