//go:build real

package synchronizer

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/testkit"
)

// Of two replicas that read the same registries each answers for both, by the owner's word; what is
// released stays so when another takes over; and the holds of one that does not answer are unknown,
// not none.
func TestRealHoldsOfTwoReplicas(t *testing.T) {
	etcd := testkit.Etcd(t, 1)
	clusters := []string{"east", "west", "edge", "north", "south", "lab", "shop", "depot"}
	regs := map[string][]*registry{} // of both replicas
	replicas := make([]*replica, 2)
	for n := range replicas {
		own := map[string][]*registry{}
		for _, name := range clusters {
			own[name] = []*registry{newHolding(cartIDs(6)...)}
			regs[name] = append(regs[name], own[name]...)
		}
		replicas[n] = startOn(t, fmt.Sprint("r", n+1), store.Config{Federation: "test", Etcd: &store.EtcdConfig{Endpoints: etcd.Endpoints}}, own)
	}
	ctx := testkit.Context(t)
	owners := map[string]string{}
	testkit.Eventually(t, ctx, "both own some", func() error {
		resp, err := replicas[0].admin.ListClusters(ctx, &adminv1.ListClustersRequest{})
		count := map[string]int{}
		for _, c := range resp.GetClusters() {
			owners[c.GetName()] = c.GetOwner()
			count[c.GetOwner()]++
		}
		if err == nil && (count["r1"] == 0 || count["r2"] == 0 || count["r1"]+count["r2"] != len(clusters)) {
			err = fmt.Errorf("%v", count)
		}
		return err
	})
	words := func(name string) string {
		var all []string
		for _, id := range cartIDs(6) {
			all = append(all, name+"/reg-1/"+id)
		}
		return strings.Join(all, " ")
	}
	of := func(owner string) string {
		for name, by := range owners {
			if by == owner {
				return name
			}
		}
		return ""
	}
	first, second := of("r1"), of("r2")
	for _, name := range []string{first, second} {
		for _, r := range replicas {
			r.holds(t, name, "")
		}
		for _, r := range regs[name] {
			r.set()
		}
		for _, r := range replicas {
			r.holds(t, name, words(name))
		}
	}

	// The one that is not the owner is told, and whoever reads the cluster does it.
	resp, err := replicas[0].admin.ReleaseHold(ctx, &adminv1.ReleaseHoldRequest{Cluster: second})
	if err != nil || resp.GetReleased() != 6 || resp.GetOwner() != "r2" || len(resp.GetWarnings()) != 0 {
		t.Fatalf("the release by another gave %v, %v", resp, err)
	}
	for _, r := range replicas {
		r.holds(t, second, "")
		if n := r.s.intakes[second].Held(); n != 0 {
			t.Errorf("%d are held at %s still", n, r.s.cfg.ReplicaID)
		}
	}
	if _, err := replicas[0].admin.ReleaseHold(ctx, &adminv1.ReleaseHoldRequest{Cluster: second}); status.Code(err) != codes.NotFound {
		t.Errorf("released again: %v", err)
	}
	if n := replicas[1].s.intakes[first].Held(); n != 6 {
		t.Errorf("%d of the other cluster are held, want 6", n)
	}

	replicas[1].stop()
	testkit.Eventually(t, ctx, "the first has taken over", func() error {
		if c := replicas[0].cluster(t, second); c.GetOwner() != "r1" || c.GetInstances() != 0 {
			return fmt.Errorf("%v", c)
		}
		return nil
	})
	replicas[0].holds(t, "", words(first))
}
