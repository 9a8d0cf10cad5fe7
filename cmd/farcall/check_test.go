package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// wellAdmin is a synchronizer of which nothing is wrong.
type wellAdmin struct {
	fakeAdmin
	failing bool // but its lists cannot be had
}

func (w *wellAdmin) answer() error {
	if w.failing {
		return status.Error(codes.Unavailable, "store: no leader")
	}
	return nil
}

func (w *wellAdmin) ListClusters(context.Context, *adminv1.ListClustersRequest) (*adminv1.ListClustersResponse, error) {
	return &adminv1.ListClustersResponse{Clusters: clusters.GetClusters()[:1]}, w.answer()
}

func (w *wellAdmin) ListCordons(context.Context, *adminv1.ListCordonsRequest) (*adminv1.ListCordonsResponse, error) {
	return &adminv1.ListCordonsResponse{}, w.answer()
}

func (w *wellAdmin) ListAgents(context.Context, *adminv1.ListAgentsRequest) (*adminv1.ListAgentsResponse, error) {
	return &adminv1.ListAgentsResponse{Agents: agents.GetAgents()[:1]}, w.answer()
}

func (w *wellAdmin) ListPolicies(context.Context, *adminv1.ListPoliciesRequest) (*adminv1.ListPoliciesResponse, error) {
	return &adminv1.ListPoliciesResponse{Policies: policyList.GetPolicies()[:1], Revision: 3, Agents: 1, Applied: 1}, w.answer()
}

func TestCheckOfWhatIsWell(t *testing.T) {
	server := serve(t, &wellAdmin{})
	r := farcall(t, "", "--server", server, "check")
	r.want(t, exitOK)
	want := `ok    synchronizer ` + server + ` answers, and so does its store
ok    east: SYNCED, last confirmed <1s ago, with 7 instances of 2 services
warn  east: consul no longer lists 2 instances of default/cart, shop/billing since 2h00m, held for another 2h59m: all 6 instances of the registry were gone in one read -> look whether they are gone: if so, farcall holds release east --registry consul
ok    agents: 1 of 1 connected
ok    1 policy at revision 3, applied by 1 of 1 agent
`
	if r.stdout != want {
		t.Errorf("stdout\n%s\nwant\n%s", r.stdout, want)
	}
	if r.stderr != "nothing is wrong; 1 warning\n" {
		t.Errorf("stderr %s", r.stderr)
	}
	r = farcall(t, "", "--server", server, "check", "-o", "json")
	r.want(t, exitOK)
	var got struct {
		OK       bool
		Findings []finding
	}
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || !got.OK || len(got.Findings) != 5 || got.Findings[2].Do == "" || r.stderr != "" {
		t.Errorf("%v: stdout %s, stderr %s", err, r.stdout, r.stderr)
	}
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	t.Parallel() // it gives the agents time
	server := serve(t, &fakeAdmin{sick: true})
	r := farcall(t, "", "--server", server, "check")
	r.want(t, exitFailed, "farcall: check: 9 failures found, and 15 warnings\n")
	want := `fail  synchronizer ` + server + ` answers, but its store does not -> see to its etcd: nothing new is written or learnt until it answers, and calls go on with what is known
ok    east: SYNCED, last confirmed <1s ago, with 7 instances of 2 services
warn  west: PROTECTED, a suspicious removal is held; last confirmed 3h05m ago -> look whether the instances are gone: if so, wait
fail  west: file cannot be read since 3h04m: open west.yaml: no such file; its last list of 12 instances stays -> see to it that the registry answers whoever reads it
warn  west: consul has 1 record that cannot be used: cart/x: port 70000 is not in 1 to 65535 -> correct it in the registry
fail  west: dns cannot be read since 1h00m: dns: 10.0.0.1:53: refused; what it lists is unknown -> see to it that the registry answers whoever reads it
fail  west: file-2 cannot be read since 1h00m: file: no services key; its last list, an empty one, stays -> see to it that the registry answers whoever reads it
fail  edge: STALE, last confirmed 1h00m ago: its last list stays in use -> see to its registries, and to the log and /readyz of sync-a, which reads them
fail  edge: mdns@10.8.0.0/24 (reported by node-3) has said nothing for 1h00m: either it does not answer, or the cluster's owner is gone; its last list of 1 instance stays -> see to it that the registry answers, and that somebody reads it
warn  edge: consul is being read for the first time since 2h00m; what it lists is unknown -> wait for it
fail  new: was never synced: what it has is unknown -> nobody owns it: see to it that a synchronizer with it in its configuration runs, and to what that says on /readyz of its store
warn  west: cordoned by ann since 1h00m, ends in 5d00h: new switches -> farcall uncordon west takes it back
warn  west: service shop/billing is cordoned -> farcall uncordon west shop/billing takes it back
warn  east: consul no longer lists 2 instances of default/cart, shop/billing since 2h00m, held for another 2h59m: all 6 instances of the registry were gone in one read -> look whether they are gone: if so, farcall holds release east --registry consul
warn  west: it's 1 no longer lists 1 instance of default/cart since 1h00m, held for another 4h59m: more than 5 removals in 10s -> look whether they are gone: if so, farcall holds release west --registry 'it'\''s 1'
warn  east: consul, as read by agents node-1, node-3, no longer lists 6 instances of default/cart, others since 2h00m, held: all 6 instances of the registry were gone in one read; ends when the cluster's owner lists them no more -> look whether they are gone: if so, farcall holds release east, which these agents follow
warn  east: file, as read by agent node-2, no longer lists 1 instance of shop/pay since 1h00m, held: more than 5 removals in 10s; ends by the agent's own time -> look at the registry from there; nothing is to be done if they are gone: each ends by itself
warn  7 holds more -> farcall get holds --cluster ... lists them
warn  edge: what is held is not known: synchronizer sync-b did not answer in time -> see to sync-b
warn  new: what is held is not known: nobody owns it -> see to it that a synchronizer has the cluster in its configuration
warn  what agents hold that report to synchronizer sync-b is not known: it does not answer -> see to sync-b
warn  agent west/node-2: is not connected here -> start it, unless it reports to another synchronizer or is gone for good
ok    agents: 1 of 2 connected
warn  policy service default/cart: externalOrder[0][0]: nobody has heard of a cluster "wset" -> correct it, or farcall policy delete service/default/cart
fail  policy refused by east/node-2: policy service shop/new: unknown strategy -> upgrade that agent, or write the policy without what it does not know
fail  4 policies at revision 9, applied by 2 of 3 agents -> look at the log and /readyz of those that do not
`
	if r.stdout != want {
		t.Errorf("stdout\n%s\nwant\n%s", r.stdout, want)
	}
}

func TestCheckOfNothing(t *testing.T) {
	k := &checker{cli: &cli{}}
	k.clusters(&adminv1.ListClustersResponse{}, ago(0).AsTime())
	k.agents(&adminv1.ListAgentsResponse{})
	k.cordons(cordonList, &adminv1.ListClustersResponse{}, ago(0).AsTime())
	for _, state := range []catalogv1.ClusterState{catalogv1.ClusterState_EXPIRED, catalogv1.ClusterState_REMOVED, catalogv1.ClusterState_STALE} {
		k.cluster(&adminv1.Cluster{Name: "x", State: state, Owner: "sync-a"})
	}
	var words []string
	for _, f := range k.findings {
		words = append(words, f.Level+" "+f.Text)
	}
	for _, want := range []string{
		"warn no cluster is known", "warn no agent is known", "nobody has heard of this cluster", "fail x: EXPIRED, not confirmed since",
		"warn x: REMOVED", "fail x: STALE",
	} {
		if all := strings.Join(words, "\n"); !strings.Contains(all, want) {
			t.Errorf("lacks %q:\n%s", want, all)
		}
	}
}

func TestCheckOfListsThatCannotBeHad(t *testing.T) {
	server := serve(t, &wellAdmin{failing: true})
	r := farcall(t, "", "--server", server, "check")
	r.want(t, exitFailed, "farcall: check: 5 failures found, and 0 warnings\n")
	for _, what := range []string{"clusters", "cordons", "holds", "agents", "policies"} {
		if want := "fail  the " + what + " cannot be had: unavailable: store: no leader -> look at the synchronizer's log\n"; !strings.Contains(r.stdout, want) {
			t.Errorf("stdout lacks %q:\n%s", want, r.stdout)
		}
	}
}

func TestCheckWithNobodyThere(t *testing.T) {
	server := fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))
	r := farcall(t, "", "--server", server, "check")
	r.want(t, exitUnreachable)
	if !strings.HasPrefix(r.stdout, "fail  synchronizer: nobody answers at "+server) || strings.Count(r.stdout, "\n") != 1 {
		t.Errorf("stdout %s", r.stdout)
	}
}

func TestCheckOfAnAgent(t *testing.T) {
	server := serve(t, &wellAdmin{})
	code, body := http.StatusNoContent, ""
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1.0/healthz" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		w.WriteHeader(code)
		_, _ = w.Write([]byte(body))
	}))
	defer agent.Close()
	address := strings.TrimPrefix(agent.URL, "http://")
	check := func(agent string) result { return farcall(t, "", "--server", server, "--agent", agent, "check") }

	r := check(address)
	r.want(t, exitOK)
	if !strings.HasSuffix(r.stdout, "\nok    agent "+address+": takes calls\n") {
		t.Errorf("stdout %s", r.stdout)
	}
	code, body = http.StatusInternalServerError, `{"message":"the agent is draining"}`
	r = check(address)
	r.want(t, exitFailed)
	if !strings.Contains(r.stdout, "\nfail  agent "+address+`: takes no calls: 500 Internal Server Error: {"message":"the agent is draining"} -> `) {
		t.Errorf("stdout %s", r.stdout)
	}
	nobody := fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))
	r = check(nobody)
	r.want(t, exitUnreachable, "farcall: check: agent: nobody answers at "+nobody)
	if !strings.Contains(r.stdout, "\nfail  agent: nobody answers at "+nobody) {
		t.Errorf("stdout %s", r.stdout)
	}
	check("unix:///does/not/exist").want(t, exitUnreachable, "nobody answers at unix:///does/not/exist")
}

func TestInterruptedCheck(t *testing.T) {
	ctx, interrupt := context.WithCancel(testkit.Context(t))
	interrupt()
	var stdout, stderr buffer
	if code := execute(ctx, []string{"--server", serve(t, &wellAdmin{}), "check"}, strings.NewReader(""), &stdout, &stderr); code != exitInterrupted {
		t.Errorf("exit code %d, stderr %s", code, stderr.String())
	}
}
