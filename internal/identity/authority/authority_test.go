package authority

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/identity"
)

// What an authority wrote it is read from again, and what is not one is refused in words.
func TestLoad(t *testing.T) {
	a, err := New("example.org", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := a.PEM()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Load(cert, key)
	if err != nil || back.TrustDomain() != "example.org" || !back.NotAfter().Equal(a.NotAfter()) {
		t.Fatalf("read back as %v: %v", back, err)
	}
	leaf, leafKey, err := back.Issue(identity.AgentID("example.org", "east", "node-1"), time.Now(), 2*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	other, err := New("example.org", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	_, otherKey, err := other.PEM()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		cert, key []byte
		want      string
	}{
		{"nothing", nil, nil, "want a certificate and a PKCS #8 key in PEM"},
		{"half a certificate", cert[:len(cert)/2], key, "want a certificate"},
		{"another's key", cert, otherKey, "the key is not the certificate's"},
		{"a leaf", leaf, leafKey, "not that of a trust domain's authority"},
		{"swapped", key, cert, "want a certificate"},
		{"no certificate inside", bytes.Replace(key, []byte("PRIVATE KEY"), []byte("CERTIFICATE"), 2), key, "x509"},
	} {
		if _, err := Load(c.cert, c.key); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// An authority signs for its own trust domain and for identities that there are.
func TestIssueRefuses(t *testing.T) {
	a, err := New("example.org", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []identity.ID{
		{},
		identity.AgentID("example.com", "east", "node-1"),
		identity.AgentID("example.org", "East", "node-1"),
		identity.AgentID("example.org", "east", "node 1"),
		identity.AgentID("example.org", "east", "a/b"),
		identity.AgentID("example.org", "east", ""),
		{TrustDomain: "example.org", Role: "root", Name: "x"},
		{TrustDomain: "example.org", Role: identity.User, Cluster: "east", Name: "x"},
	} {
		if _, _, err := a.Issue(id, time.Now(), time.Hour); err == nil {
			t.Errorf("%+v was issued", id)
		}
	}
	for _, domain := range []string{"", "Example.org", "a b", "spiffe://x", "x/y"} {
		if _, err := New(domain, time.Now(), time.Hour); err == nil {
			t.Errorf("%q was taken for a trust domain", domain)
		}
	}
}
