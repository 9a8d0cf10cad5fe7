package synchronizer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/testkit"
)

// stating is a policy for a service that states a strategy.
func stating(service, word string, from ...string) *policyv1.Policy {
	return &policyv1.Policy{
		Target:   &policyv1.Target{Service: service},
		From:     from,
		Settings: &policyv1.Settings{Strategy: proto.String(word)},
	}
}

func (r *replica) put(t *testing.T, p *policyv1.Policy) *adminv1.PutPolicyResponse {
	t.Helper()
	var resp *adminv1.PutPolicyResponse
	testkit.Eventually(t, testkit.Context(t), "the policy is written", func() (err error) {
		resp, err = r.admin.PutPolicy(testkit.Context(t), &adminv1.PutPolicyRequest{Policy: p})
		if c := status.Code(err); err != nil && c != codes.Unavailable {
			t.Fatal(err)
		}
		return err
	})
	return resp
}

func (r *replica) remove(t *testing.T, service string) {
	t.Helper()
	_, err := r.admin.DeletePolicy(testkit.Context(t), &adminv1.DeletePolicyRequest{Target: &policyv1.Target{Service: service}})
	if err != nil {
		t.Fatal(err)
	}
}

// policies gives what is listed: "service=strategy" and "!cluster", then "applied/agents".
func (r *replica) policies(t *testing.T) (words string, revision uint64, err error) {
	t.Helper()
	resp, err := r.admin.ListPolicies(testkit.Context(t), &adminv1.ListPoliciesRequest{})
	if err != nil {
		return "", 0, err
	}
	cordons, err := r.admin.ListCordons(testkit.Context(t), &adminv1.ListCordonsRequest{})
	if err != nil {
		return "", 0, err
	}
	var list []string
	for _, p := range resp.GetPolicies() {
		list = append(list, p.GetPolicy().GetTarget().GetService()+"="+p.GetPolicy().GetSettings().GetStrategy())
	}
	for _, c := range cordons.GetCordons() {
		list = append(list, "!"+c.GetCluster())
	}
	list = append(list, fmt.Sprintf("%d/%d", resp.GetApplied(), resp.GetAgents()))
	return strings.Join(list, " "), resp.GetRevision(), nil
}

func (r *replica) wantPolicies(t *testing.T, what, want string, least uint64) {
	t.Helper()
	testkit.Eventually(t, testkit.Context(t), what, func() error {
		got, revision, err := r.policies(t)
		if err == nil && (got != want || revision < least) {
			err = fmt.Errorf("listed is %q at revision %d, want %q at %d", got, revision, want, least)
		}
		return err
	})
}

// follower is an agent as a synchronizer sees it: it follows the feed into a mirror that outlives
// connections, and reports what it has applied.
type follower struct {
	node   string
	mirror *mirror.Mirror
}

func newFollower(t *testing.T, node string) *follower {
	t.Helper()
	schema, err := keys.New("test")
	if err != nil {
		t.Fatal(err)
	}
	return &follower{node: node, mirror: mirror.New(schema)}
}

// follow follows a replica until the test ends or stop is called.
func (f *follower) follow(t *testing.T, r *replica) (stop func()) {
	t.Helper()
	return testkit.Go(t, "follower "+f.node, func(ctx context.Context) error {
		for ctx.Err() == nil {
			err := f.session(ctx, r.feed)
			if c := status.Code(err); c != codes.Unavailable && c != codes.Canceled {
				return err // a synchronizer that is stopped or starting says the one, and a test that ends the other
			}
		}
		return ctx.Err()
	})
}

func (f *follower) session(ctx context.Context, feed feedv1.FeedClient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.mirror.Abandon()
	req := &feedv1.WatchRequest{Cluster: "east", Node: f.node}
	req.StoreId, req.Revision = f.mirror.Position()
	watch, err := feed.Watch(ctx, req)
	if err != nil {
		return err
	}
	report, err := feed.Report(ctx)
	if err != nil {
		return err
	}
	if err := f.report(report); err != nil {
		return err
	}
	for {
		m, err := watch.Recv()
		if err != nil {
			return err
		}
		if m.GetSnapshotBegin() {
			f.mirror.Begin(m.GetStoreId())
		}
		ch := f.mirror.Apply(time.Now(), m.GetEntries(), m.GetRevision())
		if m.GetSnapshotEnd() {
			end := f.mirror.End(m.GetRevision())
			ch.Policies = ch.Policies || end.Policies
		}
		if ch.Policies {
			if err := f.report(report); err != nil {
				return err
			}
		}
	}
}

func (f *follower) report(stream interface {
	Send(*feedv1.ReportRequest) error
}) error {
	p := f.mirror.Policies()
	req := &feedv1.ReportRequest{
		Federation: "test", PolicyRevision: p.Set.Revision(), PoliciesRefused: p.Refused,
		Agent: &catalogv1.Agent{Cluster: "east", Node: f.node, Incarnation: "i", Address: "10.0.0.1:1"},
	}
	req.StoreId, req.Revision = f.mirror.Position()
	if p.Behind {
		var err error
		if req.Policies, err = f.mirror.PolicyEntries(); err != nil {
			return err
		}
	}
	return stream.Send(req)
}

func TestPolicyIsWrittenListedAndTakenBack(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"east": {newRegistry("a")}, "west": {newRegistry("w")}})
	f := newFollower(t, "n1")
	f.follow(t, r)
	r.wantPolicies(t, "the agent follows", "1/1", 0)
	ctx := metadata.AppendToOutgoingContext(testkit.Context(t), "farcall-author", "ann")

	p := stating("cart", "remote", "west", "east")
	p.Settings.Weights = &policyv1.Weights{Clusters: map[string]uint32{"wset": 2}}
	before := time.Now()
	resp, err := r.admin.PutPolicy(ctx, &adminv1.PutPolicyRequest{Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	got := resp.GetPolicy()
	if got.GetSettings().GetStrategy() != "external-first" || got.GetTarget().GetNamespace() != "default" || !slices.Equal(got.GetFrom(), []string{"east", "west"}) {
		t.Errorf("not in its canonical form: %v", got)
	}
	if got.GetAuthor() != "ann" || got.GetRevision() != 1 || got.GetSince().AsTime().Before(before.Add(-time.Second)) {
		t.Errorf("who, when and which: %v", got)
	}
	if len(resp.GetWarnings()) != 1 || !strings.Contains(resp.GetWarnings()[0], `did you mean "west"?`) {
		t.Errorf("warnings %q", resp.GetWarnings())
	}
	list, err := r.admin.ListPolicies(ctx, &adminv1.ListPoliciesRequest{})
	if err != nil || len(list.GetPolicies()) != 1 || !proto.Equal(list.GetPolicies()[0].GetPolicy(), got) || !slices.Equal(list.GetPolicies()[0].GetWarnings(), resp.GetWarnings()) {
		t.Errorf("listed right after: %v, %v", list, err)
	}
	r.wantPolicies(t, "it is applied", "cart=external-first 1/1", 1)
	agents, err := r.admin.ListAgents(ctx, &adminv1.ListAgentsRequest{})
	if err != nil || len(agents.GetAgents()) != 1 || agents.GetAgents()[0].GetPolicyRevision() != 1 || !agents.GetAgents()[0].GetConnected() {
		t.Errorf("the agent that applies revision 1 is listed as %v, %v", agents, err)
	}
	if set := f.mirror.Policies().Set; set.Revision() != 1 {
		t.Errorf("the agent says that it applies 1, and has %d", set.Revision())
	}
	_, err = r.admin.DeletePolicy(ctx, &adminv1.DeletePolicyRequest{Target: &policyv1.Target{Service: "carts"}, From: []string{"east", "west"}})
	if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), `did you mean "service default/cart from east,west"?`) {
		t.Errorf("a misspelt one: %v", err)
	}
	gone, err := r.admin.DeletePolicy(ctx, &adminv1.DeletePolicyRequest{Target: &policyv1.Target{Service: "cart"}, From: []string{"west", "east"}})
	if err != nil || gone.GetRevision() != 2 {
		t.Errorf("taken back: %v, %v", gone, err)
	}
	r.wantPolicies(t, "it is gone", "1/1", 2)
}

func TestPolicyWithMistakesIsRefused(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"east": {newRegistry("a")}})
	r.put(t, stating("cart", "any", "east", "west"))
	bad := stating("cart", "Local-First")
	bad.Settings.Failover = &policyv1.Failover{Threshold: 130}
	huge := stating("cart", "any")
	huge.Author = strings.Repeat("x", 70_000)
	for name, c := range map[string]struct {
		policy *policyv1.Policy
		fields []string
	}{
		"nothing at all": {nil, []string{"", ""}},
		"two mistakes":   {bad, []string{"strategy", "failover.threshold"}},
		"an overlap":     {stating("cart", "any", "north", "west"), []string{"from"}},
		"too large":      {huge, []string{""}},
	} {
		_, err := r.admin.PutPolicy(testkit.Context(t), &adminv1.PutPolicyRequest{Policy: c.policy})
		if reason(err) != "InvalidArgument BAD_POLICY" {
			t.Errorf("%s: %v", name, err)
		}
		var fields []string
		for _, d := range status.Convert(err).Details() {
			if b, ok := d.(*errdetails.BadRequest); ok {
				for _, v := range b.GetFieldViolations() {
					fields = append(fields, v.GetField())
				}
			}
		}
		if name != "nothing at all" && !slices.Equal(fields, c.fields) {
			t.Errorf("%s: fields %q, want %q", name, fields, c.fields)
		}
	}
	for name, req := range map[string]*adminv1.DeletePolicyRequest{
		"no target":         {},
		"a bad from":        {Target: &policyv1.Target{Service: "cart"}, From: []string{"*"}},
		"from of a cluster": {Target: &policyv1.Target{Cluster: "east"}, From: []string{"east"}},
	} {
		if _, err := r.admin.DeletePolicy(testkit.Context(t), req); reason(err) != "InvalidArgument BAD_POLICY" {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.wantPolicies(t, "nothing else was written", "cart=any 0/0", 1)
}

func TestPolicyIsComparedAndSet(t *testing.T) {
	r := start(t, t.TempDir(), nil)
	first := r.put(t, stating("cart", "any"))
	put := func(at uint64) error {
		_, err := r.admin.PutPolicy(testkit.Context(t), &adminv1.PutPolicyRequest{Policy: stating("cart", "local-only"), IfRevision: &at})
		return err
	}
	for _, at := range []uint64{0, first.GetPolicy().GetRevision() + 1} {
		if err := put(at); reason(err) != "Aborted REVISION" {
			t.Errorf("at revision %d: %v", at, err)
		}
	}
	if err := put(first.GetPolicy().GetRevision()); err != nil {
		t.Error(err)
	}
	_, err := r.admin.DeletePolicy(testkit.Context(t), &adminv1.DeletePolicyRequest{Target: &policyv1.Target{Service: "cart"}, IfRevision: proto.Uint64(1)})
	if reason(err) != "Aborted REVISION" {
		t.Errorf("delete at an old revision: %v", err)
	}
}

// Of those who write overlapping policies at the same moment one succeeds, and others that have
// nothing to do with each other all do.
func TestPoliciesWrittenAtTheSameTime(t *testing.T) {
	r := start(t, t.TempDir(), nil)
	r.put(t, stating("first", "any"))
	var all sync.WaitGroup
	var mu sync.Mutex
	overlapping := 0
	for n := range 6 {
		all.Go(func() {
			_, err := r.admin.PutPolicy(testkit.Context(t), &adminv1.PutPolicyRequest{Policy: stating(fmt.Sprint("svc-", n), "any")})
			if err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			_, err := r.admin.PutPolicy(testkit.Context(t), &adminv1.PutPolicyRequest{Policy: stating("cart", "any", "east", fmt.Sprint("c-", n))})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				overlapping++
			case reason(err) != "InvalidArgument BAD_POLICY":
				t.Error(err)
			}
		})
	}
	all.Wait()
	if overlapping != 1 {
		t.Errorf("%d overlapping policies were written", overlapping)
	}
	if _, revision, err := r.policies(t); err != nil || revision != 8 {
		t.Errorf("revision %d, %v", revision, err)
	}
}

func TestThereIsRoomForSoMany(t *testing.T) {
	all := mirror.Policies{Size: maxStatedBytes - 100}
	for name, c := range map[string]struct {
		err  error
		want codes.Code
	}{
		"one more":                 {room(all, 0, 5, maxPolicies, "policies", 100), codes.OK},
		"one byte too many":        {room(all, 0, 5, maxPolicies, "policies", 101), codes.ResourceExhausted},
		"one too many":             {room(all, 0, maxPolicies, maxPolicies, "policies", 1), codes.ResourceExhausted},
		"another in place of one":  {room(all, 1000, maxPolicies, maxPolicies, "policies", 1100), codes.OK},
		"a smaller one":            {room(mirror.Policies{Size: 2 * maxStatedBytes}, 1000, 1, maxPolicies, "policies", 1000), codes.OK},
		"a larger one":             {room(all, 1000, 5, maxPolicies, "policies", 1101), codes.ResourceExhausted},
		"the last one":             {room(all, 0, maxPolicies-1, maxPolicies, "policies", 1), codes.OK},
		"all of the room is taken": {room(mirror.Policies{Size: maxStatedBytes}, 0, 0, 1, "cordons", 1), codes.ResourceExhausted},
	} {
		if got := status.Code(c.err); got != c.want {
			t.Errorf("%s: %v", name, c.err)
		}
	}
}

func TestRefusedPolicyIsListed(t *testing.T) {
	r := start(t, t.TempDir(), nil)
	r.put(t, stating("cart", "any"))
	stream, err := r.feed.Report(testkit.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&feedv1.ReportRequest{
		Federation: "test", PolicyRevision: 1, PoliciesRefused: []string{"policy service default/cart is not understood"},
		Agent: &catalogv1.Agent{Cluster: "east", Node: "old", Incarnation: "i", Address: "10.0.0.1:1"},
	}); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, testkit.Context(t), "it is listed", func() error {
		list, err := r.admin.ListPolicies(testkit.Context(t), &adminv1.ListPoliciesRequest{})
		if err == nil && (list.GetAgents() != 1 || list.GetApplied() != 0 || len(list.GetRefused()) != 1 || !strings.HasPrefix(list.GetRefused()[0], "east/old: policy")) {
			err = fmt.Errorf("%v", list)
		}
		return err
	})
}

// The answer must be one that gRPC's readers take, 4 MiB, however many agents refuse how much.
func TestRefusalsAreBounded(t *testing.T) {
	one := readable(slices.Repeat([]string{strings.Repeat("\u00e4x", 1<<10)}, 100))
	if size := proto.Size(&adminv1.ListPoliciesResponse{Refused: one}); len(one) == 0 || size > 20<<10 || !utf8.ValidString(one[0]) {
		t.Errorf("one agent makes %d lines of %d bytes", len(one), size)
	}
	r := &roster{seats: map[mirror.AgentKey]*seat{}}
	for n := range 2000 {
		key := mirror.AgentKey{Cluster: "east", Node: fmt.Sprint("n", n)}
		r.seats[key] = &seat{key: key, refused: one}
	}
	f := r.follows(1)
	if size := proto.Size(&adminv1.ListPoliciesResponse{Refused: f.refused}); f.agents != 2000 || f.applied != 0 || size > 1<<20 ||
		!strings.HasSuffix(f.refused[len(f.refused)-1], "more are not listed") {
		t.Errorf("%d agents of which %d apply it make %d bytes", f.agents, f.applied, size)
	}
}

func TestCordons(t *testing.T) {
	r := start(t, t.TempDir(), map[string][]*registry{"east": {newRegistry("a")}})
	r.wantPolicies(t, "the store is read", "0/0", 0)
	ctx := testkit.Context(t)
	resp, err := r.admin.Cordon(ctx, &adminv1.CordonRequest{Cordon: &policyv1.Cordon{Cluster: "est", Service: "cart", Reason: "disks"}, Ttl: durationpb.New(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	c := resp.GetCordon()
	if left := time.Until(c.GetExpires().AsTime()); c.GetNamespace() != "default" || c.GetRevision() != 1 || c.GetAuthor() == "" || left < 59*time.Minute || left > time.Hour {
		t.Errorf("%v", c)
	}
	if len(resp.GetWarnings()) != 1 || !strings.Contains(resp.GetWarnings()[0], `"east"`) {
		t.Errorf("warnings %q", resp.GetWarnings())
	}
	list, err := r.admin.ListCordons(ctx, &adminv1.ListCordonsRequest{})
	if err != nil || len(list.GetCordons()) != 1 || !proto.Equal(list.GetCordons()[0], c) || list.GetRevision() != 1 {
		t.Errorf("listed right after: %v, %v", list, err)
	}
	past := timestamppb.New(time.Now().Add(-time.Second))
	for name, req := range map[string]*adminv1.CordonRequest{
		"no cluster":                 {},
		"no cluster's name":          {Cordon: &policyv1.Cordon{Cluster: "East"}},
		"a namespace":                {Cordon: &policyv1.Cordon{Cluster: "east", Namespace: "shop"}},
		"an expiry that is over":     {Cordon: &policyv1.Cordon{Cluster: "east", Expires: past}},
		"a time to live that is not": {Cordon: &policyv1.Cordon{Cluster: "east"}, Ttl: durationpb.New(-1)},
		"two ends":                   {Cordon: &policyv1.Cordon{Cluster: "east", Expires: past}, Ttl: durationpb.New(1)},
	} {
		if _, err := r.admin.Cordon(ctx, req); reason(err) != "InvalidArgument BAD_POLICY" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := r.admin.Uncordon(ctx, &adminv1.UncordonRequest{Cluster: "est"}); status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), `"service default/cart in est"`) {
		t.Errorf("the whole of it is not cordoned: %v", err)
	}
	gone, err := r.admin.Uncordon(ctx, &adminv1.UncordonRequest{Cluster: "est", Service: "cart"})
	if err != nil || gone.GetRevision() != 2 {
		t.Errorf("%v, %v", gone, err)
	}
	if _, err := r.admin.Uncordon(ctx, &adminv1.UncordonRequest{Cluster: "est"}); !strings.Contains(fmt.Sprint(err), "there is none at all") {
		t.Errorf("%v", err)
	}
}
