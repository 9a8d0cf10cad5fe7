package skew

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
)

// watcher is the stream of some agent's feed, by key.
type watcher struct {
	mu      sync.Mutex
	entries map[string]*feedv1.Entry
	last    *feedv1.WatchResponse
	begins  int // how many snapshots it was sent
}

// watch follows a feed from what the request says until the test ends or stop is called.
func watch(t *testing.T, feed feedv1.FeedClient, req *feedv1.WatchRequest) (w *watcher, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(testkit.Context(t))
	stream, err := feed.Watch(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	w = &watcher{entries: map[string]*feedv1.Entry{}}
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			w.take(m)
		}
	})
	stop = func() { cancel(); reading.Wait() }
	t.Cleanup(stop)
	return w, stop
}

func (w *watcher) take(m *feedv1.WatchResponse) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = m
	if m.GetSnapshotBegin() {
		w.begins++
	}
	for _, e := range m.GetEntries() {
		if e.GetDeleted() {
			delete(w.entries, e.GetKey())
		} else {
			w.entries[e.GetKey()] = e
		}
	}
}

// holds waits until a key is there and its value passes.
func (w *watcher) holds(t *testing.T, k keys.Key, into proto.Message, passes func() bool) func() error {
	key := keySchema(t).Format(k)
	return func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		e := w.entries[key]
		if e == nil {
			return fmt.Errorf("no %s among %d keys", key, len(w.entries))
		}
		if err := keys.Decode(e.GetValue(), into); err != nil {
			return err
		}
		if !passes() {
			return fmt.Errorf("%s is %v", key, into)
		}
		return nil
	}
}

// laterAgent is the record of an agent that has more to say of itself than this version knows.
func laterAgent(cluster string) *catalogv1.Agent {
	return later(&catalogv1.Agent{
		Cluster: cluster, Node: "later", Incarnation: "i1", Address: "10.0.0.7:50002", Locality: &catalogv1.Locality{Zone: "z"}, Version: "v9.0.0",
		Apps: []*catalogv1.App{{Namespace: "default", Id: "pay", Port: 8080, Protocol: "by-pigeon"}},
	})
}

// TestALaterAgentIsServed: it is followed, reported and listed like any other, and its record reaches all
// others with what only later versions know.
func TestALaterAgentIsServed(t *testing.T) {
	ctx := testkit.Context(t)
	c := run(t, t.TempDir())
	w, _ := watch(t, c.feed, later(&feedv1.WatchRequest{Cluster: "west", Node: "later", Digest: &feedv1.Digest{Parts: map[string]uint64{"a part of later": 1}}}))
	report, err := c.feed.Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	record := laterAgent("west")
	for range 2 { // a second time it is the same, and not written again
		req := later(&feedv1.ReportRequest{Agent: record, Federation: "test", Digest: &feedv1.Digest{}, Policies: nil})
		if err := report.Send(req); err != nil {
			t.Fatal(err)
		}
	}
	var got catalogv1.Agent
	testkit.Eventually(t, ctx, "its record", w.holds(t, keys.Key{Kind: keys.Agent, Cluster: "west", Node: "later"}, &got, func() bool { return proto.Equal(&got, record) }))
	testkit.Eventually(t, ctx, "it is listed", func() error {
		agents, err := c.admin.ListAgents(ctx, &adminv1.ListAgentsRequest{})
		if err == nil && (len(agents.GetAgents()) != 1 || !agents.GetAgents()[0].GetConnected() || !proto.Equal(agents.GetAgents()[0].GetAgent(), record)) {
			err = fmt.Errorf("got %v", agents)
		}
		return err
	})
	if err := report.Send(later(&feedv1.ReportRequest{Agent: record, Federation: "test", Leaving: true})); err != nil {
		t.Fatal(err)
	}
	if _, err := report.CloseAndRecv(); err != nil {
		t.Error(err)
	}
}

// TestALaterAgentContributes: what it says of its registries counts as far as it is understood.
func TestALaterAgentContributes(t *testing.T) {
	ctx := testkit.Context(t)
	c := run(t, t.TempDir())
	stream, err := c.feed.Contribute(ctx)
	if err != nil {
		t.Fatal(err)
	}
	say := func(m *feedv1.ContributeRequest) {
		t.Helper()
		if err := stream.Send(later(m)); err != nil {
			t.Fatal(err)
		}
	}
	say(&feedv1.ContributeRequest{Contributor: &feedv1.Contributor{Federation: "test", Cluster: "edge", Node: "later", Incarnation: "i1"}})
	say(&feedv1.ContributeRequest{}) // something that is not known at all
	say(&feedv1.ContributeRequest{Standing: &feedv1.Standing{Links: []*feedv1.Link{{Name: "mdns@10.8.0.0/24", Complete: true, Age: durationpb.New(0)}}}})
	term := uint64(0)
	for term == 0 {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range m.GetGrants() {
			term = g.GetTerm()
		}
	}
	instance := func(id string, h catalogv1.Health) *catalogv1.Instance {
		return &catalogv1.Instance{Namespace: "default", Service: "pay", Id: id, Address: "10.8.0.2", Port: 80, Health: h}
	}
	say(&feedv1.ContributeRequest{Contribution: &feedv1.Contribution{Link: "mdns@10.8.0.0/24", Term: term, Full: true, Snapshots: []*feedv1.Snapshot{{
		Source:    "all",
		Services:  []*feedv1.ServiceName{{Namespace: "default", Service: "pay", Strategy: "by-the-moon"}},
		Instances: []*catalogv1.Instance{instance("a", catalogv1.Health_HEALTHY), instance("b", 99)},
	}}}})
	testkit.Eventually(t, ctx, "they are listed", func() error {
		list, err := c.admin.ListInstances(ctx, &adminv1.ListInstancesRequest{Cluster: "edge"})
		if err != nil {
			return err
		}
		var got []string
		for _, i := range list.GetInstances() {
			got = append(got, i.GetId()+"="+i.GetHealth().String())
		}
		if strings.Join(got, " ") != "a=HEALTHY b=UNHEALTHY" {
			return fmt.Errorf("listed: %s", got)
		}
		return nil
	})
	if n := sum(t, c.metrics, "farcall_synchronizer_contributions_dropped_total", "unknown_health"); n != 1 {
		t.Errorf("counted %v", n)
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
}

// TestALaterAgentIsAsked: an answer of a kind that is not known is none, and somebody else is asked; one
// that is known is passed on, with what only the asker may understand.
func TestALaterAgentIsAsked(t *testing.T) {
	ctx := testkit.Context(t)
	c := run(t, t.TempDir())
	stream, err := c.feed.Consult(ctx)
	if err != nil {
		t.Fatal(err)
	}
	send := func(m *feedv1.ConsultRequest) {
		if err := stream.Send(later(m)); err != nil {
			t.Error(err)
		}
	}
	send(&feedv1.ConsultRequest{Agent: &feedv1.Contributor{Federation: "test", Cluster: "west", Node: "later", Incarnation: "i1"}})
	send(&feedv1.ConsultRequest{})
	send(&feedv1.ConsultRequest{Answer: &feedv1.Answer{Id: 7}}) // that nobody asked
	answers := make(chan *feedv1.Answer, 1)
	var answering sync.WaitGroup
	answering.Go(func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			a := proto.CloneOf(<-answers)
			a.Id = m.GetQuestion().GetId()
			send(&feedv1.ConsultRequest{Answer: a})
		}
	})
	defer answering.Wait()
	defer func() { _ = stream.CloseSend() }()
	explain := func(a *feedv1.Answer) *adminv1.ExplainResponse {
		t.Helper()
		answers <- a
		resp, err := c.admin.Explain(ctx, &adminv1.ExplainRequest{Service: "cart", From: "west"})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	testkit.Eventually(t, ctx, "it can be asked", func() error {
		if sum(t, c.metrics, "farcall_consult_agents") != 1 {
			return errNotYet
		}
		return nil
	})
	if got := explain(&feedv1.Answer{}); !strings.HasPrefix(got.GetComputedBy(), "synchronizer r1") || !strings.Contains(got.GetComputedBy(), "it answered something else") {
		t.Errorf("an answer that is not known: computed by %q", got.GetComputedBy())
	}
	got := explain(&feedv1.Answer{What: &feedv1.Answer_Explain{Explain: &adminv1.ExplainResponse{ComputedBy: "the later one", Tiers: []*adminv1.Tier{{Name: "west"}}}}})
	if got.GetComputedBy() != "the later one" || len(strangers(got)) != 2 {
		t.Errorf("an answer that is known: %v, with %s", got, strangers(got))
	}
}

// TestAnOlderAgentIsServed: one of the time before digests, policies, Consult and Contribute, which says
// nothing of them, is followed, continued and listed all the same.
func TestAnOlderAgentIsServed(t *testing.T) {
	ctx := testkit.Context(t)
	c := run(t, t.TempDir())
	ask := &feedv1.WatchRequest{Cluster: "west", Node: "older"}
	w, stop := watch(t, c.feed, ask)
	var marker, slice = valueOf(keys.PoliciesSynced), valueOf(keys.Slice)
	testkit.Eventually(t, ctx, "the list", w.holds(t, keys.Key{Kind: keys.Slice, Cluster: "west", Name: cart}, slice, func() bool { return true }))
	testkit.Eventually(t, ctx, "the policies' marker", w.holds(t, keys.Key{Kind: keys.PoliciesSynced}, marker, func() bool { return true }))

	report, err := c.feed.Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	said := &feedv1.ReportRequest{
		Agent:      &catalogv1.Agent{Cluster: "west", Node: "older", Incarnation: "i1", Address: "10.0.0.7:50002"},
		Epochs:     map[string]uint64{"west": 1},
		Federation: "test", StoreId: w.last.GetStoreId(), Revision: w.last.GetRevision(),
	}
	ask.Federation, ask.StoreId, ask.Revision = "test", w.last.GetStoreId(), w.last.GetRevision()
	w.mu.Unlock()
	for range 3 { // and is not taken for one that has drifted, whatever it does not say
		if err := report.Send(said); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, ctx, "it is listed", func() error {
		agents, err := c.admin.ListAgents(ctx, &adminv1.ListAgentsRequest{})
		if err != nil {
			return err
		}
		policies, err := c.admin.ListPolicies(ctx, &adminv1.ListPoliciesRequest{})
		if err == nil && (len(agents.GetAgents()) != 1 || !agents.GetAgents()[0].GetConnected() || agents.GetAgents()[0].GetAppliedRevision() != said.GetRevision() || policies.GetAgents() != 1) {
			err = fmt.Errorf("got %v, %v", agents, policies)
		}
		return err
	})
	if got, err := c.admin.Explain(ctx, &adminv1.ExplainRequest{Service: "cart", From: "west"}); err != nil || !strings.HasPrefix(got.GetComputedBy(), "synchronizer r1") {
		t.Errorf("explained by %q, %v", got.GetComputedBy(), err)
	}
	stop()
	if w.begins != 1 {
		t.Errorf("it was sent %d snapshots", w.begins)
	}
	w, stop = watch(t, c.feed, ask)
	testkit.Eventually(t, ctx, "it goes on", w.holds(t, keys.Key{Kind: keys.Replica, Replica: "r1"}, valueOf(keys.Replica), func() bool { return true }))
	stop()
	if w.begins != 0 {
		t.Error("it was sent everything again")
	}
	said.Leaving = true
	if err := report.Send(said); err != nil {
		t.Fatal(err)
	}
	if _, err := report.CloseAndRecv(); err != nil {
		t.Error(err)
	}
}
