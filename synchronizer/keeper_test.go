package synchronizer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
)

func TestExpiredCordonIsRemoved(t *testing.T) {
	r := start(t, t.TempDir(), nil)
	r.wantPolicies(t, "the store is read", "0/0", 0)
	_, err := r.admin.Cordon(testkit.Context(t), &adminv1.CordonRequest{Cordon: &policyv1.Cordon{Cluster: "east"}, Ttl: durationpb.New(500 * time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	r.wantPolicies(t, "it is over", "0/0", 1)
	r.wantPolicies(t, "it is removed", "0/0", 2)
}

// putSome writes three policies and a cordon, at revision 5, and gives what is in force then.
func putSome(t *testing.T, r *replica) string {
	t.Helper()
	for _, s := range []string{"a", "b", "c"} {
		r.put(t, stating(s, "any"))
	}
	r.put(t, stating("b", "local-only"))
	if _, err := r.admin.Cordon(testkit.Context(t), &adminv1.CordonRequest{Cordon: &policyv1.Cordon{Cluster: "west"}}); err != nil {
		t.Fatal(err)
	}
	return "a=any b=local-only c=any !west "
}

func empty(t *testing.T, dir string) {
	t.Helper()
	entries, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(e); err != nil {
			t.Fatal(err)
		}
	}
}

// A store that is gone, with all that the synchronizer had on disk, loses no policy and no cordon
// as long as an agent lives.
func TestAgentsBringPoliciesBack(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir, nil)
	f := newFollower(t, "n1")
	stop := f.follow(t, r)
	want := putSome(t, r)
	r.wantPolicies(t, "before", want+"1/1", 5)
	stop()
	r.stop()
	empty(t, dir)
	r = start(t, dir, nil)
	r.put(t, stating("new", "any"))
	f.follow(t, r)
	r.wantPolicies(t, "after", strings.Replace(want, "c=any", "c=any new=any", 1)+"1/1", 6)
	r.remove(t, "a")
	r.wantPolicies(t, "it goes on", strings.Replace(strings.Replace(want, "c=any", "c=any new=any", 1), "a=any ", "", 1)+"1/1", 7)
}

// A synchronizer with a data directory of its own brings them back without any agent.
func TestDataDirBringsPoliciesBack(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir, nil)
	want := putSome(t, r)
	testkit.Eventually(t, testkit.Context(t), "the copy is written", func() error {
		b, err := os.ReadFile(filepath.Join(dir, "policies.json"))
		if err == nil && !strings.Contains(string(b), "cordons") {
			err = errors.New("it has no cordon yet")
		}
		return err
	})
	r.stop()
	if err := os.RemoveAll(filepath.Join(dir, "etcd")); err != nil {
		t.Fatal(err)
	}
	r = start(t, dir, nil)
	r.wantPolicies(t, "after", want+"0/0", 5)
}

// A store that was restored from an older copy of itself, while nobody looked, is brought up to date
// by the agents that saw more of it.
func TestAgentsBringAnOldBackupUpToDate(t *testing.T) {
	dir, backup := t.TempDir(), filepath.Join(t.TempDir(), "backup")
	r := start(t, dir, nil)
	want := putSome(t, r)
	r.stop()
	if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	r = start(t, dir, nil)
	f := newFollower(t, "n1")
	stop := f.follow(t, r)
	r.put(t, stating("d", "any"))
	r.put(t, stating("b", "any"))
	r.remove(t, "a")
	if _, err := r.admin.Uncordon(testkit.Context(t), &adminv1.UncordonRequest{Cluster: "west"}); err != nil {
		t.Fatal(err)
	}
	const now = "b=any c=any d=any "
	r.wantPolicies(t, "before", now+"1/1", 9)
	stop()
	r.stop()
	empty(t, dir)
	if err := os.CopyFS(dir, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	r = start(t, dir, nil)
	r.wantPolicies(t, "the backup", want+"0/0", 5)
	f.follow(t, r)
	r.wantPolicies(t, "after", now+"1/1", 9)
}

// One agent that tells nonsense of revisions is not believed, and changes nothing for the others.
func TestAnAgentsNonsenseOfRevisions(t *testing.T) {
	r := start(t, t.TempDir(), nil)
	want := putSome(t, r)
	schema, err := keys.New("test")
	if err != nil {
		t.Fatal(err)
	}
	marker, err := keys.Encode(&storev1.PoliciesSynced{Revision: 1 << 62, Store: "another"})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := r.feed.Report(testkit.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := stream.Send(&feedv1.ReportRequest{
			Federation: "test", PolicyRevision: 1 << 62,
			Agent:    &catalogv1.Agent{Cluster: "east", Node: "mad", Incarnation: "i", Address: "10.0.0.1:1"},
			Policies: []*feedv1.Entry{{Key: schema.Format(keys.Key{Kind: keys.PoliciesSynced}), Value: marker}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	// What a stream says is taken in order, and its end last.
	if _, err := stream.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}
	r.wantPolicies(t, "as before", want+"0/0", 5)
	if resp := r.put(t, stating("a", "any")); resp.GetPolicy().GetRevision() != 6 {
		t.Errorf("the next policy has revision %d, want 6", resp.GetPolicy().GetRevision())
	}
}
