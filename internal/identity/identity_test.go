package identity_test

import (
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/identity"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		uri  string
		want identity.ID
	}{
		{"spiffe://example.org/synchronizer/main", identity.ID{TrustDomain: "example.org", Role: identity.Synchronizer, Name: "main"}},
		{"spiffe://example.org/cluster/east/agent/node-1.lan", identity.AgentID("example.org", "east", "node-1.lan")},
		{"spiffe://example.org/user/alice", identity.ID{TrustDomain: "example.org", Role: identity.User, Name: "alice"}},
	} {
		got, err := identity.Parse(c.uri)
		if err != nil || got != c.want || got.String() != c.uri || got.Check() != nil {
			t.Errorf("%s: %+v %v, want %+v", c.uri, got, err, c.want)
		}
	}
	for _, uri := range []string{
		"", "x", "https://example.org/synchronizer/main", "spiffe://example.org", "spiffe://example.org/", "spiffe://example.org/synchronizer",
		"spiffe://example.org/synchronizer/", "spiffe://example.org/synchronizer/a/b", "spiffe://example.org/agent/a",
		"spiffe://example.org/cluster/east/agent", "spiffe://example.org/cluster/east/agent/", "spiffe://example.org/cluster/East/agent/n",
		"spiffe://example.org/cluster/e.e/agent/n", "spiffe://example.org/cluster/east/agent/../x", "spiffe://example.org/cluster/east/agent/a%2Fb",
		"spiffe://example.org/cluster/east/agent/n/more", "spiffe://example.org/cluster/east/sync/n", "spiffe://Example.org/user/x",
		"spiffe://example.org/user/x?y=z", "spiffe://example.org/user/x#y", "spiffe://e:1/user/x", "spiffe:///user/x",
		"spiffe://example.org/user/" + strings.Repeat("a", 254),
	} {
		if id, err := identity.Parse(uri); err == nil {
			t.Errorf("%.60q passed for %+v", uri, id)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"spiffe://example.org/cluster/east/agent/node-1", "spiffe://a/user/b", "spiffe://a/synchronizer/..", "spiffe:///x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := identity.Parse(s); err == nil {
			if back, err := identity.Parse(id.String()); err != nil || back != id || id.Check() != nil {
				t.Errorf("%q: %+v came back as %+v, %v", s, id, back, err)
			}
		}
	})
}
