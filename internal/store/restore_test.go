package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/strategy"
)

func TestWipedStoreIsToldAgain(t *testing.T) {
	s, stop := embeddedStore(t, t.TempDir())
	for _, service := range []string{"a", "b", "c", "d"} {
		mustPut(t, s, stating(service, strategy.LocalOnly))
	}
	if _, err := s.PutCordon(testkit.Context(t), &policy.Cordon{Cluster: "west"}, Condition{}); err != nil {
		t.Fatal(err)
	}
	early := heldBy(t, s) // a reader that was away from here on
	mustPut(t, s, stating("b", strategy.Any))
	if _, err := s.DeletePolicy(testkit.Context(t), idOf("c"), Condition{}); err != nil {
		t.Fatal(err)
	}
	late := heldBy(t, s)
	const want = "a@1 b@6 d@4 west:*@5"
	wantSaid(t, s, want+" (7, 0)")
	stop()

	s, _ = embeddedStore(t, t.TempDir())
	wantSaid(t, s, "(0, 0)")
	restore(t, s, early, true)
	wantSaid(t, s, "a@1 b@2 c@3 d@4 west:*@5 (5, 5)")
	restore(t, s, late, true)
	wantSaid(t, s, want+" (7, 7)")
	restore(t, s, early, false)
	restore(t, s, late, false)
	wantSaid(t, s, want+" (7, 7)")
	if rev := mustPut(t, s, stating("a", strategy.Any)); rev != 8 {
		t.Errorf("the next revision is %d", rev)
	}
	restore(t, s, late, false)
}

// Whoever writes a policy into a wiped store, before anybody tells it what was there, loses
// nothing, whichever of the two has the higher numbers.
func TestWhatWasWrittenMeanwhileStays(t *testing.T) {
	for _, more := range []int{1, 5} {
		t.Run(fmt.Sprint(more), func(t *testing.T) {
			s, stop := embeddedStore(t, t.TempDir())
			mustPut(t, s, stating("a", strategy.LocalOnly))
			mustPut(t, s, stating("b", strategy.LocalOnly))
			held := heldBy(t, s)
			stop()

			s, _ = embeddedStore(t, t.TempDir())
			for range more {
				mustPut(t, s, stating("b", strategy.Any))
			}
			mustPut(t, s, stating("x", strategy.Any))
			restore(t, s, held, true)
			want := "a@1 b@3 x@4 (4, 2)"
			if more == 5 {
				want = "a@1 b@5 x@6 (6, 2)" // above what comes back as they are
			}
			wantSaid(t, s, want)
			restore(t, s, held, false)
		})
	}
}

// A store that was restored from an older copy of itself has policies that were deleted since, and
// old ones of those that were changed.
func TestOldBackupIsBroughtUpToDate(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	mustPut(t, s, stating("deleted", strategy.LocalOnly))
	mustPut(t, s, stating("changed", strategy.LocalOnly))
	backup := heldBy(t, s)
	id, _, err := s.identify(ctx)
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, stating("changed", strategy.Any))
	if _, err := s.DeletePolicy(ctx, idOf("deleted"), Condition{}); err != nil {
		t.Fatal(err)
	}
	held := heldBy(t, s)

	back := func() {
		t.Helper()
		ops := []clientv3.Op{clientv3.OpDelete(s.schema.Policies(), clientv3.WithPrefix())}
		if _, err := s.client.Txn(ctx).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
		for _, e := range backup {
			if _, err := s.client.Put(ctx, e.Key, string(e.Value)); err != nil {
				t.Fatal(err)
			}
		}
	}
	const want = "changed@3"
	t.Run("noticed", func(t *testing.T) {
		back()
		if err := s.found(ctx, id); err != nil {
			t.Fatal(err)
		}
		wantSaid(t, s, "changed@2 deleted@1 (2, 2)")
		restore(t, s, held, true)
		wantSaid(t, s, want+" (4, 4)")
	})
	t.Run("not noticed", func(t *testing.T) {
		back()
		now, _, err := s.identify(ctx)
		if err != nil {
			t.Fatal(err)
		}
		held[len(held)-1] = completeWith(t, s, now, 4)
		restore(t, s, held, true)
		wantSaid(t, s, want+" (4, 4)")
	})
}

// Who has seen more of a store than there is shows that it went back.
func TestWitness(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	mustPut(t, s, stating("a", strategy.LocalOnly))
	id, rev, err := s.identify(ctx)
	if err != nil {
		t.Fatal(err)
	}
	witness := func(of string, revision int64, policies uint64, believed bool) {
		t.Helper()
		if err := s.Witness(ctx, of, revision, policies); err != nil {
			t.Fatal(err)
		}
		now, _, err := s.identify(ctx)
		if err != nil || (now != id) != believed {
			t.Fatalf("id %s became %s, %v; want a new one: %v", id, now, err, believed)
		}
		id = now
	}
	witness(id, rev, 1, false)
	witness("another", rev+1000, 9, false)
	witness(id, rev, maxEpoch+1, false)
	witness(id, rev, 2, true)
	wantSaid(t, s, "a@1 (1, 1)")
	witness(id, rev+1000, 1, false) // not again so soon
	s.witnessed = s.witnessed.Add(-witnessEvery)
	witness(id, rev+1000, 1, true)
	// Somebody who says so every time is believed less and less often, and has everybody read
	// everything anew only so often.
	s.witnessed = s.witnessed.Add(-witnessEvery)
	witness(id, rev+1000, 1, false)
	s.witnessed = s.witnessed.Add(-witnessEvery)
	witness(id, rev+1000, 1, true)
	s.witnessed = s.witnessed.Add(-witnessForget)
	witness(id, rev+1000, 1, true)
	s.witnessed = s.witnessed.Add(-witnessEvery)
	witness(id, rev+1000, 1, true)
}

// Revisions that are too high to be believed must stay out of reach: a store that has come near them
// could never be told again of what it lost, by anybody.
func TestOneReportDoesNotExhaustRevisions(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	mustPut(t, s, stating("a", strategy.LocalOnly))
	for _, revision := range []uint64{maxEpoch, maxLeap + 2} {
		if _, err := s.RestoreReported(ctx, []Entry{completeWith(t, s, "another", revision)}); !errors.Is(err, ErrNotBelieved) {
			t.Errorf("revision %d: %v", revision, err)
		}
	}
	wantSaid(t, s, "a@1 (1, 0)")
	restored, err := s.RestoreReported(ctx, []Entry{completeWith(t, s, "another", maxLeap)})
	if err != nil || !restored {
		t.Errorf("a revision that may be: %v, %v", restored, err)
	}
	// What a replica has seen itself is not an agent's word, and a store that has nothing is told
	// anything.
	restore(t, s, []Entry{completeWith(t, s, "another", 1<<40)}, true)
	s, _ = embeddedStore(t, t.TempDir())
	if restored, err := s.RestoreReported(ctx, []Entry{completeWith(t, s, "another", 1<<40)}); err != nil || !restored {
		t.Errorf("a store that has nothing: %v, %v", restored, err)
	}
}

// A value that is newer than what it comes with would pass for one written since, for ever.
func TestNothingIsNewerThanWhatItComesWith(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	p := stating("a", strategy.LocalOnly).Proto()
	p.Revision = maxEpoch
	b, err := keys.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	restore(t, s, []Entry{{Key: s.schema.Format(keys.Key{Kind: keys.Policy, ID: idOf("a")}), Value: b}, completeWith(t, s, "another", 3)}, true)
	wantSaid(t, s, "(3, 3)")
}

// A policy that came back after a wipe and was deleted then does not come back a second time, with
// an agent that was away and has seen more of the time before.
func TestWhatWasDeletedMeanwhileStaysDeleted(t *testing.T) {
	s, stop := embeddedStore(t, t.TempDir())
	ctx := testkit.Context(t)
	mustPut(t, s, stating("a", strategy.LocalOnly))
	mustPut(t, s, stating("b", strategy.LocalOnly))
	early := heldBy(t, s)
	mustPut(t, s, stating("c", strategy.LocalOnly))
	late := heldBy(t, s)
	stop()
	s, _ = embeddedStore(t, t.TempDir())
	restore(t, s, early, true)
	if _, err := s.DeletePolicy(ctx, idOf("a"), Condition{}); err != nil {
		t.Fatal(err)
	}
	wantSaid(t, s, "b@2 (3, 2)")
	restore(t, s, late, true)
	wantSaid(t, s, "b@2 c@3 (3, 3)")
}

// More than one transaction holds comes back whole, and is marked last.
func TestManyPoliciesComeBack(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	held := []Entry{completeWith(t, s, "before", 1000)}
	for n := range 500 {
		p := stating(fmt.Sprint("svc-", n), strategy.LocalOnly).Proto()
		p.Revision, p.Author = uint64(n+1), strings.Repeat("x", 5000)
		b, err := keys.Encode(p)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, Entry{Key: s.schema.Format(keys.Key{Kind: keys.Policy, ID: idOf(fmt.Sprint("svc-", n))}), Value: b})
	}
	restore(t, s, held, true)
	if got := len(heldBy(t, s)); got != 501 {
		t.Errorf("%d came back", got)
	}
	at, err := s.marked(testkit.Context(t))
	if err != nil || at.marker.GetRevision() != 1000 {
		t.Fatalf("%v, %v", at, err)
	}
	for _, e := range held[1:] {
		resp, err := s.client.Get(testkit.Context(t), e.Key)
		if err != nil || resp.Kvs[0].ModRevision > at.markerAt {
			t.Fatalf("%s was written after the marker (%v)", e.Key, err)
		}
	}
}

func TestRestoreRefuses(t *testing.T) {
	s, _ := embeddedStore(t, t.TempDir())
	policies := s.schema.Format(keys.Key{Kind: keys.Policy, ID: idOf("a")})
	for name, held := range map[string][]Entry{
		"nothing":            nil,
		"no marker":          {{Key: policies, Value: []byte{1}}},
		"a broken marker":    {{Key: s.schema.Format(keys.Key{Kind: keys.PoliciesSynced}), Value: []byte("x")}},
		"a revision too big": {completeWith(t, s, "before", maxEpoch+1)},
	} {
		if _, err := s.RestorePolicies(testkit.Context(t), held); !errors.Is(err, ErrNotBelieved) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What is not a policy is left out, the rest counts.
	restore(t, s, []Entry{
		{Key: policies, Value: []byte("rubbish")},
		{Key: s.schema.Format(keys.Key{Kind: keys.Store}), Value: []byte("x")},
		{Key: "/elsewhere", Value: []byte("x")},
		completeWith(t, s, "before", 3),
	}, true)
	wantSaid(t, s, "(3, 3)")
}

// A synchronizer's data directory has the policies where the etcd was lost.
func TestDataDirRemembersPolicies(t *testing.T) {
	dir := t.TempDir()
	s, stop := embeddedStore(t, dir)
	mustPut(t, s, stating("a", strategy.LocalOnly))
	mustPut(t, s, stating("b", strategy.LocalOnly))
	if err := s.RememberPolicies(testkit.Context(t), heldBy(t, s)); err != nil {
		t.Fatal(err)
	}
	stop()
	s, stop = embeddedStore(t, dir) // nothing was lost
	wantSaid(t, s, "a@1 b@2 (2, 0)")
	stop()
	if err := os.RemoveAll(filepath.Join(dir, etcdFolder)); err != nil {
		t.Fatal(err)
	}
	s, stop = embeddedStore(t, dir)
	wantSaid(t, s, "a@1 b@2 (2, 2)")
	stop()
	if err := os.WriteFile(filepath.Join(dir, policiesFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ = embeddedStore(t, dir)
	wantSaid(t, s, "a@1 b@2 (2, 2)")
	if _, err := os.Stat(filepath.Join(dir, policiesFile+".unreadable")); err != nil {
		t.Errorf("the bad file is not set aside: %v", err)
	}
}

func FuzzHolding(f *testing.F) {
	s, err := New(Config{Federation: "demo", Embedded: &EmbeddedConfig{DataDir: "unused"}}, Deps{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("/farcall/v1/demo/policies/service/default/a/*", []byte{1}, []byte{1, 8, 7})
	f.Add("/farcall/v1/demo/clusters/east/cordons/*", []byte{2, 1}, []byte{1})
	f.Fuzz(func(t *testing.T, key string, value, marker []byte) {
		h, err := s.holding([]Entry{{Key: key, Value: value}, {Key: s.schema.Format(keys.Key{Kind: keys.PoliciesSynced}), Value: marker}})
		if err != nil {
			return
		}
		for k, v := range h.values {
			parsed, err := s.schema.Parse(k)
			if err != nil || keys.Decode(v.value, newStated(parsed.Kind)) != nil {
				t.Errorf("%q of %q was taken", v.value, k)
			}
		}
	})
}
