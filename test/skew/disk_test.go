package skew

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/farcall/farcall/agent/recall"
	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers/intake"
)

// teller is a synchronizer that says one thing to everybody and listens to nobody.
type teller struct {
	feedv1.UnimplementedFeedServer
	says []*feedv1.WatchResponse
}

// Watch implements feedv1.FeedServer.
func (s *teller) Watch(_ *feedv1.WatchRequest, stream grpc.ServerStreamingServer[feedv1.WatchResponse]) error {
	for _, m := range s.says {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

// Report implements feedv1.FeedServer.
func (s *teller) Report(stream grpc.ClientStreamingServer[feedv1.ReportRequest, feedv1.ReportResponse]) error {
	for {
		if _, err := stream.Recv(); err != nil {
			return stream.SendAndClose(&feedv1.ReportResponse{})
		}
	}
}

// believed is what an agent keeps of its own registries.
func believed(now time.Time) map[string]intake.Before {
	i := &catalog.Instance{
		ID: catalog.ID{Cluster: "east", Name: cart, Instance: "cart-1"}, Node: "n1", Locality: catalog.Locality{Region: "eu", Zone: "eu-1"}, Address: "10.0.0.1", Port: 80,
		Relay: "10.0.0.1:50002", Weight: 2, Health: catalog.Draining, Metadata: map[string]string{"version": "2"}, Registry: "consul", Revision: "17",
	}
	return map[string]intake.Before{"consul": {
		Instances:  []*catalog.Instance{i},
		Holds:      []guard.Hold{{ID: i.ID, Since: now, Until: now.Add(time.Minute), Reason: guard.Reset, Detail: "its index fell", Doubted: true, Listed: true}},
		Strategies: map[catalog.Name]string{cart: "local-only"},
	}}
}

// writeDisk makes the golden files of data directories, by having this version write them.
func writeDisk(t *testing.T, save func(string, []byte)) {
	ctx, dir := testkit.Context(t), t.TempDir()
	keep := func(from, to string) {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		save(to, b)
	}
	entries, _ := goldenEntries(t, filepath.Join("testdata", "released", *write))
	address, _ := serve(t, &teller{says: []*feedv1.WatchResponse{{Federation: "test", StoreId: "0123456789abcdef", Revision: 100, SnapshotBegin: true, SnapshotEnd: true, Entries: entries}}})
	view := filepath.Join(dir, "view")
	a := follow(t, view, address)
	testkit.Eventually(t, ctx, "the feed", a.reads(wantReadable))
	a.stop()
	keep(view, "disk/agent/view")

	k := recall.New(recall.Config{Cluster: "east", File: filepath.Join(dir, "registries")}, recall.Deps{
		Log: testkit.Quiet(), Metrics: prometheus.NewRegistry(), Held: func() int { return 1 },
		Believed: func() map[string]intake.Before { return believed(time.Now()) },
	})
	k.Changed()
	life, cancel := context.WithCancel(ctx)
	cancel()
	_ = k.Run(life) // it saves once more, and says that it was stopped
	keep(filepath.Join(dir, "registries"), "disk/agent/registries")

	c := run(t, filepath.Join(dir, "store"))
	testkit.Eventually(t, ctx, "a policy is put", func() error {
		_, err := c.admin.PutPolicy(ctx, &adminv1.PutPolicyRequest{Policy: &policyv1.Policy{
			Target: &policyv1.Target{Service: "cart", Namespace: "default"}, Settings: &policyv1.Settings{Strategy: proto.String("local-only")},
		}})
		return err
	})
	for _, file := range []string{"epochs.json", "policies.json", "belongs-to.json"} {
		testkit.Eventually(t, ctx, file, func() error {
			_, err := os.Stat(filepath.Join(dir, "store", file))
			return err
		})
	}
	c.stop()
	for _, file := range []string{"epochs.json", "policies.json", "belongs-to.json"} {
		keep(filepath.Join(dir, "store", file), "disk/synchronizer/"+file)
	}
}

// reads waits for the agent to hold this.
func (a *agent) reads(want string) func() error {
	return func() error {
		if m := a.mirror(); m == nil || withoutAge(readable(m, time.Now())) != withoutAge(want) {
			return errNotYet
		}
		return nil
	}
}

// TestDisksOfEveryRelease: an agent and a synchronizer go on from what a released version left in their
// data directories.
func TestDisksOfEveryRelease(t *testing.T) {
	for _, dir := range releases(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Run("view", func(t *testing.T) {
				a := newAgent(filepath.Join(dir, "disk", "agent", "view"))
				a.uplink.Load()
				if m := a.mirror(); m == nil {
					t.Error("it is not used")
				} else if got := readable(m, time.Now()); withoutAge(got) != withoutAge(wantReadable) {
					t.Errorf("it holds\n%s\nwant\n%s", got, wantReadable)
				} else if refused := m.Refused(); len(refused) > 0 {
					t.Errorf("refused: %v", refused)
				}
			})
			t.Run("registries", func(t *testing.T) { recalled(t, filepath.Join(dir, "disk", "agent", "registries")) })
			t.Run("synchronizer", func(t *testing.T) { goesOn(t, filepath.Join(dir, "disk", "synchronizer")) })
		})
	}
}

func recalled(t *testing.T, file string) {
	now := time.Now()
	k := recall.New(recall.Config{Cluster: "east", File: file}, recall.Deps{Log: testkit.Log(t), Metrics: prometheus.NewRegistry()})
	got, want := k.Load(now)["consul"], believed(now)["consul"]
	if len(got.Instances) != 1 || !proto.Equal(got.Instances[0].Proto(), want.Instances[0].Proto()) || got.Strategies[cart] != "local-only" {
		t.Errorf("read %v", got)
	}
	if len(got.Holds) != 1 {
		t.Fatalf("held: %v", got.Holds)
	}
	h, w := got.Holds[0], want.Holds[0]
	if left := h.Until.Sub(now); left <= 50*time.Second || left > 2*time.Minute {
		t.Errorf("it is held for %s more", left)
	}
	h.Since, h.Until = w.Since, w.Until
	if h != w {
		t.Errorf("held: %+v, want %+v", h, w)
	}
}

// goesOn starts a synchronizer with an empty store in a data directory of a release.
func goesOn(t *testing.T, from string) {
	ctx, dir := testkit.Context(t), t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	var epochs map[string]uint64
	b, err := os.ReadFile(filepath.Join(from, "epochs.json"))
	if err == nil {
		err = json.Unmarshal(b, &epochs)
	}
	if err != nil || epochs["west"] == 0 {
		t.Fatalf("epochs: %v, %v", epochs, err)
	}
	c := run(t, dir)
	testkit.Eventually(t, ctx, "it goes on", func() error {
		clusters, err := c.admin.ListClusters(ctx, &adminv1.ListClustersRequest{})
		if err != nil {
			return err
		}
		policies, err := c.admin.ListPolicies(ctx, &adminv1.ListPoliciesRequest{})
		if err != nil {
			return err
		}
		for _, x := range clusters.GetClusters() {
			if x.GetName() == "west" && x.GetEpoch() > epochs["west"] && len(policies.GetPolicies()) == 1 &&
				policies.GetPolicies()[0].GetPolicy().GetSettings().GetStrategy() == "local-only" {
				return nil
			}
		}
		return errNotYet
	})
	c.stop()
	if aside, _ := filepath.Glob(filepath.Join(dir, "*.unreadable")); len(aside) > 0 {
		t.Errorf("set aside: %s", aside)
	}
}
