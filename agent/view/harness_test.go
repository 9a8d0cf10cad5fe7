package view

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/keys"
	"github.com/farcall/farcall/internal/mirror"
	"github.com/farcall/farcall/internal/policy"
	"github.com/farcall/farcall/internal/reach"
	"github.com/farcall/farcall/resolvers/intake"
	"github.com/farcall/farcall/strategy"
)

var (
	cart = catalog.Name{Namespace: "default", Service: "cart"}
	now  = time.Now()
)

// rig is a Book of node n1 in cluster east, with a feed.
type rig struct {
	t      testing.TB
	b      *Book
	m      *mirror.Mirror
	schema keys.Schema
	rev    int64
	seq    uint64
	// revision is that of policies and cordons.
	revision  uint64
	connected atomic.Bool
	registry  *prometheus.Registry
	// tick and confirmed are the synchronizer's heartbeat.
	tick      uint64
	confirmed map[string]uint64
}

func newRig(t testing.TB, hasRegistry bool, base ...policy.Settings) *rig {
	t.Helper()
	schema, err := keys.New("test")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, schema: schema, m: mirror.New(schema), registry: prometheus.NewRegistry(), confirmed: map[string]uint64{}}
	cfg := Config{Self: reach.Self{Cluster: "east", Node: "n1", Address: "10.0.0.1:50002"}, HasRegistry: hasRegistry}
	if len(base) > 0 {
		cfg.Base = base[0]
	}
	r.b = New(cfg, Deps{Metrics: r.registry, Connected: r.connected.Load})
	return r
}

// feed attaches the mirror and gives it a first list, in which all policies are.
func (r *rig) feed(entries ...*feedv1.Entry) { r.feedBare(append(entries, r.marker())...) }

// feedBare is feed with a list from which nobody can tell what the policies are.
func (r *rig) feedBare(entries ...*feedv1.Entry) {
	r.b.Attach(r.m)
	r.m.Begin("s1")
	a := r.m.Apply(time.Now(), entries, r.rev)
	r.b.Changed(a)
	r.b.Changed(r.m.End(r.rev))
}

func (r *rig) change(entries ...*feedv1.Entry) { r.b.Changed(r.m.Apply(time.Now(), entries, r.rev)) }

func (r *rig) entry(k keys.Key, v proto.Message) *feedv1.Entry {
	r.t.Helper()
	r.rev++
	b, err := keys.Encode(v)
	if err != nil {
		r.t.Fatal(err)
	}
	return &feedv1.Entry{Key: r.schema.Format(k), Value: b, Revision: r.rev}
}

// marker says that all policies and cordons are there.
func (r *rig) marker() *feedv1.Entry {
	r.revision++
	return r.entry(keys.Key{Kind: keys.PoliciesSynced}, &storev1.PoliciesSynced{Revision: r.revision})
}

// put changes policies and cordons.
func (r *rig) put(statements ...proto.Message) {
	r.t.Helper()
	var entries []*feedv1.Entry
	for _, m := range statements {
		switch m := m.(type) {
		case *policyv1.Policy:
			p, err := policy.FromProto(m)
			if err != nil {
				r.t.Fatal(err)
			}
			entries = append(entries, r.entry(keys.Key{Kind: keys.Policy, ID: p.ID()}, m))
		case *policyv1.Cordon:
			c, err := policy.CordonFromProto(m)
			if err != nil {
				r.t.Fatal(err)
			}
			entries = append(entries, r.entry(keys.Key{Kind: keys.Cordon, Cluster: c.Cluster, ID: c.ID()}, m))
		}
	}
	r.change(append(entries, r.marker())...)
}

// drop takes policies back.
func (r *rig) drop(policies ...*policyv1.Policy) {
	r.t.Helper()
	var entries []*feedv1.Entry
	for _, m := range policies {
		target, err := policy.TargetFromProto(m.GetTarget())
		if err != nil {
			r.t.Fatal(err)
		}
		r.rev++
		key := r.schema.Format(keys.Key{Kind: keys.Policy, ID: policy.FormatID(target, m.GetFrom())})
		entries = append(entries, &feedv1.Entry{Key: key, Deleted: true, Revision: r.rev})
	}
	r.change(append(entries, r.marker())...)
}

// inBubble runs a test in a bubble of its own time.
func inBubble(t *testing.T, test func(t *testing.T)) {
	synctest.Test(t, func(t *testing.T) { test(t) })
}

// run has the Book do what is due, until the test is over.
func (r *rig) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.b.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			r.t.Error(err)
		}
	})
	synctest.Wait()
}

// pass lets a time of the bubble go by.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// beat is the synchronizer's word that it has just read these clusters; others stay as they are.
func (r *rig) beat(clusters ...string) {
	r.tick++
	for _, c := range clusters {
		r.confirmed[c] = r.tick
	}
	r.change(r.entry(keys.Key{Kind: keys.Replica, Replica: "s"}, &storev1.Replica{Id: "s", Tick: r.tick, Confirmed: r.confirmed}))
}

// list is a cluster's list of cart; a word is id or id@node.
func (r *rig) list(cluster string, words ...string) *feedv1.Entry {
	r.seq++
	v := &storev1.Slice{Cluster: cluster, Namespace: "default", Service: "cart", Epoch: 1, Seq: r.seq}
	for _, i := range instances(cluster, words...) {
		v.Instances = append(v.Instances, i.Proto())
	}
	return r.entry(keys.Key{Kind: keys.Slice, Cluster: cluster, Name: cart}, v)
}

// gone takes a cluster's list of cart away.
func (r *rig) gone(cluster string) *feedv1.Entry {
	r.rev++
	return &feedv1.Entry{Key: r.schema.Format(keys.Key{Kind: keys.Slice, Cluster: cluster, Name: cart}), Deleted: true, Revision: r.rev}
}

func (r *rig) synced(cluster string) *feedv1.Entry {
	return r.entry(keys.Key{Kind: keys.Synced, Cluster: cluster}, &storev1.Synced{Cluster: cluster, Epoch: 1})
}

func (r *rig) agent(cluster, node, address string) *feedv1.Entry {
	return r.entry(keys.Key{Kind: keys.Agent, Cluster: cluster, Node: node}, &catalogv1.Agent{Cluster: cluster, Node: node, Address: address})
}

func instances(cluster string, words ...string) []*catalog.Instance {
	var out []*catalog.Instance
	for _, w := range words {
		id, node, _ := strings.Cut(w, "@")
		out = append(out, &catalog.Instance{
			ID:   catalog.ID{Cluster: cluster, Name: cart, Instance: id},
			Node: node, Address: "10.9.0.1", Port: 80, Weight: 1,
		})
	}
	return out
}

func local(complete bool, words ...string) intake.Change {
	return intake.Change{Complete: complete, Services: map[catalog.Name]intake.List{cart: {Instances: instances("east", words...)}}}
}

// tiers gives a plan's tiers as words: "local: a b | *: c".
func (r *rig) tiers(kind strategy.Kind) string {
	r.t.Helper()
	p, err := r.b.Service(cart).Plan(kind, "")
	if err != nil {
		return err.Error()
	}
	if u := p.Decision.Unavailable; u != "" {
		return string(u)
	}
	var tiers []string
	for n := range p.Decision.Tiers {
		t := &p.Decision.Tiers[n]
		var ids []string
		for c := range t.Candidates() {
			ids = append(ids, c.Instance.Instance)
		}
		slices.Sort(ids)
		if t.Failure != "" {
			ids = append(ids, string(t.Failure))
		}
		tiers = append(tiers, t.Name+": "+strings.Join(ids, " "))
	}
	return strings.Join(tiers, " | ")
}

func (r *rig) want(kind strategy.Kind, tiers string) {
	r.t.Helper()
	if got := r.tiers(kind); got != tiers {
		r.t.Errorf("%s: got %q, want %q", kind, got, tiers)
	}
}
