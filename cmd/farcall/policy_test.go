package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
)

// The policy of service default/cart as policyList has it, in other words.
const cartAsIs = `
service: cart.default
strategy: remote
externalOrder: [[wset], ["*"]]
`

const three = `service: stock
namespace: shop
from: [west, east]
strategy: local-first
---` + cartAsIs + `---
cluster: east
failover: {threshold: 50}
`

// settings reads the settings of a policy in protojson.
func settings(t *testing.T, s string) *policyv1.Settings {
	t.Helper()
	m := &policyv1.Settings{}
	if err := protojson.Unmarshal([]byte(s), m); err != nil {
		t.Fatal(err)
	}
	return m
}

func put(target *policyv1.Target, from []string, s *policyv1.Settings) *adminv1.PutPolicyRequest {
	return &adminv1.PutPolicyRequest{Policy: &policyv1.Policy{Target: target, From: from, Settings: s, Author: author()}}
}

// sent fails the test unless these changes, and no others, were asked for.
func (f *fakeAdmin) sent(t *testing.T, want ...proto.Message) {
	t.Helper()
	got := f.kept.requests()
	if len(got) != len(want) {
		t.Fatalf("asked for %v, want %v", got, want)
	}
	for i := range want {
		if !proto.Equal(got[i], want[i]) {
			t.Errorf("asked for\n%v, want\n%v", got[i], want[i])
		}
	}
}

func TestApply(t *testing.T) {
	f := &fakeAdmin{}
	f.kept.lag = 2 // it is waited for
	server := serve(t, f)
	r := farcall(t, three, "--server", server, "policy", "apply", "-f", "-")
	r.want(t, exitOK)
	if want := `service shop/stock from east,west: applied at revision 10 (created)
service default/cart: unchanged at revision 7
cluster east: applied at revision 11 (changed)
`; r.stdout != want {
		t.Errorf("stdout\n%s\nwant\n%s", r.stdout, want)
	}
	if want := `warning: service default/cart: externalOrder[0][0]: nobody has heard of a cluster "wset"
applied by 3 of 3 agents
`; r.stderr != want {
		t.Errorf("stderr\n%s\nwant\n%s", r.stderr, want)
	}
	f.sent(t,
		put(&policyv1.Target{Namespace: "shop", Service: "stock"}, []string{"east", "west"}, settings(t, `{"strategy":"local-first"}`)),
		put(&policyv1.Target{Cluster: "east"}, nil, settings(t, `{"failover":{"threshold":50,"minAvailable":1,"mode":"spill"}}`)),
	)

	// A second time there is nothing to write.
	r = farcall(t, three, "--server", server, "policy", "apply", "-f", "-", "-o", "json")
	r.want(t, exitOK)
	if r.stderr != "" {
		t.Errorf("stderr %q", r.stderr)
	}
	var got struct {
		Policies []struct {
			Action, Revision string
			Warnings         []string
		}
		Applied struct {
			Revision        string
			Agents, Applied int
		}
	}
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
		t.Fatalf("%v in %s", err, r.stdout)
	}
	if len(got.Policies) != 3 || got.Applied.Revision != "11" || got.Applied.Applied != 3 {
		t.Errorf("got %+v", got)
	}
	for _, p := range got.Policies {
		if p.Action != actionUnchanged {
			t.Errorf("got %+v", p)
		}
	}
	if n := len(f.kept.requests()); n != 2 {
		t.Errorf("%d changes were asked for, want no more than 2", n)
	}
}

// A file may hold thousands of policies: that writing all of them takes long is no reason to stop
// halfway.
func TestEachPolicyOfAFileHasItsOwnTime(t *testing.T) {
	f := &fakeAdmin{kept: kept{pace: 100 * time.Millisecond}}
	r := farcall(t, "{service: a, strategy: any}\n---\n{service: b, strategy: any}\n---\n{service: c, strategy: any}\n",
		"--server", serve(t, f), "policy", "apply", "-f", "-")
	r.want(t, exitOK)
	at := f.kept.deadlines
	if len(at) != 3 || at[2].Sub(at[0]) < f.kept.pace {
		t.Errorf("the deadlines are %v", at)
	}
}

func TestApplyIfRevision(t *testing.T) {
	f := &fakeAdmin{}
	server := serve(t, f)
	file := filepath.Join(t.TempDir(), "cart.yaml")
	if err := os.WriteFile(file, []byte("service: cart\nstrategy: any\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	apply := func(revision string) result {
		return farcall(t, "", "--server", server, "policy", "apply", "-f", file, "--if-revision", revision)
	}
	for _, revision := range []string{"0", "6"} {
		apply(revision).want(t, exitConflict, "farcall: policy apply: service default/cart: aborted (REVISION): it has revision 7")
	}
	f.sent(t)
	apply("7").want(t, exitOK)
	// What is stored is just what is to be written; but at a revision that it must not have.
	apply("7").want(t, exitConflict)
	r := apply("10")
	r.want(t, exitOK)
	if r.stdout != "service default/cart: unchanged at revision 10\n" {
		t.Errorf("stdout %s", r.stdout)
	}
	f.sent(t, &adminv1.PutPolicyRequest{IfRevision: proto.Uint64(7), Policy: &policyv1.Policy{
		Target: &policyv1.Target{Namespace: "default", Service: "cart"}, Settings: settings(t, `{"strategy":"any"}`), Author: author(),
	}})
}

// What is wrong with one of several is told with what became of the others, and the rest is left.
func TestApplyThatIsRefusedHalfway(t *testing.T) {
	f := &fakeAdmin{}
	f.kept.refuse = "cart"
	server := serve(t, f)
	text := "namespace: new\nstrategy: any\n---\nservice: cart\nstrategy: any\n---\ncluster: west\nstrategy: any\n"
	r := farcall(t, text, "--server", server, "policy", "apply", "-f", "-")
	r.want(t, exitRefused, "farcall: policy apply: service default/cart: invalid argument: from: shares east with another policy")
	if r.stdout != "namespace new: applied at revision 10 (created)\n" {
		t.Errorf("stdout %s", r.stdout)
	}
	if n := len(f.kept.requests()); n != 1 {
		t.Errorf("%d changes were taken, want 1", n)
	}
	r = farcall(t, strings.Replace(text, "new", "newer", 1), "--server", server, "policy", "apply", "-f", "-", "-o", "yaml")
	r.want(t, exitRefused)
	if !strings.Contains(r.stdout, "action: created") || strings.Contains(r.stdout, "applied:") {
		t.Errorf("stdout %s", r.stdout)
	}
}

func TestApplyThatAgentsDoNotFollow(t *testing.T) {
	t.Parallel()
	f := &fakeAdmin{}
	f.kept.lag = 1 << 20
	server := serve(t, f)
	r := farcall(t, "service: cart\nstrategy: any\n", "--server", server, "policy", "apply", "-f", "-", "-o", "json")
	r.want(t, exitDeadline,
		"farcall: policy apply: it is written at revision 10, but only 2 of 3 agents applied it within 5s; not east/node-1",
		"hint: farcall check says what to do")
	if !strings.Contains(r.stdout, `"action": "changed"`) || !strings.Contains(r.stdout, `"applied": 2`) {
		t.Errorf("stdout %s", r.stdout)
	}
	farcall(t, "service: cart\nstrategy: broadcast\n", "--server", server, "policy", "apply", "-f", "-", "--wait=false").want(t, exitOK)
}

func TestBadPoliciesAreNotSent(t *testing.T) {
	f := &fakeAdmin{}
	server := serve(t, f)
	missing := filepath.Join(t.TempDir(), "none.yaml")
	for _, c := range []struct {
		args, stdin string
		words       []string
	}{
		{"policy apply -f -", "service: cart\nstrategy: local-frist\n", []string{"farcall: stdin:2: strategy: ", `did you mean "local-first"?`, "external-first"}},
		{"policy apply -f -", "service: cart\nstrategy: any\n---\nservice: shop/stock\nstrategi: any\nfailover: {threshold: 130}\n",
			[]string{"farcall: stdin has 2 mistakes\n", "\n  stdin:5: strategi: ", "\n  stdin:6: failover.threshold: ", "100"}},
		{"policy preview -f -", "service: cart\n", []string{"farcall: stdin:1: ", "strategy"}},
		{"policy delete -f -", "", []string{"farcall: stdin:1: "}},
		{"policy apply -f -", "service: cart\nstrategy: any\n---\nservice: default/cart\nstrategy: any\n", []string{"stands in line 1 already"}},
		{"policy apply -f " + missing, "", []string{"none.yaml: no such file"}},
		{"policy apply", "", []string{"policy apply what? -f names the file"}},
		{"policy apply cart", "", []string{`unknown command "cart"`}},
		{"policy apply -f - --if-revision 1", three, []string{"--if-revision is for one policy: - holds 3 policies"}},
		{"policy apply -f - --if-revision 1 --preview", cartAsIs, []string{"--preview writes nothing"}},
		{"policy apply -f - --if-revision x", cartAsIs, []string{"invalid argument"}},
		{"policy", "", []string{"policy what? Want one of apply, delete, preview"}},
		{"policy aply", "", []string{`did you mean "apply"?`}},
		{"policy delete", "", []string{"policy delete what? Want a target, for example service/cart, or -f FILE"}},
		{"policy delete service/cart -f -", cartAsIs, []string{"want a target or -f, not both"}},
		{"policy delete -f - --from east", cartAsIs, []string{"--from goes with a target"}},
		{"policy delete cart", "", []string{`"cart": want service/cart`}},
		{"policy delete sevrice/cart", "", []string{`there is no "sevrice"; did you mean "service/cart"?`}},
		{"policy delete node/cart", "", []string{`there is no "node": want one of service, namespace, cluster`}},
		{"policy delete service/a.b.c", "", []string{"more than one dot"}},
		{"policy delete cluster/Eäst", "", []string{`"cluster/Eäst": `}},
		{"policy delete service/cart --from e!", "", []string{"--from: "}},
		{"policy preview", "", []string{"policy preview what? Want -f FILE or --delete"}},
		{"policy preview -f - --delete service/cart", cartAsIs, []string{"want -f or --delete, not both"}},
		{"policy preview -f - --from east", cartAsIs, []string{"--from goes with --delete"}},
		{"explain cart --from east --policy -", three, []string{"--policy -: holds 3 policies, want one"}},
		{"explain cart --from east --policy -", "strategy: any\n", []string{"stdin:1: "}},
		{"cordon", "", []string{"accepts between 1 and 2 arg(s)"}},
		{"cordon e!", "", []string{`"e!": `}},
		{"cordon east a.b.c", "", []string{"more than one dot"}},
		{"cordon east --for -1s", "", []string{"--for -1s: want more than 0s"}},
		{"cordon east --for 0s", "", []string{"--for 0s: want more than 0s"}},
		{"uncordon e!", "", []string{`"e!": `}},
	} {
		t.Run(c.args, func(t *testing.T) {
			r := farcall(t, c.stdin, append([]string{"--server", server}, strings.Fields(c.args)...)...)
			r.want(t, exitUsage, c.words...)
			if r.stdout != "" {
				t.Errorf("stdout %s", r.stdout)
			}
		})
	}
	f.sent(t)
	if len(f.kept.previews) > 0 {
		t.Errorf("a preview was asked for: %v", f.kept.previews)
	}
}

func TestPoliciesThatAreTooLarge(t *testing.T) {
	server := serve(t, &fakeAdmin{})
	r := farcall(t, strings.Repeat("#", maxPolicies+1), "--server", server, "policy", "apply", "-f", "-")
	r.want(t, exitUsage, "- is larger than 4 MiB: this is no policy")
}

func TestDelete(t *testing.T) {
	for _, c := range []struct {
		args, stdin, stdout string
		want                []*adminv1.DeletePolicyRequest
	}{
		{"service/cart", "", "service default/cart: deleted at revision 10\n",
			[]*adminv1.DeletePolicyRequest{{Target: &policyv1.Target{Namespace: "default", Service: "cart"}}}},
		{"service/new.shop", "", "service shop/new: deleted at revision 10\n",
			[]*adminv1.DeletePolicyRequest{{Target: &policyv1.Target{Namespace: "shop", Service: "new"}}}},
		{"service/shop/new", "", "service shop/new: deleted at revision 10\n",
			[]*adminv1.DeletePolicyRequest{{Target: &policyv1.Target{Namespace: "shop", Service: "new"}}}},
		{"namespace/shop --from west,east,west", "", "namespace shop from east,west: deleted at revision 10\n",
			[]*adminv1.DeletePolicyRequest{{Target: &policyv1.Target{Namespace: "shop"}, From: []string{"east", "west"}}}},
		{"-f -", cartAsIs + "---\ncluster: east\nstrategy: any\n", "service default/cart: deleted at revision 10\ncluster east: deleted at revision 11\n",
			[]*adminv1.DeletePolicyRequest{{Target: &policyv1.Target{Namespace: "default", Service: "cart"}}, {Target: &policyv1.Target{Cluster: "east"}}}},
	} {
		t.Run(c.args, func(t *testing.T) {
			f := &fakeAdmin{}
			r := farcall(t, c.stdin, append([]string{"--server", serve(t, f), "policy", "delete"}, strings.Fields(c.args)...)...)
			r.want(t, exitOK, "applied by 3 of 3 agents\n")
			if r.stdout != c.stdout {
				t.Errorf("stdout %s, want %s", r.stdout, c.stdout)
			}
			var want []proto.Message
			for _, m := range c.want {
				want = append(want, m)
			}
			f.sent(t, want...)
		})
	}
}

func TestDeleteOfWhatIsNot(t *testing.T) {
	f := &fakeAdmin{}
	server := serve(t, f)
	for _, c := range []struct{ args, stdin, says, hint string }{
		{"delete service/crat", "", "there is no policy service default/crat", "did you mean service/default/cart?"},
		{"delete service/cart --from east", "", "there is no policy service default/cart from east", "there is one for service default/cart: did you mean service/default/cart?"},
		{"delete namespace/shop", "", "there is no policy namespace shop", "there is one for namespace shop from east,west: did you mean namespace/shop --from east,west?"},
		{"preview --delete cluster/wholly-other", "", "there is no policy cluster wholly-other", "farcall get policies lists them"},
		// Nothing of a file is deleted where one of it is not there.
		{"delete -f -", cartAsIs + "---\ncluster: eats\nstrategy: any\n", "there is no policy cluster eats", "did you mean cluster/east?"},
	} {
		verb, _, _ := strings.Cut(c.args, " ")
		r := farcall(t, c.stdin, append([]string{"--server", server, "policy"}, strings.Fields(c.args)...)...)
		r.want(t, exitRefused, "farcall: policy "+verb+": not found: "+c.says+"\n", "hint: "+c.hint+"\n")
		if r.stdout != "" {
			t.Errorf("stdout %s", r.stdout)
		}
	}
	f.sent(t)
}

func TestPreview(t *testing.T) {
	f := &fakeAdmin{}
	server := serve(t, f)
	const stdout = `SERVICE       FROM  CALLS  STRATEGY                       MOVES
default/cart  east  1200   local-first -> external-first  east 100%->60%, west 0%->40%
shop/billing  east  3      local-only                     east 100%->0%, then nobody
shop/stock    west  0      local-only -> any              east 0%->33.3%, nobody until now (NO_LOCAL_INSTANCES)
shop/stock    east  0      local-only -> external-only    then nobody

left with nobody: shop/billing from east: NO_LOCAL_INSTANCES
still with nobody: shop/stock from east: NO_EXTERNAL_INSTANCES
`
	const stderr = `warning: service default/cart: nobody has heard of a cluster "wset"
VERB service default/cart would move calls of 3 services; 2 of 3 agents told their calls of the last minute
note: no agent of west is connected: what is said of callers there is computed, without any calls counted
`
	for _, c := range []struct {
		args, verb string
		want       *adminv1.PreviewPolicyRequest
	}{
		{"policy preview -f -", "writing", &adminv1.PreviewPolicyRequest{Policy: &policyv1.Policy{
			Target: &policyv1.Target{Namespace: "default", Service: "cart"}, Settings: policyList.GetPolicies()[2].GetPolicy().GetSettings(),
		}}},
		{"policy apply -f - --preview", "writing", &adminv1.PreviewPolicyRequest{Policy: &policyv1.Policy{
			Target: &policyv1.Target{Namespace: "default", Service: "cart"}, Settings: policyList.GetPolicies()[2].GetPolicy().GetSettings(),
		}}},
		{"policy preview --delete service/cart", "deleting", &adminv1.PreviewPolicyRequest{Delete: true, Policy: &policyv1.Policy{
			Target: &policyv1.Target{Namespace: "default", Service: "cart"},
		}}},
	} {
		f.kept.previews = nil
		r := farcall(t, cartAsIs, append([]string{"--server", server}, strings.Fields(c.args)...)...)
		r.want(t, exitOK)
		if r.stdout != stdout {
			t.Errorf("%s: stdout\n%s\nwant\n%s", c.args, r.stdout, stdout)
		}
		if want := strings.Replace(stderr, "VERB", c.verb, 1); r.stderr != want {
			t.Errorf("%s: stderr\n%s\nwant\n%s", c.args, r.stderr, want)
		}
		if len(f.kept.previews) != 1 || !proto.Equal(f.kept.previews[0], c.want) {
			t.Errorf("%s: asked %v, want %v", c.args, f.kept.previews, c.want)
		}
	}
	f.sent(t)

	// Several answers are several values, in the order of the file.
	r := farcall(t, three, "--server", server, "policy", "preview", "-f", "-", "-o", "json")
	r.want(t, exitOK)
	d, n := json.NewDecoder(strings.NewReader(r.stdout)), 0
	for ; d.More(); n++ {
		var b json.RawMessage
		if err := d.Decode(&b); err != nil {
			t.Fatal(err)
		}
		if got := (&adminv1.PreviewPolicyResponse{}); protojson.Unmarshal(b, got) != nil || !proto.Equal(got, previewed) {
			t.Errorf("got %s", b)
		}
	}
	if n != 3 || r.stderr != "" {
		t.Errorf("%d answers, stderr %q", n, r.stderr)
	}
	r = farcall(t, three, "--server", server, "policy", "preview", "-f", "-", "-o", "yaml")
	r.want(t, exitOK)
	if got := strings.Count(r.stdout, "\n---\n"); got != 2 {
		t.Errorf("%d lines part the documents, want 2:\n%s", got, r.stdout)
	}
	f.kept.refuse = "cart"
	farcall(t, cartAsIs, "--server", server, "policy", "preview", "-f", "-").
		want(t, exitRefused, "policy preview: service default/cart: invalid argument: from: shares east")
}

func TestExplainAsks(t *testing.T) {
	f := &fakeAdmin{}
	server := serve(t, f)
	r := farcall(t, cartAsIs, "--server", server, "explain", "cart.shop", "--from", "east", "--strategy", "any", "--cluster", "west", "--node", "node-1", "--policy", "-")
	r.want(t, exitOK)
	want := &adminv1.ExplainRequest{
		Service: "cart.shop", From: "east", Strategy: "any", Cluster: "west", Node: "node-1", Policy: &policyv1.Policy{
			Target: &policyv1.Target{Namespace: "default", Service: "cart"}, Settings: policyList.GetPolicies()[2].GetPolicy().GetSettings(),
		},
	}
	if !proto.Equal(f.asked.Load(), want) {
		t.Errorf("asked %v, want %v", f.asked.Load(), want)
	}
}
