package skew

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
)

// later gives a message, and every one below it, fields that this version does not know: a number, a text
// and a message of their own.
func later[M proto.Message](m M) M {
	var b []byte
	b = protowire.AppendVarint(protowire.AppendTag(b, 1000, protowire.VarintType), 42)
	b = protowire.AppendString(protowire.AppendTag(b, 1001, protowire.BytesType), "said by a later version")
	b = protowire.AppendBytes(protowire.AppendTag(b, 1002, protowire.BytesType), bytes.Clone(b))
	walk(m.ProtoReflect(), func(m protoreflect.Message) { m.SetUnknown(b) })
	return m
}

// unknownKeys are of kinds that a later version may have.
var unknownKeys = []string{"forecasts/west", "clusters/west/forecast", "clusters/west/services/default/cart/0/more", "agents/west/n1/more"}

// writeNext makes what a later synchronizer may send: the golden store, with more in all of it.
func writeNext(t *testing.T, save func(string, []byte)) {
	schema := keySchema(t)
	m := &feedv1.WatchResponse{Federation: "test", StoreId: "0123456789abcdef", Revision: 100, SnapshotBegin: true, SnapshotEnd: true}
	add := func(key string, value []byte) {
		m.Entries = append(m.Entries, &feedv1.Entry{Key: key, Value: value, Revision: int64(10 + len(m.GetEntries()))})
	}
	values := stored(t)
	for _, kind := range kinds() {
		for _, k := range sortedKeys(values, kind) {
			v := values[k]
			switch v := v.(type) {
			case *policyv1.Policy, *policyv1.Cordon: // what is not understood of these is not followed
			case *storev1.Slice:
				for _, i := range v.GetInstances() {
					i.Health = 99
				}
				later(v)
			case *storev1.ClusterMeta:
				v.Registries[0].State = 99
				v.Registries[0].Strategies["default/other"] = "by-the-moon"
				later(v)
			default:
				later(v)
			}
			b, err := keys.Encode(v)
			if err != nil {
				t.Fatal(err)
			}
			add(schema.Format(k), b)
		}
	}
	p := &policyv1.Policy{Target: &policyv1.Target{Namespace: "shop"}, Settings: later(&policyv1.Settings{Strategy: proto.String("local-only")}), Revision: 5}
	b, err := keys.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	add(schema.Policies()+"namespace/shop/*", b)
	for _, key := range unknownKeys {
		add(schema.Root()+key, []byte("\x03whatever it is"))
	}
	add(schema.Format(keys.Key{Kind: keys.Slice, Cluster: "west", Name: cart, Slice: 1}), []byte("\x03a format of later"))
	walk(m.ProtoReflect(), func(m protoreflect.Message) {
		m.SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 42))
	})
	b, err = proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	save("watch.binpb", b)
}

func next(t *testing.T) *feedv1.WatchResponse {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "next", "watch.binpb"))
	if err != nil {
		t.Fatal(err)
	}
	m := &feedv1.WatchResponse{}
	if err := proto.Unmarshal(b, m); err != nil {
		t.Fatal(err)
	}
	if len(strangers(m)) != len(m.GetEntries())+1 {
		t.Fatalf("it is not of a later version: %s", strangers(m))
	}
	return m
}

// TestAnAgentTakesWhatALaterSynchronizerSends: all that is known of it is known as before, what is not does
// no harm and is counted, and the saved view has all of it, for the version that the agent may have next.
func TestAnAgentTakesWhatALaterSynchronizerSends(t *testing.T) {
	ctx := testkit.Context(t)
	m := next(t)
	address, stop := serve(t, &teller{says: []*feedv1.WatchResponse{m}})
	view := filepath.Join(t.TempDir(), "view")
	a := follow(t, view, address)
	want := strings.NewReplacer("DRAINING", "UNHEALTHY", "UNKNOWN", "UNHEALTHY").Replace(wantReadable)
	want = strings.Replace(want, "refused []", `refused [policy namespace shop is not understood by this version: holds a field that this version does not know`, 1)
	understood := func(a *agent) func() error {
		return func() error {
			if a.mirror() == nil {
				return errNotYet
			}
			got := readable(a.mirror(), time.Now())
			if !strings.HasPrefix(withoutAge(got), withoutAge(strings.TrimSpace(want))) {
				return fmt.Errorf("it holds\n%s\nwant\n%s", got, want)
			}
			return nil
		}
	}
	testkit.Eventually(t, ctx, "the feed", understood(a))
	list, _ := a.mirror().Instances("west", cart)
	if list[0].Health != catalog.Unhealthy || list[0].Health.Serving() {
		t.Errorf("a health that is not known is %s", list[0].Health)
	}
	for reason, n := range map[string]float64{"skipped": float64(len(unknownKeys)), "health": 41, "strategy": 1, "policy": 1, "corrupt": 1} {
		if got := sum(t, a.metrics, "farcall_mirror_refused_total", reason); got != n {
			t.Errorf("%v counted as %s, want %v", got, reason, n)
		}
	}
	a.stop()
	stop()

	saved := savedEntries(t, view)
	for _, e := range m.GetEntries() {
		k, err := keySchema(t).Parse(e.GetKey())
		switch {
		case err != nil: // the next version asks for it: see TestAViewThatAnotherVersionSaved
		case k.Kind == keys.Slice && e.GetValue()[0] == 3: // so for this
		case k.Kind == keys.Slice, k.Kind == keys.Meta, k.Kind == keys.Synced, k.Kind == keys.Agent, k.Kind == keys.Holds, k.Kind == keys.Policy, k.Kind == keys.Cordon:
			if !bytes.Equal(saved[e.GetKey()], e.GetValue()) {
				t.Errorf("%s came as %x and was saved as %x", e.GetKey(), e.GetValue(), saved[e.GetKey()])
			}
		}
	}
	again := newAgent(view)
	again.uplink.Load()
	if err := understood(again)(); err != nil {
		t.Errorf("from its disk: %v", err)
	}
}

// savedEntries reads a saved view, as the next version of the agent would.
func savedEntries(t *testing.T, file string) map[string][]byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := bytes.Cut(b, []byte("\n"))
	v := &feedv1.SavedView{}
	if err := proto.Unmarshal(body[sha256.Size:], v); err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, e := range v.GetView().GetEntries() {
		out[e.GetKey()] = e.GetValue()
	}
	return out
}

// TestDigestOfEveryRelease: what stands for a store is part of the protocol: two versions that reckon it
// otherwise would find each other to have drifted, for ever.
func TestDigestOfEveryRelease(t *testing.T) {
	entries, _ := goldenEntries(t, filepath.Join("testdata", "released", "v1"))
	want := map[string]uint64{"west": 0x48ce2a398cfe86db, "policies and cordons": 0x69f3c0c9d4704bbd}
	d, ok := mirrored(t, time.Now(), entries).Digest()
	if !ok || len(d.Parts) != len(want) {
		t.Fatalf("it is %v, %v", d, ok)
	}
	for part, sum := range want {
		if d.Parts[part] != sum {
			t.Errorf("%s is %#x, and was %#x", part, d.Parts[part], sum)
		}
	}
	// Keys of a kind that is not known count nowhere.
	later := mirrored(t, time.Now(), next(t).GetEntries())
	was, _ := later.Digest()
	more := &feedv1.Entry{Key: keySchema(t).Root() + unknownKeys[0], Value: []byte{9}, Revision: 101}
	later.Apply(time.Now(), []*feedv1.Entry{more}, 101)
	if is, ok := later.Digest(); !ok || is.Revision != 101 || fmt.Sprint(is.Parts) != fmt.Sprint(was.Parts) {
		t.Errorf("%v became %v", was, is)
	}
}
