package drift

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/store"
	"github.com/farcall/farcall/internal/testkit"
)

// detectWithin is how long drift may stay, on a machine that does other things as well.
const detectWithin = 60 * time.Second

// about reports whether a message tells of a key that has all these in it, and whether that is deleted.
func about(m *feedv1.WatchResponse, deleted bool, parts ...string) bool {
	for _, e := range m.GetEntries() {
		all := e.GetDeleted() == deleted
		for _, p := range parts {
			all = all && strings.Contains(e.GetKey(), p)
		}
		if all && !m.GetSnapshotBegin() {
			return true
		}
	}
	return false
}

// fault is what is done to one agent's feed.
type fault struct {
	spoil func() func(*feedv1.WatchResponse) []*feedv1.WatchResponse
	early bool   // from the first message on
	mute  bool   // and the agent's digests are taken away
	part  string // what is counted as drifted
}

func pass(m *feedv1.WatchResponse) []*feedv1.WatchResponse { return []*feedv1.WatchResponse{m} }

// losing loses the first message that is about a key.
func losing(deleted bool, parts ...string) func() func(*feedv1.WatchResponse) []*feedv1.WatchResponse {
	return func() func(*feedv1.WatchResponse) []*feedv1.WatchResponse {
		lost := false
		return func(m *feedv1.WatchResponse) []*feedv1.WatchResponse {
			if !lost && about(m, deleted, parts...) {
				lost = true
				return nil
			}
			return pass(m)
		}
	}
}

// visitor is the key of an agent that comes and goes.
const visitor = "/agents/east/visitor"

var faults = map[string]fault{
	"none":          {spoil: func() func(*feedv1.WatchResponse) []*feedv1.WatchResponse { return pass }},
	"lost put":      {spoil: losing(false, "/clusters/west/services/"), part: "west"},
	"lost delete":   {spoil: losing(true, visitor), part: "east"},
	"lost policy":   {spoil: losing(false, "/policies/"), part: "policies and cordons"},
	"not looked at": {spoil: losing(false, "/clusters/west/services/"), mute: true},
	"swapped": {part: "east", spoil: func() func(*feedv1.WatchResponse) []*feedv1.WatchResponse {
		var held *feedv1.WatchResponse
		return func(m *feedv1.WatchResponse) []*feedv1.WatchResponse {
			switch {
			case held == nil && about(m, false, visitor):
				held = m
				return nil
			case held != nil && about(m, true, visitor):
				return []*feedv1.WatchResponse{m, held}
			}
			return pass(m)
		}
	}},
	"repeated": {part: "east", spoil: func() func(*feedv1.WatchResponse) []*feedv1.WatchResponse {
		var first *feedv1.WatchResponse
		return func(m *feedv1.WatchResponse) []*feedv1.WatchResponse {
			switch {
			case about(m, false, visitor):
				first = m
				return []*feedv1.WatchResponse{m, m}
			case first != nil && about(m, true, visitor):
				return []*feedv1.WatchResponse{m, m, first}
			}
			return pass(m)
		}
	}},
	"lost end of a snapshot": {early: true, part: "revision", spoil: func() func(*feedv1.WatchResponse) []*feedv1.WatchResponse {
		lost := false
		return func(m *feedv1.WatchResponse) []*feedv1.WatchResponse {
			if !lost && m.GetSnapshotEnd() {
				lost, m.SnapshotEnd = true, false
			}
			return pass(m)
		}
	}},
}

// TestWhatTheFeedLosesIsFoundAndRepaired loses, repeats and swaps what is on its way to agents. All of
// them come to hold what the others do, within half a minute, and each is counted on both sides; the one
// whose digests nobody sees does not, so that the test can fail.
func TestWhatTheFeedLosesIsFoundAndRepaired(t *testing.T) {
	ctx := testkit.Context(t)
	east, west := newRegistry(), newRegistry()
	east.set("cart", "a")
	west.set("cart", "w")
	c := run(t, "127.0.0.1:0", store.Config{Embedded: &store.EmbeddedConfig{DataDir: t.TempDir()}}, map[string]*registry{"east": east, "west": west})
	agents, proxies := map[string]*agent{}, map[string]*proxy{}
	for name, f := range faults {
		p := newProxy(t, c.feed)
		p.mute = f.mute
		if f.early {
			p.set(f.spoil())
		}
		proxies[name] = p
		agents[name] = follow(t, strings.ReplaceAll(name, " ", "-"), p.addr)
	}
	began := time.Now()
	same := func(with string, names ...string) func() error {
		return func() error {
			want := agents["none"].holds()
			if !strings.Contains(want, with) {
				return fmt.Errorf("without faults: %s", want)
			}
			for _, name := range names {
				if got := agents[name].holds(); got != want {
					return fmt.Errorf("%s: holds %s, want %s", name, got, want)
				}
			}
			return nil
		}
	}
	all := slices.SortedFunc(maps.Keys(faults), func(a, b string) int {
		if early := faults[a].early; early != faults[b].early { // it takes longest, and is waited for last
			return map[bool]int{false: -1, true: 1}[early]
		}
		return strings.Compare(a, b)
	})
	testkit.Eventually(t, ctx, "all begin alike", func() error {
		if n := strings.Count(agents["none"].holds(), "agent:"); n != len(all) {
			return fmt.Errorf("%d agents", n)
		}
		return same("west/w", all...)()
	})
	for name, f := range faults {
		proxies[name].forget()
		if !f.early {
			proxies[name].set(f.spoil())
		}
	}

	// One thing after the other: what comes to a reader that is behind comes in one message, and would be
	// lost with it.
	came := func(part string, deleted bool) {
		t.Helper()
		testkit.Eventually(t, ctx, part+" came everywhere", func() error {
			for name, p := range proxies {
				if !p.sees(part, deleted) {
					return fmt.Errorf("not to %q", name)
				}
			}
			return nil
		})
	}
	west.set("cart", "w", "x")
	came("/clusters/west/services/", false)
	if _, err := c.admin.PutPolicy(ctx, &adminv1.PutPolicyRequest{Policy: &policyv1.Policy{Target: &policyv1.Target{Service: "cart"}, Settings: &policyv1.Settings{Strategy: proto.String("any")}}}); err != nil {
		t.Fatal(err)
	}
	came("/policies/", false)
	guest := follow(t, "visitor", c.addr)
	came(visitor, false)
	guest.stop()
	came(visitor, true)
	testkit.Eventually(t, ctx, "the visitor is gone, the rest is there", func() error {
		if got := agents["none"].holds(); strings.Contains(got, "visitor") || !strings.Contains(got, "west/x") || !strings.Contains(got, "policy:") {
			return errors.New(got)
		}
		return nil
	})
	injected := time.Now()
	for _, name := range all {
		if f := faults[name]; f.part == "" || f.early {
			continue
		}
		testkit.Eventually(t, ctx, name+" has an effect", func() error {
			if agents[name].holds() == agents["none"].holds() && sum(t, agents[name].metrics, "farcall_uplink_drift_total") == 0 {
				return errors.New("it holds what the others do")
			}
			return nil
		})
	}
	repaired := map[string]bool{}
	testkit.Eventually(t, ctx, "all are repaired", func() error {
		for _, name := range all {
			f := faults[name]
			if f.mute || repaired[name] {
				continue
			}
			if n := sum(t, agents[name].metrics, "farcall_uplink_drift_total", f.part); f.part != "" && n != 1 {
				return fmt.Errorf("%s: it counts %v times that %q differed", name, n, f.part)
			}
			if err := same("west/x", name)(); err != nil {
				return err
			}
			repaired[name] = true
			since := injected
			if f.early {
				since = began
			}
			t.Logf("%s: repaired within %s", name, time.Since(since).Round(10*time.Millisecond))
			if took := time.Since(since); took > detectWithin {
				t.Errorf("%s: it took %s", name, took)
			}
		}
		return nil
	})
	if got := agents["not looked at"].holds(); strings.Contains(got, "west/x") {
		t.Errorf("the one whose digests nobody sees was repaired all the same: %s", got)
	}
	if n := sum(t, agents["none"].metrics, "farcall_uplink_drift_total"); n != 0 {
		t.Errorf("the one without faults counts %v", n)
	}
	for part, want := range map[string]float64{"west": 1, "east": 3, "policies and cordons": 1, "revision": 1} {
		if n := sum(t, c.metrics, "farcall_feed_drift_total", part); n != want {
			t.Errorf("the synchronizer counts %v times that %q differed, want %v", n, part, want)
		}
	}
	testkit.Eventually(t, ctx, "people see it", func() error {
		list, err := c.admin.ListAgents(ctx, &adminv1.ListAgentsRequest{})
		if err != nil {
			return err
		}
		for _, a := range list.GetAgents() {
			name := strings.ReplaceAll(a.GetAgent().GetNode(), "-", " ")
			if want := faults[name].part != ""; (a.GetDrifts() == 1) != want {
				return fmt.Errorf("%s: %d drifts", name, a.GetDrifts())
			}
		}
		return nil
	})
}
