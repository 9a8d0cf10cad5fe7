package house

import (
	"go/ast"
	"maps"
	"slices"
	"strings"
	"testing"
)

// rule says what the packages of one folder may import of this module. A name ends in /... for
// everything below it, too. The longest folder that a package lies in counts.
type rule struct {
	folder string
	may    []string
}

// The law: imports point one way, and each room is reached through its door only. Somebody who
// adds a package says here where it stands.
//
//	cmd -> synchronizer|agent -> resolvers|guard|store|mirror -> policy -> strategy|keys -> catalog -> api
var law = []rule{
	{"api/...", []string{"api/..."}},
	{"internal/catalog", []string{"api/..."}},
	{"internal/keys", []string{"api/...", "internal/catalog"}},
	{"internal/reach", []string{"api/...", "internal/catalog"}},
	{"internal/guard", []string{"internal/catalog"}},
	{"internal/holds", []string{"api/...", "internal/catalog", "internal/guard"}},
	{"internal/policy", []string{"api/...", "internal/catalog", "internal/keys", "internal/nearest", "strategy"}},
	{"internal/explain", []string{"api/...", "internal/catalog", "internal/policy", "strategy"}},
	{"internal/mirror", []string{"api/...", "internal/catalog", "internal/keys", "internal/policy", "strategy"}},
	{"internal/store", []string{"api/...", "internal/catalog", "internal/datadir", "internal/keys", "internal/policy"}},
	{"internal/store/storetest", nil},
	{"strategy", []string{"internal/catalog", "internal/nearest"}},
	{"resolvers", []string{"internal/catalog"}},
	{"resolvers/...", []string{"internal/catalog", "internal/nearest", "resolvers", "resolvers/poll"}},
	// The annotation that it reads is a strategy's word.
	{"resolvers/kubernetes", []string{"internal/catalog", "internal/nearest", "resolvers", "resolvers/poll", "strategy"}},
	{"resolvers/inbox", []string{"internal/catalog", "resolvers"}},
	{"resolvers/intake", []string{"internal/catalog", "internal/guard", "resolvers", "resolvers/inbox"}},
	{"resolvers/resolvertest", []string{"internal/catalog", "internal/testkit", "resolvers"}},
	{"internal/config", []string{"api/...", "internal/catalog", "internal/identity", "internal/nearest", "internal/policy", "strategy"}},
	{"internal/datadir", nil},
	{"internal/identity", []string{"internal/catalog"}},
	{"internal/identity/authority", []string{"internal/identity"}},
	{"internal/nearest", nil},
	{"internal/version", nil},
	{"synchronizer/...", []string{
		"api/...", "internal/catalog", "internal/explain", "internal/guard", "internal/holds", "internal/identity", "internal/keys", "internal/mirror",
		"internal/nearest", "internal/policy", "internal/reach", "internal/store", "resolvers", "resolvers/inbox", "resolvers/intake", "strategy", "synchronizer/...",
	}},
	// Agents know the store from the feed only, so internal/store is not among these.
	{"agent/...", []string{
		"api/...", "internal/catalog", "internal/datadir", "internal/explain", "internal/guard", "internal/holds", "internal/identity", "internal/keys", "internal/mirror",
		"internal/policy", "internal/reach", "internal/version", "resolvers", "resolvers/inbox", "resolvers/intake", "strategy", "agent/...",
	}},
	{"agent/pick", []string{"internal/catalog", "strategy"}},
	{"cmd/...", []string{"api/...", "cmd/...", "internal/...", "resolvers/...", "strategy", "synchronizer/...", "agent/..."}},
	{"internal/testkit", nil},
	{"internal/house", nil},
	{"internal/tools/...", nil},
	{"test/robustness/verdict", []string{"test/robustness/history"}},
	{"test/robustness/judge", []string{"test/robustness/history", "test/robustness/verdict"}},
	{"test/...", []string{"api/...", "cmd/...", "internal/...", "resolvers/...", "strategy", "synchronizer/...", "agent/..."}},
}

// matches reports whether a folder is the pattern's, or below it where it ends in /... .
func matches(pattern, folder string) bool {
	if above, ok := strings.CutSuffix(pattern, "/..."); ok {
		return folder == above || strings.HasPrefix(folder, above+"/")
	}
	return folder == pattern
}

// ruleOf gives the rule with the longest folder that dir lies in, or nil.
func ruleOf(dir string) *rule {
	var best *rule
	length := -1
	for i := range law {
		r := &law[i]
		above := strings.TrimSuffix(r.folder, "/...")
		if matches(r.folder, dir) && (len(above) > length || r.folder == dir) {
			best, length = r, len(above)
		}
	}
	return best
}

func TestImportsPointOneWay(t *testing.T) {
	for _, f := range written(t, product) {
		r := ruleOf(f.dir)
		if r == nil {
			t.Errorf("%s: no rule in law_test.go says what %s may import", f.path, f.dir)
			continue
		}
		for _, imported := range f.imports() {
			folder, ours := strings.CutPrefix(imported, module+"/")
			if ours && !slices.ContainsFunc(r.may, func(p string) bool { return matches(p, folder) }) {
				t.Errorf("%s: %s may not import %s", f.path, f.dir, folder)
			}
		}
	}
}

// keepers are the only folders that may import what starts with a prefix, so that it can be
// changed in one place. Where inTests is set, this holds for tests too.
var keepers = []struct {
	prefix  string
	folders []string
	inTests bool
}{
	// test/bench measures a bare etcd as the floor of what the store adds; test/robustness reads what the
	// store itself saw, past all readers of ours.
	{prefix: "go.etcd.io/", folders: []string{"internal/store", "internal/store/storetest", "test/bench", "test/robustness"}, inTests: true},
	{prefix: "go.uber.org/zap", folders: []string{"internal/store"}},
	{prefix: "github.com/hashicorp/consul", folders: []string{"resolvers/consul"}},
	// test/e2e writes what Kubernetes' controllers and users would.
	{prefix: "k8s.io/", folders: []string{"resolvers/kubernetes", "test/e2e"}, inTests: true},
	// The demo serves one cluster's registry itself.
	{prefix: "github.com/miekg/dns", folders: []string{"resolvers/dns", "resolvers/mdns", "internal/testkit", "cmd/farcall"}, inTests: true},
	{prefix: "golang.org/x/net/ipv", folders: []string{"resolvers/mdns"}},
	{prefix: "github.com/spf13/", folders: []string{"cmd/..."}, inTests: true},
	{prefix: "go.yaml.in/yaml/", folders: []string{"internal/config", "resolvers/file", "cmd/farcall/..."}},
	{prefix: "github.com/spiffe/", folders: []string{"internal/identity"}, inTests: true},
	{prefix: "go.opentelemetry.io/otel/sdk", folders: []string{"agent/tracing"}},
	{prefix: "go.opentelemetry.io/otel/exporters", folders: []string{"agent/tracing"}, inTests: true},
	{prefix: "github.com/klauspost/compress/", folders: []string{"internal/keys"}, inTests: true},
	{prefix: "testing", folders: []string{"internal/testkit", "resolvers/resolvertest", "test/..."}},
	{prefix: module + "/internal/testkit", folders: []string{"resolvers/resolvertest", "test/..."}},
}

func TestEachDependencyHasItsKeeper(t *testing.T) {
	for _, f := range written(t, func(*file) bool { return true }) {
		for _, k := range keepers {
			if f.test && !k.inTests || slices.ContainsFunc(k.folders, func(p string) bool { return matches(p, f.dir) }) {
				continue
			}
			for _, imported := range f.imports() {
				if strings.HasPrefix(imported, k.prefix) {
					t.Errorf("%s imports %s: only %s may", f.path, imported, strings.Join(k.folders, ", "))
				}
			}
		}
	}
}

// Pure rooms take time as an argument and touch nothing outside: what they decide can be
// replayed.
var pureRooms = []string{
	"strategy", "internal/catalog", "internal/explain", "internal/guard", "internal/holds", "internal/keys", "internal/mirror", "internal/policy", "internal/reach", "agent/pick",
}

func TestPureRoomsDoNoIOAndReadNoClock(t *testing.T) {
	doors := []string{"net/http", "os", "os/exec", "os/signal", "io/ioutil", "syscall", "context", "google.golang.org/grpc"}
	clock := []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}
	for _, f := range written(t, product) {
		if !slices.Contains(pureRooms, f.dir) {
			continue
		}
		for _, imported := range f.imports() {
			if slices.Contains(doors, imported) {
				t.Errorf("%s imports %s: a pure room does no I/O", f.path, imported)
			}
		}
		f.uses("time", func(name string, n ast.Node) {
			if slices.Contains(clock, name) {
				t.Errorf("%s: time.%s: a pure room takes now as an argument", f.pos(n), name)
			}
		})
		// Splitting and joining addresses is no I/O.
		f.uses("net", func(name string, n ast.Node) {
			for _, verb := range []string{"Dial", "Listen", "Lookup", "Resolve", "Interface", "File"} {
				if strings.HasPrefix(name, verb) {
					t.Errorf("%s: net.%s: a pure room does no I/O", f.pos(n), name)
				}
			}
		})
	}
}

func TestLawNamesFoldersThatExist(t *testing.T) {
	dirs := byDir(written(t, func(*file) bool { return true }))
	for _, r := range law {
		if r.folder == "api/..." {
			continue // generated only
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(dirs)), func(d string) bool { return matches(r.folder, d) }) {
			t.Errorf("law_test.go has a rule for %s, which holds no Go files", r.folder)
		}
	}
	for _, room := range pureRooms {
		if dirs[room] == nil {
			t.Errorf("law_test.go has %s among the pure rooms, but it holds no Go files", room)
		}
	}
}
