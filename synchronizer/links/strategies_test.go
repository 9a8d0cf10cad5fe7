package links

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
)

// inForce compares the strategies of the link consul: "default/cart=any".
func (w *world) inForce(what string, want ...string) {
	w.t.Helper()
	synctest.Wait()
	for _, st := range w.in.Status() {
		var got []string
		for _, n := range slices.SortedFunc(maps.Keys(st.Strategies), catalog.Name.Compare) {
			got = append(got, n.String()+"="+st.Strategies[n])
		}
		if st.Name == "consul" && !slices.Equal(got, want) {
			w.t.Errorf("%s: in force is %v, want %v; %s", what, got, want, st.SetAsides)
		}
	}
}

// stating is a source that lists cart with a strategy, and these instances.
func stating(kind string, ids ...string) *feedv1.Snapshot {
	s := snapshot("cart", ids)
	s.Services = []*feedv1.ServiceName{{Namespace: "default", Service: "cart", Strategy: kind}}
	return s
}

// What an agent says of strategies is one of its link's, over hand-overs, and only words that are
// one count: any agent may be of another version, or be lying.
func TestStrategiesOfALink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		a, b := join(t, w.c, "node-a", "consul"), join(t, w.c, "node-b", "consul")
		say := func(x *agent, kind string, ids ...string) {
			x.change(func() {
				l := x.links["consul"]
				l.full = func() []*feedv1.Snapshot { return []*feedv1.Snapshot{stating(kind, ids...)} }
				l.queued = append(l.queued, &feedv1.Contribution{Snapshots: l.full()})
			})
			synctest.Wait()
		}
		say(a, "local-only")
		say(b, "local-only")
		w.inForce("without an instance", "default/cart=local-only")
		w.watch()
		a.stop()
		pass(time.Second)
		if r := w.c.Reporter("consul"); r != "node-b" {
			t.Fatalf("%q reports, want node-b", r)
		}
		w.inForce("after the hand-over", "default/cart=local-only")
		say(b, "remote", "x")
		w.inForce("an alias", "default/cart=external-first")
		say(b, "Local-Only", "x")
		w.inForce("a word that is none")
		w.wants("the service stays", "x@consul")
		for _, st := range w.in.Status() {
			if st.SetAside != 1 || !strings.Contains(st.SetAsides, `default/cart: unknown strategy "Local-Only": did you mean "local-only"`) {
				t.Errorf("set aside are %d: %s", st.SetAside, st.SetAsides)
			}
		}
		say(b, "", "x")
		w.inForce("none")
	})
}
