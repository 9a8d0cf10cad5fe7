package keys

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { testkit.Main(m) }

func schema(t testing.TB, federation string) Schema {
	t.Helper()
	s, err := New(federation)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// golden compares got with a file that pins a released schema.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "schema", "v1", file)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := readGolden(t, file); string(got) != string(want) {
		t.Errorf("%s: the schema must not change:\ngot  %q\nwant %q", path, got, want)
	}
}

func readGolden(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "schema", "v1", file))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var everyKind = []Key{
	{Kind: Store},
	{Kind: PoliciesSynced},
	{Kind: Replica, Replica: "host-1/a"},
	{Kind: Owner, Cluster: "east"},
	{Kind: Meta, Cluster: "east"},
	{Kind: Synced, Cluster: "east"},
	{Kind: Slice, Cluster: "east", Name: catalog.Name{Namespace: "default", Service: "cart"}},
	{Kind: Slice, Cluster: "east", Name: catalog.Name{Namespace: "a/b", Service: "100% ü"}, Slice: 4294967295},
	{Kind: Slice, Cluster: "east", Name: catalog.Name{Namespace: ".", Service: ".."}, Slice: 10},
	{Kind: Agent, Cluster: "east", Node: "node-1.example."},
	{Kind: Policy, ID: "service/default/cart/*"},
	{Kind: Policy, ID: "service/a%2Fb/100%25%20%C3%BC/east,west"},
	{Kind: Policy, ID: "namespace/shop/east"},
	{Kind: Policy, ID: "cluster/east/*"},
	{Kind: Cordon, Cluster: "east", ID: "*"},
	{Kind: Cordon, Cluster: "east", ID: "default/cart"},
	{Kind: Holds, Cluster: "east"},
	{Kind: Holds, Cluster: "east", Part: 4294967295},
}

func TestKeysAreGolden(t *testing.T) {
	s := schema(t, "demo")
	var b strings.Builder
	for _, k := range everyKind {
		fmt.Fprintf(&b, "%s\n", s.Format(k))
	}
	for _, p := range []string{s.Root(), s.Clusters(), s.Cluster("east"), s.Services("east"), s.Replicas(), s.Owners(), s.Agents(), s.Policies(), s.Cordons("east"), s.Holds("east")} {
		fmt.Fprintf(&b, "prefix %s\n", p)
	}
	golden(t, "keys.golden", []byte(b.String()))
}

func TestParseIsInverseOfFormat(t *testing.T) {
	s := schema(t, "demo")
	kinds := map[Kind]bool{}
	for _, k := range everyKind {
		got, err := s.Parse(s.Format(k))
		if err != nil || got != k {
			t.Errorf("Parse(Format(%+v)) = %+v, %v", k, got, err)
		}
		kinds[k.Kind] = true
	}
	for k := Store; k <= Holds; k++ {
		if !kinds[k] {
			t.Errorf("kind %v is not among the test's keys", k)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const fed = "/farcall/v1/demo/"
	tests := []struct {
		name string
		key  string
		want error
	}{
		{"another federation", "/farcall/v1/demo2/store", ErrForeign},
		{"a federation whose name begins alike", "/farcall/v1/dem/store", ErrForeign},
		{"another version", "/farcall/v2/demo/store", ErrForeign},
		{"nothing", "", ErrForeign},
		{"the root", fed, ErrUnknown},
		{"a part of holds that is no number", fed + "clusters/east/holds/x", ErrUnknown},
		{"a part of holds that would be spelt otherwise", fed + "clusters/east/holds/01", ErrUnknown},
		{"a part of holds that is too high", fed + "clusters/east/holds/4294967296", ErrUnknown},
		{"no cordon", fed + "clusters/east/cordons/", ErrUnknown},
		{"a cordon of a cluster's name that is none", fed + "clusters/East/cordons/*", ErrUnknown},
		{"a cordon that is not escaped", fed + "clusters/east/cordons/default/c rt", ErrUnknown},
		{"no policy", fed + "policies/", ErrUnknown},
		{"a policy with an empty segment", fed + "policies/service//cart/*", ErrUnknown},
		{"a policy with a lower-case escape", fed + "policies/service/a%2fb/cart/*", ErrUnknown},
		{"something later", fed + "gossip/a", ErrUnknown},
		{"a cluster's name that is none", fed + "owners/East", ErrUnknown},
		{"no service", fed + "clusters/east/services/default//0", ErrUnknown},
		{"no slice", fed + "clusters/east/services/default/cart", ErrUnknown},
		{"a slice with a leading zero", fed + "clusters/east/services/default/cart/00", ErrUnknown},
		{"a slice with a sign", fed + "clusters/east/services/default/cart/+1", ErrUnknown},
		{"a slice above 32 bits", fed + "clusters/east/services/default/cart/4294967296", ErrUnknown},
		{"something below a slice", fed + "clusters/east/services/default/cart/0/x", ErrUnknown},
		{"an escape that was not needed", fed + "replicas/%41", ErrUnknown},
		{"a lower-case escape", fed + "replicas/a%2fb", ErrUnknown},
		{"half an escape", fed + "replicas/a%2", ErrUnknown},
		{"a space as it is", fed + "replicas/a b", ErrUnknown},
	}
	s := schema(t, "demo")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if k, err := s.Parse(tt.key); !errors.Is(err, tt.want) {
				t.Errorf("Parse(%q) = %+v, %v; want %v", tt.key, k, err, tt.want)
			}
		})
	}
}

func TestFederationIsChecked(t *testing.T) {
	for _, bad := range []string{"", "Demo", "a/b", "a.b", strings.Repeat("a", 64)} {
		if _, err := New(bad); err == nil {
			t.Errorf("New(%q) took it", bad)
		}
	}
	if _, err := (Schema{}).Parse("store"); !errors.Is(err, ErrForeign) {
		t.Errorf("the zero schema parses: %v", err)
	}
}

func TestClusterPrefixesDoNotOverlap(t *testing.T) {
	s := schema(t, "demo")
	in := s.Format(Key{Kind: Slice, Cluster: "east-1", Name: catalog.Name{Namespace: "n", Service: "s"}})
	for _, p := range []string{s.Cluster("east"), s.Services("east"), schema(t, "dem").Root()} {
		if strings.HasPrefix(in, p) {
			t.Errorf("%s is under %s", in, p)
		}
	}
	if !strings.HasPrefix(in, s.Services("east-1")) || !strings.HasPrefix(in, s.Clusters()) || !strings.HasPrefix(in, s.Root()) {
		t.Errorf("%s is not under its own prefixes", in)
	}
}

func FuzzFormatParse(f *testing.F) {
	f.Add(uint8(Slice), "east", "default", "cart", uint32(0))
	f.Add(uint8(Slice), "a-b", "a/b", "%2F", uint32(7))
	f.Add(uint8(Agent), "east", "nöde", "\x00\xff", uint32(0))
	f.Add(uint8(Replica), "", "x y", "", uint32(0))
	f.Add(uint8(Policy), "", "service/default/cart/*", "", uint32(0))
	f.Add(uint8(Cordon), "east", "a%2Fb/%25", "", uint32(0))
	f.Add(uint8(Holds), "east", "", "", uint32(3))
	f.Add(uint8(Holds), "", "", "", uint32(0))
	s := schema(f, "demo")
	f.Fuzz(func(t *testing.T, kind uint8, cluster, a, b string, n uint32) {
		k := Key{Kind: Kind(kind)}
		switch k.Kind {
		case Replica:
			k.Replica = a
		case Owner, Meta, Synced:
			k.Cluster = cluster
		case Agent:
			k.Cluster, k.Node = cluster, a
		case Slice:
			k.Cluster, k.Name, k.Slice = cluster, catalog.Name{Namespace: a, Service: b}, n
		case Holds:
			k.Cluster, k.Part = cluster, n
		case Policy:
			k.ID = a
		case Cordon:
			k.Cluster, k.ID = cluster, a
		case Store, PoliciesSynced:
		default:
			if got := s.Format(k); got != "" {
				t.Fatalf("kind %v gives %q", k.Kind, got)
			}
			return
		}
		named := true
		switch k.Kind {
		case Replica:
			named = a != ""
		case Owner, Meta, Synced, Holds:
			named = catalog.CheckClusterName(cluster) == nil
		case Agent:
			named = catalog.CheckClusterName(cluster) == nil && a != ""
		case Slice:
			named = catalog.CheckClusterName(cluster) == nil && a != "" && b != ""
		case Policy, Cordon:
			_, ok := parseID(strings.Split(a, "/"))
			named = ok && (k.Kind == Policy || catalog.CheckClusterName(cluster) == nil)
		}
		got, err := s.Parse(s.Format(k))
		if named && (err != nil || got != k) {
			t.Fatalf("Parse(Format(%+v)) = %+v, %v", k, got, err)
		}
		if !named && err == nil && got != k {
			t.Fatalf("%+v became %+v", k, got)
		}
	})
}

func FuzzParseFormat(f *testing.F) {
	s := schema(f, "demo")
	for _, k := range everyKind {
		f.Add(s.Format(k))
	}
	f.Add("/farcall/v1/demo/clusters/east/services/a%2Fb/%25/4294967295")
	f.Add("/farcall/v1/demo/clusters/east/services/a%/b/0")
	f.Fuzz(func(t *testing.T, key string) {
		k, err := s.Parse(key)
		switch {
		case err == nil && s.Format(k) != key:
			t.Fatalf("Format(Parse(%q)) = %q", key, s.Format(k))
		case err != nil && !errors.Is(err, ErrForeign) && !errors.Is(err, ErrUnknown):
			t.Fatalf("Parse(%q): %v is neither foreign nor unknown", key, err)
		}
	})
}

func TestCovers(t *testing.T) {
	marker := func(revision, restored uint64) *storev1.PoliciesSynced {
		return &storev1.PoliciesSynced{Revision: revision, Restored: restored}
	}
	for _, c := range []struct {
		name   string
		marker *storev1.PoliciesSynced
		store  string
		held   uint64
		want   bool
	}{
		{"a store that was not marked", nil, "s1", 0, false},
		{"the same store at the same revision", marker(5, 0), "s1", 5, true},
		{"the same store ahead", marker(6, 0), "s1", 5, true},
		{"the same store behind", marker(4, 4), "s1", 5, false},
		{"a new store", marker(0, 0), "s0", 5, false},
		{"a new store in which more was written meanwhile", marker(9, 0), "s0", 5, false},
		{"a new store that was told", marker(5, 5), "s0", 5, true},
		{"a new store that was told less", marker(9, 4), "s0", 5, false},
		{"nothing that is held", marker(0, 0), "s0", 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Covers("s1", c.marker, &storev1.PoliciesSynced{Store: c.store, Revision: c.held}); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
