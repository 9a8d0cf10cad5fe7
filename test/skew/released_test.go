package skew

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	// Their types are found by name.
	_ "github.com/farcall/farcall/api/farcall/admin/v1"
	_ "github.com/farcall/farcall/api/farcall/catalog/v1"
	_ "github.com/farcall/farcall/api/farcall/feed/v1"
	_ "github.com/farcall/farcall/api/farcall/policy/v1"
	_ "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// write names the release whose golden files are made anew; what is there is never written over.
var write = flag.String("write", "", "a folder of testdata/released to make golden files in")

// spoken are the messages that cross from one version to another: in etcd, on a disk, over the feed.
var spoken = []protoreflect.FullName{
	"farcall.store.v1.StoreID", "farcall.store.v1.Slice", "farcall.store.v1.Owner", "farcall.store.v1.Replica",
	"farcall.store.v1.ClusterMeta", "farcall.store.v1.Synced", "farcall.store.v1.Holds", "farcall.store.v1.PoliciesSynced",
	"farcall.catalog.v1.Agent", "farcall.policy.v1.Policy", "farcall.policy.v1.Cordon",
	"farcall.store.v1.RegistryViews", "farcall.feed.v1.SavedView",
	"farcall.feed.v1.WatchRequest", "farcall.feed.v1.WatchResponse", "farcall.feed.v1.ReportRequest", "farcall.feed.v1.ReportResponse",
	"farcall.feed.v1.ContributeRequest", "farcall.feed.v1.ContributeResponse", "farcall.feed.v1.ConsultRequest", "farcall.feed.v1.ConsultResponse",
}

// schema is the released one.
func schema(t testing.TB) *protoregistry.Files {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(testkit.Root(t), "api", "released", "v1.binpb"))
	if err != nil {
		t.Fatal(err)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(b, &set); err != nil {
		t.Fatal(err)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func descriptor(t testing.TB, files *protoregistry.Files, name protoreflect.FullName) protoreflect.MessageDescriptor {
	t.Helper()
	d, err := files.FindDescriptorByName(name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return d.(protoreflect.MessageDescriptor)
}

// filler sets every field of messages, each to another value. Of a oneof it sets the one of its turn.
type filler struct{ turn, n int }

func (f *filler) fill(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if o := fd.ContainingOneof(); o != nil && !o.IsSynthetic() && o.Fields().Get(f.turn%o.Fields().Len()) != fd {
			continue
		}
		switch {
		case fd.IsMap():
			m.Mutable(fd).Map().Set(f.scalar(fd.MapKey()).MapKey(), f.value(fd.MapValue(), m.Mutable(fd).Map().NewValue))
		case fd.IsList():
			list := m.Mutable(fd).List()
			for range 2 {
				list.Append(f.value(fd, list.NewElement))
			}
		default:
			m.Set(fd, f.value(fd, func() protoreflect.Value { return m.NewField(fd) }))
		}
	}
}

func (f *filler) value(fd protoreflect.FieldDescriptor, empty func() protoreflect.Value) protoreflect.Value {
	if fd.Message() == nil {
		return f.scalar(fd)
	}
	v := empty()
	f.fill(v.Message())
	return v
}

func (f *filler) scalar(fd protoreflect.FieldDescriptor) protoreflect.Value {
	f.n++
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		values := fd.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(1 + f.n%(values.Len()-1)).Number())
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(-f.n))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(f.n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(f.n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(f.n) << 33)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(f.n) + 0.5)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fmt.Sprintf("%s-%d", fd.Name(), f.n))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(fmt.Appendf(nil, "%s-%d", fd.Name(), f.n))
	}
	if fd.Kind() == protoreflect.Int32Kind {
		return protoreflect.ValueOfInt32(int32(f.n))
	}
	panic(fmt.Sprintf("%s is of kind %s, of which this test makes no value", fd.FullName(), fd.Kind()))
}

// turns is how many messages it takes to have each field of every oneof in one of them.
func turns(d protoreflect.MessageDescriptor) int {
	most := 1
	walkFields(d, map[protoreflect.FullName]bool{}, func(fd protoreflect.FieldDescriptor) {
		if o := fd.ContainingOneof(); o != nil && !o.IsSynthetic() {
			most = max(most, o.Fields().Len())
		}
	})
	return most
}

// walkFields calls f for every field of a message and of those below it.
func walkFields(d protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool, f func(protoreflect.FieldDescriptor)) {
	if seen[d.FullName()] {
		return
	}
	seen[d.FullName()] = true
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		f(fd)
		if fd.Message() != nil {
			walkFields(fd.Message(), seen, f)
		}
	}
}

// walk calls f for a message and every one below it.
func walk(m protoreflect.Message, f func(protoreflect.Message)) {
	f(m)
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap() && fd.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				walk(v.Message(), f)
				return true
			})
		case fd.IsList() && fd.Message() != nil:
			for i := range v.List().Len() {
				walk(v.List().Get(i).Message(), f)
			}
		case fd.Message() != nil && !fd.IsMap():
			walk(v.Message(), f)
		}
		return true
	})
}

// strangers gives the messages in m that hold fields that this version does not know.
func strangers(m proto.Message) []string {
	var out []string
	walk(m.ProtoReflect(), func(m protoreflect.Message) {
		if b := m.GetUnknown(); len(b) > 0 {
			out = append(out, fmt.Sprintf("%s: %x", m.Descriptor().FullName(), []byte(b)))
		}
	})
	return out
}

// spaces are what prototext puts in at will, so that nobody compares its output.
var spaces = regexp.MustCompile(`(?m)^(\s*[a-z0-9_]+:) +`)

func text(m proto.Message) []byte {
	s := prototext.MarshalOptions{Multiline: true}.Format(m)
	return []byte(spaces.ReplaceAllString(s, "$1 "))
}

// TestWriteGoldenFiles makes the golden files of a release, where it is told to.
func TestWriteGoldenFiles(t *testing.T) {
	if *write == "" {
		return
	}
	dir := filepath.Join("testdata", "released", *write)
	if _, err := os.Stat(dir); err == nil {
		t.Fatalf("%s is there: what a release wrote is not written over", dir)
	}
	save := func(name string, b []byte) {
		file := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(file), 0o755)
		if err == nil {
			err = os.WriteFile(file, b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	files := schema(t)
	for _, name := range spoken {
		d := descriptor(t, files, name)
		n := turns(d)
		for turn := range n {
			m := dynamicpb.NewMessage(d)
			(&filler{turn: turn}).fill(m)
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("messages", string(name))
			if n > 1 {
				file += fmt.Sprint("-", turn+1)
			}
			save(file+".binpb", b)
			save(file+".txtpb", text(m))
		}
	}
	writeStore(t, save)
	writeDisk(t, save)
	if dir = filepath.Join("testdata", "next"); *write == "v1" {
		writeNext(t, save)
	}
}

// releases gives the folders of golden files, one of each release that changed the schema.
func releases(t testing.TB) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join("testdata", "released", "*"))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("there are no golden files: %v", err)
	}
	return dirs
}

// TestMessagesOfEveryRelease: every message that a released version wrote, with every field that it had, is
// read with nothing left over, says what it said then, and is written such that it says that still.
func TestMessagesOfEveryRelease(t *testing.T) {
	have := map[protoreflect.FullName]map[string]bool{}
	for _, dir := range releases(t) {
		golden, err := filepath.Glob(filepath.Join(dir, "messages", "*.binpb"))
		if err != nil || len(golden) == 0 {
			t.Fatalf("%s has no messages: %v", dir, err)
		}
		for _, file := range golden {
			t.Run(filepath.Base(dir)+"/"+strings.TrimSuffix(filepath.Base(file), ".binpb"), func(t *testing.T) {
				name, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(file), ".binpb"), "-")
				m := readGolden(t, file, protoreflect.FullName(name))
				if have[protoreflect.FullName(name)] == nil {
					have[protoreflect.FullName(name)] = map[string]bool{}
				}
				for path := range fieldsOf(m.ProtoReflect()) {
					have[protoreflect.FullName(name)][path] = true
				}
			})
		}
	}
	files := schema(t)
	for _, name := range spoken {
		walkFields(descriptor(t, files, name), map[protoreflect.FullName]bool{}, func(fd protoreflect.FieldDescriptor) {
			if !have[name][string(fd.FullName())] {
				t.Errorf("%s: no golden file has %s: see api/released/README.md", name, fd.FullName())
			}
		})
	}
}

// readGolden reads a golden file with today's types and compares it with its text.
func readGolden(t *testing.T, file string, name protoreflect.FullName) proto.Message {
	t.Helper()
	typ, err := protoregistry.GlobalTypes.FindMessageByName(name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	said, err := os.ReadFile(strings.TrimSuffix(file, ".binpb") + ".txtpb")
	if err != nil {
		t.Fatal(err)
	}
	m, want := typ.New().Interface(), typ.New().Interface()
	if err := proto.Unmarshal(b, m); err != nil {
		t.Fatal(err)
	}
	if err := prototext.Unmarshal(said, want); err != nil {
		t.Fatalf("its text cannot be read any more: %v", err)
	}
	if left := strangers(m); len(left) > 0 {
		t.Errorf("fields are not known any more: %s", left)
	}
	if !proto.Equal(m, want) {
		t.Errorf("it says\n%s\nand said\n%s", prototext.Format(m), said)
	}
	again := typ.New().Interface()
	if b, err = proto.Marshal(m); err == nil {
		err = proto.Unmarshal(b, again)
	}
	if err != nil || !proto.Equal(m, again) {
		t.Errorf("it is written as something else: %v", err)
	}
	return m
}

// fieldsOf gives the full names of all fields that are set in a message and below it.
func fieldsOf(m protoreflect.Message) map[string]bool {
	set := map[string]bool{}
	walk(m, func(m protoreflect.Message) {
		m.Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
			set[string(fd.FullName())] = true
			if fd.IsMap() { // each of its entries is a message of a key and a value
				for _, fd := range []protoreflect.FieldDescriptor{fd.MapKey(), fd.MapValue()} {
					set[string(fd.FullName())] = true
				}
			}
			return true
		})
	})
	return set
}

// TestEnumsOfEveryRelease: a word that was released keeps its number.
func TestEnumsOfEveryRelease(t *testing.T) {
	var names []string
	schema(t).RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(file.Package()), "farcall.") {
			return true
		}
		enums := []protoreflect.EnumDescriptors{file.Enums()}
		for i := range file.Messages().Len() {
			enums = append(enums, file.Messages().Get(i).Enums())
		}
		for _, list := range enums {
			for i := range list.Len() {
				e := list.Get(i)
				names = append(names, string(e.FullName()))
				now, err := protoregistry.GlobalTypes.FindEnumByName(e.FullName())
				if err != nil {
					t.Errorf("%s: %v", e.FullName(), err)
					continue
				}
				for j := range e.Values().Len() {
					was := e.Values().Get(j)
					if is := now.Descriptor().Values().ByNumber(was.Number()); is == nil || is.Name() != was.Name() {
						t.Errorf("%s = %d is another word now", was.FullName(), was.Number())
					}
				}
			}
		}
		return true
	})
	if !slices.Contains(names, "farcall.catalog.v1.Health") || !slices.Contains(names, "farcall.store.v1.RegistryStatus.State") {
		t.Errorf("looked at %q only", names)
	}
}
