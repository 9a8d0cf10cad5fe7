package skew

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/holds"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/policy"
)

// valueOf gives an empty value of the kind that a key holds; nil for a kind that this test does not know.
func valueOf(k keys.Kind) proto.Message {
	switch k {
	case keys.Store:
		return &storev1.StoreID{}
	case keys.PoliciesSynced:
		return &storev1.PoliciesSynced{}
	case keys.Replica:
		return &storev1.Replica{}
	case keys.Owner:
		return &storev1.Owner{}
	case keys.Meta:
		return &storev1.ClusterMeta{}
	case keys.Synced:
		return &storev1.Synced{}
	case keys.Slice:
		return &storev1.Slice{}
	case keys.Agent:
		return &catalogv1.Agent{}
	case keys.Policy:
		return &policyv1.Policy{}
	case keys.Cordon:
		return &policyv1.Cordon{}
	case keys.Holds:
		return &storev1.Holds{}
	}
	return nil
}

// kinds are all kinds of keys that this version knows.
func kinds() []keys.Kind {
	var out []keys.Kind
	for k := keys.Store; !strings.HasPrefix(k.String(), "kind("); k++ {
		out = append(out, k)
	}
	return out
}

// stored is a small federation as this version writes it: a key of every kind, values with every field
// that a writer sets, some of them compressed.
func stored(t *testing.T) map[keys.Key]proto.Message {
	at := func() *timestamppb.Timestamp { return timestamppb.New(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)) }
	near := func() *catalogv1.Locality { return &catalogv1.Locality{Region: "eu", Zone: "eu-1"} }
	small := &storev1.Slice{Cluster: "west", Namespace: "default", Service: "cart", Epoch: 3, Seq: 7, Instances: []*catalogv1.Instance{{
		Cluster: "west", Namespace: "default", Service: "cart", Id: "cart-1", Node: "n1", Locality: near(), Address: "10.0.0.1", Port: 8080,
		Relay: "10.0.0.1:50002", Weight: 2, Health: catalogv1.Health_DRAINING, Metadata: map[string]string{"version": "2"}, Registry: "consul", RegistryRevision: "17",
	}}}
	large := &storev1.Slice{Cluster: "west", Namespace: "shop", Service: "odd name/%", Slice: 12, Epoch: 3, Seq: 8}
	for n := range 40 {
		large.Instances = append(large.Instances, &catalogv1.Instance{
			Cluster: "west", Namespace: "shop", Service: "odd name/%", Id: fmt.Sprint("i-", n), Address: "10.0.0.2", Port: uint32(9000 + n), Weight: 1,
			Health: catalogv1.Health(n % 5), Registry: "file",
		})
	}
	everything, err := policy.FromProto(&policyv1.Policy{
		Target: &policyv1.Target{Service: "cart", Namespace: "default"}, From: []string{"east"}, Since: at(), Author: "somebody",
		Settings: &policyv1.Settings{
			Strategy: proto.String("external-first"), Override: proto.String("deny"), Balancer: proto.String("ring-hash"), HashHeader: proto.String("x-user"),
			Locality: proto.String("prefer"), RecoverAll: proto.Bool(false), StaleTtl: durationpb.New(time.Hour), WarmUp: durationpb.New(30 * time.Second),
			ExternalOrder: &policyv1.ExternalOrder{Pools: []*policyv1.Pool{{Clusters: []string{"west", "region=eu"}}, {Clusters: []string{"*"}}}},
			Failover:      &policyv1.Failover{Threshold: 70, MinAvailable: 2, Mode: "strict"}, Weights: &policyv1.Weights{Clusters: map[string]uint32{"west": 3}},
			Failback: &policyv1.Failback{Hold: durationpb.New(time.Minute), Ramp: durationpb.New(time.Minute)},
			Retry:    &policyv1.Retry{Attempts: 2, Idempotent: []string{"PUT"}}, Broadcast: &policyv1.Broadcast{MinSuccess: 1, TargetTimeout: durationpb.New(time.Second), MaxParallel: 4},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	everything.Revision = 4
	return map[keys.Key]proto.Message{
		{Kind: keys.Store}:                                                &storev1.StoreID{Id: "0123456789abcdef"},
		{Kind: keys.PoliciesSynced}:                                       &storev1.PoliciesSynced{Revision: 6, Restored: 5},
		{Kind: keys.Replica, Replica: "r/1"}:                              &storev1.Replica{Id: "r/1", Tick: 100, Confirmed: map[string]uint64{"west": 99}, Address: "10.0.0.9:7400", Clusters: []string{"west"}, Epochs: map[string]uint64{"west": 3}},
		{Kind: keys.Owner, Cluster: "west"}:                               &storev1.Owner{Replica: "r/1"},
		{Kind: keys.Synced, Cluster: "west"}:                              &storev1.Synced{Cluster: "west", Epoch: 3},
		{Kind: keys.Cordon, Cluster: "west", ID: "shop/odd%20name%2F%25"}: &policyv1.Cordon{Cluster: "west", Namespace: "shop", Service: "odd name/%", Reason: "moved", Author: "somebody", Since: at(), Expires: at(), Revision: 6},
		{Kind: keys.Policy, ID: everything.ID()}:                          everything.Proto(),
		{Kind: keys.Slice, Cluster: "west", Name: cart}:                   small,
		{Kind: keys.Slice, Cluster: "west", Name: catalog.Name{Namespace: "shop", Service: "odd name/%"}, Slice: 12}: large,
		{Kind: keys.Meta, Cluster: "west"}: &storev1.ClusterMeta{
			Cluster: "west", Epoch: 3, Owner: "r/1", Locality: near(), Labels: map[string]string{"tier": "gold"}, Seq: 9, Via: "agents",
			Registries: []*storev1.RegistryStatus{{
				Name: "mdns@10.8.0.0/24", State: storev1.RegistryStatus_FAILED, LastError: "no answer", Since: at(), Revision: "4", Held: 1, SetAside: 2, LastSetAside: "a: no port",
				LastSuccess: at(), Reporter: "n1", Shadowed: 3, Strategies: map[string]string{"default/cart": "local-only"},
			}, {Name: "apps", State: storev1.RegistryStatus_OK}},
		},
		{Kind: keys.Holds, Cluster: "west"}: &storev1.Holds{Cluster: "west", Epoch: 3, Seq: 10, Groups: []*storev1.HoldGroup{{
			Registry: "consul", Reason: "reset", Detail: "its index fell", Doubted: true, Listed: true, Held: durationpb.New(5 * time.Second), Left: durationpb.New(55 * time.Second),
			Services: []*storev1.HeldService{{Namespace: "default", Service: "cart", Ids: []string{"cart-1"}}},
		}}},
		{Kind: keys.Agent, Cluster: "west", Node: "n1"}: &catalogv1.Agent{
			Cluster: "west", Node: "n1", Incarnation: "i1", Address: "10.0.0.1:50002", Locality: near(), Version: "v1.0.0",
			Apps: []*catalogv1.App{{Namespace: "default", Id: "cart", Port: 8080, Protocol: "grpc", Registered: true}},
		},
	}
}

// writeStore makes the golden store: each key as an Entry, and its value as text.
func writeStore(t *testing.T, save func(string, []byte)) {
	schema := keySchema(t)
	values := stored(t)
	revision := int64(10)
	for _, kind := range kinds() {
		for n, k := range sortedKeys(values, kind) {
			value, err := keys.Encode(values[k])
			if err != nil {
				t.Fatal(err)
			}
			revision++
			b, err := proto.Marshal(&feedv1.Entry{Key: schema.Format(k), Value: value, Revision: revision})
			if err != nil {
				t.Fatal(err)
			}
			name := fmt.Sprintf("store/%s-%d", kind, n+1)
			save(name+".binpb", b)
			save(name+".txtpb", fmt.Appendf(nil, "# %s\n%s", schema.Format(k), text(values[k])))
		}
	}
}

func sortedKeys(values map[keys.Key]proto.Message, kind keys.Kind) []keys.Key {
	var out []keys.Key
	for k := range values {
		if k.Kind == kind {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(a, b keys.Key) int { return a.Name.Compare(b.Name) })
	return out
}

// goldenEntries gives the store of a release, by revision, and its values.
func goldenEntries(t *testing.T, dir string) ([]*feedv1.Entry, map[string]proto.Message) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "store", "*.binpb"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no store: %v", dir, err)
	}
	schema := keySchema(t)
	var entries []*feedv1.Entry
	values := map[string]proto.Message{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		e := &feedv1.Entry{}
		if err := proto.Unmarshal(b, e); err != nil {
			t.Fatal(err)
		}
		k, err := schema.Parse(e.GetKey())
		if err != nil || schema.Format(k) != e.GetKey() || !strings.HasPrefix(filepath.Base(file), k.Kind.String()+"-") {
			t.Fatalf("%s is key %s, of kind %s: %v", file, e.GetKey(), k.Kind, err)
		}
		said, err := os.ReadFile(strings.TrimSuffix(file, ".binpb") + ".txtpb")
		if err != nil {
			t.Fatal(err)
		}
		is, want, again := valueOf(k.Kind), valueOf(k.Kind), valueOf(k.Kind)
		if err := keys.Decode(e.GetValue(), is); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if err := prototext.Unmarshal(said, want); err != nil {
			t.Fatalf("%s: its text cannot be read any more: %v", file, err)
		}
		if left := strangers(is); len(left) > 0 || !proto.Equal(is, want) {
			t.Errorf("%s says\n%s, of which it does not know %s, and said\n%s", file, prototext.Format(is), left, said)
		}
		value, err := keys.Encode(is)
		if err == nil {
			err = keys.Decode(value, again)
		}
		if err != nil || !proto.Equal(is, again) {
			t.Errorf("%s is written as something else: %v", file, err)
		}
		entries, values[e.GetKey()] = append(entries, e), is
	}
	slices.SortFunc(entries, func(a, b *feedv1.Entry) int { return int(a.GetRevision() - b.GetRevision()) })
	return entries, values
}

// mirrored gives what a reader makes of entries.
func mirrored(t *testing.T, now time.Time, entries []*feedv1.Entry) *mirror.Mirror {
	t.Helper()
	m := mirror.New(keySchema(t))
	m.Begin("0123456789abcdef")
	m.Apply(now, entries, 100)
	m.End(100)
	return m
}

// TestStoreOfEveryRelease: what a released version left in etcd is read with its keys, nothing of it is
// refused, and what it says comes through the types that we work with and back.
func TestStoreOfEveryRelease(t *testing.T) {
	have := map[keys.Kind]bool{}
	for _, dir := range releases(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			entries, values := goldenEntries(t, dir)
			schema := keySchema(t)
			compressed := 0
			for _, e := range entries {
				k, err := schema.Parse(e.GetKey())
				if err != nil {
					t.Fatal(err)
				}
				have[k.Kind] = true
				throughOurTypes(t, k, values[e.GetKey()])
				if e.GetValue()[0] == 2 {
					compressed++
				}
			}
			if compressed == 0 {
				t.Error("no golden value is compressed")
			}
			now := time.Now()
			m := mirrored(t, now, entries)
			if refused := m.Refused(); len(refused) > 0 {
				t.Errorf("refused: %v", refused)
			}
			if got, want := readable(m, now), wantReadable; got != want {
				t.Errorf("a reader holds\n%s\nwant\n%s", got, want)
			}
		})
	}
	for _, k := range kinds() {
		if !have[k] {
			t.Errorf("no release has a golden key of kind %s: see api/released/README.md", k)
		}
	}
}

// throughOurTypes says that a value is the same once it was one of our own types.
func throughOurTypes(t *testing.T, k keys.Key, v proto.Message) {
	t.Helper()
	var again proto.Message
	var err error
	switch v := v.(type) {
	case *storev1.Slice:
		clone := proto.CloneOf(v)
		for n, i := range v.GetInstances() {
			clone.Instances[n] = catalog.InstanceFromProto(i).Proto()
		}
		again = clone
	case *policyv1.Policy:
		var p *policy.Policy
		if p, err = policy.Read(v); err == nil {
			again = p.Proto()
		}
	case *policyv1.Cordon:
		var c *policy.Cordon
		if c, err = policy.ReadCordon(v); err == nil {
			again = c.Proto()
		}
	case *storev1.Holds:
		clone, now := proto.CloneOf(v), time.Now()
		clone.Groups = nil
		for registry, held := range holds.Read(now, v.GetCluster(), v.GetGroups()) {
			clone.Groups = append(clone.Groups, holds.Record(now, registry, held)...)
		}
		again = clone
	default:
		return
	}
	if err != nil || !proto.Equal(v, again) {
		t.Errorf("%v: %v became %v, %v", k, v, again, err)
	}
}

// readable says what a reader holds of the golden store.
func readable(m *mirror.Mirror, now time.Time) string {
	var b strings.Builder
	for _, c := range m.Clusters(now) {
		fmt.Fprintf(&b, "%s %s epoch %d in %v via %s, labels %v\n", c.Name, c.State, c.Epoch, c.Locality, c.Meta.GetVia(), c.Meta.GetLabels())
		for _, n := range m.Names(c.Name) {
			list, _ := m.Instances(c.Name, n)
			fmt.Fprintf(&b, "%s: %d, first %s\n", n, len(list), list[0])
		}
		for _, g := range m.Holds(c.Name) {
			fmt.Fprintf(&b, "held for %s: %s of %s\n", g.GetReason(), g.GetServices()[0].GetIds(), g.GetRegistry())
		}
		fmt.Fprintf(&b, "annotation %s\n", m.Annotation(c.Name, cart))
	}
	for _, a := range m.Agents() {
		fmt.Fprintf(&b, "agent %s at %s with %s\n", a.GetNode(), a.GetAddress(), a.GetApps()[0].GetId())
	}
	p := m.Policies()
	for _, one := range p.Set.Policies() {
		fmt.Fprintf(&b, "policy %s, %s, revision %d\n", one, *one.Settings.Strategy, one.Revision)
	}
	for _, one := range p.Set.Cordons() {
		fmt.Fprintf(&b, "cordon %s\n", one)
	}
	fmt.Fprintf(&b, "policies of revision %d, known %v, refused %v\n", p.Set.Revision(), p.Known, p.Refused)
	return b.String()
}

// wantReadable is what today's readers make of the first golden store.
const wantReadable = `west STALE epoch 3 in {eu eu-1} via agents, labels map[tier:gold]
default/cart: 1, first west/default/cart/cart-1 10.0.0.1:8080 via 10.0.0.1:50002 DRAINING
shop/odd name/%: 40, first west/shop/odd name/%/i-0 10.0.0.2:9000 UNKNOWN
held for reset: [cart-1] of consul
annotation local-only
agent n1 at 10.0.0.1:50002 with cart
policy service default/cart from east, external-first, revision 4
cordon service shop/odd name/% in west
policies of revision 6, known true, refused []
`
