package policy

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/strategy"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// full is a policy that states every key.
func full() *policyv1.Policy {
	return &policyv1.Policy{
		Target: &policyv1.Target{Service: "cart"},
		From:   []string{"west", "east"},
		Settings: &policyv1.Settings{
			Strategy:      new("remote"),
			Override:      new("deny"),
			ExternalOrder: order([]string{"west", "region=eu"}, []string{"*"}),
			Failover:      &policyv1.Failover{Threshold: 50},
			Balancer:      new("ring-hash"),
			Locality:      new("strict"),
			Weights:       &policyv1.Weights{Clusters: map[string]uint32{"west": 3, "us": 0}},
			Failback:      &policyv1.Failback{Hold: durationpb.New(time.Second)},
			RecoverAll:    new(false),
			Retry:         &policyv1.Retry{Idempotent: []string{"PUT"}},
			Broadcast:     &policyv1.Broadcast{MinSuccess: 2},
			StaleTtl:      durationpb.New(0),
			WarmUp:        durationpb.New(time.Minute),
			HashHeader:    new("X-User"),
		},
		Revision: 7,
		Since:    timestamppb.New(time.Unix(1_700_000_000, 0)),
		Author:   "ann",
	}
}

func order(pools ...[]string) *policyv1.ExternalOrder {
	o := &policyv1.ExternalOrder{}
	for _, p := range pools {
		o.Pools = append(o.Pools, &policyv1.Pool{Clusters: p})
	}
	return o
}

func TestAPolicyIsPutIntoItsCanonicalForm(t *testing.T) {
	p, err := FromProto(full())
	if err != nil {
		t.Fatal(err)
	}
	want := &Policy{
		Target: Target{Name: catalog.Name{Namespace: "default", Service: "cart"}},
		From:   []string{"east", "west"},
		Settings: Settings{
			Strategy:       new(strategy.ExternalFirst),
			OverrideDenied: new(true),
			ExternalOrder:  [][]string{{"west", "region=eu"}, {"*"}},
			Failover:       &strategy.Failover{Threshold: 50, MinAvailable: 1, Mode: strategy.Spill},
			Balancer:       new(strategy.RingHash),
			Locality:       new(strategy.LocalityStrict),
			Weights:        map[string]uint32{"west": 3, "us": 0},
			Failback:       &strategy.Failback{Hold: time.Second},
			RecoverAll:     new(false),
			Retry:          &strategy.Retry{Attempts: 3, Idempotent: []string{"PUT"}},
			Broadcast:      &strategy.BroadcastTerms{MinSuccess: 2, TargetTimeout: 10 * time.Second, MaxParallel: 16},
			StaleTTL:       new(time.Duration(0)),
			WarmUp:         new(time.Minute),
			HashHeader:     new("x-user"),
		},
		Revision: 7, Since: time.Unix(1_700_000_000, 0).UTC(), Author: "ann",
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("got %+v, want %+v", p, want)
	}
	if s := p.String(); s != "service default/cart from east,west" {
		t.Errorf("it is called %q", s)
	}
	if stated := p.Settings.Stated(); !slices.Equal(stated, Keys()) {
		t.Errorf("it states %v, want every key", stated)
	}
	again, err := FromProto(p.Proto())
	if err != nil || !reflect.DeepEqual(again, p) {
		t.Errorf("it reads back as %+v, %v", again, err)
	}
}

// What is accepted is understood by readers in the form in which it is stored, be it as long as one
// may be written.
func TestTheLongestPolicyIsRead(t *testing.T) {
	m := &policyv1.Policy{
		Target:   &policyv1.Target{Service: "cart"},
		Settings: &policyv1.Settings{Failover: &policyv1.Failover{Threshold: 50}, Weights: &policyv1.Weights{Clusters: map[string]uint32{}}},
	}
	for n := 0; proto.Size(m) < maxSize-20; n++ {
		m.Settings.Weights.Clusters[fmt.Sprintf("c%05d", n)] = 1
	}
	m.Author = strings.Repeat("a", maxSize-proto.Size(m)-2)
	p, err := FromProto(m)
	if err != nil || proto.Size(m) != maxSize {
		t.Fatalf("%d bytes: %v", proto.Size(m), err)
	}
	stored := p.Proto()
	stored.Revision = math.MaxUint64
	if _, err := Read(stored); err != nil {
		t.Errorf("as it is stored, in %d bytes: %v", proto.Size(stored), err)
	}
}

// Every key is in the message, and in what is in force.
func TestKeysAreThoseOfTheMessage(t *testing.T) {
	want := map[string]bool{}
	fields := (&policyv1.Settings{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		want[join("", fields.Get(i).JSONName())] = true
	}
	for _, k := range Keys() {
		if !want[k] {
			t.Errorf("%s is no field of the message", k)
		}
		delete(want, k)
	}
	if len(want) > 0 {
		t.Errorf("these fields of the message are no keys: %v", want)
	}
}

func TestTargets(t *testing.T) {
	for _, c := range []struct {
		m        *policyv1.Target
		from     []string
		id, text string
	}{
		{m: &policyv1.Target{Service: "cart"}, id: "service/default/cart/*", text: "service default/cart"},
		{m: &policyv1.Target{Service: "cart", Namespace: "shop"}, from: []string{"west", "east"}, id: "service/shop/cart/east,west", text: "service shop/cart from east,west"},
		{m: &policyv1.Target{Namespace: "shop"}, from: []string{"east"}, id: "namespace/shop/east", text: "namespace shop from east"},
		{m: &policyv1.Target{Cluster: "east"}, id: "cluster/east/*", text: "cluster east"},
		{m: &policyv1.Target{Service: "a/b %*", Namespace: "ä"}, id: "service/%C3%A4/a%2Fb%20%25*/*", text: "service ä/a/b %*"},
	} {
		p, err := FromProto(&policyv1.Policy{Target: c.m, From: c.from, Settings: &policyv1.Settings{RecoverAll: new(true)}})
		if err != nil {
			t.Errorf("%s: %v", c.id, err)
			continue
		}
		if p.ID() != c.id || p.String() != c.text {
			t.Errorf("got %q and %q, want %q and %q", p.ID(), p, c.id, c.text)
		}
		if target, from, err := ParseID(c.id); err != nil || target != p.Target || !slices.Equal(from, p.From) {
			t.Errorf("%s reads back as %v, %v, %v", c.id, target, from, err)
		}
	}
	for _, id := range []string{
		"", "service/cart/*", "service/default/cart", "service/default/cart/", "service//cart/*", "namespace/shop/west,east",
		"namespace/shop/east,east", "namespace/shop/East", "cluster/east/west", "cluster/East/*", "service/default/ca rt/*",
		"service/default/%63art/*", "service/default/cart/*/x", "namespace/shop/*,east", "Service/default/cart/*", "namespace/%2/*",
	} {
		if target, from, err := ParseID(id); err == nil {
			t.Errorf("%q is taken as %v from %v", id, target, from)
		}
	}
}

// mistake is a change of a good policy, and what is said about it.
type mistake struct {
	name   string
	change func(*policyv1.Policy, *policyv1.Settings)
	path   string
	says   []string
}

func settings(change func(*policyv1.Settings)) func(*policyv1.Policy, *policyv1.Settings) {
	return func(_ *policyv1.Policy, s *policyv1.Settings) { change(s) }
}

func target(m *policyv1.Target, from ...string) func(*policyv1.Policy, *policyv1.Settings) {
	return func(p *policyv1.Policy, _ *policyv1.Settings) { p.Target, p.From = m, from }
}

var mistakes = []mistake{
	{"no target", target(nil), "", []string{"names nobody", "a service, a namespace or a cluster"}},
	{"an empty target", target(&policyv1.Target{}), "", []string{"names nobody"}},
	{"two targets", target(&policyv1.Target{Service: "cart", Cluster: "east"}), "", []string{"names a cluster beside"}},
	{"namespace and cluster", target(&policyv1.Target{Namespace: "shop", Cluster: "east"}), "", []string{"names a cluster beside"}},
	{"a bad cluster", target(&policyv1.Target{Cluster: "East"}), "cluster", []string{`"East"`, "lower-case"}},
	{"a bad service", target(&policyv1.Target{Service: "ca\nrt"}), "service", []string{"control character"}},
	{"a bad namespace", target(&policyv1.Target{Namespace: "sh\nop"}), "namespace", []string{"control character"}},
	{"the namespace of a service", target(&policyv1.Target{Service: "cart", Namespace: "sh\nop"}), "namespace", []string{"control character"}},
	{"from on a cluster", target(&policyv1.Target{Cluster: "east"}, "west"), "from", []string{"callers in that cluster"}},
	{"a bad name in from", target(&policyv1.Target{Service: "cart"}, "east", "We st"), "from[1]", []string{`"We st"`}},
	{"a name twice in from", target(&policyv1.Target{Service: "cart"}, "east", "west", "east"), "from[2]", []string{"twice"}},
	{"nothing stated", func(p *policyv1.Policy, _ *policyv1.Settings) { p.Settings = nil }, "", []string{"states nothing", "strategy, override"}},

	{"an unknown strategy", settings(func(s *policyv1.Settings) { s.Strategy = new("local-frist") }), "strategy", []string{`did you mean "local-first"`, "external-only", "remote"}},
	{"a case variant", settings(func(s *policyv1.Settings) { s.Strategy = new("Local-First") }), "strategy", []string{`did you mean "local-first"`}},
	{"an empty strategy", settings(func(s *policyv1.Settings) { s.Strategy = new("") }), "strategy", []string{"is empty", "local-first"}},
	{"override", settings(func(s *policyv1.Settings) { s.Override = new("Deny") }), "override", []string{`"allow" or "deny"`, `did you mean "deny"`}},
	{"balancer", settings(func(s *policyv1.Settings) { s.Balancer = new("roundrobin") }), "balancer", []string{`"least-request", "round-robin"`, `did you mean "round-robin"`}},
	{"an empty balancer", settings(func(s *policyv1.Settings) { s.Balancer = new("") }), "balancer", []string{"is empty: want"}},
	{"ring-hash of nothing", settings(func(s *policyv1.Settings) { s.HashHeader = nil }), "balancer", []string{"hashHeader"}},
	{"locality", settings(func(s *policyv1.Settings) { s.Locality = new("zone") }), "locality", []string{`"none", "prefer" or "strict"`}},
	{"no header's name", settings(func(s *policyv1.Settings) { s.HashHeader = new("x user") }), "hashHeader", []string{"request header"}},

	{"an order without a pool", settings(func(s *policyv1.Settings) { s.ExternalOrder = order() }), "externalOrder", []string{"no pool", `[["*"]]`}},
	{"an empty pool", settings(func(s *policyv1.Settings) { s.ExternalOrder = order([]string{"west"}, nil) }), "externalOrder[1]", []string{"empty pool"}},
	{"a cluster twice", settings(func(s *policyv1.Settings) { s.ExternalOrder = order([]string{"west", "eu"}, []string{"eu"}) }), "externalOrder[1][0]", []string{"externalOrder[0][1] already"}},
	{"the rest twice", settings(func(s *policyv1.Settings) { s.ExternalOrder = order([]string{"*"}, []string{"*"}) }), "externalOrder[1][0]", []string{"already"}},
	{"a bad name in the order", settings(func(s *policyv1.Settings) { s.ExternalOrder = order([]string{"West"}) }), "externalOrder[0][0]", []string{`"West"`, `"*"`, "region=eu"}},
	{"a bad property", settings(func(s *policyv1.Settings) { s.ExternalOrder = order([]string{"=eu"}) }), "externalOrder[0][0]", []string{"not a property", "region=eu"}},
	{"a property with spaces", settings(func(s *policyv1.Settings) { s.ExternalOrder = order([]string{"region = eu"}) }), "externalOrder[0][0]", []string{"not a property"}},

	{"threshold", settings(func(s *policyv1.Settings) { s.Failover = &policyv1.Failover{Threshold: 130} }), "failover.threshold", []string{"130 is not in 0 to 100"}},
	{"mode", settings(func(s *policyv1.Settings) { s.Failover = &policyv1.Failover{Mode: "Spill"} }), "failover.mode", []string{`did you mean "spill"`}},
	{"weights of nothing", settings(func(s *policyv1.Settings) {
		s.Weights = &policyv1.Weights{Clusters: map[string]uint32{"west": 0, "us": 0}}
	}), "weights", []string{"sum to zero", "cordon"}},
	{"a pool of no weight", settings(func(s *policyv1.Settings) {
		s.ExternalOrder = order([]string{"us"}, []string{"west"})
	}), "externalOrder[0]", []string{"sum to zero"}},
	{"a weight too large", settings(func(s *policyv1.Settings) {
		s.Weights = &policyv1.Weights{Clusters: map[string]uint32{"west": 1 << 20}}
	}), "weights.west", []string{"above 65536"}},
	{"a bad name in weights", settings(func(s *policyv1.Settings) {
		s.Weights = &policyv1.Weights{Clusters: map[string]uint32{"WEST": 1}}
	}), "weights", []string{`"WEST"`}},
	{"hold", settings(func(s *policyv1.Settings) { s.Failback = &policyv1.Failback{Hold: durationpb.New(-1)} }), "failback.hold", []string{"negative"}},
	{"ramp", settings(func(s *policyv1.Settings) {
		s.Failback = &policyv1.Failback{Ramp: &durationpb.Duration{Seconds: 1 << 40}}
	}), "failback.ramp", []string{"not a span of time"}},
	{"attempts", settings(func(s *policyv1.Settings) { s.Retry = &policyv1.Retry{Attempts: 11} }), "retry.attempts", []string{"above 10"}},
	{"a method in lower case", settings(func(s *policyv1.Settings) { s.Retry = &policyv1.Retry{Idempotent: []string{"put"}} }), "retry.idempotent[0]", []string{`did you mean "PUT"`}},
	{"an unknown method", settings(func(s *policyv1.Settings) { s.Retry = &policyv1.Retry{Idempotent: []string{"UPSERT"}} }), "retry.idempotent[0]", []string{"unknown word"}},
	{"a method twice", settings(func(s *policyv1.Settings) { s.Retry = &policyv1.Retry{Idempotent: []string{"PUT", "PUT"}} }), "retry.idempotent[1]", []string{"twice"}},
	{"no time for targets", settings(func(s *policyv1.Settings) {
		s.Broadcast = &policyv1.Broadcast{TargetTimeout: durationpb.New(0)}
	}), "broadcast.targetTimeout", []string{"no time", "10s"}},
	{"negative time for targets", settings(func(s *policyv1.Settings) {
		s.Broadcast = &policyv1.Broadcast{TargetTimeout: durationpb.New(-time.Second)}
	}), "broadcast.targetTimeout", []string{"-1s is negative"}},
	{"staleTTL", settings(func(s *policyv1.Settings) { s.StaleTtl = durationpb.New(-1) }), "staleTTL", []string{"negative"}},
	{"warmUp", settings(func(s *policyv1.Settings) { s.WarmUp = &durationpb.Duration{Seconds: 1, Nanos: -1} }), "warmUp", []string{"not a span of time"}},
	{"an author of two lines", func(p *policyv1.Policy, _ *policyv1.Settings) { p.Author = "a\nb" }, "author", []string{"control character"}},
	{"a moment that is none", func(p *policyv1.Policy, _ *policyv1.Settings) { p.Since = &timestamppb.Timestamp{Nanos: -1} }, "since", []string{"not a moment"}},
	{"too much", func(p *policyv1.Policy, _ *policyv1.Settings) { p.Author = strings.Repeat("a", 1<<20) }, "", []string{"at most 65536"}},
}

func TestMistakes(t *testing.T) {
	for _, c := range mistakes {
		t.Run(c.name, func(t *testing.T) {
			m := full()
			c.change(m, m.Settings)
			_, err := FromProto(m)
			var list Errors
			if !errors.As(err, &list) || len(list) != 1 {
				t.Fatalf("got %v, want one mistake", err)
			}
			if list[0].Path != c.path {
				t.Errorf("it is said of %q, want %q", list[0].Path, c.path)
			}
			for _, s := range c.says {
				if !strings.Contains(list[0].Text, s) {
					t.Errorf("%q does not say %q", list[0].Text, s)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q is of two lines", err)
			}
			if _, err := Read(m); !errors.Is(err, ErrNewer) || !errors.As(err, &list) {
				t.Errorf("a reader is told %v, want ErrNewer with the mistakes", err)
			}
		})
	}
}

func TestAllMistakesAreToldAtOnce(t *testing.T) {
	_, err := FromProto(&policyv1.Policy{
		From: []string{"East"},
		Settings: &policyv1.Settings{
			Strategy: new("x"), Override: new("x"), ExternalOrder: order(nil), Failover: &policyv1.Failover{Threshold: 101, Mode: "x"},
			Weights: &policyv1.Weights{Clusters: map[string]uint32{"a": 0}}, StaleTtl: durationpb.New(-1),
		},
	})
	var list Errors
	if !errors.As(err, &list) || len(list) != 9 {
		t.Errorf("got %d mistakes, want 9: %v", len(list), err)
	}
}

func TestWhatIsAccepted(t *testing.T) {
	for name, s := range map[string]*policyv1.Settings{
		"weights of one cluster below those not named": {Weights: &policyv1.Weights{Clusters: map[string]uint32{"west": 0, "us": 1}}},
		"no weights, over those of a namespace":        {Weights: &policyv1.Weights{}},
		"an order beside local-only":                   {Strategy: new("local-only"), ExternalOrder: order([]string{"west"})},
		"a pool with a cluster of weight 0 and others": {
			ExternalOrder: order([]string{"west", "*"}), Weights: &policyv1.Weights{Clusters: map[string]uint32{"west": 0, "us": 1}},
		},
		"a property beside a cluster": {ExternalOrder: order([]string{"west", "zone=eu-1"}, []string{"tier=gold,silver"})},
		"blocks with nothing in them": {
			Failover: &policyv1.Failover{}, Failback: &policyv1.Failback{}, Retry: &policyv1.Retry{}, Broadcast: &policyv1.Broadcast{},
		},
		"a header without ring-hash": {HashHeader: new("x-user")},
	} {
		m := &policyv1.Policy{Target: &policyv1.Target{Service: "cart"}, Settings: s}
		p, err := FromProto(m)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d := strategy.Defaults(); name == "blocks with nothing in them" && !reflect.DeepEqual(p.Settings.Over(d), d) {
			t.Errorf("%s: they are %+v, want the defaults", name, p.Settings)
		}
	}
}

// A field of a newer version anywhere makes a policy one that is not followed in part.
func TestNewerFieldsAreNotIgnored(t *testing.T) {
	newer := []byte{0xf8, 0x3e, 0x01} // field 1007
	m := full()
	for name, part := range map[string]proto.Message{
		"":                 m,
		"failover":         m.Settings.Failover,
		"externalOrder[1]": m.Settings.ExternalOrder.Pools[1],
		"staleTTL":         m.Settings.StaleTtl,
	} {
		part.ProtoReflect().SetUnknown(newer)
		_, err := Read(m)
		var list Errors
		if !errors.Is(err, ErrNewer) || !errors.As(err, &list) || len(list) != 1 || list[0].Path != name {
			t.Errorf("in %q: %v", name, err)
		}
		part.ProtoReflect().SetUnknown(nil)
	}
	only := &policyv1.Policy{Target: &policyv1.Target{Service: "cart"}, Settings: &policyv1.Settings{}}
	only.Settings.ProtoReflect().SetUnknown(newer)
	if _, err := FromProto(only); err == nil || strings.Contains(err.Error(), "states nothing") {
		t.Errorf("one that states only what is newer: %v", err)
	}
}

func FuzzParseID(f *testing.F) {
	for _, id := range []string{"service/default/cart/*", "namespace/sh%2Fop/east,west", "cluster/east/*", "service/%C3%A4/%25/a"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		target, from, err := ParseID(id)
		if err == nil && FormatID(target, from) != id {
			t.Errorf("%q reads as %v from %v, which is %q", id, target, from, FormatID(target, from))
		}
		if n, err := ParseCordonID(id); err == nil && FormatCordonID(n) != id {
			t.Errorf("%q reads as %v, which is %q", id, n, FormatCordonID(n))
		}
	})
}

func FuzzFromProto(f *testing.F) {
	add := func(m proto.Message) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add(full())
	for _, c := range mistakes {
		if m := full(); c.name != "too much" {
			c.change(m, m.Settings)
			add(m)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &policyv1.Policy{}
		if proto.Unmarshal(b, m) != nil {
			return
		}
		p, err := FromProto(m)
		if err != nil {
			var list Errors
			if !errors.As(err, &list) || len(list) == 0 {
				t.Errorf("%v is no Errors", err)
			}
			return
		}
		again, err := FromProto(p.Proto())
		if err != nil || !reflect.DeepEqual(again, p) {
			t.Errorf("%+v reads back as %+v, %v", p, again, err)
		}
		if target, from, err := ParseID(p.ID()); err != nil || target != p.Target || !slices.Equal(from, p.From) {
			t.Errorf("%q reads as %v from %v, %v", p.ID(), target, from, err)
		}
		if again := NewSet([]*Policy{p}, nil, 1).Policy(p.ID()); again != p {
			t.Errorf("%s is not found in its set", p)
		}
	})
}
