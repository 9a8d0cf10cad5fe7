package synchronizer

import (
	"errors"
	"fmt"
	"maps"
	"testing"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// wantStrategies waits until the store has these of the cluster's only registry.
func (r *replica) wantStrategies(t *testing.T, what string, want map[string]string) {
	t.Helper()
	testkit.Eventually(t, testkit.Context(t), what, func() error {
		list := r.s.mirror.Meta("east").GetRegistries()
		if len(list) != 1 || !maps.Equal(list[0].GetStrategies(), want) {
			return fmt.Errorf("have %v, want %v", list, want)
		}
		return nil
	})
}

// What a registry states of a service is in the store within a second, also of one that has no
// instance, and it outlives the process that read it while nobody can read it anew.
func TestStrategiesAreWritten(t *testing.T) {
	dir, reg := t.TempDir(), newRegistry()
	reg.states("local-only")
	r := start(t, dir, map[string][]*registry{"east": {reg}})
	one := map[string]string{"default/cart": "local-only"}
	r.wantStrategies(t, "the first", one)
	reg.states("any")
	r.wantStrategies(t, "another", map[string]string{"default/cart": "any"})
	reg.states("")
	r.wantStrategies(t, "none", nil)
	reg.states("local-only")
	r.wantStrategies(t, "the first again", one)
	r.stop()

	reg.fail(errors.New("connection refused"))
	r = start(t, dir, map[string][]*registry{"east": {reg}})
	testkit.Eventually(t, testkit.Context(t), "its registry cannot be read", func() error {
		if list := r.s.mirror.Meta("east").GetRegistries(); len(list) != 1 || list[0].GetState() != storev1.RegistryStatus_FAILED {
			return fmt.Errorf("%v", list)
		}
		return nil
	})
	r.wantStrategies(t, "what stood", one)
	reg.states("")
	reg.fail(nil)
	r.wantStrategies(t, "it was taken away meanwhile", nil)
}

// A cluster whose registries state more than fits into a value of the store is described all the
// same, and the same way every time.
func TestStrategiesFitIntoOneValue(t *testing.T) {
	describe := func() []*storev1.RegistryStatus {
		var all []*storev1.RegistryStatus
		for range 3 {
			r := &storev1.RegistryStatus{Strategies: map[string]string{}}
			for n := range 4 {
				r.Strategies[fmt.Sprintf("shop/s%d", n)] = "any" // of 10 bytes each
			}
			all = append(all, r)
		}
		return all
	}
	for _, c := range []struct{ limit, left int }{{1000, 0}, {120, 0}, {119, 1}, {65, 6}, {40, 8}, {0, 12}} {
		got, again := describe(), describe()
		if left := fitStrategies(got, c.limit); left != c.left {
			t.Errorf("%d bytes: %d were left out, want %d", c.limit, left, c.left)
		}
		fitStrategies(again, c.limit)
		for n, r := range got {
			if !proto.Equal(r, again[n]) {
				t.Errorf("%d bytes: %v, then %v", c.limit, r, again[n])
			}
		}
	}
}
