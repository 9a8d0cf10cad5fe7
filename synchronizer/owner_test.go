package synchronizer

import (
	"fmt"
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/resolvers/intake"
)

// all of a cluster is published where that says more than the changes do, and only there: one
// registry that stays away must not make every change cost what the cluster holds.
func TestWhenAllIsPublished(t *testing.T) {
	work := func(words string) work {
		var w work
		w.complete = true
		for _, name := range strings.Fields(words) {
			name, unread := strings.CutSuffix(name, "?")
			w.registries = append(w.registries, catalog.RegistryStatus{Name: name, Complete: !unread})
			w.complete = w.complete && !unread
		}
		return w
	}
	for _, c := range []struct {
		what          string
		full          bool
		before, after string // the registries, those with ? unread; before "" nothing was published
		want          bool
	}{
		{"the first publish of a term", false, "", "a b?", true},
		{"one registry stays away", false, "a b?", "a b?", false},
		{"one of two is back", false, "a? b?", "a b?", true},
		{"one came that is unread", false, "a b?", "a b? c?", true},
		{"all are back", false, "a b?", "a b", true},
		{"complete for the first time", false, "a b", "a b", true},
		{"all was published in full", true, "a b", "a b", false},
		{"a new one is unread", true, "a b", "a b c?", false},
	} {
		o := &owner{full: c.full}
		if c.before != "" {
			o.partly = work(c.before).unread()
		}
		if got := o.all(work(c.after)); got != c.want {
			t.Errorf("%s: %t", c.what, got)
		}
	}
}

func TestKeepUnread(t *testing.T) {
	list := func(words string) []*catalog.Instance {
		var out []*catalog.Instance
		for _, w := range strings.Fields(words) {
			id, registry, _ := strings.Cut(w, "@")
			out = append(out, &catalog.Instance{ID: catalog.ID{Cluster: "edge", Name: catalog.Name{Namespace: "default", Service: "cart"}, Instance: id}, Registry: registry})
		}
		return out
	}
	for _, c := range []struct {
		what, read string
		gone       bool // as it was read
		held, want string
		known      bool // to the store
		wantGone   bool
	}{
		{what: "of the unread one all stays", read: "b@read", held: "a@unread b@read c@unread", known: true, want: "a@unread b@read c@unread"},
		{what: "of the one that was read what it says", read: "b@read", held: "a@read b@read", known: true, want: "b@read"},
		{what: "what another lists by now is its", read: "a@read", held: "a@unread", known: true, want: "a@read"},
		{what: "nobody read lists it", gone: true, held: "a@unread", known: true, want: "a@unread"},
		{what: "an empty one stays", gone: true, known: true},
		{what: "nobody ever knew it", gone: true, wantGone: true},
	} {
		l := keepUnread(intake.List{Instances: list(c.read), Gone: c.gone}, list(c.held), c.known, map[string]struct{}{"unread": {}})
		var got []string
		for _, i := range l.Instances {
			got = append(got, i.Instance+"@"+i.Registry)
		}
		if g := strings.Join(got, " "); g != c.want || l.Gone != c.wantGone {
			t.Errorf("%s: %q, gone %t", c.what, g, l.Gone)
		}
	}
}

// BenchmarkKeepUnread is one change of a service half of which an unread registry lists.
func BenchmarkKeepUnread(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var read, held []*catalog.Instance
			for at := range n {
				i := &catalog.Instance{ID: catalog.ID{Cluster: "edge", Name: catalog.Name{Namespace: "default", Service: "cart"}, Instance: fmt.Sprintf("i%06d", at)}, Registry: "read"}
				if at%2 == 0 {
					i.Registry = "unread"
				} else {
					read = append(read, i)
				}
				held = append(held, i)
			}
			for b.Loop() {
				if l := keepUnread(intake.List{Instances: read}, held, true, map[string]struct{}{"unread": {}}); len(l.Instances) != n {
					b.Fatal(len(l.Instances))
				}
			}
		})
	}
}
