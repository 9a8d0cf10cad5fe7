//go:build real

package kubernetes

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

// last gives the last update that was published.
func (r *record) last() catalog.Update {
	updates, _, _ := r.All()
	return updates[len(updates)-1]
}

// confirmedSince says whether it was confirmed after a time.
func (r *record) confirmedSince(since time.Time) func() error {
	return func() error {
		if _, confirms, _ := r.All(); len(confirms) == 0 || !confirms[len(confirms)-1].After(since) {
			return errors.New("it was not confirmed since")
		}
		return nil
	}
}

// TestRealAPIServerRestart: while the API server is away nothing is published. It comes back
// without a memory of what changed, so what is gone then is absent, not removed on purpose; and
// it is no other cluster.
func TestRealAPIServerRestart(t *testing.T) {
	srv := testkit.Kubernetes(t)
	h := handOf(t, srv)
	h.fill("default", "cart")
	h.fill("default", "order")
	g := gateTo(t, srv.Addr)
	config := srv.As(testkit.KubernetesAdmin)
	config.Server = g.url()
	rec, _ := run(t, Config{Kubeconfig: config.Write(t)})
	cart, order := "default/cart/cart-1 10.1.0.1:8080 w=1 HEALTHY on //n1", "default/order/order-1 10.1.0.1:8080 w=1 HEALTHY on //n1"
	testkit.Eventually(t, testkit.Context(t), "both are listed", rec.Shows(cart, order))

	srv.Kill()
	testkit.Eventually(t, testkit.Context(t), "the failure is told", rec.FailedWith("kubernetes: ", "in all namespaces"))
	killed, _, _ := rec.All()
	mend := g.breakIt(t) // so that the deletion is not seen by a resumed watch
	srv.Start()
	h.drop("endpointslices", "default", "order")
	srv.Kill()
	srv.Start()
	if updates, _, _ := rec.All(); len(updates) != len(killed) {
		t.Errorf("%d updates while it was away", len(updates)-len(killed))
	}
	mend()
	testkit.Eventually(t, within(t, 15*time.Second), "it is read again", rec.Shows(cart))
	if u := rec.last(); !u.Full || u.Explicit || u.Reset != "" {
		t.Errorf("full %v, explicit %v, reset %q; want a full list, of absences only", u.Full, u.Explicit, u.Reset)
	}
	testkit.Eventually(t, within(t, 15*time.Second), "and confirmed", rec.confirmedSince(time.Now()))
	h.drop("services", "default", "cart")
	testkit.Eventually(t, within(t, 15*time.Second), "and followed", rec.Shows())
	if !rec.last().Explicit {
		t.Error("a live deletion is not explicit")
	}
}

// TestRealConnectionLost: the deletions that a lost connection hid are told by the resumed watch,
// and are explicit.
func TestRealConnectionLost(t *testing.T) {
	srv := testkit.Kubernetes(t)
	h := handOf(t, srv)
	h.fill("default", "cart")
	h.fill("default", "order")
	g := gateTo(t, srv.Addr)
	config := srv.As(testkit.KubernetesAdmin)
	config.Server = g.url()
	rec, _ := run(t, Config{Kubeconfig: config.Write(t)})
	testkit.Eventually(t, testkit.Context(t), "both are listed", func() error { return want(rec.Instances(), 2) })
	mend := g.breakIt(t)
	testkit.Eventually(t, testkit.Context(t), "the failure is told", rec.FailedWith("watch services in all namespaces"))
	h.drop("services", "default", "cart")
	h.drop("endpointslices", "default", "order")
	mend()
	testkit.Eventually(t, within(t, 15*time.Second), "they are gone", rec.Shows())
	updates, _, _ := rec.All()
	for _, u := range updates[1:] {
		if u.Full || !u.Explicit {
			t.Errorf("full %v, explicit %v; want the deletions alone", u.Full, u.Explicit)
		}
	}
}

func want(got, n int) error {
	if got != n {
		return fmt.Errorf("%d, want %d", got, n)
	}
	return nil
}

// TestRealPausedAPIServerIsNotConfirmed: freshness comes from answers. A paused server accepts
// connections and answers nothing.
func TestRealPausedAPIServerIsNotConfirmed(t *testing.T) {
	srv := testkit.Kubernetes(t)
	h := handOf(t, srv)
	h.fill("default", "cart")
	rec, _ := run(t, Config{Kubeconfig: srv.Kubeconfig(t, testkit.KubernetesAdmin)})
	testkit.Eventually(t, testkit.Context(t), "it is confirmed", rec.confirmedSince(time.Time{}))
	srv.Pause()
	paused := time.Now()
	testkit.Eventually(t, testkit.Context(t), "the silence is told", rec.FailedWith("no answer within"))
	if err := rec.confirmedSince(paused.Add(200 * time.Millisecond))(); err == nil {
		t.Error("it was confirmed while the API server was paused")
	}
	srv.Resume()
	testkit.Eventually(t, within(t, 15*time.Second), "it is confirmed again", rec.confirmedSince(time.Now()))
	h.fill("default", "order")
	testkit.Eventually(t, within(t, 15*time.Second), "and followed", func() error { return want(rec.Instances(), 2) })
}

// TestRealStoreRestored: an etcd that is put back to an earlier state, and one that is wiped, are
// told as resets.
func TestRealStoreRestored(t *testing.T) {
	srv := testkit.Kubernetes(t)
	etcd := srv.Etcd.Members[0]
	h := handOf(t, srv)
	h.fill("default", "cart")
	rec, _ := run(t, Config{Kubeconfig: srv.Kubeconfig(t, testkit.KubernetesAdmin)})
	testkit.Eventually(t, testkit.Context(t), "one is listed", func() error { return want(rec.Instances(), 1) })

	// change has the etcd of a cluster that stands still exchanged.
	change := func(f func()) {
		t.Helper()
		srv.Kill()
		etcd.Kill()
		f()
		etcd.Start()
		srv.Etcd.WaitReady()
		srv.Start()
	}
	backup := filepath.Join(t.TempDir(), "backup")
	change(func() {
		if err := os.CopyFS(backup, os.DirFS(etcd.DataDir)); err != nil {
			t.Fatal(err)
		}
	})
	for i := range 50 {
		h.fill("default", fmt.Sprintf("late-%d", i))
	}
	testkit.Eventually(t, testkit.Context(t), "all are listed", func() error { return want(rec.Instances(), 51) })

	reset := func(what string, instances int, words string) {
		t.Helper()
		testkit.Eventually(t, testkit.Context(t), what, func() error {
			if u := rec.last(); !u.Full || u.Explicit || !strings.Contains(u.Reset, words) {
				return fmt.Errorf("full %v, explicit %v, reset %q", u.Full, u.Explicit, u.Reset)
			}
			return want(rec.Instances(), instances)
		})
	}
	change(func() {
		err := errors.Join(os.RemoveAll(etcd.DataDir), os.CopyFS(etcd.DataDir, os.DirFS(backup)))
		if err != nil {
			t.Fatal(err)
		}
	})
	reset("the restored state is told as a reset", 1, "went backwards")
	change(func() {
		if err := os.RemoveAll(etcd.DataDir); err != nil {
			t.Fatal(err)
		}
	})
	reset("the wiped one, too", 0, "went backwards")
	h.fill("default", "cart")
	testkit.Eventually(t, within(t, 15*time.Second), "life goes on", func() error { return want(rec.Instances(), 1) })
	if u := rec.last(); u.Reset != "" {
		t.Errorf("the reset is told twice: %q", u.Reset)
	}
}

// TestRealAnotherCluster: behind the same address there is another cluster, and its resource
// versions are higher, so that the watches go on as if nothing had happened.
func TestRealAnotherCluster(t *testing.T) {
	one, two := testkit.Kubernetes(t), testkit.Kubernetes(t)
	handOf(t, one).fill("default", "cart")
	h := handOf(t, two)
	for i := range 100 {
		h.fill("default", fmt.Sprintf("other-%d", i))
	}
	g := gateTo(t, one.Addr)
	config := one.As(testkit.KubernetesAdmin)
	config.Server, config.CA = g.url(), filepath.Join(t.TempDir(), "both.crt")
	a, errA := os.ReadFile(one.CA)
	b, errB := os.ReadFile(two.CA)
	if err := errors.Join(errA, errB, os.WriteFile(config.CA, append(a, b...), 0o600)); err != nil {
		t.Fatal(err)
	}
	rec, _ := run(t, Config{Kubeconfig: config.Write(t)})
	testkit.Eventually(t, testkit.Context(t), "the first cluster is listed", func() error { return want(rec.Instances(), 1) })
	g.turn(two.Addr)
	testkit.Eventually(t, testkit.Context(t), "the other cluster is told as a reset", func() error {
		if u := rec.last(); !u.Full || !strings.Contains(u.Reset, "another cluster answers") {
			return fmt.Errorf("full %v, reset %q", u.Full, u.Reset)
		}
		return want(rec.Instances(), 100)
	})
	if updates, _, _ := rec.All(); len(updates) != 2 {
		t.Errorf("%d updates; want both clusters' full lists, and nothing that the watches say of the other one", len(updates))
	}
}

// TestRealAnotherKubeconfig: the API server has moved, and the kubeconfig says where to.
func TestRealAnotherKubeconfig(t *testing.T) {
	srv := testkit.Kubernetes(t)
	h := handOf(t, srv)
	h.fill("default", "cart")
	before, after := gateTo(t, srv.Addr), gateTo(t, srv.Addr)
	config := srv.As(testkit.KubernetesAdmin)
	config.Server = before.url()
	path := config.Write(t)
	rec, _ := run(t, Config{Kubeconfig: path})
	testkit.Eventually(t, testkit.Context(t), "it is listed", func() error { return want(rec.Instances(), 1) })
	before.breakIt(t)
	testkit.Eventually(t, testkit.Context(t), "the failure is told", rec.FailedWith("list ", "is the server in kubeconfig "+path))
	config.Server = after.url()
	if err := os.Rename(config.Write(t), path); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, within(t, 15*time.Second), "it is read at its new place", rec.confirmedSince(time.Now()))
	h.drop("services", "default", "cart")
	testkit.Eventually(t, within(t, 15*time.Second), "and followed", rec.Shows())
}

// TestRealErrorsSayWhatToDo: what a person reads where nothing can be read.
func TestRealErrorsSayWhatToDo(t *testing.T) {
	srv := testkit.Kubernetes(t, "reader")
	other := testkit.Kubernetes(t)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>hello</html>") }))
	t.Cleanup(page.Close)
	json := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"kind": "ServiceList", "apiVersion": "v1"}`)
	}))
	t.Cleanup(json.Close)
	good := srv.As(testkit.KubernetesAdmin)
	for _, tt := range []struct {
		name  string
		spoil func(*testkit.Kubeconfig)
		words []string
	}{
		{"a wrong token", func(k *testkit.Kubeconfig) { k.Token = "nobody-knows-it" }, []string{"kubernetes: list services in all namespaces: ", "does not know the token", "kubeconfig "}},
		{"no token", func(k *testkit.Kubeconfig) { k.Token = "" }, []string{`User "system:anonymous" cannot list`}},
		{"no rights", func(k *testkit.Kubeconfig) { k.Token = testkit.KubernetesToken("reader") }, []string{`User "reader" cannot list`, "deploy/kubernetes/rbac.yaml"}},
		{"a wrong CA", func(k *testkit.Kubeconfig) { k.CA = other.CA }, []string{"list services", "certificate signed by unknown authority", "the certificate authority in kubeconfig "}},
		{"nobody there", func(k *testkit.Kubeconfig) { k.Server = "https://" + testkit.Nobody(t).String() }, []string{"list services", "connection refused", "the right one, and up?"}},
		{"TLS where there is none", func(k *testkit.Kubeconfig) { k.Server = strings.Replace(page.URL, "http:", "https:", 1) }, []string{"HTTP response to HTTPS client"}},
		{"a web page", func(k *testkit.Kubeconfig) { k.Server = page.URL }, []string{"list services", "is this a Kubernetes API server?"}},
		{"an answer without a revision", func(k *testkit.Kubeconfig) { k.Server = json.URL }, []string{"is this a Kubernetes API server?"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config := good
			tt.spoil(&config)
			rec, stop := run(t, Config{Kubeconfig: config.Write(t)})
			testkit.Eventually(t, within(t, 20*time.Second), "the failure is told in words", rec.FailedWith(tt.words...))
			stop()
			updates, confirms, failures := rec.All()
			if len(updates)+len(confirms) > 0 {
				t.Errorf("published %v, confirmed %v", updates, confirms)
			}
			if text := failures[0].Error(); strings.Contains(text, "\n") || strings.Contains(text, config.Token) && config.Token != "" {
				t.Errorf("the failure has a second line or the token in it: %s", text)
			}
			t.Log(failures[0])
		})
	}
}

// TestRealManyEndpointsAndHalfAList: 10 000 endpoints in one Service. The list of it is paged;
// while the second page breaks off, nothing is published.
func TestRealManyEndpointsAndHalfAList(t *testing.T) {
	const large, small = 100, 450
	srv := testkit.Kubernetes(t)
	h := handOf(t, srv)
	h.put("services", exported("default", "big", corev1.ServicePort{Name: "http", Port: 80}))
	for i := range large {
		s := bigSlice("big", i)
		s.Namespace, s.Ports[0].Protocol = "default", new(corev1.ProtocolTCP)
		h.put("endpointslices", s)
	}
	h.put("services", exported("default", "small", corev1.ServicePort{Name: "http", Port: 80}))
	for i := range small {
		name := fmt.Sprintf("small-%d", i)
		h.put("endpointslices", sliceOf("default", "small", name, 8080, pod(name, "10.200.0.1", discoveryv1.EndpointConditions{})))
	}

	front := frontOf(t, srv)
	front.broken.Store(true)
	config := srv.As(testkit.KubernetesAdmin)
	config.Server, config.CA = front.url, front.ca
	rec, _ := run(t, Config{Kubeconfig: config.Write(t)})
	testkit.Eventually(t, testkit.Context(t), "the broken page is told", rec.FailedWith("list endpointslices in all namespaces"))
	if updates, confirms, _ := rec.All(); len(updates)+len(confirms) > 0 {
		t.Errorf("half a list was published: %d updates, %d confirmations", len(updates), len(confirms))
	}
	front.broken.Store(false)
	began := time.Now()
	testkit.Eventually(t, testkit.Context(t), "all are listed", func() error { return want(rec.Instances(), large*100+small) })
	t.Logf("the full list of %d endpoints: %v", large*100+small, time.Since(began).Round(time.Millisecond))
	if updates, _, _ := rec.All(); len(updates) != 1 {
		t.Errorf("the full list came in %d updates, want 1", len(updates))
	}

	var took []time.Duration
	for i := range 20 {
		before, _, _ := rec.All()
		s := bigSlice("big", i)
		s.Namespace, s.Ports[0].Protocol = "default", new(corev1.ProtocolTCP)
		s.Endpoints[7].Conditions.Ready = new(false)
		h.put("endpointslices", s)
		written := time.Now()
		testkit.Eventually(t, within(t, 15*time.Second), "a change of one endpoint is seen", func() error {
			updates, _, _ := rec.All()
			return want(len(updates), len(before)+1)
		})
		u := rec.last()
		if u.Full || u.Explicit || len(u.Snapshots) != 1 || len(u.Snapshots[0].Instances) != 100 {
			t.Errorf("full %v, explicit %v, %d sources: want the one slice of 100", u.Full, u.Explicit, len(u.Snapshots))
		}
		times := rec.Times()
		took = append(took, max(0, times[len(times)-1].Sub(written)))
	}
	slices.Sort(took)
	t.Logf("from the API server's answer to a write until Publish: median %v, most %v", took[len(took)/2], took[len(took)-1])
}

// front is an HTTP proxy before an API server that can break every page but the first off.
type front struct {
	url    string
	ca     string // PEM file
	broken atomic.Bool
}

func frontOf(t *testing.T, srv *testkit.KubernetesServer) *front {
	t.Helper()
	to, err := url.Parse("https://" + srv.Addr)
	if err != nil {
		t.Fatal(err)
	}
	l := newLines(context.Background())
	client, err := httpClient(&rest.Config{Host: to.String(), TLSClientConfig: rest.TLSClientConfig{CAFile: srv.CA}}, l)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport:     client.Transport,
		FlushInterval: -1,
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.broken.Load() && r.URL.Query().Has("continue") {
			w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
			w.Header().Set("Content-Length", "100000")
			fmt.Fprint(w, "k8s\x00")
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		l.close()
		s.Close()
	})
	f.url, f.ca = s.URL, filepath.Join(t.TempDir(), "ca.pem")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(f.ca, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestRealRecords: Services and EndpointSlices of every kind, as a real API server takes them.
func TestRealRecords(t *testing.T) {
	srv := testkit.Kubernetes(t)
	h := handOf(t, srv)
	h.namespace("shop")
	h.namespace("quiet")
	rec, _ := run(t, Config{
		Kubeconfig: srv.Kubeconfig(t, testkit.KubernetesAdmin), ExportSelector: "dapr.io/enabled=true", ExportNamespaces: []string{"shop"},
	})
	http := corev1.ServicePort{Name: "http", Port: 80}
	plain := func(ns, name string, ports ...corev1.ServicePort) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{Ports: ports}}
	}
	ready := discoveryv1.EndpointConditions{}
	see := func(what string, lines ...string) {
		t.Helper()
		testkit.Eventually(t, testkit.Context(t), what, rec.Shows(lines...))
		h.empty("shop")
		h.empty("quiet")
		testkit.Eventually(t, testkit.Context(t), "and gone", rec.Shows())
	}

	h.put("services", plain("shop", "cart", http))
	h.put("services", plain("quiet", "cart", http))
	for _, ns := range []string{"shop", "quiet"} {
		h.put("endpointslices", sliceOf(ns, "cart", "cart", 8080, pod("cart-1", "10.1.0.1", ready)))
	}
	see("a namespace that is exported", "shop/cart/cart-1 10.1.0.1:8080 w=1 HEALTHY")

	dapr := plain("quiet", "pay-dapr",
		corev1.ServicePort{Name: "dapr-http", Port: 80}, corev1.ServicePort{Name: "dapr-grpc", Port: 50001}, corev1.ServicePort{Name: "dapr-internal", Port: 50002})
	dapr.Labels, dapr.Annotations = map[string]string{"dapr.io/enabled": "true"}, map[string]string{AppIDAnnotation: "pay"}
	dapr.Spec.ClusterIP = corev1.ClusterIPNone
	h.put("services", dapr)
	sidecar := sliceOf("quiet", "pay-dapr", "pay-dapr", 3500, pod("pay-1", "10.1.0.1", ready))
	sidecar.Ports = nil
	for _, p := range []discoveryv1.EndpointPort{{Name: new("dapr-http"), Port: new(int32(3500))}, {Name: new("dapr-internal"), Port: new(int32(50002))}} {
		p.Protocol = new(corev1.ProtocolTCP)
		sidecar.Ports = append(sidecar.Ports, p)
	}
	h.put("endpointslices", sidecar)
	see("Dapr's Service, by its label", "quiet/pay/pay-1 10.1.0.1:0 w=1 HEALTHY via 10.1.0.1:50002")

	h.put("services", plain("shop", "manual", http))
	h.put("endpointslices", sliceOf("shop", "manual", "manual", 8080, discoveryv1.Endpoint{Addresses: []string{"10.9.0.1"}}))
	named := sliceOf("shop", "manual", "manual-names", 8080, discoveryv1.Endpoint{Addresses: []string{"m.example.com"}})
	named.AddressType = discoveryv1.AddressTypeFQDN
	h.put("endpointslices", named)
	see("a Service without a selector, and names", "shop/manual/10.9.0.1:8080 10.9.0.1:8080 w=1 HEALTHY", "shop/manual/m.example.com:8080 m.example.com:8080 w=1 HEALTHY")

	external := plain("shop", "outside", http)
	external.Spec.Type, external.Spec.ExternalName = corev1.ServiceTypeExternalName, "out.example.com"
	h.put("services", external)
	see("an ExternalName", "shop/outside/out.example.com out.example.com:80 w=1 UNKNOWN")

	both := plain("shop", "both", http)
	both.Spec.IPFamilyPolicy = new(corev1.IPFamilyPolicyRequireDualStack)
	both.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}
	h.put("services", both)
	h.put("endpointslices", sliceOf("shop", "both", "both-4", 8080, pod("both-1", "10.1.0.1", ready)))
	six := sliceOf("shop", "both", "both-6", 8080, pod("both-1", "fd00::1", ready))
	six.AddressType = discoveryv1.AddressTypeIPv6
	h.put("endpointslices", six)
	see("both families are one instance", "shop/both/both-1 fd00::1:8080 w=1 HEALTHY")

	odd := plain("shop", "odd", http)
	odd.Spec.PublishNotReadyAddresses = true
	h.put("services", odd)
	h.put("endpointslices", sliceOf("shop", "odd", "odd", 70000,
		pod("twice", "10.1.0.1", conditionsOf[catalog.Draining]), pod("twice", "10.1.0.2", discoveryv1.EndpointConditions{Ready: new(true), Serving: new(false)})))
	see("nonsense is handed on for its reader to set aside", "shop/odd/twice 10.1.0.1:70000 w=1 DRAINING", "shop/odd/twice 10.1.0.2:70000 w=1 HEALTHY")
	if _, _, failures := rec.All(); len(failures) > 0 {
		t.Errorf("failures: %v", failures)
	}
}
