package synchronizer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/testkit"
)

// What an agent holds back of its own registries is listed while it reports, beside what the owner holds.
func TestWhatAgentsHoldIsListed(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"east": {newRegistry("a")}, "west": {newRegistry("b")}})
	r.lists(t, "east/a west/b")
	ctx := testkit.Context(t)
	stream, err := r.feed.Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	held := &feedv1.HeldBack{
		Registry: "consul", Instances: 7, Followed: 5, Reason: "catalogue", Detail: "all 7 instances of the registry were gone in one read",
		Held: durationpb.New(20 * time.Second), Left: durationpb.New(40 * time.Second),
		Some: []*adminv1.HeldInstance{{Namespace: "default", Service: "cart", Id: "1"}},
	}
	two := &feedv1.HeldBack{Registry: "file", Instances: 1, Reason: "burst", Some: []*adminv1.HeldInstance{{Namespace: "shop", Service: "pay", Id: "9"}}}
	say := &feedv1.ReportRequest{Federation: "test", Agent: agentRecord("east", "n1"), Held: []*feedv1.HeldBack{held, two}}
	if err := stream.Send(say); err != nil {
		t.Fatal(err)
	}
	listed := func(req *adminv1.ListHoldsRequest, want string) (resp *adminv1.ListHoldsResponse) {
		t.Helper()
		testkit.Eventually(t, ctx, "what agents hold", func() (err error) {
			if resp, err = r.admin.ListHolds(ctx, req); err != nil {
				return err
			}
			var got []string
			for _, h := range resp.GetAgents() {
				got = append(got, fmt.Sprintf("%s/%s/%s:%d", h.GetCluster(), h.GetNode(), h.GetRegistry(), h.GetInstances()))
			}
			if g := strings.Join(got, " "); g != want || len(resp.GetHolds()) != 0 || len(resp.GetAgentsUnknown()) != 0 {
				return fmt.Errorf("have %q, want %q: %v", g, want, resp)
			}
			return nil
		})
		return resp
	}
	resp := listed(&adminv1.ListHoldsRequest{}, "east/n1/consul:7 east/n1/file:1")
	h := resp.GetAgents()[0]
	if lasts := h.GetUntil().AsTime().Sub(h.GetSince().AsTime()); lasts != time.Minute || h.GetFollowed() != 5 || h.GetReason() != "catalogue" ||
		h.GetDetail() != held.GetDetail() || len(h.GetSome()) != 1 || h.GetSome()[0].GetId() != "1" {
		t.Errorf("the first is %v", h)
	}
	listed(&adminv1.ListHoldsRequest{Cluster: "east"}, "east/n1/consul:7 east/n1/file:1")
	listed(&adminv1.ListHoldsRequest{Cluster: "west"}, "")
	// Of what is not named in full, nobody can tell that it is of no such service.
	listed(&adminv1.ListHoldsRequest{Service: "pay"}, "east/n1/consul:7 east/n1/file:1")
	listed(&adminv1.ListHoldsRequest{Namespace: "default"}, "east/n1/consul:7")
	say.Held = nil
	if err := stream.Send(say); err != nil {
		t.Fatal(err)
	}
	listed(&adminv1.ListHoldsRequest{}, "")
	say.Held = []*feedv1.HeldBack{two}
	if err := stream.Send(say); err != nil {
		t.Fatal(err)
	}
	listed(&adminv1.ListHoldsRequest{}, "east/n1/file:1")
	if _, err := stream.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}
	listed(&adminv1.ListHoldsRequest{}, "")
}

func TestAgentsThatSayTooMuch(t *testing.T) {
	b := &feedv1.HeldBack{
		Registry: strings.Repeat("r", 9999), Instances: 3, Followed: 9, Reason: strings.Repeat("y", 9999), Detail: strings.Repeat("ü", 9999),
		Held: &durationpb.Duration{Seconds: 1 << 62}, Left: &durationpb.Duration{Seconds: -1 << 62},
	}
	for range 9999 {
		b.Some = append(b.Some, &adminv1.HeldInstance{Id: strings.Repeat("i", 9999)})
	}
	all := agentHolds(time.Now(), mirror.AgentKey{Cluster: "east", Node: "n1"}, slices.Repeat([]*feedv1.HeldBack{b, {Registry: "none"}}, 999))
	if len(all) != maxHeldOf/2 || proto.Size(all[0]) > (maxHeldSome+4)*(3*maxHeldWords) || all[0].GetFollowed() != 3 {
		t.Errorf("%d are kept, the first of %d bytes", len(all), proto.Size(all[0]))
	}
	if err := all[0].GetSince().CheckValid(); err != nil {
		t.Error(err)
	}
	if _, err := proto.Marshal(all[0]); err != nil {
		t.Error(err)
	}
}

func TestWhatReplicasSayOfAgents(t *testing.T) {
	holds := func(nodes ...string) *adminv1.ListHoldsResponse {
		resp := &adminv1.ListHoldsResponse{}
		for _, n := range nodes {
			resp.Agents = append(resp.Agents, &adminv1.AgentHolds{Cluster: "east", Node: n, Registry: "consul", Instances: 1})
		}
		return resp
	}
	resp := &adminv1.ListHoldsResponse{}
	gatherAgents(resp, []said[*adminv1.ListHoldsResponse]{
		{"r1", holds("n3", "n2"), nil}, {"r2", nil, errors.New("refused")}, {"r3", holds("n1", "n2"), nil},
	})
	var nodes []string
	for _, h := range resp.GetAgents() {
		nodes = append(nodes, h.GetNode())
	}
	if got := strings.Join(nodes, " ") + "; " + strings.Join(resp.GetAgentsUnknown(), " "); got != "n1 n2 n3; r2" {
		t.Errorf("put together is %s", got)
	}
}

func TestAgentsThatHoldTooMuch(t *testing.T) {
	some := &adminv1.HeldInstance{Id: strings.Repeat("x", 1000)}
	full := &adminv1.AgentHolds{Cluster: "east", Node: "n", Detail: strings.Repeat("d", 300), Instances: 2, Some: slices.Repeat([]*adminv1.HeldInstance{some}, 20)}
	resp := &adminv1.ListHoldsResponse{Agents: slices.Repeat([]*adminv1.AgentHolds{full}, 20_000)}
	trimAgents(resp)
	if n := len(resp.GetAgents()); proto.Size(resp) > maxAnswer || n < 1000 || resp.GetMore() != uint64(2*(20_000-n)) || len(full.GetSome()) != 20 {
		t.Errorf("%d are left in %d bytes, %d more", n, proto.Size(resp), resp.GetMore())
	}
}
