package resolvertest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func update(full, explicit bool, ids ...string) catalog.Update {
	snap := catalog.Snapshot{Source: "s", Services: []catalog.Name{{Service: "cart"}}}
	for _, id := range ids {
		snap.Instances = append(snap.Instances, &catalog.Instance{
			ID: catalog.ID{Name: catalog.Name{Service: "cart"}, Instance: id}, Address: "10.0.0.1", Port: 80,
		})
	}
	return catalog.Update{Full: full, Explicit: explicit, Snapshots: []catalog.Snapshot{snap}}
}

// Each promise is broken once, and only that one is reported.
func TestTheRecorderSeesEveryBrokenPromise(t *testing.T) {
	for _, tt := range []struct {
		name     string
		explicit bool
		history  func(*recorder)
		want     error
	}{
		{name: "nothing is broken", history: func(r *recorder) {
			s := r.sink()
			s.Publish(update(true, false, "1", "2"))
			s.Confirm()
			s.Publish(update(false, false, "2"))
			s.Failed(errors.New("gone"))
			s.returned()
			r.sink().Publish(update(true, false, "2"))
		}},
		{name: "a delta comes first", want: errBrokeFirstFull, history: func(r *recorder) {
			r.sink().Publish(update(false, false, "1"))
		}},
		{name: "a delta comes first in the second Run", want: errBrokeFirstFull, history: func(r *recorder) {
			s := r.sink()
			s.Publish(update(true, false, "1"))
			s.returned()
			r.sink().Publish(update(false, false, "1"))
		}},
		{name: "nothing is confirmed", want: errBrokeConfirm, history: func(r *recorder) { r.sink().Confirm() }},
		{name: "a late publish", want: errBrokeSilence, history: func(r *recorder) {
			s := r.sink()
			s.returned()
			s.Publish(update(true, false))
		}},
		{name: "a late failure", want: errBrokeSilence, history: func(r *recorder) {
			s := r.sink()
			s.returned()
			s.Failed(errors.New("late"))
		}},
		{name: "two callers", want: errBrokeOneCaller, history: func(r *recorder) {
			s := r.sink()
			s.busy.Store(true)
			s.Publish(update(true, false))
		}},
		{name: "a published list is written into", want: errBrokeImmutable, history: func(r *recorder) {
			u := update(true, false, "1")
			r.sink().Publish(u)
			u.Snapshots[0].Instances[0].Health = catalog.Unhealthy
		}},
		{name: "published strategies are written into", want: errBrokeImmutable, history: func(r *recorder) {
			u := update(true, false, "1")
			u.Snapshots[0].Strategies = map[catalog.Name]string{{Service: "cart"}: "any"}
			r.sink().Publish(u)
			u.Snapshots[0].Strategies[catalog.Name{Service: "cart"}] = "local-only"
		}},
		{name: "an absence that claims to be explicit", want: errBrokeExplicit, history: func(r *recorder) {
			s := r.sink()
			s.Publish(update(true, false, "1"))
			s.Publish(update(false, true))
		}},
		{name: "an explicit removal that does not say so", explicit: true, want: errBrokeExplicit, history: func(r *recorder) {
			s := r.sink()
			s.Publish(update(true, false, "1"))
			s.Publish(update(true, false))
		}},
		{name: "a removal that could not be seen happen is an absence", explicit: true, history: func(r *recorder) {
			s := r.sink()
			s.Publish(update(true, false, "1"))
			r.missed(key("cart", "1"))
			s.Publish(update(true, false))
		}},
		{name: "a removed instance comes back", want: errBrokeStaysGone, history: func(r *recorder) {
			r.forbid("cart/1")
			r.sink().Publish(update(true, false, "1"))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRecorder(&Registry{Explicit: tt.explicit})
			tt.history(r)
			err := r.verdict()
			if !errors.Is(err, tt.want) {
				t.Errorf("verdict is %v, want %v", err, tt.want)
			}
			if n := len(r.broken); n > 1 {
				t.Errorf("%d promises are said to be broken: %v", n, err)
			}
		})
	}
}

func TestDiffers(t *testing.T) {
	reg := &Registry{Own: []string{"consul"}, Healths: []catalog.Health{catalog.Healthy}}
	want := reg.instance("alpha", 1)
	own := reg.instance("consul", 1)
	other := want
	other.Port = 1
	for _, tt := range []struct {
		name   string
		listed []catalog.Instance
		same   bool
	}{
		{name: "the same", listed: []catalog.Instance{want}, same: true},
		{name: "the registry's own service is not looked at", listed: []catalog.Instance{want, own}, same: true},
		{name: "nothing", listed: nil},
		{name: "another port", listed: []catalog.Instance{other}},
		{name: "one more", listed: []catalog.Instance{want, reg.instance("alpha", 2)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRecorder(reg)
			if err := r.differs(nil); err == nil {
				t.Error("nothing was published and that counts as an empty list")
			}
			u := catalog.Update{Full: true, Snapshots: []catalog.Snapshot{{Source: "s"}}}
			for _, in := range tt.listed {
				u.Snapshots[0].Instances = append(u.Snapshots[0].Instances, &in)
			}
			r.sink().Publish(u)
			if err := r.differs([]catalog.Instance{want}); (err == nil) != tt.same {
				t.Errorf("differs says %v", err)
			}
		})
	}
}

func TestLongestGap(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	r := newRecorder(&Registry{})
	r.alive = []time.Time{at(90), at(101), at(105), at(106)}
	if got := r.longestGap(at(100), at(107)); got != 4*time.Second {
		t.Errorf("the longest gap is %v, want 4s", got)
	}
	if got := r.longestGap(at(100), at(120)); got != 14*time.Second {
		t.Errorf("the longest gap is %v, want the 14s up to now", got)
	}
}

func TestReturnsAreJudged(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name string
		ctx  context.Context
		err  error
		want error
	}{
		{"the context's error at its end", ended, context.Canceled, nil},
		{"an error before it", t.Context(), errors.New("unusable"), nil},
		{"nil", t.Context(), nil, errBrokeNilReturn},
		{"another error at the end", ended, errors.New("closed"), errBrokeLastReturn},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &driver{rec: newRecorder(&Registry{})}
			d.judgeReturn(tt.ctx, tt.err)
			if err := d.rec.verdict(); !errors.Is(err, tt.want) {
				t.Errorf("verdict is %v, want %v", err, tt.want)
			}
		})
	}
}
