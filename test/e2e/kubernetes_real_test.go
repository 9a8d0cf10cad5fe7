//go:build real && linux

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/farcall/farcall/internal/testkit"
)

// kubernetes is an API server with a namespace shop, and a user who holds the role of
// deploy/kubernetes/rbac.yaml and no other.
type kubernetes struct {
	*testkit.KubernetesServer
	t          *testing.T
	client     *clientset.Clientset
	kubeconfig string // of that user
}

func newKubernetes(t *testing.T) *kubernetes {
	t.Helper()
	k := &kubernetes{t: t, KubernetesServer: testkit.Kubernetes(t, "farcall")}
	k.kubeconfig = k.Kubeconfig(t, "farcall")
	cfg, err := clientcmd.BuildConfigFromFlags("", k.Kubeconfig(t, testkit.KubernetesAdmin))
	if err != nil {
		t.Fatal(err)
	}
	if k.client, err = clientset.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
	k.bindRole()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	if _, err := k.client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return k
}

// bindRole gives the user what deploy/ gives the synchronizer.
func (k *kubernetes) bindRole() {
	k.t.Helper()
	text, err := os.ReadFile(filepath.Join(testkit.Root(k.t), "deploy", "kubernetes", "rbac.yaml"))
	if err != nil {
		k.t.Fatal(err)
	}
	roles := k.client.RbacV1()
	for _, doc := range strings.Split(string(text), "\n---\n") {
		var role rbacv1.ClusterRole
		if err := yaml.Unmarshal([]byte(doc), &role); err != nil {
			k.t.Fatal(err)
		}
		if role.Kind != "ClusterRole" {
			continue
		}
		if _, err := roles.ClusterRoles().Create(k.t.Context(), &role, metav1.CreateOptions{}); err != nil {
			k.t.Fatal(err)
		}
		_, err := roles.ClusterRoleBindings().Create(k.t.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: role.Name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "farcall"}},
		}, metav1.CreateOptions{})
		if err != nil {
			k.t.Fatal(err)
		}
	}
}

// put writes an exported Service of the namespace shop with one pod, as Kubernetes' controllers
// would.
func (k *kubernetes) put(service, pod, node, address string, port int) {
	k.t.Helper()
	ready, name, number := true, "http", int32(port)
	_, err := k.client.CoreV1().Services("shop").Create(k.t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: service, Annotations: map[string]string{"farcall.io/export": "true"}},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: name, Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		k.t.Fatal(err)
	}
	_, err = k.client.DiscoveryV1().EndpointSlices("shop").Create(k.t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &number}},
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{address}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: pod},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		k.t.Fatal(err)
	}
}
