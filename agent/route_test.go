package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/farcall/farcall/agent/consult"
	"github.com/farcall/farcall/agent/invoke"
	"github.com/farcall/farcall/agent/reachability"
	"github.com/farcall/farcall/agent/relay"
	"github.com/farcall/farcall/agent/view"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/internal/reach"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers/intake"
)

var cart = catalog.Name{Namespace: "default", Service: "cart"}

// routing is a router of east-1 whose own cluster has some instances of cart, and west one.
type routing struct {
	*router
	t        *testing.T
	mirror   *mirror.Mirror
	schema   keys.Schema
	revision int64
}

func newRouting(t *testing.T, ids ...string) *routing {
	t.Helper()
	schema, err := keys.New("test")
	if err != nil {
		t.Fatal(err)
	}
	self := reach.Self{Cluster: "east", Node: "n1", Address: "10.0.0.1:1"}
	metrics := prometheus.NewRegistry()
	r := &routing{t: t, schema: schema, mirror: mirror.New(schema), router: &router{counter: consult.NewCounter()}}
	r.book = view.New(view.Config{Self: self, HasRegistry: true}, view.Deps{Metrics: metrics})
	r.tracker = reachability.New(reachability.Deps{Log: testkit.Quiet(), Metrics: metrics, Changed: func(f reachability.Findings) { r.book.Reachable(f.Down, f.Dead, f.Distance) }})
	var own intake.List
	for _, id := range ids {
		own.Instances = append(own.Instances, instance("east", id))
	}
	r.book.Local(intake.Change{Complete: true, Services: map[catalog.Name]intake.List{cart: own}})
	r.book.Attach(r.mirror)
	r.mirror.Begin("s")
	r.change(
		r.entry(keys.Key{Kind: keys.Agent, Cluster: "west", Node: "n1"}, &catalogv1.Agent{Cluster: "west", Node: "n1", Address: "10.1.0.1:1"}),
		r.entry(keys.Key{Kind: keys.Slice, Cluster: "west", Name: cart}, &storev1.Slice{
			Cluster: "west", Namespace: "default", Service: "cart", Epoch: 1, Seq: 1, Instances: []*catalogv1.Instance{instance("west", "w").Proto()},
		}),
		r.entry(keys.Key{Kind: keys.Synced, Cluster: "east"}, &storev1.Synced{Cluster: "east", Epoch: 1}),
		r.entry(keys.Key{Kind: keys.Synced, Cluster: "west"}, &storev1.Synced{Cluster: "west", Epoch: 1}),
		r.entry(keys.Key{Kind: keys.PoliciesSynced}, &storev1.PoliciesSynced{Revision: 1}),
	)
	r.book.Changed(r.mirror.End(r.revision))
	return r
}

func instance(cluster, id string) *catalog.Instance {
	return &catalog.Instance{ID: catalog.ID{Cluster: cluster, Name: cart, Instance: id}, Node: "n1", Address: "10.9.0.1", Port: 80, Weight: 1}
}

func (r *routing) entry(k keys.Key, v proto.Message) *feedv1.Entry {
	r.t.Helper()
	r.revision++
	b, err := keys.Encode(v)
	if err != nil {
		r.t.Fatal(err)
	}
	return &feedv1.Entry{Key: r.schema.Format(k), Value: b, Revision: r.revision}
}

func (r *routing) change(entries ...*feedv1.Entry) {
	r.book.Changed(r.mirror.Apply(time.Now(), entries, r.revision))
}

// put puts a policy for cart.
func (r *routing) put(s *policyv1.Settings) {
	r.t.Helper()
	m := &policyv1.Policy{Target: &policyv1.Target{Namespace: "default", Service: "cart"}, Settings: s}
	p, err := policy.FromProto(m)
	if err != nil {
		r.t.Fatal(err)
	}
	r.change(r.entry(keys.Key{Kind: keys.Policy, ID: p.ID()}, m), r.entry(keys.Key{Kind: keys.PoliciesSynced}, &storev1.PoliciesSynced{Revision: uint64(r.revision)}))
}

// route routes a call that has to be.
func (r *routing) route(q relay.Query) relay.Choice {
	r.t.Helper()
	c, err := r.Route(r.t.Context(), q)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// call makes a call that ends in some way at each of its attempts, and gives where it went.
func (r *routing) call(q relay.Query, outcomes ...relay.Outcome) (went []string) {
	r.t.Helper()
	c := r.route(q)
	for _, o := range outcomes {
		target, ok := c.Next()
		if !ok {
			return append(went, "nobody")
		}
		target.Done(o, time.Millisecond)
		went = append(went, target.TierName+" "+target.Instance.Instance)
	}
	return went
}

func ptr[T any](v T) *T { return &v }

func TestWhatACallMayAskFor(t *testing.T) {
	for _, c := range []struct {
		name  string
		deny  bool
		query relay.Query
		// Where it goes, or the code and reason of the refusal.
		want string
		code codes.Code
	}{
		{name: "nothing", want: "local l"},
		{name: "nothing, where overrides are denied", deny: true, want: "local l"},
		{name: "a strategy", query: relay.Query{Strategy: "external-first"}, want: "* w"},
		{name: "an alias", query: relay.Query{Strategy: "remote"}, want: "* w"},
		{name: "a cluster", query: relay.Query{Cluster: "west"}, want: "west w"},
		{name: "both", query: relay.Query{Strategy: "external-only", Cluster: "west"}, want: "west w"},
		{name: "a contradiction", query: relay.Query{Strategy: "local-only", Cluster: "west"}, want: "CONTRADICTION", code: codes.InvalidArgument},
		{name: "no strategy", query: relay.Query{Strategy: "Local-First"}, want: "BAD_STRATEGY", code: codes.InvalidArgument},
		{name: "no cluster", query: relay.Query{Cluster: "wset"}, want: "NO_SUCH_CLUSTER", code: codes.InvalidArgument},
		{name: "a strategy that is denied", deny: true, query: relay.Query{Strategy: "external-first"}, want: "OVERRIDE_DENIED", code: codes.PermissionDenied},
		{name: "a cluster that is denied", deny: true, query: relay.Query{Cluster: "east"}, want: "OVERRIDE_DENIED", code: codes.PermissionDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRouting(t, "l")
			if c.deny {
				r.put(&policyv1.Settings{Override: ptr("deny")})
			}
			c.query.Name = cart
			ch, err := r.Route(t.Context(), c.query)
			_, resolveErr := views{router: r.router}.Resolve(t.Context(), c.query)
			var e *invoke.Error
			switch {
			case c.code == codes.OK && err == nil && resolveErr == nil:
				if target, _ := ch.Next(); target.TierName+" "+target.Instance.Instance != c.want {
					t.Errorf("went to %s %s, want %s", target.TierName, target.Instance, c.want)
				}
			case !errors.As(err, &e) || e.Code != c.code || e.Reason != c.want || fmt.Sprint(err) != fmt.Sprint(resolveErr):
				t.Errorf("call: %v, question: %v; want %s %s", err, resolveErr, c.code, c.want)
			case c.deny && !strings.Contains(e.Message, "policy service default/cart"):
				t.Errorf("it does not say who denies it: %s", e.Message)
			}
		})
	}
}

// A call that asks for what is in force anyway overrides nothing: else nobody could use
// Agent/Broadcast for a service that is broadcast by a policy which denies overrides.
func TestADeniedOverrideOfNothing(t *testing.T) {
	for _, c := range []struct {
		name, policy string
		query        relay.Query
		code         codes.Code
	}{
		{"nothing", "broadcast", relay.Query{}, codes.OK},
		{"the same", "broadcast", relay.Query{Strategy: "broadcast"}, codes.OK},
		{"the same by an alias", "local-first", relay.Query{Strategy: "local"}, codes.OK},
		{"another", "broadcast", relay.Query{Strategy: "any"}, codes.PermissionDenied},
		{"broadcast of what is not", "local-first", relay.Query{Strategy: "broadcast"}, codes.PermissionDenied},
		{"the same with a pin", "broadcast", relay.Query{Strategy: "broadcast", Cluster: "west"}, codes.PermissionDenied},
		{"a pin", "local-first", relay.Query{Cluster: "east"}, codes.PermissionDenied},
		{"nonsense", "local-first", relay.Query{Strategy: "nearest"}, codes.InvalidArgument},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRouting(t, "a")
			r.put(&policyv1.Settings{Strategy: &c.policy, Override: ptr("deny")})
			c.query.Name = cart
			choice, err := r.Route(t.Context(), c.query)
			var e *invoke.Error
			if errors.As(err, &e); (e == nil) != (c.code == codes.OK) || e != nil && e.Code != c.code {
				t.Fatalf("got %v, want %s", err, c.code)
			}
			if err == nil && (choice.Strategy() != c.policy || !strings.HasPrefix(choice.Terms().Rule, "policy service default/cart: ")) {
				t.Errorf("%s is followed: %s", choice.Strategy(), choice.Terms().Rule)
			}
		})
	}
}

func TestEveryAttemptPicksAgain(t *testing.T) {
	r := newRouting(t, "l")
	if got := fmt.Sprint(r.call(relay.Query{Name: cart}, relay.Refused, relay.NotExecuted, relay.Lost)); got != "[local l * w nobody]" {
		t.Errorf("went to %s", got)
	}
	if got := fmt.Sprint(r.counter.Calls()); got != "map[default/cart:1]" {
		t.Errorf("counted: %s", got)
	}
	if _, err := r.Route(t.Context(), relay.Query{Name: catalog.Name{Namespace: "default", Service: "nobody"}}); err == nil || len(r.counter.Calls()) != 1 {
		t.Errorf("a name that nobody knows: %v, and counted are %v", err, r.counter.Calls())
	}
}

func TestTermsAreThePolicys(t *testing.T) {
	r := newRouting(t, "l")
	r.put(&policyv1.Settings{Retry: &policyv1.Retry{Attempts: 7, Idempotent: []string{"PUT"}}})
	c := r.route(relay.Query{Name: cart})
	if terms := c.Terms(); terms.Attempts != 7 || len(terms.Idempotent) != 1 || terms.MaxParallel != 16 || !strings.HasPrefix(terms.Rule, "default: ") {
		t.Errorf("terms %+v", terms)
	}
	r.put(&policyv1.Settings{Strategy: ptr("broadcast")})
	c = r.route(relay.Query{Name: cart})
	if !strings.HasPrefix(c.Terms().Rule, "policy service default/cart: ") {
		t.Errorf("rule %q", c.Terms().Rule)
	}
	parts := c.Clusters()
	if len(parts) != 2 {
		t.Fatalf("targets %+v", parts)
	}
	for at, id := range []string{"l", "w"} {
		target, ok := parts[at].Choice.Next()
		if !ok || target.Instance.Instance != id || target.Tier != at {
			t.Errorf("target %d: %+v", at, target)
		}
		if _, ok := parts[at].Choice.Next(); ok {
			t.Errorf("target %d has somebody else's instance", at)
		}
	}
}

func TestTheKeyOfACallIsItsHeader(t *testing.T) {
	r := newRouting(t, "a", "b", "c", "d", "e", "f", "g", "h")
	r.put(&policyv1.Settings{Balancer: ptr("ring-hash"), HashHeader: ptr("x-user")})
	where := map[string]bool{}
	for n := range 50 {
		user := fmt.Sprint("user-", n)
		header := func(k string) string { return map[string]string{"x-user": user}[k] }
		first := r.call(relay.Query{Name: cart, Header: header}, relay.Served)[0]
		for range 5 {
			if again := r.call(relay.Query{Name: cart, Header: header}, relay.Served)[0]; again != first {
				t.Fatalf("%s went to %s and then to %s", user, first, again)
			}
		}
		where[first] = true
	}
	if len(where) < 5 {
		t.Errorf("50 keys go to %d of 8 instances", len(where))
	}
}

// Failures and errors count against an instance, a caller that goes away does not.
func TestOutcomesReachTheJudge(t *testing.T) {
	for o, counts := range map[relay.Outcome]bool{
		relay.Served: false, relay.Abandoned: false,
		relay.ServedError: true, relay.NotExecuted: true, relay.Refused: true, relay.Lost: true,
	} {
		t.Run(o.String(), func(t *testing.T) {
			r := newRouting(t, "a", "b")
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- r.book.Run(ctx) }()
			for range 40 {
				c := r.route(relay.Query{Name: cart, Strategy: "local-only"})
				target, _ := c.Next()
				if target.Instance.Instance == "a" {
					target.Done(o, time.Millisecond)
				} else {
					target.Done(relay.Served, time.Millisecond)
				}
			}
			ejected := func() error {
				if why := r.book.Service(cart).Candidates()[0].Ejected; why == "" {
					return errors.New("it is not")
				}
				return nil
			}
			if counts {
				testkit.Eventually(t, testkit.Context(t), "the instance is ejected", ejected)
			}
			cancel()
			<-done
			if !counts && ejected() == nil {
				t.Error("the instance is ejected")
			}
		})
	}
}

// A relay that a call could not reach, or lost, is looked after; one that answered no is not.
func TestOutcomesReachTheTracker(t *testing.T) {
	for o, looked := range map[relay.Outcome]bool{
		relay.NotExecuted: true, relay.Lost: true,
		relay.Served: false, relay.ServedError: false, relay.Refused: false, relay.Abandoned: false, relay.Draining: false,
	} {
		t.Run(o.String(), func(t *testing.T) {
			ctx := testkit.Context(t)
			r := newRouting(t)
			dialled := make(chan string, 10)
			r.tracker = reachability.New(reachability.Deps{
				Log: testkit.Quiet(), Metrics: prometheus.NewRegistry(), Changed: func(reachability.Findings) {},
				Dial: func(_ context.Context, address string) error { dialled <- address; return nil },
			})
			testkit.Go(t, "tracker", r.tracker.Run)
			target, ok := r.route(relay.Query{Name: cart}).Next()
			if !ok {
				t.Fatal("nobody to call")
			}
			target.Done(o, time.Millisecond)
			want := "10.1.0.1:1"
			if !looked {
				want = "10.9.9.9:1" // what was suspected before would be dialled before
				r.tracker.Suspect(want)
			}
			select {
			case got := <-dialled:
				if got != want {
					t.Errorf("%s is dialled, want %s", got, want)
				}
			case <-ctx.Done():
				t.Error("nothing is dialled")
			}
		})
	}
}

func TestResolve(t *testing.T) {
	r := newRouting(t, "l")
	v := views{router: r.router}
	changed := v.Changed(cart)
	got, err := v.Resolve(t.Context(), relay.Query{Name: cart})
	if err != nil || got.GetStrategy() != "local-first" || got.GetStrategySource() != "default" || len(got.GetTiers()) != 2 ||
		got.GetTiers()[0].GetShare() != 100 || got.GetTiers()[1].GetInstances()[0].GetDial() != "10.1.0.1:1" {
		t.Errorf("%v %v", got, err)
	}
	select {
	case <-changed:
		t.Error("it changed though nothing happened")
	default:
	}
	r.put(&policyv1.Settings{Strategy: ptr("local-only")})
	select {
	case <-changed:
	default:
		t.Error("nothing says that it changed")
	}
	if got, err = v.Resolve(t.Context(), relay.Query{Name: cart}); err != nil || got.GetStrategySource() != "policy service default/cart" || len(got.GetTiers()) != 1 {
		t.Errorf("%v %v", got, err)
	}
	nobody := catalog.Name{Namespace: "default", Service: "nobody"}
	changed = v.Changed(nobody)
	if got, err = v.Resolve(t.Context(), relay.Query{Name: nobody}); err != nil || got.GetUnavailable() != "NOT_FOUND" {
		t.Errorf("%v %v", got, err)
	}
	r.book.Local(intake.Change{Complete: true, Services: map[catalog.Name]intake.List{nobody: {Instances: []*catalog.Instance{}}}})
	select {
	case <-changed:
	default:
		t.Error("nothing says that somebody lists it now")
	}
}

// However large a service is, the answer is one that gRPC's readers take, and says what it leaves
// out.
func TestResolveOfALargeService(t *testing.T) {
	const count = 40_000
	ids := make([]string, count)
	for i := range ids {
		ids[i] = fmt.Sprintf("an-instance-with-a-long-name-as-pods-have-%06d", i)
	}
	r := newRouting(t, ids...)
	got, err := views{router: r.router}.Resolve(t.Context(), relay.Query{Name: cart})
	if err != nil {
		t.Fatal(err)
	}
	if size := proto.Size(got); size > 4<<20 || size < 2<<20 {
		t.Errorf("the answer has %d bytes", size)
	}
	local, west := got.GetTiers()[0], got.GetTiers()[1]
	if n := len(local.GetInstances()) + int(local.GetOmitted()); n != count || len(local.GetInstances()) == 0 || west.GetOmitted() != 1 {
		t.Errorf("%d listed, %d omitted of %d; of the next tier %d omitted", len(local.GetInstances()), local.GetOmitted(), count, west.GetOmitted())
	}
}

func TestExplainOfTheNode(t *testing.T) {
	r := newRouting(t, "l")
	v := views{r.router, consult.FromBook(consult.Config{Cluster: "east", Node: "n1"}, r.book, r.counter.Calls)}
	got, err := v.Explain(t.Context(), relay.Query{Name: cart, Strategy: "external-first"})
	if err != nil || got.GetRule() != r.route(relay.Query{Name: cart, Strategy: "external-first"}).Terms().Rule || got.GetStrategySource() != "request" {
		t.Errorf("%v %v", got, err)
	}
	var e *invoke.Error
	if _, err = v.Explain(t.Context(), relay.Query{Name: cart, Strategy: "nearest"}); !errors.As(err, &e) || e.Code != codes.InvalidArgument || e.Reason != "BAD_STRATEGY" {
		t.Errorf("of a strategy that is none: %v", err)
	}
}
