package face

import (
	"slices"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/internal/catalog"
)

// FuzzProxiedMetadata gives the metadata of proxied gRPC calls to the faces for applications and
// sidecars. A call selects one application: the one that is looked up is the one that the callee is
// told, and nothing that the caller says of itself goes along.
func FuzzProxiedMetadata(f *testing.F) {
	for _, s := range []struct{ app, callee, later, ns, key, value string }{
		{"cart", "", "", "shop", "x-a", "1"},
		{"", "cart", "", "", "x-some-bin", "\x00\xff"},
		{"", "other", "cart.prod", "shop", "farcall-hop", "1"},
		{"cart", "other", "third", "shop", "dapr-caller-app-id", "admin"},
		{"shop/cart", "", "", "", "dapr-app-id", "other"},
		{"a.b.c", "cart", "", "", "dapr_caller_app_id", "admin"},
		{"", "", "", "", "farcall-target", "a/b/c/d"},
		{"cart", "", "", "", "destination-app-id", "other"},
		{"cart", "", "", "", "grpc-timeout", "1S"},
		{"cart", "", "", "", "host", "elsewhere"},
		{" cart", "cart\x00", "", "", "dapr-caller-namespace", "kube-system"},
	} {
		f.Add(s.app, s.callee, s.later, s.ns, s.key, s.value)
	}
	from := newWho(invoke.Identity{AppID: "web", Namespace: "shop"})
	f.Fuzz(func(t *testing.T, app, callee, later, ns, key, value string) {
		if !invoke.ValidMetadataKey(key) {
			return // gRPC refuses it
		}
		md := metadata.MD{key: {value}}
		for _, kv := range [][2]string{{invoke.DaprAppID, app}, {invoke.CalleeAppID, callee}, {invoke.CalleeAppID, later}} {
			if kv[1] != "" {
				md.Append(kv[0], kv[1])
			}
		}
		// The first dapr-app-id, else the last dapr-callee-app-id.
		want := ""
		if v := md[invoke.CalleeAppID]; len(v) > 0 {
			want = v[len(v)-1]
		}
		if v := md[invoke.DaprAppID]; len(v) > 0 {
			want = v[0]
		}
		p := &proxied{caller: &caller{}, md: md, method: "/a.B/C"}
		q, e := p.query(ns)
		name, err := catalog.ParseName(want, ns)
		if (e == nil) != (err == nil && want != "") || e == nil && q.Name != name {
			t.Fatalf("%v in %q: %v, %v; want %v, %v", md, ns, q.Name, e, name, err)
		}
		if e != nil {
			return
		}
		h := p.header(from, q.Name.Service)
		if !slices.Equal(h[invoke.CalleeAppID], []string{name.Service}) || !slices.Equal(h[invoke.CallerAppID], from.appID) || !slices.Equal(h[invoke.CallerNamespace], from.namespace) {
			t.Fatalf("%v calls %s, and says %v", md, name, h)
		}
		for k, v := range h {
			if invoke.ClaimsIdentity(k) && k != invoke.CalleeAppID && k != invoke.CallerAppID && k != invoke.CallerNamespace || k[0] == ':' {
				t.Fatalf("%s: %q went along", k, v)
			}
		}
	})
}
