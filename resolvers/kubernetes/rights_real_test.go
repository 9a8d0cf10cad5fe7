//go:build real

package kubernetes

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/farcall/farcall/internal/testkit"
)

// deployed is what deploy/kubernetes/rbac.yaml says.
type deployed struct {
	roles    map[string]*rbacv1.ClusterRole
	bindings []*rbacv1.ClusterRoleBinding
	accounts []*corev1.ServiceAccount
}

func readDeployed(t testing.TB) deployed {
	t.Helper()
	f, err := os.Open(filepath.Join(testkit.Root(t), "deploy", "kubernetes", "rbac.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := deployed{roles: map[string]*rbacv1.ClusterRole{}}
	dec := yaml.NewYAMLOrJSONDecoder(f, 4096)
	for {
		var raw struct {
			metav1.TypeMeta   `json:",inline"`
			metav1.ObjectMeta `json:"metadata"`
			Rules             []rbacv1.PolicyRule `json:"rules"`
			RoleRef           rbacv1.RoleRef      `json:"roleRef"`
			Subjects          []rbacv1.Subject    `json:"subjects"`
		}
		if err := dec.Decode(&raw); errors.Is(err, io.EOF) {
			return d
		} else if err != nil {
			t.Fatal(err)
		}
		switch raw.Kind {
		case "ServiceAccount":
			d.accounts = append(d.accounts, &corev1.ServiceAccount{ObjectMeta: raw.ObjectMeta})
		case "ClusterRole":
			d.roles[raw.Name] = &rbacv1.ClusterRole{ObjectMeta: raw.ObjectMeta, Rules: raw.Rules}
		case "ClusterRoleBinding":
			d.bindings = append(d.bindings, &rbacv1.ClusterRoleBinding{ObjectMeta: raw.ObjectMeta, RoleRef: raw.RoleRef, Subjects: raw.Subjects})
		default:
			t.Fatalf("rbac.yaml has a %s, which this test does not know", raw.Kind)
		}
	}
}

// token gives a real token of a service account, bound to a Secret of the same namespace, so
// that it ends with that.
func (h hand) token(namespace, account, secret string) string {
	h.t.Helper()
	h.put("secrets", &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: secret}})
	req := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		BoundObjectRef: &authv1.BoundObjectReference{Kind: "Secret", APIVersion: "v1", Name: secret},
	}}
	out := &authv1.TokenRequest{}
	err := h.clients["serviceaccounts"].Post().Namespace(namespace).Resource("serviceaccounts").Name(account).SubResource("token").
		Body(req).Do(h.ctx()).Into(out)
	if err != nil {
		h.t.Fatalf("token of %s: %v", account, err)
	}
	return out.Status.Token
}

// fill makes a Service with one Pod on node n1.
func (h hand) fill(namespace, name string) {
	h.t.Helper()
	h.put("services", exported(namespace, name, corev1.ServicePort{Name: "http", Port: 80}))
	e := pod(name+"-1", "10.1.0.1", discoveryv1.EndpointConditions{})
	e.NodeName = new("n1")
	h.put("endpointslices", sliceOf(namespace, name, name, 8080, e))
}

// lives says that nothing failed and that it was confirmed at least twice.
func (r *record) lives() error {
	_, confirms, failures := r.All()
	if len(failures) > 0 {
		return failures[0]
	}
	if len(confirms) < 2 {
		return errors.New("it was not confirmed twice")
	}
	return nil
}

// TestRealTheDeployedRoleIsEnough and not a right too much: with exactly what rbac.yaml gives,
// everything works; with any one right less, it does not, and says so.
func TestRealTheDeployedRoleIsEnough(t *testing.T) {
	srv := testkit.Kubernetes(t, "reader")
	h := handOf(t, srv)
	h.namespace("farcall")
	h.namespace("shop")
	h.fill("shop", "cart")
	h.put("nodes", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelTopologyRegion: "eu"}}})
	d := readDeployed(t)
	for _, a := range d.accounts {
		h.put("serviceaccounts", a)
	}
	for _, r := range d.roles {
		h.put("clusterroles", r)
	}
	for _, b := range d.bindings {
		h.put("clusterrolebindings", b)
	}
	if len(d.accounts) != 2 || len(d.roles) != 2 || len(d.bindings) != 1 {
		t.Fatalf("rbac.yaml has %d accounts, %d roles, %d bindings", len(d.accounts), len(d.roles), len(d.bindings))
	}
	const line = "shop/cart/cart-1 10.1.0.1:8080 w=1 HEALTHY on "
	for _, a := range d.accounts {
		t.Run("as "+a.Name, func(t *testing.T) {
			config := srv.As("")
			config.Token = h.with(t).token("farcall", a.Name, a.Name)
			rec, _ := run(t, Config{Kubeconfig: config.Write(t)})
			testkit.Eventually(t, testkit.Context(t), "it reads and confirms", func() error {
				return errors.Join(rec.Shows(line+"//n1")(), rec.lives())
			})
		})
	}

	reader := srv.Kubeconfig(t, "reader")
	bind := func(h hand, roles ...*rbacv1.ClusterRole) {
		for i, r := range roles {
			name := []string{"tried", "tried-too"}[i]
			h.put("clusterroles", &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: r.Rules})
			h.put("clusterrolebindings", &rbacv1.ClusterRoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: name},
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
				Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "reader"}},
			})
		}
	}
	registry, regions := d.roles["farcall-registry"], d.roles["farcall-registry-regions"]
	bind(h, registry, regions)
	t.Run("with regions", func(t *testing.T) {
		rec, _ := run(t, Config{Kubeconfig: reader, Regions: true})
		testkit.Eventually(t, testkit.Context(t), "it reads and confirms", func() error {
			return errors.Join(rec.Shows(line+"eu//n1")(), rec.lives())
		})
	})
	tried := 0
	for _, whole := range []*rbacv1.ClusterRole{registry, regions} {
		for i, rule := range whole.Rules {
			for _, verb := range rule.Verbs {
				tried++
				what := verb + " " + rule.Resources[0]
				t.Run("without "+what, func(t *testing.T) {
					less := whole.DeepCopy()
					less.Rules[i].Verbs = slices.DeleteFunc(less.Rules[i].Verbs, func(v string) bool { return v == verb })
					if whole == registry {
						bind(h.with(t), less, regions)
					} else {
						bind(h.with(t), registry, less)
					}
					rec, stop := run(t, Config{Kubeconfig: reader, Regions: true})
					testkit.Eventually(t, testkit.Context(t), "it says what is missing", rec.FailedWith(
						"kubernetes: "+what, `User "reader" cannot `+verb+` resource "`+rule.Resources[0]+`"`, "deploy/kubernetes/rbac.yaml"))
					stop()
					if _, confirms, _ := rec.All(); len(confirms) > 0 {
						t.Errorf("it was confirmed %d times", len(confirms))
					}
				})
			}
		}
	}
	if tried != 6 {
		t.Errorf("%d rights were tried, want list and watch of three resources", tried)
	}
}

// TestRealNamespaces: with watchNamespaces, a Role in each of them is enough.
func TestRealNamespaces(t *testing.T) {
	srv := testkit.Kubernetes(t, "reader")
	h := handOf(t, srv)
	rules := readDeployed(t).roles["farcall-registry"].Rules
	for _, ns := range []string{"shop", "bank", "closed"} {
		h.namespace(ns)
		h.fill(ns, "cart")
		if ns == "closed" {
			continue
		}
		h.put("roles", &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "registry"}, Rules: rules})
		h.put("rolebindings", &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "registry"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "registry"},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "reader"}},
		})
	}
	path := srv.Kubeconfig(t, "reader")
	rec, stop := run(t, Config{Kubeconfig: path, WatchNamespaces: []string{"shop", "bank"}})
	testkit.Eventually(t, testkit.Context(t), "both are read and confirmed", func() error {
		return errors.Join(rec.Shows("bank/cart/cart-1 10.1.0.1:8080 w=1 HEALTHY on //n1", "shop/cart/cart-1 10.1.0.1:8080 w=1 HEALTHY on //n1")(), rec.lives())
	})
	h.drop("services", "bank", "cart")
	testkit.Eventually(t, testkit.Context(t), "a change is seen", rec.Shows("shop/cart/cart-1 10.1.0.1:8080 w=1 HEALTHY on //n1"))
	stop()

	rec, stop = run(t, Config{Kubeconfig: path, WatchNamespaces: []string{"shop", "closed"}})
	testkit.Eventually(t, testkit.Context(t), "it says where it may not read", rec.FailedWith("list services in namespace closed", `"reader" cannot list`))
	stop()
	if updates, _, _ := rec.All(); len(updates) > 0 {
		t.Errorf("half of it was published: %v", updates)
	}
}

// TestRealRightsThatGo: who loses a right while it reads is told within seconds, though the API
// server lets open watches be; the list stays.
func TestRealRightsThatGo(t *testing.T) {
	srv := testkit.Kubernetes(t)
	h := handOf(t, srv)
	h.namespace("farcall")
	h.fill("default", "cart")
	d := readDeployed(t)
	h.put("serviceaccounts", d.accounts[0])
	h.put("clusterroles", d.roles["farcall-registry"])
	h.put("clusterrolebindings", d.bindings[0])

	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first := h.token("farcall", d.accounts[0].Name, "first")
	write(first)
	config := srv.As("")
	config.TokenFile = file
	rec, _ := run(t, Config{Kubeconfig: config.Write(t)})
	const line = "default/cart/cart-1 10.1.0.1:8080 w=1 HEALTHY on //n1"
	testkit.Eventually(t, testkit.Context(t), "it is read", func() error { return errors.Join(rec.Shows(line)(), rec.lives()) })

	h.drop("clusterrolebindings", "", d.bindings[0].Name)
	testkit.Eventually(t, within(t, 15*time.Second), "the lost right is told", rec.FailedWith("cannot list resource", "rbac.yaml"))
	h.put("clusterrolebindings", d.bindings[0])
	testkit.Eventually(t, within(t, 15*time.Second), "it goes on when the right is back", rec.confirmedSince(time.Now()))

	// The token goes with its Secret; the API server remembers for ten seconds that it was good.
	h.drop("secrets", "farcall", "first")
	testkit.Eventually(t, testkit.Context(t), "the dead token is told", rec.FailedWith("Unauthorized", "does not know the token", "kubeconfig "))
	if err := rec.Shows(line)(); err != nil {
		t.Errorf("with a dead token: %v", err)
	}
	write(h.token("farcall", d.accounts[0].Name, "second"))
	testkit.Eventually(t, within(t, 15*time.Second), "the new token is taken up", rec.confirmedSince(time.Now()))
	h.drop("services", "default", "cart")
	testkit.Eventually(t, within(t, 15*time.Second), "and life goes on", rec.Shows())
	_, _, failures := rec.All()
	for _, err := range failures {
		if strings.Contains(err.Error(), first) || strings.Contains(err.Error(), "\n") {
			t.Errorf("a failure has the token or a second line in it: %v", err)
		}
	}
}
