package file

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers"
	"github.com/farcall/farcall/resolvers/resolvertest"
)

func TestConformance(t *testing.T) {
	resolvertest.Run(t, func(t *testing.T) *resolvertest.Registry {
		f := &edited{path: filepath.Join(t.TempDir(), "registry.yaml"), services: map[string]map[string]catalog.Instance{}}
		f.write(t)
		return &resolvertest.Registry{
			Resolver: func(t testing.TB) resolvers.Resolver { return newResolver(t, f.path) },
			Put: func(t testing.TB, in catalog.Instance) {
				if f.services[in.Service] == nil {
					f.services[in.Service] = map[string]catalog.Instance{}
				}
				f.services[in.Service][in.Instance] = in
				f.write(t)
			},
			Remove: func(t testing.TB, id catalog.ID) {
				delete(f.services[id.Service], id.Instance)
				if len(f.services[id.Service]) == 0 {
					delete(f.services, id.Service)
				}
				f.write(t)
			},
			Empty: func(t testing.TB, service string) {
				f.services[service] = map[string]catalog.Instance{}
				f.write(t)
			},
			Break: func(t testing.TB) func() {
				f.broken = true
				if err := os.Remove(f.path); err != nil {
					t.Fatal(err)
				}
				return func() { f.broken = false; f.write(t) }
			},
			Healths:  []catalog.Health{catalog.Unknown, catalog.Healthy, catalog.Unhealthy, catalog.Draining, catalog.Disabled},
			Explicit: true,
			Within:   2 * time.Second,
		}
	})
}

// edited is a registry file that is written in place and renamed over by turns.
type edited struct {
	path     string
	services map[string]map[string]catalog.Instance
	broken   bool
	writes   int
}

func (f *edited) write(t testing.TB) {
	t.Helper()
	if f.broken {
		return
	}
	var b strings.Builder
	b.WriteString("services:")
	if len(f.services) == 0 {
		b.WriteString(" []")
	}
	for _, name := range slices.Sorted(maps.Keys(f.services)) {
		fmt.Fprintf(&b, "\n- name: %s\n  instances: [", name)
		for _, in := range f.services[name] {
			fmt.Fprintf(&b, "{id: %s, address: %s, port: %d, health: %s},", in.Instance, in.Address, in.Port, in.Health)
		}
		b.WriteString("]")
	}
	if f.writes++; f.writes%2 == 0 {
		put(t, f.path, b.String())
	} else {
		rename(t, f.path, b.String())
	}
}

func put(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func rename(t testing.TB, path, content string) {
	t.Helper()
	put(t, path+".new", content)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func newResolver(t testing.TB, path string) *Resolver {
	t.Helper()
	r, err := New(Config{Path: path}, Deps{Log: testkit.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// told is a Sink that remembers.
type told struct {
	mu       sync.Mutex
	last     catalog.Update
	updates  int
	confirms int
	failures int
	err      error // nil once something good came after it
}

func (s *told) Publish(u catalog.Update) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last, s.err = u, nil
	s.updates++
}

func (s *told) Confirm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = nil
	s.confirms++
}

func (s *told) Failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	s.failures++
}

func (s *told) counts() (updates, confirms, failures int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.updates, s.confirms, s.failures
}

func (s *told) lists(t testing.TB, want string) {
	t.Helper()
	testkit.Eventually(t, testkit.Context(t), "the file is read", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if got := golden(s.last.Snapshots); s.updates == 0 || got != want {
			return fmt.Errorf("it lists %q after %d updates, want %q; the error is %v", got, s.updates, want, s.err)
		}
		return nil
	})
}

func (s *told) says(t testing.TB, want string) {
	t.Helper()
	testkit.Eventually(t, testkit.Context(t), "the failure is told", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.err == nil || !strings.Contains(s.err.Error(), want) {
			return fmt.Errorf("it says %v, want %q", s.err, want)
		}
		return nil
	})
}

func run(t *testing.T, path string) *told {
	t.Helper()
	r, s := newResolver(t, path), &told{}
	testkit.Go(t, "the resolver", func(ctx context.Context) error { return r.Run(ctx, s) })
	return s
}

const oneCart = "services: [{name: cart, instances: [{id: a, address: 10.0.0.1, port: 80}]}]\n"

func TestABadEditLeavesTheLastList(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.yaml")
	put(t, path, oneCart)
	s := run(t, path)
	s.lists(t, "/cart a:80")
	for _, tt := range []struct {
		name string
		edit func()
		want string
	}{
		{"missing", func() { os.Remove(path) }, "no such file"},
		{"empty", func() { put(t, path, "") }, path + ": the file is empty"},
		{"no services key", func() { put(t, path, "{}\n") }, path + ":1: no services key"},
		{"a parse error", func() { rename(t, path, "services:\n  - [}\n") }, path + ":2: not YAML"},
		{"a folder", func() {
			os.Remove(path)
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "not a regular file"},
		{"too large", func() {
			os.Remove(path)
			put(t, path, "")
			if err := os.Truncate(path, maxBytes+1); err != nil {
				t.Fatal(err)
			}
		}, "more than 67108864 are not read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before, _, _ := s.counts()
			tt.edit()
			s.says(t, tt.want)
			if after, _, _ := s.counts(); after != before {
				t.Errorf("%d lists were published of a bad edit", after-before)
			}
		})
	}
	rename(t, path, "services: []\n")
	s.lists(t, "")
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.last.Full || !s.last.Explicit || s.last.Revision == "" {
		t.Errorf("the update is %+v, want it full, explicit and with a revision", s.last)
	}
}

// Kubernetes mounts a ConfigMap as links that are swapped: the file's own name never changes.
func TestASymbolicLinkThatIsSwappedIsFollowed(t *testing.T) {
	dir := t.TempDir()
	link := func(target, name string) {
		t.Helper()
		tmp := filepath.Join(dir, "tmp")
		if err := os.Symlink(target, tmp); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, version := range []string{"v1", "v2"} {
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	put(t, filepath.Join(dir, "v1", "registry.yaml"), oneCart)
	put(t, filepath.Join(dir, "v2", "registry.yaml"), strings.Replace(oneCart, "80", "81", 1))
	link("v1", "..data")
	link(filepath.Join("..data", "registry.yaml"), "registry.yaml")
	s := run(t, filepath.Join(dir, "registry.yaml"))
	s.lists(t, "/cart a:80")
	link("v2", "..data")
	s.lists(t, "/cart a:81")
}

func TestAFileThatIsStillWrittenIsNotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.yaml")
	put(t, path, oneCart)
	r := newResolver(t, path)
	look := func() string {
		u, changed, err := r.look(t.Context())
		return fmt.Sprintf("%s %t %v", golden(u.Snapshots), changed, err)
	}
	at := time.Now().Add(-time.Hour)
	touch := func() {
		at = at.Add(time.Second)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	for i, tt := range []struct {
		before func()
		want   string
	}{
		{touch, " false not settled yet"},
		{touch, " false not settled yet"},
		{func() {}, "/cart a:80 true <nil>"},
		{func() {}, " false <nil>"},
		{func() { put(t, path, "services:"); touch() }, " false not settled yet"},
		{func() { put(t, path, "services: []"); touch() }, " false not settled yet"},
		{func() { rename(t, path, oneCart); touch() }, " false not settled yet"},
		{func() {}, "/cart a:80 true <nil>"},
		{func() { put(t, path, "services: {}"); touch() }, " false not settled yet"},
		{func() {}, " false file: " + path + ":1: services: want a list, got a mapping; write [] for none"},
		{func() {}, " false file: " + path + ":1: services: want a list, got a mapping; write [] for none"},
	} {
		tt.before()
		if got := look(); got != tt.want {
			t.Fatalf("look %d gives %q, want %q", i, got, tt.want)
		}
	}
}

// Most edits are: a machine that is busy with other things may be late with one.
func TestAnEditIsReadWithinHalfASecond(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.yaml")
	put(t, path, oneCart)
	s := run(t, path)
	s.lists(t, "/cart a:80")
	took := time.Duration(0)
	for port := 81; port < 99; port++ {
		began := time.Now()
		put(t, path, strings.Replace(oneCart, "80", fmt.Sprint(port), 1))
		s.lists(t, fmt.Sprint("/cart a:", port))
		if took = time.Since(began); took <= 500*time.Millisecond {
			return
		}
	}
	t.Errorf("no edit was published in time, the last after %v", took)
}

func TestNewWantsAPath(t *testing.T) {
	if _, err := New(Config{}, Deps{Log: testkit.Quiet()}); err == nil {
		t.Error("an empty path is accepted")
	}
}
