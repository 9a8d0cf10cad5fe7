package synchronizer

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/testkit"
)

// cartIDs gives "1" to n.
func cartIDs(n int) (ids []string) {
	for i := range n {
		ids = append(ids, fmt.Sprint(i+1))
	}
	return ids
}

// newHolding is a registry whose removals are mere absences.
func newHolding(ids ...string) *registry {
	r := newRegistry(ids...)
	r.absence = true
	return r
}

// holds waits until ListHolds answers these holds, as "cluster/registry/id", and what it does not
// know, as "?cluster"; those of one cluster where one is named.
func (r *replica) holds(t *testing.T, cluster, want string) (resp *adminv1.ListHoldsResponse) {
	t.Helper()
	ctx := testkit.Context(t)
	testkit.Eventually(t, ctx, "the holds", func() (err error) {
		if resp, err = r.admin.ListHolds(ctx, &adminv1.ListHoldsRequest{Cluster: cluster}); err != nil {
			return err
		}
		var got []string
		for _, h := range resp.GetHolds() {
			got = append(got, h.GetCluster()+"/"+h.GetRegistry()+"/"+h.GetId())
		}
		for _, u := range resp.GetUnknown() {
			got = append(got, "?"+u.GetCluster())
		}
		if g := strings.Join(got, " "); g != want {
			return fmt.Errorf("have %q, want %q: %v", g, want, resp)
		}
		return nil
	})
	return resp
}

func TestHoldsAreListedAndReleased(t *testing.T) {
	regs := []*registry{newHolding(cartIDs(6)...), newHolding()}
	r := start(t, t.TempDir(), map[string][]*registry{"east": regs, "west": {newRegistry("7")}})
	const all = "east/1 east/2 east/3 east/4 east/5 east/6 west/7"
	r.lists(t, all)
	r.holds(t, "", "")
	regs[0].set()
	const held = "east/reg-1/1 east/reg-1/2 east/reg-1/3 east/reg-1/4 east/reg-1/5 east/reg-1/6"
	resp := r.holds(t, "", held)
	if got := fmt.Sprint(resp.GetClusters()); got != "[east west]" {
		t.Errorf("it speaks for %s", got)
	}
	h := resp.GetHolds()[0]
	if h.GetService() != "cart" || h.GetNamespace() != "default" || h.GetReason() != "catalogue" || !strings.Contains(h.GetDetail(), "all 6 instances") ||
		h.GetUntil().AsTime().Sub(h.GetSince().AsTime()) != time.Minute {
		t.Errorf("the first hold is %v", h)
	}
	r.lists(t, all)
	r.holds(t, "west", "")

	ctx := testkit.Context(t)
	for _, c := range []struct {
		req  *adminv1.ListHoldsRequest
		want int
	}{
		{&adminv1.ListHoldsRequest{Service: "cart"}, 6},
		{&adminv1.ListHoldsRequest{Namespace: "default", Cluster: "east"}, 6},
		{&adminv1.ListHoldsRequest{Namespace: "shop"}, 0},
		{&adminv1.ListHoldsRequest{Service: "pay"}, 0},
	} {
		resp, err := r.admin.ListHolds(ctx, c.req)
		if err != nil || len(resp.GetHolds()) != c.want || len(resp.GetUnknown()) != 0 {
			t.Errorf("%v: %v, %v", c.req, resp, err)
		}
	}

	for _, c := range []struct {
		req  *adminv1.ReleaseHoldRequest
		code codes.Code
		text string
	}{
		{&adminv1.ReleaseHoldRequest{}, codes.InvalidArgument, "cluster is empty"},
		{&adminv1.ReleaseHoldRequest{Cluster: "eats"}, codes.NotFound, `no cluster "eats"`},
		{&adminv1.ReleaseHoldRequest{Cluster: "west"}, codes.NotFound, "there is no hold in cluster west of any instance; there is none at all"},
		{&adminv1.ReleaseHoldRequest{Cluster: "east", Registry: "reg-2"}, codes.NotFound, `did you mean "reg-1"?`},
		{&adminv1.ReleaseHoldRequest{Cluster: "east", Namespace: "default", Service: "crat"}, codes.NotFound, `of default/crat; did you mean "default/cart"?`},
		{&adminv1.ReleaseHoldRequest{Cluster: "east", Service: "cart", Instance: "9"}, codes.NotFound, "there is no hold in cluster east of cart/9"},
	} {
		if _, err := r.admin.ReleaseHold(ctx, c.req); status.Code(err) != c.code || !strings.Contains(status.Convert(err).Message(), c.text) {
			t.Errorf("%v: %v, want %s with %q", c.req, err, c.code, c.text)
		}
	}

	one, err := r.admin.ReleaseHold(ctx, &adminv1.ReleaseHoldRequest{Cluster: "east", Service: "cart", Instance: "3"})
	if err != nil || one.GetReleased() != 1 || one.GetOwner() != "r1" || len(one.GetWarnings()) != 0 {
		t.Errorf("the release of one gave %v, %v", one, err)
	}
	r.lists(t, "east/1 east/2 east/4 east/5 east/6 west/7")
	rest, err := r.admin.ReleaseHold(ctx, &adminv1.ReleaseHoldRequest{Cluster: "east", Registry: "reg-1"})
	if err != nil || rest.GetReleased() != 5 {
		t.Errorf("the release of the rest gave %v, %v", rest, err)
	}
	r.lists(t, "west/7")
	r.holds(t, "", "")
}

// lines is a log that a test may read while others write.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestAReleaseIsWrittenDown(t *testing.T) {
	reg := newHolding(cartIDs(6)...)
	r := start(t, t.TempDir(), map[string][]*registry{"east": {reg}})
	r.lists(t, "east/1 east/2 east/3 east/4 east/5 east/6")
	reg.set()
	r.holds(t, "", "east/reg-1/1 east/reg-1/2 east/reg-1/3 east/reg-1/4 east/reg-1/5 east/reg-1/6")
	log := &lines{}
	a := &admin{s: &Synchronizer{
		cfg: Config{ReplicaID: "r1"}, log: slog.New(slog.NewTextHandler(log, nil)), intakes: r.s.intakes, hub: r.s.hub, mirror: r.s.mirror,
	}}
	ctx := metadata.NewIncomingContext(testkit.Context(t), metadata.Pairs(authorKey, "ann"))
	if _, err := a.ReleaseHold(ctx, &adminv1.ReleaseHoldRequest{Cluster: "east", Service: "cart", Instance: "2"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"author=ann", "cluster=east", "service=cart", "instance=2", "released=1", "owner=true"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s: %s", want, log)
		}
	}
}

func TestWhoSpeaksForACluster(t *testing.T) {
	owned := func(by string) mirror.Cluster {
		return mirror.Cluster{Name: "east", Meta: &storev1.ClusterMeta{Owner: by}}
	}
	answer := func(replica string, err error, clusters ...string) said[*adminv1.ListHoldsResponse] {
		return said[*adminv1.ListHoldsResponse]{replica, &adminv1.ListHoldsResponse{Clusters: clusters}, err}
	}
	away := errors.New("refused")
	for _, c := range []struct {
		name    string
		cluster mirror.Cluster
		answers []said[*adminv1.ListHoldsResponse]
		speaker string
		why     string
	}{
		{"its owner", owned("r2"), []said[*adminv1.ListHoldsResponse]{answer("r1", nil), answer("r2", nil, "east")}, "r2", ""},
		{"of two, the one in the store", owned("r2"), []said[*adminv1.ListHoldsResponse]{answer("r1", nil, "east"), answer("r2", nil, "east"), answer("r3", nil, "east")}, "r2", ""},
		{"one that has just taken it over", owned("r2"), []said[*adminv1.ListHoldsResponse]{answer("r1", nil, "east")}, "r1", ""},
		{"an owner that does not answer", owned("r2"), []said[*adminv1.ListHoldsResponse]{answer("r1", nil, "west"), answer("r2", away)}, "", "synchronizer r2 did not answer: refused"},
		{"an owner that is none any more", owned("r2"), []said[*adminv1.ListHoldsResponse]{answer("r1", nil), answer("r2", nil)}, "", "nobody does now"},
		{"an owner that is gone", owned("r9"), []said[*adminv1.ListHoldsResponse]{answer("r1", nil)}, "", "r9 owned it and is gone"},
		{"never owned", mirror.Cluster{Name: "east"}, []said[*adminv1.ListHoldsResponse]{answer("r1", nil)}, "", "nobody owns it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, why := "", ""
			if x := speaker(c.answers, c.cluster); x != nil {
				got = x.replica
			} else {
				why = unheard(c.answers, c.cluster)
			}
			if got != c.speaker || !strings.Contains(why, c.why) || (why == "") != (c.why == "") {
				t.Errorf("%q speaks (%s), want %q (%s)", got, why, c.speaker, c.why)
			}
		})
	}
}

func TestHoldsThatAreTooMany(t *testing.T) {
	resp := &adminv1.ListHoldsResponse{More: 1}
	for range 40_000 {
		resp.Holds = append(resp.Holds, &adminv1.Hold{Cluster: "east", Id: strings.Repeat("x", 100)})
	}
	trimHolds(resp)
	if n := len(resp.GetHolds()); proto.Size(resp) > maxAnswer || n < 10_000 || uint64(n)+resp.GetMore() != 40_001 {
		t.Errorf("%d are left in %d bytes, %d more", n, proto.Size(resp), resp.GetMore())
	}
}
