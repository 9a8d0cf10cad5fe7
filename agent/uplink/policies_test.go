package uplink

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/testkit"
)

// stating is the entry of a policy for cart.
func stating(t *testing.T, word string, revision uint64) *feedv1.Entry {
	t.Helper()
	return entry(t, keys.Key{Kind: keys.Policy, ID: "service/default/cart/*"}, &policyv1.Policy{
		Target:   &policyv1.Target{Service: "cart", Namespace: "default"},
		Settings: &policyv1.Settings{Strategy: proto.String(word)},
		Revision: revision,
	})
}

func marked(t *testing.T, revision, restored uint64) *feedv1.Entry {
	t.Helper()
	return entry(t, keys.Key{Kind: keys.PoliciesSynced}, &storev1.PoliciesSynced{Revision: revision, Restored: restored})
}

// reported waits until the last report is as wanted.
func (s *synchronizer) reported(t *testing.T, what string, ok func(*feedv1.ReportRequest) bool) {
	t.Helper()
	testkit.Eventually(t, testkit.Context(t), what, func() error {
		_, reports := s.seen()
		if len(reports) == 0 {
			return errors.New("no report")
		}
		if last := reports[len(reports)-1]; !ok(last) {
			return fmt.Errorf("the last report is %v", last)
		}
		return nil
	})
}

func TestPoliciesAppliedAreReportedAtOnce(t *testing.T) {
	s := serve(t)
	u, _ := newUplink(t, "", s.address)
	testkit.Go(t, "uplink", u.Run)
	s.send <- snapshot(t, 7, stating(t, "local-only", 1), marked(t, 1, 0))
	s.reported(t, "the first revision", func(r *feedv1.ReportRequest) bool { return r.GetPolicyRevision() == 1 })
	// Whoever reports by its clock alone does so once in reportEvery; on a machine that is busy with other
	// things, one of these may be late.
	begin := time.Now()
	for n := range uint64(10) {
		s.send <- &feedv1.WatchResponse{StoreId: "s1", Revision: int64(8 + n), Entries: []*feedv1.Entry{stating(t, "teleport", 2+n), marked(t, 2+n, 0)}}
		s.reported(t, "the next", func(r *feedv1.ReportRequest) bool {
			return r.GetPolicyRevision() == 2+n && len(r.GetPoliciesRefused()) == 1 && len(r.GetPolicies()) == 0
		})
	}
	if took := time.Since(begin); took > 9*reportEvery {
		t.Errorf("ten revisions were reported after %v", took)
	}
}

// An agent that knows more policies than its federation's store, be it from the view that it saved,
// hands them over until the store has them again.
func TestPoliciesThatTheStoreLostAreReported(t *testing.T) {
	s := serve(t)
	file := filepath.Join(t.TempDir(), "view")
	u, _ := newUplink(t, file, s.address)
	stop := testkit.Go(t, "uplink", u.Run)
	s.send <- snapshot(t, 7, stating(t, "local-only", 4), marked(t, 4, 0))
	s.reported(t, "the policies", func(r *feedv1.ReportRequest) bool { return r.GetPolicyRevision() == 4 })
	stop()

	s.hello = snapshot(t, 3, marked(t, 0, 0))
	s.hello.StoreId = "s2"
	u, l := newUplink(t, file, s.address)
	testkit.Go(t, "uplink", u.Run)
	s.reported(t, "what the store lost", func(r *feedv1.ReportRequest) bool {
		return r.GetStoreId() == "s2" && r.GetPolicyRevision() == 4 && len(r.GetPolicies()) == 2
	})
	l.mu.Lock()
	p := l.m.Policies()
	l.mu.Unlock()
	if len(p.Set.Policies()) != 1 || !p.Behind {
		t.Errorf("a wiped store took the policies away: %+v", p)
	}
	s.send <- &feedv1.WatchResponse{StoreId: "s2", Revision: 4, Entries: []*feedv1.Entry{stating(t, "local-only", 4), marked(t, 4, 4)}}
	s.reported(t, "no more", func(r *feedv1.ReportRequest) bool { return r.GetRevision() == 4 && len(r.GetPolicies()) == 0 })
}

// More than fits into a message cannot be told again; the feed must not end over it, again and again.
func TestPoliciesThatAreTooManyDoNotEndTheFeed(t *testing.T) {
	s := serve(t)
	u, _ := newUplink(t, "", s.address)
	random := rand.NewChaCha8([32]byte{1})
	var many []*feedv1.Entry
	for n := range 45 {
		e := stating(t, "any", 4)
		e.Key = strings.Replace(e.Key, "cart", fmt.Sprint("cart", n), 1)
		e.Value = make([]byte, 100<<10) // it is held, understood or not
		_, _ = random.Read(e.Value)     // it never fails
		many = append(many, e)
	}
	testkit.Go(t, "uplink", u.Run)
	s.send <- snapshot(t, 7, append(many, marked(t, 4, 0))...)
	s.reported(t, "them", func(r *feedv1.ReportRequest) bool { return r.GetPolicyRevision() == 4 })
	wiped := snapshot(t, 8, marked(t, 0, 0))
	wiped.StoreId = "s2"
	s.send <- wiped
	s.reported(t, "the wiped store", func(r *feedv1.ReportRequest) bool {
		return r.GetStoreId() == "s2" && r.GetPolicyRevision() == 4 && len(r.GetPolicies()) == 0
	})
}

func TestReportNamesSomeOfTheRefused(t *testing.T) {
	var all []string
	for n := range maxRefused + 5 {
		all = append(all, fmt.Sprint(n))
	}
	got := told(all)
	if len(got) != maxRefused+1 || got[maxRefused] != "and 5 more" || all[maxRefused] != "20" {
		t.Errorf("%q", got)
	}
	if got := told(all[:maxRefused]); len(got) != maxRefused {
		t.Errorf("%q", got)
	}
	long := []string{"x" + strings.Repeat("\u00e4", 1<<15)}
	if got := told(long); len(got) != 1 || len(got[0]) > maxRefusedText+3 || !utf8.ValidString(got[0]) || len(long[0]) <= 1<<16 {
		t.Errorf("%d bytes: %.20q", len(got[0]), got)
	}
}
