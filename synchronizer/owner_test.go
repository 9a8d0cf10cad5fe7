package synchronizer

import (
	"strings"
	"testing"

	"github.com/farcall/farcall/internal/catalog"
)

// All of a cluster is published where that says more than the changes do, and only there: one
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
		what        string
		full, begun bool
		registries  string // those with ? unread
		want        bool
	}{
		{"the first publish of a term", false, false, "a b?", true},
		{"one registry stays away", false, true, "a b?", false},
		{"all are back", false, true, "a b", true},
		{"all was published in full", true, true, "a b", false},
		{"a new one is unread", true, true, "a b c?", false},
	} {
		o := &owner{full: c.full, begun: c.begun}
		if got := o.all(work(c.registries)); got != c.want {
			t.Errorf("%s: %t", c.what, got)
		}
	}
}
