package synchronizer

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/testkit"
)

// of a cluster: its list, and what describes it, but not who lives.
func ofCluster(name string) func(*store.Entry) bool {
	return func(e *store.Entry) bool { return strings.Contains(e.Key, "/clusters/"+name+"/") }
}

// Who takes a cluster over whose mirror has not come to what the owner before wrote goes by what the
// store holds: links that nobody reports any more are kept as links, and not taken back as registries
// that nobody reads.
func TestATakeOverGoesByTheStoreWhereTheMirrorLags(t *testing.T) {
	dir := t.TempDir()
	r := edge(t, dir)
	ctx := testkit.Context(t)
	a := r.contribute(t, "node-a", map[string][]string{"consul": {"c1"}})
	b := r.contribute(t, "node-b", map[string][]string{"file@node-b": {"b1", "b2"}})
	r.lists(t, edges("b1", "b2", "c1"))
	r.registryOf(t, "file@node-b", "its reporter is in the store", func(s *storev1.RegistryStatus) bool { return s.GetReporter() == "node-b" })
	a.leave()
	b.leave()
	r.stop()

	r, sink, _ := startLosing(t, dir, ofCluster("edge"), map[string][]*registry{"edge": nil})
	testkit.Eventually(t, ctx, "the links are known, and who reported them", func() error {
		if got := r.s.links["edge"].Reporter("file@node-b"); got != "node-b" {
			return fmt.Errorf("it is reported by %q", got)
		}
		return nil
	})
	if len(r.s.mirror.Names("edge")) > 0 || sink.losses() == 0 {
		t.Fatal("the mirror does not lag")
	}
	r.contribute(t, "node-a", map[string][]string{"consul": {"c1", "c2"}})
	testkit.Eventually(t, ctx, "it is read as far as can be", func() error {
		for _, st := range r.s.intakes["edge"].Status() {
			switch {
			case st.Name == "file@node-b" && (st.Instances != 2 || st.LastError != "no agent reports it; node-b did last"):
				return fmt.Errorf("%+v", st)
			case st.Name == "consul" && st.Instances != 2:
				return fmt.Errorf("%+v", st)
			}
		}
		return nil
	})
	sink.set(nil)
	r.s.store.Doubt()
	r.lists(t, edges("b1", "b2", "c1", "c2"))
	r.registryOf(t, "file@node-b", "it is described as it was", func(s *storev1.RegistryStatus) bool {
		return s.GetReporter() == "node-b" && s.GetLastError() == "no agent reports it; node-b did last" && s.GetInstances() == 2
	})
}

// A service that the store has as confirmed empty does not become unknown because the mirror has not
// heard of it: one of its registries was not read yet.
func TestAnEmptyServiceStaysWhereTheMirrorLags(t *testing.T) {
	dir := t.TempDir()
	ctx := testkit.Context(t)
	one, two := newRegistry("a"), newRegistry()
	one.nameless = true
	r := start(t, dir, map[string][]*registry{"east": {one, two}})
	r.lists(t, "east/a")
	r.stop()

	two.fail(errors.New("no route to registry"))
	r, sink, _ := startLosing(t, dir, ofCluster("east"), map[string][]*registry{"east": {one, two}})
	testkit.Eventually(t, ctx, "the first is read", func() error {
		if st := r.s.intakes["east"].Status()[0]; !st.Complete || sink.losses() == 0 {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	one.set() // explicitly, and names no service any more
	testkit.Eventually(t, ctx, "the store has the removal", func() error {
		if st := r.s.intakes["east"].Status()[0]; st.Services > 0 || !r.s.tables["east"].clean() {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	sink.set(nil)
	r.s.store.Doubt()
	testkit.Eventually(t, ctx, "the service is empty, and known", func() error {
		if list, known := r.s.mirror.Instances("east", catalog.Name{Namespace: "default", Service: "cart"}); !known || len(list) > 0 {
			return fmt.Errorf("%v %v", list, known)
		}
		return nil
	})
}
