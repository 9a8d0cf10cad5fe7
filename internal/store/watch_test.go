package store

import (
	"errors"
	"testing"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
)

// A watch goes on from the very revision of the list: who has the second change after it has the first.
func TestTheFirstChangeAfterAListIsNotMissed(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	r := read(t, s)
	r.waitFor(t, "the list", func() error {
		if r.lists == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	key := func(node string) string {
		return s.schema.Format(keys.Key{Kind: keys.Agent, Cluster: "east", Node: node})
	}
	for _, node := range []string{"n1", "n2"} {
		if err := s.PutAgent(testkit.Context(t), &catalogv1.Agent{Cluster: "east", Node: node}); err != nil {
			t.Fatal(err)
		}
	}
	first := false
	r.waitFor(t, "the second change", func() error {
		if _, second := r.entries[key("n2")]; !second {
			return errors.New("not yet")
		}
		_, first = r.entries[key("n1")]
		return nil
	})
	if !first {
		t.Error("the second change after the list came, and the first did not")
	}
}
