package guard

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/farcall/farcall/internal/catalog"
)

// The guard's guarantees, each as a sentence.
var (
	errBrokeSuperset   = errors.New("what a source states is believed, as the first source by name states it")
	errBrokeOnlyHeld   = errors.New("what nobody states is believed only while it is held")
	errBrokeExplicit   = errors.New("what an explicit read leaves out is gone")
	errBrokeFloor      = errors.New("no more than Floor absences go at once in a Window")
	errBrokeSuspicious = errors.New("no absence goes at once in a reset or with the whole catalogue")
	errBrokeHold       = errors.New("a hold ends after Hold, or Hold after who decides listed the instance last")
	errBrokeConfirm    = errors.New("confirmed is what a Burst lost while the rest of its registry and service stand, read after read")
	errBrokeRelease    = errors.New("what a person releases goes, and nothing else")
	errBrokeFollow     = errors.New("what who decides lists stays held, and what it listed and lists no more goes")
	errBrokeChanged    = errors.New("changes are the services and instances that changed, and no others")
	errBrokeOrder      = errors.New("the order of snapshots does not matter")
	errBrokeCounts     = errors.New("counts are those of the lists")
)

// model is what the guard is told, kept as plainly as can be.
type model struct {
	cfg    Config
	guard  *Registry
	mirror *Registry // told the same with the snapshots in reverse
	now    time.Time
	latest map[string]catalog.Snapshot
	passed []time.Time
	// steady are the times of the further reads since anything was lost, returned or failed.
	steady []time.Time
	fresh  bool                     // the next Confirm is of the read that disturbed
	doubt  map[catalog.ID]bool      // held when the registry was reset
	listed map[catalog.ID]time.Time // when who decides listed what is held now
	words  func(catalog.ID) Word    // of the last review; nil before
	// lie, where it is set, changes what the guards are told: a guard that ignores a part of it.
	lie func(catalog.Update) catalog.Update
	// releases, where it is set, is what the guards are told to release.
	releases func(catalog.ID) bool
}

func newModel() *model {
	cfg := Config{Hold: 20 * time.Second, Floor: 2, Window: 5 * time.Second}
	return &model{cfg: cfg, guard: New(cfg), mirror: New(cfg), now: start, latest: map[string]catalog.Snapshot{},
		doubt: map[catalog.ID]bool{}, listed: map[catalog.ID]time.Time{}}
}

// stated gives what the latest reads state.
func (m *model) stated() map[catalog.ID]*catalog.Instance {
	all := map[catalog.ID]*catalog.Instance{}
	for _, source := range slices.Backward(slices.Sorted(maps.Keys(m.latest))) {
		for _, in := range m.latest[source].Instances {
			all[in.ID] = in
		}
	}
	return all
}

func lists(r *Registry) (map[catalog.Name][]*catalog.Instance, map[catalog.ID]*catalog.Instance) {
	byName, byID := map[catalog.Name][]*catalog.Instance{}, map[catalog.ID]*catalog.Instance{}
	for _, n := range r.Names() {
		byName[n], _ = r.List(n)
		for _, in := range byName[n] {
			byID[in.ID] = in
		}
	}
	return byName, byID
}

func (m *model) apply(u catalog.Update) error {
	statedBefore := len(m.stated())
	listsBefore, before := lists(m.guard)
	heldBefore := m.held()
	if u.Full {
		clear(m.latest)
	}
	for _, s := range u.Snapshots {
		m.latest[s.Source] = s
	}
	told := u
	if m.lie != nil {
		told = m.lie(u)
	}
	changed := m.guard.Apply(m.now, told)
	reversed := told
	reversed.Snapshots = slices.Clone(u.Snapshots)
	slices.Reverse(reversed.Snapshots)
	m.mirror.Apply(m.now, reversed)

	m.disturb(u, before, heldBefore)
	_, after := lists(m.guard)
	stated := m.stated()
	for id := range before {
		if after[id] != nil {
			if u.Explicit && u.Full && stated[id] == nil {
				return fmt.Errorf("%w: %s", errBrokeExplicit, id)
			}
			if u.Explicit && !heldBefore[id] && stated[id] == nil {
				return fmt.Errorf("%w: %s", errBrokeExplicit, id)
			}
			continue
		}
		if u.Explicit {
			continue
		}
		if u.Reset != "" || statedBefore > m.cfg.Floor && len(stated) == 0 {
			return fmt.Errorf("%w: %s", errBrokeSuspicious, id)
		}
		m.passed = append(m.passed, m.now)
	}
	inWindow := 0
	for _, at := range m.passed {
		if m.now.Sub(at) < m.cfg.Window {
			inWindow++
		}
	}
	if inWindow > m.cfg.Floor {
		return fmt.Errorf("%w: %d went", errBrokeFloor, inWindow)
	}
	return errors.Join(m.checkChanged(listsBefore, changed), m.checkState())
}

func (m *model) expire(by time.Duration) error {
	m.now = m.now.Add(by)
	before, _ := lists(m.guard)
	changed := m.guard.Expire(m.now)
	m.mirror.Expire(m.now)
	for _, h := range m.guard.Holds() {
		if m.now.Sub(h.Since) >= m.cfg.Hold && m.now.Sub(m.listed[h.ID]) >= m.cfg.Hold {
			return fmt.Errorf("%w: %v", errBrokeHold, h)
		}
	}
	return errors.Join(m.checkChanged(before, changed), m.checkState())
}

func (m *model) held() map[catalog.ID]bool {
	held := map[catalog.ID]bool{}
	for _, h := range m.guard.Holds() {
		held[h.ID] = true
	}
	return held
}

func (m *model) checkChanged(before map[catalog.Name][]*catalog.Instance, changed Changes) error {
	after, _ := lists(m.guard)
	all := maps.Clone(before)
	maps.Copy(all, after)
	for n := range all {
		was, knew := before[n]
		is, knows := after[n]
		ids := differing(was, is)
		said, told := changed[n]
		if told != (knew != knows || len(ids) > 0) || !slices.Equal(ids, slices.Sorted(slices.Values(said))) {
			return fmt.Errorf("%w: of %s, known %t then %t, %v differ, told %t: %v", errBrokeChanged, n, knew, knows, ids, told, said)
		}
	}
	for n := range changed {
		_, knew := before[n]
		if _, knows := after[n]; !knew && !knows {
			return fmt.Errorf("%w: %s was and is unknown", errBrokeChanged, n)
		}
	}
	return nil
}

// differing gives, in order, the instances that two lists of a service do not both have, or have
// with another content.
func differing(a, b []*catalog.Instance) (ids []string) {
	for _, lists := range [2][2][]*catalog.Instance{{a, b}, {b, a}} {
		for _, in := range lists[0] {
			if !slices.ContainsFunc(lists[1], in.Equal) {
				ids = append(ids, in.Instance)
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func (m *model) checkState() error {
	byName, believed := lists(m.guard)
	for n, list := range byName {
		if size, known := m.guard.Size(n); size != len(list) || !known {
			return fmt.Errorf("%w: %s has a size of %d, listed are %d", errBrokeCounts, n, size, len(list))
		}
		for _, in := range list {
			if m.guard.Believed(in.ID) != in {
				return fmt.Errorf("%w: %s is listed, but not believed", errBrokeCounts, in)
			}
		}
	}
	stated, held := m.stated(), m.held()
	for id, in := range stated {
		if believed[id] == nil || !believed[id].Equal(in) {
			return fmt.Errorf("%w: %s, believed %v", errBrokeSuperset, in, believed[id])
		}
	}
	for id := range believed {
		if stated[id] == nil != held[id] {
			return fmt.Errorf("%w: %s, held %t", errBrokeOnlyHeld, id, held[id])
		}
	}
	if _, other := lists(m.mirror); !maps.EqualFunc(believed, other, (*catalog.Instance).Equal) {
		return errBrokeOrder
	}
	if c := m.guard.Counts(); c.Services != len(byName) || c.Instances != len(believed) || c.Held != len(held) {
		return fmt.Errorf("%w: %+v, lists have %d, %d, %d", errBrokeCounts, c, len(byName), len(believed), len(held))
	}
	return nil
}

// finish lets every hold end: then exactly what is stated is believed.
func (m *model) finish() error {
	if err := m.expire(m.cfg.Hold); err != nil {
		return err
	}
	_, believed := lists(m.guard)
	if !maps.EqualFunc(believed, m.stated(), (*catalog.Instance).Equal) {
		return fmt.Errorf("%w: %d believed, %d stated", errBrokeHold, len(believed), len(m.stated()))
	}
	return nil
}

// play reads a history from bytes: any bytes make one.
func (m *model) play(data []byte) error {
	next := func() int {
		if len(data) == 0 {
			return 0
		}
		b := data[0]
		data = data[1:]
		return int(b)
	}
	for len(data) > 0 {
		flags := next()
		if flags%8 == 0 {
			if err := m.between(flags/8, next()); err != nil {
				return err
			}
			continue
		}
		u := catalog.Update{Full: flags&8 != 0, Explicit: flags&48 == 48}
		if flags&192 == 192 {
			u.Reset = "another index"
		}
		for source := range flags % 4 {
			u.Snapshots = append(u.Snapshots, randomSnapshot(fmt.Sprint(source), next(), next()))
		}
		if err := m.apply(u); err != nil {
			return err
		}
	}
	return m.finish()
}

// randomSnapshot states the instances whose bits are set, of two services, and says how.
func randomSnapshot(source string, bits, port int) catalog.Snapshot {
	s := catalog.Snapshot{Source: source}
	if port%2 == 1 {
		s.Services = append(s.Services, name("cart"))
	}
	for i := range 8 {
		if bits&(1<<i) == 0 {
			continue
		}
		service := []string{"cart", "order"}[i%2]
		s.Instances = append(s.Instances, inst(fmt.Sprintf("%s/%d:%d", service, i, 80+port%3)))
	}
	return s
}

func FuzzGuard(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{9, 255, 0, 9, 0, 0, 0, 7, 9, 255, 1})
	f.Add([]byte{11, 15, 1, 240, 2, 3, 3, 3, 0, 0, 1, 0, 2, 0, 0, 7})
	f.Add([]byte{201, 255, 0, 201, 0, 0, 0, 5, 57, 0, 0})
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		history := make([]byte, 400)
		for i := range history {
			history[i] = byte(r.Uint32())
		}
		f.Add(history)
	}
	f.Fuzz(func(t *testing.T, history []byte) {
		history = history[:min(len(history), 2000)]
		if err := newModel().play(history); err != nil {
			t.Error(err)
		}
	})
}

// The model must be able to fail: each guard here is broken in one way.
func TestTheModelSeesABrokenGuard(t *testing.T) {
	all := randomSnapshot("0", 255, 0)
	fullRead := func(snaps ...catalog.Snapshot) catalog.Update { return catalog.Update{Full: true, Snapshots: snaps} }
	// What it finds is looked at once the guard is broken.
	read := func(m *model, snaps ...catalog.Snapshot) { _ = m.apply(fullRead(snaps...)) }
	for _, tt := range []struct {
		name   string
		breaks func(*model) error
		want   error
	}{
		{"it forgets an instance", func(m *model) error {
			read(m, all)
			for id := range m.guard.services[name("cart")].members {
				delete(m.guard.services[name("cart")].members, id)
				break
			}
			return m.checkState()
		}, errBrokeSuperset},
		{"it keeps what nobody states", func(m *model) error {
			read(m, all)
			delete(m.latest, "0")
			return m.checkState()
		}, errBrokeOnlyHeld},
		{"its floor is too high", func(m *model) error {
			m.guard.cfg.Floor = 6
			read(m, all)
			return m.apply(fullRead(randomSnapshot("0", 1, 0)))
		}, errBrokeFloor},
		{"it lets a catalogue go", func(m *model) error {
			m.guard.cfg.Floor = 100
			read(m, all)
			return m.apply(fullRead())
		}, errBrokeSuspicious},
		{"its hold is too long", func(m *model) error {
			m.guard.cfg.Hold, m.mirror.cfg.Hold = time.Hour, time.Hour
			read(m, all)
			read(m)
			return m.finish()
		}, errBrokeHold},
		{"it says too little of what changed", func(m *model) error {
			read(m, all)
			return m.checkChanged(map[catalog.Name][]*catalog.Instance{}, nil)
		}, errBrokeChanged},
		{"it says of too few instances that they changed", func(m *model) error {
			before, _ := lists(m.guard)
			changed := m.guard.Apply(m.now, fullRead(all))
			changed[name("cart")] = changed[name("cart")][1:]
			return m.checkChanged(before, changed)
		}, errBrokeChanged},
		{"it holds explicit removals", func(m *model) error {
			m.lie = func(u catalog.Update) catalog.Update { u.Explicit = false; return u }
			read(m, all)
			return m.apply(catalog.Update{Full: true, Explicit: true})
		}, errBrokeExplicit},
		{"it ignores a reset", func(m *model) error {
			m.lie = func(u catalog.Update) catalog.Update { u.Reset = ""; return u }
			read(m, all)
			return m.apply(catalog.Update{Full: true, Reset: "younger", Snapshots: []catalog.Snapshot{randomSnapshot("0", 127, 0)}})
		}, errBrokeSuspicious},
		{"it counts wrong", func(m *model) error {
			read(m, all)
			m.guard.believed++
			return m.checkState()
		}, errBrokeCounts},
		{"the order matters to it", func(m *model) error {
			read(m, all)
			m.mirror.Apply(m.now, fullRead(all, randomSnapshot("1", 0, 1)))
			m.mirror.Apply(m.now, fullRead(randomSnapshot("0", 255, 1)))
			return m.checkState()
		}, errBrokeOrder},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.breaks(newModel()); !errors.Is(err, tt.want) {
				t.Errorf("the model says %v, want %v", err, tt.want)
			}
		})
	}
}
