package mirror

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/strategy"
)

// stating is a policy for a service that states a strategy.
func stating(service, word string, revision uint64) *policyv1.Policy {
	return &policyv1.Policy{
		Target:   &policyv1.Target{Service: service, Namespace: "default"},
		Settings: &policyv1.Settings{Strategy: proto.String(word)},
		Revision: revision,
	}
}

func (r *rig) policy(service, word string, revision uint64) *feedv1.Entry {
	r.t.Helper()
	return r.entry(policyKey(service), stating(service, word, revision))
}

func policyKey(service string) keys.Key {
	return keys.Key{Kind: keys.Policy, ID: "service/default/" + service + "/*"}
}

func (r *rig) cordon(cluster string, revision uint64) *feedv1.Entry {
	r.t.Helper()
	return r.entry(keys.Key{Kind: keys.Cordon, Cluster: cluster, ID: "*"}, &policyv1.Cordon{Cluster: cluster, Revision: revision})
}

// marked is the marker of all policies; with a second number, that of what is of the time before.
func (r *rig) marked(revision uint64, restored ...uint64) *feedv1.Entry {
	r.t.Helper()
	v := &storev1.PoliciesSynced{Revision: revision}
	if len(restored) > 0 {
		v.Restored = restored[0]
	}
	return r.entry(keys.Key{Kind: keys.PoliciesSynced}, v)
}

// inForce gives what is in force as "service=strategy" and "!cluster", then the revision; what the
// store lacks and what is refused are told after it.
func (r *rig) inForce() string {
	p := r.m.Policies()
	if !p.Known {
		return "unknown"
	}
	var words []string
	for _, pol := range p.Set.Policies() {
		words = append(words, fmt.Sprintf("%s=%s", pol.Target.Name.Service, *pol.Settings.Strategy))
	}
	for _, c := range p.Set.Cordons() {
		words = append(words, "!"+c.Cluster)
	}
	words = append(words, fmt.Sprint("@", p.Set.Revision()))
	if p.Behind {
		words = append(words, "behind")
	}
	if len(p.Refused) > 0 {
		words = append(words, fmt.Sprintf("refused %d", len(p.Refused)))
	}
	return strings.Join(words, " ")
}

func (r *rig) wantInForce(what, want string) {
	r.t.Helper()
	if got := r.inForce(); got != want {
		r.t.Errorf("%s: in force is %q, want %q", what, got, want)
	}
}

func TestPoliciesAreKnownFromTheirMarkerOn(t *testing.T) {
	r := newRig(t)
	if p := r.m.Policies(); p.Set == nil {
		t.Error("there is no set at all")
	}
	r.list("s1", r.policy("cart", "local-only", 1))
	r.wantInForce("without a marker", "unknown")
	if ch := r.apply(r.marked(1)); !ch.Policies {
		t.Error("that they are known is no change")
	}
	r.wantInForce("marked", "cart=local-only @1")

	// The store lists the marker before the policies, the feed after them.
	r = newRig(t)
	r.m.Begin("s1")
	r.m.Apply(start, []*feedv1.Entry{r.cordon("west", 1), r.marked(2)}, r.rev)
	r.wantInForce("in the middle of a list", "unknown")
	r.m.Apply(start, []*feedv1.Entry{r.policy("cart", "local-only", 2)}, r.rev)
	r.m.End(r.rev)
	r.wantInForce("listed", "cart=local-only !west @2")
	if len(r.m.Clusters(start)) != 0 {
		t.Error("a cordon made a cluster")
	}
}

func TestPoliciesFollowTheStore(t *testing.T) {
	r := newRig(t)
	r.list("s1", r.policy("a", "local-only", 1), r.policy("b", "local-only", 2), r.cordon("west", 3), r.marked(3))
	r.wantInForce("listed", "a=local-only b=local-only !west @3")
	before := r.m.Policies().Set.Policy("service/default/a/*")
	for _, step := range []struct {
		what    string
		entries []*feedv1.Entry
		want    string
		change  bool
	}{
		{"a change", []*feedv1.Entry{r.policy("b", "any", 4), r.marked(4)}, "a=local-only b=any !west @4", true},
		{"a deletion", []*feedv1.Entry{deleted(r.policy("b", "any", 4)), r.marked(5)}, "a=local-only !west @5", true},
		{"a cordon taken back", []*feedv1.Entry{deleted(r.cordon("west", 3)), r.marked(6)}, "a=local-only @6", true},
		{"the same again", []*feedv1.Entry{r.policy("a", "local-only", 1), r.marked(6)}, "a=local-only @6", false},
		{"something else", []*feedv1.Entry{r.synced("east", 1)}, "a=local-only @6", false},
	} {
		if ch := r.apply(step.entries...); ch.Policies != step.change {
			t.Errorf("%s: a change %v, want %v", step.what, ch.Policies, step.change)
		}
		r.wantInForce(step.what, step.want)
	}
	if r.m.Policies().Set.Policy("service/default/a/*") != before {
		t.Error("an unchanged policy was made anew")
	}
	r.list("s1", r.policy("c", "any", 7), r.marked(7))
	r.wantInForce("another list", "c=any @7")
}

// In the store that wrote them, a lower marker, or none, is no reason to drop anything.
func TestPoliciesNeverGoBack(t *testing.T) {
	r := newRig(t)
	held := []*feedv1.Entry{r.policy("a", "local-only", 5), r.marked(5)}
	for what, disturb := range map[string]func(){
		"a lower marker":            func() { r.apply(deleted(r.policy("a", "", 0)), r.marked(4)) },
		"a marker that is deleted":  func() { r.apply(deleted(r.policy("a", "", 0)), deleted(r.marked(5))) },
		"a list without the marker": func() { r.list("s1") },
		"an older list":             func() { r.list("s1", r.policy("z", "any", 1), r.marked(1)) },
	} {
		r.list("s1", held...)
		r.wantInForce("before "+what, "a=local-only @5")
		disturb()
		r.wantInForce(what, "a=local-only @5 behind")
	}
}

func TestAnotherStoreMustCatchUp(t *testing.T) {
	r := newRig(t)
	r.list("s1", r.policy("a", "local-only", 2), r.policy("b", "any", 5), r.cordon("west", 4), r.marked(5))
	const held = "a=local-only b=any !west @5"
	r.m.Begin("s2")
	r.m.Apply(start, []*feedv1.Entry{r.marked(0)}, r.rev)
	r.wantInForce("in the middle of a list", held)
	if ch := r.m.End(r.rev); !ch.Policies {
		t.Error("nobody is told that the store lost them")
	}
	r.wantInForce("a wiped store", held+" behind")
	r.apply(r.policy("x", "any", 1), r.marked(1))
	r.wantInForce("one in which somebody wrote", held+" behind")
	r.apply(r.policy("y", "any", 9), r.marked(9))
	r.wantInForce("one in which much was written", held+" behind")
	if seen := r.m.Policies().Seen; seen != 9 {
		t.Errorf("it saw revision %d", seen)
	}
	r.apply(r.policy("a", "local-only", 2), r.cordon("west", 4), r.marked(10, 4))
	r.wantInForce("one that was told by somebody who knew less", held+" behind")
	if ch := r.apply(r.policy("b", "any", 5), r.marked(11, 5)); !ch.Policies {
		t.Error("nobody is told that the store has them again")
	}
	r.wantInForce("one that was told all", "a=local-only b=any x=any y=any !west @11")
	r.apply(deleted(r.policy("b", "", 0)), r.marked(12, 5))
	r.wantInForce("a deletion there", "a=local-only x=any y=any !west @12")
}

// A list of another store that breaks off decides nothing.
func TestPoliciesOfAListThatBreaksOff(t *testing.T) {
	r := newRig(t)
	r.list("s1", r.policy("a", "local-only", 1), r.marked(1))
	r.m.Begin("s2")
	r.m.Apply(start, []*feedv1.Entry{r.policy("b", "any", 3), r.marked(3, 1)}, r.rev)
	r.m.Abandon()
	r.apply(r.synced("east", 1))
	r.wantInForce("broken off", "a=local-only @1")
	r.list("s1", r.policy("a", "local-only", 1), r.marked(1))
	r.wantInForce("listed again", "a=local-only @1")
}

func TestPolicyThatIsNotUnderstoodLeavesTheLastOne(t *testing.T) {
	newer := stating("a", "any", 3)
	newer.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 900, protowire.VarintType), 1))
	for name, c := range map[string]struct {
		entry   func(*rig) *feedv1.Entry
		refusal Refusal
	}{
		"an unknown word":  {func(r *rig) *feedv1.Entry { return r.policy("a", "teleport", 3) }, RefusedPolicy},
		"an unknown field": {func(r *rig) *feedv1.Entry { return r.entry(policyKey("a"), newer) }, RefusedPolicy},
		"another's value":  {func(r *rig) *feedv1.Entry { return r.entry(policyKey("a"), stating("b", "any", 3)) }, RefusedForeign},
		"rubbish": {func(r *rig) *feedv1.Entry {
			return &feedv1.Entry{Key: r.schema.Format(policyKey("a")), Value: []byte("rubbish")}
		}, RefusedCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.list("s1", r.policy("a", "local-only", 1), r.marked(2))
			r.apply(c.entry(r), r.marked(3))
			r.wantInForce("changed", "a=local-only @3 refused 1")
			if n := r.m.Refused()[c.refusal]; n != 1 {
				t.Errorf("counted %v", r.m.Refused())
			}
			if why := r.m.Policies().Refused[0]; !strings.Contains(why, "service default/a") || !strings.Contains(why, "revision 1 is followed instead") {
				t.Errorf("it says %q", why)
			}
			r = r.restart(0)
			r.wantInForce("after a restart", "a=local-only @3 refused 1")
			entries, err := r.m.PolicyEntries()
			if err != nil || len(entries) != 2 || string(entries[0].GetValue()) != string(c.entry(r).GetValue()) {
				t.Errorf("what it would bring back is %v, %v", entries, err)
			}
			r.apply(r.policy("a", "any", 4), r.marked(4))
			r.wantInForce("one that is understood", "a=any @4")
		})
	}
	r := newRig(t)
	r.list("s1", r.policy("a", "teleport", 1), r.entry(keys.Key{Kind: keys.Cordon, Cluster: "west", ID: "later/than/this"}, &policyv1.Cordon{Cluster: "west"}), r.marked(1))
	r.wantInForce("never understood", "@1 refused 2")
	if why := strings.Join(r.m.Policies().Refused, "\n"); !strings.Contains(why, "nothing of it is followed") || !strings.Contains(why, `"later/than/this" of cluster west`) {
		t.Errorf("it says %s", why)
	}
}

func TestPoliciesAreSaved(t *testing.T) {
	r := newRig(t)
	if entries, err := r.m.PolicyEntries(); err != nil || len(entries) != 0 {
		t.Errorf("of nothing there is %v, %v", entries, err)
	}
	r.list("s1", r.policy("a", "local-only", 1), r.cordon("west", 2), r.marked(2), r.slice("east", 0, 1, 1, "x"), r.synced("east", 1))
	again := r.restart(0)
	again.wantInForce("after a restart", "a=local-only !west @2")
	// The same store goes on from there, though it never was told anything of a time before.
	again.apply(again.policy("b", "any", 3), again.marked(3))
	again.wantInForce("going on", "a=local-only b=any !west @3")

	r.list("s2", r.marked(0))
	if id, _, _, err := r.m.Save(start); err != nil || id != "" {
		t.Errorf("a store that is behind is saved as %q, %v: it would not be listed again", id, err)
	}
	again = r.restart(0)
	again.wantInForce("saved while behind", "a=local-only !west @2")
	again.list("s2", again.marked(0))
	again.wantInForce("the wiped store after a restart", "a=local-only !west @2 behind")
	again.list("s1", again.policy("a", "local-only", 1), again.marked(3))
	again.wantInForce("the first store is back", "a=local-only @3")
}

func TestPolicyMetrics(t *testing.T) {
	r := newRig(t)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewCollector(r.m, func() time.Time { return start }))
	value := func() map[string]float64 {
		t.Helper()
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]float64{}
		for _, f := range families {
			out[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue()
		}
		return out
	}
	if _, told := value()["farcall_policies"]; told {
		t.Error("a number of policies is told before they are known")
	}
	r.list("s1", r.policy("a", "local-only", 1), r.policy("b", "teleport", 2), r.cordon("west", 3), r.marked(3))
	r.list("s2", r.marked(0))
	got := value()
	for name, want := range map[string]float64{
		"farcall_policies": 1, "farcall_cordons": 1, "farcall_policy_revision": 3,
		"farcall_policies_not_understood": 1, "farcall_policies_store_behind": 1,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}

func TestAnnotation(t *testing.T) {
	r := newRig(t)
	meta := func(seq uint64, registries ...map[string]string) *feedv1.Entry {
		v := &storev1.ClusterMeta{Cluster: "east", Epoch: 1, Seq: seq}
		for n, s := range registries {
			v.Registries = append(v.Registries, &storev1.RegistryStatus{Name: fmt.Sprint(n), Strategies: s})
		}
		return r.entry(keys.Key{Kind: keys.Meta, Cluster: "east"}, v)
	}
	want := func(what, service string, kind strategy.Kind) {
		t.Helper()
		if got := r.m.Annotation("east", catalog.Name{Namespace: "default", Service: service}); got != kind {
			t.Errorf("%s: %s is annotated %q, want %q", what, service, got, kind)
		}
	}
	want("nothing known", "cart", "")
	r.apply(meta(1, nil, map[string]string{"default/cart": "remote", "default/b": "teleport"}, map[string]string{"default/cart": "any", "default/b": "local-only"}))
	want("the first that states one", "cart", strategy.ExternalFirst)
	want("an unknown word is none", "b", strategy.LocalOnly)
	want("not annotated", "c", "")
	if n := r.m.Refused()[RefusedStrategy]; n != 1 {
		t.Errorf("counted %d words that are none", n)
	}
	if ch := r.apply(meta(2, nil, map[string]string{"default/cart": "any"})); !ch.Clusters {
		t.Error("another annotation is no change")
	}
	want("changed", "cart", strategy.Any)
	r = r.restart(0)
	want("after a restart", "cart", strategy.Any)
	r.apply(deleted(meta(3)))
	want("the cluster is gone", "cart", "")
}

// Whatever a store says, what is in force is what the last store that covered it said.
func FuzzPolicies(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11})
	f.Add([]byte{1, 0, 8, 9, 33, 17, 5, 5, 60, 61, 62, 63})
	f.Add([]byte{1, 1, 2, 9, 9, 4, 0, 12, 3, 3, 3, 1})
	words := []string{"local-only", "any", "teleport"}
	f.Fuzz(func(t *testing.T, script []byte) {
		r := newRig(t)
		highest, known := uint64(0), false
		store, revision := 1, uint64(0)
		for _, b := range script[:min(len(script), 100)] {
			switch n := uint64(b / 8); b % 8 {
			case 0:
				store++
				r.list(fmt.Sprint("s", store), r.marked(n, n/2))
				revision = n
			case 1, 2, 3:
				revision++
				r.apply(r.policy(fmt.Sprint("p", n%3), words[b%3], revision), r.marked(revision))
			case 4:
				revision++
				r.apply(deleted(r.policy(fmt.Sprint("p", n%3), "", 0)), r.marked(revision))
			case 5:
				r.apply(r.marked(n))
				revision = n
			case 6:
				r = r.restart(0)
			case 7:
				r.apply(r.cordon("west", revision))
			}
			p := r.m.Policies()
			if known && (!p.Known || p.Set.Revision() < highest) {
				t.Fatalf("after %v: %s, before revision %d", script, r.inForce(), highest)
			}
			known, highest = p.Known, p.Set.Revision()
			if !slices.IsSorted(p.Refused) {
				t.Fatalf("refused %q", p.Refused)
			}
		}
	})
}

// Who decides by Size whether there is room for more must not find out too late that all of them fit
// into no message any more.
func TestSizeIsThatOfAReport(t *testing.T) {
	r := newRig(t)
	entries := []*feedv1.Entry{r.marked(200)}
	for n := range 100 {
		entries = append(entries, r.policy(fmt.Sprint("s", n), "any", 1), r.cordon(fmt.Sprintf("a-cluster-with-a-long-name-%d", n), 2))
	}
	r.list("one", entries...)
	held, err := r.m.PolicyEntries()
	if err != nil || len(held) != 201 {
		t.Fatalf("%d entries, %v", len(held), err)
	}
	report := proto.Size(&feedv1.ReportRequest{Policies: held[:200]})
	if size := r.m.Policies().Size; size < report || size > 2*report {
		t.Errorf("size is %d, and they take %d in a report", size, report)
	}
}
