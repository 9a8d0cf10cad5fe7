package synchronizer

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/testkit"
)

// A line that goes missing in a configuration deletes nothing: the cluster's list stays, people see it
// as a hold, and one release deletes it. Where somebody is configured for it again, it is no hold.
func TestAClusterThatNobodyIsConfiguredFor(t *testing.T) {
	dir := t.TempDir()
	both := map[string][]*registry{"east": {newRegistry("a")}, "west": {newRegistry("w1", "w2")}}
	r := start(t, dir, both)
	r.lists(t, "east/a west/w1 west/w2")
	r.stop()

	r = start(t, dir, map[string][]*registry{"east": both["east"]})
	r.lists(t, "east/a west/w1 west/w2")
	resp := r.holds(t, "", "west//")
	h := resp.GetHolds()[0]
	if h.GetReason() != "unconfigured" || h.GetUntil() != nil || !strings.Contains(h.GetDetail(), "no synchronizer has it in its configuration: its 2 instances of 1 service stay") {
		t.Errorf("the hold is %v", h)
	}
	r.holds(t, "east", "")
	ctx := testkit.Context(t)
	if resp, err := r.admin.ListHolds(ctx, &adminv1.ListHoldsRequest{Service: "cart"}); err != nil || len(resp.GetHolds())+len(resp.GetUnknown()) != 0 {
		t.Errorf("of one service: %v, %v", resp, err)
	}
	r.stop()

	// It is back in the configuration: nothing was lost, and nothing is held.
	r = start(t, dir, both)
	r.holds(t, "", "")
	r.lists(t, "east/a west/w1 west/w2")
	testkit.Eventually(t, ctx, "it is owned", func() error {
		if r.cluster(t, "west").GetOwner() != "r1" {
			return errors.New("not yet")
		}
		return nil
	})
	if _, err := r.admin.ReleaseHold(ctx, &adminv1.ReleaseHoldRequest{Cluster: "west"}); status.Code(err) != codes.NotFound && status.Code(err) != codes.Unavailable {
		t.Errorf("the release of a cluster that is configured: %v", err)
	}
	// Nor would it be deleted if its configuration had come between the look and the deletion.
	_, err := (&admin{s: r.s}).deleteCluster(ctx, &adminv1.ReleaseHoldRequest{Cluster: "west"}, mirror.Cluster{Name: "west"})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(status.Convert(err).Message(), "r1") {
		t.Errorf("its deletion: %v", err)
	}
	r.lists(t, "east/a west/w1 west/w2")
	r.stop()

	r = start(t, dir, map[string][]*registry{"east": both["east"]})
	r.holds(t, "", "west//")
	if _, err := r.admin.ReleaseHold(ctx, &adminv1.ReleaseHoldRequest{Cluster: "west", Service: "cart"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("the release of a part: %v", err)
	}
	done, err := r.admin.ReleaseHold(ctx, &adminv1.ReleaseHoldRequest{Cluster: "west"})
	if err != nil || !done.GetDeleted() || done.GetReleased() != 2 || done.GetOwner() != "r1" {
		t.Errorf("the release gave %v, %v", done, err)
	}
	r.lists(t, "east/a")
	testkit.Eventually(t, ctx, "the cluster is gone", func() error {
		resp, err := r.admin.ListClusters(ctx, &adminv1.ListClustersRequest{})
		if err == nil && len(resp.GetClusters()) != 1 {
			err = fmt.Errorf("%v", resp)
		}
		return err
	})
	r.holds(t, "", "")
	r.stop()

	// And a cluster that was deleted by mistake is filled from its registries when it is configured again.
	r = start(t, dir, both)
	r.lists(t, "east/a west/w1 west/w2")
}

// A link whose agents are gone for good is listed among the holds, and is let go by the same verb.
func TestALinkThatNobodyReportsIsReleased(t *testing.T) {
	dir := t.TempDir()
	r := edge(t, dir)
	r.contribute(t, "node-a", map[string][]string{"consul": {"c1"}})
	b := r.contribute(t, "node-b", map[string][]string{"file@node-b": ids(7)})
	all := append([]string{"c1"}, ids(7)...)
	r.lists(t, edges(all...))
	r.holds(t, "", "")
	if _, err := r.admin.ReleaseHold(testkit.Context(t), &adminv1.ReleaseHoldRequest{Cluster: "edge", Registry: "file@node-b"}); status.Code(err) != codes.NotFound {
		t.Errorf("the release of a link that is reported: %v", err)
	}
	b.leave()
	resp := r.holds(t, "", "edge/file@node-b/")
	h := resp.GetHolds()[0]
	if h.GetReason() != "unreported" || h.GetDetail() != "no agent reports it; node-b did last: its 7 instances stay" || h.GetUntil().AsTime().Sub(h.GetSince().AsTime()) != 24*time.Hour {
		t.Errorf("the hold is %v", h)
	}
	r.lists(t, edges(all...))
	done, err := r.admin.ReleaseHold(testkit.Context(t), &adminv1.ReleaseHoldRequest{Cluster: "edge", Registry: "file@node-b"})
	if err != nil || fmt.Sprint(done.GetLinks()) != "[file@node-b]" || done.GetReleased() != 0 {
		t.Errorf("the release gave %v, %v", done, err)
	}
	r.lists(t, "edge/c1")
	r.holds(t, "", "")
	r.registryOf(t, "file@node-b", "it is no registry of the cluster any more", func(s *storev1.RegistryStatus) bool { return s == nil })
	// Its agent was not gone for good.
	r.contribute(t, "node-b", map[string][]string{"file@node-b": {"b1"}})
	r.lists(t, edges("b1", "c1"))
}
