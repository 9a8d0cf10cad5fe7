package recall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/datadir"
	"github.com/farcall/farcall/internal/guard"
	"github.com/farcall/farcall/internal/testkit"
	"github.com/farcall/farcall/resolvers/intake"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var now = time.Unix(1_800_000_000, 0)

func one(id string) *catalog.Instance {
	return &catalog.Instance{
		ID:      catalog.ID{Cluster: "east", Name: catalog.Name{Namespace: "default", Service: "cart"}, Instance: id},
		Address: "10.0.0.1", Port: 80, Weight: 1, Registry: "consul", Metadata: map[string]string{"version": "v2"},
	}
}

func believed() map[string]intake.Before {
	return map[string]intake.Before{
		"consul": {
			Instances: []*catalog.Instance{one("1"), one("2")},
			Holds: []guard.Hold{{
				ID: one("2").ID, Since: now.Add(-20 * time.Second), Until: now.Add(40 * time.Second),
				Reason: guard.Catalogue, Detail: "all were gone", Doubted: true,
			}},
			Strategies: map[catalog.Name]string{one("1").Name: "local-only"},
		},
		"dns": {Instances: []*catalog.Instance{}, Strategies: map[catalog.Name]string{one("1").Name: "any"}},
	}
}

// keeper is one whose registries believe what believed says.
func keeper(t *testing.T, file string) *Keeper {
	t.Helper()
	return New(Config{Cluster: "east", File: file}, Deps{
		Log: testkit.Quiet(), Metrics: prometheus.NewRegistry(), Believed: believed, Held: func() int { return 1 },
	})
}

func TestWhatIsSavedIsLoaded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "registries")
	k := keeper(t, file)
	if got := k.Load(now); got != nil {
		t.Errorf("before anything was saved there is %v", got)
	}
	k.save(now)
	later := now.Add(time.Hour)
	got := keeper(t, file).Load(later)
	want := believed()
	for name, w := range want {
		g := got[name]
		for n := range w.Holds {
			w.Holds[n].Since, w.Holds[n].Until = w.Holds[n].Since.Add(time.Hour), w.Holds[n].Until.Add(time.Hour)
		}
		if fmt.Sprint(g.Holds) != fmt.Sprint(w.Holds) || !reflect.DeepEqual(g.Strategies, w.Strategies) || len(g.Instances) != len(w.Instances) {
			t.Errorf("of %s there is %+v, want %+v", name, g, w)
		}
		for n := range g.Instances {
			if !g.Instances[n].Equal(w.Instances[n]) || g.Instances[n].Registry != w.Instances[n].Registry {
				t.Errorf("%v became %v", w.Instances[n], g.Instances[n])
			}
		}
	}
	if len(got) != len(want) {
		t.Errorf("there is %v", got)
	}
	if keeper(t, "").Load(now) != nil {
		t.Error("nowhere there is something")
	}
}

// One record that no file can carry does not keep the others out of it.
func TestARecordThatIsNoText(t *testing.T) {
	b, err := encode(now, "east", map[string]intake.Before{"consul": {Instances: []*catalog.Instance{one("1"), one("2\xff"), one("3")}}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := decode(now, "east", b)
	if err != nil || len(got["consul"].Instances) != 2 {
		t.Errorf("there is %v, %v", got, err)
	}
}

func TestFilesThatAreNotUsed(t *testing.T) {
	good, err := encode(now, "east", believed())
	if err != nil {
		t.Fatal(err)
	}
	bent := bytes.Clone(good)
	bent[len(bent)-1] ^= 1
	foreign, err := encode(now, "west", believed())
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"empty": {}, "truncated": good[:len(good)-1], "bent": bent, "another cluster's": foreign,
		"of a newer version": bytes.Replace(good, []byte("registries-1"), []byte("registries-2"), 1),
		"sealed nonsense":    datadir.Seal(what, []byte{0xff, 0xff}),
	} {
		file := filepath.Join(t.TempDir(), "registries")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		k := keeper(t, file)
		if got := k.Load(now); got != nil || count(t, k.badFiles) != 1 {
			t.Errorf("%s: there is %v, counted %v", name, got, count(t, k.badFiles))
		}
	}
	k := keeper(t, t.TempDir()) // a folder
	if got := k.Load(now); got != nil || count(t, k.badFiles) != 1 {
		t.Errorf("of a folder there is %v", got)
	}
	if k.save(now); count(t, k.saveErrors) != 1 {
		t.Error("a save that failed is not counted")
	}
}

func count(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// It is saved at once, then no more than every few seconds, now and then for the time that holds have
// left, and when the agent stops.
func TestWhenItIsSaved(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(dir, "registries")
		var held atomic.Int64
		k := keeper(t, file)
		k.deps.Held = func() int { return int(held.Load()) }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- k.Run(ctx) }()
		saved := func(when string, want bool) {
			t.Helper()
			synctest.Wait()
			if err := os.Remove(file); errors.Is(err, os.ErrNotExist) == want {
				t.Errorf("%s: saved %t", when, !want)
			}
		}
		pass := func(d time.Duration) { <-time.NewTimer(d).C }
		saved("at first", false)
		k.Changed()
		saved("at the first change", true)
		k.Changed()
		k.Changed()
		saved("at once after that", false)
		pass(saveEvery)
		saved("a while after", true)
		pass(time.Minute)
		saved("while nothing changes", false)
		held.Store(1)
		pass(heldEvery)
		saved("while something is held", true)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
		saved("at the end", true)
	})
	// An agent that ends before it has believed anything leaves what the one before it saved.
	file := filepath.Join(dir, "untouched")
	unborn := keeper(t, file)
	over, end := context.WithCancel(t.Context())
	end()
	if err := unborn.Run(over); !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v", err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it was saved over: %v", err)
	}
	idle := keeper(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := idle.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with nowhere to save, Run returned %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	good, err := encode(now, "east", believed())
	if err != nil {
		f.Fatal(err)
	}
	body, err := datadir.Unseal(what, good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		before, err := decode(now, "east", datadir.Seal(what, body))
		if err != nil {
			return
		}
		// Whatever it is, an intake survives it.
		in, err := intake.New(intake.Config{Cluster: "east", Open: true}, intake.Deps{Log: testkit.Quiet(), Metrics: intake.NewMetrics(prometheus.NewRegistry())})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		handedOn := in.Adopt(intake.Baseline{Registries: before})
		done := make(chan struct{})
		go func() { defer close(done); _ = in.Run(ctx, func(intake.Change) {}) }()
		<-handedOn
		in.Believed()
		cancel()
		<-done
	})
}
