package store

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
)

func TestNewRefuses(t *testing.T) {
	dir := t.TempDir()
	tests := []struct {
		name string
		cfg  Config
		want string
	}{
		{"no federation", Config{Embedded: &EmbeddedConfig{DataDir: dir}}, "federation"},
		{"no store", Config{Federation: "demo"}, "exactly one"},
		{"two stores", Config{Federation: "demo", Embedded: &EmbeddedConfig{DataDir: dir}, Etcd: &EtcdConfig{Endpoints: []string{"a:1"}}}, "exactly one"},
		{"no directory", Config{Federation: "demo", Embedded: &EmbeddedConfig{}}, "dataDir"},
		{"no endpoints", Config{Federation: "demo", Etcd: &EtcdConfig{}}, "endpoints"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := New(tt.cfg, Deps{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want something of %q", err, tt.want)
			}
		})
	}
}

func TestEmbeddedIsFoundedOnceAndKeepsWhatItHas(t *testing.T) {
	dir := t.TempDir()
	begin := time.Now()
	s, stop := embeddedStore(t, dir)
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("the start took %v", took)
	}
	if err := s.Check(testkit.Context(t)); err != nil {
		t.Error(err)
	}
	first, _, err := s.identify(testkit.Context(t))
	if err != nil || len(first) < 16 {
		t.Fatalf("id %q, %v", first, err)
	}
	var p storev1.PoliciesSynced
	r := read(t, s)
	key := s.schema.Format(keys.Key{Kind: keys.PoliciesSynced})
	testkit.Eventually(t, testkit.Context(t), "policies-synced", func() error {
		if !r.get(key, &p) || p.Revision != 0 {
			return fmt.Errorf("revision %d", p.Revision)
		}
		return nil
	})
	if err := s.PutAgent(testkit.Context(t), &catalogv1.Agent{Cluster: "east", Node: "n", Incarnation: "1"}); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := s.Check(testkit.Context(t)); err == nil {
		t.Error("a stopped store says it answers")
	}
	if err := s.PutAgent(testkit.Context(t), &catalogv1.Agent{Cluster: "east", Node: "n"}); !errors.Is(err, ErrStopped) {
		t.Errorf("got %v, want ErrStopped", err)
	}
	if err := s.Run(testkit.Context(t)); err == nil {
		t.Error("a store ran twice")
	}

	s, _ = embeddedStore(t, dir)
	again, _, err := s.identify(testkit.Context(t))
	if err != nil || again != first {
		t.Errorf("id %q became %q, %v", first, again, err)
	}
	var a catalogv1.Agent
	r = read(t, s)
	testkit.Eventually(t, testkit.Context(t), "agent", func() error {
		if !r.get(s.schema.Format(keys.Key{Kind: keys.Agent, Cluster: "east", Node: "n"}), &a) {
			return errors.New("not there")
		}
		return nil
	})
}

func TestCheckBeforeTheStoreAnswered(t *testing.T) {
	s := newStore(t, Config{Embedded: &EmbeddedConfig{DataDir: t.TempDir()}})
	if err := s.Check(testkit.Context(t)); !errors.Is(err, ErrNotReady) {
		t.Errorf("got %v, want ErrNotReady", err)
	}
}

func TestDataDirIsBoundToItsFederation(t *testing.T) {
	dir := t.TempDir()
	_, stop := embeddedStore(t, dir)
	stop()
	other := newStore(t, Config{Federation: "other", Embedded: &EmbeddedConfig{DataDir: dir}})
	err := other.Run(testkit.Context(t))
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), `"demo"`) {
		t.Errorf("got %v", err)
	}
}

// secondProcess runs an embedded store in a process of its own and gives the error with which
// it ended. The caller's test, run there, must call secondProcess too.
func secondProcess(t *testing.T, dir string) string {
	t.Helper()
	const env, mark = "FARCALL_TEST_DATADIR", "second process: "
	if dir := os.Getenv(env); dir != "" {
		err := newStore(t, Config{Embedded: &EmbeddedConfig{DataDir: dir}}).Run(testkit.Context(t))
		fmt.Println(mark + fmt.Sprint(err))
		os.Exit(0) // what a failed start leaves running ends here
	}
	cmd := exec.CommandContext(testkit.Context(t), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), env+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, said, _ := strings.Cut(string(out), mark)
	return said
}

func TestDataDirIsForOneProcess(t *testing.T) {
	dir := t.TempDir()
	if os.Getenv("FARCALL_TEST_DATADIR") == "" {
		embeddedStore(t, dir)
	}
	if said := secondProcess(t, dir); !strings.Contains(said, dir+" is in use by another process") {
		t.Errorf("got %s", said)
	}
}

func TestDamagedDataIsAnErrorThatNamesItsPlace(t *testing.T) {
	for name, pattern := range map[string]string{"log": "etcd/member/wal/0*.wal", "database": "etcd/member/snap/db"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if os.Getenv("FARCALL_TEST_DATADIR") == "" {
				_, stop := embeddedStore(t, dir)
				stop()
				files, err := filepath.Glob(filepath.Join(dir, pattern))
				if err != nil || len(files) == 0 {
					t.Fatalf("%v: no file", err)
				}
				if err := os.WriteFile(files[0], []byte(strings.Repeat("damaged!", 10_000)), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if said := secondProcess(t, dir); !strings.HasPrefix(said, "store: embedded etcd in "+dir) {
				t.Errorf("got %s", said)
			}
		})
	}
}

func TestEpochsFileThatCannotBeReadIsSetAside(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, epochsFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := embeddedStore(t, dir)
	if err := s.epochs.remember("east", 7); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{epochsFile: "\"east\": 7", epochsFile + ".unreadable": "{"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func TestWatchBringsAListAndThenChanges(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	// More than two pages, before and after the watch began.
	put := func(from, to int) {
		for i := from; i < to; i++ {
			if err := s.PutAgent(ctx, &catalogv1.Agent{Cluster: "east", Node: fmt.Sprintf("n%04d", i)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(0, 2*listPage+10)
	r := read(t, s)
	put(2*listPage+10, 2*listPage+20)
	if err := s.DeleteAgent(ctx, "east", "n0000", ""); err != nil {
		t.Fatal(err)
	}
	r.waitFor(t, "all agents but one, store and policies-synced", func() error {
		if want := 2*listPage + 19 + 2; len(r.entries) != want {
			return fmt.Errorf("%d entries, want %d", len(r.entries), want)
		}
		return nil
	})
}

func TestWatchTellsHowFarItIsWhenNothingOfOursChanges(t *testing.T) {
	t.Parallel()
	s, _ := embeddedStore(t, t.TempDir())
	r := read(t, s)
	if _, err := s.client.Put(testkit.Context(t), "/somebody/else", "x"); err != nil {
		t.Fatal(err)
	}
	want := revision(t, s)
	r.waitFor(t, "progress", func() error {
		if r.at < want {
			return fmt.Errorf("at %d, want %d", r.at, want)
		}
		return nil
	})
}

func TestCompactionUnderAWatchMakesItListAgainAndSweep(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	for _, n := range []string{"stays", "goes"} {
		if err := s.PutAgent(ctx, &catalogv1.Agent{Cluster: "east", Node: n}); err != nil {
			t.Fatal(err)
		}
	}
	r := &reader{}
	r.onEnd = func(int64) {
		// Between the first list and its watch: a removal, and the history of it is gone.
		r.mu.Lock()
		r.onEnd = nil
		r.mu.Unlock()
		if err := s.DeleteAgent(ctx, "east", "goes", ""); err != nil {
			t.Error(err)
		}
		if err := s.PutAgent(ctx, &catalogv1.Agent{Cluster: "east", Node: "comes"}); err != nil {
			t.Error(err)
		}
		if _, err := s.client.Compact(ctx, revision(t, s)); err != nil {
			t.Error(err)
		}
	}
	readTo(t, s, r)
	r.waitFor(t, "a second list that swept", func() error {
		var nodes []string
		for k := range r.entries {
			if p, err := s.schema.Parse(k); err == nil && p.Kind == keys.Agent {
				nodes = append(nodes, p.Node)
			}
		}
		if r.lists < 2 || len(nodes) != 2 || strings.Contains(strings.Join(nodes, " "), "goes") {
			return fmt.Errorf("%d lists, agents %v", r.lists, nodes)
		}
		if r.ids[0] != r.ids[1] {
			return fmt.Errorf("the store is the same, but ids are %v", r.ids)
		}
		return nil
	})
}

func TestAWipedStoreIsAnotherStore(t *testing.T) {
	t.Parallel()
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	if err := s.PutAgent(ctx, &catalogv1.Agent{Cluster: "east", Node: "n"}); err != nil {
		t.Fatal(err)
	}
	r := read(t, s)
	r.waitFor(t, "the first list", func() error {
		if r.lists != 1 {
			return errors.New("not yet")
		}
		return nil
	})
	if _, err := s.client.Delete(ctx, s.schema.Root(), clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	r.waitFor(t, "a list of another store without the agent", func() error {
		if n := len(r.ids); n < 2 || r.ids[n-1] == r.ids[0] || r.lists < 2 || len(r.entries) != 2 {
			return fmt.Errorf("ids %v, %d lists, %d entries", r.ids, r.lists, len(r.entries))
		}
		return nil
	})
}

func TestAStoreThatWentBackIsAnotherStoreAndWrittenAnew(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	o := openOffice(t, member(s, "a", "east"))
	publish(t, ctx, o.term(t, ctx, "east", 1), true, one("a b"))
	w := &watcher{store: s, to: &reader{entries: map[string]Entry{}}, reason: "start"}
	if err := w.list(ctx); err != nil {
		t.Fatal(err)
	}
	was := w.id
	w.seen.Store(1 << 40) // as if it had seen more of this store than there is
	if err := w.list(ctx); !errors.Is(err, errOtherStore) {
		t.Fatalf("got %v, want errOtherStore", err)
	}
	if err := w.list(ctx); err != nil || w.id == was || w.id == "" {
		t.Errorf("id %q after %q, %v", w.id, was, err)
	}
	again := o.term(t, ctx, "east", 2)
	marker := s.schema.Format(keys.Key{Kind: keys.Synced, Cluster: "east"})
	if resp, err := s.client.Get(ctx, marker); err != nil || len(resp.Kvs) != 0 {
		t.Errorf("the marker of a publish that may be lost is there: %v, %v", resp, err)
	}
	publish(t, ctx, again, true, one("a b"))
	wantStored(t, s, "east", "cart/0 e2: a b")
}

func TestAnIDThatCannotBeReadIsReplaced(t *testing.T) {
	t.Parallel()
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	key := s.schema.Format(keys.Key{Kind: keys.Store})
	if _, err := s.client.Put(ctx, key, "\x09rubbish"); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, ctx, "a new id", func() error {
		_, _, err := s.identify(ctx)
		return err
	})
}

// What the policies of a store without an id are complete with stays, and is noted as of the time
// before.
func TestFoundingKeepsHigherPolicies(t *testing.T) {
	t.Parallel()
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	key := s.schema.Format(keys.Key{Kind: keys.PoliciesSynced})
	value, err := keys.Encode(&storev1.PoliciesSynced{Revision: 7})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.client.Txn(ctx).Then(clientv3.OpPut(key, string(value)), clientv3.OpDelete(s.schema.Format(keys.Key{Kind: keys.Store}))).Commit()
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, ctx, "a new id", func() error {
		_, _, err := s.identify(ctx)
		return err
	})
	at, err := s.marked(ctx)
	if err != nil || at.marker.GetRevision() != 7 || at.marker.GetRestored() != 7 {
		t.Errorf("policies-synced is %v, %v", at, err)
	}
}

func TestAgentRecords(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	record := &catalogv1.Agent{Cluster: "east", Node: "rack/1", Incarnation: "young", Address: "10.0.0.1:50002"}
	if err := s.PutAgent(ctx, record); err != nil {
		t.Fatal(err)
	}
	before := revision(t, s)
	if err := s.PutAgent(ctx, record); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteAgent(ctx, "east", "rack/1", "old"); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteAgent(ctx, "east", "nobody", ""); err != nil {
		t.Fatal(err)
	}
	if after := revision(t, s); after != before {
		t.Errorf("the same record, another incarnation's removal and one of nobody took %d writes", after-before)
	}
	if err := s.DeleteAgent(ctx, "east", "rack/1", "young"); err != nil {
		t.Fatal(err)
	}
	resp, err := s.client.Get(ctx, s.schema.Agents(), clientv3.WithPrefix())
	if err != nil || len(resp.Kvs) != 0 {
		t.Errorf("left: %v, %v", resp, err)
	}
	for _, bad := range []*catalogv1.Agent{{Node: "n"}, {Cluster: "East", Node: "n"}, {Cluster: "east"}} {
		if err := s.PutAgent(ctx, bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}
