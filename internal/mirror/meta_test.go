package mirror

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	feedv1 "github.com/farcall/farcall/api/farcall/feed/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
	"github.com/farcall/farcall/internal/keys"
)

// What moves with every read of a registry, for people only, makes readers redo nothing; what
// they decide by does.
func TestOnlyWhatReadersDecideByIsAChange(t *testing.T) {
	registry := func(m *storev1.ClusterMeta) *storev1.RegistryStatus { return m.GetRegistries()[0] }
	for what, c := range map[string]struct {
		change func(*storev1.ClusterMeta)
		want   bool
	}{
		"nothing":               {func(*storev1.ClusterMeta) {}, false},
		"a revision":            {func(m *storev1.ClusterMeta) { registry(m).Revision = "43" }, false},
		"the last success":      {func(m *storev1.ClusterMeta) { registry(m).LastSuccess = timestamppb.New(start) }, false},
		"a hand-over":           {func(m *storev1.ClusterMeta) { registry(m).Reporter = "node-2" }, false},
		"an error's words":      {func(m *storev1.ClusterMeta) { registry(m).LastError = "refused" }, false},
		"state":                 {func(m *storev1.ClusterMeta) { registry(m).State = storev1.RegistryStatus_FAILED }, true},
		"state and revision":    {func(m *storev1.ClusterMeta) { registry(m).State, registry(m).Revision = 2, "43" }, true},
		"held":                  {func(m *storev1.ClusterMeta) { registry(m).Held = 3 }, true},
		"another registry":      {func(m *storev1.ClusterMeta) { m.Registries = append(m.Registries, &storev1.RegistryStatus{Name: "b"}) }, true},
		"via":                   {func(m *storev1.ClusterMeta) { m.Via = "agents" }, true},
		"another epoch":         {func(m *storev1.ClusterMeta) { m.Epoch = 8 }, true},
		"labels":                {func(m *storev1.ClusterMeta) { m.Labels = map[string]string{"tier": "gold"} }, true},
		"one registry the less": {func(m *storev1.ClusterMeta) { m.Registries = nil }, true},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t)
			key := keys.Key{Kind: keys.Meta, Cluster: "east"}
			meta := &storev1.ClusterMeta{Cluster: "east", Epoch: 7, Seq: 1, Registries: []*storev1.RegistryStatus{{Name: "a", State: storev1.RegistryStatus_OK, Revision: "42"}}}
			if ch := r.apply(r.entry(key, meta)); !ch.Clusters {
				t.Error("the first one is no change")
			}
			next := proto.CloneOf(meta)
			next.Seq++
			c.change(next)
			if ch := r.apply(r.entry(key, next)); ch.Clusters != c.want {
				t.Errorf("Clusters is %t, want %t", ch.Clusters, c.want)
			}
			if got := r.m.Meta("east"); !proto.Equal(got, next) {
				t.Errorf("it holds %v, want %v", got, next)
			}
		})
	}
	if got := newRig(t).m.Meta("east"); got != nil {
		t.Errorf("of a cluster that nobody knows it holds %v", got)
	}
}

// The owner's heartbeat says how old its last word is, whatever it confirms.
func TestOwnerAge(t *testing.T) {
	r := newRig(t)
	r.apply(r.entry(keys.Key{Kind: keys.Meta, Cluster: "east"}, &storev1.ClusterMeta{Cluster: "east", Epoch: 1, Owner: "r1"}))
	if c := r.m.Clusters(start)[0]; c.OwnerKnown {
		t.Errorf("known before its first heartbeat: %+v", c)
	}
	r.apply(r.beat(1, nil))
	at := func(later time.Duration) time.Duration { return r.m.Clusters(start.Add(later))[0].OwnerAge }
	if got := at(2 * time.Second); got != 2*time.Second {
		t.Errorf("after 2 s it is %v", got)
	}
	r.m.Apply(start.Add(4*time.Second), []*feedv1.Entry{r.beat(1, nil), r.beat(2, nil)}, r.rev)
	if got := at(5 * time.Second); got != time.Second {
		t.Errorf("a second after a heartbeat it is %v", got)
	}
	r.m.Apply(start.Add(6*time.Second), []*feedv1.Entry{r.beat(2, nil)}, r.rev)
	if got := at(7 * time.Second); got != 3*time.Second {
		t.Errorf("a heartbeat that did not move makes it %v", got)
	}
}
