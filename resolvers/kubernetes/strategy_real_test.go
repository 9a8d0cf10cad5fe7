//go:build real

package kubernetes

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

// TestRealStrategyAnnotation: it follows the annotation of a Service, whether there are Pods or
// not, and over a full read.
func TestRealStrategyAnnotation(t *testing.T) {
	srv := testkit.Kubernetes(t)
	h := handOf(t, srv)
	h.namespace("shop")
	config := Config{Kubeconfig: srv.Kubeconfig(t, testkit.KubernetesAdmin)}
	rec, stop := run(t, config)
	put := func(strategy string) {
		t.Helper()
		s := exported("shop", "cart", corev1.ServicePort{Name: "http", Port: 80})
		if strategy != "" {
			s.Annotations[StrategyAnnotation] = strategy
		}
		h.put("services", s)
	}
	see := func(what string, lines ...string) {
		t.Helper()
		testkit.Eventually(t, testkit.Context(t), what, rec.Shows(lines...))
	}

	put("local-only")
	see("a Service without Pods", "shop/cart = local-only")
	h.put("endpointslices", sliceOf("shop", "cart", "cart-1", 8080, pod("cart-1", "10.1.0.1", discoveryv1.EndpointConditions{})))
	see("with one", "shop/cart = local-only", "shop/cart/cart-1 10.1.0.1:8080 w=1 HEALTHY")
	put("remote")
	see("an alias", "shop/cart = external-first", "shop/cart/cart-1 10.1.0.1:8080 w=1 HEALTHY")
	h.dropSlices("shop", discoveryv1.LabelServiceName+"=cart")
	see("the Pods are gone, the Service says on what it did", "shop/cart = external-first")

	stop()
	rec, stop = run(t, config)
	see("a full read", "shop/cart = external-first")

	put("Local-Only")
	see("a word that is none counts for nobody")
	testkit.Eventually(t, testkit.Context(t), "and that is said", func() error {
		updates, _, _ := rec.All()
		var last catalog.Snapshot
		for _, u := range updates {
			for _, s := range u.Snapshots {
				if s.Source == "service/shop/cart" {
					last = s
				}
			}
		}
		if len(last.SetAside) != 1 || len(last.Services) != 1 || "aside "+last.SetAside[0].String() != unknownWord {
			return fmt.Errorf("the Service is told as %+v", last)
		}
		return nil
	})
	put("any")
	see("a word that is one", "shop/cart = any")
	put("")
	see("the annotation is taken away")
	put("any")
	see("and comes again", "shop/cart = any")
	h.drop("services", "shop", "cart")
	see("the Service is deleted")
	if _, _, failures := rec.All(); len(failures) > 0 {
		t.Errorf("failures: %v", failures)
	}
	stop()
}
