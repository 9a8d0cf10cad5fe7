package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
)

var holdList = &adminv1.ListHoldsResponse{
	Holds: []*adminv1.Hold{
		{
			Cluster: "east", Registry: "consul", Namespace: "default", Service: "cart", Id: "cart-1", Since: ago(2 * time.Hour), Until: ago(-3 * time.Hour),
			Reason: "catalogue", Detail: "all 6 instances of the registry were gone in one read",
		},
		{
			Cluster: "east", Registry: "consul", Namespace: "shop", Service: "billing", Id: "b\x1b1", Since: ago(2 * time.Hour), Until: ago(-3 * time.Hour),
			Reason: "catalogue", Detail: "all 6 instances of the registry were gone in one read",
		},
		{
			Cluster: "west", Registry: "it's 1", Namespace: "default", Service: "cart", Id: "9", Since: ago(time.Hour), Until: ago(-5 * time.Hour),
			Reason: "burst", Detail: "more than 5 removals in 10s",
		},
	},
	Clusters: []string{"east", "west"},
	More:     7,
	Agents: []*adminv1.AgentHolds{
		{
			Cluster: "east", Node: "node-1", Registry: "consul", Instances: 6, Followed: 6, Since: ago(2 * time.Hour), Until: ago(-3 * time.Hour), Reason: "catalogue",
			Detail: "all 6 instances of the registry were gone in one read", Some: []*adminv1.HeldInstance{{Namespace: "default", Service: "cart", Id: "cart-1"}},
		},
		{Cluster: "east", Node: "node-2", Registry: "file", Instances: 1, Since: ago(time.Hour), Until: ago(-5 * time.Hour), Reason: "burst", Detail: "more than 5 removals in 10s", Some: []*adminv1.HeldInstance{{Namespace: "shop", Service: "pay", Id: "p\x1b"}}},
		{
			Cluster: "east", Node: "node-3", Registry: "consul", Instances: 6, Followed: 6, Since: ago(2 * time.Hour), Until: ago(-3 * time.Hour), Reason: "catalogue",
			Detail: "all 6 instances of the registry were gone in one read",
		},
	},
	AgentsUnknown: []string{"sync-b"},
	Unknown:       []*adminv1.UnknownHolds{{Cluster: "edge", Owner: "sync-b", Why: "synchronizer sync-b did not answer in time"}, {Cluster: "new", Why: "nobody owns it"}},
}

func (f *fakeAdmin) ListHolds(_ context.Context, r *adminv1.ListHoldsRequest) (*adminv1.ListHoldsResponse, error) {
	if r.GetService() == "none" {
		return &adminv1.ListHoldsResponse{Clusters: []string{"east"}}, nil
	}
	if r.GetCluster() == "" && r.GetNamespace() == "" && r.GetService() == "" {
		return holdList, nil
	}
	out := &adminv1.ListHoldsResponse{}
	for _, h := range holdList.GetHolds() {
		if (r.GetCluster() == "" || r.GetCluster() == h.GetCluster()) && (r.GetNamespace() == "" || r.GetNamespace() == h.GetNamespace()) &&
			(r.GetService() == "" || r.GetService() == h.GetService()) {
			out.Holds = append(out.Holds, h)
		}
	}
	return out, nil
}

func (f *fakeAdmin) ReleaseHold(ctx context.Context, r *adminv1.ReleaseHoldRequest) (*adminv1.ReleaseHoldResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if who := author(); who != "" && strings.Join(md.Get("farcall-author"), "") != headerWord(who) {
		return nil, status.Error(codes.Internal, "it does not say who asks")
	}
	f.kept.mu.Lock()
	defer f.kept.mu.Unlock()
	f.kept.written = append(f.kept.written, proto.CloneOf(r))
	if r.GetService() == "crat" {
		return nil, status.Error(codes.NotFound, `there is no hold in cluster east of default/crat; did you mean "default/cart"?`)
	}
	resp := &adminv1.ReleaseHoldResponse{Released: 12, Owner: "sync-a"}
	switch r.GetCluster() {
	case "gone":
		resp.Deleted = true
	case "edge":
		resp.Links = []string{"file@node-b"}
	case "lab":
		resp.Released, resp.Links = 0, []string{"file@node-a", "file@node-b"}
	}
	if r.GetInstance() != "" {
		resp.Released = 1
		resp.Warnings = []string{"synchronizer sync-b did not answer: refused"}
	}
	return resp, nil
}

// ListHolds of a synchronizer that is well.
func (w *wellAdmin) ListHolds(context.Context, *adminv1.ListHoldsRequest) (*adminv1.ListHoldsResponse, error) {
	return &adminv1.ListHoldsResponse{Holds: holdList.GetHolds()[:2], Clusters: []string{"east"}}, w.answer()
}

func TestReleaseHolds(t *testing.T) {
	for _, c := range []struct {
		args           string
		code           int
		stdout, stderr string
		want           proto.Message
	}{
		{"holds release east", exitOK, "cluster east: 12 holds released by sync-a\n", "", &adminv1.ReleaseHoldRequest{Cluster: "east"}},
		{
			"holds release east cart.shop --registry consul", exitOK, "cluster east: 12 holds released by sync-a\n", "",
			&adminv1.ReleaseHoldRequest{Cluster: "east", Namespace: "shop", Service: "cart", Registry: "consul"},
		},
		{
			"holds release east cart --instance cart-1", exitOK, "cluster east: 1 hold released by sync-a\n",
			"warning: cluster east: synchronizer sync-b did not answer: refused\n",
			&adminv1.ReleaseHoldRequest{Cluster: "east", Namespace: "default", Service: "cart", Instance: "cart-1"},
		},
		{
			"holds release east crat", exitRefused, "",
			"farcall: release holds of east crat: not found: there is no hold in cluster east of default/crat; did you mean \"default/cart\"?\n",
			&adminv1.ReleaseHoldRequest{Cluster: "east", Namespace: "default", Service: "crat"},
		},
		{"holds release gone", exitOK, "cluster gone: deleted with its 12 instances by sync-a\n", "", &adminv1.ReleaseHoldRequest{Cluster: "gone"}},
		{"holds release edge", exitOK, "cluster edge: 12 holds released and 1 link let go by sync-a\n", "", &adminv1.ReleaseHoldRequest{Cluster: "edge"}},
		{
			"holds release lab --registry file@node-b", exitOK, "cluster lab: 2 links let go by sync-a\n", "",
			&adminv1.ReleaseHoldRequest{Cluster: "lab", Registry: "file@node-b"},
		},
	} {
		t.Run(c.args, func(t *testing.T) {
			f := &fakeAdmin{}
			r := farcall(t, "", append([]string{"--server", serve(t, f)}, strings.Fields(c.args)...)...)
			r.want(t, c.code)
			if r.stdout != c.stdout || r.stderr != c.stderr {
				t.Errorf("stdout %q, want %q; stderr %q, want %q", r.stdout, c.stdout, r.stderr, c.stderr)
			}
			f.sent(t, c.want)
		})
	}
	r := farcall(t, "", "--server", serve(t, &fakeAdmin{}), "holds", "release", "east", "--instance", "1", "-o", "json")
	r.want(t, exitOK)
	got := &adminv1.ReleaseHoldResponse{}
	if err := protojson.Unmarshal([]byte(r.stdout), got); err != nil || got.GetReleased() != 1 || len(got.GetWarnings()) != 1 || r.stderr != "" {
		t.Errorf("%v: stdout %s, stderr %s", err, r.stdout, r.stderr)
	}
	for _, c := range []struct{ args, word string }{
		{"holds", "holds what? Want one of release"},
		{"holds relaese", `did you mean "release"?`},
		{"holds release", "accepts between 1 and 2 arg(s)"},
		{"holds release East", `"East"`},
		{"holds release east //", `"//"`},
	} {
		farcall(t, "", strings.Fields(c.args)...).want(t, exitUsage, c.word)
	}
}

// A cluster or a link that is held as a whole is one line, and says what to do.
func TestWhatIsHeldAsAWhole(t *testing.T) {
	list := &adminv1.ListHoldsResponse{Holds: []*adminv1.Hold{
		{Cluster: "west", Reason: "unconfigured", Detail: "no synchronizer has it in its configuration: its 2 instances of 1 service stay"},
		{Cluster: "edge", Registry: "mdns@10.8.0.0/24", Reason: "unreported", Since: ago(2 * time.Hour), Until: ago(-22 * time.Hour), Detail: "no agent reports it; node-b did last: its 7 instances stay"},
	}}
	var table strings.Builder
	if err := holdTable(&table, list); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(table.String(), "\n")
	for n, want := range [][]string{
		{"west", "*", "*", "*", "-", "-", "-", "unconfigured"},
		{"edge", "mdns@10.8.0.0/24", "*", "*", "2h"},
	} {
		if got := strings.Fields(lines[n+1]); len(got) < len(want) || strings.Join(got[:len(want)-1], " ") != strings.Join(want[:len(want)-1], " ") || !strings.HasPrefix(got[len(want)-1], want[len(want)-1]) {
			t.Errorf("line %d is %q, want %q", n+1, got, want)
		}
	}
	k := &checker{}
	k.holds(list, time.Now())
	if len(k.findings) != 2 {
		t.Fatalf("found is %v", k.findings)
	}
	for n, want := range []finding{
		{levelWarn, "west: no synchronizer has it in its configuration: its 2 instances of 1 service stay", "farcall holds release west"},
		{levelWarn, "edge: mdns@10.8.0.0/24: no agent reports it; node-b did last: its 7 instances stay for another ", "farcall holds release edge --registry mdns@10.8.0.0/24"},
	} {
		if got := k.findings[n]; got.Level != want.Level || !strings.HasPrefix(got.Text, want.Text) || !strings.HasSuffix(got.Do, want.Do) {
			t.Errorf("found is %+v, want %+v", got, want)
		}
	}
}

// What agents hold is one line for all that hold the same, and says who ends it.
func TestWhatAgentsHold(t *testing.T) {
	hold := func(node string, instances, followed uint64, services ...string) *adminv1.AgentHolds {
		h := &adminv1.AgentHolds{
			Cluster: "east", Node: node, Registry: "consul", Instances: instances, Followed: followed, Since: ago(time.Hour), Until: ago(-5 * time.Hour), Reason: "burst", Detail: "why",
		}
		for n, s := range services {
			h.Some = append(h.Some, &adminv1.HeldInstance{Namespace: "default", Service: s, Id: fmt.Sprint(s, "-", n)})
		}
		return h
	}
	const (
		own     = "ends by the agent's own time"
		owners  = "ends when the cluster's owner lists them no more"
		release = "look whether they are gone: if so, farcall holds release east, which these agents follow"
		wait    = "look at the registry from there; nothing is to be done if they are gone: each ends by itself"
	)
	for _, c := range []struct {
		name  string
		holds []*adminv1.AgentHolds
		row   string
		found finding
	}{
		{
			"one instance", []*adminv1.AgentHolds{hold("n1", 1, 0, "cart")}, "east consul default/cart cart-0 1h00m 4h59m agent n1 burst why; " + own,
			finding{levelWarn, "east: consul, as read by agent n1, no longer lists 1 instance of default/cart since 1h00m, held: why; " + own, wait},
		},
		{
			"one service, followed", []*adminv1.AgentHolds{hold("n1", 2, 2, "cart", "cart")}, "east consul default/cart 2 instances 1h00m - agent n1 burst why; " + owners,
			finding{levelWarn, "east: consul, as read by agent n1, no longer lists 2 instances of default/cart since 1h00m, held: why; " + owners, release},
		},
		{
			"some are not named, and some are followed", []*adminv1.AgentHolds{hold("n1", 9, 4, "cart", "pay")},
			"east consul * 9 instances 1h00m - agent n1 burst why; 4 of them end when the cluster's owner lists them no more, the others by the agent's own time",
			finding{
				levelWarn, "east: consul, as read by agent n1, no longer lists 9 instances of default/cart, default/pay, others since 1h00m, held: why; " +
					"4 of them end when the cluster's owner lists them no more, the others by the agent's own time", release,
			},
		},
		{
			"many agents", []*adminv1.AgentHolds{
				hold("n1", 4, 4, "a", "b", "c", "d"), hold("n2", 4, 4, "a", "b", "c", "d"), hold("n3", 4, 4), hold("n4", 4, 4), hold("n5", 4, 4),
			}, "east consul * 4 instances 1h00m - agents n1, n2, n3 and 2 more burst why; " + owners,
			finding{
				levelWarn, "east: consul, as read by agents n1, n2, n3 and 2 more, no longer lists 4 instances of default/a, default/b, default/c, others since 1h00m, held: why; " + owners, release,
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			groups := holders(c.holds)
			if len(groups) != 1 {
				t.Fatalf("%d lines, want 1", len(groups))
			}
			now := time.Now()
			if got := strings.Join(groups[0].row(now), " "); got != c.row {
				t.Errorf("the line is\n%s\nwant\n%s", got, c.row)
			}
			k := &checker{}
			k.holds(&adminv1.ListHoldsResponse{Agents: c.holds}, now)
			if len(k.findings) != 1 || k.findings[0] != c.found {
				t.Errorf("found is\n%+v\nwant\n%+v", k.findings, c.found)
			}
		})
	}
}

func TestNamesInAShellAndInMetadata(t *testing.T) {
	for in, want := range map[string]string{
		"consul": "consul", "mdns@10.8.0.0/24": "mdns@10.8.0.0/24", "it's 1": `'it'\''s 1'`, "$(x)": "'$(x)'", "*": "'*'",
	} {
		if got := shellWord(in); got != want {
			t.Errorf("%q becomes %s, want %s", in, got, want)
		}
	}
	if got := headerWord("Zoë\n"); got != "Zo??" {
		t.Errorf("got %q", got)
	}
}
