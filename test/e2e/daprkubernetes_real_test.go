//go:build real && linux

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/farcall/farcall/internal/testkit"
)

// daprPorts are those that Dapr's operator gives to the Service of an application: the port of the
// Service, and the one of the sidecar where it is another.
var daprPorts = []struct {
	name         string
	port, target int32
}{{"dapr-http", 80, 3500}, {"dapr-grpc", 50001, 50001}, {"dapr-internal", 50002, 50002}, {"dapr-metrics", 9090, 9090}}

// sidecar writes what there is in Kubernetes of a Deployment of one pod with a sidecar: the pod as
// Dapr's injector leaves it, the Service that Dapr's operator makes (both of Dapr 1.14), and the
// EndpointSlice that Kubernetes makes of these.
func (k *kubernetes) sidecar(app, pod, node, address string) {
	k.t.Helper()
	annotations := map[string]string{
		"dapr.io/enabled": "true", "dapr.io/app-id": app, "dapr.io/app-port": "8080", "dapr.io/app-protocol": "http",
	}
	if _, err := k.client.CoreV1().Pods("shop").Create(k.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: pod, Annotations: annotations, Labels: map[string]string{
			"app": app, "dapr.io/sidecar-injected": "true", "dapr.io/app-id": app, "dapr.io/metrics-enabled": "true",
		}},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{
			{Name: app, Image: "example.com/" + app, Ports: []corev1.ContainerPort{{ContainerPort: 8080}}},
			{Name: "daprd", Image: "docker.io/daprio/daprd:1.14.0", Ports: []corev1.ContainerPort{
				{Name: "dapr-http", ContainerPort: 3500}, {Name: "dapr-grpc", ContainerPort: 50001},
				{Name: "dapr-internal", ContainerPort: 50002}, {Name: "dapr-metrics", ContainerPort: 9090},
			}},
		}},
	}, metav1.CreateOptions{}); err != nil {
		k.t.Fatal(err)
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: app + "-dapr", Labels: map[string]string{"dapr.io/enabled": "true"},
			Annotations: map[string]string{
				"dapr.io/app-id": app, "prometheus.io/probe": "true", "prometheus.io/scrape": "true", "prometheus.io/port": "9090", "prometheus.io/path": "/",
			},
		},
		Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"app": app}},
	}
	yes, no := true, false
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: app + "-dapr-x7k2p", Labels: map[string]string{
			discoveryv1.LabelServiceName: app + "-dapr", discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io",
			corev1.IsHeadlessService: "", "dapr.io/enabled": "true",
		}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{address}, NodeName: &node,
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: pod},
		}},
	}
	for _, p := range daprPorts {
		service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{
			Name: p.name, Protocol: corev1.ProtocolTCP, Port: p.port, TargetPort: intstr.FromInt32(p.target),
		})
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &p.name, Port: &p.target})
	}
	if _, err := k.client.CoreV1().Services("shop").Create(k.t.Context(), service, metav1.CreateOptions{}); err != nil {
		k.t.Fatal(err)
	}
	if _, err := k.client.DiscoveryV1().EndpointSlices("shop").Create(k.t.Context(), slice, metav1.CreateOptions{}); err != nil {
		k.t.Fatal(err)
	}
}

// Agents call an application at the daprd in its pod, which they find by what Dapr leaves in
// Kubernetes, without a word in it about Farcall: those of its own cluster and those of others.
func TestRealAgentCallsSidecarInKubernetes(t *testing.T) {
	if !testkit.Inside(t) {
		return
	}
	k := newKubernetes(t)
	registry := fmt.Sprintf(`{kubernetes: {kubeconfig: "%s", exportSelector: dapr.io/enabled=true}}`, k.kubeconfig)
	l := newLinked(t, registry)
	l.agent(l.self, "east", registry, "")
	pod := l.net.Host("till-0")
	testkit.Daprd(t, pod, testkit.DaprdConfig{AppID: "till", App: l.echo(pod, "east/pod")})
	k.sidecar("till", "till-0", "kube-1", pod.Addr.String())
	for _, from := range []string{"east", "west"} {
		if by := l.served(from, "till.shop", "east/pod"); by != "east/till-0" {
			t.Errorf("from %s it is served by %q", from, by)
		}
	}
	// As Dapr has it, an application is looked up in the caller's namespace unless it says another.
	if a := l.must("east", "till/method/x"); a.status == http.StatusOK {
		t.Errorf("in the default namespace: %d by %q", a.status, a.servedBy)
	}

	if err := k.client.DiscoveryV1().EndpointSlices("shop").Delete(t.Context(), "till-dapr-x7k2p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"east", "west"} {
		testkit.Eventually(t, l.ctx, "from "+from+" a pod that was deleted is not called", func() error {
			a, err := l.call(from, http.MethodGet, "till.shop/method/x")
			if err == nil && (a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "till")) {
				err = fmt.Errorf("%d by %q: %s", a.status, a.servedBy, a.body)
			}
			return err
		})
	}
}
