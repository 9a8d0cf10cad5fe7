package kubernetes

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/farcall/farcall/internal/catalog"
)

func TestHealth(t *testing.T) {
	yes, no := new(true), new(false)
	for _, tt := range []struct {
		ready, serving, terminating *bool
		want                        catalog.Health
	}{
		{nil, nil, nil, catalog.Healthy},
		{yes, yes, no, catalog.Healthy},
		{yes, nil, nil, catalog.Healthy},
		{no, no, no, catalog.Unhealthy},
		{no, nil, nil, catalog.Unhealthy},
		{no, yes, no, catalog.Unhealthy},  // no controller writes it; ready is what counts
		{yes, no, no, catalog.Healthy},    // publishNotReadyAddresses
		{yes, yes, yes, catalog.Draining}, // publishNotReadyAddresses
		{yes, no, yes, catalog.Unhealthy}, // publishNotReadyAddresses
		{no, yes, yes, catalog.Draining},  // a Pod that ends
		{no, nil, yes, catalog.Draining},  // serving means true where it is not stated
		{no, no, yes, catalog.Unhealthy},  // a Pod that ends and does not answer
		{nil, no, nil, catalog.Healthy},   // only ready and terminating were ever asked for
	} {
		c := discoveryv1.EndpointConditions{Ready: tt.ready, Serving: tt.serving, Terminating: tt.terminating}
		if got := healthOf(c); got != tt.want {
			t.Errorf("%s is %s, want %s", c.String(), got, tt.want)
		}
	}
}

func TestOptIn(t *testing.T) {
	selector, err := labels.Parse("dapr.io/enabled=true")
	if err != nil {
		t.Fatal(err)
	}
	r := rule{selector: selector, namespaces: []string{"prod", "team-*"}}
	for _, tt := range []struct {
		name, service string // namespace/name
		export        string // "-": no annotation
		labels        map[string]string
		taken         bool
		says          string
	}{
		{name: "nothing speaks for it", service: "shop/cart", export: "-"},
		{name: "annotated", service: "shop/cart", export: "true", taken: true},
		{name: "its namespace", service: "prod/cart", export: "-", taken: true},
		{name: "its namespace by pattern", service: "team-a/cart", export: "-", taken: true},
		{name: "its label", service: "shop/cart-dapr", export: "-", labels: map[string]string{"dapr.io/enabled": "true"}, taken: true},
		{name: "another value of the label", service: "shop/cart-dapr", export: "-", labels: map[string]string{"dapr.io/enabled": "false"}},
		{name: "the annotation is stronger", service: "prod/cart", export: "false", labels: map[string]string{"dapr.io/enabled": "true"}},
		{name: "the annotation is no word we know", service: "prod/cart", export: "yes", says: `"yes": want "true" or "false"`},
		{name: "an empty annotation", service: "prod/cart", export: "", says: `"": want`},
		{name: "the API server itself", service: "default/kubernetes", export: "-", labels: map[string]string{"dapr.io/enabled": "true"}},
		{name: "the API server, if someone insists", service: "default/kubernetes", export: "true", taken: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns, name, _ := strings.Cut(tt.service, "/")
			s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: tt.labels}}
			if tt.export != "-" {
				s.Annotations = map[string]string{ExportAnnotation: tt.export}
			}
			taken, says := r.takes(s)
			if taken != tt.taken || (tt.says == "") != (says == "") || !strings.Contains(says, tt.says) {
				t.Errorf("taken %v, %q; want %v, %q", taken, says, tt.taken, tt.says)
			}
		})
	}
	if taken, _ := (rule{}).takes(&corev1.Service{}); taken {
		t.Error("without a rule, a Service is taken that did not ask for it")
	}
}

func TestPorts(t *testing.T) {
	dapr := []port{{"dapr-http", 3500}, {"dapr-grpc", 50001}, {"dapr-internal", 50002}, {"dapr-metrics", 9090}}
	for _, tt := range []struct {
		name       string
		annotation string
		service    []port // as the Service states them
		slice      []port // as the instances have them
		app, relay int
		says       string
	}{
		{name: "one without a name", service: []port{{"", 80}}, slice: []port{{"", 8080}}, app: 8080},
		{name: "http before the order", service: []port{{"metrics", 9090}, {"http", 80}}, slice: []port{{"http", 8080}, {"metrics", 9090}}, app: 8080},
		{name: "http before grpc", service: []port{{"grpc", 90}, {"http", 80}}, slice: []port{{"grpc", 9000}, {"http", 8080}}, app: 8080},
		{name: "the Service's order, not the slice's", service: []port{{"web", 80}, {"admin", 81}}, slice: []port{{"admin", 8081}, {"web", 8080}}, app: 8080},
		{name: "a port that these instances lack", service: []port{{"web", 80}, {"admin", 81}}, slice: []port{{"admin", 8081}}, app: 8081},
		{name: "Dapr's own Service", service: dapr, slice: dapr, relay: 50002},
		{name: "an agent's port before Dapr's", service: dapr, slice: append([]port{{"farcall", 50003}}, dapr...), relay: 50003},
		{name: "an application with both", service: []port{{"farcall", 7}, {"web", 80}}, slice: []port{{"farcall", 50002}, {"web", 8080}}, app: 8080, relay: 50002},
		{name: "by name", annotation: "admin", service: []port{{"http", 80}, {"admin", 81}}, slice: []port{{"http", 8080}, {"admin", 8081}}, app: 8081},
		{name: "by the Service's number", annotation: "81", service: []port{{"http", 80}, {"admin", 81}}, slice: []port{{"http", 8080}, {"admin", 8081}}, app: 8081},
		{name: "by a number that the Service does not have", annotation: "8081", service: []port{{"http", 80}, {"admin", 81}}, slice: []port{{"http", 8080}, {"admin", 8081}}, says: "no such port"},
		{name: "by a name that the Service does not have", annotation: "admni", service: []port{{"http", 80}}, slice: []port{{"http", 8080}}, says: `"admni": the Service has no such port`},
		{name: "by a name that the slice does not have", annotation: "admin", service: []port{{"admin", 81}}, slice: []port{{"http", 8080}}, says: "EndpointSlice does not have"},
		{name: "a sidecar's, if someone insists", annotation: "dapr-http", service: dapr, slice: dapr, app: 3500, relay: 50002},
		{name: "a headless Service without ports", slice: []port{{"x", 1000}, {"y", 2000}}, app: 1000},
		{name: "and with a number", annotation: "2000", slice: []port{{"x", 1000}, {"y", 2000}}, app: 2000},
		{name: "and nobody states a port", annotation: "8080", app: 8080},
		{name: "and a name that nobody states", annotation: "web", says: "no port has this name"},
		{name: "no port at all"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &service{ports: tt.service, port: tt.annotation}
			app, err := s.appPort(tt.slice)
			if tt.says != "" {
				if err == nil || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("port %d, %v; want an error that says %q", app, err, tt.says)
				}
				return
			}
			if relay := relayPort(tt.slice); err != nil || app != tt.app || relay != tt.relay {
				t.Errorf("application %d, relay %d, %v; want %d and %d", app, relay, err, tt.app, tt.relay)
			}
		})
	}
}

// list gives instances as lines.
func list(instances []*catalog.Instance) []string {
	var lines []string
	for _, i := range instances {
		at := strings.Trim(fmt.Sprintf("%s/%s/%s", i.Locality.Region, i.Locality.Zone, i.Node), "/")
		lines = append(lines, strings.TrimSpace(strings.TrimPrefix(i.String(), "/")+" "+at))
	}
	return lines
}

func TestInstances(t *testing.T) {
	tcp, udp := new(corev1.ProtocolTCP), new(corev1.ProtocolUDP)
	http := []discoveryv1.EndpointPort{
		{Name: new("dns"), Protocol: udp, Port: new(int32(53))},
		{Name: new("all"), Protocol: tcp},
		{Name: new("http"), Protocol: tcp, Port: new(int32(8080))},
	}
	web := &service{name: catalog.Name{Namespace: "shop", Service: "cart"}, ports: []port{{"http", 80}}}
	for _, tt := range []struct {
		name    string
		service *service
		slice   discoveryv1.EndpointSlice
		places  map[string]place
		want    []string
		aside   []string
	}{
		{
			name: "pods, in the order of their names",
			slice: discoveryv1.EndpointSlice{Ports: http, Endpoints: []discoveryv1.Endpoint{
				{Addresses: []string{"10.0.0.2"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "cart-b"}},
				{Addresses: []string{"10.0.0.1", "10.9.9.9"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "cart-a"}, NodeName: new("n1"), Zone: new("eu-1")},
			}},
			want: []string{"shop/cart/cart-a 10.0.0.1:8080 HEALTHY eu-1/n1", "shop/cart/cart-b 10.0.0.2:8080 HEALTHY"},
		},
		{
			name: "nothing stands behind an endpoint",
			slice: discoveryv1.EndpointSlice{Ports: http, Endpoints: []discoveryv1.Endpoint{
				{Addresses: []string{"10.0.0.1"}}, {Addresses: []string{"2001:db8::1"}},
			}},
			want: []string{"shop/cart/10.0.0.1:8080 10.0.0.1:8080 HEALTHY", "shop/cart/[2001:db8::1]:8080 2001:db8::1:8080 HEALTHY"},
		},
		{
			name:    "Dapr's Service states a relay only",
			service: &service{name: web.name},
			slice: discoveryv1.EndpointSlice{
				Ports:     []discoveryv1.EndpointPort{{Name: new("dapr-internal"), Protocol: tcp, Port: new(int32(50002))}},
				Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}, {Addresses: []string{"fd00::1"}, TargetRef: &corev1.ObjectReference{Name: "p"}}},
			},
			want: []string{"shop/cart/10.0.0.1:50002 10.0.0.1:0 via 10.0.0.1:50002 HEALTHY", "shop/cart/p fd00::1:0 via [fd00::1]:50002 HEALTHY"},
		},
		{
			name: "a node's place; the slice's zone is nearer to the truth",
			slice: discoveryv1.EndpointSlice{Ports: http, Endpoints: []discoveryv1.Endpoint{
				{Addresses: []string{"10.0.0.1"}, TargetRef: &corev1.ObjectReference{Name: "a"}, NodeName: new("n1"), Zone: new("eu-1")},
				{Addresses: []string{"10.0.0.2"}, TargetRef: &corev1.ObjectReference{Name: "b"}, NodeName: new("n1")},
				{Addresses: []string{"10.0.0.3"}, TargetRef: &corev1.ObjectReference{Name: "c"}, NodeName: new("n2")},
			}},
			places: map[string]place{"n1": {"eu", "eu-9"}, "": {"no", "no"}},
			want: []string{
				"shop/cart/a 10.0.0.1:8080 HEALTHY eu/eu-1/n1", "shop/cart/b 10.0.0.2:8080 HEALTHY eu/eu-9/n1", "shop/cart/c 10.0.0.3:8080 HEALTHY n2",
			},
		},
		{
			name: "endpoints without an address are set aside",
			slice: discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-x"}, Ports: http, Endpoints: []discoveryv1.Endpoint{
				{}, {Addresses: []string{""}}, {Addresses: []string{"10.0.0.1"}, TargetRef: &corev1.ObjectReference{Name: "a"}},
			}},
			want:  []string{"shop/cart/a 10.0.0.1:8080 HEALTHY"},
			aside: []string{"shop/cart-x endpoint 0: it has no address", "shop/cart-x endpoint 1: it has no address"},
		},
		{
			name:    "a port that is not there sets aside each",
			service: &service{name: web.name, port: "admin", ports: []port{{"http", 80}}},
			slice: discoveryv1.EndpointSlice{Ports: http, Endpoints: []discoveryv1.Endpoint{
				{Addresses: []string{"10.0.0.1"}, TargetRef: &corev1.ObjectReference{Name: "a"}},
			}},
			aside: []string{`shop/cart/a: annotation farcall.io/port is "admin": the Service has no such port`},
		},
		{
			name: "nonsense is left to its reader, who sets it aside",
			slice: discoveryv1.EndpointSlice{
				Ports:     []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(70000))}},
				Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"169.254.169.254"}, TargetRef: &corev1.ObjectReference{Name: "a"}}},
			},
			want: []string{"shop/cart/a 169.254.169.254:70000 HEALTHY"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.service
			if s == nil {
				s = web
			}
			got, aside := s.instances(readSlice(&tt.slice), tt.places)
			if !slices.Equal(list(got), tt.want) {
				t.Errorf("instances\n%q, want\n%q", list(got), tt.want)
			}
			var lines []string
			for _, a := range aside {
				lines = append(lines, a.String())
			}
			if !slices.Equal(lines, tt.aside) {
				t.Errorf("set aside\n%q, want\n%q", lines, tt.aside)
			}
		})
	}
}

// Whatever an API server sends is taken in without a panic, and what comes out can be told.
func FuzzTake(f *testing.F) {
	seed := func(service *corev1.Service, slice *discoveryv1.EndpointSlice) {
		a, err := service.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		b, err := slice.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(a, b)
	}
	seed(&corev1.Service{}, &discoveryv1.EndpointSlice{})
	seed(
		&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart", Annotations: map[string]string{ExportAnnotation: "true", PortAnnotation: "80", AppIDAnnotation: "c"}},
			Spec:       corev1.ServiceSpec{IPFamilies: []corev1.IPFamily{"IPv4", "IPv6"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
		},
		&discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: "cart-1", Labels: map[string]string{discoveryv1.LabelServiceName: "cart"}},
			AddressType: "IPv4", Ports: []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, NodeName: new("n")}, {}},
		})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		service, slice := &corev1.Service{}, &discoveryv1.EndpointSlice{}
		if service.Unmarshal(a) != nil || slice.Unmarshal(b) != nil {
			return
		}
		l := newLedger(rule{namespaces: []string{"*"}})
		l.take(service)
		l.take(slice)
		for _, s := range l.everything() {
			for _, in := range s.Instances {
				_ = in.Check() // any verdict will do
			}
		}
		again := slice.DeepCopy()
		again.Endpoints = nil
		l.take(again)
		l.drop(service)
		l.drop(slice)
		plain, purpose := l.changes()
		for _, s := range append(plain, purpose...) {
			if len(s.Instances)+len(s.Services) > 0 {
				t.Errorf("after the end there is %v", s)
			}
		}
		if len(l.groups)+len(l.owners)+len(l.names)+len(l.dirty) > 0 {
			t.Errorf("something is left: %v %v %v %v", l.groups, l.owners, l.names, l.dirty)
		}
	})
}
