//go:build unix

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// clusters of this file's tests; east calls.
var three = []string{"east", "north", "west"}

// A state of the federation, and who answers calls from east under each strategy: clusters, all of
// which are seen and no other, or the reason of a refusal; of a broadcast what each target says.
type stateCase struct {
	name  string
	enter func(w *world)
	leave func(w *world)
	want  map[string]string
}

// Every strategy in every state, on real processes; and for every call that is made, explain names the
// rule that decided it, in the very words of the answer's header.
func TestEveryStrategyInEveryState(t *testing.T) {
	w := newWorld(t, options{}, three...)
	east := w.clusters["east"].registry.(*fileRegistry)
	say := func(word string) func(w *world) {
		return func(*world) { east.says = word; east.save() }
	}
	for _, c := range []stateCase{
		{name: "healthy", want: map[string]string{
			"local-first": "east", "external-first": "north west", "local-only": "east", "external-only": "north west",
			"any": "east north west", "broadcast": "207 east 200, north 200, west 200",
		}},
		{name: "degraded", enter: say("health: UNHEALTHY"), leave: say(""), want: map[string]string{
			"local-first": "north west", "external-first": "north west", "local-only": "east", "external-only": "north west",
			"any": "north west", "broadcast": "207 north 200, west 200",
		}},
		{name: "draining", enter: say("health: DRAINING"), leave: say(""), want: map[string]string{
			"local-first": "north west", "external-first": "north west", "local-only": "NO_LOCAL_INSTANCES", "external-only": "north west",
			"any": "north west", "broadcast": "207 north 200, west 200",
		}},
		{name: "an external cluster cordoned", enter: (*world).cordonWest, leave: (*world).uncordonWest, want: map[string]string{
			"local-first": "east", "external-first": "north", "local-only": "east", "external-only": "north",
			"any": "east north", "broadcast": "207 east 200, north 200",
		}},
		{name: "stale", enter: func(w *world) { w.sync.Pause() }, leave: func(w *world) { w.sync.Resume() }, want: map[string]string{
			"local-first": "east", "external-first": "north west", "local-only": "east", "external-only": "north west",
			"any": "east north west", "broadcast": "207 east 200, north 200, west 200",
		}},
		{name: "an external cluster cut off", enter: func(w *world) { w.clusters["west"].agent.Kill() },
			leave: func(w *world) { w.clusters["west"].agent.Start(); w.reaches("east", "west") }, want: map[string]string{
				"local-first": "east", "external-first": "north", "local-only": "east", "external-only": "north",
				"any": "east north", "broadcast": "502 east 200, north 200, west failed",
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			if c.enter != nil {
				c.enter(w)
			}
			for strategy, want := range c.want {
				testkit.Eventually(t, w.ctx, strategy+" as it should be", func() error { return w.matches(strategy, want) })
			}
			if c.name != "stale" { // a synchronizer that stands still answers nobody
				for strategy, want := range c.want {
					w.explains(strategy, want)
				}
			}
			if c.leave != nil {
				c.leave(w)
			}
		})
	}
}

// matches makes calls until all that are wanted were seen, and says where one was not wanted.
func (w *world) matches(strategy, want string) error {
	a := w.must("east", "cart/method/x", "farcall-strategy: "+strategy)
	switch {
	case strategy == "broadcast":
		if got := fmt.Sprint(a.status, " ", broadcast(w, a)); got != want {
			// The external targets stand in an order that is drawn for each agent.
			parts := strings.Split(strings.TrimPrefix(got, fmt.Sprint(a.status, " ")), ", ")
			slices.Sort(parts)
			if sorted := fmt.Sprint(a.status, " ", strings.Join(parts, ", ")); sorted != want {
				return fmt.Errorf("got %s, want %s", got, want)
			}
		}
		return nil
	case strings.HasPrefix(want, "NO_"):
		if a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, want) {
			return fmt.Errorf("%d %s, want %s", a.status, a.body, want)
		}
		return nil
	}
	clusters := strings.Fields(want)
	seen := map[string]bool{}
	for n := 0; n < 400 && (n < 12 || len(seen) < len(clusters)); n++ {
		a := w.must("east", "cart/method/x", "farcall-strategy: "+strategy)
		if a.status != http.StatusOK || !slices.Contains(clusters, a.cluster()) || a.strategy != strategy {
			return fmt.Errorf("%d by %q as %q (%s): %s", a.status, a.servedBy, a.strategy, a.reason, a.body)
		}
		seen[a.cluster()] = true
	}
	if len(seen) < len(clusters) {
		return fmt.Errorf("only %v, want %s", seen, want)
	}
	return nil
}

// explains compares what a call says of itself with what explain says of it.
func (w *world) explains(strategy, want string) {
	w.t.Helper()
	a := w.must("east", "cart/method/x", "farcall-strategy: "+strategy)
	e, err := w.connect().Explain(w.ctx, &adminv1.ExplainRequest{Service: "cart", From: "east", Strategy: strategy})
	if err != nil {
		w.t.Error(err)
		return
	}
	if !strings.Contains(e.GetComputedBy(), "agent east/east") {
		w.t.Errorf("computed by %q, want a live agent of the caller's cluster", e.GetComputedBy())
	}
	failed := a.status == http.StatusBadGateway // then it says what failed
	if a.reason == "" || !strings.HasPrefix(a.reason, e.GetRule()) && !failed {
		w.t.Errorf("%s: the call says %q, explain says %q", strategy, a.reason, e.GetRule())
	}
	if strings.HasPrefix(want, "NO_") {
		if e.GetUnavailable() != want || !strings.Contains(a.reason, want) {
			w.t.Errorf("%s: explain says %q, the call %q, want %s", strategy, e.GetUnavailable(), a.reason, want)
		}
	}
	picked := false
	for _, i := range e.GetInstances() {
		if i.GetReason() == "" && i.GetTier() < 0 {
			w.t.Errorf("%s: %s is in no tier and nothing says why", strategy, i.GetInstance().GetId())
		}
		if i.GetInstance().GetCluster()+"/"+i.GetInstance().GetId() == a.servedBy {
			picked = i.GetPicked()
		}
	}
	if a.servedBy != "" && !picked {
		w.t.Errorf("%s: %s served, and explain does not pick it:\n%v", strategy, a.servedBy, e)
	}
}

// farcall runs the command line against the world and gives what it printed.
func (w *world) farcall(stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(w.ctx, filepath.Join(bin, "farcall"), append([]string{"--server", w.admin}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	if err := cmd.Run(); err != nil {
		return out.String() + talk.String(), fmt.Errorf("farcall %s: %w: %s%s", strings.Join(args, " "), err, out.String(), talk.String())
	}
	return out.String() + talk.String(), nil
}

// does is farcall that has to succeed.
func (w *world) does(stdin string, args ...string) string {
	w.t.Helper()
	out, err := w.farcall(stdin, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) cordonWest()   { w.does("", "cordon", "west", "--reason", "works") }
func (w *world) uncordonWest() { w.does("", "uncordon", "west") }

// traffic makes calls from east, one after the other in each of four lines, until stop.
type traffic struct {
	w       *world
	headers []string
	stop    chan struct{}
	done    chan struct{}
	calls   chan seen
	log     []seen
}

type seen struct {
	at, end time.Time // when it began and ended
	answer  answer
	err     error
}

func (w *world) traffic(headers ...string) *traffic {
	tr := &traffic{w: w, headers: headers, stop: make(chan struct{}), done: make(chan struct{}), calls: make(chan seen, 64)}
	lines := make(chan struct{}, 4)
	for range cap(lines) {
		go func() {
			defer func() { lines <- struct{}{} }()
			for {
				select {
				case <-tr.stop:
					return
				default:
				}
				at := time.Now()
				a, err := w.call("east", http.MethodPost, "cart/method/x", tr.headers...)
				tr.calls <- seen{at, time.Now(), a, err}
			}
		}()
	}
	go func() {
		for range cap(lines) {
			<-lines
		}
		close(tr.calls)
	}()
	go func() {
		defer close(tr.done)
		for c := range tr.calls {
			tr.log = append(tr.log, c)
		}
	}()
	return tr
}

// end stops the traffic and gives every call.
func (tr *traffic) end() []seen {
	close(tr.stop)
	<-tr.done
	return tr.log
}

// changed gives how long after at the last call began that was served by another than the clusters named.
func changed(log []seen, at time.Time, to ...string) (last time.Duration) {
	for _, c := range log {
		if c.at.After(at) && !slices.Contains(to, c.answer.cluster()) {
			last = max(last, c.at.Sub(at))
		}
	}
	return last
}

// A policy that is applied moves live traffic within a second, and loses no call.
func TestAPolicyMovesLiveTraffic(t *testing.T) {
	w := newWorld(t, options{}, three...)
	for _, step := range []struct {
		name, policy string
		to           []string
	}{
		{"to the other clusters", "service: cart\nstrategy: external-first\n", []string{"north", "west"}},
		{"to one of them", "service: cart\nstrategy: external-first\nexternalOrder: [[west], [\"*\"]]\n", []string{"west"}},
		{"home again", "service: cart\nstrategy: local-only\n", []string{"east"}},
		{"for these callers only", "service: cart\nfrom: [east]\nstrategy: external-only\nexternalOrder: [[north]]\n", []string{"north"}},
	} {
		t.Run(step.name, func(t *testing.T) {
			w.t = t
			tr := w.traffic()
			out := w.does(step.policy, "policy", "apply", "-f", "-", "--wait=false")
			applied := time.Now()
			testkit.Eventually(t, w.ctx, "a second goes by", func() error {
				if time.Since(applied) < 1500*time.Millisecond {
					return errors.New("not yet")
				}
				return nil
			})
			log := tr.end()
			for _, c := range log {
				if c.err != nil || c.answer.status != http.StatusOK {
					t.Errorf("a call was lost: %v %d %s", c.err, c.answer.status, c.answer.body)
				}
			}
			took := changed(log, applied, step.to...)
			t.Logf("%s: %d calls, the last one elsewhere began %s after the policy was applied", strings.TrimSpace(out), len(log), took.Round(time.Millisecond))
			if took > time.Second {
				t.Errorf("calls went elsewhere for %s", took)
			}
		})
	}
	w.t = t
	// Who is not named by the policy is left alone: the one without from is in force there.
	if a := w.must("north", "cart/method/x"); a.cluster() != "north" || !strings.Contains(a.reason, "policy service default/cart") {
		t.Errorf("north's callers: %q, %s", a.servedBy, a.reason)
	}
	list := w.does("", "get", "policies")
	if !strings.Contains(list, "service default/cart") || !strings.Contains(list, "3 of 3") {
		t.Errorf("get policies:\n%s", list)
	}
	w.does("", "policy", "delete", "service/cart", "--from", "east")
	w.does("", "policy", "delete", "service/cart")
	testkit.Eventually(t, w.ctx, "the default is back", func() error { return w.nowServed("local-first", "east", "default") })
}

// nowServed makes one call from east without headers.
func (w *world) nowServed(strategy, cluster, reason string) error {
	a := w.must("east", "cart/method/x")
	if a.cluster() != cluster || a.strategy != strategy || !strings.Contains(a.reason, reason) {
		return fmt.Errorf("by %q as %q: %s", a.servedBy, a.strategy, a.reason)
	}
	return nil
}

// Where both sides say external-first for the same service, each call is carried once.
func TestBothSidesExternalFirstDoNotLoop(t *testing.T) {
	w := newWorld(t, options{}, "east", "west")
	w.does("service: cart\nstrategy: external-first\n", "policy", "apply", "-f", "-")
	hits := func() (n int64) {
		for _, c := range w.clusters {
			for _, i := range c.apps {
				n += i.hits.Load()
			}
		}
		return n
	}
	before := hits()
	for range 20 {
		if a := w.must("east", "cart/method/x"); a.cluster() != "west" || a.status != http.StatusOK {
			t.Errorf("from east by %q: %d %s", a.servedBy, a.status, a.body)
		}
		if a := w.must("west", "cart/method/x"); a.cluster() != "east" || a.status != http.StatusOK {
			t.Errorf("from west by %q: %d %s", a.servedBy, a.status, a.body)
		}
	}
	if n := hits() - before; n != 40 {
		t.Errorf("40 calls were executed %d times", n)
	}
}

// A broadcast to three clusters of which one is dead reports two successes and one failure by name, and
// meets or misses minSuccess accordingly.
func TestBroadcastWithOneClusterDead(t *testing.T) {
	w := newWorld(t, options{}, three...)
	w.clusters["west"].agent.Kill()
	for _, c := range []struct {
		minSuccess string
		status     int
	}{{"all", 502}, {"2", 207}, {"3", 502}, {"1", 207}} {
		w.does("service: cart\nstrategy: broadcast\nbroadcast: {minSuccess: "+c.minSuccess+", targetTimeout: 2s}\n", "policy", "apply", "-f", "-")
		a := w.must("east", "cart/method/x")
		got := strings.Split(broadcast(w, a), ", ")
		slices.Sort(got)
		if a.status != c.status || strings.Join(got, ", ") != "east 200, north 200, west failed" {
			t.Errorf("minSuccess %s: %d %v, want %d: %s", c.minSuccess, a.status, got, c.status, a.body)
		}
	}
}

// A policy may forbid what calls say for themselves, and its answer says which policy it is.
func TestOverridesCanBeDenied(t *testing.T) {
	w := newWorld(t, options{}, "east", "west")
	w.does("service: cart\nstrategy: local-first\noverride: deny\n", "policy", "apply", "-f", "-")
	for _, h := range []string{"farcall-strategy: external-first", "farcall-cluster: west"} {
		if a := w.must("east", "cart/method/x", h); a.status != http.StatusForbidden || !strings.Contains(a.body, "service default/cart") {
			t.Errorf("%s: %d %s", h, a.status, a.body)
		}
	}
	if a := w.must("east", "cart/method/x"); a.cluster() != "east" {
		t.Errorf("without a header: %d by %q", a.status, a.servedBy)
	}
}

// Who counts the calls says before a policy is applied what it would move.
func TestAPolicyIsPreviewedFromRealCalls(t *testing.T) {
	w := newWorld(t, options{}, "east", "west")
	for range 30 {
		w.must("east", "cart/method/x")
	}
	for range 10 {
		w.must("west", "cart/method/x")
	}
	p, err := w.connect().PreviewPolicy(w.ctx, &adminv1.PreviewPolicyRequest{Policy: &policyv1.Policy{
		Target: &policyv1.Target{Service: "cart"}, From: []string{"east"},
		Settings: &policyv1.Settings{Strategy: proto.String("external-only")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.GetMoves()) != 1 || p.GetAgents() != 1 || p.GetAnswered() != 1 {
		t.Fatalf("preview: %v", p)
	}
	m := p.GetMoves()[0]
	if m.GetFrom() != "east" || m.GetService() != "cart" || m.GetCalls() < 30 || m.GetStrategyBefore() != "local-first" || m.GetStrategyAfter() != "external-only" {
		t.Errorf("the move: %v", m)
	}
	parts := map[string]string{}
	for _, s := range m.GetClusters() {
		parts[s.GetCluster()] = fmt.Sprint(s.GetBefore(), " ", s.GetAfter())
	}
	if parts["east"] != "100 0" || parts["west"] != "0 100" {
		t.Errorf("from where to where: %v", parts)
	}
	// Nothing was written.
	if a := w.must("east", "cart/method/x"); a.cluster() != "east" {
		t.Errorf("after the preview: %q", a.servedBy)
	}
	out := w.does("service: cart\nstrategy: external-only\nexternalOrder: [[north]]\n", "policy", "preview", "-f", "-")
	if !strings.Contains(out, "nobody") || !strings.Contains(out, "cart") {
		t.Errorf("a policy that leaves a service with nobody:\n%s", out)
	}
}

// A store that is lost takes no policy and no cordon with it: agents bring them back.
func TestPoliciesOutliveTheStore(t *testing.T) {
	w := newWorld(t, options{}, three...)
	w.does("service: cart\nstrategy: external-first\n", "policy", "apply", "-f", "-")
	w.cordonWest()
	testkit.Eventually(t, w.ctx, "both are in force", func() error { return w.nowServed("external-first", "north", "policy") })
	w.sync.Kill()
	if err := os.RemoveAll(filepath.Join(w.dir, "store")); err != nil {
		t.Fatal(err)
	}
	w.sync.Start()
	testkit.Eventually(t, w.ctx, "the store has them again", func() error {
		list, err := w.connect().ListPolicies(w.ctx, &adminv1.ListPoliciesRequest{})
		if err != nil {
			return err
		}
		cordons, err := w.connect().ListCordons(w.ctx, &adminv1.ListCordonsRequest{})
		if err == nil && (len(list.GetPolicies()) != 1 || len(cordons.GetCordons()) != 1 || list.GetRevision() < 2) {
			err = fmt.Errorf("%v %v", list, cordons)
		}
		if err := w.nowServed("external-first", "north", "policy"); err != nil {
			t.Errorf("meanwhile: %v", err)
		}
		return err
	})
	// What is written from now on counts, although the store is another.
	w.uncordonWest()
	w.does("", "policy", "delete", "service/cart")
	testkit.Eventually(t, w.ctx, "the default is back", func() error { return w.nowServed("local-first", "east", "default") })
	testkit.Eventually(t, w.ctx, "west is back", func() error { return w.matches("external-only", "north west") })
}

// Bad input is refused at the door, with what would be right, and nothing of it is kept.
func TestBadPoliciesAreRefusedAtTheDoor(t *testing.T) {
	w := newWorld(t, options{}, "east")
	for _, c := range []struct{ name, policy, says string }{
		{"a word that is none", "service: cart\nstrategy: local-frist\n", "local-first"},
		{"another case", "service: cart\nstrategy: Local-First\n", "local-first"},
		{"above a hundred", "service: cart\nfailover: {threshold: 130}\n", "100"},
		{"weights of nothing", "service: cart\nweights: {east: 0, west: 0}\n", "zero"},
		{"a key that is none", "service: cart\nstrategi: any\n", "strategy"},
		{"no target", "strategy: any\n", "service"},
		{"nothing stated", "service: cart\n", "strategy"},
	} {
		out, err := w.farcall(c.policy, "policy", "apply", "-f", "-")
		if err == nil || !strings.Contains(out, c.says) {
			t.Errorf("%s: %v, says %q, want %q", c.name, err, out, c.says)
		}
	}
	// The same at the API, which others may call.
	_, err := w.connect().PutPolicy(w.ctx, &adminv1.PutPolicyRequest{Policy: &policyv1.Policy{
		Target: &policyv1.Target{Service: "cart"}, Settings: &policyv1.Settings{Strategy: proto.String("Broadcast")},
	}})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "broadcast") {
		t.Errorf("PutPolicy: %v", err)
	}
	if list, err := w.connect().ListPolicies(w.ctx, &adminv1.ListPoliciesRequest{}); err != nil || len(list.GetPolicies()) > 0 {
		t.Errorf("%v %v", list, err)
	}
	// A cluster that nobody has heard of is accepted, and the warning stays.
	out := w.does("service: cart\nexternalOrder: [[wset], [\"*\"]]\n", "policy", "apply", "-f", "-")
	if !strings.Contains(out, "wset") {
		t.Errorf("apply says nothing of a cluster that nobody has heard of: %s", out)
	}
	if out, err := w.farcall("", "check"); !strings.Contains(out, "wset") {
		t.Errorf("check: %v: %s", err, out)
	}
}
