package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
	"github.com/farcall/farcall/resolvers/intake"
)

func TestWhatAnAgentSaysItHolds(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	hold := func(registry, id string, since, left time.Duration, reason guard.Reason, listed bool) intake.Hold {
		return intake.Hold{Registry: registry, Hold: guard.Hold{
			ID:    catalog.ID{Cluster: "edge", Name: catalog.Name{Namespace: "default", Service: "cart"}, Instance: id},
			Since: now.Add(-since), Until: now.Add(left), Reason: reason, Detail: "because of " + string(reason), Listed: listed,
		}}
	}
	holds := []intake.Hold{
		hold("consul", "1", 10*time.Second, 50*time.Second, guard.Burst, true),
		hold("consul", "2", 30*time.Second, 90*time.Second, guard.Catalogue, true),
		hold("consul", "3\xff", 20*time.Second, 40*time.Second, guard.Burst, false),
		hold("file", "9", 5*time.Second, -time.Second, guard.Reset, false),
	}
	words := func(all []*feedv1.HeldBack) string {
		var out []string
		for _, b := range all {
			var ids []string
			for _, i := range b.GetSome() {
				ids = append(ids, i.GetService()+"/"+i.GetId())
			}
			out = append(out, fmt.Sprintf("%s %d of which %d, for %s, another %s, %s (%s): %s", b.GetRegistry(), b.GetInstances(), b.GetFollowed(),
				b.GetHeld().AsDuration(), b.GetLeft().AsDuration(), b.GetReason(), b.GetDetail(), strings.Join(ids, " ")))
		}
		return strings.Join(out, "\n")
	}
	const file = "file 1 of which 0, for 5s, another 0s, reset (because of reset): cart/9"
	if got, want := words(heldBack(now, holds, true)), "consul 3 of which 2, for 30s, another 1m30s, catalogue (because of catalogue): cart/1 cart/2 cart/3\uFFFD\n"+file; got != want {
		t.Errorf("it says\n%s\nwant\n%s", got, want)
	}
	if got, want := words(heldBack(now, holds[:2], false)), "consul 2 of which 0, for 30s, another 1m30s, catalogue (because of catalogue): cart/1 cart/2"; got != want {
		t.Errorf("without the owner's word it says\n%s\nwant\n%s", got, want)
	}
	var many []intake.Hold
	for r := range 60 {
		for i := range 100 {
			many = append(many, hold(fmt.Sprintf("reg-%03d", r), fmt.Sprint(strings.Repeat("x", 10*i), i), 0, 0, guard.Burst, false))
		}
	}
	all := heldBack(now, many, true)
	if n := proto.Size(&feedv1.ReportRequest{Held: all}); len(all) != tellHeldOf || n > 64<<10 || all[0].GetInstances() != 100 || len(all[0].GetSome()) != tellHeld {
		t.Errorf("of very many it tells %d in %d bytes, first %v", len(all), n, all[0])
	}
}
