//go:build real

package kubernetes

import (
	"context"
	"errors"
	"testing"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
	"github.com/farcall/farcall/resolvers/resolvertest"
)

// hand writes into a real cluster.
type hand struct {
	t       testing.TB
	clients map[string]*rest.RESTClient // by resource
}

func handOf(t testing.TB, srv *testkit.KubernetesServer) hand {
	t.Helper()
	types := newScheme()
	if err := errors.Join(rbacv1.AddToScheme(types), authv1.AddToScheme(types)); err != nil {
		t.Fatal(err)
	}
	rc := &rest.Config{
		Host: "https://" + srv.Addr, QPS: -1, BearerToken: testkit.KubernetesToken(testkit.KubernetesAdmin),
		TLSClientConfig: rest.TLSClientConfig{CAFile: srv.CA},
		ContentConfig:   rest.ContentConfig{NegotiatedSerializer: serializer.NewCodecFactory(types).WithoutConversion()},
	}
	l := newLines(context.Background())
	client, err := httpClient(rc, l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	h := hand{t: t, clients: map[string]*rest.RESTClient{}}
	for _, api := range []struct {
		path      string
		gv        schema.GroupVersion
		resources []string
	}{
		{"/api", corev1.SchemeGroupVersion, []string{"services", "nodes", "namespaces", "secrets", "serviceaccounts"}},
		{"/apis", discoveryv1.SchemeGroupVersion, []string{"endpointslices"}},
		{"/apis", rbacv1.SchemeGroupVersion, []string{"clusterroles", "clusterrolebindings", "roles", "rolebindings"}},
	} {
		c, err := restClient(rc, client, api.path, api.gv)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range api.resources {
			h.clients[r] = c
		}
	}
	return h
}

// with is the same hand for another test.
func (h hand) with(t testing.TB) hand {
	h.t = t
	return h
}

func (h hand) ctx() context.Context { return testkit.Context(h.t) }

type object interface {
	runtime.Object
	metav1.Object
}

// put makes an object, or replaces it.
func (h hand) put(resource string, o object) {
	h.t.Helper()
	c := h.clients[resource]
	err := c.Post().NamespaceIfScoped(o.GetNamespace(), o.GetNamespace() != "").Resource(resource).Body(o).Do(h.ctx()).Error()
	if apierrors.IsAlreadyExists(err) {
		err = c.Put().NamespaceIfScoped(o.GetNamespace(), o.GetNamespace() != "").Resource(resource).Name(o.GetName()).Body(o).Do(h.ctx()).Error()
	}
	if err != nil {
		h.t.Fatalf("put %s %s: %v", resource, o.GetName(), err)
	}
}

// drop deletes an object; one that is not there is no error.
func (h hand) drop(resource, namespace, name string) {
	h.t.Helper()
	err := h.clients[resource].Delete().NamespaceIfScoped(namespace, namespace != "").Resource(resource).Name(name).Do(h.ctx()).Error()
	if err != nil && !apierrors.IsNotFound(err) {
		h.t.Fatalf("delete %s %s: %v", resource, name, err)
	}
}

// dropSlices deletes the EndpointSlices in a namespace that a label selector matches.
func (h hand) dropSlices(namespace, selector string) {
	h.t.Helper()
	err := h.clients["endpointslices"].Delete().Namespace(namespace).Resource("endpointslices").
		VersionedParams(&metav1.ListOptions{LabelSelector: selector}, parameterCodec).Do(h.ctx()).Error()
	if err != nil {
		h.t.Fatalf("delete EndpointSlices: %v", err)
	}
}

func (h hand) namespace(name string) {
	h.t.Helper()
	h.put("namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
}

// empty deletes every Service and EndpointSlice of a namespace but the API server's own.
func (h hand) empty(namespace string) {
	h.t.Helper()
	all := &corev1.ServiceList{}
	if err := h.clients["services"].Get().Namespace(namespace).Resource("services").Do(h.ctx()).Into(all); err != nil {
		h.t.Fatal(err)
	}
	for _, s := range all.Items {
		if s.Name != "kubernetes" {
			h.drop("services", s.Namespace, s.Name)
		}
	}
	h.dropSlices(namespace, discoveryv1.LabelServiceName+"!=kubernetes")
}

func exported(namespace, name string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{ExportAnnotation: "true"}},
		Spec:       corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: ports},
	}
}

func sliceOf(namespace, service, name string, number int, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	tcp := corev1.ProtocolTCP
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(number)), Protocol: &tcp}},
		Endpoints:   endpoints,
	}
}

func pod(name, address string, conditions discoveryv1.EndpointConditions) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{
		Addresses: []string{address}, Conditions: conditions,
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: name},
	}
}

var conditionsOf = map[catalog.Health]discoveryv1.EndpointConditions{
	catalog.Healthy:   {},
	catalog.Unhealthy: {Ready: new(false), Serving: new(false)},
	catalog.Draining:  {Ready: new(false), Serving: new(true), Terminating: new(true)},
}

func TestRealConformance(t *testing.T) {
	srv := testkit.Kubernetes(t)
	resolvertest.Run(t, func(t *testing.T) *resolvertest.Registry {
		h := handOf(t, srv)
		h.empty("default")
		g := gateTo(t, srv.Addr)
		config := srv.As(testkit.KubernetesAdmin)
		config.Server = g.url()
		path := config.Write(t)
		return &resolvertest.Registry{
			Resolver: func(t testing.TB) resolvers.Resolver {
				r, err := New(Config{Kubeconfig: path}, deps(t))
				if err != nil {
					t.Fatal(err)
				}
				return r
			},
			// Each instance has a slice of its own, so that each may have a port of its own. Services
			// come first, as they do where controllers run.
			Put: func(t testing.TB, i catalog.Instance) {
				h := h.with(t)
				h.put("services", exported("default", i.Service, corev1.ServicePort{Name: "http", Port: 80}))
				h.put("endpointslices", sliceOf("default", i.Service, i.Instance, i.Port, pod(i.Instance, i.Address, conditionsOf[i.Health])))
			},
			Remove: func(t testing.TB, id catalog.ID) { h.with(t).drop("endpointslices", "default", id.Instance) },
			Empty: func(t testing.TB, service string) {
				h.with(t).dropSlices("default", discoveryv1.LabelServiceName+"="+service)
			},
			Break:    g.breakIt,
			Hang:     g.hang,
			Healths:  []catalog.Health{catalog.Healthy, catalog.Unhealthy, catalog.Draining},
			Explicit: true,
		}
	})
}
