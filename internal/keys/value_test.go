package keys

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
)

func sliceOf(n int) *storev1.Slice {
	s := &storev1.Slice{Cluster: "east", Namespace: "default", Service: "cart", Slice: 1, Epoch: 2, Seq: 3}
	for i := range n {
		s.Instances = append(s.Instances, &catalogv1.Instance{
			Cluster: "east", Namespace: "default", Service: "cart", Id: fmt.Sprintf("cart-%d", i),
			Node: "node-1", Locality: &catalogv1.Locality{Region: "eu", Zone: "eu-1"},
			Address: fmt.Sprintf("10.0.0.%d", i), Port: 8080, Relay: "10.0.0.1:50002", Weight: 1,
			Health: catalogv1.Health_HEALTHY, Metadata: map[string]string{"version": "v2", "a": "b", "c": "d"},
			Registry: "consul", RegistryRevision: "17",
		})
	}
	return s
}

var everyMessage = map[string]proto.Message{
	"store":                 &storev1.StoreID{Id: "abc"},
	"policies-synced":       &storev1.PoliciesSynced{},
	"policies-synced-later": &storev1.PoliciesSynced{Revision: 7, Restored: 5, Store: "abc"},
	"policy": &policyv1.Policy{
		Target: &policyv1.Target{Service: "cart", Namespace: "default"}, From: []string{"east", "west"}, Revision: 7, Author: "ann",
		Since: &timestamppb.Timestamp{Seconds: 1},
		Settings: &policyv1.Settings{
			Strategy: proto.String("external-first"), Override: proto.String("deny"),
			ExternalOrder: &policyv1.ExternalOrder{Pools: []*policyv1.Pool{{Clusters: []string{"west"}}, {Clusters: []string{"*"}}}},
			Failover:      &policyv1.Failover{Threshold: 50, MinAvailable: 1, Mode: "spill"},
			Balancer:      proto.String("ring-hash"), Locality: proto.String("prefer"), HashHeader: proto.String("x-user"),
			Weights:    &policyv1.Weights{Clusters: map[string]uint32{"west": 2, "north": 1}},
			Failback:   &policyv1.Failback{Hold: durationpb.New(1), Ramp: durationpb.New(2)},
			RecoverAll: proto.Bool(false), Retry: &policyv1.Retry{Attempts: 2, Idempotent: []string{"PUT"}},
			Broadcast: &policyv1.Broadcast{MinSuccess: 1, TargetTimeout: durationpb.New(3), MaxParallel: 4},
			StaleTtl:  durationpb.New(5), WarmUp: durationpb.New(6),
		},
	},
	"cordon": &policyv1.Cordon{Cluster: "east", Namespace: "default", Service: "cart", Reason: "disks", Author: "ann",
		Since: &timestamppb.Timestamp{Seconds: 1}, Expires: &timestamppb.Timestamp{Seconds: 2}, Revision: 8},
	"replica": &storev1.Replica{Id: "a", Tick: 7, Confirmed: map[string]uint64{"west": 6, "east": 7},
		Address: "10.0.0.1:7700", Clusters: []string{"east", "west"}},
	"owner":  &storev1.Owner{Replica: "a"},
	"meta":   &storev1.ClusterMeta{Cluster: "east", Epoch: 2, Owner: "a", Labels: map[string]string{"b": "2", "a": "1"}, Seq: 4},
	"synced": &storev1.Synced{Cluster: "east", Epoch: 2},
	"holds": &storev1.Holds{Cluster: "east", Part: 1, Epoch: 2, Seq: 5, Groups: []*storev1.HoldGroup{{
		Registry: "consul", Reason: "catalogue", Detail: "all 7 instances were gone", Doubted: true,
		Held: durationpb.New(5e9), Left: durationpb.New(55e9),
		Services: []*storev1.HeldService{{Namespace: "default", Service: "cart", Ids: []string{"1", "2"}}},
	}}},
	"slice": sliceOf(1),
	"empty": sliceOf(0),
	"agent": &catalogv1.Agent{Cluster: "east", Node: "n", Incarnation: "i", Apps: []*catalogv1.App{{Id: "cart", Port: 80}}},
}

func TestValuesAreGolden(t *testing.T) {
	for name, m := range everyMessage {
		raw, err := Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		if raw[0] != formatPlain {
			t.Errorf("%s is small and yet compressed", name)
		}
		golden(t, name+".golden", []byte(hex.Dump(raw)))
	}
}

// What a compressor makes of a message may change with the compressor; that what an earlier one
// wrote is still read may not.
func TestCompressedValueOfAnEarlierReleaseIsRead(t *testing.T) {
	raw, err := Encode(sliceOf(3))
	if err != nil {
		t.Fatal(err)
	}
	if raw[0] != formatZstd {
		t.Fatalf("format %d: three like instances must compress", raw[0])
	}
	if *update {
		golden(t, "slice-zstd.golden", raw)
	}
	var got storev1.Slice
	if err := Decode(readGolden(t, "slice-zstd.golden"), &got); err != nil || !proto.Equal(&got, sliceOf(3)) {
		t.Errorf("got %v, %v", &got, err)
	}
}

func TestEncodeIsDeterministicAndSmall(t *testing.T) {
	first, err := Encode(sliceOf(100))
	if err != nil {
		t.Fatal(err)
	}
	if plain := proto.Size(sliceOf(100)); len(first) > plain/4 {
		t.Errorf("%d bytes became %d: did not pay", plain, len(first))
	}
	for range 20 {
		again, err := Encode(sliceOf(100))
		if err != nil || !bytes.Equal(first, again) {
			t.Fatalf("the same message gave other bytes (%v)", err)
		}
	}
}

func TestNoiseIsNotCompressed(t *testing.T) {
	m := &storev1.StoreID{Id: noise(4096)}
	raw, err := Encode(m)
	if err != nil || raw[0] != formatPlain {
		t.Errorf("format %d, %v", raw[0], err)
	}
}

// noise gives text that zstd can make little of: 7 of 8 bits are random.
func noise(n int) string {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.UintN(128))
	}
	return string(b)
}

func TestUnknownFieldsSurvive(t *testing.T) {
	m := sliceOf(1)
	newer := protowire.AppendString(protowire.AppendTag(nil, 1000, protowire.BytesType), "from the future")
	m.ProtoReflect().SetUnknown(newer)
	m.Instances[0].ProtoReflect().SetUnknown(newer)
	raw, err := Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	var got storev1.Slice
	if err := Decode(raw, &got); err != nil {
		t.Fatal(err)
	}
	again, err := Encode(&got)
	if err != nil || !bytes.Equal(raw, again) {
		t.Errorf("a read and written value differs (%v)", err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	if _, err := Encode(&storev1.StoreID{Id: "\xff"}); err == nil {
		t.Error("text that is not UTF-8 was written")
	}
	if _, err := Encode(&storev1.StoreID{Id: strings.Repeat("a", MaxValueBytes)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	// The largest that is accepted is also read.
	m := &storev1.StoreID{Id: strings.Repeat("a", MaxValueBytes-16)}
	raw, err := Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	var got storev1.StoreID
	if err := Decode(raw, &got); err != nil || got.Id != m.Id {
		t.Errorf("the largest value is not read: %v", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	bomb := enc.EncodeAll(make([]byte, MaxValueBytes+1), []byte{formatZstd})
	small, err := Encode(sliceOf(10))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		raw  []byte
		want error
	}{
		{"nothing", nil, ErrFormat},
		{"another format", []byte{9, 1, 2}, ErrFormat},
		{"a plain value that is too large", append([]byte{formatPlain}, make([]byte, MaxValueBytes+1)...), ErrTooLarge},
		{"a bomb", bomb, ErrTooLarge},
		{"noise for protobuf", []byte{formatPlain, 0xff, 0xff}, ErrCorrupt},
		{"noise for zstd", []byte{formatZstd, 0xff, 0xff}, ErrCorrupt},
		{"half a frame", small[:len(small)/2], ErrCorrupt},
		{"one flipped bit", flip(small), ErrCorrupt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := Decode(tt.raw, &storev1.Slice{}); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func flip(raw []byte) []byte {
	out := bytes.Clone(raw)
	out[len(out)-6] ^= 1
	return out
}

func FuzzDecode(f *testing.F) {
	for _, m := range everyMessage {
		raw, err := Encode(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	big, err := Encode(sliceOf(50))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(big)
	f.Add([]byte{})
	f.Add([]byte{formatZstd, 0x28, 0xb5, 0x2f, 0xfd})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var m storev1.Slice
		if err := Decode(raw, &m); err != nil {
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%v has no type", err)
			}
			return
		}
		again, err := Encode(&m)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		var n storev1.Slice
		if err := Decode(again, &n); err != nil || !proto.Equal(&m, &n) {
			t.Fatalf("%v became %v (%v)", &m, &n, err)
		}
	})
}
