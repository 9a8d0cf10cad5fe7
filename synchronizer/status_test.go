package synchronizer

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers/intake"
)

// Two registries of a cluster, one of which breaks: each has counts and a last success of its own.
func TestStatusOfEachRegistry(t *testing.T) {
	one, two := newRegistry("a", "b"), newRegistry("z")
	r := start(t, t.TempDir(), map[string][]*registry{"east": {one, two}})
	r.lists(t, "east/a east/b east/z")
	wants := func(what string, ok func(one, two *storev1.RegistryStatus) bool) {
		t.Helper()
		testkit.Eventually(t, testkit.Context(t), what, func() error {
			c := r.cluster(t, "east")
			if list := c.GetRegistries(); len(list) != 2 || !ok(list[0], list[1]) {
				return fmt.Errorf("%v", c)
			}
			return nil
		})
	}
	fresh := func(s *storev1.RegistryStatus) bool {
		return s.GetLastSuccess() != nil && time.Since(s.GetLastSuccess().AsTime()) < 2*time.Second
	}
	wants("both are read", func(one, two *storev1.RegistryStatus) bool {
		return fresh(one) && fresh(two) && one.GetInstances() == 2 && two.GetInstances() == 1 && one.GetServices() == 1 && two.GetServices() == 1
	})
	two.fail(errors.New("connection refused"))
	wants("one is broken for a while", func(one, two *storev1.RegistryStatus) bool {
		return two.GetState() == storev1.RegistryStatus_FAILED && two.GetLastError() == "connection refused" && two.GetInstances() == 1 &&
			time.Since(two.GetLastSuccess().AsTime()) > 4*time.Second &&
			one.GetState() == storev1.RegistryStatus_OK && fresh(one)
	})
	two.fail(nil)
	wants("it is mended", func(one, two *storev1.RegistryStatus) bool {
		return two.GetState() == storev1.RegistryStatus_OK && fresh(one) && fresh(two)
	})
}

// A registry that does not change writes nothing, and one whose revision moves with every read
// hardly more.
func TestRevisionsAreWrittenOnceInAWhile(t *testing.T) {
	still, moving := newRegistry("a"), newRegistry("b")
	moving.reads = 1
	r := start(t, t.TempDir(), map[string][]*registry{"still": {still}, "moving": {moving}})
	r.lists(t, "moving/b still/a")
	seqs := map[string]uint64{}
	testkit.Eventually(t, testkit.Context(t), "both are described", func() error {
		for _, name := range []string{"still", "moving"} {
			m := r.s.mirror.Meta(name)
			if len(m.GetRegistries()) != 1 || m.GetRegistries()[0].GetState() != storev1.RegistryStatus_OK {
				return fmt.Errorf("%v", m)
			}
			seqs[name] = m.GetSeq()
		}
		return nil
	})
	first := r.s.mirror.Meta("moving").GetRegistries()[0].GetRevision()
	if first == "" {
		t.Error("no revision was written with the state")
	}
	testkit.Eventually(t, testkit.Context(t), "a later revision", func() error {
		if now := r.s.mirror.Meta("moving").GetRegistries()[0].GetRevision(); now == first {
			return errors.New("it is the first still")
		}
		return nil
	})
	// A machine that stands still for a while makes a registry look as if it did not answer, which
	// is written. So what is wanted is a while without a write, during which one was read and the
	// other moved ten times.
	began := time.Now()
	testkit.Eventually(t, testkit.Context(t), "nobody writes", func() error {
		for name := range seqs {
			if seq := r.s.mirror.Meta(name).GetSeq(); seq != seqs[name] {
				seqs[name], began = seq, time.Now()
			}
		}
		if quiet := time.Since(began); quiet < 2*time.Second {
			return fmt.Errorf("only for %v", quiet)
		}
		return nil
	})
}

func TestDescriptionIsDue(t *testing.T) {
	now := time.Now()
	meta := func(revision, failure string) *storev1.ClusterMeta {
		return &storev1.ClusterMeta{Registries: []*storev1.RegistryStatus{{Name: "a", Revision: revision, LastError: failure}}}
	}
	written := description{meta: meta("1", ""), at: now}
	for what, c := range map[string]struct {
		d     description
		next  *storev1.ClusterMeta
		after time.Duration
		want  bool
	}{
		"nothing was written":   {description{}, meta("1", ""), 0, true},
		"the same":              {written, meta("1", ""), time.Hour, false},
		"a revision":            {written, meta("2", ""), 9 * time.Second, false},
		"a revision, later":     {written, meta("2", ""), 10 * time.Second, true},
		"an error":              {written, meta("1", "down"), 0, true},
		"an error and revision": {written, meta("2", "down"), 0, true},
	} {
		if got := c.d.due(c.next, now.Add(c.after)); got != c.want {
			t.Errorf("%s: %t, want %t", what, got, c.want)
		}
	}
}

// Since when a registry is in its state, and when it was read last, outlives the process that
// wrote it.
func TestTimesOutliveTheirOwner(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	long, hour := now.Add(-5*time.Hour), now.Add(-time.Hour)
	before := timesOf([]*storev1.RegistryStatus{
		{Name: "down", State: storev1.RegistryStatus_FAILED, Since: timestamppb.New(hour), LastSuccess: timestamppb.New(long)},
		{Name: "up", State: storev1.RegistryStatus_OK, Since: timestamppb.New(long), LastSuccess: timestamppb.New(hour)},
	})
	for _, c := range []struct {
		what  string
		r     catalog.RegistryStatus
		since time.Time
		read  time.Time // zero: not told
	}{
		{"it has to be read yet", catalog.RegistryStatus{Name: "down"}, hour, long},
		{"it is down still", catalog.RegistryStatus{Name: "down", State: catalog.RegistryFailed}, hour, long},
		{"it is up", catalog.RegistryStatus{Name: "down", State: catalog.RegistryOK, LastSuccess: now}, now, time.Time{}},
		{"it hangs", catalog.RegistryStatus{Name: "down", State: catalog.RegistryOK, LastSuccess: now.Add(-10 * time.Second)}, now, now.Add(-10 * time.Second)},
		{"it was up", catalog.RegistryStatus{Name: "up", State: catalog.RegistryFailed}, now, hour},
		{"it is new", catalog.RegistryStatus{Name: "new"}, now, time.Time{}},
		{"it was never read", catalog.RegistryStatus{Name: "new", State: catalog.RegistryFailed}, now, time.Time{}},
	} {
		since, read := before.of(c.r, now)
		if !since.AsTime().Equal(c.since) || (read != nil) != !c.read.IsZero() || read != nil && !read.AsTime().Equal(c.read) {
			t.Errorf("%s: since %v, read %v; want %v, %v", c.what, since.AsTime(), read, c.since, c.read)
		}
	}
}

func TestLastRead(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	c := mirror.Cluster{Age: time.Minute, AgeKnown: true, OwnerAge: time.Second, OwnerKnown: true}
	none := mirror.Cluster{}
	for what, got := range map[string]struct{ have, want *timestamppb.Timestamp }{
		"all are read":    {lastRead(c, true, now), timestamppb.New(now.Add(-time.Minute))},
		"one is broken":   {lastRead(c, false, now), timestamppb.New(now.Add(-time.Second))},
		"nobody can tell": {lastRead(none, true, now), nil},
	} {
		if !proto.Equal(got.have, got.want) {
			t.Errorf("%s: %v, want %v", what, got.have, got.want)
		}
	}
}

// A registry that was added after the work was put together is unread, not gone.
func TestRegistriesAddedMeanwhileAreUnread(t *testing.T) {
	a, b := catalog.RegistryStatus{Name: "a", Complete: true}, catalog.RegistryStatus{Name: "b", Complete: true}
	w := withUnread(work{complete: true, registries: []catalog.RegistryStatus{a}}, []catalog.RegistryStatus{a, b})
	if w.complete || len(w.registries) != 2 || w.registries[1].Complete {
		t.Errorf("%+v", w)
	}
	if w := withUnread(work{complete: true, registries: []catalog.RegistryStatus{a}}, []catalog.RegistryStatus{a}); !w.complete {
		t.Errorf("nothing was added: %+v", w)
	}
}

func TestClusterIsReadOneWayOnly(t *testing.T) {
	err := (&Synchronizer{}).addCluster(Cluster{Intake: intake.Config{Cluster: "edge", Registries: make([]intake.Registry, 1)}, ViaAgents: true}, intake.Deps{}, nil)
	if err == nil {
		t.Error("a cluster that is read via its agents may not have registries here")
	}
}
