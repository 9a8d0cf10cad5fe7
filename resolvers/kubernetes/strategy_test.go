package kubernetes

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/farcall/farcall/strategy"
)

// annotated makes a Service shop/cart with a strategy, and perhaps another word on its export.
func annotated(strategy string, export ...string) *corev1.Service {
	return svc("cart", func(s *corev1.Service) {
		s.Annotations[StrategyAnnotation] = strategy
		for _, word := range export {
			s.Annotations[ExportAnnotation] = word
		}
	})
}

const unknownWord = `aside shop/cart: annotation farcall.io/strategy: unknown strategy "Local-Only": did you mean "local-only"? Accepted are ` +
	`local-first, external-first, broadcast, local-only, external-only, any; also active-active (any), none (any), local (local-first), remote (external-first)`

const ofNobody = "aside shop/cart: annotation farcall.io/strategy counts for nobody: the Service is not exported"

func TestStrategyAnnotation(t *testing.T) {
	play(t, newLedger(rule{}), []step{
		{"a Service without a Pod", func(l *ledger) { l.take(annotated("local-only")) }, []string{"service/shop/cart: [shop/cart] = local-only"}},
		{"it gets one", func(l *ledger) { l.take(slc("cart", "cart-1", "a@10.0.0.1")) }, []string{
			"endpointslice/shop/cart-1: shop/cart/a 10.0.0.1:8080 HEALTHY",
		}},
		{"another word, an alias", func(l *ledger) { l.take(annotated("remote")) }, []string{"service/shop/cart: [shop/cart] = external-first"}},
		{"the same in its own word", func(l *ledger) { l.take(annotated("external-first")) }, nil},
		{"a word that is none", func(l *ledger) { l.take(annotated("Local-Only")) }, []string{"service/shop/cart: [shop/cart] " + unknownWord}},
		{"the last Pod goes meanwhile", func(l *ledger) { l.take(slc("cart", "cart-1")) }, []string{"!endpointslice/shop/cart-1:"}},
		{"a word that is one", func(l *ledger) { l.take(annotated("any")) }, []string{"service/shop/cart: [shop/cart] = any"}},
		{"it is taken away", func(l *ledger) { l.take(svc("cart")) }, []string{"service/shop/cart: [shop/cart]"}},
		{"the Service goes, with another", func(l *ledger) { l.take(annotated("any")); told(l); l.drop(svc("cart")) }, []string{
			"!service/shop/cart:", "!endpointslice/shop/cart-1:",
		}},
	})
}

// What a Service says about strategies does not make another thing of what it says otherwise: who
// opts out does so on purpose.
func TestStrategyOfAServiceThatIsNotExported(t *testing.T) {
	play(t, newLedger(rule{}), []step{
		{"a Service that is not exported", func(l *ledger) {
			l.take(annotated("any", "false"))
			l.take(slc("cart", "cart-1", "a@10.0.0.1"))
		}, []string{"service/shop/cart: " + ofNobody}},
		{"it opts in", func(l *ledger) { l.take(annotated("any")) }, []string{
			"service/shop/cart: [shop/cart] = any", "endpointslice/shop/cart-1: shop/cart/a 10.0.0.1:8080 HEALTHY",
		}},
		{"it opts out", func(l *ledger) { l.take(annotated("any", "false")) }, []string{
			"!service/shop/cart: " + ofNobody, "!endpointslice/shop/cart-1:",
		}},
		{"in a word that is none", func(l *ledger) { l.take(annotated("any")); told(l); l.take(annotated("any", "no")) }, []string{
			`service/shop/cart: aside shop/cart: annotation farcall.io/export is "no": want "true" or "false" ` + ofNobody, "endpointslice/shop/cart-1:",
		}},
		{"and in one that is", func(l *ledger) { l.take(annotated("any", "false")) }, []string{
			"!service/shop/cart: " + ofNobody, "!endpointslice/shop/cart-1:",
		}},
		{"without the strategy", func(l *ledger) {
			l.take(svc("cart", func(s *corev1.Service) { s.Annotations[ExportAnnotation] = "false" }))
		}, []string{"service/shop/cart:"}},
		{"a bad word, and it opts out", func(l *ledger) {
			l.take(annotated("Local-Only"))
			told(l)
			l.take(annotated("Local-Only", "false"))
		}, []string{"!service/shop/cart: " + unknownWord, "!endpointslice/shop/cart-1:"}},
		{"it is deleted", func(l *ledger) { l.drop(svc("cart")) }, []string{"!service/shop/cart:", "!endpointslice/shop/cart-1:"}},
	})
}

// A full read tells the strategies again, and the Services that only have one that does not count.
func TestStrategiesInAFullRead(t *testing.T) {
	l := newLedger(rule{})
	l.take(annotated("local-only"))
	l.take(svc("order", func(s *corev1.Service) {
		s.Annotations = map[string]string{StrategyAnnotation: "any"}
	}))
	var got []string
	for _, s := range l.everything() {
		for n, kind := range s.Strategies {
			got = append(got, n.String()+"="+kind)
		}
		for _, a := range s.SetAside {
			got = append(got, a.Record)
		}
	}
	if s := strings.Join(got, " "); s != "shop/cart=local-only shop/order" {
		t.Errorf("it tells %s", s)
	}
}

// The annotation is one of the words that people write; it takes them all.
func TestEveryStrategyCanBeAnnotated(t *testing.T) {
	for _, kind := range []strategy.Kind{
		strategy.LocalFirst, strategy.ExternalFirst, strategy.Broadcast, strategy.LocalOnly, strategy.ExternalOnly, strategy.Any,
	} {
		if s := (rule{}).read(annotated(string(kind))); s.strategy != string(kind) {
			t.Errorf("%s is read as %q", kind, s.strategy)
		}
	}
}
