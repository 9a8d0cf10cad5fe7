package inbox

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/farcall/farcall/internal/catalog"
	"github.com/farcall/farcall/internal/guard"
	"github.com/farcall/farcall/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// update makes a Full update of one source per service: "cart: 1 2" is two instances.
func update(services ...string) catalog.Update {
	u := catalog.Update{Full: true}
	for _, s := range services {
		service, ids, _ := strings.Cut(s, ":")
		name := catalog.Name{Namespace: "default", Service: service}
		snap := catalog.Snapshot{Source: service, Services: []catalog.Name{name}}
		for _, id := range strings.Fields(ids) {
			snap.Instances = append(snap.Instances, &catalog.Instance{
				ID: catalog.ID{Cluster: "east", Name: name, Instance: id}, Address: "10.0.0.1", Port: 80, Weight: 1,
			})
		}
		u.Snapshots = append(u.Snapshots, snap)
	}
	return u
}

// delta is an update of its sources only.
func delta(services ...string) catalog.Update {
	u := update(services...)
	u.Full = false
	return u
}

func explicit(u catalog.Update) catalog.Update {
	u.Explicit = true
	return u
}

// golden gives what was taken: "full explicit cart: 1 2, order: 1; delta cart: 1".
func golden(updates []catalog.Update) string {
	var all []string
	for _, u := range updates {
		kind := "delta"
		if u.Full {
			kind = "full"
		}
		if u.Explicit {
			kind += " explicit"
		}
		if u.Reset != "" {
			kind += " reset"
		}
		var sources []string
		for _, s := range u.Snapshots {
			line := s.Source + ":"
			for _, in := range s.Instances {
				line += " " + in.Instance
			}
			sources = append(sources, line)
		}
		slices.Sort(sources)
		all = append(all, strings.TrimSpace(kind+" "+strings.Join(sources, ", ")))
	}
	return strings.Join(all, "; ")
}

func TestWhatWaitsIsMadeOne(t *testing.T) {
	reset := update("cart: 1")
	reset.Reset = "younger"
	for _, tt := range []struct {
		name      string
		published []catalog.Update
		want      string
	}{
		{"nothing", nil, ""},
		{"one", []catalog.Update{update("cart: 1")}, "full cart: 1"},
		{"an empty full read is one", []catalog.Update{update()}, "full"},
		{"an empty delta is none", []catalog.Update{delta()}, ""},
		{"the latest of a source wins", []catalog.Update{update("cart: 1", "pay: 1"), delta("cart: 2")}, "full cart: 2, pay: 1"},
		{"a full read replaces all before", []catalog.Update{delta("cart: 1"), update("pay: 1")}, "full pay: 1"},
		{"a reset is kept", []catalog.Update{reset, update("cart: 2"), delta("pay: 1")}, "full reset cart: 2, pay: 1"},
		{"explicit stays explicit before a plain one", []catalog.Update{explicit(delta("cart: 1")), delta("cart: 1 2")}, "delta explicit cart: 1; delta cart: 1 2"},
		{"explicit supersedes a plain one before", []catalog.Update{delta("cart: 1 2", "pay: 1"), explicit(delta("cart: 1"))}, "delta explicit cart: 1; delta pay: 1"},
		{"and a full one knows of it", []catalog.Update{update("cart: 1 2"), explicit(delta("cart: 1", "pay: 1"))}, "delta explicit cart: 1, pay: 1; full cart: 1, pay: 1"},
		{"a full explicit one replaces all before", []catalog.Update{update("cart: 1 2"), explicit(delta("cart: 1")), explicit(update("pay: 1"))}, "full explicit pay: 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			box := New(make(chan struct{}, 1))
			for _, u := range tt.published {
				box.Publish(u)
			}
			if updates, _ := box.Take(); golden(updates) != tt.want {
				t.Errorf("taken is %q, want %q", golden(updates), tt.want)
			}
			if updates, _ := box.Take(); len(updates) != 0 {
				t.Errorf("taken twice: %q", golden(updates))
			}
		})
	}
}

func TestWhatIsHeardOfTheRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wake := make(chan struct{}, 1)
		box := New(wake)
		check := func(want Heard, state catalog.RegistryState) {
			t.Helper()
			select {
			case <-wake:
			default:
				if want != (Heard{}) {
					t.Error("nobody was woken")
				}
			}
			if _, h := box.Take(); h != want || h.State() != state {
				t.Errorf("heard is %+v, %d, want %+v, %d", h, h.State(), want, state)
			}
		}
		check(Heard{}, catalog.RegistryPending)
		down := errors.New("down")
		box.Failed(down)
		check(Heard{Failure: down}, catalog.RegistryFailed)
		u := update("cart: 1")
		u.Revision = "7"
		box.Publish(u)
		at := time.Now()
		check(Heard{At: at, Revision: "7"}, catalog.RegistryOK)
		<-time.NewTimer(time.Second).C
		box.Failed(down)
		check(Heard{At: at, Revision: "7", Failure: down}, catalog.RegistryFailed)
		box.Confirm()
		check(Heard{At: at.Add(time.Second), Revision: "7"}, catalog.RegistryOK)
	})
}

func TestAnInboxCountsWhereItIsAskedTo(t *testing.T) {
	counter := func() prometheus.Counter { return prometheus.NewCounter(prometheus.CounterOpts{Name: "n"}) }
	counts := Counters{Publishes: counter(), Confirms: counter(), Failures: counter(), Coalesced: counter()}
	box := Counted(make(chan struct{}, 1), counts)
	for range 3 {
		box.Publish(update("cart: 1", "pay: 1"))
	}
	box.Confirm()
	box.Confirm()
	box.Failed(errors.New("down"))
	for name, c := range map[string]struct {
		counter prometheus.Counter
		want    float64
	}{"publishes": {counts.Publishes, 3}, "confirms": {counts.Confirms, 2}, "failures": {counts.Failures, 1}, "coalesced": {counts.Coalesced, 4}} {
		var out dto.Metric
		if err := c.counter.Write(&out); err != nil {
			t.Fatal(err)
		}
		if got := out.GetCounter().GetValue(); got != c.want {
			t.Errorf("%s are %v, want %v", name, got, c.want)
		}
	}
}

// What waits in an inbox is made one, and that must not change what is believed in the end.
func FuzzCoalescingKeepsWhatCounts(f *testing.F) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		history := make([]byte, 60)
		for i := range history {
			history[i] = byte(rnd.Uint32())
		}
		f.Add(history)
	}
	f.Fuzz(func(t *testing.T, history []byte) {
		now := time.Unix(1000, 0)
		box := New(make(chan struct{}, 1))
		coalesced, latest, gone := guard.New(guard.Config{}), map[string][]string{}, map[string]bool{}
		first := update("0: 1 2 3 4 5 6 7 8", "1: 1 2 3 4 5 6 7 8", "2: 1 2 3 4")
		coalesced.Apply(now, first)
		for _, s := range first.Snapshots {
			for _, in := range s.Instances {
				latest[s.Source] = append(latest[s.Source], in.ID.String())
			}
		}
		for len(history) >= 3 {
			u := someUpdate(history[0], history[1], history[2])
			history = history[3:]
			box.Publish(u)
			record(u, latest, gone)
		}
		updates, h := box.Take()
		if len(updates) > 2 {
			t.Errorf("%d updates were taken, want at most an explicit and a plain one", len(updates))
		}
		if h.State() == catalog.RegistryOK != (len(updates) > 0) {
			t.Errorf("the state is %d with %d updates", h.State(), len(updates))
		}
		for _, u := range updates {
			coalesced.Apply(now, u)
		}
		believed := map[string]bool{}
		for _, n := range coalesced.Names() {
			list, _ := coalesced.List(n)
			for _, in := range list {
				believed[in.ID.String()] = true
			}
		}
		for source, ids := range latest {
			for _, id := range ids {
				if !believed[id] {
					t.Errorf("%s is in the latest read of source %s, but not believed", id, source)
				}
			}
		}
		for id := range gone {
			if believed[id] {
				t.Errorf("%s was removed explicitly, but is believed", id)
			}
		}
		coalesced.Expire(now.Add(time.Hour))
		total := 0
		for _, ids := range latest {
			total += len(ids)
		}
		if n := coalesced.Counts().Instances; n != total {
			t.Errorf("%d are believed in the end, %d stated", n, total)
		}
	})
}

// someUpdate reads an update of up to two of three sources from three bytes.
func someUpdate(flags, a, b byte) catalog.Update {
	var services []string
	for i, bits := range []byte{a, b}[:flags%3%2+1] {
		line := fmt.Sprintf("%d:", (int(flags/4)+i)%3)
		for id := range 8 {
			if bits&(1<<id) != 0 {
				line += fmt.Sprintf(" %d", id+1)
			}
		}
		services = append(services, line)
	}
	u := update(services...)
	u.Full = flags&64 != 0
	u.Explicit = flags&128 != 0
	return u
}

// record keeps what the sources state, and what went explicitly and never came back.
func record(u catalog.Update, latest map[string][]string, gone map[string]bool) {
	read := map[string][]string{}
	for _, s := range u.Snapshots {
		read[s.Source] = []string{}
		for _, in := range s.Instances {
			id := fmt.Sprintf("east/default/%s/%s", s.Source, in.Instance)
			read[s.Source] = append(read[s.Source], id)
			delete(gone, id)
		}
	}
	for source, ids := range latest {
		now, covered := read[source]
		if !covered && !u.Full {
			continue
		}
		for _, id := range ids {
			if u.Explicit && !slices.Contains(now, id) {
				gone[id] = true
			}
		}
		delete(latest, source)
	}
	for source, ids := range read {
		latest[source] = ids
	}
}
