package links

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// A link whose agents are gone is told of while the store holds something of it, and goes by a person's
// word, others beside it not; with its agent it is back.
func TestAbandonedLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		a, b := join(t, w.c, "node-1", "m"), join(t, w.c, "node-2", "n", "empty")
		a.lists("m", "x")
		b.lists("n", "1", "2", "3", "4", "5", "6", "7")
		pass(time.Second)
		told := func(what, want string) {
			t.Helper()
			synctest.Wait()
			var got []string
			for _, l := range w.c.Abandoned(time.Now()) {
				got = append(got, fmt.Sprintf("%s@%s %d %s", l.Name, l.Reporter, l.Instances, l.Until.Sub(l.Since)))
			}
			if g := strings.Join(got, " "); g != want {
				t.Errorf("%s: abandoned is %q, want %q", what, g, want)
			}
		}
		all := func(string) bool { return true }
		w.mu.Lock()
		for _, l := range w.lists {
			w.stored = append(w.stored, l.Instances...)
		}
		w.mu.Unlock()
		told("all are reported", "")
		b.stop()
		pass(5 * time.Second)
		told("for a moment", "")
		if dropped := w.c.Drop(time.Now(), all); dropped != nil {
			t.Errorf("dropped is %v", dropped)
		}
		pass(6 * time.Second)
		told("gone", "n@node-2 7 24h0m0s")
		if dropped := w.c.Drop(time.Now(), func(n string) bool { return n == "m" || n == "n" }); fmt.Sprint(dropped) != "[n]" {
			t.Errorf("dropped is %v", dropped)
		}
		w.mu.Lock()
		w.stored = []*catalog.Instance{}
		w.mu.Unlock()
		told("dropped", "")
		w.wants("it is gone, and the other is not", "x@m")
		join(t, w.c, "node-2", "n").lists("n", "1")
		pass(time.Second)
		w.wants("with its agent it is back", "1@n x@m")
	})
}
